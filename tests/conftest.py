"""How tests share two workers, and that none leaves anything behind."""

from __future__ import annotations

import os
from typing import Any

import pytest

from boot.bed import leftovers

LEFT = "boot_tests_left"  # what a worker tells the main process
OF_WORKERS = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep machines on one worker and containers on one: two at once would be slow beyond the limits of either."""
    for item in items:
        for tier in ("container", "machine"):
            if item.get_closest_marker(tier):
                item.add_marker(pytest.mark.xdist_group(tier))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if anything that the bed made is left, in this process or in one of its workers."""
    left = leftovers(os.getpid()) if os.geteuid() == 0 else []  # others make nothing
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[LEFT] = left
        return
    left = [*left, *session.config.stash.get(OF_WORKERS, [])]
    if left:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line("boot tests left behind: " + "; ".join(left), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take from a worker that has ended what it has left behind."""
    node.config.stash.setdefault(OF_WORKERS, []).extend(getattr(node, "workeroutput", {}).get(LEFT, []))
