"""The names in the metadata tree: what a listing says, and which of it may be asked for. Pure."""

from __future__ import annotations

from cloudboot.typed import NamedTuple

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@")

CREDENTIALS = "credentials: never requested"


class Listing(NamedTuple):
    """The children of a directory as paths below it (`ami-id`, `network/`), and what was refused, with why."""

    children: list[str]
    refused: list[str]


def parse(directory: str, body: bytes) -> Listing:
    """Read the listing of `directory` (`meta-data/public-keys/`): one name a line, `/` at the end is a directory.

    Below `public-keys/` a line is `0=my-key` and means `0/openssh-key` [EC2 instance metadata categories].
    """
    children: dict[str, None] = {}  # in order, each once
    refused: list[str] = []
    keys = directory.endswith("/public-keys/")
    for raw in body.removesuffix(b"\n").removesuffix(b"\r").split(b"\n"):
        line = raw.removesuffix(b"\r")
        try:
            name = line.decode("utf-8")
        except UnicodeDecodeError:
            refused.append(f"{directory}: refused a name that is not UTF-8: {line[:80]!r}")
            continue
        if keys and "=" in name:
            name = name.partition("=")[0] + "/openssh-key"
            problem = fault(name.partition("/")[0])
        else:
            if name == "public-keys":
                name += "/"  # some services list it without; it cannot be a value
            problem = fault(name.removesuffix("/"))
        if problem:
            refused.append(f"{directory}: refused a name that {problem}: {line[:80]!r}")
        elif secret(directory + name):
            refused.append(f"{directory}{name}: {CREDENTIALS}")
        else:
            children[name] = None
    return Listing(list(children), refused)


def fault(name: str) -> str | None:
    """Say why a name may not become a path, or None. Names come from the network and end up on our disk."""
    if not name:
        return "is empty"
    if name.startswith("."):
        return "begins with a dot"
    if "/" in name:
        return "has a slash inside"
    if not name.isprintable():
        return "is not printable"
    if len(name.encode()) > 255:
        return "is longer than 255 bytes"
    return None


def secret(path: str) -> bool:
    """Whether a path leads to credentials, at any depth."""
    return any(part in ("security-credentials", "identity-credentials") for part in path.lower().split("/"))


def quote(path: str) -> str:
    """Encode a path for the request line (RFC 3986); slashes stay."""
    if all(char in _PLAIN or char == "/" for char in path):
        return path
    return "".join(
        char if char in _PLAIN or char == "/" else "".join(f"%{byte:02X}" for byte in char.encode()) for char in path
    )
