"""Seeds: a device is written to and never replaced, once in a boot; every encoding; the platform's own seed."""

from __future__ import annotations

import base64
import gzip
import os
from typing import TYPE_CHECKING, Any

import pytest

from casebook import Book, ScratchHost, plant
from cloudboot import process, written_files
from cloudboot.datasources import nocloud
from cloudboot.module import Facts
from cloudboot.modules.seed_random import SEEDED, nothing_to_add
from cloudboot.process import Result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DATA = "S33D!"


class WithDevice(ScratchHost):
    """A host with a pipe in place of the kernel's pool, into which `dd` really writes."""

    def spawn(self, argv: Sequence[str], **options: Any) -> Result:
        if argv[0] != "dd":
            return super().spawn(argv, **options)
        self.spawned.append(" ".join(argv))
        words = [f"of={self.root.outside(word[3:])}" if word.startswith("of=") else word for word in argv]
        return process.spawn(words, stdin=options["stdin"])


def book(folder: Path, settings: dict[str, Any], **case: Any) -> Book:
    opened = Book({"config": {"random_seed": settings}, **case}, folder, "seed_random")
    opened.host.__class__ = WithDevice
    return opened


@pytest.fixture
def pool(tmp_path: Path) -> int:
    """A pipe at /dev/urandom of the tree; what comes out of it."""
    os.makedirs(tmp_path / "dev")
    os.mkfifo(tmp_path / "dev/urandom")
    return os.open(tmp_path / "dev/urandom", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def test_pool_gets_it_once_in_a_boot(tmp_path: Path, pool: int) -> None:
    opened = book(tmp_path, {"data": DATA}, tree={"/run/ec2/meta-data/random_seed": "platform"})
    opened.run()
    assert os.read(pool, 100) == b"S33D!platform"
    assert opened.host.spawned == ["dd of=/dev/urandom conv=notrunc oflag=append status=none"]
    assert opened.host.look("/dev/urandom") is not None
    assert opened.host.look("/dev/urandom").kind == "other"  # type: ignore[union-attr]
    opened.changes()
    opened.run()
    assert opened.changes() == []
    opened.root.remove(SEEDED)  # the next boot's pool is another
    opened.run()
    assert os.read(pool, 100) == b"S33D!platform"
    os.close(pool)


def test_nothing_that_is_kept_holds_the_seed(tmp_path: Path, pool: int) -> None:
    opened = book(tmp_path, {"data": DATA, "file": "/dev/urandom"})
    opened.run()
    os.close(pool)
    for path in ("/var/log/cloudboot.log", "/var/lib/cloudboot/audit.jsonl", SEEDED):
        assert DATA not in (opened.host.text(path) or "")


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (DATA, "raw"),
        (base64.b64encode(DATA.encode()).decode(), "b64"),
        (base64.encodebytes(DATA.encode()).decode(), "base64"),
    ],
)
def test_encodings(tmp_path: Path, data: str, encoding: str) -> None:
    opened = book(tmp_path, {"data": data, "encoding": encoding, "file": "/seed"})
    opened.run()
    assert opened.status.values["recoverable"] == []
    assert opened.host.read("/seed") == DATA.encode()


@pytest.mark.parametrize("encoding", ["gz", "gzip"])
def test_packed(encoding: str) -> None:
    assert written_files.decode(gzip.compress(DATA.encode()), encoding) == DATA.encode()


def test_command_finds_the_file(tmp_path: Path) -> None:
    command = ["sh", "-c", f"echo made > {tmp_path}$RANDOM_SEED_FILE"]
    opened = book(tmp_path, {"file": "/seed", "command": command})
    opened.run()
    assert opened.host.text("/seed") == "made\n"


def test_an_image_tree_has_no_pool(tmp_path: Path, pool: int) -> None:
    opened = book(tmp_path, {"data": DATA})
    opened.host.live = False
    opened.run()
    os.close(pool)
    assert opened.host.spawned == []
    assert [action.text for action, _ in opened.host.recorded] == [
        "run dd of=/dev/urandom conv=notrunc oflag=append status=none"
    ]
    assert opened.status.values["errors"] == []


def test_seed_of_nocloud_is_used_and_not_kept(tmp_path: Path) -> None:
    seed = "/var/lib/cloudboot/seed/nocloud"
    tree = {f"{seed}/user-data": "", f"{seed}/meta-data": "instance-id: i-1\nrandom_seed: from the seed\n"}
    opened = book(tmp_path, {"file": "/seed"}, tree=tree)
    fetched = nocloud.SOURCE.fetch(opened.host, {}, "nocloud", say=print)
    opened.instance = fetched.instance._replace(id=opened.instance.id)
    opened.run()
    assert opened.host.text("/seed") == "from the seed"
    assert "from the seed" not in str(fetched.instance.to_json())


def test_idle_without_seed_and_command(tmp_path: Path) -> None:
    opened = Book({}, tmp_path, "seed_random")
    facts = Facts(opened.host, "", {}, opened.instance)
    assert nothing_to_add(facts)
    assert not nothing_to_add(facts._replace(config={"random_seed": {"command": ["x"]}}))
    assert not nothing_to_add(facts._replace(instance=opened.instance._replace(metadata={"random_seed": "x"})))
    plant(opened.root, "/run/ec2/meta-data/random_seed", "x")
    assert not nothing_to_add(facts)
