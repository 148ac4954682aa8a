"""Network namespaces that hold the metadata service's addresses, and a link from a guest to them."""

from __future__ import annotations

import os
import signal
import tempfile
from typing import TYPE_CHECKING, Self

from boot.bed.command import end, run, start, wait_until
from boot.bed.scratch import NETNS, new_tag

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from typing import IO

IMDS_V4 = "169.254.169.254"
IMDS_V6 = "fd00:ec2::254"
IMDS_LINK_LOCAL = "fe80::a9fe:a9fe"
"""OpenStack's address; on `lo` it is reached only as `fe80::a9fe:a9fe%lo`."""

UNTOUCHED = (
    "169.254.169.123",
    "169.254.169.253",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::123",
    "fd00:ec2::253",
    "fd00:ec2::23",
)
"""Neighbours of the metadata service (time, DNS, task and pod credentials) that no lock-down may touch."""


class Namespace:
    """A network namespace of our own, with `lo` up, removed with its processes on exit.

    `imds` puts the metadata service's addresses on `lo`, `untouched` its neighbours'.
    """

    def __init__(self, *, imds: bool = True, untouched: bool = False) -> None:
        self.name = new_tag()
        self.path = f"{NETNS}/{self.name}"
        self._addresses = [IMDS_V4, IMDS_V6, IMDS_LINK_LOCAL] if imds else []
        self._addresses += UNTOUCHED if untouched else ()
        self._started: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Self:
        run(["ip", "netns", "add", self.name])
        self.ip("link", "set", "lo", "up")
        for address in self._addresses:
            self.add_address(address)
        return self

    def __exit__(self, *_: object) -> None:
        for process, output in reversed(self._started):
            end(process)
            output.close()
        # What daemonized: the namespace is ours, so whatever is in it is too.
        for signals in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                try:
                    os.kill(pid, signals)
                except ProcessLookupError:
                    pass
            wait_until(lambda: not self.pids(), 2)
        run(["ip", "netns", "del", self.name])

    def pids(self) -> list[int]:
        """List the processes in the namespace."""
        return [int(pid) for pid in run(["ip", "netns", "pids", self.name]).stdout.split()]

    def ip(self, *arguments: str) -> str:
        """Run `ip -n NAME ARGUMENTS…` and return what it prints."""
        return run(["ip", "-n", self.name, *arguments]).stdout

    def add_address(self, address: str, dev: str = "lo") -> None:
        """Add an address (with its prefix length, or a host's) at once: without duplicate address detection."""
        if "/" not in address:
            address += "/128" if ":" in address else "/32"
        self.ip("addr", "add", address, "dev", dev, *(["nodad"] if ":" in address else []))

    def run(
        self, argv: Sequence[str], *, timeout: float = 30.0, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the namespace and wait for it; see `boot.bed.run`."""
        return run(self.argv(argv), timeout=timeout, check=check, stdin=stdin)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Return `argv` as it is to be run from outside."""
        return ["ip", "netns", "exec", self.name, *argv]

    def popen(
        self, argv: Sequence[str], output: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `argv` in the namespace, its output appended to the file `output`; ended on exit if not before.

        `ip netns exec` does not fork, so the pid is that of `argv` itself.
        """
        log = open(output, "ab") if output else tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        try:
            process = start(self.argv(argv), log, env)
        except BaseException:
            log.close()
            raise
        self._started.append((process, log))
        return process

    def forget_boot(self) -> None:
        """Undo what a boot left in the kernel's network state and a real reboot would lose: firewall and ip rules."""
        self.run(["nft", "flush", "ruleset"])
        for family in ("-4", "-6"):
            self.ip(family, "rule", "flush")
            self.ip(family, "rule", "add", "pref", "32766", "lookup", "main")
            if family == "-4":
                self.ip(family, "rule", "add", "pref", "32767", "lookup", "default")


class Link:
    """Two namespaces joined by a wire: `guest` (interface `host0`) and `cloud`, which holds the IMDS addresses.

    The guest's interface is down and without addresses until `connect_v4` or `connect_v6` is called, which a test
    may do some seconds after the boot: the address appears late, as by DHCP.
    """

    GUEST_V4 = "10.0.2.15"
    ROUTER_V4 = "10.0.2.2"
    GUEST_V6 = "2001:db8:2::15"
    ROUTER_V6 = "2001:db8:2::2"

    def __init__(self, *, untouched: bool = False) -> None:
        self.guest = Namespace(imds=False)
        self.cloud = Namespace(imds=False)
        self._far = [IMDS_V4, IMDS_V6, *(UNTOUCHED if untouched else ())]

    def __enter__(self) -> Self:
        self.cloud.__enter__()
        try:
            self.guest.__enter__()
            try:
                self._join()
            except BaseException:
                self.guest.__exit__(None, None, None)
                raise
        except BaseException:
            self.cloud.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.guest.__exit__(None, None, None)
        finally:
            self.cloud.__exit__(None, None, None)

    def _join(self) -> None:
        peer = ["type", "veth", "peer", "name", "host0", "netns", self.guest.name]
        self.cloud.ip("link", "add", "cloud0", *peer)
        self.cloud.add_address(f"{self.ROUTER_V4}/24", "cloud0")
        self.cloud.ip("link", "set", "cloud0", "up")
        self.cloud.add_address(f"{self.ROUTER_V6}/64", "cloud0")
        self.cloud.add_address(f"{IMDS_LINK_LOCAL}/64", "cloud0")
        for address in self._far:
            self.cloud.add_address(address)

    def connect_v4(self) -> None:
        """Give the guest 10.0.2.15/24 and a default route."""
        self.guest.ip("link", "set", "host0", "up")
        self.guest.add_address(f"{self.GUEST_V4}/24", "host0")
        self.guest.ip("route", "replace", "default", "via", self.ROUTER_V4)

    def connect_v6(self) -> None:
        """Give the guest 2001:db8:2::15/64 and a default IPv6 route (alone, it is an IPv6-only subnet)."""
        self.guest.ip("link", "set", "host0", "up")
        self.guest.add_address(f"{self.GUEST_V6}/64", "host0")
        self.guest.ip("-6", "route", "replace", "default", "via", self.ROUTER_V6, "dev", "host0")

    def disconnect(self) -> None:
        """Take the guest's interface down and its addresses and routes away, as before every real boot."""
        self.guest.ip("addr", "flush", "dev", "host0")
        self.guest.ip("link", "set", "host0", "down")
