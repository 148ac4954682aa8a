"""Sources as text: their style, their suites, what is filled in, what is added."""

from __future__ import annotations

import pytest

from cloudboot.apt_sources import DISABLED, filled_in, is_deb822, with_entry, without_suites

BLOCK = "Types: deb\nURIs: http://example.com/debian\nSuites: trixie trixie-updates\nComponents: main\n"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", False),
        ("# Types: deb\ndeb http://example.com x main\n", False),
        (BLOCK, True),
        ("# comment\n\nEnabled: yes\ntypes: deb\n", True),
    ],
)
def test_style(text: str, fields: bool) -> None:
    assert is_deb822(text) is fields


def test_names_are_filled_in_and_others_stay() -> None:
    names = {"RELEASE": "trixie", "MIRROR": "http://m"}
    assert (
        filled_in("deb $MIRROR ${RELEASE}-updates $RELEASES $5 ${X}", names)
        == "deb http://m trixie-updates $RELEASES $5 ${X}"
    )


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("deb http://example.com trixie-updates main\n", True),
        ("deb-src [arch=amd64 signed-by=/k] http://example.com trixie-updates main\n", True),
        ("deb [ arch=amd64 ] http://example.com trixie-updates main\n", True),
        ("deb http://example.com trixie main\n", False),
        ("# deb http://example.com trixie-updates main\n", False),
        ("deb http://example.com/trixie-updates x main\n", False),
        ("deb [arch=amd64\n", False),
    ],
)
def test_a_suite_in_lines(line: str, gone: bool) -> None:
    assert without_suites(line, ["updates"], "trixie") == (f"{DISABLED}{line}" if gone else line)


def test_a_suite_in_fields() -> None:
    text = f"{BLOCK}\n{BLOCK.replace('trixie trixie-updates', 'trixie-updates')}"
    made = without_suites(text, ["updates", "own"], "trixie")
    first, second = made.split("\n\n")
    assert "Suites: trixie\n" in first
    assert "Suites: trixie-updates\nEnabled: no\n" in second
    assert without_suites(text, [], "trixie") == text


def test_an_entry_is_added_once() -> None:
    line = "deb http://example.com x main"
    assert with_entry("", line) == f"{line}\n"
    assert with_entry(f"{line}\n", f"{line}\n") == f"{line}\n"
    assert with_entry("deb http://a x main", line) == f"deb http://a x main\n{line}\n"
    twice = with_entry(with_entry("", BLOCK), BLOCK.replace("main", "contrib"))
    assert twice == f"{BLOCK}\n{BLOCK.replace('main', 'contrib')}"
    assert with_entry(twice, BLOCK) == twice
