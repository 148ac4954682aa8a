"""What is kept about an instance: its user data, the merged configuration with the places of its values, its identity.

All of it is JSON or the owner's own bytes, in `/var/lib/cloudboot/instances/ID/`, for root alone. On a settled boot the
configuration comes from here and no YAML is read, as long as what it was made from is unchanged.
"""

from __future__ import annotations

import zlib

from cloudboot import config as configuration
from cloudboot import modules
from cloudboot.actions import MakeDir, Symlink, WriteFile
from cloudboot.config import Config, Layer
from cloudboot.instance import IDENTITY, INSTANCES, LINK, Identity, Instance, folder
from cloudboot.module import canonical_name
from cloudboot.problem import Level, Mark, Marks, Problem
from cloudboot.runner import LISTS
from cloudboot.typed import TYPE_CHECKING, Any
from cloudboot.userdata import parts as userdata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.checker import Schema
    from cloudboot.host import Host

SCRIPTS = {
    userdata.Kind.SCRIPT: "scripts/user",
    userdata.Kind.PER_BOOT: "scripts/per-boot",
    userdata.Kind.PER_INSTANCE: "scripts/per-instance",
    userdata.Kind.PER_ONCE: "scripts/per-once",
}
OF_MODULES = ("frequency", "on_error", "on_interrupt")  # mappings by the names of modules
IMAGE_CACHE = "/var/lib/cloudboot/image.json"


def image_stamp(host: Host) -> dict[str, int]:
    """Return a checksum of each file of the image's configuration, and of the program that reads them."""
    from cloudboot import __version__

    stamp = {"version": zlib.crc32(__version__.encode())}
    names = [f"{configuration.IMAGE_FOLDER}/{name}" for name in host.listdir(configuration.IMAGE_FOLDER)]
    for path in [configuration.IMAGE_FILE, *names]:
        content = host.read(path)
        if content is not None:
            stamp[path] = zlib.crc32(content)
    return stamp


def image(host: Host) -> tuple[Layer, list[Problem]]:
    """Return the image's configuration; from our cache if its files are unchanged (YAML costs 20 ms)."""
    import json

    stamp = image_stamp(host)
    stored = host.text(IMAGE_CACHE)
    if stored:
        try:
            values = json.loads(stored)
            if values["stamp"] == stamp:
                return _layer(values["layer"]), [_problem(each) for each in values["problems"]]
        except (ValueError, KeyError):
            pass  # made anew below
    problems: list[Problem] = []
    layer = configuration.image_layer(host, problems)
    content = {"stamp": stamp, "layer": _plain_layer(layer), "problems": [_plain_problem(each) for each in problems]}
    host.keep(MakeDir("/var/lib/cloudboot", 0o755))
    host.keep(WriteFile(IMAGE_CACHE, json.dumps(content).encode(), 0o600))
    return layer, problems


def config(
    host: Host,
    instance: Instance,
    user_data: bytes | None,
    vendor_data: bytes | None,
    schemas: Mapping[str, Schema],
    *,
    keep: bool = True,
) -> Config:
    """Make the configuration of an instance from its user data, vendor data and image, and keep it.

    Scripts among the parts are put where their modules find them. `keep` False writes nothing.
    """
    problems: list[Problem] = []
    base, found = image(host)
    problems += found
    layers = []
    for raw, source, set_by in ((user_data, "user-data", "user data"), (vendor_data, "vendor-data", "vendor data")):
        if raw:
            layers.append(_read(host, instance, raw, source, set_by, problems, keep=keep))
    layers.append(base)
    merged = configuration.build([_of_known_modules(each, problems) for each in layers], schemas, problems)
    if keep:
        _store(host, instance, merged)
    return merged


def load(host: Host, instance: Instance) -> Config | None:
    """Return the kept configuration; None if there is none, or the image's files or our program changed since."""
    import json

    stored = host.text(f"{folder(instance.id)}/config.json")
    if not stored:
        return None
    try:
        values = json.loads(stored)
        if values["stamp"] != image_stamp(host):
            return None
        layers = tuple(map(_layer, values["layers"]))
        return Config(
            values["value"], layers, _marks(values["marks"]), tuple(_problem(each) for each in values["problems"])
        )
    except (ValueError, KeyError, TypeError) as error:
        host.log.error(f"{folder(instance.id)}/config.json: cannot be read ({error}): made anew")
        return None


def user_data(host: Host, instance_id: str) -> tuple[bytes | None, bytes | None]:
    """Return the kept user data and vendor data of an instance."""
    place = folder(instance_id)
    return host.read(f"{place}/user-data"), host.read(f"{place}/vendor-data")


def load_instance(host: Host, instance_id: str) -> Instance | None:
    """Return what is kept about an instance."""
    import json

    stored = host.text(f"{folder(instance_id)}/instance.json")
    if not stored:
        return None
    try:
        return Instance.from_json(json.loads(stored))
    except (ValueError, TypeError) as error:
        host.log.error(f"{folder(instance_id)}/instance.json: cannot be read ({error})")
        return None


def adopt(
    host: Host, instance: Instance, identity: Identity, user_data: bytes | None, vendor_data: bytes | None
) -> None:
    """Keep an instance and its data, and make it the current one. The identity comes last: only then it counts."""
    import json

    place = folder(instance.id)
    host.keep(MakeDir("/var/lib/cloudboot", 0o755))
    host.keep(MakeDir(INSTANCES, 0o700))
    host.keep(MakeDir(place, 0o700))
    host.keep(WriteFile(f"{place}/instance.json", json.dumps(instance.to_json(), indent=1).encode(), 0o600))
    host.keep(WriteFile(f"{place}/user-data", user_data or b"", 0o600))
    host.keep(WriteFile(f"{place}/vendor-data", vendor_data or b"", 0o600))
    host.keep(Symlink(LINK, f"instances/{place.rpartition('/')[2]}"))
    host.keep(WriteFile(IDENTITY, json.dumps(identity._asdict()).encode(), 0o600))


def note_applied(host: Host, instance_id: str, user_data: bytes | None) -> None:
    """Remember which user data a new instance was configured with."""
    host.keep(
        WriteFile(f"{folder(instance_id)}/user-data.applied", f"{zlib.crc32(user_data or b''):08x}".encode(), 0o600)
    )


def changed_since_applied(host: Host, instance_id: str, user_data: bytes | None) -> bool:
    """Tell whether the user data is not the one that the instance was configured with (stop, edit, start)."""
    applied = host.text(f"{folder(instance_id)}/user-data.applied")
    return applied is not None and applied != f"{zlib.crc32(user_data or b''):08x}"


def _read(
    host: Host,
    instance: Instance,
    raw: bytes,
    source: str,
    set_by: str,
    problems: list[Problem],
    *,
    keep: bool,
) -> Layer:
    from cloudboot.config import read_layer

    found = userdata.split(raw, source)
    problems += found.problems
    if source == "user-data" and len(raw) > userdata.RAW_LIMIT and instance.platform == "aws":
        advice = "fetch the larger pieces at boot" if raw[:2] == b"\x1f\x8b" else "gzip it"
        told = f"has {len(raw)} bytes, EC2 takes at most {userdata.RAW_LIMIT}: {advice}"
        problems.append(Problem(Mark(source), told, Level.WARNING))
    value: dict[str, Any] = {}
    marks: Marks = {}
    vendor = set_by == "vendor data"
    scripts: dict[str, userdata.Part] = {}
    for part in userdata.for_index(found.parts, instance.launch_index):
        if part.kind is not userdata.Kind.CLOUD_CONFIG:
            scripts[f"{'scripts/vendor' if vendor else SCRIPTS[part.kind]}/{part.name}"] = part
            continue
        single = len(found.parts) == 1 and part.name == "part-001"
        place = source if single else part.name
        text, trouble = userdata.text_of(part.content, Mark(place))
        problems += [trouble] if trouble else []
        layer = read_layer(text, place, set_by, problems)
        index = layer.value.get("launch-index")
        if isinstance(index, int) and instance.launch_index is not None and index != instance.launch_index:
            continue
        # Between parts: cloud-init's default `dict(replace)`: a later part's key replaces the whole earlier one.
        for key, item in layer.value.items():
            value[key] = item
            for known in [known for known in marks if known[:1] == (key,)]:
                del marks[known]
        marks.update(layer.marks)
    if keep:
        _place_scripts(host, instance, scripts, vendor=vendor)
    return Layer(set_by, value, marks)


def _of_known_modules(layer: Layer, problems: list[Problem]) -> Layer:
    """Leave out what a layer says of modules that there are none of."""
    value = dict(layer.value)
    for key in OF_MODULES:
        if not isinstance(value.get(key), dict):
            continue
        value[key] = dict(value[key])
        for name in layer.value[key]:
            word = canonical_name(name)
            if word not in modules.ORDER:
                told = f"{key}.{name}: no such module{configuration.suggestion(word, modules.ORDER)}: left out"
                problems.append(Problem(layer.marks.get((key, name), Mark(layer.set_by)), told))
                del value[key][name]
    for key in LISTS.values():
        for index, entry in enumerate(value[key] if isinstance(value.get(key), list) else ()):
            name = entry[0] if isinstance(entry, list) and entry else entry
            word = canonical_name(name) if isinstance(name, str) else ""
            like = configuration.suggestion(word, modules.ORDER)
            if like and word not in modules.ORDER:  # others may be modules of the reference's that we lack
                mark = layer.marks.get((key, index), Mark(layer.set_by))
                problems.append(Problem(mark, f"{key}[{index}]: no such module: {name!r}{like}", Level.WARNING))
    return layer._replace(value=value)


def _place_scripts(host: Host, instance: Instance, scripts: dict[str, userdata.Part], *, vendor: bool) -> None:
    place = folder(instance.id)
    for name in ["vendor"] if vendor else ["user", "per-boot", "per-instance", "per-once"]:
        for stale in host.listdir(f"{place}/scripts/{name}"):
            if f"scripts/{name}/{stale}" not in scripts:
                from cloudboot.actions import Remove

                host.keep(Remove(f"{place}/scripts/{name}/{stale}"))
    for path, part in scripts.items():
        host.keep(MakeDir(f"{place}/scripts", 0o700))
        host.keep(MakeDir(f"{place}/{path.rpartition('/')[0]}", 0o700))
        host.keep(WriteFile(f"{place}/{path}", part.content, 0o700))


def _store(host: Host, instance: Instance, merged: Config) -> None:
    import json

    content = {
        "stamp": image_stamp(host),
        "value": merged.value,
        "layers": [_plain_layer(layer) for layer in merged.layers],
        "marks": _plain_marks(merged.marks),
        "problems": [_plain_problem(each) for each in merged.problems],
    }
    host.keep(MakeDir(INSTANCES, 0o700))
    host.keep(MakeDir(folder(instance.id), 0o700))
    host.keep(WriteFile(f"{folder(instance.id)}/config.json", json.dumps(content, default=str).encode(), 0o600))


def _plain_marks(marks: Marks) -> list[list[Any]]:
    return [[list(pointer), *mark] for pointer, mark in marks.items()]


def _marks(stored: list[list[Any]]) -> Marks:
    return {tuple(each[0]): Mark(*each[1:]) for each in stored}


def _plain_layer(layer: Layer) -> dict[str, Any]:
    return {"set_by": layer.set_by, "value": layer.value, "marks": _plain_marks(layer.marks)}


def _layer(stored: dict[str, Any]) -> Layer:
    return Layer(stored["set_by"], stored["value"], _marks(stored["marks"]))


def _plain_problem(problem: Problem) -> list[Any]:
    return [list(problem.mark), problem.text, str(problem.level)]


def _problem(stored: list[Any]) -> Problem:
    return Problem(Mark(*stored[0]), stored[1], Level(stored[2]))
