"""`cloudboot plan`: what it names is what a boot then does; it changes nothing, shows no secret, and says why."""

from __future__ import annotations

import argparse
import http.server
import json
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jsonschema
import pytest

from casebook import plant
from cloudboot import cli, effects, plan_text, planning
from cloudboot.actions import Run, WriteFile
from cloudboot.boot import Boot
from cloudboot.errors import UsageError
from cloudboot.host import Host
from cloudboot.instance import Kind
from cloudboot.log import Log
from cloudboot.masked import Mask, secrets
from cloudboot.plan import Fleet, Plan, fleet
from cloudboot.planned import PlannedHost, is_opaque
from cloudboot.planning import INVENTED, Asked, make, representatives
from cloudboot.root import Root
from unit import test_bad_input
from unit.test_boot import ALL, A, B, Machine
from unit.test_plan_cases import named
from unit.test_planned import as_nobody, ordinary, stamps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cloudboot.actions import Action

__all__ = ["ordinary"]
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "plan.schema.json").read_text())
PASSWORD, HASH = "geheim-und-lang", "$6$abcdefgh$yIZAF3gQPvtKZO/9qOJKffAKKbtS3ef3qmwyugk4uWVjX8YZf/GV3A8SkFxEPY0T56C"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA-PRIVATE\n-----END OPENSSH PRIVATE KEY-----\n"
DATA = f"""#cloud-config
hostname: web
users:
  - default
  - {{name: bob, plain_text_passwd: "{PASSWORD}", lock_passwd: false}}
  - {{name: carol, hashed_passwd: "{HASH}"}}
chpasswd: {{list: ["debian:{PASSWORD}2", "root:RANDOM"]}}
write_files:
  - {{path: /etc/motd, content: "hello\\n"}}
  - {{path: /etc/app.env, content: "TOKEN=file-token-1\\n"}}
  - {{path: /root/key, content: "key-content-1", permissions: "0600"}}
manage_etc_hosts: localhost
bootcmd: ["echo early > /run/early"]
runcmd:
  - echo "debian:{PASSWORD}2" | chpasswd
  - [curl, -H, "Authorization: Bearer bearer-1", "https://me:url-secret-1@example.com/"]
phone_home: {{url: "http://127.0.0.1:9/$INSTANCE_ID"}}
timezone: Etc/UTC
"""
NOTHING = Asked()
SECRETS = [PASSWORD, HASH, "file-token-1", "key-content-1", "bearer-1", "url-secret-1", "PRIVATE"]


def planned_for(root: Root, asked: Asked = NOTHING, index: int | None = None) -> tuple[PlannedHost, Plan]:
    host = PlannedHost(Host(root, Log(root, echo=False, keep=False)))
    return host, make(host, asked, index)


def texts(actions: Sequence[Action]) -> list[str]:
    """Return the actions as texts; the size of what is drawn is not known beforehand."""
    return [
        action.text.partition(" (")[0] if isinstance(action, WriteFile) and "/ssh_host" in action.path else action.text
        for action in actions
    ]


def test_a_boot_does_what_was_planned(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.serve(A, DATA) as service:
        url = "http://{}:{}".format(*service.listening[0])
        before = stamps(tmp_path)
        host, plan = planned_for(machine.root, Asked(metadata=url))
        assert stamps(tmp_path) == before
        boot = machine.boot()
    assert (plan.instance.id, plan.kind) == (A, Kind.NEW)
    assert texts(host.changes) == texts(boot.host.changes)
    made, foreseen = ([(action.text, why) for action, why in each.recorded] for each in (boot.host, host))
    assert foreseen == made
    states = {part.module: (part.runs, part.reason) for part in plan.parts if part.module != "lockdown"}
    modules = boot.status.values["modules"]
    assert states == {name: (f["state"] in ("done", "failed"), f["reason"]) for name, f in modules.items()}


def test_a_boot_of_a_live_machine_does_what_was_planned(tmp_path: Path) -> None:
    """All tools are there and do their work: accounts, host keys, the firewall."""
    machine = Machine(tmp_path)
    plant(machine.root, "/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
    plant(machine.root, "/etc/group", "root:x:0:\nadm:x:4:\nsudo:x:27:\n")
    route = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0100000A\t3\t0\t0\t0\t00000000\n"
    plant(machine.root, "/proc/net/route", route)
    data = DATA + "metadata_access: {allow: {users: [bob]}}\n"
    for key in ("bootcmd", "runcmd", "phone_home"):  # these would really be run, or sent
        data = data.replace(f"{key}:", f"no_{key}:")
    with machine.serve(A, data) as service:
        url = "http://{}:{}".format(*service.listening[0])
        real = Tools(machine.root)
        host = PlannedHost(Tools(machine.root))
        before = stamps(tmp_path)
        plan = make(host, Asked(metadata=url))
        assert stamps(tmp_path) == before
        Boot(real).run(ALL)
    # A boot tells systemd that nobody need ask again: about itself, not about the machine.
    made = [named(text, real.root) for text in texts(real.changes)]
    # The imitated firewall forgets what it was told, so that the config stage puts it up again.
    first = {text: made.index(text) for text in made if text.startswith("metadata lock-down")}
    made = [text for number, text in enumerate(made) if first.get(text, number) == number]
    assert [named(text, host.root) for text in texts(host.changes)] == made
    assert not plan.well  # the three keys that nobody knows
    assert real.root.users().keys() == host.root.users().keys()


class Tools(test_bad_input.Machine):
    """A live machine whose accounts, host keys and host name are made, and whose firewall takes everything."""

    def __init__(self, root: Root) -> None:
        super().__init__(root, tools=[{"argv": "nft -j list", "status": 1}, {"argv": "ip", "output": "[]"}])


def test_nothing_more_is_planned_after_the_boot(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.serve(A, DATA):
        machine.boot()
    before = stamps(tmp_path)
    host, plan = planned_for(machine.root)
    assert (plan.instance.id, plan.kind) == (A, Kind.SAME)
    assert stamps(tmp_path) == before
    assert host.changes == []
    motd = next(part for part in plan.parts if part.module == "write_files")
    assert not motd.runs
    assert "it ran for this instance at" in motd.reason
    assert {item.command for part in plan.parts for item in part.items if item.kind == "command"} == {
        "echo early > /run/early"
    }


def test_as_a_new_instance_everything_is_planned_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.serve(A, DATA):
        machine.boot()
    plant(machine.root, "/etc/motd", "mine\n")
    _, plan = planned_for(machine.root, Asked(new=True))
    assert (plan.instance.id, plan.kind) == (INVENTED.id, Kind.NEW)
    item = next(item for part in plan.parts for item in part.items if item.path == "/etc/motd")
    assert item.lines == ("@@ -1 +1 @@", "-mine", "+hello")
    machine.root.remove("/run")
    with machine.serve(B, DATA):
        assert "/etc/motd" in [getattr(action, "path", "") for action in machine.boot().host.changes]


def test_another_user_data_on_the_same_instance(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with machine.serve(A, DATA):
        machine.boot()
    other = DATA.replace("hello", "changed") + "frequency: {write_files: always}\n"
    _, plan = planned_for(machine.root, Asked(user_data=other.encode()))
    assert plan.kind is Kind.SAME
    assert plan.remarks == ("the user data is not what was applied; what ran for this instance has run",)
    files = next(part for part in plan.parts if part.module == "write_files")
    assert (files.runs, files.set_by) == (True, "user data (frequency)")
    assert [item.lines for item in files.items] == [("@@ -1 +1 @@", "-hello", "+changed")]


def test_a_seed_is_read_without_being_asked_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.configure(datasource_list=["NoCloud"])
    seed = "/var/lib/cloudboot/seed/nocloud"
    plant(machine.root, f"{seed}/meta-data", "instance-id: i-seed\nlocal-hostname: seeded\n")
    plant(machine.root, f"{seed}/user-data", "#cloud-config\nwrite_files: [{path: /etc/motd, content: seed}]\n")
    host, plan = planned_for(machine.root)
    assert (plan.instance.id, plan.instance.datasource) == ("i-seed", "NoCloud")
    boot = machine.boot()
    assert texts(host.changes) == texts(boot.host.changes)


# -- secrets


def test_no_secret_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(tmp_path)
    plant(machine.root, "/etc/old", f"old\n{PRIVATE}")
    data = DATA + "ssh_keys:\n  rsa_private: |\n" + "".join(f"    {line}\n" for line in PRIVATE.splitlines())
    data = data.replace("write_files:\n", "write_files:\n  - {path: /etc/old, content: 'new'}\n")
    file = tmp_path / "user-data"
    file.write_text(data)
    for word in ("text", "json"):
        assert cli.main(["plan", "--root", str(tmp_path), "--user-data", str(file), "--format", word]) == 2
        told = capsys.readouterr()
        assert told.err == ""
        assert [secret for secret in SECRETS if secret in told.out] == []
        assert "***" in told.out
        assert "/etc/motd" in told.out
    document = json.loads(told.out)
    items = {item["path"]: item for part in document["modules"] for item in part["items"] if item["path"]}
    assert items["/root/key"]["secret"]
    assert items["/root/key"]["lines"] == []
    assert items["/etc/app.env"]["lines"][-1] == "+TOKEN=***"


def test_masks() -> None:
    config = {
        "password": "one-secret",
        "chpasswd": {"list": "a:two-secret\nb:R"},
        "runcmd": ["three"],
        "hostname": "four",
    }
    marked: dict[str, dict[str, Any]] = {
        "password": {"type": "string", "x-secret": True},
        "chpasswd": {"properties": {"list": {"anyOf": [{"x-secret": True}, {"items": {"x-secret": True}}]}}},
        "runcmd": {"items": {"x-secret": True}},
        "hostname": {"type": "string"},
    }
    mask = Mask(secrets(config, marked))
    assert mask("one-secret two-secret three four") == "*** *** three four"
    assert mask("mysql --password=x1 -u root") == "mysql --password=*** -u root"
    assert mask("curl --token t0ken https://u:p@h/") == "curl --token *** https://u:***@h/"
    assert mask("DB_PASSWORD: 'x y'\nport: 1") == "DB_PASSWORD: '*** y'\nport: 1"
    assert mask(f"a\n{PRIVATE}b") == "a\n***\nb"
    assert mask("PasswordAuthentication no") == "PasswordAuthentication no"


def test_long_lines_are_masked_in_no_time() -> None:
    mask = Mask(frozenset({"one-secret"}))
    for text in ("A" * 2_000_000, "pass" * 300_000, "://" * 300_000, "-" * 1_000_000, "token: " * 100_000):
        began = time.monotonic()
        mask(text)
        assert time.monotonic() - began < 5


# -- the network


class Files(http.server.BaseHTTPRequestHandler):
    """Serves a configuration, and a file that it names as a source."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        own = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        config = f"#cloud-config\nwrite_files: [{{path: /etc/motd, source: {{uri: '{own}/motd'}}}}]\n"
        body = (config if self.path == "/config" else "fetched\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files() -> Iterator[str]:
    """Serve on loopback; yield the URL."""
    Files.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_nothing_is_fetched_unless_it_is_asked_for(tmp_path: Path, files: str) -> None:
    data = f"#include\n{files}/config\n".encode()
    _, plan = planned_for(Root(str(tmp_path)), Asked(user_data=data))
    assert Files.asked == []
    assert any("/config: not fetched for this plan (--fetch does): left out" in remark for remark in plan.remarks)
    assert plan.well
    _, plan = planned_for(Root(str(tmp_path)), Asked(user_data=data, fetch=True))
    assert Files.asked == ["/config", "/motd"]
    item = next(item for part in plan.parts for item in part.items if item.path == "/etc/motd")
    assert item.lines == ("@@ -0,0 +1 @@", "+fetched")
    assert plan.well


def test_what_would_be_sent_is_only_named(tmp_path: Path, files: str) -> None:
    machine = Machine(tmp_path)
    data = f"#cloud-config\nphone_home: {{url: '{files}/home', post: [fqdn]}}\n".encode()
    for fetch in (False, True):
        plan = make(PlannedHost(Tools(machine.root)), Asked(user_data=data, fetch=fetch))
        item = next(item for part in plan.parts for item in part.items if item.kind == "request")
        assert (item.text, item.effect) == (f"POST {files}/home", "sends fqdn")
    assert Files.asked == []


# -- the page


def test_the_page_names_every_program_and_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    known = [" ".join(prefix) for prefix, _ in effects.ANSWERS] + list(effects.EFFECTS)
    assert [program for program in known if f"`{program}" not in page] == []
    parser = argparse.ArgumentParser()
    planning.add_arguments(parser)
    words = [word for action in parser._actions for word in action.option_strings if word.startswith("--")]
    left = {"--help", "--color", "--colour"}
    assert [word for word in words if f"`{word}" not in page and word not in left] == []


# -- what is asked for


def test_without_anything_known_user_data_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--root", str(tmp_path)]) == 64
    assert capsys.readouterr().err == (
        "cloudboot: plan: no instance is known here: give --user-data FILE (and --metadata FILE)\n"
    )


def test_an_empty_directory_as_anybody(ordinary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ordinary / "user-data"
    file.write_text("#cloud-config\nwrite_files: [{path: /etc/motd, content: hi}]\nruncmd: [ls]\n")
    (ordinary / "tree").mkdir()
    words = ["plan", "--root", str(ordinary / "tree"), "--user-data", str(file)]
    assert cli.main(words) == 0  # loads what is needed, which nobody else may read here
    first = capsys.readouterr().out
    before = stamps(ordinary)
    with as_nobody():
        assert cli.main(words) == 0
    assert stamps(ordinary) == before
    told = capsys.readouterr().out
    assert told == first
    assert f"planned for an invented one, {INVENTED.id}" in told
    assert "    + /etc/motd 0644 root:root\n        @@ -0,0 +1 @@\n        +hi\n" in told
    assert "    > item 1: ls  [recorded only]\n" in told


def test_a_tree_of_somebody_else_s_as_anybody(ordinary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(ordinary)
    with machine.serve(A, DATA):
        machine.boot()
        machine.root.remove("/run")
    before = stamps(ordinary)
    with as_nobody():
        status = cli.main(["plan", "--root", str(ordinary)])
    assert stamps(ordinary) == before
    if status == 1:  # we are root here, and nobody may not read the instance's data
        assert "cannot be read: run as root, or give --user-data FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--launch-index", "many"], "--launch-index: must be a number or all: 'many'"),
        (["--metadata", "/nowhere"], "--metadata: /nowhere: No such file or directory"),
        (["--user-data", "/nowhere"], "--user-data: /nowhere: No such file or directory"),
        (["--as", "old"], "argument --as: invalid choice: 'old'"),
    ],
)
def test_bad_usage(words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--root", str(tmp_path), *words]) == 64
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "must be a mapping"),
        ("instanceid: x", "no such key: 'instanceid': did you mean 'instance-id'?"),
        ("launch-index: many", "must be a number"),
        ("block-device-mapping: [sdb]", "block-device-mapping: must be a mapping"),
        ('{"meta-data": {}, "other": 1}', "expected"),
        ("{", "neither JSON nor YAML"),
    ],
)
def test_bad_metadata(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "metadata").write_text(text)
    with pytest.raises(UsageError, match="--metadata") as raised:
        planned_for(Root(str(tmp_path)), Asked(user_data=b"", metadata=str(tmp_path / "metadata")))
    assert told in str(raised.value)


def test_metadata_files(tmp_path: Path) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIERVWW5OyBRxaigcgxtPAJOkxWHCe82uWa60hbbEfo+p k"
    simple = f"instance-id: i-1\nlocal-hostname: one\npublic-keys: ['{key}']\nlaunch-index: 3\n"
    simple += "block-device-mapping: {ephemeral0: sdb}\navailability-zone: eu-central-1a\n"
    over = {
        "meta-data": {
            "instance-id": "i-1",
            "ami-launch-index": "3",
            "placement": {"availability-zone": "eu-central-1a"},
        }
    }
    for name, text in {"simple": simple, "tree": json.dumps(over)}.items():
        (tmp_path / name).write_text(text)
        _, plan = planned_for(Root(str(tmp_path)), Asked(user_data=b"", metadata=str(tmp_path / name)))
        assert (plan.instance.id, plan.instance.launch_index, plan.instance.region) == ("i-1", 3, "eu-central-1")
        assert dict(plan.instance.devices)["ephemeral0"] == "sdb"
        assert len(plan.instance.public_keys) == 1


# -- a fleet

FLEET = """#cloud-config
launch-index: 0
hostname: head
"""


def mime(*parts: tuple[str, str]) -> bytes:
    lines = ["MIME-Version: 1.0", 'Content-Type: multipart/mixed; boundary="B"', ""]
    for header, text in parts:
        lines += ["--B", "Content-Type: text/cloud-config", *([header] if header else []), "", text]
    return "\n".join([*lines, "--B--", ""]).encode()


def test_a_fleet_at_a_glance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = mime(
        ("", "#cloud-config\nwrite_files: [{path: /etc/motd, content: all}]\n"),
        ("Launch-Index: 0", "#cloud-config\nhostname: head\n"),
        ("Launch-Index: 2", "#cloud-config\nhostname: tail\n"),
    )
    root = Root(str(tmp_path))
    asked = Asked(user_data=data)
    host = PlannedHost(Host(root, Log(root, echo=False, keep=False)))
    indices = representatives(host, asked)
    assert indices == [0, 2, 3]
    found = fleet([planned_for(root, asked, index)[1] for index in indices])
    assert [group.indices for group in found.groups] == [(0,), (2,), (3,)]
    assert "write_files" in {part.module for part in found.common}
    assert {part.module for group in found.groups for part in group.parts} == {"set_hostname"}
    (tmp_path / "user-data").write_bytes(data)
    words = ["plan", "--root", str(tmp_path), "--user-data", f"{tmp_path}/user-data", "--launch-index"]
    assert cli.main([*words, "all"]) == 0
    told = capsys.readouterr().out
    assert "Common to launch index 0, 2, 3" in told
    assert "Only launch index 2\n" in told
    assert "+tail" in told
    assert cli.main([*words, "2"]) == 0
    assert "+tail" in capsys.readouterr().out


def test_sections_by_launch_index(tmp_path: Path) -> None:
    data = b'#cloud-config\nhostname: web\ninstances-cloud-config: {"0": {hostname: head}, "3-9": {runcmd: [ls]}}\n'
    root = Root(str(tmp_path))
    asked = Asked(user_data=data)
    indices = representatives(PlannedHost(Host(root, Log(root, echo=False, keep=False))), asked)
    assert indices == [0, 1, 3]  # 1 stands for all that no section names
    found = fleet([planned_for(root, asked, index)[1] for index in indices])
    differing = {group.indices: [(part.module, part.runs) for part in group.parts] for group in found.groups}
    assert differing == {
        (0,): [("set_hostname", True), ("runcmd", False)],
        (1,): [("set_hostname", True), ("runcmd", False)],
        (3,): [("set_hostname", True), ("runcmd", True)],
    }


def test_a_fleet_has_a_limit(tmp_path: Path) -> None:
    sections = "".join(f'  "{number * 2}": {{hostname: n{number}}}\n' for number in range(300))
    asked = Asked(user_data=f"#cloud-config\ninstances-cloud-config:\n{sections}".encode())
    root = Root(str(tmp_path))
    with pytest.raises(UsageError, match="more than 200: plan for one"):
        representatives(PlannedHost(Host(root, Log(root, echo=False, keep=False))), asked)


def test_a_fleet_of_equals_says_so(tmp_path: Path) -> None:
    asked = Asked(user_data=b"#cloud-config\nhostname: web\n")
    found = fleet([planned_for(Root(str(tmp_path)), asked, index)[1] for index in (0, 1)])
    assert found.groups == ()
    assert "Nothing differs by launch index." in plan_text.text(found, colour=False)


# -- how it looks


def documents(tmp_path: Path) -> list[Plan | Fleet]:
    machine = Machine(tmp_path)
    plans: list[Plan | Fleet] = [planned_for(machine.root, Asked(user_data=DATA.encode()))[1]]
    plans.append(planned_for(machine.root, Asked(user_data=b"#cloud-config\nfoo: 1\nmounts: 1\n"))[1])
    plans.append(fleet([planned_for(machine.root, Asked(user_data=DATA.encode()), index)[1] for index in (0, 1)]))
    with machine.serve(A, DATA):
        machine.boot()
    plans.append(planned_for(machine.root)[1])
    return plans


def test_the_json_is_what_its_schema_says(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for plan in documents(tmp_path):
        document = json.loads(json.dumps(plan_text.document(plan)))
        jsonschema.validate(document, SCHEMA)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, "more": 1}, SCHEMA)


def test_text_has_colours_only_where_asked_for(tmp_path: Path) -> None:
    for plan in documents(tmp_path):
        plain, coloured = (plan_text.text(plan, colour=colour) for colour in (False, True))
        assert "\033" not in plain
        assert "\033[1m" in coloured
        assert re.sub(r"\033\[\d+m", "", coloured) == plain


def test_no_escape_of_a_file_s_reaches_the_terminal(tmp_path: Path) -> None:
    data = b'#cloud-config\nwrite_files: [{path: /etc/x, content: "\\e]0;gotcha\\a"}]\nruncmd: ["printf \'\\e[2J\'"]\n'
    _, plan = planned_for(Root(str(tmp_path)), Asked(user_data=data))
    assert "\033" not in plan_text.text(plan, colour=False)


def test_problems_are_told_and_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "user-data"
    file.write_text("#cloud-config\nhostnam: web\ntimezone: Nowhere/Land\n")
    assert cli.main(["plan", "--root", str(tmp_path), "--user-data", str(file)]) == 2
    told = capsys.readouterr().out
    assert "! user-data:2:1: hostnam: unknown key: did you mean 'hostname'?: left out" in told
    assert "! fails: user-data:3:1: timezone: no such zone" in told


def test_what_comes_after_commands_may_differ(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    plant(root, "/etc/hostname", "image\n")
    _, plan = planned_for(root, Asked(user_data=b"#cloud-config\nbootcmd: [ls]\nhostname: web\n"))
    item = next(item for part in plan.parts for item in part.items if item.path == "/etc/hostname")
    assert item.unsure == "bootcmd runs before it"
    assert "[may differ: bootcmd runs before it]" in plan_text.text(plan, colour=False)


def test_drawn_things_are_opaque(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    host = PlannedHost(Tools(machine.root))
    plan = make(host, Asked(user_data=b"#cloud-config\nssh_genkeytypes: [ed25519]\n"))
    items = {item.path: item for part in plan.parts for item in part.items}
    assert items["/etc/ssh/ssh_host_ed25519_key"].opaque
    assert items["/etc/ssh/ssh_host_ed25519_key.pub"].opaque
    assert is_opaque(host.read("/etc/ssh/ssh_host_ed25519_key"))
    assert any(isinstance(action, Run) and action.argv[0] == "ssh-keygen" for action in host.changes)
