"""As much of OpenPGP as apt's keys need: armour off, and the fingerprint of a key. No signatures are checked here.

RFC 4880: armour in section 6.2, packets in 4.2, version 4 fingerprints in 12.2.
"""

from __future__ import annotations

from cloudboot.errors import CloudbootError
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN, END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
PUBLIC_KEY = 6  # tags of packets
PARTS = {2: "signature", PUBLIC_KEY: "key", 13: "user id", 14: "subkey", 17: "user attribute"}  # all that a key is of


def dearmor(text: str) -> bytes:
    """Return the keys in all public key blocks of a text. Raises CloudbootError if there is none that can be read."""
    import base64
    import binascii

    found = b""
    rest = text.replace("\r\n", "\n")
    while BEGIN in rest:
        block, end, rest = rest.partition(BEGIN)[2].partition(END)
        if not end:
            raise CloudbootError("a PGP public key block has no end")
        lines = [line.strip() for line in block.split("\n")]
        # Headers ("Version: …") end with an empty line; the last line that begins with = is a checksum of 24 bits.
        body = lines[lines.index("", 1) + 1 :] if any(":" in line for line in lines[:3]) and "" in lines[1:] else lines
        try:
            found += base64.b64decode("".join(line for line in body if not line.startswith("=")), validate=True)
        except (binascii.Error, ValueError):
            raise CloudbootError("a PGP public key block is damaged") from None
    if not found:
        raise CloudbootError("no PGP public key block")
    try:
        tags = [tag for tag, _ in packets(found)]
    except CloudbootError:
        raise CloudbootError("a PGP public key block is damaged") from None
    if PUBLIC_KEY not in tags:
        raise CloudbootError("a PGP public key block holds no public key")
    return found


def fingerprint(keys: bytes) -> str:
    """Return the fingerprint (version 4: 40 hexadecimal digits) of the one key that these bytes are, and nothing else.

    Only the primary key's counts: anybody can hang another's key below his own as a subkey, which is not signed by
    it. Raises CloudbootError.
    """
    import hashlib

    found = list(packets(keys))
    if [tag for tag, _ in found].count(PUBLIC_KEY) != 1 or found[0][0] != PUBLIC_KEY:
        raise CloudbootError("more than one key")
    if any(tag not in PARTS for tag, _ in found):
        raise CloudbootError("a key with something beside it")
    body = found[0][1]
    if body[:1] != b"\x04":
        raise CloudbootError("a key of another version than 4")
    digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
    return digest.hexdigest().upper()


def packets(keys: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and body of each packet. Raises CloudbootError at one that cannot be read: gpgv then reads none."""
    at = 0
    while at < len(keys):
        head = _header(keys, at)
        if head is None:
            raise CloudbootError("a damaged key")
        tag, start, at = head
        yield tag, keys[start:at]


def _header(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return tag, start and end of the packet at a place; None if it is none, or longer than what there is."""
    first = data[at]
    if not first & 0x80:
        return None
    if first & 0x40:  # new format
        tag, rest = first & 0x3F, data[at + 1 : at + 6]
        if not rest:
            return None
        if rest[0] < 192:
            size, used = rest[0], 1
        elif rest[0] < 224 and len(rest) >= 2:
            size, used = ((rest[0] - 192) << 8) + rest[1] + 192, 2
        elif rest[0] == 255 and len(rest) == 5:
            size, used = int.from_bytes(rest[1:], "big"), 5
        else:
            return None  # a part of unknown length: none of a key's
    else:
        tag, kind = (first >> 2) & 0xF, first & 3
        used = (1, 2, 4, 0)[kind]
        if not used:
            return None
        size = int.from_bytes(data[at + 1 : at + 1 + used], "big")
    start = at + 1 + used
    return (tag, start, start + size) if start + size <= len(data) else None
