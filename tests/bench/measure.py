"""Boot a variant twice, and read off what the agent cost each time."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from bench.variants import CLOUDBOOT_NO_ID, NO_AGENT, NOTES, UNITS
from boot.bed import BedError, Container, Imds, Link
from boot.bed.command import wait_until

if TYPE_CHECKING:
    from boot.bed import Scratch, Tree

OPTIONS = ["--capability=CAP_NET_ADMIN"]
INSTANCE = "i-0123456789abcdef0"
FIRST, REBOOT = "first boot", "reboot"
BOOTS = (FIRST, REBOOT)


class Figures(NamedTuple):
    """What one boot cost.

    cpu: CPU seconds of the agent's units, their children included. own: of its Python processes alone. whole: of the
    whole container until it had settled. peak: MB of the largest of its processes. ssh: seconds from the start of
    user space until sshd was ready. settled: the same until systemd had no more jobs.
    """

    cpu: float
    own: float
    whole: float
    peak: float
    ssh: float
    settled: float
    requests: int
    connections: int
    tokens: int


def measure(variant: str, tree: Tree, scratch: Scratch, user_data: str, key: str) -> dict[str, Figures]:
    """Boot a fresh disk of `tree`, and the same disk again; return the figures by kind of boot."""
    words = ["--ssh-key", key, "--v1", "--hop-limit", "64", "--instance-id", INSTANCE]
    options = OPTIONS if variant == CLOUDBOOT_NO_ID else [*OPTIONS, _hardware(scratch)]
    with (
        Link() as link,
        tree.overlay(scratch) as disk,
        Imds(link.cloud, scratch, *words, user_data=user_data.encode()) as service,
        Container(disk.path, link.guest, scratch, options=options) as box,
    ):
        found = {}
        for kind in BOOTS:
            # As before every real boot; but the addresses are there at once, and nobody waits for them.
            link.disconnect()
            link.connect_v4()
            asked = len(service.log())
            box.boot()
            _settle(box)
            found[kind] = _read(variant, box, service.log()[asked:])
            box.poweroff()
        return found


def _hardware(scratch: Scratch) -> str:
    """Return the nspawn option that shows what Nitro's DMI says: the instance id. Nothing that names a platform."""
    layer = scratch.directory("hardware")
    os.makedirs(f"{layer}/dmi/id")
    with open(f"{layer}/dmi/id/board_asset_tag", "w", encoding="ascii") as file:
        file.write(f"{INSTANCE}\n")
    # Below an overlay the kernel would show the interfaces of the namespace that mounted it: these are the guest's.
    os.mkdir(f"{layer}/net")
    os.setxattr(f"{layer}/net", "trusted.overlay.opaque", b"y")
    for name in ("lo", "host0"):
        os.symlink(f"../../devices/virtual/net/{name}", f"{layer}/net/{name}")
    return f"--overlay-ro=/sys/class:{layer}:/sys/class"


def _settle(box: Container) -> None:
    """Wait for the end of the boot without asking again and again, which would cost CPU on a small machine."""
    inside = f"/proc/{box.leader}/root"
    if not wait_until(lambda: os.path.exists(f"{inside}/run/dbus/system_bus_socket"), 120):
        raise BedError("bench: no message bus within 120 s")
    state = box.exec(["systemctl", "is-system-running", "--wait"], check=False, timeout=300).stdout.strip()
    if state != "running":
        failed = box.exec(["systemctl", "list-units", "--failed", "--no-legend", "--plain"], check=False).stdout
        raise BedError(f"bench: the boot ended as {state!r}:\n{failed}")


def _read(variant: str, box: Container, log: list[dict[str, object]]) -> Figures:
    # The root of the container's own cgroup namespace; this process itself is outside of it.
    whole = re.search(r"usage_usec (\d+)", box.exec(["cat", "/sys/fs/cgroup/cpu.stat"]).stdout)
    if whole is None:
        raise BedError("bench: cpu.stat has no usage_usec: is the unified hierarchy mounted?")
    started = _number(box, "UserspaceTimestampMonotonic")
    notes: list[tuple[float, float]] = []
    cpu = 0.0
    if variant != NO_AGENT:
        text = box.exec(["cat", f"/{NOTES}"]).stdout
        notes = [(int(peak) / 1024, float(own)) for peak, own, *_ in map(str.split, text.splitlines())]
        shown = box.exec(["systemctl", "show", "-p", "CPUUsageNSec", *UNITS[variant]]).stdout
        cpu = sum(int(value) for value in re.findall(r"CPUUsageNSec=(\d+)", shown)) / 1e9
    return Figures(
        cpu=cpu,
        own=sum(own for _, own in notes),
        whole=int(whole[1]) / 1e6,
        peak=max((peak for peak, _ in notes), default=0.0),
        ssh=(_number(box, "ActiveEnterTimestampMonotonic", "ssh.service") - started) / 1e6,
        settled=(_number(box, "FinishTimestampMonotonic") - started) / 1e6,
        requests=len(log),
        connections=len({entry["connection"] for entry in log}),
        tokens=len([entry for entry in log if entry["method"] == "PUT" and entry["status"] == 200]),
    )


def _number(box: Container, name: str, *unit: str) -> int:
    return int(box.exec(["systemctl", "show", "--value", "-p", name, *unit]).stdout)
