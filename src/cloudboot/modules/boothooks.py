"""boothooks: the `#cloud-boothook` parts of the user data, first of all, at every boot."""

from __future__ import annotations

from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.userdata.placement import BOOTHOOKS

FOLDERS = (BOOTHOOKS, f"{BOOTHOOKS}-vendor")


def _none(facts: Facts) -> bool:
    return not any(facts.host.listdir(f"{facts.folder}/{name}") for name in FOLDERS)


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.ALWAYS,
    keys=(),
    converges=False,
    essential=True,  # cloud-init's lists of modules, which owners copy, do not name it: it is no module there
    idle=_none,
)
def boothooks(ctx: Context) -> None:
    """Run the `#cloud-boothook` parts at every boot, before anything else, each with a result of its own.

    `INSTANCE_ID` is in the environment. One that fails is reported, and the boot goes on.
    """
    for name in FOLDERS:
        folder = f"{ctx.commands.folder}/{name}"
        for hook in ctx.host.listdir(folder):
            ctx.commands.script(f"{name}/{hook}", [f"{folder}/{hook}"], env={"INSTANCE_ID": ctx.instance.id})
