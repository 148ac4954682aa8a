"""The same user data under Debian's cloud-init and under us: a handful of those that `make compare` boots."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compare.difference import not_meant, passes
from compare.run import cases, data_of
from compare.snapshot import AGENTS, Agents

pytestmark = pytest.mark.container
NAMES = ("web-server", "mime-merge", "key-with-options", "mounts-fields", "hashed-passwd", "misspelt")


@pytest.fixture(scope="module")
def agents() -> Iterator[Agents]:
    with Agents() as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_machine(name: str, agents: Agents) -> None:
    path = next(path for path in cases() if path.stem == name)
    theirs, ours = (agents.boot(agent, data_of(path, agents.key.public)) for agent in AGENTS)
    assert ours["users"], "the probe saw nothing"
    assert not_meant(theirs, ours, passes()) == []
