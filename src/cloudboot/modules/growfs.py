"""growfs: file systems beside the root as large as their devices."""

from __future__ import annotations

from cloudboot import disks, filesystems, fstab, mount_entries, mount_points
from cloudboot.errors import CloudbootError
from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.disks import Mount
    from cloudboot.host import Host

GROWS = "x-systemd.growfs"


def nothing_to_grow(facts: Facts) -> bool:
    """Prove that no file system beside the root is to grow."""
    host = facts.host
    return not host.live or disks.in_container(host) or not (listed(facts.config) or marked(host))


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.ALWAYS,
    keys=(),
    late=True,
    idle=nothing_to_grow,
)
def growfs(ctx: Context) -> None:
    """Grow mounted file systems beside the root (ext2/3/4, xfs, btrfs) to the size of their devices, in every boot.

    Which: those whose line in `mounts` has the option `x-systemd.growfs`, and what `growpart.devices` lists (their
    partition has grown before). Sizes are asked of the file systems themselves: where nothing can grow no tool is
    started. A volume that was made larger while it was mounted is used to its end after `cloudboot single --module
    growfs`, or a reboot.
    """
    host = ctx.host
    for target in marked(host):
        mount_points.leave_to_systemd(host, target)
    wanted = [disks.mounted(host, host.root.resolve(target)) for target in marked(host)]
    wanted += [behind(host, device) for device in listed(ctx.config)]
    for mount in {each.target: each for each in wanted if each is not None and "ro" not in each.options}.values():
        try:
            filesystems.grow(host, mount)
        except CloudbootError as error:
            ctx.fail(str(error))


def listed(config: Mapping[str, Any]) -> list[str]:
    """Return what `growpart.devices` lists beside the root, unless growpart is off."""
    given = config.get("growpart") or {}
    if given.get("mode") in ("off", False):
        return []
    return [device for device in given.get("devices", ()) if device != "/"]


def marked(host: Host) -> list[str]:
    """Return the mount points of our lines of fstab that are to grow."""
    try:
        lines = fstab.parse(mount_entries.read(host))
    except OSError:
        return []
    return [line.target for line in lines if line.ours and GROWS in line.words and "noauto" not in line.words]


def behind(host: Host, device: str) -> Mount | None:
    """Return the mount that a mount point or a device is meant by, None if it is not mounted."""
    mount_points.leave_to_systemd(host, device)
    mount = disks.mounted(host, host.root.resolve(device))
    if mount is not None:
        return mount
    name = disks.kernel_name(host, device)
    return next((each for each in disks.mounts(host) if name and disks.device_of(host, each) == name), None)
