"""apt_configure: where packages come from, and whom apt trusts."""

from __future__ import annotations

import re

from cloudboot import apt, apt_mirrors, apt_sources, distro, packages
from cloudboot.apt_keys import KEYSERVER, add_key, dotted
from cloudboot.errors import CommandError
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudboot.checker import Schema
    from cloudboot.distro import Distro
    from cloudboot.problem import Pointer

LISTS = "/etc/apt/sources.list.d"
KEYS, OWN_KEYS = "/etc/apt/trusted.gpg.d", "/etc/apt/cloud-init.gpg.d"  # for every source; for one, as `$KEY_FILE`
# Names that configuration management looks for: cloud-init's.
PROXY, CONF = "/etc/apt/apt.conf.d/90cloud-init-aptproxy", "/etc/apt/apt.conf.d/94cloud-init-config"
OLD_FILE = "cloud_config_sources"  # of `apt_sources` that name none
ADD_APT_REPO = r"^[\w-]+:\w"  # "ppa:owner/name"
TEMPLATE_LIMIT = 1 << 20  # characters
READ_SETTINGS = ["apt-config", "-c=/dev/stdin", "dump"]
REFUSED = r"Syntax error /dev/stdin:\d+: (.*)"  # and no fault of the image's own files
PROXIES = {"proxy": "http", "http_proxy": "http", "ftp_proxy": "ftp", "https_proxy": "https"}

TEXT: Schema = {"type": "string"}
KEY_ID: Schema = {"type": "string", "pattern": r"^(0[xX])?([0-9A-Fa-f] *){8,40}$(?!\n)", "x-form": "a key's id"}
MIRRORS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["arches"],
        "properties": {
            "arches": {"type": "array", "items": TEXT, "minItems": 1},
            "uri": TEXT,
            "search": {"type": "array", "items": TEXT, "minItems": 1},
            "search_dns": {"type": "boolean"},
            "keyid": KEY_ID,
            "key": TEXT,
            "keyserver": {"default": KEYSERVER, **TEXT},
        },
    },
}
SOURCES: Schema = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "source": TEXT,
            "keyid": KEY_ID,
            "key": TEXT,
            "keyserver": {"default": KEYSERVER, **TEXT},
            "filename": {"type": "string", "pattern": r"^[^\0\n]+$(?!\n)", "x-form": "a file's name"},
            "append": {"default": True, "type": "boolean"},
        },
    },
}
OLD = "22.1: write apt"


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "apt": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "preserve_sources_list": {"type": "boolean"},
                "disable_suites": {"type": "array", "items": TEXT},
                "primary": MIRRORS,
                "security": MIRRORS,
                "add_apt_repo_match": {"default": ADD_APT_REPO, **TEXT},
                "debconf_selections": {"type": "object", "additionalProperties": {"type": "string", "x-secret": True}},
                "sources_list": TEXT,
                "conf": TEXT,
                **{name: {"type": "string", "x-secret": True} for name in PROXIES},
                "sources": SOURCES,
            },
            "examples": [
                {
                    "preserve_sources_list": False,
                    "primary": [{"arches": ["default"], "uri": "http://mirror.example.com/debian"}],
                    "sources": {
                        "example.list": {"source": "deb https://apt.example.com $RELEASE main", "keyid": "F430BBA5"}
                    },
                }
            ],
        },
        "apt_sources": {
            "type": "array",
            "items": {**SOURCES["additionalProperties"], "required": ["source"]},
            "deprecated": OLD,
        },
        "apt_mirror": {**TEXT, "deprecated": OLD},
        "apt_mirror_search": {"type": "array", "items": TEXT, "deprecated": OLD},
        "apt_mirror_search_dns": {"type": "boolean", "deprecated": OLD},
        **{f"apt_{name}": {"type": "string", "x-secret": True, "deprecated": OLD} for name in PROXIES},
        "apt_preserve_sources_list": {"type": "boolean", "deprecated": OLD},
        "apt_custom_sources_list": {**TEXT, "deprecated": OLD},
        "add_apt_repo_match": {**TEXT, "deprecated": OLD},
    },
    network=True,
)
def apt_configure(ctx: Context) -> None:
    """Set up apt: mirrors, sources in both styles with their keys, proxies, settings, answers to debconf's questions.

    The image's own sources are replaced by `sources_list`, or by the distribution's from `primary` and `security`, only
    with `preserve_sources_list: false` (Ubuntu's default). In `sources`, `$RELEASE`, `$MIRROR`, `$PRIMARY`, `$SECURITY`
    are filled in, and `$KEY_FILE` makes the entry's key count for it alone. A key is given armoured, or fetched from
    `keyserver` by `keyid`, and then must have that id. `apt-get update` follows where sources have changed.
    """
    settings = wanted(ctx)
    host, facts = ctx.host, distro.read(ctx.host)
    if facts.apt.ports:
        facts = facts._replace(apt=facts.apt.of(apt_mirrors.architecture(ctx)))
    answer_debconf(ctx, settings.get("debconf_selections") or {})
    mirrors = apt_mirrors.choose(ctx, settings, facts)
    changed = write_list(ctx, settings, facts, mirrors)
    lines = {
        name: f'Acquire::{kind}::Proxy "{settings[name]}";\n' for name, kind in PROXIES.items() if settings.get(name)
    }
    proxies = "".join(line for name, line in lines.items() if readable(ctx, line, name))
    conf = ended(settings.get("conf") or "")
    for path, text in ((PROXY, proxies), (CONF, conf if conf and readable(ctx, conf, "conf") else "")):
        if text:
            host.write(path, text, mode=0o600 if "@" in text and path == PROXY else 0o644)
        else:
            host.remove(path)
    changed = add_all(ctx, settings, {**mirrors, "RELEASE": facts.codename}) or changed
    if changed:
        try:
            apt.update(host, ctx.commands.folder, anew=True)
        except CommandError as error:
            ctx.fail(f"apt-get update: {apt.reason(error)}")


def wanted(ctx: Context) -> dict[str, Any]:
    """Return the settings; where there is no `apt`, those that the old keys stand for."""
    config = ctx.config
    if "apt" in config:
        return dict(config["apt"])
    settings = {name: config[f"apt_{name}"] for name in PROXIES if f"apt_{name}" in config}
    names = {"preserve_sources_list": "apt_preserve_sources_list", "sources_list": "apt_custom_sources_list"}
    settings |= {new: config[old] for new, old in names.items() if old in config}
    if "add_apt_repo_match" in config:
        settings["add_apt_repo_match"] = config["add_apt_repo_match"]
    mirror = {"uri": "apt_mirror", "search": "apt_mirror_search", "search_dns": "apt_mirror_search_dns"}
    primary = {new: config[old] for new, old in mirror.items() if old in config}
    if primary:
        settings["primary"] = [{"arches": ["default"], **primary}]
    return settings


def readable(ctx: Context, text: str, key: str) -> bool:
    """Ask apt whether it can read settings: a file that it cannot read keeps it from doing anything."""
    wrong = re.search(REFUSED, ctx.host.ask(READ_SETTINGS, stdin=text.encode()).output)
    if wrong is not None:
        place: Pointer = ("apt", key) if "apt" in ctx.config else (f"apt_{key}",)
        ctx.report(f"{dotted(place)}: apt cannot read it: {wrong[1]}: left out", place)
    return wrong is None


def answer_debconf(ctx: Context, selections: dict[str, str]) -> None:
    """Tell debconf the owner's answers, once; a package that is there has asked its questions already."""
    text = "\n".join(ended(selections[name]).rstrip("\n") for name in sorted(selections)) + "\n"
    if not selections or ctx.applied(text):
        return
    try:
        ctx.host.run(["debconf-set-selections"], stdin=text.encode())
    except CommandError:  # what it complains about may hold an answer
        ctx.fail("debconf-set-selections: not understood: a line is `package question type value`")
        return
    there = apt.have(ctx.host).names
    asked = {line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")}
    for name in sorted(asked & there):
        told = f"apt.debconf_selections: {name} is installed already: `dpkg-reconfigure {name}` takes the answers up"
        ctx.report(told, ("apt", "debconf_selections"), Level.WARNING)
    ctx.note_applied(text)


def write_list(ctx: Context, settings: dict[str, Any], facts: Distro, mirrors: dict[str, str]) -> bool:
    """Replace the image's sources where the owner wants that; tell whether that changed something."""
    if settings.get("preserve_sources_list", facts.apt.preserve):
        for key in ("sources_list", "primary", "security", "disable_suites"):
            if settings.get(key) and "preserve_sources_list" not in settings:
                told = f"apt.{key}: counts only with `preserve_sources_list: false`: the image's sources stay"
                ctx.report(told, ("apt", key), Level.WARNING)
        return False
    keys = {}
    named = facts.apt.path.endswith(".sources") and "sources_list" not in settings
    folder = OWN_KEYS if named else KEYS  # what does not name the key needs it where all are trusted
    for kind in ("primary", "security"):
        entry = apt_mirrors.entry_for(ctx, settings.get(kind) or ())
        if entry is not None and ("key" in entry or "keyid" in entry):
            path = f"{folder}/{kind}.gpg"
            if add_key(ctx, entry, path, ("apt", kind)):
                keys[kind.upper()] = path
    text = settings.get("sources_list")
    if text is None:
        text = apt_sources.standard(facts, mirrors, keys)
    else:
        rendered = own_list(ctx, text, facts, mirrors, keys)
        if rendered is None:
            return False
        text = rendered
    text = apt_sources.without_suites(text, settings.get("disable_suites") or (), facts.codename)
    if wrong := apt_sources.flaw(text):
        key = "sources_list" if "sources_list" in settings else "primary"
        ctx.report(f"apt.{key}: {wrong}: apt would refuse it: the image's sources stay", ("apt", key))
        return False
    deb822 = f"{LISTS}/{facts.name}.sources"
    if not apt_sources.is_deb822(text):
        changed = ctx.host.write(distro.LEGACY, text)
        return ctx.host.remove(deb822) or changed
    changed = ctx.host.write(deb822, text)
    # Else every source is there twice.
    return ctx.host.remove(distro.LEGACY) or changed


def own_list(ctx: Context, text: str, facts: Distro, mirrors: dict[str, str], keys: dict[str, str]) -> str | None:
    """Render the owner's list: jinja where its first line says so, `$NAME` else; None if it cannot be."""
    names = {"RELEASE": facts.codename, "codename": facts.codename, **mirrors}
    names |= {name.lower(): uri for name, uri in mirrors.items()}
    names |= {f"{kind.lower()}_key": path for kind, path in keys.items()}
    if not text.lstrip().lower().startswith("## template:"):
        return ended(apt_sources.filled_in(text, names))
    from cloudboot.userdata.template import TemplateFault, render, without_header

    try:
        return ended(render(without_header(text).lstrip("\n"), names, TEMPLATE_LIMIT).text)
    except TemplateFault as error:
        told = str(error).removesuffix(": left out")
        ctx.report(f"apt.sources_list: {told}: the image's sources stay", ("apt", "sources_list"))
        return None


# -- sources and keys


def add_all(ctx: Context, settings: dict[str, Any], names: dict[str, str]) -> bool:
    """Add the owner's sources with their keys; tell whether that changed something."""
    pattern = settings.get("add_apt_repo_match") or ADD_APT_REPO
    try:
        re.compile(pattern)
    except re.error as error:
        place: Pointer = ("apt", "add_apt_repo_match") if "apt" in ctx.config else ("add_apt_repo_match",)
        ctx.report(f"{dotted(place)}: is no regular expression: {error}: {ADD_APT_REPO} is taken", place)
        pattern = ADD_APT_REPO
    changed = False
    texts: dict[str, str] = {}
    entries = list(sources(ctx, settings))
    stems = [stem_of(entry.get("filename") or name) for _, name, entry in entries]
    for (place, name, entry), stem in zip(entries, stems, strict=True):
        # Of entries that share a file each has a key file of its own.
        key = (stem if stems.count(stem) == 1 else stem_of(name)).rpartition("/")[2]
        changed = add(ctx, place, entry, (stem, key), pattern, names, texts) or changed
    for path, text in texts.items():
        changed = ctx.host.write(path, text) or changed
    return changed


def sources(ctx: Context, settings: dict[str, Any]) -> Iterator[tuple[Pointer, str, dict[str, Any]]]:
    """Yield place, name and settings of each source; those of the old list have a file in common."""
    for name, entry in (settings.get("sources") or {}).items():
        yield ("apt", "sources", name), name, entry
    for number, entry in enumerate(ctx.config.get("apt_sources") or () if "apt" not in ctx.config else ()):
        yield ("apt_sources", number), f"{OLD_FILE}_{number}", {"filename": OLD_FILE, **entry}


def stem_of(name: str) -> str:
    """Return the path of a source's file without its ending; apt reads none with other characters in its name."""
    if not name.startswith("/"):
        name = f"{LISTS}/" + (re.sub(r"^\.|[^A-Za-z0-9_.-]", "_", name) or "_")
    return name.removesuffix(".list").removesuffix(".sources")


def add(
    ctx: Context,
    place: Pointer,
    entry: dict[str, Any],
    files: tuple[str, str],  # the source's and the key's, without their endings
    pattern: str,
    names: dict[str, str],
    texts: dict[str, str],
) -> bool:
    """Add a source of the owner's to the texts of files, with its key; tell whether that changed something."""
    host = ctx.host
    key_path = f"{OWN_KEYS if '$KEY_FILE' in entry.get('source', '') else KEYS}/{files[1]}.gpg"
    source = apt_sources.filled_in(entry.get("source", ""), {**names, "KEY_FILE": key_path})
    by_tool = re.match(pattern, source) is not None
    wrong = "" if by_tool else apt_sources.flaw(source)
    keyless = not entry.keys() & {"key", "keyid"} and any((*place, name) in ctx.marks for name in ("key", "keyid"))
    if wrong or keyless:
        ctx.report(f"{dotted(place)}: {wrong or 'its key is wrong'}: this source is left out", place)
        return False
    changed = False
    if "key" in entry or "keyid" in entry:
        count = len(host.changes)
        if not add_key(ctx, entry, key_path, place):
            return False
        changed = len(host.changes) > count
    if not source.strip():
        return changed
    if by_tool:
        return add_repository(ctx, source, place) or changed
    path = f"{files[0]}.{'sources' if apt_sources.is_deb822(source) else 'list'}"
    text = texts.get(path, host.text(path) or "") if entry.get("append", True) else ""
    texts[path] = apt_sources.with_entry(text, source)
    return changed


def add_repository(ctx: Context, source: str, place: Pointer) -> bool:
    """Have add-apt-repository take what it alone understands (`ppa:owner/name`), unless a file names it already."""
    named = rf"/{re.escape(source.partition(':')[2].strip())}(?![\w.-])"
    if any(re.search(named, ctx.host.text(f"{LISTS}/{name}") or "") for name in ctx.host.listdir(LISTS)):
        return False
    if not packages.bring(ctx, ["software-properties-common"], program="add-apt-repository"):
        return False
    try:
        ctx.host.run(["add-apt-repository", "--yes", "--no-update", source], live="asks the network", timeout=120)
    except CommandError as error:
        ctx.fail(str(error), place)
        return False
    return True


def ended(text: str) -> str:
    """Return a text whose last line ends."""
    return text if not text or text.endswith("\n") else f"{text}\n"
