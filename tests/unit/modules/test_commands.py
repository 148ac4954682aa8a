"""The owner's commands: a result for each, nothing run twice, nothing lost without a word."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from casebook import ScratchHost
from cloudboot import process
from cloudboot.commands import OUTPUT, Commands, load_outcomes, quote, script_text
from cloudboot.root import Root
from realhost import RealHost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cloudboot.commands import Outcome

FOLDER = "/var/lib/cloudboot/instances/i-0123456789abcdef0"


class Machine:
    """A scratch machine on which the owner's shell commands really run."""

    def __init__(self, folder: Path) -> None:
        self.host = RealHost(Root(str(folder)))

    def commands(self, policy: str = "stop", *, again: bool = False) -> Commands:
        previous = load_outcomes(self.host, FOLDER, "runcmd") if again else None
        return Commands(self.host, FOLDER, "runcmd", previous=previous, policy=policy)

    def run(self, items: Sequence[str], start: int = 1) -> list[Outcome]:
        return self.commands().shell("runcmd", items, start=start)

    def printed(self) -> str:
        lines = (self.host.text(OUTPUT) or "").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("---"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def states(outcomes: list[Outcome]) -> list[tuple[str, int | None]]:
    return [(outcome.state, outcome.status) for outcome in outcomes]


def test_each_item_has_its_result(machine: Machine) -> None:
    outcomes = machine.run(["echo one", "(exit 3)", "echo two"])
    assert states(outcomes) == [("done", 0), ("failed", 3), ("done", 0)]
    assert [outcome.item for outcome in outcomes] == [1, 2, 3]
    assert machine.printed() == "one\ntwo\n"


def test_directory_variables_and_status_carry_over(machine: Machine) -> None:
    outcomes = machine.run(["cd /usr", "x='a  b'", 'echo "$PWD $x"', "(exit 4)", 'echo "was $?"'])
    assert states(outcomes) == [("done", 0), ("done", 0), ("done", 0), ("failed", 4), ("done", 0)]
    assert machine.printed() == "/usr a  b\nwas 4\n"


def test_set_e_ends_the_script_where_it_would_without_marks(machine: Machine) -> None:
    outcomes = machine.run(["set -e", "false || true", "false", "echo never"])
    assert states(outcomes) == [("done", 0), ("done", 0), ("failed", 1), ("not reached", None)]
    assert machine.printed() == ""


def test_exit_in_the_middle(machine: Machine) -> None:
    assert states(machine.run(["true", "exit 7", "echo never"])) == [("done", 0), ("failed", 7), ("not reached", None)]


def test_if_over_several_items(machine: Machine) -> None:
    outcomes = machine.run(["if true; then", "echo yes", "fi", "echo after"])
    assert states(outcomes) == [("done", 0)] * 4
    assert machine.printed() == "yes\nafter\n"


def test_case_over_several_items_cannot_hold_marks_and_runs_all_the_same(machine: Machine) -> None:
    items = ["case $INSTANCE_ID in", "i-*) echo is;;", "esac", "false"]
    outcomes = machine.commands().shell("runcmd", items, env={"INSTANCE_ID": "i-1"})
    assert machine.printed() == "is\n"
    assert {outcome.status for outcome in outcomes} == {1}


def test_here_document_in_one_item(machine: Machine) -> None:
    outcomes = machine.run(["cat <<EOF\nhello\nEOF", "echo after"])
    assert states(outcomes) == [("done", 0), ("done", 0)]
    assert machine.printed() == "hello\nafter\n"


def test_here_document_over_several_items_holds_no_marks(machine: Machine) -> None:
    machine.run(["cat <<'END'", "_text_", "END", "echo after"])
    assert machine.printed() == "_text_\nafter\n"


@pytest.mark.parametrize(
    "items",
    [
        ["if false; then", "echo no", "fi", "echo after"],
        ["f() {", "echo no", "}", "echo after"],
        ["cat > /dev/null <<'END'", "text", "END", "echo after"],
        ["cat > /dev/null <<\\END", "text", "END", "echo after"],
        ["n=$((1 << 2))", "n=2; n=$((1 << n))", "true", "echo after"],
        ["bash -c 'cat > /dev/null <<< hello'", "true", "true", "echo after"],
        ["echo 'use <<EOF' > /dev/null", "true", "true", "echo after"],
        ["true", "echo after", "exit 0", "echo no"],
        ["true", "true", "exec echo after", "echo no"],
    ],
)
def test_what_is_passed_over_is_no_failure(machine: Machine, items: list[str]) -> None:
    commands = machine.commands()
    commands.shell("runcmd", items)
    assert machine.printed() == "after\n"
    assert commands.failed == []


def test_from_an_item_is_no_failure(machine: Machine) -> None:
    commands = machine.commands()
    commands.shell("runcmd", ["false", "true"], start=2)
    assert commands.failed == []


def test_what_a_failure_kept_from_running_is_named(machine: Machine) -> None:
    commands = machine.commands()
    commands.shell("runcmd", ["true", "exit 3", "true"])
    assert [(each.item, each.state) for each in commands.failed] == [(2, "failed"), (3, "not reached")]


def test_syntax_error_fails_every_item(machine: Machine) -> None:
    assert {outcome.state for outcome in machine.run(["echo 'open", "true"])} == {"failed"}


def test_a_daemon_left_behind_does_not_hold_us_up(machine: Machine) -> None:
    began = time.monotonic()
    outcomes = machine.run(["sleep 30 & echo $! > /dev/stdout", "true"])
    took = time.monotonic() - began
    os.kill(int(machine.printed().split()[0]), signal.SIGKILL)
    assert states(outcomes) == [("done", 0), ("done", 0)]
    assert took < 10


def test_killed_by_a_signal(machine: Machine) -> None:
    assert states(machine.run(["true", "kill -9 $$", "true"])) == [
        ("done", 0), ("failed", -9), ("not reached", None),
    ]  # fmt: skip


def test_from_an_item(machine: Machine) -> None:
    outcomes = machine.run(["echo 1", "echo 2", "echo 3"], start=2)
    assert [outcome.state for outcome in outcomes] == ["not reached", "done", "done"]
    assert machine.printed() == "2\n3\n"


def test_output_of_each_run_is_found_in_the_log(machine: Machine) -> None:
    first = machine.run(["echo first"])[0]
    second = machine.run(["echo second"])[0]
    text = (machine.host.text(OUTPUT) or "").encode()
    assert first.output is not None
    assert second.output is not None
    assert text[slice(*first.output)] == b"first\n"
    assert text[slice(*second.output)] == b"second\n"


def test_results_are_for_root_alone(machine: Machine) -> None:
    machine.run(["echo secret"])
    for name in ("commands/runcmd.json", "scripts/runcmd", "progress/runcmd"):
        entry = machine.host.look(f"{FOLDER}/{name}")
        assert entry is not None
        assert entry.mode & 0o077 == 0, name
    log = machine.host.look(OUTPUT)
    assert log is not None
    assert log.mode == 0o640


def interrupt(machine: Machine, items: Sequence[str]) -> None:
    """Run items in a child that is killed, with its shell, while an item hangs."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        try:
            machine.run(items)
        finally:
            os._exit(0)
    end = time.monotonic() + 20
    flag = machine.host.root.outside("/hanging")
    while not os.path.exists(flag) and time.monotonic() < end:
        time.sleep(0.02)
    with open(flag, encoding="ascii") as file:
        shell = int(file.read())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.killpg(shell, signal.SIGKILL)
    os.unlink(flag)


def hanging(machine: Machine) -> list[str]:
    """Three items of which the second hangs the first time."""
    flag, seen = machine.host.root.outside("/hanging"), machine.host.root.outside("/seen")
    hang = f"[ -e {seen} ] || {{ : > {seen}; echo $$ > {flag}.new; mv {flag}.new {flag}; sleep 60; }}; echo two"
    return ["echo one", hang, "echo three"]


def test_interrupted_and_left(machine: Machine) -> None:
    items = hanging(machine)
    interrupt(machine, items)
    outcomes = machine.commands(again=True).shell("runcmd", items)
    assert [outcome.state for outcome in outcomes] == ["done", "interrupted", "not reached"]
    assert machine.printed() == "one\n"
    # And so it stays, however often the machine dies while it finds that out.
    assert [each.state for each in machine.commands(again=True).shell("runcmd", items)] == [
        "done", "interrupted", "not reached",
    ]  # fmt: skip


def test_interrupted_and_resumed(machine: Machine) -> None:
    items = hanging(machine)
    interrupt(machine, items)
    machine.commands("resume", again=True).shell("runcmd", items)
    assert machine.printed() == "one\ntwo\nthree\n"


def test_interrupted_and_run_again(machine: Machine) -> None:
    items = hanging(machine)
    interrupt(machine, items)
    outcomes = machine.commands("rerun", again=True).shell("runcmd", items)
    assert machine.printed() == "one\none\ntwo\nthree\n"
    assert states(outcomes) == [("done", 0)] * 3


def test_finished_but_not_noted_as_finished(machine: Machine) -> None:
    machine.run(["echo one", "false"])
    outcomes = machine.commands(again=True).shell("runcmd", ["echo one", "false"])
    assert states(outcomes) == [("done", 0), ("failed", 1)]
    assert machine.printed() == "one\n"


class TellingHost(ScratchHost):
    """A host on which scripts end as they are told, and which notes what was started."""

    statuses: Mapping[str, int] = {}

    def spawn(self, argv: Sequence[str], **options: object) -> process.Result:
        self.spawned.append(" ".join(argv))
        return process.Result(self.statuses.get(argv[0], 0))


def test_scripts_and_their_interruption(tmp_path: Path) -> None:
    host = TellingHost(Root(str(tmp_path)))
    host.statuses = {"/b": 3}
    commands = Commands(host, FOLDER, "scripts_user")
    assert states([commands.script(name, [f"/{name}"]) for name in "ab"]) == [("done", 0), ("failed", 3)]
    assert [outcome.label for outcome in commands.failed] == ["b"]

    # The machine died right after `c` had been noted as started.
    started = commands.outcomes[0]._replace(label="c", state="started", status=None)
    commands.outcomes.append(started)
    commands._store()
    host.spawned.clear()
    previous = load_outcomes(host, FOLDER, "scripts_user")
    after = Commands(host, FOLDER, "scripts_user", previous=previous)
    assert [after.script(name, [f"/{name}"]).state for name in "abcd"] == ["done", "failed", "interrupted", "done"]
    assert host.spawned == ["/d"]

    host.spawned.clear()
    rerun = Commands(host, FOLDER, "scripts_user", previous=previous, policy="rerun")
    assert [rerun.script(name, [f"/{name}"]).state for name in "abcd"] == ["done", "failed", "done", "done"]
    assert host.spawned == ["/c", "/d"]


def test_an_image_tree_only_records(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.host.live = False
    commands = machine.commands()
    assert states(commands.shell("runcmd", ["echo no", "false"])) == [("recorded", None), ("recorded", None)]
    assert commands.script("x", ["/x"]).state == "recorded"
    assert commands.failed == []
    assert machine.host.spawned == []
    assert machine.printed() == ""


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("echo $HOME", "echo $HOME"),
        (["echo", "$HOME", 1, 2.5], "'echo' '$HOME' '1' '2.5'"),
        (["echo", "it's"], "'echo' 'it'\\''s'"),
    ],
)
def test_quote(item: str | list[object], text: str) -> None:
    assert quote(item) == text


def test_marks_begin_where_the_script_begins() -> None:
    text = script_text(["a", "b", "c"], 2)
    assert "\na\n" not in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("_m ")] == ["2", "3"]
    assert "_m" not in script_text(["a", "b"], marks=False)
