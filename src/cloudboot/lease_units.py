"""The units that keep a lease: values to texts.

Inside a boot all timers count from its beginning, on the monotonic clock. What ends the machine does not hang on us:
the guards are plain `systemctl`, each rougher than the one before it. One timer on the disk, on the wall clock, stands
in for boots in which nobody has armed the lease.
"""

from __future__ import annotations

from math import ceil

from cloudboot.lease_time import HOUR_MARK, stamp
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudboot.lease_time import Term

FOLDER = "/run/systemd/system"
DISK = "/etc/systemd/system"
PREFIX = "cloudboot-lease"
LATE = (f"{DISK}/{PREFIX}-late.timer", f"{DISK}/{PREFIX}-late.service")
LATE_LINK = f"{DISK}/timers.target.wants/{PREFIX}-late.timer"
PROGRAM = "/usr/bin/cloudboot"
SYSTEMCTL = "/usr/bin/systemctl"
SCRIPTS = "/run/cloudboot/lease"  # what the owner wrote, for the user that runs it alone
CLOSING = "/run/cloudboot/lease-closing"  # no spare work starts any more
SLICE = "cloudbootlease.slice"  # no dash: a slice of its own at the top, idle beside users and services
REPORT, SPARE = f"{PREFIX}-report.service", f"{PREFIX}-spare.service"
MAIN_JOB = "cloudboot.target"
WARNINGS = ((600, "10 minutes"), (60, "1 minute"))  # seconds before the end
# Of the margin: SIGTERM to SIGKILL; the report; the guards: plain, without waiting for units, without systemd.
GRACE, REPORTING, GUARD, FORCE, LAST = 0.2, 0.2, 0.5, 0.75, 0.9
DOES = {"poweroff": "powers off", "reboot": "reboots", "nothing": "ends its spare work"}


class Plan(NamedTuple):
    """What the texts are made from. base: monotonic seconds at which the boot began. folder: the lease's own."""

    term: Term
    then: str
    margin: float
    after: str
    jobs: Sequence[Mapping[str, Any]]
    folder: str
    base: float = 0.0


def grace(margin: float) -> int:
    """Return the seconds from SIGTERM to SIGKILL."""
    return max(1, min(30, int(margin * GRACE)))


def job_unit(name: str) -> str:
    """Return the unit of a spare-time command."""
    return f"{PREFIX}-run-{name}.service"


def timers(plan: Plan) -> list[str]:
    """Return the timers to start."""
    names = [f"warn-{number}" for number, (seconds, _) in enumerate(WARNINGS, 1) if _is_ahead(plan, seconds)]
    names += ["end", *(["guard", "force", "last"] if plan.then != "nothing" else [])]
    return [f"{PREFIX}-{name}.timer" for name in names]


def texts(plan: Plan) -> dict[str, str]:
    """Return path -> text of all units of an armed lease."""
    end = plan.term.mark_up - plan.margin
    does, until = DOES[plan.then], stamp(plan.term.mark)
    files: dict[str, str] = {}

    def at(name: str, up: float, what: str, service: str) -> None:
        steady = (
            "DefaultDependencies=no\n" if name in ("guard", "force", "last") else ""
        )  # outlive the shutdown's start
        timer = f"[Timer]\nOnBootSec={max(1, ceil(up - plan.base))}\nAccuracySec=100ms\nRemainAfterElapse=yes\n"
        files[f"{FOLDER}/{PREFIX}-{name}.timer"] = f"[Unit]\nDescription=cloudboot lease: {what}\n{steady}\n{timer}"
        files[f"{FOLDER}/{PREFIX}-{name}.service"] = f"[Unit]\nDescription=cloudboot lease: {what}\n{steady}{service}"

    for number, (seconds, words) in enumerate(WARNINGS, 1):
        if _is_ahead(plan, seconds):
            when = words if plan.term.armed_up <= end - seconds else f"less than {words}"
            told = f"this machine {does} in {when} (lease until {until}): see cloudboot lease status, extend, cancel"
            shown = f'ExecStart=-/usr/bin/echo "cloudboot: {told}"\nExecStart=-/usr/bin/wall "{told}"\n'
            service = f"\n[Service]\nType=oneshot\nStandardOutput=journal+console\nTimeoutStartSec=10\n{shown}"
            at(f"warn-{number}", end - seconds, f"warn {words} before its end", service)
    ours = f"StandardOutput=journal+console\nTimeoutStartSec={max(5, round(plan.margin * LAST))}\n"
    at("end", end, "close it", f"\n[Service]\nType=oneshot\nExecStart={PROGRAM} lease end\n{ours}")
    if plan.then != "nothing":
        verb = plan.then
        at("guard", end + plan.margin * GUARD, f"{verb}, whatever became of us", _guard(f"-i --no-block {verb}", ""))
        at("force", end + plan.margin * FORCE, f"{verb} without waiting for units", _guard(f"--force {verb}", verb))
        at("last", end + plan.margin * LAST, f"{verb} at once", _guard(f"--force --force {verb}", verb))
    if plan.jobs:
        files |= _work(plan)
    return files


def late(plan: Plan) -> dict[str, str]:
    """Return the timer on the disk: at the mark, by the wall clock, where nobody has armed the lease in a boot."""
    if plan.then == "nothing":
        return {}
    when = stamp(plan.term.mark).replace("T", " ").replace("Z", " UTC")
    unit = f"[Unit]\nDescription=cloudboot lease: {plan.then} where nobody has armed it\n"
    condition = f"ConditionPathExists=!{FOLDER}/{PREFIX}-end.timer\n"
    service = f"\n[Service]\nType=oneshot\nExecStart={SYSTEMCTL} -i --no-block {plan.then}\n"
    timer = f"\n[Timer]\nOnCalendar={when}\nAccuracySec=1s\n\n[Install]\nWantedBy=timers.target\n"
    return {LATE[0]: unit + timer, LATE[1]: unit + condition + service}


def _is_ahead(plan: Plan, seconds: float) -> bool:
    """Tell whether a warning makes sense: the last one always does, also where less is left than it says."""
    return seconds == WARNINGS[-1][0] or plan.term.armed_up <= plan.term.mark_up - plan.margin - seconds


def _guard(words: str, verb: str) -> str:
    action = {"": "", "poweroff": "poweroff-force", "reboot": "reboot-force"}[verb]
    failure = f"FailureAction={action}\n" if action else ""
    return f"{failure}\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart={SYSTEMCTL} {words}\n"


def _work(plan: Plan) -> dict[str, str]:
    """Return the units of spare work: one for each command, one that starts the next, one that reports."""
    patience = max(3, int(plan.margin * REPORTING))
    reporting = (
        "[Unit]\nDescription=cloudboot lease: report what spare work has done, when it is stopped\n"
        "After=network.target network-online.target nss-lookup.target systemd-resolved.service dbus.service\n"
        f"RequiresMountsFor={plan.folder}\n\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n"
        f"ExecStop={PROGRAM} lease report\nTimeoutStopSec={patience}\n"
    )
    is_file = plan.after.startswith("/")
    after = "" if is_file else f" {plan.after}"
    spare = (
        "[Unit]\nDescription=cloudboot lease: start the next spare work\n"
        f"Wants={REPORT}\nAfter={REPORT}{after}\nConditionPathExists=!{CLOSING}\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType=oneshot\nExecStart={PROGRAM} lease next\nTimeoutStartSec=90\n"
    )
    files = {f"{FOLDER}/{REPORT}": reporting, f"{FOLDER}/{SPARE}": spare, f"{FOLDER}/{SLICE}": _slice()}
    if is_file:
        files[f"{FOLDER}/{PREFIX}-spare.path"] = (
            f"[Unit]\nDescription=cloudboot lease: spare work starts when {_word(plan.after)} appears\n\n"
            f"[Path]\nPathExists={_word(plan.after)}\nUnit={PREFIX}-spare.target\n"
        )
        # A target stays: the path is there for good, and may start the work once only.
        files[f"{FOLDER}/{PREFIX}-spare.target"] = (
            f"[Unit]\nDescription=cloudboot lease: spare work may start\nWants={SPARE}\n"
        )
    for job in plan.jobs:
        files[f"{FOLDER}/{job_unit(job['name'])}"] = _job(plan, job)
    return files


def _slice() -> str:
    limits = "CPUWeight=idle\nIOWeight=1\nMemoryMax=50%\nTasksMax=1024\n"
    return f"[Unit]\nDescription=cloudboot lease: spare work\n\n[Slice]\n{limits}"


def _job(plan: Plan, job: Mapping[str, Any]) -> str:
    name, seconds = job["name"], job.get("timeout")
    lines = [
        "[Unit]",
        f"Description=cloudboot lease: spare work {name}",
        f"After={REPORT}",
        f"ConditionPathExists=!{CLOSING}",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={command(job)}",
        f"ExecStopPost=+{PROGRAM} lease note {name}",
        *([f"User={job['user']}"] if job.get("user") else []),
        *([f"RuntimeMaxSec={seconds:g}"] if seconds else []),
        "WorkingDirectory=-/var/tmp",
        f"StandardOutput=append:{plan.folder}/output/{name}",
        "StandardError=inherit",
        f"TimeoutStopSec={grace(plan.margin)}",
        f"Slice={SLICE}",
        "CPUWeight=idle",
        "IOWeight=1",
        "IOSchedulingClass=idle",
        "MemoryMax=50%",
        "TasksMax=1024",
        "OOMScoreAdjust=900",
        "",
    ]
    return "\n".join(lines)


def command(job: Mapping[str, Any]) -> str:
    """Return what a spare-time unit runs: the owner's script, or a suite of ours."""
    if not job.get("suite"):
        return f"/bin/sh {SCRIPTS}/{job['name']}"
    peer = f" --peer {job['peer']}" if job.get("peer") else ""
    return f"{PROGRAM} lease suite {job['suite']}{peer}"


def reason(until: str) -> str:
    """Return what a lease's end is, in words."""
    return "the hour mark" if until == HOUR_MARK else "the end of its lease"


def _word(path: str) -> str:
    return path.replace("%", "%%")
