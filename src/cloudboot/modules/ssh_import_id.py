"""ssh_import_id: login keys that users have published at GitHub and Launchpad."""

from __future__ import annotations

import re

from cloudboot.errors import CloudbootError, ConfigError, NeedsNetwork
from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cloudboot.problem import Pointer
    from cloudboot.sshkeys import Key

URLS = {"gh": "https://github.com/%s.keys", "lp": "https://launchpad.net/~%s/+sshkeys"}
DEFAULT = "lp"
ID = r"(?:(gh|lp):)?([A-Za-z0-9][A-Za-z0-9_.+-]{0,62})"
TRIES = 3
PAUSE = 2.0  # seconds between two tries
URL = {"type": "string", "pattern": "^https?://.*%s", "x-form": "https://…%s… (%s: the user's name there)"}


def nobody_asks(facts: Facts) -> bool:
    """Tell whether the configuration names no id, for anybody. Asked at every boot, so nothing is imported for it."""
    places = [facts.config.get(key) for key in ("ssh_import_id", "users", "user", "default_user", "system_info")]
    return not places[0] and "ssh_import_id" not in repr(places[1:]).replace("-", "_")


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "ssh_import_id": {
            "type": "array",
            "items": {"type": "string"},
            "examples": [["gh:octocat", "lp:ubuntu-user"]],
        },
        "ssh_import_id_urls": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"gh": URL, "lp": URL},
            "examples": [{"gh": "https://keys.example.com/%s.keys"}],
        },
    },
    keys=(),
    network=True,
    idle=nobody_asks,
)
def ssh_import_id(ctx: Context) -> None:
    """Fetch public keys by the names that their owners have at GitHub (`gh:NAME`) or Launchpad (`lp:NAME`, or `NAME`).

    The list at the top is for the default user, the field of the same name in `users` for that account. Keys are added
    to ~/.ssh/authorized_keys with the comment `# ssh-import-id gh:NAME`; a line with options is left out.
    `ssh_import_id_urls` names other places to ask. An id that fails costs only itself.
    """
    from cloudboot import accounts, sshkeys

    fetched: dict[str, list[Key]] = {}
    default_user = ctx.image.get("default_user") or {}
    asked = accounts.wanted(ctx.config, default_user)
    redirected = {account.name for account in asked.users if account.flag("ssh_redirect_user")}
    if asked.default is None and ctx.config.get("ssh_import_id"):
        ctx.report("ssh_import_id: left out: there is no default user", ("ssh_import_id",))
    for name, pointer, ids in wishes(ctx.config, default_user):
        user = ctx.host.user(name)
        if name in redirected:
            ctx.report("users: ssh_import_id: left out: it cannot stand together with ssh_redirect_user", pointer)
            continue
        if user is None:
            if ctx.host.live or ctx.host.root.privileged:  # else its making was only recorded
                ctx.fail(f"{name}: no such account: no keys are fetched for it")
            continue
        keys: list[Key] = []
        for index, word in enumerate(ids):
            if word not in fetched:
                fetched[word] = fetch(ctx, word, (*pointer, index))
            keys += fetched[word]
        try:
            sshkeys.install(ctx.host, user, keys)
        except ConfigError as error:
            ctx.report(f"ssh_import_id: {error}", pointer)
        except OSError as error:
            ctx.fail(f"{name}: {error}")


def wishes(config: Mapping[str, Any], default_user: Mapping[str, Any]) -> Iterator[tuple[str, Pointer, list[str]]]:
    """Yield each account with where its ids stand, and the ids."""
    from cloudboot import accounts

    asked = accounts.wanted(config, default_user)
    if asked.default is not None and config.get("ssh_import_id"):
        yield asked.default, ("ssh_import_id",), config["ssh_import_id"]
    for account in asked.users:
        ids = account.fields.get("ssh_import_id")
        if ids:
            yield account.name, (*account.pointer, "ssh_import_id"), ids


def fetch(ctx: Context, word: str, pointer: Pointer) -> list[Key]:
    """Return the keys that belong to an id; none, and what is wrong is said, if they cannot be had.

    Raises NeedsNetwork.
    """
    match = re.fullmatch(ID, word.strip())
    if match is None:
        ctx.report(f"ssh_import_id: not gh:NAME, lp:NAME or NAME: {word!r}: left out", pointer)
        return []
    place, name = match[1] or DEFAULT, match[2]
    url = {**URLS, **(ctx.config.get("ssh_import_id_urls") or {})}[place].replace("%s", name.replace("+", "%2B"))
    try:
        body = ctx.fetcher.get(url, tries=TRIES, pause=PAUSE).body
    except NeedsNetwork:
        raise
    except CloudbootError as error:
        ctx.fail(f"{place}:{name}: no keys: {error}")
        return []
    from cloudboot import planned, sshkeys

    if planned.is_opaque(body):
        ctx.host.log.info(f"{place}:{name}: which keys there are is not known before they are fetched")
        return []
    found, bad = sshkeys.parse_all([body.decode("utf-8", "replace")])
    # The place vouches for keys, not for what a line would allow or run here; without its options it would allow more.
    plain = [key for key in found if not key.options]
    left = len(bad) + len(found) - len(plain)
    if left:
        ctx.host.log.info(f"{url}: {left} lines are no keys that sshd takes, or have options: left out")
    if not plain:
        ctx.fail(f"{place}:{name}: {url} has no keys")
    return [key._replace(comment=f"{key.comment} # ssh-import-id {place}:{name}".strip()) for key in plain]
