"""Layers, and how the smallest wrong piece is left out."""

from __future__ import annotations

from typing import Any

import pytest

from cloudboot.config import CORE_SCHEMA, Config, Layer, build, overlay, read_layer
from cloudboot.problem import Level, Problem

SCHEMAS: dict[str, dict[str, Any]] = {
    **CORE_SCHEMA,
    "hostname": {"type": "string"},
    "runcmd": {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    },
    "mounts": {"type": "array", "items": {"type": "array", "items": {"type": ["string", "null"]}, "x-whole": True}},
    "write_files": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["path"],
            "additionalProperties": False,
            "properties": {
                "path": {"type": "string"},
                "content": {"type": "string"},
                "permissions": {"type": "string"},
            },
        },
    },
    "password": {"type": "string", "x-secret": True},
    "old": {"type": "string", "deprecated": "22.2"},
}


def made(text: str) -> Config:
    problems: list[Problem] = []
    return build([read_layer(text, "user-data", "user data", problems)], SCHEMAS, problems)


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("hostnme: a\n", {}, ["user-data:1:1: hostnme: unknown key: did you mean 'hostname'?: left out"]),
        ("runcmd: foo\n", {}, ["user-data:1:1: runcmd: must be a list, not a text: 'foo': left out"]),
        (
            "runcmd: [a, {b: c}, d]\n",
            {"runcmd": ["a", "d"]},
            ["user-data:1:13: runcmd[1]: must be a text or a list, not a mapping (key: value): {'b': 'c'}: quote a text that has a ': ' in it: left out"],
        ),
        (
            "mounts:\n  - [a, b]\n  - [c, {x: y}]\n  - [e, f]\n",
            {"mounts": [["a", "b"], ["e", "f"]]},
            ["user-data:3:5: mounts[1]: item 2: must be a text or nothing, not a mapping (key: value): {'x': 'y'}: quote a text that has a ': ' in it: left out"],
        ),
        (
            "write_files:\n  - path: /a\n    permissions: 420\n    contnt: x\n  - content: y\n  - path: /c\n",
            {"write_files": [{"path": "/a"}, {"path": "/c"}]},
            [
                "user-data:3:5: write_files[0].permissions: must be a text, not a whole number: 420: put it in quotes: left out",
                "user-data:4:5: write_files[0].contnt: unknown key: did you mean 'content'?: left out",
                "user-data:5:5: write_files[1]: path is missing: left out",
            ],
        ),
        ("write_files:\n  - path: 1\n    content: x\n", {"write_files": []}, ["user-data:2:5: write_files[0].path: must be a text, not a whole number: 1: put it in quotes: write_files[0] is left out"]),
        ("password: [s3cret]\n", {}, ["user-data:1:1: password: must be a text, not a list: left out"]),
        ("old: x\n", {"old": "x"}, ["user-data:1:1: deprecated: old: deprecated since 22.2"]),
        (
            "zypper: {}\n",
            {"zypper": {}},
            ["user-data:1:1: warning: zypper: not on this distribution: it does nothing"],
        ),
        ("output: {}\n", {"output": {}}, ["user-data:1:1: warning: output: not supported yet: it does nothing"]),
        ("- a\n- b\n", {}, ["user-data:1:1: must be a mapping (key: value) at its top: nothing of it is used"]),
        ("frequency: {mounts: sometimes}\n", {"frequency": {}}, None),
    ],
)  # fmt: skip
def test_what_is_left_out(text: str, value: dict[str, Any], said: list[str] | None) -> None:
    config = made(text)
    assert config.value == value
    if said is None:
        assert len(config.problems) == 1
    else:
        assert [str(problem) for problem in config.problems] == said


def test_marks_of_later_items_after_one_was_left_out() -> None:
    config = made("runcmd:\n  - a\n  - {b: c}\n  - 5\n  - d\n")
    assert [problem.mark.line for problem in config.problems] == [3, 4]
    assert config.value == {"runcmd": ["a", "d"]}
    assert config.marks["runcmd", 1].line == 5


def test_secrets_are_not_echoed() -> None:
    assert "s3cret" not in "".join(map(str, made("password: {a: s3cret}\n").problems))


def test_layers() -> None:
    problems: list[Problem] = []
    user = read_layer("a: {x: 1}\nl: [1]\n", "user-data", "user data", problems)
    image = read_layer("a: {x: 2, y: 3}\nl: [2, 3]\nz: 4\n", "image", "image", problems)
    value, marks = overlay(user, image)
    assert value == {"a": {"x": 1, "y": 3}, "l": [1], "z": 4}
    assert marks["a", "x"].source == "user-data"
    assert marks["a", "y"].source == "image"
    assert marks["l", 0].source == "user-data"
    assert ("l", 1) not in marks


def test_set_by() -> None:
    config = build(
        [Layer("user data", {"hostname": "a"}, {}), Layer("image", {"hostname": "b", "password": "c"}, {})], SCHEMAS
    )
    assert config.value["hostname"] == "a"
    assert config.set_by("hostname") == "user data"
    assert config.set_by("password") == "image"
    assert config.set_by("runcmd") == "default"


def test_deprecation_is_no_error() -> None:
    assert [problem.level for problem in made("old: x\n").problems] == [Level.DEPRECATED]


def test_places_are_the_owners_after_items_were_left_out() -> None:
    text = "write_files:\n  - {content: x}\n  - {path: /a, mode: 1}\n  - 5\n  - {path: /b, mode: 1}\n"
    config = made(text)
    assert [str(problem).partition(": ")[0] + " " + problem.text.partition(":")[0] for problem in config.problems] == [
        "user-data:2:5 write_files[0]",
        "user-data:3:16 write_files[1].mode",
        "user-data:4:5 write_files[2]",
        "user-data:5:16 write_files[3].mode",
    ]
    assert config.value == {"write_files": [{"path": "/a"}, {"path": "/b"}]}
    assert (config.marks["write_files", 1].line, config.marks["write_files", 1].item) == (5, 3)
    assert config.marks["write_files", 1, "path"].line == 5


def test_secrets_are_not_echoed_in_whatever_holds_them() -> None:
    schemas: dict[str, dict[str, Any]] = {"list": {"anyOf": [SCHEMAS["password"], {"type": "array"}]}}
    problems: list[Problem] = []
    config = build([read_layer("list: {bob: s3cret}\n", "f", "user data", problems)], schemas, problems)
    assert [problem.text for problem in config.problems] == [
        "list: must be a text or a list, not a mapping (key: value): quote a text that has a ': ' in it: left out"
    ]
