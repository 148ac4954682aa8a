"""From the owner's `mounts` to entries of fstab: names become devices, what was not said becomes a default."""

from __future__ import annotations

import re
import time

from cloudboot import disks, fstab, udev
from cloudboot.actions import WriteFile
from cloudboot.disks import ROLE, VOLUME
from cloudboot.errors import CommandError
from cloudboot.fstab import Entry
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cloudboot.disks import Disks
    from cloudboot.host import Host
    from cloudboot.module import Context
    from cloudboot.problem import Pointer

# Never on a unit of ours: whoever removes or disables us keeps a machine that boots.
DEVICE_OPTIONS = "defaults,nofail,x-systemd.device-timeout=30s"
OTHER_OPTIONS = "defaults,nofail"
NETWORK_OPTIONS = "defaults,nofail,_netdev"
SWAP_OPTIONS = "sw,nofail,x-systemd.device-timeout=30s"
WITHOUT_DEVICE = ("nofail", "x-systemd.device-timeout=30s")  # so that a missing disk never stops a boot

NETWORK_KINDS = frozenset("nfs nfs4 cifs smb3 ceph glusterfs lustre fuse.sshfs 9p ncpfs afs".split())
NO_FILE_SYSTEM = ("", "swap", "crypto_LUKS", "LVM2_member", "linux_raid_member", "zfs_member")

LATE = 120.0  # seconds to wait for volumes that are announced: EC2 attaches while the machine boots
WAITED_FOR = "/run/cloudboot/waited-for"  # names that were waited for in vain in this boot, one a line


class Wish(NamedTuple):
    """An entry that is wanted. `device`: its kernel name, if it is a disk that is here; `pointer`: who asked for it."""

    entry: Entry
    device: str | None
    pointer: Pointer


def select(
    ctx: Context,
    known: Disks,
    rows: Sequence[tuple[list[Any], Pointer]],
    aliases: Mapping[str, str],
    foreign: Sequence[Entry],
) -> list[Wish]:
    """Return the entries that are wanted: the owner's, and the implicit ones that nothing speaks against."""
    defaults = ctx.config.get("mount_default_fields") or [None] * 6
    kept: list[tuple[Wish, frozenset[str]]] = []
    for row, pointer in rows:
        fields = [None if value is None else str(value) for value in row] + [None] * (6 - len(row))
        source, target, *rest = (
            value if value is not None else (None if default is None else str(default))
            for value, default in zip(fields, defaults, strict=True)
        )
        if not source:
            ctx.report(f"{dotted(pointer)}: the device is missing: left out", pointer)
            continue
        source = aliased(source, aliases)
        device = known.find(source)
        names = frozenset({source.removeprefix("/dev/"), device or source})
        if target is None or (len(row) > 1 and row[1] is None):
            kept = [each for each in kept if not each[1] & names]
            kept.append((Wish(Entry("", ""), None, pointer), names))  # a word against the implicit ones
            continue
        wish = complete(ctx, known, Wish(Entry(source, target, *("",) * 4), device, pointer), rest)
        if wish is not None:
            kept.append((wish, names))
    taken = frozenset[str]().union(*(names for _, names in kept))
    wishes = [wish for wish, _ in kept if wish.entry.source]
    found = [wish for wish in wishes if not conflict(ctx, wish, foreign)]
    return implicit(ctx, known, taken, [*foreign, *(wish.entry for wish in wishes)], defaults) + found


def complete(ctx: Context, known: Disks, wish: Wish, rest: Sequence[str | None]) -> Wish | None:
    """Return the owner's entry with a source that the machine understands, and with what was not given."""
    host, (source, target) = ctx.host, wish.entry[:2]
    kind, options, dump, passno = rest
    kind = kind or ("swap" if target == "swap" else "auto")
    swap = kind == "swap"
    if not swap and not target.startswith("/"):
        ctx.report(f"{dotted(wish.pointer)}: a mount point begins with /: {target!r}: left out", wish.pointer)
        return None
    missing = False
    block = known.names(source)
    if block:
        if wish.device:
            # Who writes the kernel's own name means that; every other name means the disk, however it is numbered.
            explicit = source.removeprefix("/dev/").startswith("nvme")
            source = f"/dev/{wish.device}" if explicit else known.stable(wish.device)
        else:
            missing = True
            path = unfound(source)
            if path is None:
                told = f"{dotted(wish.pointer)}: no {source} on this machine{here(known)}: left out"
                if host.live:
                    ctx.report(told, wish.pointer)
                else:
                    host.log.info(f"{told}: such names are found on the running machine only")
                return None
            if host.live:
                ctx.report(
                    f"{dotted(wish.pointer)}: no device {source!r} on this machine{here(known)}: "
                    f"the line is in {fstab.PATH}, nothing is mounted until it comes",
                    wish.pointer,
                )
            source = path
    else:
        node = disks.node_of(source)
        block = node is not None
        if node is not None and host.live and not host.exists(node):
            missing = True
            ctx.report(
                f"{dotted(wish.pointer)}: no device {source!r} on this machine: nothing is mounted", wish.pointer
            )
    network = kind in NETWORK_KINDS or source.startswith("//") or ":/" in source
    usual = SWAP_OPTIONS if swap else DEVICE_OPTIONS if block else NETWORK_OPTIONS if network else OTHER_OPTIONS
    entry = Entry(source, target, kind, options or usual, dump or "0", passno or ("2" if block and not swap else "0"))
    if missing:
        entry = entry.with_option(*WITHOUT_DEVICE)
    return Wish(entry, wish.device, wish.pointer)


def implicit(
    ctx: Context, known: Disks, taken: frozenset[str], others: Sequence[Entry], defaults: Sequence[Any]
) -> list[Wish]:
    """Return `ephemeral0` on /mnt and the metadata's swap disk, where they are there and nobody said otherwise."""
    found = []
    used = {known.find(other.source) if known.names(other.source) else device_at(ctx.host, other) for other in others}
    for role, target, kind, options, passno in (
        ("ephemeral0", "/mnt", "auto", str(defaults[3] or DEVICE_OPTIONS), "2"),
        ("swap", "none", "swap", SWAP_OPTIONS, "0"),
    ):
        device = known.find(role)
        if device is None or taken & {role, device} or device in used:
            continue
        entry = Entry(known.stable(device), target, kind, options, "0", passno)
        if not entry.swap:
            if any(entry.same_place(other) for other in others):
                continue
            content = disks.file_system(ctx.host, device)
            if content in NO_FILE_SYSTEM:
                # An entry that can never be mounted would only teach people to overlook failures.
                ctx.host.log.info(f"{role} ({device}) is not mounted: it holds {content or 'no file system'}")
                continue
        found.append(Wish(entry, device, ("mounts",)))
    return found


def conflict(ctx: Context, wish: Wish, foreign: Sequence[Entry]) -> bool:
    """Tell whether a line of others in fstab has the mount point already; it stays, and ours is left out."""
    other = next((entry for entry in foreign if entry.same_place(wish.entry)), None)
    if other is None:
        return False
    same = other.source == wish.entry.source or (wish.device and device_at(ctx.host, other) == wish.device)
    if not same:
        ctx.report(
            f"{dotted(wish.pointer)}: {fstab.PATH} mounts {other.source} on {other.target} already: left out: "
            "remove that line, or choose another mount point",
            wish.pointer,
        )
    return True


def aliased(source: str, aliases: Mapping[str, str]) -> str:
    """Return the device behind an alias, also where a partition of it is named (`data.2`)."""
    base, dot, number = source.rpartition(".")
    if source not in aliases and number.isdigit() and base in aliases:
        return f"{aliases[base]}{dot}{number}"
    return aliases.get(source, source)


def announced(known: Disks, word: str) -> bool:
    """Tell whether a name is that of a volume which may still be on its way: EC2 attaches while the machine boots."""
    base = disks.split(word)[0].removeprefix("/dev/")
    volumes = {role: name for role, name in known.mapping.items() if role.startswith("ebs")}
    given = {name.removeprefix("/dev/") for name in volumes.values()}
    return bool(re.fullmatch(VOLUME, base)) or base in volumes or base in given


def wait_for(
    known: Disks,
    words: Sequence[str],
    host: Host,
    *,
    who: str = "mounts",
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until all these names are found, 120 s at most; after 2 s say so, and which module (`who`) waits.

    What was waited for in vain is not waited for again in this boot.
    """
    if not host.live or host.planned or disks.in_container(host):
        return
    in_vain = (host.text(WAITED_FOR) or "").splitlines()
    awaited = [word for word in words if word not in in_vain]
    began, waited = clock(), 0.0
    while missing := [word for word in awaited if known.find(word) is None]:
        before, waited = waited, clock() - began
        if waited >= LATE:
            host.keep(WriteFile(WAITED_FOR, "".join(f"{word}\n" for word in [*in_vain, *missing]).encode()))
            break
        if before < 2 <= waited:
            host.log.say(f"{who}: waits for {', '.join(missing)} to be attached, at most {LATE:.0f} s")
            host.log.doing(f"waits for {', '.join(missing)} to be attached")
        pause(0.2 if waited < 10 else 1.0)
    if waited:
        host.log.doing("")
        udev.settle(host)  # its links tell a volume by more than the kernel's name


def unfound(source: str) -> str | None:
    """Return what to write for a disk that is not here; None if nothing could ever be mounted by it."""
    base, _, number = source.rpartition(".") if source.rpartition(".")[2].isdigit() else (source, "", "")
    base = base.removeprefix("/dev/")
    volume = re.fullmatch(VOLUME, base)
    if volume:
        part = f"-part{number}" if number else ""
        return f"{disks.BY_ID}/nvme-Amazon_Elastic_Block_Store_vol{volume[1]}{part}"
    if re.fullmatch(ROLE, base):
        return None
    separator = "p" if number and base[-1].isdigit() else ""
    return f"/dev/{base}{separator}{number}"


def device_at(host: Host, entry: Entry) -> str | None:
    """Return the kernel name of the device that a line of fstab means, if it is here."""
    node = disks.node_of(entry.source)
    return disks.kernel_name(host, node) if node else None


def here(known: Disks) -> str:
    """Return the disks that are here, for a message."""
    found = known.all() if known.host.live else []
    return f" (it has {', '.join(found)})" if found else ""


def dotted(pointer: Pointer) -> str:
    """Return a place in the configuration as text: `mounts[0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else step for step in pointer)


# -- the file


def read(host: Host) -> str:
    """Return fstab's text; bytes that are no UTF-8 survive. Raises OSError."""
    return (host.read(fstab.PATH) or b"").decode("utf-8", "surrogateescape")


def write(host: Host, entries: Sequence[Entry], mark: str = fstab.MARK) -> None:
    """Make our lines of fstab (those with this mark) these, and tell systemd. Raises OSError."""
    old = read(host)
    new = fstab.merge(old, entries, mark)
    if new == old:
        return
    host.write(fstab.PATH, new.encode("utf-8", "surrogateescape"), mode=None, owner=None)
    if host.which("systemctl"):
        try:
            host.run(["systemctl", "daemon-reload"], live="there is no systemd to tell", timeout=60)
        except CommandError as error:
            host.log.warning(str(error))
