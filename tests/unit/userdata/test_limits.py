"""Much user data takes time and memory in proportion, or is refused."""

from __future__ import annotations

import base64
import gzip
import json
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from cloudboot.userdata.parts import Kind, Parts, Services, split
from cloudboot.userdata.reader import PARTS_LIMIT, PROBLEMS_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = b"#!/bin/sh\n" + b"# a comment that makes it long\n" * 33


def fetch(url: str, *, once: bool) -> bytes:
    raise AssertionError(url)


def services() -> Services:
    return Services(fetch, lambda _: None, lambda: {"v1": {"region": "r"}})


def mime(number: int, content: bytes = SCRIPT, *, packed: bool = False) -> bytes:
    head = b"--B\nContent-Type: text/x-shellscript\n\n"
    if packed:
        head = b"--B\nContent-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n"
        content = base64.encodebytes(gzip.compress(content))
    body = (head + content + b"\n") * number
    return b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="B"\n\n' + body + b"--B--\n"


def archive(number: int) -> bytes:
    content = SCRIPT.replace(b"\n", b"\n    ").rstrip(b" ")
    return b"#cloud-config-archive\n" + (b"- type: text/x-shellscript\n  content: |\n    " + content) * number


def nested(number: int) -> bytes:
    """Make archives of a hundred parts in MIME."""
    part = archive(100)
    head = b"--B\nContent-Type: text/cloud-config-archive\n\n"
    body = (head + part + b"\n") * (number // 100)
    return b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="B"\n\n' + body + b"--B--\n"


FORMS: dict[str, Callable[[int], bytes]] = {
    "mime": mime,
    "gzip": lambda number: gzip.compress(mime(number)),
    "gzip in mime": lambda number: mime(number, packed=True),
    "templates": lambda number: mime(
        number, b"## template: jinja\n#!/bin/sh\n# {{ v1.region }}\n" + SCRIPT[10:]
    ).replace(b"text/x-shellscript", b"text/plain"),
    "archive": archive,
    "archives in mime": nested,
}


def steps(raw: bytes, number: int) -> int:
    """Return how many calls, of Python and of C functions, a split takes. A busy machine takes no more of them."""
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(step)
    try:
        found = split(raw, services=services())
    finally:
        sys.setprofile(None)
    assert len(found.parts) == number
    return count


@pytest.mark.parametrize("form", FORMS)
def test_the_work_is_in_proportion(form: str) -> None:
    """1 MB in 1,000 parts takes ten times as many steps as 100 KB in 100; seconds are in tests/bench/userdata.py."""
    few, many = FORMS[form](100), FORMS[form](1000)
    split(few, services=services())  # the libraries are loaded
    assert steps(many, 1000) <= 11 * steps(few, 100)


def peak(raw: bytes) -> tuple[Parts, int]:
    tracemalloc.start()
    try:
        return split(raw, services=services()), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_part_of_10_mb() -> None:
    found, bytes_at_most = peak(mime(1, b"#!/bin/sh\n" + b"x" * (10 << 20)))
    assert len(found.parts[0].content) > 10 << 20
    assert bytes_at_most < 80 << 20


def test_more_parts_than_anybody_needs() -> None:
    found = split(mime(PARTS_LIMIT + 500, b"#!/bin/sh"))
    assert len(found.parts) == PARTS_LIMIT
    assert [str(problem) for problem in found.problems] == ["user-data: more than 10000 parts: the rest is not used"]
    assert len(split(mime(PARTS_LIMIT + 500, b"")).problems) == 1, "empty ones count"
    deep = (
        b"#cloud-config-archive\n" + json.dumps(["#cloud-config-archive\n" + json.dumps(["#!x"] * 300)] * 100).encode()
    )
    assert len(split(deep).parts) == PARTS_LIMIT


def test_so_many_problems_that_nobody_reads_them() -> None:
    found = split(mime(1000, b"nothing known").replace(b"text/x-shellscript", b"text/plain"))
    assert len(found.problems) == PROBLEMS_LIMIT + 1
    assert str(found.problems[-1]) == "user-data: 800 more problems: not listed"


def test_a_bomb_in_little_memory() -> None:
    found, bytes_at_most = peak(gzip.compress(b"#" * (400 << 20)))
    assert found.parts == []
    assert "when expanded" in str(found.problems[0])
    assert bytes_at_most < 100 << 20


def test_a_quine_of_gzip_ends() -> None:
    content = b"#cloud-config\n"
    for _ in range(50):
        content = gzip.compress(content)
    assert "gzip in gzip" in str(split(content).problems[0])


def test_archives_in_archives_end() -> None:
    content = "#!/bin/sh\n"
    for _ in range(15):
        content = "#cloud-config-archive\n" + json.dumps([content])
    found = split(content.encode())
    assert [problem.text for problem in found.problems] == [
        "more than 10 levels of archives, includes and messages: not read"
    ]
    assert [part.kind for part in split(b"#cloud-config-archive\n" + json.dumps(["#!x"]).encode()).parts] == [
        Kind.SCRIPT
    ]


def test_messages_packed_in_messages_end() -> None:
    content = SCRIPT
    for _ in range(40):
        content = mime(1, content, packed=True)
    assert [problem.text for problem in split(content).problems] == [
        "more than 10 levels of archives, includes and messages: not read"
    ]
    shallow = SCRIPT
    for _ in range(5):
        shallow = mime(1, shallow, packed=True)
    assert [part.content for part in split(shallow).parts] == [SCRIPT]
