"""The spare-time suites: what they make of what the tools print, as recorded from fio 3.33, iperf3 3.12, stress-ng 0.15."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from casebook import ScratchHost, plant
from cloudboot import lease_suites
from cloudboot.process import Result
from cloudboot.root import Root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SOURCE = Path(__file__).parents[2] / "src"
DATA = Path(__file__).parents[1] / "data" / "lease"


class ToolHost(ScratchHost):
    """Tools that print what was recorded; `prints` maps a tool to a file and an exit status."""

    prints: Mapping[str, tuple[str, int]] = {}

    def spawn(self, argv: Sequence[str], **_: Any) -> Result:
        self.spawned.append(" ".join(argv))
        name, status = self.prints[argv[0]]
        return Result(status, (DATA / name).read_text() if name else "")


def run(folder: Path, suite: str, prints: Mapping[str, tuple[str, int]], peer: str | None = None) -> tuple[int, Any]:
    host = ToolHost(Root(str(folder)), missing=[] if prints else list(lease_suites.PACKAGES))
    host.prints = prints
    told: list[str] = []
    status = lease_suites.run(host, suite, peer, told.append)
    return status, json.loads(told[-1])


def test_disk(tmp_path: Path) -> None:
    status, result = run(tmp_path, "disk", {"fio": ("fio.json", 0)})
    assert status == 0
    assert (result["suite"], result["tool"]) == ("disk", "fio-3.33")
    assert set(result["measured"]) == {"randread", "write"}, "what has not run has measured nothing"
    for facts in result["measured"].values():
        assert facts["iops"] > 0
        assert facts["bytes_per_second"] > 0
        assert 0 < facts["latency_ms"] < facts["latency_p99_ms"]
    assert not (tmp_path / "var/tmp/cloudboot-lease").exists()


def test_disk_that_was_stopped_in_the_middle_has_measured_all_the_same(tmp_path: Path) -> None:
    status, result = run(tmp_path, "disk", {"fio": ("fio.json", 128)})
    assert (status, set(result["measured"])) == (0, {"randread", "write"})


def test_network_there_and_back(tmp_path: Path) -> None:
    status, result = run(tmp_path, "network", {"iperf3": ("iperf3.json", 0)}, "192.0.2.7")
    assert status == 0
    assert (result["tool"], result["peer"]) == ("iperf 3.12", "192.0.2.7")
    assert result["sent"]["bits_per_second"] == result["received"]["bits_per_second"] > 1e6


def test_network_without_an_answer(tmp_path: Path) -> None:
    status, result = run(tmp_path, "network", {"iperf3": ("iperf3-refused.json", 1)}, "192.0.2.7")
    assert (status, result["error"]) == (1, "iperf3: unable to connect to server: Connection refused")


def test_cpu(tmp_path: Path) -> None:
    status, result = run(tmp_path, "cpu", {"stress-ng": ("stress-ng.txt", 0)})
    assert status == 0
    assert result["bogo_ops_per_second"] == {"cpu": 922.5, "matrix": 2958.16}


@pytest.mark.parametrize(("suite", "tool"), [("disk", "fio"), ("network", "iperf3"), ("cpu", "stress-ng")])
def test_a_missing_tool_is_said_and_not_installed(tmp_path: Path, suite: str, tool: str) -> None:
    status, result = run(tmp_path, suite, {}, "192.0.2.7")
    assert (status, result["suite"]) == (1, suite)
    assert result["error"] == f"{tool}: not installed: install {tool} (nothing is installed unasked)"


@pytest.mark.parametrize(("suite", "tool"), [("disk", "fio"), ("network", "iperf3"), ("cpu", "stress-ng")])
def test_a_tool_that_says_nothing(tmp_path: Path, suite: str, tool: str) -> None:
    assert "cannot be read" in run(tmp_path, suite, {tool: ("", 0)}, "192.0.2.7")[1]["error"]
    assert "exit status 9" in run(tmp_path, suite, {tool: ("", 9)}, "192.0.2.7")[1]["error"]


def test_idle(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    host = ScratchHost(root)

    def show(uptime: str, cpu: str, switches: int) -> None:
        plant(root, "/proc/uptime", f"{uptime} 0.0\n")
        plant(root, "/proc/loadavg", "0.05 0.10 0.20 1/100 999\n")
        plant(root, "/proc/stat", f"cpu  {cpu} 0 0\nintr {switches} 1 2\nctxt {2 * switches}\nprocesses {switches}\n")

    show("100.00", "10 0 10 1000 0 0 0 0", 1000)

    def pass_time(seconds: float) -> None:
        show("110.00", "20 0 30 2900 20 0 0 50", 1500)

    sleep: Callable[[float], None] = pass_time
    result = lease_suites.idle(host, sleep, 10)
    assert result["seconds"] == 10
    assert result["load"] == [0.05, 0.1, 0.2]
    assert result["busy_percent"] == pytest.approx(4.0)
    assert result["steal_percent"] == pytest.approx(2.5)
    assert (result["wakeups_per_second"], result["interrupts_per_second"]) == (100.0, 50.0)
    assert result["forks_per_second"] == 50.0


def test_idle_on_this_machine(tmp_path: Path) -> None:
    from cloudboot.cli import open_host

    result = lease_suites.idle(open_host(echo=False, keep_log=False), seconds=0.3)
    assert 0.2 < result["seconds"] < 30
    assert 0 <= result["busy_percent"] <= 100
    assert sum(result["percent"].values()) == pytest.approx(100, abs=0.1)


def test_sigterm_ends_the_idle_suite_with_what_it_has_seen() -> None:
    code = (
        "from cloudboot import lease_suites; from cloudboot.cli import open_host;"
        "lease_suites.run(open_host(echo=False, keep_log=False), 'idle', None, print)"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SOURCE)}) as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(told)["seconds"] < 20
