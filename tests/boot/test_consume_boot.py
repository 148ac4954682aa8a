"""Vendors' volumes on a machine with an image that knows nothing of them: mounted, run once, refused, hot-plugged."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from boot.bed import AMAZON, Disk, Imds, KeyPair, Machine, Namespace, Scratch, Tree, prepare_machine, root_image, run
from boot.bed.disks import blank
from boot.job import Inside
from cloudboot import bake
from cloudboot.cli import main, open_host

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.machine
USER_DATA = """#cloud-config
users: [default, {name: app}]
consume:
  allow: [mount, run]
  signers: ["SIGNER"]
  match: {label: "vendor*"}
"""
PROGRAM = '#!/bin/sh\necho $(id -un) "$1" $(cat "$CLOUDBOOT_FILES/data/greeting") >> /var/tmp/vendor-runs\n'
RUN = "run: {program: bin/setup, arguments: [hello], frequency: per-volume, timeout: 60, files: [data/greeting]}\n"


class Vendor:
    """Makes volumes, each with an identity file that `cloudboot consume --init` writes."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.made = 0
        self.key = f"{scratch.directory('vendor')}/key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vendor@example.com", "-f", self.key])

    @property
    def signer(self) -> str:
        """The public key."""
        with open(f"{self.key}.pub", encoding="utf-8") as file:
            return file.read().strip()

    def volume(
        self, identity: str, *, signed: bool = False, tampered: str = "", raw: bool = False, label: str = "vendor"
    ) -> Disk:
        """Return a volume that says this. tampered: a file that is changed afterwards. raw: written as it is."""
        self.made += 1
        tree = self.scratch.directory("tree")
        for path, text in (("bin/setup", PROGRAM), ("data/greeting", "world\n"), ("payload", "of the vendor\n")):
            os.makedirs(os.path.dirname(f"{tree}/{path}"), exist_ok=True)
            with open(f"{tree}/{path}", "w", encoding="utf-8") as file:
                file.write(text)
        said = self.scratch.file(f"identity{self.made}")
        if raw:
            said = f"{tree}/ebs-config.txt"
        with open(said, "w", encoding="utf-8") as file:
            file.write(identity)
        if not raw:
            assert main(["consume", "--init", tree, "--identity", said, *(["--sign", self.key] * signed)]) == 0
        if tampered:
            with open(f"{tree}/{tampered}", "a", encoding="utf-8") as file:
                file.write("# changed\n")
        disk = blank(self.scratch.file(f"volume{self.made}.img"), 32)
        run(["mkfs.ext4", "-q", "-L", label, "-d", tree, disk])
        shutil.rmtree(tree)
        return Disk(disk, serial=f"vol{self.made:017x}")


def name_of(number: int) -> str:
    """Return the id of a volume."""
    return f"vol-{number:017x}"


def test_vendors_volumes(tree_trixie: Tree, scratch: Scratch, key_pair: KeyPair) -> None:
    with tree_trixie.overlay(scratch) as view:
        prepare_machine(view.path)
        bake.bake(open_host(view.path, echo=False, keep_log=False), consume=True)
        image = root_image(view.path, scratch.file("root.img"))
    vendor = Vendor(scratch)
    disks = [
        vendor.volume(RUN, signed=True),
        vendor.volume("mount: {where: /srv/vendor, owner: app, check: true}\n"),
        vendor.volume(RUN),
        vendor.volume(RUN, signed=True, tampered="bin/setup"),
        vendor.volume(RUN, signed=True, tampered="ebs-config.txt"),
        vendor.volume("mount: {where: /etc/vendor}\n", raw=True),
        vendor.volume("mount: {where: /srv/other}\n", label="somebody"),
    ]
    late = vendor.volume("mount: {where: /srv/late}\n")
    data = USER_DATA.replace("SIGNER", vendor.signer).encode()
    with Namespace() as ns, Machine(ns, scratch, image, tree_trixie, disks=disks) as machine:

        def ask(line: str) -> subprocess.CompletedProcess[str]:
            return machine.ssh(key_pair, "debian", ["sudo", "sh", "-c", line], check=False, timeout=280)

        inside = Inside(ask)
        options = ["--ssh-key", key_pair.public, "--instance-id", AMAZON.asset]
        with Imds(ns, scratch, *options, user_data=data):
            machine.boot()
            machine.wait_ssh(key_pair, "debian")
            first_boot(inside)
            machine.plug(late)
            plugged(inside)
            inside.ask("systemctl reboot")
            machine.wait_exit()
            machine.boot()
            machine.wait_ssh(key_pair, "debian")
            second_boot(inside)
            machine.powerdown()


def first_boot(inside: Inside) -> None:
    status = inside.status()
    print(inside("cloudboot consume"))
    problems = "\n".join(status["recoverable"])
    assert inside("cat /var/tmp/vendor-runs") == "root hello world", problems
    assert inside("cat /srv/vendor/payload") == "of the vendor"
    assert inside("stat -c %U /srv/vendor") == "app"
    assert "x-cloudboot.consume" in inside("grep /srv/vendor /etc/fstab")
    for number, reason in ((3, "signed"), (4, "SHA-256"), (5, "signature"), (6, "/etc")):
        told = [line for line in problems.splitlines() if name_of(number) in line]
        assert told, f"{number} is not reported: {problems}"
        assert "refused" in told[0], told
        assert reason in told[0], told
    assert name_of(7) not in problems
    assert inside("findmnt -rno TARGET --real | sort") == "/\n/srv/vendor"
    assert inside("losetup -a") == ""


def plugged(inside: Inside) -> None:
    began = time.monotonic()
    while inside.ask("findmnt /srv/late").returncode:
        assert time.monotonic() - began < 60, inside(
            "journalctl -b -u 'cloudboot-consume@*'; cat /var/log/cloudboot.log"
        )
        time.sleep(0.5)
    print(f"hot-plugged: mounted after {time.monotonic() - began:.1f} s of the emulated machine")
    print(inside("journalctl -b -o short-monotonic -u 'cloudboot-consume@*' -n 5"))
    assert inside("cat /srv/late/payload") == "of the vendor"
    assert inside("cat /srv/vendor/payload") == "of the vendor"


def second_boot(inside: Inside) -> None:
    status = inside.status()
    assert status["stages"]["network"]["state"] == "done", "the local stage is too early for volumes"
    assert inside("cat /var/tmp/vendor-runs") == "root hello world"
    assert inside("findmnt -rno TARGET --real | sort") == "/\n/srv/late\n/srv/vendor"
    assert inside("grep -c x-cloudboot.consume /etc/fstab") == "2"
    assert "per-boot" in inside("cloudboot why consume")
    plan = inside.ask("cloudboot plan")
    assert plan.returncode in (0, 2), plan.stdout + plan.stderr
    told = " ".join(plan.stdout.split())
    assert f"{name_of(4)} " in told
    assert "refused: bin/setup: is not what the identity file says" in told
    assert "bin/setup has run (per-volume, done)" in told
    assert "Nothing would change." in told
    assert inside("losetup -a") == ""
