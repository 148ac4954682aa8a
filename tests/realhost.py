"""A scratch machine on which the owner's commands really run: harmless ones, please."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casebook import ScratchHost
from cloudboot import process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class RealHost(ScratchHost):
    """Runs every program on this machine; words of the command line below /var/lib/cloudboot are the scratch tree's."""

    def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        output: int | None = None,
        fds: Mapping[int, int] | None = None,
        waiting: Callable[[float], None] | None = None,
    ) -> process.Result:
        self.spawned.append(" ".join(argv))
        inside = [self.root.outside(word) if word.startswith("/var/lib/cloudboot") else word for word in argv]
        return process.spawn(
            inside,
            stdin=stdin,
            env={**process.base_environment(), **(env or {})},
            output=output,
            fds=fds,
            timeout=timeout,
            waiting=waiting,
        )
