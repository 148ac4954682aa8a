"""What a module needs to be installed for its work: through apt, and said where that fails."""

from __future__ import annotations

from cloudboot import apt
from cloudboot.errors import CommandError, NeedsNetwork
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.module import Context


def bring(ctx: Context, names: Sequence[str], *, program: str | None = None) -> bool:
    """Install packages, unless their program is there, or they themselves are; tell whether all is there, or will be.

    Raises NeedsNetwork where there is no network yet.
    """
    host = ctx.host
    if program is not None and host.which(program) is not None:
        return True
    if program is None:
        present = apt.have(host)
        names = [name for name in names if not present.satisfies(name)]
    if not names:
        return True
    if ctx.fetcher.offline:
        raise NeedsNetwork(f"{ctx.name}: {', '.join(names)} to be installed")
    try:
        apt.update(host, ctx.commands.folder)
    except CommandError as error:
        ctx.fail(f"apt-get update: {apt.reason(error)}")
    failed = apt.install(host, names)
    for word, reason in failed.items():
        ctx.fail(f"{word}: not installed: {reason}")
    return not failed
