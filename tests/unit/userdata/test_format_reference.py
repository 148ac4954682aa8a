"""User data means what it means in cloud-init: every row of a table that its Debian package made.

`tests/tools/format_reference.py` makes the table anew.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cloudboot.errors import CloudbootError
from cloudboot.problem import Mark
from cloudboot.userdata import patch, template
from cloudboot.userdata.document import load
from cloudboot.userdata.kinds import KNOWN, SNIFFED_TYPES, detect
from cloudboot.userdata.parts import Kind, Parts, Services, split, text_of
from cloudboot.userdata.variables import aliased
from tools.format_reference import TABLE, rows

# Where ours differs on purpose: what the reference does, and why ours is right.
DELIBERATE = {
    "left unread": "includes, archives and sniffed types in an archive, and gzip without its type, stay as they are there, "
    "and nobody handles them: a warning. Ours reads on, as it does everywhere else",
    "zeros before an index": "`/a/01` is the item 1 there: RFC 6901 forbids it, and ours says so",
}
FINAL = set(Kind) - {Kind.CUSTOM}
UNREAD = KNOWN - FINAL


def table(kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(TABLE.read_text())["rows"]
    return [row for row in found if row["kind"] == kind]


def ours(row: dict[str, Any]) -> Parts:
    def fetch(url: str, *, once: bool) -> bytes:
        if url not in row["web"]:
            raise CloudbootError(url)
        return base64.b64decode(row["web"][url])

    return split(base64.b64decode(row["raw"]), services=Services(fetch, lambda _: None, dict))


def test_table_is_that_of_the_tool() -> None:
    answers = {"split": ("parts", "error"), "render": ("result", "error"), "patch": ("result",)}
    recorded = [
        {key: item for key, item in row.items() if key not in answers[kind]} for kind in answers for row in table(kind)
    ]
    assert recorded == rows()


def expected(row: dict[str, Any]) -> list[tuple[str, str, bytes]]:
    """Return the reference's parts that are not empty, as its handlers store them."""
    found = []
    for kind, name, content in row["parts"]:
        data = base64.b64decode(content).strip()
        if kind == Kind.BOOTHOOK:
            data = data.removeprefix(b"#cloud-boothook").strip()
        if data:
            found.append((kind, name.lstrip("."), data))  # ours: a hidden file would not run
    return found


def left_unread(parts: list[tuple[str, str, bytes]]) -> bool:
    """Tell whether the reference has left a part as it was that it would have read elsewhere."""
    return any(
        kind in UNREAD or (kind in SNIFFED_TYPES and detect(content) not in (None, kind)) for kind, _, content in parts
    )


@pytest.mark.parametrize("number", range(len(table("split"))))
def test_parts(number: int) -> None:
    row = table("split")[number]
    theirs = expected(row)
    known = [each for each in theirs if each[0] in FINAL]
    found = ours(row)
    mine = [(part.type, part.name, part.content.strip()) for part in found.parts if part.kind is not Kind.CUSTOM]
    if not left_unread(theirs):
        assert mine == known, base64.b64decode(row["raw"])
        said = found.problems or any(part.kind is Kind.CUSTOM for part in found.parts)
        assert said or len(known) == len(theirs), "what nobody handles is said"
        return
    rest = iter([(kind, content) for kind, _, content in mine])
    certain = [(kind, content) for kind, _, content in known if kind != Kind.SCRIPT or detect(content) == kind]
    assert all(each in rest for each in certain), "all that the reference uses, in its order"


def test_few_rows_are_left_unread() -> None:
    unread = [row for row in table("split") if left_unread(expected(row))]
    assert 0 < len(unread) < len(table("split")) / 4


@pytest.mark.parametrize("number", range(len(table("render"))))
def test_templates(number: int) -> None:
    row = table("render")[number]
    variables = aliased({**row["variables"], **row["variables"]["v1"]})
    text, _ = text_of(row["text"].encode(), Mark("t"))
    if row.get("result") is None or "__class__" in text:  # the reference of today has the sandbox, too
        with pytest.raises(template.TemplateFault):
            template.render(template.without_header(text), variables, 10_000)
        return
    assert template.render(template.without_header(text), variables, 10_000).text.removeprefix("\n") == row["result"]


@pytest.mark.parametrize("number", range(len(table("patch"))))
def test_patches(number: int) -> None:
    row = table("patch")[number]
    if "/a/01" in row["parts"][1][1]:
        row["result"] = json.loads(row["parts"][0][1])  # zeros before an index
    value: dict[str, Any] = {}
    for kind, text in row["parts"]:
        if kind == Kind.CLOUD_CONFIG:
            value = load(text, "t").value
            continue
        operations, _ = patch.read(text, "t")
        value = patch.apply(operations, value, {})[0]
    assert json.dumps(value, sort_keys=True) == json.dumps(row["result"], sort_keys=True)
