"""The main job on a machine: Amazon's DMI, an NVMe volume, a kernel and an initramfs of its own, several boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from boot.bed import (
    AMAZON,
    Disk,
    Imds,
    KeyPair,
    Machine,
    Namespace,
    Repository,
    Scratch,
    Tree,
    blank,
    filesystem,
    gpt_image,
    run,
)
from boot.job import USER_DATA, Inside, check_first_boot, fingerprints
from cloudboot import bake
from cloudboot.cli import open_host

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.machine
FIRST, SECOND = AMAZON.asset, "i-0bbbbbbbbbbbbbbb2"
VOLUME = "vol-0123456789abcdef0"
CMDLINE = "root=LABEL=rootfs ro console=ttyS0 panic=-1 nokaslr mitigations=off"
MOUNTS = f"""mounts:
  - [{VOLUME}, /srv/data, ext4, "defaults,nofail"]
  - [ephemeral0, /srv/scratch]
"""
DATA = USER_DATA.replace("mounts:\n", MOUNTS)


def mapping(ephemeral: str) -> dict[str, object]:
    return {"meta-data": {"block-device-mapping": {"ami": "sda1", "root": "/dev/sda1", "ephemeral0": ephemeral}}}


def test_main_job(tree_trixie: Tree, scratch: Scratch, key_pair: KeyPair) -> None:
    with tree_trixie.overlay(scratch) as view:
        with open(f"{view.path}/etc/fstab", "w", encoding="utf-8") as file:
            file.write("# the image's own line\nLABEL=rootfs / ext4 rw,discard,errors=remount-ro 0 1\n")
        Repository(scratch).install(view.path)
        run(["systemctl", f"--root={view.path}", "mask", "chrony-wait.service"])
        bake.bake(open_host(view.path, echo=False, keep_log=False))
        image = gpt_image(view.path, scratch.file("root.img"), 2048, room_mib=1024)
    disks = [
        Disk(filesystem(scratch.file("ebs.img"), 64, "ext4"), serial=VOLUME.replace("-", "")),
        Disk(filesystem(scratch.file("b.img"), 64, "ext4"), interface="virtio"),
        Disk(filesystem(scratch.file("c.img"), 64, "ext4"), interface="virtio"),
        Disk(blank(scratch.file("d.img"), 16), interface="virtio"),
    ]
    with Namespace() as ns, Machine(ns, scratch, image, tree_trixie, disks=disks, cmdline=CMDLINE) as machine:

        def ask(line: str) -> subprocess.CompletedProcess[str]:
            return machine.ssh(key_pair, "debian", ["sudo", "sh", "-c", line], check=False, timeout=280)

        inside = Inside(ask)
        options = ["--ssh-key", key_pair.public, "--instance-id"]
        with Imds(ns, scratch, *options, FIRST, user_data=DATA.encode(), metadata=mapping("sdb")) as service:
            first_boot(machine, inside, key_pair)
            keys = inside.host_keys()
            plain_reboot(machine, inside, key_pair, keys)
            changed_data_and_moved_disk(machine, inside, key_pair, keys, service)
            machine.powerdown()
        with Imds(ns, scratch, *options, SECOND, user_data=DATA.encode(), metadata=mapping("sdc")):
            machine.dmi = AMAZON._replace(asset=SECOND)
            another_instance(machine, inside, key_pair, keys)
            machine.powerdown()


def first_boot(machine: Machine, inside: Inside, key: KeyPair) -> None:
    machine.boot()
    machine.wait_ssh(key, "debian")
    check_first_boot(inside, inside.status())
    assert inside("cat /sys/class/dmi/id/board_asset_tag") == FIRST
    shown = {word for word in inside("cat /etc/ssh/ssh_host_*_key.pub | ssh-keygen -lf -").split() if "SHA256" in word}
    assert fingerprints(machine.console()) == shown
    assert inside("findmnt -no FSTYPE /srv/data") == "ext4"
    assert inside("findmnt -no SOURCE /srv/data") == "/dev/nvme0n1"
    assert inside("findmnt -no SOURCE /srv/scratch") == "/dev/vdb"
    assert "the image's own line" in inside("head -1 /etc/fstab")
    # growpart and resizefs: the 1 GiB behind the partition is used.
    assert int(inside("df --output=size -BM / | tail -1").rstrip("M")) > 2700
    assert "blocked by our rule" in inside("cloudboot lockdown")
    assert inside("systemctl list-units --failed --no-legend --plain 'cloudboot*'") == ""
    # The daemon that runcmd started lives on after its stage and another login.
    assert inside("kill -0 $(cat /var/tmp/daemon) && echo alive") == "alive"


def reboot(machine: Machine, inside: Inside, key: KeyPair) -> None:
    inside.ask("systemctl reboot")
    machine.wait_exit()
    machine.boot()
    machine.wait_ssh(key, "debian")


def plain_reboot(machine: Machine, inside: Inside, key: KeyPair, keys: str) -> None:
    records = len(inside.audit())
    reboot(machine, inside, key)
    status = inside.status()
    assert (status["status"], status["kind"], status["instance"]) == ("done", "same", FIRST), status
    assert inside.ran(records) == set()
    assert inside.host_keys() == keys
    assert inside("cat /var/tmp/runs") == "last"
    # What is settled starts no process: identity comes from the hardware, and nothing of these stages was due.
    assert status["stages"]["network"]["state"] == "skipped"
    assert inside("systemctl show -p ActiveState --value cloudboot-network.service") == "inactive"


def changed_data_and_moved_disk(machine: Machine, inside: Inside, key: KeyPair, keys: str, service: Imds) -> None:
    before = inside("cat /etc/fstab").splitlines()
    service.set_user_data((DATA + "frequency: {mounts: always}\n").encode())
    service.set_metadata(mapping("sdc"))
    reboot(machine, inside, key)
    status = inside.status()
    assert status["kind"] == "same"
    assert "changed since it was applied" in status["note"], status
    assert inside.host_keys() == keys
    after = inside("cat /etc/fstab").splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1, (before, after)
    assert changed[0][0].startswith("/dev/vdb")
    assert changed[0][1].startswith("/dev/vdc")
    # systemd had mounted what fstab said before; what is in use is not unmounted under anybody, but named.
    assert "vdb is mounted there" in inside("grep 'now says' /var/log/cloudboot.log")


def another_instance(machine: Machine, inside: Inside, key: KeyPair, keys: str) -> None:
    machine.boot()
    machine.wait_ssh(key, "debian")
    status = inside.status()
    assert (status["kind"], status["instance"]) == ("new", SECOND), status
    assert inside.host_keys() != keys
    assert inside("cat /var/tmp/runs") == "last\nlast"
    assert inside("findmnt -no SOURCE /srv/scratch") == "/dev/vdc"
