"""Where the boot is, what ran, what failed and why: status.json while it goes on, result.json at its end.

Both are for everybody to read, so they hold no command texts and nothing that a schema marks as secret;
`results.json` beside the instance's semaphores has the commands, for root.
"""

from __future__ import annotations

from cloudboot.actions import MakeDir, WriteFile
from cloudboot.problem import Level, Problem
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloudboot.host import Host

RUN = "/run/cloudboot"
STATUS = f"{RUN}/status.json"
RESULT = f"{RUN}/result.json"
ENVIRONMENT = f"{RUN}/instance.env"
ENDED = ("done", "failed", "skipped")


class Status:
    """The state of this boot, written down after every change of it.

    `values` is what status.json holds: instance, root (the volume, where the root is on one), fallback (why it is not,
    where it should be), datasource, stages, modules, errors, recoverable, doing. `on_stage` is called when a stage has
    begun or ended, and when the boot ends.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.values = load(host)
        self.on_stage: Callable[[], None] | None = None

    def reset(self, boot: str) -> None:
        """Begin a new boot."""
        self.values = _empty(boot)

    def store(self) -> None:
        """Write status.json."""
        import json

        self.values["updated"] = round(self.host.now(), 3)
        self.host.keep(MakeDir(RUN))
        self.host.keep(WriteFile(STATUS, json.dumps(self.values, indent=1).encode()))

    def doing(self, text: str) -> None:
        """Say what goes on right now."""
        if self.values["doing"] != text:
            self.values["doing"] = text
            self.store()

    def stage(self, name: str, state: str) -> None:
        """Note that a stage has started, ended (`done`), failed, or been proved empty (`skipped`).

        One that starts again after its end (by hand) is another run: what is `always` runs again in it.
        """
        entry = self.values["stages"].setdefault(name, {"state": "", "run": 0})
        if state == "started" and entry["state"] in ENDED:
            entry["run"] += 1
        entry["state"] = state
        entry["started" if state == "started" else "ended"] = round(self.host.now(), 3)
        self.store()
        if self.on_stage is not None:
            self.on_stage()

    def module(self, name: str, **facts: Any) -> None:
        """Note what became of a module."""
        self.values["modules"][name] = facts
        self.store()

    def forget(self, name: str) -> None:
        """Take back the failures of a module's last run: it runs again."""
        old = self.values["modules"].get(name, {}).get("errors", ())
        self.values["errors"] = [text for text in self.values["errors"] if text not in old]

    def problem(self, problem: Problem) -> None:
        """Note something wrong in the configuration: recoverable. Deprecations do not count."""
        if problem.level is not Level.DEPRECATED:
            self.recoverable(str(problem))

    def recoverable(self, text: str) -> None:
        """Note something that went wrong while the rest went on."""
        if text not in self.values["recoverable"]:
            self.values["recoverable"].append(text)

    def error(self, text: str) -> None:
        """Note a failure: a module, a command of the owner's, a stage."""
        if text not in self.values["errors"]:
            self.values["errors"].append(text)

    def finish(self) -> None:
        """Write result.json: the boot is over."""
        import json

        self.values["doing"] = ""
        self.store()
        result = {
            "status": verdict(self.values),
            "instance": self.values["instance"],
            "root": self.values["root"],
            "datasource": self.values["datasource"],
            "errors": self.values["errors"],
            "recoverable": self.values["recoverable"],
        }
        self.host.keep(WriteFile(RESULT, json.dumps(result, indent=1).encode()))
        if self.on_stage is not None:
            self.on_stage()


def key(values: Mapping[str, Any]) -> str | None:
    """Return what the state of the machine of a status is kept under; None if it knows no instance."""
    root: dict[str, str] = values["root"] or {}
    found: str | None = root.get("key") or values["instance"]
    return found


def load(host: Host) -> dict[str, Any]:
    """Return what status.json says; an empty state if there is none or it cannot be read."""
    import json

    stored = host.text(STATUS)
    if stored:
        try:
            values = json.loads(stored)
            return {**_empty(""), **values}
        except ValueError:
            host.log.error(f"{STATUS}: cannot be read: starting anew")
    return _empty("")


def verdict(values: dict[str, Any]) -> str:
    """Return `error`, `degraded` (something recoverable went wrong) or `done`."""
    return "error" if values["errors"] else "degraded" if values["recoverable"] else "done"


def _empty(boot: str) -> dict[str, Any]:
    return {
        "boot": boot,
        "instance": None,
        "root": None,
        "fallback": "",
        "kind": None,
        "datasource": None,
        "note": "",
        "crawled": None,
        "doing": "",
        "stages": {},
        "modules": {},
        "errors": [],
        "recoverable": [],
        "updated": 0.0,
    }
