"""Block devices: what the kernel calls them, what EC2 calls them, and what is mounted from them.

On Xen `/dev/sdf` is `xvdf`, on UEC `vdf`; on Nitro it is some `nvme1n1`, in no stable order, and only the NVMe
controller knows the name (in the vendor's part of its Identify page) and the volume (its serial number). What the
metadata service says (`ephemeral0: sdb`) are EC2's names too.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum

from cloudboot.fstab import unescape
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.host import Host

BLOCK = "/sys/class/block"
BY_ID = "/dev/disk/by-id"
SECTOR = 512  # bytes: the unit of every size in sysfs, whatever the disk's own sectors are

# Patterns as text: a boot that looks at no disk compiles none.
ROLE = r"ami|root|swap|ephemeral\d*|ebs\d+"  # names in the metadata's block device mapping
NAME = r"(?:/dev/)?((?:xv|[shv])d[a-z]+\d*|sr\d+|nvme\d+n\d+(?:p\d+)?)"
VOLUME = r"vol-?([0-9a-fA-F]{8,17})"
DOTTED = r"(.+)(?:\.|-part)(\d+)"
LETTERED = rf"((?:/dev/)?(?:{ROLE}|vol-?[0-9a-fA-F]{{8,17}}|(?:xv|[shv])d[a-z]+))p(\d+)"
SERIAL = r"(?i)(?:euca-)?vol-?([0-9a-f]{8,17})(?:-.*)?"  # Eucalyptus puts the name of the attachment behind it
PREFIXED = r"(?:xv|[shv])d([a-z]+)(\d*)"
PREFIXES = ("sd", "xvd", "vd", "hd")
TAGS = {"LABEL": "label", "UUID": "uuid", "PARTLABEL": "partlabel", "PARTUUID": "partuuid", "ID": "id"}

NVME_IOCTL_ADMIN_CMD = 0xC0484E41  # linux/nvme_ioctl.h: _IOWR('N', 0x41, struct nvme_admin_cmd), 72 bytes
NVME_IDENTIFY = 0x06
AMAZON = 0x1D0F  # PCI vendor, bytes 0 and 1 of the Identify page
UDEV = "/run/udev/data"


class Kind(StrEnum):
    """What EC2 sells a disk as. What neither its model nor the metadata tell has none."""

    EBS = "EBS"
    STORE = "instance store"


MODELS = {"Amazon Elastic Block Store": Kind.EBS, "Amazon EC2 NVMe Instance Storage": Kind.STORE}


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo. `number` is `major:minor`, `root` the part of the file system that is seen."""

    number: str
    root: str
    target: str
    options: tuple[str, ...]
    kind: str
    source: str


class Partition(NamedTuple):
    """A partition: kernel name of its disk, its number, start and size in sectors of 512 bytes."""

    disk: str
    number: int
    start: int
    size: int


def mounts(host: Host) -> list[Mount]:
    """Return what is mounted, oldest first."""
    found = []
    for line in (host.text("/proc/self/mountinfo") or "").splitlines():
        fields = line.split(" ")
        try:
            dash = fields.index("-", 6)
            number, root, target, options = fields[2:6]
            kind, source = fields[dash + 1 : dash + 3]
        except ValueError:
            continue
        found.append(Mount(number, unescape(root), unescape(target), tuple(options.split(",")), kind, unescape(source)))
    return found


def mounted(host: Host, target: str) -> Mount | None:
    """Return what is seen at a mount point, None if nothing is mounted there."""
    return next((mount for mount in reversed(mounts(host)) if mount.target == target), None)


def in_container(host: Host) -> bool:
    """Tell whether this is a container (systemd and container managers leave a file that says so)."""
    return any(map(host.exists, ("/run/systemd/container", "/run/.containerenv", "/.dockerenv")))


def swaps(host: Host) -> list[str]:
    """Return the paths of the swap space in use."""
    lines = (host.text("/proc/swaps") or "").splitlines()[1:]
    return [unescape(line.split()[0]) for line in lines if line.strip()]


def device_of(host: Host, mount: Mount) -> str | None:
    """Return the kernel name of the device that a mount is on, None if there is none (tmpfs, overlay, nfs)."""
    link = host.root.readlink(f"/sys/dev/block/{mount.number}")
    if link is not None:
        return os.path.basename(link)
    # btrfs has device numbers of its own: there the source names the device.
    return kernel_name(host, mount.source) if mount.source.startswith("/dev/") else None


def kernel_name(host: Host, path: str) -> str | None:
    """Return the kernel name of a device node or of a link to one, None if the kernel has no such device."""
    try:
        folder, _, name = host.root.resolve(path).rpartition("/")
    except OSError:
        return None
    return name if folder == "/dev" and host.exists(f"{BLOCK}/{name}") else None


def node_of(source: str) -> str | None:
    """Return the path below /dev of a source that is a device: a path, or udev's link for LABEL=, UUID= …"""
    tag, _, value = source.partition("=")
    if tag in TAGS and value:
        return f"/dev/disk/by-{TAGS[tag]}/{udev_name(value.strip(chr(34)))}"
    return source if source.startswith("/dev/") and ":/" not in source else None


def udev_name(value: str) -> str:
    """Return a label as udev writes it in the name of a link: what is unusual becomes \\xNN."""
    return "".join(
        letter if letter.isalnum() or letter in "#+-.:=@_" else "".join(f"\\x{byte:02x}" for byte in letter.encode())
        for letter in value
    )


def size(host: Host, name: str) -> int:
    """Return a device's size in sectors; 0 if the kernel does not say."""
    return number_in(host, f"{BLOCK}/{name}/size") or 0


def partition(host: Host, name: str) -> Partition | None:
    """Return a partition's place on its disk, None for what is no partition."""
    number = number_in(host, f"{BLOCK}/{name}/partition")
    link = host.root.readlink(f"{BLOCK}/{name}")
    if number is None or link is None:
        return None
    disk = os.path.basename(os.path.dirname(link))
    return Partition(disk, number, number_in(host, f"{BLOCK}/{name}/start") or 0, size(host, name))


def partitions(host: Host, disk: str) -> list[Partition]:
    """Return the partitions of a disk."""
    found = [partition(host, name) for name in host.listdir(f"{BLOCK}/{disk}") if name.startswith(disk)]
    return [each for each in found if each is not None]


def number_in(host: Host, path: str) -> int | None:
    """Return the number in one of sysfs's files, None if there is none."""
    text = (host.text(path) or "").strip()
    return int(text) if text.isdigit() else None


def read_at(host: Host, name: str, offset: int, length: int) -> bytes:
    """Return bytes from a device; fewer, or none, if it is shorter. Raises OSError if it cannot be read."""
    file = os.open(host.root.outside(f"/dev/{name}"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, length, offset)
    finally:
        os.close(file)


def file_system(host: Host, name: str) -> str:
    """Return the type of what is on a device (`ext4`, `swap`, `LVM2_member` …), empty if it is blank.

    udev knows it without a process; where there is no udev, blkid looks.
    """
    known = properties(host, name)
    if known is None:
        answer = host.ask(["blkid", "-p", "-o", "value", "-s", "TYPE", f"/dev/{name}"])
        return answer.output.strip() if answer.ok else ""
    return known.get("ID_FS_TYPE", "")


def properties(host: Host, name: str) -> dict[str, str] | None:
    """Return what udev keeps of a device (`ID_FS_TYPE`, `ID_FS_LABEL_ENC` …), None if it keeps nothing."""
    number = (host.text(f"{BLOCK}/{name}/dev") or "").strip()
    known = host.text(f"{UDEV}/b{number}") if number else None
    if known is None:
        return None
    return dict(line[2:].partition("=")[::2] for line in known.splitlines() if line.startswith("E:"))


def split(word: str) -> tuple[str, int | None]:
    """Part a name from the number of a partition behind it: `ebs1.2`, `vol-0123abcdp2`, `sdfp2`, `PATH-part2`.

    `sdf2` and `nvme1n1p2` are names of their own.
    """
    match = re.fullmatch(DOTTED, word) or re.fullmatch(LETTERED, word)
    return (match[1], int(match[2])) if match else (word, None)


def decoded(value: str) -> str:
    """Return a label as it is from how udev and blkid write it (`\\x20` is a space)."""
    if "\\x" not in value:
        return value
    pieces = re.split(r"\\x([0-9a-f]{2})", value)
    raw = b"".join(bytes.fromhex(piece) if number % 2 else piece.encode() for number, piece in enumerate(pieces))
    return raw.decode("utf-8", "replace")


def identify(path: str) -> bytes:
    """Return the Identify page (4096 bytes) of an NVMe controller. Raises OSError. Wants root."""
    from array import array
    from fcntl import ioctl
    from struct import pack

    page = array("B", bytes(4096))
    # opcode, flags, rsvd1, nsid, cdw2, cdw3, metadata, addr, metadata_len, data_len, cdw10 (1: the controller) …
    command = pack("=BBHIIIQQIIIIIIIIII", NVME_IDENTIFY, 0, 0, 0, 0, 0, 0, page.buffer_info()[0], 0, 4096, 1, *[0] * 7)
    device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ioctl(device, NVME_IOCTL_ADMIN_CMD, command)
    finally:
        os.close(device)
    return page.tobytes()


def ec2_names(page: bytes) -> tuple[str, ...]:
    """Return the EC2 names in an Identify page: `("sdf",)`, of instance store `("ephemeral0", "sdh")`, or none.

    Bytes 3072 to 3103 of Amazon's controllers hold the name, padded with spaces or NULs: of an EBS volume as it was
    given when it was attached, with or without /dev/; of instance store `ephemeral0:sdh` or `ephemeral0:none`.
    """
    if len(page) < 3104 or int.from_bytes(page[:2], "little") != AMAZON:
        return ()
    text = page[3072:3104].partition(b"\0")[0].decode("ascii", "replace").strip()
    names = [part.removeprefix("/dev/") for part in text.split(":")]
    return tuple(name for name in names if re.fullmatch(ROLE, name) or re.fullmatch(NAME, name))


class Disks:
    """Find block devices by the names that people and EC2 use.

    mapping: the metadata's block device mapping (`ephemeral0` -> `sdb`). identify: returns the Identify page of the
    NVMe controller behind a path. In an image tree nothing is found: its devices are those of another machine.
    """

    def __init__(self, host: Host, mapping: Mapping[str, str], identify: Callable[[str], bytes] = identify) -> None:
        self.host = host
        self.mapping = mapping
        self.identify = identify
        self.denied: set[str] = set()  # NVMe disks whose controller answers root only
        self._pages: dict[str, tuple[str, ...]] = {}  # an NVMe disk's kernel name -> its EC2 names

    def names(self, word: str) -> bool:
        """Tell whether a word is a name that `find` looks up: of a disk, not a path, a label or a network share."""
        base, _ = split(word)
        return any(re.fullmatch(form, base) for form in (ROLE, NAME, VOLUME))

    def find(self, word: str) -> str | None:
        """Return the kernel name (`nvme1n1p1`) behind a name, None if this machine has no such device.

        `NAME.N` is the N-th partition, `NAME.0` the whole disk; without it, the first partition if there is one.
        """
        if not self.host.live:
            return None
        base, number = split(word)
        found = self._base(base.removeprefix("/dev/"))
        if found and number is not None and re.fullmatch(ROLE, base):
            found = self.disk_of(found)  # the metadata may say `root: sda1`
        if found and number != 0:
            first = self.part(found, number or 1)
            found = first if number else first or found
        # A container may see its host's disks in /sys: what it may use has a node.
        return found if found and self.host.exists(f"/dev/{found}") else None

    def locate(self, word: str) -> str | None:
        """Return the kernel name of exactly what a word names, None if this machine has no such device.

        Here a disk is the whole disk, and paths, LABEL=, UUID=, PARTLABEL= and PARTUUID= are understood too.
        """
        base, number = split(word)
        if self.names(word):
            if number is not None or not self.host.live:
                return self.find(word)
            found = self._base(word.removeprefix("/dev/"))
            return found if found and self.host.exists(f"/dev/{found}") else None
        if not self.host.live:
            return None
        found = self._linked(word)
        disk = self._linked(base) if found is None and number is not None else None
        return self.part(disk, number) if disk and number else found or disk

    def all(self) -> list[str]:
        """Return the kernel names of the disks (not partitions, loops, RAM disks)."""
        return [
            name for name in self.host.listdir(BLOCK) if re.fullmatch(NAME, name) and not self._is(f"{name}/partition")
        ]

    def stable(self, name: str) -> str:
        """Return a path for fstab that means this device at the next boot as well.

        The kernel numbers NVMe disks as they answer; udev's link by serial number stays with the volume.
        """
        if name.startswith("nvme"):
            part = partition(self.host, name)
            serial = self._serial(part.disk if part else name)
            links = [link for link in self.host.listdir(BY_ID) if serial and serial in link]
            fitting = [link for link in links if kernel_name(self.host, f"{BY_ID}/{link}") == name]
            if fitting:
                return f"{BY_ID}/{min(fitting, key=len)}"
        return f"/dev/{name}"

    def disk_of(self, name: str) -> str:
        """Return the kernel name of the disk that a partition is on; of a disk, its own."""
        part = partition(self.host, name)
        return part.disk if part else name

    def part(self, disk: str, number: int) -> str | None:
        """Return the kernel name of a partition of a disk, None if there is none of this number."""
        for name in (f"{disk}{number}", f"{disk}p{number}"):
            if self._is(f"{disk}/{name}") and self._is(name):
                return name
        return None

    def volume(self, name: str) -> str:
        """Return the id of the volume (`vol-0123…`) that a disk is, from its serial number; empty if it has none."""
        match = re.fullmatch(SERIAL, self._serial(name))
        return f"vol-{match[1].lower()}" if match else ""

    def kind(self, name: str) -> tuple[Kind, str] | None:
        """Return what EC2 sells a disk as, and what says so: its model, the metadata, its serial number."""
        model = (self.host.text(f"{BLOCK}/{name}/device/model") or "").strip()
        if model in MODELS:
            return MODELS[model], "its model"
        for role in self.mapping:
            store, volume = role.startswith("ephemeral"), role.startswith("ebs")
            if (store or volume) and self._named(self.mapping[role].removeprefix("/dev/")) == name:
                return Kind.STORE if store else Kind.EBS, "the metadata"
        return (Kind.EBS, "its serial number") if self.volume(name) else None

    def controller_names(self, disk: str) -> tuple[str, ...]:
        """Return the EC2 names that an NVMe disk's controller has for it; none for other disks."""
        if disk.startswith("nvme") and disk not in self._pages:
            try:
                self._pages[disk] = ec2_names(self.identify(self.host.root.outside(f"/dev/{disk}")))
            except OSError as error:  # no NVMe of a kind that answers: it has no name
                self._pages[disk] = ()
                if isinstance(error, PermissionError):
                    self.denied.add(disk)
        return self._pages.get(disk, ())

    def _linked(self, word: str) -> str | None:
        """Return the device behind a path or a tag: by udev's link, by what udev keeps, without udev by blkid."""
        node = node_of(word)
        found = kernel_name(self.host, node) if node else None
        tag, _, value = word.partition("=")
        if found or tag not in TAGS or not value:
            return found
        wanted = value.strip(chr(34))
        if self.host.exists(UDEV):
            fitting = [name for name in self.host.listdir(BLOCK) if self._tagged(name, tag) == wanted]
            return fitting[0] if len(fitting) == 1 else None  # of twins none is meant
        answer = self.host.ask(["blkid", "-c", "/dev/null", "-o", "device", "-t", f"{tag}={wanted}"])
        nodes = answer.output.split() if answer.ok else []
        return kernel_name(self.host, nodes[0]) if len(nodes) == 1 else None

    def _tagged(self, name: str, tag: str) -> str:
        known = properties(self.host, name) or {}
        key = {"PARTLABEL": "ID_PART_ENTRY_NAME", "PARTUUID": "ID_PART_ENTRY_UUID"}.get(tag, f"ID_FS_{tag}_ENC")
        return decoded(known.get(key, ""))

    def _base(self, name: str) -> str | None:
        volume = re.fullmatch(VOLUME, name)
        if volume:
            return next((disk for disk in self.all() if self.volume(disk) == f"vol-{volume[1].lower()}"), None)
        if not re.fullmatch(ROLE, name):
            return self._named(name)
        # Eucalyptus says `ephemeral` for `ephemeral0`.
        roles = (name, {"ephemeral": "ephemeral0", "ephemeral0": "ephemeral"}.get(name, name))
        for role in roles:
            # What the disk says of itself goes before what the metadata say of it.
            found = self._by_page(role) or self._named(self.mapping.get(role, "").removeprefix("/dev/"))
            if found:
                return found
        if name in ("root", "ami"):
            mount = mounted(self.host, "/")
            return device_of(self.host, mount) if mount else None
        return None

    def _named(self, name: str) -> str | None:
        if not re.fullmatch(NAME, name):
            return None
        if self._is(name):
            return name
        linked = kernel_name(self.host, f"/dev/{name}")
        found = linked or self._by_page(name)
        match = re.fullmatch(PREFIXED, name)
        if found or not match:
            return found
        letters, number = match.groups()
        for prefix in PREFIXES:
            other = f"{prefix}{letters}{number}"
            if self._is(other):
                return other
            found = self._by_page(other)
            if found:
                return found
        if number:
            disk = self._named(name[: -len(number)])
            return self.part(disk, int(number)) if disk else None
        return None

    def _by_page(self, name: str) -> str | None:
        return next((disk for disk in self.all() if name in self.controller_names(disk)), None)

    def _serial(self, disk: str) -> str:
        for path in (f"{BLOCK}/{disk}/device/serial", f"{BLOCK}/{disk}/serial"):
            serial = (self.host.text(path) or "").strip()
            if serial:
                return serial
        return ""

    def _is(self, below: str) -> bool:
        return self.host.exists(f"{BLOCK}/{below}")
