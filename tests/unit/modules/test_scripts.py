"""Directories of scripts: sorted, all tried, each with a result; with real scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from casebook import Book, plant
from cloudboot.commands import OUTPUT
from realhost import RealHost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PER_BOOT = "/var/lib/cloudboot/scripts/per-boot"


class Machine:
    """A machine with scripts of the image's; `run` runs them as a boot would."""

    def __init__(self, folder: Path, module: str, case: Mapping[str, object]) -> None:
        self.book = Book({"user-data": "#cloud-config\n{}\n", **case}, folder, module)
        self.book.host.__class__ = RealHost

    def script(self, name: str, text: str, mode: int = 0o755) -> None:
        plant(self.book.root, f"{PER_BOOT}/{name}", {"content": text, "mode": mode})

    def printed(self) -> list[str]:
        lines = (self.book.host.text(OUTPUT) or "").splitlines()
        return [line for line in lines if not line.startswith("---")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, "scripts_per_boot", {})


def test_all_are_tried_in_order(machine: Machine) -> None:
    machine.script("30-last", '#!/bin/sh\necho "last $INSTANCE_ID"\n')
    machine.script("10-first", "#!/bin/sh\necho first\n")
    machine.script("20-fails", "#!/bin/sh\necho failing\nexit 4\n")
    machine.book.run()
    assert machine.printed() == ["first", "failing", "last i-0123456789abcdef0"]
    assert machine.book.status.values["errors"] == [f"{PER_BOOT}/20-fails: exit status 4"]
    assert machine.book.status.values["modules"]["scripts_per_boot"]["state"] == "failed"


def test_no_interpreter_is_said_as_such(machine: Machine) -> None:
    machine.script("bare", "echo no first line\n")
    machine.script("wrong", "#!/no/such/interpreter\n")
    machine.script("zz", "#!/bin/sh\necho after\n")
    machine.book.run()
    assert machine.printed() == ["after"]
    errors = machine.book.status.values["errors"]
    for name in ("bare", "wrong"):
        told = f"{PER_BOOT}/{name}: exit status 126: cannot be executed: does it begin with '#!' and a program that is installed?"
        assert any(told in error for error in errors), errors


def test_nothing_to_run_starts_nothing(machine: Machine) -> None:
    machine.book.run()
    assert machine.book.host.spawned == []
    assert machine.book.status.values["modules"]["scripts_per_boot"]["state"] == "done"


@pytest.mark.parametrize(
    ("prefix", "argv"),
    [("/usr/bin/env", ["/usr/bin/env"]), (["/usr/bin/env", "-i", 1], ["/usr/bin/env", "-i", "1"])],
)
def test_vendor_scripts_have_a_prefix(tmp_path: Path, prefix: object, argv: list[str]) -> None:
    case = {"config": {"vendor_data": {"prefix": prefix}}, "vendor-data": "#!/bin/sh\n"}
    book = Book(case, tmp_path, "scripts_vendor")
    path = f"{book.ledger.folder}/scripts/vendor/part-001"
    book.run()
    assert book.host.spawned == [" ".join([*argv, path])]


@pytest.mark.parametrize("word", [False, "false", "no"])
def test_vendor_scripts_can_be_switched_off(tmp_path: Path, word: object) -> None:
    case = {"config": {"vendor_data": {"enabled": word}}, "vendor-data": "#!/bin/sh\n"}
    book = Book(case, tmp_path, "scripts_vendor")
    book.run()
    assert book.host.spawned == []
