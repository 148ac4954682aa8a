"""Every case file: a plan names exactly the changes that the run then makes, and leaves no trace on the disk.

A tool that fails cannot be foreseen: such a case says so itself, `plan: {differs: reason}`, and must differ then.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from casebook import Book
from cloudboot import instance as instances
from cloudboot.actions import WriteFile
from cloudboot.ledger import Ledger
from cloudboot.planned import PlannedFetcher, PlannedHost, PlannedRoot, is_opaque
from cloudboot.root import Root
from cloudboot.status import Status
from cloudboot.swapfile import SwapFile
from unit import test_bad_input
from unit.test_planned import stamps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.actions import Action

CASES = Path(__file__).parent.parent / "cases"
FILES = sorted(path for path in CASES.glob("*/*.yaml"))
# Our own state, where times and boots differ; what the kernel, udev, systemd and dpkg say after tools have run.
LEFT_OUT = (
    "/var/lib/cloudboot",
    "/var/log",
    "/run/cloudboot",
    "/proc",
    "/sys",
    "/dev",
    "/run/systemd",
    "/run/udev",
    "/var/lib/dpkg",
)
ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_plan_then_run(path: Path, tmp_path: Path) -> None:
    case: dict[str, Any] = yaml.safe_load(path.read_text())
    book = open_book(case, path.parent.name, tmp_path)
    before = stamps(tmp_path)
    host = plan(book)
    assert stamps(tmp_path) == before, "planning has left a trace"
    drawn = {action.path for action in host.changes if isinstance(action, WriteFile) and is_opaque(action.content)}
    left_to_tools, old = by_tools(case, host), held(tmp_path)

    book.run()
    found = compare("changes", texts(host.changes, host.root, drawn), texts(book.host.changes, book.root, drawn))
    book.changes()
    found += compare("commands", commands(host), [text for text in book.outcomes() if text])
    found += files_that_differ(host.overlay, book.root, left_to_tools)
    new = held(tmp_path)
    touched = {place for place in old.keys() | new.keys() if old.get(place) != new.get(place)}
    unforeseen = touched - host.overlay.nodes.keys() - left_to_tools
    found += [f"{place}: was not planned" for place in sorted(unforeseen) if not place.startswith(LEFT_OUT)]

    host = plan(book)
    planned = texts(host.changes, host.root, drawn)
    book.run()
    found += compare("changes of a second run", planned, texts(book.host.changes, book.root, drawn))
    reason = (case.get("plan") or {}).get("differs")
    if reason:
        assert found, f"comes out as planned: take `plan: {{differs: {reason!r}}}` out of the case"
    else:
        assert not found, "\n".join(found)


def open_book(case: dict[str, Any], module: str, folder: Path) -> Book:
    if module == "bad-input":
        return test_bad_input.book(case, folder)
    return Book(case, folder, module)


def plan(book: Book) -> PlannedHost:
    """Run a case's modules on a planned machine; the book is as before afterwards."""
    host = PlannedHost(book.host)
    before = dict(vars(book))
    vars(book).update(
        host=host,
        status=Status(host),
        ledger=Ledger(host, instances.folder(book.instance.id)),
        fetcher=PlannedFetcher(host, fetch=False),
    )
    book.run()
    vars(book).update(before)
    return host


def held(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return mode, owner and content of everything below a directory, by guest path."""
    found: dict[str, tuple[object, ...]] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            state = path.lstat()
            content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            found[str(path).removeprefix(str(folder))] = (state.st_mode, state.st_uid, state.st_gid, content)
    return found


def commands(host: PlannedHost) -> list[str]:
    return [change.command for change in host.planned_changes if change.kind == "command"]


def texts(actions: Sequence[Action], root: Root, drawn: set[str]) -> list[str]:
    """Return the actions as texts, without what is drawn: numbers of new accounts, the size of new keys."""
    found = []
    for action in actions:
        opaque = isinstance(action, WriteFile) and action.path in drawn
        text = re.sub(r"\(\d+ bytes\)$", "(opaque)", action.text) if opaque else action.text
        found.append(named(text, root))
    return found


def named(text: str, root: Root) -> str:
    """Put names in place of numbers: which one a new account gets is useradd's choice, the case's may be another."""
    users = {f"{user.uid}:{user.gid}": f"{user.name}:{user.name}" for user in root.users().values()}
    return re.sub(r"\b\d+:\d+\b", lambda match: users.get(match[0], match[0]), text)


def by_tools(case: dict[str, Any], host: PlannedHost) -> set[str]:
    """Return what tools write: the case's imitations do as much of it as the case needs, ours do all."""
    homes = {user.home for user in host.root.users().values()} - {user.home for user in host.base.root.users().values()}
    told = {path for tool in case.get("tools", ()) for kind in ("writes", "appends") for path in tool.get(kind, {})}
    swap = {action.path for action in host.changes if isinstance(action, SwapFile)}
    return {*ACCOUNTS, *homes, *told, *swap}


def files_that_differ(plan: PlannedRoot, real: Root, by_tools: set[str]) -> list[str]:
    """Compare what is planned with what stands afterwards: kind, mode, owner, target, content unless opaque."""
    found = []
    for place, node in plan.nodes.items():
        if place.startswith(LEFT_OUT) or place in by_tools:
            continue
        entry = real.look(place, follow=False)
        if node is None or entry is None:
            if (node is None) != (entry is None):
                found.append(f"{place}: planned {node and node.entry}, is {entry}")
            continue
        wanted = node.entry
        owners = [named(f"{each.uid}:{each.gid}", root) for each, root in ((wanted, plan), (entry, real))]
        if (wanted.kind, wanted.mode, owners[0]) != (entry.kind, entry.mode, owners[1]):
            found.append(f"{place}: planned {wanted}, is {entry}")
        elif node.target != (real.readlink(place) or ""):
            found.append(f"{place}: planned -> {node.target}, is -> {real.readlink(place)}")
        elif node.content is not None and not is_opaque(node.content) and node.content != real.read(place):
            found.append(f"{place}: planned {node.content!r}, is {real.read(place)!r}")
    return found


def compare(what: str, planned: list[str], made: list[str]) -> list[str]:
    if planned == made:
        return []
    return [f"{what}:", *(f"  planned {text}" for text in planned), *(f"  made    {text}" for text in made)]
