"""apt's keys: armour off, and whose they are, also where they are damaged or something else."""

from __future__ import annotations

import base64
import random

import pytest

from cloudboot.errors import CloudbootError
from cloudboot.openpgp import BEGIN, END, PUBLIC_KEY, dearmor, fingerprints

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
    assert fingerprints(KEY) == [FINGERPRINT]


def test_several_blocks_are_several_keys() -> None:
    assert fingerprints(dearmor(ARMOURED * 2), (PUBLIC_KEY,)) == [FINGERPRINT] * 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no PGP public key block"),
        ("deb http://example.com x main", "no PGP public key block"),
        (ARMOURED.replace(END, ""), "has no end"),
        (ARMOURED.replace("mDME", "m*ME"), "is damaged"),
        (ARMOURED.replace("mDME", "mDM"), "is damaged"),
        (f"{BEGIN}\n\n{base64.b64encode(b'nothing of the kind').decode()}\n{END}", "holds no public key"),
    ],
)
def test_what_is_no_key_is_said(text: str, told: str) -> None:
    with pytest.raises(CloudbootError, match=told):
        dearmor(text)


def test_packets_of_both_formats() -> None:
    body = KEY[2 : 2 + KEY[1]]
    short = bytes([0xC0 | PUBLIC_KEY, len(body)]) + body
    long = bytes([0xC0 | PUBLIC_KEY, 255]) + len(body).to_bytes(4, "big") + body
    two = bytes([0x80 | PUBLIC_KEY << 2 | 1]) + len(body).to_bytes(2, "big") + body
    assert fingerprints(short) == fingerprints(long) == fingerprints(two) == [FINGERPRINT]
    padded = body + bytes(300 - len(body))
    middle = bytes([0xC0 | PUBLIC_KEY, 192 + (300 - 192 >> 8), (300 - 192) & 0xFF]) + padded
    assert len(fingerprints(middle)) == 1


def test_nothing_that_is_sent_is_an_error() -> None:
    chance = random.Random(7)
    for _ in range(3000):
        noise = bytearray(KEY)
        for _ in range(chance.randrange(1, 6)):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        fingerprints(bytes(noise[: chance.randrange(len(noise) + 1)]))
