"""What a device holds: images made by the real tools, headers written by hand, damaged and hostile bytes."""

from __future__ import annotations

import random
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from cloudboot.superblock import KIB, MIB, Superblock, classify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UUID = "01234567-89ab-4def-8123-456789abcdef"
RAW = uuid.UUID(UUID).bytes


def of(image: bytes | bytearray) -> Superblock:
    return classify(lambda at, length: bytes(image[at : at + length]), len(image))


def made(folder: Path, size: int, *argv: str) -> bytes:
    """Return an image that a tool has made: the words, then the file."""
    file = folder / "image"
    with file.open("wb") as image:
        image.truncate(size)
    subprocess.run([*argv, str(file)], check=True, capture_output=True)
    return file.read_bytes()


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_ext(kind: str, tmp_path: Path) -> None:
    image = bytearray(made(tmp_path, 8 * MIB, f"mkfs.{kind}", "-q", "-F", "-L", "data", "-U", UUID))
    assert of(image) == Superblock(kind, "clean", "data", UUID)
    image[1024 + 0x3A] &= ~1  # mounted, and never unmounted
    assert of(image).state == "dirty"
    image[1024 + 0x3A] |= 3
    assert (of(image).state, of(image).detail) == ("dirty", "has errors")


def test_ext_whose_journal_is_to_be_replayed(tmp_path: Path) -> None:
    image = bytearray(made(tmp_path, 8 * MIB, "mkfs.ext4", "-q", "-F"))
    image[1024 + 0x60] |= 4
    assert (of(image).kind, of(image).state) == ("ext4", "dirty")
    image[1024 + 0x60] |= 8
    assert of(image).kind == "unknown"


def test_xfs(tmp_path: Path) -> None:
    image = made(tmp_path, 320 * MIB, "mkfs.xfs", "-q", "-L", "data", "-m", f"uuid={UUID}")
    assert of(image[: 4 * MIB]) == Superblock("xfs", "unknown", "data", UUID)


def test_btrfs(tmp_path: Path) -> None:
    image = bytearray(made(tmp_path, 128 * MIB, "mkfs.btrfs", "-q", "-L", "data", "-U", UUID)[: 4 * MIB])
    assert of(image) == Superblock("btrfs", "clean", "data", UUID)
    image[64 * KIB + 0x88] = 2
    assert of(image) == Superblock("raid", label="data", uuid=UUID, detail="one of 2 devices of btrfs")
    image[64 * KIB + 0x88] = 1
    image[64 * KIB + 0x60] = 1
    assert (of(image).state, of(image).detail) == ("dirty", "its log tree is to be replayed")


def test_swap(tmp_path: Path) -> None:
    image = made(tmp_path, MIB, "mkswap", "-q", "-L", "data", "-U", UUID)
    assert of(image) == Superblock("swap", "unknown", "data", UUID)


@pytest.mark.parametrize(("label", "kind"), [("gpt", "gpt"), ("dos", "mbr")])
def test_partition_tables(label: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "image"
    with file.open("wb") as image:
        image.truncate(8 * MIB)
    table = f"label: {label}\nlabel-id: {UUID if label == 'gpt' else '0x1234abcd'}\n,,L\n"
    subprocess.run(["sfdisk", "-q", str(file)], input=table, text=True, check=True, capture_output=True)
    found = of(file.read_bytes())
    assert (found.kind, found.uuid) == (kind, UUID if label == "gpt" else "1234abcd")
    assert found.detail == "a partition table"
    if label == "gpt":
        damaged = bytearray(file.read_bytes())
        damaged[512 + 60] ^= 1
        assert "checksum is wrong" in of(damaged).detail


# -- what no tool here makes: headers as the formats say


def test_lvm() -> None:
    image = bytearray(MIB)
    image[512:520], image[536:544] = b"LABELONE", b"LVM2 001"
    image[532:536] = (32).to_bytes(4, "little")
    image[544:576] = b"abcdefghijklmnopqrstuvwxyzABCDEF"
    assert of(image) == Superblock(
        "lvm", uuid="abcdef-ghij-klmn-opqr-stuv-wxyz-ABCDEF", detail="a physical volume of LVM"
    )


@pytest.mark.parametrize("version", [1, 2])
def test_luks(version: int) -> None:
    image = bytearray(MIB)
    image[:8] = b"LUKS\xba\xbe" + version.to_bytes(2, "big")
    image[24:28] = b"data" if version == 2 else b"\0\0\0\0"
    image[168:204] = UUID.encode()
    assert of(image) == Superblock("luks", label="data" * (version == 2), uuid=UUID, detail=f"LUKS{version}, locked")


@pytest.mark.parametrize(("version", "at"), [("1.1", 0), ("1.2", 4 * KIB), ("1.0", 8 * MIB - 8 * KIB)])
def test_raid_comes_before_the_file_system_that_the_array_holds(version: str, at: int, tmp_path: Path) -> None:
    image = bytearray(made(tmp_path, 8 * MIB, "mkfs.ext4", "-q", "-F"))
    image[at : at + 256] = bytes(256)
    image[at : at + 8] = bytes.fromhex("fc4e2ba9") + (1).to_bytes(4, "little")
    image[at + 16 : at + 32], image[at + 32 : at + 36] = RAW, b"host"
    image[at + 144 : at + 152] = (at // 512).to_bytes(8, "little")
    assert of(image) == Superblock("raid", label="host", uuid=UUID, detail=f"a member of RAID, {version}")
    image[at + 144] ^= 1  # says that it is elsewhere: a copy, in a file
    assert of(image).kind != "raid"


def test_old_raid() -> None:
    image = bytearray(MIB)
    image[960 * KIB : 960 * KIB + 12] = bytes.fromhex("fc4e2ba9") + bytes(4) + (90).to_bytes(4, "little")
    assert of(image) == Superblock("raid", detail="a member of RAID, 0.90")


def test_others() -> None:
    iso = bytearray(MIB)
    iso[32 * KIB + 1 : 32 * KIB + 6], iso[32 * KIB + 40 : 32 * KIB + 44] = b"CD001", b"DISC"
    assert of(iso) == Superblock("iso9660", "clean", "DISC")
    squash = bytearray(MIB)
    squash[:4], squash[28] = b"hsqs", 4
    assert of(squash) == Superblock("squashfs", "clean")


def fat() -> bytearray:
    image = bytearray(MIB)
    image[0], image[11:13], image[13], image[14], image[16] = 0xEB, (512).to_bytes(2, "little"), 4, 1, 2
    image[39:43], image[43:54], image[54:62] = bytes.fromhex("cdab3412"), b"DATA       ", b"FAT16   "
    image[510:512] = b"\x55\xaa"
    return image


def test_fat_is_no_partition_table() -> None:
    image = fat()
    assert of(image) == Superblock("vfat", "clean", "DATA", "1234-ABCD")
    image[37] = 1
    assert of(image).state == "dirty"
    image[13] = 3
    assert of(image).kind == "unknown"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4096, 70000, MIB])
def test_nothing(size: int) -> None:
    assert of(bytes(size)).kind == ("blank" if size else "unknown")
    assert of(b"\x01" * size).kind == "unknown"


def test_a_device_that_cannot_be_read() -> None:
    assert classify(lambda _, __: b"", MIB) == Superblock("unknown", detail="cannot be read")


def test_labels_are_shown_on_consoles() -> None:
    image = bytearray(MIB)
    image[:4], image[108:120] = b"XFSB", b"a\x1b[31m\xff\nb"
    assert of(image).label == "a[31m\ufffdb"


def test_no_bytes_are_an_error(tmp_path: Path) -> None:
    chance = random.Random(11)
    seeds: list[Callable[[], bytes]] = [
        lambda: made(tmp_path, MIB, "mkfs.ext4", "-q", "-F"),
        lambda: made(tmp_path, MIB, "mkswap", "-q"),
        lambda: bytes(fat()),
    ]
    for seed in seeds:
        image = seed()
        for _ in range(300):
            noisy = bytearray(image[: chance.randrange(len(image))])
            for _ in range(min(len(noisy), 60)):
                noisy[chance.randrange(min(len(noisy), 70000))] = chance.randrange(256)
            assert of(noisy).kind
    for _ in range(300):
        assert of(chance.randbytes(chance.randrange(80000))).kind


@pytest.mark.parametrize(
    "argv", [["mkfs.ext4", "-q", "-F"], ["mkfs.ext3", "-q", "-F"], ["mkswap", "-q"]], ids=lambda argv: argv[0]
)
def test_blkid_says_the_same(argv: list[str], tmp_path: Path) -> None:
    blkid = shutil.which("blkid", path="/usr/sbin:/sbin:/usr/bin")
    assert blkid is not None
    image = made(tmp_path, 8 * MIB, *argv)
    told = subprocess.run(
        [blkid, "-p", "-o", "export", str(tmp_path / "image")], check=True, capture_output=True, text=True
    )
    facts = dict(line.split("=", 1) for line in told.stdout.splitlines() if "=" in line)
    found = of(image)
    assert (found.kind, found.uuid) == (facts["TYPE"], facts["UUID"])
