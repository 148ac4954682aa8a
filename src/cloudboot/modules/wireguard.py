"""wireguard: tunnels of the owner's."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.module import Context, Frequency, Stage, module

LIVE = "a tunnel is made on a running machine"
NAME = r"^[A-Za-z0-9_=+.-]{1,15}$(?!\n)"


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={
        "wireguard": {
            "type": "object",
            "additionalProperties": False,
            "required": ["interfaces"],
            "properties": {
                "interfaces": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "content"],
                        "properties": {
                            "name": {"type": "string", "pattern": NAME, "x-form": "an interface's name (wg0)"},
                            "config_path": {"type": "string", "pattern": "^/", "x-form": "an absolute path"},
                            "content": {"type": "string", "x-secret": True},
                        },
                    },
                },
                "readinessprobe": {"type": "array", "items": {"type": "string", "x-secret": True}},
            },
            "examples": [
                {
                    "interfaces": [{"name": "wg0", "content": "[Interface]\nPrivateKey = …\n"}],
                    "readinessprobe": ["ping -qc 5 192.0.2.1"],
                }
            ],
        }
    },
    network=True,
    distros=("ubuntu",),
)
def wireguard(ctx: Context) -> None:
    """Bring up WireGuard interfaces: their files (0600, /etc/wireguard/NAME.conf), wg-quick@NAME, then the probes.

    `wireguard-tools` is installed if it is missing. Each of `readinessprobe` is a shell command with a result of its
    own. An interface is started anew only if its file has changed.
    """
    host, settings = ctx.host, ctx.config["wireguard"]
    if not packages.bring(ctx, ["wireguard-tools"], program="wg"):
        return
    changed = []
    for interface in settings["interfaces"]:
        name = interface["name"]
        path = interface.get("config_path") or f"/etc/wireguard/{name}.conf"
        if host.write(path, interface["content"], mode=0o600):
            changed.append(name)
    if changed:
        host.run(["modprobe", "wireguard"], live=LIVE, accept=(0, 1))  # built in, where there is no module
    for name in changed:
        host.run(["systemctl", "enable", f"wg-quick@{name}.service"])
        host.run(["systemctl", "restart", f"wg-quick@{name}.service"], live=LIVE)
    if settings.get("readinessprobe"):
        ctx.commands.shell("readinessprobe", settings["readinessprobe"])
