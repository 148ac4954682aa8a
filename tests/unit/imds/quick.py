"""What the tests of the metadata protocol share: short times, a crawl of a simulator, servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from cloudboot.imds.client import Crawl, Endpoint, Patience, crawl
from cloudboot.imds.faults import parse
from cloudboot.imds.simulator import Options, Simulator, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICK = Patience(connect=0.2, read=0.4, pause=0.02, longest_pause=0.1, announce=(0.2, 0.4))


def endpoints(simulator: Simulator) -> list[Endpoint]:
    """Return where the simulator listens."""
    return [Endpoint(host, port) for host, port in simulator.listening]


def crawled(
    simulator: Simulator,
    *,
    aws: bool = True,
    deadline: float = 5.0,
    say: Callable[[str], None] = lambda _: None,
    extra: tuple[Endpoint, ...] = (),
) -> Crawl:
    """Crawl the simulator with short times; `extra` endpoints are raced before it."""
    return crawl([*extra, *endpoints(simulator)], aws=aws, say=say, deadline=deadline, patience=QUICK)


def faulty(*specs: str, options: Options | None = None) -> Simulator:
    """Start a simulator with these faults."""
    return serve((options or Options())._replace(faults=tuple(parse(spec) for spec in specs)))


@contextlib.contextmanager
def silent_server(host: str = "127.0.0.1") -> Iterator[Endpoint]:
    """Accept connections (in the backlog) and never answer."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind((host, 0))
        server.listen(16)
        yield Endpoint(host, server.getsockname()[1])


@contextlib.contextmanager
def scripted_server(answer: Callable[[bytes, int], bytes | None]) -> Iterator[tuple[Endpoint, list[bytes]]]:
    """Answer each request with `answer(head, number of the connection)`; None closes without a word.

    Yield the endpoint and the list of request heads as they come.
    """
    heads: list[bytes] = []
    open_connections: list[socket.socket] = []
    threads: list[threading.Thread] = []
    server = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                heads.append(head)
                reply = answer(head, number)
                if reply is None:
                    return
                connection.sendall(reply)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            open_connections.append(connection)
            thread = threading.Thread(target=talk, args=(connection, len(open_connections)))
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield Endpoint("127.0.0.1", server.getsockname()[1]), heads
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        acceptor.join()
        for connection in open_connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def http(status: int, body: bytes = b"", *headers: str) -> bytes:
    """Return a response as bytes."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
