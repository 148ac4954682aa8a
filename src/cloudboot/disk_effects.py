"""What the programs for disks do, done to a plan's overlay: what the kernel and udev would show afterwards."""

from __future__ import annotations

import os
import re

from cloudboot import disks, fstab
from cloudboot.errors import CloudbootError
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.effects import Call
    from cloudboot.planned import PlannedHost

MOUNTINFO = "/proc/self/mountinfo"
SWAPS = "/proc/swaps"
SWAPS_HEAD = "Filename\tType\tSize\tUsed\tPriority\n"
GPT_END = 33  # sectors at a disk's end that growpart leaves
ARRAYS = "/sys/devices/virtual/block"


def mount(call: Call) -> str:
    """Show the mount where `disks` looks. What is on the volume is not known."""
    target = call.argv[-1]
    entry = next((each for each in fstab.parse(call.host.text(fstab.PATH) or "") if each.target == target), None)
    if entry is None:
        raise CloudbootError(f"{call.argv[-2]}: is not mounted for a plan, so its data are not known: --user-data FILE")
    node = disks.node_of(entry.source)
    name = disks.kernel_name(call.host, node) if node else None
    number = (call.host.text(f"{disks.BLOCK}/{name}/dev") or "0:0").strip() if name else "0:0"
    kind = entry.kind if entry.kind != "auto" or name is None else disks.file_system(call.host, name) or "auto"
    place = call.host.root.resolve(target)
    source, shown = (each.replace("\\", "\\134").replace(" ", "\\040") for each in (entry.source, place))
    _add_line(call.host, MOUNTINFO, f"0 0 {number} / {shown} rw - {kind} {source} rw")
    call.host.overlay.mounted.append(place)
    return f"mounts {entry.source} ({entry.kind}, {entry.options})"


def swapon(call: Call) -> str:
    node = disks.node_of(call.argv[1])
    place = call.host.root.resolve(node or call.argv[1])
    if not call.host.text(SWAPS):
        _add_line(call.host, SWAPS, SWAPS_HEAD.rstrip("\n"))
    _add_line(call.host, SWAPS, f"{place.replace(' ', chr(92) + '040')} {'partition' if node else 'file'} 0 0 -2")
    return f"uses {call.argv[1]} as swap"


def growpart(call: Call) -> str:
    """Grow the partition up to the next one or the disk's end, as the kernel shows it."""
    disk, number = os.path.basename(call.argv[1]), int(call.argv[2])
    parts = disks.partitions(call.host, disk)
    part = next((each for each in parts if each.number == number), None)
    if part is None:
        return ""
    following = [other.start for other in parts if other.start > part.start]
    size = min([disks.size(call.host, disk) - GPT_END, *following]) - part.start
    for name in (f"{disk}{number}", f"{disk}p{number}"):
        if call.host.exists(f"{disks.BLOCK}/{name}/size"):
            call.host.root.write(f"{disks.BLOCK}/{name}/size", f"{size}\n".encode(), 0o444, 0, 0)
    return f"grows partition {number} by {(size - part.size) * disks.SECTOR >> 20} MiB"


def sfdisk(call: Call) -> str:
    """Show the partitions of a new table as the kernel will; udev knows nothing on them."""
    disk = os.path.basename(call.argv[-1])
    place, left = call.host.root.resolve(f"{disks.BLOCK}/{disk}"), disks.size(call.host, disk) - GPT_END
    lines = [line for line in (call.stdin or b"").decode().splitlines() if "type=" in line]
    for number, line in enumerate(lines, 1):
        asked = re.search(r"size=(\d+)MiB", line)
        sectors = int(asked[1]) * 2048 if asked else left
        left -= sectors
        name = f"{disk}{'p' if disk[-1].isdigit() else ''}{number}"
        _show(call.host, name, f"{place}/{name}", {"partition": number, "size": sectors})
    kind = "GPT" if b"label: gpt" in (call.stdin or b"") else "MBR"
    return f"makes a new {kind} on {disk} with {len(lines)} partition{'s' * (len(lines) != 1)}"


def partx(call: Call) -> str:
    """With --delete, take a disk's partitions away. Those of a new table sfdisk has shown."""
    disk = os.path.basename(call.argv[-1])
    if "--delete" not in call.argv:
        return ""
    for name in call.host.listdir(f"{disks.BLOCK}/{disk}"):
        if call.host.exists(f"{disks.BLOCK}/{name}/partition"):
            for path in (f"{disks.BLOCK}/{disk}/{name}", f"{disks.BLOCK}/{name}", f"/dev/{name}"):
                call.host.root.remove(path)
    return f"the kernel forgets the partitions of {disk}"


def mdadm(call: Call) -> str:
    """Show the array as the kernel will, with the disks that it holds."""
    members = [os.path.basename(word) for word in call.argv if word.startswith("/dev/") and "/md/" not in word]
    number = next(each for each in range(127, 0, -1) if not call.host.exists(f"{disks.BLOCK}/md{each}"))
    name = f"md{number}"
    _show(call.host, name, f"{ARRAYS}/{name}", {"size": sum(disks.size(call.host, each) for each in members)})
    for each in members:
        holder = f"{disks.BLOCK}/{each}/holders/{name}"
        call.host.make_parents(holder)
        call.host.root.write(holder, b"", 0o444, 0, 0)
    verb = "makes" if "--create" in call.argv else "puts together"
    return f"{verb} the array {name} of {', '.join(members)}"


def wipefs(call: Call) -> str:
    name = os.path.basename(call.argv[-1])
    _know(call.host, name, "")
    return f"what is on {name} is lost"


def mkfs(call: Call) -> str:
    """Let udev know what is made. A swap file has nothing that udev would know."""
    node = call.argv[-1]
    if not node.startswith("/dev/"):
        return ""
    name, kind = os.path.basename(node), re.sub("^mk(fs\\.)?", "", call.argv[0])
    options = dict(zip(call.argv, call.argv[1:], strict=False))
    label = next((options[option] for option in ("-L", "-n", "-l") if option in options), "")
    uuid = options.get("-U") or options.get("-m", "").removeprefix("uuid=")
    values = {"TYPE": kind, "LABEL_ENC": disks.udev_name(label), "UUID_ENC": uuid}
    _know(call.host, name, "".join(f"E:ID_FS_{key}={value}\n" for key, value in values.items() if value))
    mib = disks.size(call.host, name) * disks.SECTOR >> 20
    return f"makes {kind}{f' labelled {label!r}' if label else ''} on {name} ({mib} MiB)"


def _show(host: PlannedHost, name: str, place: str, facts: Mapping[str, int]) -> None:
    """Show a new device, at its place below /sys/devices; udev knows nothing on it."""
    for file, value in {**facts, "dev": f"planned:{name}"}.items():
        host.make_parents(f"{place}/{file}")
        host.root.write(f"{place}/{file}", f"{value}\n".encode(), 0o444, 0, 0)
    for link in (f"{disks.BLOCK}/{name}", f"/sys/dev/block/planned:{name}"):
        host.make_parents(link)
        if host.look(link) is None:
            host.root.symlink(link, place)
    host.make_parents(f"/dev/{name}")
    host.root.write(f"/dev/{name}", b"", 0o600, 0, 0)
    _know(host, name, "")


def _know(host: PlannedHost, name: str, text: str) -> None:
    """Let udev know this of a device."""
    number = (host.text(f"{disks.BLOCK}/{name}/dev") or "").strip()
    if number:
        host.make_parents(f"{disks.UDEV}/b{number}")
        host.root.write(f"{disks.UDEV}/b{number}", text.encode(), 0o644, 0, 0)


def _add_line(host: PlannedHost, path: str, line: str) -> None:
    text = host.text(path) or ""
    host.make_parents(path)
    host.root.write(path, f"{text}{line}\n".encode(), 0o444, 0, 0)
