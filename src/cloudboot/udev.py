"""udev: wait until it has come to an end, let it look at a device again. Where none runs there is nothing to do."""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.host import Host

CONTROL = "/run/udev/control"  # there while it runs
LIMIT = 10  # seconds


def settle(host: Host) -> None:
    """Let udev come to an end with what it has seen so far, 10 s at most."""
    _tell(host, "settle", f"--timeout={LIMIT}")


def look_again(host: Host, name: str) -> None:
    """Let udev look at a device, whose content has changed, and wait for that: by-label and by-uuid are its links."""
    _tell(host, "trigger", "--action=change", "--settle", f"/dev/{name}")


def _tell(host: Host, *words: str) -> None:
    if host.live and not host.planned and host.exists(CONTROL):
        host.ask(["udevadm", *words], timeout=LIMIT + 2)
