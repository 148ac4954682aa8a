"""snap: assertions and commands for Ubuntu's snapd."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ASSERTIONS = "snapd.assertions"  # beside the instance's semaphores
LIVE = "snapd runs on a running machine only"
SEED_WAIT = 600  # seconds that snapd may take for the snaps of the image
COMMAND = {
    "anyOf": [
        {"type": "string", "x-secret": True},
        {"type": "array", "items": {"type": "string", "x-secret": True}, "minItems": 1},
    ]
}
TEXT = {"type": "string"}


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "snap": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "assertions": {
                    "anyOf": [{"type": "array", "items": TEXT}, {"type": "object", "additionalProperties": TEXT}]
                },
                "commands": {
                    "anyOf": [{"type": "array", "items": COMMAND}, {"type": "object", "additionalProperties": COMMAND}]
                },
            },
            "examples": [{"commands": {"00": ["install", "hello"]}}],
        }
    },
    network=True,
    distros=("ubuntu",),
)
def snap(ctx: Context) -> None:
    """Wait until snapd has seeded, acknowledge `assertions`, then run `commands`, each with a result of its own.

    A mapping's commands are run in the order of their names. A list is run as it is, with `snap` before it if it does
    not begin so; a text is run by a shell.
    """
    host, settings = ctx.host, ctx.config["snap"]
    if host.which("snap") is None and host.live:
        ctx.fail("snap: not found: install snapd")
        return
    if host.live:
        ctx.host.log.doing("snap wait system seed.loaded")
        if not host.ask(["snap", "wait", "system", "seed.loaded"], timeout=SEED_WAIT).ok:
            ctx.fail(f"snap: the image's snaps are not there after {SEED_WAIT} s: going on without them")
        ctx.host.log.doing("")
    assertions = [text.strip() for text in in_order(settings.get("assertions"))]
    path = f"{ctx.commands.folder}/{ASSERTIONS}"
    if assertions and host.write(path, "\n\n".join(assertions) + "\n", mode=0o600):
        host.run(["snap", "ack", path], live=LIVE)
    for number, command in enumerate(in_order(settings.get("commands")), 1):
        if isinstance(command, str):
            if not command.startswith("snap "):
                ctx.host.log.info(f"snap.commands: item {number} is none of snap's: run all the same")
            argv = ["/bin/sh", "-c", command]
        else:
            argv = command if command[0] == "snap" else ["snap", *command]
        ctx.commands.script(f"command {number}", argv)


def in_order(given: Any) -> Iterator[Any]:
    """Yield the items of a list, or of a mapping by their names."""
    yield from (given[name] for name in sorted(given)) if isinstance(given, dict) else given or ()
