"""Programs of volumes: how often they run, and what becomes of an interruption."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from casebook import BASE_TREE, NoFetcher, ScratchHost, plant
from cloudboot import volume_programs
from cloudboot.commands import Commands
from cloudboot.identity_file import Identity
from cloudboot.instance import Instance
from cloudboot.ledger import Ledger, State
from cloudboot.module import Context, Frequency
from cloudboot.process import Result
from cloudboot.root import Root
from cloudboot.superblock import Superblock
from cloudboot.volume_reader import Found
from cloudboot.volumes import State as Verdict
from cloudboot.volumes import Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = b"#!/bin/sh\necho hello\n"
FIRST, SECOND = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2"


class VolumeHost(ScratchHost):
    """A scratch machine with a volume, from which our worker copies the program."""

    def spawn(self, argv: Sequence[str], *, output: int | None = None, **options: Any) -> Result:
        if argv[:4] == ["python3", "-IS", "-", "copy"] and output is not None:
            os.write(output, PROGRAM)
            return Result(0)
        return super().spawn(argv, output=output, **options)


class Machine:
    """A machine on which a volume's program is prepared and run."""

    def __init__(self, folder: Path) -> None:
        self.root = Root(str(folder))
        for path, what in BASE_TREE.items():
            plant(self.root, path, what)
        self.host = VolumeHost(self.root)
        self.instance = FIRST

    def context(self) -> Context:
        return Context(
            host=self.host, config={"consume": True}, instance=Instance(self.instance, "Ec2"), image={}, marks={},
            commands=Commands(self.host, f"/var/lib/cloudboot/instances/{self.instance}", "consume_programs"),
            fetcher=NoFetcher(), first=True, name="consume",
        )  # fmt: skip

    def boot(self, volume: Volume) -> tuple[int, list[str]]:
        """Return how often the program ran, and what failed."""
        before = self.runs()
        ctx = self.context()
        volume_programs.prepare(ctx, volume)
        volume_programs.run_all(ctx)
        return self.runs() - before, ctx.failures

    def runs(self) -> int:
        return sum(line.startswith("timeout ") for line in self.host.spawned)

    def reboot(self) -> None:
        for name in self.host.listdir("/run/cloudboot/ran"):
            self.root.remove(f"/run/cloudboot/ran/{name}")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def volume(frequency: str = "per-volume", *, digest: str = "a" * 64, sha: str = sha256(PROGRAM).hexdigest()) -> Volume:
    identity = Identity("run", program="bin/setup", frequency=frequency, timeout=60, digests={"bin/setup": sha})
    found = Found("xvdf", None, Superblock("ext4", "clean", "vendor", "8bb587f2-b56d-48bb-b85d-5dcc827558b5"))
    return Volume(found, "vol-0123456789abcdef0", Verdict.ACCEPTED, "", identity, digest, True)


@pytest.mark.parametrize(
    ("frequency", "again", "after_reboot", "on_another_instance"),
    [("per-volume", 0, 0, 0), ("per-instance", 0, 0, 1), ("per-boot", 0, 1, 1)],
)
def test_it_runs_as_often_as_it_says(
    machine: Machine, frequency: str, again: int, after_reboot: int, on_another_instance: int
) -> None:
    assert machine.boot(volume(frequency)) == (1, [])
    assert machine.boot(volume(frequency)) == (again, [])
    machine.reboot()
    assert machine.boot(volume(frequency)) == (after_reboot, [])
    machine.reboot()
    machine.instance = SECOND
    assert machine.boot(volume(frequency)) == (on_another_instance, [])
    assert machine.host.listdir(volume_programs.COPIES) == [], "copies are left"


def test_another_identity_file_is_another_program(machine: Machine) -> None:
    assert machine.boot(volume()) == (1, [])
    assert machine.boot(volume(digest="b" * 64)) == (1, [])


def test_an_interrupted_one_is_not_started_again_until_the_owner_says_so(machine: Machine) -> None:
    name = f"consume.{volume().key}"
    ledger = Ledger(machine.host, f"/var/lib/cloudboot/instances/{FIRST}")
    ledger.note(name, Frequency.ONCE, State.STARTED)
    runs, failures = machine.boot(volume())
    assert runs == 0
    assert f"remove /var/lib/cloudboot/once/{name}" in failures[0]
    machine.root.remove(f"/var/lib/cloudboot/once/{name}")
    assert machine.boot(volume()) == (1, [])


def test_what_changed_since_it_was_judged_does_not_run(machine: Machine) -> None:
    runs, failures = machine.boot(volume(sha="0" * 64))
    assert runs == 0
    assert "refused: bin/setup: is not what was signed" in failures[0]


def test_a_copy_stays_in_its_directory(machine: Machine) -> None:
    assert volume_programs._inside("/copies/x", "../../etc/cron.d/x") == "/copies/x/etc/cron.d/x"


def test_a_user_that_is_not_there(machine: Machine) -> None:
    wanted = volume()
    assert wanted.identity is not None
    runs, failures = machine.boot(wanted._replace(identity=wanted.identity._replace(user="nobody-here")))
    assert runs == 0
    assert "no such user: 'nobody-here'" in failures[0]
