"""Passwords: what /etc/shadow says, and the tools that change it. Secrets go to a tool's standard input only."""

from __future__ import annotations

import os
import re

from cloudboot.errors import ConfigError
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host
    from cloudboot.problem import Pointer

SHADOW = "/etc/shadow"
# crypt(5): MD5, bcrypt, SHA-2, scrypt and yescrypt.
HASH = r"\$(1|2[abxy]?|5|6|7|y|gy)(\$[^$:\n]+){2,}"
# What may stand in /etc/shadow: locked or not, nothing, a DES hash, or any `$id$…`.
FIELD = r"[!*]*([./0-9A-Za-z]{13}|\$[a-z0-9-]+[$,][^:\s]+)?"
RANDOM = ("R", "RANDOM")
LOWER, UPPER, DIGITS, MARKS = "abcdefghijkmnopqrstuvwxyz", "ABCDEFGHJKLMNPQRSTUVWXYZ", "23456789", "#%+,-.=@_^~"
RANDOM_LENGTH = 20


class Wish(NamedTuple):
    """A password that an account is to have. kind: `text`, `hash` or `random`."""

    name: str
    kind: str
    secret: str
    pointer: Pointer


def field(host: Host, name: str) -> str | None:
    """Return the password field of an account; None if it has none. A leading `!` locks it."""
    line = _line(host, name)
    return line[1] if line else None


def chosen(config: dict[str, Any], default: str | None) -> list[Wish]:
    """Return the passwords that the configuration asks for; `password` counts only if `chpasswd` names nobody."""
    part = config.get("chpasswd") or {}
    found = [
        Wish(
            user["name"],
            "random" if user.get("type") == "RANDOM" else user.get("type", "hash"),
            user.get("password", ""),
            ("chpasswd", "users", index),
        )
        for index, user in enumerate(part.get("users") or ())
    ]
    lines = part.get("list") or ()
    for line in lines.splitlines() if isinstance(lines, str) else lines:
        name, colon, secret = line.strip().partition(":")
        if colon:
            found.append(_guess(name.strip(), secret, ("chpasswd", "list")))
    if not found and config.get("password") and default is not None:
        found.append(_guess(default, config["password"], ("password",)))
    return found


def _guess(name: str, secret: str, pointer: Pointer) -> Wish:
    if secret in RANDOM:
        return Wish(name, "random", "", pointer)
    return Wish(name, "hash" if is_hash(secret) else "text", secret, pointer)


def is_hash(text: str) -> bool:
    """Tell whether a text looks like a hashed password (yescrypt, which is Debian's own, counts too)."""
    return re.fullmatch(HASH, text) is not None


def check_field(text: str) -> None:
    """Raise ConfigError if a text cannot be a hash: nobody could log in with what it was meant to be."""
    if not re.fullmatch(FIELD, text):
        raise ConfigError("the hashed password is not a hash: make one with `mkpasswd` (or give it as plain text)")


def set_field(host: Host, name: str, wanted: str) -> bool:
    """Make the password field be this one; tell whether that changed it. Raises ConfigError, CommandError."""
    check_field(wanted)
    if field(host, name) == wanted:
        return False
    if wanted:
        return host.run(["chpasswd", "-e"], stdin=f"{name}:{wanted}\n".encode())
    return host.run(["passwd", "-d", name])


def set_plain(host: Host, name: str, password: str) -> bool:
    """Make an account accept this password; tell whether it had to be set. Raises ConfigError, CommandError."""
    if not password or re.search(r"[\n\r\0]", password):
        raise ConfigError("the password is empty or holds a line break")
    current = field(host, name)
    if current is not None and accepts(password, current.lstrip("!")):
        return False
    return host.run(["chpasswd"], stdin=f"{name}:{password}\n".encode())


def lock(host: Host, name: str) -> bool:
    """Lock the password of an account unless it is locked (`!` or `*`)."""
    current = field(host, name)
    if current is not None and current.startswith(("!", "*")):
        return False
    return host.run(["usermod", "--lock", name])


def unlock(host: Host, name: str) -> bool:
    """Unlock the password of an account that has one."""
    current = field(host, name)
    if current is None or not current.startswith("!") or not current.lstrip("!*"):
        return False
    return host.run(["usermod", "--unlock", name])


def expire(host: Host, name: str) -> bool:
    """Make the next login ask for another password."""
    line = _line(host, name)
    if line and line[2] == "0":
        return False
    return host.run(["passwd", "--expire", name])


def accepts(password: str, hashed: str) -> bool:
    """Tell whether a hash is that of a password, by the C library's own crypt (Python has none since 3.13)."""
    if not hashed.startswith("$"):
        return False
    import ctypes

    try:
        library = ctypes.CDLL("libcrypt.so.1")
        library.crypt.restype = ctypes.c_char_p
        made = library.crypt(password.encode(), hashed.encode())
    except (OSError, AttributeError):
        return False  # without that library the password is set again
    return bool(made == hashed.encode())


def random_password(draw: Callable[[int], bytes] = os.urandom) -> str:
    """Return 20 characters, at least one of each class, none that people confuse. `draw` gives random bytes."""
    alphabet = LOWER + UPPER + DIGITS + MARKS
    while True:
        text = "".join(_pick(alphabet, draw) for _ in range(RANDOM_LENGTH))
        if all(set(text) & set(kind) for kind in (LOWER, UPPER, DIGITS, MARKS)):
            return text


def _pick(alphabet: str, draw: Callable[[int], bytes]) -> str:
    limit = 256 - 256 % len(alphabet)  # above it the first characters would come more often
    while (byte := draw(1)[0]) >= limit:
        pass
    return alphabet[byte % len(alphabet)]


def _line(host: Host, name: str) -> list[str] | None:
    for line in (host.read(SHADOW) or b"").decode("utf-8", "replace").splitlines():
        part = line.split(":")
        if part[0] == name and len(part) >= 3:
            return part
    return None
