"""The rules of merging, the places of what is merged, and what the documentation says of both."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudboot.errors import ConfigError
from cloudboot.problem import Level, Mark, Marks, Pointer, Problem
from cloudboot.userdata.document import load
from cloudboot.userdata.merge import LAYERS, OVERLAY, PARTS, How, Merger, dotted, how_of, merge, parse, rule

RECIPE = "list(append)+dict(no_replace,recurse_list)+str(append)"
DOCUMENT = Path(__file__).parents[3] / "docs" / "merging.md"
BLOCK = re.compile(r"^```(yaml|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SCALARS = st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["", "x", "yy"])
KEYS = st.sampled_from("abcd")
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
CONFIGS = st.dictionaries(KEYS, VALUES, max_size=4)
OPTIONS = {
    "dict": ["replace", "no_replace", "recurse_list", "recurse_array", "recurse_str", "allow_delete"],
    "list": ["append", "prepend", "replace", "no_replace", "recurse_dict", "recurse_list", "recurse_str"],
    "str": ["append"],
}


def calls(name: str) -> st.SearchStrategy[str]:
    """Make `name(option,…)` with up to three of the merger's options."""
    return st.lists(st.sampled_from(OPTIONS[name]), max_size=3, unique=True).map(
        lambda words: f"{name}({','.join(words)})"
    )


RULES = st.builds(parse, st.tuples(*map(calls, OPTIONS)).map("+".join)) | st.just(OVERLAY)


def pointers(value: Any, place: Pointer = ()) -> list[Pointer]:
    """List where each value stands."""
    found = [place]
    if isinstance(value, dict):
        found += [each for key, item in value.items() for each in pointers(item, (*place, key))]
    elif isinstance(value, list):
        found += [each for index, item in enumerate(value) for each in pointers(item, (*place, index))]
    return found


def at(value: Any, place: Pointer) -> Any:
    for step in place:
        value = value[step]
    return value


def marked(value: Any, source: str) -> tuple[Any, Marks]:
    """Give each value a place of its own: its number as the line."""
    return value, {place: Mark(source, number, 1) for number, place in enumerate(pointers(value), 1)}


def merged(how: str, old: Any, new: Any) -> Any:
    problems: list[Problem] = []
    value, _ = merge(parse(how), (old, {}), (new, {}), problems)
    assert problems == []
    return value


@pytest.mark.parametrize(
    ("how", "means"),
    [
        (None, How()),
        ("", How()),
        ([], How()),
        ("dict(replace)+list()+str()", PARTS),
        ("list()+dict()+str()", LAYERS),
        ("List( Append )", How(lists=frozenset({"append"}))),
        ([["list", "append"]], How(lists=frozenset({"append"}))),
        ([{"name": "list", "settings": ["append"]}], How(lists=frozenset({"append"}))),
        ("dict(recurse_array)", How(mappings=frozenset({"no_replace", "recurse_list"}))),
        ("list(prepend,append)", How(lists=frozenset({"append"}))),
        ("str(append)+str()", How(texts=frozenset({"append"}))),
    ],
)
def test_rules(how: Any, means: How) -> None:
    assert parse(how) == means


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (5, "merge rule: must be a text or a list: write it like 'list(append)+dict(no_replace,recurse_list)+str()'"),
        (
            "list",
            "merge rule: not name(option,…): 'list': write it like 'list(append)+dict(no_replace,recurse_list)+str()'",
        ),
        ("dcit()", "merge rule: unknown merger: 'dcit': use dict, list, str"),
        (
            "list(apend)",
            "merge rule: unknown option of list(): 'apend': use append, prepend, replace, no_replace, recurse_dict, recurse_list, recurse_array, recurse_str",
        ),
        (["list(append)"], "merge rule: item 1 must be {name: list, settings: [append]} or [list, append]"),
        (
            [["list"], {"name": "dict"}],
            "merge rule: item 2 must be {name: list, settings: [append]} or [list, append]",
        ),
    ],
)
def test_what_cannot_be_read(how: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        parse(how)


def test_an_unknown_option_may_be_ignored_and_told() -> None:
    ignored: list[str] = []
    assert parse("list(append,apend)+dict(recurse_list)", ignored) == parse("list(append)+dict(recurse_list)")
    assert ignored == [
        "merge rule: unknown option of list(): 'apend': it does nothing: list() knows append, prepend, replace, "
        "no_replace, recurse_dict, recurse_list, recurse_array, recurse_str"
    ]


@settings(deadline=None)
@given(st.text(max_size=40) | st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_rule_is_read_or_refused_in_one_line(how: Any) -> None:
    said = ""
    try:
        parse(how)
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 300


def test_which_rule_wins() -> None:
    assert how_of({}) is None
    assert how_of({"merge_type": "a", "merge_how": "b"}) == "b"
    assert how_of({"merge_type": "a", "merge_how": None}) == "a"
    assert rule({}, PARTS) == PARTS
    assert rule({"merge_how": ""}, PARTS) == PARTS
    assert rule({}, PARTS, RECIPE) == parse(RECIPE)
    own = rule({"merge_how": "list(append)"}, PARTS, "list(prepend)+dict(recurse_list)")
    assert own == parse("list(append)+dict(recurse_list)")


def test_the_rule_itself_is_not_merged() -> None:
    problems: list[Problem] = []
    merger = Merger(problems)
    merger.feed(PARTS, {"merge_how": RECIPE, "merge_type": RECIPE, "a": {"merge_how": 1}}, {})
    assert merger.result() == ({"a": {"merge_how": 1}}, {})


def test_places_move_with_their_items() -> None:
    old = load("l: [a, b]\nd: {x: 1, y: 2}\ns: one\n", "old")
    new = load("l:\n  - c\n  - {k: v}\nd: {x: 3, z: 4}\ns: two\n", "new")
    for method, order in (("append", [0, 1, None, None]), ("prepend", [None, None, 0, 1])):
        how = parse(f"list({method})+dict(recurse_list,recurse_str)+str(append)")
        value, marks = merge(how, (old.value, old.marks), (new.value, new.marks), [])
        assert value["s"] == "onetwo"
        assert value["d"] == {"x": 1, "y": 2, "z": 4}
        assert marks["d", "x"] == Mark("old", 2, 5)
        assert marks["d", "z"] == Mark("new", 4, 11)
        assert marks["s",] == Mark("old", 3, 1)  # where it began
        assert [marks["l", index].source for index in range(4)] == ["new" if each is None else "old" for each in order]
        number = value["l"].index({"k": "v"})
        assert marks["l", number, "k"] == Mark("new", 3, 6)
        assert marks["l",] == Mark("old", 1, 1)


def test_replaced_values_leave_no_places() -> None:
    old, new = load("a: {b: [1, 2]}\n", "old"), load("a: {c: 1}\n", "new")
    _, marks = merge(PARTS, (old.value, old.marks), (new.value, new.marks), [])
    assert {place: mark.source for place, mark in marks.items()} == {(): "old", ("a",): "new", ("a", "c"): "new"}


def test_overlay_is_that_of_the_incoming() -> None:
    problems: list[Problem] = []
    old = {"a": {"x": 1, "l": [1, 2], "t": "x"}, "b": {"k": 1}, "c": "x"}
    new = {"a": {"l": [3], "t": None, "y": 2}, "b": "x", "c": {"k": 1}}
    value, _ = merge(OVERLAY, (old, {}), (new, {}), problems)
    assert value == {"a": {"x": 1, "l": [3], "t": None, "y": 2}, "b": "x", "c": {"k": 1}}


@pytest.mark.parametrize(
    ("how", "old", "new", "said", "left"),
    [
        ("list(append)+dict()", "a: [1]", "a: {b: c}", "new:1:1: a: a mapping cannot be added to a list (old:1:1): left out", {"a": [1]}),
        ("list(append)+dict(recurse_str)", "a: [1]", "a: x", "new:1:1: a: a text cannot be added to a list (old:1:1): left out", {"a": [1]}),
        ("str(append)+dict()", "a: x\nb: {c: x}", "b: {c: {d: 1}}\ne: 1", "new:1:5: b.c: a mapping cannot be added to a text (old:2:5): left out", {"a": "x", "b": {"c": "x"}, "e": 1}),
        ("str(append)+dict(recurse_list)", "a: x", "a: [1]", "new:1:1: a: a list cannot be added to a text (old:1:1): left out", {"a": "x"}),
        ("list(append)", "a: 1", "b: 1\nmerge_how: list(append)", "new:2:1: merge rule: names no dict(): nothing of this configuration is used: add '+dict()'", {"a": 1}),
        ("list()+dict(recurse_list)", "a: [1]", "a: [2, 3, 4]", "new:1:8: warning: a[1]: the list has 1 here, and list(replace) makes it no longer: the rest is left out", {"a": [2]}),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_told_and_left_out_alone(
    how: str, old: str, new: str, said: str, left: dict[str, Any]
) -> None:
    problems: list[Problem] = []
    one, other = load(old, "old"), load(new, "new")
    value, _ = merge(parse(how), (one.value, one.marks), (other.value, other.marks), problems)
    assert [str(problem) for problem in problems] == [said]
    assert value == left


@settings(deadline=None)
@given(RULES, CONFIGS, CONFIGS, CONFIGS)
def test_nothing_given_is_changed_or_shared(how: How, one: Any, two: Any, three: Any) -> None:
    before = copy.deepcopy((one, two, three))
    merger = Merger([])
    for value in (one, two, three):
        merger.feed(how, value, {})
    result, _ = merger.result()
    assert (one, two, three) == before
    theirs = {id(at(value, place)) for value in (one, two, three) for place in pointers(value)}
    mutable = [at(result, place) for place in pointers(result)]
    assert not {id(each) for each in mutable if isinstance(each, dict | list)} & theirs


@settings(deadline=None)
@given(RULES, CONFIGS, CONFIGS, CONFIGS)
def test_places_are_those_of_the_sources(how: How, one: Any, two: Any, three: Any) -> None:
    """Every place is of a value that is there, every value has one, and a scalar's place is where it came from."""
    sources = [marked(value, source) for value, source in ((one, "one"), (two, "two"), (three, "three"))]
    merger = Merger([])
    for value, marks in sources:
        merger.feed(how, value, marks)
    result, marks = merger.result()
    assert sorted(marks, key=repr) == sorted(pointers(result), key=repr)
    origin = {mark: at(value, place) for value, marks in sources for place, mark in marks.items()}
    for place, mark in marks.items():
        found = at(result, place)
        if isinstance(found, str):
            assert found.startswith(origin[mark])
        elif not isinstance(found, dict | list):
            assert (type(origin[mark]), origin[mark]) == (type(found), found)
        else:
            assert type(origin[mark]) is type(found)


@settings(deadline=None)
@given(RULES, CONFIGS, CONFIGS, CONFIGS)
def test_one_merger_is_as_good_as_a_merge_each(how: How, one: Any, two: Any, three: Any) -> None:
    at_once: list[Problem] = []
    singly: list[Problem] = []
    merger = Merger(at_once, marked(one, "one"))
    merger.feed(how, *marked(two, "two"))
    merger.feed(how, *marked(three, "three"))
    stepwise = merge(how, merge(how, marked(one, "one"), marked(two, "two"), singly), marked(three, "three"), singly)
    assert repr(merger.result()[0]) == repr(stepwise[0])  # with the order of keys
    assert merger.result()[1] == stepwise[1]
    assert at_once == singly


@settings(deadline=None)
@given(CONFIGS, CONFIGS)
def test_the_recipe_loses_nothing(old: Any, new: Any) -> None:
    """Under no_replace and append every old value stays, and every new item and key is there as well."""
    problems: list[Problem] = []
    value, _ = merge(parse(RECIPE), (old, {}), (new, {}), problems)
    _keeps(value, old)
    if not problems:
        _holds_new(value, old, new)


def _keeps(value: Any, old: Any) -> None:
    """Check that a value holds all of an older one: keys stay, lists begin with it."""
    if isinstance(old, dict):
        for key, item in old.items():
            _keeps(value[key], item)
    elif isinstance(old, list):
        assert value[: len(old)] == old
    else:
        assert value == old


def _holds_new(value: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> None:
    for key, item in new.items():
        if key not in old:
            assert value[key] == item
        elif isinstance(old[key], dict) and isinstance(item, dict):
            _holds_new(value[key], old[key], item)
        elif isinstance(old[key], list) and isinstance(item, list):
            assert value[key] == old[key] + item


# Three configurations that have one kind of value at each place.
ALIKE = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(),
        "s": st.sampled_from(["x", "yy", ""]),
        "l": st.lists(st.integers(), max_size=3),
        "d": st.fixed_dictionaries(
            {},
            optional={
                "l": st.lists(st.sampled_from(["x", "y"]), max_size=3),
                "s": st.sampled_from(["x", "yy"]),
                "e": st.dictionaries(KEYS, st.booleans(), max_size=3),
            },
        ),
    },
)
DICTS = ["dict()", "dict(recurse_list)", "dict(recurse_list,recurse_str)", "dict(recurse_str)"]
LISTS = ["list(append)", "list(prepend)", "list(no_replace)"]


@pytest.mark.parametrize("how", [f"{one}+{two}+{three}" for one in DICTS for two in LISTS for three in ("str(append)", "str()")])  # fmt: skip
@settings(max_examples=30, deadline=None)
@given(one=ALIKE, two=ALIKE, three=ALIKE)
def test_grouping_does_not_matter_between_like_kinds(how: str, one: Any, two: Any, three: Any) -> None:
    assert merged(how, merged(how, one, two), three) == merged(how, one, merged(how, two, three))


@settings(deadline=None)
@given(one=CONFIGS, two=CONFIGS, three=CONFIGS)
def test_grouping_never_matters_where_keys_are_replaced(one: Any, two: Any, three: Any) -> None:
    how = "dict(replace)+list()+str()"
    assert merged(how, merged(how, one, two), three) == merged(how, one, merged(how, two, three))


@pytest.mark.parametrize(
    ("how", "one", "two", "three"),
    [
        ("dict(allow_delete)", {"a": 1}, {"a": None}, {"a": None}),
        ("dict(recurse_list)+list()", {"a": [1, 2]}, {"a": [3]}, {"a": [4, 5]}),
        ("dict()", {"a": {"x": 1}}, {"a": "x"}, {"a": {"y": 1}}),
    ],
)
def test_where_grouping_matters(how: str, one: Any, two: Any, three: Any) -> None:
    problems: list[Problem] = []

    def both(old: Any, new: Any) -> Any:
        return merge(parse(how), (old, {}), (new, {}), problems)[0]

    assert both(both(one, two), three) != both(one, both(two, three))


@pytest.mark.parametrize(
    "how", ["dict(replace)+list()+str()", "list(append)+dict(recurse_list,recurse_str)+str(append)"]
)
def test_the_cost_is_that_of_the_parts(how: str) -> None:
    """Four times as many parts take four times as many steps, not sixteen times. Steps are counted, not seconds."""
    part = marked({"l": [f"item {number}" for number in range(40)], "d": {"m": ["x"] * 10}, "s": "x" * 100}, "part")

    def cost(count: int) -> int:
        steps = 0

        def step(*_: object) -> None:
            nonlocal steps
            steps += 1

        merger = Merger([])
        sys.setprofile(step)  # every call, and every return from one
        try:
            for _ in range(count):
                merger.feed(parse(how), *part)
            merger.result()
        finally:
            sys.setprofile(None)
        return steps

    assert cost(200) < 4.5 * cost(50)


def examples(text: str) -> list[list[tuple[str, str]]]:
    """Return the examples of a document: neighbouring blocks, the parts first, then the result, then what is said."""
    found: list[list[tuple[str, str]]] = []
    end = -1
    for block in BLOCK.finditer(text):
        if block.start() != end + 1:
            found.append([])
        found[-1].append((block[1], block[2]))
        end = block.end()
    return found


@pytest.mark.parametrize("example", examples(DOCUMENT.read_text()), ids=lambda example: example[-1][1][:40])
def test_the_documentation_is_true(example: list[tuple[str, str]]) -> None:
    problems: list[Problem] = []
    merger = Merger(problems)
    for number, (_, text) in enumerate(each for each in example if each[1].startswith("#cloud-config")):
        part = load(text, f"part-{number + 1:03}")
        merger.feed(rule(part.value, PARTS), part.value, part.marks)
    (result,) = [text for _, text in example if text.startswith("# result")]
    assert merger.result()[0] == load(result, "result").value
    assert "".join(f"{problem}\n" for problem in problems) == "".join(text for kind, text in example if kind == "text")


def test_the_documentation_has_examples() -> None:
    assert len(examples(DOCUMENT.read_text())) >= 4


def test_places_are_written_as_a_person_does() -> None:
    assert dotted(("users", 0, "name")) == "users[0].name"


def test_a_value_without_a_place_has_that_of_what_is_around_it() -> None:
    new = load("base: &base {x: 1}\nd: {<<: *base, y: 2}\n", "new")
    _, marks = merge(parse("dict()"), ({"d": {"z": 1}}, {(): Mark("old", 1, 1)}), (new.value, new.marks), [])
    assert marks["d", "x"] == Mark("new", 2, 1)
    assert marks["d", "z"] == Mark("old", 1, 1)
    assert {problem.level for problem in new.problems} <= {Level.WARNING}
