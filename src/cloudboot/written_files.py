"""The owner's files: what `write_files` says, written at once or, with `defer: true`, in the final stage."""

from __future__ import annotations

import os
import zlib

from cloudboot.actions import ROOT, WriteFile
from cloudboot.errors import CloudbootError, NeedsNetwork
from cloudboot.problem import Level
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.checker import Schema
    from cloudboot.host import Host
    from cloudboot.module import Context

ENCODINGS = ("gz", "gzip", "gz+base64", "gzip+base64", "gz+b64", "gzip+b64", "b64", "base64", "text/plain")
DEFAULT_MODE = 0o644
# What people write without quotes and mean as octal; YAML reads a decimal number, which is a strange mode.
DECIMAL_LOOKS = (400, 440, 444, 500, 550, 555, 600, 640, 644, 660, 664, 666, 700, 750, 755, 770, 775, 777, 1777)
SOURCE_TRIES = 3
SOURCE_PAUSE = 3.0  # seconds

SCHEMA: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["path"],
        "properties": {
            "path": {"type": "string", "pattern": "^/", "x-form": "an absolute path"},
            "content": {"type": "string", "x-secret": True, "x-bytes": True},
            "source": {
                "type": "object",
                "additionalProperties": False,
                "required": ["uri"],
                "properties": {
                    "uri": {"type": "string"},
                    "headers": {"type": "object", "additionalProperties": {"type": "string", "x-secret": True}},
                },
            },
            "owner": {"type": "string", "minLength": 1},
            "permissions": {
                "anyOf": [
                    {"type": "string", "pattern": "^(0[oO])?[0-7]{1,5}$", "x-form": "'0644', in quotes"},
                    {"type": "integer", "minimum": 0, "maximum": 0o7777},
                ]
            },
            "encoding": {"type": "string", "enum": list(ENCODINGS)},
            "append": {"type": "boolean"},
            "defer": {"type": "boolean"},
        },
    },
    "examples": [[{"path": "/etc/motd", "content": "hello\n", "permissions": "0644", "owner": "root:root"}]],
}


def write(ctx: Context, *, deferred: bool) -> None:
    """Write those files of `write_files` that say `defer: true`, or those that do not.

    One that cannot be written is reported and the others are written. Raises NeedsNetwork.
    """
    for number, entry in enumerate(ctx.config["write_files"]):
        if bool(entry.get("defer")) is not deferred:
            continue
        try:
            write_entry(ctx, number, entry)
        except NeedsNetwork:
            raise
        except CloudbootError as error:
            ctx.report(f"write_files[{number}]: not written: {error}", ("write_files", number))
        except OSError as error:
            ctx.fail(f"write_files[{number}]: not written: {entry['path']}: {error.strerror}")


def write_entry(ctx: Context, number: int, entry: dict[str, Any]) -> None:
    """Write one file. Raises OSError, CloudbootError."""
    host, place = ctx.host, ("write_files", number)
    path = os.path.normpath("/" + entry["path"].lstrip("/"))
    beneath = home_above(host, path)
    hindrance = hindered(host, path, beneath)
    if hindrance:
        ctx.report(f"write_files[{number}].path: {hindrance}: not written", (*place, "path"))
        return
    owner = owner_of(ctx, number, entry)
    content = content_of(ctx, number, entry)
    if content is None:
        return
    make_parents(host, path, owner, beneath)
    if entry.get("append"):
        append(ctx, number, path, content, entry, owner, beneath)
    else:
        host.write(path, content, mode=mode_of(ctx, number, entry), owner=owner, beneath=beneath)


def hindered(host: Host, path: str, beneath: str | None) -> str:
    """Say why no file can stand at a path; empty if one can."""
    there = host.look(path, follow=beneath is None)
    if path.startswith(("/proc/", "/sys/")) or (there is not None and there.kind == "other"):
        return f"{path!r} is no file on a disk: write to it in bootcmd"
    if there is not None and there.kind == "dir":
        return f"{path!r} is a directory"
    folder = os.path.dirname(path)
    while beneath is not None and folder != beneath:
        entry = host.look(folder, follow=False)
        if entry is not None and entry.kind == "link":
            return f"{folder!r} is a symlink in a user's home: none is followed there"
        folder = os.path.dirname(folder)
    return ""


def owner_of(ctx: Context, number: int, entry: dict[str, Any]) -> str:
    """Return the owner; root, and a report, if the machine does not know the one that is asked for."""
    owner = str(entry.get("owner", ROOT))
    try:
        ctx.host.root.ids(owner)
    except KeyError as error:
        told = f"write_files[{number}].owner: {error.args[0]}: the file is root's"
        if not entry.get("defer"):
            told += ": it is written before users are made and packages installed: `defer: true` waits for them"
        ctx.report(told, ("write_files", number, "owner"))
        return ROOT
    return owner


def mode_of(ctx: Context, number: int, entry: dict[str, Any]) -> int:
    """Return the permissions. A number is taken as it is, as cloud-init does, with a word if octal was meant."""
    value = entry.get("permissions", DEFAULT_MODE)
    if isinstance(value, str):
        return int(value, 8) & 0o7777
    if value in DECIMAL_LOOKS:
        told = f"write_files[{number}].permissions: {value} is a decimal number, mode {value:04o}: write '0{value}'"
        ctx.report(told, ("write_files", number, "permissions"), Level.WARNING)
    return int(value)


def content_of(ctx: Context, number: int, entry: dict[str, Any]) -> bytes | None:
    """Return the bytes of a file: from `source`, else from `content`; None, and a report, if neither can be had."""
    if "source" in entry:
        fetched = fetch(ctx, number, entry["source"])
        if fetched is not None or "content" not in entry:
            return fetched
    # Bytes that are no UTF-8 (YAML's !!binary) come as surrogates.
    raw = str(entry.get("content", "")).encode("utf-8", "surrogateescape")
    try:
        return decode(raw, str(entry.get("encoding", "text/plain")))
    except (ValueError, EOFError, OSError, zlib.error):  # their texts hold pieces of the content
        told = f"write_files[{number}].content: is not {entry['encoding']}: not written"
        ctx.report(told, ("write_files", number, "content"))
        return None


def fetch(ctx: Context, number: int, source: dict[str, Any]) -> bytes | None:
    """Return what a source has; None, and a report, if it cannot be had. Raises NeedsNetwork."""
    uri, place = source["uri"], ("write_files", number, "source")
    if uri.startswith(("/", "file:///")):
        found = ctx.host.read(uri.removeprefix("file://"))
        if found is None:
            ctx.report(f"write_files[{number}].source: no such file: {uri!r}", place)
        return found
    if not uri.startswith(("http://", "https://")):
        ctx.report(f"write_files[{number}].source: only http, https and file are supported: {uri!r}", place)
        return None
    try:
        return ctx.fetcher.get(uri, tries=SOURCE_TRIES, pause=SOURCE_PAUSE, headers=source.get("headers")).body
    except NeedsNetwork:
        raise
    except CloudbootError as error:
        ctx.report(f"write_files[{number}].source: {error}", place)
        return None


def decode(raw: bytes, encoding: str) -> bytes:
    """Undo an encoding. Raises ValueError, EOFError, OSError or zlib.error if the bytes are not of it."""
    if encoding.endswith(("b64", "base64")):
        import binascii

        # White space is what line breaks leave; anything else that is foreign is not base64 at all.
        raw = binascii.a2b_base64(b"".join(raw.split()), strict_mode=True)
    if encoding.startswith("gz"):
        import gzip

        raw = gzip.decompress(raw)
    return raw


def home_above(host: Host, path: str) -> str | None:
    """Return the home that a path is below, if its user could plant symlinks there."""
    for user in host.root.users().values():
        home = user.home.rstrip("/")
        if user.uid and home and path.startswith(f"{home}/"):
            entry = host.look(home)
            if entry is not None and entry.uid == user.uid:
                return home
    return None


def make_parents(host: Host, path: str, owner: str, beneath: str | None) -> None:
    """Make the missing directories above a path."""
    missing = []
    folder = os.path.dirname(path)
    while host.look(folder) is None:
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        host.mkdir(folder, owner=owner, beneath=beneath)


def append(
    ctx: Context, number: int, path: str, content: bytes, entry: dict[str, Any], owner: str, beneath: str | None
) -> None:
    """Add to a file once for this instance; again only if it is no longer there.

    Mode and owner of a file that exists stay where the entry does not name them.
    """
    host, note = ctx.host, f"{ctx.commands.folder}/appended"
    known = (host.text(note) or "").splitlines()
    mark = f"{number} {zlib.crc32(content):08x} {len(content)} {path}"
    there = host.look(path, follow=False)
    linked = beneath is not None and there is not None and there.kind == "link"
    before = None if linked else host.read(path)  # a user's link may point at what only root may read
    mode = mode_of(ctx, number, entry) if "permissions" in entry or before is None else None
    who = owner if "owner" in entry or before is None else None
    if mark in known and before is not None and content in before:
        host.write(path, before, mode=mode, owner=who, beneath=beneath)
        return
    # Noted before it is done: after a crash in between, the content is missing and is added.
    host.keep(WriteFile(note, "".join(f"{line}\n" for line in dict.fromkeys([*known, mark])).encode(), 0o600))
    host.write(path, (before or b"") + content, mode=mode, owner=who, beneath=beneath)
