"""gzip: every layer, every damage, no bomb."""

from __future__ import annotations

import base64
import gzip
import time
import zlib

import pytest

from cloudboot.errors import ConfigError
from cloudboot.userdata.parts import Kind, split
from cloudboot.userdata.unpack import EXPANDED_LIMIT, Budget, gunzip

CONFIG = b"#cloud-config\nhostname: a\n"
SCRIPT = b"#!/bin/sh\necho hi\n"
BOMB = gzip.compress(b"#" * (EXPANDED_LIMIT + 1), mtime=0)


def mime(*parts: tuple[str, bytes]) -> bytes:
    lines = [b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="B"\n']
    for kind, content in parts:
        head = f"--B\nContent-Type: {kind}\nContent-Transfer-Encoding: base64\n".encode()
        lines += [head, base64.encodebytes(content)]
    return b"\n".join([*lines, b"--B--", b""])


def test_layers_members_and_padding() -> None:
    twice = gzip.compress(gzip.compress(CONFIG))
    assert gunzip(twice, Budget()) == CONFIG
    assert gunzip(gzip.compress(b"#!") + gzip.compress(b"/bin/sh"), Budget()) == b"#!/bin/sh"
    assert gunzip(gzip.compress(CONFIG) + b"\0" * 1000, Budget()) == CONFIG
    assert gunzip(b"plain", Budget()) == b"plain"
    assert gunzip(gzip.compress(b""), Budget()) == b""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(CONFIG, mtime=0)[:-9], "gzip: cut off before its end: nothing of it is used"),
        (gzip.compress(CONFIG, mtime=0)[:12] + b"xxxxxxxx", "gzip: damaged ("),
        (b"\x1f\x8b", "gzip: cut off"),
        (b"\x1f\x8b\x00\x00" + b"x" * 20, "gzip: damaged ("),
        (BOMB, "gzip: more than 32 MiB when expanded: not used"),
        (gzip.compress(BOMB, mtime=0), "gzip: more than 32 MiB when expanded: not used"),
        (gzip.compress(b"x", mtime=0) * 1001, "gzip: more than 1000 files in one: not used"),
    ],
)
def test_what_cannot_be_expanded(content: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gunzip(content, Budget())
    assert str(caught.value).startswith(said)


def test_layers_are_bounded() -> None:
    content = CONFIG
    for _ in range(5):
        content = gzip.compress(content)
    with pytest.raises(ConfigError, match="more than 4 times gzip in gzip"):
        gunzip(content, Budget())


def test_in_mime_wherever_it_is() -> None:
    packed = gzip.compress(SCRIPT)
    kinds = ["application/gzip", "application/x-gzip", "application/octet-stream", "text/plain", "text/x-shellscript"]
    found = split(mime(*((kind, packed) for kind in kinds)))
    assert [part.content for part in found.parts] == [SCRIPT] * len(kinds)
    (per_boot,) = split(mime(("text/x-shellscript-per-boot", packed))).parts
    assert (per_boot.kind, per_boot.content) == (Kind.PER_BOOT, SCRIPT)
    within = gzip.compress(mime(("text/cloud-config", CONFIG), ("text/plain", packed)))
    inner = split(mime(("application/gzip", within))).parts
    assert [part.kind for part in inner] == [Kind.CLOUD_CONFIG, Kind.SCRIPT]
    # A handler's own type is its own business.
    handler = b"#part-handler\n"
    own = split(mime(("text/part-handler", handler), ("application/x-tar", packed))).parts[1]
    assert (own.kind, own.type, own.content) == (Kind.CUSTOM, "application/x-tar", packed)


def test_all_parts_together_have_one_limit() -> None:
    third = gzip.compress(b"#!" + b"x" * (11 << 20))
    found = split(mime(*[("application/gzip", third)] * 3, ("text/plain", CONFIG)))
    assert [part.kind for part in found.parts] == [Kind.SCRIPT, Kind.SCRIPT, Kind.CLOUD_CONFIG]
    assert [str(problem) for problem in found.problems] == ["part-003: gzip: more than 32 MiB when expanded: not used"]


def test_many_bombs_take_the_time_of_a_few() -> None:
    began = time.process_time()
    found = split(mime(*[("application/gzip", BOMB)] * 100, ("text/plain", CONFIG)))
    assert [part.content for part in found.parts] == [CONFIG]
    assert time.process_time() - began < 5


def test_what_is_deflated_is_not_gzip() -> None:
    assert "no known format" in str(split(zlib.compress(CONFIG)).problems[0])
