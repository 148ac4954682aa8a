"""resolv_conf: name servers that the network does not tell."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.checker import Schema

PATH = "/etc/resolv.conf"
DROP_IN = "/etc/systemd/resolved.conf.d/60-cloudboot.conf"
STUBS = ("/run/systemd/resolve/", "/usr/lib/systemd/resolv.conf", "/lib/systemd/resolv.conf")
HEAD = "# Written by cloudboot (resolv_conf).\n"
IPV4, IPV6 = r"[0-9]{1,3}(\.[0-9]{1,3}){3}", r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[\w.-]+)?"
ADDRESS: Schema = {"type": "string", "pattern": rf"^({IPV4}|{IPV6})$(?!\n)", "x-form": "an address"}
DOMAIN: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9_.~-]+$(?!\n)", "x-form": "a domain"}


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "manage_resolv_conf": {"default": False, "type": "boolean", "examples": [True]},
        "resolv_conf": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "nameservers": {"type": "array", "items": ADDRESS},
                "searchdomains": {"type": "array", "items": DOMAIN},
                "domain": DOMAIN,
                "sortlist": {"type": "array", "items": {"type": "string", "pattern": r"^[0-9./]+$(?!\n)"}},
                "options": {"type": "object", "additionalProperties": {"type": ["boolean", "integer", "string"]}},
            },
            "examples": [
                {"nameservers": ["192.0.2.53"], "searchdomains": ["example.com"], "options": {"rotate": True}}
            ],
        },
    },
    keys=("manage_resolv_conf",),
)
def resolv_conf(ctx: Context) -> None:
    """Set name servers and search domains, with `manage_resolv_conf: true`.

    Where /etc/resolv.conf is systemd-resolved's, a drop-in says it to resolved, which has no `sortlist` and no
    `options`; else the file itself is written.
    """
    settings = ctx.config.get("resolv_conf") or {}
    if not ctx.config["manage_resolv_conf"]:
        return
    if not settings:
        ctx.report("manage_resolv_conf: there is no resolv_conf to write", ("manage_resolv_conf",), Level.WARNING)
        return
    target = ctx.host.root.readlink(PATH)
    if target is None or not ctx.host.root.resolve(PATH).startswith(STUBS):
        ctx.host.write(PATH, plain(settings))
        return
    for key in ("sortlist", "options"):
        if settings.get(key):
            ctx.report(f"resolv_conf.{key}: systemd-resolved has none: left out", ("resolv_conf", key), Level.WARNING)
    domains = [*([settings["domain"]] if "domain" in settings else []), *(settings.get("searchdomains") or ())]
    lines = [f"DNS={' '.join(settings['nameservers'])}"] if settings.get("nameservers") else []
    lines += [f"Domains={' '.join(domains)}"] if domains else []
    text = f"{HEAD}[Resolve]\n" + "".join(f"{line}\n" for line in lines)
    if ctx.host.write(DROP_IN, text):
        ctx.host.run(
            ["systemctl", "try-restart", "--no-block", "systemd-resolved.service"], live="resolves nothing here"
        )


def plain(settings: dict[str, Any]) -> str:
    """Return resolv.conf(5)."""
    lines = [f"nameserver {address}" for address in settings.get("nameservers") or ()]
    lines += [f"domain {settings['domain']}"] if "domain" in settings else []
    lines += [f"search {' '.join(settings['searchdomains'])}"] if settings.get("searchdomains") else []
    lines += [f"sortlist {' '.join(settings['sortlist'])}"] if settings.get("sortlist") else []
    options = settings.get("options") or {}
    words = [name if value is True else f"{name}:{value}" for name, value in options.items() if value is not False]
    lines += [f"options {' '.join(words)}"] if words else []
    return HEAD + "".join(f"{line}\n" for line in lines)
