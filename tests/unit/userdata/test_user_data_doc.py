"""What docs/user-data.md shows is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloudboot.userdata import kinds, mime, patch, reader, template, unpack
from cloudboot.userdata.parts import Services, split
from recipes import made

TEXT = (Path(__file__).parents[3] / "docs" / "user-data.md").read_text()
EXAMPLE = re.compile(r"^## (.+?)\n.*?^```\w*\n(.*?)^```\ngives (.+?)$", re.MULTILINE | re.DOTALL)
EXAMPLES = EXAMPLE.findall(TEXT)
GIVEN = re.compile(r"`([^`]+)` ([\w.-]+)")
WEB = {
    "https://example.com/common.cfg": b"#cloud-config\nlocale: C.UTF-8\n",
    "https://example.com/setup.sh": b"#!/bin/sh\n",
}
V1 = {"instance_id": "i-0123", "region": "eu-central-1"}


def services() -> Services:
    def fetch(url: str, *, once: bool) -> bytes:
        return WEB[url]

    return Services(fetch, lambda _: None, lambda: {**V1, "v1": V1})


def test_there_is_an_example_in_every_section() -> None:
    assert [name for name, _, _ in EXAMPLES] == re.findall(r"^## ([A-Z].+)$", TEXT, re.MULTILINE)[:-1]


@pytest.mark.parametrize(("name", "example", "gives"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_example(name: str, example: str, gives: str) -> None:
    for raw in (example.encode(), made({"gzip": example})):
        found = split(raw, services=services())
        assert found.problems == []
        assert [(part.type, part.name) for part in found.parts] == GIVEN.findall(gives)


def test_the_template_is_rendered_as_it_reads() -> None:
    example = next(text for name, text, _ in EXAMPLES if name == "Templates")
    content = split(example.encode(), services=services()).parts[0].content
    assert content == b"\n#cloud-config\nhostname: web-0123\ntimezone: Europe/Berlin\n"


def test_the_patch_patches() -> None:
    example = next(text for name, text, _ in EXAMPLES if name == "JSON patches")
    operations, _ = patch.read(example, "example")
    value, _, problems = patch.apply(operations, {"packages": ["curl"], "timezone": "Etc/UTC"}, {})
    assert (value, problems) == ({"packages": ["curl", "jq"]}, [])


def test_the_table_is_complete() -> None:
    table = TEXT.partition("\n\nA type")[0]
    for start, kind in kinds.STARTS:
        if kind in kinds.KNOWN:
            assert f"| `{start}` | `{kind}` |" in table
    for kind in kinds.KNOWN:
        assert f"`{kind}`" in table.replace("`-per-", "`text/x-shellscript-per-")


def test_the_limits_are_those_of_the_program() -> None:
    limits = " ".join(TEXT.partition("## Limits")[2].split())
    for told in (
        f"add {unpack.EXPANDED_LIMIT >> 20} MiB in all",
        f"{reader.PARTS_LIMIT:,} parts",
        f"{reader.INCLUDES_LIMIT} includes, of which {reader.FAILURES_LIMIT} may fail",
        f"{reader.DEPTH_LIMIT} levels of archives, includes and packed messages, {mime.DEPTH_LIMIT} of MIME, {unpack.LAYERS_LIMIT} of gzip",
        f"{patch.OPERATIONS_LIMIT:,} operations",
        f"make {template.STEP_LIMIT >> 20} MiB at once",
    ):
        assert told in limits, told
    assert template.COUNT_LIMIT == 1_000_000
