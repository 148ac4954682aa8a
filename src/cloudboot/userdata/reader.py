"""Read user data piece by piece: each is expanded, taken apart, fetched or rendered until it is a part.

Nothing here trusts its input: what all pieces may grow by (`unpack.Budget`), how many there are, how deep they nest,
how often something is fetched and how much is reported has a limit each.
"""

from __future__ import annotations

from cloudboot.errors import CloudbootError, ConfigError, NeedsNetwork
from cloudboot.problem import Level, Mark, Problem
from cloudboot.typed import TYPE_CHECKING, NamedTuple
from cloudboot.userdata import kinds
from cloudboot.userdata.kinds import Kind
from cloudboot.userdata.parts import Part, Parts, Unresolved, text_of
from cloudboot.userdata.unpack import MAGIC, Budget, gunzip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.userdata.include import Entry
    from cloudboot.userdata.mime import Leaf
    from cloudboot.userdata.parts import Services

PARTS_LIMIT = 10_000
DEPTH_LIMIT = 10  # of includes, archives and packed messages in each other
TOO_DEEP = f"more than {DEPTH_LIMIT} levels of archives, includes and messages: not read"
INCLUDES_LIMIT = 256
FAILURES_LIMIT = 8  # of includes that cannot be had; those after them are not tried: each may cost a minute
PROBLEMS_LIMIT = 200
RENDERED = (Kind.CLOUD_CONFIG, Kind.JSONP, Kind.SCRIPT, Kind.BOOTHOOK)  # what a template can be


class Piece(NamedTuple):
    """Something that is still to be understood.

    source: what it is called in messages; empty: by its name. declared: its MIME type, if one is given. whole: it may
    be a MIME message. default: what it is if nothing else says so. chain: the URLs that it was included from.
    """

    content: bytes
    source: str = ""
    declared: str = ""
    name: str = ""
    headers: Mapping[str, str] = {}
    launch_index: int | None = None
    whole: bool = False
    default: str | None = None
    depth: int = 0
    chain: tuple[str, ...] = ()


class Reader:
    """Collects the parts of one user data and what is wrong with it."""

    def __init__(self, source: str, services: Services | None) -> None:
        self.source = source
        self.services = services
        self.budget = Budget()
        self.parts: list[Part] = []
        self.problems: list[Problem] = []
        self.unresolved: list[Unresolved] = []
        self.volatile = False
        self.number = 0  # of parts so far, those that were lost included
        self.said = 0
        self.once: set[str] = set()  # what is said once
        self.fetched: dict[str, bytes] = {}
        self.included = 0
        self.failures = 0

    def result(self) -> Parts:
        """Return what was read. A part of a type that nobody handles is reported now."""
        handled = any(part.kind is Kind.PART_HANDLER for part in self.parts)
        handled = handled or (self.services is not None and self.services.handlers)
        if not handled:
            for part in self.parts:
                if part.kind is Kind.CUSTOM:
                    self.problem(part.mark, kinds.unknown(part.content, part.type))
            self.parts = [part for part in self.parts if part.kind is not Kind.CUSTOM]
        if self.said > PROBLEMS_LIMIT:
            told = f"{self.said - PROBLEMS_LIMIT} more problems: not listed"
            self.problems.append(Problem(Mark(self.source), told))
        return Parts(self.parts, self.problems, self.volatile, self.unresolved)

    def read(self, piece: Piece) -> None:
        """Understand a piece: what comes of it is added to the parts."""
        if self.number >= PARTS_LIMIT:
            return self.problem_once(f"more than {PARTS_LIMIT} parts: the rest is not used")
        if piece.content[:2] == MAGIC and (piece.declared in kinds.KNOWN or _undeclared(piece)):
            try:
                piece = piece._replace(content=gunzip(piece.content, self.budget))
            except ConfigError as error:
                self.problem(Mark(self.source_of(piece)), str(error))
                self.number += 1
                return None
            if _undeclared(piece):
                piece = piece._replace(declared="", whole=True)
        if piece.whole and piece.content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            piece = self.from_utf16(piece)
        if piece.whole and kinds.is_mime(piece.content):
            return self.mime(piece)
        return self.leaf(piece)

    # -- containers

    def mime(self, piece: Piece) -> None:
        from cloudboot.userdata.mime import Flaw, leaves

        place = Mark(self.source_of(piece))
        if piece.depth >= DEPTH_LIMIT:
            return self.problem_once(TOO_DEEP, place)
        for found in leaves(piece.content.lstrip(kinds.BLANK)):
            if isinstance(found, Flaw):
                self.problem(place, found.text, Level.ERROR if found.loses else Level.WARNING)
            elif self.number >= PARTS_LIMIT:
                return self.problem_once(f"more than {PARTS_LIMIT} parts: the rest is not used")
            else:
                self.of_mime(found, piece, place)
        return None

    def of_mime(self, found: Leaf, outer: Piece, place: Mark) -> None:
        index = outer.launch_index
        header = _header(found.headers, "Launch-Index")
        if header is not None:
            try:
                index = int(header[:20])
            except ValueError:
                told = f"Launch-Index: must be a whole number: {header[:40]!r}: the part is for all"
                self.problem(place, told)
        piece = Piece(
            found.content,
            declared=found.type,
            name=kinds.safe_name(found.name),
            headers=found.headers,
            launch_index=index,
            depth=outer.depth + 1,
            chain=outer.chain,
        )
        if found.flaw:
            self.problem(Mark(self.source_of(piece)), found.flaw, Level.WARNING)
        self.read(piece)

    def archive(self, piece: Piece) -> None:
        from cloudboot.userdata import archive

        source = self.source_of(piece)
        if piece.depth >= DEPTH_LIMIT:
            return self.problem_once(TOO_DEEP, Mark(source))
        items, problems = archive.items(self.text(piece), source)
        for problem in problems:
            self.problem(*problem)
        for item in items:
            if self.number >= PARTS_LIMIT:
                return self.problem_once(f"more than {PARTS_LIMIT} parts: the rest is not used")
            try:
                self.budget.take(len(item.content), "archive")
            except ConfigError as error:
                return self.problem(item.mark, str(error))
            self.read(
                Piece(
                    item.content,
                    declared=item.type,
                    name=kinds.safe_name(item.name),
                    headers=item.headers,
                    launch_index=piece.launch_index if item.launch_index is None else item.launch_index,
                    default=Kind.CLOUD_CONFIG,
                    depth=piece.depth + 1,
                    chain=piece.chain,
                )
            )
        return None

    def include(self, piece: Piece, *, once: bool) -> None:
        from cloudboot.userdata import include

        source = self.source_of(piece)
        if piece.depth >= DEPTH_LIMIT:
            return self.problem_once(TOO_DEEP, Mark(source))
        for entry in include.entries(self.text(piece), once=once):
            place = Mark(source, entry.line, 1)
            self.volatile = self.volatile or not entry.once
            self.included += 1
            if self.included > INCLUDES_LIMIT:
                return self.problem_once(f"more than {INCLUDES_LIMIT} includes: the rest is not fetched", place)
            if entry.url in piece.chain:
                self.problem(place, f"include: {include.shown(entry.url)}: includes itself: left out")
                continue
            content = self.get(entry, place)
            if content is not None:
                self.read(
                    Piece(
                        content,
                        source=include.shown(entry.url),
                        launch_index=piece.launch_index,
                        whole=True,
                        depth=piece.depth + 1,
                        chain=(*piece.chain, entry.url),
                    )
                )
        return None

    def get(self, entry: Entry, place: Mark) -> bytes | None:
        """Return what an include names; None, and why, if it cannot be had."""
        from cloudboot.userdata import include

        shown = include.shown(entry.url)
        try:
            path = include.path_of(entry.url)
        except ConfigError as error:
            self.problem(place, f"include: {error}")
            return None
        if self.services is None:
            kind = kinds.INCLUDE_ONCE if entry.once else kinds.INCLUDE
            self.unresolved.append(Unresolved(place, kind, shown))
            return None
        try:
            if self.failures >= FAILURES_LIMIT:
                raise ConfigError(f"not tried: {FAILURES_LIMIT} includes have failed before it")
            content = self.fetched.get(entry.url)
            if content is None:
                content = self.services.read(path) if path else self.services.fetch(entry.url, once=entry.once)
            if content is None:
                raise ConfigError("there is no such file")
            self.budget.take(len(content), "too large")
            self.fetched[entry.url] = content
        except NeedsNetwork:
            raise
        except (CloudbootError, OSError) as error:
            self.failures += 1
            told = (error.strerror if isinstance(error, OSError) else "") or str(error)
            self.problem(place, f"include: {shown}: {_why(told, entry.url, shown)}: left out")
            return None
        return content

    def template(self, piece: Piece) -> None:
        from cloudboot.userdata import template

        source = self.source_of(piece)
        text = template.without_header(self.text(piece))
        self.volatile = True
        try:
            if self.services is None:
                template.check(text)
                self.unresolved.append(Unresolved(Mark(source, kinds.first_line(piece.content), 1), kinds.TEMPLATE, ""))
                self.number += 1
                return
            rendered = template.render(text, self.services.variables(), self.budget.left)
            content = rendered.text.encode("utf-8", "replace")
            self.budget.take(len(content), "jinja")
        except template.TemplateFault as error:
            self.problem(Mark(source, error.line), str(error))
            self.number += 1
            return
        except ConfigError as error:
            self.problem(Mark(source), str(error))
            self.number += 1
            return
        for name, line in rendered.missing:
            told = f"jinja: there is no variable {name[:80]!r}: {template.MISSING}{name[:80]} stands for it"
            self.problem(Mark(source, line), told, Level.WARNING)
        kind = kinds.detect(content)
        if kind in RENDERED:
            self.add(piece, Kind(kind), content)
            return
        self.number += 1
        if content.strip():
            told = "a template can be cloud-config, a JSON patch, a script or a boothook, and is"
            said = f"{told} {kind}: not used" if kind else f"jinja: {kinds.unknown(content, '')}"
            self.problem(Mark(source, kinds.first_line(content), 1), said)

    # -- parts

    def leaf(self, piece: Piece) -> None:
        kind: str | None = piece.declared
        if piece.declared in kinds.SNIFFED_TYPES:
            kind = kinds.detect(piece.content)
            if kind is None and piece.declared == Kind.SCRIPT:
                kind = Kind.SCRIPT
            if kind is None and not piece.declared:
                kind = piece.default
        if not piece.content.strip():
            self.number += 1
        elif kind in (kinds.INCLUDE, kinds.INCLUDE_ONCE):
            self.include(piece, once=kind == kinds.INCLUDE_ONCE)
        elif kind == kinds.ARCHIVE:
            self.archive(piece)
        elif kind == kinds.TEMPLATE:
            self.template(piece)
        elif kind in kinds.KNOWN:
            self.add(piece, Kind(kind), piece.content)
        elif kind is not None and piece.declared == kind:
            self.add(piece, Kind.CUSTOM, piece.content)
        else:
            self.problem(self.begin(piece), kinds.unknown(piece.content, piece.declared))
            self.number += 1

    def add(self, piece: Piece, kind: Kind, content: bytes) -> None:
        mark = self.begin(piece)
        self.number += 1
        if kind is Kind.CLOUD_CONFIG and kinds.beginning(content).startswith("## template:"):
            told = f"declared {kind}, so its jinja is not rendered: declare it {kinds.TEMPLATE}, or nothing"
            self.problem(mark, told, Level.WARNING)
        if kind not in (Kind.CLOUD_CONFIG, Kind.JSONP, Kind.CUSTOM):
            content = _program(content, kind)
        merge = _header(piece.headers, "Merge-Type") or _header(piece.headers, "X-Merge-Type") or ""
        declared = piece.declared if kind is Kind.CUSTOM else str(kind)
        name = piece.name or f"part-{self.number:03}"
        self.parts.append(Part(kind, name, content, piece.launch_index, declared, merge, piece.headers, mark))

    # -- places

    def source_of(self, piece: Piece) -> str:
        """Return what a piece is called in messages: a URL, its file name, the number that it will have."""
        return piece.source or piece.name or f"part-{self.number + 1:03}"

    def begin(self, piece: Piece) -> Mark:
        return Mark(self.source_of(piece), kinds.first_line(piece.content), 1)

    def text(self, piece: Piece) -> str:
        text, problem = text_of(piece.content, Mark(self.source_of(piece)))
        if problem is not None:
            self.problem(*problem)
        return text

    def from_utf16(self, piece: Piece) -> Piece:
        place = Mark(self.source_of(piece), 1, 1)
        text, problem = text_of(piece.content, place)
        if problem is None:
            told = "UTF-16: read as such, but other agents will not: save it as UTF-8"
            problem = Problem(place, told, Level.WARNING)
        self.problem(*problem)
        return piece._replace(content=text.encode("utf-8", "replace"))

    def problem(self, mark: Mark, text: str, level: Level = Level.ERROR) -> None:
        self.said += 1
        if self.said <= PROBLEMS_LIMIT:
            self.problems.append(Problem(mark, text, level))

    def problem_once(self, text: str, mark: Mark | None = None) -> None:
        if text not in self.once:
            self.once.add(text)
            self.problem(mark or Mark(self.source), text)


def _undeclared(piece: Piece) -> bool:
    """Tell whether nothing is known of a piece's type but what its content says."""
    declared = piece.declared
    return declared in kinds.SNIFFED_TYPES or declared in kinds.GZIP_TYPES or declared == "application/octet-stream"


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value.strip() for key, value in headers.items() if key.lower() == name.lower()), None)


def _program(content: bytes, kind: Kind) -> bytes:
    """Return a program as it is to be stored: lines end as its first one ought to, nothing stands before it."""
    content = content.lstrip(kinds.BLANK)
    if content.split(b"\n", 1)[0].endswith(b"\r"):
        content = content.replace(b"\r\n", b"\n")
    marker = b"#cloud-boothook"
    if kind is Kind.BOOTHOOK and content[: len(marker)].lower() == marker:
        content = content[len(marker) :].lstrip()
    return content


def _why(told: str, url: str, shown: str) -> str:
    """Return an error without the URL, which may hold a password, and which is said already."""
    words = [word for word in told.replace(url, "").replace(shown, "").split() if word not in (":", "GET", "GET:")]
    return " ".join(words).strip(" :") or "cannot be had"
