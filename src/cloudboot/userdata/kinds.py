"""What a piece of user data is: by its MIME type, by how it begins; and what it was probably meant to be.

As cloud-init 26.2 decides it: white space before it and capitals do not matter, the longest beginning wins, and only
what is declared as plain text (or as nothing) is looked at.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a part is, by the MIME type that cloud-init gives it."""

    CLOUD_CONFIG = "text/cloud-config"
    JSONP = "text/cloud-config-jsonp"
    SCRIPT = "text/x-shellscript"
    PER_BOOT = "text/x-shellscript-per-boot"
    PER_INSTANCE = "text/x-shellscript-per-instance"
    PER_ONCE = "text/x-shellscript-per-once"
    BOOTHOOK = "text/cloud-boothook"
    PART_HANDLER = "text/part-handler"
    CUSTOM = "custom"  # of a type that only a part handler knows


# What becomes other parts.
ARCHIVE = "text/cloud-config-archive"
INCLUDE = "text/x-include-url"
INCLUDE_ONCE = "text/x-include-once-url"
TEMPLATE = "text/jinja2"

STARTS = (  # the longest match wins, so the longer ones come first
    ("#cloud-config-archive", ARCHIVE),
    ("#cloud-config-jsonp", Kind.JSONP),
    ("## template: jinja", TEMPLATE),
    ("#cloud-boothook", Kind.BOOTHOOK),
    ("#include-once", INCLUDE_ONCE),
    ("#part-handler", Kind.PART_HANDLER),
    ("#cloud-config", Kind.CLOUD_CONFIG),
    ("#upstart-job", "text/upstart-job"),
    ("#include", INCLUDE),
    ("#!", Kind.SCRIPT),
)
KNOWN = frozenset(Kind) - {Kind.CUSTOM} | {ARCHIVE, INCLUDE, INCLUDE_ONCE, TEMPLATE}
SNIFFED_TYPES = ("", "text/plain", "text/x-not-multipart", "text/x-shellscript")
GZIP_TYPES = (
    "application/gzip",
    "application/gzip-compressed",
    "application/gzipped",
    "application/x-compress",
    "application/x-compressed",
    "application/x-gunzip",
    "application/x-gzip",
    "application/x-gzip-compressed",
)
# Near misses of headers, in either case.
CLOUD_CONFIG = r"(?i)#*\s*cloud[\s_-]*config"
JINJA = r"(?i)#+\s*template\s*:\s*jinja"
BLANK = b"\xef\xbb\xbf \t\r\n"  # what may stand before the first line, with the byte order mark
# `#cloud-`, `#!/`, gzip, `MIME-Version`, `## template`, `#include` in base64, in lower case.
BASE64_STARTS = ("i2nsb3vkl", "iyev", "h4si", "tulnrs1wzxjzaw9u", "iymgdgvtcgxhd", "i2luy2x1z")


def detect(content: bytes) -> str | None:
    """Return the type that a text has by its beginning; None if it begins like nothing known."""
    start = beginning(content)
    return next((kind for prefix, kind in STARTS if start.startswith(prefix)), None)


def beginning(content: bytes) -> str:
    """Return how a content begins, without white space before it, in lower case; at most 64 characters."""
    return content.lstrip(BLANK)[:64].decode("utf-8", "replace").lower()


def first_line(content: bytes) -> int:
    """Return the number, from 1, of the first line that is not blank."""
    return content[: len(content) - len(content.lstrip(BLANK))].count(b"\n") + 1


def is_mime(content: bytes) -> bool:
    """Tell whether a text is a MIME message. A script that writes one, or a comment, is none."""
    return b"mime-version:" in content[:4096].lower() and not content[:4096].lstrip(BLANK).startswith(b"#")


def safe_name(name: str) -> str:
    """Return a file's name as it may stand in our folders; empty if nothing is left of it."""
    allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.()-"
    return "".join(char for char in name[:1000].replace("/", "_") if char in allowed).lstrip(".")[:200]


def unknown(content: bytes, declared: str) -> str:
    """Say what is wrong with a part of no known type, and what it was probably meant to be.

    Only what cannot be a secret is repeated of it: words of a header, a comment, a key, a command.
    """
    import re

    lines = content.lstrip(BLANK)[:4096].split(b"\n")
    first = lines[0][:60].decode("utf-8", "replace").strip()
    squeezed = "".join(first.lower().split())
    if header := re.match(CLOUD_CONFIG, first):
        return (
            f"begins with {header[0]!r}, which is not the header '#cloud-config' (no blank, one '#', a '-'): not used"
        )
    if header := re.match(JINJA, first):
        return f"begins with {header[0]!r}: the header must be exactly '## template: jinja': not used"
    if squeezed.startswith("content-type:multipart/"):
        return "begins like MIME multipart, without its line 'MIME-Version: 1.0': not used"
    if squeezed.startswith(BASE64_STARTS):
        return f"begins with {first[:12]!r}, which is base64 of a known format: give it decoded: not used"
    begins = f"begins with {first[:40]!r}: " if first.startswith("#") else ""
    if any(line.startswith(b"#!") for line in lines[1:10]):
        return f"{begins}the '#!' of a script must be its first line: not used"
    if any(line.lower().startswith(b"#cloud-config") for line in lines[1:10]):
        return f"{begins}'#cloud-config' must be the first line: not used"
    if squeezed.startswith("#upstart-job"):
        return "of unknown type 'text/upstart-job': there is no upstart: not used"
    if declared not in SNIFFED_TYPES:
        return f"of unknown type {declared[:60]!r}: not used"
    if squeezed.startswith(("set-e", "apt", "echo", "cd/", "sudo", "yum", "exportpath")):
        word = f"{first.split()[0][:20]} …"
        return f"begins with {word!r}: a script must begin with '#!', as in '#!/bin/sh': not used"
    if ":" in first and not first.startswith("#"):
        key = f"{first.partition(':')[0]}: …"
        return f"begins with {key!r}: cloud-config must begin with the line '#cloud-config': not used"
    return f"{begins}no known format ('#cloud-config', '#!', MIME multipart, gzip): not used"
