"""ssh: host keys, and who may log in with which key."""

from __future__ import annotations

import re

from cloudboot import accounts, hostkeys, sshd, sshkeys
from cloudboot.errors import CloudbootError
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.typed import Any

REKEYED = "/run/cloudboot/rekeyed"  # made new earlier in this boot, when the metadata service was silent
CERTIFICATE = "HostCertificate"
PRIVATE = {"type": "string", "x-secret": True}
PUBLIC = {"type": "string"}


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    schema={
        "ssh_deletekeys": {"default": True, "type": "boolean"},
        "ssh_keys": {
            "type": "object",
            "properties": {
                f"{kind}_{part}": PRIVATE if part == "private" else PUBLIC
                for kind in ("rsa", "ecdsa", "ed25519")
                for part in ("private", "public", "certificate")
            },
            "additionalProperties": False,
        },
        "ssh_genkeytypes": {
            "default": ["rsa", "ecdsa", "ed25519"],
            "type": "array",
            "items": {"type": "string", "enum": ["ecdsa", "ed25519", "rsa"]},
            "minItems": 1,
            "examples": [["ed25519"]],
        },
        "ssh_quiet_keygen": {"type": "boolean"},
        "ssh_publish_hostkeys": {
            "type": "object",
            "properties": {
                "enabled": {"type": "boolean"},
                "blacklist": {"type": "array", "items": {"type": "string"}},
            },
            "additionalProperties": False,
        },
        "ssh_authorized_keys": {
            "type": "array",
            "items": {"type": "string"},
            "examples": [
                ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDummyDummyDummyDummyDummyDummyDummyDummyDum owner@example.com"]
            ],
        },
        "allow_public_ssh_keys": {"default": True, "type": "boolean"},
        "disable_root": {"default": True, "type": "boolean"},
        "disable_root_opts": {"type": "string"},
    },
    keys=(),
    essential=True,
    follows=True,
)
def ssh(ctx: Context) -> None:
    """Give the machine host keys of its own, and the default user and root their authorized keys.

    On a new instance the host keys in /etc/ssh are replaced (`ssh_deletekeys`), by those of `ssh_keys` or by new ones
    of `ssh_genkeytypes`; later only missing ones are made. The keys of the metadata (`allow_public_ssh_keys`) and of
    `ssh_authorized_keys` go to the default user; root gets them with options that only say whom to log in as
    (`disable_root`, `disable_root_opts`). Certificates are named in /etc/ssh/sshd_config.d/50-cloud-init.conf.
    """
    before = len(ctx.host.changes)
    try:
        _host_keys(ctx)
    except (CloudbootError, OSError) as error:
        ctx.fail(str(error))
    changed = len(ctx.host.changes) > before
    _login_keys(ctx)
    if changed:
        sshd.reload(ctx.host)


def _host_keys(ctx: Context) -> None:
    replace = ctx.first and ctx.config.get("ssh_deletekeys", True)
    given = _given(ctx)
    if given:
        hostkeys.install(ctx.host, given, replace=ctx.first, remove_others=replace)
        _certificates(ctx, [kind for kind, key in given.items() if key.certificate])
        return
    types = ctx.config.get("ssh_genkeytypes") or hostkeys.TYPES
    hostkeys.generate(ctx.host, replace=replace and not ctx.host.exists(REKEYED), types=types)
    if ctx.first:
        _certificates(ctx, [])


def _given(ctx: Context) -> dict[str, hostkeys.Given]:
    """Return the usable host keys of `ssh_keys`; what is wrong with the others is reported."""
    keys: dict[str, Any] = ctx.config.get("ssh_keys") or {}
    found = {}
    for kind in hostkeys.TYPES:
        text = {part: _lines(keys.get(f"{kind}_{part}")) for part in ("private", "public", "certificate")}
        private, public, certificate = text["private"], text["public"], text["certificate"]
        if private is None:
            for part in ("public", "certificate"):
                if text[part]:
                    ctx.report(f"ssh_keys.{kind}_{part}: left out: there is no {kind}_private", ("ssh_keys",))
            continue
        if not ctx.first and ctx.host.exists(hostkeys.private_path(kind)):
            found[kind] = hostkeys.Given(
                private, "", certificate
            )  # stays as it is, whatever the configuration says now
            continue
        shaped = re.fullmatch(hostkeys.PRIVATE, private) is not None
        held = hostkeys.read_public(ctx.host, kind, private) if shaped else None
        if held is None:
            told = "is not a private key that sshd can use (whole, without a passphrase): left out"
            ctx.report(f"ssh_keys.{kind}_private: {told}", ("ssh_keys", f"{kind}_private"))
            continue
        parsed = sshkeys.parse(public or "")
        if public and (parsed is None or parsed.blob != held.blob):
            told = "is not the public key of the private one: made from that instead"
            ctx.report(f"ssh_keys.{kind}_public: {told}", ("ssh_keys", f"{kind}_public"))
            public = None
        public = public or f"{held.line}\n"
        if certificate and sshkeys.parse(certificate) is None:
            told = "is not a certificate in OpenSSH's form: left out"
            ctx.report(f"ssh_keys.{kind}_certificate: {told}", ("ssh_keys", f"{kind}_certificate"))
            certificate = None
        found[kind] = hostkeys.Given(private, public, certificate)
    return found


def _lines(text: str | None) -> str | None:
    return "\n".join(line.strip() for line in text.strip().splitlines()) + "\n" if text and text.strip() else None


def _certificates(ctx: Context, kinds: list[str]) -> None:
    if not kinds and not ctx.host.exists(sshd.CONFIG):
        return
    ours = [hostkeys.certificate_path(kind) for kind in kinds if ctx.host.exists(hostkeys.certificate_path(kind))]
    known = sshd.own_values(ctx.host, CERTIFICATE)
    gone = {hostkeys.certificate_path(kind) for kind in hostkeys.TYPES}
    wanted = [path for path in known if path not in gone or path in ours or ctx.host.exists(path)]
    sshd.write(ctx.host, CERTIFICATE, [*wanted, *[path for path in ours if path not in wanted]])


def _login_keys(ctx: Context) -> None:
    given: list[str] = ctx.config.get("ssh_authorized_keys") or []
    own, _ = sshkeys.parse_all(given)
    for place, told in sshkeys.unusable(given, ("ssh_authorized_keys",), "ssh_authorized_keys"):
        ctx.report(told, place)
    keys = own
    if ctx.config.get("allow_public_ssh_keys", True):
        cloud, bad = sshkeys.parse_all(ctx.instance.public_keys)
        keys = [*cloud, *[key for key in own if key not in cloud]]
        for line in bad:
            ctx.fail(f"public key in the metadata: not a key that sshd takes, left out: {line[:60]!r}")
    if not keys:
        return
    default = accounts.wanted(ctx.config, ctx.image.get("default_user") or {}).default
    if default is not None:
        _install(ctx, default, keys)
    if ctx.config.get("disable_root", True):
        pattern = ctx.config.get("disable_root_opts") or sshkeys.REFUSAL
        options = sshkeys.refusal(pattern, default or "NONE", "root")
        keys = [key._replace(options=options) for key in keys]
    if default != "root":
        _install(ctx, "root", keys)


def _install(ctx: Context, name: str, keys: list[sshkeys.Key]) -> None:
    user = ctx.host.user(name)
    if user is None:
        if ctx.host.live or ctx.host.root.privileged:  # else its making was only recorded
            ctx.fail(f"{name}: no such account: its ssh keys are left out")
        return
    try:
        sshkeys.install(ctx.host, user, keys)
    except (CloudbootError, OSError) as error:
        ctx.fail(str(error))
