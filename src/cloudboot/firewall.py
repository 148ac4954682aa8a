"""What keeps others from the metadata service, as text: an nftables table, routing rules, or iptables chains.

Pure: a policy in, files out. The static files of the lock-down are these renderings of the default policy.

Layer 1 is `table inet cloudboot` (or the chains CLOUDBOOT-… where there is no nft): it decides, answers and counts.
Layer 2 is routing: whom no `goto` lets past finds a route to the metadata service that leads to the loopback device
and nowhere else. Such a packet still passes layer 1, which counts and answers it; a plain `prohibit` would fail
the connect() before any firewall rule could count it. When layer 1 is gone, it is lost on the loopback device. Packets
of others (containers), bound to a device, or with no such route, meet `prohibit`. `nft flush ruleset` touches no rule.
"""

from __future__ import annotations

from enum import StrEnum

from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

IPV4 = ("169.254.169.254",)
IPV6 = ("fd00:ec2::254", "fe80::a9fe:a9fe")  # EC2, OpenStack
ADDRESSES = IPV4 + IPV6
LINK_LOCAL = "fe80::a9fe:a9fe"

TABLE = "cloudboot"  # of nftables, family inet
ROUTES = 169254  # a routing table of ours
MARK = "0x1000"  # one bit: what layer 1 let in by group or unit is routed again with it
PAST, BY_MARK, LOCAL, REFUSE, END = 50, 51, 57, 58, 59  # preferences of our routing rules


class Access(StrEnum):
    """Who may talk to the metadata service."""

    ROOT = "root"
    NONE = "none"
    OPEN = "open"
    ALLOW = "allow"


class Account(NamedTuple):
    """A user or group that is let in: its number, and what to call it."""

    id: int
    name: str


class Policy(NamedTuple):
    """Who may talk to the metadata service, names resolved.

    `units` are cgroup paths without the leading slash (`system.slice/web.service`). Under `root` and `allow` root
    is always let in; `root` has accounts too: those of the system that need the service to work.
    """

    access: Access = Access.ROOT
    users: tuple[Account, ...] = ()
    groups: tuple[Account, ...] = ()
    units: tuple[str, ...] = ()
    forwarded: bool = False

    @property
    def marks(self) -> bool:
        """Tell whether some are let in by what only layer 1 can see."""
        return bool(self.groups or self.units)


class Line(NamedTuple):
    """A rule of a chain. The comment identifies it: listings differ between versions of nft, comments do not."""

    words: str
    comment: str


class Chain(NamedTuple):
    """A chain of our table; `hook` is (type, hook, priority), None for one that is only jumped to."""

    name: str
    hook: tuple[str, str, int] | None
    lines: tuple[Line, ...]


def chains(policy: Policy) -> tuple[Chain, ...]:
    """Return the chains of our nftables table; none when the service is open to all.

    Priorities: 10 is filter + 10, after every destination NAT, so that a rewritten address is seen; -140 is
    mangle + 10.
    """
    if policy.access is Access.OPEN:
        return ()
    let_in = [] if policy.access is Access.NONE else [Line("meta skuid 0 accept", "root")]
    let_in += [Line(f"meta skuid {user.id} accept", f"user {user.name}") for user in policy.users]
    by_mark = [Line(f"meta skgid {group.id}", f"group {group.name}") for group in policy.groups]
    by_mark += [Line(f"socket cgroupv2 level {level} @units_{level}", f"units {level}") for level in levels(policy)]
    let_in += [Line(f"{line.words} accept", line.comment) for line in by_mark]
    found = []
    if by_mark:
        marked = tuple(Line(f"{line.words} meta mark set meta mark | {MARK}", line.comment) for line in by_mark)
        found.append(Chain("marked", None, marked))
        found.append(Chain("reroute", ("route", "output", -140), _addressed("marked")))
    refuse = (
        Line("meta l4proto tcp counter reject with tcp reset", "refuse tcp"),
        Line("counter reject with icmpx type admin-prohibited", "refuse"),
    )
    found.append(Chain("refuse", None, refuse))
    # The kernel asks and tells the server on the same link who has which address, and has no owner for that either.
    found_by = Line("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept", "neighbour discovery")
    rest = (
        Line("update @refused { meta skuid counter }", "count"),
        Line("meta skuid 0-4294967295 goto refuse", "refuse whoever has a socket"),
        # What a socket sends after close() has no owner any more. Without SYN it can open nothing.
        Line("tcp flags & syn == 0 accept", "the end of a connection"),
        Line("goto refuse", "refuse the rest"),
    )
    found.append(Chain("judge", None, (found_by, *let_in, *rest)))
    found.append(Chain("output", ("filter", "output", 10), _addressed("judge")))
    if not policy.forwarded:
        found.append(Chain("forward", ("filter", "forward", 10), _addressed("refuse")))
    return tuple(found)


def render_nft(policy: Policy) -> str:
    """Return an nft file that puts our table in place of the one that is there, in one transaction."""
    parts = [f"table inet {TABLE}\ndelete table inet {TABLE}\n"]
    found = chains(policy)
    if found:
        parts.append(f"table inet {TABLE} {{\n")
        parts.append("\tset refused {\n\t\ttype uid\n\t\tsize 65535\n\t\tflags dynamic\n\t\tcounter\n\t}\n")
        parts += [f"\tset units_{level} {{\n\t\ttype cgroupsv2\n\t\tsize 4096\n\t}}\n" for level in levels(policy)]
        for chain in found:
            parts.append(f"\tchain {chain.name} {{\n")
            if chain.hook is not None:
                kind, hook, priority = chain.hook
                parts.append(f"\t\ttype {kind} hook {hook} priority {priority}; policy accept;\n")
            parts += [f'\t\t{line.words} comment "{line.comment}"\n' for line in chain.lines]
            parts.append("\t}\n")
        parts.append("}\n")
    return "".join(parts)


def levels(policy: Policy) -> list[int]:
    """Return the depths of the units' cgroups: one nft set holds those of one depth."""
    return sorted({unit.count("/") + 1 for unit in policy.units})


def _addressed(target: str) -> tuple[Line, ...]:
    return tuple(
        Line(f"{'ip6' if ':' in address else 'ip'} daddr {address} jump {target}", address) for address in ADDRESSES
    )


class Rule(NamedTuple):
    """A routing rule of ours. `to` empty: any destination; `then` is what `ip rule` calls it (`goto 59`)."""

    pref: int
    to: str
    then: str
    local: bool = False  # only what this machine sends itself (`iif lo`)
    uid: int | None = None
    mark: bool = False

    @property
    def words(self) -> str:
        """The rule as arguments of `ip rule add`; `protocol kernel` keeps systemd-networkd from deleting it."""
        parts = [f"pref {self.pref}"]
        if self.local:
            parts.append("iif lo")
        if self.uid is not None:
            parts.append(f"uidrange {self.uid}-{self.uid}")
        if self.mark:
            parts.append(f"fwmark {MARK}/{MARK}")
        if self.to:
            parts.append(f"to {self.to}")
        return f"{' '.join(parts)} {self.then} protocol kernel"


def rule_lines(policy: Policy, family: int) -> list[Rule]:
    """Return the routing rules for IPv4 (4) or IPv6 (6), in an order that opens nothing while they are added.

    `goto` and not `lookup main`: whoever is let past meets the machine's own policy routing as if we were not there.
    """
    if policy.access is Access.OPEN:
        return []
    found = [Rule(END, "", "nop")]
    for address in IPV4 if family == 4 else IPV6:
        if not policy.forwarded:
            found.append(Rule(REFUSE, address, "prohibit"))
        else:
            found.append(Rule(REFUSE, address, "prohibit", local=True))
        let_in = () if policy.access is Access.NONE else (0, *(user.id for user in policy.users))
        found += [Rule(PAST, address, f"goto {END}", local=True, uid=uid) for uid in let_in]
        if policy.marks and address == LINK_LOCAL:
            # Looked up on one device only, so never found on the loopback device: layer 1 stands alone here.
            found.append(Rule(LOCAL, address, f"goto {END}", local=True))
            continue
        if policy.marks:
            found.append(Rule(BY_MARK, address, f"goto {END}", local=True, mark=True))
        found.append(Rule(LOCAL, address, f"lookup {ROUTES}", local=True))
    return found


def render_rules(policy: Policy, family: int) -> str:
    """Return a file for `ip -force -batch`; what is there already is refused by the kernel and stays."""
    routes = [
        f"route replace {a} dev lo table {ROUTES} mtu 1280 proto kernel\n" for a in (IPV4 if family == 4 else IPV6)
    ]
    return "".join(routes + [f"rule add {rule.words}\n" for rule in rule_lines(policy, family)])


class Jump(NamedTuple):
    """A rule in a chain that is not ours, which leads to one of ours."""

    table: str
    hook: str
    address: str
    chain: str

    @property
    def words(self) -> str:
        """The rule as iptables arguments after -I, -C or -D."""
        return f"{self.hook} -d {self.address} -m comment --comment cloudboot -j {self.chain}"


IPTABLES = {"filter": ("CLOUDBOOT-OUT", "CLOUDBOOT-FWD"), "mangle": ("CLOUDBOOT-MARK",)}
HOOKS = {"CLOUDBOOT-MARK": "OUTPUT", "CLOUDBOOT-OUT": "OUTPUT", "CLOUDBOOT-FWD": "FORWARD"}


def jumps(family: int) -> list[Jump]:
    """Return the rules that lead into our iptables chains."""
    addresses = IPV4 if family == 4 else IPV6
    return [
        Jump(table, HOOKS[chain], address, chain)
        for table, names in IPTABLES.items()
        for chain in names
        for address in addresses
    ]


def iptables_lines(policy: Policy, family: int) -> list[tuple[str, str, str]]:
    """Return (chain, match and target, comment) of our iptables chains. Units cannot be told here."""
    found: list[tuple[str, str, str]] = []
    if policy.access is Access.OPEN:
        return found
    for group in policy.groups:
        words = f"-m owner --gid-owner {group.id}"
        found.append(("CLOUDBOOT-MARK", f"{words} -j MARK --set-xmark {MARK}/{MARK}", f"group {group.name}"))
    out = []
    if family == 6:
        out += [
            (f"-p ipv6-icmp -m icmp6 --icmpv6-type {number} -j RETURN", f"neighbour {kind}")
            for kind, number in (("solicitation", 135), ("advertisement", 136))
        ]
    if policy.access is not Access.NONE:
        out.append(("-m owner --uid-owner 0 -j RETURN", "root"))
    out += [(f"-m owner --uid-owner {user.id} -j RETURN", f"user {user.name}") for user in policy.users]
    out += [(f"-m owner --gid-owner {group.id} -j RETURN", f"group {group.name}") for group in policy.groups]
    out.append(("-p tcp ! --syn -m owner ! --socket-exists -j RETURN", "the end of a connection"))
    prohibited = "icmp-admin-prohibited" if family == 4 else "icmp6-adm-prohibited"
    refuse = [("-p tcp -j REJECT --reject-with tcp-reset", "refuse tcp")]
    refuse.append((f"-j REJECT --reject-with {prohibited}", "refuse"))
    found += [("CLOUDBOOT-OUT", words, comment) for words, comment in out + refuse]
    if not policy.forwarded:
        found += [("CLOUDBOOT-FWD", words, comment) for words, comment in refuse]
    return found


def render_iptables(policy: Policy, family: int, *, hook: bool = False) -> str:
    """Return a file for `iptables-restore --noflush` (family 4) or `ip6tables-restore --noflush` (6).

    It empties and fills our chains in one transaction. With `hook` it also makes other chains lead to them: it
    deletes each chain and makes it anew, which the tools refuse, whole, if something leads to it already. So
    the two run one after the other, any number of times, never add a second jump and never leave a gap.
    """
    lines = iptables_lines(policy, family)
    parts = []
    for table, names in IPTABLES.items():
        parts.append(f"*{table}\n")
        parts += [f":{name} - [0:0]\n" for name in names]
        if hook:
            parts += [f"-X {name}\n-N {name}\n" for name in names]
        parts += [
            f'-A {chain} -m comment --comment "{comment}" {words}\n'
            for chain, words, comment in lines
            if chain in names
        ]
        if hook:
            parts += [f"-I {jump.words}\n" for jump in jumps(family) if jump.table == table]
        parts.append("COMMIT\n")
    return "".join(parts)


def render_jumps(verb: str, some: Iterable[Jump], *, drop: bool = False) -> str:
    """Return a file for `iptables-restore --noflush` that inserts (`-I`) or deletes (`-D`) these rules.

    With `drop` our chains, then unused, go too.
    """
    wanted = list(some)
    parts = []
    for table, names in IPTABLES.items():
        lines = [f"{verb} {jump.words}\n" for jump in wanted if jump.table == table]
        if drop:
            lines = [f":{name} - [0:0]\n" for name in names] + lines + [f"-X {name}\n" for name in names]
        parts += [f"*{table}\n", *lines, "COMMIT\n"]
    return "".join(parts)
