"""grub_dpkg: which disk an upgrade of GRUB installs itself on."""

from __future__ import annotations

from cloudboot import apt
from cloudboot.module import Context, Frequency, Level, Stage, module
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.checker import Schema

SCHEMA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "enabled": {"default": False, "type": "boolean"},
        "grub-pc/install_devices": {"type": "string"},
        "grub-pc/install_devices_empty": {
            "anyOf": [{"type": "boolean"}, {"enum": ["true", "false"], "deprecated": "22.2: write true or false"}]
        },
        "grub-efi/install_devices": {"type": "string"},
    },
    "examples": [{"enabled": True, "grub-pc/install_devices": "/dev/sda"}],
}


@module(
    stage=Stage.CONFIG,
    frequency=Frequency.INSTANCE,
    schema={"grub_dpkg": SCHEMA, "grub-dpkg": {**SCHEMA, "deprecated": "22.2: write grub_dpkg"}},
)
def grub_dpkg(ctx: Context) -> None:
    """Tell debconf where GRUB is to be installed, so that an upgrade does not ask; only with `enabled: true`.

    Without devices it is the disk of /boot, by the name that udev gives it for good. `install_devices_empty: true`
    means that an upgrade installs it nowhere.
    """
    settings: dict[str, Any] = ctx.config.get("grub_dpkg") or ctx.config.get("grub-dpkg") or {}
    if not settings.get("enabled", False):
        return
    lines = answers(ctx, settings)
    if not lines or ctx.applied(lines):
        return
    ctx.host.run(["debconf-set-selections"], stdin="".join(f"{line}\n" for line in lines).encode())
    ctx.note_applied(lines)


def answers(ctx: Context, settings: dict[str, Any]) -> list[str]:
    """Return the lines for debconf: GRUB for EFI where that is installed, else the one for BIOS."""
    there = apt.have(ctx.host).names
    efi = sorted(there & {"grub-efi-amd64", "grub-efi-arm64"})
    if efi and "grub-pc" not in there:
        device = settings.get("grub-efi/install_devices") or disk(ctx, "/boot/efi")
        return [f"{efi[0]} grub-efi/install_devices string {device}"] if device else []
    empty = str(settings.get("grub-pc/install_devices_empty", False)).lower() == "true"
    device = settings.get("grub-pc/install_devices") or ("" if empty else disk(ctx, "/boot"))
    if not device and not empty:
        return []
    return [
        f"grub-pc grub-pc/install_devices string {device}",
        f"grub-pc grub-pc/install_devices_empty boolean {str(empty or not device).lower()}",
    ]


def disk(ctx: Context, place: str) -> str:
    """Return the disk (for EFI the partition) under a directory, by its lasting name; empty, and said, if not known."""
    target = "device" if place.endswith("efi") else "disk"
    probed = ctx.host.ask(["grub-probe", "-t", target, place])
    device = probed.output.strip().splitlines()[-1] if probed.ok and probed.output.strip() else ""
    if not device.startswith("/dev/"):
        ctx.report(f"grub_dpkg: what {place} is on is not known: say `install_devices`", ("grub_dpkg",), Level.WARNING)
        return ""
    links = ctx.host.ask(["udevadm", "info", "--root", "--query=symlink", device]).output.split()
    lasting = sorted(link for link in links if link.startswith("/dev/disk/by-id/"))
    return next((link for link in lasting if "nvme-eui." not in link), (lasting or [device])[0])
