"""The paid hour in containers, with a short one: spare work, the end, its guards, what moves it and what does not."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from boot.bed import Imds, Link
from boot.bed.command import wait_until

if TYPE_CHECKING:
    from boot.worlds import World

pytestmark = pytest.mark.container
PORT = 8080
RECEIVER = os.path.join(os.path.dirname(__file__), "receiver.py")


def launched(at: float) -> dict[str, object]:
    """Return metadata of an instance that was started then."""
    document = {
        "instanceId": "i-0aaaaaaaaaaaaaaa1",
        "pendingTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
    }
    return {"dynamic": {"instance-identity": {"document": json.dumps(document)}}}


def imds(box: World, lease: str, at: float) -> Imds:
    data = f"#cloud-config\nruncmd: [date +%s.%N > /var/tmp/main-job]\nlease:\n{lease}".encode()
    words = ["--instance-id", "i-0aaaaaaaaaaaaaaa1"]
    return Imds(box.link.cloud, box.scratch, *words, user_data=data, metadata=launched(at))


def receiver(box: World, pause: float = 0.0) -> str:
    """Take POSTs in the cloud; return the file that they are noted in."""
    file = box.scratch.file("posted")
    box.link.cloud.popen(["python3", RECEIVER, Link.ROUTER_V4, str(PORT), file, str(pause)])
    return file


def posted(file: str) -> list[dict[str, Any]]:
    if not os.path.exists(file):
        return []
    with open(file, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def disk(box: World, path: str) -> str:
    """Return a file of the machine, also when it is off."""
    with open(f"{box.box.root}{path}", encoding="utf-8") as file:
        return file.read()


def start(box: World) -> None:
    box.box.boot()
    time.sleep(1.0)
    box.connect()


def status(box: World) -> dict[str, Any]:
    """Return what `cloudboot lease status` says."""
    values: dict[str, Any] = json.loads(box.inside("cloudboot lease status --format json"))["lease"]
    return values


def mark_of(box: World) -> float:
    """Return the mark that the machine keeps."""
    folder = "/var/lib/cloudboot/instances/i-0aaaaaaaaaaaaaaa1/lease"
    mark: float = json.loads(disk(box, f"{folder}/state.json"))["term"]["mark"]
    return mark


SPARE = f"""
  until: hour-mark
  period: 40s
  margin: 15s
  run:
    - {{name: quick, command: [sh, -c, 'echo "done by $(id -un)"; exit 3'], user: nobody}}
    - {{name: late, command: sleep 100, timeout: 2s}}
    - name: load
      repeat: true
      command: |
        trap 'echo stopped >> /var/tmp/kept/load; exit 0' TERM
        mkdir -p /var/tmp/kept
        echo started >> /var/tmp/kept/load
        while :; do sleep 0.2; done
  collect: ["/var/tmp/kept/*", /var/tmp/none]
  report: "http://{Link.ROUTER_V4}:{PORT}/leases/$INSTANCE_ID"
"""
PROPERTIES = "CPUWeight,IOWeight,TasksMax,Slice,ControlGroup"


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_spare_work_then_power_off_before_the_mark(suite: str, request: pytest.FixtureRequest) -> None:
    box: World = request.getfixturevalue(suite)
    posts, launch = receiver(box), float(int(time.time()))
    with imds(box, SPARE, launch):
        start(box)
        assert box.inside.status()["status"] == "done"
        box.box.wait_for(["test", "-e", "/var/tmp/kept/load"], 20)
        main_job = float(box.inside("cat /var/tmp/main-job"))
        now = status(box)
        assert (now["state"], now["then"]) == ("armed", "poweroff")
        shown = box.inside(f"systemctl show -p {PROPERTIES} cloudboot-lease-run-load.service").splitlines()
        group = next(line for line in shown if line.startswith("ControlGroup=")).partition("=")[2]
        assert group == "/cloudbootlease.slice/cloudboot-lease-run-load.service"
        assert {"TasksMax=1024", "IOWeight=1"} <= set(shown), shown
        assert box.inside("cat /sys/fs/cgroup/cloudbootlease.slice/cpu.idle 2>/dev/null || echo none") in (
            "1",
            "none",
        )
        said = box.inside("cloudboot lease status; cloudboot status; cloudboot why lease")
        assert "EC2 stops or terminates the instance, as it was launched" in said
        assert "lease: powers off at" in said
        assert box.inside("cloudboot plan | grep -c cloudboot-lease || true") == "0", "armed is armed"
        box.box.wait_exit(60)
        off = time.time()
    mark = mark_of(box)
    assert mark - 15 <= off < mark, off - mark
    assert (mark - launch) % 40 == 0
    [post] = posted(posts)
    assert post["path"] == "/leases/i-0aaaaaaaaaaaaaaa1"
    assert post["form"]["instance_id"] == "i-0aaaaaaaaaaaaaaa1"
    assert mark - 16 <= post["time"] < off
    report = json.loads(post["form"]["report"])
    quick, late, load = report["run"]
    assert quick["began"] > main_job
    assert (quick["state"], quick["exit"], quick["text"]) == ("failed", 3, "done by nobody\n")
    assert late["state"] == "timed out"
    assert 1.9 < late["seconds"] < 4
    assert load["state"] == "done", "it handles SIGTERM"
    assert quick["began"] < late["began"] < load["began"] < mark - 15 < load["began"] + load["seconds"] < mark - 10
    kept, none = report["collected"]
    assert disk(box, kept["kept"].replace("instance/", "instances/i-0aaaaaaaaaaaaaaa1/")) == "started\nstopped\n"
    assert none == {"path": "/var/tmp/none", "left_out": "No such file or directory"}
    console = box.box.console()
    assert "powers off in less than 1 minute" in console
    assert "lease: it ends now" in console
    assert "Reached target poweroff.target" in console
    assert not os.path.exists(f"{box.box.root}/etc/systemd/system/cloudboot-lease-late.timer")


HUNG = f"""
  until: hour-mark
  period: 32s
  margin: 12s
  after: /var/tmp/main-job
  run: [{{name: deaf, command: "trap : TERM; while :; do sleep 1; done"}}]
  report: "http://{Link.ROUTER_V4}:{PORT}/"
"""
STUBBORN = """[Unit]
Description=will not stop
[Service]
ExecStart=/usr/bin/sleep infinity
ExecStop=/usr/bin/sleep infinity
TimeoutStopSec=infinity
[Install]
WantedBy=multi-user.target
"""


def test_nothing_that_hangs_holds_the_machine_past_the_mark(trixie: World) -> None:
    """A main job that never ends, spare work that is deaf, a report that nobody answers, a service that never stops."""
    receiver(trixie, pause=1000)
    with open(f"{trixie.box.root}/etc/systemd/system/stubborn.service", "w", encoding="utf-8") as file:
        file.write(STUBBORN)
    os.symlink(
        "/etc/systemd/system/stubborn.service",
        f"{trixie.box.root}/etc/systemd/system/multi-user.target.wants/stubborn.service",
    )
    with imds(trixie, HUNG, float(int(time.time()))) as service:
        service.set_user_data(f"#cloud-config\nruncmd: [touch /var/tmp/main-job, sleep 1000]\nlease:{HUNG}".encode())
        start(trixie)
        trixie.box.wait_for(["systemctl", "is-active", "--quiet", "cloudboot-lease-run-deaf.service"], 20)
        assert trixie.inside("systemctl is-active stubborn.service") == "active"
        trixie.box.wait_exit(60)
        off = time.time()
    mark = mark_of(trixie)
    assert mark - 12 < off < mark, off - mark
    report = json.loads(disk(trixie, "/var/lib/cloudboot/instances/i-0aaaaaaaaaaaaaaa1/lease/report.json"))
    assert [(run["name"], run["state"], run["signal"]) for run in report["run"]] == [("deaf", "stopped", 9)]
    assert "Reached target poweroff.target" not in trixie.box.console()


EXTENDED = """
  until: hour-mark
  period: 24s
  margin: 8s
  extend_while: test -e /var/tmp/busy
  max: 100s
  run: [{name: tick, command: echo tick, repeat: true}]
  report: {file: /var/tmp/report.json}
"""


def test_extend_while_extends_and_the_death_of_our_program_does_not(trixie: World) -> None:
    with imds(trixie, EXTENDED, float(int(time.time()))):
        start(trixie)
        trixie.box.wait_for(["test", "-e", "/run/systemd/system/cloudboot-lease-end.timer"], 20)
        trixie.inside("touch /var/tmp/busy")
        first = mark_of(trixie)
        assert wait_until(lambda: mark_of(trixie) > first, 30)
        assert mark_of(trixie) == first + 24
        assert status(trixie)["extended"] == 1
        ticks = status(trixie)["run"]
        assert len(ticks) > 3, ticks
        assert {tick["state"] for tick in ticks[:-1]} == {"done"}
        # Whatever becomes of our program now: the guards do not know it.
        trixie.inside("mv /usr/bin/cloudboot /usr/bin/cloudboot.gone")
        trixie.box.wait_exit(60)
        off = time.time()
    assert first + 16 < off < first + 24, off - first
    assert "Reached target poweroff.target" in trixie.box.console()


KEPT = """
  until: hour-mark
  period: 36s
  margin: 12s
  run: [{name: load, command: sleep 1000}, {name: second, command: sleep 1000}]
"""


def test_the_end_survives_reboots_and_a_boot_without_us(trixie: World) -> None:
    with imds(trixie, KEPT, float(int(time.time()))):
        start(trixie)
        trixie.box.wait_for(["systemctl", "is-active", "--quiet", "cloudboot-lease-run-load.service"], 20)
        mark = mark_of(trixie)
        trixie.reboot()
        trixie.box.wait_for(["systemctl", "is-active", "--quiet", "cloudboot-lease-run-second.service"], 20)
        assert mark_of(trixie) == mark
        assert [(run["name"], run["state"]) for run in status(trixie)["run"]] == [
            ("load", "interrupted"),
            ("second", "running"),
        ]
        left = status(trixie)["left"]
        assert abs(left - (mark - time.time())) < 1.5, left
        trixie.inside("mv /usr/bin/cloudboot /usr/bin/cloudboot.gone")
        trixie.reboot()
        trixie.box.wait_exit(60)
        assert abs(time.time() - mark) < 5, time.time() - mark


def test_cancel_holds_until_the_next_start(trixie: World) -> None:
    lease = "  until: 45m\n  run: [{name: load, command: sleep 1000}]\n  report: /var/tmp/report.json\n"
    with imds(trixie, lease, time.time() - 600) as service:
        start(trixie)
        trixie.box.wait_for(["systemctl", "is-active", "--quiet", "cloudboot-lease-run-load.service"], 20)
        assert 2000 < status(trixie)["left"] < 2100
        assert "extended by 1 h" in trixie.inside("cloudboot lease extend 1h")
        assert 5600 < status(trixie)["left"] < 5700
        next_end = trixie.inside("systemctl list-timers --all --no-legend cloudboot-lease-end.timer")
        assert "1h 2" in next_end, next_end
        assert "cancelled" in trixie.inside("cloudboot lease cancel")
        gone = "systemctl list-units --no-legend --plain 'cloudboot-lease-*' | grep -v not-found || true"
        assert trixie.inside(gone) == ""
        assert json.loads(trixie.inside("cat /var/tmp/report.json"))["run"][0]["state"] == "stopped"
        trixie.reboot()
        trixie.inside.status()
        assert status(trixie)["state"] == "cancelled"
        assert trixie.inside("ls /run/systemd/system /etc/systemd/system | grep -c cloudboot-lease || true") == "0"

        service.set_metadata(launched(time.time()))
        trixie.reboot()
        trixie.inside.status()
        assert status(trixie)["state"] == "armed"
        assert 2500 < status(trixie)["left"] < 2700

        # Somebody else's shutdown is reported too, before the machine stops.
        trixie.box.wait_for(["systemctl", "is-active", "--quiet", "cloudboot-lease-run-load.service"], 20)
        trixie.inside("rm /var/tmp/report.json")
        trixie.box.poweroff()
        assert [run["state"] for run in json.loads(disk(trixie, "/var/tmp/report.json"))["run"]] == ["interrupted"]
        trixie.box.boot()
        trixie.box.wait_settled()

        bad = f"#cloud-config\nlease:\n{lease}  then: halt\n"
        service.set_user_data(bad.encode())
        trixie.reboot()
        told = trixie.inside.status()["recoverable"]
        assert any("lease.then: is not of the form" in each and "billed" in each for each in told), told
        assert "lease: none" in trixie.inside("cloudboot lease status")
        assert trixie.inside("ls /run/systemd/system /etc/systemd/system | grep -c cloudboot-lease || true") == "0"
