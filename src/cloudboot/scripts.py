"""Directories of the owner's scripts, run like run-parts: sorted by name, each with a result of its own."""

from __future__ import annotations

from cloudboot.problem import Level
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloudboot.module import Context, Facts

IMAGE_HANDLERS = ("/var/lib/cloudboot/handlers", "/var/lib/cloud/handlers")  # part handlers that an image brings
IMAGE_FOLDERS = ("/var/lib/cloudboot/scripts", "/var/lib/cloud/scripts")  # what an image brings; ours, cloud-init's


def none_of(kind: str) -> Callable[[Facts], bool]:
    """Return the proof that there are no scripts of a kind, neither the instance's nor the image's."""

    def idle(facts: Facts) -> bool:
        places = [f"{facts.folder}/scripts", *IMAGE_FOLDERS]
        return not any(facts.host.listdir(f"{place}/{kind}") for place in places)

    return idle


def run_parts(ctx: Context, kind: str, *, prefix: Sequence[str] = (), image: bool = True) -> None:
    """Run the scripts of a kind (`user`, `per-boot` …): the instance's own, and those that the image brings.

    All are tried; the module fails if one does. `prefix` goes before each.
    """
    folders = [f"{ctx.commands.folder}/scripts/{kind}"]
    if image:
        folders += [f"{folder}/{kind}" for folder in IMAGE_FOLDERS]
    for folder in folders:
        for name in ctx.host.listdir(folder):
            path = f"{folder}/{name}"
            entry = ctx.host.look(path)
            if entry is None or entry.kind != "file" or name.startswith("."):
                continue
            label = f"{kind}/{name}" if folder == folders[0] else path
            if not entry.mode & 0o111:
                ctx.report(f"{path}: is not executable and was left out: chmod +x, or remove it", level=Level.WARNING)
                continue
            ctx.commands.script(label, [*prefix, path], env={"INSTANCE_ID": ctx.instance.id})
