"""The lock-down of the metadata service: read what the owner wants, put it up, take it away.

What it guarantees and what it cannot is in docs/security.md.
"""

from __future__ import annotations

from cloudboot.errors import CloudbootError
from cloudboot.firewall import Access, Account, Policy
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping

    from cloudboot.host import Host

# Accounts that need the service to do their work: EC2 Instance Connect's AuthorizedKeysCommandUser, systemd's agent.
SYSTEM_USERS = ("ec2-instance-connect", "systemd-imds")
LISTS = ("users", "groups", "units")
LARGEST_ID = 2**32 - 2
PLAIN = r"[A-Za-z0-9_.@-]{1,64}"  # a name that may stand in a rule's comment
UNIT = r"[A-Za-z0-9_.@:-]{1,200}\.(service|slice|scope)"
HOW = "say root, none, open or {allow: {users, groups, units, forwarded}}"


def policy(config: Mapping[str, object], host: Host, problems: list[str]) -> Policy:
    """Read `metadata_access` and `disable_ec2_metadata`; names are looked up in the tree's passwd and group.

    What cannot be read is added to `problems`, one line each: as a whole it means `root`, an entry of a list is left
    out alone. `disable_ec2_metadata: true` is `none` and beats the other key.
    """
    access = config.get("metadata_access")
    disable = config.get("disable_ec2_metadata")
    if isinstance(disable, str):
        disable = disable.strip().lower() in ("true", "1", "on", "yes")  # as cloud-init reads it
    elif disable is not None and not isinstance(disable, (bool, int)):
        problems.append(f"disable_ec2_metadata: must be true or false: {disable!r}")
        disable = False
    if disable:
        if access not in (None, "none"):
            problems.append("metadata_access: left out: disable_ec2_metadata is true: keep one of the two")
        return Policy(Access.NONE)
    system = tuple(Account(user.id, user.name) for name in SYSTEM_USERS if (user := _user(name, host)))
    root = Policy(Access.ROOT, system)
    if access is None or access == "root":
        return root
    if access in ("none", "open"):
        return Policy(Access(str(access)))
    if not isinstance(access, dict) or set(access) != {"allow"} or not isinstance(access["allow"], dict):
        problems.append(f"metadata_access: not an access that we know: {access!r}: {HOW}; until then: root")
        return root
    return _allow(access["allow"], system, host, problems)


def early(wanted: Policy) -> Policy:
    """Return what holds after the crawl and before the config stage: `none` shuts root out only then."""
    return Policy() if wanted.access is Access.NONE else wanted


def apply(host: Host, wanted: Policy) -> bool:
    """Make the machine as a policy says; return whether that changed anything.

    A layer that fails does not keep the other from being put up. Raises CloudbootError or OSError after all were tried.
    """
    from cloudboot import netfilter

    changed = False
    failed: Exception | None = None
    for action in netfilter.actions(wanted, host):
        try:
            changed = host.do(action) or changed
        except (CloudbootError, OSError) as error:
            failed = error
    if failed is not None:
        raise failed
    return changed


def lift(host: Host) -> bool:
    """Open the service to everyone until the next apply or boot; return whether that changed anything."""
    return apply(host, Policy(Access.OPEN))


def _allow(allow: Mapping[object, object], system: tuple[Account, ...], host: Host, problems: list[str]) -> Policy:
    where = "metadata_access: allow"
    problems.extend(
        f"{where}: no such key: {key!r}: it knows users, groups, units, forwarded"
        for key in allow
        if key not in (*LISTS, "forwarded")
    )
    users, groups = list(system), []
    for name in _entries(allow, "users", problems):
        user = _user(name, host)
        if user is None:
            problems.append(f"{where}: users: no such user: {name!r}")
        else:
            users.append(user)
    for name in _entries(allow, "groups", problems):
        group = _group(name, host)
        if group is None:
            problems.append(f"{where}: groups: no such group: {name!r}")
            continue
        groups.append(group)
        # The kernel tells a socket's first group only: members are let in by their own numbers.
        members = host.root.groups()[group.name].members if group.name in host.root.groups() else ()
        accounts = host.root.users().values()
        users += [
            Account(user.uid, f"{_label(user.name, user.uid)} of {group.name}")
            for user in accounts
            if user.name in members or user.gid == group.id
        ]
    units = []
    for name in _entries(allow, "units", problems):
        path = _unit(name, host)
        if path is None:
            problems.append(f"{where}: units: not the name of a service, slice or scope: {name!r}")
        elif host.which("nft") is None:
            problems.append(f"{where}: units: needs nft: install the package nftables: {name!r}")
        else:
            units.append(path)
    forwarded = allow.get("forwarded", False)
    if not isinstance(forwarded, bool):
        problems.append(f"{where}: forwarded: must be true or false: {forwarded!r}")
    return Policy(
        Access.ALLOW,
        _by_id(user for user in users if user.id != 0),
        _by_id(groups),
        tuple(sorted(set(units))),
        forwarded is True,
    )


def _by_id(accounts: Iterable[Account]) -> tuple[Account, ...]:
    first: dict[int, Account] = {}
    for account in accounts:
        first.setdefault(account.id, account)
    return tuple(first[number] for number in sorted(first))


def _entries(allow: Mapping[object, object], key: str, problems: list[str]) -> list[object]:
    value = allow.get(key)
    if value is None:
        return []
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return [value]
    if isinstance(value, list):
        return value
    problems.append(f"metadata_access: allow: {key}: must be a list of names: {value!r}")
    return []


def _label(name: str, number: int) -> str:
    import re

    return name if re.fullmatch(PLAIN, name) else str(number)


def _number(name: object) -> int | None:
    if isinstance(name, int) and not isinstance(name, bool):
        return name if 0 <= name <= LARGEST_ID else None
    return None


def _user(name: object, host: Host) -> Account | None:
    number = _number(name)
    if number is not None:
        return Account(number, str(number))
    user = host.user(name) if isinstance(name, str) else None
    return Account(user.uid, _label(user.name, user.uid)) if user else None


def _group(name: object, host: Host) -> Account | None:
    number = _number(name)
    if number is not None:
        return Account(number, str(number))
    group = host.group(name) if isinstance(name, str) else None
    return Account(group.gid, _label(group.name, group.gid)) if group else None


def _unit(name: object, host: Host) -> str | None:
    """Return the cgroup of a unit, as systemd places it; of one that it does not know, where it would."""
    import re

    if not isinstance(name, str):
        return None
    *folders, unit = name.strip("/").split("/")
    if "." not in unit:
        unit += ".service"
    if not all(re.fullmatch(UNIT, part) for part in (*folders, unit)):
        return None
    if folders:
        return "/".join((*folders, unit))
    if unit.endswith(".slice"):
        return slice_path(unit)
    found = {}
    if host.live:
        shown = host.ask(["systemctl", "show", "-p", "ControlGroup", "-p", "Slice", unit])
        found = dict(line.split("=", 1) for line in shown.output.splitlines() if shown.ok and "=" in line)
    if found.get("ControlGroup"):
        return found["ControlGroup"].strip("/")
    default = "system.slice"
    if "@" in unit:
        template = unit.partition("@")[0].replace("-", "\\x2d")
        default = f"system-{template}.slice"
    return f"{slice_path(found.get('Slice') or default)}/{unit}"


def slice_path(name: str) -> str:
    """Return the cgroup of a slice: `a-b.slice` is inside `a.slice`."""
    words = name.removesuffix(".slice").split("-")
    return "/".join("-".join(words[: depth + 1]) + ".slice" for depth in range(len(words)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `cloudboot lockdown` understands."""
    parser.add_argument("verb", nargs="?", choices=("status", "apply", "lift"), default="status")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(
    args: argparse.Namespace,
    host: Host,
    config: Mapping[str, object],
    write: Callable[[str], object],
    complain: Callable[[str], object],
) -> int:
    """Do `cloudboot lockdown status|apply|lift` under the merged configuration; return the exit code.

    1: not root, or an address answered somebody who is not let in, or the machine could not be changed.
    """
    if not host.root.privileged:
        complain("cloudboot lockdown: needs root: rules and their counters are root's: run it with sudo")
        return 1
    if args.verb == "status":
        from cloudboot import proof

        report = proof.status(host, proof.connect_as_stranger)
        write(report.json() if args.format == "json" else report.text())
        return 1 if report.reachable else 0
    problems: list[str] = []
    wanted = Policy(Access.OPEN) if args.verb == "lift" else policy(config, host, problems)
    for problem in problems:
        complain(f"cloudboot lockdown: {problem}")
    try:
        changed = apply(host, wanted)
    except (CloudbootError, OSError) as error:
        complain(f"cloudboot lockdown: {error}")
        return 1
    said = f"metadata_access: {wanted.access}: {'put in place' if changed else 'was in place already'}"
    if args.format == "json":
        import json

        said = json.dumps({"access": wanted.access, "changed": changed, "problems": problems})
    write(f"{said}\n")
    return 2 if problems else 0
