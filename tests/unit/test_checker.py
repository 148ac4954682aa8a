"""The small checker agrees with jsonschema: on every module's schema, on every case, and on drawn values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cloudboot import modules
from cloudboot.checker import check
from cloudboot.config import CORE_SCHEMA
from cloudboot.userdata.document import load

SCHEMAS: dict[str, Any] = {**CORE_SCHEMA}
for each in modules.load_all():
    SCHEMAS.update(each.schema)
CASES = sorted((Path(__file__).parent.parent / "cases").glob("*/*.yaml"))


def agrees(value: Any, schema: dict[str, Any]) -> None:
    ours = [flaw for flaw in check(value, schema) if not flaw.deprecated]
    theirs = list(Draft202012Validator(schema).iter_errors(value))
    assert bool(ours) == bool(theirs), (value, ours, theirs)


@pytest.mark.parametrize("key", sorted(SCHEMAS))
def test_schemas_are_schemas(key: str) -> None:
    plain = strip(SCHEMAS[key])
    Draft202012Validator.check_schema(plain)


def strip(schema: Any) -> Any:
    """Leave out our own annotation `deprecated: VERSION`, which is a boolean in JSON schema."""
    if isinstance(schema, dict):
        return {key: strip(item) for key, item in schema.items() if key != "deprecated"}
    return [strip(item) for item in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_agrees_on_every_case(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    value = load(case["user-data"], "f").value if isinstance(case.get("user-data"), str) else case.get("config")
    for key, item in value.items() if isinstance(value, dict) else ():
        if key in SCHEMAS:
            agrees(item, strip(SCHEMAS[key]))


@pytest.mark.parametrize("key", sorted(SCHEMAS))
def test_examples_are_valid(key: str) -> None:
    for example in SCHEMAS[key].get("examples", ()):
        assert not list(check(example, SCHEMAS[key]))


drawn = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 500)
    | st.sampled_from(["", "a", "always", "0644", "+5", "now"])
    | st.just(1.5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "path", "enabled", "users", "size", "x"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SCHEMAS)), drawn)
def test_agrees_on_drawn_values(key: str, value: Any) -> None:
    agrees(value, strip(SCHEMAS[key]))
