"""power_state_change: switch the machine off, or start it again, when everything else is done."""

from __future__ import annotations

from cloudboot import power
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONDITION_TIMEOUT = 600  # seconds


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "power_state": {
            "type": "object",
            "additionalProperties": False,
            "required": ["mode"],
            "properties": {
                "mode": {"type": "string", "enum": ["poweroff", "reboot", "halt"]},
                "delay": {
                    "default": "now",
                    "anyOf": [
                        {"type": "string", "pattern": r"^(now|\+?[0-9]+)$", "x-form": "now, or minutes"},
                        {"type": "integer", "minimum": 0},
                    ],
                },
                "message": {"type": "string"},
                "timeout": {"default": 30, "type": "integer", "minimum": 1},
                "condition": {
                    "default": True,
                    "anyOf": [
                        {"type": "string"},
                        {"type": "boolean"},
                        {"type": "array", "items": {"type": "string"}, "x-whole": True, "minItems": 1},
                    ],
                },
            },
            "examples": [{"mode": "reboot", "delay": 5, "message": "back soon", "condition": "test -e /run/needs"}],
        }
    },
)
def power_state_change(ctx: Context) -> None:
    """Power off, reboot or halt once cloudboot has finished and written its result.

    `delay` is `now` or minutes. `condition`, a command or true or false, decides whether (exit status 0: yes, 1: no).
    `timeout`: seconds to wait for cloudboot's own end (30), else nothing is done.
    """
    settings = ctx.config["power_state"]
    for field in ("delay", "condition"):
        if field not in settings and ("power_state", field) in ctx.marks:
            # It was wrong and is left out; to do without would be to switch off what was to stay up for a while.
            ctx.report(f"power_state: nothing is done, because {field} is wrong", ("power_state", field))
            return
    if power.pending(ctx.host):
        ctx.host.log.info("a shutdown is scheduled already")
        return
    if not holds(ctx, settings.get("condition", True)):
        return
    if settings["mode"] == "halt" and ctx.instance.platform == "aws":
        ctx.host.log.say("power_state: halt leaves an EC2 instance running and billed: poweroff stops or terminates it")
    planned = power.shut_down(
        ctx.host,
        settings["mode"],
        when(ctx, settings.get("delay", "now")),
        settings.get("message", ""),
        settings.get("timeout", 30),
    )
    if planned:
        ctx.host.log.say(f"power_state: {settings['mode']} {told(settings.get('delay', 'now'))}")


def told(delay: int | str) -> str:
    """Say when."""
    minutes = 0 if delay == "now" else int(delay)
    return f"in {minutes} min" if minutes else "as soon as cloudboot has finished"


def when(ctx: Context, delay: int | str) -> str:
    """Return the delay as `shutdown` takes it."""
    if delay == "now":
        return "now"
    if isinstance(delay, str) and delay.startswith("+"):
        told = f"power_state.delay: {delay!r} is deprecated since 22.3: write {int(delay)}"
        ctx.report(told, ("power_state", "delay"), Level.DEPRECATED)
    return f"+{int(delay)}" if int(delay) else "now"


def holds(ctx: Context, condition: bool | str | Sequence[str]) -> bool:
    """Decide whether to go on. The owner's command only tells: it is asked, and only on a running machine."""
    if isinstance(condition, bool):
        return condition
    if not ctx.host.live:
        return True  # what would be done is recorded
    argv = ["/bin/sh", "-c", condition] if isinstance(condition, str) else list(condition)
    status = ctx.host.ask(argv, timeout=CONDITION_TIMEOUT).status
    if status in (0, 1):
        ctx.host.log.info(f"power_state.condition: {'holds' if status == 0 else 'does not hold: nothing is done'}")
        return status == 0
    told = f"power_state.condition: exit status {status} is neither 0 (yes) nor 1 (no): nothing is done"
    ctx.report(told, ("power_state", "condition"), Level.WARNING)
    return False
