"""Sections of a configuration for some instances of one launch: `instances-cloud-config`, by `ami-launch-index`.

The sections that name this instance's index are merged over the rest of the configuration, from the one that names the
most indices (`"*"`) to the one that names the fewest; where they stand in the text does not matter. What two sections
of one size say differently is reported and left out.
"""

from __future__ import annotations

import re

from cloudboot.errors import ConfigError
from cloudboot.problem import Level, Mark, Marks, Pointer, Problem
from cloudboot.typed import Any, NamedTuple
from cloudboot.userdata.merge import KEYS as MERGE_KEYS
from cloudboot.userdata.merge import OVERLAY, How, Merger, dotted, rule

KEY = "instances-cloud-config"
ADVICE = 'write an index ("3"), a range ("1-4"), a list ("0,5-7") or "*"'
DIGITS = 18  # of an index, far more than there are instances
RANGE = re.compile(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?")


class Indices(NamedTuple):
    """The launch indices that a key names: ranges (first, last), in order, apart from each other; None: every one."""

    ranges: tuple[tuple[int, int], ...] | None

    def names(self, index: int | None) -> bool:
        """Tell whether an index is named; an instance without one (None) is only in `"*"`."""
        if self.ranges is None:
            return True
        return index is not None and any(first <= index <= last for first, last in self.ranges)

    def size(self) -> int | None:
        """Return how many indices are named; None: every one."""
        return None if self.ranges is None else sum(last - first + 1 for first, last in self.ranges)

    def __str__(self) -> str:
        if self.ranges is None:
            return "*"
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)


class Section(NamedTuple):
    """One section: its key as written, its configuration (without `merge_how`), where each value of it stands."""

    key: str
    value: dict[str, Any]
    marks: Marks


class _Chosen(NamedTuple):
    indices: Indices
    how: How
    section: Section


def parse_key(text: str) -> Indices:
    """Read the key of a section. An index that is named twice counts once.

    Raises ConfigError for what names no index, and for numbers that YAML reads as others (`010` is 8, `1:30` is 90):
    whether the key was quoted cannot be seen here.
    """
    if text.strip() == "*":
        return Indices(None)
    if not text.strip():
        raise ConfigError(f"{KEY}: the key {_short(text)} names no index: {ADVICE}")
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(_range(piece) for piece in text.split(",")):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return Indices(tuple(ranges))


def _range(piece: str) -> tuple[int, int]:
    match = RANGE.fullmatch(piece)
    if match is None:
        raise ConfigError(f"{KEY}: not an index: {_short(piece.strip())}: {_advice(piece.strip())}")
    first, last = _index(match[1]), _index(match[2] or match[1])
    if last < first:
        raise ConfigError(f'{KEY}: the range {_short(piece.strip())} ends before it begins: write "{last}-{first}"')
    return first, last


def _index(digits: str) -> int:
    if len(digits) > 1 and digits[0] == "0":
        plain = digits.lstrip("0")[:DIGITS] or "0"
        other = _as_yaml(digits)
        said = "has a leading zero" if other in (None, int(plain)) else f"is {other} in YAML"
        choice = plain if other in (None, int(plain)) else f"{other} or {plain}"
        raise ConfigError(f"{KEY}: {_short(digits)} {said}: write {choice}")
    if len(digits) > DIGITS:
        raise ConfigError(f"{KEY}: no launch index is as large as {_short(digits)}: write a smaller one")
    return int(digits)


def _advice(piece: str) -> str:
    """Say what to write instead of what is not an index."""
    if not piece:
        return f"nothing between two commas: {ADVICE}"
    if piece == "*":
        return '"*" names every index and stands alone'
    if piece[0] == "-":
        return "an index is not negative: the first instance has 0"
    if piece[-1] == "-":
        return f'a range has an end: write "{piece}99"'
    number = _as_yaml(piece)
    if number is not None:
        return f"it is {number} in YAML: write {number}, or {ADVICE.removeprefix('write ')}"
    return ADVICE


def _as_yaml(text: str) -> int | None:
    """Return the whole number that YAML 1.1 takes a plain text for, if it does."""
    import yaml

    if len(text) > DIGITS:
        return None
    try:
        number = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def apply(value: dict[str, Any], marks: Marks, launch_index: int | None) -> tuple[dict[str, Any], Marks, list[Problem]]:
    """Merge the sections for this instance over the rest of a layer; the result has no `instances-cloud-config`.

    `launch_index` None: there is none, only `"*"` counts. What is wrong with any section is a problem, whether it is
    for this instance or not. Nothing raises, nothing given is changed.
    """
    if KEY not in value:
        return value, marks, []
    problems: list[Problem] = []
    rest = {key: item for key, item in value.items() if key != KEY}
    merger = Merger(problems, (rest, {place: mark for place, mark in marks.items() if place[:1] != (KEY,)}))
    tiers: dict[int | None, list[_Chosen]] = {}
    for chosen in _read(value, marks, problems):
        if chosen.indices.names(launch_index):
            tiers.setdefault(chosen.indices.size(), []).append(chosen)
    for size in sorted(tiers, key=lambda size: (size is not None, -(size or 0))):
        tier = sorted(tiers[size], key=lambda each: (each.indices.ranges or (), each.section.key))
        for each, settled in zip(tier, _settled(tier, size, problems), strict=True):
            merger.feed(each.how, settled, each.section.marks)
    return *merger.result(), problems


def sections(value: dict[str, Any], marks: Marks) -> list[Section]:
    """Return every section that is a mapping, in the order of the text, also those whose key cannot be read.

    Without what is not configuration: `merge_how`, `merge_type`, and `instances-cloud-config` itself.
    """
    table = value.get(KEY)
    if not isinstance(table, dict):
        return []
    where: dict[str | int, Marks] = {}
    for pointer, mark in marks.items():
        if pointer[:1] == (KEY,) and len(pointer) > 1:
            where.setdefault(pointer[1], {})[pointer[2:]] = mark
    around = marks.get((KEY,), Mark(KEY))
    result = []
    for key, section in table.items():
        if isinstance(section, dict):
            usable = {name: item for name, item in section.items() if name not in (*MERGE_KEYS, KEY)}
            result.append(Section(key, usable, {(): around} | where.get(key, {})))
    return result


def indices_named(value: dict[str, Any]) -> list[int]:
    """Return one index, the lowest, for each different choice of sections; in order.

    Among them is one that no key names, beyond a range: sections `"0"` and `"1-9"` give 0, 1 and 10. Nothing is
    expanded: a range may be as long as it likes. Without a key that names an index: 0.
    """
    table = value.get(KEY)
    turns: dict[int, int] = {}  # index -> the sections, as bits, that begin to name it or cease to
    for number, key in enumerate(table if isinstance(table, dict) else ()):
        try:
            ranges = parse_key(key).ranges or ()
        except ConfigError:
            continue
        for first, last in ranges:
            turns[first] = turns.get(first, 0) ^ 1 << number
            turns[last + 1] = turns.get(last + 1, 0) ^ 1 << number
    lowest: dict[int, int] = {}  # the sections that name it -> index
    named = 0
    for index in sorted(turns):
        named ^= turns[index]
        lowest.setdefault(named, index)
    return sorted(lowest.values()) or [0]


def _read(value: dict[str, Any], marks: Marks, problems: list[Problem]) -> list[_Chosen]:
    """Read the sections; what is wrong with them is appended to `problems`."""
    table = value[KEY]
    if not isinstance(table, dict):
        if table is not None:
            told = f"{KEY}: must be a mapping from launch indices to sections: left out"
            problems.append(Problem(marks.get((KEY,), Mark(KEY)), told))
        return []
    usable = {section.key: section for section in sections(value, marks)}
    result = []
    for key, item in table.items():
        place = marks.get((KEY, key), marks.get((KEY,), Mark(KEY)))
        try:
            indices = parse_key(key)
        except ConfigError as error:
            problems.append(Problem(place, f"{error}: the section is left out"))
            continue
        if item is None:
            problems.append(Problem(place, f"{KEY}.{key}: is empty: it does nothing", Level.WARNING))
            continue
        if key not in usable:
            problems.append(
                Problem(place, f"{KEY}.{key}: must be a mapping (key: value), as a cloud-config is: left out")
            )
            continue
        if KEY in item:
            told = f"{KEY}.{key}: a section cannot hold sections: {KEY} in it is left out"
            problems.append(Problem(marks.get((KEY, key, KEY), place), told))
        result.append(_Chosen(indices, _how(key, item, marks, place, problems), usable[key]))
    return result


def _how(key: str, item: dict[str, Any], marks: Marks, place: Mark, problems: list[Problem]) -> How:
    place = next((marks[KEY, key, name] for name in MERGE_KEYS if (KEY, key, name) in marks), place)
    ignored: list[str] = []
    try:
        how = rule(item, OVERLAY, ignored=ignored)
    except ConfigError as error:
        problems.append(Problem(place, f"{KEY}.{key}: {error}: the section is merged as one without it"))
        return OVERLAY
    problems += [Problem(place, f"{KEY}.{key}: {told}", Level.WARNING) for told in ignored]
    return how


def _settled(tier: list[_Chosen], size: int | None, problems: list[Problem]) -> list[dict[str, Any]]:
    """Return the values of equally specific sections without what they say differently."""
    values = [each.section.value for each in tier]
    return values if len(tier) == 1 else _agreed(tier, values, (), size, problems)


def _agreed(
    tier: list[_Chosen], values: list[dict[str, Any]], pointer: Pointer, size: int | None, problems: list[Problem]
) -> list[dict[str, Any]]:
    """Go through mappings side by side. What only one says stays; what all say alike, the first says.

    Mappings are gone into where the sections are merged as usual; under a rule of its own a key is one whole.
    """
    result: list[dict[str, Any]] = [{} for _ in tier]
    for key in dict.fromkeys(key for value in values for key in value):
        holders = [number for number, value in enumerate(values) if key in value]
        items = [values[number][key] for number in holders]
        these = [tier[number] for number in holders]
        place = (*pointer, key)
        if len(holders) == 1 or (
            all(_same(items[0], item) for item in items) and len({each.how for each in these}) == 1
        ):
            result[holders[0]][key] = items[0]
        elif all(isinstance(item, dict) for item in items) and all(each.how == OVERLAY for each in these):
            for number, item, inner in zip(holders, items, _agreed(these, items, place, size, problems), strict=True):
                if inner or not item:  # nothing left of it: what is below stays
                    result[number][key] = inner
        else:
            problems.append(_clash(these, place, size))
    return result


def _clash(these: list[_Chosen], place: Pointer, size: int | None) -> Problem:
    marks = sorted(_mark(each.section, place) for each in these)
    many = "every index" if size is None else "1 index" if size == 1 else f"{size} indices"
    told = (
        f"{dotted(place)}: set differently at {' and '.join(map(str, marks))}, in sections that name {many} each: "
        "none of them counts: set it in one section only, or in one that names fewer indices"
    )
    return Problem(marks[0], told)


def _mark(section: Section, pointer: Pointer) -> Mark:
    while pointer and pointer not in section.marks:
        pointer = pointer[:-1]
    return section.marks[pointer]


def _same(one: Any, other: Any) -> bool:
    """Compare as YAML does: `1`, `true` and `1.0` are three things."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)
