"""Terminate the instance, start another with the same volume: it is the same machine, as a root and as an overlay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from boot.bed import Disk, KeyPair, Namespace, Scratch, Tree, run
from boot.roots import VOLUME, Cloud, Image, Vendor, image, inside

if TYPE_CHECKING:
    from boot.bed import Machine
    from boot.job import Inside

pytestmark = pytest.mark.machine
FIRST, SECOND = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2"
BOOT = 600.0  # seconds: a first boot copies the image in the initramfs
USER_DATA = """#cloud-config
users: [default, {name: app}]
runcmd:
  - echo first >> /var/tmp/runs
  - [apt-get, update]
  - [apt-get, install, --assume-yes, cloudboot-hello]
"""


@pytest.fixture(scope="module")
def vendor(session_scratch: Scratch) -> Vendor:
    return Vendor(session_scratch)


@pytest.fixture(scope="module")
def trixie_image(tree_trixie: Tree, vendor: Vendor, session_scratch: Scratch) -> Image:
    return image(tree_trixie, vendor, session_scratch)


@pytest.fixture(scope="module")
def bookworm_image(tree_bookworm: Tree, vendor: Vendor, session_scratch: Scratch) -> Image:
    return image(tree_bookworm, vendor, session_scratch)


@pytest.fixture
def cloud(vendor: Vendor, scratch: Scratch, request: pytest.FixtureRequest) -> Cloud:
    ns: Namespace = request.getfixturevalue("namespace")
    return Cloud(ns, scratch, Disk(vendor.volume(request.param), serial=VOLUME.replace("-", "")))


@pytest.fixture
def other_key(scratch: Scratch) -> KeyPair:
    """The key pair that the second instance is launched with."""
    return KeyPair.create(scratch.file("other_key"))


def leave_marks(asked: Inside) -> str:
    """Write what has to be there later; return the host keys."""
    asked("mkdir -p /srv/app && echo kept > /srv/app/data && sync")
    assert asked("cloudboot-hello") == "hello from the package"
    return asked.host_keys()


def check_marks(asked: Inside, keys: str) -> None:
    """Check that this is the machine of before."""
    assert asked("cat /srv/app/data") == "kept"
    assert asked("cloudboot-hello; dpkg-query -W -f '${Status}' cloudboot-hello") == (
        "hello from the package\ninstall ok installed"
    )
    assert asked.host_keys() == keys
    assert asked("cat /var/tmp/runs") == "first", "what runs once for an instance has run once for the volume"
    assert asked("id -un app") == "app"
    assert asked("hostname") == "one", "the name is the volume's"


def check_identity(asked: Inside, instance: str, mode: str) -> None:
    """Check that both ids are shown, and that nothing was wrong."""
    status = asked.status()
    assert status["status"] == "done", status
    assert status["instance"] == instance, status
    assert status["root"]["volume"] == VOLUME, status
    assert status["root"]["mode"] == mode
    shown = asked("cloudboot status --long")
    assert instance in shown
    assert VOLUME in shown
    assert asked("systemctl list-units --failed --no-legend --plain") == ""


def terminate(machine: Machine) -> None:
    """Without a word: the instance and its disk are gone."""
    machine.power_cut()


@pytest.mark.parametrize("cloud", ["root"], indirect=True)
def test_root_under_a_newer_image(
    cloud: Cloud, bookworm_image: Image, trixie_image: Image, key_pair: KeyPair, other_key: KeyPair
) -> None:
    with cloud.instance(bookworm_image, FIRST) as machine, cloud.metadata(FIRST, key_pair, "one", USER_DATA):
        machine.boot()
        machine.wait_ssh(key_pair, "debian", BOOT)
        asked = inside(machine, key_pair)
        check_identity(asked, FIRST, "root")
        assert "the image's files are copied onto it" in machine.console()
        assert "LABEL=rootfs" not in asked("cat /etc/fstab")
        assert asked("findmnt -no SOURCE /") == "/dev/nvme0n1"
        older = asked("uname -r")
        keys = leave_marks(asked)
        terminate(machine)
    with cloud.instance(trixie_image, SECOND) as machine, cloud.metadata(SECOND, other_key, "two", USER_DATA):
        machine.boot()
        machine.wait_ssh(other_key, "debian", BOOT)
        asked = inside(machine, other_key)
        check_identity(asked, SECOND, "root")
        check_marks(asked, keys)
        kernel = asked("uname -r")
        assert kernel != older, "the kernel is the newer image's"
        assert 'VERSION_ID="12"' in asked("cat /etc/os-release"), "everything else is the volume's"
        asked("modprobe dummy && lsmod | grep -w dummy")
        assert asked.ask(f"touch /usr/lib/modules/{kernel}/x").returncode != 0
        held = asked("apt-mark showhold").split()
        assert f"linux-image-{older}" in held, held
        machine.powerdown()


@pytest.mark.parametrize("cloud", ["overlay"], indirect=True)
def test_overlay(cloud: Cloud, trixie_image: Image, key_pair: KeyPair, other_key: KeyPair) -> None:
    with cloud.instance(trixie_image, FIRST) as machine, cloud.metadata(FIRST, key_pair, "one", USER_DATA):
        machine.boot()
        machine.wait_ssh(key_pair, "debian", BOOT)
        asked = inside(machine, key_pair)
        check_identity(asked, FIRST, "overlay")
        assert asked("findmnt -no FSTYPE /") == "overlay"
        keys = leave_marks(asked)
        assert asked("rm /etc/issue.net; test -e /run/cloudboot/image/etc/issue.net && echo below") == "below"
        assert "growpart" not in asked.ran(0)
        # Nearly full: the next boot has 8 MiB for all that it writes.
        asked("fallocate -l $(($(df --output=avail -B1 / | tail -1) - 8388608)) /srv/ballast; sync")
        terminate(machine)
    with cloud.instance(trixie_image, SECOND) as machine, cloud.metadata(SECOND, other_key, "two", USER_DATA):
        machine.boot()
        machine.wait_ssh(other_key, "debian", BOOT)
        asked = inside(machine, other_key)
        status = asked.status()
        told = [problem for problem in status["recoverable"] if VOLUME in problem]
        assert told, status
        assert "full" in told[0]
        asked("rm /srv/ballast")
        check_marks(asked, keys)
        assert asked.ask("test -e /etc/issue.net").returncode != 0
        machine.powerdown()
    # The upper layer belongs to its image: over another one it is not put, and the machine starts all the same.
    lower = f"{cloud.scratch.directory('lower')}"
    run(["mount", "-o", "loop", cloud.volume.path, lower])
    try:
        with open(f"{lower}/.cloudboot/lower", "w", encoding="utf-8") as file:
            file.write("another image\n")
    finally:
        run(["umount", lower])
    with (
        cloud.instance(trixie_image, SECOND) as machine,
        cloud.metadata(SECOND, key_pair, "two", "#cloud-config\n{}\n"),
    ):
        machine.boot()
        machine.wait_ssh(key_pair, "debian", BOOT)
        asked = inside(machine, key_pair)
        status = asked.status()
        assert any("made over another image" in problem for problem in status["recoverable"]), status
        assert "made over another image" in asked("cloudboot why consume")
        assert "the image itself is booted" in machine.console()
        assert asked("findmnt -no SOURCE /") == "/dev/vda"
        machine.powerdown()
