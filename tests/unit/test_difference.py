"""What the comparison of two machines lets pass: the rows of docs/differences.md, and nothing else."""

from __future__ import annotations

import pytest

from compare.difference import HEADING, Pass, differences, not_meant, passes
from compare.run import cases

ROWS = f"""# x
| a | b |
|---|---|
| `files` | `.*` | another table |

{HEADING}
text

| aspect | difference | reason |
|---|---|---|
| `files` | `/etc/(a\\|b): .*` | because |
| `units` | `app.service: enabled => disabled` | too |

## After
| `keys` | `.*` | not of the table |
"""
THEIRS = {"files": {"/etc/a": "1", "/etc/c": "same"}, "units": {"app.service": "enabled"}}
OURS = {"files": {"/etc/b": "2", "/etc/c": "same"}, "units": {"app.service": "disabled"}, "keys": {"k": "x"}}


def test_each_kind_of_difference_is_told() -> None:
    assert list(differences(THEIRS, OURS)) == [
        ("files", "/etc/a: only cloud-init: 1"),
        ("files", "/etc/b: only cloudboot: 2"),
        ("keys", "k: only cloudboot: x"),
        ("units", "app.service: enabled => disabled"),
    ]


def test_a_row_lets_pass_what_it_matches_whole_in_its_aspect() -> None:
    rows = passes(ROWS)
    used: dict[Pass, set[str]] = {row: set() for row in rows}
    assert not_meant(THEIRS, OURS, rows, used) == ["keys: k: only cloudboot: x"]
    assert [len(texts) for texts in used.values()] == [2, 1]
    assert not_meant({"files": {"/etc/ab": "1"}}, {"files": {}}, rows) == ["files: /etc/ab: only cloud-init: 1"]


def test_a_row_that_cannot_be_read_is_no_row() -> None:
    with pytest.raises(ValueError, match="not a row"):
        passes(ROWS.replace("| because |", ""))


def test_the_document_has_a_table_and_there_is_enough_to_compare() -> None:
    assert passes()
    assert len(cases()) >= 60
