"""HTTP/1.1 as the metadata service needs it: one request at a time on a kept-alive, non-blocking socket.

`http.client` would do it too, at 30 ms of CPU and 8 MB of resident memory for its imports (email, ssl, urllib) on
a slow core; this file and `socket` take 5 ms and 1 MB. Proxies and redirects do not exist here, on purpose: the
service is on the link.
"""

from __future__ import annotations

# The C module alone: `socket` around it makes enumerations of hundreds of constants, 3 ms of a boot's CPU.
import _socket as socket
import errno
import os

from cloudboot.errors import MetadataError
from cloudboot.typed import NamedTuple

MAX_BODY = 1 << 20
MAX_HEAD = 32 << 10

UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENETDOWN})
"""What connect says while the network is still coming up: waiting for an address helps."""


class Endpoint(NamedTuple):
    """Where a metadata service may answer. `host` is a numeric address without brackets.

    `interface` is the scope of a link-local IPv6 address (OpenStack's fe80::a9fe:a9fe).
    """

    host: str
    port: int = 80
    interface: str | None = None

    def __str__(self) -> str:
        """Write it as in a URL, with the scope for people."""
        scope = f"%{self.interface}" if self.interface else ""
        host = f"[{self.host}{scope}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"

    @property
    def authority(self) -> str:
        """The value of the Host header (RFC 9110: without a scope)."""
        return str(self._replace(interface=None))


class Response(NamedTuple):
    """A whole answer. Header names are in lower case; `keep` says that the connection can be used again."""

    status: int
    headers: dict[str, str]
    body: bytes
    keep: bool


class BrokenAnswerError(MetadataError):
    """An answer that is cut off or not HTTP."""


class TooLargeError(BrokenAnswerError):
    """A body over MAX_BODY bytes. Asking again does not help."""


class ClosedEarlyError(BrokenAnswerError):
    """The peer closed before the first byte of an answer, as a server does with an idle kept-alive connection."""


class Answer:
    """Collect the bytes of one response, however they are split."""

    __slots__ = ("_close", "_data", "_headers", "_length", "_start", "_status", "chunked")

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0  # of the body; 0 while the head is incomplete
        self._status = 0
        self._headers: dict[str, str] = {}
        self._length: int | None = None
        self._close = False
        self.chunked = False

    def feed(self, data: bytes) -> Response | None:
        """Add what was received; return the response once it is whole. Raise BrokenAnswerError or TooLargeError."""
        self._data += data
        if not self._start and not self._head():
            return None
        if self.chunked:
            return self._dechunk()
        if len(self._data) - self._start > MAX_BODY:
            raise TooLargeError(f"a body of more than {MAX_BODY} bytes")
        if self._length is not None and len(self._data) - self._start >= self._length:
            end = self._start + self._length
            return self._response(bytes(self._data[self._start : end]), len(self._data) == end)
        return None

    def eof(self) -> Response:
        """Take the end of the stream as the end of the body where the head allows it, else raise."""
        if not self._data:
            raise ClosedEarlyError("closed the connection without an answer")
        if not self._start:
            raise BrokenAnswerError("the answer was cut off in its head")
        got = len(self._data) - self._start
        if self.chunked:
            raise BrokenAnswerError(f"the answer was cut off after {got} bytes")
        if self._length is not None:
            raise BrokenAnswerError(f"the answer was cut off after {got} of {self._length} bytes")
        return self._response(bytes(self._data[self._start :]), False)

    def _head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(self._data) > MAX_HEAD):
            raise BrokenAnswerError("the head of the answer is too long")
        if end < 0:
            return False
        lines = self._data[:end].decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        code = rest[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or not (code.isascii() and code.isdigit() and len(code) == 3):
            raise BrokenAnswerError("not an HTTP answer")
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise BrokenAnswerError("not an HTTP header")
            self._headers[name.strip().lower()] = value.strip()
        self._status = int(code)
        self._start = end + 4
        connection = self._headers.get("connection", "").lower()
        self._close = "close" in connection or (version == "HTTP/1.0" and "keep-alive" not in connection)
        self.chunked = self._headers.get("transfer-encoding", "identity").lower() != "identity"
        length = self._headers.get("content-length")
        if self._status in (204, 304):
            self._length, self.chunked = 0, False
        elif length is not None and not self.chunked:
            if not (length.isascii() and length.isdigit()):
                raise BrokenAnswerError("a Content-Length that is no number")
            self._length = int(length)
            if self._length > MAX_BODY:
                raise TooLargeError(f"a body of {self._length} bytes, the limit is {MAX_BODY}")
        return True

    def _dechunk(self) -> Response | None:
        # Decoded from the start each time: no EC2 service sends long chunked bodies, and one pass is easy to trust.
        body = bytearray()
        at = self._start
        while True:
            end = self._data.find(b"\r\n", at)
            if end < 0:
                break
            size = bytes(self._data[at:end]).partition(b";")[0].strip()
            try:
                count = int(size, 16)
            except ValueError:
                raise BrokenAnswerError("a chunk whose size is no number") from None
            if count < 0 or len(body) + count > MAX_BODY:
                raise TooLargeError(f"a body of more than {MAX_BODY} bytes")
            at = end + 2
            if count == 0:
                trailer = self._data.find(b"\r\n", at)
                if trailer < 0:
                    return None
                # Trailers are not expected: what follows makes the connection unusable, not the body.
                return self._response(bytes(body), trailer == at and len(self._data) == at + 2)
            if len(self._data) < at + count + 2:
                break
            body += self._data[at : at + count]
            if self._data[at + count : at + count + 2] != b"\r\n":
                raise BrokenAnswerError("a chunk that does not end where it said")
            at += count + 2
        if len(self._data) - self._start > 2 * MAX_BODY:
            raise TooLargeError(f"a body of more than {MAX_BODY} bytes")
        return None

    def _response(self, body: bytes, clean: bool) -> Response:
        return Response(self._status, self._headers, body, clean and not self._close)


class Connection:
    """A connection to an endpoint that never blocks. The owner polls `fileno()` and calls `advance()`.

    Raise OSError from the constructor when the endpoint cannot be reached at once, from `advance` when that
    turns out later. `served` counts whole answers, `expires` is for the owner's time-outs.
    """

    __slots__ = ("_answer", "_out", "_socket", "connecting", "endpoint", "expires", "served")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.served = 0
        self.expires = 0.0
        self._out = b""
        self._answer = Answer()
        self._socket, address = _open(endpoint)
        try:
            self._socket.setblocking(False)
            code = self._socket.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except OSError:
            self._socket.close()
            raise
        self.connecting = code != 0

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether to poll for writing too: while connecting, and while the request is not out."""
        return self.connecting or bool(self._out)

    def request(self, head: bytes) -> None:
        """Start the next exchange with a whole request. Raise OSError if the connection is gone."""
        self._answer = Answer()
        self._out = head
        if not self.connecting:
            self._write()

    def advance(self) -> Response | None:
        """Do what is possible now; return the response once it is whole. Raise OSError or BrokenAnswerError."""
        if self.connecting:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            self.connecting = False
        if self._out:
            self._write()
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return None
            response = self._answer.feed(data) if data else self._answer.eof()
            if response is not None:
                self.served += 1
                return response

    def close(self) -> None:
        """Close the socket; more than once is fine."""
        self._socket.close()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._out, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        self._out = self._out[sent:]


def reason(error: OSError | MetadataError) -> str:
    """Say a failure in the words of a message: `network is unreachable`."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    text = text or type(error).__name__
    return text[0].lower() + text[1:]


def check(endpoint: Endpoint) -> None:
    """Raise MetadataError unless the endpoint is a numeric address: nothing here may ask the DNS."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        socket.inet_pton(family, endpoint.host)
    except OSError:
        raise MetadataError(
            f"metadata endpoint: not a numeric address: {endpoint.host!r}; write 169.254.169.254 or fd00:ec2::254"
        ) from None


def _open(endpoint: Endpoint) -> tuple[socket.socket, tuple[str, int] | tuple[str, int, int, int]]:
    if ":" not in endpoint.host:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM), (endpoint.host, endpoint.port)
    try:
        scope = socket.if_nametoindex(endpoint.interface) if endpoint.interface else 0
    except OSError:  # without an errno
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
    return socket.socket(socket.AF_INET6, socket.SOCK_STREAM), (endpoint.host, endpoint.port, 0, scope)
