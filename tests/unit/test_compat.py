"""cloud-init's names: what is taken over from /etc/cloud, what its files and its command say."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from cloudboot import cli, status
from cloudboot.compat import TARGET, command, files, installed, settings
from cloudboot.compat.clean import clean
from cloudboot.instance import Instance
from cloudboot.userdata.variables import variables

if TYPE_CHECKING:
    from pathlib import Path

    from cloudboot.host import Host

A = "i-0123456789abcdef0"
STOCK_FINAL = """cloud_final_modules:
  - package_update_upgrade_install
  - write-files-deferred
  - puppet
  - chef
  - ansible
  - mcollective
  - salt-minion
  - scripts-vendor
  - scripts-per-once
  - scripts-per-boot
  - scripts-per-instance
  - scripts-user
  - ssh-authkey-fingerprints
  - keys-to-console
  - phone-home
  - final-message
  - power-state-change
"""


def host_of(tree: Path, texts: dict[str, str] | None = None) -> Host:
    for path, text in (texts or {}).items():
        place = tree / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return cli.open_host(str(tree), echo=False, keep_log=False)


def read(tree: Path, texts: dict[str, str]) -> settings.Taken:
    return settings.read(host_of(tree, texts))


def test_later_files_win_and_mappings_are_merged(tmp_path: Path) -> None:
    taken = read(
        tmp_path,
        {
            settings.FILE: "disable_root: true\nssh_pwauth: false\nsystem_info: {default_user: {name: app, shell: /bin/sh}}\n",
            f"{settings.FOLDER}/10-own.cfg": "ssh_pwauth: true\nsystem_info: {default_user: {shell: /bin/bash}}\n",
            f"{settings.FOLDER}/README": "not: taken\n",
        },
    )
    assert taken.values == {
        "disable_root": True,
        "ssh_pwauth": True,
        "default_user": {"name": "app", "shell": "/bin/bash"},
    }
    assert (taken.left, taken.problems) == ({}, ())


def test_what_a_package_brought_is_nobody_s_word(tmp_path: Path) -> None:
    text = "preserve_hostname: true\n"
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    dpkg = f"Package: cloud-init\nConffiles:\n {settings.FILE} {digest}\nDescription: x\n"
    assert read(tmp_path, {settings.FILE: text, settings.DPKG_STATUS: dpkg}).values == {}
    assert read(tmp_path, {settings.FILE: f"{text}#\n"}).values == {"preserve_hostname": True}


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("log_cfgs: []\n", "log_cfgs", "has no counterpart"),
        ("reporting: {}\n", "reporting", "not supported yet: it does nothing"),
        ("datasource_list: [Azure, OVF]\n", "datasource_list", "names none of Ec2, NoCloud, None"),
        (
            "datasource_list: [NoCloud, Azure, Ec2, None]\n",
            "datasource_list",
            "names all datasources that there are here",
        ),
        (
            "datasource: {Azure: {apply_network_config: true}}\n",
            "datasource",
            "settings for none of Ec2, NoCloud, None",
        ),
        ("system_info: {distro: debian, ssh_svcname: ssh}\n", "system_info", "distro, ssh_svcname: read from"),
        (STOCK_FINAL, "cloud_final_modules", "changes nothing of what runs here"),
        ("## template: jinja\nhostname: {{ v1.x }}\n", settings.FILE, "is a template"),
    ],
)
def test_what_is_not_taken_is_named_with_the_reason(tmp_path: Path, text: str, key: str, reason: str) -> None:
    taken = read(tmp_path, {settings.FILE: text})
    assert list(taken.left) == [key]
    assert taken.left[key].startswith(reason)
    assert taken.values == {}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("datasource_list: [Ec2]\n", {"datasource_list": ["Ec2"]}),
        ("datasource: {Ec2: {strict_id: false}, Azure: {}}\n", {"datasource": {"Ec2": {"strict_id": False}}}),
        ("system_info: {ntp_client: chrony}\n", {"system_info": {"ntp_client": "chrony"}}),
        (
            "cloud_final_modules: [scripts-user, [runcmd, always]]\n",
            {"cloud_final_modules": ["scripts-user", ["runcmd", "always"]]},
        ),
        (STOCK_FINAL.replace("  - phone-home\n", ""), None),
        (
            "mount_default_fields: [null, null, auto, 'defaults,x-systemd.after=cloud-init-network.service,nofail', 0, 2]\n",
            {"mount_default_fields": [None, None, "auto", "defaults,nofail", 0, 2]},
        ),
    ],
)
def test_what_the_owner_set_is_taken(tmp_path: Path, text: str, values: dict[str, Any] | None) -> None:
    taken = read(tmp_path, {settings.FILE: text})
    assert list(taken.values) == [text.partition(":")[0]]
    assert values is None or taken.values == values


def test_the_file_says_where_it_is_from_and_goes_with_its_reason(tmp_path: Path) -> None:
    host = host_of(tmp_path, {settings.FILE: 'final_message: "bye: ü"\n'})
    settings.write(host, settings.read(host))
    assert host.text(settings.TARGET) == f'{settings.HEAD}final_message: "bye: ü"\n'
    count = len(host.changes)
    settings.write(host, settings.read(host))
    assert len(host.changes) == count
    (tmp_path / settings.FILE.lstrip("/")).unlink()
    settings.write(host, settings.read(host))
    assert host.text(settings.TARGET) is None


# -- files


def test_where_the_real_one_has_its_target_nothing_is_ours(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    assert not installed(host)
    host.symlink(TARGET, "cloudboot.target")
    assert installed(host)
    host.remove(TARGET)
    host.write(TARGET, "[Unit]\n")
    assert not installed(host)


def test_times_are_of_uptime_and_errors_stand_by_their_stage(tmp_path: Path) -> None:
    values = status.load(host_of(tmp_path))
    values["datasource"] = "Ec2"
    values["stages"] = {
        "local": {"state": "done", "started": 1000.0, "ended": 1000.5},
        "network": {"state": "done", "started": 1001.0, "ended": 1002.0},
        "config": {"state": "skipped", "ended": 1001.9},
        "final": {"state": "started", "started": 1003.0, "ended": 900.0},
    }
    values["errors"] = ["runcmd: item 1: exit status 3", "network stage: lost", "timezone: no such zone"]
    values["recoverable"] = ["user data:1:1: unknown key"]
    values["modules"] = {"runcmd": {"errors": values["errors"][:1]}, "timezone": {"errors": values["errors"][2:]}}
    told = files.status(values, up=10.0, now=1004.0)["v1"]
    assert (told["datasource"], told["stage"]) == ("DataSourceEc2", "modules-final")
    assert [(told[name]["start"], told[name]["finished"]) for name in files.STAGES.values()] == [
        (6.0, 6.5),
        (7.0, 8.0),
        (7.9, 7.9),
        (9.0, None),
    ]
    assert [told[name]["errors"] for name in files.STAGES.values()] == [
        [],
        ["network stage: lost"],
        values["errors"][2:],
        values["errors"][:1],
    ]
    assert told["init"]["recoverable_errors"] == {"WARNING": values["recoverable"]}


def test_what_the_lock_down_hides_is_in_no_file_for_everybody(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    shown = variables(Instance(A, "Ec2", "aws", region="eu-west-1"), {"meta-data": {"local-ipv4": "10.0.0.7"}}, {})
    files.publish_instance(host, shown)
    everybody, root = (host.text(f"{files.RUN}/instance-data{end}.json") or "" for end in ("", "-sensitive"))
    assert "10.0.0.7" not in everybody
    assert json.loads(root)["ds"]["meta_data"]["local-ipv4"] == "10.0.0.7"
    modes = [host.look(f"{files.RUN}/instance-data{end}.json") for end in ("", "-sensitive")]
    assert [entry.mode for entry in modes if entry] == [0o644, 0o600]
    assert host.text(f"{files.RUN}/cloud-id") == "aws\n"


# -- the command


@pytest.mark.parametrize(
    ("change", "word", "extended", "code"),
    [
        ({}, "done", "done", 0),
        ({"recoverable": ["x"]}, "done", "degraded done", 2),
        ({"errors": ["y"]}, "error", "error - done", 1),
    ],
)
def test_status_in_its_words(
    tmp_path: Path, change: dict[str, Any], word: str, extended: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    host = host_of(tmp_path)
    state = status.Status(host)
    state.values |= change
    state.finish()
    assert command.show_status(host, wait=True, long=True, form="tabular") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"status: {word}", f"extended_status: {extended}", "boot_status_code: enabled-by-generator"]
    assert command.show_status(host, wait=False, long=False, form="json") == code
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["extended_status"]) == (word, extended)
    assert {"init-local", "init", "modules-config", "modules-final", "stage", "detail", "last_update"} <= set(told)
    assert command.show_status(host, wait=False, long=False, form="tabular") == code
    assert capsys.readouterr().out == f"status: {word}\n"


def test_before_the_first_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = host_of(tmp_path)
    assert command.show_status(host, wait=False, long=False, form="tabular") == 0
    assert capsys.readouterr().out == "status: not started\n"
    assert command.cloud_id(host, command._cloud_id_arguments().parse_args([])) == 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["cloud-init", "init", "--local"], 0, "nothing done: cloudboot's units run the stages"),
        (["cloud-init", "modules", "--mode", "final"], 0, "nothing done"),
        (["cloud-init", "analyze", "blame"], 1, "not here: see cloudboot status --long"),
        (["cloud-init", "schema"], 1, "say --config-file FILE or --system"),
        (["cloud-init", "schema", "-c", "/nowhere"], 1, "No such file"),
    ],
)
def test_words_that_are_not_ours(words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == code
    assert told in capsys.readouterr().err


def test_schema_says_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "data"
    file.write_text("#cloud-config\nhostname: web\n")
    assert command.main(["cloud-init", "schema", "--config-file", str(file)]) == 0
    assert capsys.readouterr().out == f"Valid schema {file}\n"
    file.write_text("#cloud-config\nhostnam: web\n")
    assert command.main(["cloud-init", "schema", "--config-file", str(file)]) == 1
    assert "hostnam" in capsys.readouterr().out


def test_clean_forgets_the_instance_and_keeps_what_the_image_brings(tmp_path: Path) -> None:
    texts = {
        "/var/lib/cloudboot/instances/i-1/user-data": "x",
        "/var/lib/cloudboot/identity.json": "{}",
        "/var/lib/cloudboot/once/growpart": "x",
        "/var/lib/cloud/data/instance-id": "i-1\n",
        "/var/lib/cloud/scripts/per-boot/own": "#!/bin/sh\n",
        "/var/lib/cloud/seed/nocloud/meta-data": "{}",
        "/var/log/cloudboot.log": "x",
        "/etc/fstab": "/dev/a / ext4 defaults 0 1\n/dev/b /mnt ext4 nofail,comment=cloudconfig 0 2\n",
        "/etc/machine-id": "0123\n",
    }
    host = host_of(tmp_path, texts)
    clean(host, logs=False, seed=False, machine_id=False, configs=frozenset())
    there = [path for path in texts if host.exists(path)]
    assert there == [*list(texts)[4:9]]
    clean(host, logs=True, seed=True, machine_id=True, configs=frozenset({"all"}))
    assert [path for path in texts if host.exists(path)] == [list(texts)[4], "/etc/fstab", "/etc/machine-id"]
    assert host.text("/etc/fstab") == "/dev/a / ext4 defaults 0 1\n"
    assert host.text("/etc/machine-id") == "uninitialized\n"
