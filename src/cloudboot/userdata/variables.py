"""The variables of templates: `v1.*`, `ds.*` and the names of `v1` at the top, as cloud-init's instance-data has them.

Neither credentials nor user data are among them: a template's text ends up in files that others read.
"""

from __future__ import annotations

import re

from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.host import Host
    from cloudboot.instance import Instance

NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_]")
NEVER = ("security-credentials", "identity-credentials", "user-data", "vendor-data", "vendor-data2", "userdata")
TREES = {"meta-data": "meta_data", "dynamic": "dynamic"}
HYPHENED = ("availability_zone", "cloud_name", "instance_id", "local_hostname")
OF_NAMED_REGIONS = {"cn-": "aws-china", "us-gov-": "aws-gov"}


def variables(instance: Instance, metadata: Mapping[str, Any], facts: Mapping[str, str]) -> dict[str, Any]:
    """Build what a template sees.

    metadata: what metadata.json holds, `meta-data` and `dynamic` as nested mappings; other keys of it are left out.
    facts: about this system: distro, distro_release, distro_version, kernel_release, machine, python_version,
    system_platform, variant. A key that is no name (`public-ipv4`) has an alias (`public_ipv4`) beside it.
    """
    service = instance.datasource == "Ec2"
    cloud = (instance.platform if service else instance.datasource.lower()) or "unknown"
    endpoint = metadata.get("endpoint")
    v1: dict[str, Any] = {
        "_beta_keys": ["subplatform"],
        "availability_zone": instance.availability_zone,
        "cloud_id": _cloud_id(cloud, instance.region or ""),
        "cloud_name": cloud,
        "instance_id": instance.id,
        "local_hostname": (instance.hostname or "").partition(".")[0] or None,
        "platform": "ec2" if service else cloud,
        "public_ssh_keys": list(instance.public_keys),
        "region": instance.region,
        "subplatform": f"metadata (http://{endpoint})" if isinstance(endpoint, str) else "unknown",
    }
    for name in (
        "distro",
        "distro_release",
        "distro_version",
        "kernel_release",
        "machine",
        "python_version",
        "system_platform",
        "variant",
    ):
        v1[name] = facts.get(name, "")
    v1 |= {name.replace("_", "-"): v1[name] for name in HYPHENED}
    ds: dict[str, Any] = {
        new: _nested(metadata[old]) for old, new in TREES.items() if isinstance(metadata.get(old), dict)
    }
    if ds and service:
        ds["_metadata_api_version"] = str(metadata.get("version", ""))
    system = {
        "dist": [v1["distro"], v1["distro_version"], v1["distro_release"]],
        "platform": v1["system_platform"],
        "python": v1["python_version"],
        "release": v1["kernel_release"],
        "system": "Linux",
        "variant": v1["variant"],
    }
    return {**v1, "v1": dict(v1), "ds": ds, "sys_info": system}


def facts(host: Host) -> dict[str, str]:
    """Return what `variables` is told about the system; of an image tree, kernel and Python are this machine's."""
    import os
    import sys

    from cloudboot import distro

    name = distro.read(host)
    kernel = os.uname()
    library = (os.confstr("CS_GNU_LIBC_VERSION") or "").replace(" ", "")
    return {
        "distro": name.name,
        "distro_release": _codename(host),
        "distro_version": name.version or "",
        "kernel_release": kernel.release,
        "machine": kernel.machine,
        "python_version": ".".join(map(str, sys.version_info[:3])),
        "system_platform": "-".join(filter(None, (kernel.sysname, kernel.release, kernel.machine, "with", library))),
        "variant": name.name,
    }


def _codename(host: Host) -> str:
    from cloudboot.distro import OS_RELEASE

    for path in OS_RELEASE:
        for line in (host.text(path) or "").splitlines():
            if line.startswith("VERSION_CODENAME="):
                return line.partition("=")[2].strip().strip('"')
    return ""


def _cloud_id(cloud: str, region: str) -> str:
    if cloud != "aws":
        return cloud
    return next((name for start, name in OF_NAMED_REGIONS.items() if region.startswith(start)), cloud)


def _nested(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of the metadata with values as cloud-init has them, and aliases."""
    return _with_aliases(
        {
            name: _nested(child) if isinstance(child, dict) else _value(child)
            for name, child in tree.items()
            if name.lower() not in NEVER
        }
    )


def _value(text: Any) -> Any:
    """Return a JSON object as a mapping, several lines as a list, all else as it is."""
    if not isinstance(text, str):
        return text
    if text.lstrip().startswith("{"):
        import json

        try:
            return aliased(json.loads(text))
        except (ValueError, RecursionError):
            pass  # it only looks like one
    return text.splitlines() if "\n" in text else text


def aliased(value: Any) -> Any:
    """Give each key that is no name in a template, at any depth, an alias; a key of that name is left as it is."""
    if isinstance(value, list):
        return [aliased(item) for item in value]
    if isinstance(value, dict):
        return _with_aliases({key: aliased(item) for key, item in value.items()})
    return value


def _with_aliases(values: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, item in values.items():
        if NOT_IN_A_NAME.search(key):
            result.setdefault(NOT_IN_A_NAME.sub("_", key), item)
    return result
