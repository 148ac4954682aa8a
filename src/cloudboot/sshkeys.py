"""Public keys for logins: parse, merge into authorized_keys, and put there without being led elsewhere by a user."""

from __future__ import annotations

import os
import re
import sys

from cloudboot import sshd
from cloudboot.errors import ConfigError
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cloudboot.host import Host
    from cloudboot.problem import Pointer
    from cloudboot.root import User

# What sshd(8) accepts in authorized_keys; the last three are short names of older versions.
SHORT = {"rsa": ("ssh-rsa",), "ed25519": ("ssh-ed25519",), "ecdsa": ("ecdsa-sha2-nistp",)}
TYPES = frozenset(
    """ssh-rsa ssh-rsa-cert-v01@openssh.com ssh-ed25519 ssh-ed25519-cert-v01@openssh.com
    ecdsa-sha2-nistp256 ecdsa-sha2-nistp384 ecdsa-sha2-nistp521 ecdsa-sha2-nistp256-cert-v01@openssh.com
    ecdsa-sha2-nistp384-cert-v01@openssh.com ecdsa-sha2-nistp521-cert-v01@openssh.com
    sk-ssh-ed25519@openssh.com sk-ssh-ed25519-cert-v01@openssh.com sk-ecdsa-sha2-nistp256@openssh.com
    sk-ecdsa-sha2-nistp256-cert-v01@openssh.com ssh-xmss@openssh.com ssh-xmss-cert-v01@openssh.com""".split()
).union(SHORT)
REFUSAL = (
    'no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command="echo \'Please login as the user \\"$USER\\" '
    'rather than the user \\"$DISABLE_USER\\".\';echo;sleep 10;exit 142"'
)
OUR_OPTIONS = REFUSAL.partition("$USER")[0]
DEFAULT_FILE = ".ssh/authorized_keys"
LIMIT = 1 << 20  # bytes of an authorized_keys that we read


class Key(NamedTuple):
    """A public key. options: what stands before it in authorized_keys. blob: base64 without blanks."""

    type: str
    blob: str
    comment: str = ""
    options: str = ""

    @property
    def line(self) -> str:
        return " ".join(word for word in (self.options, self.type, self.blob, self.comment) if word)

    @property
    def raw(self) -> bytes:
        """The key as sshd hashes it."""
        import binascii

        return binascii.a2b_base64(self.blob)


def parse(line: str) -> Key | None:
    """Read one line of authorized_keys or of a .pub file; None if it holds no key that sshd would take."""
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    options = ""
    if text.split(None, 1)[0] not in TYPES:
        options, text = _options(text)
    words = text.split(None, 2)
    if len(words) < 2 or words[0] not in TYPES:
        return None
    real = _type_of(words[1])
    if real is None or not (real == words[0] or real.startswith(SHORT.get(words[0], ("\n",)))):
        return None
    return Key(real, words[1], words[2].strip() if len(words) > 2 else "", options)


def texts(given: Any) -> dict[Any, str]:
    """Return the texts of a list, a mapping or a single text, by where each stands in it."""
    if isinstance(given, dict):
        return given
    return dict(enumerate([given] if isinstance(given, str) else given or ()))


def unusable(given: Any, pointer: Pointer, label: str) -> Iterator[tuple[Pointer, str]]:
    """Yield where a line stands that is no key, and what to say of it. `given` stands at `pointer`."""
    for step, text in texts(given).items():
        for line in parse_all([text])[1]:
            yield (*pointer, step), f"{label}: not a key that sshd takes, left out: {line[:60]!r}"


def parse_all(texts: Iterable[str]) -> tuple[list[Key], list[str]]:
    """Read keys, one or more lines in each text; return those that can be used and the lines that cannot.

    Of a private key that was given by mistake only the first line is returned: the lines that cannot be used are told.
    """
    keys, bad = [], []
    for text in texts:
        private = False
        for line in text.splitlines():
            if private:
                private = not line.lstrip().startswith("-----END")
                continue
            private = line.lstrip().startswith("-----BEGIN")
            key = parse(line)
            if key is not None:
                keys.append(key)
            elif line.strip() and not line.strip().startswith("#"):
                bad.append(line.strip())
    return list(dict.fromkeys(keys)), bad


def merge(text: str, keys: Sequence[Key]) -> str:
    """Add keys to an authorized_keys: every line of others stays, a key that is there is not added again.

    A line with one of our keys gets our options; it keeps its own where we give none, except a refusal that we wrote.
    The same key with several options (`from="…"` for each place) is as many lines.
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    known: dict[str, dict[int, str]] = {}  # blob -> the options of each of its lines
    for at, line in enumerate(lines):
        there = parse(line)
        if there is not None:
            known.setdefault(there.blob, {})[at] = there.options
    for key in keys:
        places = known.setdefault(key.blob, {})
        ours = {each.options for each in keys if each.blob == key.blob}
        differ = [at for at, options in places.items() if options not in ours]
        if len(ours) == 1:
            new = not places
            taken = [at for at in differ if key.options or places[at].startswith(OUR_OPTIONS)]
        else:
            new = not differ and key.options not in places.values()
            taken = differ[:1] if key.options not in places.values() else []
        if new:
            taken = [len(lines)]
            lines.append("")
        for at in taken:
            lines[at], places[at] = f"{key.line}\n", key.options
    return "".join(lines)


def refusal(options: str, user: str, refused: str) -> str:
    """Return the options that let a key only say whom to log in as."""
    return options.replace("$DISABLE_USER", refused).replace("$USER", user)


def install(host: Host, user: User, keys: Sequence[Key]) -> bool:
    """Put keys into the file that sshd reads for a user; tell whether that changed anything.

    Directories get 0700, the file 0600, both the user's own (sshd's StrictModes). Below the home no symlink is
    followed. Raises ConfigError if the home is missing or something there is not what it must be, OSError.
    """
    if not keys:
        return False
    home = host.look(user.home)
    if home is None or home.kind != "dir":
        raise ConfigError(f"{user.name}: its home {user.home} is not there: its ssh keys are left out")
    path = authorized_keys_file(host, user)
    owner = f"{user.uid}:{user.gid}"
    beneath = user.home if path.startswith(user.home.rstrip("/") + "/") else None
    if beneath is not None:
        before = read_beneath(host, path, user)
        folder = beneath.rstrip("/")
        for part in os.path.relpath(os.path.dirname(path), beneath).split("/"):
            if part == ".":
                break
            folder = f"{folder}/{part}"
            entry = host.look(folder, follow=False)
            unsafe = entry is None or entry.mode & 0o022 != 0 or entry.uid not in (0, user.uid)
            host.mkdir(folder, mode=0o700, owner=owner, beneath=beneath, keep=not unsafe)
    else:
        before = host.read(path) or b""
    if home.mode & 0o022 or home.uid not in (0, user.uid):
        host.log.warning(f"{user.home}: others may write there: sshd (StrictModes) may refuse {user.name}'s keys")
    after = merge(before.decode("utf-8", "surrogateescape"), keys).encode("utf-8", "surrogateescape")
    return host.write(path, after, mode=0o600, owner=owner, beneath=beneath)


def authorized_keys_file(host: Host, user: User) -> str:
    """Return the file of a user's keys: the first of sshd's AuthorizedKeysFile that is the user's alone.

    `%h`, `%u`, `%U` and `%%` are expanded, relative paths are below the home (sshd_config(5)).
    """
    names = sshd.value(host, "AuthorizedKeysFile") or [DEFAULT_FILE]
    marks = {"%%": "%", "%h": user.home, "%u": user.name, "%U": str(user.uid)}
    for name in names if names != ["none"] else []:
        path = re.sub(r"%[%huU]", lambda match: marks[match.group()], name)
        full = os.path.normpath(path if path.startswith("/") else f"{user.home}/{path}")
        if full.startswith(user.home.rstrip("/") + "/") or (path.startswith("/") and re.search("%[huU]", name)):
            return full
    told = f"sshd reads {user.name}'s keys from no file of its own (AuthorizedKeysFile {' '.join(names)})"
    host.log.warning(f"{told}: they are put into ~/{DEFAULT_FILE}")
    return f"{user.home}/{DEFAULT_FILE}"


def read_beneath(host: Host, path: str, user: User) -> bytes:
    """Read a file in a user's home as root must: no symlink below the home, a plain file, the user's or root's own.

    Returns nothing for a file that is not there. Raises ConfigError for one that cannot be trusted.
    """
    try:
        found, content = host.root.read_beneath(path, user.home, LIMIT)
    except FileNotFoundError:
        return b""
    except OSError as error:
        told = f"{path}: a symlink or no directory on the way ({error.strerror})"
        raise ConfigError(f"{told}: {user.name}'s ssh keys are left out") from None
    owners = (0, user.uid) if host.root.privileged else (found.uid,)
    if found.kind != "file" or found.links != 1 or found.uid not in owners:
        raise ConfigError(f"{path}: is not a plain file of {user.name}'s own: its ssh keys are left out")
    if found.size > LIMIT:
        raise ConfigError(f"{path}: larger than {LIMIT} bytes: its ssh keys are left out")
    return content


def fingerprint(key: Key) -> str:
    """Return what `ssh-keygen -lf` says of a key: bits, SHA256 hash, comment, kind."""
    import binascii

    hashed = binascii.b2a_base64(digest(key.raw), newline=False).decode().rstrip("=")
    bits, kind = _size(key)
    return f"{bits} SHA256:{hashed} {key.comment or 'no comment'} ({kind})"


def digest(raw: bytes, kind: str = "sha256") -> bytes:
    """Return the hash of a key by the name of its kind, as hashlib knows it.

    For SHA-256 by Python's own code, where the interpreter has that built in: hashlib loads all of OpenSSL (5 ms).
    """
    name = "_sha2" if "_sha2" in sys.builtin_module_names else "_sha256"  # from Python 3.12, before
    if kind == "sha256" and name in sys.builtin_module_names:
        made: bytes = __import__(name).sha256(raw).digest()
        return made
    import hashlib

    return hashlib.new(kind, raw, usedforsecurity=False).digest()


def _size(key: Key) -> tuple[int, str]:
    if key.type == "ssh-rsa":
        modulus = _strings(key.raw)[2]
        return int.from_bytes(modulus, "big").bit_length(), "RSA"
    if key.type.startswith("ecdsa-sha2-nistp"):
        return int(key.type[len("ecdsa-sha2-nistp") :][:3]), "ECDSA"
    return 256, "ED25519" if key.type == "ssh-ed25519" else key.type.upper()


def _type_of(blob: str) -> str | None:
    """Return the type that a key's base64 names in its first string (RFC 4253, 6.6); None if it is damaged."""
    import binascii

    try:
        strings = _strings(binascii.a2b_base64(blob, strict_mode=True))
    except (binascii.Error, ValueError):
        return None
    if len(strings) < (3 if strings[:1] == [b"ssh-rsa"] else 2):
        return None
    return strings[0].decode("ascii", "replace")


def _strings(raw: bytes) -> list[bytes]:
    """Split a key into its length-prefixed strings. Raises ValueError if one is cut short."""
    found: list[bytes] = []
    at = 0
    while at + 4 <= len(raw):
        length = int.from_bytes(raw[at : at + 4], "big")
        if at + 4 + length > len(raw):
            if len(found) > 1 and b"-cert-" in found[0]:
                break  # certificates hold plain numbers after their key
            raise ValueError("cut short")
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _options(text: str) -> tuple[str, str]:
    """Split the options off a line: up to the first blank outside of double quotes."""
    quoted = False
    for at, char in enumerate(text):
        if char == '"' and text[at - 1 : at] != "\\":
            quoted = not quoted
        elif char.isspace() and not quoted:
            return text[:at], text[at:].strip()
    return text, ""
