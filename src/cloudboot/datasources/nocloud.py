"""NoCloud: a seed directory in the image, or a volume labelled CIDATA."""

from __future__ import annotations

import os

from cloudboot.actions import MakeDir, Run
from cloudboot.config import read_layer
from cloudboot.datasource import Fetched
from cloudboot.errors import MetadataError
from cloudboot.instance import Instance
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.host import Host
    from cloudboot.problem import Problem

SEEDS = ("/var/lib/cloudboot/seed/nocloud", "/var/lib/cloud/seed/nocloud", "/var/lib/cloud/seed/nocloud-net")
BY_LABEL = "/dev/disk/by-label"
MOUNT_POINT = "/run/cloudboot/seed"
NEEDED = ("user-data", "meta-data")  # as cloud-init: both must be there, they may be empty


class NoCloud:
    """The NoCloud datasource. Settings: seedfrom (a directory), fs_label (default CIDATA in either case)."""

    name = "NoCloud"
    offline = True

    def detect(self, host: Host, settings: Mapping[str, Any]) -> str | None:
        """Recognise a seed directory or a volume by its label."""
        return "nocloud" if self._seed(host, settings) or self._volume(host, settings) else None

    def fetch(
        self,
        host: Host,
        settings: Mapping[str, Any],
        platform: str,
        *,
        say: Callable[[str], None],
        deadline: float | None = None,
    ) -> Fetched:
        """Read meta-data (YAML: instance-id, local-hostname, public-keys, launch-index), user-data, vendor-data."""
        seed = self._seed(host, settings)
        if seed:
            return self._read(host, {name: host.read(f"{seed}/{name}") for name in (*NEEDED, "vendor-data")}, seed)
        device = self._volume(host, settings)
        if device is None:
            raise MetadataError("NoCloud: neither a seed directory nor a volume labelled CIDATA is there")
        host.keep(MakeDir(MOUNT_POINT, 0o700))
        host.keep(Run(("mount", "-o", "ro,nosuid,nodev,noexec", device, MOUNT_POINT)))
        try:
            found = {name: host.read(f"{MOUNT_POINT}/{name}") for name in (*NEEDED, "vendor-data")}
        finally:
            host.keep(Run(("umount", MOUNT_POINT)))
        return self._read(host, found, device)

    def _read(self, host: Host, found: dict[str, bytes | None], where: str) -> Fetched:
        problems: list[Problem] = []
        text = (found["meta-data"] or b"").decode("utf-8", "replace")
        metadata = read_layer(text, f"{where}/meta-data", "metadata", problems).value
        for problem in problems:
            host.log.warning(str(problem))
        keys = metadata.get("public-keys") or []
        if isinstance(keys, dict):
            keys = [key for each in keys.values() for key in (each if isinstance(each, list) else [each])]
        index = metadata.get("launch-index")
        instance = Instance(
            id=str(metadata.get("instance-id") or "nocloud"),
            datasource=self.name,
            platform="nocloud",
            hostname=str(metadata["local-hostname"]) if metadata.get("local-hostname") else None,
            public_keys=tuple(map(str, keys.splitlines() if isinstance(keys, str) else keys)),
            launch_index=index if isinstance(index, int) else None,
            # For seed_random in this very process: a seed is not kept.
            metadata={name: metadata[name] for name in ("random_seed",) if name in metadata},
        )
        return Fetched(instance, found["user-data"] or None, found["vendor-data"] or None, {}, f"read from {where}")

    def _seed(self, host: Host, settings: Mapping[str, Any]) -> str | None:
        named = settings.get("seedfrom")
        places = [str(named).removeprefix("file://").rstrip("/")] if named else SEEDS
        for place in places:
            if all(host.exists(f"{place}/{name}") for name in NEEDED):
                return place
        return None

    def _volume(self, host: Host, settings: Mapping[str, Any]) -> str | None:
        if not host.live:
            return None
        label = settings.get("fs_label", "cidata")
        if not label:
            return None
        for name in (str(label).upper(), str(label).lower(), str(label)):
            if host.exists(f"{BY_LABEL}/{name}"):
                return os.path.join(BY_LABEL, name)
        # Before udev has made its links, blkid looks at the devices themselves.
        for name in (str(label).upper(), str(label).lower()):
            answer = host.ask(["blkid", "-c", "/dev/null", "-t", f"LABEL={name}", "-o", "device"])
            if answer.ok and answer.output.strip():
                return answer.output.split()[0]
        return None


SOURCE = NoCloud()
