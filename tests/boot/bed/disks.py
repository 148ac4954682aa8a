"""Disk images for machines: root disks from a tree, EBS-like volumes, copy-on-write overlays. All sparse."""

from __future__ import annotations

from typing import Literal, NamedTuple

from boot.bed.command import run

MIB = 1 << 20


class Disk(NamedTuple):
    """A disk of a machine. `serial` of an EBS volume is the id without its dash (`vol0123456789abcdef0`).

    `address`: its PCI slot and function (`10.0` to `1f.7`), for more disks than there are slots; function 0 is needed.
    """

    path: str
    serial: str = ""
    interface: Literal["nvme", "virtio"] = "nvme"
    format: Literal["raw", "qcow2"] = "raw"
    address: str = ""


def blank(dest: str, mib: int) -> str:
    """Create an empty disk of `mib` MiB at `dest`; return `dest`."""
    with open(dest, "xb") as file:
        file.truncate(mib * MIB)
    return dest


def filesystem(dest: str, mib: int, kind: Literal["ext4", "xfs", "btrfs"] = "ext4", label: str = "") -> str:
    """Create a disk of `mib` MiB that holds an empty file system (xfs wants 300 MiB); return `dest`."""
    blank(dest, mib)
    options = ["-L", label] if label else []
    run([f"mkfs.{kind}", "-q", *options, dest])
    return dest


def root_image(tree: str, dest: str, mib: int = 2048, *, label: str = "rootfs") -> str:
    """Write the directory `tree` to an ext4 without a partition table at `dest`; boot it by `root=LABEL=rootfs`."""
    blank(dest, mib)
    _ext4(tree, dest, label, 0, mib)
    return dest


def gpt_image(tree: str, dest: str, mib: int = 2048, *, room_mib: int = 1024, label: str = "rootfs") -> str:
    """Write `tree` to the only partition of a GPT disk, with `room_mib` MiB unused behind it for growpart."""
    blank(dest, mib + room_mib)
    table = f"label: gpt\nstart=2048, size={(mib - 2) * 2048}, type=linux, name=root\n"
    run(["sfdisk", "--quiet", dest], stdin=table)
    _ext4(tree, dest, label, MIB, mib - 2)
    return dest


def qcow2_over(base: str, dest: str, mib: int | None = None, base_format: str = "raw") -> str:
    """Create a qcow2 at `dest` that keeps only what differs from `base`; `mib` makes it larger than `base`."""
    size = [f"{mib}M"] if mib else []
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", base_format, "-b", base, dest, *size])
    return dest


def _ext4(tree: str, dest: str, label: str, offset: int, mib: int) -> None:
    options = f"lazy_itable_init=1,lazy_journal_init=1,offset={offset}"
    run(["mkfs.ext4", "-q", "-F", "-L", label, "-E", options, "-d", tree, dest, f"{mib}M"], timeout=300)
