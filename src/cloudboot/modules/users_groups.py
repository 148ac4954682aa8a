"""users_groups: accounts and groups, and what each account may do."""

from __future__ import annotations

from cloudboot import accounts, passwords, sshkeys, sudoers
from cloudboot.actions import WriteFile
from cloudboot.errors import CloudbootError, CommandError, ConfigError
from cloudboot.instance import folder
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.problem import Level
from cloudboot.typed import TYPE_CHECKING, Any
from cloudboot.useradd import useradd

if TYPE_CHECKING:
    from cloudboot.accounts import Account
    from cloudboot.checker import Schema
    from cloudboot.root import User

STATE = "accounts.json"  # in the instance's directory: the accounts that were created for it
TEXT: Schema = {"type": "string"}
SECRET: Schema = {"type": "string", "x-secret": True}
SWITCH: Schema = {"type": "boolean"}
NAMES: Schema = {
    "anyOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "object", "deprecated": "23.1: use a list of names"}]
}
KEYS: Schema = {"anyOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "object", "additionalProperties": TEXT}]}
USER: dict[str, Schema] = {
    "name": {},  # judged by the module: without it the fields would go to the default user
    "gecos": TEXT,
    "homedir": TEXT,
    "primary_group": TEXT,
    "uid": {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^[0-9]+$", "x-form": "a number", "deprecated": "22.3"},
        ]
    },
    "groups": NAMES,
    "shell": TEXT,
    "expiredate": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "x-form": "YYYY-MM-DD"},
    "inactive": {
        "anyOf": [{"type": "string", "pattern": "^-?[0-9]+$", "x-form": "a number of days"}, {"type": "integer"}]
    },
    "selinux_user": TEXT,
    "no_user_group": SWITCH,
    "no_create_home": SWITCH,
    "no_log_init": SWITCH,
    "create_groups": SWITCH,
    "system": SWITCH,
    "passwd": SECRET,
    "hashed_passwd": SECRET,
    "plain_text_passwd": SECRET,
    "lock_passwd": SWITCH,
    "sudo": {
        "anyOf": [
            TEXT,
            {"type": "array", "items": TEXT},
            {"type": "null"},
            {"type": "boolean", "enum": [False], "deprecated": "22.2: use null"},
        ]
    },
    "doas": {"type": "array", "items": TEXT},
    "ssh_authorized_keys": KEYS,
    "ssh_redirect_user": {"anyOf": [SWITCH, {"type": "string", "enum": ["default"]}]},
    "ssh_import_id": {"type": "array", "items": TEXT},
    "snapuser": TEXT,
}
HYPHENED_SINCE = {  # cloud-init's versions
    "lock_passwd": "22.3", "primary_group": "22.3", "selinux_user": "22.3", "ssh_import_id": "22.3",
    "ssh_redirect_user": "22.3", "ssh_authorized_keys": "18.3",
}  # fmt: skip
FIELDS: dict[str, Schema] = {
    **USER,
    **{
        name.replace("_", "-"): {**part, "deprecated": f"{HYPHENED_SINCE.get(name, '24.2')}: use {name}"}
        for name, part in USER.items()
        if "_" in name
    },
}
ACCOUNT: Schema = {"type": "object", "properties": FIELDS, "additionalProperties": False}
# A list of which nothing is left would mean "no accounts at all": items of a wrong type are left to the module.
ITEM: Schema = {"anyOf": [ACCOUNT, TEXT, {"type": "array"}, {"type": ["null", "boolean", "number"]}]}
MEMBERS: Schema = {
    "type": "object",
    "additionalProperties": {"anyOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "null"}]},
}


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    schema={
        "users": {
            "anyOf": [
                {"type": "array", "items": ITEM},
                {"type": "string", "deprecated": "22.2: use a list"},
                {
                    "type": "object",
                    "additionalProperties": {"anyOf": [ACCOUNT, {"type": ["boolean", "null", "string"]}]},
                    "deprecated": "22.2: use a list",
                },
            ],
            "examples": [["default", {"name": "admin", "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash"}]],
        },
        "user": {"anyOf": [ACCOUNT, {"type": "string", "deprecated": "22.2: use a mapping"}]},
        "groups": {
            "anyOf": [TEXT, {"type": "array", "items": {"anyOf": [TEXT, MEMBERS]}}, MEMBERS],
            "examples": [["admins", {"cloud-users": ["admin"]}]],
        },
    },
    keys=(),
    essential=True,
)
def users_groups(ctx: Context) -> None:
    """Create groups and accounts, and give accounts their groups, passwords, sudo and doas rules, and ssh keys.

    Without `users` the image's default user is made. Accounts are created only on a new instance; later, those that
    are there get what else is asked for, and one that was deleted stays deleted. A field that cannot be used costs that
    field only. Files: /etc/sudoers.d/90-cloud-init-users (ours, written whole), /etc/doas.conf, ~/.ssh/authorized_keys.
    """
    asked = accounts.wanted(ctx.config, ctx.image.get("default_user") or {})
    for pointer, text in asked.flaws:
        ctx.report(text, pointer)
    for name in asked.groups:
        _add_group(ctx, name)
    with_password = {wish.name for wish in passwords.chosen(ctx.config, asked.default)}
    granted = []
    doas: list[str] = []
    for account in asked.users:
        try:
            if not _account(ctx, account, asked.default, elsewhere=account.name in with_password):
                continue
        except (CloudbootError, OSError) as error:
            ctx.fail(f"{account.name}: {error}")
            continue
        granted.append(sudoers.rules(account.name, account.fields.get("sudo")))
        doas += _doas(ctx, account)
    for name, members in asked.groups.items():
        _add_members(ctx, name, members)
    _grant(ctx, granted, asked.users)
    sudoers.install_doas(ctx.host, doas)


def _account(ctx: Context, account: Account, default: str | None, *, elsewhere: bool) -> bool:
    """Make one account and what belongs to it; tell whether it is there (or recorded). Raises CloudbootError."""
    host = ctx.host
    if account.fields.get("snapuser"):
        told = "users: snapuser: not supported yet: it does nothing"
        ctx.report(told, (*account.pointer, "snapuser"), Level.WARNING)
    user = host.user(account.name)
    fresh = ctx.first and account.name in _created(ctx)  # by a run that was interrupted
    if user is None:
        if not ctx.first:
            host.log.info(f"{account.name}: no such account: not made again, this is not a new instance")
            return not (host.live or host.root.privileged)  # in a tree without root, its making was only recorded
        _create(ctx, account)
        user, fresh = host.user(account.name), True
        if user is None:
            return True  # recorded only
    else:
        _join(ctx, account, user)
    try:
        _home(ctx, account, user, fresh=fresh)
        _password(ctx, account, fresh=fresh, elsewhere=elsewhere)
    except (CloudbootError, OSError) as error:
        ctx.fail(f"{account.name}: {error}")
    _keys(ctx, account, user, default)
    return True


def _create(ctx: Context, account: Account) -> None:
    host = ctx.host
    primary = account.fields.get("primary_group")
    create = account.flag("create_groups", True)
    groups = []
    for name in account.groups:
        if not accounts.valid_name(name):
            ctx.report(f"users: groups: not a name for a group: {name!r}: left out", (*account.pointer, "groups"))
        elif host.group(name) is not None or (create and _add_group(ctx, name)):
            groups.append(name)
        else:
            ctx.report(f"users: groups: no such group: {name!r}: left out", (*account.pointer, "groups"))
    if isinstance(primary, str) and host.group(primary) is None and not (create and _add_group(ctx, primary)):
        ctx.report(f"users: primary_group: no such group: {primary!r}: left out", (*account.pointer, "primary_group"))
        account.fields.pop("primary_group")
    argv, flaws = useradd(host, account, groups)
    for name, text in flaws:
        ctx.report(f"users: {text}", (*account.pointer, name))
    shell = account.fields.get("shell")
    if shell and "--shell" in argv and not host.exists(shell):
        told = f"users: shell: not there (yet): {shell!r}: {account.name} cannot log in before it is installed"
        ctx.report(told, (*account.pointer, "shell"), Level.WARNING)
    _note_created(ctx, account.name)
    try:
        host.run(argv)
    except CommandError as error:
        if host.user(account.name) is None:
            # Better a plain account that its owner can log into than none.
            host.run(["useradd", "-m", "--shell", "/bin/bash", account.name])
            made = host.user(account.name)
            if made is not None:
                _join(ctx, account, made)
        ctx.fail(f"{account.name}: {error}")


def _join(ctx: Context, account: Account, user: User) -> None:
    """Put an account that exists into the groups that it lacks."""
    create = account.flag("create_groups", True)
    for name in account.groups:
        if not accounts.valid_name(name):
            ctx.report(f"users: groups: not a name for a group: {name!r}: left out", (*account.pointer, "groups"))
            continue
        group = ctx.host.group(name)
        if group is None and not (create and _add_group(ctx, name)):
            ctx.report(f"users: groups: no such group: {name!r}: left out", (*account.pointer, "groups"))
        elif group is None or (user.name not in group.members and group.gid != user.gid):
            _add_members(ctx, name, (user.name,))


def _add_group(ctx: Context, name: str) -> bool:
    """Make a group unless it is there; tell whether it is, or will be."""
    if ctx.host.group(name) is not None:
        return True
    if not accounts.valid_name(name):
        return False
    try:
        ctx.host.run(["groupadd", name])
    except CommandError as error:
        ctx.fail(str(error))
        return False
    return True


def _add_members(ctx: Context, name: str, members: tuple[str, ...]) -> None:
    for member in members:
        group, user = ctx.host.group(name), ctx.host.user(member)
        if user is None:
            ctx.report(f"groups: {name}: no such account: {member!r}: left out", ("groups",))
        elif group is None or (member not in group.members and group.gid != user.gid):
            try:
                ctx.host.run(["usermod", "-a", "-G", name, member])
            except CommandError as error:
                ctx.fail(str(error))


def _home(ctx: Context, account: Account, user: User, *, fresh: bool) -> None:
    """Make the home that useradd did not come to make before the machine died."""
    host = ctx.host
    without = account.flag("no_create_home") or account.flag("system")
    if not fresh or without or host.exists(user.home):
        return
    owner = f"{user.uid}:{user.gid}"
    host.mkdir(user.home, mode=0o700, owner=owner)
    for path, content in host.tree("/etc/skel").items():
        if "/" not in path:
            host.write(f"{user.home}/{path}", content, owner=owner, beneath=user.home)


def _password(ctx: Context, account: Account, *, fresh: bool, elsewhere: bool) -> None:
    """Set and lock the password. `elsewhere`: set_passwords gives it one, which is not to be locked here."""
    host, name, fields = ctx.host, account.name, account.fields
    locked = account.flag("lock_passwd", True)
    hashed: Any = fields.get("hashed_passwd")
    if hashed is None and fresh and "plain_text_passwd" not in fields:
        hashed = fields.get("passwd")
    if hashed is not None:
        bare = hashed.lstrip("!")
        passwords.set_field(host, name, f"!{bare}" if locked else bare)
        return
    plain = fields.get("plain_text_passwd")
    if "passwd" in fields and plain is None and not fresh:
        current = passwords.field(host, name)
        if current is not None and current.lstrip("!") != fields["passwd"].lstrip("!"):
            told = "users: passwd: this account was there before: only hashed_passwd changes its password"
            ctx.report(told, (*account.pointer, "passwd"), Level.WARNING)
    if plain == "":
        passwords.set_field(host, name, "!" if locked else "")
        return
    if plain is not None:
        passwords.set_plain(host, name, plain)
    if not locked:
        passwords.unlock(host, name)
        if plain is None and not elsewhere and (passwords.field(host, name) or "").strip("!*") == "":
            told = f"users: lock_passwd: {name} has no password: its login by password stays locked"
            ctx.report(told, (*account.pointer, "lock_passwd"), Level.WARNING)
    elif not elsewhere:
        passwords.lock(host, name)


def _keys(ctx: Context, account: Account, user: User, default: str | None) -> None:
    given = account.fields.get("ssh_authorized_keys")
    place = (*account.pointer, "ssh_authorized_keys")
    keys, _ = sshkeys.parse_all(sshkeys.texts(given).values())
    for where, told in sshkeys.unusable(given, place, "users: ssh_authorized_keys"):
        ctx.report(told, where)
    if account.flag("ssh_redirect_user"):
        if given:
            told = "users: ssh_redirect_user: left out: it cannot stand together with ssh_authorized_keys"
            ctx.report(told, (*account.pointer, "ssh_redirect_user"))
        elif default is None:
            told = "users: ssh_redirect_user: left out: there is no default user to redirect to"
            ctx.report(told, (*account.pointer, "ssh_redirect_user"))
        else:
            options = sshkeys.refusal(sshkeys.REFUSAL, default, account.name)
            cloud, _ = sshkeys.parse_all(ctx.instance.public_keys)
            keys = [key._replace(options=options) for key in cloud]
    try:
        sshkeys.install(ctx.host, user, keys)
    except ConfigError as error:
        ctx.report(f"users: {error}", place)
    except OSError as error:
        ctx.fail(str(error))


def _doas(ctx: Context, account: Account) -> list[str]:
    found = []
    for index, rule in enumerate(account.fields.get("doas") or ()):
        if sudoers.doas_rule_names(rule, account.name):
            found.append(rule)
        else:
            told = f"users: doas: not a rule for {account.name}, left out: {rule!r}"
            ctx.report(told, (*account.pointer, "doas", index))
    return found


def _grant(ctx: Context, granted: list[sudoers.Rules], users: tuple[Account, ...]) -> None:
    places = {account.name: account.pointer for account in users}
    if sudoers.render(granted) != (sudoers.current(ctx.host) or ""):
        bad = sudoers.bad_rules(ctx.host, granted)
        for name, text in sorted(bad):
            told = f"users: sudo: not a rule that sudo can read, left out: {text!r} (of {name})"
            ctx.report(told, (*places[name], "sudo"))
        granted = [
            each._replace(texts=tuple(text for text in each.texts if (each.name, text) not in bad)) for each in granted
        ]
    sudoers.install(ctx.host, granted)


def _created(ctx: Context) -> list[str]:
    import json

    stored = ctx.host.text(f"{folder(ctx.instance.key)}/{STATE}")
    try:
        return list(json.loads(stored)) if stored else []
    except ValueError:
        return []


def _note_created(ctx: Context, name: str) -> None:
    import json

    names = sorted({*_created(ctx), name})
    ctx.host.keep(WriteFile(f"{folder(ctx.instance.key)}/{STATE}", json.dumps(names).encode(), 0o600))
