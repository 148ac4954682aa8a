"""Fixtures of the tests on real loop devices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from boot.bed import Scratch, Trees
from boot.bed.command import run
from boot.bed.disks import blank as blank_image
from unit.modules.treehost import Loop, TreeHost

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def host(scratch: Scratch) -> Iterator[TreeHost]:
    with Trees() as trees, trees.get("trixie").overlay(scratch) as tree:
        for name in ("dev", "proc", "sys"):
            run(["mount", "--bind", f"/{name}", f"{tree.path}/{name}"])
        yield TreeHost(tree.path)


@pytest.fixture
def loop(scratch: Scratch) -> Iterator[Loop]:
    """Make loop devices; they go again, whatever the test comes to."""
    made: dict[str, str] = {}

    def make(mib: int, content: bytes = b"", offset: int = 0) -> str:
        file = blank_image(scratch.file(f"disk{len(made)}"), mib)
        with open(file, "r+b") as image:
            image.seek(offset)
            image.write(content)
        name = run(["losetup", "--find", "--show", file]).stdout.strip()
        made[name] = file
        return name

    try:
        yield make
    finally:
        for name, file in made.items():
            run(["umount", name], check=False)
            run(["swapoff", name], check=False)
            run(["partx", "--delete", name], check=False)
            run(["losetup", "--detach", name], check=False)
            os.unlink(file)
