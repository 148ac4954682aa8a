"""Prove the lock-down: try to connect as somebody who is not let in, and see whether our own counter moved."""

from __future__ import annotations

import errno
import os
import socket
from enum import StrEnum

from cloudboot import firewall, netfilter
from cloudboot.errors import CommandError
from cloudboot.firewall import ADDRESSES, IPV4, LINK_LOCAL
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.host import Host

STRANGER = 65533  # a uid that no system gives to anybody: its refusals are ours, and told apart from nobody's
CONNECTED = 0  # where else an errno stands
PATIENCE = 2.0  # seconds for one attempt
PATIENCE_LINK = 0.5  # on each interface in turn: a neighbour answers soon or never
PORT = 80


class State(StrEnum):
    """What an attempt proved."""

    BLOCKED = "blocked by our rule"
    NO_ROUTE = "no route: not proven"
    REACHABLE = "REACHABLE"


class AddressProof(NamedTuple):
    """What was seen at one address, and how that is known."""

    address: str
    state: State
    detail: str


class Refused(NamedTuple):
    """A user whose connections were refused since our table was put up at boot."""

    uid: int
    name: str
    packets: int  # for TCP: attempts to connect

    @property
    def remedy(self) -> str:
        """The line of user data that lets this user in."""
        return f"metadata_access: {{allow: {{users: [{self.name}]}}}}"


class Report(NamedTuple):
    """All of `cloudboot lockdown status`."""

    addresses: tuple[AddressProof, ...]
    let_in: tuple[str, ...]
    missing: tuple[str, ...]  # layers that do not stand
    refused: tuple[Refused, ...]

    @property
    def reachable(self) -> bool:
        """Tell whether somebody who is not let in got through."""
        return any(proof.state is State.REACHABLE for proof in self.addresses)

    def text(self) -> str:
        """Return it for people."""
        lines = [f"{proof.address:<16} {proof.state}: {proof.detail}" for proof in self.addresses]
        lines.append(f"let in: {', '.join(self.let_in) or 'nobody'}")
        lines += [f"missing: {layer}: put it up with: cloudboot lockdown apply" for layer in self.missing]
        for user in self.refused:
            lines.append(f"refused: {user.name} (uid {user.uid}), {user.packets} times; to let it in: {user.remedy}")
        return "".join(f"{line}\n" for line in lines)

    def json(self) -> str:
        """Return it for programs."""
        import json

        return (
            json.dumps(
                {
                    "addresses": [proof._asdict() for proof in self.addresses],
                    "let_in": self.let_in,
                    "missing": self.missing,
                    "refused": [{**user._asdict(), "user_data": user.remedy} for user in self.refused],
                },
                indent=1,
            )
            + "\n"
        )


def status(host: Host, probe: Callable[[str], int]) -> Report:
    """Prove every address; tell who is let in, what is missing, and who was refused. Needs root."""
    before = netfilter.standing(host)
    rules = _rules(host)
    proofs = tuple(_prove(host, address, probe, rules) for address in ADDRESSES)
    with_nft = before is not None or host.which("nft") is not None
    let_in = [comment for chain, comment in (before.lines if before else ()) if chain == "judge"]
    if not with_nft:
        let_in = [comment for chain, comment in netfilter.iptables_counts(host, 4) if chain == "CLOUDBOOT-OUT"]
    let_in = [comment for comment in let_in if comment.split(" ")[0] in ("root", "user", "group", "units")]
    missing = []
    if before is None and with_nft:
        missing.append(f"nftables table inet {firewall.TABLE}")
    elif not with_nft and not let_in:
        missing.append("iptables chains CLOUDBOOT-*")
    if not rules:
        missing.append("routing rules")
    names = {user.uid: user.name for user in host.root.users().values()}
    refused = tuple(
        Refused(uid, names.get(uid, str(uid)), packets)
        for uid, packets in sorted((before.refused if before else {}).items())
        if uid != STRANGER
    )
    return Report(proofs, tuple(let_in), tuple(missing), refused)


def _prove(host: Host, address: str, probe: Callable[[str], int], rules: Mapping[str, set[str]]) -> AddressProof:
    before = _counted(host, address)
    answer = probe(address)
    if answer == CONNECTED:
        return AddressProof(address, State.REACHABLE, f"uid {STRANGER} connected to port {PORT}")
    moved = _counted(host, address) - before
    if moved > 0:
        return AddressProof(address, State.BLOCKED, "refused, and our counter moved")
    name = errno.errorcode.get(answer, str(answer))
    ours = rules.get(address, set())
    if answer == errno.EACCES and "prohibit" in ours:
        return AddressProof(address, State.BLOCKED, "prohibited by our routing rule")
    if answer == errno.ECONNREFUSED:
        return AddressProof(address, State.REACHABLE, "somebody else refused the connection: port closed")
    if answer == errno.ETIMEDOUT and f"lookup {firewall.ROUTES}" in ours:
        return AddressProof(address, State.BLOCKED, "led to the loopback device by our routing rule")
    return AddressProof(address, State.NO_ROUTE, name)


def _rules(host: Host) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in (4, 6):
        try:
            rules = netfilter.routing_rules(host, family)
        except CommandError:
            continue  # no ip command: reported as missing
        for rule in rules or ():
            if rule.to:
                found.setdefault(rule.to, set()).add(rule.then)
    return found


def _counted(host: Host, address: str) -> int:
    found = netfilter.standing(host)
    if found is not None:
        return found.refused.get(STRANGER, 0)
    if host.which("nft") is not None or host.which("iptables-save") is None:
        return 0
    counts = netfilter.iptables_counts(host, 4 if address in IPV4 else 6)
    return sum(seen for (chain, what), seen in counts.items() if chain == "CLOUDBOOT-OUT" and "refuse" in what)


def connect_as_stranger(address: str) -> int:
    """Connect to port 80 from a child process that has no rights; return CONNECTED or the errno."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer = errno.EIO
        try:
            os.setgroups([])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            answer = _connect(address)
        finally:
            os.write(writer, str(answer).encode())
            os._exit(0)
    os.close(writer)
    try:
        with open(reader, encoding="ascii") as file:
            said = file.read()
    finally:
        os.waitpid(child, 0)
    return int(said or errno.EIO)


def _connect(address: str) -> int:
    if address != LINK_LOCAL:
        return _attempt(address, 0)
    # A link-local address says nothing without its interface: try them all, the most open answer counts.
    scopes = [index for index, name in socket.if_nameindex() if name != "lo"]
    answers = [_attempt(address, scope) for scope in scopes] or [errno.ENETUNREACH]
    for telling in (CONNECTED, errno.ECONNREFUSED, errno.EACCES):
        if telling in answers:
            return telling
    return answers[0]


def _attempt(address: str, scope: int) -> int:
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.settimeout(PATIENCE_LINK if scope else PATIENCE)
            attempt.connect((address, PORT, 0, scope) if ":" in address else (address, PORT))
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.EIO
    return CONNECTED
