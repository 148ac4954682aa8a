"""Disks on a machine: a volume that is attached a minute late, instance store as RAID 0 over reboots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from boot.bed import AMAZON, Disk, Imds, KeyPair, Machine, Namespace, Scratch, Tree, Trees, prepare_machine, root_image
from boot.bed.disks import blank, filesystem
from boot.job import Inside
from cloudboot import bake
from cloudboot.cli import open_host

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.machine
LATE = "vol-00000000000000abc"
MINUTE = 60.0
USER_DATA = f"""#cloud-config
mounts:
  - [{LATE}, /srv/late, ext4]
instance_store: {{layout: raid0, options: [noatime]}}
"""
MAPPING: dict[str, object] = {
    "meta-data": {
        "block-device-mapping": {"ami": "sda1", "root": "/dev/sda1", "ephemeral0": "sdb", "ephemeral1": "sdc"}
    }
}
LINES = "cat /etc/fstab"


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
    kept = "for i in $(seq 60); do mountpoint -q /srv/late && break; sleep 1; done; cat /srv/late/file"
    told = inside.ask(
        "systemctl status srv-late.mount; ls -l /dev/disk/by-id; journalctl -b -o short-monotonic | grep -i late"
    )
    assert inside.ask(kept).stdout.strip() == "kept", told.stdout
    assert inside(LINES) == lines
    made = [record for record in inside.audit() if "mdadm --create" in record.get("change", "")]
    assert len(made) == 1


def by_hand(inside: Inside) -> None:
    """Nobody has put the array together; then the disks come back empty, as after a stop and a start."""
    inside("umount /mnt/instance && mdadm --stop /dev/md127 && systemctl stop mdmonitor 2>/dev/null; cat /proc/mdstat")
    assert "md127" not in inside("cat /proc/mdstat")
    print(inside("cloudboot single --module instance_store"))
    inside("sha256sum --quiet -c /var/tmp/sum")
    inside("umount /mnt/instance && mdadm --stop /dev/md127 && for disk in vdb vdc; do blkdiscard -fz /dev/$disk; done")
    inside("udevadm settle")
    print(inside("cloudboot single --module instance_store"))
    assert inside("ls -A /mnt/instance") == "lost+found"
    assert inside("lsblk -rno TYPE $(findmnt -no SOURCE /mnt/instance)") == "raid0"
