"""scripts_per_once: the owner's scripts that run once in the life of this disk."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.scripts import none_of, run_parts


@module(stage=Stage.FINAL, frequency=Frequency.ONCE, keys=(), converges=False, idle=none_of("per-once"))
def scripts_per_once(ctx: Context) -> None:
    """Run scripts once in the life of this disk, in the order of their names.

    They are parts of the user data of type `text/x-shellscript-per-once`, and files in
    /var/lib/cloudboot/scripts/per-once and /var/lib/cloud/scripts/per-once.
    """
    run_parts(ctx, "per-once")
