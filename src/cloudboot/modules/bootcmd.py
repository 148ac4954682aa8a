"""bootcmd: the owner's commands early in every boot."""

from __future__ import annotations

from cloudboot.commands import quote
from cloudboot.module import Context, Frequency, Stage, module

COMMANDS = {  # a command may hold a secret
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string", "x-secret": True},
            {
                "type": "array",
                "items": {"type": ["string", "integer", "number"], "x-secret": True},
                "x-whole": True,
                "minItems": 1,
            },
        ]
    },
}


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.ALWAYS,
    schema={"bootcmd": {**COMMANDS, "examples": [["echo 1 > /proc/sys/net/ipv4/ip_forward", ["modprobe", "dummy"]]]}},
    converges=False,
    network=True,
)
def bootcmd(ctx: Context) -> None:
    """Run commands before files are written and users are made, at every boot, as root, in one /bin/sh.

    A text is given to the shell as it is, a list is a command with its words. `INSTANCE_ID` is in the environment.
    """
    ctx.commands.shell("bootcmd", [quote(item) for item in ctx.config["bootcmd"]], env={"INSTANCE_ID": ctx.instance.id})
