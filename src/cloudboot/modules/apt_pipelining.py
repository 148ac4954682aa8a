"""apt_pipelining: how many requests apt has in flight on one connection."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Level, Stage, module

PATH = "/etc/apt/apt.conf.d/90cloud-init-pipelining"


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "apt_pipelining": {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "boolean"},
                {"enum": ["os"]},
                {"enum": ["none", "unchanged"], "deprecated": "22.4: write os"},
            ],
            "examples": [False, 2],
        }
    },
)
def apt_pipelining(ctx: Context) -> None:
    """Write apt's pipeline depth; `false` is 0, `os` leaves the distribution's own."""
    wish = ctx.config["apt_pipelining"]
    if wish is False:
        wish = 0
    if wish is True:
        ctx.report("apt_pipelining: true says no depth: left as it is", ("apt_pipelining",), Level.WARNING)
    elif isinstance(wish, int):
        ctx.host.write(PATH, f'# Written by cloudboot (apt_pipelining).\nAcquire::http::Pipeline-Depth "{wish}";\n')
