"""What apt says of settings that it cannot read; keys from a key server on loopback."""

from __future__ import annotations

import base64
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from casebook import Book
from cloudboot import process
from cloudboot.http import Fetcher
from cloudboot.modules.apt_configure import READ_SETTINGS, REFUSED
from cloudboot.openpgp import BEGIN, END
from unit.test_openpgp import ARMOURED, BODY, FINGERPRINT, KEY, OTHER, packet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ('APT::Install-Recommends "false";\n', True),
        ('// why\nAcquire { http { Proxy "DIRECT"; }; };\n', True),
        ("#clear APT::Own;\n", True),
        ("APT::Install-Recommends\n", False),
        ('APT::Own "1"\n', False),
        ('Acquire::http::Proxy "http://proxy.example.com"";\n', False),
    ],
)
def test_apt_is_asked(text: str, fine: bool) -> None:
    asked = process.spawn(READ_SETTINGS, stdin=text.encode())
    assert asked.ok is fine
    assert (re.search(REFUSED, asked.output) is None) is fine


class KeyServer(HTTPServer):
    """Answers look-ups with what it was given, else with 404; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, str]] = []
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, text = self.server.answers.pop(0) if self.server.answers else (404, "")
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with KeyServer() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def armoured(keys: bytes) -> str:
    return f"{BEGIN}\n\n{base64.b64encode(keys).decode()}\n{END}\n"


def book(folder: Path, server: KeyServer, scheme: str = "http", keyid: str = FINGERPRINT) -> Book:
    entry = {
        "source": "deb [signed-by=$KEY_FILE] http://a.example.com x main",
        "keyid": keyid,
        "keyserver": f"{scheme}://127.0.0.1:{server.server_address[1]}",
    }
    made = Book({"config": {"apt": {"sources": {"own.list": entry}}}, "expect": {}}, folder, "apt_configure")
    made.fetcher = Fetcher(sleep=lambda _: None)  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("scheme", ["http", "hkp"])
@pytest.mark.parametrize(
    "keyid", [FINGERPRINT, "0x" + FINGERPRINT[-16:].lower(), "24F0 FE2C 4326 641B EB13  4C0C 8203 CAD2 2FB2 F07A"]
)
def test_a_key_is_fetched_once(tmp_path: Path, server: KeyServer, scheme: str, keyid: str) -> None:
    server.answers = [(503, ""), (200, ARMOURED)]
    made = book(tmp_path, server, scheme, keyid)
    made.run()
    assert made.status.values["errors"] == []
    assert made.root.read("/etc/apt/cloud-init.gpg.d/own.gpg") == KEY
    assert len(made.changes()) == 3
    digits = keyid.removeprefix("0x").replace(" ", "").upper()
    assert server.asked == [f"/pks/lookup?op=get&options=mr&search=0x{digits}"] * 2
    made.run()
    assert made.changes() == []
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((404, ""), "HTTP 404"),
        ((200, "<html>not here</html>"), "no PGP public key block"),
        ((200, armoured(OTHER)), "has sent another key than"),
        ((200, armoured(OTHER + packet(14, BODY))), "has sent another key than"),
        ((200, armoured(KEY + OTHER)), "has sent more than one key, not"),
        ((200, ARMOURED + armoured(OTHER)), "has sent more than one key, not"),
    ],
)
def test_another_key_is_not_taken(tmp_path: Path, server: KeyServer, answer: tuple[int, str], told: str) -> None:
    server.answers = [answer]
    made = book(tmp_path, server)
    made.run()
    assert len(made.status.values["errors"]) == 1
    assert told in made.status.values["errors"][0]
    assert made.changes() == []
