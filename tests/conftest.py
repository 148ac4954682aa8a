"""What concerns a whole run: the order of its tests, and that nothing is left of them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from boot.bed import leftovers

SLOW = ("machine", "container")
LEFT = "left behind"
LEFT_BY_WORKERS = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: what is left for the end, when one worker has nothing to do, is short then."""

    def rank(item: pytest.Item) -> int:
        return next((number for number, tier in enumerate(SLOW) if item.get_closest_marker(tier)), len(SLOW))

    items.sort(key=rank)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if anything that the bed made is left; a worker tells the process that started it."""
    if os.geteuid() != 0:  # then nothing was made
        return
    left = leftovers(os.getpid())
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[LEFT] = left
        return
    by_workers = session.config.stash.get(LEFT_BY_WORKERS, [])
    if left := [*left, *by_workers]:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line("tests left behind: " + "; ".join(left), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what a worker says it has left; one that crashed says nothing, and its tests have failed."""
    left = getattr(node, "workeroutput", {}).get(LEFT, [])
    node.config.stash.setdefault(LEFT_BY_WORKERS, []).extend(left)
