"""Switch the machine off or start it again, but not before cloudboot has finished and written its result."""

from __future__ import annotations

from cloudboot.lock import LOCK
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.host import Host

UNIT = "cloudboot-power.service"
AFTER = "cloudboot-final.service"
PENDING = f"/run/systemd/transient/{UNIT}"  # our unit waits
SCHEDULED = "/run/systemd/shutdown/scheduled"  # logind waits: `shutdown +N`
LETTERS = {"poweroff": "-P", "reboot": "-r", "halt": "-H"}


def pending(host: Host) -> bool:
    """Tell whether a shutdown waits already, ours or anybody's."""
    return host.exists(PENDING) or host.exists(SCHEDULED)


def shut_down(host: Host, mode: str, when: str = "now", message: str = "", wait: int | None = None) -> bool:
    """Schedule a shutdown for the end of this run; tell whether that was needed (none waits yet).

    mode: `poweroff`, `reboot` or `halt`. when: `now` or `+MINUTES`. wait: give up if cloudboot is still at work after
    so many seconds; None waits for ever. Raises CommandError if systemd does not take it.

    A unit of its own that starts after our last stage: nothing that a dying stage leaves behind, and killed with
    nobody. `flock` does the same for a run by hand: our lock is free only when results are on the disk.
    """
    if pending(host):
        return False
    command = ["flock", *(["--wait", str(wait)] if wait is not None else []), LOCK]
    command += ["shutdown", LETTERS[mode], when, *([message] if message else [])]
    return host.run(
        ["systemd-run", "--no-block", "--collect", "--quiet", f"--unit={UNIT}", f"--property=After={AFTER}"]
        + ["--", *command],
        live=f"{mode} of the running machine",
    )
