"""timezone: the system's time zone."""

from __future__ import annotations

from cloudboot.errors import ConfigError
from cloudboot.module import Context, Frequency, Stage, module

ZONES = "/usr/share/zoneinfo"


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    light=True,
    schema={
        "timezone": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$",
            "x-form": "Area/City",
            "examples": ["Europe/Berlin", "Etc/UTC"],
        }
    },
)
def timezone(ctx: Context) -> None:
    """Set the system time zone: /etc/localtime points into the zone database, /etc/timezone holds the name."""
    zone = ctx.config["timezone"]
    if not ctx.host.exists(f"{ZONES}/{zone}"):
        raise ConfigError(f"timezone: no such zone in {ZONES}: {zone!r} (is tzdata installed?)")
    ctx.host.write("/etc/timezone", f"{zone}\n")
    ctx.host.symlink("/etc/localtime", f"{ZONES}/{zone}")
