"""YAML with places: the value, where each key and item stands, and what is wrong with it.

The result of a text is that of PyYAML's safe loader (YAML 1.1), which people's user data relies on, except that keys
are always text: `off:` is the key `off` (and reported), not the boolean; and that what only looks like a tag or a date
(`!secret`, `2032-13-45`) is the text that it is (and reported). Aliases and levels are bounded (a "YAML bomb" is an
error). Values are never echoed: any of them may be a secret.
"""

from __future__ import annotations

import re

from cloudboot.problem import Level, Mark, Marks, Pointer, Problem
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node

NODES_LIMIT = 100_000  # values in one document, aliases counted each time they are used
DEPTH_LIMIT = 100
COMPOSED_DEPTH = 1000  # levels that PyYAML composes, recursively, without coming near the end of the C stack
# What YAML 1.1 does not let stand in a text (5.1, character set).
NOT_ALLOWED = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
INDENTATION = re.compile(r"^[ \t?:-]+", re.MULTILINE)
MERGE = "tag:yaml.org,2002:merge"
STRING = "tag:yaml.org,2002:str"
HINTS = (
    ("cannot start any token", "\t", "a tab: YAML is indented with spaces"),
    ("mapping values are not allowed", "", "a ': ' inside a plain text: quote the text, or check the indentation"),
    ("found unexpected end of stream", "", "a quote that is not closed"),
    ("did not find expected ',' or ']'", "", "a bracket that is not closed, or a comma that is missing"),
    ("did not find expected ',' or '}'", "", "a brace that is not closed, or a comma that is missing"),
    ("did not find expected key", "", "a line that is not indented like its neighbours, or a quote too many"),
    ("did not find expected '-' indicator", "", "a line that is not indented like its neighbours"),
    ("could not find expected ':'", "", "a key without ':' (or a text that goes on at the wrong indentation)"),
    ("found another document", "", "'---' begins another document, and only one is read: remove that line"),
    ("found undefined alias", "", "a text that begins with '*' must be quoted"),
    ("cannot start any token", "", "a text that begins with this character must be quoted"),
    ("found unknown escape character", "", "a backslash in double quotes: write it twice, or use single quotes"),
)


class Document(NamedTuple):
    """A parsed text: plain dicts, lists and scalars; where each stands; what is wrong."""

    value: Any
    marks: Marks
    problems: list[Problem]


class _TooLarge(Exception):
    def __init__(self, what: str, mark: Any) -> None:
        super().__init__(what)
        self.mark = mark


def load(text: str, source: str) -> Document:
    """Parse one YAML document.

    `source` names the text in messages. A text that is not YAML gives the value None and one problem with the place.
    """
    import yaml

    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # Most texts are plain, and to compile that pattern takes longer than to read them.
    plain = text.replace("\n", "").replace("\t", "").replace("\r", "")
    if not (plain.isascii() and plain.isprintable()) and (bad := re.search(NOT_ALLOWED, text)):
        line, column = text.count("\n", 0, bad.start()) + 1, bad.start() - text.rfind("\n", 0, bad.start())
        told = "a NUL byte: this is not a text file" if bad[0] == "\0" else f"the character {bad[0]!r}: remove it"
        return Document(None, {}, [Problem(Mark(source, line, column), f"not YAML: {told}")])
    loader = None
    try:
        _bound_depth(text, loader_class)
        loader = loader_class(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, {(): Mark(source, 1, 1)}, [])
        builder = _Builder(loader, source, text)
        value = builder.build(node, (), 0)
        return Document(value, builder.marks_of(value), builder.problems)
    except _TooLarge as error:
        place = Mark(source, error.mark.line + 1, error.mark.column + 1)
        return Document(None, {}, [Problem(place, f"{error}: nothing of it is used")])
    except yaml.MarkedYAMLError as error:
        return Document(None, {}, [_syntax_problem(error, text, source)])
    finally:
        if loader is not None:
            loader.dispose()


def _bound_depth(text: str, loader_class: Any) -> None:
    """Refuse a text that is nested so deep that composing it would exhaust the stack. Raises _TooLarge."""
    deepest = max((len(found[0]) for found in INDENTATION.finditer(text)), default=0)
    if text.count("[") + text.count("{") + deepest < COMPOSED_DEPTH:
        return
    _count_levels(text, loader_class)


def _count_levels(text: str, loader_class: Any) -> None:
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader_class):  # does not recurse, in libyaml's form
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEPTH_LIMIT:
                    raise _TooLarge(f"more than {DEPTH_LIMIT} levels of nesting", event.start_mark)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark
        if "nesting depth" not in (error.problem or "") or place is None or not 0 < place.index < len(text):
            raise
        # Newer libyaml has a limit of its own, above ours, and reads ahead: what stands before it tells us more.
        _count_levels(text[: place.index], loader_class)


def _syntax_problem(error: Any, text: str, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    if error.context_mark and "unexpected end of stream" in (error.problem or ""):
        mark = error.context_mark  # where the quote begins, not the text's end
    line, column = (mark.line, mark.column) if mark else (0, 0)
    said = (error.problem or "cannot be read").strip()
    if "undefined alias" in said or "duplicate anchor" in said:
        said = said.partition(" '")[0]  # the name may be a piece of a password
    lines = text.splitlines()
    here = lines[line] if line < len(lines) else ""
    hint = ""
    for fragment, needs, advice in HINTS:
        if fragment in said and needs in here:
            hint = f": {advice}"
            break
    begun = ""
    if error.context_mark and error.context and error.context_mark.line < line:
        begun = f" ({error.context.strip()} that begins at line {error.context_mark.line + 1})"
    return Problem(Mark(source, line + 1, column + 1), f"not YAML: {said}{begun}{hint}")


class _Builder:
    def __init__(self, loader: Any, source: str, text: str) -> None:
        self.loader = loader
        self.text = text
        self.lines: list[str] | None = None  # split where the first of them is needed
        self.source = source
        self.marks: Marks = {}
        self.replaced = False  # a value was: places of what it held are left
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: Node, pointer: Pointer, depth: int) -> Any:
        import yaml

        self.nodes += 1
        if self.nodes > NODES_LIMIT:
            raise _TooLarge(f"more than {NODES_LIMIT} values (aliases of aliases?)", node.start_mark)
        if depth > DEPTH_LIMIT:
            raise _TooLarge(f"more than {DEPTH_LIMIT} levels of nesting", node.start_mark)
        self.marks.setdefault(pointer, self.mark(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, pointer, depth)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.marks[(*pointer, index)] = self.mark(item)
            return [self.build(item, (*pointer, index), depth + 1) for index, item in enumerate(node.value)]
        if node.tag == STRING:
            return node.value
        try:
            return self.loader.construct_object(node)
        except (ValueError, OverflowError, yaml.YAMLError):
            kind = "tag" if node.tag.startswith("!") else node.tag.rpartition(":")[2]
            told = f"begins like a YAML {kind} and is none: taken as a text: quote it"
            self.problems.append(Problem(self.mark(node), told, Level.WARNING))
            return self.written(node)

    def written(self, node: Node) -> str:
        """Return a scalar as the owner wrote it."""
        start, end = node.start_mark, node.end_mark
        if self.lines is None:
            self.lines = self.text.splitlines(keepends=True)
        if start.line == end.line and start.line < len(self.lines):
            return self.lines[start.line][start.column : end.column].strip()
        return str(node.value)

    def mapping(self, node: MappingNode, pointer: Pointer, depth: int) -> dict[str, Any]:
        import yaml

        result: dict[str, Any] = {}
        own: dict[str, Mark] = {}
        for key_node, value_node in node.value:
            if key_node.tag == MERGE:
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for part in sources:
                    merged = self.build(part, (*pointer, "<<"), depth + 1)
                    if isinstance(merged, dict):
                        result = {**merged, **result}
                continue
            key = self.key(key_node)
            if key in own:
                message = f"{key}: given twice (first at line {own[key].line}): the last one counts"
                self.problems.append(Problem(self.mark(key_node), message, Level.WARNING))
                self.replaced = True
            own[key] = self.mark(key_node)
            self.marks[(*pointer, key)] = own[key]
            result[key] = self.build(value_node, (*pointer, key), depth + 1)
        return result

    def key(self, node: Node) -> str:
        import yaml

        if not isinstance(node, yaml.ScalarNode):
            self.problems.append(Problem(self.mark(node), "a key must be a text"))
            return "?"
        key = str(node.value)
        if node.tag.endswith(":bool") or node.tag.endswith(":null"):
            meaning = "a truth value" if node.tag.endswith("bool") else "nothing"
            told = f'the key {key!r} is {meaning} in YAML: taken as a text: quote it: "{key}"'
            self.problems.append(Problem(self.mark(node), told, Level.WARNING))
        return key

    def mark(self, node: Node) -> Mark:
        return Mark(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def marks_of(self, value: Any) -> Marks:
        """Return the places of what is in the value, without those of what a second key has replaced."""
        if not self.replaced:
            return self.marks
        return {pointer: mark for pointer, mark in self.marks.items() if _is_there(value, pointer)}


def _is_there(value: Any, pointer: Pointer) -> bool:
    for step in pointer:
        if not (isinstance(value, dict) and step in value) and not (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        ):
            return False
        value = value[step]  # type: ignore[index]
    return True
