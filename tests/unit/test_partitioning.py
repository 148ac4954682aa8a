"""Partition tables and file systems as values: what is wanted, and what tools are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from casebook import ScratchHost
from cloudboot import formatting, partitioning
from cloudboot.blank import Content
from cloudboot.errors import ConfigError
from cloudboot.formatting import FileSystem
from cloudboot.partitioning import GPT_TYPES, LINUX, Label, Table, Wanted
from cloudboot.root import Root

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"


@pytest.mark.parametrize(
    ("code", "label", "found"),
    [
        (None, Label.MBR, "83"),
        (None, Label.GPT, LINUX),
        (82, Label.MBR, "82"),
        ("8e", Label.MBR, "8e"),
        ("8E00", Label.MBR, "8e"),
        (7, Label.MBR, "7"),
        ("0c", Label.MBR, "c"),
        (82, Label.GPT, GPT_TYPES["8200"]),
        ("ef00", Label.GPT, GPT_TYPES["EF00"]),
        (8300, Label.GPT, LINUX),
        (ROOT.lower(), Label.GPT, ROOT),
        ("77", Label.GPT, "type '77' is not known: write its GUID"),
        ("linux", Label.GPT, "not a type of partition: 'linux': write 2 or 4 hexadecimal digits, or a GUID"),
        (ROOT, Label.MBR, f"not a type of partition: '{ROOT}': write 2 hexadecimal digits"),
        ("8301", Label.MBR, "type '8301' is GPT's"),
        ("830", Label.MBR, "not a type of partition"),
    ],
)
def test_types(code: int | str | None, label: Label, found: str) -> None:
    try:
        assert partitioning.type_of(code, label) == found
    except ConfigError as error:
        assert found in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("layout", "label", "size", "script"),
    [
        (True, Label.MBR, GIB, "label: dos\ntype=83\n"),
        ([100], Label.GPT, GIB, f"label: gpt\ntype={LINUX}\n"),
        ([50], Label.MBR, GIB, "label: dos\nsize=511MiB, type=83\n"),
        ([33, [33, 82], 34], Label.MBR, GIB, "label: dos\nsize=337MiB, type=83\nsize=337MiB, type=82\ntype=83\n"),
        ([33, 33], Label.MBR, GIB, "label: dos\nsize=337MiB, type=83\nsize=337MiB, type=83\n"),
        ([100], Label.MBR, 2 << 40, "label: dos\ntype=83\n"),
        ([100], Label.MBR, 3 << 40, "an mbr reaches 2 TiB, the disk has 3 TiB: table_type: gpt"),
        ([1, 99], Label.MBR, 64 << 20, "1 percent of 64 MiB is less than 1 MiB"),
        ([60, 41], Label.GPT, GIB, "the percentages make 101: at most 100"),
        ([20] * 5, Label.MBR, GIB, "5 partitions, an mbr has room for 4"),
    ],
)
def test_scripts(layout: Any, label: Label, size: int, script: str) -> None:
    try:
        assert partitioning.script(partitioning.wanted(layout, label), label, size) == script
    except ConfigError as error:
        assert script in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("table", "layout", "same"),
    [
        (Table("dos", ("83",)), True, True),
        (Table("gpt", (LINUX,)), True, True),  # any partition will do
        (Table("gpt", ()), True, False),
        (Table("gpt", (LINUX.lower(), LINUX)), [50, 50], True),
        (Table("gpt", (LINUX,)), [50, 50], False),
        (Table("gpt", (LINUX, GPT_TYPES["8200"])), [50, 50], False),
        (Table("dos", ("83", "83")), [50, 50], False),
    ],
)
def test_what_is_there_already(table: Table, layout: Any, same: bool) -> None:
    wanted = [Wanted(50, LINUX)] * (1 if layout is True else len(layout))
    assert partitioning.satisfied(table, layout, Label.GPT, wanted) is same


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (
            '{"partitiontable": {"label": "dos", "partitions": [{"type": "83"}, {"type": "f"}]}}',
            Table("dos", ("83", "f")),
        ),
        ('{"partitiontable": {"label": "gpt"}}', Table("gpt", ())),
        ("sfdisk: /dev/x: does not contain a recognized partition table", None),
        ("[]", None),
    ],
)
def test_what_sfdisk_says(tmp_path: Path, output: str, found: Table | None) -> None:
    known = ScratchHost(Root(str(tmp_path)), [{"argv": "sfdisk --json /dev/x", "output": output}])
    assert partitioning.read(known, "x") == found


# -- file systems


@pytest.mark.parametrize(
    ("wanted", "there", "same_label", "same"),
    [
        (FileSystem("ext4"), Content("ext4"), False, True),
        (FileSystem("ext4"), Content("ext4", "any"), False, True),
        (FileSystem("ext4"), Content("ext4", "any"), True, False),
        (FileSystem("ext4"), Content("ext3"), False, False),
        (FileSystem("ext4", "a"), Content("ext4", "a"), True, True),
        (FileSystem("ext4", "a"), Content("ext4", "A"), False, False),
        (FileSystem("vfat", "efi"), Content("vfat", "EFI"), False, True),
        (FileSystem("xfs", "", "0A"), Content("xfs", "x", "0a"), False, True),
        (FileSystem("xfs", "x", "0A"), Content("xfs", "x", "0b"), False, False),
        (FileSystem("xfs"), Content("", "", "", "gpt"), False, False),
    ],
)
def test_what_is_kept(wanted: FileSystem, there: Content, same_label: bool, same: bool) -> None:
    assert wanted.is_on(there, same_label=same_label) is same


@pytest.mark.parametrize(
    ("wanted", "extra", "whole", "argv"),
    [
        (FileSystem("ext4", "a"), [], False, "mkfs.ext4 -L a /dev/x"),
        (FileSystem("ext4"), ["-O", "^64bit"], True, "mkfs.ext4 -F -O ^64bit /dev/x"),
        (FileSystem("vfat", "a"), [], True, "mkfs.vfat -I -n a /dev/x"),
        (FileSystem("xfs", "", "0a"), [], True, "mkfs.xfs -m uuid=0a /dev/x"),
        (FileSystem("swap", "s", "0a"), [], True, "mkswap -L s -U 0a /dev/x"),
        (FileSystem("f2fs", "a"), [], False, "mkfs.f2fs -l a /dev/x"),
        (FileSystem("reiserfs"), [], False, "mkreiserfs /dev/x"),
        (FileSystem("btrfs"), [], False, "mkfs.btrfs: not found: install btrfs-progs"),
        (FileSystem("zzz"), [], False, "mkfs.zzz: not found: no program of this name makes it"),
    ],
)
def test_words(tmp_path: Path, wanted: FileSystem, extra: list[str], whole: bool, argv: str) -> None:
    known = ScratchHost(Root(str(tmp_path)), missing=["mkfs.reiserfs", "mkfs.btrfs", "mkbtrfs", "mkfs.zzz", "mkzzz"])
    try:
        assert " ".join(formatting.argv(known, wanted, "/dev/x", extra, whole=whole)) == argv
    except ConfigError as error:
        assert str(error) == argv  # noqa: PT017


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (FileSystem("ext4", "ä" * 9), "is too long: ext4 takes 16 bytes"),
        (FileSystem("xfs", "x" * 13), "is too long: xfs takes 12 bytes"),
        (FileSystem("vfat", "", "0123-4567"), "uuid: cannot be given to vfat"),
    ],
)
def test_what_could_not_be_found_again(wanted: FileSystem, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        formatting.check(wanted)
