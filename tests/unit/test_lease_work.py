"""What the units of a lease call: the next spare work, its result, the report, the end; and the verb for people."""

from __future__ import annotations

import base64
import json
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from casebook import Book, plant
from cloudboot import lease_units, lease_verb, lease_work, leases
from cloudboot.errors import CloudbootError, UsageError
from cloudboot.lease_time import ARMED, CANCELLED, CLOSING, ENDED, stamp

if TYPE_CHECKING:
    from pathlib import Path

    from cloudboot.host import Host
    from cloudboot.leases import Lease

DATA = """#cloud-config
lease:
  until: hour-mark
  margin: 100s
  extend_while: test -e /nowhere/busy
  max: 3h
  run:
    - {name: once, command: "true"}
    - {name: a, command: "true", repeat: true}
    - {name: b, command: "true", repeat: true}
    - {suite: idle}
  collect: ["/srv/kept/*", /etc/hostname]
  report: {file: /srv/report.json}
"""
SHOW = (
    "ActiveState=deactivating\nResult={result}\nExecMainCode={code}\nExecMainStatus={status}\n"
    "ExecMainStartTimestampMonotonic=1000000\nExecMainExitTimestampMonotonic=3500000\n"
)


class Machine:
    """A scratch machine whose lease is armed at the 20th second of its boot."""

    def __init__(self, folder: Path, data: str = DATA, **case: Any) -> None:
        self.book = Book({"user-data": data, "tree": {"/proc/uptime": "20.00 0.00\n"}, **case}, folder, "lease")
        plant(self.book.root, "/var/lib/cloudboot/instance", {"link": f"instances/{self.book.instance.id}"})
        self.book.run()
        assert not self.book.status.values["errors"]
        self.host: Host = self.book.host
        self.said: list[str] = []
        self.book.host.spawned.clear()

    @property
    def lease(self) -> Lease:
        found = leases.load(self.host)
        assert found is not None
        return found

    @property
    def runs(self) -> list[dict[str, Any]]:
        return lease_work.load(self.host, self.lease)

    def later(self, uptime: float, boot: str = "") -> None:
        plant(self.book.root, "/proc/uptime", f"{uptime:.2f} 0.00\n")
        if boot:
            plant(self.book.root, "/proc/sys/kernel/random/boot_id", boot)

    def answers(self, result: str = "success", code: int = 1, status: int = 0) -> None:
        """Let systemd say this of every spare-time unit that has stopped."""
        shown = SHOW.format(result=result, code=code, status=status)
        self.book.host.tools = [{"argv": "systemctl show", "output": shown}]

    def verb(self, action: str, **words: Any) -> int:
        return lease_verb.run(SimpleNamespace(action=action, **words), self.host, self.said.append)  # type: ignore[arg-type]

    def ran(self, prefix: str) -> list[str]:
        return [line for line in self.book.host.spawned if line.startswith(prefix)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def do_all(machine: Machine, steps: int) -> list[str]:
    """Start and end spare work so many times; return the names in order."""
    names = []
    for _ in range(steps):
        machine.answers()
        name = lease_work.next_work(machine.host, machine.lease, lambda seconds: None)
        assert name is not None
        names.append(name)
        lease_work.note(machine.host, machine.lease, name)
    return names


def test_each_once_in_order_then_what_repeats_in_turn(machine: Machine) -> None:
    assert do_all(machine, 8) == ["once", "a", "b", "idle", "a", "b", "a", "b"]
    assert machine.ran("systemctl start --no-block cloudboot-lease-run-idle.service")
    assert {run["state"] for run in machine.runs} == {"done"}
    assert machine.runs[0]["seconds"] == 2.5


def test_nothing_is_started_beside_what_runs(machine: Machine) -> None:
    machine.answers()
    assert lease_work.next_work(machine.host, machine.lease) == "once"
    assert lease_work.next_work(machine.host, machine.lease) is None


def test_what_failed_is_repeated_after_a_pause(machine: Machine) -> None:
    pauses: list[float] = []
    do_all(machine, 4)
    machine.answers("exit-code", 1, 3)
    for _ in range(3):
        name = lease_work.next_work(machine.host, machine.lease, pauses.append)
        assert name in ("a", "b")
        lease_work.note(machine.host, machine.lease, name)
    assert pauses == [lease_work.PAUSE_FAILED], "only the third is a repetition of a failure"
    assert (machine.runs[-1]["state"], machine.runs[-1]["exit"]) == ("failed", 3)


@pytest.mark.parametrize(
    ("result", "code", "status", "closing", "state"),
    [
        ("success", 1, 0, False, "done"),
        ("success", 1, 0, True, "done"),
        ("exit-code", 1, 3, False, "failed"),
        ("exit-code", 1, 3, True, "stopped"),
        ("timeout", 2, 15, False, "timed out"),
        ("timeout", 2, 9, True, "stopped"),
        ("success", 2, 15, True, "stopped"),
        ("success", 2, 15, False, "interrupted"),  # by a shutdown that is not ours
        ("signal", 2, 11, False, "failed"),
        ("oom-kill", 2, 9, False, "failed"),
    ],
)
def test_what_became_of_it(machine: Machine, result: str, code: int, status: int, closing: bool, state: str) -> None:
    machine.answers()
    lease_work.next_work(machine.host, machine.lease)
    if closing:
        plant(machine.book.root, lease_units.CLOSING, "")
    machine.answers(result, code, status)
    lease_work.note(machine.host, machine.lease, "once")
    [run] = machine.runs
    assert (run["state"], run.get("exit" if code == 1 else "signal")) == (state, status)
    assert bool(machine.ran(f"systemctl start --no-block {lease_units.SPARE}")) is not closing


def test_of_what_repeats_for_long_the_last_runs_are_kept(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "#cloud-config\nlease: {until: 50m, run: [{name: a, command: 'true', repeat: true}]}\n")
    do_all(machine, lease_work.RUNS_KEPT + 5)
    numbers = [run["number"] for run in machine.runs]
    assert numbers == list(range(6, lease_work.RUNS_KEPT + 6))


def test_an_interrupted_one_is_neither_run_again_nor_lost(machine: Machine) -> None:
    machine.answers()
    lease_work.next_work(machine.host, machine.lease)
    machine.later(12, boot="another")
    machine.book.run()
    assert lease_work.next_work(machine.host, machine.lease) == "a"
    assert [(run["name"], run["state"]) for run in machine.runs] == [("once", "interrupted"), ("a", "running")]


def test_a_suite_has_a_result_for_programs(machine: Machine) -> None:
    do_all(machine, 3)
    assert lease_work.next_work(machine.host, machine.lease) == "idle"
    plant(machine.book.root, f"{leases.folder(machine.host)}/output/idle", 'a note\n{"suite": "idle", "load": [0.1]}\n')
    lease_work.note(machine.host, machine.lease, "idle")
    assert machine.runs[-1]["suite"] == {"suite": "idle", "load": [0.1]}


def test_the_report(machine: Machine) -> None:
    root = machine.book.root
    plant(root, "/srv/kept/one", "first\n")
    plant(root, "/srv/kept/.hidden", "not\n")
    plant(root, "/srv/kept/secret", {"link": "/etc/shadow"})
    plant(root, "/srv/kept/below", {"dir": True})
    do_all(machine, 1)
    machine.answers()
    lease_work.next_work(machine.host, machine.lease, lambda seconds: None)
    plant(root, f"{leases.folder(machine.host)}/output/a", "hello\n")
    plant(root, lease_units.CLOSING, "")
    machine.book.host.tools = [
        {
            "argv": "systemctl show",
            "output": SHOW.format(result="success", code=2, status=9).replace("deactivating", "failed"),
        }
    ]
    assert machine.verb("report") == 0
    report = json.loads(machine.host.text("/srv/report.json") or "")
    assert report["instance_id"] == machine.book.instance.id
    assert report["lease"]["mark"] == stamp(machine.lease.term.mark)
    assert [(run["name"], run["state"], run["text"]) for run in report["run"]] == [
        ("once", "done", ""),
        ("a", "stopped", "hello\n"),
    ]
    found = {each["path"]: each for each in report["collected"]}
    assert set(found) == {"/srv/kept/one", "/srv/kept/secret", "/srv/kept/below", "/etc/hostname"}
    assert base64.b64decode(found["/srv/kept/one"]["base64"]) == b"first\n"
    assert machine.host.read(found["/srv/kept/one"]["kept"]) == b"first\n"
    assert found["/srv/kept/secret"]["left_out"] == "reached through a symlink"
    assert found["/srv/kept/below"]["left_out"] == "is a dir, not a file"
    assert found["/etc/hostname"]["left_out"] == "No such file or directory"
    state = machine.host.look("/srv/report.json")
    assert state is not None
    assert state.mode == 0o600


def test_a_reboot_in_the_middle_is_not_reported(machine: Machine) -> None:
    machine.book.host.tools = [{"argv": "systemctl list-jobs", "output": "12 reboot.target start waiting\n"}]
    assert machine.verb("report") == 0
    assert machine.host.text("/srv/report.json") is None


def test_a_report_that_nobody_takes_is_said_and_kept(tmp_path: Path) -> None:
    data = DATA.replace("{file: /srv/report.json}", "{url: 'http://127.0.0.1:9/$INSTANCE_ID', tries: 1}")
    machine = Machine(tmp_path, data)
    assert machine.verb("report") == 1
    assert machine.host.exists(f"{leases.CURRENT}/report.json")
    assert "the report was not delivered: POST http://127.0.0.1:9/i-0123456789abcdef0" in (
        machine.host.text("/var/log/cloudboot.log") or ""
    )


# -- the end


def test_an_end_that_has_not_come_is_none(machine: Machine) -> None:
    """A timer may be older than an extension."""
    machine.verb("end")
    assert machine.lease.term.state == ARMED
    assert not machine.book.host.spawned


def test_the_end(machine: Machine) -> None:
    machine.later(3600)
    machine.verb("end")
    assert machine.lease.term.state == ENDED
    assert machine.ran("systemctl") == [
        "systemctl stop cloudboot-lease-spare.path cloudboot-lease-spare.service cloudboot-lease-run-once.service "
        "cloudboot-lease-run-a.service cloudboot-lease-run-b.service cloudboot-lease-run-idle.service",
        "systemctl stop cloudboot-lease-report.service",
        "systemctl -i --no-block poweroff",
    ]
    assert machine.host.exists(lease_units.CLOSING)
    assert not machine.host.exists(lease_units.LATE[0])
    assert any("it ends now" in line for line in machine.book.host.console)
    machine.book.run()  # a module that runs in between leaves it so
    assert machine.lease.term.state in (CLOSING, ENDED)


def test_extend_while_moves_it_up_to_max(tmp_path: Path) -> None:
    machine = Machine(tmp_path, DATA.replace("test -e /nowhere/busy", '"true"'))
    mark = machine.lease.term.mark
    for periods in (1, 2):
        machine.later(3600 * periods)
        machine.verb("end")
        assert (machine.lease.term.state, machine.lease.term.mark) == (ARMED, mark + 3600 * periods)
        timer = machine.host.text("/run/systemd/system/cloudboot-lease-end.timer") or ""
        assert f"OnBootSec={3600 + 3600 * periods - 100}\n" in timer
    machine.later(3600 * 3)
    machine.verb("end")
    assert machine.lease.term.state == ENDED
    assert any("not extended: its max is" in line for line in machine.book.host.console)


def test_the_end_of_spare_work_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, DATA.replace("  max: 3h", "  then: nothing"))
    machine.later(3600)
    machine.verb("end")
    assert machine.lease.term.state == ENDED
    assert not [line for line in machine.book.host.spawned if "poweroff" in line]
    assert not leases.ours(machine.host)


# -- the verb


def test_status(machine: Machine) -> None:
    do_all(machine, 1)
    machine.said.clear()
    assert machine.verb("status", format="text") == 0
    [text] = machine.said
    assert "lease: until 2023-11-14T23:13:00Z (hour-mark), in 1 h\n" in text
    assert "closing begins 100 s before" in text
    assert "EC2 stops or terminates the instance, as it was launched" in text
    assert "once: done in 2 s" in text
    assert "idle: has not run" in text
    machine.verb("status", format="json")
    values = json.loads(machine.said[-1])["lease"]
    assert (values["state"], values["then"], values["left"]) == ("armed", "poweroff", 3580.0)
    assert values["run"][0]["name"] == "once"


def test_extend_by_hand_knows_no_max(machine: Machine) -> None:
    mark = machine.lease.term.mark
    machine.verb("extend", duration="5h")
    assert machine.lease.term.mark == mark + 5 * 3600
    assert "systemctl daemon-reload" in machine.book.host.spawned
    with pytest.raises(UsageError, match="is no duration"):
        machine.verb("extend", duration="long")


def test_cancel(machine: Machine) -> None:
    assert leases.ours(machine.host)
    machine.verb("cancel")
    assert machine.lease.term.state == CANCELLED
    assert not leases.ours(machine.host)
    [stop] = machine.ran("systemctl stop")
    assert {"cloudboot-lease-end.timer", "cloudboot-lease-last.timer", "cloudboot-lease-report.service"} <= set(
        stop.split()
    )
    assert "cloudboot-lease-end.service" not in stop
    for action, words in (("cancel", {}), ("extend", {"duration": "1h"})):
        with pytest.raises(CloudbootError, match="the lease is cancelled"):
            machine.verb(action, **words)
    machine.later(10, boot="another")
    machine.book.run()
    assert not leases.ours(machine.host)


def test_no_lease_is_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "#cloud-config\nhostname: web\n")
    assert machine.verb("status", format="text") == 0
    assert machine.said == ["lease: none: nothing ends this machine\n"]
    with pytest.raises(CloudbootError, match="this machine has none"):
        machine.verb("cancel")


def test_what_a_boot_without_a_lease_looks_at_is_what_one_with_it_leaves(machine: Machine) -> None:
    declared = import_module("cloudboot.modules.lease")
    assert (leases.PUBLIC, lease_units.LATE[0]) == (declared.PUBLIC, declared.LATE)
    assert machine.host.exists(leases.PUBLIC)
    assert machine.host.exists(lease_units.LATE[0])


def test_a_full_disk_does_not_keep_the_machine_running(tmp_path: Path) -> None:
    book = Book({"user-data": DATA, "tree": {"/proc/uptime": "20.00 0.00\n"}}, tmp_path, "lease")

    def full(number: int, action: Any) -> None:
        if getattr(action, "path", "").endswith("lease/state.json"):
            raise OSError(28, "No space left on device")

    book.host.on_change = full
    book.run()
    assert [line for line in book.host.spawned if line.startswith("systemctl restart")]
    assert book.host.exists("/run/systemd/system/cloudboot-lease-last.timer")
    assert "cannot be kept on the disk (No space left on device)" in (book.host.text("/var/log/cloudboot.log") or "")


def test_an_image_tree_is_not_armed(tmp_path: Path) -> None:
    book = Book({"user-data": DATA, "tree": {"/proc/uptime": "20.00 0.00\n"}}, tmp_path, "lease")
    book.host.live = False
    book.run()
    [(action, reason)] = book.host.recorded
    assert action.text == "run systemctl start cloudboot-lease-end.timer"
    assert leases.LIVE in reason
    assert not book.host.changes
    assert not book.host.exists("/etc/systemd/system")


# -- the units


def test_warnings_say_what_is_left(tmp_path: Path) -> None:
    def texts(machine: Machine) -> tuple[str | None, str]:
        place = "/run/systemd/system/cloudboot-lease-warn-"
        return machine.host.text(f"{place}1.service"), machine.host.text(f"{place}2.service") or ""

    first, second = texts(Machine(tmp_path / "hour"))
    assert "this machine powers off in 10 minutes (lease until 2023-11-14T23:13:00Z)" in (first or "")
    assert "powers off in 1 minute (" in second
    short = DATA.replace("until: hour-mark", "until: 150s")
    first, second = texts(Machine(tmp_path / "short", short))
    assert first is None
    assert "powers off in less than 1 minute (" in second


def test_in_a_container_boot_begins_with_its_systemd(tmp_path: Path) -> None:
    tree = {"/proc/uptime": "1020.00 0.00\n", "/run/systemd/container": "systemd-nspawn\n"}
    tools = [{"argv": "systemctl show -p UserspaceTimestampMonotonic", "output": "1000500000\n"}]
    machine = Machine(tmp_path, tree=tree, tools=tools)
    timer = machine.host.text("/run/systemd/system/cloudboot-lease-end.timer") or ""
    seconds = int(timer.partition("OnBootSec=")[2].split()[0])
    assert seconds == -int(-(machine.lease.term.mark_up - 100 - 1000.5) // 1)
