"""update_hostname: follow a changed name, unless somebody else has changed it."""

from __future__ import annotations

from cloudboot import hostname
from cloudboot.actions import WriteFile
from cloudboot.module import Context, Frequency, Stage, module


@module(stage=Stage.NETWORK, frequency=Frequency.ALWAYS, schema=hostname.SCHEMA, keys=())
def update_hostname(ctx: Context) -> None:
    """Set the host name again when configuration or metadata have another one than at the last boot.

    Only if /etc/hostname still holds what cloudboot set last: a name that the administrator gave stays.
    `preserve_hostname: true` leaves the name alone.
    """
    host, config = ctx.host, ctx.config
    if config.get("preserve_hostname"):
        return
    names = hostname.resolve(config, ctx.instance.hostname)
    ours = hostname.name_in(host.text(f"{ctx.commands.folder}/hostname"))
    text = host.text(hostname.HOSTNAME_FILE)
    current = hostname.name_in(text)
    if names is None or not ours or not current:
        return
    name = names.chosen(config)
    if current == name == ours:
        return
    if current not in (ours, name):
        host.log.info(f"the host name {current!r} is not the one that we set ({ours!r}): left alone")
        return
    host.keep(WriteFile(f"{ctx.commands.folder}/hostname", f"{name}\n".encode(), 0o600))
    if current == name:
        return
    host.write(hostname.HOSTNAME_FILE, hostname.with_name(text, name))
    if (host.text(hostname.KERNEL_NAME) or "").strip() == name:
        return
    if host.live and host.which("hostname") is None:
        ctx.fail("hostname: not found: install hostname; the name counts from the next boot on")
        return
    host.run(["hostname", name], live="the name of the running kernel")
