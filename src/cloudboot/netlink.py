"""Ask the kernel itself what `ip rule show` and `nft list table` would print, without starting either.

Two tools cost as much as a whole stage of a settled boot. Only questions are asked here, and only what the lock-down
compares is read: whatever is not understood raises, and the tools are asked instead.
Sources: rtnetlink(7), linux/fib_rules.h, linux/netfilter/nf_tables.h, libnftnl's udata.h (comments).
"""

from __future__ import annotations

import _socket as socket  # see imds/wire.py
import os
import struct

from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTE, NETFILTER = 0, 12  # protocols
PATIENCE = 2.0  # seconds; the kernel answers at once or not at all
REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the answer is half of the old state and half of the new
ERROR, DONE = 2, 3
GET_RULE = 34
NFT_GET_CHAIN, NFT_GET_RULE = 10 << 8 | 4, 10 << 8 | 7
INET = 1  # NFPROTO_INET
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
UNRESOLVED = 0x4  # FIB_RULE_UNRESOLVED: a goto whose target is not there
ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}


class RoutingRule(NamedTuple):
    """A routing rule. `then` as `ip rule` says it (`goto 59`, `lookup 254`, `prohibit`); `to`: an address, or empty."""

    pref: int
    to: str
    then: str
    iif: str
    uids: tuple[int, int] | None
    mark: bool


class Shape(NamedTuple):
    """A table of nftables: its base chains (name, type, hook, priority), and each rule's (chain, comment) in order."""

    hooks: frozenset[tuple[str, str, str, int]]
    lines: tuple[tuple[str, str], ...]


def routing_rules(family: int) -> list[RoutingRule]:
    """Return the routing rules for IPv4 (4) or IPv6 (6). Raises OSError, ValueError or struct.error."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    found = []
    for payload in dump(ROUTE, GET_RULE, struct.pack("=B11x", kind)):
        length, action, flags = payload[1], payload[7], struct.unpack_from("=I", payload, 8)[0]
        facts = dict(_attributes(payload[12:]))
        then = ACTIONS.get(action, f"action {action}")
        if then == "lookup":
            then = f"lookup {struct.unpack('=I', facts[15])[0]}"
        elif then == "goto":
            then = f"goto {struct.unpack('=I', facts[4])[0]}{' unresolved' if flags & UNRESOLVED else ''}"
        to = socket.inet_ntop(kind, facts[1]) if 1 in facts else ""
        if to and length != len(facts[1]) * 8:
            to = f"{to}/{length}"
        first, last = struct.unpack("=II", facts[20]) if 20 in facts else (0, 0)
        found.append(
            RoutingRule(
                struct.unpack("=I", facts[6])[0] if 6 in facts else 0,
                to,
                then,
                _text(facts.get(3, b"")),
                (first, last) if 20 in facts else None,
                10 in facts,
            )
        )
    return found


def table(name: str) -> Shape:
    """Return the shape of an `inet` table; empty if there is none. Raises OSError, ValueError or struct.error."""
    header = struct.pack("=BBH", INET, 0, 0)
    hooks = set()
    for payload in dump(NETFILTER, NFT_GET_CHAIN, header):
        facts = dict(_attributes(payload[4:]))
        if _text(facts[1]) == name and 4 in facts:
            hook = dict(_attributes(facts[4]))
            number, priority = struct.unpack("!Ii", hook[1] + hook[2])
            hooks.add((_text(facts[3]), _text(facts[7]), HOOKS[number], priority))
    label = name.encode() + b"\0"
    wanted = struct.pack("=HH", 4 + len(label), 1) + label + b"\0" * (-len(label) % 4)
    lines = []
    for payload in dump(NETFILTER, NFT_GET_RULE, header + wanted):
        facts = dict(_attributes(payload[4:]))
        if _text(facts[1]) == name:
            lines.append((_text(facts[2]), _comment(facts.get(7, b""))))
    return Shape(frozenset(hooks), tuple(lines))


def dump(protocol: int, kind: int, body: bytes) -> Iterator[bytes]:
    """Yield the payload of each message of the kernel's answer. Raises OSError."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        channel.settimeout(PATIENCE)
        channel.send(struct.pack("=IHHII", 16 + len(body), kind, REQUEST_DUMP, 1, 0) + body)
        while True:
            answer = channel.recv(1 << 18)
            offset = 0
            while offset < len(answer):
                length, what, flags, _, _ = struct.unpack_from("=IHHII", answer, offset)
                payload = answer[offset + 16 : offset + length]
                offset += (length + 3) & ~3
                if flags & INTERRUPTED or length < 16:
                    raise OSError("netlink: the answer is not whole")
                if what == DONE:
                    return
                if what == ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, os.strerror(code))
                yield payload
    finally:
        channel.close()


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value): struct nlattr, aligned to four bytes."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            raise ValueError(f"netlink: an attribute of {length} bytes")
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _comment(userdata: bytes) -> str:
    """Return a rule's comment: type, length, value, of which type 0 is the comment."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == 0:
            return _text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""
