"""The lock-down as values: what a configuration means, what is rendered, what the verb says. No root needed."""

from __future__ import annotations

import argparse
import errno
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cloudboot import firewall, lockdown, netfilter, proof
from cloudboot.firewall import Access, Account, Policy, Rule
from cloudboot.host import Host
from cloudboot.log import Log
from cloudboot.process import Result
from cloudboot.root import Root

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATIC = Path(__file__).parents[2] / "systemd" / "lockdown"
PASSWD = """root:x:0:0:root:/root:/bin/bash
nobody:x:65534:65534:nobody:/:/usr/sbin/nologin
alice:x:1000:1000::/home/alice:/bin/bash
bob:x:1001:1001::/home/bob:/bin/bash
carol:x:1002:990::/home/carol:/bin/bash
odd"name:x:1003:1003::/:/bin/sh
"""
GROUP = "root:x:0:\nimds:x:990:alice,ghost\n"
EIC = "ec2-instance-connect:x:107:65534::/nonexistent:/usr/sbin/nologin\n"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """An image tree with accounts and an nft."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/nft").write_text("")
    (tmp_path / "usr/sbin/nft").chmod(0o755)
    root = Root(str(tmp_path))
    return Host(root, Log(root, echo=False), now=lambda: 0.0)


def read(config: Mapping[str, object], host: Host) -> tuple[Policy, list[str]]:
    problems: list[str] = []
    return lockdown.policy(config, host, problems), problems


@pytest.mark.parametrize(
    ("config", "access"),
    [
        ({}, Access.ROOT),
        ({"metadata_access": None}, Access.ROOT),
        ({"metadata_access": "root"}, Access.ROOT),
        ({"metadata_access": "none"}, Access.NONE),
        ({"metadata_access": "open"}, Access.OPEN),
        ({"disable_ec2_metadata": True}, Access.NONE),
        ({"disable_ec2_metadata": "yes"}, Access.NONE),
        ({"disable_ec2_metadata": False}, Access.ROOT),
        ({"metadata_access": {"allow": {}}}, Access.ALLOW),
    ],
)
def test_reads_each_access(config: dict[str, object], access: Access, host: Host) -> None:
    found, problems = read(config, host)
    assert (found.access, problems) == (access, [])


@pytest.mark.parametrize("value", ["opne", False, 7, [], {"allow": []}, {"alow": {}}, {"allow": {}, "deny": {}}])
def test_what_cannot_be_read_means_root_and_is_reported(value: object, host: Host) -> None:
    found, problems = read({"metadata_access": value}, host)
    assert found == Policy(Access.ROOT)
    assert len(problems) == 1
    assert repr(value) in problems[0]


def test_the_stricter_of_two_keys_wins(host: Host) -> None:
    found, problems = read({"metadata_access": "open", "disable_ec2_metadata": True}, host)
    assert found.access is Access.NONE
    assert len(problems) == 1


def test_lets_in_users_groups_with_members_and_units(host: Host) -> None:
    allow = {"users": ["bob", 4000], "groups": "imds", "units": ["web", "a@b.service", "x-y.slice"], "forwarded": True}
    found, problems = read({"metadata_access": {"allow": allow}}, host)
    assert problems == []
    assert found.users == (
        Account(1000, "alice of imds"),
        Account(1001, "bob"),
        Account(1002, "carol of imds"),
        Account(4000, "4000"),
    )
    assert found.groups == (Account(990, "imds"),)
    assert found.units == (
        "system.slice/system-a.slice/a@b.service",
        "system.slice/web.service",
        "x.slice/x-y.slice",
    )
    assert found.forwarded


def test_a_bad_entry_is_left_out_alone(host: Host) -> None:
    allow = {
        "users": ["nosuch", "alice", True, -1],
        "groups": {"imds": 1},
        "units": ['we"b.service', "../../etc", "ok.service"],
        "forwarded": "yes",
        "user": ["bob"],
    }
    found, problems = read({"metadata_access": {"allow": allow}}, host)
    assert found == Policy(Access.ALLOW, (Account(1000, "alice"),), (), ("system.slice/ok.service",))
    assert len(problems) == 8
    assert any("'nosuch'" in problem for problem in problems)


@pytest.mark.parametrize(
    ("value", "let_in"), [("root", True), ({"allow": {"users": ["bob"]}}, True), ("none", False), ("open", False)]
)
def test_system_accounts_keep_working(value: object, let_in: bool, host: Host) -> None:
    with Path(host.root.outside("/etc/passwd")).open("a") as file:
        file.write(EIC)
    found, problems = read({"metadata_access": value}, host)
    assert (Account(107, "ec2-instance-connect") in found.users, problems) == (let_in, [])


def test_none_does_not_act_before_the_config_stage() -> None:
    assert lockdown.early(Policy(Access.NONE)) == Policy(Access.ROOT)
    assert lockdown.early(Policy(Access.OPEN)) == Policy(Access.OPEN)


def test_a_hostile_name_does_not_reach_a_rule(host: Host) -> None:
    found, _ = read({"metadata_access": {"allow": {"users": ['odd"name']}}}, host)
    assert found.users == (Account(1003, "1003"),)


def test_units_need_nft(host: Host) -> None:
    Path(host.root.outside("/usr/sbin/nft")).unlink()
    found, problems = read({"metadata_access": {"allow": {"units": ["web.service"]}}}, host)
    assert found.units == ()
    assert "nftables" in problems[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lockdown.nft", firewall.render_nft(Policy())),
        ("rules-v4", firewall.render_rules(Policy(), 4)),
        ("rules-v6", firewall.render_rules(Policy(), 6)),
        ("iptables-hook-v4", firewall.render_iptables(Policy(), 4, hook=True)),
        ("iptables-hook-v6", firewall.render_iptables(Policy(), 6, hook=True)),
        ("iptables-fill-v4", firewall.render_iptables(Policy(), 4)),
        ("iptables-fill-v6", firewall.render_iptables(Policy(), 6)),
    ],
)
def test_static_files_are_the_default_policy(name: str, text: str) -> None:
    first, _, rest = (STATIC / name).read_text().partition("\n")
    assert first.startswith("# ")
    assert rest == text


def test_every_address_is_in_every_layer() -> None:
    table = firewall.render_nft(Policy())
    for address in firewall.ADDRESSES:
        assert table.count(f"daddr {address} jump") == 2  # output and forward
        family = 6 if ":" in address else 4
        then = [rule.then for rule in firewall.rule_lines(Policy(), family) if rule.to == address]
        assert then == ["prohibit", "goto 59", "lookup 169254"]
        assert firewall.render_iptables(Policy(), family, hook=True).count(f"-d {address} ") == 3


def test_open_renders_no_rule() -> None:
    opened = Policy(Access.OPEN)
    assert firewall.render_nft(opened) == "table inet cloudboot\ndelete table inet cloudboot\n"
    assert firewall.rule_lines(opened, 4) == firewall.rule_lines(opened, 6) == []


def test_none_lets_nobody_past() -> None:
    shut = Policy(Access.NONE)
    accepted = re.findall(r'accept comment "(.*)"', firewall.render_nft(shut))
    assert accepted == ["neighbour discovery", "the end of a connection"]
    assert {rule.then for rule in firewall.rule_lines(shut, 4)} == {"nop", "prohibit", "lookup 169254"}
    assert "--uid-owner" not in firewall.render_iptables(shut, 4)


def test_groups_and_units_pass_layer_two_by_mark() -> None:
    found = firewall.rule_lines(Policy(Access.ALLOW, groups=(Account(990, "imds"),)), 4)
    assert Rule(51, "169.254.169.254", "goto 59", local=True, mark=True) in found
    assert found[-1].words == "pref 57 iif lo to 169.254.169.254 lookup 169254 protocol kernel"


def test_forwarded_leaves_the_prohibition_to_local_packets() -> None:
    policy = Policy(Access.ALLOW, forwarded=True)
    assert "chain forward" not in firewall.render_nft(policy)
    assert "CLOUDBOOT-FWD -m" not in firewall.render_iptables(policy, 4)
    assert all(rule.local for rule in firewall.rule_lines(policy, 4) if rule.to)


def test_slice_paths_nest() -> None:
    assert lockdown.slice_path("a-b-c.slice") == "a.slice/a-b.slice/a-b-c.slice"


def test_an_image_tree_is_not_touched(host: Host) -> None:
    assert lockdown.apply(host, Policy(Access.OPEN)) is False
    assert len(host.recorded) == 3
    assert host.changes == []
    assert not host.exists("/run/cloudboot/lockdown")


class Answering(Host):
    """A live host whose tools answer from a table and note what they were asked."""

    def __init__(self, tree: Host, answers: dict[str, list[str]]) -> None:
        super().__init__(tree.root, tree.log, now=tree.now)
        self.live = True
        self.answers = answers

    def ask(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float | None = 60) -> Result:
        found = self.answers.get(argv[0], [])
        if not found:
            return Result(1, "")
        return Result(0, found.pop(0) if len(found) > 1 else found[0])


def table(stranger: int, others: dict[int, int]) -> str:
    """What `nft -j list table` prints."""
    counts = {65533: stranger, **others} if stranger else others
    elements = [{"elem": {"val": uid, "counter": {"packets": seen, "bytes": 0}}} for uid, seen in counts.items()]
    rule = {"chain": "judge", "comment": "root"}
    return json.dumps({"nftables": [{"set": {"name": "refused", "elem": elements}}, {"rule": rule}]})


PROHIBIT = json.dumps([{"priority": 58, "dst": "fe80::a9fe:a9fe", "action": "prohibit"}])


def test_status_tells_blocked_from_no_route_from_reachable(host: Host) -> None:
    others = {1000: 4}
    listings = [table(0, others), table(0, others), table(1, others), table(1, others)]
    machine = Answering(host, {"nft": listings, "ip": [PROHIBIT]})
    answers = {
        "169.254.169.254": errno.ECONNREFUSED,
        "fd00:ec2::254": errno.ENETUNREACH,
        "fe80::a9fe:a9fe": errno.EACCES,
    }
    report = proof.status(machine, answers.__getitem__)
    assert [found.state for found in report.addresses] == [
        proof.State.BLOCKED,
        proof.State.NO_ROUTE,
        proof.State.BLOCKED,
    ]
    assert not report.reachable
    assert report.let_in == ("root",)
    assert report.missing == ()
    assert "refused: alice (uid 1000), 4 times" in report.text()
    assert "metadata_access: {allow: {users: [alice]}}" in report.text()
    assert json.loads(report.json())["refused"][0]["user_data"] == "metadata_access: {allow: {users: [alice]}}"


@pytest.mark.parametrize("answer", [proof.CONNECTED, errno.ECONNREFUSED])
def test_status_believes_no_rule_when_somebody_answers(answer: int, host: Host) -> None:
    machine = Answering(host, {"nft": [table(0, {})], "ip": [PROHIBIT]})
    report = proof.status(machine, lambda _: answer)
    assert report.reachable
    assert "169.254.169.254  REACHABLE" in report.text()


def test_status_does_not_credit_a_refusal_to_rules_that_are_not_there(host: Host) -> None:
    report = proof.status(Answering(host, {"ip": ["[]"]}), lambda _: errno.EACCES)
    assert [found.state for found in report.addresses] == [proof.State.NO_ROUTE] * 3
    assert report.missing == ("nftables table inet cloudboot", "routing rules")


def test_the_verb_needs_root(host: Host) -> None:
    parser = argparse.ArgumentParser()
    lockdown.add_arguments(parser)
    host.root.privileged = False
    said: list[str] = []
    written: list[str] = []
    assert lockdown.run(parser.parse_args([]), host, {}, written.append, said.append) == 1
    assert len(said) == 1
    assert written == []


def test_a_unit_lets_itself_in_at_each_start(host: Host) -> None:
    machine = Answering(host, {})
    spawned: list[list[str]] = []

    def spawn(argv: Sequence[str], **_: object) -> Result:
        spawned.append(list(argv))
        return Result(0)

    machine.spawn = spawn  # type: ignore[method-assign]
    path = "/run/systemd/system/web.service.d/50-cloudboot-lockdown.conf"
    assert machine.do(netfilter.UnitHooks(("system.slice/web.service",)))
    assert machine.text(path) == (
        "[Service]\nExecStartPre=+-/usr/sbin/nft add element inet cloudboot units_2"
        " '{ \"system.slice/web.service\" }'\n"
    )
    assert not machine.do(netfilter.UnitHooks(("system.slice/web.service",)))
    assert machine.do(netfilter.UnitHooks(()))
    assert not machine.exists(path)
    assert spawned == [["systemctl", "daemon-reload"]] * 2
