"""`#include`: lists, recursion, and every way in which it can go wrong."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from cloudboot.errors import CloudbootError, ConfigError, NeedsNetwork
from cloudboot.userdata import include
from cloudboot.userdata.include import Entry
from cloudboot.userdata.parts import Kind, Parts, Services, split
from cloudboot.userdata.reader import FAILURES_LIMIT, INCLUDES_LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG = b"#cloud-config\nhostname: a\n"
SCRIPT = b"#!/bin/sh\necho hi\n"


class Web:
    """A web, and files, as a table; notes what was asked."""

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        self.pages = pages
        self.asked: list[tuple[str, bool]] = []

    def fetch(self, url: str, *, once: bool) -> bytes:
        self.asked.append((url, once))
        if url not in self.pages:
            raise CloudbootError(f"GET {include.shown(url) if once else url}: HTTP 404")
        return self.pages[url]

    def read(self, path: str) -> bytes | None:
        if path == "/etc/shadow":
            raise PermissionError(13, "Permission denied")
        return self.pages.get(path)

    def split(self, raw: bytes) -> Parts:
        return split(raw, services=Services(self.fetch, self.read, dict))


def test_a_list_is_read_as_it_is_meant() -> None:
    text = (
        "#include\n# a comment\n\n http://a/1 \n#include-once http://a/2\nhttp://a/3\n#include http://a/4\n/etc/5\r\n"
    )
    assert include.entries(text) == [
        Entry("http://a/1", once=False, line=4),
        Entry("http://a/2", once=True, line=5),
        Entry("http://a/3", once=True, line=6),
        Entry("http://a/4", once=False, line=7),
        Entry("/etc/5", once=False, line=8),
    ]
    assert include.entries("http://a/1", once=True) == [Entry("http://a/1", once=True, line=1)]


def test_what_is_included_takes_its_place() -> None:
    web = Web({"http://a/1": CONFIG, "http://a/2": gzip.compress(SCRIPT), "/etc/mine": CONFIG})
    found = web.split(b"#include-once\nhttp://a/1\nhttp://a/2\nfile:///etc/mine\n/etc/mine\n")
    assert [(part.kind, part.name, str(part.mark)) for part in found.parts] == [
        (Kind.CLOUD_CONFIG, "part-001", "http://a/1:1:1"),
        (Kind.SCRIPT, "part-002", "http://a/2:1:1"),
        (Kind.CLOUD_CONFIG, "part-003", "file:///etc/mine:1:1"),
        (Kind.CLOUD_CONFIG, "part-004", "/etc/mine:1:1"),
    ]
    assert found.parts[1].content == SCRIPT
    assert (found.problems, found.volatile) == ([], False)
    assert web.asked == [("http://a/1", True), ("http://a/2", True)]


def test_only_include_once_is_not_volatile() -> None:
    web = Web({"http://a/1": CONFIG})
    assert web.split(b"#include http://a/1\n").volatile
    assert not web.split(b"#include-once http://a/1\n").volatile
    assert web.split(b"#include-once http://a/1\n#include\nhttp://a/1\n").volatile


def test_includes_in_includes_and_in_other_forms() -> None:
    mime = b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n\n--B\n\n#include\nhttp://a/2\n--B--\n"
    web = Web(
        {"http://a/1": mime, "http://a/2": b"#cloud-config-archive\n- |\n  #include http://a/3\n- 'hostname: b'\n"}
    )
    found = web.split(b"#include http://a/1")
    assert [part.content for part in found.parts] == [b"hostname: b"]
    assert [str(problem) for problem in found.problems] == ["part-001:1:1: include: http://a/3: HTTP 404: left out"]


def test_one_that_fails_loses_only_itself() -> None:
    web = Web({"http://a/1": CONFIG})
    found = web.split(
        b"#include\nhttp://a/404\nhttp://u:hunter2@a/p?token=hunter2\nftp://a/f\n/nowhere\n/etc/shadow\npassword: hunter2\n"
        b"http:///x\nfile://other/x\nhttp://a/1\n"
    )
    assert [part.content for part in found.parts] == [CONFIG]
    assert [str(problem) for problem in found.problems] == [
        "user-data:2:1: include: http://a/404: HTTP 404: left out",
        "user-data:3:1: include: http://a/p: HTTP 404: left out",
        "user-data:4:1: include: ftp:// is not supported: offer it at https://: left out",
        "user-data:5:1: include: /nowhere: there is no such file: left out",
        "user-data:6:1: include: /etc/shadow: Permission denied: left out",
        "user-data:7:1: include: is neither a URL (https://, http://, file://) nor a path: left out",
        "user-data:8:1: include: is a URL without a host: left out",
        "user-data:9:1: include: names a file on another machine, or not by its full path (file:///…): left out",
    ]


def test_no_url_is_said_twice() -> None:
    for head in (b"#include", b"#include-once"):
        found = Web({}).split(head + b"\nhttp://u:hunter2@a/p?token=hunter2\n")
        assert [str(problem) for problem in found.problems] == [
            "user-data:2:1: include: http://a/p: HTTP 404: left out"
        ]


def test_a_loop_is_seen() -> None:
    web = Web(
        {
            "http://a/1": b"#include\nhttp://a/2\n",
            "http://a/2": b"#include\nhttp://a/1\nhttp://a/3\n",
            "http://a/3": CONFIG,
        }
    )
    found = web.split(b"#include http://a/1")
    assert [str(problem) for problem in found.problems] == [
        "http://a/2:2:1: include: http://a/1: includes itself: left out"
    ]
    assert len(found.parts) == 1


def test_a_chain_that_does_not_end_is_cut() -> None:
    class Endless(Web):
        def fetch(self, url: str, *, once: bool) -> bytes:
            return b"#include\n" + url.encode() + b"x\n"

    found = Endless({}).split(b"#include http://a/")
    assert found.parts == []
    assert str(found.problems[0]).endswith("more than 10 levels of archives, includes and messages: not read")


def test_how_many_are_fetched_is_bounded() -> None:
    web = Web({f"http://a/{number}": CONFIG for number in range(10_000)})
    found = web.split(b"#include\n" + b"".join(b"http://a/%d\n" % number for number in range(10_000)))
    assert len(found.parts) == len(web.asked) == INCLUDES_LIMIT
    assert [str(problem) for problem in found.problems] == [
        f"user-data:{INCLUDES_LIMIT + 2}:1: more than {INCLUDES_LIMIT} includes: the rest is not fetched"
    ]
    # A bush: each includes itself by other names.
    bush = Web(
        {f"http://a/{n}": b"".join(b"#include http://a/%d\n" % m for m in range(30) if m > n) for n in range(30)}
    )
    assert len(bush.split(b"#include http://a/0").problems) == 2
    assert len(bush.asked) <= 30, "each is fetched once"


def test_after_some_failures_no_more_is_tried() -> None:
    web = Web({})
    found = web.split(b"#include\n" + b"".join(b"http://a/%d\n" % number for number in range(20)))
    assert len(web.asked) == FAILURES_LIMIT
    assert "not tried: 8 includes have failed before it" in str(found.problems[-1])


def test_how_much_is_fetched_is_bounded() -> None:
    web = Web({f"http://a/{number}": b"#!" + b"x" * (10 << 20) for number in range(5)})
    found = web.split(b"#include\n" + b"".join(b"http://a/%d\n" % number for number in range(5)))
    assert len(found.parts) == 3
    assert [str(each) for each in found.problems] == [
        f"user-data:{line}:1: include: http://a/{line - 2}: too large: user data may grow to 32 MiB in all: not used: left out"
        for line in (5, 6)
    ]


def test_without_services_they_are_listed() -> None:
    found = split(b"#include\nhttp://a/1?token=hunter2\n#include-once\n/etc/mine\nftp://a/b\n")
    assert [(str(each.mark), each.kind, each.text) for each in found.unresolved] == [
        ("user-data:2:1", "text/x-include-url", "http://a/1"),
        ("user-data:4:1", "text/x-include-once-url", "/etc/mine"),
    ]
    assert found.volatile
    assert len(found.problems) == 1


def test_the_network_may_be_asked_for() -> None:
    def fetch(url: str, *, once: bool) -> bytes:
        raise NeedsNetwork(url)

    with pytest.raises(NeedsNetwork):
        split(b"#include http://a/1\n", services=Services(fetch, lambda _: None, dict))


@pytest.mark.parametrize("url", ["x" * 3000, "http://a/\x00", "a", "://", "http:/a"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError):
        include.path_of(url)


def test_a_launch_index_holds_for_what_is_included() -> None:
    web = Web({"http://a/1": CONFIG, "http://a/2": b"#include http://a/1"})
    found = web.split(b"#cloud-config-archive\n- {launch-index: 3, content: '#include http://a/2'}\n")
    assert [part.launch_index for part in found.parts] == [3]
