"""Volumes on loop devices: told apart and read without a byte written, many about as fast as few."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boot.bed import Scratch
from boot.bed.command import run
from cloudboot import volume_reader, volume_worker, volumes
from cloudboot.disks import Disks
from cloudboot.errors import ConfigError
from cloudboot.host import Host
from cloudboot.identity_file import Policy
from cloudboot.log import Log
from cloudboot.root import Root
from cloudboot.volume_reader import CopyFile, Found
from cloudboot.volumes import State
from unit.modules.treehost import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SAYS = b"mount: {where: /srv/data}\n"
PAYLOAD = b"#!/bin/sh\necho hello\n"


@pytest.fixture
def host() -> Host:
    root = Root("/")
    return Host(root, Log(root, echo=False, keep=False))


@pytest.fixture
def loop() -> Iterator[Callable[[str], str]]:
    """Make loop devices over files; returns the kernel name."""
    nodes: list[str] = []

    def make(file: str) -> str:
        nodes.append(run(["losetup", "--find", "--show", file]).stdout.strip())
        return nodes[-1].removeprefix("/dev/")

    yield make
    for node in nodes:
        run(["losetup", "--detach", node])


# -- volumes of every kind


def file_system(scratch: Scratch, kind: str, *, dirty: bool = False) -> str:
    """Return a volume with an identity file; `dirty`: as a power cut leaves it, with a journal to be replayed."""
    image = blank(scratch, kind, {"ext4": 16, "xfs": 300, "btrfs": 110}[kind])
    run([f"mkfs.{kind}", "-q", "-L", f"a {kind}", image])
    where = scratch.directory("mnt")
    run(["mount", "-o", "loop", image, where])
    try:
        Path(where, "bin").mkdir()
        Path(where, volume_reader.IDENTITY).write_bytes(SAYS)
        Path(where, "bin/run").write_bytes(PAYLOAD)
        Path(where, "link").symlink_to("/etc/passwd")
        Path(where, "lbin").symlink_to("bin")
        os.mkfifo(f"{where}/fifo")
        if not dirty:
            return image
        run(["sync", "-f", where])
        for number in range(20):
            file = os.open(f"{where}/late{number}", os.O_WRONLY | os.O_CREAT)
            os.write(file, b"late")
            os.fsync(file)
            os.close(file)
        cut = f"{image}.cut"
        run(["cp", "--sparse=always", image, cut])
        os.unlink(image)
        return cut
    finally:
        run(["umount", where])


def blank(scratch: Scratch, kind: str, mib: int = 4) -> str:
    image = f"{scratch.directory(kind)}/volume.img"
    with open(image, "wb") as file:
        file.truncate(mib << 20)
    return image


def swap(scratch: Scratch) -> str:
    image = blank(scratch, "swap")
    run(["mkswap", "-q", image])
    return image


def garbage(scratch: Scratch) -> str:
    image = blank(scratch, "garbage")
    with open(image, "r+b") as file:
        file.write(hashlib.shake_256(b"garbage").digest(1 << 20))
    return image


def lvm(scratch: Scratch) -> str:
    """A physical volume's label, as pvcreate writes it into the second sector."""
    image = blank(scratch, "lvm")
    body = (32).to_bytes(4, "little") + b"LVM2 001" + b"0123456789abcdef0123456789abcdef"
    body = body.ljust(492, b"\0")
    crc = ~zlib.crc32(body, ~0xF597A6CF & 0xFFFFFFFF) & 0xFFFFFFFF  # LVM's: another start, not inverted
    with open(image, "r+b") as file:
        file.seek(512)
        file.write(b"LABELONE" + (1).to_bytes(8, "little") + crc.to_bytes(4, "little") + body)
    return image


def luks(scratch: Scratch) -> str:
    """The beginning of a LUKS2 header."""
    image = blank(scratch, "luks")
    header = b"LUKS\xba\xbe" + (2).to_bytes(2, "big") + (16384).to_bytes(8, "big") + (1).to_bytes(8, "big")
    header = header.ljust(168, b"\0") + b"7ba7b810-9dad-41d1-80b4-00c04fd430c8"
    with open(image, "r+b") as file:
        file.write(header)
    return image


KINDS: dict[str, Callable[[Scratch], str]] = {
    "ext4": lambda scratch: file_system(scratch, "ext4"),
    "xfs": lambda scratch: file_system(scratch, "xfs"),
    "btrfs": lambda scratch: file_system(scratch, "btrfs"),
    "ext4 dirty": lambda scratch: file_system(scratch, "ext4", dirty=True),
    "xfs dirty": lambda scratch: file_system(scratch, "xfs", dirty=True),
    "btrfs dirty": lambda scratch: file_system(scratch, "btrfs", dirty=True),
    "lvm": lvm,
    "luks": luks,
    "swap": swap,
    "blank": lambda scratch: blank(scratch, "blank"),
    "unknown": garbage,
}


def checksum(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def loops() -> set[str]:
    """Return what loop devices stand before."""
    return set(run(["losetup", "--noheadings", "--list", "--output", "BACK-FILE"]).stdout.split())


# -- the tests


@pytest.mark.container
def test_32_volumes_are_told_apart_unwritten_and_as_fast(
    scratch: Scratch, host: Host, loop: Callable[[str], str]
) -> None:
    names = [*KINDS, *KINDS, *list(KINDS)[:10]]
    assert len(names) == 32
    images = [KINDS[name](scratch) for name in names]
    sums = [checksum(image) for image in images]
    devices = [loop(image) for image in images]
    known, policy = Disks(host, {}), Policy.of(True)
    assert policy is not None
    few = devices[:4]
    times = {len(some): min(seconds(known, policy, some) for _ in range(3)) for some in (few, devices)}
    found = volumes.survey(known, policy, {}, devices)
    print(f"4 volumes: {times[4]:.3f} s, 32 volumes: {times[32]:.3f} s, {times[32] / times[4]:.1f} times")
    assert [each.found.content.kind for each in found] == [name.split()[0] for name in names]
    for name, each in zip(names, found, strict=True):
        kind, _, dirty = name.partition(" ")
        if kind in ("ext4", "xfs", "btrfs"):
            assert each.found.content.state in (dirty or "clean", "unknown"), name  # of xfs no superblock tells
            assert each.found.content.label == f"a {kind}"
            assert each.identity is not None or (dirty and each.state is State.UNREADABLE), each
        else:
            assert each.state is State.NOTHING, each
    assert not loops() & {f"/dev/{device}" for device in devices}, "a loop device is left"
    for device in devices:
        os.close(os.open(f"/dev/{device}", os.O_RDONLY | os.O_EXCL))  # nobody holds it
    assert [checksum(image) for image in images] == sums, "something was written"
    assert times[32] < 6 * times[4], times  # 2 on a quiet machine


def seconds(known: Disks, policy: Policy, names: Sequence[str]) -> float:
    began = time.monotonic()
    volumes.survey(known, policy, {}, names)
    return time.monotonic() - began


@pytest.mark.container
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_file_that_is_in_the_journal_only_is_not_taken_for_absent(
    scratch: Scratch, host: Host, loop: Callable[[str], str], kind: str
) -> None:
    image = blank(scratch, kind, {"ext4": 16, "xfs": 300, "btrfs": 110}[kind])
    run([f"mkfs.{kind}", "-q", image])
    where = scratch.directory("mnt")
    run(["mount", "-o", "loop", image, where])
    try:
        file = os.open(f"{where}/{volume_reader.IDENTITY}", os.O_WRONLY | os.O_CREAT)
        os.write(file, SAYS)
        os.fsync(file)
        os.close(file)
        run(["cp", "--sparse=always", image, f"{image}.cut"])
    finally:
        run(["umount", where])
    before = checksum(f"{image}.cut")
    policy = Policy.of(True)
    assert policy is not None
    (cut,) = volumes.survey(Disks(host, {}), policy, {}, [loop(f"{image}.cut")])
    assert cut.identity is not None or cut.verdict == "unreadable: dirty"
    assert checksum(f"{image}.cut") == before
    os.unlink(f"{image}.cut")
    run([f"mkfs.{kind}", "-q", "-f" if kind != "ext4" else "-F", image])
    (empty,) = volumes.survey(Disks(host, {}), policy, {}, [loop(image)])
    assert empty.state is State.NO_IDENTITY


@pytest.mark.container
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_only_plain_files_of_the_volume_are_read(
    scratch: Scratch, host: Host, loop: Callable[[str], str], kind: str
) -> None:
    found = volume_reader.look(host, [loop(file_system(scratch, kind))])[0]
    assert volume_reader.read(host, [found])[0].identity == SAYS
    assert volume_reader.digests(host, found, ["bin/run"]) == {"bin/run": hashlib.sha256(PAYLOAD).hexdigest()}
    for path, reason in {
        "link": "symlink",
        "lbin/run": "symlink",
        "../etc/passwd": "no path",
        "bin/../bin/run": "no path",
        "fifo": "no regular file",
        "bin": "no regular file",
        "nothing": "not on the volume",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            volume_reader.digests(host, found, [path])


@pytest.mark.container
def test_an_identity_file_that_is_a_link_or_too_large(scratch: Scratch, host: Host, loop: Callable[[str], str]) -> None:
    tree = scratch.directory("tree")
    images = []
    for kind in ("link", "large"):
        place = Path(tree, volume_reader.IDENTITY)
        place.unlink(missing_ok=True)
        if kind == "link":
            place.symlink_to("/etc/hostname")
        else:
            place.write_bytes(bytes(volume_reader.SMALL + 1))
        images.append(blank(scratch, kind, 16))
        run(["mkfs.ext4", "-q", "-d", tree, images[-1]])
    found = volume_reader.look(host, [loop(image) for image in images])
    link, large = volume_reader.read(host, found)
    assert "symlink" in link.error
    assert "65537 bytes, 65536 are allowed" in large.error


@pytest.mark.container
def test_a_copy_is_what_was_signed_or_is_not_there(scratch: Scratch, host: Host, loop: Callable[[str], str]) -> None:
    name = loop(file_system(scratch, "ext4"))
    path = f"{scratch.directory('copies')}/deep/run"
    good = CopyFile(name, "ext4", "bin/run", hashlib.sha256(PAYLOAD).hexdigest(), path)
    with pytest.raises(ConfigError, match="not what was signed"):
        host.do(good._replace(sha256="0" * 64))
    assert os.listdir(os.path.dirname(path)) == []
    assert host.do(good)
    assert Path(path).read_bytes() == PAYLOAD
    assert os.stat(path).st_mode & 0o7777 == 0o700
    assert not host.do(good)


@pytest.mark.container
def test_what_is_mounted_is_left_alone(scratch: Scratch, host: Host, loop: Callable[[str], str]) -> None:
    name, where = loop(file_system(scratch, "ext4")), scratch.directory("mnt")
    policy = Policy.of(True)
    assert policy is not None
    run(["mount", f"/dev/{name}", where])
    try:
        (found,) = volumes.survey(Disks(host, {}), policy, {}, [name])
        assert (found.state, found.reason) == (State.IN_USE, f"is mounted on {where}")
    finally:
        run(["umount", where])


@pytest.mark.container
@pytest.mark.parametrize("names", [slice(0, 2), slice(1, 2)], ids=["both", "attached later"])
def test_a_uuid_that_is_in_use_names_no_volume(
    scratch: Scratch, host: Host, loop: Callable[[str], str], names: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a line of fstab for the volume would mean the file system in use, and its owner be changed."""
    used, twin = (file_system(scratch, "ext4") for _ in range(2))
    run(["tune2fs", "-f", "-U", "11111111-2222-4333-8444-555555555555", used])
    run(["tune2fs", "-f", "-U", "11111111-2222-4333-8444-555555555555", twin])
    devices, where = [loop(used), loop(twin)], scratch.directory("mnt")
    monkeypatch.setattr(volume_reader, "candidates", lambda _: devices)  # loops are no disks of a machine
    policy = Policy.of(True)
    assert policy is not None
    run(["mount", f"/dev/{devices[0]}", where])
    try:
        found = volumes.survey(Disks(host, {}), policy, {}, devices[names])
        assert found[-1].verdict == ("refused: another volume has the same UUID (11111111-2222-4333-8444-555555555555)")
    finally:
        run(["umount", where])


@pytest.mark.container
def test_one_device_of_a_btrfs_over_two_is_not_opened(scratch: Scratch, host: Host, loop: Callable[[str], str]) -> None:
    """The kernel would replay its log onto the other device, before which there is no loop device of ours."""
    images = [blank(scratch, "btrfs", 256) for _ in range(2)]
    devices = [loop(image) for image in images]
    run(["mkfs.btrfs", "-q", "-f", "-d", "single", "-m", "raid1", *(f"/dev/{device}" for device in devices)])
    run(["btrfs", "device", "scan", *(f"/dev/{device}" for device in devices)])
    where = scratch.directory("mnt")
    run(["mount", "-o", "commit=300", f"/dev/{devices[0]}", where])
    try:
        Path(where, "early").write_bytes(bytes(8192))
        run(["sync", "-f", where])
        file = os.open(f"{where}/late", os.O_WRONLY | os.O_CREAT)
        os.write(file, bytes(9000))
        os.fsync(file)
        os.close(file)
        cuts = [f"{image}.cut" for image in images]
        for image, cut in zip(images, cuts, strict=True):
            run(["cp", "--sparse=always", image, cut])
    finally:
        run(["umount", where])
        run(["btrfs", "device", "scan", "--forget"])
    sums, devices = [checksum(cut) for cut in cuts], [loop(cut) for cut in cuts]
    run(["btrfs", "device", "scan", *(f"/dev/{device}" for device in devices)])  # as udev does
    try:
        policy = Policy.of(True)
        assert policy is not None
        found = volumes.survey(Disks(host, {}), policy, {}, devices)
        assert [(each.state, each.found.content.detail) for each in found] == [
            (State.NOTHING, "one of 2 devices of btrfs")
        ] * 2
        # Not even the worker itself writes, should it be told to read one.
        volume_reader.read(host, [found[0].found._replace(content=found[0].found.content._replace(kind="btrfs"))])
        run(["sync"])
        assert [checksum(cut) for cut in cuts] == sums
    finally:
        run(["btrfs", "device", "scan", "--forget"])


@pytest.mark.container
def test_a_volume_that_lies_about_its_kind(scratch: Scratch, host: Host, loop: Callable[[str], str]) -> None:
    found = volume_reader.look(host, [loop(garbage(scratch))])[0]
    lying = Found(found.name, None, found.content._replace(kind="xfs"))
    assert volume_reader.read(host, [lying])[0].error.startswith("cannot be mounted")


def test_who_hangs_holds_up_nobody_else() -> None:
    wait = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            wait.wait(20)
        return number * 2

    began = time.monotonic()
    assert volume_reader.at_once(work, [0, 1, 2, 3, 4], 1, 0.6) == [0, None, 4, 6, 8]
    assert time.monotonic() - began < 5
    wait.set()


@pytest.mark.container
def test_a_worker_that_hangs_or_dies_loses_its_volume_only(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("container")

    def read(device: str, kind: str) -> dict[str, object]:
        if device.startswith("hangs"):
            time.sleep(300)
        if device.startswith("dies"):
            os._exit(3)
        return {"identity": f"{device} {kind}"}

    monkeypatch.setattr(volume_worker, "read", read)
    monkeypatch.setattr(volume_worker, "LIMIT", 1)
    began, before = time.monotonic(), children()
    names = [f"{what}{number}" for number in range(6) for what in ("good", "hangs", "dies", "well")]
    found = volume_worker.read_all([(name, "ext4") for name in names])
    for name in names:
        answers = {"h": {"error": "did not answer within 1 s"}, "d": {"error": "could not be read"}}
        assert found[name] == answers.get(name[0], {"identity": f"{name} ext4"})
    assert time.monotonic() - began < 15
    for child in children() - before:  # nobody is left: who is waited for has ended
        os.waitpid(child, 0)


def children() -> set[int]:
    """Return the processes that this one has started."""
    return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def test_a_bug_is_not_taken_for_an_answer() -> None:
    def work(number: int) -> int:
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        volume_reader.at_once(work, [1, 0], 4, 5)


def test_worker_and_reader_agree() -> None:
    names = ("IDENTITY", "SIGNATURE", "SMALL")
    assert [getattr(volume_worker, name) for name in names] == [getattr(volume_reader, name) for name in names]


def test_the_worker_needs_no_more_than_the_standard_library() -> None:
    source = Path(volume_reader.WORKER).read_bytes()
    result = subprocess.run(
        ["python3", "-IS", "-", "read", "/dev/null", "ext4"], input=source, capture_output=True, check=True
    )
    assert b"cannot be mounted" in result.stdout
