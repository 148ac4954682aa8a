"""A plan for people, in lines, and for programs, as JSON (docs/plan.schema.json)."""

from __future__ import annotations

import textwrap
from collections import Counter

from cloudboot.instance import Kind
from cloudboot.plan import Fleet, Plan
from cloudboot.problem import Level
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cloudboot.plan import Item, Part
    from cloudboot.problem import Problem

FORMAT = 1  # of the JSON
WIDTH = 100  # columns of what is said in sentences
LIMIT = 60  # lines of one diff; JSON has them all
COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36, "bold": 1, "dim": 2}
FILES = ("file", "directory", "link")
SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}
WORDS = {"command": (">", "cyan"), "request": ("@", "cyan"), "firewall": ("~", "yellow")}
TOOL = ("$", "cyan")
ORDER = (
    *FILES, "user", "group", "password", "mount", "swap", "packages", "unit", "firewall", "tool", "command", "request"
)  # fmt: skip
DONE = (*FILES, "user", "group", "password")  # what is said to be created, changed, removed
COUNTED = {  # kind, one of it, more of it
    "directory": ("directory", "directories"), "command": ("command of the owner's", "commands of the owner's"),
    "firewall": ("layer of the lock-down", "layers of the lock-down"), "tool": ("other tool", "other tools"),
    "packages": ("run of apt or dpkg", "runs of apt and dpkg"), "unit": ("call of systemd", "calls of systemd"),
    "swap": ("step for swap", "steps for swap"),
}  # fmt: skip
KINDS = {
    Kind.NEW: "a new instance",
    Kind.SAME: "the same instance as before",
    Kind.UNKNOWN: "it is not known which instance this is",
    Kind.NEW_WITHOUT_DATA: "a new instance without data",
}


def text(plan: Plan | Fleet, *, colour: bool) -> str:
    """Return a plan, or what a fleet has in common and what differs, as lines for people."""

    def paint(name: str, words: str) -> str:
        return f"\033[{COLOURS[name]}m{words}\033[0m" if colour and words else words

    lines = _head(plan, paint)
    if isinstance(plan, Plan):
        lines += _parts(plan.parts, paint)
        lines += _recorded(plan.parts, paint)
        lines += ["", paint("bold", _summary(plan.parts))]
        return "\n".join(lines) + "\n"
    lines += ["", paint("bold", f"Common to launch index {_indices(plan.indices)}")]
    lines += _parts(plan.common, paint)
    for group in plan.groups:
        lines += ["", paint("bold", f"Only launch index {_indices(group.indices)}")]
        lines += _parts(group.parts, paint)
    if not plan.groups:
        lines += ["", paint("bold", "Nothing differs by launch index.")]
    lines += _recorded([*plan.common, *(part for group in plan.groups for part in group.parts)], paint)
    return "\n".join(lines) + "\n"


def document(plan: Plan | Fleet) -> dict[str, Any]:
    """Return a plan as JSON holds it."""
    shared = {
        "format": FORMAT,
        "well": plan.well,
        "instance": _instance(plan),
        "problems": [_problem(problem) for problem in plan.problems],
        "remarks": list(plan.remarks),
        "unread": list(plan.unread),
    }
    if isinstance(plan, Plan):
        return {**shared, "modules": [_part(part) for part in plan.parts]}
    groups = [{"indices": list(each.indices), "modules": [_part(part) for part in each.parts]} for each in plan.groups]
    return {**shared, "indices": list(plan.indices), "common": [_part(part) for part in plan.common], "differs": groups}


# -- for people


def _head(plan: Plan | Fleet, paint: Callable[[str, str], str]) -> list[str]:
    current = plan.instance
    where = " ".join(word for word in (current.datasource, current.platform) if word)
    first = f"Plan for {current.id}"
    if isinstance(plan, Plan):
        index = "" if current.launch_index is None else f", launch index {current.launch_index}"
        first += f": {KINDS[plan.kind]}{index} ({where})"
    lines = [paint("bold", first)]
    for remark in plan.remarks:
        lines += _wrapped(remark, "  ", "  ")
    for problem in plan.problems:
        lines += _problem_lines(problem, "  ", paint)
    if plan.unread:
        told = f"could not be read, and taken for absent: {', '.join(plan.unread)}: as root nothing is guessed"
        lines += [paint("yellow", line) for line in _wrapped(told, "  ? ", "    ")]
    return lines


def _parts(parts: Sequence[Part], paint: Callable[[str, str], str]) -> list[str]:
    lines: list[str] = []
    for stage in dict.fromkeys(part.stage for part in parts):
        own = [part for part in parts if part.stage == stage]
        lines += ["", paint("bold", f"{stage} stage")]
        for part in own:
            if _has_news(part):
                lines += _running(part, paint)
        lines += [paint("dim", line) for line in _quiet(own)]
    return lines


def _has_news(part: Part) -> bool:
    return part.runs and bool(part.items or part.problems or part.errors or part.notes)


def _quiet(parts: Sequence[Part]) -> list[str]:
    """Name the modules that run without a change, and those that do not run; those with one reason together."""
    names: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        if not _has_news(part):
            silent = not part.runs and part.reason.startswith("the configuration has no ")
            reason = "the configuration does not ask for it" if silent else part.reason
            names.setdefault(("nothing to change" if part.runs else "not run", reason), []).append(part.module)
    return [
        line
        for (what, reason), modules in names.items()
        for line in _wrapped(f"{what}: {', '.join(modules)}: {reason}", "  · ", "    ")
    ]


def _running(part: Part, paint: Callable[[str, str], str]) -> list[str]:
    lines = [f"  {paint('bold', part.module)}{paint('dim', f': {_clean(part.reason)}')}"]
    told: set[str] = set()
    for item in part.items:
        lines += _item_lines(item, paint, first=item.unsure not in told)
        told.add(item.unsure)
    for problem in part.problems:
        lines += _problem_lines(problem, "    ", paint)
    for error in part.errors:
        lines += [paint("red", line) for line in _wrapped(f"fails: {error}", "    ! ", "      ")]
    for note in part.notes:
        lines += [paint("dim", line) for line in _wrapped(note, "    · ", "      ")]
    return lines


def _item_lines(item: Item, paint: Callable[[str, str], str], *, first: bool) -> list[str]:
    """Return the lines of one change; `first`: nothing before it in its module may differ for the same reason."""
    sign, colour = SIGNS[item.verb] if item.kind in FILES else WORDS.get(item.kind, TOOL)
    words = [_clean(line) for line in item.text.splitlines()] or [""]
    marks = [("may differ: " + item.unsure) if first else "may differ"] if item.unsure else []
    marks += ["opaque: not known before it is made"] if item.opaque else []
    marks += ["***: content not shown"] if item.secret else []
    marks += ["recorded only"] if item.recorded else []
    lines = [f"    {paint(colour, f'{sign} {words[0]}')}{paint('dim', ''.join(f'  [{mark}]' for mark in marks))}"]
    lines += [f"      {paint(colour, word)}" for word in words[1:]]
    if item.effect:
        lines += _wrapped(item.effect, "      → ", "        ")
    shown = item.lines[:LIMIT]
    lines += [f"        {_diff_line(line, item, paint)}".rstrip() for line in shown]
    if len(item.lines) > LIMIT:
        lines.append(paint("dim", f"        … {len(item.lines) - LIMIT} more lines (--format json has them)"))
    return lines


def _diff_line(line: str, item: Item, paint: Callable[[str, str], str]) -> str:
    clean = _clean(line)
    if item.kind == "command":
        return paint("dim", f"| {clean}")
    colour = {"+": "green", "-": "red", "@": "cyan", "\\": "dim"}.get(line[:1])
    return paint(colour, clean) if colour else clean


def _problem_lines(problem: Problem, indent: str, paint: Callable[[str, str], str]) -> list[str]:
    colour = {Level.ERROR: "red", Level.WARNING: "yellow"}.get(problem.level, "dim")
    return [paint(colour, line) for line in _wrapped(str(problem), f"{indent}! ", f"{indent}  ")]


def _wrapped(words: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        _clean(words),
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _recorded(parts: Iterable[Part], paint: Callable[[str, str], str]) -> list[str]:
    reasons = dict.fromkeys(item.recorded for part in parts for item in part.items if item.recorded)
    lines = [paint("dim", line) for reason in reasons for line in _wrapped(reason, "  · ", "    ")]
    return ["", paint("bold", "Recorded only, because"), *lines] if lines else []


def _clean(words: str) -> str:
    """Return a text that a terminal takes as text: no escapes, no bytes that are no characters."""
    return "".join(char if char.isprintable() or char == "\t" else "·" for char in words)


def _summary(parts: Iterable[Part]) -> str:
    counts: Counter[tuple[str, str]] = Counter()
    recorded = 0
    for part in parts:
        for item in part.items:
            counts[item.verb, item.kind] += 1
            recorded += bool(item.recorded)
    if not counts:
        return "Nothing would change."
    words = []
    for (verb, kind), number in sorted(counts.items(), key=lambda count: ORDER.index(count[0][1])):
        one, more = COUNTED.get(kind, (kind, f"{kind}s"))
        words.append(f"{number} {one if number == 1 else more}{f' {verb}d' if kind in DONE else ''}")
    told = f"{', '.join(words)}"
    return f"{told}; of these {recorded} only recorded." if recorded else f"{told}."


def _indices(indices: Sequence[int | None]) -> str:
    return ", ".join("none" if index is None else str(index) for index in indices)


# -- for programs


def _instance(plan: Plan | Fleet) -> dict[str, Any]:
    current = plan.instance
    found: dict[str, Any] = {
        "id": current.id,
        "datasource": current.datasource,
        "platform": current.platform,
        "hostname": current.hostname,
    }
    if isinstance(plan, Plan):
        found |= {"kind": str(plan.kind), "launch_index": current.launch_index}
    return found


def _part(part: Part) -> dict[str, Any]:
    return {
        **part._asdict(),
        "items": [{**item._asdict(), "lines": list(item.lines)} for item in part.items],
        "problems": [_problem(problem) for problem in part.problems],
        "errors": list(part.errors),
        "notes": list(part.notes),
    }


def _problem(problem: Problem) -> dict[str, Any]:
    mark = problem.mark
    return {
        "source": mark.source,
        "line": mark.line,
        "column": mark.column,
        "text": problem.text,
        "level": str(problem.level),
    }
