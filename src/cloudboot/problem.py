"""What is wrong in somebody's configuration: where, what, and what to do."""

from __future__ import annotations

from enum import StrEnum

from cloudboot.typed import NamedTuple


class Level(StrEnum):
    """How bad: an error loses something, a warning does not, a deprecation still works."""

    ERROR = "error"
    WARNING = "warning"
    DEPRECATED = "deprecated"


class Mark(NamedTuple):
    """A place in a text: source (`user-data`, a file's path, `part-002`), line and column from 1; 0 is unknown.

    item: an item's own number in the owner's list, where items before it were left out; else -1.
    """

    source: str
    line: int = 0
    column: int = 0
    item: int = -1

    def __str__(self) -> str:
        if not self.line:
            return self.source
        return f"{self.source}:{self.line}:{self.column}" if self.column else f"{self.source}:{self.line}"


class Problem(NamedTuple):
    """One line for a person: `user-data:3:5: runcmd: must be a list, not a text: 'foo'`."""

    mark: Mark
    text: str
    level: Level = Level.ERROR

    def __str__(self) -> str:
        kind = "" if self.level is Level.ERROR else f"{self.level}: "
        return printable(f"{self.mark}: {kind}{self.text}")


def printable(text: str) -> str:
    """Return a text that is one line on every terminal: what is not printable is written as Python writes it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


Pointer = tuple[str | int, ...]  # where in a configuration: ("users", 0, "name")
Marks = dict[Pointer, Mark]


def at(marks: Marks, pointer: Pointer, source: str) -> Mark:
    """Return where in the owner's text a value stands; the nearest known place above it, else only `source`."""
    while pointer:
        if pointer in marks:
            return marks[pointer]
        pointer = pointer[:-1]
    return Mark(source)


def in_owners_words(marks: Marks, pointer: Pointer, text: str) -> str:
    """Count items in a message as the owner's list does: what was left of it begins with `mounts[1]`, his third."""
    place = ""
    for depth, step in enumerate(pointer, 1):
        if not isinstance(step, int):
            place += f".{step}" if place else step
            continue
        index = marks[pointer[:depth]].item if pointer[:depth] in marks else -1
        own = f"{place}[{step if index < 0 else index}]"
        text = text.replace(f"{place}[{step}]", own, 1)
        place = own
    return text
