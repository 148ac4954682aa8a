"""consume: volumes that say themselves what they are for, and the machine does it."""

from __future__ import annotations

import os

from cloudboot import (
    consumed_root,
    disks,
    filesystems,
    fstab,
    mount_entries,
    mount_points,
    root_volume,
    udev,
    volume_programs,
    volumes,
)
from cloudboot.actions import MakeDir, WriteFile
from cloudboot.disks import Disks
from cloudboot.errors import CloudbootError, ConfigError
from cloudboot.identity_file import OTHERWISE, Policy
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.typed import TYPE_CHECKING
from cloudboot.volumes import State, Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.fstab import Entry
    from cloudboot.identity_file import Identity

WATCH = "/run/cloudboot/consume/watch"  # volumes that are attached from now on are consumed by the unit
MOUNT_LIMIT, CHECK_LIMIT = 30, 120  # seconds
LIVE = "volumes are those of the running machine"


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.BOOT,
    late=True,
    schema={
        "consume": {
            "type": ["boolean", "object"],
            "additionalProperties": False,
            "properties": {
                "allow": {"type": "array", "items": {"type": "string", "enum": ["mount", "run", "root"]}},
                "signers": {"type": "array", "items": {"type": "string"}},
                "unsigned": {"type": "boolean"},
                "match": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        key: {"type": ["string", "array"], "items": {"type": "string"}}
                        for key in ("label", "volume-id", "tag")
                    },
                },
                "root": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "otherwise": {"type": "string", "enum": list(OTHERWISE)},
                        "wait": {"type": "integer", "minimum": 0, "maximum": 3600},
                        "rebase": {"type": "boolean"},
                    },
                },
            },
            "examples": [
                True,
                {"allow": ["mount"], "match": {"label": "data-*"}},
                {"allow": ["root"], "unsigned": True, "root": {"otherwise": "stop", "wait": 60}},
            ],
        }
    },
)
def consume(ctx: Context) -> None:
    """Do what the volumes that are attached say they are for, as far as the policy allows.

    A volume says it in the file `ebs-config.txt` in its root directory: mount me there, run this program of mine, or
    take me as root. Devices are told apart by their superblocks, without mounting them; of those that the policy
    admits only that file and its signature are read, and nothing is written. What is refused is reported.
    """
    apply(ctx, Disks(ctx.host, dict(ctx.instance.devices)))


def apply(ctx: Context, known: Disks, names: Sequence[str] | None = None) -> None:
    """Do the module's work, for these devices only if they are given."""
    host = ctx.host
    policy = Policy.of(ctx.config["consume"])
    if policy is None:
        if names is None:
            write(ctx, [])
        return
    if not host.live:
        host.log.info("consume: volumes are those of the running machine: nothing is looked at")
        return
    if host.planned and os.geteuid() != 0:
        host.log.info("consume: only root may look at devices: as root, the plan shows what becomes of each volume")
        return
    host.keep(MakeDir("/run/cloudboot/consume", 0o700))
    host.keep(WriteFile(WATCH, b""))
    host.log.doing("looks at the volumes that are attached")
    udev.settle(host)
    for line in volumes.consumed(host):  # systemd may be about to mount what an earlier boot has accepted
        node = disks.node_of(line.source)
        if node is not None and host.exists(node):
            mount_points.leave_to_systemd(host, line.target)
    found = volumes.survey(known, policy, volumes.tags_of(host, ctx.commands.folder), names)
    host.log.doing("")
    for each in found:
        told(ctx, each)
    mount_all(ctx, [each for each in found if accepted(each, "mount")], keep_others=names is not None)
    for each in found:
        if accepted(each, "run"):
            volume_programs.prepare(ctx, each)
        elif accepted(each, "root"):
            wants_to_be_root(ctx, each)


def accepted(volume: Volume, action: str) -> bool:
    """Tell whether what a volume says is to be done, and is this."""
    return volume.state is State.ACCEPTED and volume.identity is not None and volume.identity.action == action


def told(ctx: Context, volume: Volume) -> None:
    """Report a volume that is refused or unreadable; note the others."""
    text = f"{volume.called}: {volume.verdict}"
    if volume.state in (State.REFUSED, State.UNREADABLE):
        ctx.report(text, ("consume",))
    else:
        ctx.host.log.info(f"consume: {text}")


def wants_to_be_root(ctx: Context, volume: Volume) -> None:
    """Say what becomes of a volume that is a root, and is not the one of this boot."""
    host, text = ctx.host, f"{volume.called}: wants to be the root of the system"
    root = consumed_root.read(host)
    if root is not None and not root.used:  # said already, with the initramfs's reason
        host.log.info(f"consume: {text}: the image itself is booted: {root.reason}")
        return
    if root is not None:
        when = f"{root.called} is that already: with both attached the next boot may take neither: detach one"
    elif host.exists(root_volume.SCRIPT):
        when = "it is taken by the initramfs at the next boot"
    else:
        when = "this image is not baked for it"
    ctx.report(f"{text}: {when}", ("consume",), Level.WARNING)


# -- mount


def mount_all(ctx: Context, wanted: Sequence[Volume], *, keep_others: bool) -> None:
    """Mount these volumes, each where it says, and write that into fstab; each that fails is reported by itself."""
    good = [(each, each.identity, volumes.entry(ctx.host, each)) for each in wanted if each.identity is not None]
    lines = [line for *_, line in good]
    others = volumes.consumed(ctx.host) if keep_others else []
    kept = [
        other for other in others if not any(other.same_place(line) or other.source == line.source for line in lines)
    ]
    write(ctx, [*kept, *lines])
    for volume, identity, line in good:
        try:
            mount(ctx, volume, identity, line)
        except (CloudbootError, OSError) as error:
            ctx.fail(f"{volume.called}: {error}", ("consume",))


def write(ctx: Context, lines: Sequence[Entry]) -> None:
    """Make the lines for volumes in fstab these."""
    try:
        mount_entries.write(ctx.host, lines, fstab.CONSUMED)
    except OSError as error:
        ctx.fail(f"{fstab.PATH}: {error.strerror}")


def mount(ctx: Context, volume: Volume, identity: Identity, line: Entry) -> None:
    """Mount a volume unless it is. Raises OSError, CommandError, ConfigError."""
    host = ctx.host
    if volume.found.use is None:
        host.mkdir(line.target)
        mount_points.leave_to_systemd(host, line.target)
        if disks.mounted(host, host.root.resolve(line.target)) is None:
            if identity.check and volume.found.content.kind in volumes.CHECKED:
                # 1: errors were corrected
                argv = ["fsck", "-a", "-T", f"/dev/{volume.name}"]
                host.run(argv, live=LIVE, timeout=CHECK_LIMIT, accept=(0, 1))
            host.run(["mount", line.target], live=LIVE, timeout=MOUNT_LIMIT)
    mounted = disks.mounted(host, host.root.resolve(line.target))
    # The line names a UUID, and that may by now be another device's too.
    if not host.planned and (mounted is None or disks.device_of(host, mounted) != volume.name):
        told = f"{line.source} is another device's too, and that is mounted on {line.target}: its owner is not changed"
        raise ConfigError(f"{told}: unmount it, and give one of them a UUID of its own")
    there = host.look(line.target)
    if identity.owner and there is not None and "ro" not in line.words:
        host.set_access(line.target, there.mode, identity.owner)
    looked_at = volume.found.use is not None or not host.planned  # nothing is mounted for a plan
    if mounted is not None and looked_at and mounted.kind in filesystems.GROWABLE and "ro" not in line.words:
        filesystems.grow(host, mounted)  # the volume may have been made larger
