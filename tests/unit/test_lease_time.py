"""When a lease ends: hour marks, durations, times of day over daylight saving, reboots, stops and starts, clocks that jump."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cloudboot.errors import ConfigError
from cloudboot.lease_time import (
    ARMED,
    CANCELLED,
    CLOSING,
    ENDED,
    GRACE,
    PERIODS,
    Now,
    Term,
    Terms,
    duration,
    moment,
    settle,
    stamp,
    told,
)

LAUNCH = 1_700_000_000.0
HOUR, MINUTE = 3600.0, 60.0
HOURLY = Terms("hour-mark", HOUR, 5 * MINUTE, "poweroff")
BERLIN = ZoneInfo("Europe/Berlin")


def now(after: float, *, boot: str = "one", up: float = 20.0, launch: float | None = LAUNCH) -> Now:
    """Return the clocks so many seconds after the launch."""
    return Now(launch, boot, LAUNCH + after, up)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("55m", 3300), ("1h30m", 5400), ("1h 30m", 5400), ("90s", 90), ("2d", 172800), ("1.5h", 5400), ("5 min", 300)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "55", "m", "-5m", "5m later", "1h5", "1w"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="is no duration"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "after", "zone", "instant"),
    [
        ("2026-11-26T18:00:00Z", "2026-01-01T00:00", None, "2026-11-26T18:00"),
        ("2026-11-26 18:00", "2026-01-01T00:00", None, "2026-11-26T18:00"),
        ("2026-11-26T18:00+01:00", "2026-01-01T00:00", None, "2026-11-26T17:00"),
        ("2026-11-26 18:00 -0530", "2026-01-01T00:00", None, "2026-11-26T23:30"),
        ("2026-11-26 18:00 Europe/Berlin", "2026-01-01T00:00", None, "2026-11-26T17:00"),
        ("2026-07-26 18:00", "2026-01-01T00:00", BERLIN, "2026-07-26T16:00"),
        ("18:00", "2026-07-26T10:00", BERLIN, "2026-07-26T16:00"),
        ("18:00", "2026-07-26T16:00", BERLIN, "2026-07-27T16:00"),
        ("9:05", "2026-07-26T10:00", None, "2026-07-27T09:05"),
        # The clocks go forward at 01:00 UTC on 29 March 2026: between today's and tomorrow's 06:00 are 23 hours.
        ("06:00", "2026-03-28T05:30", BERLIN, "2026-03-29T04:00"),
        # 02:30 is skipped that night: as if the clocks had not been moved yet.
        ("02:30", "2026-03-29T00:00", BERLIN, "2026-03-29T01:30"),
        # The clocks go back at 01:00 UTC on 25 October 2026: 02:30 comes at 00:30 and at 01:30 UTC. The first.
        ("02:30", "2026-10-24T20:00", BERLIN, "2026-10-25T00:30"),
        ("2026-10-25 02:30", "2026-10-24T20:00", BERLIN, "2026-10-25T00:30"),
        ("06:00", "2026-10-24T05:00", BERLIN, "2026-10-25T05:00"),
    ],
)
def test_moments(text: str, after: str, zone: ZoneInfo | None, instant: str) -> None:
    assert stamp(moment(text, at(after), zone)) == stamp(at(instant))


@pytest.mark.parametrize(
    "text", ["25:00", "2026-02-30 10:00", "tomorrow", "2026-11-26", "18:00 Mars/Base", "2026-11-26T18:00+99:00"]
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ConfigError):
        moment(text, LAUNCH, None)


@pytest.mark.parametrize(
    ("after", "mark"),
    [
        (20, HOUR),
        (55 * MINUTE - 1, HOUR),
        (55 * MINUTE, 2 * HOUR),  # the margin of this hour has begun: nobody is stopped by surprise
        (HOUR + 1, 2 * HOUR),
        (100 * HOUR + 20, 101 * HOUR),  # a machine that is older than its lease
    ],
)
def test_hour_marks_are_those_of_the_launch(after: float, mark: float) -> None:
    term = settle(HOURLY, None, now(after))
    assert (term.state, term.mark - LAUNCH) == (ARMED, mark)
    assert term.mark_up == 20 + mark - after
    assert term.most == term.mark + PERIODS * HOUR


def test_without_an_identity_document_the_first_boot_counts() -> None:
    term = settle(HOURLY, None, now(120, launch=None))
    assert term.mark == LAUNCH + 100 + HOUR
    later = settle(HOURLY, term, now(1000, boot="two", launch=None))
    assert later.mark == term.mark


@pytest.mark.parametrize(
    ("until", "after", "mark"),
    [
        ("30m", 20, 30 * MINUTE),
        ("30m", 26 * MINUTE, 26 * MINUTE - 20 + 30 * MINUTE),  # from this boot
        ("2h", 3 * HOUR, 3 * HOUR - 20 + 2 * HOUR),
    ],
)
def test_durations_count_from_the_launch(until: str, after: float, mark: float) -> None:
    assert settle(HOURLY._replace(until=until), None, now(after)).mark == LAUNCH + mark


def test_a_boot_that_took_longer_than_its_lease_has_one_from_now() -> None:
    term = settle(HOURLY._replace(until="10m"), None, now(HOUR, up=HOUR - 5))
    assert term.mark == LAUNCH + HOUR + 10 * MINUTE


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"margin": HOUR}, "margin: 3600 s is not shorter than the period"),
        ({"margin": 4}, "margin: 4 s is not enough to stop in: at least 5 s"),
        ({"until": "5m"}, "not longer than the margin"),
        ({"until": "2023-11-14T22:15:00Z"}, "past, or nearer than the margin"),
        ({"limit": "30m"}, "max"),
        ({"limit": "2020-01-01T00:00:00Z"}, "max"),
        ({"until": "2023-13-14T22:15:00Z"}, "is no time"),
    ],
)
def test_mistakes(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settle(HOURLY._replace(**changed), None, now(20))


def test_max_counts_from_the_launch_or_is_a_time() -> None:
    assert settle(HOURLY._replace(limit="8h"), None, now(20)).most == LAUNCH + 8 * HOUR
    assert settle(HOURLY._replace(limit="2023-11-15T00:00:00Z"), None, now(20)).most == at("2023-11-15T00:00:00")


# -- what keeps the mark, and what makes a new one


FIRST = settle(HOURLY, None, now(20))


def test_a_clock_that_jumps_inside_a_boot_moves_nothing() -> None:
    for jump in (-30 * 24 * HOUR, -60, 60, 30 * 24 * HOUR):
        assert settle(HOURLY, FIRST, now(jump, up=500)) == FIRST


def test_a_reboot_keeps_the_mark() -> None:
    term = settle(HOURLY, FIRST, now(1800, boot="two", up=12))
    assert term.mark == FIRST.mark
    assert term.mark_up == 12 + 1800
    assert (term.boot, term.note, term.state) == ("two", "", ARMED)


def test_a_reboot_into_the_margin_keeps_the_mark_too() -> None:
    term = settle(HOURLY, FIRST, now(58 * MINUTE, boot="two", up=12))
    assert (term.mark, term.mark_up) == (FIRST.mark, 12 + 120)


def test_a_reboot_past_the_mark_ends_it_in_a_minute() -> None:
    term = settle(HOURLY, FIRST, now(HOUR + 30, boot="two", up=12))
    assert term.mark_up - HOURLY.margin == 12 + GRACE
    assert "passed before this boot" in term.note


def test_a_stop_and_start_is_a_new_paid_hour() -> None:
    start = LAUNCH + 5 * HOUR + 1234
    again = Now(start, "two", start + 15, 10.0)
    for state in (ARMED, CANCELLED, CLOSING, ENDED):
        term = settle(HOURLY, FIRST._replace(state=state, extended=3), again)
        assert (term.state, term.mark, term.extended, term.launch) == (ARMED, start + HOUR, 0, start)


def test_a_start_that_nobody_tells_of_is_no_trap() -> None:
    """Neither a document nor a mark ahead: an hour from this boot, not an end at once."""
    without = settle(HOURLY, None, now(20, launch=None))
    term = settle(HOURLY, without, now(7 * HOUR, boot="two", up=10, launch=None))
    assert term.mark == LAUNCH + 7 * HOUR - 10 + HOUR


def test_a_service_that_is_silent_after_a_reboot_keeps_the_mark() -> None:
    assert settle(HOURLY, FIRST, now(1800, boot="two", launch=None)).mark == FIRST.mark


@pytest.mark.parametrize(("wall", "left"), [(-400 * 24 * HOUR, HOUR - 20), (20, HOUR - 20)])
def test_a_clock_that_is_not_set_yet(wall: float, left: float) -> None:
    """Before the launch it cannot be: the boot's own seconds count."""
    term = settle(HOURLY, None, now(wall, up=20))
    assert term.mark == LAUNCH + HOUR
    assert term.mark_up == 20 + left


def test_a_cancelled_lease_stays_cancelled_over_reboots() -> None:
    term = settle(HOURLY, FIRST._replace(state=CANCELLED), now(1800, boot="two"))
    assert term.state == CANCELLED


def test_a_machine_that_powered_off_and_is_up_again_was_started_again() -> None:
    for state in (CLOSING, ENDED):
        term = settle(HOURLY, FIRST._replace(state=state), now(4 * HOUR, boot="two", up=10))
        assert (term.state, term.mark) == (ARMED, LAUNCH + 5 * HOUR - 10)
        # And that holds for the rest of this start.
        assert settle(HOURLY, term, now(4 * HOUR + 600, boot="three", up=10)).mark == term.mark


@pytest.mark.parametrize("then", ["reboot", "nothing"])
def test_a_lease_that_has_ended_does_not_end_every_boot(then: str) -> None:
    terms = HOURLY._replace(then=then)
    first = settle(terms, None, now(20))
    assert settle(terms, first._replace(state=CLOSING), now(HOUR, boot="two")).state == ENDED
    assert settle(terms, first._replace(state=ENDED), now(2 * HOUR, boot="two")).state == ENDED


def test_changed_terms_make_a_new_lease() -> None:
    changed = HOURLY._replace(until="2h")
    term = settle(changed, FIRST._replace(state=CANCELLED), now(600, boot="two"))
    assert (term.state, term.mark) == (ARMED, LAUNCH + 2 * HOUR)


def test_extending_moves_both_clocks() -> None:
    term: Term = FIRST.extend(HOUR, 3000.0)
    assert (term.mark - FIRST.mark, term.mark_up - FIRST.mark_up, term.extended) == (HOUR, HOUR, 1)
    assert settle(HOURLY, term, now(HOUR + 60, boot="two")).mark == term.mark


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (50, "50 s"), (120, "2 min"), (3300, "55 min"), (3600, "1 h"), (3900, "1 h 5 min")],
)
def test_told(seconds: float, words: str) -> None:
    assert told(seconds) == words
