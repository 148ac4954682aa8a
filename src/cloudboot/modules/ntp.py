"""ntp: where the clock gets its time from."""

from __future__ import annotations

from cloudboot import apt, distro, ntp_clients, packages
from cloudboot.errors import ConfigError
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.ntp_clients import Client
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.checker import Schema

POOLS = 4  # of the distribution's own, where nothing is named: 0.debian.pool.ntp.org …
LIMIT = 1 << 20  # characters of a rendered template
ADDRESS: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9_.:%-]+$(?!\n)", "x-form": "a name or an address"}
ADDRESSES: Schema = {"type": "array", "items": ADDRESS}
NETWORK: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9_.:/-]+$(?!\n)", "x-form": "192.0.2.0/24"}
WORD: Schema = {"type": "string", "minLength": 1}
FIELDS = {"check_exe": "program", "confpath": "path", "packages": "packages", "service_name": "service"}


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "ntp": {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {
                "enabled": {"default": True, "type": "boolean"},
                "ntp_client": {**WORD, "default": "auto"},
                "servers": ADDRESSES,
                "pools": ADDRESSES,
                "peers": ADDRESSES,
                "allow": {"type": "array", "items": NETWORK},
                "config": {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "properties": {
                        "confpath": {"type": "string", "pattern": "^/", "x-form": "an absolute path"},
                        "check_exe": WORD,
                        "packages": {
                            "type": "array",
                            "items": {"type": "string", "pattern": apt.WORD, "x-form": "a package's name"},
                        },
                        "service_name": {
                            "type": "string",
                            "pattern": r"^[A-Za-z0-9_.@:\\-]+$(?!\n)",
                            "x-form": "a service's name",
                        },
                        "template": WORD,
                    },
                },
            },
            "examples": [
                {"servers": ["ntp.example.com", "192.0.2.123"], "pools": ["0.pool.ntp.org"]},
                {"ntp_client": "chrony", "config": {"template": "{% for s in servers %}server {{ s }}\n{% endfor %}"}},
            ],
        }
    },
    network=True,
)
def ntp(ctx: Context) -> None:
    """Configure a time client with `servers`, `pools`, `peers` and whom it serves (`allow`), and start it again.

    `ntp_client: auto` takes the first that is there of chrony, systemd-timesyncd, openntpd and ntp, and else installs
    chrony. Without servers and pools it gets the distribution's (0.debian.pool.ntp.org …). Of the package's own
    configuration only the sources are replaced; it is kept beside as FILE.dist. `config` overrides parts of that: its
    `template` (jinja, with the variables servers, pools, peers and allow) is then the whole file. `ntp: null` means the
    defaults, `enabled: false` nothing at all.
    """
    settings: dict[str, Any] = ctx.config["ntp"] or {}
    if not settings.get("enabled", True):
        return
    client = chosen(ctx, settings)
    sources = {kind: list(dict.fromkeys(settings.get(kind) or ())) for kind in ntp_clients.KINDS}
    if not sources["servers"] and not sources["pools"]:
        name = distro.read(ctx.host).name
        sources["pools"] = [f"{number}.{name}.pool.ntp.org" for number in range(POOLS)]
    template = (settings.get("config") or {}).get("template")
    text = rendered(ctx, template, sources) if template else None
    if ctx.host.which(client.program) is None and not install(ctx, client):
        return
    if not write(ctx, client, sources, text):
        return
    if client.check and text_refused(ctx, client):
        return
    service = client.service if "." in client.service else f"{client.service}.service"
    ctx.host.run(["systemctl", "reload-or-restart", "--no-block", service], live="no clock is kept in an image tree")


def chosen(ctx: Context, settings: dict[str, Any]) -> Client:
    """Return the client to configure, with what `config` overrides. Raises ConfigError if that leaves it incomplete."""
    host, own = ctx.host, settings.get("config") or {}
    wished = settings.get("ntp_client") or (ctx.image.get("system_info") or {}).get("ntp_client") or "auto"
    given = {field: own[key] for key, field in FIELDS.items() if key in own}
    given |= {"packages": tuple(own["packages"])} if "packages" in own else {}
    if wished == "auto":
        there = (each for each in ntp_clients.CLIENTS if host.which(each.program) is not None)
        return next(there, ntp_clients.DEFAULT)._replace(**given)
    client = ntp_clients.find(wished)
    if client is not None:
        return client._replace(**given)
    missing = [key for key in (*FIELDS, "template") if key not in own]
    if missing:
        known = ", ".join(["auto", *(each.name for each in ntp_clients.CLIENTS)])
        told = f"not known: {wished!r}: take one of {known}, or give config.{', config.'.join(missing)}"
        raise ConfigError(f"ntp.ntp_client: {told}")
    return Client(wished, own["check_exe"], given["packages"], own["service_name"], own["confpath"], {})


def rendered(ctx: Context, template: str, sources: dict[str, list[str]]) -> str:
    """Render the owner's template; a variable that there is not is reported. Raises ConfigError if it cannot be."""
    import re

    from cloudboot.userdata.template import TemplateFault, render

    try:
        made = render(re.sub(r"\A##\s*template:[^\n]*\n", "", template), sources, LIMIT)
    except TemplateFault as error:
        told = str(error).removesuffix(": left out")
        raise ConfigError(f"ntp.config.template: {told}: the clock's source stays as it is") from None
    for name in dict.fromkeys(each.name for each in made.missing):
        known = ", ".join(sources)
        ctx.report(f"ntp.config.template: no such variable: {name!r}: there are {known}", ("ntp", "config", "template"))
    return made.text


def install(ctx: Context, client: Client) -> bool:
    """Install a client; tell whether it is there now, or will be."""
    if not client.packages:
        ctx.fail(f"{client.program}: not found, and config.packages names no package that holds it")
        return False
    return packages.bring(ctx, client.packages, program=client.program)


def write(ctx: Context, client: Client, sources: dict[str, list[str]], text: str | None) -> bool:
    """Write a client's configuration, the package's own kept beside; tell whether that changed anything."""
    host, kept = ctx.host, f"{client.path}.dist"
    before = host.read(client.path)
    original = host.read(kept) or before
    if text is None:
        for kind in ntp_clients.KINDS:
            if sources[kind] and kind not in client.lines:
                ctx.report(f"ntp.{kind}: {client.name} has none: left out", ("ntp", kind), Level.WARNING)
        text = ntp_clients.render(client, None if original is None else original.decode("utf-8", "replace"), sources)
    after = text.encode("utf-8", "surrogateescape")
    ours = before is None or before == after or before.startswith(ntp_clients.OURS.encode())
    if client.replaces and not ours and not host.exists(kept):
        host.write(kept, before or b"", mode=None, owner=None)
    return host.write(client.path, after)


def text_refused(ctx: Context, client: Client) -> bool:
    """Tell whether a client that is there cannot read its configuration; that is then said."""
    if not ctx.host.live or ctx.host.which(client.check[0]) is None:
        return False
    checked = ctx.host.ask([*client.check, "-f", client.path])
    if checked.ok:
        return False
    lines = [line.strip() for line in checked.output.splitlines() if line.strip()] or ["it says nothing"]
    ctx.fail(f"{client.name} refuses {client.path}: {lines[-1][:200]}: the running one stays")
    return True
