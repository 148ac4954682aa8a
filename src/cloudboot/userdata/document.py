"""YAML with places: the value, where each key and item stands, and what is wrong with it.

The result of a text is that of PyYAML's safe loader (YAML 1.1), which people's user data relies on, except that keys
are always text: `off:` is the key `off` (and reported), not the boolean. Aliases are bounded (a "YAML bomb" is an
error).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cloudboot.problem import Level, Mark, Marks, Pointer, Problem

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node

NODES_LIMIT = 100_000  # values in one document, aliases counted each time they are used
DEPTH_LIMIT = 100
MERGE = "tag:yaml.org,2002:merge"
STRING = "tag:yaml.org,2002:str"
HINTS = (
    ("cannot start any token", "\t", "a tab: YAML is indented with spaces"),
    ("mapping values are not allowed", "", "a ': ' inside a plain text: quote the text, or check the indentation"),
    ("found unexpected end of stream", "", "a quote or bracket is not closed"),
    ("could not find expected ':'", "", "a key without ':' (or a text that goes on at the wrong indentation)"),
    ("found undefined alias", "", "an alias without its anchor"),
    ("found unknown escape character", "", "a backslash in double quotes: write it twice, or use single quotes"),
)


class Document(NamedTuple):
    """A parsed text: plain dicts, lists and scalars; where each stands; what is wrong."""

    value: Any
    marks: Marks
    problems: list[Problem]


class _TooLarge(Exception):
    def __init__(self, mark: Any) -> None:
        super().__init__()
        self.mark = mark


def load(text: str, source: str) -> Document:
    """Parse one YAML document.

    `source` names the text in messages. A text that is not YAML gives the value None and one problem with the place.
    """
    import yaml

    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        column = nul - (text.rfind("\n", 0, nul) + 1) + 1
        return Document(None, {}, [Problem(Mark(source, line, column), "a NUL byte: this is not a text file")])
    loader = None
    try:
        loader = loader_class(text)
        node = loader.get_single_node()
        if node is None:
            return Document(None, {(): Mark(source, 1, 1)}, [])
        builder = _Builder(loader, source)
        value = builder.build(node, (), 0)
        return Document(value, builder.marks, builder.problems)
    except _TooLarge as error:
        place = Mark(source, error.mark.line + 1, error.mark.column + 1)
        message = f"more than {NODES_LIMIT} values or {DEPTH_LIMIT} levels (aliases of aliases?): not read"
        return Document(None, {}, [Problem(place, message)])
    except yaml.MarkedYAMLError as error:
        return Document(None, {}, [_syntax_problem(error, text, source)])
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, position) + 1
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        message = f"a character that YAML does not allow: {chr(error.character)!r}: remove it"
        return Document(None, {}, [Problem(Mark(source, line, column), message)])
    finally:
        if loader is not None:
            loader.dispose()


def _syntax_problem(error: Any, text: str, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    said = (error.problem or "not YAML").strip()
    lines = text.splitlines()
    here = lines[line] if line < len(lines) else ""
    hint = ""
    for fragment, needs, advice in HINTS:
        if fragment in said and needs in here:
            hint = f": {advice}"
            break
    begun = ""
    if error.context_mark and error.context and error.context_mark.line != line:
        begun = f" ({error.context.strip()} that begins at line {error.context_mark.line + 1})"
    return Problem(Mark(source, line + 1, column + 1), f"not YAML: {said}{begun}{hint}")


class _Builder:
    def __init__(self, loader: Any, source: str) -> None:
        self.loader = loader
        self.source = source
        self.marks: Marks = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def build(self, node: Node, pointer: Pointer, depth: int) -> Any:
        import yaml

        self.nodes += 1
        if self.nodes > NODES_LIMIT or depth > DEPTH_LIMIT:
            raise _TooLarge(node.start_mark)
        self.marks.setdefault(pointer, self.mark(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, pointer, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*pointer, index), depth + 1) for index, item in enumerate(node.value)]
        if node.tag == STRING:
            return node.value
        try:
            return self.loader.construct_object(node)
        except (ValueError, OverflowError, yaml.YAMLError) as error:
            reason = getattr(error, "problem", None) or str(error)
            self.problems.append(
                Problem(self.mark(node), f"cannot be read: {str(node.value)[:40]!r}: {reason}: quote it")
            )
            return None

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
                self.forget((*pointer, key))
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
            message = f"the key {key!r} means {'a truth value' if node.tag.endswith('bool') else 'nothing'} in YAML: "
            self.problems.append(Problem(self.mark(node), message + f'quote it: "{key}"'))
        return key

    def mark(self, node: Node) -> Mark:
        return Mark(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def forget(self, pointer: Pointer) -> None:
        for known in [known for known in self.marks if known[: len(pointer)] == pointer]:
            del self.marks[known]
