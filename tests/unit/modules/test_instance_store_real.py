"""Instance store on real loop devices: made on what is blank, used again, made anew after a stop, never over data.

RAID is tested in a machine (tests/boot/test_disks_machine.py): the kernel that runs the tests may have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from boot.bed.command import run
from cloudboot import blank
from cloudboot.disks import Disks
from cloudboot.modules import instance_store as instance_store_file
from unit.modules.test_disk_setup_real import changes, held, there

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudboot.host import Host
    from cloudboot.module import Context
    from unit.modules.treehost import Loop, TreeHost

pytestmark = pytest.mark.container


class Stores(Disks):
    """Disks of which these are instance store: what a controller of Amazon's would say."""

    def __init__(self, host: Host, devices: list[str]) -> None:
        super().__init__(host, {})
        self.devices = [device.removeprefix("/dev/") for device in devices]

    def all(self) -> list[str]:
        return self.devices

    def controller_names(self, disk: str) -> tuple[str, ...]:
        return (f"ephemeral{self.devices.index(disk)}", "none")


@pytest.fixture
def unmounted(host: TreeHost) -> Iterator[None]:
    yield
    for target in ("/mnt/instance", "/fast0", "/fast1"):
        host.spawn(["umount", target])


def apply(host: TreeHost, devices: list[str], **wanted: Any) -> Context:
    """Run the module; what it changed is in host.changes."""
    host.changes.clear()
    ctx = host.context("instance_store", {"instance_store": wanted or True})
    instance_store_file.apply(ctx, Stores(host, devices))
    return ctx


def kinds(host: TreeHost) -> list[str]:
    """Return the first word of each program that was run."""
    return [line.split()[0] for line in changes(host) if not line.startswith(("write ", "mkdir "))]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.usefixtures("unmounted")
def test_a_file_system_for_each_used_again_and_made_anew(host: TreeHost, loop: Loop, kind: str) -> None:
    devices = [loop(320), loop(320)]
    wanted = {"layout": "each", "filesystem": kind, "label": "fast", "mount": "/fast", "options": ["noatime"]}
    tool = f"mkfs.{kind}"
    ctx = apply(host, devices, **wanted)
    assert (ctx.failures, ctx.problems) == ([], [])
    assert kinds(host) == [tool, tool, "systemctl", "mount", "mount"]
    assert [there(host, device)[:2] for device in devices] == [(kind, "fast0"), (kind, "fast1")]
    host.spawn(["sh", "-c", "echo zero > /fast0/file; echo one > /fast1/file"])
    table = host.read("/etc/fstab")

    assert apply(host, devices, **wanted).failures == []
    assert changes(host) == [], "a second run changes nothing"

    for target in ("/fast0", "/fast1"):
        assert host.spawn(["umount", target]).ok
    assert apply(host, devices[::-1], **wanted).failures == []  # a reboot, and the disks are called otherwise
    assert changes(host) == ["mount /fast0", "mount /fast1"]
    assert host.spawn(["cat", "/fast0/file", "/fast1/file"]).output == "zero\none\n"

    for target, device in zip(("/fast0", "/fast1"), devices, strict=True):
        assert host.spawn(["umount", target]).ok
        run(["blkdiscard", "--zeroout", device])
    assert apply(host, devices, **wanted).failures == []  # a stop and a start
    assert kinds(host) == [tool, tool, "mount", "mount"]
    assert host.read("/etc/fstab") == table
    assert not host.exists("/fast0/file")


@pytest.mark.usefixtures("unmounted")
def test_one_disk_needs_no_raid(host: TreeHost, loop: Loop) -> None:
    device = loop(64)
    assert apply(host, [device]).failures == []
    assert kinds(host) == ["mkfs.ext4", "systemctl", "mount"]
    assert there(host, device)[:2] == ("ext4", "instance")
    before = held(device)
    assert apply(host, [device]).failures == []
    assert (changes(host), held(device)) == ([], before)


@pytest.mark.parametrize("layout", ["raid0", "each"])
@pytest.mark.parametrize("place", [0, 1 << 20, 32 << 20, (64 << 20) - 1])
def test_what_is_not_blank_stays(host: TreeHost, loop: Loop, layout: str, place: int) -> None:
    devices = [loop(64, b"\x01", place), loop(64, b"\x01", place)]
    before = [held(device) for device in devices]
    ctx = apply(host, devices, layout=layout)
    assert ctx.failures
    assert all(f"byte {place} is not zero" in told for told in ctx.failures)
    assert changes(host) == []
    assert [held(device) for device in devices] == before


def test_no_disk_is_touched_where_mdadm_is_missing(host: TreeHost, loop: Loop) -> None:
    devices = [loop(64), loop(64)]
    ctx = apply(host, devices)
    assert len(ctx.failures) == 1
    assert "mdadm: not found: install mdadm (nothing is written to loop" in ctx.failures[0]
    assert changes(host) == []
    assert [blank.occupied(host, device.removeprefix("/dev/")) for device in devices] == [None, None]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "swap"])
def test_another_file_system_stays(host: TreeHost, loop: Loop, kind: str) -> None:
    device = loop(320)
    run(["mkswap", device] if kind == "swap" else [f"mkfs.{kind}", "-q", device])
    before = held(device)
    ctx = apply(host, [device])
    assert f"not formatted: it holds {kind}" in ctx.failures[0]
    assert (changes(host), held(device)) == ([], before)
