"""Is there a way out? Asked by stages whose modules need the network where no crawl has shown that it is up."""

from __future__ import annotations

import time

from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host

ROUTES_V4 = "/proc/net/route"
ROUTES_V6 = "/proc/net/ipv6_route"
LIMIT = 30.0  # seconds
PAUSE = 0.05


def default_route(host: Host) -> bool:
    """Tell whether there is a default route, of either family, on an interface other than lo."""
    for line in (host.text(ROUTES_V4) or "").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == "00000000" and words[7] == "00000000":
            return True
    for line in (host.text(ROUTES_V6) or "").splitlines():
        words = line.split()
        if len(words) > 9 and words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo":
            return True
    return False


def wait_for_route(
    host: Host,
    *,
    limit: float = LIMIT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until there is a default route, at most `limit` seconds; say so after 2 s. Returns whether there is one."""
    start, told = clock(), False
    while not default_route(host):
        spent = clock() - start
        if spent >= limit:
            host.log.warning(f"no default route after {limit:.0f} s: going on without")
            return False
        if spent >= 2 and not told:
            told = True
            host.log.say(f"waiting for a default route (at most {limit:.0f} s)")
        sleep(PAUSE)
    return True
