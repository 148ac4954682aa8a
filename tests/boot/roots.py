"""Images that take a root from a volume, such volumes, and machines with both."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from boot.bed import AMAZON, Disk, Imds, KeyPair, Machine, Repository, Tree, blank, prepare_machine, root_image, run
from boot.job import Inside
from cloudboot import bake
from cloudboot.cli import main, open_host

if TYPE_CHECKING:
    import subprocess

    from boot.bed import Namespace, Scratch

VOLUME = "vol-0123456789abcdef0"
POLICY = "consume: {{allow: [mount, root], signers: ['{signer}'], match: {{label: vendor}}, root: {{wait: 20}}}}\n"


class Image(NamedTuple):
    """A baked image: its disk, and a tree that has no more than its kernel and initramfs."""

    disk: str
    tree: Tree


class Vendor:
    """Whoever makes the volumes: a key, and what `cloudboot consume --init` writes with it."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.key = f"{scratch.directory('vendor')}/key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vendor@example.com", "-f", self.key])

    @property
    def policy(self) -> str:
        """The image's configuration that trusts this vendor."""
        with open(f"{self.key}.pub", encoding="utf-8") as file:
            return POLICY.format(signer=file.read().strip())

    def volume(self, mode: str, mib: int = 2048) -> str:
        """Return the file of a signed volume for a root; nothing else is on it."""
        tree, folder = self.scratch.directory("volume"), self.scratch.directory("disk")
        with open(f"{folder}/said", "w", encoding="utf-8") as file:
            file.write(f"root: {{mode: {mode}}}\n")
        assert main(["consume", "--init", tree, "--identity", f"{folder}/said", "--sign", self.key]) == 0
        disk = blank(f"{folder}/volume.img", mib)
        run(["mkfs.ext4", "-q", "-L", "vendor", "-d", tree, disk])
        return disk


def image(tree: Tree, vendor: Vendor, scratch: Scratch) -> Image:
    """Bake an image with the vendor's policy, and with a package that can be installed without a network."""
    folder = scratch.directory("image")
    with tree.overlay(scratch) as view:
        prepare_machine(view.path)
        os.makedirs(f"{view.path}/etc/cloudboot/conf.d")
        with open(f"{view.path}/etc/cloudboot/conf.d/60-root.yaml", "w", encoding="utf-8") as file:
            file.write(vendor.policy)
        Repository(scratch).install(view.path)
        run(["systemctl", f"--root={view.path}", "mask", "chrony-wait.service"])
        bake.bake(open_host(view.path, echo=False, keep_log=False))
        os.mkdir(f"{folder}/boot")
        baked = view.tree()
        for path in (baked.kernel, baked.initrd):
            shutil.copy(path, f"{folder}/boot")
        return Image(root_image(view.path, f"{folder}/root.img"), Tree(tree.suite, (folder,)))


class Cloud:
    """Instances of images, each with a disk of its own that goes with it, and one volume that stays."""

    def __init__(self, ns: Namespace, scratch: Scratch, volume: Disk) -> None:
        self.ns = ns
        self.scratch = scratch
        self.volume = volume

    def instance(self, image: Image, instance: str, *, attached: bool = True) -> Machine:
        """Return a new instance, switched off."""
        machine = Machine(self.ns, self.scratch, image.disk, image.tree, disks=[self.volume] if attached else [])
        machine.dmi = AMAZON._replace(asset=instance)
        return machine

    def metadata(self, instance: str, key: KeyPair, hostname: str, user_data: str) -> Imds:
        """Return the metadata service of an instance."""
        words = ["--ssh-key", key.public, "--instance-id", instance]
        metadata = {"meta-data": {"local-hostname": f"{hostname}.ec2.internal", "hostname": f"{hostname}.ec2.internal"}}
        return Imds(self.ns, self.scratch, *words, user_data=user_data.encode(), metadata=metadata)


def inside(machine: Machine, key: KeyPair, user: str = "debian") -> Inside:
    """Return who asks a machine over ssh."""

    def ask(line: str) -> subprocess.CompletedProcess[str]:
        return machine.ssh(key, user, ["sudo", "sh", "-c", line], check=False, timeout=280)

    return Inside(ask)
