"""update_etc_hosts: the machine's own name in /etc/hosts."""

from __future__ import annotations

from cloudboot import hostname
from cloudboot.module import Context, Frequency, Level, Stage, module

HOSTS = "/etc/hosts"
OWN = "127.0.1.1"  # Debian's address for the machine's own name
TEMPLATE = """\
# Written by cloudboot at every boot (manage_etc_hosts: true). To keep your own lines here, set
# `manage_etc_hosts: localhost` or `false` in user data or in /etc/cloudboot/conf.d.
{own}
127.0.0.1 localhost

::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.ALWAYS,
    schema={
        "manage_etc_hosts": {
            "default": False,
            "enum": [True, False, "localhost", "template"],
            "examples": [True, "localhost"],
        },
        "hostname": hostname.SCHEMA["hostname"],
        "fqdn": hostname.SCHEMA["fqdn"],
    },
    keys=("manage_etc_hosts",),
)
def update_etc_hosts(ctx: Context) -> None:
    """Keep the machine's name in /etc/hosts, at every boot.

    `manage_etc_hosts: true` writes the whole file, `localhost` only the `127.0.1.1 FQDN NAME` line and leaves every
    other line as it is, `false` nothing.
    """
    how = ctx.config["manage_etc_hosts"]
    if how is False:
        return
    if how == "template":
        told = "manage_etc_hosts: 'template' is deprecated since 22.3: write true"
        ctx.report(told, ("manage_etc_hosts",), Level.DEPRECATED)
    names = hostname.resolve(ctx.config, ctx.instance.hostname)
    if names is None:
        current = hostname.name_in(ctx.host.text(hostname.HOSTNAME_FILE)) or "localhost"
        names = hostname.Names(current.partition(".")[0], current)
    own = " ".join(dict.fromkeys([OWN, names.fqdn, names.hostname]))
    if how == "localhost":
        text = ctx.host.read(HOSTS) or b""
        ctx.host.write(HOSTS, with_line(text, own.encode()), mode=None, owner=None)
    else:
        ctx.host.write(HOSTS, TEMPLATE.format(own=own))


def with_line(text: bytes, own: bytes) -> bytes:
    """Return /etc/hosts with our line in it, all other lines byte for byte as they are.

    It takes the place of the first line for 127.0.1.1, else it follows the one for 127.0.0.1.
    """
    lines = text.splitlines(keepends=True)
    words = [line.partition(b"#")[0].split() for line in lines]
    if own.split() in words:
        return text
    addresses = [each[0] if each else b"" for each in words]
    if OWN.encode() in addresses:
        lines[addresses.index(OWN.encode())] = own + b"\n"
        return b"".join(lines)
    place = addresses.index(b"127.0.0.1") + 1 if b"127.0.0.1" in addresses else len(lines)
    if place and not lines[place - 1].endswith(b"\n"):
        lines[place - 1] += b"\n"
    return b"".join([*lines[:place], own + b"\n", *lines[place:]])
