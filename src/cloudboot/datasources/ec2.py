"""EC2, and clouds that speak its metadata protocol: UEC/Eucalyptus, OpenStack's EC2 face."""

from __future__ import annotations

import time

from cloudboot.datasource import Fetched
from cloudboot.errors import ConfigError, MetadataError
from cloudboot.instance import Instance
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.host import Host
    from cloudboot.imds.client import Endpoint

DMI = "/sys/class/dmi/id"
HYPERVISOR_UUID = "/sys/hypervisor/uuid"
DEADLINE = 120.0  # seconds over the whole crawl
IPV4, IPV6, LINK_LOCAL = "169.254.169.254", "fd00:ec2::254", "fe80::a9fe:a9fe"


class Ec2:
    """The EC2 datasource. Settings: metadata_urls (list), max_wait (seconds over all)."""

    name = "Ec2"
    offline = False

    def detect(self, host: Host, settings: Mapping[str, Any]) -> str | None:
        """Recognise AWS and the EC2-likes by what DMI says (the list: docs/datasources.md)."""

        def dmi(name: str) -> str:
            return (host.text(f"{DMI}/{name}") or "").strip().lower()

        vendor = dmi("sys_vendor")
        if vendor == "amazon ec2":
            return "aws"
        uuid = (host.text(HYPERVISOR_UUID) or "").strip().lower() or dmi("product_uuid")
        # Xen shows the UUID in either byte order: ec2xxxxx-… or xxxx2?ec-….
        if uuid.startswith("ec2") or (uuid[6:8] == "ec" and uuid[4:5] == "2" and dmi("product_serial") in ("", uuid)):
            return "aws"
        if dmi("product_serial").endswith(".brightbox.com"):
            return "brightbox"
        if dmi("chassis_asset_tag").endswith(".zstack.io"):
            return "zstack"
        if vendor in ("e24cloud", "tilaa"):
            return vendor
        if vendor == "3ds outscale" and dmi("product_name") == "3ds outscale vm":
            return "outscale"
        if dmi("product_name") in ("openstack nova", "openstack compute"):
            return "openstack"
        return None

    def fetch(
        self,
        host: Host,
        settings: Mapping[str, Any],
        platform: str,
        *,
        say: Callable[[str], None],
        deadline: float | None = None,
    ) -> Fetched:
        """Crawl the metadata service; see `imds.client.crawl`."""
        from cloudboot.imds import cache, client

        limit = deadline if deadline is not None else float(settings.get("max_wait", DEADLINE))
        crawl = client.crawl(endpoints(host, settings, platform), aws=platform == "aws", say=say, deadline=limit)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(host.now()))
        files = cache.files(crawl, stamp)
        metadata = cache.load(files["metadata.json"])
        for path in crawl.skipped:
            host.log.info(f"metadata: left out: {path}")
        # The words of the identity document are signed by the platform, those of the tree are not.
        document = _document(crawl.entries.get("dynamic/instance-identity/document"))
        instance_id = document.get("instanceId") or metadata.value("meta-data/instance-id")
        if not instance_id:
            raise MetadataError("the metadata service names no instance-id: is this an EC2 metadata service?")
        zone = document.get("availabilityZone") or metadata.value("meta-data/placement/availability-zone")
        index = metadata.value("meta-data/ami-launch-index")
        instance = Instance(
            id=instance_id,
            datasource=self.name,
            platform=platform,
            hostname=metadata.value("meta-data/local-hostname"),
            public_keys=tuple(metadata.public_keys()),
            launch_index=int(index) if index is not None and index.isdigit() else None,
            availability_zone=zone,
            region=document.get("region")
            or metadata.value("meta-data/placement/region")
            or (zone[:-1] if zone else None),
            devices=tuple(sorted(metadata.block_device_mapping().items())),
        )
        word = (
            f"crawled {len(crawl.entries)} values from {crawl.endpoint} (version {crawl.version}, "
            f"IMDSv{2 if crawl.v2 else 1}) in {crawl.seconds:.2f} s: {crawl.requests} requests, "
            f"{crawl.connections} connections, {crawl.tokens} token"
        )
        return Fetched(instance, crawl.user_data, None, files, word)


def endpoints(host: Host, settings: Mapping[str, Any], platform: str) -> list[Endpoint]:
    """Return where the service may answer: the owner's `metadata_urls`, else the link-local addresses.

    Raises ConfigError for a URL that is not `http://ADDRESS[:PORT]`.
    """
    from cloudboot.imds.client import Endpoint

    urls = settings.get("metadata_urls")
    if urls:
        return [_endpoint(str(url)) for url in urls]
    found = [Endpoint(IPV4), Endpoint(IPV6)]
    if platform == "openstack":
        nics = [name for name in host.listdir("/sys/class/net") if name != "lo"]
        found += [Endpoint(LINK_LOCAL, interface=name) for name in nics]
    return found


def _endpoint(url: str) -> Endpoint:
    from cloudboot.imds.client import Endpoint

    rest = url.removeprefix("http://").rstrip("/")
    host, _, port = rest[1:].partition("]") if rest.startswith("[") else rest.partition(":")
    port = port.lstrip(":")
    if not url.startswith("http://") or not host or "/" in rest or (port and not port.isdigit()):
        raise ConfigError(f"datasource.Ec2.metadata_urls: must be like http://169.254.169.254: {url!r}")
    return Endpoint(host, int(port) if port else 80)


def _document(content: bytes | None) -> dict[str, Any]:
    import json

    try:
        document = json.loads(content or b"{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


SOURCE = Ec2()
