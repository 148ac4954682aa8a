"""JSON patches: RFC 6902, its appendix, and what else can go wrong; places move with the values."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest

from cloudboot.problem import Mark, Marks
from cloudboot.userdata.document import load
from cloudboot.userdata.patch import apply, read


def patched(value: Any, operations: list[Any]) -> tuple[Any, list[str]]:
    before = copy.deepcopy(value)
    result, _, problems = apply(read(json.dumps(operations), "p")[0], value, {})
    assert value == before, "the value given is left alone"
    return result, [problem.text for problem in problems]


@pytest.mark.parametrize(
    ("value", "operations", "result"),
    [
        # RFC 6902, appendix A
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        (
            {"baz": "qux", "foo": ["a", 2, "c"]},
            [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
            {"baz": "qux", "foo": ["a", 2, "c"]},
        ),
        (
            {"foo": "bar"},
            [{"op": "add", "path": "/child", "value": {"grand": {}}}],
            {"foo": "bar", "child": {"grand": {}}},
        ),
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        (
            {"foo": ["bar"]},
            [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}],
            {"foo": ["bar", ["abc", "def"]]},
        ),
        # and beside it
        ({"a": 1}, [{"op": "add", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"a": {"b": [1]}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": [1]}, "c": {"b": [1]}}),
        (
            {"a": {"b": [1]}},
            [{"op": "copy", "from": "/a", "path": "/c"}, {"op": "add", "path": "/c/b/-", "value": 2}],
            {"a": {"b": [1]}, "c": {"b": [1, 2]}},
        ),
        ({"a": 1}, [{"op": "move", "from": "/a", "path": "/a"}], {"a": 1}),
        ({"a": {"": {"x/y": 1}}}, [{"op": "remove", "path": "/a//x~1y"}], {"a": {"": {}}}),
        ({"a": [1, {"b": 1.0}]}, [{"op": "test", "path": "/a", "value": [1.0, {"b": 1}]}], {"a": [1, {"b": 1.0}]}),
        ({"a": None}, [{"op": "test", "path": "/a", "value": None}, {"op": "add", "path": "/a", "value": 1}], {"a": 1}),
        ({}, [], {}),
    ],
)
def test_operations(value: Any, operations: list[Any], result: Any) -> None:
    assert patched(value, operations) == (result, [])


@pytest.mark.parametrize(
    ("value", "operation", "said"),
    [
        ({"foo": "bar"}, {"op": "add", "path": "/baz/bat", "value": "qux"}, "add /baz/bat: there is no 'baz'"),
        ({"a": "hunter2"}, {"op": "test", "path": "/a", "value": "hunter3"}, "test /a: is not what the test says"),
        ({"a": 1}, {"op": "test", "path": "/a", "value": True}, "is not what the test says"),
        ({"a": 0}, {"op": "test", "path": "/a", "value": None}, "is not what the test says"),
        ({"a": [1]}, {"op": "test", "path": "/a", "value": [1, 2]}, "is not what the test says"),
        ({"a": 1}, {"op": "remove", "path": "/b"}, "remove /b: there is no 'b'"),
        ({"a": [1]}, {"op": "remove", "path": "/a/-"}, "remove /a/-: there is no '-'"),
        ({"a": [1]}, {"op": "remove", "path": "/a/1"}, "there is no '1'"),
        ({"a": [1]}, {"op": "replace", "path": "/a/01", "value": 1}, "there is no '01'"),
        ({"a": [1]}, {"op": "add", "path": "/a/3", "value": 1}, "add /a/3: the list has no place '3'"),
        ({"a": [1]}, {"op": "add", "path": "/a/x", "value": 1}, "the list has no place 'x'"),
        ({"a": "text"}, {"op": "add", "path": "/a/0", "value": 1}, "what is there is neither a mapping nor a list"),
        ({"a": {}}, {"op": "move", "from": "/a", "path": "/a/b"}, "move /a/b: into itself"),
        ({"a": 1}, {"op": "move", "from": "/x", "path": "/b"}, "move from /x: there is no 'x'"),
        ({"a": 1}, {"op": "copy", "path": "/b"}, "copy: has no 'from'"),
        ({"a": 1}, {"op": "add", "path": "/b"}, "add: has no 'value'"),
        ({"a": 1}, {"op": "frobnicate", "path": "/b"}, "op: must be one of add, remove, replace, move, copy, test"),
        ({"a": 1}, {"op": ["add"], "path": "/b"}, "op: must be one of"),
        ({"a": 1}, {"path": "/b"}, "op: must be one of"),
        ({"a": 1}, {"op": "remove", "path": "a"}, "remove: a path must be a JSON pointer"),
        ({"a": 1}, {"op": "remove", "path": "/~2"}, "a path must be a JSON pointer"),
        ({"a": 1}, {"op": "remove", "path": 3}, "a path must be a JSON pointer"),
        ({"a": 1}, {"op": "remove", "path": ""}, "what it leaves is not a mapping"),
        ({"a": 1}, {"op": "add", "path": "", "value": [1]}, "what it leaves is not a mapping"),
        ({"a": 1}, {"op": "add", "path": "/a" * 101, "value": 1}, "a path of more than 100 steps"),
    ],
)
def test_what_fails_leaves_all_as_it_was(value: Any, operation: Any, said: str) -> None:
    result, problems = patched(value, [{"op": "add", "path": "/early", "value": 1}, operation])
    assert result == value
    (problem,) = problems
    assert said in problem
    assert problem.endswith(": nothing of the patch is used")
    assert "hunter" not in problem


def test_the_place_of_an_operation_is_told() -> None:
    text = (
        '#cloud-config-jsonp\n[\n  {"op": "add", "path": "/a", "value": 1},\n\n    {"op": "remove", "path": "/b"} ]\n'
    )
    operations, problems = read(text, "part-002")
    assert problems == []
    assert [operation.mark for operation in operations] == [Mark("part-002", 3, 3), Mark("part-002", 5, 5)]
    assert str(apply(operations, {}, {})[2][0]).startswith("part-002:5:5: remove /b: there is no 'b'")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"op": "add"}', 'p:1:1: must be a JSON list of operations: [{"op": …}]'),
        ("#cloud-config-jsonp\n- op: add\n", "p:2:1: must be a JSON list of operations"),
        ("#cloud-config-jsonp", "p:1:20: must be a JSON list"),
        ('[{"op" "add"}]', "p:1:8: not JSON: expecting ':' delimiter"),
        ("[1]", "p:1:2: must be an operation"),
        ("[{}\n{}]", "p:2:1: not JSON: expecting ',' delimiter"),
        ("[{},]", "p:1:5: not JSON: expecting value"),
        ("[{}] x", "p:1:6: not JSON: extra data"),
        ("[{}", "p:1:4: not JSON"),
        ("[", "p:1:2: not JSON"),
        ('[{"a": NaN}]', "p:1: not JSON that can be used"),
        ('[{"a": ' + "9" * 5000 + "}]", "p:1: not JSON that can be used"),
        ('[{"a": ' + "[" * 100_000, "p:1: not JSON that can be used"),
    ],
)
def test_what_is_no_patch(text: str, said: str) -> None:
    operations, problems = read(text, "p")
    assert operations == []
    assert str(problems[0]).startswith(said)


def test_places_move_with_their_values() -> None:
    document = load("users: [one, two]\nruncmd:\n  - a\n  - b\n", "user-data")
    text = """[
      {"op": "remove", "path": "/runcmd/0"},
      {"op": "add", "path": "/users/0", "value": {"name": "zero"}},
      {"op": "move", "from": "/users/2", "path": "/two"},
      {"op": "copy", "from": "/runcmd/0", "path": "/b"}
    ]"""
    value, marks, problems = apply(read(text, "p")[0], document.value, document.marks)
    assert problems == []
    assert value == {"users": [{"name": "zero"}, "one"], "runcmd": ["b"], "two": "two", "b": "b"}
    places: dict[tuple[str | int, ...], str] = {pointer: str(mark) for pointer, mark in marks.items()}
    assert places[("users", 0)] == places[("users", 0, "name")] == "p:3:7"
    assert places[("users", 1)] == "user-data:1:9"
    assert places[("two",)] == "user-data:1:14"
    assert places[("runcmd", 0)] == places[("b",)] == "user-data:4:5"
    assert ("runcmd", 1) not in places


def test_much_out_of_little_is_refused() -> None:
    doubling = [{"op": "copy", "from": "", "path": f"/{number}"} for number in range(60)]
    assert "makes more than 100000 values" in patched({"a": 1}, doubling)[1][0]
    deep = [step for number in range(300) for step in (
        {"op": "add", "path": "/n", "value": {}}, {"op": "move", "from": "/a", "path": "/n/a"}, {"op": "move", "from": "/n", "path": "/a"},
    )]  # fmt: skip
    assert "levels of nesting" in patched({"a": {"a": 1}}, deep)[1][0]
    assert "more than 10000 operations" in str(read("[" + ",".join(["{}"] * 10_001) + "]", "p")[1][0])


def test_many_operations_take_little_time() -> None:
    marks: Marks = {}
    began = time.process_time()
    operations = [{"op": "add", "path": "/a/0", "value": {"x": number}} for number in range(10_000)]
    value, _, problems = apply(read(json.dumps(operations), "p")[0], {"a": []}, marks)
    assert (len(value["a"]), problems) == (10_000, [])
    assert time.process_time() - began < 3
