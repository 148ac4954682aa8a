"""/etc/fstab as a value: parse, merge, render. Lines that are not ours stay byte for byte, in place.

Ours carry the option `comment=cloudconfig`, as cloud-init's do, so that lines which cloud-init wrote are ours too.
"""

from __future__ import annotations

import posixpath
import re

from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = "/etc/fstab"
MARK = "comment=cloudconfig"
CONSUMED = "x-cloudboot.consume"  # the option of lines for volumes that say themselves where they go
INSTANCE_STORE = "x-cloudboot.instance-store"  # of those for the disks that are empty after a stop
# What mount(8) would read as the end of a field, or as an escape.
ESCAPES = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}


class Entry(NamedTuple):
    """A line of fstab, unescaped; see fstab(5)."""

    source: str
    target: str
    kind: str = "auto"
    options: str = "defaults"
    dump: str = "0"
    passno: str = "0"

    @property
    def swap(self) -> bool:
        """Tell whether this is swap space, which has no mount point."""
        return self.kind == "swap"

    @property
    def words(self) -> list[str]:
        """The options, one by one."""
        return self.options.split(",")

    @property
    def ours(self) -> bool:
        """Tell whether we, or cloud-init, wrote this line."""
        return MARK in self.words

    def with_option(self, *options: str) -> Entry:
        """Return the entry with these options; what it has already stays."""
        return self._replace(options=",".join([*self.words, *(word for word in options if word not in self.words)]))

    def same_place(self, other: Entry) -> bool:
        """Tell whether two entries are for the same mount point, or the same swap space."""
        if self.swap or other.swap:
            return self.swap and other.swap and self.source == other.source
        return place(self.target) == place(other.target)


def place(target: str) -> str:
    """Return a mount point as the kernel writes it: no double and no trailing slashes."""
    return posixpath.normpath("/" + target.lstrip("/")) if target.startswith("/") else target


def parse(text: str) -> list[Entry]:
    """Return the entries of a whole fstab; comments and what cannot be read are left out."""
    return [entry for entry in map(parse_line, text.split("\n")) if entry is not None]


def parse_line(line: str) -> Entry | None:
    """Return the entry of one line, None for a comment, an empty line, or one that cannot be read."""
    fields = re.split(r"[ \t]+", line.strip(" \t\r"))
    if len(fields) < 3 or fields[0].startswith("#"):
        return None
    return Entry(*map(unescape, fields[:6]))


def render(entry: Entry) -> str:
    """Return the line of an entry, escaped, without the newline."""
    line = "\t".join("".join(ESCAPES.get(letter, letter) for letter in field) for field in entry)
    return "\\043" + line[1:] if line.startswith("#") else line


def unescape(text: str) -> str:
    """Undo the octal escapes of fstab and of the kernel's tables (`\\040` is a space)."""
    if "\\" not in text:
        return text
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def merge(text: str, wanted: Sequence[Entry], mark: str = MARK) -> str:
    """Return a whole fstab in which our lines, those with the option `mark`, are exactly the wanted ones.

    One that says the same already stays as it is, one that differs is rewritten in its place, one that is not wanted
    any more goes, a new one is put at the end. All other lines keep their bytes.
    """
    left = [entry.with_option(mark) for entry in wanted]
    lines = []
    for line in text.split("\n"):
        entry = parse_line(line)
        if entry is None or mark not in entry.words:
            lines.append(line)
            continue
        match = next((each for each in left if each.same_place(entry)), None)
        if match is not None:
            left.remove(match)
            lines.append(line if entry == match else render(match))
    if left:
        end = [""] if lines[-1] == "" else []
        lines = lines[: len(lines) - len(end)] + [render(entry) for entry in left] + [""]
    return "\n".join(lines)
