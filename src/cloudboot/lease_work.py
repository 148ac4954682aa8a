"""What the units of a lease call: start the next spare work, note what became of it, close.

Each is a short process of its own; nothing of ours runs in between, and what any of them fails to do the guards do.
"""

from __future__ import annotations

import time

from cloudboot import lease_units as units
from cloudboot import leases
from cloudboot.actions import Remove, WriteFile
from cloudboot.errors import LockBusy
from cloudboot.lease_time import ARMED, CLOSING, ENDED, stamp, told
from cloudboot.ledger import BOOT_ID
from cloudboot.lock import locked
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host
    from cloudboot.leases import Lease

RESULTS = f"{leases.CURRENT}/results.json"
OUTPUT_SHOWN = 64 << 10  # bytes of a command's output, its last, in a report
RUNS_KEPT = 50  # of each command
PAUSE, PAUSE_FAILED = 1.0, 10.0  # seconds before a short, or failed, command is repeated
RUNNING, DONE, FAILED, STOPPED, TIMED_OUT, INTERRUPTED = (
    "running",
    "done",
    "failed",
    "stopped",
    "timed out",
    "interrupted",
)
PROPERTIES = (
    "ActiveState,Result,ExecMainCode,ExecMainStatus,ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic"
)
EXITED = "1"  # CLD_EXITED; anything else is a signal


# -- results


def load(host: Host, lease: Lease) -> list[dict[str, Any]]:
    """Return what spare work of this lease has run, in order."""
    import json

    try:
        stored = json.loads(host.text(RESULTS) or "{}")
        runs: list[dict[str, Any]] = stored["runs"] if stored.get("origin") == lease.term.origin else []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return runs


def store(host: Host, lease: Lease, runs: list[dict[str, Any]]) -> None:
    """Keep what spare work has run; of what repeats, the last runs."""
    import json

    numbers = {run["name"]: run["number"] for run in runs}
    runs = [run for run in runs if run["number"] > numbers[run["name"]] - RUNS_KEPT]
    content = json.dumps({"origin": lease.term.origin, "runs": runs}, indent=1).encode()
    host.keep(WriteFile(RESULTS, content, 0o600))


def next_work(host: Host, lease: Lease, sleep: Callable[[float], None] = time.sleep) -> str | None:
    """Start the next spare work; return its name, None if there is none or one runs."""
    runs = settled(host, lease, load(host, lease))
    if host.exists(units.CLOSING) or any(run["state"] == RUNNING for run in runs):
        return None
    job = following(lease.spec.get("run", ()), runs)
    if job is None:
        store(host, lease, runs)
        return None
    before = [run for run in runs if run["name"] == job["name"]]
    if before and (before[-1]["state"] != DONE or before[-1]["seconds"] < PAUSE):
        sleep(PAUSE if before[-1]["state"] == DONE else PAUSE_FAILED)
    output = f"{leases.CURRENT}/output/{job['name']}"
    entry = host.look(output)
    runs.append(
        {
            "name": job["name"],
            "number": before[-1]["number"] + 1 if before else 1,
            "state": RUNNING,
            "boot": boot(host),
            "began": round(host.now(), 3),
            "output": [entry.size if entry else 0, None],
        }
    )
    store(host, lease, runs)
    host.run(["systemctl", "start", "--no-block", units.job_unit(job["name"])], timeout=30)
    return str(job["name"])


def following(jobs: Any, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Choose: first what has not run, in order; then, of what repeats, what ran least often."""
    numbers: dict[str, int] = {run["name"]: run["number"] for run in runs}
    fresh: list[dict[str, Any]] = [job for job in jobs if job["name"] not in numbers]
    again = sorted((job for job in jobs if job.get("repeat")), key=lambda job: numbers.get(job["name"], 0))
    return next(iter([*fresh, *again]), None)


def note(host: Host, lease: Lease, name: str) -> None:
    """Note what became of a spare-time command whose unit stops, and let the next one start."""
    runs = load(host, lease)
    for number, run in enumerate(runs):
        if run["name"] == name and run["state"] == RUNNING:
            runs[number] = judged(host, lease, run)
    store(host, lease, runs)
    if not host.exists(units.CLOSING):
        host.run(["systemctl", "start", "--no-block", units.SPARE], accept=(0, 1, 4, 5), timeout=30)


def settled(host: Host, lease: Lease, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs with the end of those whose unit has stopped, or whose boot is over, without a word."""
    now = boot(host)
    made = []
    for run in runs:
        if run["state"] == RUNNING and run["boot"] != now:
            run = {**run, "state": INTERRUPTED}
        elif run["state"] == RUNNING and not alive(host, run["name"]):
            run = judged(host, lease, run)
        made.append(run)
    return made


def judged(host: Host, lease: Lease, run: dict[str, Any]) -> dict[str, Any]:
    """Return a run with its end, as systemd knows it."""
    facts = properties(host, run["name"])
    exited, status = facts.get("ExecMainCode") == EXITED, int(facts.get("ExecMainStatus") or 0)
    seconds = max(
        0.0,
        (int(facts.get("ExecMainExitTimestampMonotonic") or 0) - int(facts.get("ExecMainStartTimestampMonotonic") or 0))
        / 1e6,
    )
    closing = host.exists(units.CLOSING)
    state = DONE if exited and status == 0 else FAILED
    if state == FAILED and closing:
        state = STOPPED
    elif facts.get("Result") == "timeout":
        state = TIMED_OUT
    elif not exited and facts.get("Result") == "success":  # somebody stopped it: as a rule a shutdown
        state = INTERRUPTED
    entry = host.look(f"{leases.CURRENT}/output/{run['name']}")
    found = {"exit" if exited else "signal": status, "result": facts.get("Result", "")}
    ended = {**run, **found, "state": state, "seconds": round(seconds, 3)}
    ended["output"] = [run["output"][0], entry.size if entry else run["output"][0]]
    made = suite_result(host, lease, ended)
    return {**ended, "suite": made} if made is not None else ended


def suite_result(host: Host, lease: Lease, run: dict[str, Any]) -> Any:
    """Return what a suite measured: the last line that it printed."""
    import json

    if not any(job["name"] == run["name"] and job.get("suite") for job in lease.spec.get("run", ())):
        return None
    lines = output(host, run).strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else {"error": "printed nothing"}
    except ValueError:
        return {"error": "its result cannot be read"}


def properties(host: Host, name: str) -> dict[str, str]:
    """Return what systemd knows of a spare-time unit."""
    asked = host.ask(["systemctl", "show", "-p", PROPERTIES, units.job_unit(name)], timeout=10)
    return dict(line.split("=", 1) for line in asked.output.splitlines() if "=" in line)


def alive(host: Host, name: str) -> bool:
    """Tell whether a spare-time unit runs, starts or stops."""
    return properties(host, name).get("ActiveState") in ("active", "activating", "deactivating", "reloading")


def output(host: Host, run: dict[str, Any]) -> str:
    """Return the last of what a run printed."""
    begin, end = run["output"]
    path = f"{leases.CURRENT}/output/{run['name']}"
    try:
        entry = host.look(path)
        size: int = end if end is not None else entry.size if entry is not None else begin
        first = max(begin, size - OUTPUT_SHOWN)
        return host.root.read_at(path, first, size - first).decode("utf-8", "replace")
    except OSError:
        return ""  # it has printed nothing


def boot(host: Host) -> str:
    """Return this boot's id."""
    return (host.text(BOOT_ID) or "").strip()


# -- the end


def end(host: Host) -> None:
    """End the lease: or extend it, if the owner's command says so."""
    try:
        with locked(host, "lease end", wait=5.0, path=leases.LOCK):
            lease = leases.load(host)
            if lease is None or lease.term.state != ARMED or not due(host, lease):
                return
            if extends(host, lease):
                return
            lease = lease._replace(term=lease.term._replace(state=CLOSING))
            host.keep(WriteFile(units.CLOSING, b""))
            leases.store(host, lease)
    except LockBusy as error:
        host.log.error(f"lease: {error}: the guards end it")
        return
    close(host, lease)


def due(host: Host, lease: Lease) -> bool:
    """Tell whether the end has come: a timer may be older than an extension."""
    return leases.uptime(host) >= lease.term.mark_up - lease.terms.margin - 1.0


def extends(host: Host, lease: Lease) -> bool:
    """Move the end by one more period if `extend_while` succeeds and `max` lets it; tell whether it was moved."""
    command, wanted = lease.spec.get("extend_while"), lease.terms
    if command is None:
        return False
    if lease.term.mark + wanted.period > lease.term.most:
        host.log.say(f"lease: not extended: its max is {stamp(lease.term.most)}")
        return False
    patience = max(2, min(30, int(wanted.margin * 0.1)))
    host.log.audit("command", "lease: extend_while")
    if host.spawn(["/bin/sh", "-c", command], timeout=patience).status != 0:
        host.log.say("lease: extend_while does not hold: it ends now")
        return False
    extend(host, lease, wanted.period)
    return True


def extend(host: Host, lease: Lease, seconds: float) -> Lease:
    """Move the end, in systemd and on the disk."""
    moved = lease._replace(term=lease.term.extend(seconds, leases.uptime(host)))
    leases.arm(host, moved, leases.folder(host))
    host.log.say(f"lease: extended by {told(seconds)}: until {stamp(moved.term.mark)}")
    return moved


def close(host: Host, lease: Lease) -> None:
    """Stop spare work, have it reported, do what the lease says then. Each step has its time."""
    wanted = lease.terms
    host.log.say(f"lease: it ends now, at {stamp(host.now())}: {units.DOES[wanted.then]}")
    share = wanted.margin * units.GRACE
    leases.stop_work(host, lease, share + 2)
    host.run(["systemctl", "stop", units.REPORT], accept=leases.STOPPED, timeout=wanted.margin * units.REPORTING + 2)
    ended = lease._replace(term=lease.term._replace(state=ENDED))
    leases.store(host, ended)
    if wanted.then == "nothing":
        leases.disarm(host)
        return
    for path in (units.LATE_LINK, *units.LATE):  # the next start is another paid hour
        host.keep(Remove(path))
    host.run(["systemctl", "-i", "--no-block", wanted.then], live=f"{wanted.then} of the running machine")
