"""apt's keys: armour off, and whose they are, also where they are damaged or something else."""

from __future__ import annotations

import base64
import contextlib
import random

import pytest

from cloudboot.errors import CloudbootError
from cloudboot.openpgp import BEGIN, END, PUBLIC_KEY, dearmor, fingerprint, packets

# Made with `gpg --quick-gen-key … ed25519 sign never`; the fingerprint is gpg's own word.
ARMOURED = f"""{BEGIN}

mDMEawhNqRYJKwYBBAHaRw8BAQdAgtG4ThcUNe/CHhrzek06XtcoHGwEWRqpS3mn
Syf/9Bi0JUV4YW1wbGUgQXJjaGl2ZSA8YXJjaGl2ZUBleGFtcGxlLmNvbT6IkAQT
FggAOBYhBCTw/ixDJmQb6xNMDIIDytIvsvB6BQJrCE2pAhsDBQsJCAcCBhUKCQgL
AgQWAgMBAh4BAheAAAoJEIIDytIvsvB6/uIBAPJ0uehDW0ae2DBW4kTjM8Js/mgZ
3gT47n7iJFCbBBtPAPwKXPen9Zt95AesL+8NnMyvyPvRm+Mr1q384KH34CiaAg==
=9UOV
{END}
"""
FINGERPRINT = "24F0FE2C4326641BEB134C0C8203CAD22FB2F07A"
KEY = dearmor(ARMOURED)


@pytest.mark.parametrize(
    "text",
    [
        ARMOURED,
        ARMOURED.replace("\n", "\r\n"),
        f"a mail around it\n{ARMOURED}and after",
        ARMOURED.replace(f"{BEGIN}\n", f"{BEGIN}\nVersion: GnuPG v1\nComment: x\n"),
        ARMOURED.replace("=9UOV\n", ""),
        "\n".join(f"   {line}" for line in ARMOURED.splitlines()),
    ],
)
def test_a_key(text: str) -> None:
    assert dearmor(text) == KEY
    assert fingerprint(KEY) == FINGERPRINT


def packet(tag: int, body: bytes) -> bytes:
    return bytes([0xC0 | tag, len(body)]) + body


BODY = KEY[2 : 2 + KEY[1]]
OTHER = packet(PUBLIC_KEY, BODY[:-1] + bytes([BODY[-1] ^ 1]))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (dearmor(ARMOURED * 2), "more than one key"),
        (OTHER + KEY, "more than one key"),
        (KEY + packet(PUBLIC_KEY, b"\x06" + BODY[1:]), "more than one key"),
        (packet(13, b"nobody") + KEY, "more than one key"),
        (KEY + bytes([0xC0 | 13, 0xE0, 0x41, 0]) + OTHER, "a damaged key"),  # behind a length that gpg does not take
        (KEY + packet(5, BODY), "a key with something beside it"),
        (packet(PUBLIC_KEY, b"\x06" + BODY[1:]), "another version"),
        (b"", "more than one key"),
    ],
)
def test_one_key_and_nothing_else(keys: bytes, told: str) -> None:
    with pytest.raises(CloudbootError, match=told):
        fingerprint(keys)


def test_a_foreign_key_as_a_subkey_lends_no_name() -> None:
    """Its holder has not signed for that: gpgv would trust the key above it."""
    assert fingerprint(OTHER + packet(14, BODY)) == fingerprint(OTHER) != FINGERPRINT


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no PGP public key block"),
        ("deb http://example.com x main", "no PGP public key block"),
        (ARMOURED.replace(END, ""), "has no end"),
        (ARMOURED.replace("mDME", "m*ME"), "is damaged"),
        (ARMOURED.replace("mDME", "mDM"), "is damaged"),
        (f"{BEGIN}\n\n{base64.b64encode(b'nothing of the kind').decode()}\n{END}", "is damaged"),
        (f"{BEGIN}\n\n{base64.b64encode(KEY[:-9]).decode()}\n{END}", "is damaged"),
        (f"{BEGIN}\n\n{base64.b64encode(bytes([0xC0 | 13, 1, 65])).decode()}\n{END}", "holds no public key"),
    ],
)
def test_what_is_no_key_is_said(text: str, told: str) -> None:
    with pytest.raises(CloudbootError, match=told):
        dearmor(text)


def test_packets_of_both_formats() -> None:
    long = bytes([0xC0 | PUBLIC_KEY, 255]) + len(BODY).to_bytes(4, "big") + BODY
    two = bytes([0x80 | PUBLIC_KEY << 2 | 1]) + len(BODY).to_bytes(2, "big") + BODY
    assert fingerprint(packet(PUBLIC_KEY, BODY)) == fingerprint(long) == fingerprint(two) == FINGERPRINT
    padded = BODY + bytes(300 - len(BODY))
    middle = bytes([0xC0 | PUBLIC_KEY, 192 + (300 - 192 >> 8), (300 - 192) & 0xFF]) + padded
    assert list(packets(middle)) == [(PUBLIC_KEY, padded)]


def test_what_is_sent_is_a_key_or_said_to_be_none() -> None:
    chance = random.Random(7)
    for _ in range(3000):
        noise = bytearray(KEY)
        for _ in range(chance.randrange(1, 6)):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        with contextlib.suppress(CloudbootError):
            assert len(fingerprint(bytes(noise[: chance.randrange(len(noise) + 1)]))) == 40
