"""keyboard: the layout of the console's keyboard, and of a desktop's."""

from __future__ import annotations

import re

from cloudboot.config import suggestion
from cloudboot.errors import ConfigError
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.checker import Schema

FILE = "/etc/default/keyboard"
# What XKB has of itself; the lists beside them (base.lst) leave out the rarer half.
SYMBOLS = "/usr/share/X11/xkb/symbols"  # a file for each layout, with its variants
RULES = "/usr/share/X11/xkb/rules/base"  # options, and older names of layouts
NEW = "# Consult the keyboard(5) manual page.\nBACKSPACE=guess\n"
# The file is read by a shell: nothing in it may be more than a word.
WORDS: Schema = {"type": "string", "pattern": r"^[A-Za-z0-9_,:()+-]*$(?!\n)", "x-form": "a name of XKB's"}
FIELDS = {"XKBMODEL": "model", "XKBLAYOUT": "layout", "XKBVARIANT": "variant", "XKBOPTIONS": "options"}


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "keyboard": {
            "type": "object",
            "additionalProperties": False,
            "required": ["layout"],
            "properties": {
                "layout": {**WORDS, "minLength": 1},
                "model": {**WORDS, "default": "pc105"},
                "variant": WORDS,
                "options": WORDS,
            },
            "examples": [{"layout": "us", "model": "pc105", "variant": "nodeadkeys", "options": "compose:rwin"}],
        }
    },
)
def keyboard(ctx: Context) -> None:
    """Set the keyboard's layout, model (pc105), variant and options: /etc/default/keyboard, then console-setup.

    Names are XKB's; where the machine has its data (xkb-data), a layout, variant or option that it does not know is
    reported and left out. Other lines of the file stay.
    """
    settings: dict[str, str] = {"model": "pc105", "variant": "", "options": "", **ctx.config["keyboard"]}
    sort_out(ctx, settings)
    text = ctx.host.text(FILE)
    after = with_values(NEW if text is None else text, {name: settings[field] for name, field in FIELDS.items()})
    changed = ctx.host.write(FILE, after)
    if ctx.host.live and ctx.host.which("setupcon") is None:
        ctx.fail(f"setupcon: not found: install console-setup: the console's keys stay ({FILE} is written)")
    elif changed:
        ctx.host.run(["systemctl", "restart", "--no-block", "console-setup.service"], live="no console is set up")


def sort_out(ctx: Context, settings: dict[str, str]) -> None:
    """Leave out what XKB does not know. Raises ConfigError for a layout: without it nothing is to be set."""
    files, rules = ctx.host.listdir(SYMBOLS), set((ctx.host.text(RULES) or "").split())
    if not files or not rules:
        return
    layouts = settings["layout"].split(",")
    for layout in layouts:
        if layout not in files and layout not in rules:
            hint = suggestion(layout, tuple(files))
            raise ConfigError(
                f"keyboard.layout: XKB has none of this name: {layout!r}{hint}: the keyboard stays as it is"
            )
    for layout, variant in zip(layouts, settings["variant"].split(","), strict=False):
        known = variants(ctx.host.text(f"{SYMBOLS}/{layout}") or "")
        if variant and variant not in known and variant not in rules:
            told = f"{layout!r} has none of this name: {variant!r}{suggestion(variant, tuple(known))}: left out"
            ctx.report(f"keyboard.variant: {told}", ("keyboard", "variant"))
            settings["variant"] = ""
    for option in settings["options"].split(","):
        if option and option not in rules:
            told = f"XKB has none of this name: {option!r}{suggestion(option, tuple(rules))}: left out"
            ctx.report(f"keyboard.options: {told}", ("keyboard", "options"))
            kept = [word for word in settings["options"].split(",") if word != option]
            settings["options"] = ",".join(kept)


def variants(text: str) -> list[str]:
    """Return the variants that a layout's file holds."""
    return re.findall(r'xkb_symbols\s+"([^"]+)"', text)


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Return a file of assignments with these in it; a line that says the same already stays as it is written."""
    lines = text.splitlines()
    for name, value in values.items():
        places = [number for number, line in enumerate(lines) if re.match(rf"\s*{name}=", line)]
        if not places:
            lines.append(f'{name}="{value}"')
        elif lines[places[-1]].partition("=")[2].strip().strip("\"'") != value:
            lines[places[-1]] = f'{name}="{value}"'
    return "".join(f"{line}\n" for line in lines)
