"""Frequencies, who sets them, semaphores, and what becomes of a module that fails or is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from casebook import BASE_TREE, NoFetcher, ScratchHost, plant
from cloudboot.config import Layer, build
from cloudboot.errors import ConfigError
from cloudboot.instance import Instance, Kind
from cloudboot.ledger import Ledger, Marker, State
from cloudboot.module import Context, Frequency, Module, Stage, canonical_name, module, parse_frequency
from cloudboot.root import Root
from cloudboot.runner import Runner, Timing, select, timing, why
from cloudboot.status import Status

ANY: dict[str, Any] = {"type": ["object", "array", "string", "null"]}


def make(name: str, function: Any = None, **facts: Any) -> Module:
    def nothing(ctx: Context) -> None:
        ctx.host.write(f"/etc/{name}", "x")

    work = function or nothing
    work.__name__ = name
    return module(**{"stage": Stage.CONFIG, "frequency": Frequency.INSTANCE, "keys": (), **facts})(work)


MOUNTS = make("mounts", schema={"mounts": ANY})


@pytest.mark.parametrize("spelling", ["mounts", "cc_mounts", "config-mounts", "config_mounts", "cc_mounts.py"])
def test_one_name(spelling: str) -> None:
    assert canonical_name(spelling) == "mounts"


@pytest.mark.parametrize(
    ("word", "frequency"),
    [("once-per-instance", Frequency.INSTANCE), ("always", Frequency.ALWAYS), ("once", Frequency.ONCE), ("Per_Boot", Frequency.BOOT), ("x", None), (3, None)],
)  # fmt: skip
def test_spellings_of_frequencies(word: object, frequency: Frequency | None) -> None:
    assert parse_frequency(word) is frequency


@pytest.mark.parametrize(
    ("user", "image", "command_line", "expected", "set_by"),
    [
        ({}, {}, None, Frequency.INSTANCE, "the module's default"),
        ({"frequency": {"mounts": "always"}}, {}, None, Frequency.ALWAYS, "user data (frequency)"),
        ({"frequency": {"cc_mounts": "always"}}, {"frequency": {"mounts": "once"}}, None, Frequency.ALWAYS, "user data (frequency)"),
        ({"cloud_init_modules": [["config-mounts", "always"]]}, {}, None, Frequency.ALWAYS, "user data (cloud_init_modules)"),
        ({"cloud_init_modules": [["mounts", "once"]], "frequency": {"mounts": "per-boot"}}, {}, None, Frequency.BOOT, "user data (frequency)"),
        ({"cloud_init_modules": [["mounts", "once"]]}, {"frequency": {"mounts": "always"}}, None, Frequency.ONCE, "user data (cloud_init_modules)"),
        ({"cloud_final_modules": [{"name": "mounts", "frequency": "always"}]}, {}, None, Frequency.ALWAYS, "user data (cloud_final_modules)"),
        ({}, {"frequency": {"mounts": "always"}}, None, Frequency.ALWAYS, "image (frequency)"),
        ({"frequency": {"mounts": "always"}}, {}, Frequency.INSTANCE, Frequency.INSTANCE, "the command line"),
    ],
)  # fmt: skip
def test_who_sets_the_frequency(
    user: dict[str, Any], image: dict[str, Any], command_line: Frequency | None, expected: Frequency, set_by: str
) -> None:
    layers = [Layer("user data", user, {}), Layer("image", image, {})]
    assert timing(MOUNTS, layers, command_line) == Timing(expected, set_by)


def decision(
    marker: Marker | None, frequency: Frequency = Frequency.INSTANCE, kind: Kind = Kind.SAME, **facts: Any
) -> tuple[bool, bool]:
    found = why(make("m", **facts), Timing(frequency, "x"), keys=frozenset(), marker=marker, kind=kind)
    return found.run, found.resume


def test_why() -> None:
    done, started = Marker(State.DONE, "b", 1.0), Marker(State.STARTED, "b", 1.0)
    assert decision(None) == (True, False)
    assert decision(done) == (False, False)
    assert decision(Marker(State.FAILED, "b", 1.0)) == (False, False)
    assert decision(done, Frequency.ALWAYS) == (True, False)
    assert decision(started) == (True, False)
    assert decision(started, converges=False) == (True, True)
    assert decision(None, kind=Kind.UNKNOWN) == (False, False)
    assert decision(None, Frequency.BOOT, kind=Kind.UNKNOWN) == (True, False)
    assert decision(None, keys=("nope",)) == (False, False)


def test_lists_select_and_order_but_never_the_login() -> None:
    known = [make("a"), make("ssh", essential=True), make("b"), make("c")]
    chosen, left_out = select(Stage.CONFIG, known, {"cloud_config_modules": ["c", ["a", "always"]]})
    assert [each.name for each in chosen] == ["c", "a", "ssh"]
    assert left_out == {"b": "is not in cloud_config_modules"}
    assert [each.name for each in select(Stage.CONFIG, known, {})[0]] == ["a", "ssh", "b", "c"]
    assert [each.name for each in select(Stage.CONFIG, known, {"cloud_config_modules": []})[0]] == ["ssh"]


class World:
    """A scratch machine with modules of the test's own."""

    def __init__(
        self, folder: Path, modules: list[Module], config: dict[str, Any] | None = None, kind: Kind = Kind.NEW
    ) -> None:
        self.root = Root(str(folder))
        for path, what in BASE_TREE.items():
            if self.root.look(path) is None:
                plant(self.root, path, what)
        self.host = ScratchHost(self.root)
        self.status = Status(self.host)
        self.ledger = Ledger(self.host, "/var/lib/cloudboot/instances/i-1")
        layer = Layer("user data", config or {}, {})
        schemas: dict[str, Any] = {key: {} for key in (config or {})}
        self.runner = Runner(
            self.host, self.ledger, build([layer], schemas), Instance("i-1", "Ec2"), modules, self.status, NoFetcher(),
            kind=kind, image={},
        )  # fmt: skip

    def run(self) -> bool:
        self.status.stage(Stage.CONFIG, "started")
        well = self.runner.run_stage(Stage.CONFIG)
        self.status.stage(Stage.CONFIG, "done")
        return well

    def state(self, name: str) -> str:
        return str(self.status.values["modules"][name]["state"])


def test_a_failing_module_does_not_stop_the_others(tmp_path: Path) -> None:
    def breaks(ctx: Context) -> None:
        raise ConfigError("a: no such thing: 'x'")

    def bug(ctx: Context) -> None:
        raise ValueError("secret")

    world = World(tmp_path, [make("breaks", breaks), make("bug", bug), make("last")])
    assert world.run()
    assert [world.state(name) for name in ("breaks", "bug", "last")] == ["failed", "failed", "done"]
    assert "breaks: a: no such thing: 'x'" in world.status.values["errors"]
    assert "secret" not in str(world.status.values["errors"])
    assert "ValueError at test_runner.py" in str(world.status.values["errors"])


@pytest.mark.parametrize(("policy", "well", "after", "essential"), [("continue", True, "done", "done"), ("stop", True, "skipped", "done"), ("fail", False, "skipped", "done")])  # fmt: skip
def test_on_error(tmp_path: Path, policy: str, well: bool, after: str, essential: str) -> None:
    def breaks(ctx: Context) -> None:
        ctx.fail("no")

    known = [make("breaks", breaks), make("after"), make("ssh", essential=True)]
    world = World(tmp_path, known, {"on_error": {"breaks": policy}})
    assert world.run() is well
    assert (world.state("after"), world.state("ssh")) == (after, essential)


def test_second_run_of_a_stage_runs_only_what_is_always(tmp_path: Path) -> None:
    ran: list[str] = []

    def noted(name: str, **facts: Any) -> Module:
        def work(ctx: Context) -> None:
            ran.append(name)

        return make(name, work, **facts)

    known = [
        noted("i"),
        noted("b", frequency=Frequency.BOOT),
        noted("a", frequency=Frequency.ALWAYS),
        noted("o", frequency=Frequency.ONCE),
    ]
    World(tmp_path, known).run()
    assert ran == ["i", "b", "a", "o"]
    World(tmp_path, known, kind=Kind.SAME).run()
    assert ran == ["i", "b", "a", "o", "a"]
    # The next boot: /run is empty.
    Root(str(tmp_path)).remove("/run/cloudboot")
    World(tmp_path, known, kind=Kind.SAME).run()
    assert ran == ["i", "b", "a", "o", "a", "b", "a"]


def test_first_means_first_on_this_instance_whatever_the_frequency(tmp_path: Path) -> None:
    seen: list[bool] = []

    def work(ctx: Context) -> None:
        seen.append(ctx.first)

    known = [make("users_groups", work)]
    always = {"frequency": {"users_groups": "always"}}
    World(tmp_path, known, always).run()
    World(tmp_path, known, always, kind=Kind.SAME).run()
    assert seen == [True, False]


class Killed(BaseException):
    """The machine lost its power."""


def test_interrupted_module_that_converges_runs_again_as_the_first(tmp_path: Path) -> None:
    seen: list[bool] = []

    def work(ctx: Context) -> None:
        seen.append(ctx.first)
        if len(seen) == 1:
            raise Killed

    with pytest.raises(Killed):
        World(tmp_path, [make("m", work)]).run()
    world = World(tmp_path, [make("m", work)], kind=Kind.SAME)
    world.run()
    assert seen == [True, True]
    assert world.state("m") == "done"


def test_semaphores_are_durable_in_two_steps(tmp_path: Path) -> None:
    seen: list[Marker | None] = []

    def work(ctx: Context) -> None:
        seen.append(world.ledger.find("m", Frequency.INSTANCE))

    world = World(tmp_path, [make("m", work)])
    world.run()
    assert [marker.state for marker in seen if marker] == [State.STARTED]
    after = world.ledger.find("m", Frequency.INSTANCE)
    assert after is not None
    assert after.state is State.DONE


def test_damaged_semaphore_counts_as_interrupted(tmp_path: Path) -> None:
    world = World(tmp_path, [make("m")])
    plant(world.root, "/var/lib/cloudboot/instances/i-1/ran/m", "{")
    marker = world.ledger.find("m", Frequency.INSTANCE)
    assert marker is not None
    assert marker.state is State.STARTED
