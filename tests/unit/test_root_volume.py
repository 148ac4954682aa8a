"""The policy for roots on volumes as the initramfs gets it; its sh and our Python read the same out of the same."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casebook import ScratchHost
from cloudboot import root_volume
from cloudboot.errors import ConfigError, ImageError
from cloudboot.identity_file import Identity, Policy, parse, plain_root
from cloudboot.root import Root

FOLDER = Path(__file__).parents[2] / "initramfs"
SCRIPT = FOLDER / "scripts/local-bottom/cloudboot-root"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDummyDummyDummyDummyDummyDummyDummyDummyDum"
SIGNED = {"consume": {"allow": ["root"], "signers": [f"{KEY} owner@example.com"]}}


def sh(lines: str, *arguments: str, **variables: str) -> str:
    """Run lines after the script's functions; return what they print."""
    env = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CLOUDBOOT_TEST": "yes", **variables}
    argv = ["sh", "-c", f". {SCRIPT}\n{lines}", "sh", *arguments]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "", done.stderr
    return done.stdout


# -- the policy


def test_policy() -> None:
    config = {
        "consume": {
            "allow": ["mount", "root"],
            "signers": [f"{KEY} owner@example.com"],
            "match": {"label": ["root-*", "vendor"], "volume-id": "vol-0?"},
            "root": {"otherwise": "stop", "wait": 5, "rebase": True},
        }
    }
    assert root_volume.policy_text(config).splitlines() == [
        "unsigned no",
        "otherwise stop",
        "wait 5",
        "rebase yes",
        "label root-*",
        "label vendor",
        "volume-id vol-0?",
        f"signer {KEY}",
    ]


@pytest.mark.parametrize("value", [None, False, True, {}, {"allow": ["mount", "run"]}])
def test_no_root_no_policy(value: object) -> None:
    assert root_volume.policy_text({"consume": value}) == ""


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"allow": ["root"]}, "neither signers nor"),
        ({"allow": ["root"], "unsigned": True, "match": {"tag": "x"}}, "tags are not known before the network"),
        ({"allow": ["root"], "unsigned": True, "match": {"label": "a b"}}, "only letters"),
        ({"allow": ["root"], "unsigned": True, "match": {"label": "a\nunsigned yes"}}, "only letters"),
        ({"allow": ["root"], "unsigned": True, "match": {"label": "[ab]"}}, "only letters"),
        ({"allow": ["root"], "signers": ["ssh-ed25519"]}, "is no SSH public key"),
    ],
)
def test_what_the_initramfs_could_not_act_on(value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        root_volume.policy_text({"consume": value})


# -- baking


def image(tmp_path: Path, *, missing: str = "") -> ScratchHost:
    """Return an image with initramfs-tools and ssh-keygen, unless one is missing."""
    if missing != "update-initramfs":
        tool = tmp_path / "usr/sbin/update-initramfs"
        tool.parent.mkdir(parents=True)
        tool.write_text("#!/bin/sh\n")
    return ScratchHost(Root(str(tmp_path)), missing=[missing])


def test_bake_puts_it_in_and_takes_it_out(tmp_path: Path) -> None:
    host = image(tmp_path)
    root_volume.bake(host, SIGNED, str(FOLDER))
    made = [word for word in host.spawned if "update-initramfs" in word]
    assert len(made) == 1
    assert (tmp_path / root_volume.SCRIPT[1:]).read_bytes() == SCRIPT.read_bytes()
    assert (tmp_path / root_volume.HOOK[1:]).stat().st_mode & 0o111
    root_volume.bake(host, SIGNED, str(FOLDER))
    assert len([word for word in host.spawned if "update-initramfs" in word]) == 1, "a second bake changes nothing"
    other = {"consume": {**SIGNED["consume"], "root": {"wait": 3}}}
    root_volume.bake(host, other, str(FOLDER))
    assert len([word for word in host.spawned if "update-initramfs" in word]) == 2, "the policy is in the initramfs"
    root_volume.bake(host, {"consume": True}, str(FOLDER))
    assert not (tmp_path / root_volume.SCRIPT[1:]).exists()
    assert not (tmp_path / root_volume.HOOK[1:]).exists()
    assert len([word for word in host.spawned if "update-initramfs" in word]) == 3
    before = list(host.spawned)
    root_volume.bake(host, {"consume": True}, str(FOLDER))
    assert host.spawned == before


@pytest.mark.parametrize(("missing", "told"), [("update-initramfs", "initramfs-tools"), ("ssh-keygen", "openssh")])
def test_bake_names_what_the_image_lacks(tmp_path: Path, missing: str, told: str) -> None:
    with pytest.raises(ImageError, match=told):
        root_volume.bake(image(tmp_path, missing=missing), SIGNED, str(FOLDER))


# -- both read the same

LINES = [
    "root:", "root: {}", "root: ", "root: {} # all", "root:#", "Root:", "  mode: overlay", "  mode: root", "  mode: other",
    "   mode: overlay", "  mode:  overlay", "  mode: overlay ", "  mode: 'root'", "  mode: root # here", "\tmode: root",
    "  copy: true", "  copy: false", "  copy: yes", "  volume: vol-0123456789abcdef0", "  volume: vol-",
    "  volume: vol-0G", "  volume: vol-1\r", "", "  ", "# a remark", "  # a remark", "  # é", "---", "mode: root",
    "mount: {where: /srv/a}", " mode: root", "  what: ever", "  mode", "  :", "  mode: root: x", "root: {mode: overlay}",
]  # fmt: skip


def theirs(path: Path) -> dict[str, str] | None:
    """Return what the initramfs reads out of an identity file."""
    told = sh('read_identity "$1" && echo "$mode $copy $names"', str(path)).split(" ")
    return (
        None if len(told) < 3 else dict(zip(("mode", "copy", "volume"), (word.strip() for word in told), strict=True))
    )


def ours(text: str) -> dict[str, str] | None:
    found = plain_root(text)
    return None if found is None else {"mode": "root", "copy": "true", "volume": "", **found}


def test_every_pair_of_lines_is_read_alike(tmp_path: Path) -> None:
    texts = [
        "".join(f"{line}\n" for line in lines) for lines in itertools.product(["root:", "root: {}", *LINES[-8:]], LINES)
    ]
    texts += [f"# remark\nroot:\n{first}\n{second}" for first, second in itertools.product(LINES[6:24], repeat=2)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number:04}").write_bytes(text.encode())
    said = sh('for file in "$1"/*; do read_identity "$file" && echo "$mode $copy $names" || echo; done', str(tmp_path))
    taken = 0
    for text, line in zip(texts, said.split("\n")[:-1], strict=True):
        words = line.split(" ")
        read = None if len(words) < 3 else dict(zip(("mode", "copy", "volume"), words, strict=True))
        assert read == ours(text), text
        if read is not None:
            taken += 1
            wanted = Identity("root", mode=read["mode"], copy=read["copy"] == "true", volume=read["volume"])
            assert parse(text.encode()) == wanted, text
    assert taken > 20


@given(st.lists(st.sampled_from(LINES), max_size=6))
def test_what_is_taken_is_what_yaml_says(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    found = plain_root(text)
    if found is None:
        try:
            identity = parse(text.encode())
        except ConfigError:
            return
        assert identity.action != "root", "what the initramfs does not read is refused"
    else:
        values: dict[str, Any] = {
            **found,
            "copy": found.get("copy", "true") == "true",
            "mode": found.get("mode", "root"),
        }
        assert parse(text.encode()) == Identity("root", **values)


def test_init_writes_the_plain_form(tmp_path: Path) -> None:
    from cloudboot.cli import main

    (tmp_path / "volume").mkdir()
    (tmp_path / "said").write_text("root: {mode: overlay, 'copy': true, volume: \"vol-0123\"}\n")
    assert main(["consume", "--init", str(tmp_path / "volume"), "--identity", str(tmp_path / "said")]) == 0
    written = tmp_path / "volume/ebs-config.txt"
    assert parse(written.read_bytes()) == Identity("root", mode="overlay", volume="vol-0123")
    assert theirs(written) == {"mode": "overlay", "copy": "true", "volume": "vol-0123"}


@pytest.mark.parametrize("patterns", [{}, {"label": ["root-*"]}, {"volume-id": ["vol-0*", "vol-a?"]}, {"label": ["a", "b"], "volume-id": ["*"]}])  # fmt: skip
def test_the_same_volumes_are_admitted(tmp_path: Path, patterns: dict[str, list[str]]) -> None:
    value = {"allow": ["root"], "unsigned": True, "match": patterns}
    policy = Policy.of(value)
    assert policy is not None
    (tmp_path / "policy").write_text(root_volume.policy_text({"consume": value}))
    (tmp_path / "cmdline").write_text("root=LABEL=x ro\n")
    for label, volume in itertools.product(["", "a", "b", "ab", "root-1", "root-"], ["", "vol-01", "vol-a", "vol-ab"]):
        told = sh(
            'read_policy; admitted "$1" "$2" uuid && echo yes || echo no', label, volume,
            POLICY=str(tmp_path / "policy"), CMDLINE=str(tmp_path / "cmdline"),
        )  # fmt: skip
        assert (told == "yes\n") == policy.admits(label=label, volume=volume, tags={}), (label, volume)


@pytest.mark.parametrize(
    ("cmdline", "told"),
    [
        ("ro quiet", "no fallback 30 no "),
        ("cloudboot.root=off", "no fallback 30 no off"),
        ("cloudboot.root.otherwise=stop cloudboot.root.wait=7 cloudboot.root.rebase=yes", "no stop 7 yes "),
        ("cloudboot.root.otherwise=panic cloudboot.root.wait=7s cloudboot.root.rebase=1", "no fallback 30 no "),
        ("cloudboot.root=UUID=1-2 x", "no fallback 30 no UUID=1-2"),
    ],
)
def test_the_kernel_command_line_has_the_last_word(tmp_path: Path, cmdline: str, told: str) -> None:
    (tmp_path / "policy").write_text(root_volume.policy_text(SIGNED))
    (tmp_path / "cmdline").write_text(f"{cmdline}\n")
    said = sh(
        'read_policy; echo "$unsigned $otherwise $wait $rebase $only"',
        POLICY=str(tmp_path / "policy"), CMDLINE=str(tmp_path / "cmdline"),
    )  # fmt: skip
    assert said == f"{told}\n"


@pytest.mark.parametrize(
    ("only", "label", "volume", "uuid", "yes"),
    [
        ("LABEL=a", "a", "", "1", True),
        ("LABEL=a", "b", "vol-1", "1", False),
        ("UUID=1", "b", "", "1", True),
        ("vol-1", "b", "vol-1", "1", True),
        ("vol-1", "b", "", "1", False),
    ],
)
def test_the_kernel_command_line_names_one(
    tmp_path: Path, only: str, label: str, volume: str, uuid: str, yes: bool
) -> None:
    (tmp_path / "policy").write_text("label other\n")
    told = sh(f'only={only}; admitted "$@" && echo yes', label, volume, uuid, POLICY=str(tmp_path / "policy"))
    assert (told == "yes\n") == yes


# -- fstab


def test_fstab_of_a_copy(tmp_path: Path) -> None:
    table = tmp_path / "fstab"
    table.write_text(
        "# <file system>\nLABEL=rootfs / ext4 rw,discard 0 1\n#LABEL=x / y\nUUID=2\t/srv  xfs ro 0 0\n\nnone swap swap sw 0 0"
    )
    sh('rewrite_fstab "$1" "UUID=1 / ext4 defaults 0 1"', str(table))
    assert (
        table.read_text()
        == "# <file system>\n#LABEL=x / y\nUUID=2\t/srv  xfs ro 0 0\n\nnone swap swap sw 0 0\nUUID=1 / ext4 defaults 0 1\n"
    )
    assert sh('names_root "$1" && echo yes', str(table)) == "yes\n"
    sh('rewrite_fstab "$1"', str(table))
    assert sh('names_root "$1" || echo no', str(table)) == "no\n"
    assert not list(tmp_path.glob("*.cloudboot"))


def test_fstab_where_there_is_none(tmp_path: Path) -> None:
    sh('rewrite_fstab "$1" "UUID=1 / ext4 defaults 0 1"', str(tmp_path / "fstab"))
    assert (tmp_path / "fstab").read_text() == "UUID=1 / ext4 defaults 0 1\n"
