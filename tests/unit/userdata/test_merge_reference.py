"""Merges mean what they mean in cloud-init: every row of a table that its Debian package made.

`tests/tools/merge_reference.py` makes the table anew.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from cloudboot.errors import ConfigError
from cloudboot.problem import Level, Problem
from cloudboot.userdata.document import load
from cloudboot.userdata.merge import LAYERS, PARTS, Merger, merge, rule
from tools.merge_reference import TABLE, rows

# Where ours differs on purpose: what the reference does, and why ours is right.
DELIBERATE = {
    "taken apart": "a text or mapping 'appended' to a list adds its letters or keys as items, to be run as commands: "
    "ours reports it and leaves it out",
    "settings as one text": "`settings: no_replace` means replace, which is a piece of that word: ours means what it says",
    "merge_type beside merge_how": "merge_type stays in the configuration as an unknown key: ours takes both away",
}


def table() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(TABLE.read_text())["rows"]
    return found


def same(ours: Any, theirs: Any) -> bool:
    """Compare values, their kinds, and the order of keys."""
    return json.dumps(ours) == json.dumps(theirs)


def ours(row: dict[str, Any]) -> tuple[Any, list[Problem]]:
    problems: list[Problem] = []
    how = rule({"merge_how": row["rule"]}, PARTS, ignored=[])
    return merge(how, (row["old"], {}), (row["new"], {}), problems)[0], problems


def deliberate(row: dict[str, Any]) -> str:
    """Name the deviation that a row falls under; none: an empty text."""
    if row["kind"] == "parts":
        return "merge_type beside merge_how" if "merge_type" in row["result"] else ""
    if "no_replace" in str(row["rule"]) and isinstance(row["rule"], list) and "'settings': 'no" in str(row["rule"]):
        return "settings as one text"
    _, problems = ours(row)
    apart = any(
        problem.level is Level.ERROR and ("a text cannot" in problem.text or "a mapping cannot" in problem.text)
        for problem in problems
    )
    return "taken apart" if apart else ""


def test_table_is_that_of_the_tool() -> None:
    recorded = [{key: item for key, item in row.items() if key not in ("result", "error", "lost")} for row in table()]
    assert recorded == rows()
    assert json.loads(TABLE.read_text())["package"].startswith("cloud-init ")
    assert Counter(row["kind"] for row in recorded) >= Counter(merge=200, parts=20, layers=10)


def test_merges() -> None:
    """The result is the reference's; where the reference fails, and loses the whole part, ours reports a problem."""
    wrong, differ = [], Counter[str]()
    for row in table():
        if row["kind"] != "merge":
            continue
        try:
            value, problems = ours(row)
        except ConfigError:
            if "error" not in row:
                wrong.append(row)
            continue
        if "error" in row and any(problem.level is Level.ERROR for problem in problems):
            continue
        if "error" not in row and same(value, row["result"]):
            continue
        differ[deliberate(row)] += 1
        if not deliberate(row):
            wrong.append({"ours": value, **row})
    assert not wrong, json.dumps(wrong[:5], indent=1)
    assert set(differ) == {"taken apart", "settings as one text"}
    assert sum(differ.values()) < 40


@pytest.mark.parametrize("row", [row for row in table() if row["kind"] == "parts"], ids=lambda row: str(row["result"]))
def test_parts(row: dict[str, Any]) -> None:
    problems: list[Problem] = []
    merger = Merger(problems)
    lost = []
    for number, part in enumerate(row["parts"]):
        document = load(part["text"], f"part-{number + 1:03}")
        header = part["headers"].get("Merge-Type") or part["headers"].get("X-Merge-Type", "")
        try:
            merger.feed(rule(document.value, PARTS, header, []), document.value, document.marks)
        except ConfigError:
            lost.append(number)
    value, _ = merger.result()
    assert lost == row["lost"]
    if deliberate(row):
        row["result"].pop("merge_type")
    assert same(value, row["result"])


@pytest.mark.parametrize("row", [row for row in table() if row["kind"] == "layers"], ids=lambda row: str(row["result"]))
def test_layers(row: dict[str, Any]) -> None:
    problems: list[Problem] = []
    merger = Merger(problems)
    for layer in row["layers"]:
        merger.feed(rule(layer, LAYERS), layer, {})
    assert same(merger.result()[0], row["result"])
    assert problems == []


def test_each_deviation_is_seen() -> None:
    seen = {deliberate(row) for row in table() if row["kind"] != "layers" and _readable(row)} - {""}
    assert seen == set(DELIBERATE)


def _readable(row: dict[str, Any]) -> bool:
    try:
        return row["kind"] == "parts" or bool(rule({"merge_how": row["rule"]}, PARTS, ignored=[]))
    except ConfigError:
        return False
