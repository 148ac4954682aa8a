"""ubuntu_pro: attaches the machine to a subscription."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.actions import Remove, WriteFile
from cloudboot.errors import CommandError
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.checker import Schema

NAMES: Schema = {
    "type": "array",
    "items": {"type": "string", "pattern": r"^[a-z0-9][a-z0-9-]*$(?!\n)", "x-form": "a service's name"},
}
ATTACH = "/run/cloudboot/pro-attach.yaml"  # for root alone, and only while it is read
LIVE = "a running machine is attached"
TIMEOUT = 300  # seconds
SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "token": {"type": "string", "x-secret": True},
        "enable": NAMES,
        "enable_beta": NAMES,
        "features": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"disable_auto_attach": {"type": "boolean"}},
        },
        "config": {
            "type": "object",
            "additionalProperties": {"type": ["string", "integer", "boolean", "null"], "x-secret": True},
        },
    },
    "examples": [{"token": "C1…", "enable": ["esm-infra", "livepatch"]}],
}
OLD = ("ubuntu_advantage", "ubuntu-advantage")


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "ubuntu_pro": SCHEMA,
        **{key: {**SCHEMA, "deprecated": "24.1: write ubuntu_pro"} for key in OLD},
    },
    network=True,
    distros=("ubuntu",),
)
def ubuntu_pro(ctx: Context) -> None:
    """Set `config`, attach with `token`, enable services; each failure is said, and the others are tried.

    Without a token a Pro image is attached by what the cloud says of it, unless `features.disable_auto_attach`. The
    token goes through a file for root alone.
    """
    host = ctx.host
    name = next(key for key in ("ubuntu_pro", *OLD) if key in ctx.config)
    settings = ctx.config[name]
    if ctx.applied(settings) or not packages.bring(ctx, ["ubuntu-advantage-tools"], program="pro"):
        return
    for key, value in (settings.get("config") or {}).items():
        words = ["unset", key] if value is None else ["set", f"{key}={str(value).lower()}"]
        attempt(ctx, f"config {key}", ["pro", "config", *words])
    if host.live and attached(ctx):
        host.log.info("ubuntu_pro: attached already")
    elif "token" in settings:
        if not attach(ctx, settings["token"]):
            return
    elif not host.live or settings.get("features", {}).get("disable_auto_attach") or not of_pro(ctx):
        if settings.get("enable") or settings.get("enable_beta"):
            ctx.report(f"{name}.enable: without a token nothing is attached, and nothing enabled", (name, "enable"))
        ctx.note_applied(settings)
        return
    else:
        if auto_attach(ctx, settings):
            ctx.note_applied(settings)
        return
    for service in (*(settings.get("enable") or ()), *(settings.get("enable_beta") or ())):
        beta = ["--beta"] if service in (settings.get("enable_beta") or ()) else []
        if not host.live or service not in enabled(ctx):
            attempt(ctx, service, ["pro", "enable", "--assume-yes", *beta, service])
    ctx.note_applied(settings)


def attach(ctx: Context, token: str) -> bool:
    """Attach without enabling anything; tell whether that went well."""
    import json

    ctx.host.keep(WriteFile(ATTACH, f"{json.dumps({'token': token, 'enable_services': []})}\n".encode(), 0o600))
    try:
        return attempt(ctx, "attach", ["pro", "attach", "--attach-config", ATTACH])
    finally:
        ctx.host.keep(Remove(ATTACH))


def of_pro(ctx: Context) -> bool:
    """Tell whether this is a Pro image, which the cloud vouches for."""
    answer = parsed(ctx.host.ask(["pro", "api", "u.pro.attach.auto.should_auto_attach.v1"]).output)
    attributes = (answer.get("data") or {}).get("attributes") or {}
    return attributes.get("should_auto_attach") is True


def auto_attach(ctx: Context, settings: dict[str, Any]) -> bool:
    """Attach a Pro image; tell whether that went well. What is to be enabled is, instead of Pro's own choice."""
    import json

    wanted = {key: settings[key] for key in ("enable", "enable_beta") if settings.get(key)}
    words = ["--data", json.dumps(wanted)] if wanted else []
    return attempt(ctx, "auto-attach", ["pro", "api", "u.pro.attach.auto.full_auto_attach.v1", *words])


def attempt(ctx: Context, what: str, argv: list[str]) -> bool:
    """Run a command of pro's; tell whether it succeeded, and say so if not."""
    try:
        ctx.host.run(argv, live=LIVE, timeout=TIMEOUT)
    except CommandError as error:
        # `pro api` answers in JSON, the others in lines of which the last is the reason.
        lines = [line.strip() for line in error.output.splitlines() if line.strip()] or [f"exit status {error.status}"]
        titles = [str(each.get("title")) for each in parsed(error.output).get("errors") or ()]
        ctx.fail(f"{what}: {[*lines, *titles][-1][:200]}")
        return False
    return True


def parsed(output: str) -> dict[str, Any]:
    """Return what pro answered in JSON; nothing if it answered otherwise."""
    import json

    try:
        found = json.loads(output)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _status(ctx: Context) -> dict[str, Any]:
    return parsed(ctx.host.ask(["pro", "status", "--format", "json"]).output)


def attached(ctx: Context) -> bool:
    """Tell whether the machine has a subscription already."""
    return bool(_status(ctx).get("attached"))


def enabled(ctx: Context) -> set[str]:
    """Return the services that are enabled already."""
    return {each.get("name", "") for each in _status(ctx).get("services", ()) if each.get("status") == "enabled"}
