"""Which accounts the configuration asks for: every form of `users`, `user` and `groups` read into one. Pure values."""

from __future__ import annotations

import re

from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cloudboot.problem import Pointer

NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}\$?"  # what useradd takes, without what would break a path
NAME_FORM = "letters, digits, `_`, `.` and `-`, at most 32, not digits alone"
DEFAULT = "default"


class Account(NamedTuple):
    """An account as asked for. fields: keys with underscores. pointer: where the owner's entry stands."""

    name: str
    fields: dict[str, Any]
    groups: tuple[str, ...]
    pointer: Pointer = ()

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a true-or-false field."""
        return bool(self.fields.get(name, default))


class Flaw(NamedTuple):
    """Something that cannot be used, and where it stands."""

    pointer: Pointer
    text: str


class Accounts(NamedTuple):
    """groups: name -> members. default: the default user's name; None if none is wanted."""

    users: tuple[Account, ...]
    groups: dict[str, tuple[str, ...]]
    default: str | None
    flaws: tuple[Flaw, ...]


class _Entry(NamedTuple):
    name: str
    fields: dict[str, Any]
    pointer: Pointer


def wanted(config: Mapping[str, Any], default_user: Mapping[str, Any]) -> Accounts:
    """Read `users`, `user` and `groups`. `default_user`: the image's, what `default` in the list stands for.

    If entries were given and not one of them can be used, the default user is wanted: somebody must be able to log in.
    """
    flaws: list[Flaw] = []
    base = {**default_user, **_overrides(config.get("user"))}
    name = base.pop("name", None)
    if not _usable(name):
        image = default_user.get("name")
        if name is not None:
            told = f"user.name: not a name for an account ({NAME_FORM}): {name!r}: "
            told += f"it stays {image}" if _usable(image) else "there is no default user"
            flaws.append(Flaw(("user", "name"), told))
        name = image if _usable(image) else None
    entries = list(_entries(config, flaws))
    if name is not None and (config.get("user") or (not entries and flaws)):
        entries.append(_Entry(DEFAULT, {}, ("user",)))
    asked = name is not None and any(entry.name == DEFAULT for entry in entries)
    users: dict[str, Account] = {}
    for entry in entries:
        is_default = entry.name == DEFAULT
        if is_default and name is None:
            flaws.append(Flaw(entry.pointer, "users: default: the image names no default user"))
            continue
        real = name if is_default and name is not None else entry.name
        if real not in users and asked and real == name:
            users[real] = Account(real, dict(base), tuple(sorted(set(_names(base.get("groups"))))), entry.pointer)
        users[real] = _merge(users.get(real), real, entry)
    if name is not None and asked and all(entry.name != name for entry in entries):
        users[name] = users.pop(name)  # as cloud-init: the others get the first numbers
    return Accounts(tuple(users.values()), _groups(config.get("groups"), flaws), name if asked else None, tuple(flaws))


def valid_name(name: str) -> bool:
    """Tell whether a user or group can have this name."""
    return re.fullmatch(NAME, name) is not None and not name.isdigit()


def _usable(name: object) -> bool:
    return isinstance(name, str) and valid_name(name)


def _overrides(user: object) -> dict[str, Any]:
    if isinstance(user, str):
        return {"name": user}
    return _underscored(user) if isinstance(user, dict) else {}


def _entries(config: Mapping[str, Any], flaws: list[Flaw]) -> Iterator[_Entry]:
    users = config.get("users")
    if users is None:
        yield _Entry(DEFAULT, {}, ())
        return
    found: list[tuple[Pointer, Any]] = []
    if isinstance(users, str):
        found = [(("users",), name) for name in _names(users)] or [(("users",), users)]
    elif isinstance(users, dict):
        for name, fields in users.items():
            if isinstance(fields, dict):
                found.append((("users", name), {**fields, "name": name}))
            elif fields is True:
                found.append((("users", name), name))
            elif isinstance(fields, str):
                told = f"users: {name}: must be a mapping of fields, or true: {fields!r}: left out"
                flaws.append(Flaw(("users", name), told))
    else:
        for index, item in enumerate(users):
            found += [(("users", index), each) for each in (item if isinstance(item, list) else [item])]
    for pointer, item in found:
        fields = _underscored(item) if isinstance(item, dict) else {}
        name = fields.pop("name", DEFAULT) if isinstance(item, dict) else item
        if isinstance(name, str) and valid_name(name.strip()):
            yield _Entry(name.strip(), fields, pointer)
        else:
            told = f"users: not a name for an account ({NAME_FORM}): {name!r}: this account is left out"
            flaws.append(Flaw((*pointer, "name") if isinstance(item, dict) else pointer, told))


def _underscored(fields: Mapping[str, Any]) -> dict[str, Any]:
    hyphened = {key.replace("-", "_"): value for key, value in fields.items() if "-" in key}
    return {**hyphened, **{key: value for key, value in fields.items() if "-" not in key}}


def _merge(known: Account | None, name: str, entry: _Entry) -> Account:
    groups = _names(entry.fields.get("groups"))
    if known is None:
        return Account(name, entry.fields, tuple(dict.fromkeys(groups)), entry.pointer)
    return Account(name, {**known.fields, **entry.fields}, tuple(sorted({*known.groups, *groups})), entry.pointer)


def _groups(value: object, flaws: list[Flaw]) -> dict[str, tuple[str, ...]]:
    """Read top-level `groups`: a comma string, a list of names and `{name: members}`, or a mapping."""
    pieces: list[tuple[Pointer, str, object]] = []
    if isinstance(value, str):
        pieces = [(("groups",), name, None) for name in _names(value)]
    elif isinstance(value, dict):
        pieces = [(("groups", name), name, members) for name, members in value.items()]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                pieces += [(("groups", index, name), name, members) for name, members in item.items()]
            else:
                pieces += [(("groups", index), name, None) for name in _names(item)]
    found: dict[str, tuple[str, ...]] = {}
    for pointer, name, members in pieces:
        if valid_name(name):
            found[name] = tuple(dict.fromkeys([*found.get(name, ()), *_names(members)]))
        else:
            flaws.append(Flaw(pointer, f"groups: not a name for a group ({NAME_FORM}): {name!r}: left out"))
    return found


def _names(value: object) -> list[str]:
    """Return the names in a comma string, a list or the keys of a mapping."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, (list, tuple, dict)):
        return [name for item in value for name in _names(item)]
    return []
