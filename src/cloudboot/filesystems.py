"""File systems: how large one is, by its own word, and how it grows into its device."""

from __future__ import annotations

import os
from struct import unpack_from

from cloudboot import disks
from cloudboot.disks import SECTOR
from cloudboot.errors import CloudbootError, CommandError, ConfigError
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cloudboot.disks import Mount
    from cloudboot.host import Host

MIB = 1 << 20
EXT = ("ext2", "ext3", "ext4")
GROWABLE = (*EXT, "xfs", "btrfs")
LIVE = "grows a file system of the running machine"

# linux/fs.h of each: _IOR('X', 100, struct xfs_fsop_geom_v1), _IOR(0x94, 31, 1024), _IOWR(0x94, 30, 4096)
XFS_IOC_FSGEOMETRY_V1 = 0x80705864
BTRFS_IOC_FS_INFO = 0x8400941F
BTRFS_IOC_DEV_INFO = 0xD000941E


class Growth(NamedTuple):
    """How a file system can grow: the tool's words, the package that has it."""

    argv: tuple[str, ...]
    package: str


def grow(host: Host, mount: Mount, *, background: str = "") -> None:
    """Grow a mounted file system to its device, if it can grow; `background`: in a unit of this name.

    Raises ConfigError for a type that is not known, CloudbootError if it should grow and does not.
    """
    name = disks.device_of(host, mount)
    if name is None or not host.exists(f"/dev/{name}"):
        return
    try:
        wanted = growth(host, mount, name)
    except OSError as error:
        raise CloudbootError(f"{mount.target}: its size cannot be read: {error.strerror}: not grown") from None
    if wanted is None:
        return
    if host.which(wanted.argv[0]) is None:
        told = f"{wanted.argv[0]}: not found: install {wanted.package} ({mount.target} is smaller than {name})"
        raise CloudbootError(told)
    argv = list(wanted.argv)
    if background:
        argv = ["systemd-run", "--no-block", "--collect", f"--unit={background}", *argv]
    try:
        host.run(argv, live=LIVE)
    except CommandError:
        if growth(host, mount, name) is not None:  # systemd, which knows x-systemd.growfs, may have been faster
            raise


def growth(host: Host, mount: Mount, name: str) -> Growth | None:
    """Return how a mounted file system can grow, None if it fills its device.

    Raises OSError if its size cannot be read, ConfigError for a type that is not known.
    """
    room = disks.size(host, name) * SECTOR
    if mount.kind in EXT:
        grows = ext_can_grow(disks.read_at(host, name, 1024, 1024), room)
        return Growth(("resize2fs", f"/dev/{name}"), "e2fsprogs") if grows else None
    if mount.kind == "xfs":
        # Not from the device: xfs keeps its superblock in a cache of its own.
        grows = room - _xfs_size(host.root.outside(mount.target)) >= MIB
        return Growth(("xfs_growfs", mount.target), "xfsprogs") if grows else None
    if mount.kind == "btrfs":
        for number, size in _btrfs_sizes(host.root.outside(mount.target), name):
            if room - size >= MIB:
                return Growth(("btrfs", "filesystem", "resize", f"{number}:max", mount.target), "btrfs-progs")
        return None
    raise ConfigError(f"{mount.target}: {mount.kind}: is not grown, only ext2, ext3, ext4, xfs and btrfs are")


def ext_can_grow(superblock: bytes, room: int) -> bool:
    """Tell whether an ext file system with this superblock grows into a device of `room` bytes.

    resize2fs leaves the end unused if it is too short for the tables of one more block group: that much stays out.
    """
    if len(superblock) < 0x154 or unpack_from("<H", superblock, 0x38)[0] != 0xEF53:
        return False
    blocks, block_size = unpack_from("<I", superblock, 4)[0], 1024 << unpack_from("<I", superblock, 0x18)[0]
    wide = unpack_from("<I", superblock, 0x60)[0] & 0x80  # INCOMPAT_64BIT
    if wide:
        blocks |= unpack_from("<I", superblock, 0x150)[0] << 32
    per_group, inodes = unpack_from("<I", superblock, 0x20)[0], unpack_from("<I", superblock, 0x28)[0]
    inode_size, reserved = unpack_from("<H", superblock, 0x58)[0], unpack_from("<H", superblock, 0xCE)[0]
    descriptors = (room // block_size // per_group + 1) * 64 // block_size + 1
    least = 2 + inodes * inode_size // block_size + 1 + descriptors + reserved + 50
    possible = room // block_size if wide else min(room // block_size, (1 << 32) - 1)
    return bool(possible - blocks > least)


def _xfs_size(path: str) -> int:
    """Return the bytes of a mounted xfs. Raises OSError."""
    answer = _ask(path, XFS_IOC_FSGEOMETRY_V1, bytes(112))
    block_size, data_blocks = unpack_from("=I", answer, 0)[0], unpack_from("=Q", answer, 32)[0]
    return int(block_size * data_blocks)


def _btrfs_sizes(path: str, name: str) -> list[tuple[int, int]]:
    """Return number and bytes used by a mounted btrfs of its device with this kernel name. Raises OSError."""
    highest = unpack_from("=Q", _ask(path, BTRFS_IOC_FS_INFO, bytes(1024)), 0)[0]
    found = []
    for number in range(1, highest + 1):
        try:
            answer = _ask(path, BTRFS_IOC_DEV_INFO, number.to_bytes(8, "little") + bytes(4088))
        except OSError:  # numbers of devices that were removed are not given again
            continue
        device = answer[3072:].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if highest == 1 or os.path.basename(os.path.realpath(device)) == name:
            found.append((number, unpack_from("=Q", answer, 32)[0]))
    return found


def _ask(path: str, request: int, buffer: bytes) -> bytes:
    """Ask a mounted file system by ioctl; return the buffer as it filled it. Raises OSError."""
    from fcntl import ioctl

    filled = bytearray(buffer)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ioctl(directory, request, filled)
    finally:
        os.close(directory)
    return bytes(filled)
