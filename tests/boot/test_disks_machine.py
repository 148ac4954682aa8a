"""Disks on a machine: one that is attached a minute late and grows, instance store as RAID 0, 32 volumes at once."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from boot.bed import AMAZON, Disk, Imds, KeyPair, Machine, Namespace, Scratch, Tree, Trees, prepare_machine, root_image
from boot.bed.disks import blank, filesystem
from boot.job import Inside
from cloudboot import bake
from cloudboot.cli import open_host
from unit.test_volume_reader import KINDS, checksum

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.machine
LATE = "vol-00000000000000abc"
MINUTE = 60.0
USER_DATA = f"""#cloud-config
mounts:
  - [{LATE}, /srv/late, ext4, "defaults,nofail,x-systemd.growfs,x-systemd.device-timeout=300s"]
instance_store: {{layout: raid0, options: [noatime]}}
"""
MAPPING: dict[str, object] = {
    "meta-data": {
        "block-device-mapping": {"ami": "sda1", "root": "/dev/sda1", "ephemeral0": "sdb", "ephemeral1": "sdc"}
    }
}
LINES = "cat /etc/fstab"
# The time to look at and to read 4 and 32 volumes, of which these are the names; the best of
# six: whatever else this machine does takes from each.
TIMES = """
import sys, time
sys.path[:0] = ["/usr/lib/cloudboot", "/usr/lib/cloudboot/bundle"]
from cloudboot import volumes
from cloudboot.cli import open_host
from cloudboot.disks import Disks
from cloudboot.identity_file import Policy
known = Disks(open_host("/", echo=False, keep_log=False), {})
names = sys.argv[1:]
for some in names[:4], names:
    took = []
    for _ in range(6):
        began = time.monotonic()
        assert len(volumes.survey(known, Policy.of(True), {}, some)) == len(some)
        took.append(time.monotonic() - began)
    print(min(took))
"""


@pytest.fixture(scope="module")
def tree_with_mdadm(trees: Trees) -> Tree:
    return trees.get("trixie", extra=("mdadm",))


def test_late_volume_and_instance_store(tree_with_mdadm: Tree, scratch: Scratch, key_pair: KeyPair) -> None:
    with tree_with_mdadm.overlay(scratch) as view:
        prepare_machine(view.path)
        bake.bake(open_host(view.path, echo=False, keep_log=False))
        image = root_image(view.path, scratch.file("root.img"))
    disks = [Disk(blank(scratch.file(f"store{number}.img"), 96), interface="virtio") for number in range(2)]
    late = Disk(filesystem(scratch.file("late.img"), 64), serial=LATE.replace("-", ""))
    os.truncate(late.path, 160 << 20)  # it was made larger since
    with Namespace() as ns, Machine(ns, scratch, image, tree_with_mdadm, disks=disks) as machine:

        def ask(line: str) -> subprocess.CompletedProcess[str]:
            return machine.ssh(key_pair, "debian", ["sudo", "sh", "-c", line], check=False, timeout=280)

        inside = Inside(ask)
        options = ["--ssh-key", key_pair.public, "--instance-id", AMAZON.asset]
        with Imds(ns, scratch, *options, user_data=USER_DATA.encode(), metadata=MAPPING):
            machine.boot()
            machine.wait_console(f"cloudboot: mounts: waits for {LATE} to be attached, at most 120 s")
            time.sleep(MINUTE)
            machine.plug(late)
            machine.wait_ssh(key_pair, "debian")
            lines = first_boot(inside)
            inside.ask("systemctl reboot")
            machine.wait_exit()
            machine.boot()
            machine.wait_ssh(key_pair, "debian")
            second_boot(inside, lines)
            by_hand(inside)
            machine.powerdown()


def first_boot(inside: Inside) -> str:
    status = inside.status()
    assert status["status"] == "done", status
    assert inside("findmnt -no SOURCE,FSTYPE /srv/late") == "/dev/nvme0n1 ext4"
    assert f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{LATE.replace('-', '')}" in inside("grep /srv/late /etc/fstab")
    assert int(inside("df --output=size -BM /srv/late | tail -1").rstrip("M")) > 130
    assert inside("findmnt -no FSTYPE,LABEL /mnt/instance") == "ext4 instance"
    assert "noatime" in inside("findmnt -no OPTIONS /mnt/instance")
    assert inside("lsblk -rno TYPE $(findmnt -no SOURCE /mnt/instance)") == "raid0"
    assert int(inside("df --output=size -BM /mnt/instance | tail -1").rstrip("M")) > 150
    inside("dd if=/dev/urandom of=/mnt/instance/data bs=1M count=20 && sha256sum /mnt/instance/data > /var/tmp/sum")
    inside("echo kept > /srv/late/file; sync")
    return inside(LINES)


def second_boot(inside: Inside, lines: str) -> None:
    status = inside.status()
    assert status["status"] == "done", status
    assert status["kind"] == "same"
    inside("sha256sum --quiet -c /var/tmp/sum")
    # systemd mounts it by its line of fstab; with nofail nobody waits for that.
    kept = "for i in $(seq 200); do mountpoint -q /srv/late && break; sleep 1; done; cat /srv/late/file"
    assert inside(kept) == "kept"
    assert inside(LINES) == lines
    made = [record for record in inside.audit() if "mdadm --create" in record.get("change", "")]
    assert len(made) == 1


def by_hand(inside: Inside) -> None:
    """Nobody has put the array together; then the disks come back empty, as after a stop and a start."""
    inside("umount /mnt/instance && mdadm --stop /dev/md127")
    assert "md127" not in inside("cat /proc/mdstat")
    print(inside("cloudboot single --module instance_store"))
    inside("sha256sum --quiet -c /var/tmp/sum")
    inside("umount /mnt/instance && mdadm --stop /dev/md127 && for disk in vdb vdc; do blkdiscard -fz /dev/$disk; done")
    inside("udevadm settle")
    print(inside("cloudboot single --module instance_store"))
    assert inside("ls -A /mnt/instance") == "lost+found"
    assert inside("lsblk -rno TYPE $(findmnt -no SOURCE /mnt/instance)") == "raid0"


def test_32_volumes(baked_trixie: Tree, scratch: Scratch, key_pair: KeyPair) -> None:
    """All claim the same mount point, so nothing is mounted; each is told rightly, and none is changed by a bit."""
    with baked_trixie.overlay(scratch) as view:
        prepare_machine(view.path)
        image = root_image(view.path, scratch.file("root.img"))
    names = [*KINDS, *KINDS, *list(KINDS)[:10]]
    assert len(names) == 32
    disks = [
        Disk(KINDS[name](scratch), serial=serial(number), address=f"{0x10 + number // 8:x}.{number % 8}")
        for number, name in enumerate(names)
    ]
    sums = [checksum(disk.path) for disk in disks]
    with Namespace() as ns, Machine(ns, scratch, image, baked_trixie, disks=disks, cpus=2) as machine:

        def ask(line: str) -> subprocess.CompletedProcess[str]:
            return machine.ssh(key_pair, "debian", ["sudo", "sh", "-c", line], check=False, timeout=280)

        inside = Inside(ask)
        options = ["--ssh-key", key_pair.public, "--instance-id", AMAZON.asset]
        with Imds(ns, scratch, *options, user_data=b"#cloud-config\nconsume: true\n"):
            machine.boot()
            machine.wait_ssh(key_pair, "debian", timeout=400)
            inside.status()
            check_volumes(names, json.loads(inside("cloudboot consume --format json"))["volumes"])
            devices = inside("for disk in /sys/class/block/nvme*; do cat $disk/device/serial; echo ${disk##*/}; done")
            words = devices.split()
            by_serial = dict(zip(words[::2], words[1::2], strict=True))
            inside(f"cat > /root/times.py <<'END'\n{TIMES}END")
            found = inside(f"python3 /root/times.py {' '.join(by_serial[serial(number)] for number in range(32))}")
            few, many = map(float, found.split())
            print(f"4 volumes: {few:.2f} s, 32 volumes: {many:.2f} s, {many / few:.1f} times")
            assert inside("findmnt -rno TARGET --real") == "/"
            assert inside("losetup -a") == ""
            machine.powerdown()
    assert [checksum(disk.path) for disk in disks] == sums, "something was written"


def serial(number: int) -> str:
    return f"vol{number:017x}"


def check_volumes(names: list[str], found: list[dict[str, Any]]) -> None:
    """Each volume is in the right class, in the right state, and is said to be what it is."""
    by_id = {each["volume"]: each for each in found}
    for number, name in enumerate(names):
        each = by_id[serial(number).replace("vol", "vol-")]
        kind, _, dirty = name.partition(" ")
        assert each["class"] == kind, each
        if kind not in ("ext4", "xfs", "btrfs"):
            assert each["verdict"] == "holds no file system", each
        elif each["verdict"] == "unreadable":
            assert dirty, each
        else:
            assert each["verdict"] == "refused", each
            assert "wants to be mounted on /srv/data too" in each["reason"] or "the same UUID" in each["reason"], each
            assert each["state"] in (dirty or "clean", "unknown"), each
