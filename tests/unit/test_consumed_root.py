"""A root that is a volume's: the machine is the volume, the instance around it may be another."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from casebook import plant
from cloudboot import consumed_root
from cloudboot.instance import Identity, Kind, decide, may_have_moved
from cloudboot.ledger import Marker, State
from cloudboot.log import Log
from cloudboot.module import Frequency, Stage
from cloudboot.root import Root
from cloudboot.runner import Timing, why
from cloudboot.single import why_sentence
from unit.test_boot import ASSET, DATA, A, B, Machine

UUID = "1f0c8f0e-0000-4000-8000-000000000001"
KEY = f"root-{UUID}"
USED = f"state=used\nmode=overlay\ndevice=nvme1n1\nuuid={UUID}\nvolume=vol-0123\nlabel=vendor\nfirst=no\n"
FALLBACK = "state=fallback\nreason=no volume says that it is the root (waited 30 s)\nrefused=nvme2n1 (vol-9): it is not signed\n"
KEYS = "/home/debian/.ssh/authorized_keys"
C = "i-0cccccccccccccccc"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Rooted(NamedTuple):
    """Boots of a machine whose root is a volume's."""

    machine: Machine

    def boot(self, *stages: Stage, report: str = USED) -> dict[str, Any]:
        """Boot as after an initramfs that has left this; return the status."""
        self.machine.root.remove("/run")
        plant(self.machine.root, consumed_root.FILE, report)
        return self.machine.boot(*stages, new=False).status.values


def host_keys(machine: Machine) -> dict[str, str | None]:
    return {name: machine.text(f"/etc/ssh/{name}") for name in machine.root.listdir("/etc/ssh") if "host" in name}


# -- deciding


def test_the_volume_decides() -> None:
    words = [None, A, B]
    for hardware, service, previous in itertools.product(words, words, [None, Identity(A, A, A), Identity(KEY, A, A)]):
        found = decide(previous, hardware, service, KEY)
        assert found.id == KEY
        if previous is not None and previous.id == KEY:
            assert found.kind is Kind.SAME
        else:
            assert found.kind is (Kind.NEW if service else Kind.NEW_WITHOUT_DATA)


@pytest.mark.parametrize(
    ("hardware", "previous", "may"),
    [
        (A, Identity(KEY, A, A), False),
        (B, Identity(KEY, A, A), True),
        (None, Identity(KEY, None, A), True),
        (A, None, True),
    ],
)
def test_whether_it_may_have_moved(hardware: str | None, previous: Identity | None, may: bool) -> None:
    assert may_have_moved(previous, hardware) is may


def test_what_follows_the_instance_runs_again() -> None:
    from cloudboot import modules

    when = Timing(Frequency.INSTANCE, "the module's default")
    ran = Marker(State.DONE, "boot", 0.0, instance=A)

    def decided(name: str, instance: str) -> bool:
        each = modules.load(name)
        return why(each, when, keys=frozenset(each.keys), marker=ran, kind=Kind.SAME, instance=instance).run

    assert not decided("ssh", A)
    assert decided("ssh", B)
    assert not decided("users_groups", B)
    assert [each.name for each in modules.load_all() if each.follows] == ["ssh"]


# -- whole boots


@pytest.mark.parametrize("hardware", [True, False])
def test_another_instance_around_the_same_volume(machine: Machine, hardware: bool) -> None:
    rooted = Rooted(machine)
    for number, instance in enumerate([A, A, B, B, C]):
        if hardware:
            plant(machine.root, ASSET, f"{instance}\n")
        with machine.serve(instance, DATA.replace("hostname: web\n", "")):
            status = rooted.boot()
        assert status["kind"] == ("new" if number == 0 else "same")
        assert status["instance"] == instance
        assert status["root"] == {
            "key": KEY, "mode": "overlay", "device": "nvme1n1", "uuid": UUID, "volume": "vol-0123", "label": "vendor",
        }  # fmt: skip
        assert status["errors"] == []
        assert machine.result()["root"] == status["root"]
        assert machine.root.readlink("/var/lib/cloudboot/instance") == f"instances/{KEY}"
        assert f"CLOUDBOOT_INSTANCE_ID={instance}\n" in (machine.text("/run/cloudboot/instance.env") or "")
        if number == 0:
            keys, name = host_keys(machine), machine.text("/etc/hostname")
            plant(machine.root, "/etc/motd", "mine")
        assert host_keys(machine) == keys
        assert machine.text("/etc/hostname") == name, "the name is the volume's"
        assert machine.text("/etc/motd") == "mine", "what ran once for an instance has run once for the volume"
        ran = [module for module, facts in status["modules"].items() if facts["state"] == "done"]
        assert ("ssh" in ran) == (number in (0, 2, 4)), f"boot {number}: {ran}"


def test_the_new_instances_key_may_log_in(machine: Machine) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        rooted.boot()
    before = machine.text(KEYS)
    assert before
    machine.root.remove(KEYS)
    plant(machine.root, ASSET, f"{B}\n")
    with machine.serve(B):
        rooted.boot(Stage.LOCAL)
        assert machine.text("/run/cloudboot/skip/network") is None, "the login waits for the new instance's keys"
        machine.boot(Stage.NETWORK, new=False)
        assert machine.text(KEYS) == before
        assert "was attached to" in why_sentence(machine.boot(Stage.FINAL, new=False).host, "ssh")


def test_a_settled_boot_on_the_same_instance_starts_nothing(machine: Machine) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        rooted.boot()
    status = rooted.boot(Stage.LOCAL)
    assert status["kind"] == "same"
    assert machine.text("/run/cloudboot/skip/network") == ""


def test_an_outage_on_another_instance_changes_no_key(machine: Machine) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        rooted.boot()
    keys = host_keys(machine)
    plant(machine.root, ASSET, f"{B}\n")
    status = rooted.boot()
    assert status["kind"] == "same"
    assert status["instance"] == B
    assert host_keys(machine) == keys
    assert machine.result()["status"] == "degraded"
    with machine.serve(B):  # the next boot makes up for it
        status = rooted.boot()
        assert "was attached to" in status["modules"]["ssh"]["reason"]


def test_a_new_volume_on_a_known_instance_is_a_new_machine(machine: Machine) -> None:
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        machine.boot()
        status = Rooted(machine).boot()
    assert status["kind"] == "new"


def test_plan_of_a_moved_root(machine: Machine) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        rooted.boot()
    from cloudboot.cli import main

    plant(machine.root, ASSET, f"{B}\n")
    assert main(["plan", "--root", machine.root.outside("/")]) in (0, 2)


# -- what is said


def test_fallback_is_said_everywhere(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        status = Rooted(machine).boot(report=FALLBACK)
    assert status["root"] is None
    assert status["kind"] == "new"
    assert status["recoverable"] == [
        "root: refused: nvme2n1 (vol-9): it is not signed",
        "root: the image itself is booted: no volume says that it is the root (waited 30 s)",
    ]
    assert machine.result()["status"] == "degraded"
    assert any("the image itself is booted" in line for line in machine.lines)
    assert machine.root.readlink("/var/lib/cloudboot/instance") == f"instances/{A}"
    from cloudboot.cli import main

    main(["why", "consume", "--root", machine.root.outside("/")])
    assert "The image itself is booted: no volume says" in capsys.readouterr().out


def test_status_shows_both(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    from cloudboot.cli import main

    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        Rooted(machine).boot()
    assert main(["status", "--root", machine.root.outside("/")]) == 0
    shown = capsys.readouterr().out
    assert f"instance: {A} (new, Ec2)" in shown
    assert "root: vol-0123 (nvme1n1), overlay" in shown
    main(["why", "consume", "--root", machine.root.outside("/")])
    assert "The root of this system is vol-0123 (nvme1n1) (overlay)." in capsys.readouterr().out


def test_another_image_below_is_said(machine: Machine) -> None:
    with machine.serve(A):
        status = Rooted(machine).boot(report=f"{USED}rebased=yes\n")
    assert any("over another image" in text for text in status["recoverable"])


@pytest.mark.parametrize("content", ["", "nonsense", "state=used\n", "state=used\nuuid=\n", "=\n\n"])
def test_a_file_that_is_not_what_it_should_be(machine: Machine, content: str) -> None:
    with machine.serve(A):
        status = Rooted(machine).boot(report=content)
    assert status["root"] is None
    assert status["instance"] == A


@pytest.mark.parametrize(
    ("blocks", "free", "nearly"),
    [(1 << 20, 1 << 19, False), (1 << 20, 1 << 13, True), (1 << 15, 1 << 14, False), (1 << 15, 1 << 13, True)],
)
def test_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, free: int, nearly: bool) -> None:
    from cloudboot.host import Host

    state = os.statvfs_result((4096, 4096, blocks, free, free, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: state)
    root = Root(str(tmp_path))
    found = consumed_root.shortage(Host(root, Log(root, echo=False)))
    assert (found is not None) == nearly
