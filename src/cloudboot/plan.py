"""What a boot would do, as a value: each module's decision and, in order, every change; nothing in it is secret.

The modules run as in a boot, by the same runner, on a machine on which nothing is done (`planned`).
"""

from __future__ import annotations

import re

from cloudboot import instance as instances
from cloudboot import lockdown
from cloudboot.actions import MakeDir, Remove, Run, SetAccess, Symlink, WriteFile
from cloudboot.errors import CloudbootError
from cloudboot.ledger import Ledger
from cloudboot.masked import Mask, secrets
from cloudboot.module import Stage
from cloudboot.planned import is_opaque
from cloudboot.problem import Level, Problem
from cloudboot.runner import Runner, select
from cloudboot.status import Status
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudboot.checker import Schema
    from cloudboot.config import Config
    from cloudboot.http import Fetcher
    from cloudboot.instance import Instance, Kind
    from cloudboot.module import Module
    from cloudboot.planned import Change, PlannedHost, State
    from cloudboot.root import Root

LOCKDOWN = "lockdown"
# Never shown, whatever they hold.
SECRET_FILES = re.compile(r"/etc/g?shadow-?|/etc/ssh/ssh_host_[a-z0-9]+_key|.*/(id_[a-z0-9]+|[^/]+\.(key|p12|pfx))")
LARGE = 256 << 10  # bytes of a text of which no diff is made
TOOLS = {  # what a tool is for
    "useradd": ("user", "create"), "groupadd": ("group", "create"), "usermod": ("user", "change"),
    "passwd": ("password", "change"), "chpasswd": ("password", "change"), "mount": ("mount", "create"),
    "mkswap": ("swap", "create"), "swapon": ("swap", "change"), "apt-get": ("packages", "run"),
    "dpkg": ("packages", "run"), "systemctl": ("unit", "run"), "systemd-run": ("unit", "run"),
}  # fmt: skip
NOT_RUN = "recorded, not run: "
ALL_READ = 0o004
LINES = re.compile(r"[^\n]*\n|[^\n]+")


class Item(NamedTuple):
    """One change, as it may be shown.

    kind: file, directory, link; what a tool is for (user, group, password, mount, swap, packages, unit), else tool;
    firewall; command (the owner's); request (over the network). verb: create, change, remove, run, send. text: a path
    with what is new about it, or a command line. command: the owner's own words. lines: a file's unified diff, a
    script's own lines. effect: what a tool does, in words. secret: its content is not shown. opaque: not known before
    it is made. recorded: why it is not done in this tree. unsure: why it may come out differently.
    """

    kind: str
    verb: str
    text: str
    path: str = ""
    command: str = ""
    lines: tuple[str, ...] = ()
    effect: str = ""
    secret: bool = False
    opaque: bool = False
    recorded: str = ""
    unsure: str = ""


class Part(NamedTuple):
    """What becomes of one module (or of the lock-down): whether it runs and why, what it changes, what it says."""

    stage: str
    module: str
    runs: bool
    reason: str
    frequency: str = ""
    set_by: str = ""
    items: tuple[Item, ...] = ()
    problems: tuple[Problem, ...] = ()
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def well(self) -> bool:
        """Tell whether it does all that the owner asks for; a warning that names no line is about the machine."""
        said = [problem for problem in self.problems if problem.level is not Level.DEPRECATED]
        return not self.errors and not any(
            problem.level is Level.ERROR or problem.mark.source != self.module for problem in said
        )


class Plan(NamedTuple):
    """A boot beforehand. problems: in the configuration itself. remarks: what it was made from, where that is not
    plain. unread: files that could not be read and were taken for absent."""

    instance: Instance
    kind: Kind
    parts: tuple[Part, ...]
    problems: tuple[Problem, ...] = ()
    remarks: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def well(self) -> bool:
        """Tell whether all that was asked for will be done, as far as can be seen."""
        bad = any(problem.level is not Level.DEPRECATED for problem in self.problems)
        return not bad and all(part.well for part in self.parts)


class Group(NamedTuple):
    """Launch indices (None: without one) that get the same, and where that differs from others."""

    indices: tuple[int | None, ...]
    parts: tuple[Part, ...]


class Fleet(NamedTuple):
    """The plans of one user data for several launch indices: what is common, and what differs."""

    instance: Instance
    indices: tuple[int | None, ...]
    common: tuple[Part, ...]
    groups: tuple[Group, ...]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]
    unread: tuple[str, ...]
    well: bool


class PlannedStatus(Status):
    """The status of a boot that does not take place; problems are kept as values, with who had them."""

    def __init__(self, host: PlannedHost) -> None:
        super().__init__(host)
        self.problems: list[tuple[str, Problem]] = []

    def problem(self, problem: Problem) -> None:
        """Keep something that is wrong in the configuration."""
        super().problem(problem)
        self.problems.append((self.host.log.context, problem))


def plan(
    host: PlannedHost,
    current: Instance,
    merged: Config,
    modules: Sequence[Module],
    *,
    kind: Kind,
    image: dict[str, Any],
    schemas: Mapping[str, Schema],
    fetcher: Fetcher,
    distro: str = "",
    remarks: Sequence[str] = (),
) -> Plan:
    """Plan the boot of an instance with a configuration, all stages in order.

    image: the image's facts, as a boot has them. schemas: which values are secret. The host's overlay holds the machine
    as it will be afterwards.
    """
    status = PlannedStatus(host)
    ledger = Ledger(host, instances.folder(current.key), current.id)
    status.reset(ledger.boot)
    runner = Runner(host, ledger, merged, current, modules, status, fetcher, kind=kind, image=image, distro=distro)
    shut: dict[str, tuple[str, list[str]]] = {}  # the lock-down of a stage: what is wanted, what is wrong with it
    for stage in Stage:
        host.log.context = str(stage)
        status.stage(stage, "started")
        if stage is Stage.CONFIG:
            _lock_down(host, merged, stage, shut, early=False)
        runner.run_stage(stage)
        if stage is Stage.NETWORK:
            _lock_down(host, merged, stage, shut, early=True)
    mask = Mask(secrets(merged.value, schemas))
    found = []
    for stage in Stage:
        chosen, left_out = select(stage, modules, merged.value)
        names = [*(module.name for module in chosen), *left_out]
        before = [LOCKDOWN] if stage is Stage.CONFIG else []
        after = [LOCKDOWN] if stage is Stage.NETWORK else []
        for name in [*before, *names, *after]:
            part = _part(host, status, stage, name, mask, shut)
            found += [part] if part is not None else []
    return Plan(current, kind, tuple(found), merged.problems, tuple(remarks), tuple(sorted(host.overlay.unread)))


def fleet(plans: Sequence[Plan]) -> Fleet:
    """Lay the plans for several launch indices side by side. Raises ValueError if there are none."""
    first = plans[0]
    places = list(dict.fromkeys((part.stage, part.module) for each in plans for part in each.parts))
    by_place = [{(part.stage, part.module): part for part in each.parts} for each in plans]
    same = [place for place in places if len({repr(parts.get(place)) for parts in by_place}) == 1]
    groups: dict[tuple[Part, ...], list[int | None]] = {}
    for each, parts in zip(plans, by_place, strict=True):
        own = tuple(parts[place] for place in places if place not in same and place in parts)
        groups.setdefault(own, []).append(each.instance.launch_index)
    return Fleet(
        first.instance,
        tuple(each.instance.launch_index for each in plans),
        tuple(by_place[0][place] for place in same),
        tuple(Group(tuple(indices), parts) for parts, indices in groups.items() if parts),
        tuple(dict.fromkeys(problem for each in plans for problem in each.problems)),
        tuple(dict.fromkeys(remark for each in plans for remark in each.remarks)),
        tuple(sorted({path for each in plans for path in each.unread})),
        all(each.well for each in plans),
    )


# -- the boot


def _lock_down(
    host: PlannedHost, merged: Config, stage: Stage, shut: dict[str, tuple[str, list[str]]], *, early: bool
) -> None:
    """Plan who is let in, as a boot does: in the network stage only where the owner says something about it."""
    if early and not {"metadata_access", "disable_ec2_metadata"} & set(merged.value):
        return
    host.log.context = f"{stage}/{LOCKDOWN}"
    told: list[str] = []
    wanted = lockdown.policy(merged.value, host, told)
    try:
        lockdown.apply(host, lockdown.early(wanted) if early else wanted)
    except (CloudbootError, OSError) as error:
        told.append(str(error))
    shut[host.log.context] = (f"metadata_access is {wanted.access}", told)
    host.log.context = str(stage)


# -- what may be shown of it


def _part(
    host: PlannedHost,
    status: PlannedStatus,
    stage: Stage,
    name: str,
    mask: Mask,
    shut: dict[str, tuple[str, list[str]]],
) -> Part | None:
    where = f"{stage}/{name}"
    items = tuple(_item(change, host.root, mask) for change in host.planned_changes if change.where == where)
    if name == LOCKDOWN:
        reason, wrong = shut.get(where, ("", []))
        errors = tuple(wrong)
        return Part(stage, name, True, reason, items=items, errors=errors) if (items or errors) else None
    facts = status.values["modules"].get(name)
    if facts is None:
        return None
    problems = tuple(dict.fromkeys(problem for place, problem in status.problems if place == where))
    errors = tuple(map(mask, facts.get("errors", ())))
    known = {*map(str, problems), *facts.get("errors", ())}
    said = (text for place, text in host.said.notes if place == where and not text.startswith("runs: "))
    notes = tuple(mask(text) for text in dict.fromkeys(said) if text not in known)
    runs = facts["state"] in ("done", "failed")
    frequency, set_by = str(facts.get("frequency", "")), str(facts.get("set_by", ""))
    return Part(stage, name, runs, facts["reason"], frequency, set_by, items, problems, errors, notes)


def _item(change: Change, root: Root, mask: Mask) -> Item:
    item = _shown(change, root, mask)
    recorded = change.recorded.removeprefix(NOT_RUN)
    return item._replace(effect=mask(change.effect), recorded=recorded, unsure=mask(change.unsure))


def _shown(change: Change, root: Root, mask: Mask) -> Item:
    action = change.action
    if change.kind == "command":
        lines = _script(change.after, mask) if change.path else ()
        return Item("command", "run", mask(change.text), change.path, mask(change.command), lines)
    if change.kind == "request":
        return Item("request", "send", mask(change.text))
    if isinstance(action, (WriteFile, SetAccess)):
        return _file(change, root, mask)
    if isinstance(action, MakeDir):
        return Item("directory", _verb(change), f"{action.path}/{_access(change, root)}", action.path)
    if isinstance(action, Symlink):
        return Item("link", _verb(change), f"{action.path} -> {action.target}", action.path)
    if isinstance(action, Remove):
        kind = {"dir": "directory", "link": "link"}.get(change.before.entry.kind if change.before else "", "file")
        return Item(kind, "remove", action.path, action.path)
    if isinstance(action, Run):
        import shlex

        kind, verb = TOOLS.get(action.argv[0], ("tool", "run"))
        return Item(kind, verb, mask(shlex.join(action.argv)))
    if change.text.startswith("run "):
        text = change.text.removeprefix("run ")
        return Item(*TOOLS.get(text.split()[0], ("tool", "run")), mask(text))
    return Item("firewall", "change", mask(change.text))


def _file(change: Change, root: Root, mask: Mask) -> Item:
    item = Item("file", _verb(change), f"{change.path}{_access(change, root)}", change.path)
    contents = [state.content if state else None for state in (change.before, change.after)]
    if any(map(is_opaque, contents)):
        return item._replace(opaque=True)
    if contents[0] == contents[1]:
        return item
    if hidden(change):
        return item._replace(secret=True)
    try:
        old, new = (mask((content or b"").decode()) for content in contents)
    except UnicodeDecodeError:
        old, new = "", "\0"
    if "\0" in old + new or len(old) + len(new) > LARGE:
        what = "binary" if "\0" in old + new else "too long to be shown"
        return item._replace(lines=(f"({what}: {len(contents[1] or b'')} bytes)",))
    if old == new:
        return item._replace(secret=True)
    return item._replace(lines=_diff(old, new))


def hidden(change: Change) -> bool:
    """Tell whether the content of a file is not to be shown: keys, shadow, and of the owner's what few may read."""
    if SECRET_FILES.fullmatch(change.path):
        return True
    module = change.where.rpartition("/")[2]
    states = [state for state in (change.before, change.after) if state is not None]
    owners = module in ("write_files", "write_files_deferred")
    return owners and any(not state.entry.mode & ALL_READ for state in states)


def _verb(change: Change) -> str:
    return "create" if change.before is None else "change"


def _access(change: Change, root: Root) -> str:
    """Return mode and owner of what is new, or of what had others: ` 0644 root:root`, ` 0600 -> 0644`."""
    states = [state for state in (change.before, change.after) if state is not None]
    texts = [f"{state.entry.mode:04o} {_owner(state, root)}" for state in states]
    if change.before is None or len(texts) < 2:
        return f" {texts[-1]}" if texts else ""
    return f" ({texts[0]} -> {texts[1]})" if texts[0] != texts[1] else ""


def _owner(state: State, root: Root) -> str:
    users = {0: "root"} | {user.uid: user.name for user in reversed(root.users().values())}
    groups = {0: "root"} | {group.gid: group.name for group in reversed(root.groups().values())}
    uid, gid = state.entry.uid, state.entry.gid
    return f"{users.get(uid, uid)}:{groups.get(gid, gid)}"


def _diff(old: str, new: str) -> tuple[str, ...]:
    import difflib

    found = []
    for line in list(difflib.unified_diff(LINES.findall(old), LINES.findall(new)))[2:]:  # without the names
        found += [line[:-1]] if line.endswith("\n") else [line, "\\ No newline at end of file"]
    return tuple(found)


def _script(state: State | None, mask: Mask) -> tuple[str, ...]:
    if state is None or state.content is None:
        return ()
    return tuple(mask(state.content.decode("utf-8", "replace")).splitlines())
