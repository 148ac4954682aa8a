"""ubuntu_autoinstall: the installer's answers, which are not ours to act on."""

from __future__ import annotations

from cloudboot.module import Context, Frequency, Level, Stage, module


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.ONCE,
    schema={
        "autoinstall": {
            "type": "object",
            "required": ["version"],
            "properties": {"version": {"type": "integer"}},
            "examples": [{"version": 1}],
        }
    },
    distros=("ubuntu",),
)
def ubuntu_autoinstall(ctx: Context) -> None:
    """Check that there is an installer which reads `autoinstall`: subiquity does, from the installer's own image."""
    if not ctx.host.exists("/snap/subiquity") and not ctx.host.exists("/snap/ubuntu-desktop-installer"):
        told = "autoinstall: there is no installer in this image: it does nothing"
        ctx.report(told, ("autoinstall",), Level.WARNING)
