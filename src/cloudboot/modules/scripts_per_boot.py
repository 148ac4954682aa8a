"""scripts_per_boot: the owner's scripts that run at every boot."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.scripts import none_of, run_parts


@module(stage=Stage.FINAL, frequency=Frequency.BOOT, keys=(), converges=False, idle=none_of("per-boot"))
def scripts_per_boot(ctx: Context) -> None:
    """Run scripts at every boot, in the order of their names.

    They are parts of the user data of type `text/x-shellscript-per-boot`, and files in
    /var/lib/cloudboot/scripts/per-boot and /var/lib/cloud/scripts/per-boot.
    """
    run_parts(ctx, "per-boot")
