"""Names of disks: EC2's, the kernel's, the controller's."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from casebook import NoFetcher, ScratchHost, plant
from cloudboot import disks, mount_entries
from cloudboot.commands import Commands
from cloudboot.disks import Disks
from cloudboot.instance import Instance
from cloudboot.module import Context
from cloudboot.modules import mounts as mounts_file
from cloudboot.root import Root

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def page(text: bytes, vendor: int = disks.AMAZON, model: bytes = b"Amazon Elastic Block Store") -> bytes:
    """Return an Identify page as Amazon's controllers answer it."""
    head = struct.pack("<HH20s40s", vendor, vendor, b"vol0123456789abcdef0", model.ljust(40))
    return (head + bytes(3072 - len(head)) + text).ljust(4096, b"\0")


def host(tmp_path: Path, devices: Mapping[str, str], links: Mapping[str, str] = {}) -> ScratchHost:
    """Return a host whose kernel has these devices (path below /sys/devices -> serial) and links in /dev."""
    root = Root(str(tmp_path))
    for number, (path, serial) in enumerate(devices.items()):
        name = path.rpartition("/")[2]
        plant(root, f"/sys/class/block/{name}", {"link": f"../../devices/{path}"})
        plant(root, f"/sys/devices/{path}/dev", f"259:{number}\n")
        plant(root, f"/dev/{name}", "")
        if "/" in path:
            plant(root, f"/sys/devices/{path}/partition", name[-1] + "\n")
        if serial:
            plant(root, f"/sys/devices/{path}/device/serial", serial + "\n")
    for link, target in links.items():
        plant(root, link, {"link": target})
    return ScratchHost(root)


NITRO = {
    "nvme0n1": "vol00000000000000000",
    "nvme0n1/nvme0n1p1": "",
    "nvme1n1": "vol0123456789abcdef0 ",
    "nvme2n1": "AWS1",
}
PAGES = {
    "nvme0n1": page(b"/dev/xvda".ljust(32)),
    "nvme1n1": page(b"sdf".ljust(32)),
    "nvme2n1": page(b"ephemeral0:sdh".ljust(32, b"\0"), model=b"Amazon EC2 NVMe Instance Storage"),
}


def nitro(tmp_path: Path, mapping: Mapping[str, str] = {}) -> Disks:
    return Disks(host(tmp_path, NITRO), mapping, lambda path: PAGES[path.rpartition("/")[2]])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/dev/sdf", "nvme1n1"),
        ("sdf", "nvme1n1"),
        ("/dev/xvdf", "nvme1n1"),  # the same letter, another spelling than that of the attachment
        ("vol-0123456789abcdef0", "nvme1n1"),
        ("vol0123456789abcdef0", "nvme1n1"),
        ("vol-0fff", None),
        ("ephemeral0", "nvme2n1"),
        ("/dev/sdh", "nvme2n1"),
        ("ephemeral1", None),
        ("xvda", "nvme0n1p1"),
        ("xvda.0", "nvme0n1"),
        ("xvda.1", "nvme0n1p1"),
        ("xvda.2", None),
        ("/dev/xvda1", "nvme0n1p1"),
        ("/dev/sda1", "nvme0n1p1"),
        ("nvme0n1", "nvme0n1p1"),
        ("/dev/nvme1n1", "nvme1n1"),
        ("sdg", None),
        ("swap", None),
    ],
)
def test_nitro(tmp_path: Path, name: str, found: str | None) -> None:
    assert nitro(tmp_path).find(name) == found


def test_the_disk_itself_goes_before_the_metadata(tmp_path: Path) -> None:
    # Instance store that the metadata place where something else was attached.
    assert nitro(tmp_path, {"ephemeral0": "sdf"}).find("ephemeral0") == "nvme2n1"


def test_the_mapping_and_the_page_together(tmp_path: Path) -> None:
    assert nitro(tmp_path, {"ebs1": "/dev/sdf"}).find("ebs1") == "nvme1n1"


def test_root_is_what_is_mounted_if_nothing_else_says(tmp_path: Path) -> None:
    found = nitro(tmp_path)
    plant(found.host.root, "/proc/self/mountinfo", "27 1 259:1 / / rw - ext4 /dev/root rw\n")
    plant(found.host.root, "/sys/dev/block/259:1", {"link": "../../devices/nvme0n1/nvme0n1p1"})
    assert found.find("root") == "nvme0n1p1"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("/dev/sda1", "xvda1"),
        ("ami", "xvda1"),
        ("root", "xvda1"),
        ("sdb", "xvdb"),
        ("ephemeral0", "xvdb"),
        ("sda.1", "xvda1"),
    ],
)
def test_xen(tmp_path: Path, name: str, found: str) -> None:
    known = host(tmp_path, {"xvda": "", "xvda/xvda1": "", "xvdb": ""})
    assert Disks(known, {"ami": "sda1", "root": "/dev/sda1", "ephemeral0": "sdb"}).find(name) == found


def test_uec(tmp_path: Path) -> None:
    known = Disks(host(tmp_path, {"vda": "", "vdb": "", "vdb/vdb1": ""}), {"ephemeral": "sdb"})
    assert known.find("ephemeral0") == "vdb1"
    assert known.find("sdb") == "vdb1"
    assert known.find("ephemeral") == "vdb1"


def test_a_link_of_udev(tmp_path: Path) -> None:
    known = host(tmp_path, NITRO, {"/dev/sdf": "nvme1n1"})
    assert Disks(known, {}, lambda path: bytes(4096)).find("sdf") == "nvme1n1"


def test_a_disk_of_the_containers_host(tmp_path: Path) -> None:
    known = host(tmp_path, {"vdb": ""})
    known.root.remove("/dev/vdb")
    assert Disks(known, {"ephemeral0": "sdb"}).find("ephemeral0") is None


def test_an_image_tree_has_no_devices_of_this_machine(tmp_path: Path) -> None:
    found = nitro(tmp_path)
    found.host.live = False
    assert found.find("nvme1n1") is None


def test_a_controller_that_does_not_answer(tmp_path: Path) -> None:
    known = Disks(host(tmp_path, NITRO), {})  # the real ioctl, on a file that is no device
    assert known.find("sdf") is None
    assert known.find("vol-0123456789abcdef0") == "nvme1n1"


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (page(b"/dev/sdf".ljust(32)), ("sdf",)),
        (page(b"xvdba\0junk".ljust(32)), ("xvdba",)),
        (page(b"ephemeral3:none".ljust(32, b"\0")), ("ephemeral3",)),
        (page(b"ephemeral0:sdh".ljust(32, b"\0")), ("ephemeral0", "sdh")),
        (page(b"\xff\xfe../../x"), ()),
        (page(b"sdf".ljust(32), vendor=0x1B36), ()),  # QEMU's
        (page(b""), ()),
        (b"", ()),
    ],
)
def test_names_in_a_page(content: bytes, names: tuple[str, ...]) -> None:
    assert disks.ec2_names(content) == names


def test_what_is_a_name() -> None:
    known = Disks(None, {})  # type: ignore[arg-type]
    for (
        name
    ) in "sdf /dev/sdf xvdf hda vdb2 sr0 nvme1n1 nvme0n1p1 ephemeral0 ephemeral swap root ami ebs1 sdf.1".split():
        assert known.names(name), name
    for other in "tmpfs none overlay LABEL=x UUID=1 /data /dev/mapper/x /dev/md0 host:/x //h/x /dev/root".split():
        assert not known.names(other), other


def test_stable_names_follow_the_volume(tmp_path: Path) -> None:
    links = {
        f"{disks.BY_ID}/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0_1": "../../nvme1n1",
        f"{disks.BY_ID}/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0": "../../nvme1n1",
        f"{disks.BY_ID}/nvme-nvme.1d0f-766f6c": "../../nvme1n1",
    }
    known = Disks(host(tmp_path, NITRO, links), {})
    assert known.stable("nvme1n1") == f"{disks.BY_ID}/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
    assert known.stable("nvme2n1") == "/dev/nvme2n1"
    assert known.stable("xvdb") == "/dev/xvdb"


def test_what_is_on_a_disk(tmp_path: Path) -> None:
    known = host(tmp_path, {"vdb": "", "vdc": "", "vdd": ""})
    plant(known.root, "/run/udev/data/b259:0", "S:disk/by-id/x\nE:ID_FS_TYPE=xfs\nE:ID_FS_USAGE=filesystem\n")
    plant(known.root, "/run/udev/data/b259:1", "I:1\nE:ID_MODEL=x\n")
    known.tools = [{"argv": "blkid -p -o value -s TYPE /dev/vdd", "output": "ext4\n"}]
    assert [disks.file_system(known, name) for name in ("vdb", "vdc", "vdd")] == ["xfs", "", "ext4"]
    assert known.spawned == ["blkid -p -o value -s TYPE /dev/vdd"]


def test_labels_as_udev_writes_them(tmp_path: Path) -> None:
    assert disks.node_of("LABEL=my data") == "/dev/disk/by-label/my\\x20data"
    assert disks.node_of('UUID="0a-1b"') == "/dev/disk/by-uuid/0a-1b"
    assert disks.node_of("PARTLABEL=a/b") == "/dev/disk/by-partlabel/a\\x2fb"
    assert disks.node_of("tmpfs") is None
    assert disks.node_of("host:/dev/x") is None


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def pause(self, seconds: float) -> None:
        self.time += seconds


class Arriving(Clock):
    """A clock during whose time a disk arrives."""

    def __init__(self, root: Root, at: float) -> None:
        super().__init__()
        self.root = root
        self.at = self.time + at

    def pause(self, seconds: float) -> None:
        super().pause(seconds)
        if self.time >= self.at:
            plant(self.root, "/sys/class/block/xvdf/dev", "202:80\n")
            plant(self.root, "/dev/xvdf", "")


@pytest.mark.parametrize(("at", "said"), [(0.5, 0), (3.0, 1), (100.0, 1)])
def test_a_late_volume_is_waited_for(tmp_path: Path, at: float, said: int) -> None:
    known = host(tmp_path, {"xvda": ""})
    clock = Arriving(known.root, at)
    mount_entries.wait_for(Disks(known, {}), ["sdf"], known, clock=clock, pause=clock.pause)
    assert at <= clock.time - 100 < at + 1.2
    assert len(known.console) == said


def test_a_volume_that_never_comes_is_waited_for_once(tmp_path: Path) -> None:
    known = host(tmp_path, {"xvda": ""})
    clock = Clock()
    mount_entries.wait_for(Disks(known, {}), ["sdf", "sdg"], known, clock=clock, pause=clock.pause)
    assert 120 <= clock.time - 100 < 122
    assert known.console == ["mounts: waits for sdf, sdg to be attached, at most 120 s"]
    began = clock.time
    mount_entries.wait_for(Disks(known, {}), ["sdg"], known, who="disk_setup", clock=clock, pause=clock.pause)
    assert clock.time == began
    mount_entries.wait_for(Disks(known, {}), ["ebs1.2", "sdf"], known, who="disk_setup", clock=clock, pause=clock.pause)
    assert known.console[1:] == ["disk_setup: waits for ebs1.2 to be attached, at most 120 s"]


def test_only_volumes_that_are_announced_are_waited_for(tmp_path: Path) -> None:
    known = Disks(host(tmp_path, {}), {"ebs1": "/dev/sdf", "ephemeral0": "sdb"})
    waited = [name for name in "sdf /dev/sdf sdf.1 ebs1 vol-0123abcd sdb ephemeral0 sdg".split()
              if mount_entries.announced(known, name)]  # fmt: skip
    assert waited == ["sdf", "/dev/sdf", "sdf.1", "ebs1", "vol-0123abcd"]


def context(known: ScratchHost, config: dict[str, Any]) -> Context:
    return Context(
        host=known, config=config, instance=Instance("i-0123456789abcdef0", "Ec2"), image={}, name="mounts", marks={},
        commands=Commands(known, "/var/lib/cloudboot/instance", "mounts"), fetcher=NoFetcher(), first=True,
    )  # fmt: skip


def test_mounts_by_the_names_that_the_disks_know(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    host = known.host
    assert isinstance(host, ScratchHost)
    link = f"{disks.BY_ID}/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
    plant(host.root, link, {"link": "../../nvme1n1"})
    plant(host.root, "/run/udev/data/b259:3", "E:ID_FS_TYPE=xfs\n")
    mounts_file.apply(context(host, {"mounts": [["/dev/sdf", "/data"], ["/dev/nvme1n1", "/again"]]}), known)
    options = "defaults,nofail,x-systemd.device-timeout=30s,comment=cloudconfig"
    assert host.text("/etc/fstab") == (
        f"/dev/nvme2n1\t/mnt\tauto\t{options}\t0\t2\n"
        f"{link}\t/data\tauto\t{options}\t0\t2\n"
        f"/dev/nvme1n1\t/again\tauto\t{options}\t0\t2\n"
    )


def test_fstab_of_an_image_tree(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    known.host.live = False
    rows = [["/dev/sdf", "/data"], ["ephemeral0", "/scratch"], ["nfs.example.com:/x", "/x"]]
    ctx = context(known.host, {"mounts": rows, "swap": {"size": "1M"}})  # type: ignore[arg-type]
    mounts_file.apply(ctx, known)
    assert known.host.text("/etc/fstab") == (
        "/dev/sdf\t/data\tauto\tdefaults,nofail,x-systemd.device-timeout=30s,comment=cloudconfig\t0\t2\n"
        "nfs.example.com:/x\t/x\tauto\tdefaults,nofail,_netdev,comment=cloudconfig\t0\t0\n"
    )
    recorded = [action.text for action, _ in known.host.recorded]
    assert "run mount /data" in recorded
    assert "run mkswap /swap.img (1 MiB)" in recorded
    assert ctx.failures == []
    assert ctx.problems == []


def test_bytes_in_fstab_that_are_no_text_survive(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    plant(known.host.root, "/etc/fstab", b"# caf\xe9\x0c\x85\n")
    mounts_file.apply(context(known.host, {"mounts": [["tmpfs", "/t", "tmpfs"]]}), known)  # type: ignore[arg-type]
    assert (known.host.read("/etc/fstab") or b"").startswith(b"# caf\xe9\x0c\x85\ntmpfs\t/t\t")


# -- exactly what is named, and how a machine has it


TAGGED = {
    "/run/udev/data/b259:1": "E:ID_FS_LABEL_ENC=root\nE:ID_FS_UUID_ENC=0a-1\nE:ID_PART_ENTRY_UUID=aa-01\n",
    "/run/udev/data/b259:2": "E:ID_FS_LABEL_ENC=my\\x20data\nE:ID_FS_UUID_ENC=0b-2\n",
    "/run/udev/data/b259:3": "E:ID_FS_LABEL_ENC=twin\nE:ID_FS_UUID_ENC=0c-3\n",
    "/run/udev/data/b259:4": "E:ID_FS_LABEL_ENC=twin\nE:ID_PART_ENTRY_NAME=second\n",
}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("/dev/sdf", "nvme1n1"),
        ("sdf", "nvme1n1"),
        ("xvdf", "nvme1n1"),
        ("sdf2", "nvme1n1p2"),
        ("xvdf.2", "nvme1n1p2"),
        ("/dev/sdfp2", "nvme1n1p2"),
        ("sdf.0", "nvme1n1"),
        ("sdf.3", None),
        ("ebs1", "nvme1n1"),
        ("ebs1.2", "nvme1n1p2"),
        ("ebs1p2", "nvme1n1p2"),
        ("ebs2", None),
        ("vol-0123456789abcdef0", "nvme1n1"),
        ("vol0123456789abcdef0", "nvme1n1"),
        ("vol-0123456789abcdef0.2", "nvme1n1p2"),
        ("vol-0123456789abcdef0p2", "nvme1n1p2"),
        ("vol0123456789abcdef0-part2", "nvme1n1p2"),
        ("vol-0fedcba9876543210", None),
        ("nvme1n1", "nvme1n1"),  # a whole disk, whatever is on it
        ("nvme1n1p2", "nvme1n1p2"),
        ("/dev/nvme1n1.2", "nvme1n1p2"),
        ("nvme1n1p9", None),
        ("ephemeral0", "nvme2n1"),
        ("sdh", "nvme2n1"),
        ("ephemeral0.1", None),
        ("ephemeral1", None),
        ("root", "nvme0n1p1"),  # what the metadata call sda1
        ("ami", "nvme0n1p1"),
        ("root.0", "nvme0n1"),
        ("root.1", "nvme0n1p1"),
        ("root.2", None),
        ("LABEL=root", "nvme0n1p1"),
        ("LABEL=my data", "nvme1n1"),
        ('LABEL="my data"', "nvme1n1"),
        ("LABEL=twin", None),  # of two that are called so, none is meant
        ("LABEL=none", None),
        ("UUID=0b-2", "nvme1n1"),
        ("PARTUUID=aa-01", "nvme0n1p1"),
        ("PARTLABEL=second", "nvme1n1p2"),
        ("/dev/disk/by-id/volume", "nvme1n1"),
        ("/dev/disk/by-id/volume-part2", "nvme1n1p2"),
        ("/dev/disk/by-id/other", None),
        ("/dev/mapper/vg-data", "dm-0"),
        ("/dev/null", None),
        ("tmpfs", None),
        ("host:/export", None),
        ("", None),
    ],
)
def test_exactly_what_is_named(tmp_path: Path, word: str, found: str | None) -> None:
    devices = {**NITRO, "nvme1n1/nvme1n1p2": "", "virtual/block/dm-0": ""}
    known = host(tmp_path, devices, {"/dev/disk/by-id/volume": "../../nvme1n1", "/dev/mapper/vg-data": "../dm-0"})
    known.root.remove("/sys/devices/virtual/block/dm-0/partition")
    for path, text in TAGGED.items():
        plant(known.root, path, text)
    plant(known.root, "/dev/null", "")
    mapping = {"ami": "sda1", "root": "/dev/sda1", "ebs1": "sdf"}
    assert Disks(known, mapping, lambda path: PAGES[path.rpartition("/")[2]]).locate(word) == found


@pytest.mark.parametrize(
    ("word", "found"),
    [("sda1", "xvda1"), ("sda.1", "xvda1"), ("sda", "xvda"), ("sdb", "xvdb"), ("ephemeral0", "xvdb"), ("root.0", "xvda"),
     ("xvdc", "xvdc"), ("/dev/sdc1", "xvdc1"), ("hdb", "xvdb"), ("sdz", None)],
)  # fmt: skip
def test_exactly_what_is_named_on_xen(tmp_path: Path, word: str, found: str | None) -> None:
    known = host(tmp_path, {"xvda": "", "xvda/xvda1": "", "xvdb": "", "xvdc": "", "xvdc/xvdc1": ""})
    assert Disks(known, {"root": "/dev/sda1", "ephemeral0": "sdb"}).locate(word) == found


@pytest.mark.parametrize(
    ("word", "found"),
    [("sdb", "vdb"), ("/dev/sdb1", "vdb1"), ("ephemeral0", "vdb"), ("ephemeral0.1", "vdb1"), ("vdb", "vdb"),
     ("vol-3bd83f7e", "vdc"), ("vol-3BD83F7E", "vdc"), ("sdc", "vdc"), ("xvdc", "vdc")],
)  # fmt: skip
def test_exactly_what_is_named_on_a_uec(tmp_path: Path, word: str, found: str | None) -> None:
    known = host(tmp_path, {"vda": "", "vdb": "", "vdb/vdb1": "", "vdc": ""})
    plant(known.root, "/sys/devices/vdc/serial", "euca-vol-3BD83F7E-dev-vdc\n")
    assert Disks(known, {"ephemeral0": "sdb"}).locate(word) == found


def test_a_label_where_there_is_no_udev(tmp_path: Path) -> None:
    known = host(tmp_path, {"vdb": "", "vdc": ""})
    known.tools = [
        {"argv": "blkid -c /dev/null -o device -t LABEL=data", "output": "/dev/vdc\n"},
        {"argv": "blkid -c /dev/null -o device -t LABEL=twin", "output": "/dev/vdb\n/dev/vdc\n"},
        {"argv": "blkid", "status": 2},
    ]
    names = Disks(known, {})
    assert [names.locate(f"LABEL={label}") for label in ("data", "twin", "none")] == ["vdc", None, None]


def test_nothing_is_located_in_an_image_tree(tmp_path: Path) -> None:
    found = nitro(tmp_path)
    found.host.live = False
    assert [found.locate(word) for word in ("nvme1n1", "sdf.1", "LABEL=x", "/dev/nvme1n1")] == [None] * 4


@pytest.mark.parametrize(
    ("model", "serial", "mapping", "kind"),
    [
        ("Amazon Elastic Block Store              \n", "vol0123456789abcdef0", {}, (disks.Kind.EBS, "its model")),
        ("Amazon EC2 NVMe Instance Storage", "AWS1", {}, (disks.Kind.STORE, "its model")),
        ("", "vol0123456789abcdef0", {}, (disks.Kind.EBS, "its serial number")),
        ("", "", {"ephemeral0": "sdf"}, (disks.Kind.STORE, "the metadata")),
        ("", "", {"ebs3": "/dev/sdf"}, (disks.Kind.EBS, "the metadata")),
        ("QEMU NVMe Ctrl", "x", {"ami": "sdf"}, None),
    ],
)
def test_instance_store_is_told_from_ebs(
    tmp_path: Path, model: str, serial: str, mapping: dict[str, str], kind: tuple[disks.Kind, str] | None
) -> None:
    known = host(tmp_path, {"xvdf": serial})
    plant(known.root, "/sys/devices/xvdf/device/model", model)
    assert Disks(known, mapping).kind("xvdf") == kind


@pytest.mark.parametrize(
    ("serial", "volume"),
    [
        ("vol0123456789abcdef0", "vol-0123456789abcdef0"),
        ("vol-0123456789abcdef0   ", "vol-0123456789abcdef0"),
        ("euca-vol-3BD83F7E-dev-vdc", "vol-3bd83f7e"),
        ("vol-3BD83F7E-de", "vol-3bd83f7e"),  # virtio has room for 20 characters
        ("AWS6114234BF5", ""),
        ("volume-1", ""),
        ("", ""),
    ],
)
def test_the_volume_behind_a_serial_number(tmp_path: Path, serial: str, volume: str) -> None:
    assert Disks(host(tmp_path, {"nvme1n1": serial}), {}).volume("nvme1n1") == volume


def test_a_controller_that_answers_root_only(tmp_path: Path) -> None:
    def refuse(path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    known = Disks(host(tmp_path, NITRO), {}, refuse)
    assert known.find("sdf") is None
    assert known.denied == {"nvme0n1", "nvme1n1", "nvme2n1"}


@pytest.mark.parametrize(
    ("written", "label"),
    [("data", "data"), ("my\\x20data", "my data"), ("caf\\xc3\\xa9", "café"), ("\\x5cx", "\\x"), ("é\\x20", "é "),
     ("\\xff", "\ufffd")],
)  # fmt: skip
def test_labels_as_they_are(written: str, label: str) -> None:
    assert disks.decoded(written) == label
