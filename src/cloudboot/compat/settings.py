"""Take over what an image's owner has put into /etc/cloud: `cloud.cfg` and `cloud.cfg.d/*.cfg`, at baking.

What a package brought and nobody changed is no owner's word. Everything else is taken or named with the reason.
"""

from __future__ import annotations

from cloudboot import distro, modules
from cloudboot.config import CORE_SCHEMA, NOT_HERE, read_layer
from cloudboot.datasources import ORDER as DATASOURCES
from cloudboot.runner import LISTS, select
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cloudboot.host import Host
    from cloudboot.problem import Problem

FILE, FOLDER = "/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d"
TARGET = "/etc/cloudboot/conf.d/05-cloud-cfg.yaml"
HEAD = "# Written by `cloudboot bake` from /etc/cloud/cloud.cfg and cloud.cfg.d: edit those and bake again.\n"
DPKG_STATUS = "/var/lib/dpkg/status"
OF_SYSTEM_INFO = ("default_user", "ntp_client")
# Options of the packaged `mount_default_fields` that name cloud-init's own units.
THEIR_OPTION = "x-systemd.after=cloud-init"


class Taken(NamedTuple):
    """What was found. values: what is taken; by key, why something is not; problems: files that cannot be read."""

    values: dict[str, Any]
    left: dict[str, str]
    problems: tuple[Problem, ...]


def take_over(host: Host) -> None:
    """Take what there is, and print what is taken and what is not."""
    if not host.exists("/etc/cloud"):
        return
    import json

    taken = read(host)
    write(host, taken)
    for problem in taken.problems:
        print(f"note: {problem}")
    for key, value in sorted(taken.values.items()):
        print(f"note: taken from /etc/cloud: {key}: {json.dumps(value)[:100]}")
    for key, reason in sorted(taken.left.items()):
        print(f"note: not taken from /etc/cloud: {key}: {reason}")


def read(host: Host) -> Taken:
    """Read the owner's settings of cloud-init in an image tree."""
    problems: list[Problem] = []
    merged: dict[str, Any] = {}
    left: dict[str, str] = {}
    packaged = _packaged(host)
    names = [f"{FOLDER}/{name}" for name in host.listdir(FOLDER) if name.endswith(".cfg")]
    for path in [FILE, *names]:
        content = host.read(path)
        if content is None or _digest(content) == packaged.get(path):
            continue
        text = content.decode("utf-8", "replace")
        if text.startswith("## template: jinja"):
            left[path] = "is a template: write what it says into /etc/cloudboot/conf.d"
            continue
        merged = _over(read_layer(text, path, "image", problems).value, merged)
    values: dict[str, Any] = {}
    for key, value in merged.items():
        reason = _take(key, value, values)
        if reason:
            left[key] = reason
    _module_lists(merged, values, left, distro.read(host).name)
    return Taken(values, left, tuple(problems))


def write(host: Host, taken: Taken) -> None:
    """Write what is taken as a file of the image's configuration; none where there is nothing."""
    import json

    if not taken.values:
        host.remove(TARGET)
        return
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in sorted(taken.values.items())]
    host.write(TARGET, HEAD + "".join(lines))


def _take(key: str, value: Any, values: dict[str, Any]) -> str | None:
    """Put one setting where ours reads it; return why it is left out, if it is."""
    if key == "system_info":
        return _system_info(value if isinstance(value, dict) else {}, values)
    if key == "datasource_list":
        names = [name for name in value if name in DATASOURCES] if isinstance(value, list) else []
        if set(names) >= set(DATASOURCES) - {"None"}:
            return "names all datasources that there are here"
        if not set(names) - {"None"}:
            return f"names none of {', '.join(DATASOURCES)}"
        values[key] = names
    elif key == "datasource":
        own = {name: item for name, item in value.items() if name in DATASOURCES} if isinstance(value, dict) else {}
        if not own:
            return f"settings for none of {', '.join(DATASOURCES)}"
        values[key] = own
    elif key in LISTS.values():
        return None  # all of them at once
    elif key == "mount_default_fields" and isinstance(value, list):
        values[key] = [_without_their_unit(field) for field in value]
    elif key in NOT_HERE:
        return NOT_HERE[key]
    elif key in CORE_SCHEMA or key in modules.schemas():
        values[key] = value
    else:
        return "has no counterpart"
    return None


def _system_info(value: dict[str, Any], values: dict[str, Any]) -> str | None:
    if isinstance(value.get("default_user"), dict):
        values["default_user"] = value["default_user"]
    if "ntp_client" in value:
        values["system_info"] = {"ntp_client": value["ntp_client"]}
    rest = sorted(set(value) - set(OF_SYSTEM_INFO))
    return f"{', '.join(rest)}: read from the distribution itself" if rest else None


def _module_lists(merged: dict[str, Any], values: dict[str, Any], left: dict[str, str], name: str) -> None:
    """Take the lists of modules if they change what runs here, in which order or how often."""
    lists = {key: merged[key] for key in LISTS.values() if isinstance(merged.get(key), list)}
    if not lists:
        return
    everything = [each for each in modules.load_all() if not each.distros or name in each.distros]
    bare = all(isinstance(entry, str) for entries in lists.values() for entry in entries)
    same = all(
        [each.name for each in select(stage, everything, lists)[0]]
        == [each.name for each in select(stage, everything, {})[0]]
        for stage in LISTS
    )
    if bare and same:
        left |= dict.fromkeys(lists, "changes nothing of what runs here")
    else:
        values |= lists


def _without_their_unit(field: Any) -> Any:
    if not isinstance(field, str):
        return field
    return ",".join(option for option in field.split(",") if not option.startswith(THEIR_OPTION))


def _over(high: dict[str, Any], low: dict[str, Any]) -> dict[str, Any]:
    """Merge two files as cloud-init does: mappings key by key, all else the later file's."""
    made = dict(low)
    for key, value in high.items():
        below = low.get(key)
        made[key] = _over(value, below) if isinstance(value, dict) and isinstance(below, dict) else value
    return made


def _packaged(host: Host) -> dict[str, str]:
    """Return the checksums with which dpkg installed the files below /etc/cloud."""
    found = {}
    for line in (host.text(DPKG_STATUS) or "").splitlines():
        words = line.split()
        if line.startswith(" /etc/cloud/") and len(words) >= 2:
            found[words[0]] = words[1]
    return found


def _digest(content: bytes) -> str:
    import hashlib

    return hashlib.md5(content, usedforsecurity=False).hexdigest()
