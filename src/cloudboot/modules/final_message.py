"""final_message: the last word of a boot, on the console."""

from __future__ import annotations

import re
import time

from cloudboot import __version__
from cloudboot.actions import WriteFile
from cloudboot.module import Context, Frequency, Level, Stage, module

LIMIT = 1 << 14  # characters: a serial console takes about 11 kB/s
DEFAULT = "cloudboot $version finished at $timestamp. Datasource $datasource. Up $uptime seconds"


@module(
    stage=Stage.FINAL,
    frequency=Frequency.ALWAYS,
    schema={"final_message": {"type": "string", "examples": ["ready after $uptime seconds"]}},
    keys=(),
    light=True,
)
def final_message(ctx: Context) -> None:
    """Say on the console that the boot is over, and leave `boot-finished` beside the instance's semaphores.

    `$version`, `$timestamp`, `$datasource`, `$uptime` are filled in (also in capitals, also as `{{version}}`); a text
    that begins with `## template: jinja` is rendered.
    """
    uptime = (ctx.host.text("/proc/uptime") or "0").split()[0]
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(ctx.host.now()))
    facts = {"version": __version__, "timestamp": stamp, "datasource": ctx.datasource, "uptime": uptime}
    text = str(ctx.config.get("final_message") or DEFAULT).strip()
    if ctx.datasource == "None":
        ctx.host.log.warning("no datasource knows this machine: it was configured by its image alone")
    if "jinja" in text.partition("\n")[0] and text.startswith("##"):
        text = rendered(ctx, text, facts)

    def fill(found: re.Match[str]) -> str:
        name = next(group for group in found.groups() if group)
        if name.lower() not in facts:
            ctx.report(f"final_message: no such variable: {name!r}", ("final_message",), Level.WARNING)
        return facts.get(name.lower(), found.group(0))

    ctx.host.log.print(re.sub(r"\$\{?([A-Za-z_]+)\}?|\{\{\s*([A-Za-z_]+)\s*\}\}", fill, text))
    ctx.host.keep(WriteFile(f"{ctx.commands.folder}/boot-finished", f"{uptime} - {stamp}\n".encode(), 0o600))


def rendered(ctx: Context, text: str, facts: dict[str, str]) -> str:
    """Render a message that is a jinja template; one that cannot be is shown as it is."""
    from cloudboot.userdata.template import TemplateFault, render

    body = text.partition("\n")[2]
    try:
        made = render(body, facts | {name.upper(): value for name, value in facts.items()}, LIMIT)
    except TemplateFault as error:
        ctx.report(f"final_message: {str(error).removesuffix(': left out')}", ("final_message",), Level.WARNING)
        return body
    for name in dict.fromkeys(each.name for each in made.missing):
        ctx.report(f"final_message: no such variable: {name!r}", ("final_message",), Level.WARNING)
    return made.text
