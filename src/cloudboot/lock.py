"""One cloudboot at a time: a lock that names its holder and is gone with it."""

from __future__ import annotations

import fcntl
import os
import time

from cloudboot.actions import MakeDir
from cloudboot.errors import LockBusy
from cloudboot.status import RUN
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host

LOCK = f"{RUN}/lock"


class Held(NamedTuple):
    """The lock, until the end of a `with`. (`contextlib` would be 0.7 ms of import in each stage.)"""

    file: int

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        os.close(self.file)


def locked(
    host: Host,
    what: str,
    *,
    wait: float | None = None,
    path: str = LOCK,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Held:
    """Take the lock, or the one at `path`. `wait`: seconds to wait for it, None for ever.

    Raises LockBusy naming the holder.
    """
    host.keep(MakeDir(RUN))
    # For root alone: whoever may open a file may lock it, and a user could hold up the boot.
    file = os.open(host.root.outside(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        end = None if wait is None else clock() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if end is not None else 0))
                break
            except BlockingIOError:
                if end is not None and clock() >= end:
                    holder = os.pread(file, 200, 0).decode("utf-8", "replace").strip() or "another cloudboot"
                    raise LockBusy(f"busy after {wait:.0f} s: {holder}: try again when it is done") from None
                sleep(0.1)
        os.ftruncate(file, 0)
        os.pwrite(file, f"cloudboot {what} (pid {os.getpid()})\n".encode(), 0)
    except BaseException:
        os.close(file)
        raise
    return Held(file)
