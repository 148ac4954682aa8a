"""The keyboard's file of assignments, and what XKB has of a layout."""

from __future__ import annotations

import subprocess

import pytest

from cloudboot.modules.keyboard import variants, with_values


def test_variants() -> None:
    text = 'default  partial\nxkb_symbols "basic" {\n  include "latin"\n};\nxkb_symbols\t"nodeadkeys" {\n'
    assert variants(text) == ["basic", "nodeadkeys"]
    assert variants("") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'XKBLAYOUT="de"\n'),
        ("XKBLAYOUT=de\n", "XKBLAYOUT=de\n"),
        ("XKBLAYOUT='de'\n", "XKBLAYOUT='de'\n"),
        ("XKBLAYOUT=us\nXKBLAYOUT=fr\n# end", 'XKBLAYOUT=us\nXKBLAYOUT="de"\n# end\n'),
        ("#XKBLAYOUT=us\nOTHER=1\n", '#XKBLAYOUT=us\nOTHER=1\nXKBLAYOUT="de"\n'),
    ],
)
def test_assignments_as_a_shell_reads_them(before: str, after: str) -> None:
    text = with_values(before, {"XKBLAYOUT": "de"})
    assert text == after
    assert with_values(text, {"XKBLAYOUT": "de"}) == text
    read = subprocess.run(["sh", "-c", f'{text}\nprintf %s "$XKBLAYOUT"'], check=True, capture_output=True, text=True)
    assert read.stdout == "de"
