"""The simulator behaves as EC2 does, and as the bad days of EC2."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from cloudboot.errors import CloudbootError, UsageError
from cloudboot.imds import cache, serve, tree
from cloudboot.imds.faults import Fault, parse
from cloudboot.imds.simulator import Options, Simulator
from cloudboot.imds.simulator import serve as start
from unit.imds.quick import crawled, faulty

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


class Client:
    """One kept-alive connection of another HTTP implementation than ours."""

    def __init__(self, simulator: Simulator) -> None:
        self.http = http.client.HTTPConnection(*simulator.listening[0], timeout=5)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Return status, body and headers."""
        self.http.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = self.http.getresponse()
        return response.status, response.read(), response.headers

    def token(self, ttl: str = "60") -> str:
        """Return a fresh token."""
        status, body, headers = self.ask("PUT", "/latest/api/token", **{TTL: ttl})
        assert (status, headers[TTL]) == (200, ttl)
        return body.decode()

    def get(self, path: str, token: str) -> tuple[int, bytes]:
        """Return status and body."""
        return self.ask("GET", path, **{TOKEN: token})[:2]


@contextlib.contextmanager
def client_of(simulator: Simulator) -> Iterator[Client]:
    """Close the connection at the end."""
    client = Client(simulator)
    try:
        yield client
    finally:
        client.http.close()


def test_v2_only_by_default_v1_if_asked() -> None:
    with start(Options()) as simulator, client_of(simulator) as client:
        assert client.ask("GET", "/latest/meta-data/instance-id")[0] == 401
        assert client.get("/latest/meta-data/instance-id", client.token()) == (200, b"i-0123456789abcdef0")
    with start(Options(v1=True)) as simulator, client_of(simulator) as client:
        assert client.ask("GET", "/latest/meta-data/instance-id")[:2] == (200, b"i-0123456789abcdef0")
        assert client.get("/latest/meta-data/instance-id", "wrong")[0] == 401
    with start(Options(v1_only=True)) as simulator, client_of(simulator) as client:
        assert client.ask("PUT", "/latest/api/token", **{TTL: "60"})[0] == 404
        assert client.ask("GET", "/latest/meta-data/instance-id")[0] == 200


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "abc"])
def test_the_bounds_of_a_token(ttl: str) -> None:
    with start(Options()) as simulator, client_of(simulator) as client:
        assert client.ask("PUT", "/latest/api/token", **{TTL: ttl})[0] == 400
        assert client.token("21600")


def test_a_forwarded_token_request_is_refused() -> None:
    with start(Options()) as simulator, client_of(simulator) as client:
        assert client.ask("PUT", "/latest/api/token", X_Forwarded_For="192.0.2.7", **{TTL: "60"})[0] == 403


def test_tokens_expire() -> None:
    with start(Options()) as simulator, client_of(simulator) as client:
        token = client.token("1")
        assert client.get("/latest/meta-data/mac", token)[0] == 200
        time.sleep(1.05)
        assert client.get("/latest/meta-data/mac", token)[0] == 401


def test_answers_look_like_those_of_ec2() -> None:
    with start(Options(v1=True, user_data=b"x")) as simulator, client_of(simulator) as client:
        status, body, headers = client.ask("GET", "/latest/meta-data/placement/")
        assert (status, body) == (200, b"availability-zone\navailability-zone-id\nregion")
        assert (headers["Server"], headers["Content-Type"]) == ("EC2ws", "text/plain")
        assert headers["Connection"] == "keep-alive"
        assert client.ask("GET", "/latest/meta-data/placement")[1] == body
        status, body, headers = client.ask("GET", "/latest/meta-data/nothing")
        assert (status, headers["Content-Type"]) == (404, "text/html")
        assert b"404 - Not Found" in body
        assert client.ask("GET", "/2021-03-23/meta-data/mac/")[0] == 404
        assert client.ask("GET", "/2003-01-01/meta-data/")[0] == 404
        assert client.ask("GET", "/2021-03-23/")[1] == b"dynamic\nmeta-data\nuser-data"
        assert b"2021-03-23" in client.ask("GET", "/")[1].split()
        status, body, headers = client.ask("HEAD", "/latest/meta-data/instance-id")
        assert (status, body, headers["Content-Length"]) == (200, b"", "19")
        assert client.ask("POST", "/latest/meta-data/instance-id")[0] == 405
        assert simulator.connections == 1


def test_keys_are_listed_with_names_and_read_by_number() -> None:
    keys = ("ssh-ed25519 AAAA first", "ssh-rsa AAAB")
    with start(Options(v1=True, machine=tree.Machine(ssh_keys=keys))) as simulator, client_of(simulator) as client:
        assert client.ask("GET", "/latest/meta-data/public-keys/")[1] == b"0=first\n1=key1"
        assert client.ask("GET", "/latest/meta-data/public-keys/1/")[1] == b"openssh-key"
        assert client.ask("GET", "/latest/meta-data/public-keys/1/openssh-key")[1] == b"ssh-rsa AAAB"


def test_older_versions_know_less() -> None:
    with start(Options(v1=True)) as simulator, client_of(simulator) as client:
        newest = client.ask("GET", "/2021-03-23/meta-data/")[1].split()
        older = client.ask("GET", "/2018-09-24/meta-data/")[1].split()
        oldest = client.ask("GET", "/2009-04-04/meta-data/")[1].split()
        assert b"tags/" in newest
        assert set(oldest) < set(older) < set(newest)
        assert {b"instance-id", b"public-keys/", b"block-device-mapping/", b"placement/"} <= set(oldest)
        assert client.ask("GET", "/2009-04-04/dynamic/")[0] == 404


def test_the_hop_limit_is_that_of_the_token_alone() -> None:
    with start(Options(hop_limit=3)) as simulator, client_of(simulator) as client:
        client.get("/latest/meta-data/mac", client.token())
        assert simulator.hop_limits == [3]


def test_ipv6_has_a_hop_limit_too() -> None:
    with start(Options(listen=(("::1", 0),), hop_limit=64)) as simulator:
        assert crawled(simulator).v2
        assert simulator.hop_limits == [64]


def test_the_log_has_every_request_and_no_token(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with start(Options(log=str(log))) as simulator, client_of(simulator) as client:
        token = client.token()
        client.get("/latest/meta-data/mac", token)
        client.get("/latest/meta-data/mac", "wrong")
    text = log.read_text()
    assert token not in text
    records = [json.loads(line) for line in text.splitlines()]
    assert [(r["method"], r["status"], r["token"], r["connection"]) for r in records] == [
        ("PUT", 200, "", 1),
        ("GET", 200, "valid", 1),
        ("GET", 401, "refused", 1),
    ]
    assert records[1]["path"] == "/latest/meta-data/mac"
    assert records[1]["peer"] == "127.0.0.1"


def test_thousands_of_requests_on_one_connection() -> None:
    with start(Options(v1=True)) as simulator:
        with socket.create_connection(simulator.listening[0]) as connection:
            request = b"GET /latest/meta-data/mac HTTP/1.1\r\nHost: x\r\n\r\n"
            stream = connection.makefile("rb")
            for _ in range(20):
                connection.sendall(request * 100)
                for _ in range(100):
                    assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
                    while stream.readline() != b"\r\n":
                        pass
                    assert stream.read(17) == b"02:0a:0b:0c:00:0a"
            stream.close()
        assert simulator.connections == 1
        assert len(simulator.log) == 2000


def test_a_cut_answer_promises_more_than_it_gives() -> None:
    with faulty("cut:meta-data/mac:1", options=Options(v1=True)) as simulator, client_of(simulator) as client:
        with pytest.raises(http.client.IncompleteRead):
            client.ask("GET", "/latest/meta-data/mac")
        client.http.close()
        assert client.ask("GET", "/latest/meta-data/mac")[0] == 200


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("late-401:30", Fault("late-401", number=30)),
        ("401-after:5", Fault("401-after", number=5)),
        ("token-403", Fault("token-403")),
        ("404:meta-data/mac", Fault("404", "meta-data/mac")),
        ("429:meta-data/*:3", Fault("429", "meta-data/*", 3)),
        ("503:meta-data/network/interfaces/macs/02:0a/*", Fault("503", "meta-data/network/interfaces/macs/02:0a/*")),
        ("slow:user-data:0.5", Fault("slow", "user-data", number=0.5)),
        ("close-every:4", Fault("close-every", number=4)),
    ],
)
def test_faults_in_words(spec: str, fault: Fault) -> None:
    assert parse(spec) == fault


@pytest.mark.parametrize(
    "spec", ["", "nonsense", "late-401", "late-401:x", "503", "503:", "999:x", "slow:x", "slow::1", "token-403:x"]
)
def test_faults_that_are_none(spec: str) -> None:
    with pytest.raises(ValueError, match="fault: "):
        parse(spec)


def test_an_address_in_use_is_one_line() -> None:
    with start(Options()) as simulator, pytest.raises(CloudbootError, match="Address already in use"):
        start(Options(listen=tuple(simulator.listening)))


def arguments(*words: str) -> argparse.Namespace:
    """Parse the arguments of the verb."""
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(words)


def test_the_arguments(tmp_path: Path) -> None:
    (tmp_path / "ud").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "md").write_text('{"meta-data": {"instance-type": "t3.micro"}}')
    (tmp_path / "keys").write_text("# mine\nssh-ed25519 AAAA a\nssh-ed25519 AAAB b\n")
    options = serve.options_of(
        arguments(
            *("--listen", "127.0.0.1:0", "--listen", "[::1]:8080", "--v1", "--hop-limit", "64", "--launch-index", "3"),
            *("--user-data", str(tmp_path / "ud"), "--metadata", str(tmp_path / "md"), "--hostname", "web"),
            *("--ssh-key", str(tmp_path / "keys"), "--ssh-key", "ssh-rsa AAAC c", "--fault", "token-403"),
        )
    )
    assert options == Options(
        listen=(("127.0.0.1", 0), ("::1", 8080)),
        v1=True,
        hop_limit=64,
        machine=tree.Machine(
            launch_index=3, hostname="web", ssh_keys=("ssh-ed25519 AAAA a", "ssh-ed25519 AAAB b", "ssh-rsa AAAC c")
        ),
        tree={"meta-data": {"instance-type": "t3.micro"}},
        user_data=b"#!/bin/sh\n",
        faults=(Fault("token-403"),),
    )


@pytest.mark.parametrize(
    "words",
    [
        ("--listen", "127.0.0.1"),
        ("--listen", "::1:80"),
        ("--listen", "127.0.0.1:99999"),
        ("--fault", "nonsense"),
        ("--user-data", "/nonexistent"),
        ("--metadata", "/dev/null"),
        ("--ssh-key", "nonsense"),
        ("--hop-limit", "0"),
        ("--launch-index", "-1"),
    ],
)
def test_arguments_that_cannot_be_used(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="imds: "):
        serve.options_of(arguments(*words))


RUN = """
import argparse, sys
from cloudboot.imds import serve
parser = argparse.ArgumentParser()
serve.add_arguments(parser)
sys.exit(serve.run(parser.parse_args()))
"""


def test_the_verb_serves_reads_again_and_stops(tmp_path: Path) -> None:
    ready, user_data, metadata = tmp_path / "ready", tmp_path / "ud", tmp_path / "md"
    user_data.write_bytes(b"one")
    metadata.write_text("{}")
    words = ["--listen", "127.0.0.1:0", "--ready-file", str(ready), "--user-data", str(user_data)]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *words, "--metadata", str(metadata), "--v1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        client = http.client.HTTPConnection(*address_in(ready), timeout=5)

        def get(path: str) -> bytes:
            client.request("GET", f"/latest/{path}")
            return client.getresponse().read()

        assert get("user-data") == b"one"
        user_data.write_bytes(b"two")
        metadata.write_text('{"meta-data": {"instance-id": "i-00000000000000002"}}')
        process.send_signal(signal.SIGHUP)
        assert eventually(lambda: get("user-data") == b"two")
        assert get("meta-data/instance-id") == b"i-00000000000000002"
        metadata.write_text("{ half")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("imds: i-0123456789abcdef0 on 127.0.0.1:")
        assert "the old data is served on" in process.stderr.readline()
        assert get("meta-data/instance-id") == b"i-00000000000000002"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not ready.exists()
        client.close()
    finally:
        process.kill()
        process.communicate()


def address_in(ready: Path) -> tuple[str, int]:
    """Wait for the ready file and read the address."""
    assert eventually(ready.exists)
    host, _, port = ready.read_text().strip().rpartition(":")
    return host, int(port)


def eventually(holds: object, seconds: float = 10.0) -> bool:
    """Wait until it holds."""
    assert callable(holds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def test_two_interfaces_with_what_network_configuration_needs() -> None:
    with start(Options()) as simulator:
        metadata = cache.load(cache.dump(crawled(simulator), ""))
    macs = metadata.names("meta-data/network/interfaces/macs")
    assert len(macs) == 2
    for number, mac in enumerate(macs):
        base = f"meta-data/network/interfaces/macs/{mac}"
        assert metadata.value(f"{base}/device-number") == str(number)
        assert metadata.value(f"{base}/mac") == mac
        assert metadata.value(f"{base}/subnet-ipv4-cidr-block")
        assert metadata.value(f"{base}/ipv6s")
