"""One user data, three instances of a launch: three different machines, each as `cloudboot plan` said beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from boot.bed import Imds, KeyPair, Tree
from boot.worlds import World, world

if TYPE_CHECKING:
    from boot.bed import Scratch

pytestmark = pytest.mark.container
USER_DATA = """#cloud-config
hostname: spare
timezone: Europe/Berlin
write_files:
  - {path: /etc/fleet.conf, content: "role = spare\\n"}
runcmd:
  - echo everybody > /var/tmp/ran
instances-cloud-config:
  "0,9":
    hostname: head
    users: [default, {name: boss, groups: [adm]}]
  "0":
    merge_how: list(append)+dict(no_replace,recurse_list)
    runcmd: [echo head >> /var/tmp/ran]
  "1-4":
    hostname: worker
    write_files:
      - {path: /etc/fleet.conf, content: "role = worker\\n"}
      - {path: /etc/worker.conf, content: "of = fleet\\n", permissions: "0600"}
  "*":
    locale: C.UTF-8
    frequency: {timezone: per-boot}
"""
INSTANCES = {0: "i-0aaaaaaaaaaaaaaa0", 1: "i-0aaaaaaaaaaaaaaa1", 7: "i-0aaaaaaaaaaaaaaa7"}


def planned(root: str, index: int, metadata: str, user_data: str) -> dict[str, Any]:
    """Return what `cloudboot plan` says of an instance, before the tree is booted."""
    words = ["--root", root, "--user-data", user_data, "--metadata", metadata, "--format", "json"]
    argv = [sys.executable, "-m", "cloudboot", "plan", *words, "--launch-index", str(index)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def files(plan: dict[str, Any]) -> set[tuple[str, str]]:
    """Return (module, path) of every file that a plan names."""
    return {
        (part["module"], item["path"])
        for part in plan["modules"]
        for item in part["items"]
        if item["kind"] == "file" and item["path"]
    }


def commands(plan: dict[str, Any]) -> list[str]:
    return [item["command"] for part in plan["modules"] for item in part["items"] if item["kind"] == "command"]


def boot(baked: Tree, scratch: Scratch, key: KeyPair, index: int) -> dict[str, str]:
    """Plan, boot and compare one instance; return what tells it from the others."""
    with open(scratch.file(f"user-data-{index}"), "w", encoding="utf-8") as data:
        data.write(USER_DATA)
    described = {
        "instance-id": INSTANCES[index],
        "local-hostname": "ip-10-0-2-15.ec2.internal",
        "public-keys": key.public,
    }
    with open(scratch.file(f"metadata-{index}"), "w", encoding="utf-8") as metadata:
        json.dump(described, metadata)
    options = ["--ssh-key", key.public, "--instance-id", INSTANCES[index], "--launch-index", str(index)]
    with contextmanager(world)(baked, scratch) as box:
        plan = planned(box.box.root, index, metadata.name, data.name)
        with Imds(box.link.cloud, box.scratch, *options, user_data=USER_DATA.encode()):
            box.box.boot()
            box.connect()
            status = box.inside.status()
            assert status["status"] == "done", status
            changed = {
                (record["in"].partition("/")[2], record["change"].split()[1])
                for record in box.inside.audit()
                if record.get("change", "").startswith("write ")
            }
            assert files(plan) == changed
            assert commands(plan) == ran(box)
            return {
                "hostname": box.inside("hostname"),
                "fleet": box.inside("cat /etc/fleet.conf"),
                "worker": box.inside("cat /etc/worker.conf 2>/dev/null || true"),
                "ran": box.inside("cat /var/tmp/ran"),
                "boss": box.inside("id -Gn boss 2>/dev/null || true"),
                "timezone": status["modules"]["timezone"]["frequency"],
            }


def ran(box: World) -> list[str]:
    """Return the owner's commands that ran, in order."""
    results = json.loads(box.inside("cat /var/lib/cloudboot/instance/results.json"))
    return [entry["text"] for entry in results["modules"]["runcmd"]["commands"]]


def test_three_machines_of_one_user_data(baked_trixie: Tree, scratch: Scratch, key_pair: KeyPair) -> None:
    found = {index: boot(baked_trixie, scratch, key_pair, index) for index in INSTANCES}
    common = {"worker": "", "boss": "", "ran": "everybody", "timezone": "per-boot"}
    assert found == {
        0: {**common, "hostname": "head", "fleet": "role = spare", "ran": "everybody\nhead", "boss": "boss adm"},
        1: {**common, "hostname": "worker", "fleet": "role = worker", "worker": "of = fleet"},
        7: {**common, "hostname": "spare", "fleet": "role = spare"},
    }
