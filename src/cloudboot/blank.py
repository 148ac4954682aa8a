"""The proof that a block device is blank, and who uses it: what is asked before anything is written to a disk.

Blank is what holds no partition table, no signature that wipefs or blkid knows, and zeros wherever a sample is taken.
A device that cannot be read, or a tool that is missing, proves nothing.
"""

from __future__ import annotations

import errno
import os

from cloudboot import disks
from cloudboot.disks import BLOCK, SECTOR
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cloudboot.host import Host

MIB = 1 << 20
PIECE = 1 << 16  # bytes of a sample
SAMPLES = 64
# Second copies of superblocks, which outlive a beginning that was zeroed: ext with blocks of 1, 2 and 4 KiB, btrfs.
COPIES = ((8 << 20) + 1024, 32 << 20, 128 << 20, 64 << 20)
NOTHING_FOUND = 2  # blkid's exit status
PROTECTED = (
    "/", "/usr", "/boot", "/boot/efi", "/efi",
    "/run/cloudboot/volume", "/run/cloudboot/image",  # under a root that is an overlay
)  # fmt: skip


class Content(NamedTuple):
    """What is on a device: type, label, UUID of a file system (or swap, a RAID member …); kind of partition table."""

    kind: str = ""
    label: str = ""
    uuid: str = ""
    table: str = ""

    @property
    def text(self) -> str:
        """In words, for a message; empty if there is nothing."""
        if self.kind:
            return f"{self.kind} labelled {self.label!r}" if self.label else self.kind
        return f"a partition table ({self.table})" if self.table else ""


def content(host: Host, name: str) -> Content:
    """Return what udev knows to be on a device; where there is no udev, what blkid finds."""
    known = disks.properties(host, name)
    return probe(host, name) if known is None else _content(known)


def probe(host: Host, name: str) -> Content:
    """Return what blkid finds on a device."""
    return _blkid(host, name)[0]


def occupied(host: Host, name: str) -> str | None:
    """Return in words why a device is not blank, None if that it is blank is proved."""
    if not disks.size(host, name):
        return "it has no size: nothing can be proved of it"
    below = parts(host, name)
    if below:
        return f"it has partitions ({', '.join(below)})"
    found, status = _blkid(host, name)
    if found.text:
        return f"it holds {found.text}"
    if status not in (0, NOTHING_FOUND):
        return f"blkid cannot tell what is on it (exit status {status})"
    wiped = host.ask(["wipefs", "--no-act", "--noheadings", "--output", "TYPE,OFFSET", f"/dev/{name}"])
    if not wiped.ok:
        said = wiped.output.strip().splitlines()[-1:] or [f"exit status {wiped.status}"]
        return f"wipefs cannot tell what is on it ({said[0]})"
    if wiped.output.strip():
        return f"it holds a signature: {' at '.join(wiped.output.strip().splitlines()[0].split())}"
    return not_zero(host, name)


def not_zero(host: Host, name: str) -> str | None:
    """Return in words where a sample of a device is not zero, or cannot be read; None if all are zero."""
    for offset, length in samples(disks.size(host, name) * SECTOR):
        try:
            found = host.root.read_at(f"/dev/{name}", offset, length)
        except OSError as error:
            return f"it cannot be read at byte {offset}: {error.strerror}"
        if len(found) < length:
            return f"it cannot be read at byte {offset + len(found)}: nothing is there"
        if found.count(0) != length:
            return (
                f"it holds data that no tool knows (byte {offset + length - len(found.lstrip(bytes(1)))} is not zero)"
            )
    return None


def samples(size: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of what is looked at on a device of `size` bytes.

    The first and the last MiB, where partition tables and most superblocks are; where the second copies of others
    are; 64 pieces at even distances between.
    """
    yield 0, min(MIB, size)
    if size <= MIB:
        return
    yield max(size - MIB, MIB), min(MIB, size - MIB)
    room = size - 2 * MIB
    if room <= SAMPLES * PIECE:
        if room > 0:
            yield MIB, room
        return
    for offset in COPIES:
        if offset + PIECE <= size:
            yield offset, PIECE
    for number in range(SAMPLES):
        yield MIB + (room - PIECE) * number // (SAMPLES - 1) // 4096 * 4096, PIECE


def parts(host: Host, name: str) -> list[str]:
    """Return the kernel names of the partitions of a disk, by their numbers."""
    found = [each for each in host.listdir(f"{BLOCK}/{name}") if host.exists(f"{BLOCK}/{each}/partition")]
    return sorted(found, key=lambda each: disks.number_in(host, f"{BLOCK}/{each}/partition") or 0)


def in_use(host: Host, name: str, taken: Mapping[str, str] | None = None) -> str | None:
    """Return in words who uses a device, or a part of it, None if nobody does. `taken`: as `mounts_and_swaps` says."""
    names = [name, *parts(host, name)]
    users = mounts_and_swaps(host) if taken is None else taken
    user = next((users[each] for each in names if each in users), None)
    if user is not None:
        return user
    holders = [holder for each in names for holder in host.listdir(f"{BLOCK}/{each}/holders")]
    if holders:
        return f"is part of {', '.join(_called(host, holder) for holder in holders)}"
    return None if _free(host, name) else "is in use, the kernel says"


def mounts_and_swaps(host: Host) -> dict[str, str]:
    """Return in words, by kernel name, which devices are mounted or swap. Who asks about many devices asks it once."""
    found: dict[str, str] = {}
    for mount in disks.mounts(host):
        found.setdefault(disks.device_of(host, mount) or "", f"is mounted on {mount.target}")
    for path in disks.swaps(host):
        found.setdefault(disks.kernel_name(host, path) or "", "is swap in use")
    found.pop("", None)
    return found


def system_disks(host: Host) -> set[str]:
    """Return the kernel names of the disks that the system itself is on, through LVM, RAID and LUKS too."""
    todo = []
    for target in PROTECTED:
        mount = disks.mounted(host, target)
        name = disks.device_of(host, mount) if mount else None
        todo += [name] if name else []
    found: set[str] = set()
    while todo:
        name = todo.pop()
        part = disks.partition(host, name)
        below = [part.disk] if part else host.listdir(f"{BLOCK}/{name}/slaves")
        if name not in found:
            found.add(name)
            todo += below
    return {name for name in found if disks.partition(host, name) is None}


def _content(known: Mapping[str, str]) -> Content:
    label, uuid = (disks.decoded(known.get(f"ID_FS_{key}_ENC", "")) for key in ("LABEL", "UUID"))
    several = known.get("ID_FS_AMBIVALENT", "")
    kind = known.get("ID_FS_TYPE", "") or (f"signatures that contradict each other ({several})" if several else "")
    return Content(kind, label, uuid, known.get("ID_PART_TABLE_TYPE", ""))


def _blkid(host: Host, name: str) -> tuple[Content, int]:
    """Return what blkid finds on a device, and its exit status."""
    asked = host.ask(["blkid", "-p", "-o", "udev", f"/dev/{name}"])
    return _content(dict(line.partition("=")[::2] for line in asked.output.splitlines())), asked.status


def _called(host: Host, holder: str) -> str:
    given = (host.text(f"{BLOCK}/{holder}/dm/name") or "").strip()
    return f"{holder} ({given})" if given else holder


def _free(host: Host, name: str) -> bool:
    """Ask the kernel whether a device, or one that it is part of, is claimed: by a mount, swap, RAID, device-mapper."""
    try:
        os.close(os.open(host.root.outside(f"/dev/{name}"), os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.EBUSY
    return True
