"""What `cloudboot status` says, and how it waits."""

from __future__ import annotations

import time

from cloudboot import systemd
from cloudboot.status import RESULT, STATUS, load, verdict
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host

UNITS = ("local", "network", "config", "final")
DISABLED = "/etc/cloudboot/disabled"


def status_verb(
    host: Host,
    *,
    wait: bool,
    timeout: float | None,
    long: bool,
    json_output: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Print the state of the boot; return 0 well, 1 failed, 2 degraded, 3 the wait ran out of time."""
    note, timed_out = "", False
    if wait and host.live:
        inside = own_unit(host)
        if inside:
            note = f"called from inside {inside}, which would wait for itself: this is the state right now"
        else:
            timed_out = not wait_for_end(host, timeout, clock, sleep)
    values = load(host)
    values["lease"] = _lease(host)
    state = describe(host, values)
    if json_output:
        import json

        print(
            json.dumps(
                {"status": state, "note": note or values["note"], **{k: values[k] for k in values if k != "note"}}
            )
        )
    else:
        print("\n".join(_text(values, state, note, long=long)))
    if timed_out:
        import sys

        print(f"cloudboot: still {state} after {timeout:.0f} s", file=sys.stderr)
        return 3
    return {"error": 1, "degraded": 2}.get(state, 0)


def _lease(host: Host) -> str:
    """Return when this machine's lease ends, in words; nothing if it has none."""
    import json

    from cloudboot.lease_units import DOES
    from cloudboot.leases import PUBLIC

    try:
        shown = json.loads(host.text(PUBLIC) or "{}")
        if not shown:
            return ""
        return f"{DOES[shown['then']]} at {shown['until']}" if shown["state"] == "armed" else str(shown["state"])
    except (ValueError, KeyError):
        return ""


def describe(host: Host, values: dict[str, Any]) -> str:
    """Return one word: not started, disabled, running, done, degraded, error, or `interrupted`."""
    if not host.exists(STATUS):
        return "disabled" if host.exists(DISABLED) else "not started"
    if host.exists(RESULT):
        return verdict(values)
    if not host.live or _active(host):
        return "error" if values["errors"] else "running"
    return "error"


def own_unit(host: Host) -> str | None:
    """Return the unit of ours that this process runs in, found by its cgroup."""
    for line in (host.text("/proc/self/cgroup") or "").splitlines():
        for part in line.split("/"):
            if part.startswith("cloudboot-") and part.endswith(".service"):
                return part
    return None


def wait_for_end(
    host: Host,
    timeout: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until no job of ours runs or is queued; tell False if `timeout` seconds were not enough."""
    end = None if timeout is None else clock() + timeout
    while True:
        # Not asked first: what is over needs no systemctl; and a crashed stage leaves no result.
        if host.exists(RESULT) or not _active(host):
            return True
        if end is not None and clock() >= end:
            return False
        sleep(0.25)


def _active(host: Host) -> bool:
    """Tell whether a job of ours runs or is queued, by systemd's word; or whether systemd has not queued any yet."""
    units = [f"cloudboot-{name}.service" for name in UNITS]
    answer = host.spawn(["systemctl", "show", "-p", "Job,ActiveState", *units], timeout=10)
    if not answer.ok:
        return host.exists("/run/systemd/system")  # it runs, and does not listen yet
    if systemd.working(answer.output):
        return True
    return host.spawn(["systemctl", "is-system-running"], timeout=10).output.strip() == "initializing"


def _text(values: dict[str, Any], state: str, note: str, *, long: bool) -> list[str]:
    lines = [f"status: {state}"]
    if state == "error" and not values["errors"]:
        lines.append(
            "  the boot ended without a result: a stage was killed or did not start (systemctl status 'cloudboot-*')"
        )
    if note:
        lines.append(f"note: {note}")
    if values["note"]:
        lines.append(f"note: {values['note']}")
    if values["instance"]:
        lines.append(f"instance: {values['instance']} ({values['kind']}, {values['datasource']})")
    if values["root"]:
        root = values["root"]
        called = f"{root['volume']} ({root['device']})" if root["volume"] else root["device"]
        lines.append(f"root: {called}, {root['mode']}, UUID {root['uuid']}: it is the machine, whatever the instance")
    if values["fallback"]:
        lines.append(f"root: the image itself is booted: {values['fallback']}")
    if values.get("lease"):
        lines.append(f"lease: {values['lease']}")
    if values["doing"]:
        lines.append(f"now: {values['doing']}")
    lines += [f"error: {text}" for text in values["errors"]]
    if not long:
        if values["recoverable"]:
            lines.append(f"recoverable: {len(values['recoverable'])} (--long shows them)")
        return lines
    lines += [f"recoverable: {text}" for text in values["recoverable"]]
    lines += [f"stage {name}: {entry['state']}" for name, entry in values["stages"].items()]
    width = max((len(name) for name in values["modules"]), default=0)
    for name, facts in values["modules"].items():
        extra = f", {facts['changes']} changes, {facts['seconds']} s" if "changes" in facts else ""
        lines.append(f"  {name:{width}}  {facts['state']}{extra}: {facts['reason']}")
    return lines
