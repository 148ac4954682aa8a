"""scripts_user: the owner's scripts that run once for each instance."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.scripts import none_of, run_parts


@module(stage=Stage.FINAL, frequency=Frequency.INSTANCE, keys=(), converges=False, idle=none_of("user"))
def scripts_user(ctx: Context) -> None:
    """Run the `#!` parts of the user data once for each instance, in the order of their names."""
    run_parts(ctx, "user", image=False)
