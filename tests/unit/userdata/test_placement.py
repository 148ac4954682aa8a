"""Where parts that are run are kept."""

from __future__ import annotations

import json

from cloudboot.userdata.parts import Kind, Part, oversized, without
from cloudboot.userdata.placement import placed


def part(kind: Kind, name: str, content: bytes = b"x", kind_name: str = "") -> Part:
    return Part(kind, name, content, type=kind_name or str(kind))


PARTS = [
    part(Kind.CLOUD_CONFIG, "part-001"),
    part(Kind.SCRIPT, "part-002"),
    part(Kind.PER_ONCE, "once.sh"),
    part(Kind.BOOTHOOK, "hook"),
]


def test_each_kind_has_its_folder() -> None:
    files, problems = placed(PARTS)
    assert [(file.path, oct(file.mode)) for file in files] == [
        ("scripts/user/part-002", "0o700"),
        ("scripts/per-once/once.sh", "0o700"),
        ("boothooks/hook", "0o700"),
    ]
    assert problems == []
    assert [file.path for file in placed(PARTS, vendor=True)[0]] == [
        "scripts/vendor/part-002",
        "scripts/vendor/once.sh",
        "boothooks-vendor/hook",
    ]


def test_for_a_handler_all_parts_are_kept_beside() -> None:
    custom = part(Kind.CUSTOM, "odd", b"secret", "text/x-a")
    files, _ = placed([*PARTS, part(Kind.PART_HANDLER, "mine"), custom])
    paths = {file.path: file for file in files}
    assert {path for path in paths if path.startswith("custom/")} == {
        *(f"custom/{number:05}" for number in range(1, 6)),
        "custom/parts.json",
    }
    assert {file.mode for path, file in paths.items() if path.startswith(("custom/", "handlers/"))} == {0o600}
    listed = json.loads(paths["custom/parts.json"].content)
    assert [(each["type"], each["name"], each["custom"]) for each in listed][-1] == ("text/x-a", "odd", True)
    assert paths["handlers/mine.py"].content == b"x"
    assert [file.path for file in placed([custom], handlers=True)[0]] == ["custom/00001", "custom/parts.json"]
    assert placed([], handlers=True) == ([], [])


def test_two_parts_of_one_name() -> None:
    files, problems = placed([part(Kind.SCRIPT, "a", b"1"), part(Kind.SCRIPT, "a", b"2"), part(Kind.BOOTHOOK, "a")])
    assert [(file.path, file.content) for file in files] == [("scripts/user/a", b"2"), ("boothooks/a", b"x")]
    assert [problem.text for problem in problems] == ["a: another part has this file name: the last one counts"]


def test_types_can_be_left_out() -> None:
    left = without(PARTS, ["text/x-shellscript", " Text/Cloud-Boothook "])
    assert [each.name for each in left] == ["part-001", "once.sh"]


def test_what_ec2_would_refuse() -> None:
    assert oversized(b"x" * 16384) is None
    assert str(oversized(b"x" * 16385)) == "user-data: warning: has 16385 bytes, EC2 takes at most 16384: gzip it"
    assert "fetch the larger pieces at boot" in str(oversized(b"\x1f\x8b" + b"x" * 20_000))
