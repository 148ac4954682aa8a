"""One configuration out of layers: image configuration, vendor data, user data; checked, with the place of each value.

A layer is checked before it is merged, so that every message names the owner's line. What is wrong is left out in the
smallest piece that stands alone: an unknown key, the wrong field of one list item; the rest is applied.
"""

from __future__ import annotations

from cloudboot.checker import Flaw, Schema, check
from cloudboot.errors import ConfigError
from cloudboot.problem import Level, Mark, Marks, Pointer, Problem
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cloudboot.host import Host

IMAGE_FILE = "/etc/cloudboot/cloudboot.yaml"
IMAGE_FOLDER = "/etc/cloudboot/conf.d"
WORD_LIST: Schema = {"type": "array", "items": {"type": "string"}}
MODULE_LIST: Schema = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": ["string", "null"]}, "minItems": 1},
            {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        ]
    },
}
BINARY = "!!binary"
FREQUENCY_NAMES = ["once", "per-instance", "per-boot", "always", "once-per-instance", "instance", "boot"]

# What is not a module's: the owner's say over modules, the image's say over us.
CORE_SCHEMA: dict[str, Schema] = {
    "frequency": {"type": "object", "additionalProperties": {"type": "string", "enum": FREQUENCY_NAMES}},
    "on_error": {"type": "object", "additionalProperties": {"type": "string", "enum": ["continue", "stop", "fail"]}},
    "on_interrupt": {"type": "object", "additionalProperties": {"type": "string", "enum": ["stop", "rerun", "resume"]}},
    "rerun_on_change": WORD_LIST,
    "cloud_init_modules": MODULE_LIST,
    "cloud_config_modules": MODULE_LIST,
    "cloud_final_modules": MODULE_LIST,
    "unverified_modules": WORD_LIST,
    "metadata_access": {},  # judged by the lock-down: what it cannot read is `root`, not what a lower layer says
    "disable_ec2_metadata": {
        "anyOf": [
            {"type": "boolean"},
            {"type": "string", "pattern": "^(?i:true|false|yes|no|on|off|1|0)$", "x-form": "true or false"},
        ]
    },
    "datasource_list": WORD_LIST,
    "datasource": {"type": "object"},
    "default_user": {"type": "object"},
    "system_info": {"type": "object", "deprecated": "24.2"},
    "allow_userdata": {"type": ["boolean", "string"]},
    "launch-index": {"type": ["integer", "string"]},
    "version": {},
}
# Keys of the reference whose modules are not here yet: accepted, and said to do nothing.
NOT_YET = frozenset("""migrate output reporting updates vendor_data2 warnings network""".split())
# Keys of modules for other distributions.
ELSEWHERE = frozenset("apk_repos rh_subscription rpi spacewalk yum_repos zypper".split())

NOT_YET_TOLD = "not supported yet: it does nothing"
NOT_HERE = {
    **dict.fromkeys(NOT_YET, NOT_YET_TOLD),
    **dict.fromkeys(ELSEWHERE, "not on this distribution: it does nothing"),
}

Left = dict[Pointer, list[int]]  # a list that items were left out of -> the owner's indices of those that remain


class Layer(NamedTuple):
    """One source of configuration: who set it (`user data`, `image`), what, and where each value stands."""

    set_by: str
    value: dict[str, Any]
    marks: Marks


class Config(NamedTuple):
    """The merged configuration, who set each top-level key, where each value stands, what was wrong."""

    value: dict[str, Any]
    layers: tuple[Layer, ...]  # highest first
    marks: Marks
    problems: tuple[Problem, ...]
    volatile: bool = False  # made from more than our files: includes, templates

    def set_by(self, key: str) -> str:
        """Return which layer a top-level key comes from."""
        return next((layer.set_by for layer in self.layers if key in layer.value), "default")


def read_layer(text: str, source: str, set_by: str, problems: list[Problem]) -> Layer:
    """Parse one YAML text into a layer; what is wrong is appended to `problems`."""
    from cloudboot.userdata.document import load

    document = load(text, source)
    problems += document.problems
    if document.value is None:
        return Layer(set_by, {}, {})
    if not isinstance(document.value, dict):
        place = document.marks.get((), Mark(source, 1, 1))
        problems.append(Problem(place, "must be a mapping (key: value) at its top: nothing of it is used"))
        return Layer(set_by, {}, {})
    value = _with_texts(document.value) if BINARY in text else document.value
    return Layer(set_by, value, document.marks)


def _with_texts(value: Any) -> Any:
    """Return a value with its bytes as text: the configuration is kept as JSON. What is no UTF-8 comes as surrogates.

    The checker lets such a text through where a schema says `x-bytes`.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {key: _with_texts(item) for key, item in value.items()}
    return [_with_texts(item) for item in value] if isinstance(value, list) else value


def image_layer(host: Host, problems: list[Problem]) -> Layer:
    """Read the image's configuration: cloudboot.yaml, then conf.d in lexical order, the later over the earlier.

    A file that says how it wants to be merged (`merge_how`) is merged into the later ones by that rule, as in
    cloud-init.
    """
    from cloudboot.userdata import merge

    files = [IMAGE_FILE]
    files += [f"{IMAGE_FOLDER}/{name}" for name in host.listdir(IMAGE_FOLDER) if name.endswith(".yaml")]
    texts = {path: host.text(path) for path in files}
    layers = [read_layer(text, path, "image", problems) for path, text in texts.items() if text is not None]
    result = Layer("image", {}, {})
    if all(merge.how_of(layer.value) is None for layer in layers):
        for layer in layers:
            result = Layer("image", *overlay(layer, result))
        return result
    merger = merge.Merger(problems)
    for layer in reversed(layers):
        place = next((layer.marks[key,] for key in merge.KEYS if (key,) in layer.marks), Mark("image"))
        ignored: list[str] = []
        try:
            how = merge.rule(layer.value, merge.LAYERS, ignored=ignored)
        except ConfigError as error:
            problems.append(Problem(place, f"{error}: this file is merged as one without a rule"))
            how = merge.LAYERS
        problems += [Problem(place, told, Level.WARNING) for told in ignored]
        merger.feed(how, layer.value, layer.marks)
    return Layer("image", *merger.result())


def build(layers: Sequence[Layer], schemas: Mapping[str, Schema], problems: Iterable[Problem] = ()) -> Config:
    """Check each layer, leave out what is wrong, merge: the first layer is the highest.

    What was left out of a mapping keeps its place in the marks: a module may need to know that it was meant.
    """
    found = list(problems)
    left_out: Marks = {}
    own = [layer._replace(marks=dict(layer.marks)) for layer in layers]  # places move where items are left out
    checked = [Layer(layer.set_by, _checked(layer, schemas, found, left_out), layer.marks) for layer in own]
    value: dict[str, Any] = {}
    marks: Marks = {}
    for layer in reversed(checked):
        value, marks = overlay(layer, Layer("", value, marks))
    for place, mark in left_out.items():
        marks.setdefault(place, mark)
    return Config(value, tuple(checked), marks, tuple(found))


def overlay(higher: Layer, lower: Layer) -> tuple[dict[str, Any], Marks]:
    """Merge two layers as cloud-init does between layers: maps recursively, everything else is the higher's."""
    from cloudboot.userdata.merge import OVERLAY, merge

    return merge(OVERLAY, (lower.value, lower.marks), (higher.value, higher.marks), [])


def _checked(layer: Layer, schemas: Mapping[str, Schema], problems: list[Problem], left_out: Marks) -> dict[str, Any]:
    """Return the layer's value without what is wrong in it; each flaw becomes a problem."""
    value: dict[str, Any] = _copy(layer.value)
    left: Left = {}
    for key in list(value):
        if key not in schemas:
            problems.append(_unknown_key(key, layer, schemas))
            if key not in NOT_HERE:
                del value[key]
            continue
        if "deprecated" in schemas[key]:
            told = f"{key}: deprecated since {schemas[key]['deprecated']}"
            problems.append(Problem(_mark(layer, (key,)), told, Level.DEPRECATED))
        while key in value:
            flaws = [flaw for flaw in check(value[key], schemas[key], (key,)) if not flaw.deprecated]
            if not flaws:
                break
            _leave_out(value, flaws, schemas[key], left, layer, problems, left_out)
        if key in value:
            for flaw in check(value[key], schemas[key], (key,)):
                owners = _owners(flaw.pointer, left)
                problems.append(Problem(_mark(layer, owners), f"{_dotted(owners)}: {flaw.text}", Level.DEPRECATED))
    _shift(layer.marks, left)
    return value


def _leave_out(
    value: dict[str, Any],
    flaws: list[Flaw],
    schema: Schema,
    left: Left,
    layer: Layer,
    problems: list[Problem],
    left_out: Marks,
) -> None:
    """Leave out the smallest piece around each flaw. Items of lists go last, so that indices stay until then."""
    gone: set[Pointer] = set()
    for flaw in flaws:
        if any(flaw.pointer[:length] in gone for length in range(1, len(flaw.pointer) + 1)):
            continue
        place = _smallest(value, flaw.pointer, schema)
        gone.add(place)
        owners, removed = _owners(flaw.pointer, left), _owners(place, left)
        told = f"{_dotted(owners)}: {flaw.text}{suggestion(flaw.pointer[-1], flaw.known)}"
        told += f": {_dotted(removed)} is left out" if removed != owners else ": left out"
        problems.append(Problem(_mark(layer, owners), told))
        if len(place) == 1 and _is_whole(schema):
            value[str(place[0])] = None  # nor does a lower layer's hold: one mistake means none at all
        elif isinstance(place[-1], str):
            del _at(value, place[:-1])[place[-1]]
            left_out.setdefault(place, _mark(layer, removed))
    items = [(len(place), place[-1], place[:-1]) for place in gone if isinstance(place[-1], int)]
    for _, index, place in sorted(items, reverse=True):  # the deepest first, the last first
        values, owners = _at(value, place), _owners(place, left)
        if owners not in left:
            left[owners] = list(range(len(values)))
        del values[index], left[owners][index]


def _unknown_key(key: str, layer: Layer, schemas: Mapping[str, Schema]) -> Problem:
    if key in NOT_HERE:
        return Problem(_mark(layer, (key,)), f"{key}: {NOT_HERE[key]}", Level.WARNING)
    if key == "instances-cloud-config":  # where it counts it has been applied
        told = "counts in user data and vendor data, not in the image's configuration: left out"
        return Problem(_mark(layer, (key,)), f"{key}: {told}")
    told = f"{key}: unknown key{suggestion(key, tuple(schemas) + tuple(NOT_HERE))}: left out"
    return Problem(_mark(layer, (key,)), told)


def suggestion(key: str | int, known: tuple[str, ...]) -> str:
    """Return `: did you mean 'users'?`, or nothing if no known word is like this one."""
    if not known or not isinstance(key, str):
        return ""
    import difflib

    close = difflib.get_close_matches(key, known, 1, 0.7)
    return f": did you mean {close[0]!r}?" if close else ""


def _smallest(value: Any, pointer: Pointer, schema: Schema) -> Pointer:
    """Return where the smallest piece around a flaw stands that can be missed."""
    if _is_whole(schema):
        return pointer[:1]
    for length in range(len(pointer), 1, -1):
        place = pointer[:length]
        if isinstance(_at(value, place[:-1]), list) or place[-1] not in _required(schema, place[:-1]):
            return place
    return pointer[:1]


def _is_whole(schema: Schema) -> bool:
    return bool(schema.get("x-whole")) and "properties" in schema


def _at(value: Any, pointer: Pointer) -> Any:
    for step in pointer:
        value = value[step]
    return value


def _required(schema: Schema, pointer: Pointer) -> set[str]:
    """Collect the keys that the schema requires at a place, in whichever alternative."""
    found = [schema]
    for step in pointer[1:]:
        found = [part for each in found for part in _step(each, step)]
    names: set[str] = set()
    for part in found:
        for each in (part, *part.get("anyOf", ()), *part.get("oneOf", ())):
            names |= set(each.get("required", ()))
    return names


def _step(schema: Schema, step: str | int) -> list[Schema]:
    result: list[Schema] = []
    for each in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if isinstance(step, int):
            result += [each["items"]] if "items" in each else []
        elif step in each.get("properties", {}):
            result.append(each["properties"][step])
        elif isinstance(each.get("additionalProperties"), dict):
            result.append(each["additionalProperties"])
    return result


def _owners(pointer: Pointer, left: Left) -> Pointer:
    """Return where in the owner's text a value stands, by where it stands in what was left of it."""
    place: Pointer = ()
    for step in pointer:
        kept = left.get(place) if isinstance(step, int) else None
        place = (*place, kept[step] if kept is not None and isinstance(step, int) else step)
    return place


def _shift(marks: Marks, left: Left) -> None:
    """Move the marks of items that follow one that was left out."""
    if not left:
        return
    now = {place: {index: number for number, index in enumerate(kept)} for place, kept in left.items()}
    moved: Marks = {}
    for owners, mark in marks.items():
        pointer: Pointer | None = ()
        for depth, step in enumerate(owners):
            places = now.get(owners[:depth]) if isinstance(step, int) else None
            number = step if places is None or not isinstance(step, int) else places.get(step)
            pointer = (*pointer, number) if pointer is not None and number is not None else None
        if pointer is not None:
            index = owners[-1] if owners and owners[-1] != pointer[-1] else -1
            moved[pointer] = mark._replace(item=index) if isinstance(index, int) else mark
    marks.clear()
    marks.update(moved)


def _mark(layer: Layer, pointer: Pointer) -> Mark:
    while pointer and pointer not in layer.marks:
        pointer = pointer[:-1]
    return layer.marks.get(pointer, Mark(layer.set_by))


def _dotted(pointer: Pointer) -> str:
    text = ""
    for step in pointer:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
