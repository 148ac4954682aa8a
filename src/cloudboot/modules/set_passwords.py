"""set_passwords: passwords of accounts, and whether sshd takes them."""

from __future__ import annotations

from cloudboot import accounts, passwords, sshd
from cloudboot.actions import WriteFile
from cloudboot.errors import CloudbootError
from cloudboot.instance import folder
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.problem import Level

STATE = "passwords.json"
SWITCH = "PasswordAuthentication"
WORDS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
SECRET = {"type": "string", "x-secret": True}


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    schema={
        "password": SECRET,
        "chpasswd": {
            "type": "object",
            "properties": {
                "expire": {"default": True, "type": "boolean"},
                "users": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {
                            "name": {"type": "string", "minLength": 1},
                            "password": SECRET,
                            "type": {"type": "string", "enum": ["hash", "text", "RANDOM"]},
                        },
                        "additionalProperties": False,
                    },
                    "examples": [[{"name": "admin", "type": "RANDOM"}]],
                },
                "list": {
                    "anyOf": [SECRET, {"type": "array", "items": SECRET}],
                    "deprecated": "22.2: use users",
                },
            },
            "additionalProperties": False,
        },
        "ssh_pwauth": {
            "anyOf": [
                {"type": "boolean"},
                {"type": "string", "enum": ["unchanged", *WORDS, "True", "False", "Yes", "No"]},
            ]
        },
    },
    keys=(),
)
def set_passwords(ctx: Context) -> None:
    """Set passwords (`chpasswd`, or `password` for the default user) and sshd's PasswordAuthentication (`ssh_pwauth`).

    A password that an account accepts already is not set again. RANDOM ones are drawn once for each instance and shown
    on the console only. With `expire` (the default) the first login must choose another one. Hashes are those of
    crypt(5), yescrypt (`$y$`) too. `ssh_pwauth` is written to /etc/ssh/sshd_config.d/50-cloud-init.conf.
    """
    wishes = _wishes(ctx)
    state = _State(ctx)
    drawn = []
    for wish in wishes:
        if ctx.host.user(wish.name) is None and (ctx.host.live or ctx.host.root.privileged):
            ctx.report(f"chpasswd: no such account: {wish.name!r}: left out", wish.pointer)
            continue
        try:
            shown = _set(ctx, wish, state, expire=(ctx.config.get("chpasswd") or {}).get("expire", True))
        except (CloudbootError, OSError) as error:
            ctx.fail(f"{wish.name}: {error}")
            continue
        if shown:
            drawn.append(f"{wish.name}:{shown}")
    if drawn:
        ctx.host.log.print("\n".join(["cloudboot: random passwords, shown only here:", *drawn]))
    _switch(ctx)


def _wishes(ctx: Context) -> list[passwords.Wish]:
    default = accounts.wanted(ctx.config, ctx.image.get("default_user") or {}).default
    if ctx.config.get("password") and default is None:
        ctx.report("password: there is no default user: left out", ("password",))
    lines = (ctx.config.get("chpasswd") or {}).get("list") or ()
    for number, line in enumerate(lines.splitlines() if isinstance(lines, str) else lines, 1):
        if line.strip() and ":" not in line:
            ctx.report(f"chpasswd.list: line {number}: must be name:password: left out", ("chpasswd", "list"))
    found = []
    for wish in passwords.chosen(ctx.config, default):
        if wish.kind != "random" and not wish.secret:
            ctx.report(f"chpasswd: {wish.name}: no password given: left out", wish.pointer)
        else:
            found.append(wish)
    return found


class _State:
    """What is kept for the instance, without secrets: who got a random password, whose is still to be expired."""

    def __init__(self, ctx: Context) -> None:
        import json

        self.host = ctx.host
        self.path = f"{folder(ctx.instance.key)}/{STATE}"
        stored = ctx.host.text(self.path)
        try:
            values = json.loads(stored) if stored else {}
        except ValueError:
            values = {}
        self.drawn: list[str] = values.get("random", [])
        self.unexpired: list[str] = values.get("unexpired", [])

    def keep(self) -> None:
        import json

        content = json.dumps({"random": sorted(set(self.drawn)), "unexpired": sorted(set(self.unexpired))})
        self.host.keep(WriteFile(self.path, content.encode(), 0o600))


def _set(ctx: Context, wish: passwords.Wish, state: _State, *, expire: bool) -> str:
    """Set one password; return it if it was drawn here."""
    host = ctx.host
    if wish.kind == "random" and wish.name in state.drawn:
        return ""
    # Known before it is done: a machine that dies between setting and expiring still expires.
    pending = wish.name in state.unexpired
    if expire and not pending and wish.kind != "random" and not _is_set(ctx, wish):
        state.unexpired.append(wish.name)
        state.keep()
    if wish.kind == "random":
        secret = passwords.random_password()
        if passwords.set_plain(host, wish.name, secret):
            if expire:
                passwords.expire(host, wish.name)
            state.drawn.append(wish.name)
            state.keep()
            return secret
        return ""
    if wish.kind == "hash":
        passwords.set_field(host, wish.name, wish.secret)
    else:
        passwords.set_plain(host, wish.name, wish.secret)
        passwords.unlock(host, wish.name)
    if wish.name in state.unexpired:
        if expire:
            passwords.expire(host, wish.name)
        state.unexpired.remove(wish.name)
        state.keep()
    return ""


def _is_set(ctx: Context, wish: passwords.Wish) -> bool:
    current = passwords.field(ctx.host, wish.name)
    if current is None:
        return False
    return current == wish.secret if wish.kind == "hash" else passwords.accepts(wish.secret, current.lstrip("!"))


def _switch(ctx: Context) -> None:
    given = ctx.config.get("ssh_pwauth")
    if isinstance(given, str):
        if given != "unchanged":
            told = f"ssh_pwauth: deprecated since 22.3: use true or false without quotes: {given!r}"
            ctx.report(told, ("ssh_pwauth",), Level.DEPRECATED)
        given = WORDS.get(given.lower())
    if given is None:
        return
    word = "yes" if given else "no"
    changed = sshd.write(ctx.host, SWITCH, [word])
    effective = sshd.value(ctx.host, SWITCH)
    if effective is not None and effective[0].lower() != word:
        ctx.fail(f"ssh_pwauth: another file in {sshd.FOLDER} sets {SWITCH} {effective[0]} before ours: remove it there")
    if changed:
        sshd.reload(ctx.host)
