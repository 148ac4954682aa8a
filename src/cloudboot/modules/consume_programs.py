"""consume_programs: the programs of volumes, when the machine is ready for them."""

from __future__ import annotations

from cloudboot import volume_programs
from cloudboot.module import Context, Frequency, Stage, module


@module(stage=Stage.FINAL, frequency=Frequency.ALWAYS, keys=("consume",), idle=volume_programs.none_waits)
def consume_programs(ctx: Context) -> None:
    """Run the programs that `consume` has accepted from volumes, each once per volume, instance or boot, as it says.

    What runs is a verified copy that only root can change. A program that was interrupted is not started again.
    """
    volume_programs.run_all(ctx)
