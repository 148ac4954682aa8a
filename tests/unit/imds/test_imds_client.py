"""The crawl against the simulator and against servers that misbehave."""

from __future__ import annotations

import collections
import json
import re
import time
from typing import Any

import pytest

from cloudboot.errors import MetadataDisabled, MetadataError, MetadataTimeout
from cloudboot.imds import cache, tree
from cloudboot.imds.client import crawl
from cloudboot.imds.simulator import Options, Simulator, serve
from cloudboot.imds.walk import MAX_DEPTH, MAX_ENTRIES
from unit.imds.quick import QUICK, crawled, endpoints, faulty, http, scripted_server

USER_DATA = b"#cloud-config\n{}\n"


def over(**meta_data: Any) -> Options:
    """Return options with these names laid over meta-data/."""
    return Options(tree={"meta-data": meta_data})


def leaves(node: dict[str, Any], path: str) -> dict[str, bytes]:
    """Return what a crawl should find below a node of the simulator's tree, credentials left out."""
    found: dict[str, bytes] = {}
    for name, child in node.items():
        if name in ("security-credentials", "identity-credentials"):
            continue
        here = f"{path}/{name.partition('=')[0]}"
        found |= leaves(child, here) if isinstance(child, dict) else {here: child.encode()}
    return found


def statuses(simulator: Simulator, suffix: str) -> list[int]:
    """Return how the requests for a path were answered."""
    return [record.status for record in simulator.log if record.path.endswith(suffix)]


def test_the_whole_tree_on_few_connections_with_one_token() -> None:
    with serve(Options(user_data=USER_DATA)) as simulator:
        found = crawled(simulator)
        log = simulator.log
        assert simulator.connections <= 8
        assert simulator.max_in_flight <= 8
    served = tree.build(tree.Machine())
    assert found.entries == leaves(served["meta-data"], "meta-data") | leaves(served["dynamic"], "dynamic")
    assert found.user_data == USER_DATA
    assert (found.version, found.v2, found.tokens) == ("2021-03-23", True, 1)
    assert (found.requests, found.connections) == (len(log), simulator.connections)
    asked = collections.Counter((record.method, record.path) for record in log)
    assert max(asked.values()) == 1
    assert {record.status for record in log} == {200}


def test_many_connections_where_answers_take_time() -> None:
    with serve(Options(latency=0.02)) as simulator:
        found = crawled(simulator)
        assert 4 <= simulator.max_in_flight <= 8
        assert simulator.connections <= 8
        asked = collections.Counter(record.path for record in simulator.log)
        assert max(asked.values()) == 1
        assert found.seconds < 0.02 * len(asked) / 2


def test_a_small_tree_does_not_open_eight_connections() -> None:
    small = dict.fromkeys(tree.build(tree.Machine())["meta-data"])
    small["instance-id"] = "i-0123456789abcdef0"
    options = Options(tree={"meta-data": small, "dynamic": None}, latency=0.02)
    with serve(options) as simulator:
        found = crawled(simulator)
        assert found.entries == {"meta-data/instance-id": b"i-0123456789abcdef0"}
        assert simulator.connections == 1


def test_credentials_are_never_asked_for() -> None:
    with serve(Options(user_data=USER_DATA)) as simulator:
        found = crawled(simulator)
        assert not [r for r in simulator.log if re.search(r"(security|identity)-credentials", r.path)]
    assert sorted(found.skipped) == [
        "meta-data/iam/security-credentials/: credentials: never requested",
        "meta-data/identity-credentials/: credentials: never requested",
    ]
    for content in cache.files(found, "2024-05-01T10:20:30Z").values():
        assert tree.MARKER.encode() not in content
    assert "meta-data/iam/info" in found.entries


def test_no_user_data_is_none_and_asked_once() -> None:
    with serve(Options()) as simulator:
        assert crawled(simulator).user_data is None
        assert statuses(simulator, "/user-data") == [404]


def test_uec() -> None:
    options = Options(v1_only=True, machine=tree.Machine(instance_id="i-1a2b3c4d", uec=True), user_data=USER_DATA)
    with serve(options) as simulator:
        found = crawled(simulator, aws=False)
        assert statuses(simulator, "/2021-03-23/meta-data/") == [404]
        assert statuses(simulator, "/dynamic/") == [404]
    assert (found.version, found.v2, found.user_data) == ("2009-04-04", False, USER_DATA)
    metadata = cache.load(cache.dump(found, ""))
    assert metadata.block_device_mapping()["ephemeral"] == "sdb"
    assert metadata.public_keys() == [tree.KEY]


def test_an_older_version_when_the_newest_is_not_there() -> None:
    with faulty("404:meta-data/:2") as simulator:
        assert crawled(simulator).version == "2016-09-02"


def test_a_service_that_does_not_know_the_instance_yet_is_asked_again() -> None:
    with faulty("404:meta-data/:7") as simulator:
        assert crawled(simulator).version == "2016-09-02"


def test_a_service_without_metadata_is_an_error() -> None:
    with faulty("404:meta-data/") as simulator, pytest.raises(MetadataError, match="no meta-data/ in any version"):
        crawled(simulator)


def test_switched_off_at_the_root() -> None:
    options = Options(v1_only=True)
    with faulty("403:meta-data/", options=options) as simulator, pytest.raises(MetadataDisabled):
        crawled(simulator, aws=False)


def test_forbidden_leaves_are_absent() -> None:
    with faulty("403:meta-data/public-ipv4") as simulator:
        found = crawled(simulator)
        assert "meta-data/public-ipv4" not in found.entries
        assert statuses(simulator, "/public-ipv4") == [403]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_later_means_later(status: int) -> None:
    with faulty(f"{status}:meta-data/placement/*:4") as simulator:
        found = crawled(simulator)
        assert found.entries["meta-data/placement/region"] == b"eu-central-1"
        assert [record.status for record in simulator.log].count(status) == 4


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("503:meta-data/mac", "answered 503, 5 times"),
        ("empty:meta-data/mac", "an empty answer, 5 times"),
        ("cut:meta-data/mac", "the answer was cut off after 8 of 17 bytes, 5 times"),
        ("302:meta-data/mac", "302, a redirect, never followed, 5 times"),
        ("401:meta-data/mac", "answered 401"),
        ("slow:meta-data/mac:0.6", "timed out, 6 times"),
    ],
)
def test_a_value_that_stays_broken_is_left_out_and_reported(spec: str, why: str) -> None:
    with faulty(spec) as simulator:
        found = crawled(simulator, deadline=60)
        assert found.seconds < 30, "it waits for the deadline"
    assert "meta-data/mac" not in found.entries
    assert found.entries["meta-data/placement/region"] == b"eu-central-1"
    assert [line for line in found.skipped if line.startswith(f"meta-data/mac: {why}")], found.skipped


def test_values_that_are_always_refused_do_not_use_up_the_deadline() -> None:
    """With nobody else left to tell whether the token is good, something that was let in before is asked again."""
    with faulty("401:meta-data/mac", "401:meta-data/hostname", "401:meta-data/placement/*") as simulator:
        found = crawled(simulator, deadline=60)
    told = [line for line in found.skipped if "answered 401" in line]
    assert len(told) == 3, found.skipped
    assert "meta-data/instance-id" in found.entries
    assert found.seconds < 30


@pytest.mark.parametrize("kind", ["empty", "cut", "503", "429"])
@pytest.mark.parametrize(
    "path", ["meta-data/", "meta-data/instance-id", "user-data", "meta-data/network/", "api/token"]
)
def test_a_broken_answer_is_never_a_value(kind: str, path: str) -> None:
    with serve(Options(user_data=USER_DATA)) as simulator:
        whole = crawled(simulator)
    with faulty(f"{kind}:{path}:3", options=Options(user_data=USER_DATA)) as simulator:
        found = crawled(simulator)
    assert found.entries == whole.entries
    assert found.user_data == USER_DATA
    assert sorted(found.skipped) == sorted(whole.skipped)


@pytest.mark.parametrize("path", ["meta-data/", "meta-data/instance-id", "user-data"])
def test_what_must_be_right_fails_the_crawl_at_the_deadline(path: str) -> None:
    with faulty(f"cut:{path}", options=Options(user_data=USER_DATA)) as simulator:
        with pytest.raises(MetadataTimeout, match=f"last failure: {path}: the answer was cut off"):
            crawled(simulator, deadline=0.6)
        assert len(statuses(simulator, f"/{path}")) > 2


def test_an_instance_id_that_could_leave_its_directory_is_refused() -> None:
    with (
        serve(over(**{"instance-id": "../../etc"})) as simulator,
        pytest.raises(MetadataTimeout, match="not an instance"),
    ):
        crawled(simulator, deadline=0.3)


def test_at_the_deadline_what_must_be_there_is_enough() -> None:
    with faulty("slow:meta-data/tags/*:0.3", options=Options(user_data=USER_DATA)) as simulator:
        found = crawled(simulator, deadline=0.25)
    assert found.entries["meta-data/instance-id"] == b"i-0123456789abcdef0"
    assert "meta-data/tags/: no answer before the deadline" in found.skipped


def test_empty_values_of_a_private_cloud_do_not_hold_up_the_boot() -> None:
    with faulty("empty:meta-data/public-ipv4", "empty:user-data", options=Options(user_data=b"x")) as simulator:
        found = crawled(simulator, aws=False)
        assert statuses(simulator, "/public-ipv4") == [200, 200]
    assert found.user_data is None
    assert "user-data: an empty answer" in found.skipped
    assert "meta-data/public-ipv4: an empty answer" in found.skipped


def test_late_401s_as_on_nixos() -> None:
    with faulty("late-401:0.6") as simulator:
        found = crawled(simulator)
        refused = [record for record in simulator.log if record.status == 401]
    assert found.entries["meta-data/instance-id"] == b"i-0123456789abcdef0"
    assert 0.5 < found.seconds < 3
    assert 3 <= len(refused) <= 40
    assert found.tokens == len([r for r in simulator.log if r.method == "PUT"])


def test_401s_that_never_end() -> None:
    with faulty("late-401:1000") as simulator, pytest.raises(MetadataTimeout, match=r"the token is refused \(401\)"):
        crawled(simulator, deadline=0.5)


def test_an_expired_token_is_renewed_once_for_all_who_were_refused() -> None:
    with faulty("401-after:40", options=Options(latency=0.01)) as simulator:
        found = crawled(simulator)
        tokens = [record for record in simulator.log if record.method == "PUT"]
        gets = [record for record in simulator.log if record.method == "GET"]
    good = len([record for record in gets if record.status == 200])
    assert len(found.entries) > 60
    assert not [line for line in found.skipped if "401" in line]
    assert found.tokens == len(tokens) == -(-good // 40)


def test_the_token_is_in_no_message(capfd: pytest.CaptureFixture[str]) -> None:
    secret = "AQAAAsecrettokenAQ=="
    said: list[str] = []

    def answer(head: bytes, _number: int) -> bytes:
        return http(200, secret.encode()) if head.startswith(b"PUT") else http(503)

    with scripted_server(answer) as (endpoint, heads):
        with pytest.raises(MetadataTimeout) as caught:
            crawl([endpoint], aws=True, say=said.append, deadline=0.5, patience=QUICK)
        assert any(f"X-aws-ec2-metadata-token: {secret}".encode() in head for head in heads)
    assert said
    out = capfd.readouterr()
    assert secret not in "".join([str(caught.value), repr(caught.value), *said, out.out, out.err])


def test_connections_that_the_server_closes_cost_nothing() -> None:
    with faulty("close-every:3") as simulator:
        found = crawled(simulator)
    assert len(found.entries) > 60
    assert not [line for line in found.skipped if "credentials" not in line]


def test_a_service_that_closes_after_each_answer_is_crawled_whole() -> None:
    with faulty("close-every:1") as simulator:
        found = crawled(simulator)
        assert found.entries["meta-data/placement/region"] == b"eu-central-1"
    assert not [line for line in found.skipped if "credentials" not in line]


def test_hostile_names_are_refused_and_the_rest_is_kept() -> None:
    evil = {"../../../etc/cron.d/x": "evil", "..": "evil", "a\x1b]0;": "evil", "\udcff": "evil", ".value": "v"}
    with serve(over(tags={"instance": {**evil, "Name": "good"}})) as simulator:
        found = crawled(simulator)
        assert not [record for record in simulator.log if "etc" in record.path or ".." in record.path]
    assert {path for path in found.entries if path.startswith("meta-data/tags/")} == {
        "meta-data/tags/instance",
        "meta-data/tags/instance/Name",
        "meta-data/tags/instance/role",
    }
    assert len([line for line in found.skipped if line.startswith("meta-data/tags/instance/: refused")]) == 4


def test_names_are_encoded_in_the_request() -> None:
    with serve(over(tags={"instance": {"a b?c#d%e": "odd", "ü": "umlaut"}})) as simulator:
        found = crawled(simulator)
    assert found.entries["meta-data/tags/instance/a b?c#d%e"] == b"odd"
    assert found.entries["meta-data/tags/instance/ü"] == b"umlaut"


def test_a_leaf_that_is_also_a_directory_keeps_both() -> None:
    with serve(over(foo={".value": "leaf", "bar": "below"})) as simulator:
        found = crawled(simulator)
    assert found.entries["meta-data/foo"] == b"leaf"
    assert found.entries["meta-data/foo/bar"] == b"below"


def test_a_bottomless_tree_is_bounded() -> None:
    deep: dict[str, Any] = {"leaf": "x"}
    for _ in range(2 * MAX_DEPTH):
        deep = {"d": deep}
    with serve(over(deep=deep)) as simulator:
        found = crawled(simulator)
    assert max(path.count("/") for path in found.entries) <= MAX_DEPTH
    assert [line for line in found.skipped if line.endswith(f"deeper than {MAX_DEPTH} levels")]


def test_an_endless_listing_is_bounded() -> None:
    def answer(head: bytes, _number: int) -> bytes:
        path = head.split()[1].decode()
        if head.startswith(b"PUT"):
            return http(200, b"AQ==")
        if path.endswith("/meta-data/"):
            return http(200, b"instance-id\nmany/")
        if path.endswith("/many/"):
            return http(200, "\n".join(f"n{number}/" for number in range(2 * MAX_ENTRIES)).encode())
        return http(404) if path.endswith("/") else http(200, b"i-0123456789abcdef0")

    with scripted_server(answer) as (endpoint, heads):
        found = crawl([endpoint], aws=True, say=lambda _: None, deadline=20)
        assert len(heads) <= MAX_ENTRIES + 2
    assert [line for line in found.skipped if f"more than {MAX_ENTRIES} names" in line]


def test_a_value_over_the_limit_is_left_out() -> None:
    with serve(over(huge="x" * (1 << 20), more="x" * ((1 << 20) + 1))) as simulator:
        found = crawled(simulator)
    assert len(found.entries["meta-data/huge"]) == 1 << 20
    assert "meta-data/more: a body of 1048577 bytes, the limit is 1048576" in found.skipped


def test_all_values_together_are_bounded() -> None:
    with serve(over(huge={f"n{number}": "x" * (1 << 20) for number in range(17)})) as simulator:
        found = crawled(simulator)
    assert sum(len(body) for body in found.entries.values()) <= 16 << 20
    assert [line for line in found.skipped if line.endswith("bytes in all")]


def test_user_data_over_the_limit_fails_the_crawl_at_once() -> None:
    with serve(Options(user_data=b"x" * ((1 << 20) + 1))) as simulator:
        started = time.monotonic()
        with pytest.raises(MetadataError, match="user-data: a body of 1048577 bytes"):
            crawled(simulator)
        assert time.monotonic() - started < 2


def test_binary_user_data_is_untouched() -> None:
    data = bytes(range(256)) * 64
    with serve(Options(user_data=data)) as simulator:
        assert crawled(simulator).user_data == data


def test_the_service_may_go_away_for_a_moment() -> None:
    count = 0

    def answer(head: bytes, number: int) -> bytes | None:
        nonlocal count
        count += 1
        if 3 <= count <= 5:
            return None
        if head.startswith(b"PUT"):
            return http(200, b"AQ==")
        if head.split()[1].endswith(b"/meta-data/"):
            return http(200, b"instance-id\nami-id\nmac")
        return http(404) if head.split()[1].endswith((b"/dynamic/", b"/user-data")) else http(200, b"value")

    with scripted_server(answer) as (endpoint, _):
        found = crawl([endpoint], aws=True, say=lambda _: None, deadline=5, patience=QUICK)
    assert sorted(found.entries) == ["meta-data/ami-id", "meta-data/instance-id", "meta-data/mac"]


def test_a_slow_crawl_says_so() -> None:
    said: list[str] = []
    with faulty("slow:user-data:0.3") as simulator:
        crawled(simulator, say=said.append)
    assert len(said) == 1
    assert "answers outstanding (0 s of 5 s)" in said[0]


def test_the_identity_document_agrees_with_the_metadata() -> None:
    with serve(Options(machine=tree.Machine(instance_id="i-00000000000000042", launch_index=7))) as simulator:
        found = crawled(simulator)
    document = json.loads(found.entries["dynamic/instance-identity/document"])
    for key, path in [
        ("instanceId", "instance-id"),
        ("imageId", "ami-id"),
        ("instanceType", "instance-type"),
        ("privateIp", "local-ipv4"),
        ("availabilityZone", "placement/availability-zone"),
        ("region", "placement/region"),
    ]:
        assert found.entries[f"meta-data/{path}"].decode() == document[key]
    assert found.entries["meta-data/ami-launch-index"] == b"7"


def test_what_changes_between_boots_is_seen() -> None:
    with serve(Options(user_data=b"one")) as simulator:
        first = crawled(simulator)
        simulator.update(
            machine=tree.Machine(instance_id="i-00000000000000002"),
            tree={"meta-data": {"block-device-mapping": {"ephemeral0": None, "ebs2": "sdg"}}},
            user_data=b"two",
        )
        second = crawled(simulator)
        assert len(endpoints(simulator)) == 1
    assert (first.user_data, second.user_data) == (b"one", b"two")
    assert second.entries["meta-data/instance-id"] == b"i-00000000000000002"
    assert "meta-data/block-device-mapping/ephemeral0" not in second.entries
    assert second.entries["meta-data/block-device-mapping/ebs2"] == b"sdg"
