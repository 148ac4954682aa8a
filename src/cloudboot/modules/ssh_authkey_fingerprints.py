"""ssh_authkey_fingerprints: on the console, with which keys users may log in."""

from __future__ import annotations

from cloudboot import accounts, sshkeys
from cloudboot.errors import ConfigError
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.root import User
    from cloudboot.sshkeys import Key

PREFIX = "ci-info: "  # cloud-init's: what reads consoles looks for it
HASHES = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512"]
LINES = 30  # at most: keys_to_console, whose lines tools look for, shares the console with us


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "no_ssh_fingerprints": {"default": False, "type": "boolean"},
        "authkey_hash": {"default": "sha256", "type": "string", "enum": HASHES, "examples": ["sha512"]},
    },
    keys=(),
    light=True,
)
def ssh_authkey_fingerprints(ctx: Context) -> None:
    """Print a table of each user's authorized keys on the console: type, fingerprint, options, comment.

    The fingerprint is the key's hash (`authkey_hash`, sha256) in hexadecimal with colons. Users are those of the
    configuration, system accounts and those without a home apart. `no_ssh_fingerprints: true` prints nothing.
    """
    if ctx.config.get("no_ssh_fingerprints", False):
        return
    lines: list[str] = []
    for account in accounts.wanted(ctx.config, ctx.image.get("default_user") or {}).users:
        user = ctx.host.user(account.name)
        if user is not None and not account.flag("no_create_home") and not account.flag("system"):
            lines += about(ctx, user)
    if len(lines) > LINES:
        left = len(lines) - LINES + 1
        lines = [*lines[: LINES - 1], f"({left} more lines are left out here: ssh-keygen -lf shows keys)"]
    if lines:
        ctx.host.log.print("\n".join(f"{PREFIX}{line}" for line in lines))


def about(ctx: Context, user: User) -> list[str]:
    """Return what is printed about one user."""
    path = sshkeys.authorized_keys_file(ctx.host, user)
    try:
        beneath = path.startswith(f"{user.home.rstrip('/')}/")
        content = sshkeys.read_beneath(ctx.host, path, user) if beneath else ctx.host.read(path) or b""
    except (ConfigError, OSError) as error:
        ctx.host.log.info(f"fingerprints: {error}")
        return []
    keys, _ = sshkeys.parse_all([content.decode("utf-8", "replace")])
    if not keys:
        return [f"no authorized SSH keys fingerprints found for user {user.name}."]
    kind = ctx.config.get("authkey_hash", "sha256")
    heads = ["Keytype", f"Fingerprint ({kind})", "Options", "Comment"]
    lines = table(heads, [[key.type, fingerprint(key, kind), key.options or "-", key.comment or "-"] for key in keys])
    return [f"Authorized keys from {path} for user {user.name}".center(len(lines[0]), "+"), *lines]


def fingerprint(key: Key, kind: str) -> str:
    """Return the hash of a key as pairs of hexadecimal digits with colons."""
    digits = sshkeys.digest(key.raw, kind).hex()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Draw a table, each cell in the middle of its column. What does not print (a user's comment) becomes `?`."""
    clean = [["".join(char if char.isprintable() else "?" for char in cell) for cell in row] for row in [heads, *rows]]
    widths = [max(map(len, column)) + 2 for column in zip(*clean, strict=True)]
    rule = f"+{'+'.join('-' * width for width in widths)}+"
    head, *body = [
        f"|{'|'.join(cell.center(width) for cell, width in zip(row, widths, strict=True))}|" for row in clean
    ]
    return [rule, head, rule, *body, rule]
