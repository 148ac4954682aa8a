"""`#cloud-config-jsonp`: a JSON patch (RFC 6902) of the configuration merged so far.

All of a document's operations hold, or none: the first that fails is reported with its place and the configuration is
left as it was. The places of values move with them, so that later messages name the right line. Values are never
echoed: any of them may be a secret.
"""

from __future__ import annotations

import re

from cloudboot.errors import ConfigError
from cloudboot.problem import Mark, Problem
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cloudboot.problem import Marks, Pointer

OPERATIONS_LIMIT = 10_000
VALUES_LIMIT = 100_000  # values that a patch may make: copies of copies
DEPTH_LIMIT = 100
NEEDS = {
    "add": ("path", "value"),
    "remove": ("path",),
    "replace": ("path", "value"),
    "move": ("path", "from"),
    "copy": ("path", "from"),
    "test": ("path", "value"),
}
INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
BLANK = re.compile(r"[ \t\r\n]*")


class Operation(NamedTuple):
    """One operation as it is written, and where it begins."""

    fields: dict[str, Any]
    mark: Mark


class _Node:
    """A value with its place; what it contains are nodes."""

    __slots__ = ("mark", "value")

    def __init__(self, value: Any, mark: Mark | None) -> None:
        self.value = value
        self.mark = mark


class _Tree:
    """The configuration while it is patched. `left`: the values that may still be added."""

    def __init__(self, root: _Node) -> None:
        self.root = root
        self.left = VALUES_LIMIT


def read(text: str, source: str) -> tuple[list[Operation], list[Problem]]:
    """Read a patch, with or without its header. One that cannot be read is one problem and no operations."""
    from json import JSONDecodeError, JSONDecoder

    start = len(text) - len(text.lstrip("\ufeff \t\r\n"))
    header = "#cloud-config-jsonp"
    position = start + len(header) if text[start : start + len(header)].lower() == header else start
    decoder = JSONDecoder(parse_constant=_no_constant)
    found: list[Operation] = []

    def at(place: int) -> Mark:
        return Mark(source, text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place))

    def skip(place: int) -> int:
        blank = BLANK.match(text, place)
        return blank.end() if blank else place

    position = skip(position)
    if text[position : position + 1] != "[":
        return [], [Problem(at(position), 'must be a JSON list of operations: [{"op": …}]: nothing of it is used')]
    line, start, counted = text.count("\n", 0, position) + 1, text.rfind("\n", 0, position), position
    try:
        position = skip(position + 1)
        while text[position : position + 1] != "]" or found:
            line += text.count("\n", counted, position)
            start = max(start, text.rfind("\n", counted, position))
            counted, mark = position, Mark(source, line, position - start)
            fields, position = decoder.raw_decode(text, position)
            if not isinstance(fields, dict):
                return [], [Problem(mark, 'must be an operation: {"op": …}: nothing of the patch is used')]
            found.append(Operation(fields, mark))
            if len(found) > OPERATIONS_LIMIT:
                return [], [Problem(mark, f"more than {OPERATIONS_LIMIT} operations: nothing of the patch is used")]
            position = skip(position)
            if text[position : position + 1] == "]":
                break
            if text[position : position + 1] != ",":
                raise JSONDecodeError("Expecting ',' delimiter", text, position)
            position = skip(position + 1)
        position = skip(position + 1)
        if position < len(text):
            raise JSONDecodeError("Extra data", text, position)
    except JSONDecodeError as error:
        return [], [Problem(at(error.pos), f"not JSON: {error.msg.lower()}: nothing of the patch is used")]
    except (ValueError, RecursionError):
        told = "not JSON that can be used (a number or a nesting without end): nothing of the patch is used"
        return [], [Problem(Mark(source, line), told)]
    return found, []


def apply(
    operations: list[Operation], value: dict[str, Any], marks: Marks
) -> tuple[dict[str, Any], Marks, list[Problem]]:
    """Apply a patch to a configuration. Returns value and marks as given, and one problem, if it fails."""
    tree = _Tree(_Node(None, None))
    operation = None
    try:
        tree.root = _grown(value, (), marks, 0)
        for operation in operations:
            _apply(operation, tree)
        if not isinstance(tree.root.value, dict):
            raise ConfigError("what it leaves is not a mapping (key: value)")
        moved: Marks = {}
        result: dict[str, Any] = _plain(tree.root, (), moved, 0)
    except ConfigError as error:
        mark = operation.mark if operation else Mark("user-data")
        return value, marks, [Problem(mark, f"{error}: nothing of the patch is used")]
    return result, moved, []


def _apply(operation: Operation, tree: _Tree) -> None:
    """Apply one operation. Raises ConfigError."""
    fields = operation.fields
    name = fields.get("op")
    if not isinstance(name, str) or name not in NEEDS:
        raise ConfigError(f"op: must be one of {', '.join(NEEDS)}")
    for field in NEEDS[name]:
        if field not in fields:
            raise ConfigError(f"{name}: has no {field!r}")
    path = _pointer(fields["path"], name)
    told = f"{name} {_shown(path)}"
    if name in ("add", "replace", "test"):
        given = _grown(fields["value"], (), {}, len(path), operation.mark, tree)
    if name in ("move", "copy"):
        source = _pointer(fields["from"], name)
        given = _found(tree.root, source, f"{name} from {_shown(source)}")
        if name == "copy":
            given = _copied(given, 0, tree)
        elif source == path:
            return
        elif path[: len(source)] == source:
            raise ConfigError(f"{told}: into itself")
        else:
            _remove(tree, source, told)
    if name == "test" and not _equal(_found(tree.root, path, told), given, 0):
        raise ConfigError(f"{told}: is not what the test says")
    if name == "remove":
        _remove(tree, path, told)
    if name == "replace":
        _found(tree.root, path, told)
        _replace(tree, path, given, told)
    if name in ("add", "move", "copy"):
        _add(tree, path, given, told)


def _pointer(text: Any, name: str) -> list[str]:
    """Read a JSON pointer (RFC 6901). Raises ConfigError."""
    if not isinstance(text, str) or (text and not text.startswith("/")) or re.search("~(?![01])", text):
        raise ConfigError(f"{name}: a path must be a JSON pointer, as in '/users/0/name'")
    steps = [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]
    if len(steps) > DEPTH_LIMIT:
        raise ConfigError(f"{name}: a path of more than {DEPTH_LIMIT} steps")
    return steps


def _shown(path: list[str]) -> str:
    return ("/" + "/".join(path))[:100]


def _found(node: _Node, path: list[str], told: str) -> _Node:
    for step in path:
        value = node.value
        if isinstance(value, dict) and step in value:
            node = value[step]
        elif isinstance(value, list) and INDEX.fullmatch(step) and int(step) < len(value):
            node = value[int(step)]
        else:
            raise ConfigError(f"{told}: there is no {step[:40]!r}")
    return node


def _add(tree: _Tree, path: list[str], given: _Node, told: str) -> None:
    if not path:
        tree.root = given
        return
    step = path[-1]
    within = _found(tree.root, path[:-1], told).value
    if isinstance(within, dict):
        within[step] = given
    elif isinstance(within, list):
        if step != "-" and not (INDEX.fullmatch(step) and int(step) <= len(within)):
            raise ConfigError(f"{told}: the list has no place {step[:40]!r}")
        within.insert(len(within) if step == "-" else int(step), given)
    else:
        raise ConfigError(f"{told}: what is there is neither a mapping nor a list")


def _replace(tree: _Tree, path: list[str], given: _Node, told: str) -> None:
    if not path:
        tree.root = given
        return
    within = _found(tree.root, path[:-1], told).value
    within[int(path[-1]) if isinstance(within, list) else path[-1]] = given


def _remove(tree: _Tree, path: list[str], told: str) -> None:
    if not path:
        tree.root = _Node(None, None)
        return
    _found(tree.root, path, told)
    within = _found(tree.root, path[:-1], told).value
    del within[int(path[-1]) if isinstance(within, list) else path[-1]]


def _equal(one: _Node, other: _Node, depth: int) -> bool:
    """Compare as JSON does: 1 is 1.0, but not true."""
    _bound(depth)
    a, b = one.value, other.value
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key], depth + 1) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_equal(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)


def _grown(
    value: Any, pointer: Pointer, marks: Marks, depth: int, mark: Mark | None = None, tree: _Tree | None = None
) -> _Node:
    """Make nodes of a value. `mark`: the place of all of it, where it has none of its own."""
    _bound(depth)
    if tree is not None:
        _count(tree)
    node = _Node(value, mark or marks.get(pointer))
    if isinstance(value, dict):
        node.value = {key: _grown(item, (*pointer, key), marks, depth + 1, mark, tree) for key, item in value.items()}
    elif isinstance(value, list):
        node.value = [_grown(item, (*pointer, i), marks, depth + 1, mark, tree) for i, item in enumerate(value)]
    return node


def _copied(node: _Node, depth: int, tree: _Tree) -> _Node:
    _bound(depth)
    _count(tree)
    copy = _Node(node.value, node.mark)
    if isinstance(node.value, dict):
        copy.value = {key: _copied(item, depth + 1, tree) for key, item in node.value.items()}
    elif isinstance(node.value, list):
        copy.value = [_copied(item, depth + 1, tree) for item in node.value]
    return copy


def _plain(node: _Node, pointer: Pointer, marks: Marks, depth: int) -> Any:
    _bound(depth)
    if node.mark is not None:
        marks[pointer] = node.mark
    if isinstance(node.value, dict):
        return {key: _plain(item, (*pointer, key), marks, depth + 1) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(item, (*pointer, index), marks, depth + 1) for index, item in enumerate(node.value)]
    return node.value


def _bound(depth: int) -> None:
    if depth > 2 * DEPTH_LIMIT:
        raise ConfigError(f"more than {2 * DEPTH_LIMIT} levels of nesting")


def _count(tree: _Tree) -> None:
    tree.left -= 1
    if tree.left < 0:
        raise ConfigError(f"makes more than {VALUES_LIMIT} values")


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are not JSON
