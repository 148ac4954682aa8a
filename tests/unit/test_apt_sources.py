"""Sources as text: their style, their suites, what is filled in, what is added."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cloudboot.apt_sources import DISABLED, filled_in, flaw, is_deb822, with_entry, without_suites

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


def test_a_suite_in_folded_fields() -> None:
    folded = BLOCK.replace("trixie trixie-updates", "trixie\n trixie-updates\n\ttrixie-security")
    assert without_suites(folded, ["updates"], "trixie") == BLOCK.replace(" trixie-updates", " trixie-security")
    assert without_suites(folded, ["proposed"], "trixie") == folded
    whole = without_suites(folded, ["updates", "security", "release"], "trixie")
    assert whole == folded.replace("\ttrixie-security\n", "\ttrixie-security\nEnabled: no\n")


def test_an_entry_of_several_lines_is_added_once() -> None:
    lines = "# ours\ndeb http://a.example.com x main\n\ndeb-src http://a.example.com x main\n"
    once = with_entry("deb http://a.example.com x main\n", lines)
    assert once == "deb http://a.example.com x main\n# ours\ndeb-src http://a.example.com x main\n"
    assert with_entry(once, lines) == once
    blocks = f"{BLOCK}\n \n{BLOCK.replace('main', 'contrib')}"
    twice = with_entry("", blocks)
    assert twice == f"{BLOCK}\n{BLOCK.replace('main', 'contrib')}"
    assert with_entry(twice, blocks) == twice


APT_REFUSES = [
    ("deb http://a.example.com", "no suite"),
    ("deb http://a.example.com x", "no component"),
    ("dep http://a.example.com x main", "a source begins with deb"),
    ("http://a.example.com x main", "a source begins with deb"),
    ("deb http://a.example.com ./ main", "has no components"),
    ("deb a.example.com x main", "is no URI: 'a.example.com'"),
    ("deb [arch=amd64 http://a.example.com x main", "a bracket is missing"),
    ("deb [foo] http://a.example.com x main", "an option is `name=value`"),
    ("deb http://a.example.com x main\ndeb", "no URI"),
    (BLOCK.replace("Components: main\n", ""), "no component"),
    (BLOCK.replace("URIs: http://example.com/debian\n", ""), "no URI"),
    (BLOCK.replace("Types: deb\n", ""), "no type"),
    (BLOCK.replace("Suites: trixie trixie-updates\n", ""), "no suite"),
    (BLOCK.replace("deb\n", "foo\n"), "a source begins with deb"),
    (BLOCK.replace("deb\n", "deb\njunk\n"), "not a field: 'junk'"),
    (f"{BLOCK}\nTypes: deb\n", "no URI"),
]
APT_TAKES = [
    "deb http://a.example.com x main",
    "deb\thttp://a.example.com\tx main contrib # why\n# deb\n\n",
    "deb http://a.example.com ./",
    "deb [arch=amd64,arm64 signed-by=/k.gpg] http://a.example.com x main",
    "deb [ arch=amd64 ] http://a.example.com x main",
    'deb "http://a.example.com" x main',
    "deb cdrom:[Debian 13 own]/ trixie main",
    "deb file:/srv/own ./",
    "deb mirror+file:/etc/apt/mirrors/own.list x main",
    BLOCK,
    f"# ours\n{BLOCK}\n\n{BLOCK}",
    BLOCK.replace("trixie trixie-updates", "\n trixie\n trixie-updates"),
    BLOCK.replace("trixie trixie-updates", "./").replace("Components: main\n", ""),
    BLOCK.replace("Types", "types") + "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n",
    BLOCK + "# a comment\nEnabled: no\n",
]


@pytest.mark.parametrize(("text", "told"), [*APT_REFUSES, *((text, "") for text in APT_TAKES)])
def test_what_apt_refuses(text: str, told: str, tmp_path: Path) -> None:
    found = flaw(text)
    assert told in found
    assert bool(told) == bool(found)
    name = "own.sources" if is_deb822(text) else "own.list"
    (tmp_path / name).write_text(text if text.endswith("\n") else f"{text}\n")
    words = [f"-oDir::Etc::SourceParts={tmp_path}", "-oDir::Etc::SourceList=/dev/null", f"-oDir::State={tmp_path}"]
    words += [f"-oDir::Cache={tmp_path}", "-oDir::State::status=/dev/null"]
    asked = subprocess.run(
        ["apt-get", *words, "indextargets"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert (asked.returncode != 0) is bool(told), asked.stderr


def test_an_entry_is_added_once() -> None:
    line = "deb http://example.com x main"
    assert with_entry("", line) == f"{line}\n"
    assert with_entry(f"{line}\n", f"{line}\n") == f"{line}\n"
    assert with_entry("deb http://a x main", line) == f"deb http://a x main\n{line}\n"
    twice = with_entry(with_entry("", BLOCK), BLOCK.replace("main", "contrib"))
    assert twice == f"{BLOCK}\n{BLOCK.replace('main', 'contrib')}"
    assert with_entry(twice, BLOCK) == twice
