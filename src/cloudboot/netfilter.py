"""The lock-down as it stands on the machine: what is there, and the actions that make it as a policy says."""

from __future__ import annotations

import struct

from cloudboot import firewall, netlink
from cloudboot.errors import CommandError
from cloudboot.firewall import Access, Policy, Rule
from cloudboot.typed import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.actions import Action
    from cloudboot.host import Host
    from cloudboot.netlink import RoutingRule
    from cloudboot.process import Result

T = TypeVar("T")

CURRENT = "/run/cloudboot/lockdown/1-policy.nft"  # nftables.service's drop-in restores both, this one last
UNITS = "/run/systemd/system"
UNIT_HOOK = "50-cloudboot-lockdown.conf"
CGROUPS = "/sys/fs/cgroup"
KERNEL = "the kernel of the running machine enforces it"


class Standing(NamedTuple):
    """Our nftables table as the kernel has it."""

    hooks: frozenset[tuple[str, str, str, int]]  # chain, type, hook, priority
    lines: tuple[tuple[str, str], ...]  # chain and comment, in order within each chain
    refused: Mapping[int, int]  # uid -> refused packets (for TCP: attempts to connect)
    units: frozenset[str]  # cgroup paths let in


def standing(host: Host) -> Standing | None:
    """Ask for our table; None if there is none."""
    import json

    result = host.ask(["nft", "-j", "list", "table", "inet", firewall.TABLE])
    if not result.ok:
        return None
    hooks, lines = [], []
    refused: dict[int, int] = {}
    units: list[str] = []
    for entry in json.loads(result.output)["nftables"]:
        if "chain" in entry and "hook" in entry["chain"]:
            chain = entry["chain"]
            hooks.append((chain["name"], chain["type"], chain["hook"], chain["prio"]))
        elif "rule" in entry:
            lines.append((entry["rule"]["chain"], entry["rule"].get("comment", "")))
        elif "set" in entry and entry["set"]["name"] == "refused":
            for element in entry["set"].get("elem", ()):
                counted = element["elem"]
                refused[_uid(host, counted["val"])] = counted["counter"]["packets"]
        elif "set" in entry:
            units += [element for element in entry["set"].get("elem", ()) if isinstance(element, str)]
    return Standing(frozenset(hooks), tuple(sorted_by_chain(lines)), refused, frozenset(units))


def sorted_by_chain(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Order lines by chain; within a chain their order stays."""
    return sorted(lines, key=lambda line: line[0])


def _uid(host: Host, value: object) -> int:
    if isinstance(value, int):
        return value
    user = host.user(str(value))  # some versions of nft print names
    return user.uid if user else -1


class Table(NamedTuple):
    """Layer 1: our nftables table, and the file it is restored from."""

    policy: Policy

    @property
    def text(self) -> str:
        return f"metadata lock-down: table inet {firewall.TABLE}: {self.policy.access}"

    @property
    def live_only(self) -> str | None:
        return KERNEL

    def done(self, host: Host) -> bool:
        if not host.live:
            return False
        stored = host.read(CURRENT)
        # Until a policy has been applied the static rules stand, which are the default's.
        if stored is None and self.policy != Policy():
            return False
        if stored is not None and stored != firewall.render_nft(self.policy).encode():
            return False
        chains = firewall.chains(self.policy)
        lines = tuple(sorted_by_chain([(chain.name, line.comment) for chain in chains for line in chain.lines]))
        hooks = frozenset((chain.name, *chain.hook) for chain in chains if chain.hook is not None)
        shape = None if self.policy.units else _told(host, lambda: netlink.table(firewall.TABLE))
        if shape is not None:
            return (shape.hooks, tuple(sorted_by_chain(list(shape.lines)))) == (hooks, lines)
        found = standing(host)
        if found is None or not chains:
            return found is None and not chains
        return (found.hooks, found.lines) == (hooks, lines) and found.units >= self._running(host)

    def apply(self, host: Host) -> None:
        text = firewall.render_nft(self.policy)
        before = standing(host)
        counts = before.refused.items() if before and self.policy.access is not Access.OPEN else ()
        kept = ", ".join(f"{uid} counter packets {packets} bytes 0" for uid, packets in counts if uid >= 0)
        kept = f"add element inet {firewall.TABLE} refused {{ {kept} }}\n" if kept else ""
        _change(host, ["nft", "-f", "-"], text + kept)
        host.make_parents(CURRENT)
        host.root.write(CURRENT, text.encode(), 0o644, 0, 0)
        # One by one and after the table: a cgroup that is gone in this moment would fail the whole transaction.
        for unit in sorted(self._running(host)):
            host.spawn(["nft", *unit_element(unit)])

    def plan(self, host: Host) -> None:
        """Put the file in place, in a plan."""
        host.make_parents(CURRENT)
        host.root.write(CURRENT, firewall.render_nft(self.policy).encode(), 0o644, 0, 0)

    def _running(self, host: Host) -> frozenset[str]:
        return frozenset(unit for unit in self.policy.units if host.exists(f"{CGROUPS}/{unit}"))


def unit_element(unit: str) -> list[str]:
    """Return nft's arguments that let a running unit in: nft turns the cgroup's path into its number of today."""
    level = unit.count("/") + 1
    return ["add", "element", "inet", firewall.TABLE, f"units_{level}", f'{{ "{unit}" }}']


class UnitHooks(NamedTuple):
    """Drop-ins by which units let themselves in: each start of a unit makes a new cgroup."""

    units: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"metadata lock-down: units {' '.join(self.units) or 'none'}"

    @property
    def live_only(self) -> str | None:
        return KERNEL

    def done(self, host: Host) -> bool:
        return host.live and self._wanted() == self._present(host)

    def apply(self, host: Host) -> None:
        wanted = self._wanted()
        for path, content in wanted.items():
            host.make_parents(path)
            host.root.write(path, content, 0o644, 0, 0)
        for path in self._present(host).keys() - wanted.keys():
            host.root.remove(path)
        _change(host, ["systemctl", "daemon-reload"])

    def _wanted(self) -> dict[str, bytes]:
        found = {}
        for unit in self.units:
            name = unit.rpartition("/")[2]
            if name.endswith(".service"):
                words = " ".join(unit_element(unit)[:-1])
                path = unit.replace("\\", "\\\\").replace("%", "%%")
                line = f"ExecStartPre=+-/usr/sbin/nft {words} '{{ \"{path}\" }}'"
                found[f"{UNITS}/{name}.d/{UNIT_HOOK}"] = f"[Service]\n{line}\n".encode()
        return found

    def _present(self, host: Host) -> dict[str, bytes]:
        folders = [name for name in host.listdir(UNITS) if name.endswith(".service.d")]
        paths = [f"{UNITS}/{name}/{UNIT_HOOK}" for name in folders]
        return {path: content for path in paths if (content := host.read(path)) is not None}


class Routing(NamedTuple):
    """Layer 2: our routing rules. What is new is added before what is stale goes, so nothing opens in between."""

    policy: Policy

    @property
    def text(self) -> str:
        return f"metadata lock-down: routing rules: {self.policy.access}"

    @property
    def live_only(self) -> str | None:
        return KERNEL

    def done(self, host: Host) -> bool:
        return host.live and all(self._settled(host, family) for family in (4, 6))

    def apply(self, host: Host) -> None:
        for family in (4, 6):
            present = routing_rules(host, family)
            if present is None:
                continue
            wanted = firewall.rule_lines(self.policy, family)
            batch = [line for line in firewall.render_rules(self.policy, family).splitlines() if "route" in line[:5]]
            batch += [f"rule add {rule.words}" for rule in wanted if rule not in present]
            batch += [f"rule del {rule.words}" for rule in sorted(present - set(wanted), key=lambda rule: rule.pref)]
            argv = ["ip", f"-{family}", "-force", "-batch", "-"]
            result = host.spawn(argv, stdin="".join(f"{line}\n" for line in batch).encode())
            if not self._settled(host, family):
                raise CommandError(argv, result.status or 1, result.output)

    def plan(self, host: Host) -> None:
        """Do nothing, in a plan: the rules are the kernel's alone."""

    def _settled(self, host: Host, family: int) -> bool:
        present = routing_rules(host, family)
        return present is None or present == set(firewall.rule_lines(self.policy, family))


def routing_rules(host: Host, family: int) -> set[Rule] | None:
    """Return the routing rules of ours that stand; None if the kernel has no such family. Raises CommandError."""
    told = _told(host, lambda: netlink.routing_rules(family))
    if told is not None:
        return set(filter(_ours, map(_of_kernel, told)))
    import json

    argv = ["ip", f"-{family}", "-j", "rule", "show"]
    result = host.ask(argv)
    if not result.ok:
        if family == 6:
            return None  # ipv6.disable=1
        raise CommandError(argv, result.status, result.output)
    return set(filter(_ours, map(_read_rule, json.loads(result.output or "[]"))))


def _told(host: Host, question: Callable[[], T]) -> T | None:
    """Return the kernel's own answer; None where there is none to be had, and a tool is to be asked."""
    if not host.root.live:
        return None
    try:
        return question()
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        host.log.info(f"netlink: {error}: asking the tools")
        return None


def _ours(rule: Rule) -> bool:
    return firewall.PAST <= rule.pref <= firewall.END and (rule.to in firewall.ADDRESSES or rule.then == "nop")


def _of_kernel(rule: RoutingRule) -> Rule:
    uid = rule.uids[0] if rule.uids else None
    return Rule(rule.pref, rule.to, rule.then, local=rule.iif == "lo", uid=uid, mark=rule.mark)


def _read_rule(entry: Mapping[str, object]) -> Rule:
    then = str(entry.get("action", ""))
    if "goto" in entry:
        then = f"goto {entry['goto']}"
    elif "table" in entry:
        then = f"lookup {entry['table']}"
    elif "nop" in entry:
        then = "nop"
    uid = entry.get("uid_start")
    return Rule(
        pref=int(str(entry["priority"])),
        to=str(entry.get("dst", "")),
        then=then,
        local=entry.get("iif") == "lo",
        uid=uid if isinstance(uid, int) else None,
        mark="fwmark" in entry,
    )


class IptablesChains(NamedTuple):
    """Layer 1 where there is no nft."""

    policy: Policy

    @property
    def text(self) -> str:
        return f"metadata lock-down: iptables chains CLOUDBOOT-*: {self.policy.access}"

    @property
    def live_only(self) -> str | None:
        return KERNEL

    def done(self, host: Host) -> bool:
        return host.live and all(self._settled(host, family) for family in (4, 6))

    def apply(self, host: Host) -> None:
        for family in (4, 6):
            argv = [f"{_iptables(family)}-restore", "--noflush", "-w", "5"]
            counts = iptables_counts(host, family)
            jumps = firewall.jumps(family)
            if self.policy.access is Access.OPEN:
                there = [jump for jump in jumps if _jump_key(jump) in counts]
                _change(host, argv, firewall.render_jumps("-D", there, drop=True))
                continue
            missing = [jump for jump in jumps if _jump_key(jump) not in counts]
            _change(host, argv, firewall.render_iptables(self.policy, family))
            _change(host, argv, firewall.render_jumps("-I", missing))
        if not self.done(host):
            raise CommandError(argv, 1, "our chains are not there afterwards: see iptables-save")

    def plan(self, host: Host) -> None:
        """Do nothing, in a plan: the chains are the kernel's alone."""

    def _settled(self, host: Host, family: int) -> bool:
        wanted = [(chain, comment) for chain, _, comment in firewall.iptables_lines(self.policy, family)]
        if self.policy.access is not Access.OPEN:
            wanted += [_jump_key(jump) for jump in firewall.jumps(family)]
        return iptables_counts(host, family).keys() == set(wanted)


def _jump_key(jump: firewall.Jump) -> tuple[str, str]:
    return jump.hook, f"{jump.address} {jump.chain}"


def _iptables(family: int) -> str:
    return "iptables" if family == 4 else "ip6tables"


SAVED_OURS = r'^\[(\d+):\d+\] -A (CLOUDBOOT-\S+) .*?--comment (?:"([^"]*)"|(\S+))'
SAVED_JUMP = r"^\[(\d+):\d+\] -A (\S+) -d ([^/ ]+)\S* .*-j (CLOUDBOOT-\S+)"


def iptables_counts(host: Host, family: int) -> dict[tuple[str, str], int]:
    """Return the packets that each iptables rule of ours has seen, by chain and comment."""
    import re

    found: dict[tuple[str, str], int] = {}
    for line in host.ask([f"{_iptables(family)}-save", "-c"]).output.splitlines():
        if ours := re.match(SAVED_OURS, line):
            found[ours[2], ours[3] or ours[4]] = int(ours[1])
        elif jump := re.match(SAVED_JUMP, line):
            found[jump[2], f"{jump[3]} {jump[4]}"] = int(jump[1])
    return found


def actions(policy: Policy, host: Host) -> list[Action]:
    """Return what makes the machine as a policy says, in order."""
    routing = Routing(policy)
    if host.which("nft") is None and host.which("iptables-restore") is not None:
        return [routing, IptablesChains(policy)]
    return [routing, UnitHooks(policy.units), Table(policy)]


def _change(host: Host, argv: list[str], stdin: str | None = None) -> Result:
    result = host.spawn(argv, stdin=None if stdin is None else stdin.encode())
    if not result.ok:
        raise CommandError(argv, result.status, result.output)
    return result
