"""The root of this system, where it is a volume's: what the initramfs has left about it, and what that changes.

The machine is the volume then, wherever that is attached: what has run, host keys and hostname are kept under its key.
The instance around it has its own id, its own metadata and its own keys.
"""

from __future__ import annotations

import os

from cloudboot.instance import VOLUME
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cloudboot.host import Host
    from cloudboot.status import Status
    from cloudboot.typed import Any

FILE = "/run/cloudboot/root-volume"  # of initramfs/scripts/local-bottom/cloudboot-root
SMALL = 64 << 20  # bytes: with less than this, or than 5 %, a root is nearly full


class ConsumedRoot(NamedTuple):
    """What became of the root. used: it is a volume's; else `reason` says why the image itself is booted.

    mode: `root` (the volume is `/`) or `overlay` (it holds the upper layer over the image). device: the kernel's name.
    refused: volumes that said that they were the root, each with the reason.
    """

    used: bool
    mode: str = ""
    device: str = ""
    uuid: str = ""
    volume: str = ""
    label: str = ""
    reason: str = ""
    rebased: bool = False
    refused: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What stands for the machine where an instance id would; empty if the image itself is booted."""
        return f"{VOLUME}{self.uuid}" if self.used else ""

    @property
    def called(self) -> str:
        """What to call the volume in a message."""
        return f"{self.volume} ({self.device})" if self.volume else self.device

    def to_json(self) -> dict[str, Any]:
        """Return what status.json says of it."""
        names = ("key", "mode", "device", "uuid", "volume", "label")
        return {name: getattr(self, name) for name in names}


def read(host: Host) -> ConsumedRoot | None:
    """Return what the initramfs has left, None where it has nothing to do with roots on volumes."""
    try:
        text = host.text(FILE)
    except OSError:  # for root's eyes
        return None
    if text is None:
        return None
    lines = [line.partition("=") for line in text.splitlines()]
    told = {name: value for name, _, value in lines}
    facts = {name: told.get(name, "") for name in ("mode", "device", "uuid", "volume", "label", "reason")}
    refused = tuple(value for name, _, value in lines if name == "refused")
    used = told.get("state") == "used" and bool(facts["uuid"])
    return ConsumedRoot(used, **facts, rebased=told.get("rebased") == "yes", refused=refused)


def key(host: Host) -> str:
    """Return what this machine's state is kept under; empty where that is the instance's id."""
    found = read(host)
    return found.key if found is not None else ""


def report(host: Host, status: Status, found: ConsumedRoot | None) -> None:
    """Say what became of the root: in status, on the console where it is not the one that was wanted."""
    status.values["root"] = found.to_json() if found is not None and found.used else None
    if found is None:
        return
    for text in found.refused:
        status.recoverable(f"root: refused: {text}")
    if not found.used:
        status.values["fallback"] = found.reason
        status.recoverable(f"root: the image itself is booted: {found.reason}")
        host.log.say(f"the image itself is booted: {found.reason}")
        return
    host.log.info(f"root: {found.called} ({found.mode}), UUID {found.uuid}")
    if found.rebased:
        status.recoverable(f"root: {found.called}: its upper layer is over another image than before")
    free = shortage(host) if host.live else None
    if free is not None:
        told = f"root: {found.called}: is nearly full: {free >> 20} MiB are free: make room, or attach a larger volume"
        status.recoverable(told)
        host.log.say(told)


def shortage(host: Host) -> int | None:
    """Return how many bytes `/` has free for everybody (root has some more), if that is little."""
    state = os.statvfs(host.root.outside("/"))
    free = state.f_bavail * state.f_frsize
    return free if free < max(SMALL, state.f_blocks * state.f_frsize // 20) else None


def told(host: Host) -> str:
    """Say in a sentence what the root is, for `why`; empty where there is nothing to say."""
    found = read(host)
    if found is None:
        return ""
    refused = "".join(f" Refused as a root: {text}." for text in found.refused)
    if found.used:
        return f"The root of this system is {found.called} ({found.mode}).{refused}"
    return f"The image itself is booted: {found.reason}.{refused}"


def use(host: Host, name: str) -> str | None:
    """Say in words what a device is for the root of this system; None if it is nothing."""
    found = read(host)
    if found is None or not found.used or found.device != name:
        return None
    return "is the root of this system" if found.mode == "root" else "holds the upper layer of this system's root"
