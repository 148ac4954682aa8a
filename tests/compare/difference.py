"""What two machines differ in, less what docs/differences.md lets pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from compare.snapshot import Snapshot

DOCUMENT = Path(__file__).parents[2] / "docs/differences.md"
HEADING = "## What a comparison lets pass"
ROW = re.compile(r"^\| `(?P<aspect>\w+)` \| `(?P<pattern>.+)` \| (?P<reason>.+) \|$")


class Pass(NamedTuple):
    """A row of the document: differences of this aspect that match the pattern, whole, are meant."""

    aspect: str
    pattern: re.Pattern[str]
    reason: str


def passes(text: str | None = None) -> list[Pass]:
    """Read the table. Raises ValueError for a row that cannot be read: a typo lets nothing pass unseen."""
    whole = DOCUMENT.read_text(encoding="utf-8") if text is None else text
    table = whole.partition(f"{HEADING}\n")[2].partition("\n## ")[0]
    found = []
    for line in table.splitlines():
        if not line.startswith("|") or line.startswith(("| aspect", "|---")):
            continue
        row = ROW.match(line)
        if row is None:
            raise ValueError(f"differences.md: not a row of the table: {line}")
        found.append(Pass(row["aspect"], re.compile(row["pattern"].replace(r"\|", "|"), re.DOTALL), row["reason"]))
    return found


def differences(theirs: Snapshot, ours: Snapshot) -> Iterator[tuple[str, str]]:
    """Yield aspect and text of each difference: `NAME: only cloud-init: VALUE`, `NAME: THEIRS => OURS`."""
    for aspect in sorted(theirs.keys() | ours.keys()):
        left, right = theirs.get(aspect, {}), ours.get(aspect, {})
        for name in sorted(left.keys() | right.keys()):
            if name not in right:
                yield aspect, f"{name}: only cloud-init: {left[name]}"
            elif name not in left:
                yield aspect, f"{name}: only cloudboot: {right[name]}"
            elif left[name] != right[name]:
                yield aspect, f"{name}: {left[name]} => {right[name]}"


def not_meant(
    theirs: Snapshot, ours: Snapshot, allowed: Sequence[Pass], used: Mapping[Pass, set[str]] | None = None
) -> list[str]:
    """Return the differences that no row lets pass; note in `used` which row let which pass."""
    left = []
    for aspect, text in differences(theirs, ours):
        row = next((each for each in allowed if each.aspect == aspect and each.pattern.fullmatch(text)), None)
        if row is None:
            left.append(f"{aspect}: {text}")
        elif used is not None:
            used[row].add(text)
    return left
