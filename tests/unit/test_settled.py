"""What a settled boot does not do again, and when it must."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from casebook import plant
from cloudboot.ledger import State
from cloudboot.module import Context, Frequency, Stage
from unit.test_boot import DATA, A, Machine
from unit.test_runner import Killed, World, make

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = f"/var/lib/cloudboot/instances/{A}/config.json"


def with_kept(machine: Machine, **values: Any) -> None:
    """Change the kept configuration: what shows up afterwards was not made anew."""
    kept = json.loads(machine.text(CONFIG) or "")
    kept["value"].update(values)
    plant(machine.root, CONFIG, json.dumps(kept))


def hostname(machine: Machine) -> object:
    return json.loads(machine.text(CONFIG) or "")["value"].get("hostname")


def test_a_crawl_that_brings_nothing_new_makes_no_configuration(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.serve():
        machine.boot()
        with_kept(machine, hostname="kept")
        machine.boot()
        assert hostname(machine) == "kept"
    with machine.serve(A, DATA.replace("web", "other")):
        machine.boot()
    assert hostname(machine) == "other"


def test_a_power_cut_between_data_and_configuration_leaves_no_stale_one(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.serve():
        machine.boot()
    with machine.serve(A, DATA.replace("web", "other")):
        boot = machine.boot(Stage.LOCAL)

        def cut(number: int, action: object) -> None:
            if getattr(action, "path", "") == CONFIG and hasattr(action, "content"):
                raise Killed

        boot.host.on_change = cut
        try:
            boot.run([Stage.NETWORK, Stage.CONFIG])
        except Killed:
            pass
        assert machine.text(CONFIG) is None
        machine.boot()
    assert hostname(machine) == "other"


def test_what_always_runs_is_noted_before_only_the_first_time(tmp_path: Path) -> None:
    seen: list[State | None] = []

    def look(ctx: Context) -> None:
        last = world.ledger.last("a")
        seen.append(last.state if last else None)

    world = World(tmp_path, [make("a", look, frequency=Frequency.ALWAYS)])
    world.run()
    world.run()
    assert seen == [State.STARTED, State.DONE]


def test_a_script_that_always_runs_is_noted_before_every_time(tmp_path: Path) -> None:
    seen: list[State | None] = []

    def look(ctx: Context) -> None:
        last = world.ledger.last("a")
        seen.append(last.state if last else None)

    world = World(tmp_path, [make("a", look, frequency=Frequency.ALWAYS, converges=False)])
    world.run()
    world.run()
    assert seen == [State.STARTED, State.STARTED]
