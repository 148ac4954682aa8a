"""resizefs: the root file system as large as its device."""

from __future__ import annotations

from cloudboot import disks, filesystems
from cloudboot.errors import CloudbootError, ConfigError
from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.disks import Mount
    from cloudboot.host import Host

UNIT = "cloudboot-resizefs"
NO_DEVICE = frozenset({"overlay", "tmpfs", "ramfs", "rootfs", "squashfs", "erofs", "nfs", "nfs4", "9p", "virtiofs"})


def full(facts: Facts) -> bool:
    """Prove that the root file system cannot grow."""
    host = facts.host
    mount = _root(host, facts.config)
    name = disks.device_of(host, mount) if mount is not None else None
    if mount is None or name is None or not host.exists(f"/dev/{name}"):
        return True
    try:
        return filesystems.growth(host, mount, name) is None
    except (ConfigError, OSError):
        return False  # to be said by the module


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.ALWAYS,
    keys=(),
    idle=full,
    schema={"resize_rootfs": {"default": True, "enum": [True, False, "noblock"], "examples": ["noblock"]}},
)
def resizefs(ctx: Context) -> None:
    """Grow the root file system (ext2/3/4, xfs, btrfs) to the size of its device.

    Its size is asked of the file system itself, so a boot with nothing to grow starts no process. With `noblock` it
    grows in the background, while the boot goes on.
    """
    mount = _root(ctx.host, ctx.config)
    if mount is not None:
        grow(ctx, mount, background=ctx.config.get("resize_rootfs") == "noblock")


def _root(host: Host, config: Mapping[str, Any]) -> Mount | None:
    """Return the root file system if it is one that is to grow."""
    if config.get("resize_rootfs") is False or not host.live or disks.in_container(host):
        return None
    mount = disks.mounted(host, "/")
    return mount if mount is not None and mount.kind not in NO_DEVICE and "ro" not in mount.options else None


def grow(ctx: Context, mount: Mount, *, background: bool = False) -> None:
    """Grow a mounted file system, if it can grow."""
    try:
        filesystems.grow(ctx.host, mount, background=UNIT if background else "")
    except ConfigError as error:
        ctx.host.log.warning(f"{error} (resize_rootfs: false ends this warning)")
    except CloudbootError as error:
        ctx.fail(str(error))
