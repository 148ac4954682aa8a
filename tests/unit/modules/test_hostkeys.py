"""Host keys, with the real ssh-keygen: whenever the machine dies, sshd has a full set, and the next run mends pairs."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from casebook import Book, ScratchLog, plant
from cloudboot import hostkeys, process
from cloudboot.errors import CommandError
from cloudboot.host import Host
from cloudboot.root import Root
from cloudboot.sshkeys import parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cloudboot.process import Result

FAST = ("ecdsa", "ed25519")
CHANGES = 11  # that it takes to replace the keys of `machine`: draft, 2 keys made, 4 files, draft, 3 files removed


class Died(BaseException):
    """The machine lost its power."""


class RealKeygen(Host):
    """A scratch tree on which ssh-keygen really runs, its paths led into the tree."""

    def __init__(self, folder: Path) -> None:
        root = Root(str(folder))
        super().__init__(root, ScratchLog(root, []))
        self.live = True

    def which(self, name: str) -> str | None:
        return process.which(name)

    def spawn(self, argv: Sequence[str], **options: Any) -> Result:
        return process.spawn([self.root.directory + word if word.startswith("/etc/") else word for word in argv])


def machine(folder: Path) -> RealKeygen:
    """Return a machine with an image's host keys, which nobody may keep, and one certificate."""
    host = RealKeygen(folder)
    plant(host.root, "/etc/hostname", "example\n")
    for kind in (*FAST, "dsa"):
        plant(host.root, hostkeys.private_path(kind), f"image {kind}\n")
        plant(host.root, f"{hostkeys.private_path(kind)}.pub", f"image {kind}\n")
    plant(host.root, hostkeys.certificate_path("ecdsa"), "image\n")
    return host


def pairs(host: Host) -> dict[str, bool]:
    """Return for each private key whether its .pub is its own."""
    found = {}
    for kind in FAST:
        held = hostkeys.public_half(host.text(hostkeys.private_path(kind)) or "")
        public = parse(host.text(f"{hostkeys.private_path(kind)}.pub") or "")
        found[kind] = held is not None and public is not None and held.blob == public.blob
    return found


def test_replaced_on_a_new_machine(tmp_path: Path) -> None:
    host = machine(tmp_path)
    hostkeys.generate(host, replace=True, types=FAST)
    assert host._steps == CHANGES
    assert pairs(host) == dict.fromkeys(FAST, True)
    names = sorted(f"ssh_host_{kind}_key{end}" for kind in FAST for end in ("", ".pub"))
    assert host.listdir("/etc/ssh") == names
    assert {oct(os.stat(f"{tmp_path}/etc/ssh/{name}").st_mode & 0o777) for name in names[::2]} == {"0o600"}
    assert (host.text("/etc/ssh/ssh_host_ed25519_key.pub") or "").endswith(" root@example\n")
    before = len(host.changes)
    hostkeys.generate(host, replace=False, types=FAST)
    assert len(host.changes) == before


@pytest.mark.parametrize("at", range(1, CHANGES + 1))
def test_a_death_at_every_change(tmp_path: Path, at: int) -> None:
    host = machine(tmp_path)

    def die(step: int, _: object) -> None:
        if step == at:
            raise Died

    host.on_change = die
    with pytest.raises(Died):
        hostkeys.generate(host, replace=True, types=FAST)
    for kind in FAST:  # never gone, never half
        private = host.text(hostkeys.private_path(kind)) or ""
        assert private == f"image {kind}\n" or hostkeys.public_half(private) is not None
    again = RealKeygen(tmp_path)
    hostkeys.generate(again, replace=False, types=FAST)
    mended = {
        kind: ok for kind, ok in pairs(again).items() if "image" not in (again.text(hostkeys.private_path(kind)) or "")
    }
    assert all(mended.values())
    assert hostkeys.DRAFT.rpartition("/")[2] not in again.listdir("/etc/ssh")
    hostkeys.generate(again, replace=True, types=FAST)
    assert pairs(again) == dict.fromkeys(FAST, True)


def test_missing_ones_are_made_and_the_others_stay(tmp_path: Path) -> None:
    host = machine(tmp_path)
    hostkeys.generate(host, replace=True, types=FAST)
    stays = host.text(hostkeys.private_path("ecdsa"))
    host.remove(hostkeys.private_path("ed25519"))
    hostkeys.generate(host, replace=False, types=FAST)
    assert host.text(hostkeys.private_path("ecdsa")) == stays
    assert pairs(host) == dict.fromkeys(FAST, True)


def test_a_pem_key_gets_its_pub(tmp_path: Path) -> None:
    host = RealKeygen(tmp_path)
    os.makedirs(f"{tmp_path}/etc/ssh")
    file = f"{tmp_path}{hostkeys.private_path('rsa')}"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", file], check=True)
    public = parse(host.text(f"{hostkeys.private_path('rsa')}.pub") or "")
    os.unlink(f"{file}.pub")
    hostkeys.generate(host, replace=False, types=("rsa",))
    mended = parse(host.text(f"{hostkeys.private_path('rsa')}.pub") or "")
    assert public is not None
    assert mended is not None
    assert mended.blob == public.blob


def test_given_keys_are_judged_by_ssh_keygen(tmp_path: Path) -> None:
    host = RealKeygen(tmp_path)
    os.makedirs(f"{tmp_path}/etc/ssh")
    outside = str(tmp_path / "given")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", outside], check=True)
    good = (tmp_path / "given").read_text()
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", outside], check=True)
    locked = (tmp_path / "given").read_text()
    lines = good.splitlines()
    broken = "\n".join([*lines[:2], *lines[3:]]) + "\n"
    held = hostkeys.read_public(host, "ed25519", good)
    assert held is not None
    assert held.blob == parse((tmp_path / "given.pub").read_text()).blob  # type: ignore[union-attr]
    assert hostkeys.read_public(host, "ed25519", locked) is None
    assert hostkeys.read_public(host, "ed25519", broken) is None
    assert host.listdir("/etc/ssh") == []


def test_none_could_be_made_so_the_old_ones_stay(tmp_path: Path) -> None:
    case = {"tree": {"/etc/ssh/ssh_host_rsa_key": "old"}, "tools": [{"argv": "ssh-keygen", "status": 1}]}
    book = Book(case, tmp_path, "ssh")
    with pytest.raises(CommandError):
        hostkeys.generate(book.host, replace=True)
    assert book.host.listdir("/etc/ssh") == ["ssh_host_rsa_key"]


def test_a_tree_without_ssh_is_left_alone(tmp_path: Path) -> None:
    book = Book({"missing": ["ssh-keygen", "sshd"]}, tmp_path, "ssh")
    hostkeys.generate(book.host, replace=True)
    assert book.host.changes == []
    assert not book.host.exists("/etc/ssh")


def test_the_console_shows_both_blocks_between_their_markers(tmp_path: Path) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIERVWW5OyBRxaigcgxtPAJOkxWHCe82uWa60hbbEfo+p root@example"
    tree = {"/etc/ssh/ssh_host_ed25519_key.pub": f"{key}\n"}
    book = Book({"tree": tree}, tmp_path, "keys_to_console")
    book.run()
    assert book.host.console == [
        "-----BEGIN SSH HOST KEY FINGERPRINTS-----",
        "256 SHA256:A0HKPz/40hg0yqiLrWkBpI8MKnkxQU4T9k4UgGF6KNs root@example (ED25519)",
        "-----END SSH HOST KEY FINGERPRINTS-----",
        "-----BEGIN SSH HOST KEY KEYS-----",
        key,
        "-----END SSH HOST KEY KEYS-----",
    ]


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        ({"ssh": {"emit_keys_to_console": False}}, 0),
        ({"ssh_fp_console_blacklist": ["ssh-ed25519"]}, 3),
        ({"ssh_fp_console_blacklist": ["ssh-ed25519"], "ssh_key_console_blacklist": ["ssh-ed25519"]}, 0),
    ],
)
def test_the_console_shows_less(tmp_path: Path, config: dict[str, Any], lines: int) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIERVWW5OyBRxaigcgxtPAJOkxWHCe82uWa60hbbEfo+p root@example"
    tree = {"/etc/ssh/ssh_host_ed25519_key.pub": f"{key}\n"}
    book = Book({"config": config, "tree": tree}, tmp_path, "keys_to_console")
    book.run()
    assert len(book.host.console) == lines
