"""Partitions and file systems on real loop devices: what is blank is written to, nothing else ever is."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from boot.bed.command import run
from cloudboot import blank
from cloudboot.disks import Disks
from cloudboot.modules import disk_setup as disk_setup_file
from unit.modules.treehost import Loop, TreeHost

if TYPE_CHECKING:
    from cloudboot.module import Context

pytestmark = pytest.mark.container
MIB = 1 << 20


def setup(host: TreeHost, config: dict[str, Any]) -> Context:
    """Run the module; what it changed is in host.changes."""
    host.changes.clear()
    ctx = host.context("disk_setup", config)
    disk_setup_file.apply(ctx, Disks(host, {}))
    return ctx


def changes(host: TreeHost) -> list[str]:
    return [action.text.removeprefix("run ") for action in host.changes]


def held(device: str) -> str:
    """Return the checksum of a whole device, as it is behind every cache."""
    run(["blockdev", "--flushbufs", device])
    with open(device, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def there(host: TreeHost, device: str) -> blank.Content:
    return blank.probe(host, device.removeprefix("/dev/"))


# -- what is blank


@pytest.mark.parametrize(("table", "label"), [("gpt", "gpt"), ("mbr", "dos")])
def test_a_blank_disk_is_partitioned_and_formatted_once(host: TreeHost, loop: Loop, table: str, label: str) -> None:
    disk = loop(900)
    config: dict[str, Any] = {
        "disk_setup": {disk: {"table_type": table, "layout": [10, [20, 82], 70]}},
        "fs_setup": [
            {"device": disk, "partition": 1, "filesystem": "ext4", "label": "my logs"},
            {"device": f"{disk}.2", "filesystem": "swap", "label": "swap"},
            {"device": disk, "filesystem": "xfs", "uuid": "01234567-89ab-cdef-0123-456789abcdef"},
        ],
    }
    ctx = setup(host, config)
    assert (ctx.failures, ctx.problems) == ([], [])
    assert [line.split()[0] for line in changes(host)] == ["sfdisk", "partx", "mkfs.ext4", "mkswap", "mkfs.xfs"]
    assert there(host, disk).table == label
    assert there(host, f"{disk}p1")[:2] == ("ext4", "my logs")
    assert there(host, f"{disk}p2")[:2] == ("swap", "swap")
    assert there(host, f"{disk}p3")[:3] == ("xfs", "", "01234567-89ab-cdef-0123-456789abcdef")
    sizes = [int(host.text(f"/sys/class/block/{disk[5:]}p{number}/size") or 0) >> 11 for number in (1, 2, 3)]
    assert sizes[:2] == [89, 180]
    assert sum(sizes) in (898, 899)

    before = held(disk)
    again = setup(host, config)
    assert (changes(host), again.failures, again.problems) == ([], [], [])
    assert held(disk) == before


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4", "btrfs", "swap"])
def test_a_whole_blank_disk_is_formatted_once(host: TreeHost, loop: Loop, kind: str) -> None:
    disk = loop(128)
    config: dict[str, Any] = {
        "fs_setup": [{"device": disk, "partition": "none", "filesystem": kind, "label": "data", "overwrite": True}]
    }
    assert setup(host, config).failures == []
    assert len(host.changes) == 1
    assert there(host, disk)[:2] == (kind, "data")
    before = held(disk)
    assert setup(host, config).failures == []
    assert changes(host) == [], "what is there is kept, also under overwrite"
    assert held(disk) == before


def test_the_owners_command(host: TreeHost, loop: Loop) -> None:
    disk = loop(16)
    config: dict[str, Any] = {"fs_setup": [{"device": disk, "filesystem": "ext4", "label": "x", "cmd": "mkfs.%(filesystem)s -q -L %(label)s %(device)s"}]}  # fmt: skip
    for expected in (["done"], []):
        ctx = setup(host, config)
        assert ctx.failures == []
        assert [outcome.state for outcome in ctx.commands.outcomes] == expected
    assert there(host, disk)[:2] == ("ext4", "x")


# -- what is not blank


def lvm() -> bytes:
    """Return the first two sectors of an LVM physical volume."""
    tail = struct.pack("<I8s32s", 32, b"LVM2 001", b"0123456789abcdefghijklmnopqrstuv").ljust(492, b"\0")
    checksum = zlib.crc32(tail, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return bytes(512) + struct.pack("<8sQI", b"LABELONE", 1, checksum) + tail


def raid() -> bytes:
    """Return the superblock of a RAID member, version 1.2, and what lies before it."""
    block = bytearray(struct.pack("<IIII16s32s", 0xA92B4EFC, 1, 0, 0, b"0123456789abcdef", b"host:0").ljust(256, b"\0"))
    struct.pack_into("<Q", block, 144, 8)
    total = sum(struct.unpack("<64I", block))
    struct.pack_into("<I", block, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
    return bytes(4096) + bytes(block)


LUKS = b"LUKS\xba\xbe\x00\x01".ljust(168, b"\0") + b"01234567-89ab-cdef-0123-456789abcdef"
SIGNED = {"LVM2_member": lvm(), "linux_raid_member": raid(), "crypto_LUKS": LUKS}
MADE = {
    "ext4": ["mkfs.ext4", "-q", "-L", "old", "{}"],
    "btrfs": ["mkfs.btrfs", "-q", "-L", "old", "{}"],
    "swap": ["mkswap", "{}"],
    "gpt": ["sh", "-c", "echo label: gpt | sfdisk -q {}"],
    "dos": ["sh", "-c", "printf 'label: dos\\n,8M\\n' | sfdisk -q {}"],
}


def holding(loop: Loop, kind: str) -> str:
    """Return a device that holds something."""
    device = loop(128, SIGNED.get(kind, b""))
    if kind in MADE:
        run([word.format(device) for word in MADE[kind]])
    return device


def wishes(device: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Return a configuration that wants a disk partitioned, and formatted."""
    word = {"overwrite": True} if overwrite else {}
    return {
        "disk_setup": {device: {"table_type": "gpt", "layout": [[100, "8200"]], **word}},
        "fs_setup": [{"device": device, "partition": "none", "filesystem": "ext3", **word}],
    }


@pytest.mark.parametrize("kind", [*SIGNED, *MADE])
def test_what_holds_something_is_refused_and_stays(host: TreeHost, loop: Loop, kind: str) -> None:
    device = holding(loop, kind)
    before = held(device)
    ctx = setup(host, wishes(device))
    assert changes(host) == []
    assert held(device) == before
    assert len(ctx.failures) == 2
    for failure in ctx.failures:
        assert device in failure
        assert kind in failure
        assert failure.endswith(": overwrite: true says that it may be lost")


@pytest.mark.parametrize("kind", [*SIGNED, *MADE])
def test_the_owners_word_lets_it_be_overwritten_once(host: TreeHost, loop: Loop, kind: str) -> None:
    device = holding(loop, kind)
    config: dict[str, Any] = {
        "fs_setup": [{"device": device, "partition": "none", "filesystem": "ext3", "overwrite": True}]
    }
    assert setup(host, config).failures == []
    assert there(host, device) == blank.Content("ext3", "", there(host, device).uuid)
    assert setup(host, config).failures == []
    assert changes(host) == []


SIZE = 144 * MIB
PLACES = [place for offset, length in blank.samples(SIZE) for place in (offset, offset + length - 1)]


@pytest.mark.parametrize("place", [*PLACES[:4], *PLACES[4:24:3], *PLACES[-40::13], SIZE - 512])
def test_one_byte_anywhere_that_is_looked_at(host: TreeHost, loop: Loop, place: int) -> None:
    device = loop(SIZE // MIB, b"\x01", place)
    before = held(device)
    ctx = setup(host, wishes(device))
    assert changes(host) == []
    assert held(device) == before
    assert len(ctx.failures) == 2
    assert all(f"it holds data that no tool knows (byte {place} is not zero)" in told for told in ctx.failures)


def test_a_file_system_whose_beginning_was_zeroed(host: TreeHost, loop: Loop) -> None:
    device = loop(256)
    run(["mkfs.ext4", "-q", "-b4096", device])
    run(["dd", "if=/dev/zero", f"of={device}", "bs=1M", "count=20", "conv=notrunc"])
    before = held(device)
    assert there(host, device) == blank.Content()
    ctx = setup(host, wishes(device))
    assert (changes(host), held(device)) == ([], before)
    assert all("it holds data that no tool knows" in told for told in ctx.failures)


# -- tables that are there


def table(device: str, script: str) -> None:
    run(["sfdisk", "--quiet", device], stdin=script)
    run(["partx", "--update", device])


def test_a_table_is_replaced_with_what_was_in_its_partitions(host: TreeHost, loop: Loop) -> None:
    device = loop(128)
    table(device, "label: gpt\nsize=64M\ntype=linux\n")
    run(["mkfs.ext4", "-q", "-L", "old", f"{device}p1"])
    config: dict[str, Any] = {
        "disk_setup": {device: {"table_type": "mbr", "layout": True, "overwrite": True}},
        "fs_setup": [{"device": f"{device}p1", "filesystem": "ext4"}],
    }
    # A layout of `true` is content with any partition; a list is not.
    assert setup(host, config).failures == []
    assert changes(host) == []
    config["disk_setup"][device]["layout"] = [[100, 83]]
    assert setup(host, config).failures == []
    assert [line.split()[0] for line in changes(host)] == [
        "wipefs", "wipefs", "partx", "wipefs", "sfdisk", "partx", "mkfs.ext4",
    ]  # fmt: skip
    assert there(host, device).table == "dos"
    assert there(host, f"{device}p1")[:2] == ("ext4", "")
    assert not os.path.exists(f"{device}p2")
    before = held(device)
    assert setup(host, config).failures == []
    assert (changes(host), held(device)) == ([], before)


def test_a_table_is_removed_once(host: TreeHost, loop: Loop) -> None:
    device = loop(64)
    table(device, "label: dos\nsize=16M\n")
    config: dict[str, Any] = {"disk_setup": {device: {"layout": "remove", "overwrite": True}}}
    assert setup(host, config).failures == []
    assert there(host, device) == blank.Content()
    assert not os.path.exists(f"{device}p1")
    assert setup(host, config).failures == []
    assert changes(host) == []


def test_the_first_blank_partition_is_taken(host: TreeHost, loop: Loop) -> None:
    device = loop(64)
    table(device, "label: gpt\nsize=16M\nsize=16M\nsize=16M\n")
    run(["mkfs.ext4", "-q", "-L", "precious", f"{device}p1"])
    precious = held(f"{device}p1")
    config: dict[str, Any] = {
        "fs_setup": [{"device": device, "partition": "auto", "filesystem": "ext4", "label": "new"}]
    }
    for expected in ([f"mkfs.ext4 -L new {device}p2"], []):
        assert setup(host, config).failures == []
        assert changes(host) == expected
    assert held(f"{device}p1") == precious

    run(["mkswap", f"{device}p3"])
    config["fs_setup"] = [{"device": device, "filesystem": "btrfs", "overwrite": True}]
    ctx = setup(host, config)
    assert changes(host) == []
    assert "none of its partitions is blank" in ctx.failures[0]
    assert held(f"{device}p1") == precious


def test_a_table_that_the_kernel_has_not_seen(host: TreeHost, loop: Loop) -> None:
    device = loop(64)
    run(["sfdisk", "--quiet", device], stdin="label: gpt\nsize=16M\n")
    config: dict[str, Any] = {"disk_setup": {device: {"table_type": "gpt", "layout": [100]}}}
    for expected in ([f"partx --update {device}"], []):
        assert setup(host, config).failures == []
        assert changes(host) == expected
    assert os.path.exists(f"{device}p1")


# -- what is in use


def test_what_is_mounted_is_never_written_to(host: TreeHost, loop: Loop) -> None:
    device = loop(64)
    run(["mkfs.ext4", "-q", device])
    os.mkdir(f"{host.root.directory}/data")
    assert host.spawn(["mount", device, "/data"]).ok
    ctx = setup(host, wishes(device, overwrite=True))
    assert changes(host) == []
    assert all("it is mounted on /data" in told for told in ctx.failures)
    assert len(ctx.failures) == 2


def test_swap_in_use_is_never_written_to(host: TreeHost, loop: Loop) -> None:
    device = loop(16)
    run(["mkswap", device])
    run(["swapon", device])
    ctx = setup(host, wishes(device, overwrite=True))
    assert changes(host) == []
    assert all("it is swap in use" in told for told in ctx.failures)


def test_what_the_kernel_has_given_to_another_is_never_written_to(host: TreeHost, loop: Loop) -> None:
    """As RAID, device-mapper and file systems in another namespace hold it: nothing of it is in /proc or /sys here."""
    device = loop(16)
    holder = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        ctx = setup(host, wishes(device, overwrite=True))
    finally:
        os.close(holder)
    assert changes(host) == []
    assert all("it is in use, the kernel says" in told for told in ctx.failures)


def test_a_partition_of_a_disk_whose_other_one_is_mounted(host: TreeHost, loop: Loop) -> None:
    device = loop(64)
    table(device, "label: gpt\nsize=16M\nsize=16M\n")
    run(["mkfs.ext4", "-q", f"{device}p1"])
    os.mkdir(f"{host.root.directory}/one")
    assert host.spawn(["mount", f"{device}p1", "/one"]).ok
    ctx = setup(host, {"fs_setup": [{"device": device, "partition": 2, "filesystem": "ext4"}]})
    assert (ctx.failures, changes(host)) == ([], [f"mkfs.ext4 {device}p2"])
    ctx = setup(host, {"disk_setup": {device: {"layout": [100], "overwrite": True}}})
    assert changes(host) == []
    assert "it is mounted on /one" in ctx.failures[0]
    assert host.spawn(["umount", "/one"]).ok
