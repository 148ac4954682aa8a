"""Keys for logins: parse as sshd does, merge without losing anybody's line, and never be led elsewhere."""

from __future__ import annotations

import base64
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casebook import Book
from cloudboot import sshkeys
from cloudboot.errors import ConfigError
from cloudboot.root import User
from cloudboot.sshkeys import Key, merge, parse

if TYPE_CHECKING:
    from pathlib import Path

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIERVWW5OyBRxaigcgxtPAJOkxWHCe82uWa60hbbEfo+p"
LINE = f"ssh-ed25519 {BLOB} owner@example.com"


def blob(kind: str) -> str:
    parts = [kind.encode(), b"nonce-or-exponent", b"key"]
    return base64.b64encode(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).decode()


def test_nineteen_types() -> None:
    assert len(sshkeys.TYPES) == 19
    for kind in sshkeys.TYPES - set(sshkeys.SHORT):
        key = parse(f"{kind} {blob(kind)} comment of two words")
        assert key == Key(kind, blob(kind), "comment of two words")


def test_short_names_become_the_real_ones() -> None:
    assert parse(f"ed25519 {BLOB}") == Key("ssh-ed25519", BLOB)
    assert parse(f"rsa {blob('ssh-rsa')}") == Key("ssh-rsa", blob("ssh-rsa"))
    assert parse(f"ecdsa {blob('ecdsa-sha2-nistp384')}") == Key("ecdsa-sha2-nistp384", blob("ecdsa-sha2-nistp384"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# comment",
        "ssh-ed25519",
        f"ssh-rsa {BLOB}",
        f"rsa {BLOB}",
        f"ssh-dss {BLOB}",
        f"ssh-ed25519 {BLOB[:-2]}",
        f"ssh-ed25519 {BLOB[:-8]}",
        f"ssh-ed25519 {BLOB[:30]}!{BLOB[31:]}",
        "ssh-ed25519 AAAA",
        f'command="unfinished {LINE}',
    ],
)
def test_what_sshd_would_not_take(line: str) -> None:
    assert parse(line) is None


def test_options_with_quotes() -> None:
    options = 'from="192.0.2.1,198.51.100.*",command="echo \\"a b\\" # c"'
    assert parse(f"{options}  {LINE}\r\n") == Key("ssh-ed25519", BLOB, "owner@example.com", options)


@given(
    st.lists(st.sampled_from([LINE, f"no-pty {LINE}", "# foreign", "", "garbage \x85 line", f"x\t{LINE}"]), max_size=6),
    st.lists(st.sampled_from([LINE, f"restrict {LINE}", f"ssh-rsa {blob('ssh-rsa')} k"]), max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_merging_keeps_the_lines_of_others_and_converges(before: list[str], lines: list[str]) -> None:
    text = "\n".join(before)
    keys, _ = sshkeys.parse_all(lines)
    once = merge(text, keys)
    assert merge(once, keys) == once
    blobs = {key.blob for key in keys}
    foreign = [line for line in before if not ((key := parse(line)) and key.blob in blobs)]
    assert [line for line in once.split("\n") if line in foreign and line] == [line for line in foreign if line]
    assert blobs <= {key.blob for key in map(parse, once.splitlines()) if key is not None}


def test_a_restriction_of_the_admin_stays_and_our_refusal_goes() -> None:
    key = parse(LINE)
    assert key is not None
    assert merge(f'from="192.0.2.1" {LINE}\n', [key]) == f'from="192.0.2.1" {LINE}\n'
    refused = key._replace(options=sshkeys.refusal(sshkeys.REFUSAL, "debian", "root"))
    assert merge(f"{LINE}\n", [refused]) == f"{refused.line}\n"
    assert merge(f"{refused.line}\n", [key]) == f"{LINE}\n"
    assert 'as the user \\"debian\\" rather than the user \\"root\\".' in refused.line


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    bits = ["-b", "1024"] if kind == "rsa" else []
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *bits, "-N", "", "-C", "root@example", "-f", path], check=True)
    said = subprocess.run(["ssh-keygen", "-lf", f"{path}.pub"], check=True, capture_output=True, text=True).stdout
    key = parse((tmp_path / "key.pub").read_text())
    assert key is not None
    assert sshkeys.fingerprint(key) == said.strip()


@pytest.fixture
def book(tmp_path: Path) -> Book:
    tree = {"/home/bob": {"dir": True, "owner": "1001:1001"}, "/etc/secret": "root's own"}
    return Book({"tree": tree}, tmp_path, "ssh")


BOB = User("bob", 1001, 1001, "", "/home/bob", "/bin/bash")


def keys() -> list[Key]:
    key = parse(LINE)
    assert key is not None
    return [key]


def test_install_makes_what_strict_modes_wants(book: Book) -> None:
    book.host.mkdir("/home/bob/.ssh", mode=0o777, owner="1001:1001")
    assert sshkeys.install(book.host, BOB, keys())
    folder, file = book.host.look("/home/bob/.ssh"), book.host.look("/home/bob/.ssh/authorized_keys")
    assert folder is not None
    assert file is not None
    assert (folder.mode, folder.uid, file.mode, file.uid) == (0o700, 1001, 0o600, 1001)
    assert not sshkeys.install(book.host, BOB, keys())


@pytest.mark.parametrize("trap", ["link", "dangling", "dir-link", "fifo", "hard", "dir", "huge"])
def test_traps_in_a_home_are_refused(book: Book, trap: str) -> None:
    home, secret = book.root.outside("/home/bob"), book.root.outside("/etc/secret")
    file = f"{home}/.ssh/authorized_keys"
    if trap == "dir-link":
        os.symlink(book.root.outside("/etc"), f"{home}/.ssh")
    else:
        os.mkdir(f"{home}/.ssh", 0o700)
    if trap in ("link", "dangling"):
        os.symlink(secret if trap == "link" else "/nowhere", file)
    elif trap == "fifo":
        os.mkfifo(file)
    elif trap == "hard":
        os.link(secret, file)
    elif trap == "dir":
        os.mkdir(file)
    elif trap == "huge":
        with open(file, "wb") as opened:
            opened.truncate(sshkeys.LIMIT + 1)
    before = len(book.host.changes)
    with pytest.raises(ConfigError):
        sshkeys.install(book.host, BOB, keys())
    assert len(book.host.changes) == before
    assert book.host.text("/etc/secret") == "root's own"
    assert not book.host.exists("/etc/authorized_keys")


def test_no_home(book: Book) -> None:
    with pytest.raises(ConfigError, match="its home /home/eve is not there"):
        sshkeys.install(book.host, BOB._replace(name="eve", home="/home/eve"), keys())


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ("", "/home/bob/.ssh/authorized_keys"),
        ("AuthorizedKeysFile %h/.ssh/x%%y", "/home/bob/.ssh/x%y"),
        ("AuthorizedKeysFile /etc/ssh/shared keys/%u-%U", "/home/bob/keys/bob-1001"),
        ("AuthorizedKeysFile /etc/ssh/%u/keys .ssh/own", "/etc/ssh/bob/keys"),
        ("AuthorizedKeysFile /etc/ssh/shared", "/home/bob/.ssh/authorized_keys"),
        ("AuthorizedKeysFile none", "/home/bob/.ssh/authorized_keys"),
        ("AuthorizedKeysFile ../eve/keys .ssh/own", "/home/bob/.ssh/own"),
        ("AuthorizedKeysFile one\nAuthorizedKeysFile two", "/home/bob/one"),
        ("Match User bob\nAuthorizedKeysFile two", "/home/bob/.ssh/authorized_keys"),
    ],
)
def test_which_file_sshd_reads(book: Book, config: str, path: str) -> None:
    book.host.write("/etc/ssh/sshd_config", config)
    assert sshkeys.authorized_keys_file(book.host, BOB) == path


def test_one_key_with_several_options_is_several_lines() -> None:
    """As many places, as many lines; a second time nothing changes, and a line of others with other options goes."""
    here, there = (Key("ssh-ed25519", BLOB, "", f'from="{place}"') for place in ("192.0.2.1", "198.51.100.1"))
    text = sshkeys.merge("", [here, there])
    assert text == f"{here.line}\n{there.line}\n"
    assert sshkeys.merge(text, [here, there]) == text
    assert sshkeys.merge(f"no-pty {LINE}\n", [here, there]) == text
    assert sshkeys.merge(text, [here]) == f"{here.line}\n{here.line}\n"
