"""Walk the tree of one endpoint: what to ask next, and what the answers mean.

One thread and one poll: at most `max_in_flight` kept-alive connections, opened only as there is work for them, one
token for all, no key asked for twice. A refused token is renewed in one place, so a burst of 401s costs one renewal.

404 is absent, and so is 403 on a leaf; 403 on the token or the root listing is "switched off"; an empty or cut-off
body is an error and never a value; 429 and 5xx are "later". Credentials are never asked for.
"""

from __future__ import annotations

import select

from cloudboot.errors import MetadataDisabled, MetadataError, MetadataTimeout
from cloudboot.imds import listing
from cloudboot.imds.race import SWITCHED_OFF, describe, token_of, token_request
from cloudboot.imds.watch import milliseconds
from cloudboot.imds.wire import ClosedEarlyError, Connection, TooLargeError, reason
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cloudboot.imds.race import Won
    from cloudboot.imds.watch import Watch
    from cloudboot.imds.wire import Response

VERSIONS = ("2021-03-23", "2018-09-24", "2016-09-02", "2009-04-04", "latest")
MAX_ENTRIES = 5000
MAX_DEPTH = 12
MAX_TOTAL = 16 << 20  # bytes of all values together
ROUNDS = 5  # through VERSIONS, for a service that does not know this instance yet

ROOT = "meta-data/"
INSTANCE_ID = "meta-data/instance-id"
USER_DATA = "user-data"
_KEYS = "meta-data/public-keys/"


class _Task:
    """One path to ask for. An empty path is the token. `trial`: asked again only to learn whether the token is good."""

    __slots__ = ("generation", "path", "stale", "trial", "tries")

    def __init__(self, path: str, *, trial: bool = False) -> None:
        self.path = path
        self.trial = trial
        self.tries = 0
        self.stale = False  # its connection had gone away while idle: asked again on a new one, without counting
        self.generation = 0  # of the token it was asked with


class Walk:
    """The crawl of one endpoint."""

    def __init__(self, won: Won, aws: bool, watch: Watch, max_in_flight: int) -> None:
        self.endpoint = won.endpoint
        self.version = ""
        self.entries: dict[str, bytes] = {}
        self.user_data: bytes | None = None
        self.skipped: list[str] = []
        self.children: list[str] | None = None  # of meta-data/
        self._aws = aws
        self._watch = watch
        self._patience = watch.patience
        self._max = max_in_flight
        self._v2 = won.token is not None
        self._token = won.token
        self._generation = 1
        self._proven = False  # a request with this token was answered other than 401
        self._refused = 0  # 401s in a row, one per token
        self._renew_at: float | None = None  # the token is to be renewed then
        self._renewing = False
        self._hold = 0.0  # nothing starts before: the service throttles, or is out of reach
        self._outages = 0
        self._asked: set[str] = set()
        self._total = 0
        self._full = False
        self._user_data_known = False
        self._last = ""
        self._pending: list[_Task] = []  # a stack: depth first, retries first
        self._delayed: list[tuple[float, _Task]] = []
        self._busy: dict[int, tuple[Connection, _Task]] = {}
        self._poll = select.poll()
        self._idle: list[Connection] = []
        if won.connection is not None:
            self._idle.append(won.connection)

    def find_version(self) -> list[str]:
        """Settle on the newest version that both know; return the names below meta-data/.

        The probe is the root listing, which is needed anyway.
        """
        for attempt in range(1, ROUNDS + 1):
            for self.version in VERSIONS:
                self._asked.clear()
                self.run([ROOT])
                if self.children is not None:
                    return self.children
            if attempt < ROUNDS:
                self._watch.sleep(min(self._watch.pause(attempt + 2), self._left()))
        raise MetadataError(
            f"EC2 metadata service at {self.endpoint}: no meta-data/ in any version of {', '.join(VERSIONS)}"
        )

    def run(self, paths: Iterable[str]) -> None:
        """Ask for these paths and all that their listings name, until nothing is left or the deadline passes."""
        for path in list(paths)[::-1]:
            self._add(path)
        while self._pending or self._delayed or self._busy:
            now = self._watch.clock()
            self._expire(now)
            if self._watch.expired(now):
                self._give_up()
                return
            self._watch.tell(now, self._what_for)
            self._promote(now)
            self._dispatch(now)
            if not (self._pending or self._delayed or self._busy):
                return  # the last one has just timed out
            rest = self._watch.until(now, *self._times(now))
            if not self._busy:
                self._watch.sleep(rest)
                continue
            for fd, _ in self._poll.poll(milliseconds(rest)):
                if fd in self._busy:
                    self._advance(fd)

    def close(self) -> None:
        """Close every connection."""
        for connection, _ in self._busy.values():
            connection.close()
        for connection in self._idle:
            connection.close()
        self._busy.clear()
        self._idle.clear()

    # What to ask, and when

    def _add(self, path: str) -> None:
        if path in self._asked:
            return
        if path.count("/") > MAX_DEPTH:
            self.skipped.append(f"{path}: deeper than {MAX_DEPTH} levels")
            return
        if len(self._asked) >= MAX_ENTRIES:
            if not self._full:
                self.skipped.append(f"{path} and what follows: more than {MAX_ENTRIES} names")
            self._full = True
            return
        self._asked.add(path)
        self._pending.append(_Task(path))

    def _promote(self, now: float) -> None:
        due = [task for at, task in self._delayed if at <= now]
        if due:
            self._delayed = [(at, task) for at, task in self._delayed if at > now]
            self._pending += due

    def _dispatch(self, now: float) -> None:
        if now < self._hold:
            return
        if self._renew_at is not None:
            if not self._renewing and now >= self._renew_at:
                self._renewing = self._start(_Task(""), now)
            return
        while self._pending and now >= self._hold:
            # A connection more for every four requests that wait: a small tree does not pay for eight handshakes.
            if not self._idle and len(self._busy) >= min(self._max, 1 + len(self._pending) // 4):
                return
            task = self._pending.pop()
            if not self._start(task, now):
                self._pending.append(task)
                return

    def _start(self, task: _Task, now: float) -> bool:
        task.generation = self._generation
        if task.stale and self._idle:  # this time on a new connection, in the place of an old one
            self._idle.pop(0).close()
        while self._idle and not task.stale:
            connection = self._idle.pop()
            try:
                connection.request(self._request(task))
            except OSError:  # closed by the server while idle
                connection.close()
                continue
            break
        else:
            try:
                connection = Connection(self.endpoint)
            except OSError as error:
                self._outage(reason(error), now)
                return False
            self._watch.connections += 1
            try:
                connection.request(self._request(task))
            except OSError as error:
                connection.close()
                self._outage(reason(error), now)
                return False
        task.stale = False
        self._watch.requests += 1
        connection.expires = now + (self._patience.connect if connection.connecting else self._patience.read)
        self._busy[connection.fileno()] = (connection, task)
        self._poll.register(connection.fileno(), select.POLLIN | (select.POLLOUT if connection.wants_write else 0))
        return True

    def _request(self, task: _Task) -> bytes:
        if not task.path:
            return token_request(self.endpoint)
        token = f"X-aws-ec2-metadata-token: {self._token}\r\n" if self._token is not None else ""
        path = listing.quote(f"/{self.version}/{task.path}")
        return f"GET {path} HTTP/1.1\r\nHost: {self.endpoint.authority}\r\n{token}\r\n".encode()

    def _times(self, now: float) -> list[float]:
        times = [connection.expires for connection, _ in self._busy.values()]
        times += [at for at, _ in self._delayed]
        if self._renew_at is not None and not self._renewing:
            times.append(self._renew_at)
        if self._hold > now:
            times.append(self._hold)
        return times

    # What came back

    def _advance(self, fd: int) -> None:
        connection, task = self._busy[fd]
        connecting = connection.connecting
        try:
            response = connection.advance()
        except (OSError, MetadataError) as error:
            self._broken(fd, error, connecting)
            return
        if connecting:
            connection.expires = self._watch.clock() + self._patience.read
        if response is None:
            if not connection.wants_write:
                self._poll.modify(fd, select.POLLIN)
            return
        self._poll.unregister(fd)
        del self._busy[fd]
        if response.keep:
            self._idle.append(connection)
        else:
            connection.close()
        self._outages = 0
        if task.path:
            self._answer(task, response)
        else:
            self._renewed(response)

    def _broken(self, fd: int, error: OSError | MetadataError, connecting: bool) -> None:
        """Decide what a failed exchange means: the peer had gone while idle, an outage, or a bad answer."""
        connection, task = self._busy.pop(fd)
        self._poll.unregister(fd)
        connection.close()
        now = self._watch.clock()
        if not task.path:
            self._renewing = False
            self._renew_at = now + self._watch.pause(max(self._refused, 1))
            self._last = f"the token: {reason(error)}"
        elif connecting:
            self._pending.append(task)
            self._outage(reason(error), now)
        elif connection.served and isinstance(error, ClosedEarlyError | ConnectionError):
            task.stale = True
            self._pending.append(task)
        elif isinstance(error, TooLargeError):
            self._refuse(task, str(error))
        else:
            self._failed(task, reason(error))

    def _expire(self, now: float) -> None:
        for fd, (connection, _) in list(self._busy.items()):
            if connection.expires <= now:
                self._broken(fd, TimeoutError(0, "timed out"), connection.connecting)

    def _renewed(self, response: Response) -> None:
        self._renewing = False
        token = token_of(response)
        if token is not None:
            self._token = token
            self._generation += 1
            self._proven = False
            self._renew_at = None
            self._watch.tokens += 1
        elif response.status == 403:
            raise MetadataDisabled(SWITCHED_OFF.format(self.endpoint))
        else:
            self._last = f"the token: {describe(response)}"
            self._refused += 1
            wait = self._watch.pause(self._refused, response.headers.get("retry-after"))
            self._renew_at = self._watch.clock() + wait

    def _answer(self, task: _Task, response: Response) -> None:
        status = response.status
        if status == 401 and self._v2:
            self._unauthorised(task)
            return
        self._refused = 0
        self._proven = True
        if task.trial:
            return
        if status == 200 and response.body:
            self._value(task, response.body)
        elif status == 404 or (status == 403 and task.path != ROOT):
            self._absent(task)
        elif status == 403:
            raise MetadataDisabled(SWITCHED_OFF.format(self.endpoint))
        elif status == 200 and not self._aws and task.tries >= 1 and task.path not in (ROOT, INSTANCE_ID):
            # OpenStack and Eucalyptus answer with an empty body for what they do not have; one more look is enough.
            self._user_data_known |= task.path == USER_DATA
            self.skipped.append(f"{task.path}: an empty answer")
        else:
            throttled = status in (429, 503)
            wait = self._failed(task, describe(response), response.headers.get("retry-after") if throttled else None)
            if status == 429:  # it is the instance that asks too fast, not this path
                self._hold = self._watch.clock() + wait

    def _unauthorised(self, task: _Task) -> None:
        """Renew the token once for all who were refused with it; back off if a fresh one is refused too."""
        trial = None
        if task.generation == self._generation and self._renew_at is None:
            proven, self._proven = self._proven, False
            wait = self._watch.pause(self._refused) if self._refused else 0.0
            self._refused += 1
            self._renew_at = self._watch.clock() + wait
            self._last = "the token is refused (401)"
            if proven:  # others were let in with this token: perhaps it is this path
                task.tries += 1
            elif self.children is not None:  # nobody else is left to tell: what has been let in before is asked again
                trial = _Task(ROOT, trial=True)
        if task.tries >= self._tries(task):
            self._failed(task, "answered 401")
        elif not task.trial:
            self._pending.append(task)
        if trial is not None and not self._on_trial():
            self._pending.append(trial)  # on top: before those that are refused

    def _on_trial(self) -> bool:
        waiting = [*(task for _, task in self._busy.values()), *(task for _, task in self._delayed), *self._pending]
        return any(task.trial for task in waiting)

    def _value(self, task: _Task, body: bytes) -> None:
        path = task.path
        if path.endswith("/"):
            found = listing.parse(path, body)
            if path == ROOT:
                if "instance-id" not in found.children:
                    self._failed(task, "a listing without instance-id")
                    return
                self.children = found.children
            else:
                for name in found.children[::-1]:
                    self._add(path + name)
            self.skipped += found.refused
        elif path == INSTANCE_ID and (listing.fault(body.decode("latin-1")) or not body.isascii() or b" " in body):
            self._failed(task, "not an instance id")
        elif self._total + len(body) > MAX_TOTAL:
            self._refuse(task, f"more than {MAX_TOTAL} bytes in all")
        else:
            self._total += len(body)
            if path == USER_DATA:
                self.user_data = body
                self._user_data_known = True
            else:
                self.entries[path] = body

    def _absent(self, task: _Task) -> None:
        if task.path == USER_DATA:
            self._user_data_known = True
        elif task.path == INSTANCE_ID:
            self._failed(task, "absent")

    # What did not come

    def _failed(self, task: _Task, why: str, retry_after: str | None = None) -> float:
        """Ask again later, or record that the machine must do without; return the back-off in seconds."""
        if task.trial:
            return 0.0
        # A hanging value costs a read time-out each: fewer of those.
        task.tries += 2 if why == "timed out" else 1
        self._last = f"{task.path}: {why}"
        wait = self._watch.pause(task.tries, retry_after)
        if task.tries < self._tries(task):
            self._delayed.append((self._watch.clock() + wait, task))
        else:
            self.skipped.append(f"{task.path}: {why}, {task.tries} times")
        return wait

    def _tries(self, task: _Task) -> float:
        if task.path in (ROOT, INSTANCE_ID, USER_DATA):
            return float("inf")  # until the deadline
        return self._patience.key_tries if task.path.startswith(_KEYS) else self._patience.tries

    def _refuse(self, task: _Task, why: str) -> None:
        if task.trial:
            return
        if self._tries(task) == float("inf"):
            raise MetadataError(f"EC2 metadata service at {self.endpoint}: {task.path}: {why}")
        self.skipped.append(f"{task.path}: {why}")

    def _outage(self, why: str, now: float) -> None:
        self._outages += 1
        self._last = why
        self._hold = now + min(self._watch.pause(self._outages), self._patience.connect)

    def _give_up(self) -> None:
        """At the deadline: keep a crawl that has what it must have, and say what is missing."""
        left = [*(task for _, task in self._busy.values()), *(task for _, task in self._delayed), *self._pending]
        paths = [task.path for task in left if task.path and not task.trial]
        if self.children is None or not self._user_data_known or INSTANCE_ID not in self.entries:
            raise MetadataTimeout(
                f"the EC2 metadata service did not give all that is needed within {self._watch.seconds:.0f} s: "
                f"{self._what_for()}"
            )
        self.skipped += [f"{path}: no answer before the deadline" for path in paths]
        self.close()
        self._pending.clear()
        self._delayed.clear()

    def _what_for(self) -> str:
        count = len(self._pending) + len(self._delayed) + len(self._busy)
        last = f"; last failure: {self._last}" if self._last else ""
        return f"{self.endpoint}: {count} answers outstanding{last}"

    def _left(self) -> float:
        return max(self._watch.deadline - self._watch.clock(), 0.0)
