"""File systems to be made: what is wanted as a value, whether it is there, and the tool's words."""

from __future__ import annotations

from cloudboot.errors import ConfigError
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.blank import Content
    from cloudboot.host import Host

LABEL_OPTION = {"vfat": "-n", "f2fs": "-l", "reiserfs": "-l"}  # others: -L
LABEL_ROOM = {"ext2": 16, "ext3": 16, "ext4": 16, "xfs": 12, "swap": 15, "vfat": 11, "btrfs": 255}  # bytes
UUID_OPTION = {
    "ext2": ("-U", "{}"), "ext3": ("-U", "{}"), "ext4": ("-U", "{}"), "btrfs": ("-U", "{}"), "swap": ("-U", "{}"),
    "xfs": ("-m", "uuid={}"),
}  # fmt: skip
# What a tool wants to hear before it takes a whole disk for a file system.
WHOLE_DISK = {"ext2": "-F", "ext3": "-F", "ext4": "-F", "vfat": "-I", "ntfs": "-F"}
PACKAGES = {
    "ext2": "e2fsprogs", "ext3": "e2fsprogs", "ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs",
    "vfat": "dosfstools", "f2fs": "f2fs-tools", "ntfs": "ntfs-3g", "exfat": "exfatprogs", "swap": "util-linux",
}  # fmt: skip


class FileSystem(NamedTuple):
    """A file system (or swap) that is wanted. An empty label or UUID: any."""

    kind: str
    label: str = ""
    uuid: str = ""

    @property
    def text(self) -> str:
        """In words, for a message."""
        return f"{self.kind} labelled {self.label!r}" if self.label else self.kind

    def is_on(self, content: Content, *, same_label: bool = False) -> bool:
        """Tell whether this is on a device already. `same_label`: without a label is wanted without one."""
        label, there = self.label, content.label
        if self.kind == "vfat":
            label, there = label.upper(), there.upper()
        if content.kind != self.kind or ((label or same_label) and label != there):
            return False
        return not self.uuid or self.uuid.lower() == content.uuid.lower()


def check(wanted: FileSystem) -> None:
    """Raise ConfigError for a label or UUID that could not be found again: the tool would cut it, or cannot set it."""
    room = LABEL_ROOM.get(wanted.kind)
    if room is not None and len(wanted.label.encode()) > room:
        raise ConfigError(f"label {wanted.label!r} is too long: {wanted.kind} takes {room} bytes")
    if wanted.uuid and wanted.kind not in UUID_OPTION:
        raise ConfigError(f"uuid: cannot be given to {wanted.kind}, only to {', '.join(UUID_OPTION)}")


def argv(host: Host, wanted: FileSystem, device: str, extra: Sequence[str], *, whole: bool) -> list[str]:
    """Return the tool's words to make a file system. `whole`: on a whole disk. Raises ConfigError if there is none."""
    names = ("mkswap",) if wanted.kind == "swap" else (f"mkfs.{wanted.kind}", f"mk{wanted.kind}")
    tool = next((each for each in names if host.which(each)), None)
    if tool is None:
        package = PACKAGES.get(wanted.kind)
        what = f"install {package}" if package else "no program of this name makes it"
        raise ConfigError(f"{names[0]}: not found: {what}")
    words = [tool]
    if whole and wanted.kind in WHOLE_DISK:
        words.append(WHOLE_DISK[wanted.kind])
    if wanted.label:
        words += [LABEL_OPTION.get(wanted.kind, "-L"), wanted.label]
    if wanted.uuid:
        option, form = UUID_OPTION[wanted.kind]
        words += [option, form.format(wanted.uuid)]
    return [*words, *extra, device]
