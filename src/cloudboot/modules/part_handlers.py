"""part_handlers: the owner's Python code for parts of types that only it knows."""

from __future__ import annotations

from cloudboot.actions import MakeDir, Remove, WriteFile
from cloudboot.commands import DONE, RECORDED, STARTED
from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any
from cloudboot.userdata.placement import CUSTOM, HANDLERS, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudboot.host import Host

IMAGE_FOLDERS = ("/var/lib/cloudboot/handlers", "/var/lib/cloud/handlers")  # what an image brings; ours, cloud-init's
OWNERS = ("", "-vendor")
FIRST, LATER = "once-per-instance", "always"  # in cloud-init's words, which handlers compare with


def _none(facts: Facts) -> bool:
    return not any(True for _ in _handlers(facts.host, facts.folder))


@module(
    stage=Stage.NETWORK,
    frequency=Frequency.ALWAYS,
    keys=(),
    converges=False,
    network=True,
    essential=True,  # cloud-init's lists of modules, which owners copy, do not name it: it is no module there
    idle=_none,
)
def part_handlers(ctx: Context) -> None:
    """Run the `#part-handler` parts: Python files that say which types of parts they take, and get those parts.

    Each is a process of its own. Once it had its parts for this instance, it gets them at later boots only if its
    `frequency` is `always`; one that was interrupted is reported (`on_interrupt: {part_handlers: rerun}` gives it all
    parts anew). Types that are built in are applied all the same; of two handlers that take one type of their own, the
    first gets it.
    """
    from pkgutil import get_data

    host, folder = ctx.host, ctx.commands.folder
    program, told = f"{folder}/handler_host.py", f"{folder}/taken"
    host.keep(WriteFile(program, get_data("cloudboot", "handler_host.py") or b"", 0o600))
    host.keep(MakeDir(told, 0o700))
    parts = {owner: _parts(host, f"{folder}/{CUSTOM}{owner}") for owner in OWNERS}
    known = {part["type"] for listed in parts.values() for part in listed if not part["custom"]}
    taken: dict[str, set[str]] = {owner: set() for owner in OWNERS}
    silent = False
    for path, label, owners in _handlers(host, folder):
        for owner in owners:
            if len(owners) > 1 and not parts[owner]:
                continue
            report = f"{told}/{label.replace('/', '_')}{owner}.json"
            host.keep(Remove(report))
            name = f"{label} ({owner[1:]} data)" if len(owners) > 1 and owner else label
            start = ["python3", "-I", "-B", program, path, f"{folder}/{CUSTOM}{owner}"]
            _run(ctx, name, start, [report, *sorted(taken[owner] - known)])
            types = _types(host, report)
            silent = silent or types is None
            taken[owner] |= types or set()
    for owner in OWNERS:
        for part in parts[owner]:
            if part["custom"] and part["type"] not in taken[owner] and not silent:
                ctx.report(f"{part['name']}: of unknown type {part['type'][:60]!r}: no part handler takes it: not used")


def _run(ctx: Context, name: str, start: list[str], rest: list[str]) -> None:
    """Run one handler; whether it had its parts for this instance is on the disk before and after."""
    place = f"{ctx.commands.folder}/handled.json"
    states: dict[str, str] = _stored(ctx.host, place) or {}

    def note(state: str | None) -> None:
        import json

        now = {**states, name: state} if state else {key: word for key, word in states.items() if key != name}
        ctx.host.keep(WriteFile(place, json.dumps(now).encode(), 0o600))

    first = name not in states
    if states.get(name) == STARTED:
        first = ctx.commands.policy != "stop"
        if not first:
            ctx.fail(f"{name}: was interrupted and does not get its parts again (on_interrupt: {{{ctx.name}: rerun}})")
    if first:
        note(STARTED)
    env = {"INSTANCE_ID": ctx.instance.id}
    outcome = ctx.commands.script(name, [*start, FIRST if first else LATER, *rest], env=env)
    if first:
        note(None if outcome.state == RECORDED else DONE)


def _handlers(host: Host, folder: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield each handler's path, label, and whose parts it gets; the image's, which gets all, come last."""
    for owner in OWNERS:
        for name in host.listdir(f"{folder}/{HANDLERS}{owner}"):
            yield f"{folder}/{HANDLERS}{owner}/{name}", f"{HANDLERS}{owner}/{name}", (owner,)
    for place in IMAGE_FOLDERS:
        for name in host.listdir(place):
            if name.endswith(".py"):
                yield f"{place}/{name}", f"{place}/{name}", OWNERS


def _parts(host: Host, folder: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = _stored(host, f"{folder}/{MANIFEST}") or []
    return listed


def _types(host: Host, report: str) -> set[str] | None:
    """Return the types that a handler takes, None if it could not say."""
    listed = _stored(host, report)
    return set(listed) if isinstance(listed, list) else None


def _stored(host: Host, path: str) -> Any:
    """Return what a JSON file holds; None if it is not there or damaged (the owner's code has written some of them)."""
    import json

    try:
        return json.loads(host.text(path) or "null")
    except ValueError:
        return None
