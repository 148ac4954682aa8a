"""Fixtures of the unit tests that need a real machine's devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from boot.bed import Scratch
from unit.modules.treehost import needs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def scratch() -> Iterator[Scratch]:
    """A directory for a file's tests; where there are no loop devices they are skipped."""
    needs("container")
    with Scratch() as made:
        yield made
