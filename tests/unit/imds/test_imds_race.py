"""Which endpoint answers, and what is said when none does."""

from __future__ import annotations

import socket
import time

import pytest

from cloudboot.errors import MetadataDisabled, MetadataError, MetadataTimeout
from cloudboot.imds.client import Crawl, Endpoint, Patience, crawl
from cloudboot.imds.simulator import Options, serve
from cloudboot.imds.watch import Watch
from unit.imds.quick import QUICK, crawled, endpoints, faulty, http, scripted_server, silent_server

SIX = Options(listen=(("::1", 0),))


def refused_port() -> Endpoint:
    """Return an endpoint where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Endpoint("127.0.0.1", probe.getsockname()[1])


def test_a_silent_endpoint_costs_the_other_nothing() -> None:
    with silent_server() as dead, serve(SIX) as simulator:
        found = crawled(simulator, extra=(dead,))
        assert found.endpoint.host == "::1"
        assert found.seconds < QUICK.read  # the silent one had not even timed out
        assert simulator.log[0].path == "/latest/api/token"


def test_the_silent_one_may_be_ipv6() -> None:
    with silent_server("::1") as dead, serve(Options()) as simulator:
        found = crawled(simulator, extra=(dead,))
        assert found.endpoint.host == "127.0.0.1"
        assert found.seconds < QUICK.read


def test_a_refusing_endpoint_is_tried_again_until_it_listens() -> None:
    with faulty("refuse:0.3") as simulator:
        found = crawled(simulator)
        assert found.entries["meta-data/instance-id"] == b"i-0123456789abcdef0"
        assert 0.2 < found.seconds < 2


def test_no_network_waits_for_an_address_and_asks_at_once() -> None:
    waits: list[float] = []

    def wait(timeout: float) -> None:
        waits.append(timeout)
        time.sleep(timeout)

    # An interface that is not there yet is one of the ways in which there is no network yet.
    nowhere = Endpoint("fe80::a9fe:a9fe", interface="nosuchnic0")
    with pytest.raises(MetadataTimeout, match=r"\[fe80::a9fe:a9fe%nosuchnic0\]: no such device"):
        crawl(
            [nowhere], aws=False, say=lambda _: None, deadline=0.3, patience=QUICK,
            wait_for_address=wait,
        )  # fmt: skip
    assert waits
    assert all(0 <= seconds <= QUICK.longest_rest for seconds in waits)


def test_waiting_for_an_address_that_returns_at_once_does_not_spin() -> None:
    calls: list[float] = []
    with pytest.raises(MetadataTimeout):
        crawl(
            [Endpoint("fe80::a9fe:a9fe", interface="nosuchnic0")], aws=True, say=lambda _: None, deadline=0.3,
            patience=QUICK, wait_for_address=calls.append,
        )  # fmt: skip
    assert 2 <= len(calls) <= 70


def test_the_deadline_names_each_endpoint_and_its_last_error() -> None:
    refused = refused_port()
    with silent_server() as dead:
        started = time.monotonic()
        with pytest.raises(MetadataTimeout) as caught:
            crawl([dead, refused], aws=True, say=lambda _: None, deadline=0.8, patience=QUICK)
        assert 0.7 < time.monotonic() - started < 10, "it neither gives up early nor waits for something else"
    assert f"{dead}: timed out" in str(caught.value)
    assert f"{refused}: connection refused" in str(caught.value)


def test_waiting_is_announced_with_the_reason() -> None:
    said: list[str] = []
    with silent_server() as dead, pytest.raises(MetadataTimeout):
        crawl([dead], aws=True, say=said.append, deadline=0.7, patience=QUICK)
    assert len(said) == 2
    assert said[0] == f"waiting for the EC2 metadata service: {dead}: no answer yet (0 s of 1 s)"
    assert f"{dead}: timed out (the answer)" in said[1]


def test_nothing_is_said_when_it_is_quick() -> None:
    said: list[str] = []
    with serve(Options()) as simulator:
        crawled(simulator, say=said.append)
    assert said == []


def test_switched_off_is_believed_at_once() -> None:
    with faulty("token-403") as simulator:
        started = time.monotonic()
        with pytest.raises(MetadataDisabled, match="switched off for this instance"):
            crawled(simulator)
        assert time.monotonic() - started < QUICK.connect
        assert [record.status for record in simulator.log] == [403]


def test_one_address_may_be_off_while_the_other_answers() -> None:
    with faulty("token-403") as off, serve(SIX._replace(latency=0.05)) as simulator:
        found = crawled(simulator, extra=tuple(endpoints(off)))
        assert found.endpoint.host == "::1"


def test_aws_never_falls_back_to_v1() -> None:
    with serve(Options(v1_only=True)) as simulator:
        with pytest.raises(MetadataTimeout, match="no token: answered 404"):
            crawled(simulator, aws=True, deadline=0.4)
        assert {record.method for record in simulator.log} == {"PUT"}


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_private_cloud_without_tokens_is_asked_without(status: int) -> None:
    with faulty(f"{status}:api/token", options=Options(v1=True)) as simulator:
        found = crawled(simulator, aws=False)
        assert not found.v2
        assert found.tokens == 0
        assert {record.token for record in simulator.log if record.method == "GET"} == {"none"}


def test_a_private_cloud_with_tokens_is_asked_with_them() -> None:
    with serve(Options()) as simulator:
        assert crawled(simulator, aws=False).v2


def test_a_private_cloud_that_answers_nonsense_to_the_token_request() -> None:
    with faulty("500:api/token", options=Options(v1=True)) as simulator:
        assert not crawled(simulator, aws=False).v2


def test_throttled_token_requests_are_repeated_and_never_mean_v1() -> None:
    with faulty("503:api/token:2", options=Options(v1=True)) as simulator:
        found = crawled(simulator, aws=False)
        assert found.v2
        assert [r.status for r in simulator.log if r.method == "PUT"] == [503, 503, 200]


def test_a_redirect_is_never_followed() -> None:
    with faulty("302:api/token") as simulator:
        with pytest.raises(MetadataTimeout, match="302, a redirect, never followed"):
            crawled(simulator, deadline=0.3)
        assert {record.path for record in simulator.log} == {"/latest/api/token"}


@pytest.mark.parametrize("body", [b"", b"a\r\nX-Evil: 1", b"x" * 1025, "tök".encode(), b"two words"])
def test_a_token_that_is_none(body: bytes) -> None:
    with scripted_server(lambda _head, _number: http(200, body)) as (endpoint, heads):
        with pytest.raises(MetadataTimeout, match="no token"):
            crawl([endpoint], aws=True, say=lambda _: None, deadline=0.15, patience=QUICK)
        assert all(head.startswith(b"PUT ") for head in heads)


def test_no_endpoint_at_all() -> None:
    with pytest.raises(MetadataError, match="no endpoint"):
        crawl([], aws=True, say=lambda _: None)


def test_the_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server() as dead, serve(Options()) as simulator:
        monkeypatch.setenv("http_proxy", f"http://{dead}")
        monkeypatch.setenv("HTTP_PROXY", f"http://{dead}")
        assert isinstance(crawled(simulator), Crawl)


def test_backing_off_doubles_and_honours_retry_after_within_bounds() -> None:
    watch = Watch(120.0, lambda _: None, lambda: 0.0, lambda _: None, lambda: 1.0, Patience())
    assert [watch.pause(tries) for tries in (1, 2, 3, 4, 7, 99)] == [0.1, 0.2, 0.4, 0.8, 5.0, 5.0]
    assert watch.pause(1, "2") == pytest.approx(2.1)
    assert watch.pause(1, "86400") == pytest.approx(30.1)
    assert watch.pause(1, "Wed, 21 Oct 2015 07:28:00 GMT") == 0.1


def test_jitter_stays_above_half() -> None:
    watch = Watch(120.0, lambda _: None, lambda: 0.0, lambda _: None, lambda: 0.0, Patience())
    assert watch.pause(1) == 0.05


def test_who_does_not_answer_is_asked_again_within_a_second() -> None:
    naps: list[float] = []
    now = 0.0

    def clock() -> float:
        return now

    def sleep(seconds: float) -> None:
        nonlocal now
        naps.append(seconds)
        now += max(seconds, 0.001)

    with pytest.raises(MetadataTimeout, match="within 120 s"):
        crawl([refused_port()], aws=True, say=lambda _: None, clock=clock, sleep=sleep, random=lambda: 1.0)
    assert max(naps) <= 1.0
    assert len(naps) < 400


def test_waiting_is_announced_at_2_10_30_and_60_seconds() -> None:
    now = 0.0
    said: list[tuple[float, str]] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += max(seconds, 0.001)

    endpoint = refused_port()
    with pytest.raises(MetadataTimeout):
        crawl([endpoint], aws=True, say=lambda text: said.append((now, text)), clock=lambda: now, sleep=sleep)
    assert [round(at) for at, _ in said] == [2, 10, 30, 60]
    assert said[0][1] == (f"waiting for the EC2 metadata service: {endpoint}: connection refused (2 s of 120 s)")
