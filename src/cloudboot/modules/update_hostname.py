"""update_hostname: follow a changed name, unless somebody else has changed it."""

from __future__ import annotations

from cloudboot import hostname
from cloudboot.module import Context, Facts, Frequency, Stage, module


def unchanged(facts: Facts) -> bool:
    """Prove that the machine has the name that it should have."""
    names = hostname.resolve(facts.config, facts.instance.hostname)
    ours = hostname.given(facts.host, facts.folder)
    current = hostname.name_in(facts.host.text(hostname.HOSTNAME_FILE))
    if facts.config.get("preserve_hostname") or names is None or not ours or not current:
        return True
    return ours == names.chosen(facts.config) == current


@module(stage=Stage.NETWORK, frequency=Frequency.ALWAYS, schema=hostname.SCHEMA, keys=(), idle=unchanged)
def update_hostname(ctx: Context) -> None:
    """Set the host name again when configuration or metadata have another one than at the last boot.

    Only if /etc/hostname still holds what cloudboot set last: a name that the administrator gave stays.
    `preserve_hostname: true` leaves the name alone.
    """
    names = hostname.resolve(ctx.config, ctx.instance.hostname)
    ours = hostname.given(ctx.host, ctx.commands.folder)
    current = hostname.name_in(ctx.host.text(hostname.HOSTNAME_FILE))
    if ctx.config.get("preserve_hostname") or names is None or not ours or not current:
        return
    name = names.chosen(ctx.config)
    if current in (ours, name):
        hostname.give(ctx.host, ctx.commands.folder, name)
    else:
        ctx.host.log.info(f"the host name {current!r} is not the one that we set ({ours!r}): left alone")
