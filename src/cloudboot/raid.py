"""RAID 0 of Linux md over whole disks, known again by the UUID that it was made with.

An array is told from the superblocks of its members (md_p.h, version 1.2), never by its name or number: those depend
on the host's name, on mdadm.conf and on what udev has put together before.
"""

from __future__ import annotations

from struct import unpack_from

from cloudboot import disks
from cloudboot.errors import CloudbootError
from cloudboot.superblock import RAID
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.host import Host

PLACE = 4096  # bytes before the superblock of version 1.2
LIMIT = 60  # seconds for mdadm
LIVE = "disks are those of the running machine"


class Member(NamedTuple):
    """What a member's superblock says: the array's UUID, and how many disks it is made of."""

    uuid: str
    disks: int


def member(host: Host, name: str) -> Member | None:
    """Return what array a disk is a member of, None if it is none of version 1.2. Raises OSError."""
    block = host.root.read_at(f"/dev/{name}", PLACE, 256)
    if len(block) < 256 or block[:4] != RAID or unpack_from("<I", block, 4)[0] != 1:
        return None
    return Member(uuid_text(block[16:32].hex()), unpack_from("<I", block, 92)[0])


def running(host: Host, members: Sequence[str]) -> str | None:
    """Return the kernel name of the array that runs over all these disks, None if none does."""
    held = [
        {each for each in host.listdir(f"{disks.BLOCK}/{name}/holders") if each.startswith("md")} for name in members
    ]
    names = sorted(set.intersection(*held)) if held else []
    # One of which a member is missing is there too, and has no size.
    return next((name for name in names if disks.size(host, name)), None)


def create(host: Host, label: str, uuid: str, members: Sequence[str]) -> str:
    """Make an array of blank disks; return its kernel name. Raises CloudbootError."""
    words = ["--create", f"/dev/md/{label}", "--run", "--level=0", "--metadata=1.2", f"--raid-devices={len(members)}"]
    words += [f"--name={label}", "--homehost=any", f"--uuid={uuid.replace('-', ':')}"]
    return _mdadm(host, words, members)


def assemble(host: Host, label: str, uuid: str, members: Sequence[str]) -> str:
    """Put an array together that was made before; return its kernel name. Raises CloudbootError."""
    return _mdadm(host, ["--assemble", f"/dev/md/{label}", f"--uuid={uuid.replace('-', ':')}"], members)


def uuid_text(digits: str) -> str:
    """Return 32 hexadecimal digits as a UUID."""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


def _mdadm(host: Host, words: Sequence[str], members: Sequence[str]) -> str:
    if host.which("mdadm") is None:
        raise CloudbootError(f"mdadm: not found: install mdadm (nothing is written to {', '.join(members)})")
    host.run(["mdadm", *words, *(f"/dev/{name}" for name in members)], live=LIVE, timeout=LIMIT)
    name = running(host, members)
    if name is None:
        raise CloudbootError(f"no array runs over {', '.join(members)} after mdadm has ended")
    return name
