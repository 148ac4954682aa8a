"""`#include`: which URLs and files a text names, one on a line."""

from __future__ import annotations

from cloudboot.errors import ConfigError
from cloudboot.typed import NamedTuple

LINE_LIMIT = 2048  # characters
NOT_A_URL = "is neither a URL (https://, http://, file://) nor a path: left out"


class Entry(NamedTuple):
    """A URL or path, whether it is to be fetched once only, and its line from 1."""

    url: str
    once: bool
    line: int


def entries(text: str, *, once: bool = False) -> list[Entry]:
    """Read the list. `#include` and `#include-once` hold for the lines after them, and may have a URL on their own.

    `once`: what holds before the first of them.
    """
    found = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        lower = line.lower()
        if lower.startswith("#include-once"):
            once, line = True, line[len("#include-once") :].strip()
        elif lower.startswith("#include"):
            once, line = False, line[len("#include") :].strip()
        if line and not line.startswith("#"):
            found.append(Entry(line, once, number))
    return found


def path_of(url: str) -> str | None:
    """Return the file that a path or a file:// URL names; None for http and https.

    Raises ConfigError for all others. What stands there is not repeated: it may be no URL, but a secret.
    """
    scheme, colon, rest = url.partition("://")
    scheme = scheme.lower()
    if len(url) > LINE_LIMIT or any(not char.isprintable() for char in url):
        raise ConfigError(NOT_A_URL)
    if url.startswith("/"):
        return url
    if colon and scheme == "file":
        path = rest.removeprefix("localhost")
        if not path.startswith("/"):
            raise ConfigError("names a file on another machine, or not by its full path (file:///…): left out")
        return path
    if colon and scheme in ("http", "https"):
        if not rest.partition("/")[0].rpartition("@")[2]:
            raise ConfigError("is a URL without a host: left out")
        return None
    if colon and scheme in ("ftp", "ftps", "sftp", "s3", "tftp"):
        raise ConfigError(f"{scheme}:// is not supported: offer it at https://: left out")
    raise ConfigError(NOT_A_URL)


def shown(url: str) -> str:
    """Return a URL as messages may show it: without account and query, which hold passwords and signatures."""
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url[:200]
    place, slash, path = rest.partition("/")
    path = path.partition("?")[0].partition("#")[0]
    return f"{scheme}{colon}{place.partition('?')[0].rpartition('@')[2]}{slash}{path}"[:200]
