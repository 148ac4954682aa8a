"""`cloudboot disks`: all names of every disk, how each was found out, in a table that fits."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import pytest

from casebook import ScratchHost, plant
from cloudboot import cli, disks_verb
from cloudboot.errors import CloudbootError
from cloudboot.instance import Instance, folder
from cloudboot.root import Root
from unit.modules.test_disks import NITRO, PAGES, host

if TYPE_CHECKING:
    from pathlib import Path


def nitro(tmp_path: Path) -> ScratchHost:
    """Return a machine with a root volume, an EBS volume and instance store."""
    known = host(tmp_path, NITRO, {"/dev/sdf": "nvme1n1", "/dev/xvdx": "nvme9n1"})
    ebs, store = "Amazon Elastic Block Store              \n", "Amazon EC2 NVMe Instance Storage\n"
    for path, text in {
        "/sys/devices/nvme0n1/device/model": ebs,
        "/sys/devices/nvme1n1/device/model": ebs,
        "/sys/devices/nvme2n1/device/model": store,
        "/sys/devices/nvme0n1/size": "16777216\n",
        "/sys/devices/nvme0n1/nvme0n1p1/size": "16773087\n",
        "/sys/devices/nvme1n1/size": "209715200\n",
        "/sys/devices/nvme2n1/size": "927735808\n",
        "/sys/devices/nvme1n1/holders/dm-0": "",
        "/run/udev/data/b259:0": "E:ID_PART_TABLE_TYPE=gpt\n",
        "/run/udev/data/b259:1": "E:ID_FS_TYPE=ext4\nE:ID_FS_LABEL_ENC=cloudimg-rootfs\nE:ID_FS_UUID_ENC=0f-1\n",
        "/run/udev/data/b259:2": "E:ID_FS_TYPE=LVM2_member\nE:ID_FS_UUID_ENC=Yx-2\n",
        "/proc/self/mountinfo": "27 1 259:1 / / rw - ext4 /dev/root rw\n"
        "28 27 259:1 /var/x /bound rw - ext4 /dev/root rw\n"
        "29 27 254:0 / /srv/a\\040long/path/to/some/where/far rw - xfs /dev/mapper/vg-data rw\n",
        "/proc/swaps": "Filename\tType\tSize\n/dev/nvme2n1 partition 1 0 -2\n",
    }.items():
        plant(known.root, path, text)
    plant(known.root, "/sys/dev/block/259:1", {"link": "../../devices/nvme0n1/nvme0n1p1"})
    plant(known.root, "/sys/dev/block/254:0", {"link": "../../devices/virtual/block/dm-0"})
    return known


def shown(known: ScratchHost, form: str = "text", *, denied: bool = False) -> str:
    written: list[str] = []

    def answer(path: str) -> bytes:
        if denied:
            raise PermissionError(13, "Permission denied", path)
        return PAGES[path.rpartition("/")[2]]

    assert disks_verb.run(argparse.Namespace(format=form), known, written.append, answer) == 0
    return "".join(written)


def with_metadata(known: ScratchHost) -> None:
    instance = Instance("i-0123456789abcdef0", "Ec2", devices=(("ami", "/dev/xvda"), ("ebs1", "sdf")))
    plant(known.root, f"{folder(instance.id)}/instance.json", json.dumps(instance._asdict()))
    plant(known.root, "/run/cloudboot/status.json", json.dumps({"instance": instance.id}))


def test_the_table(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    with_metadata(known)
    assert shown(known).splitlines() == [
        "DEVICE       SIZE       EC2 NAME         VOLUME                 HOLDS                 MOUNTED ON",
        "nvme0n1      8 GiB      xvda, ami        vol-00000000000000000  (gpt)",
        '  nvme0n1p1  8 GiB                                              ext4 "cloudimg-root…  /',
        "nvme1n1      100 GiB    sdf, ebs1        vol-0123456789abcdef0  LVM2_member           /srv/a long/p…",
        "nvme2n1      442.4 GiB  ephemeral0, sdh  instance store                               [swap]",
        "",
        "How each was found out:",
        "  nvme0n1    xvda: its NVMe controller; ami: the metadata; vol-00000000000000000: its serial number;",
        "             EBS: its model; a partition table (gpt): udev",
        "  nvme0n1p1  ext4 labelled 'cloudimg-rootfs', UUID 0f-1: udev",
        "  nvme1n1    sdf: its NVMe controller; ebs1: the metadata; vol-0123456789abcdef0: its serial number;",
        "             EBS: its model; LVM2_member, UUID Yx-2: udev",
        "  nvme2n1    ephemeral0: its NVMe controller; sdh: its NVMe controller; instance store: its model",
    ]


def test_it_fits_whatever_it_shows(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    plant(known.root, "/run/udev/data/b259:3", f"E:ID_FS_TYPE=xfs\nE:ID_FS_LABEL_ENC={'x' * 200}\n")
    assert max(map(len, shown(known, denied=True).splitlines())) <= 100


def test_what_an_ordinary_user_sees(tmp_path: Path) -> None:
    known = nitro(tmp_path)
    with_metadata(known)
    known.root.privileged = False
    text = shown(known, denied=True)
    assert "sdf: udev's link /dev/sdf" in text
    assert "vol-0123456789abcdef0" in text
    assert text.endswith(
        "As root this would show more:\n"
        "  the names in the metadata (ephemeral0, ebs1 …): they are kept for root\n"
        "  the EC2 names of nvme0n1, nvme1n1, nvme2n1: only root may ask an NVMe controller\n"
        "  what is on nvme2n1: udev keeps nothing of it, and only root may read the device\n"
    )


def test_as_json(tmp_path: Path) -> None:
    document = json.loads(shown(nitro(tmp_path), "json"))
    assert document["needs_root"] == []
    assert [each["name"] for each in document["disks"]] == ["nvme0n1", "nvme0n1p1", "nvme1n1", "nvme2n1"]
    assert document["disks"][1] == {
        "name": "nvme0n1p1",
        "disk": "nvme0n1",
        "size": 16773087 * 512,
        "ec2_names": [],
        "volume": "vol-00000000000000000",
        "kind": "EBS",
        "file_system": "ext4",
        "label": "cloudimg-rootfs",
        "uuid": "0f-1",
        "partition_table": None,
        "mounted": ["/"],
        "found": {"content": "udev"},
    }
    assert document["disks"][3]["kind"] == "instance store"
    assert document["disks"][3]["volume"] is None
    assert document["disks"][3]["found"]["ephemeral0"] == "its NVMe controller"


def test_xen_by_the_kernels_names(tmp_path: Path) -> None:
    known = host(tmp_path, {"xvda": "", "xvda/xvda1": "", "xvdf": ""})
    text = shown(known)
    assert "sdf: the kernel's name (Xen)" in text
    assert shown(host(tmp_path / "uec", {"vda": "", "vdb": ""})).count("sd") == 0  # virtio's letters are no names


def test_no_disks_at_all(tmp_path: Path) -> None:
    known = ScratchHost(Root(str(tmp_path)))
    with pytest.raises(CloudbootError, match="an image tree has no machine's disks"):
        shown(known)
    plant(known.root, "/sys/class/block", {"dir": True})
    assert shown(known) == "no disks\n"


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["disks", "--root", str(tmp_path)]) == 1
    assert "sys/class/block is not there" in capsys.readouterr().err
    known = nitro(tmp_path)
    assert cli.main(["disks", "--root", known.root.directory, "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["disks"]) == 4


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1 << 30, "1 GiB"),
        (1610612736, "1.5 GiB"),
        (1 << 45, "32 TiB"),
        (1 << 61, "2048 PiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert disks_verb.readable(size) == text
