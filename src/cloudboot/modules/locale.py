"""locale: the system's language."""

from __future__ import annotations

import re

from cloudboot.errors import ConfigError
from cloudboot.module import Context, Frequency, Stage, module

SUPPORTED = "/usr/share/i18n/SUPPORTED"  # what can be generated: "de_DE.UTF-8 UTF-8"
LIST = "/etc/locale.gen"
DEFAULT_FILE = "/etc/default/locale"
BUILT_IN = ("c", "posix", "c.utf8")


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "locale": {
            "anyOf": [
                {"type": "string", "pattern": r"^[A-Za-z0-9_.@-]+$", "x-form": "language_COUNTRY.UTF-8"},
                {"type": "boolean", "enum": [False]},
            ],
            "examples": ["de_DE.UTF-8", False],
        },
        "locale_configfile": {
            "default": "/etc/default/locale",
            "type": "string",
            "pattern": "^/",
            "x-form": "an absolute path",
            "examples": [DEFAULT_FILE],
        },
    },
    keys=("locale",),
)
def locale(ctx: Context) -> None:
    """Generate a locale and make it the system's default: /etc/locale.gen, LANG in /etc/default/locale.

    `locale: false` leaves the image's. `C.UTF-8`, `C` and `POSIX` need no generating. `locale_configfile` is another
    file for LANG.
    """
    wanted = str(ctx.config["locale"]).strip()
    if wanted.lower() in ("", "false", "no", "off", "0"):
        return
    name = wanted
    if plain(wanted) not in BUILT_IN:
        line = supported_line(ctx, wanted)
        if line is None:
            return
        name = line.partition(" ")[0]
        generate(ctx, name, line)
    path = ctx.config.get("locale_configfile") or DEFAULT_FILE
    text = ctx.host.text(path) or ""
    ctx.host.write(path, with_lang(text, name))


def supported_line(ctx: Context, wanted: str) -> str | None:
    """Return the line of SUPPORTED that is meant; None, and a failure noted, if locales cannot be generated here."""
    known = ctx.host.text(SUPPORTED)
    if known is None or (ctx.host.live and ctx.host.which("locale-gen") is None):
        ctx.fail(
            f"locale-gen: not found: install locales, then `cloudboot single --module locale` ({wanted!r} not set)"
        )
        return None
    lines = [line.strip() for line in known.splitlines() if line.strip() and not line.startswith("#")]
    found = next((line for line in lines if plain(line.partition(" ")[0]) == plain(wanted)), None)
    if found is None:
        import difflib

        close = difflib.get_close_matches(wanted, [line.partition(" ")[0] for line in lines], 1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"locale: {SUPPORTED} has no {wanted!r}{hint}")
    return found


def generate(ctx: Context, name: str, line: str) -> None:
    """Have a locale made unless `locale -a` knows it."""
    text = ctx.host.text(LIST) or ""
    if any(plain(known) == plain(name) for known in ctx.host.ask(["locale", "-a"]).output.split()):
        return
    ctx.host.write(LIST, with_locale(text, line))
    ctx.host.run(["locale-gen", "--keep-existing"])


def plain(name: str) -> str:
    """Return a locale's name as glibc compares it: `de_DE.UTF-8` and `de_DE.utf8` are one."""
    language, dot, rest = name.partition(".")
    codeset, at, modifier = rest.partition("@")
    return (language + dot + re.sub(r"[^A-Za-z0-9]", "", codeset) + at + modifier).lower()


def with_locale(text: str, line: str) -> str:
    """Return /etc/locale.gen with a locale's line switched on: the commented one, else a new one at its end."""
    lines = text.splitlines()
    if line in (each.strip() for each in lines):
        return text
    for number, each in enumerate(lines):
        if each.lstrip().startswith("#") and each.lstrip("# \t").strip() == line:
            lines[number] = line
            break
    else:
        lines.append(line)
    return "\n".join(lines) + "\n"


def with_lang(text: str, name: str) -> str:
    """Return a file of assignments with LANG set, every other line as it is."""
    lines = text.splitlines()
    places = [number for number, line in enumerate(lines) if re.match(r"\s*(export\s+)?LANG=", line)]
    if not places:
        return "\n".join([*lines, f"LANG={name}"]) + "\n"
    lines[places[-1]] = f"LANG={name}"
    return "\n".join(lines) + "\n"
