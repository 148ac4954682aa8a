"""What the end of a boot says on the console: final_message, power_state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from casebook import Book

if TYPE_CHECKING:
    from pathlib import Path

TREE = {"/proc/uptime": "12.34 20.00\n"}


def console(folder: Path, module: str, data: str) -> list[str]:
    book = Book({"user-data": f"#cloud-config\n{data}\n", "tree": TREE}, folder, module)
    book.run()
    return book.host.console


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('"up $uptime ${DATASOURCE} {{ uptime }}"', "up 12.34 Ec2 12.34"),
        ('"## template: jinja\\n{{ uptime|float|round|int }} s on {{ DATASOURCE }}"', "12 s on Ec2"),
        ('"## template: jinja\\n{% if %}"', "{% if %}"),
    ],
)
def test_final_message(tmp_path: Path, message: str, shown: str) -> None:
    assert console(tmp_path, "final_message", f"final_message: {message}") == [shown]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("mode: poweroff", ["power_state: poweroff as soon as cloudboot has finished"]),
        ("mode: reboot, delay: 5", ["power_state: reboot in 5 min"]),
        (
            "mode: halt, delay: now",
            [
                "power_state: halt leaves an EC2 instance running and billed: poweroff stops or terminates it",
                "power_state: halt as soon as cloudboot has finished",
            ],
        ),
        ("mode: poweroff, condition: false", []),
    ],
)
def test_power_state_says_what_comes(tmp_path: Path, fields: str, said: list[str]) -> None:
    assert console(tmp_path, "power_state_change", f"power_state: {{{fields}}}") == said
