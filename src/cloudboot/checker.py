"""Check a value against the subset of JSON schema that modules use, at a fraction of jsonschema's memory and time.

Understood: type, enum, const, properties, additionalProperties, patternProperties, required, minProperties, items,
minItems, maxItems, pattern, minLength, maxLength, minimum, maximum, anyOf, oneOf. Annotations: `deprecated` (the
version since which, and what to use), `x-whole` (a list whose items count only together: one bad item spoils it; of a
top-level mapping: one mistake in it and it counts as null),
`x-secret` (never echoed, nor is what holds it), `x-form` (a pattern in words), `x-bytes` (need not be UTF-8),
`default` (for the documentation).
A test holds that this agrees with jsonschema on every case.
"""

from __future__ import annotations

import re

from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudboot.problem import Pointer

Schema = dict[str, Any]

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
NAMES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping (key: value)",
    "null": "nothing",
}


class Flaw(NamedTuple):
    """What is wrong at a place. `unknown`: the key at the place is not known there; `known` are the keys that are."""

    pointer: Pointer
    text: str
    unknown: bool = False
    known: tuple[str, ...] = ()
    deprecated: bool = False


def check(value: Any, schema: Schema, pointer: Pointer = ()) -> Iterator[Flaw]:
    """Yield what is wrong with a value, the deepest place that can be named for each."""
    for word in ("anyOf", "oneOf"):
        if word in schema:
            yield from _alternatives(value, schema, schema[word], pointer, only_one=word == "oneOf")
    if "type" in schema and not any(_is(value, name) for name in _types(schema)):
        wanted = " or ".join(NAMES[name] for name in _types(schema))
        yield Flaw(pointer, f"must be {wanted}, not {_name(value)}{_shown(value, schema)}{_advice(value, wanted)}")
        return
    if "enum" in schema and not any(_same(value, item) for item in schema["enum"]):
        yield Flaw(pointer, f"must be one of {', '.join(map(_short, schema['enum']))}{_shown(value, schema)}")
    if "const" in schema and not _same(value, schema["const"]):
        yield Flaw(pointer, f"must be {_short(schema['const'])}{_shown(value, schema)}")
    if isinstance(value, str):
        yield from _text(value, schema, pointer)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            yield Flaw(pointer, f"must be at least {schema['minimum']}{_shown(value, schema)}")
        if "maximum" in schema and value > schema["maximum"]:
            yield Flaw(pointer, f"must be at most {schema['maximum']}{_shown(value, schema)}")
    elif isinstance(value, list):
        yield from _list(value, schema, pointer)
    elif isinstance(value, dict):
        yield from _mapping(value, schema, pointer)


def _text(value: str, schema: Schema, pointer: Pointer) -> Iterator[Flaw]:
    if not (value.isascii() or schema.get("x-bytes") or _is_text(value)):
        yield Flaw(pointer, "must be text, not binary data")
        return
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield Flaw(pointer, f"is not of the form {schema.get('x-form', schema['pattern'])}{_shown(value, schema)}")
    if len(value) < schema.get("minLength", 0):
        yield Flaw(pointer, "must not be empty")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield Flaw(pointer, f"must have at most {schema['maxLength']} characters, has {len(value)}")


def _is_text(value: str) -> bool:
    """Tell whether a text can be written as UTF-8: bytes that were none have come as surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list(value: list[Any], schema: Schema, pointer: Pointer) -> Iterator[Flaw]:
    if len(value) < schema.get("minItems", 0):
        yield Flaw(pointer, f"must have at least {schema['minItems']} items, has {len(value)}")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield Flaw(pointer, f"must have at most {schema['maxItems']} items, has {len(value)}")
    if "items" in schema:
        for index, item in enumerate(value):
            flaws = check(item, schema["items"], (*pointer, index))
            if schema.get("x-whole"):
                yield from (Flaw(pointer, f"item {index + 1}: {flaw.text}") for flaw in flaws if not flaw.deprecated)
            else:
                yield from flaws


def _mapping(value: dict[str, Any], schema: Schema, pointer: Pointer) -> Iterator[Flaw]:
    properties: dict[str, Schema] = schema.get("properties", {})
    patterns: dict[str, Schema] = schema.get("patternProperties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Flaw(pointer, f"{name} is missing")
    if len(value) < schema.get("minProperties", 0):
        yield Flaw(pointer, "must not be empty")
    for key, item in value.items():
        place = (*pointer, key)
        matched = [part for pattern, part in patterns.items() if re.search(pattern, str(key))]
        if key in properties:
            matched.append(properties[key])
        if not matched:
            extra = schema.get("additionalProperties", True)
            if extra is False:
                yield Flaw(place, "unknown key", unknown=True, known=tuple(properties))
            elif isinstance(extra, dict):
                matched.append(extra)
        for part in matched:
            if "deprecated" in part:
                yield Flaw(place, f"deprecated since {part['deprecated']}", deprecated=True)
            yield from check(item, part, place)


def _alternatives(
    value: Any, whole: Schema, schemas: list[Schema], pointer: Pointer, *, only_one: bool
) -> Iterator[Flaw]:
    best: list[Flaw] = []
    rank = (-1, False)
    fitting = 0
    for schema in schemas:
        flaws = list(check(value, schema, pointer))
        if "deprecated" in schema:
            flaws.append(Flaw(pointer, f"deprecated since {schema['deprecated']}", deprecated=True))
        if all(flaw.deprecated for flaw in flaws):
            if not fitting:
                best = flaws
            fitting += 1
            if not only_one:
                break
            continue
        # The alternative that gets deepest into the value, or at least is of its type, is the one that was meant.
        this = (_depth(flaws), any(_is(value, name) for name in _types(schema)))
        if not fitting and this > rank:
            best, rank = flaws, this
    if only_one and fitting > 1:
        yield Flaw(pointer, f"fits more than one form{_shown(value, whole)}")
    elif fitting or rank[0] > len(pointer) or rank[1] or len(schemas) == 1:
        yield from best
    else:
        wanted: list[str] = []
        for schema in schemas:
            wanted += map(_short, schema["enum"]) if "enum" in schema else [NAMES[kind] for kind in _types(schema)]
        told = " or ".join(dict.fromkeys(wanted))
        yield Flaw(pointer, f"must be {told}, not {_name(value)}{_shown(value, whole)}{_advice(value, told)}")


def _types(schema: Schema) -> list[str]:
    types = schema.get("type", [])
    return types if isinstance(types, list) else [types]


def _depth(flaws: list[Flaw]) -> int:
    return max((len(flaw.pointer) for flaw in flaws if not flaw.deprecated), default=0)


def _is(value: Any, name: str) -> bool:
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def _same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _name(value: Any) -> str:
    for name, types in TYPES.items():
        if _is(value, name) and types:
            return NAMES[name]
    return "binary data" if isinstance(value, bytes) else "a date"  # which YAML has and JSON has not


def _advice(value: Any, wanted: str) -> str:
    """Say what to do about a text that YAML reads as something else."""
    if NAMES["string"] not in wanted or NAMES["object"] in wanted or isinstance(value, (str, list, type(None))):
        return ""
    if isinstance(value, dict):
        # `- echo a: b`
        return ": quote a text that has a ': ' in it" if len(value) == 1 else ""
    return ": put it in quotes"


def _shown(value: Any, schema: Schema) -> str:
    """Return the value for a message; nothing where a secret may stand in it."""
    return "" if value is None or _holds_secret(schema) else f": {_short(value)}"


def _holds_secret(schema: Any) -> bool:
    if isinstance(schema, dict):
        return "x-secret" in schema or any(map(_holds_secret, schema.values()))
    return isinstance(schema, list) and any(map(_holds_secret, schema))


def _short(value: Any) -> str:
    """Return a value as YAML has it where that differs from Python, in at most 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value) if _name(value) == "a date" else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
