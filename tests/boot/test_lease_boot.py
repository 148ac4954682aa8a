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
    document = {"instanceId": "i-0aaaaaaaaaaaaaaa1", "pendingTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))}
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


SPARE = f"""
  until: hour-mark
  period: 60s
  margin: 20s
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
  collect: ["/var/tmp/kept/*"]
  report: "http://{Link.ROUTER_V4}:{PORT}/leases/$INSTANCE_ID"
"""


def test_spare_work_then_power_off_before_the_mark(trixie: World) -> None:
    posts, launch = receiver(trixie), float(int(time.time()))
    with imds(trixie, SPARE, launch):
        start(trixie)
        assert trixie.inside.status()["status"] == "done"
        trixie.box.wait_for(["test", "-e", "/var/tmp/kept/load"], 20)
        now = status(trixie)
        assert now["state"] == "armed"
        assert now["then"] == "poweroff"
        assert trixie.inside("systemctl show -p CPUWeight,MemoryMax,TasksMax --value cloudboot-lease-run-load.service")
        trixie.box.wait_exit(60)
        off = time.time()
    assert launch + 40 <= off < launch + 60, off - launch
    [post] = posted(posts)
    assert post["path"] == "/leases/i-0aaaaaaaaaaaaaaa1"
    assert launch + 39 <= post["time"] < off
    report = json.loads(post["form"]["report"])
    print(json.dumps(report, indent=1), now)
    print(trixie.box.console()[-3000:])
