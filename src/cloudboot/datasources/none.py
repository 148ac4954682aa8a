"""None: no metadata at all; the image's own configuration is applied once."""

from __future__ import annotations

from cloudboot.datasource import Fetched
from cloudboot.instance import Instance
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.host import Host


class NoDatasource:
    """The last resort of `datasource_list`. Settings: userdata_raw (text), metadata (instance-id, local-hostname)."""

    name = "None"
    offline = True

    def detect(self, host: Host, settings: Mapping[str, Any]) -> str | None:
        """Recognise every machine."""
        return "none"

    def fetch(
        self,
        host: Host,
        settings: Mapping[str, Any],
        platform: str,
        *,
        say: Callable[[str], None],
        deadline: float | None = None,
    ) -> Fetched:
        """Return what the settings say."""
        metadata = settings.get("metadata") or {}
        raw = settings.get("userdata_raw")
        instance = Instance(
            id=str(metadata.get("instance-id") or "datasource-none"),
            datasource=self.name,
            platform=platform,
            hostname=metadata.get("local-hostname"),
        )
        return Fetched(instance, str(raw).encode() if raw else None, word="no datasource")


SOURCE = NoDatasource()
