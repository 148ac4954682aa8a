"""set_hostname: give a new instance its name."""

from __future__ import annotations

from cloudboot import hostname
from cloudboot.module import Context, Frequency, Stage, module


@module(stage=Stage.NETWORK, frequency=Frequency.INSTANCE, schema=hostname.SCHEMA, keys=())
def set_hostname(ctx: Context) -> None:
    """Set the host name, in /etc/hostname and in the kernel, from `fqdn`, `hostname` or the metadata.

    `preserve_hostname: true` leaves the name alone. With `create_hostname_file: false` /etc/hostname is not made where
    it is missing. What was set is remembered beside the semaphores, for update_hostname.
    """
    config = ctx.config
    if config.get("preserve_hostname"):
        return
    names = hostname.resolve(config, ctx.instance.hostname)
    if names is None:
        if ctx.instance.hostname:
            ctx.report(f"hostname: the metadata service's name is no host name: {ctx.instance.hostname!r:.80}")
        return
    name = names.chosen(config)
    if config.get("prefer_fqdn_over_hostname") and name != names.fqdn:
        told = f"fqdn: longer than {hostname.NAME_LIMIT} characters: the host name is {name!r}"
        ctx.report(told, ("fqdn",))
    hostname.give(ctx.host, ctx.commands.folder, name, create=config.get("create_hostname_file", True))
