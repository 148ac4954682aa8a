"""An EC2 metadata service to test against: for image builders, and for our own tests.

`with serve(Options()) as simulator:` runs it in threads; `cloudboot imds` runs it until SIGINT or SIGTERM and reads
its files again on SIGHUP. It listens on loopback unless told otherwise. Not on the boot path.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import unquote

from cloudboot.errors import CloudbootError
from cloudboot.imds import faults, tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

TOKEN_PATH = "/latest/api/token"  # noqa: S105
MAX_TTL = 21600


class Options(NamedTuple):
    """What to serve, and how. `listen` is (address, port) pairs; port 0 takes a free one.

    `tree` is laid over the default tree (see cloudboot.imds.tree.merge); `hop_limit` is the IP TTL of the token's
    answer: with EC2's default of 1 a bridged container does not get it.
    """

    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 0),)
    v1: bool = False
    v1_only: bool = False
    hop_limit: int = 1
    machine: tree.Machine = tree.Machine()
    tree: dict[str, Any] | None = None
    user_data: bytes | None = None
    latency: float = 0.0
    faults: tuple[faults.Fault, ...] = ()
    log: str | None = None


class Record(NamedTuple):
    """One request. `token` is none, valid or refused, never the token."""

    time: float
    peer: str
    connection: int
    method: str
    path: str
    status: int
    token: str


class _State(NamedTuple):
    """What is served at this moment; replaced whole by update()."""

    machine: tree.Machine
    over: dict[str, Any] | None
    user_data: bytes | None
    tree: dict[str, Any]


class Simulator:
    """A running service. A context manager: leaving it stops it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.faults = faults.Faults(list(options.faults))
        self.log: list[Record] = []
        self.connections = 0
        self.max_in_flight = 0
        self.listening: list[tuple[str, int]] = []
        self._in_flight = 0
        self._lock = threading.Lock()
        self._tokens: dict[str, list[float]] = {}  # token -> [expiry, uses]
        self._open: dict[socket.socket, int] = {}
        self._stopping = threading.Event()
        self._log_file: IO[str] | None = None
        self._state = _state(options.machine, options.tree, options.user_data)
        self._servers: list[_Server] = []
        self._threads: list[threading.Thread] = []
        try:
            for address, port in options.listen:
                self._servers.append(_Server(self, address, port))
            if options.log is not None:
                self._log_file = open(options.log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as error:
            self._close()
            raise CloudbootError(f"imds: cannot start on {options.listen}: {error.strerror}") from error
        self.listening = [(str(server.server_address[0]), server.server_address[1]) for server in self._servers]
        late = self.faults.number("refuse")
        for server in self._servers:
            if late is None:
                server.server_activate()
            thread = threading.Thread(target=self._run, args=(server,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def __enter__(self) -> Self:
        """Return the running simulator."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def stop(self) -> None:
        """Stop listening, close every connection, wait for the threads."""
        with self._lock:
            self._stopping.set()
        for server in self._servers:
            if server.serving:
                server.shutdown()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._close()
        for thread in self._threads:
            thread.join()

    def update(
        self,
        *,
        machine: tree.Machine | None = None,
        tree: dict[str, Any] | None = None,
        user_data: bytes | None = None,
        keep_user_data: bool = True,
    ) -> None:
        """Change what is served from now on; what is not named stays (`keep_user_data=False` replaces it)."""
        old = self._state
        data = old.user_data if user_data is None and keep_user_data else user_data
        self._state = _state(machine or old.machine, old.over if tree is None else tree, data)

    # For the handler

    def sleep(self, seconds: float) -> None:
        """Sleep, but not through a stop."""
        if seconds > 0:
            self._stopping.wait(seconds)

    def opened(self, connection: socket.socket) -> None:
        """Count a connection."""
        with self._lock:
            self.connections += 1
            self._open[connection] = self.connections

    def number_of(self, connection: socket.socket) -> int:
        """Return the number of a connection, from 1."""
        with self._lock:
            return self._open[connection]

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._open.pop(connection, None)

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request while it is being answered."""
        with self._lock:
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    def record(self, record: Record) -> None:
        """Add to the log."""
        with self._lock:
            self.log.append(record)
            if self._log_file is not None:
                self._log_file.write(json.dumps(record._asdict()) + "\n")

    def give_token(self, ttl: int) -> str:
        """Make a token that lives `ttl` seconds."""
        token = secrets.token_urlsafe(40) + "=="
        with self._lock:
            self._tokens[token] = [time.monotonic() + ttl, 0]
        self.faults.token_given()
        return token

    def check_token(self, token: str | None) -> str:
        """Return none, valid or refused, and count the use."""
        if token is None:
            return "none"
        with self._lock:
            known = self._tokens.get(token)
            if known is None or known[0] < time.monotonic() or self.faults.too_early():
                return "refused"
            limit = self.faults.number("401-after")
            if limit is not None and known[1] >= limit:
                return "refused"
            known[1] += 1
            return "valid"

    def look_up(self, path: str) -> bytes | None:
        """Return the body at a path as EC2 gives it, or None for a 404."""
        state = self._state
        versions = tree.UEC_VERSIONS if state.machine.uec else tree.EC2_VERSIONS
        version, _, rest = path.removeprefix("/").partition("/")
        if not version:
            return "\n".join(versions).encode()
        if version not in versions:
            return None
        shown = tree.as_of(version, state.tree)
        if rest in ("", "/"):
            names = [name for name in shown if shown[name]] + ["user-data"] * (state.user_data is not None)
            return "\n".join(sorted(names)).encode()
        if rest == "user-data":
            return state.user_data
        return _find(shown, rest)

    def _run(self, server: _Server) -> None:
        late = self.faults.number("refuse")
        if late is not None:
            self.sleep(late)
        with self._lock:
            if self._stopping.is_set():
                return
            server.serving = True
        if late is not None:
            server.server_activate()
        server.serve_forever(0.02)

    def _close(self) -> None:
        for server in self._servers:
            server.server_close()
        if self._log_file is not None:
            self._log_file.close()


def serve(options: Options) -> Simulator:
    """Start a simulator. Raise CloudbootError if an address cannot be listened on."""
    return Simulator(options)


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = False  # so that stop() waits for them
    request_queue_size = 128

    def __init__(self, simulator: Simulator, address: str, port: int) -> None:
        self.simulator = simulator
        self.serving = False
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _Handler, bind_and_activate=False)
        try:
            if self.address_family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.server_bind()
        except OSError:
            self.server_close()
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        self.simulator.opened(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.simulator.closed(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that went away is its own business
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True
    timeout = 300

    def setup(self) -> None:
        super().setup()
        self.simulator = self.server.simulator
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


def _state(machine: tree.Machine, over: dict[str, Any] | None, user_data: bytes | None) -> _State:
    return _State(machine, over, user_data, tree.merge(tree.build(machine), over or {}))


def _find(shown: dict[str, Any], path: str) -> bytes | None:
    node: Any = shown
    directory = path.endswith("/")
    for part in path.removesuffix("/").split("/"):
        if not isinstance(node, dict):
            return None
        node = node.get(part, next((node[name] for name in node if name.partition("=")[0] == part), None))
    if isinstance(node, dict):
        value = node.get(".value")
        if value is not None and not directory:
            return _bytes(value)
        return _listing(node)
    return None if node is None or directory else _bytes(node)


def _listing(node: dict[str, Any]) -> bytes:
    lines: list[str] = []
    for name, child in node.items():
        if name == ".value" or child == {}:
            continue
        if not isinstance(child, dict) or "=" in name:
            lines.append(name)
            continue
        if ".value" in child:
            lines.append(name)
        lines.append(name + "/")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        return "\n".join(str(item) for item in value).encode()
    return str(value).encode("utf-8", "surrogateescape")
