"""Every bad input on a real system: after each the default user logs in over the wire, and `status` names the problem.

One boot of one container. Each case is a new instance of it: its own id, its user data, the accounts of the one before
removed; and `cloudboot boot` run by hand, all stages in order, as after a reset.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from boot.bed import Imds, KeyPair, ssh
from recipes import made

if TYPE_CHECKING:
    from boot.worlds import World

pytestmark = pytest.mark.container
FILES = sorted((Path(__file__).parent.parent / "cases" / "bad-input").glob("*.yaml"))
CONFIG = "ssh_genkeytypes: [ed25519]\n"  # the other types cost a second each
# What the case before has made; and what a boot of its own would not find under /run.
AFRESH = """
set -e
for user in debian bob Bob; do
  if getent passwd $user >/dev/null; then userdel -f -r $user >/dev/null 2>&1 || test $? = 12; fi
done
rm -rf /root/.ssh /home/debian /run/cloudboot/status.json /run/cloudboot/result.json /run/cloudboot/ran /run/ec2
rm -f /etc/rest /etc/lost
systemctl reset-failed ssh.service  # so many host keys in so short a time would reach systemd's limit of restarts
"""
ASK = "cloudboot boot >/dev/null 2>&1; echo $?; cloudboot status --long --format json; echo $?"


def test_bad_inputs(trixie: World, key_pair: KeyPair) -> None:
    folder = Path(trixie.box.root, "etc/cloudboot/conf.d")
    folder.mkdir(exist_ok=True)
    (folder / "90-quick.yaml").write_text(CONFIG)
    ids = (f"i-0ccccccccccc{number:05x}" for number in itertools.count(1))
    options = ["--ssh-key", key_pair.public]

    def metadata() -> dict[str, object]:
        return {"meta-data": {"instance-id": next(ids)}, "dynamic": {"instance-identity": None}}

    found = []
    with Imds(trixie.link.cloud, trixie.scratch, *options, user_data=b"", metadata=metadata()) as service:
        trixie.box.boot()
        trixie.connect()
        trixie.inside.status()
        for path in FILES:
            case = yaml.safe_load(path.read_text())
            service.set_metadata(metadata())
            service.set_user_data(made(case["user-data"]))
            found += [f"{path.stem}: {text}" for text in tried(trixie, key_pair, case)]
    assert not found, "\n".join(found)


def tried(world: World, key: KeyPair, case: dict[str, Any]) -> list[str]:
    """Boot with a case's user data; return what is not as it should be."""
    world.inside(AFRESH)
    boot, values, status = world.inside(ASK).split("\n")
    state = json.loads(values)
    expected = case.get("problems", []) if "boot" not in case else case["boot"]["problems"]
    errors = case.get("errors", []) if "boot" not in case else case["boot"].get("errors", [])
    wrong = []
    if state["instance"] is None or state["kind"] != "new":
        wrong.append(f"is {state['kind']} instance {state['instance']}")
    if state["recoverable"] != expected:
        wrong.append(f"says {state['recoverable']}, not {expected}")
    if state["errors"] != errors:
        wrong.append(f"fails {state['errors']}, not {errors}")
    if (int(boot), int(status)) != (0, 1 if errors else 2 if expected else 0):
        wrong.append(f"boot exits {boot}, status {status}")
    for _ in range(10):
        who = ssh(world.link.cloud, key, "debian", ["sudo", "-n", "id", "-un"], host=world.link.GUEST_V4, check=False)
        if who.returncode != 255 or "Permission denied" in who.stderr:
            break
        time.sleep(0.5)  # sshd takes up its new host keys: it listens anew, and resets who waits for it just then
    if who.stdout.strip() != "root":
        wrong.append(f"debian cannot log in: {who.returncode}: {who.stderr.strip()[-300:]}")
    return wrong
