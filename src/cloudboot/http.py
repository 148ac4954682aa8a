"""HTTP for the owner's URLs (includes, phone home): deadline, retries, size limit.

Rides on `requests` (93 ms of import), so it is loaded only where user data asks for it. The metadata service has a
client of its own (`imds.client`).
"""

from __future__ import annotations

import time

from cloudboot.errors import CloudbootError, NeedsNetwork
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from requests import PreparedRequest, Response, Session

CONNECT_TIMEOUT = 5.0  # seconds
READ_TIMEOUT = 20.0
SIZE_LIMIT = 16 << 20  # bytes
RETRY = (408, 429, 500, 502, 503, 504)


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes


class Fetcher:
    """Fetch for the owner. `offline`: there is no network yet, every request raises NeedsNetwork."""

    def __init__(
        self,
        *,
        offline: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.offline = offline
        self.clock = clock
        self.sleep = sleep

    def get(
        self,
        url: str,
        *,
        tries: int = 5,
        pause: float = 1.0,
        deadline: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """GET a URL. Raises CloudbootError naming the last failure after `tries` tries or `deadline` seconds.

        `headers` are the owner's, and may be secret: who is redirected to gets them on the same host only.
        """
        return self._request("GET", url, None, tries, pause, deadline, headers)

    def post(
        self, url: str, form: Mapping[str, str], *, tries: int = 10, pause: float = 3.0, deadline: float = 120.0
    ) -> Answer:
        """POST a form (urlencoded). Raises CloudbootError as `get`."""
        return self._request("POST", url, form, tries, pause, deadline)

    def _request(
        self,
        method: str,
        url: str,
        form: Mapping[str, str] | None,
        tries: int,
        pause: float,
        deadline: float,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        if self.offline:
            raise NeedsNetwork(url)
        import requests

        end = self.clock() + deadline
        last = "not tried"
        for number in range(tries):
            if number:
                self.sleep(min(pause, max(0.0, end - self.clock())))
            left = end - self.clock()
            if left <= 0:
                last = f"no time left ({deadline:.0f} s); {last}"
                break
            try:
                with (
                    _session(dict(headers or {})) as session,
                    session.request(
                        method,
                        url,
                        data=dict(form) if form is not None else None,
                        timeout=(min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left)),
                        stream=True,
                    ) as answer,
                ):
                    body = answer.raw.read(SIZE_LIMIT + 1, decode_content=True)
                    if len(body) > SIZE_LIMIT:
                        raise CloudbootError(f"{url}: larger than {SIZE_LIMIT >> 20} MiB: not read")
                    if answer.ok:
                        return Answer(answer.status_code, body)
                    last = f"HTTP {answer.status_code}"
                    if answer.status_code not in RETRY:
                        break
            except (requests.RequestException, OSError) as error:
                last = type(error).__name__
        raise CloudbootError(f"{method} {url}: {last}")


def _session(headers: Mapping[str, str]) -> Session:
    """Return a session that sends these headers, and takes them out where it would take out `Authorization`."""
    import requests

    class Own(requests.Session):
        def rebuild_auth(self, prepared_request: PreparedRequest, response: Response) -> None:
            super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]
            urls = response.request.url, prepared_request.url
            if self.should_strip_auth(*urls):  # type: ignore[no-untyped-call]
                for name in headers:
                    prepared_request.headers.pop(name, None)

    session = Own()
    session.headers.update(headers)
    return session
