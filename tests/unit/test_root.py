"""A directory as `/`: resolution as in a chroot, writes that are old or new."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cloudboot.actions import SwapTree
from cloudboot.host import Host
from cloudboot.log import Log
from cloudboot.root import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    for name in ("etc", "home/user", "run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001:U:/home/user:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nusers:x:100:user\nuser:x:1001:\n")
    return Root(str(tmp_path))


def test_absolute_links_stay_inside(root: Root, tmp_path: Path) -> None:
    os.symlink("/etc", tmp_path / "link")
    os.symlink("/../../etc/passwd", tmp_path / "etc/up")
    assert root.resolve("/link/passwd") == "/etc/passwd"
    assert root.read("/etc/up") == root.read("/etc/passwd")
    assert root.resolve("/link", follow=False) == "/link"
    assert root.resolve("/a/../../../etc") == "/etc"


def test_loop_is_an_error(root: Root, tmp_path: Path) -> None:
    os.symlink("two", tmp_path / "one")
    os.symlink("one", tmp_path / "two")
    with pytest.raises(OSError, match="one") as caught:
        root.resolve("/one")
    assert caught.value.errno == errno.ELOOP


def test_write_follows_a_link_to_its_target(root: Root, tmp_path: Path) -> None:
    (tmp_path / "etc/real").write_text("old")
    os.symlink("real", tmp_path / "etc/alias")
    root.write("/etc/alias", b"new", 0o600, 0, 0)
    assert (tmp_path / "etc/alias").is_symlink()
    assert (tmp_path / "etc/real").read_bytes() == b"new"
    assert (tmp_path / "etc/real").stat().st_mode & 0o777 == 0o600


def test_write_below_a_home_follows_no_link(root: Root, tmp_path: Path) -> None:
    os.symlink("/etc", tmp_path / "home/user/.ssh")
    with pytest.raises(OSError, match="ssh"):
        root.write("/home/user/.ssh/authorized_keys", b"key", 0o600, 0, 0, beneath="/home/user")
    assert not (tmp_path / "etc/authorized_keys").exists()
    os.unlink(tmp_path / "home/user/.ssh")
    (tmp_path / "home/user/.ssh").mkdir()
    os.symlink("/etc/passwd", tmp_path / "home/user/.ssh/authorized_keys")
    root.write("/home/user/.ssh/authorized_keys", b"key", 0o600, 0, 0, beneath="/home/user")
    assert not (tmp_path / "home/user/.ssh/authorized_keys").is_symlink()
    assert b"root:x" in (root.read("/etc/passwd") or b"")


def test_a_draft_left_by_a_crash_is_no_obstacle(root: Root, tmp_path: Path) -> None:
    (tmp_path / "etc/.fstab.cloudboot~").write_text("half")
    root.write("/etc/fstab", b"whole", 0o644, 0, 0)
    assert (tmp_path / "etc/fstab").read_bytes() == b"whole"
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["fstab", "group", "passwd"]


def test_a_failed_write_leaves_the_old_file(root: Root, tmp_path: Path) -> None:
    (tmp_path / "etc/fstab").write_text("old")
    with pytest.raises(TypeError):
        root.write("/etc/fstab", "text is not bytes", 0o644, 0, 0)  # type: ignore[arg-type]
    assert (tmp_path / "etc/fstab").read_text() == "old"


def test_owners(root: Root) -> None:
    assert root.ids("user") == (1000, 1001)
    assert root.ids("user:users") == (1000, 100)
    assert root.ids(":users") == (0, 100)
    assert root.ids("33:44") == (33, 44)
    with pytest.raises(KeyError, match="no such user"):
        root.ids("nobody-here")


def test_owners_that_cannot_be_set_are_recorded(root: Root, tmp_path: Path) -> None:
    root.privileged = False
    root.write("/etc/mine", b"x", 0o644, 1000, 1001)
    entry = Root(str(tmp_path))
    entry.privileged = False
    found = entry.look("/etc/mine")
    assert found is not None
    assert (found.uid, found.gid) == (1000, 1001)


def test_bounded_read(root: Root, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="big"):
        root.read("/big", limit=99)
    assert root.read("/absent") is None


def test_a_reader_never_sees_two_crawls(root: Root, tmp_path: Path) -> None:
    """1,000 refreshes under a reader that opens the directory and reads everything in it."""
    import threading

    host = Host(root, Log(root, echo=False))
    wrong: list[str] = []
    stop = threading.Event()
    rounds = [0]

    def crawl(number: int) -> dict[str, bytes]:
        return {
            name: str(number).encode()
            for name in ("metadata.json", "meta-data/instance-id", "meta-data/a/b", "user-data")
        }

    def read_all() -> None:
        while not stop.is_set():
            try:
                folder = os.open(tmp_path / "run/ec2", os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                wrong.append("the directory is missing")
                continue
            seen = set()
            for name in crawl(0):
                try:
                    file = os.open(name, os.O_RDONLY, dir_fd=folder)
                except FileNotFoundError:
                    wrong.append(f"{name} is missing")
                    continue
                seen.add(os.read(file, 100))
                os.close(file)
            os.close(folder)
            rounds[0] += 1
            if len(seen) != 1:
                wrong.append(f"a mix: {seen}")

    host.keep(SwapTree("/run/ec2", crawl(0)))
    reader = threading.Thread(target=read_all)
    reader.start()
    for number in range(1, 1001):
        host.keep(SwapTree("/run/ec2", crawl(number)))
    stop.set()
    reader.join()
    assert wrong == []
    assert rounds[0] > 10
    assert not host.keep(SwapTree("/run/ec2", crawl(1000)))
    assert (tmp_path / "run/ec2").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "run/ec2/user-data").stat().st_mode & 0o777 == 0o600
