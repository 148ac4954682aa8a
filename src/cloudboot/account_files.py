"""/etc/passwd, group, shadow and gshadow as useradd and its kin would leave them: for plans, which start no program.

Numbers and defaults follow login.defs(5) and /etc/default/useradd.
"""

from __future__ import annotations

import re

from cloudboot.root import Entry, User
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cloudboot.host import Host

PASSWD, GROUP, SHADOW, GSHADOW = "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"
LOGIN_DEFS, DEFAULTS = "/etc/login.defs", "/etc/default/useradd"
SKEL = "/etc/skel"
DAY = 86400  # seconds
VALUES = {  # of useradd: those that take a value
    "--comment": "comment", "--home-dir": "home", "--gid": "gid", "--uid": "uid", "--shell": "shell",
    "--expiredate": "expire", "--inactive": "inactive", "--selinux-user": "selinux", "--groups": "groups",
}  # fmt: skip


def add_user(host: Host, words: list[str]) -> tuple[User, list[str]]:
    """Add an account as `useradd WORDS` would; return it and the further groups that it is put into."""
    given, flags, name = _parse(words)
    defs, defaults = _settings(host, LOGIN_DEFS), _settings(host, DEFAULTS)
    system = "--system" in flags
    accounts, groups = host.root.users(), host.root.groups()
    uid = int(given["uid"]) if "uid" in given else _free("UID", defs, (each.uid for each in accounts.values()), system)
    if "gid" in given:
        known = groups.get(given["gid"])
        gid = known.gid if known else int(given["gid"]) if given["gid"].isdigit() else uid
    elif "--no-user-group" in flags or (defs and defs.get("USERGROUPS_ENAB", "no").lower() != "yes"):
        gid = int(defaults.get("GROUP", "100"))
    else:
        free = all(group.gid != uid for group in groups.values())
        gid = add_group(host, name, system=system, gid=uid if free else None)
    home = given.get("home") or f"{defaults.get('HOME', '/home').rstrip('/')}/{name}"
    shell = given.get("shell") or defaults.get("SHELL", "/bin/sh")
    user = User(name, uid, gid, given.get("comment", ""), home, shell)
    _add_line(host, PASSWD, f"{name}:x:{uid}:{gid}:{user.gecos}:{home}:{shell}")
    if host.exists(SHADOW):
        days = (defs.get(f"PASS_{key}", "") for key in ("MIN_DAYS", "MAX_DAYS", "WARN_AGE"))
        aging = "::" if system else ":".join(days)
        end = f"{given.get('inactive', '')}:{_days(given.get('expire', ''))}"
        _add_line(host, SHADOW, f"{name}:!:{int(host.now() // DAY)}:{aging}:{end}:")
    further = [group for group in given.get("groups", "").split(",") if group]
    for group in further:
        add_member(host, group, name)
    if "-m" in flags and not host.exists(home):
        _make_home(host, user, defs, defaults.get("SKEL", SKEL))
    return user, further


def add_group(host: Host, name: str, *, system: bool = False, gid: int | None = None) -> int:
    """Add a group as groupadd would; return its number."""
    if gid is None:
        gid = _free("GID", _settings(host, LOGIN_DEFS), (each.gid for each in host.root.groups().values()), system)
    _add_line(host, GROUP, f"{name}:x:{gid}:")
    if host.exists(GSHADOW):
        _add_line(host, GSHADOW, f"{name}:!::")
    return gid


def add_member(host: Host, group: str, name: str) -> None:
    """Put an account into a group."""

    def change(fields: list[str]) -> None:
        fields[3] = ",".join(dict.fromkeys([*filter(None, fields[3].split(",")), name]))

    for path in (GROUP, GSHADOW):
        _change_line(host, path, group, 4, change)


def set_password(host: Host, name: str, field: str, *, changed: bool = True) -> None:
    """Set the password field of an account; `changed`: the day of the change is today."""

    def change(fields: list[str]) -> None:
        fields[1] = field
        if changed:
            fields[2] = str(int(host.now() // DAY))

    _change_line(host, SHADOW, name, 9, change)


def expire(host: Host, name: str) -> None:
    """Make the password of an account one that the next login must change."""

    def changed(fields: list[str]) -> None:
        fields[2] = "0"

    _change_line(host, SHADOW, name, 9, changed)


# -- how


def _parse(words: list[str]) -> tuple[dict[str, str], set[str], str]:
    given: dict[str, str] = {}
    flags: set[str] = set()
    left = list(words)
    name = left.pop()
    while left:
        word = left.pop(0)
        if word in VALUES:
            given[VALUES[word]] = left.pop(0)
        else:
            flags.add(word)
    return given, flags, name


def _settings(host: Host, path: str) -> dict[str, str]:
    """Read `KEY value` (login.defs) or `KEY=value` (default/useradd)."""
    found = re.findall(r"(?m)^\s*([A-Z_]+)(?:\s+|=)(\S+)", host.text(path) or "")
    return {key: value.strip('"') for key, value in found}


def _free(what: str, defs: dict[str, str], used: Iterable[int], system: bool) -> int:
    """Return the number that useradd or groupadd would give: past the highest in use; for the system, the lowest."""
    low, high = int(defs.get(f"{what}_MIN", "1000")), int(defs.get(f"{what}_MAX", "60000"))
    taken = set(used)
    if system:
        low, high = int(defs.get(f"SYS_{what}_MIN", "101")), int(defs.get(f"SYS_{what}_MAX", str(low - 1)))
        lowest = min((each for each in taken if low <= each <= high), default=high + 1)
        return lowest - 1 if lowest > low else next(each for each in range(high, low, -1) if each not in taken)
    highest = max((each for each in taken if low <= each <= high), default=low - 1)
    return highest + 1 if highest < high else next(each for each in range(low, high) if each not in taken)


def _days(date: str) -> str:
    if not date:
        return ""
    from datetime import date as day

    return str((day.fromisoformat(date) - day(1970, 1, 1)).days)


def _make_home(host: Host, user: User, defs: dict[str, str], skel: str) -> None:
    mode = int(defs["HOME_MODE"], 8) if "HOME_MODE" in defs else 0o777 & ~int(defs.get("UMASK", "022"), 8)
    host.make_parents(user.home)
    host.root.mkdir(user.home, mode, user.uid, user.gid)
    _copy(host, skel, user.home, user)


def _copy(host: Host, source: str, target: str, user: User) -> None:
    for name in host.listdir(source):
        entry = host.look(f"{source}/{name}", follow=False)
        if entry is None or entry.kind == "other":
            continue
        if entry.kind == "link":
            host.root.symlink(f"{target}/{name}", host.root.readlink(f"{source}/{name}") or "")
        elif entry.kind == "dir":
            host.root.mkdir(f"{target}/{name}", entry.mode, user.uid, user.gid)
            _copy(host, f"{source}/{name}", f"{target}/{name}", user)
        else:
            content = host.read(f"{source}/{name}") or b""
            host.root.write(f"{target}/{name}", content, entry.mode, user.uid, user.gid)


def _add_line(host: Host, path: str, line: str) -> None:
    text = (host.read(path) or b"").decode("utf-8", "surrogateescape")
    gap = "" if not text or text.endswith("\n") else "\n"
    _write(host, path, f"{text}{gap}{line}\n")


def _change_line(host: Host, path: str, name: str, length: int, change: Callable[[list[str]], None]) -> None:
    """Change the fields of one account's line; a line of another length than it should have stays as it is."""
    lines = (host.read(path) or b"").decode("utf-8", "surrogateescape").splitlines()
    for number, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == name and len(fields) == length:
            change(fields)
            lines[number] = ":".join(fields)
            _write(host, path, "\n".join(lines) + "\n")
            return


def _write(host: Host, path: str, text: str) -> None:
    there = host.look(path) or Entry("file", 0o644, 0, 0)
    host.make_parents(path)
    host.root.write(path, text.encode("utf-8", "surrogateescape"), there.mode, there.uid, there.gid)
