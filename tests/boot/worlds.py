"""Baked trees, and containers of them with a wire to their cloud."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from boot.bed import Container, KeyPair, Link, Repository, Scratch, Tree, run, ssh
from boot.bed.command import wait_until
from boot.job import Inside
from cloudboot import bake
from cloudboot.cli import open_host

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

OPTIONS = ["--capability=CAP_NET_ADMIN"]


class World(NamedTuple):
    """A container with a wire to its cloud."""

    link: Link
    box: Container
    scratch: Scratch
    inside: Inside

    def connect(self, *, v6: bool = False) -> None:
        (self.link.connect_v6 if v6 else self.link.connect_v4)()

    def login(self, key: KeyPair, user: str = "debian", host: str = Link.GUEST_V4) -> str:
        """Log in over the wire, as soon as sshd listens: a boot with little to do is over before that."""

        def listens() -> bool:
            return ssh(self.link.cloud, key, user, ["true"], host=host, check=False, timeout=30).returncode == 0

        wait_until(listens, 15, 0.2)
        return ssh(self.link.cloud, key, user, ["id", "-un"], host=host, timeout=30).stdout.strip()

    def reboot(self, *, v6: bool = False) -> None:
        self.box.poweroff()
        self.link.disconnect()
        self.box.boot()
        self.connect(v6=v6)

    def keyscan(self, host: str = Link.GUEST_V4) -> set[str]:
        """Return the fingerprints that sshd shows."""
        scanned = self.link.cloud.run(["ssh-keyscan", "-T", "20", host]).stdout
        words = run(["ssh-keygen", "-lf", "-"], stdin=scanned).stdout.split()
        return {word for word in words if word.startswith("SHA256:")}


def baked(tree: Tree, scratch: Scratch) -> Iterator[Tree]:
    """Bake a tree once for the session."""
    with tree.overlay(scratch) as view:
        # The test gives the wire its addresses from outside, at the time it wants.
        with open(f"{view.path}/etc/systemd/network/10-wire.network", "w", encoding="utf-8") as file:
            file.write("[Match]\nName=host0\n\n[Link]\nUnmanaged=yes\n")
        bake.bake(open_host(view.path, echo=False, keep_log=False), datasource="Ec2")
        # There is no time server in these namespaces, and multi-user.target would wait three minutes for one.
        os.symlink("/dev/null", f"{view.path}/etc/systemd/system/chrony-wait.service")
        Repository(scratch).install(view.path)
        yield view.tree()


def world(tree: Tree, scratch: Scratch) -> Iterator[World]:
    with (
        Link() as link,
        tree.overlay(scratch) as disk,
        Container(disk.path, link.guest, scratch, options=OPTIONS) as box,
    ):

        def ask(line: str) -> subprocess.CompletedProcess[str]:
            return box.exec(["sh", "-c", line], check=False, timeout=240)

        yield World(link, box, scratch, Inside(ask))
