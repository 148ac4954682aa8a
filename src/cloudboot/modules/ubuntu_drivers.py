"""ubuntu_drivers: third-party drivers whose licence the owner has accepted."""

from __future__ import annotations

from cloudboot import packages
from cloudboot.module import Context, Frequency, Level, Stage, module

# What the packages of NVIDIA's kernel modules ask before they link them.
ACCEPTED = b"linux-restricted-modules linux/nvidia/latelink boolean true\n"
LIVE = "drivers are chosen for the running machine"


@module(
    stage=Stage.FINAL,
    frequency=Frequency.INSTANCE,
    schema={
        "drivers": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "nvidia": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["license-accepted"],
                    "properties": {
                        "license-accepted": {"type": "boolean"},
                        "version": {
                            "type": "string",
                            "pattern": r"^[A-Za-z0-9.+-]+$(?!\n)",
                            "x-form": "a version (quote it)",
                        },
                    },
                }
            },
            "examples": [{"nvidia": {"license-accepted": True, "version": "550"}}],
        }
    },
    network=True,
    distros=("ubuntu",),
)
def ubuntu_drivers(ctx: Context) -> None:
    """Install NVIDIA's driver by `ubuntu-drivers`, if its licence is accepted."""
    nvidia = ctx.config["drivers"].get("nvidia")
    if nvidia is None:
        return
    if not nvidia["license-accepted"]:
        place = ("drivers", "nvidia", "license-accepted")
        ctx.report("drivers.nvidia: its licence is not accepted: no driver is installed", place, Level.WARNING)
        return
    if ctx.applied(nvidia) or not packages.bring(ctx, ["ubuntu-drivers-common"], program="ubuntu-drivers"):
        return
    ctx.host.run(["debconf-set-selections"], stdin=ACCEPTED)
    version = f":{nvidia['version']}" if "version" in nvidia else ""
    if not ctx.commands.script("ubuntu-drivers", ["ubuntu-drivers", "install", "--gpgpu", f"nvidia{version}"]).status:
        ctx.note_applied(nvidia)
