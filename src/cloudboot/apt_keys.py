"""apt's keys: the owner's own, or fetched by their id, to where apt finds them."""

from __future__ import annotations

import re

from cloudboot import openpgp
from cloudboot.errors import CloudbootError
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.module import Context
    from cloudboot.problem import Pointer

KEYSERVER = "keyserver.ubuntu.com"
KEYSERVER_TRIES, KEYSERVER_TIME = 3, 30.0  # seconds


def add_key(ctx: Context, entry: dict[str, Any], path: str, place: Pointer) -> bool:
    """Write a key where apt finds it; tell whether it is there. A source without its key is not added."""
    try:
        keys = openpgp.dearmor(entry["key"]) if "key" in entry else fetched(ctx, entry, path)
    except CloudbootError as error:
        told = f"{dotted(place)}: {error}: this source is left out"
        (ctx.report if "key" in entry else ctx.fail)(told, place)
        return False
    if keys is not None:
        ctx.host.write(path, keys)
    return True


def fetched(ctx: Context, entry: dict[str, Any], path: str) -> bytes | None:
    """Return a key from the key server; None if the one that is there has this id. Raises CloudbootError.

    What comes must be the key of this id alone: the server, or who sits between, is not trusted.
    """
    wish = re.sub(r"^0[xX]|\s", "", entry["keyid"]).upper()
    if has_id(ctx.host.read(path), wish):
        return None
    server = entry.get("keyserver") or KEYSERVER
    base = re.sub(r"^hkp(s?)://", r"http\1://", server) if "://" in server else f"https://{server}"
    if server.startswith("hkp://") and not re.search(r":\d+$", server):
        base += ":11371"
    url = f"{base.rstrip('/')}/pks/lookup?op=get&options=mr&search=0x{wish}"
    answer = ctx.fetcher.get(url, tries=KEYSERVER_TRIES, deadline=KEYSERVER_TIME)
    keys = openpgp.dearmor(answer.body.decode("ascii", "replace"))
    try:
        found = openpgp.fingerprint(keys)
    except CloudbootError as error:
        raise CloudbootError(f"{server} has sent {error}, not {wish}") from None
    if not found.endswith(wish):
        raise CloudbootError(f"{server} has sent another key than {wish}: {found} (a subkey's id does not count)")
    return keys


def has_id(keys: bytes | None, wish: str) -> bool:
    """Tell whether these bytes are the key of this id."""
    try:
        return keys is not None and openpgp.fingerprint(keys).endswith(wish)
    except CloudbootError:
        return False


def dotted(place: Pointer) -> str:
    """Return a place as the owner would write it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)[1:]
