"""fan: Ubuntu's fan networking."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.module import Context, Frequency, Stage, module


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "fan": {
            "type": "object",
            "additionalProperties": False,
            "required": ["config"],
            "properties": {
                "config": {"type": "string"},
                "config_path": {
                    "default": "/etc/network/fan",
                    "type": "string",
                    "pattern": "^/",
                    "x-form": "an absolute path",
                },
            },
            "examples": [{"config": "10.0.0.0/8 eth0/16 dhcp\n"}],
        }
    },
    network=True,
    distros=("ubuntu",),
)
def fan(ctx: Context) -> None:
    """Write `config` to `config_path` (/etc/network/fan), and have ubuntu-fan, installed if missing, take it up."""
    settings = ctx.config["fan"]
    if not ctx.host.write(settings.get("config_path", "/etc/network/fan"), settings["config"]):
        return
    if packages.bring(ctx, ["ubuntu-fan"], program="fanctl"):
        ctx.host.run(["systemctl", "restart", "--no-block", "ubuntu-fan.service"], live="nothing runs in an image tree")
