"""MIME messages to their leaves: multipart in multipart, transfer encodings, file names, headers.

The text is cut at its boundaries here; only headers are given to the `email` library, whose parser recurses and keeps
a list of open boundaries for every line. What it reads differently from others, it reads as cloud-init does.
"""

from __future__ import annotations

import binascii
import re

from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

DEPTH_LIMIT = 8  # of multipart in multipart
HEAD_LIMIT = 64 << 10  # bytes of one part's headers
PARAMETERS_LIMIT = 2048  # characters of a header with parameters: their parser takes quadratic time
HEAD = re.compile(rb"(?:[!-9;-~]+:[^\n]*(?:\n|\Z)|[ \t][^\n]*(?:\n|\Z))*")
BLANK_LINE = re.compile(rb"\r?\n")
PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")


class Flaw(NamedTuple):
    """What is wrong with the message as a whole; `loses` tells whether something of it is lost."""

    text: str
    loses: bool


class Leaf(NamedTuple):
    """A part that is no container: decoded content, declared type in lower case, file name, headers as given.

    flaw: why its content may be wrong.
    """

    content: bytes
    type: str
    name: str
    headers: dict[str, str]
    flaw: str = ""


def leaves(message: bytes, depth: int = 0) -> Iterator[Leaf | Flaw]:
    """Yield the leaves of a message in order, and what is wrong where it is found. Nothing raises."""
    end = HEAD.match(message, 0, HEAD_LIMIT + 1)
    size = end.end() if end else 0
    if size > HEAD_LIMIT:
        yield Flaw(f"MIME: a part with more than {HEAD_LIMIT >> 10} KiB of headers: left out", loses=True)
        return
    head = _headers(message[:size])
    blank = BLANK_LINE.match(message, size)
    body = message[blank.end() if blank else size :]
    kind = head.get_content_type()
    if kind.startswith("multipart/"):
        yield from _multipart(head, kind, body, depth)
    elif kind == "message/rfc822" and depth < DEPTH_LIMIT:
        yield from leaves(body, depth + 1)
    else:
        content, flaw = _decoded(body, str(head.get("Content-Transfer-Encoding", "")).strip().lower())
        yield Leaf(content, kind, _filename(head), {name: _unfolded(value) for name, value in head.items()}, flaw)


def _headers(text: bytes) -> Message:
    from email.parser import HeaderParser

    # As email's BytesParser decodes it, without its TextIOWrapper.
    return HeaderParser().parsestr(text.decode("ascii", "surrogateescape"))


def _multipart(head: Message, kind: str, body: bytes, depth: int) -> Iterator[Leaf | Flaw]:
    if depth >= DEPTH_LIMIT:
        yield Flaw(f"MIME: more than {DEPTH_LIMIT} levels of multipart: not read", loses=True)
        return
    boundary = _parameter(head, "boundary")
    pieces, closed = _cut(body, boundary)
    if not pieces:
        yield Flaw(f"MIME: {kind[:60]} without parts: is its boundary right?", loses=True)
        return
    if not closed:
        told = "MIME: the closing boundary is missing: the last part may be cut off"
        yield Flaw(told, loses=False)
    for start, stop in pieces:
        yield from leaves(body[start:stop], depth + 1)


def _cut(body: bytes, boundary: str) -> tuple[list[tuple[int, int]], bool]:
    """Return where the parts between the boundaries stand, and whether the last boundary closes."""
    if not boundary:
        return [], False
    word = re.escape(boundary.encode("utf-8", "surrogateescape"))
    pieces: list[tuple[int, int]] = []
    start = -1
    for found in re.finditer(rb"^--" + word + rb"(--)?[ \t]*\r?$", body, re.MULTILINE):
        if start >= 0:
            stop = max(start, found.start() - 1)  # the line's end before a boundary belongs to the boundary
            stop -= body[start:stop].endswith(b"\r") if body[stop : stop + 1] == b"\n" else 0
            pieces.append((start, stop))
        if found[1]:
            return pieces, True
        start = min(found.end() + 1, len(body))
    if start >= 0:
        pieces.append((start, len(body)))
    return pieces, False


def _decoded(body: bytes, encoding: str) -> tuple[bytes, str]:
    if encoding in PLAIN_ENCODINGS:
        return body, ""
    if encoding == "quoted-printable":
        return binascii.a2b_qp(body), ""
    if encoding != "base64":
        return body, f"Content-Transfer-Encoding: must be base64, quoted-printable, 7bit or 8bit: {encoding[:40]!r}"
    try:
        return binascii.a2b_base64(b"".join(body.split()), strict_mode=True), ""
    except binascii.Error:
        pass
    told = "base64: damaged: decoded as far as it goes"
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", body)
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4)), told


def _filename(head: Message) -> str:
    return _parameter(head, "filename", "Content-Disposition") or _parameter(head, "name")


def _parameter(head: Message, name: str, header: str = "Content-Type") -> str:
    from email.utils import collapse_rfc2231_value

    if len(str(head.get(header, ""))) > PARAMETERS_LIMIT:
        return ""
    try:
        value = head.get_param(name, "", header)
        return collapse_rfc2231_value(value).strip() if value else ""
    except (ValueError, LookupError, TypeError):  # of the library, on what nobody sends
        return ""


def _unfolded(value: object) -> str:
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(map(str.strip, text.splitlines()))
