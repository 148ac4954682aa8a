"""`cloudboot query`: what is known of an instance, by key; who may see what."""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from casebook import ScratchHost, plant
from cloudboot import cli, query
from cloudboot.errors import CloudbootError, UsageError
from cloudboot.instance import Instance
from cloudboot.root import Root
from unit.test_boot import A, Machine

DATA = """#cloud-config
hostname: web
timezone: Etc/UTC
write_files:
  - {path: /etc/motd, content: top secret}
chpasswd: {expire: false, users: [{name: debian, password: hunter2, type: text}]}
runcmd: ["echo hunter3"]
users: [default, {name: admin, groups: [sudo], passwd: hunter4}]
system_info: {default_user: {passwd: hunter5}}
output: {own/key-name: /dev/vda}
"""
KNOWN_TO_ALL = {"availability_zone", "cloud_name", "instance_id", "local_hostname", "public_ssh_keys", "region", "v1"}


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A tree on which a boot has run."""
    machine = Machine(tmp_path_factory.mktemp("booted"))
    with machine.serve(A, DATA):
        machine.boot()
    return machine


class Ask:
    """The verb, as root on an image tree; what is refused is refused by the program."""

    def __init__(self, machine: Machine, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        self.machine = machine
        self.capture = capfdbinary

    def __call__(self, *words: str) -> str:
        return run(seen_by(self.machine, root=True, live=False), *words)

    def refused(self, *words: str, status: int = 1) -> str:
        """Return the line that says why."""
        assert cli.main(["query", "--root", self.machine.root.directory, *words]) == status
        told = self.capture.readouterr()
        assert told.out == b""
        assert told.err.count(b"\n") == 1
        return told.err.decode().strip()


@pytest.fixture
def ask(booted: Machine, capfdbinary: pytest.CaptureFixture[bytes]) -> Ask:
    return Ask(booted, capfdbinary)


def seen_by(machine: Machine, *, root: bool = False, live: bool = True) -> ScratchHost:
    """Return the machine, or the image tree, as root or as an ordinary user sees it."""
    tree = Root(machine.root.directory)
    tree.privileged = root
    host = ScratchHost(tree)
    host.live = live
    return host


def run(host: ScratchHost, *words: str) -> str:
    """Return what the verb writes. Raises what it raises."""
    parser = argparse.ArgumentParser()
    query.add_arguments(parser)
    written: list[bytes] = []
    assert query.run(parser.parse_args(words), host, written.append) == 0
    return b"".join(written).decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "key",
    [
        "ds.meta_data.placement.availability_zone",
        "ds.meta_data.placement.availability-zone",
        "ds.meta-data.placement.availability-zone",
        "meta-data/placement/availability-zone",
        "/latest/meta-data/placement/availability-zone",
        "v1.availability_zone",
        "v1.availability-zone",
        "availability_zone",
        "availability-zone",
        "ds.dynamic.instance_identity.document.availabilityZone",
        "dynamic/instance-identity/document/availabilityZone",
    ],
)
def test_one_value_in_all_its_spellings(ask: Ask, key: str) -> None:
    assert ask(key) == "eu-central-1a\n"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("v1.instance_id", f"{A}\n"),
        ("v1.local-hostname", "ip-172-31-16-10\n"),
        ("cloud_name", "uec\n"),
        ("config.hostname", "web\n"),
        ("config.chpasswd.expire", "false\n"),
        ("config.write_files[0].path", "/etc/motd\n"),
        ("config.write-files.0.path", "/etc/motd\n"),
        ("merged_cfg.timezone", "Etc/UTC\n"),
        ("config.output.own/key-name", "/dev/vda\n"),
        ("config.runcmd", '[\n "echo hunter3"\n]\n'),
    ],
)
def test_values(ask: Ask, key: str, value: str) -> None:
    assert ask(key) == value


def test_a_network_card_by_its_address(ask: Ask) -> None:
    macs = ask("--list-keys", "ds.meta_data.network.interfaces.macs").split()
    assert [mac.count(":") for mac in macs] == [5, 5]
    number = ask(f"ds.meta_data.network.interfaces.macs.{macs[1]}.device-number")
    assert number == ask(f"ds/meta-data/network/interfaces/macs/{macs[1].replace(':', '_')}/device_number") == "1\n"


def test_several_keys_one_after_the_other(ask: Ask) -> None:
    assert ask("region", "config.hostname") == "eu-central-1\nweb\n"


def test_user_data_comes_out_as_it_is(ask: Ask, tmp_path: Path) -> None:
    assert ask("userdata") == ask("user-data") == DATA
    assert ask("vendordata") == "\n"
    packed = gzip.compress(DATA.encode())
    machine = Machine(tmp_path)
    with machine.serve(A, "#cloud-config\n"):
        machine.boot()
    plant(machine.root, f"/var/lib/cloudboot/instances/{A}/user-data", {"content": packed})
    host = seen_by(machine, root=True, live=False)
    assert run(host, "userdata").encode("utf-8", "surrogateescape") == packed
    assert json.loads(run(host, "--all"))["userdata"].encode("utf-8", "surrogateescape") == packed


def test_the_program_prints_it(booted: Machine, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["query", "--root", booted.root.directory, "config.hostname"]) == 0
    assert capfdbinary.readouterr() == (b"web\n", b"")


def test_all_is_json_with_each_thing_once(ask: Ask) -> None:
    values = json.loads(ask("--all"))
    assert values.keys() == {"v1", "ds", "sys_info", "config", "userdata", "vendordata"}
    assert "127.0.0.1" in values["v1"]["subplatform"]
    assert not [name for name in values["v1"] if "-" in name]
    assert "local-hostname" in values["ds"]["meta_data"]
    assert "local_hostname" not in values["ds"]["meta_data"]
    assert "user-data" not in values["ds"]
    assert "SIMULATED-SECRET" not in json.dumps(values)


def test_list_keys(ask: Ask) -> None:
    top = ask("--list-keys").split()
    assert {"config", "ds", "region", "userdata", "v1", "vendordata"} <= set(top)
    assert ask("-l", "v1").split() == sorted(set(top) - {"config", "ds", "sys_info", "userdata", "v1", "vendordata"})
    assert ask("-l", "config.write_files", "meta-data/placement").split()[:2] == ["0", "availability-zone"]
    assert ask.refused("-l", "v1.region") == "cloudboot: query: v1.region: is a single value: it has no keys"


def test_format(ask: Ask) -> None:
    template = "{{ v1.region }}/{{ ds.meta_data.local_hostname }}/{{ config.hostname }}/{{ nope | default('none') }}"
    assert ask("--format", template) == "eu-central-1/ip-172-31-16-10.eu-central-1.compute.internal/web/none\n"
    assert ask("-f", "{% for key in config.write_files %}{{ key.path }}{% endfor %}") == "/etc/motd\n"
    assert ask.refused("-f", "{{ v1.regoin }}").startswith(
        "cloudboot: query: --format: there is no variable 'regoin': --list-keys shows what there is"
    )
    assert "there is no variable 'nope', 'nor'" in ask.refused("-f", "{{ nope }}{{ nor }}{{ nope }}")
    assert ask.refused("-f", "{{ v1.region").startswith("cloudboot: query: --format: jinja: ")
    assert ask.refused("-f", "{{ ''.__class__.__mro__ }}").startswith("cloudboot: query: --format: jinja: ")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (
            "v1.regoin",
            "query: v1: no such key: 'regoin': did you mean 'region'?: there are _beta_keys, availability_zone",
        ),
        ("cofnig.hostname", "query: no such key: 'cofnig': did you mean 'config'?: there are "),
        ("config.hostnme", "query: config: no such key: 'hostnme': did you mean 'hostname'?: there are chpasswd, "),
        ("config.write_files[1]", "query: config.write_files: has 1 items, 0 to 0: there is no '1'"),
        ("config.write_files.path", "query: config.write_files: has 1 items, 0 to 0: there is no 'path'"),
        ("config.write_files[0].mode", "query: config.write_files[0]: no such key: 'mode': there are content, path"),
        ("v1.region.name", "query: v1.region: is a single value: it has no 'name'"),
        (
            "meta-data/placement/zone",
            "query: ds.meta_data.placement: no such key: 'zone': there are availability-zone, ",
        ),
        ("", "query: no such key: ''"),
    ],
)
def test_what_is_not_there(ask: Ask, key: str, told: str) -> None:
    assert ask.refused("v1.region", key).startswith(f"cloudboot: {told}")


def test_secret_values_are_no_part_of_a_message(ask: Ask) -> None:
    assert "hunter" not in ask.refused("config.chpasswd.users[0].password.x")


@pytest.mark.parametrize(
    "words", [[], ["--all", "region"], ["--all", "--list-keys"], ["--format", "x", "region"], ["--nope"], ["-f"]]
)
def test_bad_usage(ask: Ask, words: list[str]) -> None:
    assert ask.refused(*words, status=64)


def test_what_everybody_may_know(booted: Machine) -> None:
    entry = booted.root.look("/run/cloudboot/instance.json")
    assert entry is not None
    assert entry.mode == 0o644
    known = query.read(seen_by(booted))
    assert known.values.keys() >= KNOWN_TO_ALL
    assert query.find(known, "v1.instance-id") == query.find(known, "instance_id") == A
    text = booted.text("/run/cloudboot/instance.json") or ""
    assert json.loads(text).keys() == {"v1"}
    assert "hunter" not in text
    assert "top secret" not in text


@pytest.mark.parametrize(
    "key", ["ds.meta_data.ami-id", "meta-data/ami-id", "config.hostname", "userdata", "vendor-data"]
)
def test_the_rest_needs_root(booted: Machine, key: str) -> None:
    known = query.read(seen_by(booted))
    with pytest.raises(CloudbootError, match=r"^query: \S+: needs root: an ordinary user is shown v1\.\* only$"):
        query.find(known, key)
    assert run(seen_by(booted), "--list-keys").split() == sorted(known.values)
    assert json.loads(run(seen_by(booted), "--all")).keys() == {"v1"}
    with pytest.raises(CloudbootError, match="ds, config, userdata, vendordata, sys_info: needs root"):
        run(seen_by(booted), "--format", "{{ ds.meta_data.ami_id }}")
    assert run(seen_by(booted), "--format", "{{ v1.region }} {{ region }}") == "eu-central-1 eu-central-1\n"


def test_an_ordinary_user_sees_a_tree_without_secrets(booted: Machine) -> None:
    host = seen_by(booted, live=False)
    values = json.loads(run(host, "--all"))
    assert values.keys() == {"v1", "ds", "sys_info", "config"}
    config = values["config"]
    assert config["write_files"] == [{"path": "/etc/motd", "content": "***"}]
    assert config["chpasswd"] == {"expire": False, "users": [{"name": "debian", "password": "***", "type": "text"}]}
    assert config["runcmd"] == ["***"]
    assert config["hostname"] == "web"
    assert config["users"] == ["default", {"name": "admin", "groups": ["sudo"], "passwd": "***"}]
    assert config["system_info"] == {"default_user": {"passwd": "***"}}
    assert config["output"] == {"own/key-name": "***"}  # no schema says that it is none
    assert "hunter" not in json.dumps(values)
    assert run(host, "--format", "{{ config.runcmd[0] }}") == "***\n"
    with pytest.raises(CloudbootError, match="userdata: may hold secrets: needs root"):
        run(host, "userdata")


def test_of_a_tree_that_is_roots_everybody_sees_what_everybody_may(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.serve(A, DATA):
        machine.boot()
    machine.root.remove("/var/lib/cloudboot")  # as little as an ordinary user sees of it
    assert run(seen_by(machine, live=False), "v1.region") == "eu-central-1\n"
    with pytest.raises(CloudbootError, match="needs root"):
        run(seen_by(machine, live=False), "config.hostname")
    with pytest.raises(CloudbootError, match="nothing is known yet"):
        run(seen_by(machine, root=True, live=False), "v1.region")


def test_before_any_boot(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    machine = Machine(tmp_path)
    told = "query: nothing is known yet: no boot has come as far as the metadata: see `cloudboot status`"
    assert Ask(machine, capfdbinary).refused("region") == f"cloudboot: {told}"
    with pytest.raises(CloudbootError, match="nothing is known yet"):
        query.read(seen_by(machine))


def test_between_boots_what_was_kept_is_there(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The crawl is in /run, which a reboot empties; an image that is looked at has none."""
    machine = Machine(tmp_path)
    with machine.serve(A, DATA):
        machine.boot()
    machine.root.remove("/run")
    machine.configure(timezone="Europe/Berlin")  # the image's, changed since: what was applied stays what it was
    ask = Ask(machine, capfdbinary)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert ask("v1.region", "config.timezone") == "eu-central-1\nEtc/UTC\n"
    assert ask.refused("ds.meta_data") == (
        "cloudboot: query: ds.meta_data: no metadata was crawled in this boot (/run/ec2/metadata.json is not there)"
    )
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before, "asking leaves a trace"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/run/ec2/metadata.json", "ds.meta_data"),
        (f"/var/lib/cloudboot/instances/{A}/config.json", "config.hostname"),
    ],
)
def test_what_is_damaged_is_named(
    tmp_path: Path, path: str, key: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    machine = Machine(tmp_path)
    with machine.serve(A, DATA):
        machine.boot()
    plant(machine.root, path, "{")
    assert Ask(machine, capfdbinary).refused(key).startswith(f"cloudboot: query: {path}: ")


def test_a_damaged_crawl_is_no_reason_for_a_boot_to_fail(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    plant(machine.root, "/run/ec2/metadata.json", "{")
    v1 = json.loads(query.public(query.shown(Instance(A, "NoCloud"), seen_by(machine, root=True))))["v1"]
    assert (v1["instance_id"], v1["subplatform"]) == (A, "unknown")


def test_help_names_every_option() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "cloudboot", "query", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for word in ("KEY", "--all", "--list-keys", "--format", "--root"):
        assert word in told


def test_says_what_it_wants(booted: Machine) -> None:
    with pytest.raises(UsageError, match="say one of KEY"):
        run(seen_by(booted))
