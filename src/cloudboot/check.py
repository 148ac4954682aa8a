"""The verb `cloudboot schema`: check user data on a laptop, before a machine is started with it.

The same way as at boot: what is said here is what the boot would say. Includes are not fetched, templates not rendered.
"""

from __future__ import annotations

import sys

from cloudboot import accounts, modules, sshkeys
from cloudboot.compose import Given, compose
from cloudboot.config import CORE_SCHEMA, NOT_HERE, Layer
from cloudboot.errors import UsageError
from cloudboot.instance import Instance
from cloudboot.problem import Level, Problem, at, in_owners_words
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple
from cloudboot.userdata import launch_index, parts
from cloudboot.userdata.kinds import Kind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from cloudboot.config import Config

WELL, WRONG = 0, 1
NOTHING = tuple(NOT_HERE.values())
# An EC2 instance without a launch index: every part and every section is looked at.
ANY = Instance("i-00000000000000000", "Ec2", "aws")


class Report(NamedTuple):
    """What is wrong with a user data, in the order of its text; and what else its owner should know."""

    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def well(self) -> bool:
        """Tell whether a boot would do all that it says. What is deprecated works; what we lack is no mistake."""
        return all(each.level is Level.DEPRECATED or each.text.endswith(NOTHING) for each in self.problems)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `cloudboot schema` understands."""
    parser.epilog = "exit status: 0 well (also if something is deprecated), 1 something is wrong, 64 bad usage"
    parser.add_argument("file", nargs="?", metavar="FILE", help="the user data (-: standard input)")
    parser.add_argument("-c", "--config-file", metavar="FILE", help="the same")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace, write: Callable[[str], object]) -> int:
    """Do `cloudboot schema`; return the exit status. Raises UsageError."""
    if (arguments.file is None) == (arguments.config_file is None):
        raise UsageError("schema: give one file (see `cloudboot schema --help`)")
    path = arguments.file or arguments.config_file
    try:
        if path == "-":
            raw = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                raw = file.read()
    except OSError as error:
        raise UsageError(f"schema: {path}: {error.strerror}") from None
    report = check(raw, "stdin" if path == "-" else path)
    write(as_json(report) if arguments.format == "json" else as_text(report, path))
    return WELL if report.well else WRONG


def check(raw: bytes, source: str) -> Report:
    """Check user data; `source` names it in messages."""
    schemas = {**CORE_SCHEMA, **modules.schemas()}
    made = compose(Given(raw, None, Layer("image", {}, {}), source=source), ANY, schemas, None)
    notes = [Problem(each.mark, f"{each.text or 'a template'}: not looked into here") for each in made.unresolved]
    place = _index_used(raw, source)
    if place is not None:
        told = "launch index: instances that Auto Scaling starts all have index 0"
        notes.append(place._replace(text=told))
    problems = {*made.config.problems, *_of_modules(made.config)}
    return Report(tuple(sorted(problems)), tuple(sorted(notes)))


def _of_modules(config: Config) -> Iterator[Problem]:
    """Yield what the modules would say of the text alone: names of accounts, keys."""
    # Whatever the image's default user is called, it will have one.
    asked = accounts.wanted(config.value, {"name": "default"})
    flaws = [(flaw.pointer, flaw.text) for flaw in asked.flaws]
    for account in asked.users:
        given = account.fields.get("ssh_authorized_keys")
        flaws += sshkeys.unusable(given, (*account.pointer, "ssh_authorized_keys"), "users: ssh_authorized_keys")
    flaws += sshkeys.unusable(config.value.get("ssh_authorized_keys"), ("ssh_authorized_keys",), "ssh_authorized_keys")
    for pointer, text in flaws:
        yield Problem(at(config.marks, pointer, "users"), in_owners_words(config.marks, pointer, text))


def _index_used(raw: bytes, source: str) -> Problem | None:
    """Return the place that first depends on the launch index."""
    from cloudboot.config import read_layer

    for part in parts.split(raw, source).parts:
        if part.launch_index is not None:
            return Problem(part.mark, "")
        if part.kind is not Kind.CLOUD_CONFIG:
            continue
        layer = read_layer(parts.text_of(part.content, part.mark)[0], part.mark.source, "", [])
        for key in (launch_index.KEY, "launch-index"):
            table = layer.value.get(key)
            if table is not None and (not isinstance(table, dict) or set(table) != {"*"}):
                return Problem(layer.marks.get((key,), part.mark), "")
    return None


def as_text(report: Report, path: str) -> str:
    """Return what people read: a line for each problem, and a last one that says how many of what."""
    lines = [str(each) for each in report.problems]
    lines += [f"{each.mark}: note: {each.text}" for each in report.notes]
    counts = {level: len([each for each in report.problems if each.level is level]) for level in Level}
    told = [f"{count} {_named(level, count)}" for level, count in counts.items() if count]
    return "\n".join([*lines, f"{path}: {', '.join(told) or 'well'}", ""])


def _named(level: Level, count: int) -> str:
    name = {Level.ERROR: "error", Level.WARNING: "warning", Level.DEPRECATED: "deprecation"}[level]
    return name if count == 1 else f"{name}s"


def as_json(report: Report) -> str:
    """Return the same for programs: `{well, problems: [{source, line, column, level, text}], notes: […]}`.

    line and column count from 1; 0 is unknown.
    """
    import json

    def plain(each: Problem, level: str) -> dict[str, Any]:
        mark = each.mark
        return {"source": mark.source, "line": mark.line, "column": mark.column, "level": level, "text": each.text}

    value = {
        "well": report.well,
        "problems": [plain(each, str(each.level)) for each in report.problems],
        "notes": [plain(each, "note") for each in report.notes],
    }
    return json.dumps(value, indent=1) + "\n"
