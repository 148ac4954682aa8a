"""phone_home and write_files' sources: against a server on loopback."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from casebook import Book
from cloudboot.errors import NeedsNetwork
from cloudboot.http import Fetcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN+/= root@host"


class Server(HTTPServer):
    """Answers with the statuses that it was given, then 200; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.asked: list[tuple[str, str, dict[str, list[str]]]] = []
        self.tokens: list[tuple[str, str | None]] = []
        self.moved: dict[str, str] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.asked.append((self.command, self.path, parse_qs(body)))
        self.server.tokens.append((self.path, self.headers["X-Token"]))
        if moved := self.server.moved.get(self.path):
            self.send_response(302)
            self.send_header("Location", moved)
        else:
            self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def run(folder: Path, module: str, config: dict[str, Any], fetcher: Fetcher, **case: Any) -> Book:
    book = Book({"config": config, **case}, folder, module)
    book.fetcher = fetcher  # type: ignore[assignment]
    book.run()
    return book


def fast() -> Fetcher:
    return Fetcher(sleep=lambda seconds: None)


def test_everything_is_posted(server: Server, tmp_path: Path) -> None:
    config = {"phone_home": {"url": server.url("/$INSTANCE_ID/up?id=${INSTANCE_ID}")}}
    book = run(tmp_path, "phone_home", config, fast(), tree={"/etc/ssh/ssh_host_ed25519_key.pub": f"{KEY}\n"})
    assert server.asked == [
        (
            "POST",
            "/i-0123456789abcdef0/up?id=i-0123456789abcdef0",
            {
                "pub_key_rsa": ["N/A"],
                "pub_key_ecdsa": ["N/A"],
                "pub_key_ed25519": [KEY],
                "instance_id": ["i-0123456789abcdef0"],
                "hostname": ["ip-10-0-2-15"],
                "fqdn": ["ip-10-0-2-15.ec2.internal"],
            },
        )
    ]
    assert book.status.values["errors"] == []


def test_only_what_is_chosen_and_again_after_a_failure(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 500]
    config = {"phone_home": {"url": server.url("/"), "post": ["fqdn"], "tries": 3}, "fqdn": "a.example.com"}
    book = run(tmp_path, "phone_home", config, fast())
    assert server.asked == [("POST", "/", {"fqdn": ["a.example.com"]})] * 3
    assert book.status.values["errors"] == []


def test_failure_is_named(server: Server, tmp_path: Path) -> None:
    server.statuses = [503] * 9
    book = run(tmp_path, "phone_home", {"phone_home": {"url": server.url("/"), "tries": 2}}, fast())
    assert len(server.asked) == 2
    assert "nobody was told that this instance is up" in book.status.values["errors"][0]
    assert "HTTP 503" in book.status.values["errors"][0]


def test_an_image_tree_phones_nobody(server: Server, tmp_path: Path) -> None:
    book = Book({"config": {"phone_home": {"url": server.url("/")}}}, tmp_path, "phone_home")
    book.fetcher = fast()  # type: ignore[assignment]
    book.host.live = False
    book.run()
    assert server.asked == []


def test_file_from_a_url(server: Server, tmp_path: Path) -> None:
    files = [{"path": "/etc/app", "source": {"uri": server.url("/app")}, "permissions": "0600"}]
    book = run(tmp_path, "write_files", {"write_files": files}, fast())
    assert book.host.read("/etc/app") == b"hello\n"
    assert book.status.values["recoverable"] == []


def test_headers_are_sent_to_their_host_only(server: Server, tmp_path: Path) -> None:
    elsewhere = server.url("/third").replace("127.0.0.1", "localhost")
    server.moved = {"/first": "/second", "/second": elsewhere}
    server.statuses = [503]
    files = [{"path": "/etc/app", "source": {"uri": server.url("/first"), "headers": {"X-Token": "hunter2"}}}]
    book = run(tmp_path, "write_files", {"write_files": files}, fast())
    assert book.host.read("/etc/app") == b"hello\n"
    assert server.tokens == [("/first", "hunter2"), ("/second", "hunter2"), ("/third", None)] * 2


def test_a_header_that_cannot_be_sent_is_not_shown(server: Server, tmp_path: Path) -> None:
    source = {"uri": server.url("/app"), "headers": {"X-Token": "hunter2\nX: y"}}
    book = run(tmp_path, "write_files", {"write_files": [{"path": "/etc/app", "source": source}]}, fast())
    assert not book.host.exists("/etc/app")
    [told] = book.status.values["recoverable"]
    assert "InvalidHeader" in told
    assert "hunter2" not in told


def test_file_from_a_url_that_fails(server: Server, tmp_path: Path) -> None:
    server.statuses = [404, 404]
    source = {"uri": server.url("/app")}
    files = [{"path": "/a", "source": source, "content": "else"}, {"path": "/b", "source": source}, {"path": "/c"}]
    book = run(tmp_path, "write_files", {"write_files": files}, fast())
    assert book.host.read("/a") == b"else"
    assert not book.host.exists("/b")
    assert book.host.exists("/c")
    assert ["HTTP 404" in text for text in book.status.values["recoverable"]] == [True, True]


def test_file_from_a_url_before_the_network(tmp_path: Path) -> None:
    files = [{"path": "/a", "source": {"uri": "http://192.0.2.1/"}}]
    with pytest.raises(NeedsNetwork):
        run(tmp_path, "write_files", {"write_files": files}, Fetcher(offline=True))
