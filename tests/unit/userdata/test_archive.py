"""`#cloud-config-archive`: its items become parts; one that is none is reported alone."""

from __future__ import annotations

from cloudboot.userdata.parts import Kind, split

HEAD = b"#cloud-config-archive\n"


def test_items_of_all_forms() -> None:
    found = split(
        HEAD
        + b"""\
- type: text/cloud-config
  content: |
    hostname: a
  Merge-Type: list(append)
- "#!/bin/sh\\necho hi\\n"
- timezone: Etc/UTC
  content: 'locale: C.UTF-8'
- type: text/x-shellscript-per-boot
  filename: ../my script.sh
  launch-index: 2
  content: |
    #!/bin/sh
- |
  #cloud-boothook
  #!/bin/sh
- type: text/plain
  content: "#cloud-config\\npackages: [jq]\\n"
"""
    )
    assert found.problems == []
    assert [(part.kind, part.name, part.launch_index, part.merge) for part in found.parts] == [
        (Kind.CLOUD_CONFIG, "part-001", None, "list(append)"),
        (Kind.SCRIPT, "part-002", None, ""),
        (Kind.CLOUD_CONFIG, "part-003", None, ""),
        (Kind.PER_BOOT, "_myscript.sh", 2, ""),
        (Kind.BOOTHOOK, "part-005", None, ""),
        (Kind.CLOUD_CONFIG, "part-006", None, ""),
    ]
    assert found.parts[0].content == b"hostname: a\n"
    assert found.parts[2].headers == {"timezone": "Etc/UTC"}
    assert found.parts[4].content == b"#!/bin/sh\n"


def test_an_archive_in_an_archive() -> None:
    found = split(HEAD + b"- |\n  #cloud-config-archive\n  - '#!/bin/sh'\n- 'a: b'\n")
    assert [part.kind for part in found.parts] == [Kind.SCRIPT, Kind.CLOUD_CONFIG]


def test_binary_content() -> None:
    packed = b"H4sIAAAAAAAA/1NWVNJPysjTL85QVEhNzshXyMjkAgB0IwIlEwAAAA=="
    found = split(HEAD + b"- !!binary " + packed + b"\n- {type: application/gzip, content: !!binary " + packed + b"}\n")
    assert {part.kind for part in found.parts} <= {Kind.SCRIPT}
    found = split(HEAD + b"- !!binary aGVsbG8=\n")
    assert str(found.problems[0]) == "part-001:1:1: of unknown type 'application/octet-stream': not used"


def test_what_is_no_part_is_left_out_alone() -> None:
    found = split(
        HEAD
        + b"- 7\n- hostname: a\n- {content: {hostname: a}}\n- {content: 'a: b', launch-index: one}\n- {type: 3, content: 'c: d'}\n"
        + b"- {type: text/x-nonsense, content: x}\n- {type: text/plain, content: 'hostname: a'}\n"
    )
    assert [part.content for part in found.parts] == [b"a: b", b"c: d"]
    assert [str(problem) for problem in found.problems] == [
        "user-data:2:3: [0]: must be a text or a mapping with `content`: left out",
        "user-data:3:3: [1]: has no `content`: left out",
        "user-data:4:4: [2].content: must be a text: write `content: |`: [2] is left out",
        "user-data:5:21: [3].launch-index: must be a whole number: the part is for all",
        "user-data:6:4: warning: [4].type: must be a MIME type: its content is looked at instead",
        "part-004:1:1: begins with 'hostname: …': cloud-config must begin with the line '#cloud-config': not used",
        "part-003:1:1: of unknown type 'text/x-nonsense': not used",
    ]


def test_an_archive_that_is_none() -> None:
    assert str(split(HEAD + b"a: b\n").problems[0]).startswith("user-data:2:1: must be a list of parts")
    assert "not YAML" in str(split(HEAD + b"- [a\n").problems[0])
    assert split(HEAD).parts == []


def test_aliases_may_not_make_much_of_little() -> None:
    found = split(HEAD + b"- &a '#!" + b"x" * 1_000_000 + b"'\n" + b"- *a\n" * 100)
    assert len(found.parts) < 40
    assert "user data may grow to 32 MiB in all" in str(found.problems[0])
    assert len(found.problems) == 1
