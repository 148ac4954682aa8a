"""The linters and the type checker pass; the project is installed with everything that it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "argv", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=["ruff", "format", "mypy"]
)
def test_linter(argv: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *argv], cwd=TOP, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_dependencies_are_those_of_the_boot_and_no_more() -> None:
    text = (TOP / "pyproject.toml").read_text()
    assert 'dependencies = ["PyYAML>=6", "requests>=2.28", "jinja2>=3.1", "jsonschema>=4.10"]' in text
