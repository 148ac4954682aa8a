"""From the bytes of user data to its parts, in every form that cloud-init 26.2 knows.

What is not understood is named and left out; the other parts stay. The reading itself is in `reader`; here are the
values, and what is asked of them.
"""

from __future__ import annotations

from cloudboot.problem import Level, Mark, Problem
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple, Protocol
from cloudboot.userdata.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "RAW_LIMIT",
    "Fetch",
    "Kind",
    "Part",
    "Parts",
    "Services",
    "Unresolved",
    "oversized",
    "split",
    "text_of",
    "without",
]

RAW_LIMIT = 16 << 10  # bytes: EC2's limit on user data as it is sent


class Fetch(Protocol):
    """Fetch a URL that user data includes."""

    def __call__(self, url: str, *, once: bool) -> bytes:
        """Return the body. Raises CloudbootError if it cannot be had; NeedsNetwork ends the reading as a whole.

        `once`: it was included with `#include-once`: what was fetched for this instance before is good enough.
        The time of all fetches together is the caller's to bound.
        """


class Services(NamedTuple):
    """What reading user data needs beside its bytes.

    fetch: for http and https. read: a file's bytes by its path, None if there is none; may raise OSError.
    variables: returns what templates see (`variables.variables`). handlers: the image brings part handlers of its own,
    so that a part of an unknown type may yet find one.
    """

    fetch: Fetch
    read: Callable[[str], bytes | None]
    variables: Callable[[], Mapping[str, Any]]
    handlers: bool = False


class Part(NamedTuple):
    """One part of user data.

    name: its file name, or `part-001`. content: without the marker of a boothook; a template's is rendered.
    launch_index: the instance that it is for. type: its MIME type, of interest where `kind` is CUSTOM. merge: how it
    says that it is merged (header Merge-Type, else X-Merge-Type; empty: not said). headers: as given. mark: where the
    content begins: `user-data`, a URL, or the part's own name, and the line.
    """

    kind: Kind
    name: str
    content: bytes
    launch_index: int | None = None
    type: str = ""
    merge: str = ""
    headers: Mapping[str, str] = {}
    mark: Mark = Mark("user-data", 1, 1)


class Unresolved(NamedTuple):
    """An include or a template that was recognised, where nothing is fetched and no variables are known."""

    mark: Mark
    kind: str  # its MIME type
    text: str  # the URL, without secrets; "" for a template


class Parts(NamedTuple):
    """The parts of one user data and what is wrong with it.

    volatile: the result depends on more than the bytes: there are includes (not `-once`) or templates.
    """

    parts: list[Part]
    problems: list[Problem]
    volatile: bool = False
    unresolved: list[Unresolved] = []  # noqa: RUF012


def split(raw: bytes, source: str = "user-data", *, services: Services | None = None) -> Parts:
    """Split user data into its parts. `source` names it in messages; see Parts for what comes out.

    Without services, includes and templates are listed as unresolved. What cannot be read is a problem with its place;
    the only exception is NeedsNetwork, where `services.fetch` raises it. Size, number and depth of all is bounded.
    """
    from cloudboot.userdata.reader import Piece, Reader

    reader = Reader(source, services)
    if raw.strip():
        reader.read(Piece(raw, source=source, whole=True))
    return reader.result()


def without(parts: Iterable[Part], disabled: Iterable[str]) -> list[Part]:
    """Leave out the parts whose MIME type is listed (`vendor_data.disabled_handlers`)."""
    types = {name.strip().lower() for name in disabled}
    return [part for part in parts if part.type not in types]


def oversized(raw: bytes, source: str = "user-data") -> Problem | None:
    """Say that EC2 would not take this user data, and what helps."""
    if len(raw) <= RAW_LIMIT:
        return None
    advice = "fetch the larger pieces at boot" if raw[:2] == b"\x1f\x8b" else "gzip it"
    return Problem(Mark(source), f"has {len(raw)} bytes, EC2 takes at most {RAW_LIMIT}: {advice}", Level.WARNING)


def text_of(content: bytes, mark: Mark) -> tuple[str, Problem | None]:
    """Decode a part's text; a byte order mark and CRLF go. The problem says what could not be decoded."""
    for bom, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(bom):
            try:
                return content.decode(encoding).replace("\r\n", "\n"), None
            except UnicodeDecodeError:
                return "", Problem(mark, f"begins like {encoding} and is not: save it as UTF-8")
    try:
        return content.decode().replace("\r\n", "\n"), None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        place = Mark(mark.source, line, column)
        byte = content[error.start]
        return content.decode("utf-8", "replace").replace("\r\n", "\n"), Problem(
            place, f"byte 0x{byte:02x} is not UTF-8: save the text as UTF-8", Level.WARNING
        )
