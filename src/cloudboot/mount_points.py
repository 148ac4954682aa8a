"""Mount points: what fstab says for one is mounted there, unless systemd is about to do it."""

from __future__ import annotations

import time

from cloudboot import disks, systemd
from cloudboot.errors import CommandError
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host

LIMIT = 30  # seconds for one mount
SYSTEMD_LIMIT = 35.0  # seconds: a device timeout, and the mount
LIVE = "mounts are those of the running machine"


class MountPoint(NamedTuple):
    """What fstab says for a mount point is mounted there."""

    target: str
    source: str

    @property
    def text(self) -> str:
        return f"run mount {self.target}"

    @property
    def live_only(self) -> str | None:
        return LIVE

    def done(self, host: Host) -> bool:
        return is_mounted(host, self.target)

    def apply(self, host: Host) -> None:
        def waiting(seconds: float) -> None:
            if seconds == 2:
                host.log.say(f"waits for {self.source} to be mounted on {self.target}, at most {LIMIT} s")

        argv = ["mount", self.target]
        result = host.spawn(argv, timeout=LIMIT, waiting=waiting)
        if not result.ok:
            raise CommandError(argv, result.status, result.output)


def is_mounted(host: Host, target: str) -> bool:
    """Tell whether something is mounted on a mount point, which may be given through symlinks."""
    return disks.mounted(host, host.root.resolve(target)) is not None


def leave_to_systemd(
    host: Host,
    target: str,
    *,
    limit: float = SYSTEMD_LIMIT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait while systemd is about to mount a line that it knows from this boot's start, or to grow what it has mounted.

    Two mounts at once stack: the kernel's new mount interface does not refuse the same file system twice. Of two that
    grow a file system at once it refuses one (EBUSY).
    """
    units = [systemd.mount_unit(target), f"systemd-growfs@{systemd.escaped(target)}.service"]
    end = clock() + limit
    while clock() < end:
        answer = host.ask(["systemctl", "show", "-p", "Job,ActiveState", *units], timeout=10)
        if not systemd.working(answer.output):
            return
        sleep(0.1)
