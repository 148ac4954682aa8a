"""From the bytes of user data to its parts: gzip, MIME multipart, `#cloud-config`, scripts; launch index.

What is not understood is named and left out; the other parts stay. Formats as in cloud-init 26.2; those that are not
supported yet are recognised, and said so.
"""

from __future__ import annotations

import zlib
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from cloudboot.problem import Level, Mark, Problem

if TYPE_CHECKING:
    from email.message import Message

EXPANDED_LIMIT = 32 << 20  # bytes that gzip may expand to
RAW_LIMIT = 16 << 10  # bytes: EC2's limit on user data as it is sent
DEPTH_LIMIT = 8  # of multipart in multipart
GZIP_TYPES = ("application/gzip", "application/x-gzip", "application/gzip-compressed", "application/x-gunzip")
SNIFFED_TYPES = ("text/plain", "text/x-not-multipart", "text/x-shellscript")


class Kind(StrEnum):
    """What a part is, by the MIME type that cloud-init gives it."""

    CLOUD_CONFIG = "text/cloud-config"
    SCRIPT = "text/x-shellscript"
    PER_BOOT = "text/x-shellscript-per-boot"
    PER_INSTANCE = "text/x-shellscript-per-instance"
    PER_ONCE = "text/x-shellscript-per-once"


STARTS = (  # the longest match wins, so the longer ones come first
    ("#cloud-config-archive", "text/cloud-config-archive"),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#include-once", "text/x-include-once-url"),
    ("#part-handler", "text/part-handler"),
    ("#cloud-config", Kind.CLOUD_CONFIG),
    ("## template: jinja", "text/jinja2"),
    ("#include", "text/x-include-url"),
    ("#upstart-job", "text/upstart-job"),
    ("#!", Kind.SCRIPT),
)
BASE64_STARTS = (
    "i2nsb3vkl",
    "iyev",
    "h4si",
    "tulnrs1wzxjzaw9u",
)  # `#cloud-`, `#!/`, gzip, `MIME-Version`, in lower case
NOT_YET = frozenset(kind for _, kind in STARTS if not isinstance(kind, Kind)) - {"text/upstart-job"}


class Part(NamedTuple):
    """One part: what it is, its name (`part-001` or its file name), its content, the launch index that it is for."""

    kind: Kind
    name: str
    content: bytes
    launch_index: int | None = None


class Parts(NamedTuple):
    """The parts of one user data and what is wrong with it."""

    parts: list[Part]
    problems: list[Problem]


def split(raw: bytes, source: str = "user-data") -> Parts:
    """Split user data into its parts. Nothing raises: what cannot be read is a problem with its place."""
    reader = _Reader(source)
    content = reader.gunzip(raw, Mark(source))
    if content is not None and content.strip():
        reader.whole(content)
    return Parts(reader.parts, reader.problems)


def for_index(parts: list[Part], launch_index: int | None) -> list[Part]:
    """Keep the parts that are for every instance and those for this one; without an index of our own, all."""
    if launch_index is None:
        return parts
    return [part for part in parts if part.launch_index in (None, launch_index)]


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


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.parts: list[Part] = []
        self.problems: list[Problem] = []
        self.number = 0

    def gunzip(self, content: bytes, mark: Mark) -> bytes | None:
        while content[:2] == b"\x1f\x8b":
            expander = zlib.decompressobj(16 + zlib.MAX_WBITS)
            try:
                plain = expander.decompress(content, EXPANDED_LIMIT)
            except zlib.error as error:
                self.problem(mark, f"gzip: damaged ({str(error).rpartition(': ')[2]}): nothing of it is used")
                return None
            if expander.unconsumed_tail:
                self.problem(mark, f"gzip: more than {EXPANDED_LIMIT >> 20} MiB when expanded: not used")
                return None
            if not expander.eof:
                self.problem(mark, "gzip: cut off before its end: nothing of it is used")
                return None
            content = plain
        return content

    def whole(self, content: bytes) -> None:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            text, problem = text_of(content, Mark(self.source, 1, 1))
            if problem is None:
                told = "UTF-16: read as such, but other agents will not: save it as UTF-8"
                problem = Problem(Mark(self.source, 1, 1), told, Level.WARNING)
            self.problems.append(problem)
            content = text.encode()
        if b"mime-version:" in content[:4096].lower() and not content.lstrip().startswith(b"#"):
            self.mime(content)
        else:
            self.plain(content, None, None, None)

    def mime(self, content: bytes) -> None:
        from email import message_from_bytes, policy

        message = message_from_bytes(content.lstrip(), policy=policy.compat32)
        self.walk(message, 0)

    def walk(self, message: Message, depth: int) -> None:
        if message.is_multipart():
            for defect in message.defects:
                self.problem(Mark(self.source), f"MIME: {_defect(defect)}", Level.WARNING)
            if depth > DEPTH_LIMIT:
                self.problem(Mark(self.source), f"MIME: more than {DEPTH_LIMIT} levels of multipart: not read")
                return
            for part in message.get_payload():
                if not isinstance(part, str):
                    self.walk(part, depth + 1)
            return
        if message.get_content_maintype() == "multipart":
            told = f"MIME: {message.get_content_type()} without parts: is its boundary right?"
            self.problem(Mark(self.source), told)
            return
        name = message.get_filename()
        index = self.index(message["Launch-Index"])
        payload = message.get_payload(decode=True)
        content = payload if isinstance(payload, bytes) else b""
        declared = message.get_content_type()
        if declared in GZIP_TYPES:
            plain = self.gunzip(content, self.mark(name))
            if plain is None:
                self.number += 1
                return
            content, declared = plain, "text/plain"
        self.plain(content, name, None if declared in SNIFFED_TYPES else declared, index, declared)

    def index(self, header: str | None) -> int | None:
        if header is None:
            return None
        try:
            return int(header)
        except ValueError:
            self.problem(Mark(self.source), f"Launch-Index: must be a whole number: {header!r}: the part is for all")
            return None

    def mark(self, name: str | None) -> Mark:
        return Mark(name or (f"part-{self.number + 1:03}" if self.number else self.source))

    def plain(
        self, content: bytes, name: str | None, declared: str | None, index: int | None, was: str | None = None
    ) -> None:
        self.number += 1
        name = _safe_name(name) or f"part-{self.number:03}"
        source = self.source if was is None else name
        start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].decode("utf-8", "replace").lower()
        kind = declared or next((found for prefix, found in STARTS if start.startswith(prefix)), None)
        if kind is None and was == "text/x-shellscript":
            kind = Kind.SCRIPT
        if not content.strip():
            return
        line = content[: len(content) - len(content.lstrip(b"\xef\xbb\xbf \t\r\n"))].count(b"\n") + 1
        place = Mark(source, line, 1)
        if kind in NOT_YET:
            self.problem(place, f"{kind}: not supported yet: this part is left out")
        elif kind in set(Kind):
            self.add(Kind(kind), name, content, index, place)
        else:
            self.problem(place, _unknown(content, kind))

    def add(self, kind: Kind, name: str, content: bytes, index: int | None, place: Mark) -> None:
        if kind is not Kind.CLOUD_CONFIG and content.split(b"\n", 1)[0].endswith(b"\r"):
            content = content.replace(b"\r\n", b"\n")
        if kind is not Kind.CLOUD_CONFIG:
            content = content.lstrip(b"\xef\xbb\xbf \t\r\n")
        self.parts.append(Part(kind, name, content, index))

    def problem(self, mark: Mark, text: str, level: Level = Level.ERROR) -> None:
        self.problems.append(Problem(mark, text, level))


def _defect(defect: object) -> str:
    names = {
        "StartBoundaryNotFoundDefect": "the boundary that the header names does not occur",
        "CloseBoundaryNotFoundDefect": "the closing boundary is missing: the last part may be cut off",
        "MultipartInvariantViolationDefect": "declared multipart, but there are no parts",
    }
    return names.get(type(defect).__name__, type(defect).__name__)


def _safe_name(name: str | None) -> str:
    allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.()-"
    return "".join(char for char in (name or "").replace("/", "_") if char in allowed).lstrip(".")


def _unknown(content: bytes, declared: str | None) -> str:
    first = content.lstrip().split(b"\n", 1)[0][:60].decode("utf-8", "replace").strip()
    squeezed = "".join(first.lower().split())
    if squeezed.startswith(("#cloud-config", "#cloudconfig", "#cloud_config", "cloud-config")):
        return f"begins with {first!r}, which is not the header '#cloud-config' (no blank, one '#', a '-'): not used"
    if squeezed.startswith("content-type:multipart/"):
        return "begins like MIME multipart, without its line 'MIME-Version: 1.0': not used"
    if squeezed.startswith(BASE64_STARTS):
        return f"begins with {first[:24]!r}, which is base64 of a known format: give it decoded: not used"
    if any(line.startswith(b"#!") for line in content.lstrip().split(b"\n")[1:10]):
        return f"begins with {first!r}: the '#!' of a script must be its first line: not used"
    if declared is not None:
        return f"of unknown type {declared!r}: not used"
    if squeezed.startswith(("set-e", "apt", "echo", "cd/", "sudo", "yum", "exportpath")):
        return f"begins with {first!r}: a script must begin with '#!', as in '#!/bin/sh': not used"
    if ":" in first and not first.startswith("#"):
        return f"begins with {first!r}: cloud-config must begin with the line '#cloud-config': not used"
    return (
        f"begins with {first[:24]!r}, which is no known format ('#cloud-config', '#!', MIME multipart, gzip): not used"
    )
