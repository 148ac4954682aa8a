"""`cloudboot query`: the crawled metadata, the merged configuration and the user data, by key.

A boot leaves what is not secret in /run/cloudboot/instance.json, for everybody. The rest is read where it is kept, by
root; of an image tree (`--root`) by whoever may read it, without secrets.
"""

from __future__ import annotations

import re

from cloudboot.config import suggestion
from cloudboot.errors import CloudbootError, UsageError
from cloudboot.instance import folder, load_identity
from cloudboot.status import RUN
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from cloudboot.checker import Schema
    from cloudboot.host import Host
    from cloudboot.instance import Instance

PUBLIC = f"{RUN}/instance.json"  # for everybody to read
CRAWL = "/run/ec2/metadata.json"
STARS = "***"
SHOWN = 30  # keys that a message lists
LIMIT = 1 << 20  # characters that a template may make
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_]")
# The first word of a key in the service's spelling, and in cloud-init's, where it is not ours.
OTHER_NAMES = {
    "meta_data": ["ds", "meta_data"],
    "dynamic": ["ds", "dynamic"],
    "user_data": ["userdata"],
    "vendor_data": ["vendordata"],
    "merged_cfg": ["config"],
    "combined_cloud_config": ["config"],
}
NOTHING_YET = "nothing is known yet: no boot has come as far as the metadata: see `cloudboot status`"
FOR_ROOT = "needs root: an ordinary user is shown v1.* only"


class Known(NamedTuple):
    """What can be asked for.

    values: by their first word (`v1`, `ds`, `config` …, and the names of `v1`), each key in one spelling. variables:
    what templates see. absent: first words that there are no values of, and why.
    """

    values: dict[str, Any]
    variables: dict[str, Any]
    absent: dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("keys", nargs="*", metavar="KEY", help="v1.region, ds.meta_data.placement, config.users[0] …")
    parser.add_argument("-a", "--all", action="store_true", help="everything, as JSON")
    parser.add_argument(
        "-l", "--list-keys", action="store_true", help="the keys that there are, at the top or below KEY"
    )
    parser.add_argument("-f", "--format", metavar="TEXT", help="a jinja template: 'I am {{ v1.instance_id }}'")


def run(arguments: argparse.Namespace, host: Host, write: Callable[[bytes], object]) -> int:
    """Write what was asked for; return 0. Raises UsageError, and CloudbootError for what is not there."""
    keys: list[str] = arguments.keys
    asked = [bool(keys) and not arguments.list_keys, arguments.all, arguments.list_keys, arguments.format is not None]
    if sum(asked) != 1:
        raise UsageError("query: say one of KEY …, --all, --list-keys [KEY …] and --format TEXT")
    known = read(host)
    if arguments.all:
        # The names of v1 stand at the top too, as short forms.
        texts = [_text({word: known.values[word] for word in known.values if word not in known.values["v1"]})]
    elif arguments.list_keys:
        texts = ["\n".join(_names(known.values, "query"))] if not keys else []
        texts += ["\n".join(_names(find(known, key), f"query: {key}")) for key in keys]
    elif arguments.format is not None:
        texts = [_formatted(arguments.format, known)]
    else:
        texts = [_text(find(known, key)) for key in keys]
    for text in texts:
        try:
            write((text if text.endswith("\n") else f"{text}\n").encode())
        except UnicodeEncodeError:  # gzip as user data: it comes out byte for byte
            write(text.encode("utf-8", "surrogateescape"))
    return 0


def shown(instance: Instance, host: Host) -> dict[str, Any]:
    """Return the variables of an instance whose metadata were crawled."""
    from cloudboot.userdata.variables import facts, variables

    try:
        crawl = _crawled(host)
    except CloudbootError:  # damaged, and nothing that a boot may fail for
        crawl = {}
    return variables(instance, crawl, facts(host))


def public(shown: Mapping[str, Any]) -> bytes:
    """Return what everybody may know of an instance: `v1` of its variables, as JSON."""
    import json

    return json.dumps({"v1": shown["v1"]}, indent=1).encode() + b"\n"


def read(host: Host) -> Known:
    """Read what is known, as far as whoever asks may see it. Raises CloudbootError if nothing is."""
    if host.live and not host.root.privileged:
        return _for_everybody(host)
    from cloudboot import store
    from cloudboot.status import key, load
    from cloudboot.userdata.variables import facts, variables

    identity = load_identity(host)
    instance_id = key(load(host)) or (identity.id if identity is not None else None)
    current = store.load_instance(host, instance_id) if instance_id else None
    if current is None:
        return _for_everybody(host, root=host.root.privileged)
    crawl = _crawled(host)
    shown = variables(current, crawl, facts(host))
    absent: dict[str, str] = {}
    if not shown["ds"]:
        absent["ds"] = f"no metadata was crawled in this boot ({CRAWL} is not there)"
    own: dict[str, Any] = {"config": _config(host, current.key)}
    if own["config"] is None:
        absent["config"] = "no configuration has been made for this instance yet"
    for word, content in zip(("userdata", "vendordata"), store.user_data(host, current.key), strict=True):
        own[word] = (content or b"").decode("utf-8", "surrogateescape")
    if not host.root.privileged:
        own["config"] = _without_secrets(own["config"])
        absent |= dict.fromkeys(("userdata", "vendordata"), "may hold secrets: needs root")
    own = {word: value for word, value in own.items() if word not in absent}
    v1 = _without_hyphens(shown["v1"])
    values = {"v1": v1, "sys_info": shown["sys_info"], **own, **v1}
    if shown["ds"]:
        values["ds"] = _in_one_spelling(shown["ds"])
    return Known(values, {**shown, **own}, absent)


def find(known: Known, key: str) -> Any:
    """Return the value of a key, whose words `.`, `/` and `[0]` part. Raises CloudbootError if there is none."""
    words = [word for word in re.split(r"[./\[\]]+", key) if word]
    if words[:1] == ["latest"]:  # as in the service's URLs
        del words[0]
    first = NOT_IN_A_NAME.sub("_", words[0]) if words else ""
    if first in OTHER_NAMES:
        words[:1] = OTHER_NAMES[first]
        first = words[0]
    if first in known.absent:
        raise CloudbootError(f"query: {key}: {known.absent[first]}")
    value: Any = known.values
    place = ""
    while words or not place:
        name, used = _step(value, words, f"query: {place}" if place else "query")
        value = value[name]
        place = f"{place}[{name}]" if isinstance(name, int) else f"{place}.{name}".lstrip(".")
        del words[:used]
    return value


def _for_everybody(host: Host, *, root: bool = False) -> Known:
    import json

    stored = None if root else host.text(PUBLIC)
    if stored is None:
        raise CloudbootError(f"query: {NOTHING_YET}")
    try:
        v1 = json.loads(stored)["v1"]
    except (ValueError, KeyError, TypeError):
        raise CloudbootError(f"query: {PUBLIC}: cannot be read: `cloudboot boot` writes it anew") from None
    plain = _without_hyphens(v1)
    absent = dict.fromkeys(("ds", "config", "userdata", "vendordata", "sys_info"), FOR_ROOT)
    return Known({"v1": plain, **plain}, {**v1, "v1": v1}, absent)


def _crawled(host: Host) -> dict[str, Any]:
    import json

    try:
        found = json.loads(host.text(CRAWL) or "{}")
    except ValueError:
        raise CloudbootError(f"query: {CRAWL}: not what a crawl writes: `cloudboot boot` writes it anew") from None
    return found if isinstance(found, dict) else {}


def _config(host: Host, instance_id: str) -> dict[str, Any] | None:
    """Return the merged configuration as it was last applied, whatever has become of the image's files since."""
    import json

    path = f"{folder(instance_id)}/config.json"
    stored = host.text(path)
    if stored is None:
        return None
    try:
        value: dict[str, Any] = json.loads(stored)["value"]
    except (ValueError, KeyError, TypeError):
        raise CloudbootError(f"query: {path}: cannot be read: `cloudboot boot` writes it anew") from None
    return value


def _without_secrets(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a configuration with `***` for what schemas mark, and for what no schema describes."""
    from cloudboot import modules
    from cloudboot.config import CORE_SCHEMA

    if config is None:
        return None
    schemas = {**CORE_SCHEMA, **modules.schemas()}
    return {key: _masked(item, schemas.get(key, {"x-secret": True})) for key, item in config.items()}


def _masked(value: Any, schema: Schema) -> Any:
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        value = _masked(value, each)
    if isinstance(value, list):
        below = schema if schema.get("x-secret") else schema.get("items", {})
        return [_masked(item, below) for item in value]
    if isinstance(value, dict):
        free = schema.get("type") == "object" and not schema.keys() & {"properties", "additionalProperties"}
        others = {"x-secret": True} if free or schema.get("x-secret") else schema.get("additionalProperties")
        fields = schema.get("properties", {})
        return {key: _masked(item, fields.get(key, others) or {}) for key, item in value.items()}
    return STARS if schema.get("x-secret") and value is not None else value


def _without_hyphens(v1: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is there twice for cloud-init's sake: `cloud-name` beside `cloud_name`."""
    return {name: value for name, value in v1.items() if "-" not in name}


def _in_one_spelling(value: Any) -> Any:
    """Leave out the aliases that templates need: of `public-ipv4` and `public_ipv4` the service's own stays."""
    if isinstance(value, list):
        return [_in_one_spelling(item) for item in value]
    if not isinstance(value, dict):
        return value
    aliases = {alias: name for name in value if (alias := NOT_IN_A_NAME.sub("_", name)) != name}
    return {
        name: _in_one_spelling(item)
        for name, item in value.items()
        if name not in aliases or value[aliases[name]] != item
    }


def _step(value: Any, words: list[str], place: str) -> tuple[str | int, int]:
    """Return the key that the next words name, and how many of them: a key may have a dot or a slash of its own."""
    word = words[0] if words else ""
    if isinstance(value, list):
        if word.isascii() and word.isdigit() and int(word) < len(value):
            return int(word), 1
        told = f"has {len(value)} items, 0 to {len(value) - 1}" if value else "is an empty list"
        raise CloudbootError(f"{place}: {told}: there is no {word!r}")
    if not isinstance(value, dict):
        raise CloudbootError(f"{place}: is a single value: it has no {word!r}")
    if word in value:
        return word, 1
    for used in range(1, len(words) + 1):
        named = NOT_IN_A_NAME.sub("_", "_".join(words[:used]))
        for key in value:
            if NOT_IN_A_NAME.sub("_", key) == named and (used == 1 or "." in key or "/" in key):
                return key, used
    names = _names(value, place)
    there = ", ".join(names[:SHOWN]) + (", … (--list-keys shows all)" if len(names) > SHOWN else "")
    like = suggestion(word.replace("-", "_"), tuple(names)) or suggestion(word, tuple(names))
    raise CloudbootError(f"{place}: no such key: {word!r}{like}: there are {there or 'none'}")


def _names(value: Any, place: str) -> list[str]:
    if isinstance(value, list):
        return [str(number) for number in range(len(value))]
    if not isinstance(value, dict):
        raise CloudbootError(f"{place}: is a single value: it has no keys")
    return sorted(value)


def _text(value: Any) -> str:
    """Return a text as it is, all else as JSON."""
    import json

    if isinstance(value, str):
        return value
    # In JSON a byte that was no UTF-8 is an escape (`\udcff`), which readers of JSON understand.
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def _formatted(text: str, known: Known) -> str:
    from cloudboot.userdata.template import TemplateFault, render

    try:
        rendered = render(text, known.variables, LIMIT)
    except TemplateFault as error:
        raise CloudbootError(f"query: --format: {str(error).removesuffix(': left out')}") from None
    if rendered.missing:
        names = ", ".join(repr(name) for name in dict.fromkeys(each.name for each in rendered.missing))
        told = f"query: --format: there is no variable {names}: --list-keys shows what there is"
        for why in dict.fromkeys(known.absent.values()):
            told += f"; {', '.join(word for word in known.absent if known.absent[word] == why)}: {why}"
        raise CloudbootError(told)
    return rendered.text
