"""What reading user data needs beside its bytes: the URLs that it includes, files, the variables of its templates.

What was fetched is kept, and made do with when it cannot be had again.
"""

from __future__ import annotations

from cloudboot.actions import MakeDir, WriteFile
from cloudboot.errors import CloudbootError, NeedsNetwork
from cloudboot.instance import folder
from cloudboot.scripts import IMAGE_HANDLERS
from cloudboot.typed import TYPE_CHECKING, Any
from cloudboot.userdata.parts import Services

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host
    from cloudboot.http import Fetcher
    from cloudboot.instance import Instance

METADATA = "/run/ec2/metadata.json"

TRIES, PAUSE, DEADLINE = 5, 1.0, 30.0  # for one URL; seconds
ALL = 120.0  # seconds for all together: the login waits for them on a new machine


def services(host: Host, instance: Instance, fetcher: Fetcher, say: Callable[[str], None]) -> Services:
    """Return what reading an instance's user data needs; what needs the network raises NeedsNetwork without one."""

    def of_templates() -> dict[str, Any]:
        import json

        from cloudboot.userdata.variables import facts, variables

        if fetcher.offline:
            raise NeedsNetwork("the variables of templates")
        tree = json.loads(host.text(METADATA) or "{}")
        return variables(instance, tree if isinstance(tree, dict) else {}, facts(host))

    handlers = any(host.listdir(place) for place in IMAGE_HANDLERS)
    return Services(Includes(host, folder(instance.key), fetcher, say), host.read, of_templates, handlers)


class Includes:
    """Fetches URLs for one reading of user data. `place`: the instance's folder; `say`: called before each request."""

    def __init__(self, host: Host, place: str, fetcher: Fetcher, say: Callable[[str], None]) -> None:
        self.host = host
        self.folder = f"{place}/includes"
        self.fetcher = fetcher
        self.say = say
        self.end = fetcher.clock() + ALL

    def __call__(self, url: str, *, once: bool) -> bytes:
        """Return what a URL has; of one that is included once only, or that fails, what was kept of it.

        Raises CloudbootError if there is neither, NeedsNetwork where the fetcher does.
        """
        import hashlib

        from cloudboot.userdata.include import shown

        path = f"{self.folder}/{hashlib.sha256(url.encode()).hexdigest()[:32]}"
        kept = self.host.read(path)
        if once and kept is not None:
            return kept
        left = self.end - self.fetcher.clock()
        try:
            if left <= 0 and not self.fetcher.offline:
                raise CloudbootError(f"not fetched: {ALL:.0f} s for all includes are over")
            self.say(f"fetching {shown(url)}")
            content = self.fetcher.get(url, tries=TRIES, pause=PAUSE, deadline=min(DEADLINE, left)).body
        except NeedsNetwork:
            raise
        except CloudbootError as error:
            # A URL may hold a password or a signature.
            told = str(error).replace(url, shown(url))
            if kept is None:
                raise CloudbootError(told) from None
            self.host.log.warning(f"include: {told}: what was fetched before is used")
            return kept
        finally:
            self.say("")
        try:
            self.host.keep(MakeDir(self.folder, 0o700))
            self.host.keep(WriteFile(path, content, 0o600))
        except OSError as error:  # a full disk: fetched again at the next boot
            self.host.log.error(f"include: {shown(url)}: not kept: {error.strerror}")
        return content
