"""What waits for cloud-init waits for us: Packer's, Terraform's and Ansible's usual lines, in a booted container."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from boot.bed import Imds, KeyPair
from boot.job import Inside

if TYPE_CHECKING:
    from boot.worlds import World

pytestmark = pytest.mark.container
INSTANCE = "i-0ccccccccccccccc1"
SLOW = "#cloud-config\nhostname: web\nruncmd:\n  - sleep 4\n  - echo done > /var/tmp/job\n"
# From the documentation of the three: each has to end, and not before the owner's commands have.
PACKER = "cloud-init status --wait > /dev/null && cat /var/tmp/job"
TERRAFORM = "while [ ! -f /var/lib/cloud/instance/boot-finished ]; do sleep 0.2; done; cat /var/tmp/job"
ANSIBLE = 'until [ "$(systemctl is-active cloud-final.service)" = active ]; do sleep 0.2; done; cat /var/tmp/job'
SHIMS = ("cloud-init-local", "cloud-init", "cloud-init-network", "cloud-config", "cloud-final")


@pytest.mark.parametrize("line", [PACKER, TERRAFORM, ANSIBLE], ids=["packer", "terraform", "ansible"])
def test_waits_end_when_the_owner_s_commands_have_ended(line: str, trixie: World, key_pair: KeyPair) -> None:
    words = ["--ssh-key", key_pair.public, "--instance-id", INSTANCE]
    with Imds(trixie.link.cloud, trixie.scratch, *words, user_data=SLOW.encode()):
        trixie.box.boot()
        trixie.connect()
        inside = Inside(lambda text: trixie.box.exec(["sh", "-c", text], check=False, timeout=60))
        assert inside(line) == "done"


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_answers_by_cloud_init_s_names(suite: str, key_pair: KeyPair, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(suite)
    words = ["--ssh-key", key_pair.public, "--instance-id", INSTANCE, "--hop-limit", "64"]
    with Imds(world.link.cloud, world.scratch, *words, user_data=b"#cloud-config\nhostname: web\nhostnam: x\n"):
        world.box.boot()
        time.sleep(0.5)
        world.connect()
        inside = world.inside
        waited = inside.ask("cloud-init status --wait --long")
        assert waited.returncode == 2, waited.stdout + waited.stderr  # the misspelt key
        assert waited.stdout.startswith("status: done\nextended_status: degraded done\n")
        assert "hostnam" in waited.stdout
        told = json.loads(inside.ask("cloud-init status --format json").stdout)
        assert (told["status"], told["datasource"], told["errors"]) == ("done", "ec2", [])
        assert inside.ask("cloud-init status --format yaml").stdout.startswith("---\nboot_status_code:")
        assert inside("cloud-init query v1.instance_id") == INSTANCE
        assert inside("cloud-init query --format '{{ ds.meta_data.instance_id }} {{ v1.region }}'").startswith(INSTANCE)
        assert inside("cloud-init query userdata").startswith("#cloud-config\nhostname: web")
        assert inside.ask("cloud-init query nothing").returncode == 1
        assert (
            inside("cloud-id")
            == json.loads(inside("cloud-id --json"))["cloud_id"]
            == inside("cat /run/cloud-init/cloud-id")
        )
        assert inside.ask("cloud-init schema --system").returncode == 1
        assert "26.2" in inside("cloud-init --version")
        assert inside.ask("cloud-init statu").returncode == 2

        status = json.loads(inside("cat /run/cloud-init/status.json"))["v1"]
        assert status["stage"] is None
        stages = [status[name] for name in ("init-local", "init", "modules-config", "modules-final")]
        assert stages[0]["start"] < stages[1]["start"]
        assert all(stage["finished"] >= stage["start"] for stage in stages), stages
        result = json.loads(inside("cat /var/lib/cloud/data/result.json"))["v1"]
        assert result == {"datasource": "DataSourceEc2", "errors": []}
        data = json.loads(inside("setpriv --reuid nobody --clear-groups cat /run/cloud-init/instance-data.json"))
        assert (data["v1"]["instance_id"], data["ds"]) == (INSTANCE, "redacted for non-root user")
        assert inside("stat -c %a /run/cloud-init/instance-data-sensitive.json") == "600"
        assert inside("cat /var/lib/cloud/instance/user-data.txt").startswith("#cloud-config")
        assert inside.ask("setpriv --reuid nobody --clear-groups cat /var/lib/cloud/instance/user-data.txt").returncode
        for unit in SHIMS:
            assert inside(f"systemctl is-active {unit}.service") == "active", unit
        for target in ("cloud-init.target", "cloud-config.target"):
            assert inside(f"systemctl is-active {target}") == "active", target
        assert inside("systemctl list-units --failed --no-legend --plain") == ""
        assert inside.ask("journalctl -b --no-pager | grep -i 'ordering cycle'").stdout == ""

        # The second boot has stages that do not start: what waits for them may not wait for ever.
        world.reboot()
        inside.status()
        assert inside(ANSIBLE.replace("cat /var/tmp/job", "echo over")) == "over"
        assert inside("cat /var/lib/cloud/instance/boot-finished")
        keys = inside.host_keys()

        assert inside("cloud-init single --name cc_set_hostname --frequency always").startswith(
            "set_hostname: done: 0 ch"
        )
        assert "not run: it ran for this instance" in inside("cloud-init single --name set_hostname")
        inside("cloud-init clean --logs --machine-id")
        assert inside("cat /etc/machine-id") == "uninitialized"
        assert inside("ls /var/lib/cloud /var/log | grep -c -e '^data$' -e cloudboot.log || true") == "0"
        world.reboot()
        assert inside.status()["kind"] == "new"
        assert inside.host_keys() != keys


def test_the_real_one_keeps_its_names(trixie: World, key_pair: KeyPair) -> None:
    """What a package puts over our files is not ours any more, and nothing of it is written."""
    root = trixie.box.root
    for path in ("usr/bin/cloud-init", "usr/lib/systemd/system/cloud-init.target"):
        os.unlink(f"{root}/{path}")
    with open(f"{root}/usr/lib/systemd/system/cloud-init.target", "w", encoding="ascii") as file:
        file.write("[Unit]\nDescription=theirs\n")
    with Imds(trixie.link.cloud, trixie.scratch, "--ssh-key", key_pair.public, "--instance-id", INSTANCE):
        trixie.box.boot()
        trixie.connect()
        assert trixie.inside.status()["status"] == "done"
        assert not os.path.exists(f"{root}/var/lib/cloud/instance")
        assert trixie.inside.ask("ls /run/cloud-init").returncode != 0
