"""Boothooks and part handlers on a scratch machine: really run, each with a result of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from casebook import NoFetcher
from cloudboot.actions import WriteFile
from cloudboot.commands import OUTPUT, Commands
from cloudboot.instance import Instance
from cloudboot.module import Context, Facts, Frequency, Stage
from cloudboot.modules.boothooks import boothooks
from cloudboot.modules.part_handlers import part_handlers
from cloudboot.root import Root
from cloudboot.userdata.parts import Services, split
from cloudboot.userdata.placement import placed
from realhost import RealHost

if TYPE_CHECKING:
    from pathlib import Path

    from cloudboot.module import Module

INSTANCE = Instance(id="i-0123456789abcdef0", datasource="Ec2")
FOLDER = f"/var/lib/cloudboot/instances/{INSTANCE.id}"
HANDLER = """#part-handler
{more}
def list_types(): return [{types}]
def handle_part(data, kind, name, payload):
    print({name!r}, kind, name, payload)
"""


def archive(*items: tuple[str, str, str]) -> bytes:
    """Make an archive of (type, name, content)."""
    import json

    entries = [{"type": kind, "filename": name, "content": content} for kind, name, content in items]
    return b"#cloud-config-archive\n" + json.dumps(entries).encode()


def handler(name: str, types: str, more: str = "") -> tuple[str, str, str]:
    return "text/part-handler", name, HANDLER.format(name=name, types=types, more=more)


class Machine:
    """A scratch machine whose user data's parts are where they are to be."""

    def __init__(self, folder: Path) -> None:
        self.host = RealHost(Root(str(folder)))
        self.context: Context
        self.commands: Commands

    def give(self, raw: bytes, *, vendor: bool = False, handlers: bool = False) -> None:
        def fetch(url: str, *, once: bool) -> bytes:
            raise AssertionError(url)

        found = split(raw, services=Services(fetch, lambda _: None, dict, handlers))
        assert found.problems == []
        files, problems = placed(found.parts, vendor=vendor, handlers=handlers)
        assert problems == []
        for each in files:
            self.host.keep(WriteFile(f"{FOLDER}/{each.path}", each.content, each.mode))

    def run(self, module: Module, *, policy: str = "stop") -> list[tuple[str, str, int | None]]:
        """Run a module; return label, state and exit status of what it ran."""
        self.commands = Commands(self.host, FOLDER, module.name, policy=policy)
        config: dict[str, Any] = {}
        self.context = Context(
            host=self.host, config=config, instance=INSTANCE, image={}, commands=self.commands, fetcher=NoFetcher(),
            marks={}, first=True, name=module.name,
        )  # fmt: skip
        module.function(self.context)
        return [(each.label, each.state, each.status) for each in self.commands.outcomes]

    def idle(self, module: Module) -> bool:
        return module.idle is not None and module.idle(Facts(self.host, FOLDER, {}, INSTANCE))

    def printed(self) -> list[str]:
        """Return what was printed since the last look."""
        lines = [line for line in (self.host.text(OUTPUT) or "").splitlines() if not line.startswith("---")]
        self.host.remove(OUTPUT)
        return lines

    def reported(self) -> list[str]:
        return [problem.text for problem in self.context.problems]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_boothooks_run_in_order_each_with_its_result(machine: Machine) -> None:
    machine.give(
        archive(
            ("text/cloud-boothook", "b", "#cloud-boothook\n#!/bin/sh\necho second $INSTANCE_ID\n"),
            ("text/cloud-boothook", "a", "#!/bin/sh\r\necho first\r\nexit 3\r\n"),
            ("text/cloud-boothook", "c", "#cloud-boothook\necho no interpreter\n"),
        )
    )
    machine.give(b"#cloud-boothook\n#!/bin/sh\necho vendor\n", vendor=True)
    assert machine.run(boothooks) == [
        ("boothooks/a", "failed", 3),
        ("boothooks/b", "done", 0),
        ("boothooks/c", "failed", 126),
        ("boothooks-vendor/part-001", "done", 0),
    ]
    assert machine.printed() == ["first", "second i-0123456789abcdef0", "vendor"]
    assert len(machine.commands.failed) == 2
    assert machine.run(boothooks)[0] == ("boothooks/a", "failed", 3), "at every boot"


def test_both_are_idle_without_parts(machine: Machine) -> None:
    machine.give(b"#cloud-config\nhostname: a\n")
    assert machine.idle(boothooks)
    assert machine.idle(part_handlers)
    assert not machine.host.exists(FOLDER)
    machine.give(b"#cloud-boothook\n#!/bin/sh\n")
    assert not machine.idle(boothooks)
    machine.give(b"#part-handler\n")
    assert not machine.idle(part_handlers)
    for module in (boothooks, part_handlers):
        assert (module.stage, module.frequency, module.converges) == (Stage.NETWORK, Frequency.ALWAYS, False)


def test_a_handler_gets_its_parts_and_copies_of_built_in_ones(machine: Machine) -> None:
    machine.give(
        archive(
            ("text/x-a", "before", "zero"),
            handler("mine", "'text/x-a', 'text/cloud-config'"),
            ("text/x-a", "one", "first"),
            ("text/cloud-config", "two", "hostname: a"),
            ("text/x-shellscript", "three", "#!/bin/sh"),
        )
    )
    assert machine.run(part_handlers) == [("handlers/mine.py", "done", 0)]
    assert machine.printed() == [
        "mine __begin__ None None",
        "mine text/x-a before zero",
        "mine text/x-a one first",
        "mine text/cloud-config two hostname: a",
        "mine __end__ None None",
    ]
    assert machine.reported() == []
    assert machine.run(part_handlers) == [("handlers/mine.py", "done", 0)]
    assert machine.printed() == []


def test_one_that_was_interrupted_is_reported_and_not_run_twice(machine: Machine) -> None:
    machine.give(
        archive(
            handler("a", "'text/x-a'"), handler("b", "'text/x-a'", "frequency = 'always'"), ("text/x-a", "one", "1")
        )
    )
    machine.host.write(f"{FOLDER}/handled.json", '{"handlers/a.py": "started"}')
    machine.run(part_handlers)
    assert machine.printed() == ["b __begin__ None None", "b __end__ None None"]
    assert machine.context.failures == [
        "part_handlers: handlers/a.py: was interrupted and does not get its parts again (on_interrupt: {part_handlers: rerun})"
    ]
    machine.run(part_handlers, policy="rerun")
    assert [line for line in machine.printed() if "__" not in line] == ["a text/x-a one 1"]
    machine.run(part_handlers)
    assert machine.context.failures == []
    assert [line for line in machine.printed() if " a" in line] == []


def test_in_an_image_tree_nothing_is_run_and_nothing_counts_as_run(machine: Machine) -> None:
    machine.give(archive(handler("a", "'text/x-a'"), ("text/x-a", "one", "1"), ("text/x-b", "two", "2")))
    machine.host.live = False
    assert machine.run(part_handlers) == [("handlers/a.py", "recorded", None)]
    assert machine.reported() == []
    machine.host.live = True
    assert machine.run(part_handlers) == [("handlers/a.py", "done", 0)]
    assert "a text/x-a one 1" in machine.printed()


def test_of_two_handlers_of_a_type_the_first_gets_it(machine: Machine) -> None:
    machine.give(
        archive(
            handler("a", "'text/x-a', 'text/cloud-config'"),
            handler("b", "'text/x-a', 'text/x-b', 'text/cloud-config'"),
            ("text/x-a", "one", "1"),
            ("text/x-b", "two", "2"),
            ("text/cloud-config", "three", "{}"),
            ("text/x-c", "four", "4"),
        )
    )
    assert [label for label, _, _ in machine.run(part_handlers)] == ["handlers/a.py", "handlers/b.py"]
    assert [line for line in machine.printed() if "__" not in line] == [
        "a text/x-a one 1",
        "a text/cloud-config three {}",
        "b text/x-b two 2",
        "b text/cloud-config three {}",
    ]
    assert machine.reported() == ["four: of unknown type 'text/x-c': no part handler takes it: not used"]


def test_one_that_cannot_be_used_does_not_stop_the_others(machine: Machine) -> None:
    machine.give(archive(handler("a", "", "import nosuchmodule"), handler("b", "'text/x-b'"), ("text/x-c", "one", "1")))
    assert machine.run(part_handlers) == [("handlers/a.py", "failed", 2), ("handlers/b.py", "done", 0)]
    assert "No module named 'nosuchmodule'" in "\n".join(machine.printed())
    assert machine.reported() == [], "whether it would have taken the part is not known"


def test_handlers_of_the_image_and_of_the_vendor(machine: Machine) -> None:
    text = HANDLER.format(name="image", types="'text/x-a'", more="frequency = 'always'")
    machine.host.write("/var/lib/cloudboot/handlers/image.py", text)
    machine.host.write("/var/lib/cloudboot/handlers/README", "not one")
    assert not machine.idle(part_handlers)
    machine.give(archive(("text/x-a", "one", "1"), ("text/x-b", "two", "2")), handlers=True)
    machine.give(archive(handler("v", "'text/x-b'"), ("text/x-b", "three", "3")), vendor=True, handlers=True)
    image = "/var/lib/cloudboot/handlers/image.py"
    assert [label for label, _, _ in machine.run(part_handlers)] == [
        "handlers-vendor/v.py",
        image,
        f"{image} (vendor data)",
    ]
    given = ["v text/x-b three 3", "image text/x-a one 1"]
    assert [line for line in machine.printed() if "__" not in line] == given
    machine.run(part_handlers)
    assert [line for line in machine.printed() if "__" not in line] == given[1:], "only one of them always"
    assert machine.reported() == ["two: of unknown type 'text/x-b': no part handler takes it: not used"]
