"""When a lease ends: pure arithmetic on instants (Unix seconds) and on a boot's monotonic seconds (`up`).

The mark is when the machine must be off, the end (mark minus margin) is when closing begins. Across boots the mark is
kept on the wall clock; inside a boot it is fixed once on the monotonic clock: a clock that jumps does not move it.
"""

from __future__ import annotations

import re

from cloudboot.errors import ConfigError
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

HOUR_MARK = "hour-mark"
UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
DURATION = r"(?:[0-9]+(?:\.[0-9]+)?\s*(?:sec|s|min|m|h|d)\s*)+"
DATE_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?"
ZONE = r"(?:\s*(?:Z|UTC|[+-][0-9]{2}:?[0-9]{2}|[A-Z][A-Za-z]+(?:/[A-Za-z0-9_+-]+)+))?"
TIME = rf"(?:{DATE_TIME}|[0-9]{{1,2}}:[0-9]{{2}}){ZONE}"
GRACE = 60.0  # seconds that a boot after the mark gets: a login that cancels, the warning
LEAST = 5.0  # seconds of margin
PERIODS = 24  # by so many periods `extend_while` moves the end at most, where the owner sets no `max`
ARMED, CANCELLED, CLOSING, ENDED = "armed", "cancelled", "closing", "ended"


class Terms(NamedTuple):
    """What the owner wants of the time: `until` and `limit` as written, period and margin in seconds."""

    until: str
    period: float
    margin: float
    then: str
    limit: str = ""


class Now(NamedTuple):
    """What is known at an arming.

    launch: when the instance was started, by its identity document; None where nobody says. boot: the boot's id. wall:
    the clock. up: monotonic seconds of this boot. zone: of times that name none.
    """

    launch: float | None
    boot: str
    wall: float
    up: float
    zone: tzinfo | None = None


class Term(NamedTuple):
    """A lease's times, as they are kept.

    terms: a digest of what they were made from. origin: from when it counts. mark_up, armed_up: the mark, and the last
    arming, on the monotonic clock of `boot`. most: beyond which `extend_while` does not move the mark.
    """

    state: str
    terms: str
    launch: float | None
    origin: float
    mark: float
    most: float
    boot: str
    mark_up: float
    armed_up: float
    extended: int = 0
    note: str = ""

    def extend(self, seconds: float, up: float) -> Term:
        """Return this with the end moved."""
        return self._replace(
            mark=self.mark + seconds, mark_up=self.mark_up + seconds, armed_up=up, extended=self.extended + 1
        )


def duration(text: str) -> float:
    """Return the seconds of `55m`, `1h 30m`, `90s`, `2d`. Raises ConfigError."""
    if not re.fullmatch(DURATION, text.strip()):
        raise ConfigError(f"is no duration (55m, 1h30m, 90s): {text!r}")
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)\s*(sec|s|min|m|h|d)", text))


def moment(text: str, after: float, zone: tzinfo | None) -> float:
    """Return the instant of `2026-11-26T18:00+01:00`, `2026-11-26 18:00 Europe/Berlin` or `18:00` (the next one).

    A time without a zone is in `zone`. One that the clocks skip is as if they had not been moved; of one that comes
    twice the first is taken: a lease never ends later than meant. Raises ConfigError.
    """
    from datetime import UTC, datetime, timedelta

    found = re.fullmatch(rf"({DATE_TIME}|[0-9]{{1,2}}:[0-9]{{2}})({ZONE})", text.strip())
    if found is None:
        raise ConfigError(f"is no time (2026-11-26T18:00:00Z, 18:00): {text!r}")
    place = _zone(found[2].strip(), zone) or UTC
    try:
        if "-" in found[1]:
            return datetime.fromisoformat(found[1]).replace(tzinfo=place).timestamp()
        hour, minute = map(int, found[1].split(":"))
        today = datetime.fromtimestamp(after, place).replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
        days: list[datetime] = [today + timedelta(days=number) for number in range(3)]
        return next(day.timestamp() for day in days if day.timestamp() > after)
    except ValueError as error:
        raise ConfigError(f"is no time: {text!r} ({error})") from None


def _zone(name: str, default: tzinfo | None) -> tzinfo | None:
    from datetime import UTC, timedelta, timezone

    if not name:
        return default
    if name in ("Z", "UTC"):
        return UTC
    if name[0] in "+-":
        digits = name[1:].replace(":", "")
        seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
        try:
            return timezone(timedelta(seconds=-seconds if name[0] == "-" else seconds))
        except ValueError:
            raise ConfigError(f"no such offset: {name!r}") from None
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"no such time zone: {name!r}") from None


def settle(terms: Terms, known: Term | None, now: Now) -> Term:
    """Return the lease's times: those that are known as long as they hold, else new ones. Raises ConfigError.

    They hold for one paid start: a launch time that differs from the known one is a stop/start, a new paid hour.
    """
    digest = _digest(terms)
    if known is None or known.terms != digest or (now.launch is not None and now.launch != known.launch):
        return _begin(terms, digest, now)
    if known.boot == now.boot:
        return known
    if known.state == CANCELLED:
        return known._replace(boot=now.boot)
    if known.state in (ENDED, CLOSING) and terms.then == "poweroff":
        return _begin(terms, digest, now._replace(launch=None))._replace(launch=known.launch)  # it was started again
    if known.state in (ENDED, CLOSING):
        return known._replace(state=ENDED, boot=now.boot)  # `then: reboot`: this is the boot that it led to
    mark, note = known.mark, ""
    wall = max(now.wall, known.origin)  # a clock that is behind the launch is wrong
    if mark <= wall:
        if now.launch is None:
            # Nobody says whether it was stopped meanwhile: that bounds the lease, and is no trap for who starts it.
            return _begin(terms, digest, now)
        mark, note = wall + GRACE + terms.margin, "its end passed before this boot"
    return known._replace(mark=mark, boot=now.boot, mark_up=now.up + (mark - wall), armed_up=now.up, note=note)


def _begin(terms: Terms, digest: str, now: Now) -> Term:
    booted = now.wall - now.up
    origin = booted if now.launch is None else now.launch
    wall = now.wall
    if wall < origin:  # the clock is not set yet
        wall = origin + now.up
    mark = _first(terms, origin, max(booted, origin), wall, now.zone)
    if terms.limit:
        most = origin + duration(terms.limit) if _is_duration(terms.limit) else moment(terms.limit, origin, now.zone)
        if most < mark:
            raise ConfigError(f"max: {terms.limit!r} is before the first end")
    else:
        most = mark + PERIODS * terms.period
    return Term(ARMED, digest, now.launch, origin, mark, most, now.boot, now.up + (mark - wall), now.up)


def _first(terms: Terms, origin: float, booted: float, wall: float, zone: tzinfo | None) -> float:
    if terms.margin < LEAST:
        raise ConfigError(f"margin: {terms.margin:g} s is not enough to stop in: at least {LEAST:g} s")
    if terms.margin >= terms.period:
        raise ConfigError(f"margin: {terms.margin:g} s is not shorter than the period, {terms.period:g} s")
    if terms.until == HOUR_MARK:
        passed = int((wall + terms.margin - origin) // terms.period)
        return origin + (passed + 1) * terms.period
    if _is_duration(terms.until):
        seconds = duration(terms.until)
        if seconds <= terms.margin:
            raise ConfigError(f"until: {terms.until!r} is not longer than the margin, {terms.margin:g} s")
        # A machine that is older than its lease counts from this boot, or from now: none is stopped by surprise.
        return next(start + seconds for start in (origin, booted, wall) if start + seconds - terms.margin > wall)
    mark = moment(terms.until, wall, zone)
    if mark - terms.margin <= wall:
        raise ConfigError(f"until: {terms.until!r} is past, or nearer than the margin, {terms.margin:g} s")
    return mark


def _is_duration(text: str) -> bool:
    return re.fullmatch(DURATION, text.strip()) is not None


def _digest(terms: Terms) -> str:
    return f"{terms.until} {terms.period:g} {terms.margin:g} {terms.limit} {terms.then}"


def told(seconds: float) -> str:
    """Return seconds as a person says them: `1 h 5 min`, `50 s`."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(round(whole / 60), 60)
    return " ".join([f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes))


def stamp(instant: float) -> str:
    """Return an instant as ISO 8601 in UTC."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instant))
