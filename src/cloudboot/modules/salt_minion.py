"""salt_minion: Salt's agent."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.typed import Any

WORD = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9+.@_-]*$(?!\n)", "x-form": "a name"}
PATH = {"type": "string", "pattern": "^/", "x-form": "an absolute path"}
LIVE = "nothing runs in an image tree"


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "salt_minion": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "pkg_name": {**WORD, "default": "salt-minion"},
                "service_name": {**WORD, "default": "salt-minion"},
                "config_dir": {**PATH, "default": "/etc/salt"},
                "conf": {"type": "object"},
                "grains": {"type": "object"},
                "public_key": {"type": "string"},
                "private_key": {"type": "string", "x-secret": True},
                "pki_dir": {**PATH, "default": "/etc/salt/pki/minion"},
            },
            "examples": [{"conf": {"master": "salt.example.com"}, "grains": {"role": ["web"]}}],
        }
    },
    network=True,
)
def salt_minion(ctx: Context) -> None:
    """Install salt-minion, write its `conf` and `grains` and its key pair; start it anew if that changed something.

    With `conf.file_client: local` there is no master: the service is switched off and `salt-call --local state.apply`
    is run once, with a result of its own. Both keys are needed for either to be written.
    """
    host, settings = ctx.host, ctx.config["salt_minion"]
    folder = settings.get("config_dir", "/etc/salt")
    service = f"{settings.get('service_name', 'salt-minion')}.service"
    if not packages.bring(ctx, [settings.get("pkg_name", "salt-minion")]):
        return
    changed = [host.write(f"{folder}/minion", as_yaml(settings["conf"]), mode=0o640)] if "conf" in settings else []
    changed += [host.write(f"{folder}/grains", as_yaml(settings["grains"]))] if "grains" in settings else []
    pair = {"minion.pub": settings.get("public_key"), "minion.pem": settings.get("private_key")}
    if all(pair.values()):
        place = settings.get("pki_dir", f"{folder}/pki/minion")
        host.mkdir(place, mode=0o700)
        changed += [
            host.write(f"{place}/{name}", f"{str(text).rstrip()}\n", mode=0o600 if name.endswith("pem") else 0o644)
            for name, text in pair.items()
        ]
    elif any(pair.values()):
        ctx.report("salt_minion: public_key and private_key go together: neither is written", ("salt_minion",))
    if (settings.get("conf") or {}).get("file_client") == "local":
        if host.ask(["systemctl", "is-enabled", service]).output.strip() == "enabled":
            host.run(["systemctl", "disable", "--now", "--no-block", service])
        ctx.commands.script("state.apply", ["salt-call", "--local", "state.apply"])
    elif any(changed):
        host.run(["systemctl", "restart", "--no-block", service], live=LIVE)


def as_yaml(value: Any) -> str:
    """Write a mapping as YAML, in its own order."""
    import yaml

    text: str = yaml.safe_dump(value, default_flow_style=False, sort_keys=False, allow_unicode=True)
    return text
