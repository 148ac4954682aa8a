"""Merge configurations: the rule (`merge_how`), and value after value into one, with the place of each.

The rules are cloud-init's: `list(append)+dict(no_replace,recurse_list)+str()` names a merger for each kind of value and
its options; how two values are merged depends on the kind of the older one. What cannot be merged (a mapping appended
to a list) is reported and left out alone.
"""

from __future__ import annotations

import re

from cloudboot.errors import ConfigError
from cloudboot.problem import Level, Mark, Marks, Pointer, Problem
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

KEYS = ("merge_how", "merge_type")  # of a configuration: how it wants to be merged; the first one wins
ADVICE = "write it like 'list(append)+dict(no_replace,recurse_list)+str()'"
NAMED = re.compile(r"([a-z_][a-z0-9_]*)\((.*)\)")


class How(NamedTuple):
    """A merge rule: the options of the merger of each kind; None: values of that kind stay as they are."""

    mappings: frozenset[str] | None = None
    lists: frozenset[str] | None = None
    texts: frozenset[str] | None = None

    def completed(self, other: How) -> How:
        """Return this rule, with another's mergers for the kinds that it does not name."""
        return How(*(theirs if own is None else own for own, theirs in zip(self, other, strict=True)))


# Between the parts of one user data: a later part's key replaces the whole earlier one.
PARTS = How(frozenset({"replace"}), frozenset({"replace"}), frozenset({"replace"}))
# Between layers, the highest first: what is there stays, only mappings are filled up.
LAYERS = How(frozenset({"no_replace"}), frozenset({"replace"}), frozenset({"replace"}))
# Ours, for launch-index sections; no text names it: mappings are merged, everything else is the incoming one's.
OVERLAY = How(frozenset({"overlay"}), frozenset({"replace"}), frozenset({"replace"}))


class _Known(NamedTuple):
    methods: tuple[str, ...]  # of several, the first in this order counts
    default: str
    switches: tuple[str, ...] = ()


MERGERS = {
    "dict": _Known(
        ("replace", "no_replace"),
        "no_replace",
        ("recurse_dict", "recurse_list", "recurse_array", "recurse_str", "allow_delete"),  # recurse_dict is always on
    ),
    "list": _Known(
        ("append", "prepend", "replace", "no_replace"),
        "replace",
        ("recurse_dict", "recurse_list", "recurse_array", "recurse_str"),
    ),
    "str": _Known(("append", "replace"), "replace"),
}


def how_of(value: dict[str, Any]) -> Any:
    """Return what a configuration says of its own merging: `merge_how`, else `merge_type`; None if neither is there."""
    how = value.get("merge_how")
    return value.get("merge_type") if how is None else how


def rule(value: dict[str, Any], default: How, header: str = "", ignored: list[str] | None = None) -> How:
    """Return the rule that an incoming configuration is merged by.

    Its own `merge_how` or `merge_type`; the kinds that it does not name are a header's (`Merge-Type`); if neither names
    any, the default. Raises ConfigError as `parse` does.
    """
    how = parse(how_of(value), ignored).completed(parse(header, ignored))
    return default if how == How() else how


def parse(how: Any, ignored: list[str] | None = None) -> How:
    """Read a rule: a text `name(option,…)+name()`, or a list of `{name, settings}` and `[name, option, …]`.

    Nothing (None, an empty text or list) gives the rule that names no kind. Of two mergers for one kind the first
    counts. Raises ConfigError for what cannot be read and for an unknown merger; for an unknown option too, unless
    there is `ignored`: then the message is put there and the option does nothing, as in cloud-init.
    """
    if how is None or how in ("", [], {}):
        return How()
    if not isinstance(how, str | list):
        raise ConfigError(f"merge rule: must be a text or a list: {ADVICE}")
    found: dict[str, frozenset[str]] = {}
    for written, options in _from_text(how) if isinstance(how, str) else _from_list(how):
        name = written.removeprefix("m_")
        if name not in MERGERS:
            raise ConfigError(f"merge rule: unknown merger: {_short(written)}: use {', '.join(MERGERS)}")
        chosen = _chosen(name, options, ignored)
        found.setdefault(name, chosen)
    return How(found.get("dict"), found.get("list"), found.get("str"))


def _from_text(how: str) -> Iterable[tuple[str, list[Any]]]:
    for piece in how.split("+"):
        text = piece.lower().strip().replace("-", "_")
        if not text:
            continue
        match = NAMED.fullmatch(text)
        if match is None:
            raise ConfigError(f"merge rule: not name(option,…): {_short(piece.strip())}: {ADVICE}")
        yield match[1], [word.strip() for word in match[2].split(",") if word.strip()]


def _from_list(how: list[Any]) -> Iterable[tuple[str, list[Any]]]:
    for number, item in enumerate(how, 1):
        name: Any = None
        options: Any = None
        if isinstance(item, dict):
            name, options = item.get("name"), item.get("settings")
            name = name.replace("-", "_").strip() if isinstance(name, str) else name
            if name == "":
                continue
        elif isinstance(item, list) and item:
            name, options = item[0], item[1:]
            if not name:
                continue
        if isinstance(options, str):
            options = [word.strip() for word in options.split(",")]
        if not isinstance(name, str) or not isinstance(options, list | dict):
            raise ConfigError(f"merge rule: item {number} must be {{name: list, settings: [append]}} or [list, append]")
        yield name, list(options)


def _chosen(name: str, options: list[Any], ignored: list[str] | None) -> frozenset[str]:
    """Reduce a merger's options to its method and its switches. Raises ConfigError for an unknown one."""
    known = MERGERS[name]
    method = next((each for each in known.methods if each in options), known.default)
    for option in options:
        if option in known.methods or option in known.switches:
            continue
        told = f"merge rule: unknown option of {name}(): {_short(option)}"
        if ignored is None:
            raise ConfigError(f"{told}: use {', '.join(known.methods + known.switches)}")
        ignored.append(f"{told}: it does nothing: {name}() knows {', '.join(known.methods + known.switches)}")
    switches = {each.replace("array", "list") for each in known.switches if each in options}
    return frozenset({method} | switches)


def _short(written: Any) -> str:
    text = repr(written)
    return text if len(text) <= 60 else f"{text[:60]}…"


def merge(how: How, old: tuple[Any, Marks], new: tuple[Any, Marks], problems: list[Problem]) -> tuple[Any, Marks]:
    """Merge one value into another; each is a pair of the value and its marks, and so is the result.

    Neither is changed. What cannot be merged is left out and appended to `problems`. For more than two, a `Merger` does
    not walk through what it has again each time.
    """
    merger = Merger(problems, old)
    merger.feed(how, *new)
    return merger.result()


class Merger:
    """Merge value after value into one: each costs what it is long, not what is there already.

    Begins with an empty mapping, or with a value and its marks. The marks are kept beside the values in one tree, and
    made a table once, by `result`. A value without a mark has that of the value around it, in its own text. What two
    sides made up (a mapping, a list or a text that was added to) has the mark of where it began.
    """

    def __init__(self, problems: list[Problem], start: tuple[Any, Marks] | None = None) -> None:
        self.problems = problems
        self.how = How()
        value, marks = start or ({}, {})
        self.root = _plant(value, marks, (), None)

    def feed(self, how: How, value: Any, marks: Marks) -> None:
        """Merge a value in, by its rule; its own `merge_how` and `merge_type`, at its top, are not merged."""
        if isinstance(value, dict):
            value = {key: item for key, item in value.items() if key not in KEYS}
            if value and how.mappings is None and isinstance(self.root.value, dict):
                place = next((marks[key,] for key in KEYS if (key,) in marks), marks.get((), Mark("merge rule")))
                told = "merge rule: names no dict(): nothing of this configuration is used: add '+dict()'"
                self.problems.append(Problem(place, told))
        self.how = how
        self.root = self._join(self.root, _plant(value, marks, (), None), ())

    def result(self) -> tuple[Any, Marks]:
        """Return what was merged and where each value of it stands."""
        marks: Marks = {}
        return _flat(self.root, (), marks), marks

    def _join(self, old: _Node, new: _Node, pointer: Pointer) -> _Node:
        """Return what stands at a place after the merge: the old node, changed, or the new one."""
        if isinstance(old.value, dict):
            return self._join_mappings(old, new, pointer)
        if isinstance(old.value, list):
            return self._join_lists(old, new, pointer)
        if isinstance(old.value, str):
            return self._join_texts(old, new, pointer)
        return old

    def _join_mappings(self, old: _Node, new: _Node, pointer: Pointer) -> _Node:
        options = self.how.mappings
        if options is None or not isinstance(new.value, dict):
            return old
        overlay = "overlay" in options
        if old.mark is None or (overlay and new.mark is not None):
            old.mark = new.mark
        for key, item in new.value.items():
            there = old.value.get(key)
            if there is None or (overlay and not (isinstance(there.value, dict) and isinstance(item.value, dict))):
                old.value[key] = item
            elif item.value is None and "allow_delete" in options:
                del old.value[key]
            elif "replace" in options:
                old.value[key] = item
            elif isinstance(item.value, dict) or _recurses(options, item.value):
                old.value[key] = self._join(there, item, (*pointer, key))
        return old

    def _join_lists(self, old: _Node, new: _Node, pointer: Pointer) -> _Node:
        options = self.how.lists
        if options is None:
            return old
        if not isinstance(new.value, list):
            return new if "replace" in options else self._refuse(old, new, pointer, "a list")
        if old.mark is None:
            old.mark = new.mark
        if "append" in options:
            old.value += new.value
        elif "prepend" in options:
            old.value[:0] = new.value
        elif "replace" in options:
            length = len(old.value)
            for index, item in enumerate(new.value[:length]):
                recurses = _recurses(options, item.value)
                old.value[index] = self._join(old.value[index], item, (*pointer, index)) if recurses else item
            if len(new.value) > length:
                place = new.value[length].mark or Mark("merge rule")
                told = f"the list has {length} here, and list(replace) makes it no longer: the rest is left out"
                self.problems.append(Problem(place, f"{dotted((*pointer, length))}: {told}", Level.WARNING))
        return old

    def _join_texts(self, old: _Node, new: _Node, pointer: Pointer) -> _Node:
        options = self.how.texts
        if options is None:
            return old
        if "append" not in options:
            return new
        if not isinstance(new.value, str):
            return self._refuse(old, new, pointer, "a text")
        if old.more is None:
            old.more = []
        old.more.append(new.value)
        return old

    def _refuse(self, old: _Node, new: _Node, pointer: Pointer, kind: str) -> _Node:
        where = f" ({old.mark})" if old.mark else ""
        told = f"{dotted(pointer) or 'its top'}: {_kind(new.value)} cannot be added to {kind}{where}: left out"
        self.problems.append(Problem(new.mark or Mark("merge rule"), told))
        return old


class _Node:
    """A value in the tree: a dict or list of nodes, or a scalar; a text may have pieces appended to it."""

    __slots__ = ("mark", "more", "value")

    def __init__(self, value: Any, mark: Mark | None) -> None:
        self.value = value
        self.mark = mark
        self.more: list[str] | None = None  # joined once, at the end


def _plant(value: Any, marks: Marks, pointer: Pointer, around: Mark | None) -> _Node:
    mark = marks.get(pointer, around)
    if isinstance(value, dict):
        return _Node({key: _plant(item, marks, (*pointer, key), mark) for key, item in value.items()}, mark)
    if isinstance(value, list):
        return _Node([_plant(item, marks, (*pointer, index), mark) for index, item in enumerate(value)], mark)
    return _Node(value, mark)


def _recurses(options: frozenset[str], value: Any) -> bool:
    kinds = ((dict, "recurse_dict"), (list, "recurse_list"), (str, "recurse_str"))
    return any(isinstance(value, kind) and option in options for kind, option in kinds)


def _flat(node: _Node, pointer: Pointer, marks: Marks) -> Any:
    if node.mark is not None:
        marks[pointer] = node.mark
    if isinstance(node.value, dict):
        return {key: _flat(item, (*pointer, key), marks) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [_flat(item, (*pointer, index), marks) for index, item in enumerate(node.value)]
    return node.value if node.more is None else node.value + "".join(node.more)


def dotted(pointer: Pointer) -> str:
    """Return a place as a person writes it: `users[0].name`."""
    text = ""
    for step in pointer:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _kind(value: Any) -> str:
    names = ((dict, "a mapping"), (list, "a list"), (str, "a text"), (bool, "a truth value"), (int | float, "a number"))
    return next((name for kind, name in names if isinstance(value, kind)), "nothing" if value is None else "a value")
