"""YAML with places, and what is said of YAML that is none."""

from __future__ import annotations

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudboot.problem import Level, Mark
from cloudboot.userdata.document import load


def test_values_and_marks() -> None:
    document = load("a: 1\nb:\n  - x\n  - {c: [true, null]}\n", "f")
    assert document.value == {"a": 1, "b": ["x", {"c": [True, None]}]}
    assert document.marks["b",] == Mark("f", 2, 1)
    assert document.marks["b", 1, "c"] == Mark("f", 4, 6)
    assert document.marks["b", 1, "c", 1] == Mark("f", 4, 16)
    assert document.problems == []


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ("a: 1\n\tb: 2\n", 2, 1, "a tab"),
        ("a: [1, 2\nb: 3\n", 2, 2, ""),
        ("a: 'x\nb: 3\n", 1, 4, "not closed"),
        ("a: b: c\n", 1, 5, "quote the text"),
        ("a: *nope\n", 1, 4, "'*' must be quoted"),
        ("a: 1\0\n", 1, 5, "NUL"),
        ("a: \x01\n", 1, 4, "the character"),
        ("a: 2020-13-45\n", 1, 4, "quote it"),
    ],
)
def test_what_is_wrong_and_where(text: str, line: int, column: int, said: str) -> None:
    document = load(text, "f")
    (problem,) = document.problems
    assert (problem.mark.line, problem.mark.column) == (line, column), str(problem)
    assert said in problem.text


def test_duplicate_key_is_reported_and_the_last_counts() -> None:
    document = load("runcmd: [a]\nusers: []\nruncmd: [b]\n", "f")
    assert document.value == {"runcmd": ["b"], "users": []}
    (problem,) = document.problems
    assert str(problem) == "f:3:1: warning: runcmd: given twice (first at line 1): the last one counts"
    assert problem.level is Level.WARNING


def test_keys_are_text() -> None:
    document = load("off: 1\n0: 2\n1.5: 3\n", "f")
    assert document.value == {"off": 1, "0": 2, "1.5": 3}
    assert "quote it" in document.problems[0].text
    assert len(document.problems) == 1


def test_bomb() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    document = load("\n".join(lines), "f")
    assert document.value is None
    assert "aliases" in document.problems[0].text


def test_deep_nesting_is_bounded() -> None:
    assert "levels" in load("[" * 150 + "]" * 150, "f").problems[0].text


def test_merge_keys_and_anchors() -> None:
    text = "base: &b {x: 1, y: 2}\nderived: {<<: *b, y: 3}\n"
    assert load(text, "f").value == yaml.safe_load(text)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.text(max_size=10)
    | st.floats(allow_nan=False, width=32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(plain)
def test_same_as_pyyaml(value: object) -> None:
    text = yaml.safe_dump(value)
    assert load(text, "f").value == yaml.safe_load(text)


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_nesting_does_not_exhaust_the_stack(depth: int) -> None:
    for text in ("[" * depth, "- " * depth, "{a: " * depth, "a: " + "[" * depth + "]" * depth):
        assert "levels" in load(text, "f").problems[0].text


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("p: !s3cret\n", "!s3cret", "tag"),
        ("p: !s3cret with blanks  # and a comment\n", "!s3cret with blanks", "tag"),
        ("p: 2032-13-45\n", "2032-13-45", "timestamp"),
        ("p: *s3cret\n", None, "alias"),
        ("p: &s3cret [a]\nq: *s3cre\n", None, "alias"),
    ],
)
def test_what_only_looks_like_yaml_is_a_text_and_never_told(text: str, value: str | None, said: str) -> None:
    document = load(text, "f")
    assert (document.value or {"p": None})["p"] == value
    (problem,) = document.problems
    assert said in problem.text
    assert "s3cre" not in problem.text


@pytest.mark.parametrize("line", ["k{0}: !x{0} 1\n", "k{0}: 1\nk{0}: [2]\n", "k{0}: 2032-13-45\n"])
def test_many_flaws_take_time_in_proportion(line: str) -> None:
    began = time.process_time()
    document = load("".join(line.format(number) for number in range(10_000)), "f")
    assert len(document.problems) == 10_000
    assert time.process_time() - began < 2


def test_a_key_given_twice_leaves_no_places_of_the_first() -> None:
    document = load("k: [a, [b]]\nl: {k: {a: 1}, k: 2}\nk:\n- c\n", "f")
    assert document.value == {"k": ["c"], "l": {"k": 2}}
    places = {pointer: str(mark) for pointer, mark in document.marks.items()}
    assert places == {(): "f:1:1", ("k",): "f:3:1", ("k", 0): "f:4:3", ("l",): "f:2:1", ("l", "k"): "f:2:16"}
