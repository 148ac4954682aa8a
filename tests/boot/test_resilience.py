"""What goes wrong on real machines: killed stages, power cuts, a silent metadata service, commands that take their time."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from boot.bed import Imds, KeyPair
from boot.job import USER_DATA
from cloudboot.modules import ORDER

if TYPE_CHECKING:
    from boot.worlds import World

pytestmark = pytest.mark.container
FIRST = "i-0aaaaaaaaaaaaaaa1"


def imds(world: World, key: KeyPair, user_data: str, *options: str) -> Imds:
    words = ["--ssh-key", key.public, "--instance-id", FIRST, *options]
    return Imds(world.link.cloud, world.scratch, *words, user_data=user_data.encode())


def override(world: World, unit: str, text: str) -> None:
    """Give a unit a drop-in."""
    folder = f"{world.box.root}/etc/systemd/system/{unit}.d"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/test.conf", "w", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize("after", ["0", "0.06", "0.1"])
def test_a_killed_local_stage_costs_nobody_the_login(trixie: World, key_pair: KeyPair, after: str) -> None:
    """kill -9 before, at the beginning of and in the middle of the local stage."""
    killed = "/bin/false" if after == "0" else f"/usr/bin/timeout -s KILL {after} /usr/bin/cloudboot boot --stage local"
    override(trixie, "cloudboot-local.service", f"[Service]\nExecStart=\nExecStart={killed}\n")
    with imds(trixie, key_pair, "#cloud-config\nusers: [default, {name: alice}]\n"):
        trixie.box.boot()
        trixie.connect()
        status = trixie.inside.status()
        assert status["kind"] == "new"
        assert trixie.login(key_pair) == "debian"
        assert trixie.inside("id -un alice") == "alice"
        assert len(trixie.inside("ls /etc/ssh/ssh_host_*_key").split()) == 3


def ssh_started(world: World) -> float:
    """Return when sshd was up, in seconds since systemd started."""
    world.box.wait_for(["systemctl", "is-active", "--quiet", "ssh.service"], 30)
    lines = world.inside(
        "systemctl show -p ActiveEnterTimestampMonotonic ssh.service; systemctl show -p UserspaceTimestampMonotonic"
    )
    facts = dict(line.split("=") for line in lines.splitlines())
    return (int(facts["ActiveEnterTimestampMonotonic"]) - int(facts["UserspaceTimestampMonotonic"])) / 1e6


def test_an_outage_on_a_reboot_changes_nothing(trixie: World, key_pair: KeyPair) -> None:
    with imds(trixie, key_pair, "#cloud-config\nusers: [default, {name: alice}]\n"):
        trixie.box.boot()
        trixie.connect()
        trixie.inside.status()
        trixie.inside("userdel -r alice 2>/dev/null")
        keys, accounts = trixie.inside.host_keys(), trixie.inside("cat /etc/passwd")
        trixie.reboot()
        trixie.inside.status()
        usual = ssh_started(trixie)
    trixie.reboot()
    trixie.box.wait_for(["systemctl", "is-active", "--quiet", "ssh.service"], 30)
    assert trixie.login(key_pair) == "debian"
    delayed = ssh_started(trixie)
    assert delayed - usual < 2.5, (usual, delayed)  # one second of grace, where the hardware says nothing
    assert trixie.inside.host_keys() == keys
    assert trixie.inside("cat /etc/passwd") == accounts
    values = json.loads(trixie.inside("cloudboot status --format json"))
    assert (values["status"], values["kind"]) == ("running", "unknown"), values
    trixie.box.wait_for(lambda: "waiting for the EC2 metadata service" in trixie.inside("cloudboot status"), 20)
    # The service comes back: the config stage, which goes on asking, finds the same instance.
    with imds(trixie, key_pair, "#cloud-config\nusers: [default, {name: alice}]\n"):
        values = trixie.inside.status()
        assert (values["status"], values["kind"]) == ("done", "same"), values
    assert trixie.inside.host_keys() == keys
    assert trixie.inside("cat /etc/passwd") == accounts


LONG = """#cloud-config
runcmd:
  - cloudboot status --wait > /var/tmp/inner
  - sleep 185
  - echo survived > /var/tmp/survived
"""


def test_a_command_of_three_minutes_is_named_and_not_shot(bookworm: World, key_pair: KeyPair) -> None:
    with imds(bookworm, key_pair, LONG):
        bookworm.box.boot()
        bookworm.connect()
        bookworm.box.wait_console(r"cloudboot: still running after 60 s: runcmd item 2 \(sleep …\)", 120)
        values = json.loads(bookworm.inside("cloudboot status --format json"))
        assert (values["status"], values["doing"]) == ("running", "runcmd")
        assert bookworm.inside.ask("cloudboot status --wait --timeout 1").returncode == 3
        values = bookworm.inside.status()
        assert values["status"] == "done", values
        assert bookworm.inside("cat /var/tmp/survived") == "survived"
        assert "called from inside cloudboot-final.service" in bookworm.inside("cat /var/tmp/inner")


CUT = """#cloud-config
runcmd:
  - echo one >> /var/tmp/runs
  - echo two >> /var/tmp/runs; sync; touch /var/tmp/now; sleep 100
  - echo three >> /var/tmp/runs
"""


def test_a_power_cut_in_runcmd_runs_nothing_twice(trixie: World, key_pair: KeyPair) -> None:
    with imds(trixie, key_pair, CUT):
        trixie.box.boot()
        trixie.connect()
        trixie.box.wait_for(["test", "-e", "/var/tmp/now"], 60)
        trixie.box.crash()
        trixie.link.disconnect()
        trixie.box.boot()
        trixie.connect()
        status = trixie.inside.status()
        assert status["status"] == "error"
        assert "runcmd item 2: interrupted" in status["errors"], status["errors"]
        assert "runcmd item 3: not reached" in status["errors"]
        assert trixie.inside("cat /var/tmp/runs") == "one\ntwo"
        assert "item 2 was interrupted" in trixie.inside("cloudboot why runcmd")
        assert "runcmd item 2 was interrupted" in trixie.box.console()
        assert trixie.inside.ask("cloudboot status").returncode == 1
        trixie.inside("cloudboot single --module runcmd --from 3")
        assert trixie.inside("cat /var/tmp/runs") == "one\ntwo\nthree"
        assert trixie.inside("cloudboot status").startswith("status: done")


EVERYTHING = (
    USER_DATA.replace(", no-such-package-at-all", "").replace('  - [sh, -c, "exit 3"]\n', "")
    + """
bootcmd: [echo boot >> /var/tmp/bootcmd]
growpart: {mode: auto}
manage_etc_hosts: localhost
locale: C.UTF-8
ssh_authorized_keys: []
chpasswd: {expire: false, users: [{name: alice, password: another secret, type: text}]}
phone_home: {url: "http://10.0.2.2:9999/", tries: 1}
final_message: over
package_update: true
"""
)
SNAPSHOT = "find /etc -xdev -type f -printf '%p %i %T@\\n' | sort"


def test_every_module_twice_in_a_row(trixie: World, key_pair: KeyPair) -> None:
    """`single` for each module, twice: the second time the Host counts no change, and no file in /etc is touched."""
    with imds(trixie, key_pair, EVERYTHING):
        trixie.box.boot()
        trixie.connect()
        trixie.inside.status()
        wrong = []
        for name in ORDER:
            if name == "power_state_change":
                continue  # its own test is a machine that goes off
            trixie.inside.ask(f"cloudboot single --module {name}")
            before = trixie.inside(SNAPSHOT)
            second = trixie.inside.ask(f"cloudboot single --module {name}")
            if ": 0 changes in" not in second.stdout and "nothing to do" not in second.stdout:
                wrong.append(f"{name}: {second.stdout}{second.stderr}")
            if trixie.inside(SNAPSHOT) != before:
                wrong.append(f"{name}: touched /etc")
        assert wrong == []
        assert trixie.login(key_pair) == "debian"


def test_wrong_words_and_no_root(trixie: World, key_pair: KeyPair) -> None:
    with imds(trixie, key_pair, "#cloud-config\nhostname: a\n"):
        trixie.box.boot()
        trixie.connect()
        trixie.inside.status()
        for line, status, said in (
            ("cloudboot", 64, "--help"),
            ("cloudboot nonsense", 64, "invalid choice"),
            ("cloudboot single --module mount", 64, "did you mean 'mounts'?"),
            ("cloudboot single --module mounts --frequency never", 64, "per-instance, per-boot, always or once"),
            ("cloudboot boot --stage x", 64, "local, network, config, final"),
            ("cloudboot status --root /nowhere", 64, "no such directory"),
            ("cloudboot single --module mounts --frequency per-instance", 0, "not run: it ran for this instance"),
            ("runuser -u nobody -- cloudboot boot", 1, "root"),
            ("runuser -u nobody -- cloudboot single --module mounts", 1, "root"),
            ("runuser -u nobody -- cloudboot lockdown", 1, "root"),
            ("runuser -u nobody -- cloudboot status", 0, "status: done"),
        ):
            answer = trixie.inside.ask(line)
            assert answer.returncode == status, (line, answer.returncode, answer.stdout, answer.stderr)
            assert said in answer.stdout + answer.stderr, (line, answer.stdout, answer.stderr)
            assert "Traceback" not in answer.stderr


def test_one_at_a_time(trixie: World, key_pair: KeyPair) -> None:
    with imds(trixie, key_pair, "#cloud-config\nruncmd: [sleep 25]\n"):
        trixie.box.boot()
        trixie.connect()
        trixie.box.wait_for(lambda: "runcmd" in trixie.inside("cloudboot status"), 60)
        began = time.monotonic()
        answer = trixie.inside.ask("cloudboot single --module timezone")
        assert answer.returncode == 1
        assert "cloudboot boot final (pid" in answer.stderr
        assert 9 < time.monotonic() - began < 20
        assert trixie.inside.status()["status"] == "done"
