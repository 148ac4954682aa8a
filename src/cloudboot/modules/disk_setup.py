"""disk_setup: partitions and file systems, on what is provably blank."""

from __future__ import annotations

import time
from contextlib import contextmanager

from cloudboot import blank, disks, formatting, mount_entries, partitioning, udev
from cloudboot.disks import SECTOR, Disks
from cloudboot.errors import CloudbootError, ConfigError
from cloudboot.formatting import FileSystem
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.partitioning import Label
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudboot.blank import Content
    from cloudboot.host import Host
    from cloudboot.problem import Pointer

LIVE = "disks are those of the running machine"
TOOL_LIMIT = 600  # seconds for one tool: mkfs discards what is on a large disk first
NODES_LIMIT = 10.0  # seconds until new partitions have their nodes
LABELS = {"mbr": Label.MBR, "gpt": Label.GPT}
WORD = "overwrite: true says that it may be lost"
TYPE = {"type": ["string", "integer"]}
PERCENT = {"type": "integer", "minimum": 1, "maximum": 100}
TABLE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "table_type": {"default": "mbr", "type": "string", "enum": ["mbr", "gpt"]},
        "layout": {
            "default": False,
            "anyOf": [
                {"type": "boolean"},
                {"type": "string", "enum": ["remove"]},
                {
                    "type": "array",
                    "minItems": 1,
                    "x-whole": True,
                    "items": {
                        "anyOf": [PERCENT, {"type": "array", "items": TYPE, "minItems": 2, "maxItems": 2}],
                    },
                },
            ],
        },
        "overwrite": {"default": False, "type": "boolean"},
    },
}
FILE_SYSTEM = {
    "type": "object",
    "additionalProperties": False,
    "required": ["device", "filesystem"],
    "properties": {
        "device": {"type": "string", "minLength": 1},
        "filesystem": {"type": "string", "pattern": "^[a-z0-9._-]+$", "x-form": "ext4, xfs …"},
        "label": {"type": ["string", "null"]},
        "uuid": {"type": "string", "pattern": "^[0-9A-Fa-f-]+$", "x-form": "a UUID"},
        "partition": {
            "default": "any",
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": "^([1-9][0-9]*|auto|any|none)$", "x-form": "a number, auto, any or none"},
            ],
        },
        "overwrite": {"type": "boolean"},
        "replace_fs": {"type": "string"},
        "extra_opts": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "cmd": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    },
}


class Place(NamedTuple):
    """A device by the owner's word for it, its kernel name, and where in the configuration it stands."""

    word: str
    name: str
    pointer: Pointer

    def __str__(self) -> str:
        same = self.word.removeprefix("/dev/") == self.name
        shown = self.word if same else f"{self.word} ({self.name})"
        return f"{where(self.pointer)}: {shown}"


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    keys=("disk_setup", "fs_setup"),
    metadata=True,
    schema={
        "disk_setup": {
            "type": "object",
            "additionalProperties": TABLE,
            "examples": [{"/dev/sdf": {"table_type": "gpt", "layout": [25, [75, "8e00"]]}}],
        },
        "fs_setup": {
            "type": "array",
            "items": FILE_SYSTEM,
            "examples": [[{"device": "/dev/sdf", "partition": 1, "filesystem": "ext4", "label": "data"}]],
        },
        "device_aliases": {"type": "object", "additionalProperties": {"type": "string"}},
    },
)
def disk_setup(ctx: Context) -> None:
    """Partition disks and make file systems.

    Only a device that is provably blank is written to. What is there already, in the right kind and with the right
    label, is kept; anything else is refused, with what was found. `overwrite: true` is the owner's word that it may be
    lost; it does not count for what is in use, nor for the disk that the system is on. A second run changes nothing.
    """
    apply(ctx, Disks(ctx.host, dict(ctx.instance.devices)))


def apply(ctx: Context, known: Disks) -> None:
    """Do the module's work with this way to find disks."""
    host = ctx.host
    if not host.live:
        host.log.info(f"disk_setup: nothing is done in an image tree: {LIVE}")
        return
    aliases: dict[str, str] = ctx.config.get("device_aliases") or {}
    tables: dict[str, dict[str, Any]] = ctx.config.get("disk_setup") or {}
    systems: list[dict[str, Any]] = ctx.config.get("fs_setup") or []
    words = [mount_entries.aliased(word, aliases) for word in [*tables, *(each["device"] for each in systems)]]
    announced = [word for word in dict.fromkeys(words) if mount_entries.announced(known, word)]
    mount_entries.wait_for(known, announced, host, who="disk_setup")
    cleared: set[str] = set()  # made in this run on what was blank or given up, or proved blank in this run
    seen: dict[str, str] = {}
    for word, entry in tables.items():
        place = locate(ctx, known, mount_entries.aliased(word, aliases), ("disk_setup", word))
        if place is None:
            continue
        if place.name in seen:
            ctx.report(f"{place}: is {seen[place.name]} as well: its second entry is left out", place.pointer)
            continue
        seen[place.name] = word
        with reported(ctx, place):
            partition(ctx, place, entry, cleared)
    for index, item in enumerate(systems):
        place = locate(ctx, known, mount_entries.aliased(item["device"], aliases), ("fs_setup", index))
        if place is not None:
            with reported(ctx, place):
                file_system(ctx, known, place, item, cleared)


@contextmanager
def reported(ctx: Context, place: Place) -> Iterator[None]:
    """Tell what goes wrong with one device, so that the others go on: the owner's mistakes, or work that failed."""
    try:
        yield
    except ConfigError as error:
        ctx.report(f"{place}: {error}", place.pointer)
    except (CloudbootError, OSError) as error:
        ctx.fail(f"{place}: {error}", place.pointer)


def locate(ctx: Context, known: Disks, word: str, pointer: Pointer) -> Place | None:
    """Return the device that a word means; one that is not here is reported."""
    name = known.locate(word)
    if name is None:
        ctx.report(
            f"{where(pointer)}: no device {word!r} on this machine{mount_entries.here(known)}: left out", pointer
        )
        return None
    return Place(word, name, pointer)


def where(pointer: Pointer) -> str:
    """Return a place in the configuration as text: `disk_setup`, whose keys are devices, `fs_setup[0]`."""
    return mount_entries.dotted(pointer if isinstance(pointer[-1], int) else pointer[:1])


# -- partitions


def partition(ctx: Context, place: Place, entry: dict[str, Any], cleared: set[str]) -> None:
    """Partition a disk as its entry says, unless that is so. Raises CloudbootError, OSError."""
    host, name = ctx.host, place.name
    layout, overwrite = entry.get("layout", False), entry.get("overwrite", False)
    label = LABELS[entry.get("table_type", "mbr")]
    if layout is False:
        return
    if disks.partition(host, name) is not None:
        raise ConfigError("is a partition: only whole disks are partitioned")
    there = blank.parts(host, name)
    marked = there or blank.content(host, name).table or blank.probe(host, name).table
    if layout == "remove":
        if marked:
            clear(host, name, "partitions are not removed", overwrite=overwrite)
        return
    wanted = partitioning.wanted(layout, label)
    table = partitioning.read(host, name) if marked else None
    if table is not None and partitioning.satisfied(table, layout, label, wanted):
        if len(there) < len(table.types):  # the kernel has not looked yet
            show(host, name, len(table.types))
        return
    script = partitioning.script(wanted, label, disks.size(host, name) * SECTOR)
    if host.which("sfdisk") is None:
        raise CloudbootError("not partitioned: sfdisk: not found: install fdisk")
    clear(host, name, "not partitioned", overwrite=overwrite)
    argv = ["sfdisk", "--quiet", "--no-reread", "--wipe", "always", "--wipe-partitions", "always", f"/dev/{name}"]
    host.run(argv, stdin=script.encode(), live=LIVE, timeout=TOOL_LIMIT)
    show(host, name, len(wanted))
    cleared.update(blank.parts(host, name))


def show(host: Host, name: str, count: int, *, limit: float = NODES_LIMIT) -> None:
    """Show the kernel a disk's partitions, and wait for their nodes. Raises CloudbootError if they do not come."""
    # sfdisk has asked the kernel too, and udev does: a loop device does not listen, others are faster than partx (1).
    host.run(["partx", "--update", f"/dev/{name}"], live=LIVE, timeout=60, accept=(0, 1))
    udev.settle(host)
    end = time.monotonic() + limit
    while True:
        nodes = [each for each in blank.parts(host, name) if host.exists(f"/dev/{each}")]
        if len(nodes) >= count or host.planned:
            return
        if time.monotonic() > end:
            raise CloudbootError(f"{len(nodes)} of {count} partitions have come up in /dev after {limit:g} s")
        time.sleep(0.1)


# -- file systems


def file_system(ctx: Context, known: Disks, place: Place, item: dict[str, Any], cleared: set[str]) -> None:
    """Make a file system as its item says, unless it is there. Raises CloudbootError, OSError."""
    host, which, given = ctx.host, str(item.get("partition", "any")), place.name
    wanted = FileSystem(item["filesystem"], item.get("label") or "", item.get("uuid", ""))
    formatting.check(wanted)
    if disks.partition(host, place.name) is not None:
        if which.isdigit():
            told = f"{place}: is a partition itself: partition: {which} is not looked at"
            ctx.report(told, (*place.pointer, "partition"), Level.WARNING)
    elif which.isdigit():
        place = place._replace(name=numbered(known, place.name, int(which)))
    elif which != "none":
        place = place._replace(name=choose(host, place.name, item, wanted, cleared))
    if wanted.is_on(blank.content(host, place.name), same_label=which == "auto"):
        return
    whole = disks.partition(host, place.name) is None
    argv = tool(ctx, place, item, wanted, whole=whole)
    if place.name not in cleared:
        found = blank.probe(host, place.name)  # udev may be behind
        if wanted.is_on(found, same_label=which == "auto"):
            return
        given_up = item.get("overwrite", False) or replaced(item, found)
        refusal = "not formatted" if place.name == given else f"{place.name} is not formatted"
        clear(host, place.name, refusal, overwrite=given_up)
    if "cmd" in item:
        ctx.commands.script(mount_entries.dotted(place.pointer), argv)
    else:
        host.run(argv, live=LIVE, timeout=TOOL_LIMIT)
    cleared.discard(place.name)
    # What comes next, mounts by their labels too, looks at what udev knows.
    udev.look_again(host, place.name)


def numbered(known: Disks, disk: str, number: int) -> str:
    """Return the partition of a disk with this number. Raises ConfigError if there is none."""
    found = known.part(disk, number)
    if found is None:
        there = ", ".join(blank.parts(known.host, disk)) or "none"
        raise ConfigError(f"has no partition {number} (it has {there}): disk_setup makes them")
    return found


def choose(host: Host, disk: str, item: dict[str, Any], wanted: FileSystem, cleared: set[str]) -> str:
    """Return where the file system goes with `partition: any` or `auto`.

    That is where it is; else on what `replace_fs` means; else on the first blank partition, or on the whole disk if it
    has none; else, with `overwrite`, on the only one that there is. Raises CloudbootError if nothing fits.
    """
    names = blank.parts(host, disk) or [disk]
    contents = [blank.content(host, name) for name in names]
    for name, content in zip(names, contents, strict=True):
        if wanted.is_on(content, same_label=item.get("partition") == "auto"):
            return name
    for name, content in zip(names, contents, strict=True):
        if replaced(item, content):
            return name
    if disk in blank.system_disks(host):
        raise CloudbootError("not formatted: the system is on this disk: partition: N says which of its partitions")
    reasons = []
    for name in names:
        reason = None if name in cleared else blank.in_use(host, name) or blank.occupied(host, name)
        if reason is None:
            cleared.add(name)
            return name
        reasons.append(reason if name == disk else f"{name}: {reason}")
    if len(names) == 1:
        return names[0]  # judged as if it had been named
    raise CloudbootError(
        f"not formatted: none of its partitions is blank ({'; '.join(reasons)}): partition: N names one"
    )


def replaced(item: dict[str, Any], content: Content) -> bool:
    """Tell whether `replace_fs` is the owner's word that what is on a device may be lost."""
    return bool(content.kind) and item.get("replace_fs") == content.kind


def tool(ctx: Context, place: Place, item: dict[str, Any], wanted: FileSystem, *, whole: bool) -> list[str]:
    """Return what makes the file system: the owner's `cmd`, else mkfs. Raises ConfigError."""
    device = f"/dev/{place.name}"
    if "cmd" not in item:
        extra = item.get("extra_opts", [])
        return formatting.argv(
            ctx.host, wanted, device, extra.split() if isinstance(extra, str) else extra, whole=whole
        )
    if "extra_opts" in item:
        told = f"{place}: extra_opts does not count beside cmd: put it into cmd"
        ctx.report(told, (*place.pointer, "extra_opts"), Level.WARNING)
    given, values = item["cmd"], {"label": wanted.label, "filesystem": wanted.kind, "device": device}
    try:
        return ["/bin/sh", "-c", given % values] if isinstance(given, str) else [word % values for word in given]
    except (KeyError, TypeError, ValueError):
        raise ConfigError("cmd: understands %(label)s, %(filesystem)s and %(device)s; a % alone is %%") from None


# -- what may be written to


def clear(host: Host, name: str, refusal: str, *, overwrite: bool) -> None:
    """Make sure that a device may be written to: it is blank, or the owner gave it up, and then its signatures go.

    Raises CloudbootError that begins with the refusal and says what to do.
    """
    used = blank.in_use(host, name)
    if used:
        raise CloudbootError(f"{refusal}: it {used}: overwrite does not count for what is in use")
    part, system = disks.partition(host, name), blank.system_disks(host)
    if part is None and name in system:
        raise CloudbootError(f"{refusal}: the system is on it: overwrite does not count for that")
    reason = blank.occupied(host, name)
    if reason is None:
        return
    if not overwrite:
        raise CloudbootError(f"{refusal}: {reason}: {WORD}")
    if part is not None and part.disk in system:
        raise CloudbootError(f"{refusal}: {reason}, and the system is on the same disk: overwrite does not count there")
    below = blank.parts(host, name)
    for each in below:
        host.run(["wipefs", "--all", f"/dev/{each}"], live=LIVE, timeout=60)
    if below:
        host.run(["partx", "--delete", f"/dev/{name}"], live=LIVE, timeout=60)
    host.run(["wipefs", "--all", f"/dev/{name}"], live=LIVE, timeout=60)
