"""Faults for the simulator: what a real service does on a bad day, on demand."""

from __future__ import annotations

import fnmatch
import threading
import time

from cloudboot.typed import NamedTuple

SPECS = """\
  late-401:SECONDS      refuse every token for the first SECONDS after the first one was given
  401-after:N           a token is good for N requests
  token-403             the service is switched off
  NNN:GLOB[:COUNT]      answer NNN (404, 429, 503, 302 ...), COUNT times, then normally
  empty:GLOB[:COUNT]    200 with an empty body
  cut:GLOB[:COUNT]      promise the whole body, send half of it and close
  slow:GLOB:SECONDS     answer that much later
  refuse:SECONDS        refuse connections for the first SECONDS
  close-every:N         close each connection after N answers, without saying so
GLOB is matched against the path without the version: meta-data/placement/*, user-data, api/token"""


class Fault(NamedTuple):
    """One fault. `times` is how often it strikes (None: always); `number` is SECONDS or N."""

    kind: str
    glob: str = ""
    times: int | None = None
    number: float = 0.0


def parse(spec: str) -> Fault:
    """Read a `--fault` specification. Raise ValueError with what to write instead."""
    kind, _, rest = spec.partition(":")
    if kind == "token-403" and not rest:
        return Fault(kind)
    if kind in ("late-401", "401-after", "refuse", "close-every"):
        return Fault(kind, number=_number(spec, rest))
    if kind == "slow":
        glob, _, seconds = rest.rpartition(":")
        return Fault(kind, _glob(spec, glob), number=_number(spec, seconds))
    if kind in ("empty", "cut") or (len(kind) == 3 and kind.isdigit() and "300" <= kind <= "599"):
        glob, colon, count = rest.rpartition(":")
        if colon and count.isdigit():
            return Fault(kind, _glob(spec, glob), int(count))
        return Fault(kind, _glob(spec, rest))
    raise ValueError(f"fault: not one of the known kinds: {spec!r}; write one of\n{SPECS}")


class Faults:
    """The faults of one server, and how often each has struck. Safe to use from many threads."""

    def __init__(self, faults: list[Fault]) -> None:
        self._lock = threading.Lock()
        self._faults = faults
        self._struck = [0] * len(faults)
        self._first_token: float | None = None

    def number(self, kind: str) -> float | None:
        """Return the number of the fault of that kind, or None if there is none."""
        return next((fault.number for fault in self._faults if fault.kind == kind), None)

    def has(self, kind: str) -> bool:
        """Whether a fault of that kind was asked for."""
        return any(fault.kind == kind for fault in self._faults)

    def delay(self, path: str) -> float:
        """Return the seconds by which to answer later."""
        return sum(f.number for f in self._faults if f.kind == "slow" and fnmatch.fnmatchcase(path, f.glob))

    def strike(self, path: str) -> str | None:
        """Return the kind of fault that this request meets (`503`, `empty`, `cut`), and count it."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if not fault.glob or fault.kind == "slow" or not fnmatch.fnmatchcase(path, fault.glob):
                    continue
                if fault.times is None or self._struck[index] < fault.times:
                    self._struck[index] += 1
                    return fault.kind
        return None

    def token_given(self) -> None:
        """Note that a token was given: late-401 counts from the first."""
        with self._lock:
            if self._first_token is None:
                self._first_token = time.monotonic()

    def too_early(self) -> bool:
        """Whether late-401 still refuses every token."""
        seconds = self.number("late-401")
        if seconds is None:
            return False
        return self._first_token is None or time.monotonic() - self._first_token < seconds


def _number(spec: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise ValueError(f"fault: expected a number at its end: {spec!r}")
    return number


def _glob(spec: str, text: str) -> str:
    if not text:
        raise ValueError(f"fault: expected a path or a pattern such as meta-data/*: {spec!r}")
    return text
