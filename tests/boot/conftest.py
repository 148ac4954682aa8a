"""Fixtures of the boot tests, and the rule for where they cannot run."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import pytest

from boot.bed import KeyPair, Namespace, Scratch, Tree, Trees, missing_tools, sweep
from boot.worlds import World, baked, world

if TYPE_CHECKING:
    from collections.abc import Iterator

TIERS = ("container", "machine")
_why_not = functools.cache(missing_tools)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a boot test where it cannot run, with the reason; in CI that is a failure."""
    for tier in TIERS:
        if item.get_closest_marker(tier) and (reason := _why_not(tier)):
            if os.environ.get("CI") == "true":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session")
def trees() -> Iterator[Trees]:
    """The cache of image trees, after removing what killed test runs left."""
    sweep()
    with Trees() as cache:
        yield cache


@pytest.fixture(scope="session")
def tree_trixie(trees: Trees) -> Tree:
    """Debian 13: Python 3.13, systemd 257."""
    return trees.get("trixie")


@pytest.fixture(scope="session")
def tree_bookworm(trees: Trees) -> Tree:
    """Debian 12: Python 3.11, systemd 252."""
    return trees.get("bookworm")


@pytest.fixture(scope="session")
def session_scratch(trees: Trees) -> Iterator[Scratch]:
    """A directory for what several tests share (a baked overlay, a root image)."""
    with Scratch() as directory:
        yield directory


@pytest.fixture
def scratch(trees: Trees) -> Iterator[Scratch]:
    """A directory of the test's own on a real disk; it outlives containers, machines and overlays of the test."""
    with Scratch() as directory:
        yield directory


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace with the metadata service's addresses and its neighbours' on `lo`."""
    with Namespace(untouched=True) as ns:
        yield ns


@pytest.fixture(scope="session")
def key_pair(session_scratch: Scratch) -> KeyPair:
    """An ssh key pair."""
    return KeyPair.create(session_scratch.file("id_ed25519"))


@pytest.fixture(scope="session")
def baked_trixie(tree_trixie: Tree, session_scratch: Scratch) -> Iterator[Tree]:
    """Debian 13 with the agent baked in."""
    yield from baked(tree_trixie, session_scratch)


@pytest.fixture(scope="session")
def baked_bookworm(tree_bookworm: Tree, session_scratch: Scratch) -> Iterator[Tree]:
    """Debian 12 with the agent baked in."""
    yield from baked(tree_bookworm, session_scratch)


@pytest.fixture
def trixie(baked_trixie: Tree, scratch: Scratch) -> Iterator[World]:
    """A container of Debian 13 with a wire to its cloud, not booted yet."""
    yield from world(baked_trixie, scratch)


@pytest.fixture
def bookworm(baked_bookworm: Tree, scratch: Scratch) -> Iterator[World]:
    """A container of Debian 12 with a wire to its cloud, not booted yet."""
    yield from world(baked_bookworm, scratch)
