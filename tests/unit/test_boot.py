"""Whole boots on a scratch tree, with the simulator on loopback as the metadata service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from casebook import BASE_TREE, plant
from cloudboot.boot import Boot
from cloudboot.host import Host
from cloudboot.imds import simulator, tree
from cloudboot.imds.faults import parse
from cloudboot.log import Log
from cloudboot.module import Stage
from cloudboot.root import Root
from cloudboot.single import why_sentence

A, B = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2"
ASSET = "/sys/class/dmi/id/board_asset_tag"
DATA = "#cloud-config\nhostname: web\nwrite_files: [{path: /etc/motd, content: hi}]\n"
ALL = list(Stage)


class Machine:
    """A scratch tree and the service that it asks."""

    def __init__(self, folder: Path) -> None:
        self.root = Root(str(folder))
        # The default user's account is there: a scratch tree has no useradd.
        passwd = f"{BASE_TREE['/etc/passwd']}debian:x:1000:1000:Debian:/home/debian:/bin/bash\n"
        more = {
            "/etc/hostname": "image\n",
            "/etc/passwd": passwd,
            "/etc/group": f"{BASE_TREE['/etc/group']}debian:x:1000:\n",
            "/etc/shadow": "root:*:19000:0:99999:7:::\ndebian:!:19000:0:99999:7:::\n",
            "/bin/bash": {"content": "", "mode": 0o755},
        }
        for path, what in {**BASE_TREE, **more}.items():
            plant(self.root, path, what)
        plant(self.root, "/home/debian", {"dir": True, "owner": "debian"})
        self.lines: list[str] = []

    def configure(self, **config: object) -> None:
        plant(self.root, "/etc/cloudboot/cloudboot.yaml", yaml.safe_dump(config))

    def serve(
        self, instance_id: str = A, data: str = DATA, *faults: str, keys: Sequence[str] = (tree.KEY,)
    ) -> simulator.Simulator:
        options = simulator.Options(
            machine=tree.Machine(instance_id=instance_id, ssh_keys=tuple(keys)),
            user_data=data.encode(),
            faults=tuple(parse(fault) for fault in faults),
        )
        service = simulator.serve(options)
        address, port = service.listening[0]
        urls = {"metadata_urls": [f"http://{address}:{port}"], "max_wait": 3}
        self.configure(datasource_list=["Ec2"], datasource={"Ec2": urls})
        return service

    def boot(self, *stages: Stage, new: bool = True) -> Boot:
        """Run stages; `new`: of a new boot (/run is empty)."""
        if new:
            self.root.remove("/run")
        log = Log(self.root, echo=False)
        log.say = self.lines.append  # type: ignore[method-assign, assignment]
        boot = Boot(Host(self.root, log))
        boot.run(list(stages) or ALL)
        return boot

    def text(self, path: str) -> str | None:
        content = self.root.read(path)
        return None if content is None else content.decode()

    def result(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.text("/run/cloudboot/result.json") or "{}")
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_first_boot_then_settled(machine: Machine) -> None:
    with machine.serve():
        boot = machine.boot()
        assert (boot.status.values["kind"], boot.status.values["instance"]) == ("new", A)
        assert machine.text("/etc/motd") == "hi"
        assert machine.text("/etc/hostname") == "web\n"
        assert machine.text("/run/ec2/meta-data/instance-id") == A
        assert machine.result()["status"] == "done"
        assert "CLOUDBOOT_INSTANCE_ID=" + A in (machine.text("/run/cloudboot/instance.env") or "")
        plant(machine.root, "/etc/motd", "mine")
        boot = machine.boot()
        assert boot.status.values["kind"] == "same"
        assert machine.text("/etc/motd") == "mine"
        assert boot.host.changes == []
        # The final stage was proved empty: systemd would not start it.
        assert machine.text("/run/cloudboot/skip/final") == ""
        assert machine.result()["status"] == "done"


def test_another_instance_runs_all_again(machine: Machine) -> None:
    with machine.serve():
        machine.boot()
    plant(machine.root, "/etc/motd", "mine")
    with machine.serve(B):
        assert machine.boot().status.values["kind"] == "new"
    assert machine.text("/etc/motd") == "hi"
    assert machine.root.readlink("/var/lib/cloudboot/instance") == f"instances/{B}"


def test_hardware_knows_before_the_service(machine: Machine) -> None:
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve():
        machine.boot()
        boot = machine.boot(Stage.LOCAL)
        assert boot.status.values["kind"] == "same"
        assert boot.status.values["stages"]["network"]["state"] == "skipped"
        assert boot.status.values["crawled"] is None


def test_an_outage_on_a_same_instance_is_recoverable(machine: Machine) -> None:
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve():
        machine.boot()
    boot = machine.boot()
    assert boot.status.values["kind"] == "same"
    assert machine.result()["status"] == "degraded"
    assert boot.host.changes == []


def test_new_without_data_marks_nothing_and_asks_again(machine: Machine) -> None:
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve():
        machine.boot()
    plant(machine.root, ASSET, f"{B}\n")
    boot = machine.boot()
    assert boot.status.values["kind"] == "new-without-data"
    assert machine.text("/run/cloudboot/pending") == ""
    assert machine.root.readlink("/var/lib/cloudboot/instance") == f"instances/{A}"
    assert any("pending" in line for line in machine.lines)
    with machine.serve(B):
        boot = machine.boot(new=False)
        assert boot.status.values["kind"] == "new"
        assert machine.text("/run/cloudboot/pending") is None
        assert machine.root.readlink("/var/lib/cloudboot/instance") == f"instances/{B}"
        assert boot.status.values["modules"]["write_files"]["state"] == "done"


def test_unknown_runs_nothing_that_is_per_instance(machine: Machine) -> None:
    with machine.serve():
        machine.boot()
    plant(machine.root, "/etc/motd", "mine")
    boot = machine.boot()
    assert boot.status.values["kind"] == "unknown"
    assert boot.status.values["modules"]["write_files"]["state"] == "skipped"
    assert machine.text("/etc/motd") == "mine"
    assert machine.root.readlink("/var/lib/cloudboot/instance") == f"instances/{A}"


def test_switched_off_is_said_and_not_asked_again(machine: Machine) -> None:
    with machine.serve(A, DATA, "token-403") as service:
        boot = machine.boot(Stage.LOCAL, Stage.NETWORK)
        assert "switched off" in str(boot.status.values["errors"])
        assert len([record for record in service.log if record.method == "PUT"]) == 1


def test_changed_user_data_is_noted_and_seen_by_what_runs_always(machine: Machine) -> None:
    with machine.serve():
        machine.boot()
    changed = DATA.replace("content: hi", "content: changed") + "frequency: {write_files: always}\n"
    with machine.serve(A, changed):
        boot = machine.boot()
        assert boot.status.values["kind"] == "same"
        assert "changed since it was applied" in boot.status.values["note"]
        assert machine.text("/etc/motd") == "changed"
        # It stays noted.
        assert "changed since it was applied" in machine.boot().status.values["note"]


def test_a_stage_that_died_is_made_up_for(machine: Machine) -> None:
    with machine.serve():
        boot = machine.boot(Stage.CONFIG)
        assert {name: entry["state"] for name, entry in boot.status.values["stages"].items()} == {
            "local": "done",
            "network": "done",
            "config": "skipped",  # it has only light work, which the network stage has done
            "final": "skipped",  # proved to have nothing to do
        }
        assert machine.text("/etc/motd") == "hi"


def test_nocloud_seed(machine: Machine) -> None:
    machine.configure(datasource_list=["NoCloud"])
    plant(machine.root, "/var/lib/cloudboot/seed/nocloud/meta-data", "instance-id: i-seed\nlocal-hostname: seeded\n")
    plant(
        machine.root,
        "/var/lib/cloudboot/seed/nocloud/user-data",
        "#cloud-config\nwrite_files: [{path: /etc/motd, content: seed}]\n",
    )
    boot = machine.boot()
    assert (boot.status.values["instance"], boot.status.values["datasource"]) == ("i-seed", "NoCloud")
    assert machine.text("/etc/motd") == "seed"
    assert machine.text("/etc/hostname") == "seeded\n"
    assert machine.boot().status.values["kind"] == "same"


def test_none_applies_the_image_configuration(machine: Machine) -> None:
    machine.configure(datasource_list=["None"], write_files=[{"path": "/etc/motd", "content": "image"}])
    machine.boot()
    assert machine.text("/etc/motd") == "image"


def test_no_datasource_at_all(machine: Machine) -> None:
    machine.configure(datasource_list=["NoCloud"])
    boot = machine.boot()
    assert "nothing to do" in boot.status.values["note"]
    assert machine.result()["status"] == "done"


def test_why(machine: Machine) -> None:
    with machine.serve():
        machine.boot()
    host = Host(machine.root, Log(machine.root, echo=False))
    assert why_sentence(host, "cc_write_files").startswith(
        "write_files ran in this boot (done), because it has not run"
    )
    assert "has no runcmd" in why_sentence(host, "runcmd")
    assert why_sentence(host, "lease").startswith("lease did not run in this boot: there is nothing to do; `cloudboot")
    machine.root.remove("/run")
    assert "the metadata service is silent" not in why_sentence(host, "write_files")


def test_the_owner_s_lists_never_cost_the_login(machine: Machine) -> None:
    lists = "cloud_init_modules: []\ncloud_config_modules: []\ncloud_final_modules: []\n"
    with machine.serve(A, DATA + lists):
        modules = machine.boot().status.values["modules"]
    assert modules["write_files"]["state"] == "skipped"
    assert {modules[name]["state"] for name in ("users_groups", "ssh")} <= {"done", "failed"}


class Cut(BaseException):
    """The power is gone."""


def test_a_power_cut_at_every_step_ends_as_an_uninterrupted_boot(tmp_path: Path) -> None:
    """Die before each step of the first boot, boot again, and compare the tree with that of an undisturbed boot."""

    def everything(folder: Path) -> dict[str, bytes]:
        found = Root(str(folder))
        host = Host(found, Log(found, echo=False))
        tree_of = {**host.tree("/etc"), **{f"ec2/{name}": data for name, data in host.tree("/run/ec2").items()}}
        # Addresses, stamps and times differ from run to run.
        return {
            name: data for name, data in tree_of.items() if "metadata.json" not in name and "cloudboot.yaml" not in name
        }

    whole = Machine(tmp_path / "whole")
    with whole.serve():
        boot = whole.boot()
    steps = boot.host._steps
    assert steps > 40
    expected = everything(tmp_path / "whole")

    for step in range(1, steps + 1, 3):
        machine = Machine(tmp_path / str(step))
        with machine.serve():

            def die(number: int, action: object, at: int = step) -> None:
                if number == at:
                    raise Cut

            host = Host(machine.root, Log(machine.root, echo=False), on_change=die)
            with pytest.raises(Cut):
                Boot(host).run(ALL)
            after = machine.boot()
        assert everything(tmp_path / str(step)) == expected, f"step {step}"
        assert after.status.values["errors"] == [], f"step {step}"
