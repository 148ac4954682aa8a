"""`cloudboot lease`: when this machine ends, to be moved or taken back by root; and the words that its units say."""

from __future__ import annotations

from cloudboot import lease_report, leases
from cloudboot import lease_work as work
from cloudboot.errors import CloudbootError, ConfigError, UsageError
from cloudboot.lease_time import ARMED, CANCELLED, CLOSING, ENDED, duration, stamp, told
from cloudboot.lock import locked
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from cloudboot.host import Host
    from cloudboot.leases import Lease

STATES = {
    CANCELLED: "cancelled for this paid time: the machine stays on",
    CLOSING: "closing: spare work is stopped and reported",
    ENDED: "ended",
}
THEN = {
    "poweroff": "powers off: EC2 stops or terminates the instance, as it was launched "
    "(instance-initiated shutdown behaviour; the metadata do not say which)",
    "reboot": "reboots: the instance stays, and is billed on",
    "nothing": "stops spare work and nothing else: the instance stays, and is billed on",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="say when it ends, what then, and what spare work has run")
    status.add_argument("--format", choices=("text", "json"), default="text")
    extend = actions.add_parser("extend", help="move the end")
    extend.add_argument("duration", metavar="DURATION", help="by this much: 1h, 30m")
    actions.add_parser("cancel", help="take it back until the next stop and start: the machine stays on")
    for name in ("end", "next", "report"):  # for our units
        actions.add_parser(name)
    note = actions.add_parser("note")
    note.add_argument("name")
    suite = actions.add_parser("suite", help="run a spare-time suite now and print its result as JSON")
    suite.add_argument("suite", choices=("disk", "network", "cpu", "idle"))
    suite.add_argument("--peer", metavar="HOST", help="network: who answers (iperf3 -s)")


def run(arguments: argparse.Namespace, host: Host, write: Callable[[str], Any]) -> int:
    """Do what is asked for; return the exit status."""
    action = arguments.action
    if action == "suite":
        from cloudboot import lease_suites

        return lease_suites.run(host, arguments.suite, arguments.peer, write)
    if action == "end":
        work.end(host)
        return 0
    lease = leases.load(host)
    if action == "status":
        write(status_json(host, lease) if arguments.format == "json" else "\n".join(status(host, lease)) + "\n")
        return 0
    if lease is None:
        raise CloudbootError("lease: this machine has none: nothing ends it (see `cloudboot why lease`)")
    if action == "report":
        return 0 if lease_report.report(host, lease) else 1
    wait = 60.0 if action in ("next", "note") else 15.0
    lock = f"{leases.LOCK}.work" if action in ("next", "note") else leases.LOCK
    with locked(host, f"lease {action}", wait=wait, path=lock):
        lease = leases.load(host) or lease
        if action == "next":
            work.next_work(host, lease)
        elif action == "note":
            work.note(host, lease, arguments.name)
        elif action == "extend":
            extend(host, lease, arguments.duration, write)
        else:
            cancel(host, lease, write)
    return 0


def extend(host: Host, lease: Lease, text: str, write: Callable[[str], Any]) -> None:
    """Move the end by the owner's word: `max` bounds only what `extend_while` does."""
    try:
        seconds = duration(text)
    except ConfigError as error:
        raise UsageError(f"lease extend: {error}") from None
    if lease.term.state != ARMED:
        raise CloudbootError(f"lease extend: not done: the lease is {lease.term.state}")
    moved = work.extend(host, lease, seconds)
    write(f"extended by {told(seconds)}: until {stamp(moved.term.mark)}\n")


def cancel(host: Host, lease: Lease, write: Callable[[str], Any]) -> None:
    """Take a lease back: spare work is stopped and reported, nothing ends the machine until it is started anew."""
    if lease.term.state != ARMED:
        raise CloudbootError(f"lease cancel: not done: the lease is {lease.term.state}")
    lease = lease._replace(term=lease.term._replace(state=CANCELLED))
    leases.store(host, lease)
    leases.disarm(host)
    host.log.say("lease: cancelled")
    write(f"{STATES[CANCELLED]}\n")


def status(host: Host, lease: Lease | None) -> list[str]:
    """Return what a person wants to know of a lease, in lines."""
    if lease is None:
        return ["lease: none: nothing ends this machine"]
    term, wanted, spec = lease.term, lease.terms, lease.spec
    if term.state == ARMED:
        left = term.mark_up - leases.uptime(host)
        lines = [f"lease: until {stamp(term.mark)} ({spec['until']}), in {told(left)}"]
        lines.append(f"closing begins {told(wanted.margin)} before, at {stamp(term.mark - wanted.margin)}")
        lines.append(f"then it {THEN[wanted.then]}")
        if spec.get("extend_while"):
            lines.append(f"extended while the owner's command succeeds, until {stamp(term.most)} at most")
    else:
        lines = [f"lease: {STATES[term.state]}"]
    since = "launched" if term.launch is not None else "first booted, as far as is known"
    lines.append(f"counts from {stamp(term.origin)}, when the instance was {since}; period {told(wanted.period)}")
    if term.extended:
        lines.append(f"extended {term.extended} time{'s' * (term.extended > 1)}")
    if term.note:
        lines.append(f"note: {term.note}")
    lines += [f"  {told_run(run)}" for run in work.load(host, lease)]
    ran = {run["name"] for run in work.load(host, lease)}
    lines += [f"  {job['name']}: has not run" for job in spec.get("run", ()) if job["name"] not in ran]
    return lines


def told_run(run: dict[str, Any]) -> str:
    """Say what became of a spare-time command."""
    how = f", exit {run['exit']}" if run.get("exit") else f", signal {run['signal']}" if "signal" in run else ""
    error = run["suite"].get("error", "") if isinstance(run.get("suite"), dict) else ""
    return (
        f"{run['name']}: {run['state']}{how}"
        + (f" in {told(run['seconds'])}" if "seconds" in run else "")
        + (f": {error}" if error else "")
    )


def status_json(host: Host, lease: Lease | None) -> str:
    """Return the same for a program."""
    import json

    if lease is None:
        return json.dumps({"lease": None}) + "\n"
    term, wanted = lease.term, lease.terms
    facts = {
        "state": term.state,
        "until": lease.spec["until"],
        "mark": stamp(term.mark),
        "end": stamp(term.mark - wanted.margin),
        "left": round(term.mark_up - leases.uptime(host), 1) if term.state == ARMED else None,
        "then": wanted.then,
        "origin": stamp(term.origin),
        "launch": stamp(term.launch) if term.launch is not None else None,
        "most": stamp(term.most),
        "extended": term.extended,
        "run": work.load(host, lease),
    }
    return json.dumps({"lease": facts}, indent=1) + "\n"
