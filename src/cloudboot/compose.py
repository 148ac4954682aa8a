"""From user data, vendor data and the image's configuration to one configuration and the files of what is run.

Pure but for the services that are handed in: a boot, `plan` and `schema` go the same way.
"""

from __future__ import annotations

from cloudboot import config as configuration
from cloudboot import modules
from cloudboot.config import Config, Layer, read_layer
from cloudboot.errors import ConfigError
from cloudboot.module import canonical_name
from cloudboot.problem import Level, Mark, Problem
from cloudboot.runner import LISTS
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple
from cloudboot.userdata import launch_index, merge, parts
from cloudboot.userdata.kinds import Kind
from cloudboot.userdata.placement import placed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudboot.checker import Schema
    from cloudboot.instance import Instance
    from cloudboot.userdata.parts import Part, Parts, Services, Unresolved
    from cloudboot.userdata.placement import Placed

OF_MODULES = ("frequency", "on_error", "on_interrupt")  # mappings by the names of modules
FALSE = ("false", "0", "no", "off")


class Given(NamedTuple):
    """What a configuration is made from."""

    user_data: bytes | None
    vendor_data: bytes | None
    image: Layer
    problems: Sequence[Problem] = ()  # of the image's files
    source: str = "user-data"  # what the user data is called in messages


class Composed(NamedTuple):
    """The configuration; the files of what is run, the owner's and the vendor's; what could not be looked into."""

    config: Config
    files: Sequence[Placed]
    vendors_files: Sequence[Placed]
    unresolved: Sequence[Unresolved] = ()


def compose(given: Given, instance: Instance, schemas: Mapping[str, Schema], services: Services | None) -> Composed:
    """Make one configuration. Raises NeedsNetwork where a service does; all else that is wrong is in its problems."""
    problems = list(given.problems)
    layers = [given.image]
    unresolved: list[Unresolved] = []
    volatile = False
    files: list[Placed] = []
    vendors_files: list[Placed] = []
    handlers = services is not None and services.handlers
    if given.user_data and _switch(given.image.value.get("allow_userdata")):
        found = parts.split(given.user_data, given.source, services=services)
        if instance.platform == "aws":
            found.problems.extend(filter(None, [parts.oversized(given.user_data, given.source)]))
        chosen = [part for part in found.parts if part.kind is Kind.CLOUD_CONFIG or _meant(part, instance)]
        layers.insert(0, _layer(chosen, found, "user data", instance, schemas, problems))
        files = _files([part for part in chosen if _meant(part, instance)], problems, handlers=handlers)
        unresolved, volatile = [*found.unresolved], found.volatile
    if given.vendor_data:
        settings = build(layers, schemas).value.get("vendor_data") or {}
        if _switch(settings.get("enabled")):
            found = parts.split(given.vendor_data, "vendor-data", services=services)
            chosen = parts.without(found.parts, settings.get("disabled_handlers") or ())
            layers.insert(-1, _layer(chosen, found, "vendor data", instance, schemas, problems))
            vendors_files = _files(chosen, problems, vendor=True, handlers=handlers)
            unresolved += found.unresolved
            volatile = volatile or found.volatile
    merged = build(layers, schemas, problems)
    return Composed(merged._replace(volatile=volatile), files, vendors_files, unresolved)


def build(layers: Sequence[Layer], schemas: Mapping[str, Schema], problems: Sequence[Problem] = ()) -> Config:
    """Check the layers, the highest first, and merge them; what they say of modules that there are not is left out."""
    found = list(problems)
    known = [_of_known_modules(each, found) for each in layers]
    merged = configuration.build(known, schemas, found)
    return merged._replace(problems=tuple(dict.fromkeys(merged.problems)))


def _switch(value: object) -> bool:
    return value is None or str(value).strip().lower() not in FALSE


def _meant(part: Part, instance: Instance) -> bool:
    return instance.launch_index is None or part.launch_index in (None, instance.launch_index)


def _files(chosen: list[Part], problems: list[Problem], *, vendor: bool = False, handlers: bool) -> list[Placed]:
    files, found = placed(chosen, vendor=vendor, handlers=handlers)
    problems += found
    return files


def _layer(
    chosen: list[Part],
    found: Parts,
    set_by: str,
    instance: Instance,
    schemas: Mapping[str, Schema],
    problems: list[Problem],
) -> Layer:
    """Merge the cloud-config parts of one user data, in their order, and apply the sections for this instance."""
    problems += found.problems
    merger = merge.Merger(problems)
    for part in chosen:
        if part.kind is Kind.CLOUD_CONFIG:
            layer = _read(part, set_by, problems)
            index = layer.value.get("launch-index") if part.launch_index is None else part.launch_index
            if set_by == "user data" and isinstance(index, int) and instance.launch_index not in (None, index):
                continue
            merger.feed(_rule(part, layer, problems), layer.value, layer.marks)
        elif part.kind is Kind.JSONP:
            merger = _patched(part, merger, problems)
    value, marks = merger.result()
    for section in launch_index.sections(value, marks):
        # Also those that are for others: a mistake is best found on the first machine.
        problems += build([Layer(set_by, section.value, section.marks)], schemas).problems
    value, marks, wrong = launch_index.apply(value, marks, instance.launch_index)
    problems += wrong
    return Layer(set_by, value, marks)


def _read(part: Part, set_by: str, problems: list[Problem]) -> Layer:
    text, trouble = parts.text_of(part.content, part.mark)
    problems += [trouble] if trouble else []
    return read_layer(text, part.mark.source, set_by, problems)


def _rule(part: Part, layer: Layer, problems: list[Problem]) -> merge.How:
    """Return how a part wants to be merged; one that cannot be read is reported, and the part merged as usual."""
    place = next((layer.marks[key,] for key in merge.KEYS if (key,) in layer.marks), part.mark)
    ignored: list[str] = []
    try:
        how = merge.rule(layer.value, merge.PARTS, part.merge, ignored)
    except ConfigError as error:
        problems.append(Problem(place, f"{error}: this part is merged as one without a rule"))
        return merge.PARTS
    problems += [Problem(place, told, Level.WARNING) for told in ignored]
    return how


def _patched(part: Part, merger: merge.Merger, problems: list[Problem]) -> merge.Merger:
    from cloudboot.userdata import patch

    text, trouble = parts.text_of(part.content, part.mark)
    operations, wrong = patch.read(text, part.mark.source)
    value, marks, failed = patch.apply(operations, *merger.result())
    problems += [*([trouble] if trouble else []), *wrong, *failed]
    return merge.Merger(problems, (value, marks))


def _of_known_modules(layer: Layer, problems: list[Problem]) -> Layer:
    """Leave out what a layer says of modules that there are none of."""
    value: dict[str, Any] = dict(layer.value)
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
