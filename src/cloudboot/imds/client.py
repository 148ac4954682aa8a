"""Crawl the EC2 metadata service once, whole, and fast: find the endpoint (race), then walk its tree (walk)."""

from __future__ import annotations

import os
import time

from cloudboot.imds.race import race
from cloudboot.imds.walk import ROOT, USER_DATA, Walk
from cloudboot.imds.watch import Patience, Watch
from cloudboot.imds.wire import Endpoint
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["AWS", "Crawl", "Endpoint", "Patience", "crawl"]

AWS = (Endpoint("169.254.169.254"), Endpoint("fd00:ec2::254"))


class Crawl(NamedTuple):
    """What the service said, and what it took.

    `entries` maps `meta-data/instance-id`, `dynamic/instance-identity/document` … to their bytes. `user_data` is
    None where there is none. `skipped` says in a line each what is missing and why: hostile names, credentials,
    values that stayed broken.
    """

    endpoint: Endpoint
    version: str
    v2: bool
    entries: dict[str, bytes]
    user_data: bytes | None
    requests: int
    connections: int
    tokens: int
    seconds: float
    skipped: list[str]


def crawl(
    endpoints: Sequence[Endpoint],
    *,
    aws: bool,
    say: Callable[[str], None],
    deadline: float = 120.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = lambda: os.urandom(1)[0] / 256,  # `random` would import hashlib
    wait_for_address: Callable[[float], None] | None = None,
    max_in_flight: int = 8,
    patience: Patience = Patience(),  # noqa: B008 -- frozen
) -> Crawl:
    """Return everything below meta-data/ and dynamic/, and the user data, of the first endpoint that answers.

    `deadline` is in seconds and over everything. `wait_for_address(timeout)` is called instead of `sleep` while
    the network is unreachable and may return as soon as an address was added. With `aws`, IMDSv1 is never used.

    Raise MetadataDisabled if the service is switched off, MetadataTimeout if the deadline passed without the
    instance id or the user data, MetadataError if the answers cannot be used.
    """
    watch = Watch(deadline, say, clock, sleep, random, patience)
    won = race(endpoints, aws=aws, watch=watch, wait_for_address=wait_for_address)
    walk = Walk(won, aws, watch, max_in_flight)
    try:
        children = walk.find_version()
        walk.run([USER_DATA, "dynamic/", *(ROOT + name for name in children)])
    finally:
        walk.close()
    return Crawl(
        won.endpoint, walk.version, won.token is not None, walk.entries, walk.user_data,
        watch.requests, watch.connections, watch.tokens, watch.spent(), walk.skipped,
    )  # fmt: skip
