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
from socketserver import TCPServer, ThreadingMixIn
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

from cloudboot.errors import CloudbootError
from cloudboot.imds import faults, tree
from cloudboot.imds.handler import Handler, Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


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
        self.hop_limits: list[int] = []  # with which each token was sent
        self.listening: list[tuple[str, int]] = []
        self._in_flight = 0
        self._lock = threading.Lock()
        self._tokens: dict[str, list[float]] = {}  # token -> [expiry, uses]
        self._open: dict[socket.socket, int] = {}
        self._stopping = threading.Event()
        self._log_file: IO[str] | None = None
        self._state = _state(options.machine, options.tree, options.user_data)
        self._servers: list[Server] = []
        self._threads: list[threading.Thread] = []
        try:
            for address, port in options.listen:
                self._servers.append(Server(self, address, port))
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

    def _run(self, server: Server) -> None:
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


class Server(ThreadingMixIn, TCPServer):
    """One listening address of a simulator, a thread for each connection."""

    allow_reuse_address = True
    daemon_threads = False  # so that stop() waits for them
    request_queue_size = 128

    def __init__(self, simulator: Simulator, address: str, port: int) -> None:
        self.simulator = simulator
        self.serving = False
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), Handler, bind_and_activate=False)
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
