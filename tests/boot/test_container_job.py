"""The main job in containers: real systemd, a wire to the metadata service, several boots of one disk."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from boot.bed import Container, Imds, KeyPair, Link, Repository, Scratch, Tree, run, ssh
from boot.job import USER_DATA, Inside, check_first_boot, fingerprints
from cloudboot import bake
from cloudboot.cli import open_host

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.container
OPTIONS = ["--capability=CAP_NET_ADMIN"]
FIRST, SECOND = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2"


class World(NamedTuple):
    """A container with a wire to its cloud."""

    link: Link
    box: Container
    scratch: Scratch
    inside: Inside

    def connect(self, *, v6: bool = False) -> None:
        (self.link.connect_v6 if v6 else self.link.connect_v4)()

    def login(self, key: KeyPair, user: str = "debian", host: str = Link.GUEST_V4) -> str:
        """Log in over the wire."""
        return ssh(self.link.cloud, key, user, ["id", "-un"], host=host, timeout=30).stdout.strip()

    def reboot(self, *, v6: bool = False) -> None:
        self.box.poweroff()
        self.link.disconnect()
        self.box.boot()
        self.connect(v6=v6)

    def keyscan(self, host: str = Link.GUEST_V4) -> set[str]:
        """Return the fingerprints that sshd shows."""
        scanned = self.link.cloud.run(["ssh-keyscan", "-T", "20", host]).stdout
        words = run(["ssh-keygen", "-lf", "-"], stdin=scanned).stdout.split()
        return {word for word in words if word.startswith("SHA256:")}


def baked(tree: Tree, scratch: Scratch) -> Iterator[Tree]:
    """Bake a tree once for the session."""
    with tree.overlay(scratch) as view:
        # The test gives the wire its addresses from outside, at the time it wants.
        with open(f"{view.path}/etc/systemd/network/10-wire.network", "w", encoding="utf-8") as file:
            file.write("[Match]\nName=host0\n\n[Link]\nUnmanaged=yes\n")
        bake.bake(open_host(view.path, echo=False, keep_log=False), datasource="Ec2")
        # There is no time server in these namespaces, and multi-user.target would wait three minutes for one.
        os.symlink("/dev/null", f"{view.path}/etc/systemd/system/chrony-wait.service")
        Repository(scratch).install(view.path)
        yield view.tree()


@pytest.fixture(scope="session")
def baked_trixie(tree_trixie: Tree, session_scratch: Scratch) -> Iterator[Tree]:
    yield from baked(tree_trixie, session_scratch)


@pytest.fixture(scope="session")
def baked_bookworm(tree_bookworm: Tree, session_scratch: Scratch) -> Iterator[Tree]:
    yield from baked(tree_bookworm, session_scratch)


def world(tree: Tree, scratch: Scratch) -> Iterator[World]:
    with (
        Link() as link,
        tree.overlay(scratch) as disk,
        Container(disk.path, link.guest, scratch, options=OPTIONS) as box,
    ):

        def ask(line: str) -> subprocess.CompletedProcess[str]:
            return box.exec(["sh", "-c", line], check=False, timeout=240)

        yield World(link, box, scratch, Inside(ask))


@pytest.fixture
def trixie(baked_trixie: Tree, scratch: Scratch) -> Iterator[World]:
    yield from world(baked_trixie, scratch)


@pytest.fixture
def bookworm(baked_bookworm: Tree, scratch: Scratch) -> Iterator[World]:
    yield from world(baked_bookworm, scratch)


def imds(world: World, key: KeyPair, instance_id: str = FIRST, *options: str, user_data: str = USER_DATA) -> Imds:
    words = ["--ssh-key", key.public, "--instance-id", instance_id, *options]
    return Imds(world.link.cloud, world.scratch, *words, user_data=user_data.encode())


@pytest.mark.parametrize(
    ("suite", "options", "v6"),
    [("trixie", [], False), ("bookworm", ["--v1-only", "--uec"], False), ("trixie", [], True)],
    ids=["trixie", "bookworm-uec", "trixie-ipv6-only"],
)
def test_main_job(suite: str, options: list[str], v6: bool, key_pair: KeyPair, request: pytest.FixtureRequest) -> None:
    box: World = request.getfixturevalue(suite)
    host = Link.GUEST_V6 if v6 else Link.GUEST_V4
    with imds(box, key_pair, FIRST, *options) as service:
        box.box.boot()
        time.sleep(1.0)
        box.connect(v6=v6)
        check_first_boot(box.inside, box.inside.status())
        assert box.login(key_pair, host=host) == "debian"
        shown = box.keyscan(host)
        assert shown
        assert fingerprints(box.box.console()) == shown
        log = service.log()
        asked = [entry["path"] for entry in log if entry["method"] == "GET" and entry["status"] == 200]
        assert len(asked) == len(set(asked)), "a key was asked for twice"
        assert not [path for path in asked if "credentials" in path]
        assert len({entry["connection"] for entry in log}) <= 10
        assert len([entry for entry in log if entry["method"] == "PUT" and entry["status"] == 200]) <= 1

        keys, records = box.inside.host_keys(), len(box.inside.audit())
        box.reboot(v6=v6)
        status = box.inside.status()
        assert status["status"] == "done", status
        assert (status["kind"], status["instance"]) == ("same", FIRST)
        assert box.inside.host_keys() == keys
        assert box.inside.ran(records) == set(), box.inside.audit()[records:]
        assert box.inside("cat /var/tmp/runs") == "last"
        assert box.login(key_pair, host=host) == "debian"

    with imds(box, key_pair, SECOND, *options):
        box.reboot(v6=v6)
        status = box.inside.status()
        assert (status["kind"], status["instance"]) == ("new", SECOND)
        assert box.inside.host_keys() != keys
        assert box.inside("cat /var/tmp/runs") == "last\nlast"
        assert box.login(key_pair, host=host) == "debian"
        units = box.inside("systemctl list-units --failed --no-legend --plain 'cloudboot*'")
        assert units == ""
