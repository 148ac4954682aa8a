"""The time and the effort that a crawl takes: deadline, back-off, counters, and a word to those who wait."""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

ANNOUNCE = (2.0, 10.0, 30.0, 60.0)


class Patience(NamedTuple):
    """How long to wait for what, in seconds, and how often to ask. Tests shorten it."""

    connect: float = 1.0
    read: float = 5.0
    pause: float = 0.1  # the first back-off; it doubles up to longest_pause
    longest_pause: float = 5.0
    shortest_rest: float = 0.02  # between attempts while there is no network
    longest_rest: float = 0.2
    tries: int = 5  # for a value that the machine can do without
    key_tries: int = 10  # for public-keys: without them nobody can log in
    announce: tuple[float, ...] = ANNOUNCE


class Watch:
    """One crawl's clock and counters."""

    __slots__ = (
        "_announced", "_random", "_say", "_started", "clock", "connections", "deadline", "patience", "requests",
        "seconds", "sleep", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        deadline: float,
        say: Callable[[str], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        patience: Patience,
    ) -> None:
        self.seconds = deadline
        self.clock = clock
        self.sleep = sleep
        self.patience = patience
        self._say = say
        self._random = random
        self._started = clock()
        self.deadline = self._started + deadline
        self._announced = 0
        self.requests = self.connections = self.tokens = 0

    def spent(self) -> float:
        """Return the seconds since the start."""
        return self.clock() - self._started

    def expired(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return now >= self.deadline

    def pause(self, tries: int, retry_after: str | None = None) -> float:
        """Return how long to back off after the `tries`-th failure: doubling, with jitter, so that a fleet spreads.

        A Retry-After in seconds is honoured up to six times the longest pause (30 s); a date is not.
        """
        longest = self.patience.longest_pause
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            return min(float(retry_after[:9]), 6 * longest) + self._random() * self.patience.pause
        wait = min(self.patience.pause * 2.0 ** min(max(tries - 1, 0), 16), longest)
        return wait * (0.5 + self._random() / 2)

    def tell(self, now: float, what: Callable[[], str]) -> None:
        """Say for what we wait if the next time to do so has come."""
        spent = now - self._started
        marks = self.patience.announce
        if self._announced >= len(marks) or spent < marks[self._announced]:
            return
        while self._announced < len(marks) and spent >= marks[self._announced]:
            self._announced += 1
        self._say(f"waiting for the EC2 metadata service: {what()} ({spent:.0f} s of {self.seconds:.0f} s)")

    def until(self, now: float, *times: float) -> float:
        """Return the seconds to the first of these times, the deadline and the next announcement; at least 0."""
        first = min(times, default=self.deadline)
        first = min(first, self.deadline)
        if self._announced < len(self.patience.announce):
            first = min(first, self._started + self.patience.announce[self._announced])
        return max(first - now, 0.0)


def milliseconds(seconds: float) -> int:
    """Round up for poll(), which would spin on a rest below one millisecond."""
    return int(seconds * 1000) + 1
