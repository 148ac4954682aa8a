"""scripts_per_instance: the owner's scripts that run once for each instance."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.scripts import none_of, run_parts


@module(stage=Stage.FINAL, frequency=Frequency.INSTANCE, keys=(), converges=False, idle=none_of("per-instance"))
def scripts_per_instance(ctx: Context) -> None:
    """Run scripts once for each instance, in the order of their names.

    They are parts of the user data of type `text/x-shellscript-per-instance`, and files in
    /var/lib/cloudboot/scripts/per-instance and /var/lib/cloud/scripts/per-instance.
    """
    run_parts(ctx, "per-instance")
