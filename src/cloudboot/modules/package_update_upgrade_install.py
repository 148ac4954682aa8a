"""package_update_upgrade_install: the owner's packages."""

from __future__ import annotations

from cloudboot import apt, power
from cloudboot.errors import CommandError
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudboot.problem import Pointer

REBOOT_REQUIRED = ("/run/reboot-required", "/var/run/reboot-required", "/run/reboot-needed")
SEED_WAIT = 600  # seconds that snapd may take for the snaps of the image
NAME = {"type": "string", "pattern": apt.WORD, "x-form": "a package's name, or name=version"}
VERSION = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9+.~:*-]*$(?!\n)", "x-form": "a version (quote it)"}
# Two words: name and version. x-whole, since half of it would install another version than was asked for.
PAIR = {"type": "array", "items": VERSION, "minItems": 2, "maxItems": 2, "x-whole": True}
ENTRY: dict[str, Any] = {"anyOf": [NAME, PAIR]}


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "packages": {
            "type": "array",
            "items": {
                "anyOf": [
                    NAME,
                    PAIR,
                    {
                        "type": "object",
                        "additionalProperties": False,
                        "minProperties": 1,
                        "properties": {
                            "apt": {"type": "array", "items": ENTRY},
                            "snap": {"type": "array", "items": {"type": ["string", "array"]}},
                        },
                    },
                ]
            },
            "examples": [["nginx", ["curl", "8.14.1-2"], {"apt": ["git"]}]],
        },
        "package_update": {"default": False, "type": "boolean"},
        "package_upgrade": {"default": False, "type": "boolean"},
        "package_reboot_if_required": {"default": False, "type": "boolean"},
        "apt_update": {"type": "boolean", "deprecated": "22.2: write package_update"},
        "apt_upgrade": {"type": "boolean", "deprecated": "22.2: write package_upgrade"},
        "apt_reboot_if_required": {"type": "boolean", "deprecated": "22.2: write package_reboot_if_required"},
    },
    keys=("packages", "package_update", "package_upgrade", "apt_update", "apt_upgrade"),
    network=True,
)
def package_update_upgrade_install(ctx: Context) -> None:
    """Fetch package lists, upgrade, install packages; reboot at the end of the boot if the upgrade asks for it.

    A package that is there already is not asked for again; one that fails does not keep the others from being
    installed. Another apt at work (apt-daily) is waited for, for at most two minutes.
    """
    host = ctx.host
    words = [word for pointer, entry in entries(ctx) for word in [word_of(entry, ctx, pointer)] if word]
    snaps = [
        entry for item in ctx.config.get("packages") or () if isinstance(item, dict) for entry in item.get("snap", ())
    ]
    upgrade = wanted(ctx, "upgrade")
    if host.live and host.which("apt-get") is None:
        ctx.fail("apt-get: not found: packages are installed on Debian and its descendants only")
        return
    present = apt.have(host) if words else None
    missing = [word for word in dict.fromkeys(words) if present is None or not present.satisfies(word)]
    install_snaps(ctx, snaps)
    if not (missing or upgrade or wanted(ctx, "update")):
        return
    from_apt(ctx, missing, upgrade=upgrade)
    if wanted(ctx, "reboot_if_required") and (upgrade or words):
        reboot(ctx)


def from_apt(ctx: Context, missing: list[str], *, upgrade: bool) -> None:
    """Fetch the lists, upgrade, install what is missing; each failure is said and the rest goes on."""
    host = ctx.host
    try:
        apt.update(host, ctx.commands.folder)
    except CommandError as error:
        ctx.fail(f"apt-get update: {apt.reason(error)}")
    if upgrade:
        try:
            apt.mend(host)
            apt.upgrade(host)
        except CommandError as error:
            ctx.fail(f"apt-get dist-upgrade: {apt.reason(error)}")
    if missing:
        for word, reason in apt.install(host, missing).items():
            ctx.fail(f"{word}: not installed: {reason}")


def install_snaps(ctx: Context, entries: list[str | list[str]]) -> None:
    """Install snaps that are not there; a list is a snap and its options (`[lxd, --channel=latest/stable]`)."""
    host = ctx.host
    if not entries:
        return
    if host.live and host.which("snap") is None:
        ctx.fail("snap: not found: snaps are installed where there is snapd")
        return
    if not host.ask(["snap", "wait", "system", "seed.loaded"], timeout=SEED_WAIT).ok:  # before it, snapd refuses all
        host.log.warning(f"snapd: the image's snaps are not there after {SEED_WAIT} s")
    there = {line.split()[0] for line in host.ask(["snap", "list"]).output.splitlines()[1:] if line.split()}
    for entry in entries:
        words = [entry] if isinstance(entry, str) else [str(word) for word in entry]
        if words and words[0] not in there:
            try:
                host.run(["snap", "install", *words], live=apt.LIVE)
            except CommandError as error:
                ctx.fail(str(error))


def wanted(ctx: Context, what: str) -> bool:
    """Tell whether a switch is on, under its name or its old one."""
    return bool(ctx.config.get(f"package_{what}", ctx.config.get(f"apt_{what}", False)))


def entries(ctx: Context) -> Iterator[tuple[Pointer, Any]]:
    """Yield each package of apt's with its place in the configuration."""
    for number, item in enumerate(ctx.config.get("packages") or ()):
        if not isinstance(item, dict):
            yield ("packages", number), item
            continue
        for place, entry in enumerate(item.get("apt", ())):
            yield ("packages", number, "apt", place), entry


def word_of(entry: str | list[str], ctx: Context, pointer: Pointer) -> str:
    """Return an entry as apt-get takes it: `name`, `name=version`; empty if its name is none."""
    if isinstance(entry, str):
        return entry
    name, version = entry
    import re

    if not re.match(apt.WORD, name):
        ctx.report(f"packages: is not a package's name: {name!r}: left out", pointer)
        return ""
    return f"{name}={version}"


def reboot(ctx: Context) -> None:
    """Start the machine again when the boot is over, if a package left word that it needs that."""
    if not any(ctx.host.exists(path) for path in REBOOT_REQUIRED):
        return
    if "power_state" in ctx.config:
        ctx.report(
            "package_reboot_if_required: a reboot is required and left to power_state",
            ("package_reboot_if_required",),
            Level.WARNING,
        )
        return
    if power.shut_down(ctx.host, "reboot", message="cloudboot: packages need a reboot"):
        ctx.host.log.say("the upgraded packages need a reboot: it follows when this boot is finished")
