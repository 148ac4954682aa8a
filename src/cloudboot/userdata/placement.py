"""Where the parts that are run, and not merged, are kept: below the instance's folder."""

from __future__ import annotations

from cloudboot.problem import Level, Problem
from cloudboot.typed import TYPE_CHECKING, NamedTuple
from cloudboot.userdata.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cloudboot.userdata.parts import Part

BOOTHOOKS = "boothooks"
HANDLERS = "handlers"
CUSTOM = "custom"
MANIFEST = "parts.json"
FOLDERS = {
    Kind.SCRIPT: "scripts/user",
    Kind.PER_BOOT: "scripts/per-boot",
    Kind.PER_INSTANCE: "scripts/per-instance",
    Kind.PER_ONCE: "scripts/per-once",
    Kind.BOOTHOOK: BOOTHOOKS,
    Kind.PART_HANDLER: HANDLERS,
}
VENDORS = "scripts/vendor"  # one folder for all the vendor's scripts
# All that is ours to clear of what an earlier user data has left; the vendor's apart.
OWNERS_FOLDERS = (*FOLDERS.values(), CUSTOM)
VENDORS_FOLDERS = (VENDORS, *(f"{folder}-vendor" for folder in (BOOTHOOKS, HANDLERS, CUSTOM)))


class Placed(NamedTuple):
    """A file: its path below the instance's folder, its content, its mode."""

    path: str
    content: bytes
    mode: int


def placed(
    parts: Iterable[Part], *, vendor: bool = False, handlers: bool = False
) -> tuple[list[Placed], list[Problem]]:
    """Return the files of the parts that are run, in order, and which of them stand in each other's way.

    Where there is a part handler (`handlers`: the image brings some), all parts are kept beside for it, with a list of
    them (parts.json: type, name, file, headers).
    """
    given = list(parts)
    files: dict[str, Placed] = {}
    problems = []
    tail = "-vendor" if vendor else ""
    for part in given:
        if part.kind not in FOLDERS:
            continue
        folder = FOLDERS[part.kind]
        folder = VENDORS if vendor and folder.startswith("scripts/") else f"{folder}{tail}"
        name = f"{part.name}.py" if part.kind is Kind.PART_HANDLER and not part.name.endswith(".py") else part.name
        path = f"{folder}/{name}"
        if path in files:
            told = f"{part.name}: another part has this file name: the last one counts"
            problems.append(Problem(part.mark, told, Level.WARNING))
        files[path] = Placed(path, part.content, 0o600 if part.kind is Kind.PART_HANDLER else 0o700)
    if handlers or any(part.kind is Kind.PART_HANDLER for part in given):
        files |= {each.path: each for each in _for_handlers(given, f"{CUSTOM}{tail}")}
    return list(files.values()), problems


def _for_handlers(parts: list[Part], folder: str) -> list[Placed]:
    import json

    files, entries = [], []
    for number, part in enumerate((part for part in parts if part.kind is not Kind.PART_HANDLER), 1):
        entry = {"type": part.type, "name": part.name, "file": f"{number:05}", "headers": dict(part.headers)}
        entries.append({**entry, "custom": part.kind is Kind.CUSTOM, "mark": list(part.mark)})
        files.append(Placed(f"{folder}/{number:05}", part.content, 0o600))
    manifest = Placed(f"{folder}/{MANIFEST}", json.dumps(entries, indent=1).encode(), 0o600)
    return [*files, manifest] if files else []
