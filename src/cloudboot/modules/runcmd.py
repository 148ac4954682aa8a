"""runcmd: the owner's commands at the end of the first boot."""

from __future__ import annotations

from cloudboot.commands import quote
from cloudboot.module import Context, Frequency, Stage, module

COMMANDS = {  # a command may hold a secret
    "type": ["array", "null"],
    "items": {
        "anyOf": [
            {"type": ["string", "null"], "x-secret": True},
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
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={"runcmd": {**COMMANDS, "examples": [["systemctl restart nginx", ["echo", "done"]]]}},
    converges=False,
    network=True,
)
def runcmd(ctx: Context) -> None:
    """Run commands once for each instance, as root, in one /bin/sh: `cd`, variables, `set -e` and `if` carry over.

    A text is given to the shell as it is, a list is a command with its words, null is nothing. Each item has a result
    of its own. `cloudboot single --module runcmd --from N` begins with item N.
    """
    items = [":" if item is None else quote(item) for item in ctx.config["runcmd"] or ()]
    if items:
        ctx.commands.shell("runcmd", items, start=ctx.resume_from or 1)
