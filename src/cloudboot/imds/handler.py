"""One connection to the simulator: HTTP as EC2 speaks it, with the faults that were asked for."""

from __future__ import annotations

import contextlib
import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudboot.imds.simulator import Server as _Serving

TOKEN_PATH = "/latest/api/token"  # noqa: S105
MAX_TTL = 21600


class Record(NamedTuple):
    """One request. `token` is none, valid or refused, never the token."""

    time: float
    peer: str
    connection: int
    method: str
    path: str
    status: int
    token: str


class Handler(BaseHTTPRequestHandler):
    """Answer the requests of one connection. The server has the `simulator`."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True
    timeout = 300

    def setup(self) -> None:
        super().setup()
        self.simulator = cast("_Serving", self.server).simulator
        self.number = self.simulator.number_of(self.connection)
        self.answers = 0

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def version_string(self) -> str:
        return "EC2ws"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: requests are in the log with their status, without their tokens."""

    def do_GET(self) -> None:
        with self.simulator.in_flight():
            self._get()

    def do_HEAD(self) -> None:
        with self.simulator.in_flight():
            self._get()

    def do_PUT(self) -> None:
        with self.simulator.in_flight():
            self._put()

    def do_POST(self) -> None:
        self._drain()
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED)

    do_DELETE = do_OPTIONS = do_PATCH = do_POST  # noqa: N815

    def _get(self) -> None:
        simulator = self.simulator
        plain = unquote(self.path.partition("?")[0], errors="surrogateescape")
        fault = self._delayed(plain)
        token = "ignored"  # noqa: S105
        if not simulator.options.v1_only:
            token = simulator.check_token(self.headers.get("X-aws-ec2-metadata-token"))
            if token == "refused" or (token == "none" and not simulator.options.v1):  # noqa: S105
                self._answer(HTTPStatus.UNAUTHORIZED, token=token)
                return
        if fault is not None and fault.isdigit():
            self._answer(HTTPStatus(int(fault)), token=token)
            return
        body = simulator.look_up(plain)
        if body is None:
            self._answer(HTTPStatus.NOT_FOUND, token=token)
        else:
            self._answer(HTTPStatus.OK, b"" if fault == "empty" else body, token=token, cut=fault == "cut")

    def _put(self) -> None:
        simulator = self.simulator
        self._drain()
        fault = self._delayed(self.path)
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if simulator.options.v1_only or self.path != TOKEN_PATH:
            self._answer(HTTPStatus.NOT_FOUND)
        elif simulator.faults.has("token-403") or self.headers.get("X-Forwarded-For") is not None:
            self._answer(HTTPStatus.FORBIDDEN)
        elif fault is not None and fault.isdigit():
            self._answer(HTTPStatus(int(fault)))
        elif not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl) <= MAX_TTL):
            self._answer(HTTPStatus.BAD_REQUEST)
        elif fault == "empty":
            self._answer(HTTPStatus.OK)
        else:
            with self._hops(simulator.options.hop_limit):
                self._answer(HTTPStatus.OK, simulator.give_token(int(ttl)).encode(), ttl=ttl, cut=fault == "cut")

    def _drain(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if length.isdigit():
            self.rfile.read(min(int(length), 1 << 20))

    def _delayed(self, path: str) -> str | None:
        """Wait as told, then say which fault strikes. Faults see the path without the version."""
        relative = path.removeprefix("/").partition("/")[2]
        self.simulator.sleep(self.simulator.options.latency + self.simulator.faults.delay(relative))
        return self.simulator.faults.strike(relative)

    @contextlib.contextmanager
    def _hops(self, limit: int) -> Iterator[None]:
        six = self.connection.family == socket.AF_INET6
        option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if six else (socket.IPPROTO_IP, socket.IP_TTL)
        before = self.connection.getsockopt(*option)
        self.connection.setsockopt(*option, limit)
        try:
            yield
            self.simulator.hop_limits.append(self.connection.getsockopt(*option))
            self.wfile.flush()
        finally:
            with contextlib.suppress(OSError):
                self.connection.setsockopt(*option, before)

    def _answer(
        self, status: HTTPStatus, body: bytes | None = None, *, token: str = "", ttl: str = "", cut: bool = False
    ) -> None:
        simulator = self.simulator
        kind = "text/plain"
        if body is None and status != HTTPStatus.OK:
            kind = "text/html"
            body = (
                f'<?xml version="1.0" encoding="iso-8859-1"?>\n<html>\n <head>\n  <title>{status.value} - '
                f"{status.phrase}</title>\n </head>\n <body>\n  <h1>{status.value} - {status.phrase}</h1>\n"
                " </body>\n</html>\n"
            ).encode()
        body = body or b""
        # Recorded first: a test that has seen the answer finds it in the log.
        simulator.record(
            Record(time.time(), self.client_address[0], self.number, self.command, self.path, status.value, token)
        )
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "none")
        if ttl:
            self.send_header("X-aws-ec2-metadata-token-ttl-seconds", ttl)
        if 300 <= status.value < 400:
            self.send_header("Location", "/latest/meta-data/instance-id")
        closing = self.close_connection or cut
        self.send_header("Connection", "close" if closing else "keep-alive")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.answers += 1
        every = simulator.faults.number("close-every")
        self.close_connection = bool(closing or (every and self.answers % every == 0))
