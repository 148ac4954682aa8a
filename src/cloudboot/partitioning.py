"""Partition tables as values: what is wanted, what is there, and how sfdisk is told.

One tool for MBR and GPT: sfdisk (util-linux 2.26 and later). Codes for GPT's types are those of sgdisk.
"""

from __future__ import annotations

import re
from enum import StrEnum

from cloudboot.errors import ConfigError
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.host import Host

MIB = 1 << 20
ENDS = 2  # MiB at a disk's two ends that no partition gets: the table and the alignment, GPT's second table
MBR_MOST = 4  # primary partitions
MBR_REACH = 2 << 20  # MiB: 32 bits of sectors with 512 bytes

GUID = re.compile(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}")
CODE = re.compile(r"[0-9A-F]{1,2}|[0-9A-F]{4}")
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
GPT_TYPES = {
    "0700": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",  # Microsoft basic data
    "0C01": "E3C9E316-0B5C-4DB8-817D-F92DF00215AE",  # Microsoft reserved
    "2700": "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC",  # Windows recovery
    "8200": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",  # Linux swap
    "8300": LINUX,
    "8301": "8DA63339-0007-60C0-C436-083AC8230908",  # Linux reserved
    "8302": "933AC7E1-2EB4-4F13-B844-0E14E2AEF915",  # /home
    "8303": "44479540-F297-41B2-9AF7-D131D5F0458A",  # root, x86
    "8304": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",  # root, x86-64
    "8305": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",  # root, ARM 64
    "8306": "3B8F8425-20E0-4F3B-907F-1A25A76F98E8",  # /srv
    "8307": "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3",  # root, ARM 32
    "8308": "7FFEC5C9-2D00-49B7-8941-3EA10A5586B7",  # dm-crypt
    "8309": "CA7D7CCB-63ED-4C53-861C-1742536059CC",  # LUKS
    "8310": "4D21B016-B534-45C2-A9FB-5C16E091FD2D",  # /var
    "8311": "7EC6F557-3BC5-4ACA-B293-16EF5DF639D1",  # /var/tmp
    "8E00": "E6D6D379-F507-44C2-A23C-238F2A3DF928",  # LVM
    "A500": "516E7CB4-6ECF-11D6-8FF8-00022D09712B",  # FreeBSD
    "A504": "516E7CBA-6ECF-11D6-8FF8-00022D09712B",  # FreeBSD ZFS
    "AF00": "48465300-0000-11AA-AA11-00306543ECAC",  # Apple HFS
    "BF00": "6A82CB45-1DD2-11B2-99A6-080020736631",  # Solaris root
    "BF01": "6A898CC3-1DD2-11B2-99A6-080020736631",  # ZFS
    "EA00": "BC13C2FF-59E6-4262-A352-B275FD6F7172",  # extended boot loader
    "EF00": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",  # EFI system
    "EF02": "21686148-6449-6E6F-744E-656564454649",  # BIOS boot
    "FD00": "A19D880F-05FC-4D3B-A006-743F0F84911E",  # Linux RAID
}


class Label(StrEnum):
    """The kinds of partition tables, as sfdisk calls them."""

    MBR = "dos"
    GPT = "gpt"


class Wanted(NamedTuple):
    """A partition that is wanted: percent of the disk, and its type as sfdisk reports it (`83`, a GUID)."""

    percent: int
    type: str


class Table(NamedTuple):
    """A partition table: its kind, the type of each partition."""

    label: str
    types: tuple[str, ...]


def wanted(layout: bool | Sequence[Any], label: Label) -> list[Wanted]:
    """Return the partitions that a layout means: `true`, or a list of percent and `[percent, type]`.

    Raises ConfigError.
    """
    if isinstance(layout, bool):
        return [Wanted(100, type_of(None, label))]
    found = []
    for item in layout:
        percent, kind = (item[0], item[1]) if isinstance(item, list) else (item, None)
        found.append(Wanted(percent, type_of(kind, label)))
    total = sum(each.percent for each in found)
    if total > 100:
        raise ConfigError(f"the percentages make {total}: at most 100")
    if label is Label.MBR and len(found) > MBR_MOST:
        raise ConfigError(f"{len(found)} partitions, an mbr has room for {MBR_MOST}: table_type: gpt has for 128")
    return found


def type_of(code: int | str | None, label: Label) -> str:
    """Return a type as sfdisk reports it, from 2 or 4 hexadecimal digits or a GUID; None: Linux.

    `82` means the digits, also where YAML takes it for a number. Raises ConfigError.
    """
    if code is None:
        return "83" if label is Label.MBR else LINUX
    text = str(code).upper()
    if label is Label.GPT and GUID.fullmatch(text):
        return text
    if not CODE.fullmatch(text):
        wants = "2 hexadecimal digits" if label is Label.MBR else "2 or 4 hexadecimal digits, or a GUID"
        raise ConfigError(f"not a type of partition: {code!r}: write {wants}")
    full = text if len(text) == 4 else f"{text:0>2}00"
    if label is Label.MBR:
        if not full.endswith("00"):
            raise ConfigError(f"type {code!r} is GPT's: write 2 hexadecimal digits, or table_type: gpt")
        return full[:2].lstrip("0").lower() or "0"
    if full not in GPT_TYPES:
        raise ConfigError(f"type {code!r} is not known: write its GUID")
    return GPT_TYPES[full]


def script(partitions: Sequence[Wanted], label: Label, size: int) -> str:
    """Return what sfdisk reads to make these partitions on a disk of `size` bytes.

    Each begins on a whole MiB; where they are 100 percent together, the last gets what is left. Raises ConfigError.
    """
    room = size // MIB - ENDS
    if label is Label.MBR and room + ENDS > MBR_REACH:
        raise ConfigError(f"an mbr reaches 2 TiB, the disk has {size >> 40} TiB: table_type: gpt")
    lines = [f"label: {label}"]
    total = before = 0
    for each in partitions:
        total += each.percent
        end = room * total // 100
        if end <= before:
            raise ConfigError(f"{each.percent} percent of {size // MIB} MiB is less than 1 MiB")
        length = "" if total == 100 else f"size={end - before}MiB, "
        lines.append(f"{length}type={each.type}")
        before = end
    return "\n".join(lines) + "\n"


def read(host: Host, name: str) -> Table | None:
    """Return the partition table of a disk, None if sfdisk finds none."""
    import json

    answer = host.ask(["sfdisk", "--json", f"/dev/{name}"])
    try:
        table = json.loads(answer.output)["partitiontable"]
        types = tuple(str(each["type"]) for each in table.get("partitions", ()))
        return Table(table["label"], types)
    except (ValueError, KeyError, TypeError):
        return None


def satisfied(table: Table, layout: bool | Sequence[Any], label: Label, partitions: Sequence[Wanted]) -> bool:
    """Tell whether a disk is partitioned as wanted: `true` by any partition, a list by the same number and types."""
    if isinstance(layout, bool):
        return bool(table.types)
    kinds = [each.upper() for each in table.types], [each.type.upper() for each in partitions]
    return table.label == label and kinds[0] == kinds[1]
