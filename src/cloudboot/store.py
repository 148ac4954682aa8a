"""What is kept about an instance: its user data, the merged configuration with the places of its values, its identity.

All of it is JSON or the owner's own bytes, in `/var/lib/cloudboot/instances/ID/`, for root alone. On a settled boot the
configuration comes from here and no YAML is read, as long as what it was made from is unchanged.
"""

from __future__ import annotations

import zlib

from cloudboot import config as configuration
from cloudboot.actions import MakeDir, Remove, Symlink, WriteFile
from cloudboot.config import Config, Layer
from cloudboot.instance import IDENTITY, INSTANCES, LINK, Identity, Instance, folder
from cloudboot.problem import Level, Mark, Marks, Problem
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudboot.checker import Schema
    from cloudboot.host import Host
    from cloudboot.userdata.parts import Services
    from cloudboot.userdata.placement import Placed

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
    try:
        host.keep(MakeDir("/var/lib/cloudboot", 0o755))
        host.keep(WriteFile(IMAGE_CACHE, json.dumps(content).encode(), 0o600))
    except OSError as error:  # a full disk: read again by the next stage
        host.log.error(f"{IMAGE_CACHE}: {error.strerror}")
    return layer, problems


def config(
    host: Host,
    instance: Instance,
    user_data: bytes | None,
    vendor_data: bytes | None,
    schemas: Mapping[str, Schema],
    services: Services | None = None,
    *,
    keep: bool = True,
) -> Config:
    """Make the configuration of an instance from its user data, vendor data and image, and keep it.

    Parts that are run are put where their modules find them. `keep` False writes nothing. Without `services` includes
    and templates are left out, and named. Raises NeedsNetwork where a service does.
    """
    from cloudboot.compose import Given, compose
    from cloudboot.userdata.placement import OWNERS_FOLDERS, VENDORS_FOLDERS

    base, found = image(host)
    made = compose(Given(user_data, vendor_data, base, found), instance, schemas, services)
    left_out = [
        Problem(each.mark, f"{each.text or 'template'}: not looked into here", Level.WARNING)
        for each in made.unresolved
    ]
    merged = made.config._replace(problems=(*made.config.problems, *left_out))
    if keep:
        place = folder(instance.key)
        host.keep(MakeDir(INSTANCES, 0o700))
        host.keep(MakeDir(place, 0o700))
        _place(host, place, made.files, OWNERS_FOLDERS)
        _place(host, place, made.vendors_files, VENDORS_FOLDERS)
        _store(host, instance, merged)
    return merged


def load(host: Host, instance: Instance) -> Config | None:
    """Return the kept configuration; None if there is none, or the image's files or our program changed since."""
    import json

    stored = host.text(f"{folder(instance.key)}/config.json")
    if not stored:
        return None
    try:
        values = json.loads(stored)
        if values["stamp"] != image_stamp(host):
            return None
        layers = tuple(map(_layer, values["layers"]))
        problems = tuple(_problem(each) for each in values["problems"])
        return Config(values["value"], layers, _marks(values["marks"]), problems, values["volatile"])
    except (ValueError, KeyError, TypeError) as error:
        host.log.error(f"{folder(instance.key)}/config.json: cannot be read ({error}): made anew")
        return None


def user_data(host: Host, key: str) -> tuple[bytes | None, bytes | None]:
    """Return the kept user data and vendor data of an instance."""
    place = folder(key)
    return host.read(f"{place}/user-data"), host.read(f"{place}/vendor-data")


def load_instance(host: Host, key: str) -> Instance | None:
    """Return what is kept about an instance."""
    import json

    stored = host.text(f"{folder(key)}/instance.json")
    if not stored:
        return None
    try:
        return Instance.from_json(json.loads(stored))
    except (ValueError, TypeError) as error:
        host.log.error(f"{folder(key)}/instance.json: cannot be read ({error})")
        return None


def adopt(
    host: Host, instance: Instance, identity: Identity, user_data: bytes | None, vendor_data: bytes | None
) -> None:
    """Keep an instance and its data, and make it the current one. The identity comes last: only then it counts."""
    import json

    place = folder(instance.key)
    host.keep(MakeDir("/var/lib/cloudboot", 0o755))
    host.keep(MakeDir(INSTANCES, 0o700))
    host.keep(MakeDir(place, 0o700))
    host.keep(WriteFile(f"{place}/instance.json", json.dumps(instance.to_json(), indent=1).encode(), 0o600))
    host.keep(WriteFile(f"{place}/user-data", user_data or b"", 0o600))
    host.keep(WriteFile(f"{place}/vendor-data", vendor_data or b"", 0o600))
    host.keep(Symlink(LINK, f"instances/{place.rpartition('/')[2]}"))
    host.keep(WriteFile(IDENTITY, json.dumps(identity._asdict()).encode(), 0o600))


def note_applied(host: Host, key: str, user_data: bytes | None) -> None:
    """Remember which user data a new instance was configured with."""
    host.keep(WriteFile(f"{folder(key)}/user-data.applied", f"{zlib.crc32(user_data or b''):08x}".encode(), 0o600))


def changed_since_applied(host: Host, key: str, user_data: bytes | None) -> bool:
    """Tell whether the user data is not the one that the instance was configured with (stop, edit, start)."""
    applied = host.text(f"{folder(key)}/user-data.applied")
    return applied is not None and applied != f"{zlib.crc32(user_data or b''):08x}"


def _place(host: Host, place: str, files: Sequence[Placed], folders: Sequence[str]) -> None:
    """Put the files of what is run where its modules find them, and take away what an earlier user data left."""
    wanted = {file.path for file in files}
    for name in folders:
        for stale in host.listdir(f"{place}/{name}"):
            if f"{name}/{stale}" not in wanted:
                host.keep(Remove(f"{place}/{name}/{stale}"))
    for file in files:
        above = place
        for name in file.path.split("/")[:-1]:
            above += f"/{name}"
            host.keep(MakeDir(above, 0o700))
        host.keep(WriteFile(f"{place}/{file.path}", file.content, file.mode))


def _store(host: Host, instance: Instance, merged: Config) -> None:
    import json

    content = {
        "stamp": image_stamp(host),
        "value": merged.value,
        "layers": [_plain_layer(layer) for layer in merged.layers],
        "marks": _plain_marks(merged.marks),
        "problems": [_plain_problem(each) for each in merged.problems],
        "volatile": merged.volatile,
    }
    host.keep(WriteFile(f"{folder(instance.key)}/config.json", json.dumps(content, default=str).encode(), 0o600))


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
