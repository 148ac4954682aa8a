"""What a block device holds, from its own bytes: no mount, no tool, nothing of it is put together.

Offsets are those of the formats themselves: fs/ext4/ext4.h, xfs_format.h, btrfs_tree.h, md_p.h, swapfile.c and
squashfs_fs.h of the kernel, LVM2's label, LUKS1 and LUKS2 headers of cryptsetup, UEFI's GPT.
A device may hold anything, also what somebody has made to mislead: short reads and odd values are `unknown`, no error.
"""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[int, int], bytes]

KIB, MIB = 1 << 10, 1 << 20
SECTOR = 512
CLEAN, DIRTY, UNKNOWN = "clean", "dirty", "unknown"
BEGINNING = 68 * KIB  # has the first superblock of everything but what stands at a device's end
BTRFS = 64 * KIB
ISO = 32 * KIB
RAID = 0xA92B4EFC.to_bytes(4, "little")
RAID_BIG = 0xA92B4EFC.to_bytes(4, "big")  # 0.90 has the byte order of the machine that made it
SWAPS = (b"SWAPSPACE2", b"SWAP-SPACE")
PAGES = (4 * KIB, 8 * KIB, 16 * KIB, 64 * KIB)
# Of ext: what makes it an ext4, what an ext3 (a journal), and what says that the journal is to be replayed.
EXT_JOURNAL, EXT_RECOVER, EXT_JOURNAL_DEVICE = 0x4, 0x4, 0x8
EXT3_INCOMPAT, EXT3_RO_COMPAT = 0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4
EXT_CLEANLY, EXT_ERRORS = 0x1, 0x2


class Superblock(NamedTuple):
    """What a device holds.

    kind: ext2, ext3, ext4, xfs, btrfs, vfat, iso9660, squashfs; swap, lvm, luks, raid; gpt, mbr; blank; unknown.
    state: clean or dirty where the superblock tells, else unknown. uuid: as udev writes it. detail: more, in words.
    """

    kind: str
    state: str = UNKNOWN
    label: str = ""
    uuid: str = ""
    detail: str = ""


def classify(read: Read, size: int) -> Superblock:
    """Return what a device of `size` bytes holds. read(offset, length) returns its bytes, fewer at its end.

    Members come first: one of RAID 1 whose own superblock is at the device's end looks like the file system that the
    whole array holds, and to mount that would be to write behind the array's back. A file system comes before a
    partition table, because a boot sector is part of some; a table of which a file system knows nothing is told by
    what is left.
    """
    head = read(0, BEGINNING)
    for look in (_lvm, _luks, _raid):
        found = look(read, head, size)
        if found is not None:
            return found
    for ask in (_btrfs, _xfs, _ext, _swap, _squashfs, _iso, _gpt, _vfat, _mbr):
        found = ask(head)
        if found is not None:
            return found
    if head and not any(head) and not any(read(max(0, size - BEGINNING), BEGINNING)):
        return Superblock("blank", detail="zeros at both ends")
    return Superblock("unknown", detail="" if head else "cannot be read")


# -- members


def _lvm(_: Read, head: bytes, __: int) -> Superblock | None:
    """LVM2 has its label in one of the first four sectors."""
    for at in range(0, 4 * SECTOR, SECTOR):
        if head[at : at + 8] == b"LABELONE" and head[at + 24 : at + 32] == b"LVM2 001":
            start = at + _int(head, at + 20, 4)
            raw = _text(head[start : start + 32])
            parts = [raw[a:b] for a, b in ((0, 6), (6, 10), (10, 14), (14, 18), (18, 22), (22, 26), (26, 32))]
            return Superblock("lvm", uuid="-".join(parts) if len(raw) == 32 else "", detail="a physical volume of LVM")
    return None


def _luks(_: Read, head: bytes, __: int) -> Superblock | None:
    if head[:6] == b"LUKS\xba\xbe":
        version = _int(head, 6, 2, "big")
        label = _text(head[24:72]) if version == 2 else ""
        return Superblock("luks", label=label, uuid=_text(head[168:208]), detail=f"LUKS{version}, locked")
    return None


def _raid(read: Read, head: bytes, size: int) -> Superblock | None:
    """Linux md: 1.1 at the start, 1.2 after 4 KiB, 1.0 in the last 8 to 12 KiB, 0.90 in the last 64 to 128 KiB."""
    places = [("1.1", 0), ("1.2", 4 * KIB)]
    if size >= 12 * KIB:
        places.append(("1.0", (size // SECTOR - 16) // 8 * 8 * SECTOR))
    for version, at in places:
        block = head[at : at + 256] if at + 256 <= len(head) else read(at, 256)
        # The superblock says itself where it is: what looks like one inside of a file does not.
        if block[:4] == RAID and _int(block, 4, 4) == 1 and _int(block, 144, 8) * SECTOR == at:
            label = _text(block[32:64])
            return Superblock("raid", label=label, uuid=_uuid(block[16:32]), detail=f"a member of RAID, {version}")
    if size >= 128 * KIB:
        block = read(size // (64 * KIB) * 64 * KIB - 64 * KIB, 64)
        if block[:4] in (RAID, RAID_BIG):
            order = "little" if block[:4] == RAID else "big"
            if _int(block, 4, 4, order) == 0 and _int(block, 8, 4, order) == 90:
                return Superblock("raid", detail="a member of RAID, 0.90")
    return None


# -- file systems


def _ext(head: bytes) -> Superblock | None:
    block = head[KIB : 2 * KIB]
    if block[0x38:0x3A] != b"\x53\xef":
        return None
    compat, incompat, ro_compat = (_int(block, at, 4) for at in (0x5C, 0x60, 0x64))
    if incompat & EXT_JOURNAL_DEVICE:
        return Superblock("unknown", detail="a journal of another file system (ext)")
    kind = "ext2" if not compat & EXT_JOURNAL else "ext3"
    if incompat & ~EXT3_INCOMPAT or ro_compat & ~EXT3_RO_COMPAT:
        kind = "ext4"
    state = _int(block, 0x3A, 2)
    dirty = incompat & EXT_RECOVER or not state & EXT_CLEANLY or state & EXT_ERRORS
    detail = "has errors" if state & EXT_ERRORS else "its journal is to be replayed" if incompat & EXT_RECOVER else ""
    return Superblock(kind, DIRTY if dirty else CLEAN, _text(block[0x78:0x88]), _uuid(block[0x68:0x78]), detail)


def _xfs(head: bytes) -> Superblock | None:
    """Of xfs the superblock does not say whether its log is empty."""
    if head[:4] != b"XFSB":
        return None
    return Superblock("xfs", UNKNOWN, _text(head[108:120]), _uuid(head[32:48]))


def _btrfs(head: bytes) -> Superblock | None:
    """What fsync has written since the last commit is in a log tree, which is replayed by a mount."""
    block = head[BTRFS : BTRFS + 4 * KIB]
    if block[0x40:0x48] != b"_BHRfS_M":
        return None
    dirty = _int(block, 0x60, 8) != 0
    label = _text(block[0x12B : 0x12B + 256])
    several = _int(block, 0x88, 8)
    if several > 1:  # a mount takes the others too, which no read-only loop device stands before
        return Superblock(
            "raid", label=label, uuid=_uuid(block[0x20:0x30]), detail=f"one of {several} devices of btrfs"
        )
    detail = "its log tree is to be replayed" if dirty else ""
    return Superblock("btrfs", DIRTY if dirty else CLEAN, label, _uuid(block[0x20:0x30]), detail)


def _squashfs(head: bytes) -> Superblock | None:
    return Superblock("squashfs", CLEAN) if head[:4] == b"hsqs" and _int(head, 28, 2) == 4 else None


def _iso(head: bytes) -> Superblock | None:
    if head[ISO + 1 : ISO + 6] != b"CD001":
        return None
    return Superblock("iso9660", CLEAN, _text(head[ISO + 40 : ISO + 72]).strip())


def _vfat(head: bytes) -> Superblock | None:
    """FAT has no magic number of its own: the fields of its boot sector have to fit, and its name stand there."""
    if head[510:512] != b"\x55\xaa" or len(head) < SECTOR:
        return None
    wide = head[82:87] == b"FAT32"
    narrow = head[54:59] in (b"FAT12", b"FAT16", b"FAT  ")
    if not (wide or narrow) or head[0] not in (0xE9, 0xEB):
        return None
    sector, cluster, reserved, copies = _int(head, 11, 2), head[13], _int(head, 14, 2), head[16]
    if sector not in (512, 1024, 2048, 4096) or cluster & (cluster - 1) or not cluster or not reserved or not copies:
        return None
    place = 67 if wide else 39
    serial = _int(head, place, 4)
    label = _text(head[place + 4 : place + 15]).strip()
    # Byte 37 (65 of FAT32): set while it is mounted.
    dirty = head[65 if wide else 37] & 1
    uuid = f"{serial >> 16:04X}-{serial & 0xFFFF:04X}"
    return Superblock("vfat", DIRTY if dirty else CLEAN, "" if label == "NO NAME" else label, uuid)


def _swap(head: bytes) -> Superblock | None:
    for page in PAGES:
        if head[page - 10 : page] in SWAPS:
            new = head[page - 10 : page] == SWAPS[0]
            label, uuid = (_text(head[0x41C:0x42C]), _uuid(head[0x40C:0x41C])) if new else ("", "")
            return Superblock("swap", UNKNOWN, label, uuid)
    return None


# -- partition tables


def _gpt(head: bytes) -> Superblock | None:
    for sector in (SECTOR, 4 * KIB):
        header = head[sector : sector + 92]
        if header[:8] == b"EFI PART" and len(header) == 92:
            return Superblock("gpt", uuid=_guid(header[56:72]), detail="a partition table" + _damage(header))
    return None


def _damage(header: bytes) -> str:
    import zlib

    size = _int(header, 12, 4)
    plain = header[:16] + bytes(4) + header[20:]
    return "" if size == 92 and zlib.crc32(plain) == _int(header, 16, 4) else ", whose checksum is wrong"


def _mbr(head: bytes) -> Superblock | None:
    """Four entries, each active or not, and one of them used: else the mark alone is a boot sector's."""
    if head[510:512] != b"\x55\xaa":
        return None
    entries = [head[at : at + 16] for at in range(446, 510, 16)]
    if any(entry[0] & 0x7F for entry in entries) or not any(entry[4] for entry in entries):
        return None
    return Superblock("mbr", uuid=f"{_int(head, 440, 4):08x}", detail="a partition table")


# -- values


def _int(data: bytes, at: int, length: int, order: str = "little") -> int:
    return int.from_bytes(data[at : at + length], "big" if order == "big" else "little")


def _text(raw: bytes) -> str:
    return "".join(char for char in raw.partition(b"\0")[0].decode("utf-8", "replace") if char.isprintable())


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    if len(text) != 32 or not any(raw):
        return ""
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _guid(raw: bytes) -> str:
    """GUIDs of UEFI have their first three parts in little endian."""
    return _uuid(raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]) if len(raw) == 16 else ""
