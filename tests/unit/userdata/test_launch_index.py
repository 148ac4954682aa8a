"""Sections by launch index: keys, which one wins, contradictions, and what the documentation says of them."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudboot.errors import ConfigError
from cloudboot.problem import Mark, Problem
from cloudboot.userdata.document import load
from cloudboot.userdata.launch_index import KEY, Indices, apply, indices_named, parse_key, sections

DOCUMENT = Path(__file__).parents[3] / "docs" / "launch-index.md"
BLOCK = re.compile(r"^```(yaml|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RANGES = st.tuples(st.integers(0, 12), st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1]))
PIECES = RANGES.map(lambda pair: str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}-{pair[1]}")
INDEX_KEYS = st.lists(PIECES, min_size=1, max_size=3).map(",".join) | st.just("*")
LEAVES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["x", "y"]) | st.lists(st.integers(0, 2))
BODIES = st.dictionaries(
    st.sampled_from("abc"), LEAVES | st.dictionaries(st.sampled_from("xy"), LEAVES, max_size=2), max_size=3
)
HOWS = st.sampled_from(
    [None, "list(append)+dict(no_replace,recurse_list)+str()", "dict(replace)", "dict(allow_delete,replace)"]
)
SECTIONS = st.builds(lambda body, how: body if how is None else {**body, "merge_how": how}, BODIES, HOWS)
TABLES = st.dictionaries(INDEX_KEYS, SECTIONS, max_size=4)
LEVEL = st.dictionaries(st.sampled_from(["0-1", "0,2", "0,3", "0, 3"]), SECTIONS, min_size=2)  # equally specific, for 0


def applied(text: str, index: int | None) -> tuple[dict[str, Any], list[str]]:
    document = load(text, "user-data")
    value, _, problems = apply(document.value, document.marks, index)
    return value, [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "ranges", "size", "canonical"),
    [
        ("3", ((3, 3),), 1, "3"),
        ("1-4", ((1, 4),), 4, "1-4"),
        ("0,5-7", ((0, 0), (5, 7)), 4, "0,5-7"),
        (" 7 - 9 ,\t1", ((1, 1), (7, 9)), 4, "1,7-9"),
        ("0", ((0, 0),), 1, "0"),
        ("3,3,3", ((3, 3),), 1, "3"),
        ("1-4,3-6,5", ((1, 6),), 6, "1-6"),
        ("1,2,3", ((1, 3),), 3, "1-3"),
        ("2-2", ((2, 2),), 1, "2"),
        ("0-999999999999999999", ((0, 999999999999999999),), 10**18, "0-999999999999999999"),
        ("*", None, None, "*"),
        (" * ", None, None, "*"),
    ],
)
def test_keys(text: str, ranges: Any, size: int | None, canonical: str) -> None:
    indices = parse_key(text)
    assert indices == Indices(ranges)
    assert indices.size() == size
    assert str(indices) == canonical
    assert parse_key(canonical) == indices


ADVICE = 'write an index ("3"), a range ("1-4"), a list ("0,5-7") or "*"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f"the key '' names no index: {ADVICE}"),
        ("  ", f"the key '  ' names no index: {ADVICE}"),
        ("4-1", "the range '4-1' ends before it begins: write \"1-4\""),
        ("-1", "not an index: '-1': an index is not negative: the first instance has 0"),
        ("1--4", f"not an index: '1--4': {ADVICE}"),
        ("1-", "not an index: '1-': a range has an end: write \"1-99\""),
        ("-", "not an index: '-': an index is not negative: the first instance has 0"),
        ("1,,2", f"not an index: '': nothing between two commas: {ADVICE}"),
        ("1,", f"not an index: '': nothing between two commas: {ADVICE}"),
        ("0,*", "not an index: '*': \"*\" names every index and stands alone"),
        ("010", "'010' is 8 in YAML: write 8 or 10"),
        ("08", "'08' has a leading zero: write 8"),
        ("01", "'01' has a leading zero: write 1"),
        ("00", "'00' has a leading zero: write 0"),
        ("1-010", "'010' is 8 in YAML: write 8 or 10"),
        ("1:30", 'not an index: \'1:30\': it is 90 in YAML: write 90, or an index ("3"), a range ("1-4"), a list ("0,5-7") or "*"'),
        ("0x3", 'not an index: \'0x3\': it is 3 in YAML: write 3, or an index ("3"), a range ("1-4"), a list ("0,5-7") or "*"'),
        ("1_0", 'not an index: \'1_0\': it is 10 in YAML: write 10, or an index ("3"), a range ("1-4"), a list ("0,5-7") or "*"'),
        ("1.5", f"not an index: '1.5': {ADVICE}"),
        ("all", f"not an index: 'all': {ADVICE}"),
        ("1–4", f"not an index: '1–4': {ADVICE}"),  # noqa: RUF001  a dash that a word processor makes
        ("٣", f"not an index: '٣': {ADVICE}"),
        ("1 2", f"not an index: '1 2': {ADVICE}"),
        ("9" * 19, f"no launch index is as large as '{'9' * 19}': write a smaller one"),
        ("9" * 5000, f"no launch index is as large as '{'9' * 40}…': write a smaller one"),
    ],
)  # fmt: skip
def test_keys_that_cannot_be_read(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{KEY}: {said}')}$"):
        parse_key(text)


@settings(deadline=None)
@given(INDEX_KEYS)
def test_a_key_names_what_it_says(text: str) -> None:
    """Compared with the plain way, which expands it."""
    indices = parse_key(text)
    assert parse_key(str(indices)) == indices
    if indices.ranges is None:
        return
    named: set[int] = set()
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert {index for index in range(30) if indices.names(index)} == named
    assert indices.size() == len(named)
    assert not indices.names(None)
    gaps = [later[0] - earlier[1] for earlier, later in itertools.pairwise(indices.ranges)]
    assert all(gap > 1 for gap in gaps)


@settings(deadline=None)
@given(st.text(max_size=12) | st.text("0123456789-,*_:x ", max_size=12))
def test_a_key_is_read_or_refused_in_one_line(text: str) -> None:
    said = ""
    try:
        assert parse_key(text) == parse_key(str(parse_key(text)))
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 300


@settings(deadline=None)
@given(st.from_regex(r"[0-9][0-9_:x]{0,6}", fullmatch=True))
def test_no_key_means_another_number_than_in_yaml(text: str) -> None:
    """A bare key counts as YAML reads it, or is refused."""
    try:
        indices = parse_key(text)
    except ConfigError:
        return
    assert indices == Indices(((number := yaml.safe_load(text), number),))


def test_bare_keys_of_a_text() -> None:
    text = "instances-cloud-config:\n  3: {a: 1}\n  010: {a: 2}\n  1-4: {b: 2}\n  1:30: {c: 1}\n"
    value, problems = applied(text, 3)
    assert value == {"a": 1, "b": 2}
    assert problems == [
        "user-data:3:3: instances-cloud-config: '010' is 8 in YAML: write 8 or 10: the section is left out",
        "user-data:5:3: instances-cloud-config: not an index: '1:30': it is 90 in YAML: write 90, or an index "
        '("3"), a range ("1-4"), a list ("0,5-7") or "*": the section is left out',
    ]


def test_nothing_to_do() -> None:
    value = {"a": 1}
    assert apply(value, {}, 0) == (value, {}, [])
    assert apply({KEY: None, "a": 1}, {}, 0) == (value, {}, [])
    assert apply({KEY: {}, "a": 1}, {}, 0) == (value, {}, [])


def test_the_more_specific_wins() -> None:
    text = """
a: base
instances-cloud-config:
  "2": {a: two}
  "*": {a: all, b: all, c: all}
  "0-9": {a: ten, b: ten}
  "0-99": {a: hundred, b: hundred, c: hundred}
"""
    assert applied(text, 2) == ({"a": "two", "b": "ten", "c": "hundred"}, [])
    assert applied(text, 3) == ({"a": "ten", "b": "ten", "c": "hundred"}, [])
    assert applied(text, 10) == ({"a": "hundred", "b": "hundred", "c": "hundred"}, [])
    assert applied(text, 100) == ({"a": "all", "b": "all", "c": "all"}, [])
    assert applied(text, None) == ({"a": "all", "b": "all", "c": "all"}, [])


def test_size_counts_and_not_the_length_of_the_text() -> None:
    text = 'instances-cloud-config:\n  "1,1,1,1": {a: one}\n  "1-2": {a: two}\n'
    assert applied(text, 1) == ({"a": "one"}, [])


@pytest.mark.parametrize(
    ("text", "value", "problems"),
    [
        ('a: 0\ninstances-cloud-config: [x]\n', {"a": 0}, ["user-data:2:1: instances-cloud-config: must be a mapping from launch indices to sections: left out"]),
        ('instances-cloud-config:\n  "0": [x]\n  "7": text\n  "0-1": {a: 1}\n', {"a": 1}, ["user-data:2:3: instances-cloud-config.0: must be a mapping (key: value), as a cloud-config is: left out", "user-data:3:3: instances-cloud-config.7: must be a mapping (key: value), as a cloud-config is: left out"]),
        ('instances-cloud-config:\n  "0":\n  "0-1": {a: 1}\n', {"a": 1}, ["user-data:2:3: warning: instances-cloud-config.0: is empty: it does nothing"]),
        ('instances-cloud-config:\n  "0":\n    a: 1\n    instances-cloud-config: {"0": {a: 2}}\n', {"a": 1}, ["user-data:4:5: instances-cloud-config.0: a section cannot hold sections: instances-cloud-config in it is left out"]),
        ('a: [0]\ninstances-cloud-config:\n  "0":\n    a: [1]\n    merge_how: lst()\n', {"a": [1]}, ["user-data:5:5: instances-cloud-config.0: merge rule: unknown merger: 'lst': use dict, list, str: the section is merged as one without it"]),
        ('a: [0]\ninstances-cloud-config:\n  "0":\n    merge_type: list(append,x)+dict(recurse_list)\n    a: [1]\n', {"a": [0, 1]}, ["user-data:4:5: warning: instances-cloud-config.0: merge rule: unknown option of list(): 'x': it does nothing: list() knows append, prepend, replace, no_replace, recurse_dict, recurse_list, recurse_array, recurse_str"]),
        ('a: {b: 0}\ninstances-cloud-config:\n  "0":\n    a: x\n', {"a": "x"}, []),
        ('frequency: {mounts: always}\ninstances-cloud-config:\n  "0":\n    frequency: {users: once}\n', {"frequency": {"mounts": "always", "users": "once"}}, []),
        ('a: {x: 1}\ninstances-cloud-config:\n  "0":\n    a: null\n', {"a": None}, []),
    ],
)  # fmt: skip
def test_what_is_said_of_a_section(text: str, value: dict[str, Any], problems: list[str]) -> None:
    assert applied(text, 0) == (value, problems)


CLASH = ", in sections that name 2 indices each: none of them counts: set it in one section only, or in one that names fewer indices"


@pytest.mark.parametrize(
    ("one", "other", "value", "places"),
    [
        ("{h: a, k: 1}", "{h: b, m: 1}", {"h": "base", "d": {"x": 0}, "k": 1, "m": 1}, [("h", "h", "h")]),
        ("{h: a}", "{h: a}", {"h": "a", "d": {"x": 0}}, []),
        ("{h: 1}", "{h: true}", {"h": "base", "d": {"x": 0}}, [("h", "h", "h")]),
        ("{d: {x: 1, y: 1}}", "{d: {x: 2, z: 1}}", {"h": "base", "d": {"x": 0, "y": 1, "z": 1}}, [("d.x", "x", "x")]),
        ("{d: {x: 1}}", "{d: {x: 2}}", {"h": "base", "d": {"x": 0}}, [("d.x", "x", "x")]),
        ("{h: {x: 1}}", "{h: {x: 2}}", {"h": "base", "d": {"x": 0}}, [("h.x", "x", "x")]),
        ("{d: {x: 1}}", "{d: text}", {"h": "base", "d": {"x": 0}}, [("d", "d", "d")]),
        ("{h: [1]}", "{h: [1, 2]}", {"h": "base", "d": {"x": 0}}, [("h", "h", "h")]),
        ("{h: [1], d: {}}", "{h: [1], d: {y: 1}}", {"h": [1], "d": {"x": 0, "y": 1}}, []),
    ],
)
def test_equally_specific_sections(one: str, other: str, value: dict[str, Any], places: list[tuple[str, ...]]) -> None:
    text = f'h: base\nd: {{x: 0}}\ninstances-cloud-config:\n  "0-1": {one}\n  "0,5": {other}\n'
    lines = text.splitlines()
    said = []
    for dotted, left, right in places:
        first, second = lines[3].rindex(f"{left}: ") + 1, lines[4].rindex(f"{right}: ") + 1
        both = f"user-data:4:{first} and user-data:5:{second}"
        said.append(f"user-data:4:{first}: {dotted}: set differently at {both}{CLASH}")
    assert applied(text, 0) == (value, said)
    assert applied(text, 1)[1] == applied(text, 5)[1] == []


def test_three_that_differ_are_one_error_and_a_more_specific_one_still_counts() -> None:
    text = 'instances-cloud-config:\n  "0,1": {a: 1}\n  "0,2": {a: 1}\n  "0,3": {a: 2}\n  "0": {b: 1}\n'
    value, problems = applied(text, 0)
    assert value == {"b": 1}
    assert problems == [
        f"user-data:2:11: a: set differently at user-data:2:11 and user-data:3:11 and user-data:4:11{CLASH}"
    ]


def test_a_rule_makes_a_key_one_whole() -> None:
    rule = "merge_how: list(append)+dict(recurse_list)"
    text = f'l: [0]\ninstances-cloud-config:\n  "0,1": {{l: [1], {rule}}}\n  "0,2": {{l: [1], {rule}}}\n'
    assert applied(text, 0) == ({"l": [0, 1]}, [])  # said twice, done once
    text = f'l: [0]\ninstances-cloud-config:\n  "0,1": {{l: [1], {rule}}}\n  "0,2": {{l: [1]}}\n'
    value, problems = applied(text, 0)
    assert value == {"l": [0]}
    assert len(problems) == 1


def test_under_a_rule_mappings_are_not_gone_into() -> None:
    """`dict(replace)` replaces a whole key: what another section puts into it would be there or not, by chance."""
    text = 'd: {x: 0}\ninstances-cloud-config:\n  "0,1": {d: {y: 1}}\n  "0,2": {d: {z: 1}, merge_how: dict(replace)}\n'
    value, problems = applied(text, 0)
    assert value == {"d": {"x": 0}}
    assert len(problems) == 1


def test_the_order_of_keys_is_that_of_the_indices() -> None:
    text = 'instances-cloud-config:\n  "0,5": {z: 1}\n  "0,3": {y: 1}\n  "0-1": {x: 1}\n'
    assert list(applied(text, 0)[0]) == ["y", "z", "x"]


def test_places_are_those_of_the_sections() -> None:
    text = 'a: 1\nd: {x: 1}\ninstances-cloud-config:\n  "0":\n    d: {y: 2}\n    l:\n      - {k: v}\n'
    document = load(text, "user-data")
    value, marks, problems = apply(document.value, document.marks, 0)
    assert value == {"a": 1, "d": {"x": 1, "y": 2}, "l": [{"k": "v"}]}
    assert marks["d", "y"] == Mark("user-data", 5, 9)
    assert marks["d", "x"] == Mark("user-data", 2, 5)
    assert marks["l", 0, "k"] == Mark("user-data", 7, 10)
    assert not [place for place in marks if KEY in place]
    assert problems == []


def test_the_layers_own_rule_stays() -> None:
    value, _, _ = apply({"merge_how": "dict()", KEY: {"0": {"a": 1}}}, {}, 0)
    assert value == {"merge_how": "dict()", "a": 1}


def test_sections_for_the_schema() -> None:
    text = 'instances-cloud-config:\n  "0": {a: [x], merge_how: dict()}\n  nonsense: {b: 1}\n  "2": text\n'
    document = load(text, "user-data")
    found = sections(document.value, document.marks)
    assert [(section.key, section.value) for section in found] == [("0", {"a": ["x"]}), ("nonsense", {"b": 1})]
    assert found[0].marks[()] == Mark("user-data", 2, 3)
    assert found[0].marks["a", 0] == Mark("user-data", 2, 13)
    assert found[1].marks["b",] == Mark("user-data", 3, 14)
    assert sections({}, {}) == sections({KEY: [1]}, {}) == []


@pytest.mark.parametrize(
    ("keys", "indices"),
    [
        (["0", "1-9", "*"], [0, 1, 10]),
        (["5"], [5, 6]),
        (["*"], [0]),
        ([], [0]),
        (["1-4", "3-6"], [1, 3, 5, 7]),
        (["0-999999999999"], [0, 1000000000000]),
        (["2", "4", "nonsense", "2,4"], [2, 3, 4]),
        (["0,2,4", "1,3"], [0, 1, 5]),
    ],
)
def test_indices_named(keys: list[str], indices: list[int]) -> None:
    assert indices_named({KEY: {key: {} for key in keys}}) == indices


def test_indices_named_without_sections() -> None:
    assert indices_named({}) == indices_named({KEY: None}) == [0]


@settings(deadline=None)
@given(TABLES)
def test_each_index_is_like_one_of_those_named(table: dict[str, Any]) -> None:
    value = {KEY: table}
    shown = [apply(value, {}, index)[0] for index in indices_named(value)]
    assert all(apply(value, {}, index)[0] in shown for index in range(25))
    choices = [
        frozenset(key for key in table if parse_key(key).ranges is not None and parse_key(key).names(index))
        for index in indices_named(value)
    ]
    assert len(set(choices)) == len(choices)


@settings(deadline=None)
@given(BODIES, TABLES | LEVEL, st.just(0) | st.none() | st.integers(0, 18), st.randoms())
def test_the_order_in_the_file_does_not_matter(base: Any, table: Any, index: int | None, chance: Any) -> None:
    keys = list(table)
    chance.shuffle(keys)
    shuffled = {key: table[key] for key in keys}
    before = copy.deepcopy(base | {KEY: table})
    value, _, problems = apply(base | {KEY: table}, {}, index)
    again, _, others = apply(base | {KEY: shuffled}, {}, index)
    assert repr(value) == repr(again)  # with the order of keys
    assert sorted(map(str, problems)) == sorted(map(str, others))
    assert base | {KEY: table} == before
    assert KEY not in value


@settings(deadline=None)
@given(BODIES, TABLES, st.integers(0, 18))
def test_sections_for_others_change_nothing(base: Any, table: Any, index: int) -> None:
    mine = {key: section for key, section in table.items() if parse_key(key).names(index)}
    assert repr(apply(base | {KEY: table}, {}, index)[0]) == repr(apply(base | {KEY: mine}, {}, index)[0])


@settings(deadline=None)
@given(BODIES, st.lists(BODIES, min_size=1, max_size=4))
def test_nested_sections_are_laid_over_each_other(base: Any, bodies: list[Any]) -> None:
    """Ranges that lie in each other: the same as laying them over by hand, the widest first."""
    table = {f"0-{9 - number}": body for number, body in enumerate(bodies)}
    expected = base
    for body in bodies:
        expected = laid_over(expected, body)
    value, _, problems = apply(base | {KEY: table}, {}, 0)
    assert value == expected
    assert problems == []


def laid_over(lower: Any, higher: Any) -> Any:
    if not (isinstance(lower, dict) and isinstance(higher, dict)):
        return higher
    return lower | {key: laid_over(lower.get(key), item) for key, item in higher.items()}


def examples(text: str) -> list[tuple[str, str, str]]:
    """Return the examples of a document: user data, what an instance makes of it, what is said."""
    found: list[tuple[str, str, str]] = []
    user_data = ""
    for kind, block in BLOCK.findall(text):
        if kind == "text":
            found[-1] = (*found[-1][:2], block)
        elif block.startswith("#cloud-config"):
            user_data = block
        else:
            found.append((user_data, block, ""))
    return found


@pytest.mark.parametrize("example", examples(DOCUMENT.read_text()), ids=lambda example: example[1].splitlines()[0])
def test_the_documentation_is_true(example: tuple[str, str, str]) -> None:
    user_data, result, said = example
    head = re.match(r"# (?:instance (\d+)|no instance)\n", result)
    assert head
    value, problems = applied(user_data, None if head[1] is None else int(head[1]))
    assert value == load(result, "result").value
    assert "".join(f"{problem}\n" for problem in problems) == said


def test_the_documentation_has_examples() -> None:
    assert len(examples(DOCUMENT.read_text())) >= 7


def test_problems_never_show_a_value() -> None:
    secret = "hunter2"
    text = f'a: {secret}\ninstances-cloud-config:\n  "0-1": {{a: {secret}x, b: [{secret}]}}\n  "0,5": {{a: {secret}y, b: {secret}}}\n  "7": {secret}\n'
    _, problems = applied(text, 0)
    assert len(problems) == 3
    assert secret not in "".join(problems)


def test_what_is_returned_is_a_problem() -> None:
    _, _, problems = apply({KEY: 1}, {}, 0)
    assert problems == [Problem(Mark(KEY), f"{KEY}: must be a mapping from launch indices to sections: left out")]
