"""lease: what to do with the rest of a paid hour, and when to stop."""

from __future__ import annotations

from cloudboot.actions import Remove
from cloudboot.commands import quote
from cloudboot.errors import ConfigError
from cloudboot.lease_time import ARMED, CLOSING, DURATION, HOUR_MARK, TIME, duration, settle
from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.checker import Schema
    from cloudboot.problem import Pointer

# What tells at every boot that there may be something to take back; without a lease no more than this is loaded.
PUBLIC = "/run/cloudboot/lease.json"
LATE = "/etc/systemd/system/cloudboot-lease-late.timer"
LENGTH: Schema = {"type": "string", "pattern": rf"^{DURATION}$(?!\n)", "x-form": "a duration (55m, 1h30m, 90s)"}
COMMAND: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1, "x-secret": True},
        {
            "type": "array",
            "items": {"type": ["string", "integer", "number"], "x-secret": True},
            "x-whole": True,
            "minItems": 1,
        },
    ]
}
NAME = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$(?!\n)", "x-form": "letters, digits, - _ ."}
LINE = r"[^\x00-\x1f]+"
PATH: Schema = {"type": "string", "pattern": rf"^/{LINE}$(?!\n)", "x-form": "an absolute path"}
URL: Schema = {"type": "string", "pattern": r"^https?://\S+$(?!\n)", "x-form": "http://… or https://…"}
JOB: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": NAME,
        "command": COMMAND,
        "suite": {"type": "string", "enum": ["disk", "network", "cpu", "idle"]},
        "peer": {"type": "string", "pattern": r"^[A-Za-z0-9.:-]+$(?!\n)", "x-form": "a name or an address"},
        "timeout": LENGTH,
        "user": {"type": "string", "pattern": r"^[a-z_][a-z0-9_-]*\$?$(?!\n)", "x-form": "a user's name"},
        "repeat": {"type": "boolean"},
    },
}


def nothing(facts: Facts) -> bool:
    """Prove that there is no lease, neither a wanted one nor one to take back."""
    left = (f"{facts.folder}/lease/state.json", LATE, PUBLIC)
    return facts.config.get("lease") is None and not any(map(facts.host.exists, left))


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.ALWAYS,
    keys=(),
    schema={
        "lease": {
            "type": ["object", "null"],
            "x-whole": True,
            "additionalProperties": False,
            "properties": {
                "until": {
                    "type": "string",
                    "pattern": rf"^(?:{HOUR_MARK}|{DURATION}|{TIME})$(?!\n)",
                    "x-form": "hour-mark, a duration (55m) or a time (2026-11-26T18:00:00Z, 18:00)",
                },
                "period": LENGTH,
                "margin": LENGTH,
                "max": {
                    "type": "string",
                    "pattern": rf"^(?:{DURATION}|{TIME})$(?!\n)",
                    "x-form": "a duration (8h) or a time",
                },
                "then": {
                    "type": "string",
                    "pattern": "^(poweroff|reboot|nothing)$",
                    "x-form": "poweroff, reboot or nothing (halt leaves an EC2 instance running and billed)",
                },
                "extend_while": COMMAND,
                "after": {
                    "type": "string",
                    "pattern": rf"^(?:/{LINE}|[A-Za-z0-9_.@:\\-]+\.(?:service|target|socket|mount|path|timer))$(?!\n)",
                    "x-form": "a unit (cloudboot.target) or the path of a file",
                },
                "run": {
                    "type": "array",
                    "items": {"anyOf": [{"type": "string", "minLength": 1, "x-secret": True}, JOB]},
                },
                "collect": {"type": "array", "items": PATH},
                "report": {
                    "anyOf": [
                        {
                            "type": "string",
                            "pattern": r"^(https?://\S+|/[^\x00-\x1f]+)$(?!\n)",
                            "x-form": "a URL or a path",
                        },
                        {
                            "type": "object",
                            "additionalProperties": False,
                            "minProperties": 1,
                            "properties": {"url": URL, "tries": {"type": "integer", "minimum": 1}, "file": PATH},
                        },
                    ]
                },
            },
            "examples": [
                {
                    "until": "hour-mark",
                    "run": [{"suite": "disk"}, {"name": "soak", "command": "/opt/soak-test", "repeat": True}],
                    "collect": ["/srv/soak/*.log"],
                    "report": "https://example.com/leases/$INSTANCE_ID",
                }
            ],
        }
    },
    metadata=True,
    essential=True,  # a list of modules that was copied from somewhere does not keep a machine running
    light=True,
    idle=nothing,
)
def lease(ctx: Context) -> None:
    """Spend the rest of a paid hour on something useful, then stop safely before the mark.

    `until`: `hour-mark` (of the launch, else of the first boot; counted in `period`s, 1h), a duration, a time. `margin`
    (5m) before it spare work is stopped, results are collected and reported, and the machine does what `then` says
    (poweroff). `extend_while` moves the end by a period while it succeeds, up to `max`. `run`: commands and suites for
    the time after the main job. Anything wrong in it means: no lease. `lease: null` takes an image's lease back.
    """
    from cloudboot import hostname, leases

    folder = f"{ctx.commands.folder}/lease"
    wanted = ctx.config.get("lease")
    known = leases.load(ctx.host, folder)
    if known is not None and known.who.get("instance_id") != ctx.instance.id:
        known = None  # of another instance, which this root was on: its paid hour is not ours
    spec = checked(ctx, wanted) if wanted is not None else None
    if spec is None:
        take_back(ctx, folder)
        return
    if not ctx.host.live:
        ctx.host.run(["systemctl", "start", "cloudboot-lease-end.timer"], live=leases.LIVE)
        return
    names = hostname.resolve(ctx.config, ctx.instance.hostname)
    who = {
        "instance_id": ctx.instance.id,
        "hostname": names.hostname if names else "",
        "fqdn": names.fqdn if names else "",
    }
    now = leases.now(ctx.host)
    if ctx.config.get("timezone"):  # not set yet, on a first boot
        now = now._replace(zone=leases.zone(ctx.host, ctx.config["timezone"]))
    try:
        term = settle(leases.terms(spec), known.term if known else None, now)
    except ConfigError as error:
        refuse(ctx, str(error), ("lease", str(error).partition(":")[0]))
        take_back(ctx, folder)
        return
    made = leases.Lease(spec, who, term)
    if term.state == CLOSING:
        return  # in this boot, by another process
    if term.state != ARMED:
        ctx.host.log.info(f"the lease of this paid time is {term.state}: nothing is armed")
        leases.store(ctx.host, made, folder)
        leases.disarm(ctx.host)
        return
    fresh = known is None or (known.term.boot, known.term.origin) != (term.boot, term.origin)
    if term.note and fresh:
        ctx.host.log.say(f"lease: {term.note}: it ends in a minute")
    leases.arm(ctx.host, made, folder)
    if fresh and spec.get("run"):
        leases.begin_work(ctx.host, made)


def checked(ctx: Context, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the specification with its commands as shell text; None, and reported, if anything in it is wrong."""
    spec = {key: value for key, value in wanted.items() if key not in ("run", "extend_while", "report")}
    if "until" not in wanted:
        refuse(ctx, "until is missing", ("lease",))
        return None
    if "extend_while" in wanted:
        spec["extend_while"] = quote(wanted["extend_while"])
    if "report" in wanted:
        given = wanted["report"]
        spec["report"] = given if isinstance(given, dict) else {"file" if given.startswith("/") else "url": given}
    jobs: list[dict[str, Any]] = []
    for index, item in enumerate(wanted.get("run", ())):
        job: dict[str, Any] = {"command": item} if isinstance(item, str) else dict(item)
        fault = wrong(ctx, job, [each["name"] for each in jobs])
        if fault:
            refuse(ctx, f"run[{index}]{fault}", ("lease", "run", index))
            return None
        job.setdefault("name", free(job.get("suite") or f"run-{index + 1}", [each["name"] for each in jobs]))
        if "command" in job:
            job["script"] = f"{quote(job.pop('command'))}\n"
        if "timeout" in job:
            job["timeout"] = duration(job["timeout"])
        jobs.append(job)
    return {**spec, **({"run": jobs} if jobs else {})}


def wrong(ctx: Context, job: dict[str, Any], names: list[str]) -> str:
    """Say what is wrong with a spare-time command; nothing if it can be used."""
    if ("command" in job) == ("suite" in job):
        return ": give it a command or a suite"
    if job.get("suite") == "network" and "peer" not in job:
        return ".peer: is missing: the network suite needs one"
    if "peer" in job and job.get("suite") != "network":
        return ".peer: only the network suite has one"
    if "user" in job and "suite" in job:
        return ".user: suites run as root"
    if "user" in job and ctx.host.user(job["user"]) is None:
        return f".user: no such user: {job['user']!r}"
    return f".name: there is one already: {job['name']!r}" if job.get("name") in names else ""


def free(name: str, names: list[str]) -> str:
    """Return a name that is not taken."""
    return next(each for each in (name, *(f"{name}-{n}" for n in range(2, 1000))) if each not in names)


def refuse(ctx: Context, text: str, pointer: Pointer) -> None:
    """Report a mistake: it never stops a machine."""
    ctx.report(f"lease.{text}: there is no lease", pointer)


def take_back(ctx: Context, folder: str) -> None:
    """Leave no trace of an earlier lease: this machine has none."""
    from cloudboot import leases

    leases.disarm(ctx.host)
    for path in (f"{folder}/state.json", PUBLIC):
        ctx.host.keep(Remove(path))
