"""Run one part handler of the owner's: a program of its own, which knows nothing of cloudboot.

    python3 -I handler_host.py HANDLER FOLDER FREQUENCY REPORT [TYPE…]

HANDLER is a Python file as cloud-init's documentation describes it: `list_types()`, `handle_part(…)`, and perhaps
`handler_version` (1, 2 or 3) and `frequency`. FOLDER has parts.json and the parts. FREQUENCY is `once-per-instance` at
the first boot of an instance, `always` later. What it takes is written to REPORT as JSON. TYPEs are another handler's.

Exit status: 0 all is well, 1 the handler failed with a part (the others were tried), 2 it cannot be used.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PER_INSTANCE = "once-per-instance"
ALWAYS = "always"
ARGUMENTS = {1: 4, 2: 5, 3: 6}  # how many arguments a version's handle_part has
CHARSET = re.compile(r"charset\s*=\s*\"?([\w.:-]+)", re.IGNORECASE)


def main(argv: list[str]) -> int:
    """Load a handler, ask what it takes, hand it the parts."""
    path, folder, frequency, report, *taken = argv
    try:
        handler = load(path)
        types = {str(name).strip().lower() for name in handler.list_types()}
        version = int(getattr(handler, "handler_version", 1))
        handle = handler.handle_part
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the owner's code may raise anything
        return fail(f"{path}: cannot be used as a part handler", error, 2)
    if version not in ARGUMENTS:
        return fail(f"{path}: handler_version must be 1, 2 or 3: {version}", None, 2)
    with open(report, "w", encoding="utf-8") as file:
        json.dump(sorted(types), file)
    wanted = str(getattr(handler, "frequency", PER_INSTANCE)).replace("per-always", ALWAYS)
    if frequency != PER_INSTANCE and wanted != ALWAYS:
        return 0

    data: dict[str, Any] = {}  # the handler's own, from its first call to its last

    def call(kind: str, name: str | None, payload: str | bytes | None, headers: dict[str, str]) -> int:
        arguments = (data, kind, name, payload, frequency, headers)[: ARGUMENTS[version]]
        try:
            handle(*arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
            if isinstance(error, SystemExit) and not error.code:
                return 0
            return fail(f"{path}: {name or kind}", error, 1)
        return 0

    status = call("__begin__", None, None, {"Content-Type": "__begin__"})
    for part in parts_of(folder):
        kind = part["type"]
        if kind in types and kind not in taken:
            headers = {**part["headers"]}
            if not any(name.lower() == "content-type" for name in headers):
                headers["Content-Type"] = kind
            status = max(
                status, call(kind, part["name"], payload_of(f"{folder}/{part['file']}", kind, headers), headers)
            )
    return max(status, call("__end__", None, None, {"Content-Type": "__end__"}))


def load(path: str) -> Any:
    """Import a handler by its path; files beside it can be imported by it."""
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_loader

    offer_settings()
    sys.path.insert(0, os.path.dirname(path))
    name = re.sub(r"\W", "_", os.path.basename(path).removesuffix(".py"))
    loader = SourceFileLoader(name, path)
    spec = spec_from_loader(name, loader)
    if spec is None:
        raise ImportError(path)
    module = module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def offer_settings() -> None:
    """Offer `cloudinit.settings`, from which handlers take the names of frequencies, where cloud-init is not there."""
    from importlib.util import find_spec
    from types import ModuleType

    if find_spec("cloudinit") is not None:
        return
    package, settings = ModuleType("cloudinit"), ModuleType("cloudinit.settings")
    names = {"PER_ALWAYS": ALWAYS, "PER_INSTANCE": PER_INSTANCE, "PER_ONCE": "once"}
    settings.__dict__.update(names, FREQUENCIES=[PER_INSTANCE, ALWAYS, "once"])
    package.__dict__.update(settings=settings, __path__=[])
    sys.modules.update({"cloudinit": package, "cloudinit.settings": settings})


def parts_of(folder: str) -> list[dict[str, Any]]:
    """Return what parts.json lists; nothing where there is none."""
    try:
        with open(f"{folder}/parts.json", encoding="utf-8") as file:
            found: list[dict[str, Any]] = json.load(file)
            return found
    except FileNotFoundError:
        return []


def payload_of(path: str, kind: str, headers: dict[str, str]) -> str | bytes:
    """Return a part as the handler gets it: a text of a text/ type, else bytes."""
    with open(path, "rb") as file:
        content = file.read()
    if not kind.startswith("text/"):
        return content
    declared = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    charset = CHARSET.search(declared)
    try:
        return content.decode(charset[1] if charset else "utf-8", "surrogateescape")
    except (LookupError, UnicodeError):
        return content.decode("utf-8", "surrogateescape")


def fail(told: str, error: BaseException | None, status: int) -> int:
    """Print what went wrong, with the owner's own lines."""
    print(told, file=sys.stderr)
    if error is not None:
        traceback.print_exception(type(error), error, error.__traceback__)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
