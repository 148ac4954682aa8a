"""write_files_deferred: those of the owner's files that wait for users and packages."""

from __future__ import annotations

from cloudboot import written_files
from cloudboot.module import Context, Facts, Frequency, Stage, module


def none_deferred(facts: Facts) -> bool:
    """Tell whether no file says `defer: true`."""
    return not any(entry.get("defer") for entry in facts.config.get("write_files") or ())


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={"write_files": written_files.SCHEMA},
    idle=none_deferred,
)
def write_files_deferred(ctx: Context) -> None:
    """Write the files of `write_files` that say `defer: true`, after users were made and packages installed."""
    written_files.write(ctx, deferred=True)
