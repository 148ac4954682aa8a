"""Find the endpoint that answers: all at once, the first valid answer wins.

An IPv6-only subnet loses no time on the IPv4 address, nor the other way round. The probe is the token request of
IMDSv2 itself, so the race costs no request.
"""

from __future__ import annotations

import select

from cloudboot.errors import MetadataDisabled, MetadataError, MetadataTimeout
from cloudboot.imds.watch import milliseconds
from cloudboot.imds.wire import UNREACHABLE, Connection, Endpoint, Response, check, reason
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloudboot.imds.watch import Watch

TOKEN_TTL = 21600  # seconds, the longest that EC2 gives
V1_AFTER = 3  # answers of another kind than a token, after which a service that is not AWS is asked without one

SWITCHED_OFF = (
    "the EC2 metadata service at {} is switched off for this instance (403); "
    "switch it on with: aws ec2 modify-instance-metadata-options --http-endpoint enabled"
)


class Won(NamedTuple):
    """The endpoint to crawl, a connection to it if it is still open, and the token (None: IMDSv1)."""

    endpoint: Endpoint
    connection: Connection | None
    token: str | None

    def __repr__(self) -> str:
        """Leave the token out: it opens the credentials."""
        return f"Won({self.endpoint}, {'IMDSv1' if self.token is None else 'IMDSv2'})"


class _Lane:
    """One endpoint in the race."""

    __slots__ = ("again", "answers", "connection", "endpoint", "error", "fails", "off_since", "unreachable")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.connection: Connection | None = None
        self.again = 0.0
        self.fails = 0
        self.answers = 0
        self.error: str | None = None
        self.unreachable = False
        self.off_since: float | None = None


def race(
    endpoints: Sequence[Endpoint], *, aws: bool, watch: Watch, wait_for_address: Callable[[float], None] | None
) -> Won:
    """Return the first endpoint that gives a token or, only where `aws` is false, shows that it has none to give.

    Raise MetadataDisabled if the service is switched off, MetadataTimeout at the deadline.
    """
    if not endpoints:
        raise MetadataError("metadata service: no endpoint given; name at least one address")
    for endpoint in endpoints:
        check(endpoint)
    lanes = [_Lane(endpoint) for endpoint in dict.fromkeys(endpoints)]
    poll = select.poll()
    by_fd: dict[int, _Lane] = {}

    def drop(lane: _Lane) -> None:
        if lane.connection is not None:
            poll.unregister(lane.connection.fileno())
            del by_fd[lane.connection.fileno()]
            lane.connection.close()
            lane.connection = None

    def fail(
        lane: _Lane, error: str, *, answered: bool = False, retry_after: str | None = None, unreachable: bool = False
    ) -> None:
        drop(lane)
        lane.error = error
        lane.fails += 1
        lane.unreachable = unreachable
        if unreachable:
            patience = watch.patience
            wait = min(patience.shortest_rest * 2.0 ** min(lane.fails - 1, 8), patience.longest_rest)
        else:
            wait = watch.pause(lane.fails, retry_after)
            if not answered:  # it may come up at any moment, and asking costs it nothing
                wait = min(wait, watch.patience.connect)
        lane.again = watch.clock() + wait

    def start(lane: _Lane, now: float) -> None:
        try:
            lane.connection = Connection(lane.endpoint)
        except OSError as error:
            fail(lane, reason(error), unreachable=error.errno in UNREACHABLE)
            return
        watch.connections += 1
        by_fd[lane.connection.fileno()] = lane
        lane.connection.expires = now + watch.patience.connect
        poll.register(lane.connection.fileno(), select.POLLIN | select.POLLOUT)
        try:
            lane.connection.request(token_request(lane.endpoint))
        except OSError as error:
            fail(lane, reason(error))
            return
        if not lane.connection.connecting:
            watch.requests += 1
            lane.connection.expires = now + watch.patience.read

    def advance(lane: _Lane, now: float) -> Won | None:
        connection = lane.connection
        assert connection is not None  # noqa: S101 -- only polled while it is there
        connecting = connection.connecting
        try:
            response = connection.advance()
        except OSError as error:
            fail(lane, reason(error), unreachable=error.errno in UNREACHABLE)
            return None
        except MetadataError as error:
            fail(lane, reason(error))
            return None
        if connecting:
            watch.requests += 1
            connection.expires = now + watch.patience.read
        poll.modify(connection.fileno(), select.POLLIN | (select.POLLOUT if connection.wants_write else 0))
        return None if response is None else judge(lane, connection, response, now)

    def judge(lane: _Lane, connection: Connection, response: Response, now: float) -> Won | None:
        token = token_of(response)
        lane.answers += 1
        if token is not None:
            watch.tokens += 1
        elif response.status == 403:
            drop(lane)
            lane.error = "switched off (403)"
            lane.off_since = now
            return None
        elif aws or not _has_no_tokens(response, lane.answers):
            wait = response.headers.get("retry-after") if response.status in (429, 503) else None
            fail(lane, f"no token: {describe(response)}", answered=True, retry_after=wait)
            return None
        if not response.keep:
            drop(lane)
            return Won(lane.endpoint, None, token)
        poll.unregister(connection.fileno())
        del by_fd[connection.fileno()]
        lane.connection = None
        return Won(lane.endpoint, connection, token)

    try:
        while True:
            now = watch.clock()
            for lane in lanes:
                if lane.connection is not None and lane.connection.expires <= now:
                    what = "connecting" if lane.connection.connecting else "the answer"
                    fail(lane, f"timed out ({what})")
                elif lane.connection is None and lane.off_since is None and lane.again <= now:
                    start(lane, now)
            _stop_if_switched_off(lanes, now, watch.patience.connect)
            if watch.expired(now):
                raise MetadataTimeout(
                    f"no EC2 metadata service answered within {watch.seconds:.0f} s: {_summary(lanes)}"
                )
            watch.tell(now, lambda: _summary(lanes))
            live = [lane for lane in lanes if lane.off_since is None]
            rest = watch.until(
                now, *(lane.again if lane.connection is None else lane.connection.expires for lane in live)
            )
            if by_fd:
                for fd, _ in poll.poll(milliseconds(rest)):
                    won = advance(by_fd[fd], watch.clock())
                    if won is not None:
                        return won
            elif wait_for_address is not None and any(lane.unreachable for lane in live):
                wait_for_address(rest)
                # It may return at once, when there is an address but no route: do not spin.
                watch.sleep(max(now + watch.patience.shortest_rest / 4 - watch.clock(), 0.0))
                for lane in live:
                    if lane.unreachable:
                        lane.again = 0.0  # an address may have come: ask at once
            else:
                watch.sleep(rest)
    finally:
        for lane in lanes:
            drop(lane)


def token_request(endpoint: Endpoint) -> bytes:
    """Return the request for a session token."""
    return (
        f"PUT /latest/api/token HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
        f"X-aws-ec2-metadata-token-ttl-seconds: {TOKEN_TTL}\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def token_of(response: Response) -> str | None:
    """Return the token if the answer is one: printable ASCII that is safe in a header."""
    if response.status != 200 or not 0 < len(response.body) <= 1024:
        return None
    token = response.body.decode("latin-1").strip()
    return token if token.isascii() and token.isprintable() and token and " " not in token else None


def describe(response: Response) -> str:
    """Say what an answer was without its body, which may be a token or somebody's data."""
    if 300 <= response.status < 400:
        return f"{response.status}, a redirect, never followed"
    if response.status == 200:
        return "an empty answer" if not response.body else "200 with something else"
    return f"answered {response.status}"


def _has_no_tokens(response: Response, answers: int) -> bool:
    """Whether a service that is not AWS shows with this answer that it speaks IMDSv1 only."""
    if response.status in (429, 503) or 300 <= response.status < 400:
        return False
    return 400 <= response.status < 500 or response.status == 501 or answers >= V1_AFTER


def _stop_if_switched_off(lanes: list[_Lane], now: float, grace: float) -> None:
    """Believe a 403 when nobody else can still say otherwise: one address family may be off, the other on."""
    since = [lane.off_since for lane in lanes if lane.off_since is not None]
    if not since:
        return
    if now >= min(since) + grace or all(lane.error is not None for lane in lanes):
        where = next(lane.endpoint for lane in lanes if lane.off_since is not None)
        raise MetadataDisabled(SWITCHED_OFF.format(where))


def _summary(lanes: list[_Lane]) -> str:
    return "; ".join(f"{lane.endpoint}: {lane.error or 'no answer yet'}" for lane in lanes)
