"""Swap files: sizes, and a file that is whole or not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from casebook import ScratchHost
from cloudboot import swapfile
from cloudboot.errors import CommandError, ConfigError
from cloudboot.root import Root
from cloudboot.swapfile import GIB, MIB, SwapFile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1048576, MIB), ("1048576", MIB), ("512M", 512 * MIB), ("512MB", 512 * MIB), ("512MiB", 512 * MIB),
        ("1.5G", GIB + GIB // 2), ("2 g", 2 * GIB), ("1T", 1024 * GIB), ("4096K", 4 * MIB), ("1048576B", MIB),
    ],
)  # fmt: skip
def test_sizes(text: int | str, size: int) -> None:
    assert swapfile.parse_size(text) == size


@pytest.mark.parametrize("text", ["lots", "", "-1", "1GG", "G", "1 2"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        swapfile.parse_size(text)


@pytest.mark.parametrize(
    ("memory", "free", "maximum", "size"),
    [
        (2 * GIB, 100 * GIB, None, 2 * GIB),
        (8 * GIB, 100 * GIB, None, 4 * GIB),
        (64 * GIB, 100 * GIB, None, 8 * GIB),
        (2 * GIB, 4 * GIB, None, GIB),  # a quarter of the free space
        (8 * GIB, 100 * GIB, GIB, GIB),
        (8 * GIB, 2 * GIB, 4 * GIB, 2 * GIB * 9 // 10),  # the limit itself is more than there is
        (0, 100 * GIB, None, 0),
    ],
)
def test_auto(memory: int, free: int, maximum: int | None, size: int) -> None:
    assert swapfile.auto_size(memory, free, maximum) == size


def make(tmp_path: Path, kind: str = "ext4", **tool: object) -> ScratchHost:
    host = ScratchHost(Root(str(tmp_path)), [tool] if tool else [])
    host.do(SwapFile("/swap.img", 16, kind))
    return host


def test_ext4(tmp_path: Path) -> None:
    host = make(tmp_path)
    assert host.spawned == ["fallocate -l 16M /.swap.img.cloudboot~", "mkswap /.swap.img.cloudboot~"]
    entry = host.look("/swap.img")
    assert entry is not None
    assert entry.mode == 0o600
    assert host.look("/.swap.img.cloudboot~") is None


def test_btrfs_is_not_copied_on_write(tmp_path: Path) -> None:
    host = make(tmp_path, "btrfs")
    assert host.spawned[0] == "chattr +C /.swap.img.cloudboot~"


def test_without_fallocate_it_is_written(tmp_path: Path) -> None:
    host = make(tmp_path, argv="fallocate", status=1)
    assert host.spawned[1].startswith("dd if=/dev/zero of=/.swap.img.cloudboot~ bs=1M count=16")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="mkswap"):
        make(tmp_path, argv="mkswap", status=1)
    assert not [path for path in tmp_path.iterdir() if "swap" in path.name]


def test_a_file_of_others_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "swap.img").write_text("precious")
    with pytest.raises(ConfigError, match="is there and is no swap file"):
        make(tmp_path)
    assert (tmp_path / "swap.img").read_text() == "precious"


def test_a_swap_file_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "swap.img").write_bytes(bytes(4086) + swapfile.SIGNATURE + bytes(4096))
    host = make(tmp_path)
    assert host.spawned == []
    assert host.changes == []
