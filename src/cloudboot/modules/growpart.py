"""growpart: partitions as large as their disks allow."""

from __future__ import annotations

from cloudboot import disks, fstab, mount_entries
from cloudboot.disks import SECTOR, Disks, Partition
from cloudboot.errors import CommandError
from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.host import Host

DISABLED = "/etc/growroot-disabled"
WORTH = (2 << 20) // SECTOR  # sectors; the tool itself leaves anything below 1 MiB
BACKUP = 33  # sectors at the disk's end: GPT's second table; left free on MBR too, as the tool does
MBR_LIMIT = 1 << 32  # sectors
LIVE = "grows a partition of the running machine"


def full(facts: Facts) -> bool:
    """Prove that no partition can grow."""
    given = facts.config.get("growpart") or {}
    if given.get("mode") in ("off", False) or not facts.host.live or disks.in_container(facts.host):
        return True
    return "growpart" not in facts.config and not _room_for_root(facts.host)


def _room_for_root(host: Host) -> bool:
    name = kernel_name(host, "/")
    part = disks.partition(host, name) if name is not None else None
    return part is not None and room(host, part) >= WORTH


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.ALWAYS,
    keys=(),
    idle=full,
    schema={
        "growpart": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "mode": {
                    "default": "auto",
                    "anyOf": [
                        {"type": "string", "enum": ["auto", "growpart", "gpart", "off"]},
                        {"type": "boolean", "enum": [False], "deprecated": "22.3: use off"},
                    ],
                },
                "devices": {"default": ["/"], "type": "array", "items": {"type": "string"}},
                "ignore_growroot_disabled": {"default": False, "type": "boolean"},
            },
            "examples": [{"mode": "auto", "devices": ["/"]}],
        }
    },
)
def growpart(ctx: Context) -> None:
    """Grow the partitions of the mount points or devices listed (by default `/`) into the free space behind them.

    Whether there is any is read from /sys: a boot with nothing to grow starts no process. /etc/growroot-disabled
    switches this off. Device-mapper (LVM, LUKS) and containers are left alone.
    """
    given = ctx.config.get("growpart") or {}
    mode = given.get("mode", "auto")
    if mode in ("off", False) or not ctx.host.live:
        return
    if mode == "gpart":
        ctx.report("growpart.mode: gpart is FreeBSD's tool: nothing is grown: use auto", ("growpart", "mode"))
        return
    if ctx.host.exists(DISABLED) and not given.get("ignore_growroot_disabled"):
        ctx.host.log.info(f"nothing is grown: {DISABLED} is there")
        return
    if disks.in_container(ctx.host):
        return
    for index, device in enumerate(given.get("devices", ["/"])):
        grow(ctx, device, ("growpart", "devices", index))


def grow(ctx: Context, device: str, pointer: tuple[str | int, ...]) -> None:
    """Grow the partition behind a mount point or device, if there is room."""
    host = ctx.host
    name = kernel_name(host, device) or to_be_mounted(ctx, device)
    if name is None or not host.exists(f"/dev/{name}"):
        # The default, `/`, may well be an overlay; what the owner names should be there.
        if "growpart" in ctx.config and device != "/":
            ctx.report(f"growpart.devices: is no mounted file system and no device: {device!r}", pointer)
        return
    if name.startswith("dm-"):
        host.log.info(f"{device}: is on device-mapper ({name}): not grown")
        return
    part = disks.partition(host, name)
    if part is None:
        host.log.info(f"{device}: is on a whole disk ({name}): there is no partition to grow")
        return
    free = room(host, part)
    if free < WORTH:
        return
    if host.which("growpart") is None:
        ctx.fail(
            f"growpart: not found: install cloud-guest-utils ({free * SECTOR >> 20} MiB behind {name} stay unused)"
        )
        return
    try:
        # It keeps its drafts in TMPDIR, and the disk to be grown may be full.
        argv = ["growpart", f"/dev/{part.disk}", str(part.number)]
        host.run(argv, live=LIVE, timeout=60, env={"TMPDIR": "/run"}, accept=(0, 1))
    except CommandError as error:
        ctx.fail(str(error))


def kernel_name(host: Host, device: str) -> str | None:
    """Return the kernel's name of the device behind a mount point or device node.

    At this time of a boot systemd may not have mounted yet what fstab says: the line counts too.
    """
    target = device.rstrip("/") or "/"
    mount = disks.mounted(host, target)
    if mount is not None:
        return disks.device_of(host, mount)
    sources = [entry.source for entry in fstab.parse(host.text(fstab.PATH) or "") if entry.target == target]
    node = disks.node_of(sources[0]) if sources else device
    return disks.kernel_name(host, node) if node else None


def to_be_mounted(ctx: Context, target: str) -> str | None:
    """Return the kernel's name of the device that `mounts`, which comes later, will mount on a mount point."""
    known = Disks(ctx.host, dict(ctx.instance.devices))
    aliases: dict[str, str] = ctx.config.get("device_aliases") or {}
    for row in ctx.config.get("mounts") or ():
        if len(row) > 1 and row[1] == target:
            source = mount_entries.aliased(str(row[0]), aliases)
            return known.find(source) or known.locate(source)
    return None


def room(host: Host, part: Partition) -> int:
    """Return how many sectors are free behind a partition."""
    end = part.start + part.size
    others = disks.partitions(host, part.disk)
    if part.number > 4 and any(other.size <= 2 and other.start < part.start for other in others):
        return 0  # a logical partition: it lies in an extended one, which the kernel shows with 1 or 2 sectors
    limit = min([disks.size(host, part.disk) - BACKUP, *(other.start for other in others if other.start >= end)])
    if limit > MBR_LIMIT and not has_gpt(host, part.disk):
        limit = MBR_LIMIT
    return max(limit - end, 0)


def has_gpt(host: Host, disk: str) -> bool:
    """Tell whether a disk has a GPT: its header stands in the second sector, of 512 or 4096 bytes."""
    try:
        return b"EFI PART" in (disks.read_at(host, disk, 512, 8), disks.read_at(host, disk, 4096, 8))
    except OSError:
        return False
