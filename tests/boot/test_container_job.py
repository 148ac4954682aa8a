"""The main job in containers: real systemd, a wire to the metadata service, several boots of one disk."""

from __future__ import annotations

import time

import pytest

from boot.bed import Imds, KeyPair, Link
from boot.job import USER_DATA, check_first_boot, fingerprints
from boot.worlds import World

pytestmark = pytest.mark.container
FIRST, SECOND = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2"


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
