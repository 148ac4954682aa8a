"""landscape: registers the machine with Canonical's fleet management."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.settings_text import with_settings

CONFIG = "/etc/landscape/client.conf"
DEFAULTS = "/etc/default/landscape-client"
NOT_REGISTERED = 5  # of `landscape-config --is-registered`
BASE = {
    "log_level": "info",
    "url": "https://landscape.canonical.com/message-system",
    "ping_url": "http://landscape.canonical.com/ping",
    "data_path": "/var/lib/landscape/client",
}


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "landscape": {
            "type": "object",
            "additionalProperties": False,
            "required": ["client"],
            "properties": {
                "client": {
                    "type": "object",
                    "required": ["account_name", "computer_title"],
                    "properties": {
                        "account_name": {"type": "string"},
                        "computer_title": {"type": "string"},
                        "url": {"type": "string"},
                        "ping_url": {"type": "string"},
                        "data_path": {"type": "string"},
                        "log_level": {"type": "string", "enum": ["debug", "info", "warning", "error", "critical"]},
                        "registration_key": {"type": "string", "x-secret": True},
                        "tags": {
                            "type": "string",
                            "pattern": r"^[-_0-9a-zA-Z]+(,[-_0-9a-zA-Z]+)*$(?!\n)",
                            "x-form": "words parted by commas",
                        },
                        "http_proxy": {"type": "string", "x-secret": True},
                        "https_proxy": {"type": "string", "x-secret": True},
                    },
                }
            },
            "examples": [{"client": {"account_name": "example", "computer_title": "web"}}],
        }
    },
    network=True,
    distros=("ubuntu",),
)
def landscape(ctx: Context) -> None:
    """Write /etc/landscape/client.conf (0600) from `client`, and register unless that has been done.

    landscape-client is installed if it is missing. Other keys of `client` are written as they are.
    """
    host, client = ctx.host, ctx.config["landscape"]["client"]
    if not packages.bring(ctx, ["landscape-client"], program="landscape-config"):
        return
    settings = {key: str(value) for key, value in {**BASE, **client}.items() if value is not None}
    changed = host.write(CONFIG, with_settings(host.text(CONFIG) or "", {"client": settings}), mode=0o600)
    host.write(DEFAULTS, "RUN=1\n")
    if changed or host.ask(["landscape-config", "--silent", "--is-registered"]).status == NOT_REGISTERED:
        # It reads the file: a key in its arguments would be for everybody to see.
        host.run(["landscape-config", "--silent"], live="a running machine is registered", timeout=300)
