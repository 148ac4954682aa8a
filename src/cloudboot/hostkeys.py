"""sshd's host keys: make new ones, put given ones in place, keep each private key and its .pub a pair.

New keys are made in a private directory beside the old ones and only then put over them, each file whole and by one
rename: whenever the machine dies, there is a full set of keys that sshd can use. What dies between a private key and
its .pub is mended by the next run, since the private key holds the public one.
"""

from __future__ import annotations

import re

from cloudboot.actions import MakeDir, Remove, WriteFile
from cloudboot.errors import CommandError, ConfigError
from cloudboot.sshd import FOLDER
from cloudboot.sshkeys import Key, parse
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudboot.host import Host

TYPES = ("ecdsa", "ed25519", "rsa")  # sshd's default set; rsa last, which takes up to a second
DRAFT = f"{FOLDER}/.cloudboot-hostkeys"  # on the same disk as the keys; of no meaning to anybody but us
FIPS = "/proc/sys/crypto/fips_enabled"
OLD = r"ssh_host_.*key.*"
PRIVATE = r"(?s)-----BEGIN ([A-Z]+ )*PRIVATE KEY-----\n.+\n-----END ([A-Z]+ )*PRIVATE KEY-----\n"
MAGIC = b"openssh-key-v1\0"


class Given(NamedTuple):
    """A host key that the owner gave."""

    private: str
    public: str
    certificate: str | None = None


def private_path(kind: str) -> str:
    """Return where sshd looks for the private key of a type (`rsa`, `ecdsa`, `ed25519`)."""
    return f"{FOLDER}/ssh_host_{kind}_key"


def generate(host: Host, *, replace: bool, types: Sequence[str] = TYPES) -> None:
    """Make host keys: with `replace` all of them anew (another machine), else those that are missing.

    With `replace`, keys of other types and certificates are removed, once new ones stand. A tree without ssh stays as
    it is.
    Raises CommandError if one could not be made (the others are in place), ConfigError if ssh-keygen is missing.
    """
    if host.which("ssh-keygen") is None and host.which("sshd") is None:
        host.log.info("host keys: no ssh in this tree: none made")
        return
    host.keep(Remove(DRAFT))
    if not replace:
        mend(host)
    usable = [kind for kind in types if kind != "ed25519" or (host.text(FIPS) or "").strip() != "1"]
    wanted = [kind for kind in usable if replace or not host.exists(private_path(kind))]
    if not wanted:
        return
    if host.which("ssh-keygen") is None:
        raise ConfigError("ssh-keygen: not found: install openssh-client")
    host.keep(MakeDir(DRAFT, 0o700))
    failed: CommandError | None = None
    for kind in sorted(wanted, key=lambda kind: kind == "rsa"):
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment(host), "-f", f"{DRAFT}/{kind}"]
        try:
            host.run(argv)
        except CommandError as error:
            failed = error
    made = []
    for kind in wanted:
        private, public = host.read(f"{DRAFT}/{kind}"), host.read(f"{DRAFT}/{kind}.pub")
        if private and public:
            _put(host, kind, private.decode(), public.decode())
            made.append(kind)
    host.keep(Remove(DRAFT))
    if replace and made:
        _remove_others(host, dict.fromkeys(made, False))
    if failed is not None:
        raise failed


def install(host: Host, given: Mapping[str, Given], *, replace: bool, remove_others: bool) -> None:
    """Put the owner's host keys in place: with `replace` over what is there, else only where none is.

    `remove_others`: the other types' keys go once these stand.
    """
    host.keep(Remove(DRAFT))
    for kind, key in given.items():
        if replace or not host.exists(private_path(kind)):
            _put(host, kind, key.private, key.public)
            if key.certificate:
                host.write(certificate_path(kind), key.certificate)
    if replace and remove_others:
        _remove_others(host, {kind: bool(key.certificate) for kind, key in given.items()})


def read_public(host: Host, kind: str, private: str) -> Key | None:
    """Return the public key of a private one as ssh-keygen reads it; None if sshd could not use the private key.

    That is damaged, or locked with a passphrase. One that is in place already is known to be good.
    """
    if host.text(private_path(kind)) == private:
        return public_half(private) or parse(host.text(f"{private_path(kind)}.pub") or "")
    host.keep(Remove(DRAFT))
    host.keep(MakeDir(DRAFT, 0o700))
    host.keep(WriteFile(f"{DRAFT}/given", private.encode(), 0o600))
    answer = host.ask(["ssh-keygen", "-y", "-P", "", "-f", f"{DRAFT}/given"])
    host.keep(Remove(DRAFT))
    if answer.status == 127:  # no tool to judge with: an image tree without root
        return public_half(private)
    return parse(answer.output.strip().splitlines()[-1]) if answer.ok and answer.output.strip() else None


def mend(host: Host) -> None:
    """Write the .pub of each private key that has none, or one of another key."""
    for kind in TYPES:
        private = host.text(private_path(kind))
        if not private:
            continue
        public = parse(host.text(f"{private_path(kind)}.pub") or "")
        held = public_half(private)
        if public is None or (held is not None and held.blob != public.blob):
            if held is None:  # PEM, of old images: only ssh-keygen reads it
                answer = host.ask(["ssh-keygen", "-y", "-P", "", "-f", private_path(kind)])
                held = parse(answer.output) if answer.ok else None
            if held is not None:
                host.write(f"{private_path(kind)}.pub", f"{held._replace(comment=comment(host)).line}\n")


def public_half(private: str) -> Key | None:
    """Return the public key that an OpenSSH private key holds in clear; None for other formats.

    Format: openssh-key-v1 (PROTOCOL.key in OpenSSH's source): magic, three strings, a count, the public key.
    """
    import binascii

    body = "".join(line for line in private.splitlines() if not line.startswith("-----"))
    if "BEGIN OPENSSH PRIVATE KEY" not in private:
        return None
    try:
        raw = binascii.a2b_base64(body)
    except binascii.Error:
        return None
    if not raw.startswith(MAGIC):
        return None
    at = len(MAGIC)
    for _ in range(3):  # cipher, KDF, its options
        at += 4 + int.from_bytes(raw[at : at + 4], "big")
    at += 4  # number of keys
    blob = raw[at + 4 : at + 4 + int.from_bytes(raw[at : at + 4], "big")]
    kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii", "replace")
    return parse(f"{kind} {binascii.b2a_base64(blob, newline=False).decode()}")


def certificate_path(kind: str) -> str:
    """Return where the certificate of a host key stands."""
    return f"{private_path(kind)}-cert.pub"


def public_keys(host: Host) -> list[Key]:
    """Return the public host keys, in the order of their files' names."""
    names = [name for name in host.listdir(FOLDER) if re.fullmatch(r"ssh_host_[a-z0-9_]+_key\.pub", name)]
    found = [parse(host.text(f"{FOLDER}/{name}") or "") for name in names]
    return [key for key in found if key is not None]


def comment(host: Host) -> str:
    """Return the comment of new host keys, as ssh-keygen would write it on that machine."""
    name = (host.text("/etc/hostname") or "").strip()
    return f"root@{name if re.fullmatch(r'[A-Za-z0-9.-]+', name) else 'localhost'}"


def _put(host: Host, kind: str, private: str, public: str) -> None:
    host.write(private_path(kind), private, mode=0o600)
    host.write(f"{private_path(kind)}.pub", public)


def _remove_others(host: Host, keep: Mapping[str, bool]) -> None:
    """Remove keys of other types, and certificates but those of types whose value is true."""
    names = {f"ssh_host_{kind}_key{end}" for kind in keep for end in ("", ".pub")}
    names |= {f"ssh_host_{kind}_key-cert.pub" for kind, certified in keep.items() if certified}
    for name in host.listdir(FOLDER):
        if re.fullmatch(OLD, name) and name not in names:
            host.remove(f"{FOLDER}/{name}")
