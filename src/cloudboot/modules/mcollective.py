"""mcollective: Marionette Collective's server."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.module import Context, Frequency, Stage, module
from cloudboot.settings_text import TOP, with_settings

FOLDER = "/etc/mcollective"
CONFIG = f"{FOLDER}/server.cfg"
# The certificates' keys, their files and modes, and the setting that names each.
PARTS = {
    "public-cert": (f"{FOLDER}/ssl/server-public.pem", 0o644, "plugin.ssl_server_public"),
    "private-cert": (f"{FOLDER}/ssl/server-private.pem", 0o600, "plugin.ssl_server_private"),
}


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "mcollective": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "conf": {
                    "type": "object",
                    "properties": {
                        "public-cert": {"type": "string"},
                        "private-cert": {"type": "string", "x-secret": True},
                    },
                    "additionalProperties": {"type": ["string", "integer", "boolean"], "x-secret": True},
                }
            },
            "examples": [{"conf": {"plugin.stomp.host": "mq.example.com"}}],
        }
    },
    network=True,
)
def mcollective(ctx: Context) -> None:
    """Install mcollective, set what `conf` says in /etc/mcollective/server.cfg (0600), start it anew if that changed.

    `public-cert` and `private-cert` are files of their own, and switch the security provider to ssl. What the package
    had is kept beside as server.cfg.old.
    """
    host, conf = ctx.host, ctx.config["mcollective"].get("conf") or {}
    if not packages.bring(ctx, ["mcollective"], program="mcollectived"):
        return
    settings = {key: value if isinstance(value, str) else str(value).lower() for key, value in conf.items()}
    changed = False
    for key, (path, mode, name) in PARTS.items():
        if key in settings:
            host.mkdir(f"{FOLDER}/ssl", mode=0o755)
            changed = host.write(path, f"{settings.pop(key).rstrip()}\n", mode=mode) or changed
            settings |= {name: path, "securityprovider": "ssl"}
    before = host.read(CONFIG)
    after = with_settings((before or b"").decode("utf-8", "replace"), {TOP: settings}).encode()
    if before is not None and before != after and not host.exists(f"{CONFIG}.old"):
        host.write(f"{CONFIG}.old", before, mode=0o600)
    changed = host.write(CONFIG, after, mode=0o600) or changed
    if changed:
        host.run(["systemctl", "restart", "--no-block", "mcollective.service"], live="nothing runs in an image tree")
