"""Power cuts at random moments of a write load, with a root on a volume: `make powercuts` makes 20, a test run few."""

from __future__ import annotations

import os
import random
import re
import time

import pytest

from boot.bed import Disk, KeyPair, Namespace, Scratch, Tree, qcow2_over, run
from boot.roots import VOLUME, Cloud, Vendor, image, inside

pytestmark = pytest.mark.machine
CUTS = int(os.environ.get("CLOUDBOOT_POWER_CUTS", "1"))
INSTANCE = "i-0aaaaaaaaaaaaaaa1"
# Small files and one that grows, each synced before its number is told on the serial console; files that come and go.
LOAD = r"""
import os, sys
number = int(sys.argv[1])
os.makedirs("/srv/load", exist_ok=True)
console = os.open("/dev/ttyS0", os.O_WRONLY | os.O_NOCTTY)
log = os.open("/srv/load/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
while True:
    with open("/srv/load/new", "w") as file:
        file.write(f"{number}\n" * 2000)
        file.flush()
        os.fsync(file.fileno())
    os.rename("/srv/load/new", f"/srv/load/{number}")
    folder = os.open("/srv/load", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    os.write(log, f"{number}\n".encode())
    os.fsync(log)
    os.write(console, f"kept {number} for ever\n".encode())
    with open("/srv/load/noise", "ab") as noise:
        noise.write(os.urandom(1 << 18))
    if number % 16 == 0:
        os.unlink("/srv/load/noise")
    number += 1
"""
CHECK = r"""
import os, sys
bad = [n for n in range(int(sys.argv[1]) + 1)
       if not os.path.exists(f"/srv/load/{n}") or open(f"/srv/load/{n}").read() != f"{n}\n" * 2000]
log = open("/srv/load/log").read().split()
missing = [n for n in range(int(sys.argv[1]) + 1) if str(n) not in log]
print(bad, missing)
"""


@pytest.mark.parametrize("mode", ["root", "overlay"])
def test_power_cuts(mode: str, tree_trixie: Tree, scratch: Scratch, namespace: Namespace, key_pair: KeyPair) -> None:
    vendor = Vendor(scratch)
    made = image(tree_trixie, vendor, scratch)
    # qcow2: what the guest has not flushed is partly in the emulator's memory, and goes with it. virtio: the emulator's
    # NVMe takes no notice of FUA (force unit access), so the commit of the last fsync would go, too.
    file = qcow2_over(vendor.volume(mode), scratch.file("volume.qcow2"))
    volume = Disk(file, serial=VOLUME.replace("-", ""), interface="virtio", format="qcow2")
    cloud = Cloud(namespace, scratch, volume)
    chance = random.Random(os.urandom(8))
    last, cut = -1, 0
    with cloud.instance(made, INSTANCE) as machine, cloud.metadata(INSTANCE, key_pair, "one", "#cloud-config\n{}\n"):
        while True:
            machine.boot()
            machine.wait_ssh(key_pair, "debian")
            asked = inside(machine, key_pair)
            assert asked("findmnt -no FSTYPE /") == ("overlay" if mode == "overlay" else "ext4")
            assert asked("grep -c ' / .*rw' /proc/mounts") == "1"
            if last >= 0:
                assert asked(f"python3 -c '{CHECK}' {last}") == "[] []", f"after cut {cut}, {last} were kept"
            if cut == CUTS:
                break
            asked(f"systemd-run --quiet --unit=load{cut} python3 -c '{LOAD}' {last + 1}")
            machine.wait_console(rf"kept {last + 1} for ever", 60)
            time.sleep(chance.uniform(0, 6))
            machine.power_cut()
            cut += 1
            last = max(map(int, re.findall(r"kept (\d+) for ever", machine.console())))
            fsck(file, scratch)
            print(f"cut {cut}: {last + 1} files were kept, and the file system is clean")
        machine.powerdown()


def fsck(file: str, scratch: Scratch) -> None:
    """Check a copy of the volume as the cut has left it: the journal makes it whole, and then nothing is wrong."""
    copy = f"{scratch.directory('fsck')}/volume.img"
    run(["qemu-img", "convert", "-O", "raw", file, copy])
    run(["e2fsck", "-p", copy], check=False)
    answer = run(["e2fsck", "-f", "-n", copy], check=False)
    os.unlink(copy)
    assert answer.returncode == 0, answer.stdout + answer.stderr
