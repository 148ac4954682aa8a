"""Make tests/data/merge_reference.json: what Debian's cloud-init package makes of merges.

`python tests/tools/merge_reference.py` downloads the package, unpacks it (nothing is installed), and lets its own code
merge every row of `rows()`. Three kinds of rows:

- `merge`: a rule, an old and a new value;
- `parts`: the texts of cloud-config parts, with their Merge-Type headers; what its part handler has at the end, and
  which parts it lost;
- `layers`: configurations, the highest first.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import sys
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # tests/, as under pytest

from tools.reference import make

TABLE = Path(__file__).parents[1] / "data" / "merge_reference.json"
RANDOM_ROWS = 150
Row = dict[str, Any]

DICT_OPTIONS = """;replace;no_replace;recurse_list;recurse_array;recurse_str;recurse_dict;allow_delete;replace,no_replace;
no_replace,recurse_list;no_replace,recurse_str;no_replace,allow_delete;replace,recurse_list;replace,allow_delete;
recurse_list,recurse_str;recurse_array,allow_delete;no_replace,recurse_list,recurse_str,allow_delete"""
LIST_OPTIONS = """;replace;append;prepend;no_replace;recurse_dict;recurse_list;recurse_array;recurse_str;append,prepend;
prepend,replace;replace,no_replace;no_replace,recurse_dict;append,recurse_dict;replace,recurse_dict,recurse_list;
recurse_dict,recurse_list,recurse_str"""
STR_OPTIONS = ";append;replace"

SINGLES = [None, True, 3, "text", "", [], [1, 2], {}, {"a": 1}]
SINGLES_RULES = [
    "dict(replace)+list()+str()",
    "dict()+list()+str()",
    "dict(recurse_list,recurse_str)+list()+str()",
    "dict(recurse_list,recurse_str)+list(append)+str(append)",
    "dict(recurse_list,recurse_str)+list(prepend)+str()",
    "dict(recurse_list,recurse_str,allow_delete)+list(no_replace)+str()",
    "dict(recurse_list,recurse_str)",
    "list(append)+str(append)",
]

# Pairs that every option is tried on: nested, of unlike length, with nulls, empty ones and unlike kinds.
PAIRS: list[tuple[Any, Any]] = [
    (
        {"a": 1, "l": [1, 2, 3], "s": "x", "d": {"l": [1], "s": "y", "k": 1}, "n": None, "e": {}},
        {"a": 2, "b": 3, "l": [9], "s": "z", "d": {"l": [2, 3], "s": "w", "m": 2}, "n": 5, "e": {"q": 1}},
    ),
    ({"d": {"k": 1, "l": [1]}, "l": [1], "s": "x"}, {"d": None, "l": None, "s": None, "new": None}),
    (
        {"l": [{"a": 1, "b": [1, {"c": "x"}]}, "s", [1, 2], None]},
        {"l": [{"a": 2, "b": [2, {"c": "y", "d": 1}, 3]}, "t", [3, 4, 5], {"n": 1}, "more"]},
    ),
    ({"l": [], "d": {}, "s": ""}, {"l": [1], "d": {"a": 1}, "s": "x"}),
    ({"l": [1], "d": {"a": 1}, "s": "x"}, {"l": [], "d": {}, "s": ""}),
    ({}, {"a": {"b": [None]}, "n": None}),
    ({"a": {"b": {"c": {"d": [1, {"e": "x"}]}}}}, {"a": {"b": {"c": {"d": [2, {"e": "y"}], "f": 1}}}}),
]
ORDERS = [
    "list(append)",
    "str(append)",
    "dict(recurse_list)",
    "list(append)+str()",
    "dict(recurse_list)+list(append)",
    "dict(recurse_str)+str(append)",
    "str(append)+list(append)+dict(recurse_list,recurse_str)",
    "list(append)+dict(no_replace,recurse_list)+str(append)",
    "dict(replace)+dict(no_replace,recurse_list)+list(append)",
    "dict(recurse_list)+list(append)+list(prepend)",
]
FORMS: list[Any] = [
    "",
    "  ",
    "+",
    [],
    {},
    None,
    "list()",
    "LIST(APPEND)+Dict(Recurse-List)",
    " list( append ) + dict( no_replace , recurse_list ) ",
    "list(append)++dict(recurse_list)+",
    "list(,append,)+dict(recurse_list,,)",
    "m_list(append)+m_dict(recurse_list)",
    "no-such()",
    "list(append)+dcit(recurse_list)",
    "list",
    "list(append",
    "list append)",
    "list (append)+dict()",
    "(append)",
    "9list()",
    "list(append)x+dict()",
    "list(appendd)+dict(recurse_lists)+str(appnd)",
    "list(append,unknown)+dict(recurse_list,unknown)",
    "dict(replace,unknown)",
    "list(append)(prepend)+dict(recurse_list)",
    "list(append)\n+dict(recurse_list)\n",
    [["list", "append"], ["dict", "recurse_list"]],
    [["list", "append"], ["dict", "no_replace", "recurse_list"], ["str", "append"]],
    [["list"], ["dict"], ["str"]],
    [["list", "Append"], ["dict", "recurse_list"]],
    [["LIST", "append"]],
    [["list-x"]],
    [["m_list", "append"], ["m_dict", "recurse_list"]],
    [["", "append"], ["dict", "replace"]],
    [[None], ["dict", "replace"]],
    [[]],
    [[3]],
    [["list", 3], ["dict", None]],
    ["list(append)", "dict(recurse_list)"],
    ["list"],
    [""],
    [None],
    [3],
    [{"name": "list", "settings": ["append"]}, {"name": "dict", "settings": ["no_replace", "recurse_list"]}],
    [{"name": " list ", "settings": ["prepend"]}, {"name": "dict", "settings": ["recurse_array"]}],
    [{"name": "list", "settings": []}, {"name": "dict", "settings": []}],
    [{"name": "list", "settings": ["append"]}, ["dict", "recurse_list"]],
    [{"name": "dict", "settings": "replace"}],
    [{"name": "list", "settings": "append"}, {"name": "dict", "settings": "recurse_list"}],
    [{"name": "dict", "settings": "no_replace"}],
    [{"name": "list", "settings": {"append": True}}, {"name": "dict", "settings": {"recurse_list": True}}],
    [{"name": "list", "settings": None}, {"name": "dict", "settings": []}],
    [{"name": "list"}],
    [{"settings": ["append"]}],
    [{"name": None, "settings": []}],
    [{"name": "", "settings": []}, {"name": "dict", "settings": ["replace"]}],
    [{"name": "LIST", "settings": ["append"]}],
    [{"name": "set", "settings": []}],
    [{}],
    {"name": "list", "settings": ["append"]},
    {"list": ["append"]},
    True,
    False,
    0,
    7,
]
RECIPE = "list(append)+dict(no_replace,recurse_list)+str(append)"
PARTS: list[list[tuple[str, dict[str, str]]]] = [
    [("a: 1\nl: [1]\n", {}), ("a: 2\nl: [2]\nb: 3\n", {})],
    [("l: [1]\n", {}), (f"merge_how: {RECIPE}\nl: [2]\n", {}), ("l: [3]\n", {})],
    [(f"merge_how: {RECIPE}\nl: [1]\n", {}), ("l: [2]\n", {})],
    [("l: [1]\n", {}), (f"merge_type: {RECIPE}\nl: [2]\n", {})],
    [("l: [1]\n", {}), (f"merge_how: {RECIPE}\nmerge_type: dict(replace)\nl: [2]\n", {})],
    [("l: [1]\n", {}), (f"merge_how: null\nmerge_type: {RECIPE}\nl: [2]\n", {})],
    [("l: [1]\n", {}), (f"merge_how: ''\nmerge_type: {RECIPE}\nl: [2]\n", {})],
    [("l: [1]\n", {}), ("l: [2]\n", {"Merge-Type": RECIPE})],
    [("l: [1]\n", {}), ("l: [2]\n", {"X-Merge-Type": RECIPE})],
    [("l: [1]\n", {}), ("l: [2]\n", {"Merge-Type": "dict(replace)", "X-Merge-Type": RECIPE})],
    [("l: [1]\n", {}), ("l: [2]\n", {"Merge-Type": "", "X-Merge-Type": RECIPE})],
    [("l: [1]\n", {}), ("merge_how: dict(replace)\nl: [2]\n", {"Merge-Type": RECIPE})],
    [("l: [1]\n", {}), ("merge_how: list(append)\nl: [2]\n", {"Merge-Type": "dict(recurse_list)+list(prepend)"})],
    [("l: [1]\n", {}), ("merge_how: list(append)\nl: [2]\n", {})],
    [("merge_how: list(append)\nl: [1]\n", {}), ("l: [2]\n", {})],
    [("l: [1]\n", {}), ("merge_how: nonsense\nl: [2]\n", {}), ("b: 1\n", {})],
    [("l: [1]\n", {}), ("merge_how: no_such()\nl: [2]\n", {}), ("b: 1\n", {})],
    [("l: [1]\n", {}), ("merge_how: 5\nl: [2]\n", {}), ("b: 1\n", {})],
    [("l: [1]\n", {}), ("b: 1\n", {"Merge-Type": "nonsense"}), ("c: 1\n", {})],
    [("merge_how:\n  - [list, append]\n  - [dict, recurse_list]\nl: [1]\n", {}), ("l: [2]\n", {})],
    [
        ("l: [1]\n", {}),
        ("l: [2]\nmerge_how:\n - name: list\n   settings: [append]\n - name: dict\n   settings: [recurse_list]\n", {}),
    ],
    [("d: {merge_how: x, a: 1}\n", {}), ("d: {b: 1}\nmerge_how: dict()\n", {})],
    [("a: {b: 1}\n", {}), ("a: null\nmerge_how: dict(allow_delete)\n", {}), ("a: 5\n", {})],
]
LAYERS: list[list[dict[str, Any]]] = [
    [{"a": 1}, {"a": 2, "b": 3}],
    [{"d": {"a": 1}}, {"d": {"a": 2, "b": 2}}, {"d": {"c": 3}, "e": 3}],
    [{"l": [1]}, {"l": [2, 3]}],
    [{"s": "x"}, {"s": {"a": 1}}],
    [{"l": [1]}, {"l": {"a": 1}}],
    [{"n": None}, {"n": {"a": 1}}],
    [{"d": {"a": 1}}, {"d": "x"}],
    [{"l": [1]}, {"l": [2], "merge_how": "list(append)+dict(recurse_list)"}, {"l": [3]}],
    [{"l": [1], "merge_how": "list(append)+dict(recurse_list)"}, {"l": [2]}],
    [{"l": [1]}, {"l": [2], "merge_type": [["list", "prepend"], ["dict", "recurse_list"]]}, {"l": [3]}],
    [{}, {"a": 1}, {}],
]


def rows() -> list[Row]:
    """Make every row, without its result; the same ones each time."""
    found = [_merge(rule, {"k": old}, {"k": new}) for rule in SINGLES_RULES for old, new in product(SINGLES, SINGLES)]
    rules = [f"dict({options})+list(append)+str(append)" for options in _words(DICT_OPTIONS)]
    rules += [f"dict({options})+list()+str()" for options in _words(DICT_OPTIONS)]
    rules += [f"list({options})+dict(no_replace,recurse_list,recurse_str)+str()" for options in _words(LIST_OPTIONS)]
    rules += [f"str({options})+list(recurse_str)+dict(recurse_list,recurse_str)" for options in _words(STR_OPTIONS)]
    found += [_merge(rule, old, new) for rule in rules + ORDERS for old, new in PAIRS]
    found += [_merge(rule, old, new) for rule in (SINGLES_RULES[0], SINGLES_RULES[3]) for old, new in _tops()]
    found += [_merge(form, *PAIRS[0]) for form in FORMS]
    found += [{"kind": "parts", "parts": [{"text": text, "headers": head} for text, head in each]} for each in PARTS]
    found += [{"kind": "layers", "layers": each} for each in LAYERS]
    chance = random.Random(1)
    found += [_random_row(chance) for _ in range(RANDOM_ROWS)]
    return found


def _merge(rule: Any, old: Any, new: Any) -> Row:
    return {"kind": "merge", "rule": rule, "old": old, "new": new}


def _words(options: str) -> list[str]:
    return options.replace("\n", "").split(";")


def _tops() -> list[tuple[Any, Any]]:
    return [(old, new) for old, new in product(SINGLES, SINGLES) if not (isinstance(old, dict) and new == {})]


def _random_row(chance: random.Random) -> Row:
    names = {"dict": DICT_OPTIONS, "list": LIST_OPTIONS, "str": STR_OPTIONS}
    order = chance.sample(sorted(names), 3)
    rule = "+".join(f"{name}({chance.choice(_words(names[name]))})" for name in order)
    return _merge(rule, _random_value(chance, 0), _random_value(chance, 0))


def _random_value(chance: random.Random, depth: int) -> Any:
    kind = "mapping" if depth == 0 else chance.choice(["mapping", "list", "text", "scalar"][2 if depth > 3 else 0 :])
    if kind == "mapping":
        return {key: _random_value(chance, depth + 1) for key in "abcd" if chance.random() < 0.6}
    if kind == "list":
        return [_random_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    singles: list[Any] = ["x", "yy", ""] if kind == "text" else [None, 1, 2.5, False]
    return chance.choice(singles)


def main() -> None:
    """Let the reference work, and write the table."""
    make(TABLE, rows(), __file__)


def drive() -> None:
    """Let the reference merge the rows on standard input: here its package is on the path."""
    logging.disable(logging.CRITICAL)
    found = json.load(sys.stdin)
    for row in found:
        row.update({"merge": _drive_merge, "parts": _drive_parts, "layers": _drive_layers}[row["kind"]](_copy(row)))
    json.dump(found, sys.stdout)


def _drive_merge(row: Row) -> Row:
    mergers = importlib.import_module("cloudinit.mergers")
    handler = importlib.import_module("cloudinit.handlers.cloud_config")
    try:
        chosen = mergers.dict_extract_mergers({"merge_how": row["rule"]}) or handler.DEF_MERGERS
        return {"result": mergers.construct(chosen).merge(row["old"], row["new"])}
    except Exception as error:  # noqa: BLE001  whatever it raises is its answer
        return {"error": type(error).__name__}


def _drive_parts(row: Row) -> Row:
    module = importlib.import_module("cloudinit.handlers.cloud_config")
    handlers = importlib.import_module("cloudinit.handlers")
    paths = importlib.import_module("cloudinit.helpers").Paths({})
    handler = module.CloudConfigPartHandler(paths)
    handler.handle_part(None, handlers.CONTENT_START, None, None, None, None)
    for number, part in enumerate(row["parts"]):
        handler.handle_part(None, "text/cloud-config", str(number), part["text"], None, part["headers"])
    lost = [number for number in range(len(row["parts"])) if str(number) not in handler.file_names]
    return {"result": handler.cloud_buf, "lost": lost}


def _drive_layers(row: Row) -> Row:
    return {"result": importlib.import_module("cloudinit.util").mergemanydict(row["layers"])}


def _copy(row: Row) -> Row:
    copied: Row = json.loads(json.dumps(row))  # the reference changes what it is given
    return copied


if __name__ == "__main__":
    drive() if "--drive" in sys.argv else main()
