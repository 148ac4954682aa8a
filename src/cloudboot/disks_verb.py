"""`cloudboot disks`: every disk and partition by all its names, what is on it, and how each was found out.

It reads what anybody may read; what only root may ask (NVMe controllers, the metadata, blkid) is named as missing.
"""

from __future__ import annotations

from cloudboot import blank, consumed_root, disks, store
from cloudboot.disks import BLOCK, SECTOR, Disks, Kind
from cloudboot.errors import CloudbootError
from cloudboot.instance import load_identity
from cloudboot.status import key, load
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from cloudboot.host import Host

WIDTH = 100
HEAD = ("DEVICE", "SIZE", "EC2 NAME", "VOLUME", "HOLDS", "MOUNTED ON")
MOST = (16, 9, 18, 21, 20, 40)  # columns of each
LINKS = r"(?:sd|xvd)[a-z]+\d*"  # what udev's rules for EC2 call their links in /dev
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Row(NamedTuple):
    """A disk or partition. disk: the one that it is on, empty for a disk. found: a name, a kind, `content` -> how."""

    name: str
    disk: str
    size: int  # bytes
    ec2_names: tuple[str, ...]
    volume: str
    kind: Kind | None
    content: blank.Content
    mounted: tuple[str, ...]
    found: dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(
    arguments: argparse.Namespace,
    host: Host,
    write: Callable[[str], object],
    identify: Callable[[str], bytes] = disks.identify,
) -> int:
    """Write what is known of the disks; return 0. Raises CloudbootError where no kernel shows any."""
    if not host.exists(BLOCK):
        raise CloudbootError(f"disks: {host.root.outside(BLOCK)} is not there: an image tree has no machine's disks")
    mapping, missing = _mapping(host)
    known = Disks(host, mapping, identify)
    found = rows(known)
    if known.denied:
        missing.append(f"the EC2 names of {', '.join(sorted(known.denied))}: only root may ask an NVMe controller")
    unread = [row.name for row in found if disks.properties(host, row.name) is None]
    if unread and not host.root.privileged:
        missing.append(f"what is on {', '.join(unread)}: udev keeps nothing of it, and only root may read the device")
    if arguments.format == "json":
        import json

        write(json.dumps({"disks": [_document(row) for row in found], "needs_root": missing}, indent=1) + "\n")
    else:
        write(text(found, missing))
    return 0


def text(rows: list[Row], missing: list[str]) -> str:
    """Return the table, how each fact was found out, and what is missing; no line is longer than 100 columns."""
    import textwrap

    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [min(max(len(line[column]) for line in cells), MOST[column]) for column in range(len(HEAD))]
    lines = [
        "  ".join(_cut(cell, width).ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells
    ]
    lines = [_cut(line.rstrip(), WIDTH) for line in lines]
    if not rows:
        lines = ["no disks"]
    told = {
        row.name: "; ".join(
            f"{_in_words(row) if what == 'content' else what}: {how}" for what, how in row.found.items()
        )
        for row in rows
    }
    if any(told.values()):
        lines += ["", "How each was found out:"]
    margin = max([len(name) for name in told], default=0) + 4
    for name, how in told.items():
        if how:
            lines += textwrap.wrap(
                how, WIDTH, initial_indent=f"  {name}".ljust(margin), subsequent_indent=" " * margin,
                break_on_hyphens=False,
            )  # fmt: skip
    if missing:
        lines += ["", "As root this would show more:"]
        lines += [
            line
            for each in missing
            for line in textwrap.wrap(
                each, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
        ]
    return "\n".join(lines) + "\n"


# -- what is known


def rows(known: Disks) -> list[Row]:
    """Return all disks, each with its partitions after it."""
    return [each for disk in known.all() for each in _rows(known, disk)]


def _mapping(host: Host) -> tuple[dict[str, str], list[str]]:
    """Return the metadata's block device mapping of the last boot, and what could not be read for it."""
    if host.live and not host.root.privileged:
        return {}, ["the names in the metadata (ephemeral0, ebs1 …): they are kept for root"]
    identity = load_identity(host)
    instance_id = key(load(host)) or (identity.id if identity is not None else None)
    instance = store.load_instance(host, instance_id) if instance_id else None
    return dict(instance.devices) if instance is not None else {}, []


def _rows(known: Disks, disk: str) -> Iterator[Row]:
    host = known.host
    found: dict[str, str] = {}
    names = _names(known, disk, found)
    volume, told = known.volume(disk), known.kind(disk)
    kind = told[0] if told else None
    if volume:
        found[volume] = "its serial number"
    if told:
        found[told[0]] = told[1]
    for name in (disk, *blank.parts(host, disk)):
        own = found if name == disk else {}
        content = blank.content(host, name)
        if content.text:
            own["content"] = "blkid" if disks.properties(host, name) is None else "udev"
        yield Row(
            name, "" if name == disk else disk, disks.size(host, name) * SECTOR,
            names if name == disk else (), volume, kind, content, tuple(_users(host, name)), own,
        )  # fmt: skip


def _names(known: Disks, disk: str, found: dict[str, str]) -> tuple[str, ...]:
    """Return the EC2 names of a disk, and note for each how it was found."""
    import re

    host = known.host
    for name in known.controller_names(disk):
        found[name] = "its NVMe controller"
    for link in host.listdir("/dev"):
        if re.fullmatch(LINKS, link) and link != disk and disks.kernel_name(host, f"/dev/{link}") == disk:
            found.setdefault(link, f"udev's link /dev/{link}")
    for role, name in known.mapping.items():
        there = known.locate(role)
        if there is not None and known.disk_of(there) == disk:
            plain = name.removeprefix("/dev/")
            found.setdefault(role, "the metadata")
            found.setdefault(plain, f"the metadata's {role}")
    if disk.startswith("xvd") and not found:  # virtio's letters are given in the order in which the disks answer
        found[f"sd{disk.removeprefix('xvd')}"] = "the kernel's name (Xen)"
    return tuple(found)


def _users(host: Host, name: str) -> Iterator[str]:
    """Yield where a device is mounted, itself or through what it is a part of (LVM, LUKS, RAID)."""
    mounts = [mount for mount in disks.mounts(host) if disks.device_of(host, mount) == name]
    whole = [mount for mount in mounts if mount.root == "/"]  # not the directories that are shown elsewhere too
    yield from dict.fromkeys(mount.target for mount in whole or mounts)
    found = consumed_root.read(host)
    if found is not None and found.used and found.device == name and found.mode != "root":
        yield "/ (upper layer)"
    if any(disks.kernel_name(host, path) == name for path in disks.swaps(host)):
        yield "[swap]"
    for holder in host.listdir(f"{BLOCK}/{name}/holders"):
        yield from _users(host, holder) if any(_users(host, holder)) else (holder,)


def _document(row: Row) -> dict[str, object]:
    """Return a row as JSON has it; what is not known is null."""
    return {
        "name": row.name,
        "disk": row.disk or None,
        "size": row.size,
        "ec2_names": list(row.ec2_names),
        "volume": row.volume or None,
        "kind": row.kind,
        "file_system": row.content.kind or None,
        "label": row.content.label or None,
        "uuid": row.content.uuid or None,
        "partition_table": row.content.table or None,
        "mounted": list(row.mounted),
        "found": row.found,
    }


# -- as a table


def _in_words(row: Row) -> str:
    return f"{row.content.text}, UUID {row.content.uuid}" if row.content.uuid else row.content.text


def _cells(row: Row) -> tuple[str, ...]:
    content = row.content
    label = f' "{content.label}"' if content.label else ""
    return (
        f"  {row.name}" if row.disk else row.name,
        readable(row.size),
        ", ".join(row.ec2_names),
        "" if row.disk else row.volume or row.kind or "",
        f"{content.kind}{label}" if content.kind else f"({content.table})" if content.table else "",
        ", ".join(row.mounted),
    )


def readable(size: int) -> str:
    """Return a size in bytes as people say it: `8 GiB`, `1.5 TiB`."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f}".removesuffix(".0") + f" {UNITS[unit]}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
