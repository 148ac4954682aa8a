"""write_files: the owner's files."""

from __future__ import annotations

from cloudboot import written_files
from cloudboot.module import Context, Frequency, Stage, module


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.INSTANCE,
    schema={"write_files": written_files.SCHEMA},
)
def write_files(ctx: Context) -> None:
    """Write files with content, owner and permissions; `append: true` adds to what is there.

    Missing directories above are made (0755, the file's owner). A file that cannot be written is reported and the
    others are written. Below a user's home no symlink is followed. Users and packages are not there yet: what belongs
    to them says `defer: true` and is written by write_files_deferred.
    """
    written_files.write(ctx, deferred=False)
