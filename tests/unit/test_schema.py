"""The published schema is what the checker accepts, on every case; editors can read it; docs hold the latest one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft7Validator, validators

from casebook import Book
from cloudboot import modules
from cloudboot.compose import Given, compose
from cloudboot.config import CORE_SCHEMA, NOT_HERE, Layer
from cloudboot.problem import Level
from cloudboot.schema import published
from cloudboot.userdata.document import load

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__)
STORED = HERE.parents[2] / "docs" / "cloud-config.schema.json"
CASES = sorted((HERE.parents[1] / "cases").glob("*/*.yaml"))
SCHEMA = published()
# To an editor YAML's binary is a text.
TEXTS = Draft7Validator.TYPE_CHECKER.redefine("string", lambda _, value: isinstance(value, (str, bytes)))
EXTEND: Any = validators.extend  # has no types
VALIDATOR = EXTEND(Draft7Validator, type_checker=TEXTS)(SCHEMA)
KNOWN = {**CORE_SCHEMA, **modules.schemas(fresh=True)}

# Keys that the checker takes as they are, and why a schema does not; each has a test of its own below.
ELSEWHERE = {"metadata_access": "the lock-down judges it: what it cannot read means `root`, and is reported there"}


def documents() -> Iterator[Any]:
    """Yield each case that is one cloud-config; what is no YAML has nothing to be checked."""
    for path in CASES:
        case = yaml.safe_load(path.read_text())
        text = case.get("user-data")
        if text is None and "config" in case:
            text = "#cloud-config\n" + yaml.safe_dump(case["config"])
        if isinstance(text, str) and text.startswith("#cloud-config\n"):
            document = load(text, "user-data")
            if not [each for each in document.problems if each.level is Level.ERROR]:
                yield pytest.param(document.value, id=f"{path.parent.name}/{path.stem}")


@pytest.mark.parametrize("value", [*documents()])
def test_agrees_with_the_checker(value: Any, tmp_path: Path) -> None:
    """Key by key: one wrong key would hide that another is judged differently."""
    instance = Book({}, tmp_path, "").instance
    for key, item in value.items() if isinstance(value, dict) else [(None, value)]:
        alone = item if key is None else {key: item}
        text = "#cloud-config\n" + yaml.safe_dump(alone)
        made = compose(Given(text.encode(), None, Layer("image", {}, {})), instance, KNOWN, None)
        ours = [str(each) for each in made.config.problems if each.level is Level.ERROR]
        theirs = [f"{list(each.path)}: {each.message}" for each in VALIDATOR.iter_errors(alone)]
        assert bool(ours) == bool(theirs) or key in ELSEWHERE, (ours, theirs)


def test_is_a_schema_that_editors_understand() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert SCHEMA["additionalProperties"] is False
    text = json.dumps(SCHEMA)
    assert not re.search(r'"x-[a-z]+"', text), "our own annotations"
    # Beside a $ref draft 7 looks at nothing.
    assert [list(each) for each in walk(SCHEMA) if "$ref" in each] == [["$ref"]]


def test_patterns_are_those_of_javascript() -> None:
    for each in walk(SCHEMA):
        for pattern in [each.get("pattern", ""), *each.get("patternProperties", ())]:
            assert not re.search(r"\(\?[^:!=]|\\[AZz]|\[\[:|[*+?}]\+", pattern), pattern


@pytest.mark.parametrize("size", ["auto", "AUTO", "2G", "1.5 gib", "512m", "2GB", "2TiB"])
def test_letters_in_either_case(size: str) -> None:
    assert VALIDATOR.is_valid({"swap": {"size": size}})
    assert not VALIDATOR.is_valid({"swap": {"size": f"{size}x"}})


def test_has_every_key_once() -> None:
    special = {"instances-cloud-config", "merge_how", "merge_type"}
    assert set(SCHEMA["properties"]) == KNOWN.keys() | NOT_HERE.keys() | special
    for key, schema in SCHEMA["properties"].items():
        assert schema["description"].endswith("."), key
        assert "\n" not in schema["description"], key


def test_says_what_a_key_does() -> None:
    properties = SCHEMA["properties"]
    assert properties["timezone"]["title"] == "timezone"
    assert properties["timezone"]["description"].startswith("Set the system time zone:")
    assert properties["timezone"]["examples"] == ["Europe/Berlin", "Etc/UTC"]
    assert properties["output"] == {"description": "Not supported yet: it does nothing."}
    old = properties["apt_update"]
    assert old["deprecated"] is True
    assert old["deprecationMessage"] == "Deprecated since 22.2: write package_update."
    assert old["deprecationMessage"] in old["description"]
    user = properties["user"]["anyOf"][0]["properties"]
    assert user["lock-passwd"]["deprecated"] is True
    assert user["expiredate"]["patternErrorMessage"] == "must be of the form YYYY-MM-DD"


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ({"0": {"hostname": "head"}, "1-9,12": {"hostname": "worker"}, "*": {"timezone": "Etc/UTC"}}, True),
        ({" 3 - 7 , 9 ": {"merge_how": "dict(no_replace)+list(append)"}}, True),
        (None, True),
        ({"01": {}}, False),
        ({"1-": {}}, False),
        ({"*,1": {}}, False),
        ({"-1": {}}, False),
        ({"first": {}}, False),
        ({"0": []}, False),
        ({"0": {"hostnme": "head"}}, False),
        ({"0": {"instances-cloud-config": {}}}, False),
        ([], False),
    ],
)
def test_sections_by_launch_index(value: Any, valid: bool) -> None:
    assert VALIDATOR.is_valid({"instances-cloud-config": value}) == valid


@pytest.mark.parametrize(
    ("how", "valid"),
    [
        ("list(append)+dict(no_replace,recurse_list)+str()", True),
        ("LIST( append ) + m_dict() +", True),
        ("", True),
        ([{"name": "list", "settings": ["append"]}, ["dict", "replace"]], True),
        ("list append", False),
        ("list(append)+dict", False),
        ("set(append)", False),
        (["list(append)"], False),
        ([{"name": "set", "settings": []}], False),
        (7, False),
    ],
)
def test_merge_rules(how: Any, valid: bool) -> None:
    from cloudboot.errors import ConfigError
    from cloudboot.userdata.merge import parse

    assert VALIDATOR.is_valid({"merge_how": how}) == valid
    if valid:
        parse(how, [])
    else:
        with pytest.raises(ConfigError):
            parse(how, [])


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("none", True),
        ({"allow": {"users": ["www-data", 33], "groups": "adm", "units": ["a.service"], "forwarded": True}}, True),
        ("nobody", False),
        ({"users": ["www-data"]}, False),
        ({"allow": {"user": ["www-data"]}}, False),
        ({"allow": {"forwarded": "yes"}}, False),
    ],
)
def test_access_is_described_as_the_lockdown_reads_it(value: Any, valid: bool, tmp_path: Path) -> None:
    from cloudboot.lockdown import policy

    tree = {"/etc/passwd": "www-data:x:33:33::/:/bin/sh\n", "/etc/group": "adm:x:4:\n"}
    problems: list[str] = []
    policy({"metadata_access": value}, Book({"tree": tree}, tmp_path, "").host, problems)
    assert VALIDATOR.is_valid({"metadata_access": value}) == valid == (not problems)


@pytest.mark.parametrize("name", ["mounts", "cc_mounts", "cc-mounts", "config-mounts", "config_mounts", "set-hostname"])
def test_names_of_modules_in_all_spellings(name: str) -> None:
    assert VALIDATOR.is_valid({"frequency": {name: "always"}, "on_error": {name: "stop"}})
    assert not VALIDATOR.is_valid({"frequency": {f"{name}x": "always"}})


def test_docs_hold_the_latest() -> None:
    assert json.loads(STORED.read_text()) == SCHEMA, "stale: `make docs` writes it anew"


def walk(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a schema."""
    if isinstance(schema, dict):
        yield schema
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from walk(each)


def test_what_does_nothing_is_listed_with_the_reason() -> None:
    text = (Path(__file__).parents[2] / "docs/differences.md").read_text(encoding="utf-8")
    table = text.partition("## Keys that do nothing here")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert all(len(row.strip("| ").split(" | ")) == 3 for row in rows)
    listed = set(re.findall(r"`([\w-]+)`", " ".join(row.split(" | ")[0] for row in rows)))
    assert listed == set(NOT_HERE)
