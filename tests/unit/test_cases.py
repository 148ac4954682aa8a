"""Every case file: the module does what the case says, and a second run changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from casebook import Book, differences

CASES = Path(__file__).parent.parent / "cases"
FILES = sorted(path for path in CASES.glob("*/*.yaml") if path.parent.name != "bad-input")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_case(path: Path, tmp_path: Path) -> None:
    case: dict[str, Any] = yaml.safe_load(path.read_text())
    expect = case["expect"]
    book = Book(case, tmp_path, path.parent.name)
    book.run()
    changes = book.changes()
    found = differences(book, expect.get("files", {}))
    if "ran" in expect:
        ran = [text.removeprefix("run ") for text in changes if text.startswith("run ")]
        if ran != expect["ran"]:
            found.append(f"ran {ran}, not {expect['ran']}")
    if "commands" in expect and book.outcomes() != expect["commands"]:
        found.append(f"commands {book.outcomes()}, not {expect['commands']}")
    found += compare("problems", book.status.values["recoverable"], expect.get("problems", []))
    found += compare("errors", book.status.values["errors"], expect.get("errors", []))
    assert not found, "\n".join([*found, "changes:", *changes])

    before = book.stamps()
    book.run()
    assert book.changes() == [f"run {argv}" for argv in expect.get("again", [])], "the second run changed something"
    assert book.stamps() == before, "the second run touched files"


def compare(what: str, found: list[str], expected: list[str]) -> list[str]:
    """Each expected text is contained in one that was found, and none is left over."""
    left = list(found)
    wrong = []
    for text in expected:
        match = next((each for each in left if text in each), None)
        if match is None:
            wrong.append(f"{what}: not said: {text!r}")
        else:
            left.remove(match)
    return wrong + [f"{what}: not expected: {each!r}" for each in left]
