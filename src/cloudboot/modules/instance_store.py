"""instance_store: the disks that are empty after every stop, as one file system or as one each."""

from __future__ import annotations

import os
import re
from hashlib import sha256

from cloudboot import blank, disks, formatting, fstab, mount_entries, mount_points, raid, udev
from cloudboot.disks import Disks, Kind
from cloudboot.errors import CloudbootError
from cloudboot.formatting import FileSystem
from cloudboot.fstab import Entry
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cloudboot.host import Host

LIVE = "disks are those of the running machine"
TOOL_LIMIT = 600  # seconds for mkfs, which discards what is on a large disk first
KEY = "instance_store"
ROLE = r"ephemeral(\d+)"
DEFAULTS: dict[str, Any] = {
    "layout": "raid0",
    "filesystem": "ext4",
    "label": "instance",
    "mount": "/mnt/instance",
    "options": ["defaults"],
}


class Volume(NamedTuple):
    """A file system that is wanted on a device, and where it is mounted. `fresh`: made of blank disks in this run."""

    name: str  # the kernel's
    system: FileSystem
    line: Entry
    fresh: bool = False


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.BOOT,
    late=True,
    schema={
        KEY: {
            "type": ["boolean", "object"],
            "additionalProperties": False,
            "properties": {
                "layout": {"default": "raid0", "type": "string", "enum": ["raid0", "each"]},
                "filesystem": {"default": "ext4", "type": "string", "enum": ["ext4", "xfs"]},
                "label": {
                    "default": "instance",
                    "type": "string",
                    "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,10}$",
                    "x-form": "a letter, then up to 10 letters, digits, - and _",
                },
                "mount": {
                    "default": "/mnt/instance",
                    "type": "string",
                    "pattern": "^/.*[^/]$",
                    "x-form": "/path",
                },
                "options": {"default": ["defaults"], "type": ["string", "array"], "items": {"type": "string"}},
            },
            "examples": [True, {"layout": "each", "filesystem": "xfs", "mount": "/srv/scratch"}],
        }
    },
)
def instance_store(ctx: Context) -> None:
    """Make one file system of all instance-store disks (RAID 0), or one of each, and mount it.

    Only disks that are provably blank are written to. What was made before is used again: after a reboot everything is
    there, after a stop and a start the disks are empty and it is made anew. One disk needs no RAID; several need mdadm.
    With `layout: each` the mount points and labels are numbered from 0. `false` takes the lines out of /etc/fstab.
    """
    apply(ctx, Disks(ctx.host, dict(ctx.instance.devices)))


def apply(ctx: Context, known: Disks) -> None:
    """Do the module's work with this way to find disks."""
    host, given = ctx.host, ctx.config[KEY]
    if given is False:
        write(ctx, [])
        return
    if not host.live:
        host.log.info(f"{KEY}: nothing is done in an image tree: {LIVE}")
        return
    if host.planned and os.geteuid() != 0:
        host.log.info(f"{KEY}: only root may look at disks: as root, the plan shows what becomes of them")
        return
    wanted = {**DEFAULTS, **(given if isinstance(given, dict) else {})}
    udev.settle(host)
    names = [name for name in stores(known) if name not in spoken_for(ctx, known)]
    if not names:
        host.log.info(f"{KEY}: this machine has no instance-store disk{mount_entries.here(known)}")
    good = []
    for volume in arranged(ctx, wanted, names):
        try:
            placed(host, volume)
            formatted(host, volume)
        except (CloudbootError, OSError) as error:
            failed(ctx, [volume.name], error)
            continue
        good.append(volume)
    if not write(ctx, [volume.line for volume in good]):
        return
    for volume in good:
        try:
            mounted(host, volume)
        except (CloudbootError, OSError) as error:
            failed(ctx, [volume.name], error)


def failed(ctx: Context, names: Sequence[str], error: Exception) -> None:
    """Tell what went wrong with some disks; the others go on."""
    ctx.fail(f"{', '.join(names)}: {error}", (KEY,))


# -- which disks


def stores(known: Disks) -> list[str]:
    """Return the kernel names of the instance-store disks, by their numbers (`ephemeral0` …), then by name.

    A disk is one by its model, its controller, or the metadata; what has the serial number of a volume, or has the
    system on it, is none.
    """
    host, system = known.host, blank.system_disks(known.host)
    numbers = {}
    for role in known.mapping:
        match, name = re.fullmatch(ROLE, role), known.find(f"{role}.0")
        if match and name:
            numbers[name] = int(match[1])
    found = []
    for name in known.all():
        if name in system or known.volume(name) or not host.exists(f"/dev/{name}"):
            continue
        said = [int(match[1]) for word in known.controller_names(name) if (match := re.fullmatch(ROLE, word))]
        kind = known.kind(name)
        if said or (kind is not None and kind[0] is Kind.STORE):
            number = (*said, numbers.get(name, len(known.mapping) + 1000))[0]
            found.append((number, len(name), name))
    return [name for *_, name in sorted(found)]


def spoken_for(ctx: Context, known: Disks) -> set[str]:
    """Return the kernel names of the disks that the owner has another word for, in disk_setup and fs_setup."""
    aliases: dict[str, str] = ctx.config.get("device_aliases") or {}
    words = [*(ctx.config.get("disk_setup") or {}), *(each["device"] for each in ctx.config.get("fs_setup") or ())]
    names = [known.locate(mount_entries.aliased(word, aliases)) for word in words]
    return {known.disk_of(name) for name in names if name}


# -- what is wanted of them


def arranged(ctx: Context, wanted: dict[str, Any], names: Sequence[str]) -> Iterator[Volume]:
    """Yield the file systems that are wanted; the disks of RAID 0 are put together for that."""
    if wanted["layout"] == "each":
        yield from each_alone(ctx, wanted, names)
    elif len(names) == 1:
        yield volume(ctx, wanted, names[0], "")
    elif names:
        try:
            name, fresh = array(ctx, wanted["label"], names)
        except (CloudbootError, OSError) as error:
            failed(ctx, names, error)
            return
        if ctx.host.planned and not fresh and not disks.properties(ctx.host, name):
            ctx.host.log.info(f"{KEY}: what the array holds is seen when it is put together")
            return
        yield volume(ctx, wanted, name, "", fresh=fresh)


def each_alone(ctx: Context, wanted: dict[str, Any], names: Sequence[str]) -> Iterator[Volume]:
    """Yield a file system for each disk. One that was made before keeps its number, whatever its disk is called now."""
    asked = [volume(ctx, wanted, "", str(number)) for number in range(len(names))]
    held = {blank.content(ctx.host, name).uuid: name for name in names}
    kept = [held[each.system.uuid] for each in asked if each.system.uuid in held]
    others = iter([name for name in names if name not in kept])
    for each in asked:
        yield each._replace(name=held.get(each.system.uuid) or next(others))


def volume(ctx: Context, wanted: dict[str, Any], name: str, number: str, *, fresh: bool = False) -> Volume:
    """Return the file system that is wanted on a device, with the line of fstab for it."""
    label, given = f"{wanted['label']}{number}", wanted["options"]
    uuid = uuid_of(ctx, f"file system {label}")
    options = given if isinstance(given, str) else ",".join(given)
    line = Entry(f"UUID={uuid}", f"{wanted['mount']}{number}", wanted["filesystem"], options or "defaults", "0", "2")
    line = line.with_option(*mount_entries.WITHOUT_DEVICE, fstab.INSTANCE_STORE)
    return Volume(name, FileSystem(wanted["filesystem"], label, uuid), line, fresh)


def uuid_of(ctx: Context, what: str) -> str:
    """Return the UUID for what is made on this instance: the same each time, so fstab need not change after a stop."""
    return raid.uuid_text(sha256(f"{ctx.instance.id} {KEY} {what}".encode()).hexdigest()[:32])


# -- doing it


def array(ctx: Context, label: str, names: Sequence[str]) -> tuple[str, bool]:
    """Return the array over these disks, and whether it was made in this run. Raises CloudbootError, OSError."""
    host, uuid = ctx.host, uuid_of(ctx, f"array {label}")
    found = {name: member(host, name) for name in names}
    ours = [name for name, each in found.items() if each is not None and each.uuid == uuid]
    if not ours:
        for name in names:
            reason = blank.in_use(host, name) or blank.occupied(host, name)
            if reason:
                raise CloudbootError(f"no array is made: {name}: {reason}")
        made = raid.create(host, label, uuid, names)
        udev.settle(host)
        return made, True
    there = raid.running(host, ours)
    if there is not None:
        return there, False
    parts = max(each.disks for name in ours if (each := found[name]) is not None)
    if parts != len(ours):
        told = f"{', '.join(ours)}: of the {parts} disks of the array that was made here, the others are gone"
        raise CloudbootError(f"{told}: wipefs --all lets it be made anew")
    there = raid.assemble(host, label, uuid, ours)
    udev.settle(host)
    return there, False


def member(host: Host, name: str) -> raid.Member | None:
    """Return what array a disk is a member of; what cannot be read is judged with the proof that it is blank."""
    try:
        return raid.member(host, name)
    except OSError:
        return None


def placed(host: Host, volume: Volume) -> None:
    """Raise CloudbootError if its mount point is taken by a line of fstab that is not ours."""
    for other in fstab.parse(mount_entries.read(host)):
        if other.same_place(volume.line) and fstab.INSTANCE_STORE not in other.words:
            raise CloudbootError(f"{fstab.PATH} mounts {other.source} on {other.target} already: not mounted there")


def formatted(host: Host, volume: Volume) -> None:
    """Make a file system unless it is there. Raises CloudbootError, OSError."""
    name, system = volume.name, volume.system
    formatting.check(system)
    if not volume.fresh:
        if system.is_on(blank.content(host, name)) or system.is_on(blank.probe(host, name)):  # udev may be behind
            return
        reason = blank.in_use(host, name) or blank.occupied(host, name)
        if reason:
            raise CloudbootError(f"not formatted: {reason}")
    host.run(formatting.argv(host, system, f"/dev/{name}", (), whole=True), live=LIVE, timeout=TOOL_LIMIT)
    udev.look_again(host, name)


def write(ctx: Context, lines: Sequence[Entry]) -> bool:
    """Make our lines of fstab these; tell whether they are."""
    try:
        mount_entries.write(ctx.host, lines, fstab.INSTANCE_STORE)
    except OSError as error:
        ctx.fail(f"{fstab.PATH}: {error.strerror}: nothing is mounted")
        return False
    return True


def mounted(host: Host, volume: Volume) -> None:
    """Mount a file system unless it is. Raises CloudbootError, OSError."""
    target = volume.line.target
    host.mkdir(target)
    if not mount_points.is_mounted(host, target):
        mount_points.leave_to_systemd(host, target)
    host.do(mount_points.MountPoint(target, volume.line.source))
    mount = disks.mounted(host, host.root.resolve(target))
    if not host.planned and (mount is None or disks.device_of(host, mount) != volume.name):
        raise CloudbootError(f"something else is mounted on {target}: unmount it")
