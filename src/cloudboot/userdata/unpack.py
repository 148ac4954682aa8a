"""Expand gzip without trusting it: all that one user data may grow by has one limit, however many layers it has."""

from __future__ import annotations

import zlib

from cloudboot.errors import ConfigError

EXPANDED_LIMIT = 32 << 20  # bytes that user data may grow by: gzip, includes, archives and templates together
MAGIC = b"\x1f\x8b"
LAYERS_LIMIT = 4  # of gzip in gzip
MEMBERS_LIMIT = 1000  # gzip files, one after the other
BOMBS_LIMIT = 4  # refused; what follows is not tried: each costs the time of the whole limit
CHUNK = 64 << 10


class Budget:
    """What user data may still grow by, in bytes."""

    def __init__(self, left: int = EXPANDED_LIMIT) -> None:
        self.left = left
        self.bombs = 0

    def take(self, size: int, what: str) -> None:
        """Count what was added. Raises ConfigError if it is too much; then nothing of it may be used."""
        if size > self.left:
            raise ConfigError(f"{what}: user data may grow to {EXPANDED_LIMIT >> 20} MiB in all: not used")
        self.left -= size


def gunzip(content: bytes, budget: Budget) -> bytes:
    """Expand all layers of gzip. Raises ConfigError: damaged, cut off, too large."""
    for _ in range(LAYERS_LIMIT):
        if content[:2] != MAGIC:
            return content
        content = _layer(content, budget)
        budget.left -= len(content)
    if content[:2] == MAGIC:
        raise ConfigError(f"gzip: more than {LAYERS_LIMIT} times gzip in gzip: not used")
    return content


def _layer(content: bytes, budget: Budget) -> bytes:
    plain = bytearray()
    view, position = memoryview(content), 0
    for _ in range(MEMBERS_LIMIT):
        position = _member(view, position, plain, budget)
        if view[position : position + 2] != MAGIC:
            return bytes(plain)  # what follows, as padding does, is not gzip: gzip(1) leaves it out as well
    raise ConfigError(f"gzip: more than {MEMBERS_LIMIT} files in one: not used")


def _member(view: memoryview, position: int, plain: bytearray, budget: Budget) -> int:
    """Expand one gzip file into `plain` and return where it ends."""
    expander = zlib.decompressobj(16 + zlib.MAX_WBITS)
    while not expander.eof:
        chunk = view[position : position + CHUNK]
        if not chunk:
            raise ConfigError("gzip: cut off before its end: nothing of it is used")
        room = 0 if budget.bombs >= BOMBS_LIMIT else budget.left - len(plain)
        try:
            plain += expander.decompress(chunk, room + 1)
        except zlib.error as error:
            told = str(error).rpartition(": ")[2]
            raise ConfigError(f"gzip: damaged ({told}): nothing of it is used") from None
        if len(plain) > budget.left or room == 0:
            budget.bombs += 1
            raise ConfigError(f"gzip: more than {EXPANDED_LIMIT >> 20} MiB when expanded: not used")
        position += len(chunk) - len(expander.unused_data) - len(expander.unconsumed_tail)
    return position
