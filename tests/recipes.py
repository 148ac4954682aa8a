"""Bytes of user data by short recipes, so that a case file of bad bytes stays readable."""

from __future__ import annotations

import base64
import gzip
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def made(recipe: Any) -> bytes:
    """Make the bytes of a user data.

    A text is itself. `{gzip: R}`; `{cut: R, at: N}` the first N bytes; `{patch: R, at: N, with: TEXT}` bytes overwritten;
    `{encode: TEXT, as: utf-16}`; `{repeat: TEXT, times: N}`; `{base64: R}`; `{join: [R, …]}`; `{hex: "ff 00"}`; `{mime: [{type,
    name, headers, content: R}, …], boundary: B, close: true}`.
    """
    if isinstance(recipe, str):
        return recipe.encode()
    kind, value = next(iter(recipe.items()))
    makers: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(made(value), mtime=0),
        "cut": lambda: made(value)[: recipe["at"]],
        "patch": lambda: (
            made(value)[: recipe["at"]] + made(recipe["with"]) + made(value)[recipe["at"] + len(made(recipe["with"])) :]
        ),
        "encode": lambda: str(value).encode(recipe["as"]),
        "repeat": lambda: made(value) * recipe["times"],
        "base64": lambda: base64.encodebytes(made(value)),
        "join": lambda: b"".join(map(made, value)),
        "hex": lambda: bytes.fromhex(value),
        "mime": lambda: _mime(value, recipe.get("boundary", "B"), close=recipe.get("close", True)),
    }
    return makers[kind]()


def _mime(parts: Sequence[Mapping[str, Any]], boundary: str, *, close: bool) -> bytes:
    lines = [b"MIME-Version: 1.0", f'Content-Type: multipart/mixed; boundary="{boundary}"'.encode(), b""]
    for part in parts:
        lines += [b"--B", f"Content-Type: {part['type']}".encode()]
        if "name" in part:
            lines.append(f'Content-Disposition: attachment; filename="{part["name"]}"'.encode())
        lines += [f"{name}: {value}".encode() for name, value in part.get("headers", {}).items()]
        lines += [b"", made(part["content"])]
    return b"\n".join([*lines, b"--B--" if close else b"", b""])
