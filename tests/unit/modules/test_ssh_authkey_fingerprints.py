"""The table of login keys on the console, its hashes against ssh-keygen's."""

from __future__ import annotations

import base64
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from casebook import Book
from cloudboot.modules.ssh_authkey_fingerprints import HASHES, LINES, fingerprint
from cloudboot.sshkeys import parse

if TYPE_CHECKING:
    from pathlib import Path

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIERVWW5OyBRxaigcgxtPAJOkxWHCe82uWa60hbbEfo+p"
MD5 = "MD5:"
TREE: dict[str, Any] = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndebian:x:1000:1000::/home/debian:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/sh\n",
    "/etc/group": "root:x:0:\ndebian:x:1000:\nbob:x:1001:\n",
    "/home/debian": {"dir": True, "owner": "1000:1000"},
    "/home/bob": {"dir": True, "owner": "1001:1001"},
}


def printed(folder: Path, config: dict[str, Any], keys: str | None = None) -> list[str]:
    tree = dict(TREE)
    if keys is not None:
        tree["/home/debian/.ssh/authorized_keys"] = {"content": keys, "mode": 0o600, "owner": "1000:1000"}
    case = {"config": config, "image": {"default_user": {"name": "debian"}}, "tree": tree}
    book = Book(case, folder, "ssh_authkey_fingerprints")
    book.run()
    assert book.status.values["errors"] == []
    return book.host.console


def test_table(tmp_path: Path) -> None:
    assert printed(tmp_path, {"authkey_hash": "md5"}, f"no-pty {KEY} me@laptop\n# other\n{KEY}\n") == [
        "ci-info: +++++++++Authorized keys from /home/debian/.ssh/authorized_keys for user debian++++++++",
        "ci-info: +-------------+-------------------------------------------------+---------+-----------+",
        "ci-info: |   Keytype   |                Fingerprint (md5)                | Options |  Comment  |",
        "ci-info: +-------------+-------------------------------------------------+---------+-----------+",
        "ci-info: | ssh-ed25519 | 85:48:bf:fa:cc:37:c9:8d:b4:14:bd:7e:cb:f6:ad:a4 |  no-pty | me@laptop |",
        "ci-info: | ssh-ed25519 | 85:48:bf:fa:cc:37:c9:8d:b4:14:bd:7e:cb:f6:ad:a4 |    -    |     -     |",
        "ci-info: +-------------+-------------------------------------------------+---------+-----------+",
    ]


@pytest.mark.parametrize("kind", HASHES)
def test_hashes_are_those_of_ssh_keygen(kind: str, tmp_path: Path) -> None:
    key = parse(KEY)
    assert key is not None
    ours = fingerprint(key, kind)
    if kind == "sha224":  # ssh-keygen has none
        assert len(ours) == 28 * 3 - 1
        return
    (tmp_path / "key").write_text(f"{KEY}\n")
    words = ["ssh-keygen", "-l", "-E", kind, "-f", str(tmp_path / "key")]
    theirs = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[1]
    if theirs.startswith(MD5):
        assert ours == theirs.removeprefix(MD5)
        return
    text = theirs.partition(":")[2]
    assert bytes.fromhex(ours.replace(":", "")) == base64.b64decode(text + "=" * (-len(text) % 4))


def test_who_has_none(tmp_path: Path) -> None:
    config = {"users": ["default", {"name": "bob", "system": True}, {"name": "gone"}]}
    assert printed(tmp_path, config) == ["ci-info: no authorized SSH keys fingerprints found for user debian."]


def test_each_user_has_a_table(tmp_path: Path) -> None:
    lines = printed(tmp_path, {"users": ["default", "bob"]}, f"{KEY} one\n")
    assert [line for line in lines if "for user" in line] == lines[:2]
    assert "Fingerprint (sha256)" in lines[3]


@pytest.mark.parametrize("config", [{"no_ssh_fingerprints": True}, {"users": []}])
def test_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    assert printed(tmp_path, config, f"{KEY}\n") == []


def test_a_comment_does_not_command_the_console(tmp_path: Path) -> None:
    lines = printed(tmp_path, {}, f"{KEY} \x1b]0;x\x07\x9b31m\n")
    assert not [line for line in lines if not line.isprintable()]
    assert "?]0;x??31m" in lines[4]


def test_a_user_cannot_show_what_is_roots(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/secret").write_text(f"{KEY} secret\n")
    (tmp_path / "home/debian/.ssh").mkdir(parents=True)
    (tmp_path / "home/debian/.ssh/authorized_keys").symlink_to("/root/secret")
    assert printed(tmp_path, {}) == []


def test_many_keys_leave_room_for_others(tmp_path: Path) -> None:
    lines = printed(tmp_path, {}, "".join(f'no-pty,from="{number}" {KEY} {number}\n' for number in range(200)))
    assert len(lines) == LINES
    assert lines[-1] == "ci-info: (176 more lines are left out here: ssh-keygen -lf shows keys)"
