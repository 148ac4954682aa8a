"""A lease as it is kept, armed and taken back.

What the owner wants and what has become of it is small JSON in the instance's folder; whoever does a step of a lease
(the module, the verb, a unit's worker) reads it from there and needs no configuration.
"""

from __future__ import annotations

from cloudboot import lease_units as units
from cloudboot import systemd
from cloudboot.actions import MakeDir, Remove, WriteFile
from cloudboot.instance import LINK
from cloudboot.lease_time import ARMED, CLOSING, Now, Term, Terms, duration, stamp
from cloudboot.ledger import BOOT_ID
from cloudboot.status import RUN
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.host import Host

CURRENT = f"{LINK}/lease"
PUBLIC = f"{RUN}/lease.json"  # for everybody: no commands
LOCK = f"{RUN}/lease.lock"  # not the boot's: a boot that hangs does not keep a lease from ending
DOCUMENT = "/run/ec2/dynamic/instance-identity/document"
PERIOD, MARGIN = "1h", "5m"
LIVE = "a lease is kept by the running machine's systemd"
STOPPED = (0, 1, 5, -9, -15)  # of systemctl stop: also one that does not know a unit, or that takes too long


class Lease(NamedTuple):
    """A lease. spec: the owner's `lease:`, its commands as shell text. who: the instance's id and names."""

    spec: dict[str, Any]
    who: dict[str, str]
    term: Term

    @property
    def terms(self) -> Terms:
        """What the owner wants of the time."""
        return terms(self.spec)


def terms(spec: Mapping[str, Any]) -> Terms:
    """Return the time's part of a specification, in seconds. Raises ConfigError."""
    seconds = {key: duration(str(spec.get(key, default))) for key, default in (("period", PERIOD), ("margin", MARGIN))}
    return Terms(spec["until"], seconds["period"], seconds["margin"], spec.get("then", "poweroff"), spec.get("max", ""))


def now(host: Host) -> Now:
    """Return the clocks, the boot, and when the instance was started."""
    boot = (host.text(BOOT_ID) or "").strip()
    return Now(launched(host), boot, host.now(), uptime(host), zone(host))


def uptime(host: Host) -> float:
    """Return the seconds since the boot on the clock that timers run by: without those that the machine slept."""
    import time

    slept = round(time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC))
    return float((host.text("/proc/uptime") or "0").split()[0]) - slept


def base(host: Host) -> float:
    """Return when `OnBootSec=` begins to count: with the kernel; in a container, with its systemd."""
    if not host.exists("/run/systemd/container"):
        return 0.0
    asked = host.ask(["systemctl", "show", "-p", "UserspaceTimestampMonotonic", "--value"], timeout=10)
    return int(asked.output) / 1e6 if asked.ok and asked.output.strip().isdigit() else 0.0


def launched(host: Host) -> float | None:
    """Return when the instance was started last, by the identity document; None where there is none."""
    import json
    from datetime import datetime

    try:
        return datetime.fromisoformat(json.loads(host.text(DOCUMENT) or "")["pendingTime"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return None


def zone(host: Host, name: str = "") -> Any:
    """Return the machine's time zone, or the one named; None (UTC) where there is none."""
    import io
    import zoneinfo

    try:
        content = host.read(f"/usr/share/zoneinfo/{name}" if name else "/etc/localtime")
        return None if content is None else zoneinfo.ZoneInfo.from_file(io.BytesIO(content))
    except (ValueError, OSError):
        return None


# -- kept


def load(host: Host, folder: str = CURRENT) -> Lease | None:
    """Return the lease that is kept; None if there is none."""
    import json

    stored = host.text(f"{folder}/state.json")
    if not stored:
        return None
    try:
        values = json.loads(stored)
        return Lease(values["spec"], values["who"], Term(**values["term"]))
    except (ValueError, KeyError, TypeError) as error:
        host.log.error(f"{folder}/state.json: cannot be read ({error}): taken for none")
        return None


def store(host: Host, lease: Lease, folder: str = CURRENT) -> None:
    """Keep a lease, and show everybody when it ends."""
    import json

    values = {"spec": lease.spec, "who": lease.who, "term": lease.term._asdict()}
    host.keep(MakeDir(folder, 0o700))
    host.keep(WriteFile(f"{folder}/state.json", json.dumps(values, indent=1).encode(), 0o600))
    term, wanted = lease.term, lease.terms
    shown = {"state": term.state, "mark": term.mark, "until": stamp(term.mark), "then": wanted.then}
    host.keep(MakeDir(RUN))
    host.keep(WriteFile(PUBLIC, json.dumps(shown).encode()))


def folder(host: Host) -> str:
    """Return where the current instance's lease is kept, without a link."""
    return host.root.resolve(CURRENT)


# -- armed


def plan(host: Host, lease: Lease, folder: str) -> units.Plan:
    """Return what the units are made from."""
    wanted, spec = lease.terms, lease.spec
    after, jobs = spec.get("after", units.MAIN_JOB), spec.get("run", ())
    return units.Plan(lease.term, wanted.then, wanted.margin, after, jobs, folder, base(host))


def arm(host: Host, lease: Lease, folder: str) -> None:
    """Make systemd keep a lease, and keep it ourselves. What is armed so already stays untouched."""
    made = plan(host, lease, folder)
    try:
        host.keep(Remove(units.CLOSING))
        scripts(host, lease, folder)
        store(host, lease, folder)
    except OSError as error:  # a full disk is no reason to run for ever
        host.log.error(f"lease: cannot be kept on the disk ({error.strerror}): it ends without spare work and report")
    wanted = units.texts(made)
    changed = False
    for path in ours(host):
        if path not in wanted and path not in units.LATE:
            changed = host.remove(path) or changed
    for path, text in wanted.items():
        changed = host.write(path, text) or changed
    names = units.timers(made)
    if changed:
        host.run(["systemctl", "daemon-reload"], live=LIVE)
    if changed or not host.ask(["systemctl", "is-active", names[-1]], timeout=10).ok:
        host.run(["systemctl", "restart", "--no-block", *names], live=LIVE)
    for path, text in units.late(made).items():  # for the next boot
        host.write(path, text)
    if units.late(made):
        host.symlink(units.LATE_LINK, units.LATE[0])


def scripts(host: Host, lease: Lease, folder: str) -> None:
    """Leave the owner's commands where their units find them: a command may hold a secret, so for its user alone."""
    host.keep(MakeDir(folder, 0o700))
    host.keep(MakeDir(f"{folder}/output", 0o700))
    host.keep(MakeDir(units.SCRIPTS, 0o711))
    for job in lease.spec.get("run", ()):
        user = host.user(job["user"]) if job.get("user") else None
        owner = f"{user.uid}:{user.gid}" if user is not None else "root:root"
        if "script" in job:
            host.write(f"{units.SCRIPTS}/{job['name']}", job["script"], mode=0o500, owner=owner)


def begin_work(host: Host, lease: Lease) -> None:
    """Let spare work start when the main job is done, at once if it is; once in a boot."""
    after = lease.spec.get("after", units.MAIN_JOB)
    if after.startswith("/"):
        host.run(["systemctl", "start", "--no-block", f"{units.PREFIX}-spare.path"], live=LIVE)
        return
    if after != units.MAIN_JOB and not awaited(host, after):
        # Nobody starts it in this boot yet: whoever does, starts the spare work after it.
        path = f"{units.FOLDER}/{after}.d/50-{units.PREFIX}.conf"
        if host.write(path, f"[Unit]\nWants={units.SPARE}\n"):
            host.run(["systemctl", "daemon-reload"], live=LIVE)
        return
    host.run(["systemctl", "start", "--no-block", units.SPARE], live=LIVE)


def awaited(host: Host, unit: str) -> bool:
    """Tell whether a unit is up, or has been, or is to come up in this boot."""
    shown = host.ask(["systemctl", "show", "-p", "ActiveState,Job", unit], timeout=10).output
    return "ActiveState=inactive" not in shown.splitlines() or systemd.working(shown)


def disarm(host: Host, patience: float = 60) -> None:
    """Take back what ends the machine and what works for the lease, on the disk and in this boot.

    Spare work is stopped and reported before. The worker that closes a lease lives on.
    """
    paths = ours(host)
    if not paths:
        return
    names = [path.rpartition("/")[2] for path in paths]
    stopping = [name for name in names if name.endswith((".timer", ".path")) or f"{units.PREFIX}-run-" in name]
    stopping += [name for name in (units.SPARE, units.REPORT) if name in names]
    if stopping:
        host.keep(WriteFile(units.CLOSING, b""))
        host.run(["systemctl", "stop", *stopping], live=LIVE, accept=STOPPED, timeout=patience)
    for path in [*([units.LATE_LINK] if host.look(units.LATE_LINK, follow=False) else []), *paths]:
        host.remove(path)
    host.run(["systemctl", "daemon-reload"], live=LIVE)


def stop_work(host: Host, lease: Lease, patience: float) -> None:
    """Stop spare work: SIGTERM, after its grace SIGKILL. None starts any more."""
    host.keep(WriteFile(units.CLOSING, b""))
    names = [units.job_unit(job["name"]) for job in lease.spec.get("run", ())]
    if names:
        words = ["systemctl", "stop", f"{units.PREFIX}-spare.path", units.SPARE, *names]
        host.run(words, live=LIVE, accept=STOPPED, timeout=patience)


def ours(host: Host) -> list[str]:
    """Return the paths of the units of a lease that are there."""
    return [
        f"{folder}/{name}"
        for folder in (units.FOLDER, units.DISK)
        for name in host.listdir(folder)
        if name.startswith(f"{units.PREFIX}-") or name == units.SLICE
    ]


def is_open(term: Term) -> bool:
    """Tell whether a lease has an end before it."""
    return term.state in (ARMED, CLOSING)
