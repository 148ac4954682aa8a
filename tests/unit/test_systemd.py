"""Names of systemd's units, whether there is work on them, and who waits for it."""

from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from cloudboot import mount_points
from cloudboot.systemd import mount_unit, working


@pytest.mark.parametrize(
    ("target", "unit"),
    [
        ("/srv/data", "srv-data.mount"),
        ("/", "-.mount"),
        ("/a-b/.c d/", "a\\x2db-.c\\x20d.mount"),
        ("/.hidden", "\\x2ehidden.mount"),
        ("/é", "\\xc3\\xa9.mount"),
    ],
)
def test_unit_of_a_mount_point(target: str, unit: str) -> None:
    assert mount_unit(target) == unit
    if shutil.which("systemd-escape"):
        shown = subprocess.run(
            ["systemd-escape", "--path", "--suffix=mount", target], check=True, capture_output=True, text=True
        )
        assert shown.stdout.strip() == unit


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("", False),
        ("ActiveState=inactive\n", False),
        ("Job=0\nActiveState=active\n\nJob=0\nActiveState=failed\n", False),
        ("Job=\nActiveState=inactive\n", False),
        ("Job=0\nActiveState=active\n\nJob=0\nActiveState=activating\n", True),
        ("ActiveState=inactive\nJob=417\n", True),
    ],
)
def test_working(shown: str, expected: bool) -> None:
    assert working(shown) is expected


def test_systemd_mounts_and_grows_before_we_look() -> None:
    """Its growing is a unit of its own: the mount is active already when that begins."""
    answers = ["Job=7\n\nJob=0\n", "Job=0\n\nJob=8\n", "Job=0\n\nActiveState=activating\n", "Job=0\n\nJob=0\n"]
    asked: list[list[str]] = []
    slept: list[float] = []

    def ask(argv: list[str], **_: Any) -> SimpleNamespace:
        asked.append(argv[-2:])
        return SimpleNamespace(output=answers[len(asked) - 1])

    host: Any = SimpleNamespace(ask=ask)
    mount_points.leave_to_systemd(host, "/srv/late", sleep=slept.append)
    assert asked == [["srv-late.mount", "systemd-growfs@srv-late.service"]] * 4
    assert len(slept) == 3


def test_it_is_not_waited_for_for_ever() -> None:
    host: Any = SimpleNamespace(ask=lambda *_, **__: SimpleNamespace(output="Job=7\n"))
    times = iter(range(10))
    mount_points.leave_to_systemd(host, "/srv", limit=5, clock=lambda: float(next(times)), sleep=lambda _: None)
    assert next(times) < 9
