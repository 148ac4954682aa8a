"""A root without room: no stage dies, the login is set up as far as it can be, and the next boot makes up for it."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from casebook import plant
from cloudboot import consumed_root
from cloudboot.boot import Boot
from cloudboot.host import Host
from cloudboot.log import Log
from cloudboot.module import Context, Frequency, Stage
from unit.test_boot import ASSET, DATA, A, B, Machine
from unit.test_consumed_root import KEY, KEYS, OTHER, USED
from unit.test_runner import World, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cloudboot.actions import Action

MIB = 1 << 20
FULL = "No space left on device"
SCRIPTED = f"{DATA}runcmd: [echo hello]\n"


def exhaust(use: Callable[[int], object]) -> None:
    """Use something up."""
    for number in itertools.count():
        use(number)


class Small(Machine):
    """A scratch tree on a file system of its own, with a /run beside it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ballast = 0

    def fill(self) -> None:
        """Leave not one free block and not one free inode."""
        self.ballast += 1
        place = Path(self.root.outside(f"/ballast{self.ballast}"))
        place.mkdir()
        with pytest.raises(OSError, match=FULL):  # inodes first: files without a block
            exhaust(lambda number: (place / str(number)).touch())
        with open(place / "0", "wb", buffering=0) as file, pytest.raises(OSError, match=FULL):
            exhaust(lambda _: file.write(bytes(512)))

    def empty(self) -> None:
        """Make room again."""
        for number in range(1, self.ballast + 1):
            self.root.remove(f"/ballast{number}")

    def start(self, report: str = "") -> dict[str, Any]:
        """Boot, each stage a process of its own as far as it can see; return the status."""
        for name in self.root.listdir("/run"):
            self.root.remove(f"/run/{name}")
        if report:
            plant(self.root, consumed_root.FILE, report)
        for stage in Stage:
            self.boot(stage, new=False)
        return self.boot(Stage.FINAL, new=False).status.values


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    if os.geteuid() != 0:
        pytest.skip("mounts a file system")
    image, place = tmp_path / "image", tmp_path / "root"
    with open(image, "wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "512", "-I", "256", str(image)], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        (place / "run").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place / "run")], check=True)
        yield Small(place)
    finally:
        subprocess.run(["umount", "-R", str(place)], check=True)


def states(status: dict[str, Any]) -> set[str]:
    return {entry["state"] for entry in status["stages"].values()}


def told(status: dict[str, Any]) -> list[str]:
    return [text for text in status["errors"] if FULL in text]


# -- a real file system


def test_a_settled_boot(small: Small) -> None:
    plant(small.root, ASSET, f"{A}\n")
    with small.serve():
        small.start()
        keys = small.text(KEYS)
        assert keys
        small.fill()
        status = small.start()
    assert states(status) <= {"done", "skipped"}
    assert small.text(KEYS) == keys
    assert status["kind"] == "same"


def test_a_new_instance(small: Small) -> None:
    plant(small.root, ASSET, f"{A}\n")
    with small.serve(A, SCRIPTED):
        small.fill()
        status = small.start()
        assert states(status) <= {"done", "skipped"}
        assert told(status)
        assert status["instance"] == A
        assert status["modules"]["users_groups"]["state"] == "failed"
        assert status["modules"]["ssh"]["state"] == "failed"
        assert small.result()["status"] == "error"
        small.empty()
        status = small.start()
    assert (status["kind"], status["errors"]) == ("new", [])
    assert small.text(KEYS)
    assert small.text("/etc/motd") == "hi"
    assert status["modules"]["runcmd"]["state"] == "done"


def test_a_volume_on_another_instance(small: Small) -> None:
    plant(small.root, ASSET, f"{A}\n")
    with small.serve(A, SCRIPTED):
        small.start(USED)
    name = small.text("/etc/hostname")
    plant(small.root, ASSET, f"{B}\n")
    with small.serve(B, SCRIPTED, keys=[OTHER]):
        small.fill()
        status = small.start(USED)
        assert states(status) <= {"done", "skipped"}
        assert told(status)
        assert (status["kind"], status["instance"], status["root"]["key"]) == ("same", B, KEY)
        assert status["modules"]["ssh"]["state"] == "failed"
        assert small.text("/etc/hostname") == name
        small.empty()
        status = small.start(USED)
    assert status["errors"] == []
    assert OTHER in (small.text(KEYS) or "")
    assert status["modules"].get("runcmd", {}).get("state") != "done", "it ran once for the volume"


# -- wherever it begins


def room_for(changes: int) -> Callable[[int, Action], None]:
    """Return what lets so many changes be made on the disk, and then none any more; /run has room for ever."""
    steps = itertools.count()

    def full(_: int, action: Action) -> None:
        path = getattr(action, "path", "/run")
        if not path.startswith("/run") and next(steps) >= changes:
            raise OSError(errno.ENOSPC, FULL, path)

    return full


def without_room(machine: Machine, first: int) -> dict[str, Any]:
    """Boot, each stage a process of its own, with room for so many changes; return the status."""
    room = room_for(first)
    for stage in Stage:
        boot = Boot(Host(machine.root, Log(machine.root, echo=False), on_change=room))
        boot.run([stage])
    return boot.status.values


@pytest.mark.parametrize("first", range(0, 48, 3))
def test_no_stage_dies_wherever_the_room_ends(tmp_path: Path, first: int) -> None:
    machine = Machine(tmp_path)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A, SCRIPTED):
        status = without_room(machine, first)
        assert states(status) <= {"done", "skipped"}, status["errors"]
        assert {"users_groups", "ssh"} <= set(status["modules"])
        status = machine.boot().status.values
    assert states(status) <= {"done", "skipped"}
    # Where it could be noted that the script started, and not that it ended, it is not run twice.
    assert set(status["errors"]) <= {"runcmd item 1: interrupted"}
    assert machine.text(KEYS)
    assert machine.text("/etc/motd") == "hi"


@pytest.mark.parametrize("first", range(0, 16, 2))
def test_no_stage_dies_on_another_instance(tmp_path: Path, first: int) -> None:
    machine = Machine(tmp_path)
    plant(machine.root, consumed_root.FILE, USED)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A, SCRIPTED):
        machine.boot(new=False)
    plant(machine.root, ASSET, f"{B}\n")
    with machine.serve(B, SCRIPTED, keys=[OTHER]):
        for room in (first, 1000):
            machine.root.remove("/run")
            plant(machine.root, consumed_root.FILE, USED)
            status = without_room(machine, room)
            assert states(status) <= {"done", "skipped"}, status["errors"]
            assert status["kind"] == "same"
    assert status["errors"] == []
    assert OTHER in (machine.text(KEYS) or "")


def test_a_script_that_cannot_be_noted_is_not_run(tmp_path: Path) -> None:
    ran: list[str] = []

    def work(ctx: Context) -> None:
        ran.append(ctx.name)

    modules = [make("a", work), make("b", work, converges=False), make("c", work)]
    for module in modules:
        assert module.frequency is Frequency.INSTANCE
    world = World(tmp_path, modules)

    def full(_: int, action: object) -> None:
        if "/ran" in getattr(action, "path", ""):
            raise OSError(errno.ENOSPC, FULL, "ran")

    world.host.on_change = full
    world.run()
    assert ran == ["a", "c"]
    assert [world.status.values["modules"][name]["state"] for name in "abc"] == ["failed"] * 3
    assert any("not run, it might be run twice" in text and FULL in text for text in world.status.values["errors"])
    world.host.on_change = None
    World(tmp_path, modules).run()
    assert ran == ["a", "c", "a", "b", "c"]
