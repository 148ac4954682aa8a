"""A machine of which the tools and files are a Debian tree's, and the disks this machine's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from boot.bed import missing_tools
from casebook import NoFetcher
from cloudboot.commands import Commands
from cloudboot.host import Host
from cloudboot.instance import Instance
from cloudboot.log import Log
from cloudboot.module import Context
from cloudboot.process import Result, spawn
from cloudboot.root import Root

if TYPE_CHECKING:
    from collections.abc import Sequence


def needs(tier: str) -> None:
    """Skip where the tools are missing; in CI that is a failure."""
    reason = missing_tools(tier)
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)


class TreeHost(Host):
    """A host in a tree with the machine's own /dev, /proc and /sys, that believes to be live: tools run in a chroot."""

    def __init__(self, directory: str) -> None:
        root = Root(directory)
        super().__init__(root, Log(root, echo=False))
        self.live = True

    def spawn(self, argv: Sequence[str], **options: Any) -> Result:
        return spawn(["chroot", self.root.directory, *argv], **options)

    def text(self, path: str) -> str | None:
        # What is mounted, as a process in the tree sees it; its root is no mount of a disk.
        if path == "/proc/self/mountinfo":
            return self.spawn(["cat", path]).output
        return super().text(path)

    def context(self, name: str, config: dict[str, Any]) -> Context:
        """Return what a module gets."""
        return Context(
            host=self, config=config, instance=Instance("i-0123456789abcdef0", "Ec2"), image={}, name=name, marks={},
            commands=Commands(self, "/var/lib/cloudboot/instance", name), fetcher=NoFetcher(), first=True,
        )  # fmt: skip


class Loop(Protocol):
    """Make a loop device of so many MiB that holds these bytes at a place, and zeros; return its path."""

    def __call__(self, mib: int, content: bytes = b"", offset: int = 0) -> str: ...
