"""Real disks: loop devices, the tools of a Debian tree, the kernel's own answers."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest

from boot.bed import Disk, Machine, Namespace, Scratch, Trees, prepare_machine
from boot.bed.command import run
from boot.bed.disks import blank, filesystem, gpt_image
from cloudboot import disks, filesystems, swapfile
from cloudboot.disks import Disks
from cloudboot.modules import growfs as growfs_file
from cloudboot.modules import growpart as growpart_file
from cloudboot.modules import mounts as mounts_file
from cloudboot.modules import resizefs as resizefs_file
from unit.modules.treehost import TreeHost, needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def loop(scratch: Scratch) -> Iterator[Callable[[int], str]]:
    """Make loop devices (with partitions) over sparse files; returns the kernel name."""
    names: list[str] = []

    def make(mib: int) -> str:
        file = blank(scratch.file(f"disk{len(names)}"), mib)
        names.append(run(["losetup", "--find", "--show", "--partscan", file]).stdout.strip())
        return names[-1].removeprefix("/dev/")

    yield make
    for number, name in enumerate(names):
        run(["partx", "--delete", name], check=False)  # it may have none
        run(["losetup", "--detach", name])
        os.unlink(scratch.file(f"disk{number}"))


def partitioned(name: str, label: str, *sizes_mib: int) -> None:
    """Make partitions, and show them to the kernel, which does not look for them on loops by itself."""
    table = f"label: {label}\n" + "".join(f"size={mib}M\n" for mib in sizes_mib)
    run(["sfdisk", "--quiet", f"/dev/{name}"], stdin=table)
    run(["partx", "--update", f"/dev/{name}"])


@pytest.mark.container
@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_growpart_fills_the_disk_once(host: TreeHost, loop: Callable[[int], str], label: str) -> None:
    name = loop(64)
    partitioned(name, label, 8)
    for changes in (1, 0):
        host.changes.clear()
        ctx = host.context("growpart", {"growpart": {"devices": [f"/dev/{name}p1"]}})
        growpart_file.growpart.function(ctx)
        assert ctx.failures == []
        assert [action.text for action in host.changes] == [f"run growpart /dev/{name} 1"] * changes
    part = disks.partition(host, f"{name}p1")
    assert part is not None
    assert part.size * 512 > 62 << 20
    assert growpart_file.room(host, part) < growpart_file.WORTH


@pytest.mark.container
def test_growpart_stops_at_the_next_partition(host: TreeHost, loop: Callable[[int], str]) -> None:
    name = loop(64)
    run(["sfdisk", "--quiet", f"/dev/{name}"], stdin="label: gpt\nsize=8M\nstart=34816, size=8M\n")
    run(["partx", "--update", f"/dev/{name}"])
    first = disks.partition(host, f"{name}p1")
    assert first is not None
    assert growpart_file.room(host, first) == 8 << 11
    ctx = host.context("growpart", {"growpart": {"devices": [f"/dev/{name}p1"]}})
    growpart_file.growpart.function(ctx)
    grown = disks.partition(host, f"{name}p1")
    assert grown is not None
    assert grown.size == 16 << 11


# ext4 is grown in the machine tests: while mounted that needs CAP_SYS_RESOURCE, which a container host may lack.
@pytest.mark.container
@pytest.mark.parametrize(("kind", "small", "large"), [("xfs", 320, 600), ("btrfs", 128, 300)])
def test_a_mounted_file_system_grows_once(
    host: TreeHost, loop: Callable[[int], str], kind: str, small: int, large: int
) -> None:
    name = loop(large)
    partitioned(name, "gpt", small)
    host.spawn([f"mkfs.{kind}", "-q", f"/dev/{name}p1"])
    run(["mkdir", f"{host.root.directory}/grow"])
    assert host.spawn(["mount", f"/dev/{name}p1", "/grow"]).ok
    mount = disks.mounted(host, "/grow")
    assert mount is not None
    assert mount.kind == kind
    assert disks.device_of(host, mount) == f"{name}p1"
    assert filesystems.growth(host, mount, f"{name}p1") is None, "a new file system fills its partition"

    growpart_file.growpart.function(host.context("growpart", {"growpart": {"devices": ["/grow"]}}))
    host.changes.clear()
    ctx = host.context("resizefs", {})
    resizefs_file.grow(ctx, mount)
    assert ctx.failures == []
    assert len(host.changes) == 1
    resizefs_file.grow(ctx, mount)
    assert len(host.changes) == 1
    state = os.statvfs(f"{host.root.directory}/grow")
    assert state.f_blocks * state.f_frsize > (large - 80) << 20
    assert host.spawn(["umount", "/grow"]).ok


@pytest.mark.container
@pytest.mark.parametrize(("kind", "small", "large"), [("xfs", 320, 600), ("btrfs", 128, 300)])
@pytest.mark.parametrize("by", ["mounts", "growpart"])
def test_a_volume_that_was_made_larger_is_used_to_its_end(
    host: TreeHost, loop: Callable[[int], str], scratch: Scratch, kind: str, small: int, large: int, by: str
) -> None:
    name = loop(small)
    assert host.spawn([f"mkfs.{kind}", "-q", f"/dev/{name}"]).ok
    options = "defaults,nofail,x-systemd.growfs" if by == "mounts" else "defaults,nofail"
    config: dict[str, Any] = {"mounts": [[f"/dev/{name}", "/data", kind, options]]}
    if by == "growpart":
        config["growpart"] = {"devices": ["/", "/data"]}
    mounts_file.apply(host.context("mounts", config), Disks(host, {}))
    try:
        for made_larger in (False, True, False):
            if made_larger:
                os.truncate(scratch.file("disk0"), large << 20)
                run(["losetup", "--set-capacity", f"/dev/{name}"])
            host.changes.clear()
            ctx = host.context("growfs", config)
            growfs_file.growfs.function(ctx)
            assert ctx.failures == []
            assert len(host.changes) == made_larger
        state = os.statvfs(f"{host.root.directory}/data")
        assert state.f_blocks * state.f_frsize > (large - 80) << 20
    finally:
        assert host.spawn(["umount", "/data"]).ok


@pytest.mark.container
@pytest.mark.parametrize(
    ("options", "small", "large", "grows"),
    [
        ("-b4096", 100, 300, True),
        ("-b4096", 128, 130, False),  # resize2fs leaves 2 MiB unused: too short for a group's tables
        ("-b4096", 128, 140, True),
        ("-b4096", 100, 258, True),  # it grows to two groups, and the rest stays
        ("-b1024", 16, 100, True),
        ("-b1024", 20, 20, False),
        ("-b4096 -I128 -O^64bit", 100, 300, True),
        ("-b4096 -Tsmall", 100, 300, True),
    ],
)
def test_what_resize2fs_makes_of_ext4(
    host: TreeHost, loop: Callable[[int], str], options: str, small: int, large: int, grows: bool
) -> None:
    name = loop(large)
    assert host.spawn(["mkfs.ext4", "-q", "-F", *options.split(), f"/dev/{name}", f"{small}M"]).ok
    mount = disks.Mount("7:0", "/", "/grow", ("rw",), "ext4", f"/dev/{name}")
    growth = filesystems.growth(host, mount, name)
    assert (growth is not None) is grows
    if growth:
        result = host.spawn(growth.argv)
        assert result.ok, result.output
        assert filesystems.growth(host, mount, name) is None, "it would be run at every boot"


@pytest.mark.container
def test_mounts_on_real_disks(host: TreeHost, loop: Callable[[int], str]) -> None:
    disk, bare = loop(64), loop(16)
    partitioned(disk, "gpt", 20, 20)
    assert host.spawn(["mkfs.ext4", "-q", f"/dev/{disk}p1"]).ok
    with open(f"{host.root.directory}/etc/fstab", "w", encoding="utf-8") as file:
        file.write("# the image's own\nLABEL=rootfs / ext4 defaults 0 1\n")
    config = {
        "mounts": [[f"/dev/{disk}p1", "/opt/my data", "ext4", "noatime,nofail"], [f"/dev/{bare}", "/bare", "ext4"]]
    }
    ctx = host.context("mounts", config)
    mounts_file.apply(ctx, Disks(host, {}))
    assert [failure.partition(" exit")[0] for failure in ctx.failures] == ["mounts: mount /bare:"]
    mount = disks.mounted(host, "/opt/my data")
    assert mount is not None
    assert "noatime" in mount.options

    path = f"{host.root.directory}/etc/fstab"
    state = os.stat(path)
    assert (host.text("/etc/fstab") or "").startswith("# the image's own\nLABEL=rootfs / ext4 defaults 0 1\n")
    host.changes.clear()
    mounts_file.apply(host.context("mounts", config), Disks(host, {}))
    assert [action.text for action in host.changes] == ["run mount /bare"]
    again = os.stat(path)
    assert (again.st_ino, again.st_mtime_ns) == (state.st_ino, state.st_mtime_ns)
    assert host.spawn(["umount", "/opt/my data"]).ok


@pytest.mark.container
@pytest.mark.parametrize(("kind", "mib"), [("ext4", 64), ("xfs", 320), ("btrfs", 128)])
def test_the_kernel_takes_the_swap_file(host: TreeHost, loop: Callable[[int], str], kind: str, mib: int) -> None:
    name = loop(mib)
    assert host.spawn([f"mkfs.{kind}", "-q", f"/dev/{name}"]).ok
    run(["mkdir", f"{host.root.directory}/vol"])
    assert host.spawn(["mount", f"/dev/{name}", "/vol"]).ok
    file = swapfile.SwapFile("/vol/swap", 16, mounts_file.kind_below(host, "/vol/swap"))
    assert file.kind == kind
    assert host.do(file)
    assert swapfile.is_swap(host, "/vol/swap")
    assert not host.do(file)
    entry = host.look("/vol/swap")
    assert entry is not None
    assert (entry.mode, entry.size) == (0o600, 16 << 20)
    taken = host.spawn(["swapon", "/vol/swap"])
    try:
        assert taken.ok, taken.output
    finally:
        if taken.ok:
            assert host.spawn(["swapoff", "/vol/swap"]).ok
    assert host.spawn(["umount", "/vol"]).ok


@pytest.mark.container
def test_identify_is_refused_by_what_is_no_nvme(host: TreeHost, loop: Callable[[int], str]) -> None:
    path = f"/dev/{loop(1)}"
    assert stat.S_ISBLK(os.stat(path).st_mode)
    with pytest.raises(OSError, match=r"Inappropriate ioctl|Invalid argument"):
        disks.identify(path)


JOB = """
import sys
sys.path.insert(0, "/opt")
from cloudboot.commands import Commands
from cloudboot.host import Host
from cloudboot.http import Fetcher
from cloudboot.instance import Instance
from cloudboot.log import Log
from cloudboot.module import Context
from cloudboot.modules.growpart import growpart
from cloudboot.modules.mounts import mounts
from cloudboot.modules.resizefs import resizefs
from cloudboot.root import Root

config = {
    "mounts": [["vol-0123456789abcdef0", "/data"], ["LABEL=my logs", "/logs", "xfs"], ["sdz", "/never", "ext4"]],
    "swap": {"filename": "/logs/swap", "size": "16M"},
}
instance = Instance("i-0123456789abcdef0", "Ec2", devices=(("ephemeral0", "sdb"),))
for turn in 1, 2:
    for module in growpart, resizefs, mounts:
        host = Host(Root("/"), Log(Root("/"), echo=False))
        commands = Commands(host, "/var/lib/cloudboot/instance", module.name)
        ctx = Context(host=host, config=config, instance=instance, image={}, name=module.name, marks={},
                      commands=commands, fetcher=Fetcher(), first=True)
        module.function(ctx)
        print(f"turn {turn} {module.name}: {[action.text for action in host.changes]} "
              f"{ctx.failures + [problem.text for problem in ctx.problems]}")
import subprocess
print(subprocess.run("cat /etc/fstab; findmnt -nlo TARGET,SOURCE --real; cat /proc/swaps", shell=True,
                     capture_output=True, text=True).stdout)
print("job done", flush=True)
"""
JOB_UNIT = """[Unit]
After=multi-user.target
[Service]
ExecStart=/usr/bin/python3 /opt/job.py
ExecStopPost=/usr/bin/systemctl poweroff
StandardOutput=journal+console
StandardError=journal+console
"""


@pytest.mark.machine
def test_a_machine_grows_mounts_and_swaps_once(scratch: Scratch) -> None:
    """A root that can grow online, EBS on NVMe under udev, and what systemd makes of our fstab at the next boot."""
    needs("machine")
    with Trees() as trees, Namespace() as ns:
        tree = trees.get("trixie")
        with tree.overlay(scratch) as view:
            prepare_machine(view.path)
            run(["cp", "-r", os.path.dirname(disks.__file__), f"{view.path}/opt/cloudboot"])
            for path, text in (("opt/job.py", JOB), ("etc/systemd/system/job.service", JOB_UNIT)):
                with open(f"{view.path}/{path}", "w", encoding="utf-8") as file:
                    file.write(text)
            # Of a target of its own: what multi-user.target wants cannot be ordered after it.
            run(["systemctl", f"--root={view.path}", "add-wants", "default.target", "job.service"], check=False)
            image = gpt_image(view.path, scratch.file("root.img"))
        extra = [
            Disk(filesystem(scratch.file("ebs.img"), 64, label="data"), "vol0123456789abcdef0"),
            Disk(filesystem(scratch.file("ephemeral.img"), 64), interface="virtio"),
        ]
        with trees.get("trixie").overlay(scratch) as view:
            run(["chroot", view.path, "sh", "-c", "truncate -s 320M /xfs && mkfs.xfs -q -L 'my logs' /xfs"])
            run(["cp", "--sparse=always", f"{view.path}/xfs", scratch.file("xfs.img")])
        extra.append(Disk(scratch.file("xfs.img"), "vol0123456789abcdef1"))
        with Machine(ns, scratch, image, tree, disks=extra) as box:
            box.boot()
            box.wait_console("job done|Power down")
            first = box.console()
            box.wait_exit()
            box.boot()
            box.wait_console("job done")
            second = box.console()
            box.wait_exit()
    assert "turn 1 growpart: ['run growpart /dev/vda 1'] []" in first
    assert "turn 1 resizefs: ['run resize2fs /dev/vda1'] []" in first
    by_id = r"/dev/disk/by-id/\S*_vol0123456789abcdef0\t/data\tauto\tdefaults,nofail,x-systemd.device-timeout=30s,"
    assert re.search(by_id, first)
    for console, turns in ((first, (2,)), (second, (1, 2))):
        for turn in turns:
            for name in ("growpart", "resizefs", "mounts"):
                assert f"turn {turn} {name}: [] [" in console
        for target, source in (("/mnt", "vdb"), ("/data", r"nvme\dn1"), ("/logs", r"nvme\dn1")):
            assert re.search(rf"{target} +/dev/{source}\b", console), target
        assert re.search(r"/logs/swap +file", console)
    assert "emergency mode" not in second
