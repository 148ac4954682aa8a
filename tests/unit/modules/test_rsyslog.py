"""Remotes in every form, what rsyslogd complains of, and installing before there is a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from casebook import Book
from cloudboot.errors import NeedsNetwork
from cloudboot.modules.rsyslog import complaint, remote

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("192.0.2.1", "*.* @192.0.2.1 # a"),
        ("@192.0.2.1:514", "*.* @192.0.2.1:514 # a"),
        ("@@logs.example.com", "*.* @@logs.example.com # a"),
        ("[2001:db8::1]", "*.* @[2001:db8::1] # a"),
        ("@@[fe80::1%eth0]:6514", "*.* @@[fe80::1%eth0]:6514 # a"),
        ("*.err   192.0.2.1  # to whom it concerns", "*.err @192.0.2.1 # a"),
        ("mail.*;auth.info @@192.0.2.1", "mail.*;auth.info @@192.0.2.1 # a"),
    ],
)
def test_remote(text: str, line: str) -> None:
    assert remote("a", text) == line


@pytest.mark.parametrize(
    "text",
    ["# nothing", "a b c", "2001:db8::1", "192.0.2.1:", "192.0.2.1:0x1", "192.0.2.1:65536", "@", "[x y]", "@@@a"],
)
def test_remote_that_is_none(text: str) -> None:
    assert remote("a", text) is None


def test_name_stays_on_its_line() -> None:
    assert remote("two\nlines", "192.0.2.1") == "*.* @192.0.2.1 # two lines"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("", "it says nothing"),
        ("rsyslogd: version 8\nrsyslogd: action 'x' unknown [v8.1 try https://e/1 ]\n", "action 'x' unknown"),
        ("rsyslogd: something else\n", "something else"),
    ],
)
def test_complaint(output: str, told: str) -> None:
    assert complaint(output) == told


def test_installing_waits_for_the_network(tmp_path: Path) -> None:
    config = {"rsyslog": {"install_rsyslog": True, "configs": ["*.* /var/log/all"]}}
    book = Book({"config": config, "missing": ["rsyslogd"]}, tmp_path, "rsyslog")
    book.fetcher.offline = True
    with pytest.raises(NeedsNetwork):
        book.run()
    assert book.changes() == []
