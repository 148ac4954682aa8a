"""disk_setup by the names that EC2 uses, on a machine whose kernel has others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from casebook import NoFetcher, ScratchHost, plant
from cloudboot.commands import Commands
from cloudboot.disks import Disks
from cloudboot.errors import CloudbootError
from cloudboot.instance import Instance
from cloudboot.module import Context
from cloudboot.modules import disk_setup as disk_setup_file
from cloudboot.planned import PlannedHost
from unit.modules.test_disks import NITRO, PAGES, host

if TYPE_CHECKING:
    from pathlib import Path

    from cloudboot.host import Host

SIZE = 4 << 20


def context(known: Host, config: dict[str, Any]) -> Context:
    return Context(
        host=known, config=config, instance=Instance("i-0123456789abcdef0", "Ec2"), image={}, name="disk_setup",
        marks={}, commands=Commands(known, "/var/lib/cloudboot/instance", "disk_setup"), fetcher=NoFetcher(), first=True,
    )  # fmt: skip


def nitro(tmp_path: Path) -> ScratchHost:
    known = host(tmp_path, NITRO)
    for name in ("nvme1n1", "nvme2n1"):
        plant(known.root, f"/sys/devices/{name}/size", f"{SIZE // 512}\n")
        plant(known.root, f"/dev/{name}", {"zeros": SIZE})
    return known


def page(path: str) -> bytes:
    return PAGES[path.rpartition("/")[2]]


def ran(known: Host) -> list[str]:
    return [action.text.removeprefix("run ") for action in known.changes]


@pytest.mark.parametrize(
    ("word", "made"),
    [
        ("/dev/sdf", "/dev/nvme1n1"),
        ("xvdf", "/dev/nvme1n1"),
        ("vol-0123456789abcdef0", "/dev/nvme1n1"),
        ("ebs1", "/dev/nvme1n1"),
        ("data", "/dev/nvme1n1"),
        ("ephemeral0", "/dev/nvme2n1"),
        ("nvme2n1", "/dev/nvme2n1"),
    ],
)
def test_by_whatever_name(tmp_path: Path, word: str, made: str) -> None:
    known = nitro(tmp_path)
    config = {"fs_setup": [{"device": word, "filesystem": "xfs"}], "device_aliases": {"data": "ebs1"}}
    ctx = context(known, config)
    disk_setup_file.apply(ctx, Disks(known, {"ebs1": "sdf"}, page))
    assert (ran(known), ctx.failures) == ([f"mkfs.xfs {made}"], [])


def test_the_root_disk_by_its_names(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    plant(known.root, "/proc/self/mountinfo", "27 1 259:1 / / rw - ext4 /dev/root rw\n")
    plant(known.root, "/sys/dev/block/259:1", {"link": "../../devices/nvme0n1/nvme0n1p1"})
    for word in ("xvda", "root", "nvme0n1p1"):
        config = {
            "disk_setup": {word: {"layout": [100], "overwrite": True}},
            "fs_setup": [{"device": word, "partition": "none", "filesystem": "ext4", "overwrite": True}],
        }
        ctx = context(known, config)
        disk_setup_file.apply(ctx, Disks(known, {"root": "/dev/xvda"}, page))
        assert len(ctx.failures + ctx.problems) == 2
        assert "it is mounted on /: overwrite does not count for what is in use" in ctx.failures[-1]
    assert ran(known) == []


def test_a_plan_shows_the_partitions_of_a_blank_nvme_disk(tmp_path: Path) -> None:
    planned = PlannedHost(nitro(tmp_path))
    config = {
        "disk_setup": {"/dev/sdf": {"table_type": "gpt", "layout": [50, 50]}},
        "fs_setup": [
            {"device": "sdf.1", "filesystem": "ext4", "label": "one"},
            {"device": "nvme1n1", "partition": 2, "filesystem": "swap"},
            {"device": "sdf", "partition": "auto", "filesystem": "ext4", "label": "one"},
            {"device": "ephemeral0", "filesystem": "btrfs"},
        ],
    }
    ctx = context(planned, config)
    disk_setup_file.apply(ctx, Disks(planned, {}, page))
    assert (ctx.failures, ctx.problems) == ([], [])
    assert ran(planned) == [
        "sfdisk --quiet --no-reread --wipe always --wipe-partitions always /dev/nvme1n1",
        "partx --update /dev/nvme1n1",
        "mkfs.ext4 -L one /dev/nvme1n1p1",
        "mkswap /dev/nvme1n1p2",
        "mkfs.btrfs /dev/nvme2n1",
    ]
    assert [change.effect for change in planned.planned_changes] == [
        "makes a new GPT on nvme1n1 with 2 partitions",
        "",
        "makes ext4 labelled 'one' on nvme1n1p1 (1 MiB)",
        "makes swap on nvme1n1p2 (2 MiB)",
        "makes btrfs on nvme2n1 (4 MiB)",
    ]
    assert not planned.unsure


class Late(Disks):
    """Disks of which one is attached while it is waited for."""

    left = 3

    def find(self, word: str) -> str | None:
        self.left -= 1
        return super().find(word) if self.left < 0 else None


def test_a_volume_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    late = Late(known, {"ebs1": "sdf"}, page)
    disk_setup_file.apply(context(known, {"fs_setup": [{"device": "ebs1", "filesystem": "xfs"}]}), late)
    assert ran(known) == ["mkfs.xfs /dev/nvme1n1"]
    assert late.left < 0


def test_an_image_tree_has_no_disks(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    known.live = False
    ctx = context(known, {"fs_setup": [{"device": "sdf", "filesystem": "xfs"}]})
    disk_setup_file.apply(ctx, Disks(known, {}, page))
    assert (ran(known), ctx.failures, ctx.problems) == ([], [], [])


def test_partitions_that_do_not_come_up(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    with pytest.raises(CloudbootError, match=r"^0 of 2 partitions have come up in /dev after 0\.2 s$"):
        disk_setup_file.show(known, "nvme1n1", 2, limit=0.2)
    plant(known.root, "/run/udev/control", "")
    known.spawned.clear()
    disk_setup_file.show(known, "nvme0n1", 1)
    assert known.spawned == ["partx --update /dev/nvme0n1", "udevadm settle --timeout=10"]
