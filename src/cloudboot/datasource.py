"""Where the metadata come from: a datasource detects itself without a packet, then fetches a whole description."""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.host import Host
    from cloudboot.instance import Instance

COMMAND_LINE = "/proc/cmdline"


class Fetched(NamedTuple):
    """What a datasource gave: the instance, the owner's and the vendor's data, files for /run/ec2 (relative path ->
    content), and a word about how it went for the log."""

    instance: Instance
    user_data: bytes | None
    vendor_data: bytes | None = None
    files: Mapping[str, bytes] = {}
    word: str = ""


class Datasource(Protocol):
    """A kind of source.

    name: as in `datasource_list`. offline: `fetch` needs no network, so it is asked in the local stage.
    """

    name: str
    offline: bool

    def detect(self, host: Host, settings: Mapping[str, Any]) -> str | None:
        """Return the platform (`aws`, `nocloud` …) if this machine looks like this source's, without a packet."""

    def fetch(
        self,
        host: Host,
        settings: Mapping[str, Any],
        platform: str,
        *,
        say: Callable[[str], None],
        deadline: float | None = None,
    ) -> Fetched:
        """Fetch everything. Raises MetadataError (also MetadataDisabled, MetadataTimeout)."""


class Found(NamedTuple):
    """The datasource that this machine has, and the platform that it was recognised as."""

    source: Datasource
    platform: str


def load(name: str) -> Datasource | None:
    """Return a datasource by its name (any case); None if there is no such one."""
    from cloudboot.datasources import ORDER

    for known in ORDER:
        if known.lower() == name.lower():
            from importlib import import_module

            loaded: Datasource = import_module(f"cloudboot.datasources.{known.lower()}").SOURCE
            return loaded
    return None


def find(host: Host, config: Mapping[str, Any]) -> Found | None:
    """Return this machine's datasource.

    The kernel command line (`cloudboot.datasource=`, or cloud-init's `ds=`, `ci.ds=`) names one; else the first of
    `datasource_list` that detects itself. One that is named, or that the list names alone or before `None`, is taken
    without detection: so does a UEC image, whose hardware says nothing.
    """
    from cloudboot.datasources import ORDER

    named = _on_command_line(host)
    listed = [named] if named else list(config.get("datasource_list") or ORDER)
    settings = config.get("datasource") or {}
    certain = named is not None or [name for name in listed if name.lower() != "none"] == listed[:1]
    for name in listed:
        source = load(name)
        if source is None:
            host.log.warning(f"datasource_list: unknown datasource {name!r}: known are {', '.join(ORDER)}")
            continue
        own = settings.get(source.name) or {}
        platform = source.detect(host, own)
        if platform is None and certain and source.name != "None" and not source.offline:
            platform = "uec"
        if platform is not None:
            return Found(source, platform)
    return None


def _on_command_line(host: Host) -> str | None:
    words = (host.text("/proc/1/cmdline" if _in_container(host) else COMMAND_LINE) or "").replace("\0", " ").split()
    for word in words:
        key, _, value = word.partition("=")
        if key in ("cloudboot.datasource", "ci.datasource", "ci.ds", "ds") and value:
            return value.split(";")[0]
    return None


def _in_container(host: Host) -> bool:
    return host.exists("/run/systemd/container")
