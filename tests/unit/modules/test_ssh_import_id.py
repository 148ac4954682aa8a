"""Fetching login keys: against a server on loopback."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from casebook import Book
from cloudboot.errors import NeedsNetwork
from cloudboot.http import Fetcher
from cloudboot.module import Facts
from cloudboot.modules.ssh_import_id import nobody_asks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIERVWW5OyBRxaigcgxtPAJOkxWHCe82uWa60hbbEfo+p"
TREE = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndebian:x:1000:1000::/home/debian:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/sh\n",
    "/etc/group": "root:x:0:\ndebian:x:1000:\nbob:x:1001:\n",
    "/home/debian": {"dir": True, "owner": "1000:1000"},
    "/home/bob": {"dir": True, "owner": "1001:1001"},
}
FILE = "/home/debian/.ssh/authorized_keys"


class Server(HTTPServer):
    """Has a page for some paths, and 404; before that it gives the statuses that it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, str] = {}
        self.statuses: list[int] = []
        self.asked: list[str] = []

    def urls(self) -> dict[str, str]:
        own = f"http://127.0.0.1:{self.server_address[1]}"
        return {"gh": f"{own}/gh/%s.keys", "lp": f"{own}/~%s/+sshkeys"}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        page = self.server.pages.get(self.path)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 404 if page is None else 200)
        body = (page or "").encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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


def run(folder: Path, server: Server, config: dict[str, Any]) -> Book:
    case = {
        "config": {"ssh_import_id_urls": server.urls(), **config},
        "image": {"default_user": {"name": "debian"}},
        "tree": TREE,
    }
    book = Book(case, folder, "ssh_import_id")
    book.fetcher = Fetcher(sleep=lambda seconds: None)  # type: ignore[assignment]
    book.run()
    return book


def test_each_id_is_asked_for_once(server: Server, tmp_path: Path) -> None:
    server.pages = {"/gh/octo.keys": f"{ONE}\n", "/~a.b+c/+sshkeys": "no key\n", "/~a.b%2Bc/+sshkeys": f"{ONE} x@y\n"}
    config = {
        "ssh_import_id": ["gh:octo", "a.b+c"],
        "users": ["default", {"name": "bob", "ssh_import_id": ["gh:octo"]}],
    }
    book = run(tmp_path, server, config)
    assert server.asked == ["/gh/octo.keys", "/~a.b%2Bc/+sshkeys"]
    assert book.host.text(FILE) == f"{ONE} # ssh-import-id gh:octo\n"
    assert book.host.text("/home/bob/.ssh/authorized_keys") == f"{ONE} # ssh-import-id gh:octo\n"
    entry = book.host.look("/home/bob/.ssh/authorized_keys")
    assert entry is not None
    assert (entry.mode, entry.uid, entry.gid) == (0o600, 1001, 1001)
    assert book.status.values["errors"] == []


def test_keys_that_were_there_stay(server: Server, tmp_path: Path) -> None:
    server.pages = {"/gh/octo.keys": f"{ONE}\n"}
    book = run(tmp_path, server, {"ssh_import_id": ["gh:octo"]})
    book.root.write(FILE, f"# mine\n{ONE} mine\n".encode(), 0o600, 1000, 1000)
    book.changes()
    book.run()
    assert book.changes() == []
    assert book.host.text(FILE) == f"# mine\n{ONE} mine\n"


def test_one_that_fails_costs_itself(server: Server, tmp_path: Path) -> None:
    server.pages = {"/gh/octo.keys": f"{ONE}\n"}
    book = run(tmp_path, server, {"ssh_import_id": ["gh:nobody", "gh:octo"]})
    assert book.host.text(FILE) == f"{ONE} # ssh-import-id gh:octo\n"
    (told,) = book.status.values["errors"]
    assert told.startswith("ssh_import_id: gh:nobody: no keys: GET ")
    assert told.endswith("/gh/nobody.keys: HTTP 404")


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.pages, server.statuses = {"/gh/octo.keys": f"{ONE}\n"}, [503, 502]
    book = run(tmp_path, server, {"ssh_import_id": ["gh:octo"]})
    assert len(server.asked) == 3
    assert book.status.values["errors"] == []


def test_a_page_that_is_not_keys(server: Server, tmp_path: Path) -> None:
    server.pages = {"/gh/octo.keys": "<html>Sign in</html>\n"}
    book = run(tmp_path, server, {"ssh_import_id": ["gh:octo"]})
    assert not book.host.exists("/home/debian/.ssh")
    assert "has no keys" in book.status.values["errors"][0]


def test_a_user_cannot_lead_it_elsewhere(server: Server, tmp_path: Path) -> None:
    server.pages = {"/gh/octo.keys": f"{ONE}\n"}
    (tmp_path / "home/debian").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    (tmp_path / "home/debian/.ssh").symlink_to("/root")
    book = run(tmp_path, server, {"ssh_import_id": ["gh:octo"]})
    assert book.host.listdir("/root") == []
    assert len(book.status.values["recoverable"]) == 1


def test_without_a_network_it_waits(tmp_path: Path) -> None:
    book = Book({"config": {"ssh_import_id": ["x"]}, "tree": TREE}, tmp_path, "ssh_import_id")
    book.fetcher = Fetcher(offline=True)  # type: ignore[assignment]
    with pytest.raises(NeedsNetwork):
        book.run()


@pytest.mark.parametrize(
    ("config", "idle"),
    [
        ({}, True),
        ({"users": ["default", {"name": "bob"}]}, True),
        ({"users": []}, True),
        ({"ssh_import_id": [], "user": {"name": "me"}}, True),
        ({"ssh_import_id": ["x"], "users": []}, False),  # that there is no user is worth a word
        ({"ssh_import_id": ["x"]}, False),
        ({"users": [{"name": "bob", "ssh-import-id": ["x"]}]}, False),
        ({"user": {"ssh_import_id": ["x"]}}, False),
        ({"default_user": {"name": "debian", "ssh_import_id": ["x"]}}, False),
        ({"system_info": {"default_user": {"name": "debian", "ssh_import_id": ["x"]}}}, False),
    ],
)
def test_idle(config: dict[str, Any], idle: bool, tmp_path: Path) -> None:
    book = Book({}, tmp_path, "ssh_import_id")
    assert nobody_asks(Facts(book.host, "", config, book.instance)) == idle
