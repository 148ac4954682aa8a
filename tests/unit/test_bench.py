"""The arithmetic of the comparison: differences within a round, medians, ratios, the reach."""

from __future__ import annotations

from bench.measure import FIRST, REBOOT, Figures
from bench.table import ROWS, Rounds, Spread, plain, ratio, render, spread, verdict
from bench.variants import CLOUD_INIT, CLOUDBOOT, CLOUDBOOT_NO_ID, NO_AGENT

BY_NAME = {row.name: row for row in ROWS}
CPU, SSH, PEAK = BY_NAME["CPU of the agent's units"], BY_NAME["sshd delay over no agent"], BY_NAME["largest process"]


def figures(cpu: float, ssh: float, connections: int = 8) -> Figures:
    return Figures(cpu, cpu / 2, 1.0 + cpu, 20.0, ssh, ssh + 0.1, 90, connections, 1)


def rounds() -> Rounds:
    # In the second round the machine was busy: everybody's sshd came a second later.
    return [
        {
            NO_AGENT: figures(0.0, 1.0 + late),
            CLOUD_INIT: figures(0.9, 2.0 + late, 95),
            CLOUDBOOT: figures(own, 1.2 + late),
            CLOUDBOOT_NO_ID: figures(own, 1.3 + late),
        }
        for late, own in ((0.0, 0.3), (1.0, 0.6), (0.0, 0.2))
    ]


def test_a_busy_round_does_not_count_as_delay() -> None:
    assert [round(value, 6) for value in spread(rounds(), SSH, CLOUDBOOT)] == [0.2, 0.2, 0.2]
    assert spread(rounds(), CPU, CLOUDBOOT) == Spread(0.2, 0.3, 0.6)


def test_ratio_and_reach() -> None:
    assert round(ratio(rounds(), CPU) or 0.0, 6) == round(1 / 3, 6)
    assert verdict(rounds(), CPU, FIRST) == "met (≤ 0.50)"
    assert verdict(rounds(), CPU, REBOOT) == "NOT MET (≤ 0.20)"
    assert verdict(rounds(), PEAK, REBOOT) == "met (≤ 30)"
    assert verdict(rounds(), BY_NAME["requests"], FIRST) == ""


def test_no_ratio_to_nothing() -> None:
    zero = [{**found, CLOUD_INIT: found[CLOUD_INIT]._replace(cpu=0.0)} for found in rounds()]
    assert ratio(zero, CPU) is None
    assert verdict(zero, CPU, FIRST) == "NOT MET (≤ 0.50)"


def test_table_and_json_say_the_same() -> None:
    lines = render("web user data", FIRST, rounds())
    line = next(line for line in lines if line.startswith(CPU.name))
    assert "0.300 s (0.200 to 0.600)" in line
    assert line.endswith("0.33   met (≤ 0.50)")
    assert plain(FIRST, rounds())["rows"][CPU.name][CLOUDBOOT]["middle"] == 0.3
