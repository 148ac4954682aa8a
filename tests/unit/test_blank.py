"""The proof that a device is blank, and who uses it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from casebook import ScratchHost, plant
from cloudboot import blank
from cloudboot.blank import MIB, Content
from cloudboot.root import Root

if TYPE_CHECKING:
    from pathlib import Path

SIZES = [512, MIB - 512, MIB, MIB + 512, 2 * MIB, 5 * MIB, 6 * MIB, 7 * MIB + 512, 64 * MIB, 1 << 40, (1 << 40) + 512]


@pytest.mark.parametrize("size", SIZES)
def test_samples_are_on_the_device(size: int) -> None:
    found = list(blank.samples(size))
    assert all(offset >= 0 and length > 0 and offset + length <= size for offset, length in found)
    assert sum(length for _, length in found) <= 7 * MIB


@pytest.mark.parametrize("size", SIZES)
def test_samples_cover_both_ends(size: int) -> None:
    found = list(blank.samples(size))
    for place in (0, min(MIB, size) - 1, max(size - MIB, 0), size - 1):
        assert any(offset <= place < offset + length for offset, length in found), place


@pytest.mark.parametrize("size", [7 * MIB + 512, 64 * MIB, 1 << 40])
def test_samples_lie_evenly(size: int) -> None:
    between = [offset for offset, length in blank.samples(size) if length == blank.PIECE][-blank.SAMPLES :]
    assert len(between) == 64
    steps = [after - before for before, after in pairwise(between)]
    assert max(steps) - min(steps) <= 4096
    assert between[0] == MIB
    assert size - MIB - between[-1] <= blank.PIECE + 4096


def test_a_small_device_is_looked_at_whole() -> None:
    for size in (MIB, 2 * MIB, 3 * MIB, 6 * MIB):
        assert sum(length for _, length in blank.samples(size)) == size


def device(tmp_path: Path, content: bytes = b"", *, size: int = 4 * MIB, tools: Any = ()) -> ScratchHost:
    """Return a host with a disk xvdf that holds this, and then zeros."""
    root = Root(str(tmp_path))
    plant(root, "/sys/class/block/xvdf", {"link": "../../devices/xvdf"})
    plant(root, "/sys/devices/xvdf/size", f"{size // 512}\n")
    plant(root, "/sys/devices/xvdf/dev", "202:80\n")
    plant(root, "/dev/xvdf", content.ljust(4 * MIB, b"\0"))
    return ScratchHost(root, tools)


@pytest.mark.parametrize("status", [0, 2])  # blkid: nothing found
def test_blank(tmp_path: Path, status: int) -> None:
    known = device(tmp_path, tools=[{"argv": "blkid", "status": status}])
    assert blank.occupied(known, "xvdf") is None
    assert known.spawned == [
        "blkid -p -o udev /dev/xvdf",
        "wipefs --no-act --noheadings --output TYPE,OFFSET /dev/xvdf",
    ]


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        ({"argv": "blkid", "output": "ID_FS_TYPE=zfs_member\n"}, "it holds zfs_member"),
        ({"argv": "blkid", "output": "ID_FS_TYPE=xfs\nID_FS_LABEL_ENC=a\\x20b\n"}, "it holds xfs labelled 'a b'"),
        ({"argv": "blkid", "output": "ID_PART_TABLE_TYPE=gpt\n"}, "it holds a partition table (gpt)"),
        ({"argv": "blkid", "status": 8}, "blkid cannot tell what is on it (exit status 8)"),
        ({"argv": "blkid", "status": 127}, "blkid cannot tell what is on it (exit status 127)"),
        ({"argv": "wipefs", "status": 1}, "wipefs cannot tell what is on it (exit status 1)"),
        ({"argv": "wipefs", "output": "swap 0xff6\n"}, "it holds a signature: swap at 0xff6"),
    ],
)
def test_what_tools_say(tmp_path: Path, tool: dict[str, Any], told: str) -> None:
    assert blank.occupied(device(tmp_path, tools=[tool]), "xvdf") == told


@pytest.mark.parametrize("place", [0, 511, MIB - 1, MIB, 2 * MIB + 77, 4 * MIB - 1])
def test_one_byte(tmp_path: Path, place: int) -> None:
    known = device(tmp_path, bytes(place) + b"\x80")
    assert blank.occupied(known, "xvdf") == f"it holds data that no tool knows (byte {place} is not zero)"


def test_what_proves_nothing(tmp_path: Path) -> None:
    known = device(tmp_path, size=8 * MIB)
    assert blank.occupied(known, "xvdf") == f"it cannot be read at byte {7 * MIB}: nothing is there"
    known.root.remove("/dev/xvdf")
    assert blank.occupied(known, "xvdf") == "it cannot be read at byte 0: No such file or directory"
    plant(known.root, "/sys/devices/xvdf/size", "0\n")
    assert blank.occupied(known, "xvdf") == "it has no size: nothing can be proved of it"


def test_partitions_that_the_kernel_knows(tmp_path: Path) -> None:
    known = device(tmp_path)
    for number in (10, 2):
        plant(known.root, f"/sys/devices/xvdf/xvdf{number}/partition", f"{number}\n")
        plant(known.root, f"/sys/class/block/xvdf{number}", {"link": f"../../devices/xvdf/xvdf{number}"})
    assert blank.occupied(known, "xvdf") == "it has partitions (xvdf2, xvdf10)"


def test_udev_is_asked_first(tmp_path: Path) -> None:
    known = device(tmp_path, tools=[{"argv": "blkid", "output": "ID_FS_TYPE=ext4\n"}])
    assert blank.content(known, "xvdf") == Content("ext4")
    plant(
        known.root,
        "/run/udev/data/b202:80",
        "E:ID_FS_TYPE=vfat\nE:ID_FS_LABEL_ENC=caf\\xc3\\xa9\nE:ID_FS_UUID_ENC=1-2\n",
    )
    known.spawned.clear()
    assert blank.content(known, "xvdf") == Content("vfat", "café", "1-2")
    assert known.spawned == []


# -- who uses it


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({}, None),
        ({"/proc/self/mountinfo": "30 27 202:80 / /data rw - ext4 /dev/xvdf rw\n"}, "is mounted on /data"),
        ({"/proc/self/mountinfo": "30 27 202:81 / /p rw - ext4 /dev/xvdf1 rw\n"}, "is mounted on /p"),
        ({"/proc/self/mountinfo": "30 27 0:52 / /b rw - btrfs /dev/xvdf1 rw\n"}, "is mounted on /b"),
        ({"/proc/swaps": "Filename Type\n/dev/xvdf1 partition\n"}, "is swap in use"),
        ({"/sys/devices/xvdf/holders/md0": ""}, "is part of md0"),
        (
            {"/sys/devices/xvdf/xvdf1/holders/dm-3": "", "/sys/class/block/dm-3/dm/name": "luks-data\n"},
            "is part of dm-3 (luks-data)",
        ),
    ],
)
def test_who_uses_it(tmp_path: Path, tree: dict[str, str], told: str | None) -> None:
    known = device(tmp_path)
    plant(known.root, "/sys/devices/xvdf/xvdf1/partition", "1\n")
    plant(known.root, "/sys/class/block/xvdf1", {"link": "../../devices/xvdf/xvdf1"})
    plant(known.root, "/dev/xvdf1", "")
    plant(known.root, "/sys/dev/block/202:80", {"link": "../../devices/xvdf"})
    plant(known.root, "/sys/dev/block/202:81", {"link": "../../devices/xvdf/xvdf1"})
    for path, text in tree.items():
        plant(known.root, path, text)
    assert blank.in_use(known, "xvdf") == told


def test_the_systems_disks_through_what_lies_between(tmp_path: Path) -> None:
    """/ on LVM on LUKS on a RAID of two partitions; /boot on a partition of a third disk."""
    known = device(tmp_path)
    plant(
        known.root, "/proc/self/mountinfo", "1 0 254:1 / / rw - xfs /dev/x rw\n2 1 8:33 / /boot rw - ext4 /dev/y rw\n"
    )
    plant(known.root, "/sys/dev/block/254:1", {"link": "../../devices/virtual/block/dm-1"})
    plant(known.root, "/sys/dev/block/8:33", {"link": "../../devices/sdc/sdc1"})
    for name, below in {"dm-1": ["dm-0"], "dm-0": ["md0"], "md0": ["sda1", "sdb1"]}.items():
        plant(known.root, f"/sys/class/block/{name}", {"link": f"../../devices/virtual/block/{name}"})
        for each in below:
            plant(known.root, f"/sys/devices/virtual/block/{name}/slaves/{each}", "")
    for disk in ("sda", "sdb", "sdc"):
        plant(known.root, f"/sys/class/block/{disk}1", {"link": f"../../devices/{disk}/{disk}1"})
        plant(known.root, f"/sys/devices/{disk}/{disk}1/partition", "1\n")
    assert blank.system_disks(known) == {"dm-1", "dm-0", "md0", "sda", "sdb", "sdc"}
