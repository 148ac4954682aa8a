"""Every bad input of tests/cases/bad-input: what is wrong is named, the rest is applied, the login stays.

A case is a YAML file:

    user-data: |            # as the owner would send it, or a recipe for bytes (see recipes.py)
    also: [timezone]        # modules that run beside those of the network stage
    problems: ["user-data:3:1: …"]    # exactly what is reported, in order
    errors: ["…"]           # exactly what fails: default nothing
    secret: "…"             # a text that no message holds
    kept:                   # what the rest of the file asked for, and must be there
      config: {key: value}  # of the merged configuration
      files: {path: …}      # as in the other cases
      users: [name]         # accounts beside the default one
      scripts: [name]       # the owner's scripts
    boot: {…}               # `problems` as a booted machine says them, where that differs (see tests/boot)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from casebook import BASE_TREE, Book, ScratchHost, differences, plant
from cloudboot import modules
from cloudboot.instance import folder
from cloudboot.module import Stage
from cloudboot.process import Result
from recipes import made

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FILES = sorted((Path(__file__).parent.parent / "cases" / "bad-input").glob("*.yaml"))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIERVWW5OyBRxaigcgxtPAJOkxWHCe82uWa60hbbEfo+p metadata"
IMAGE = {
    "default_user": {"name": "debian", "groups": ["sudo"], "sudo": ["ALL=(ALL) NOPASSWD:ALL"], "shell": "/bin/bash"},
    "ssh_genkeytypes": ["ed25519"],
}
TREE: dict[str, Any] = {
    "/bin/bash": {"content": "", "mode": 0o755},
    "/usr/share/zoneinfo/Etc/UTC": "TZif2",
    "/home": {"dir": True},
}


class Machine(ScratchHost):
    """A scratch host on which accounts and host keys are really made, and the host name is set."""

    def spawn(self, argv: Sequence[str], **options: Any) -> Result:
        answer = super().spawn(argv, **options)
        if argv[0] in ("useradd", "groupadd"):
            number = 1000 + len((self.text("/etc/group") or "").splitlines())
            self.add("/etc/group", f"{argv[-1]}:x:{number}:")
            if argv[0] == "useradd":
                self.add("/etc/passwd", f"{argv[-1]}:x:{number}:{number}::/home/{argv[-1]}:/bin/bash")
                self.add("/etc/shadow", f"{argv[-1]}:!:19000:0:99999:7:::")
                plant(self.root, f"/home/{argv[-1]}", {"dir": True, "mode": 0o700, "owner": f"{number}:{number}"})
        if argv[0] == "ssh-keygen" and "-f" in argv:
            draft = argv[list(argv).index("-f") + 1]
            for path, text in ((draft, "private"), (f"{draft}.pub", KEY)):
                plant(self.root, path, f"{text}\n")
        if argv[0] == "hostname":
            plant(self.root, "/proc/sys/kernel/hostname", f"{argv[1]}\n")
        if argv[0] == "visudo" and b"NOPASSWD ALL" in (options["stdin"] or b""):
            return Result(1, "syntax error")
        return answer

    def add(self, path: str, line: str) -> None:
        """Add a line to a file."""
        plant(self.root, path, f"{self.text(path) or ''}{line}\n")


def run(case: Mapping[str, Any], place: Path) -> Book:
    """Run the network stage's modules, and `also`, on a scratch tree with a case's user data."""
    opened = book(case, place)
    opened.run()
    return opened


def book(case: Mapping[str, Any], place: Path) -> Book:
    """Return a case before it is run."""
    names = [each.name for each in modules.load_all() if each.stage is Stage.NETWORK] + case.get("also", [])
    known = {"image": IMAGE, "tree": {**BASE_TREE, **TREE}, "metadata": {"public-keys": [KEY]}}
    opened = Book({**known, "user-data": made(case["user-data"]), "modules": names}, place, "")
    opened.host = Machine(opened.root)
    opened.status.host, opened.ledger.host = opened.host, opened.host
    return opened


def missing(book: Book, kept: Mapping[str, Any]) -> list[str]:
    """Return what of the rest of a file was not applied."""
    import json

    stored = json.loads(book.host.text(f"{folder(book.instance.id)}/config.json") or "{}")["value"]
    found = [
        f"config: {key}: is {stored.get(key)!r}, not {value!r}"
        for key, value in kept.get("config", {}).items()
        if stored.get(key) != value
    ]
    found += [f"no account {name}" for name in kept.get("users", []) if book.host.user(name) is None]
    there = book.host.listdir(f"{folder(book.instance.id)}/scripts/user")
    if sorted(there) != sorted(kept.get("scripts", [])):
        found.append(f"scripts: are {there}")
    return found + differences(book, kept.get("files", {}))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_bad_input(path: Path, tmp_path: Path) -> None:
    case: dict[str, Any] = yaml.safe_load(path.read_text())
    book = run(case, tmp_path)
    values = book.status.values
    found = missing(book, case.get("kept", {}))
    keys = book.host.text("/home/debian/.ssh/authorized_keys") or ""
    if KEY not in keys.splitlines():
        found.append(f"debian cannot log in: {keys!r}")
    if case.get("secret"):
        told = "\n".join([*values["recoverable"], *values["errors"], *book.host.console, log_of(book)])
        assert case["secret"] not in told, "the secret is told"
    assert not found, "\n".join(found)
    assert values["recoverable"] == case.get("problems", [])
    assert values["errors"] == case.get("errors", [])
    assert not [text for text in values["recoverable"] if "\n" in text or len(text) > 400], "not one line"


def log_of(book: Book) -> str:
    return book.host.text("/var/log/cloudboot.log") or ""
