"""mounts: /etc/fstab, mount points, swap."""

from __future__ import annotations

from cloudboot import disks, fstab, mount_entries, mount_points, swapfile
from cloudboot.disks import Disks
from cloudboot.errors import CloudbootError, ConfigError
from cloudboot.fstab import Entry
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.host import Host
    from cloudboot.mount_entries import Wish

SWAP_FILE = "/swap.img"
SWAP_FILE_OPTIONS = "sw,nofail"
LIMIT = 30  # seconds for one swap space
SIZE = {"type": ["integer", "string"], "pattern": r"^(?i:auto|[0-9]+(\.[0-9]+)?\s*[kmgt]?(i?b)?)$", "x-form": "2G"}
FIELD = {"type": ["string", "integer", "null"]}


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    keys=(),
    metadata=True,
    schema={
        "mounts": {
            "type": "array",
            "items": {"type": "array", "items": FIELD, "minItems": 1, "maxItems": 6, "x-whole": True},
            "examples": [[["/dev/sdf", "/data"], ["ephemeral0", None]]],
        },
        "mount_default_fields": {"type": "array", "items": FIELD, "minItems": 6, "maxItems": 6, "x-whole": True},
        "swap": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "filename": {"default": "/swap.img", "type": "string", "pattern": "^/.*[^/]$", "x-form": "/path"},
                "size": SIZE,
                "maxsize": SIZE,
            },
            "examples": [{"filename": "/swap.img", "size": "auto", "maxsize": "4G"}],
        },
        "device_aliases": {"type": "object", "additionalProperties": {"type": "string"}},
    },
)
def mounts(ctx: Context) -> None:
    """Write /etc/fstab, mount what is in it, make and use swap.

    Without any configuration: the first instance-store disk that has a file system is mounted on /mnt, and a swap
    disk of the metadata is used. Lines of others in /etc/fstab are never touched; a disk that is missing never stops
    a boot (`nofail`). EC2's device names, volume ids and the kernel's names are all understood.
    """
    apply(ctx, Disks(ctx.host, dict(ctx.instance.devices)))


def apply(ctx: Context, known: Disks) -> None:
    """Do the module's work with this way to find disks."""
    host = ctx.host
    rows = [(row, ("mounts", index)) for index, row in enumerate(ctx.config.get("mounts") or ())]
    aliases: dict[str, str] = ctx.config.get("device_aliases") or {}
    words = [mount_entries.aliased(str(row[0]), aliases) for row, _ in rows]
    mount_entries.wait_for(known, [word for word in words if mount_entries.announced(known, word)], host)
    try:
        foreign = [entry for entry in fstab.parse(mount_entries.read(host)) if not entry.ours]
    except OSError as error:
        ctx.fail(f"{fstab.PATH}: cannot be read: {error.strerror}: nothing is mounted")
        return
    wishes = mount_entries.select(ctx, known, rows, aliases, foreign)
    entries = [wish.entry for wish in wishes]
    swap = swap_file(ctx, foreign)
    ready = [swap.entry] if swap and swap.entry and in_place(host, swap.file.path) else []
    mount_entries.write(host, entries + ready)
    for wish in wishes:
        try:
            use(ctx, wish)
        except (CloudbootError, OSError) as error:
            ctx.fail(str(error))
    if swap:  # last: the file may be on one of the disks
        try:
            use_swap_file(ctx, swap)
        except (CloudbootError, OSError) as error:
            ctx.fail(f"swap: {error}")
            return
        if swap.entry and in_place(host, swap.file.path):
            mount_entries.write(host, [*entries, swap.entry])


# -- doing it


def use(ctx: Context, wish: Wish) -> None:
    """Mount an entry or use its swap space, unless that is so. Raises OSError, CommandError, ConfigError."""
    host, entry = ctx.host, wish.entry
    if entry.swap:
        if disks.in_container(host):
            return  # swap is the host's
        node = disks.node_of(entry.source)
        here = node is None or host.exists(node)
        if here and "noauto" not in entry.words and not swap_active(host, node or entry.source):
            host.run(["swapon", entry.source], live="swap of the running machine", timeout=LIMIT)
        return
    host.mkdir(entry.target)
    node = disks.node_of(entry.source)
    if "noauto" in entry.words or (host.live and node is not None and not host.exists(node)):
        return
    moved = moved_from(host, wish)
    if moved:
        host.log.warning(f"{entry.target}: {moved} is mounted there, {fstab.PATH} now says {entry.source}: unmount it")
    host.log.doing(f"mounts {entry.target}")
    if host.live and not mount_points.is_mounted(host, entry.target):
        mount_points.leave_to_systemd(host, entry.target)
    host.do(mount_points.MountPoint(entry.target, entry.source))
    host.log.doing("")


def moved_from(host: Host, wish: Wish) -> str | None:
    """Return the device that is mounted in the place of the wanted one, None if there is none."""
    mount = disks.mounted(host, host.root.resolve(wish.entry.target))
    device = disks.device_of(host, mount) if mount and wish.device else None
    return device if device != wish.device else None


def swap_active(host: Host, path: str) -> bool:
    """Tell whether swap space is in use."""
    return host.root.resolve(path) in disks.swaps(host)


# -- the swap file


class Swap(NamedTuple):
    """The swap file that is wanted, and its line; None where a line of others is there."""

    file: swapfile.SwapFile
    entry: Entry | None


def swap_file(ctx: Context, foreign: Sequence[Entry]) -> Swap | None:
    """Return the swap file that the configuration asks for; None if it asks for none, or it cannot be."""
    given: dict[str, Any] = ctx.config.get("swap") or {}
    size = given.get("size")
    if not size or str(size) == "0":
        return None
    if disks.in_container(ctx.host):
        ctx.host.log.info("swap: this is a container: its swap is that of its host")
        return None
    path: str = given.get("filename", SWAP_FILE)
    maximum = given.get("maxsize")
    try:
        # A limit of `auto` is none.
        most = None if maximum is None or str(maximum).lower() == "auto" else swapfile.parse_size(maximum)
        if str(size).lower() == "auto":
            wanted = swapfile.auto_size(swapfile.memory(ctx.host), swapfile.free_space(ctx.host, path), most)
        else:
            wanted = swapfile.parse_size(size)
    except ConfigError as error:
        ctx.report(str(error), ("swap",))
        return None
    if wanted < swapfile.MIB:
        ctx.host.log.info(f"swap: no room for a swap file ({wanted} bytes)")
        return None
    entry = Entry(path, "none", "swap", SWAP_FILE_OPTIONS)
    # cloud-init's line for a swap file does not say that it is cloud-init's: a second one would be one too many.
    said = any(entry.same_place(other) for other in foreign)
    file = swapfile.SwapFile(path, wanted // swapfile.MIB, kind_below(ctx.host, path))
    return Swap(file, None if said else entry)


def in_place(host: Host, path: str) -> bool:
    """Tell whether a swap file is there: in use, or made."""
    return swap_active(host, path) or swapfile.is_swap(host, path)


def use_swap_file(ctx: Context, swap: Swap) -> None:
    """Make the swap file unless it is there, and use it. Raises OSError, CommandError, ConfigError."""
    host, file = ctx.host, swap.file
    if swap_active(host, file.path):
        return
    if host.live and not in_place(host, file.path):
        if host.exists(file.path):
            told = f"swap: {file.path} is there and is no swap file: not touched: give another filename"
            ctx.report(told, ("swap", "filename"))
            return
        free = swapfile.free_space(host, file.path) // swapfile.MIB
        if file.mib >= free:
            raise ConfigError(f"{file.path}: {file.mib} MiB are asked for, {free} MiB are free: not made")
    host.do(file)
    host.run(["swapon", file.path], live="swap of the running machine", timeout=LIMIT)


def kind_below(host: Host, path: str) -> str:
    """Return the type of the file system that a path is on."""
    real = host.root.resolve(path)
    above = [mount for mount in disks.mounts(host) if real.startswith(mount.target.rstrip("/") + "/")]
    return max(above, key=lambda mount: len(mount.target)).kind if above else ""
