"""systemd's units: their names, and whether there is work on them."""

from __future__ import annotations


def mount_unit(target: str) -> str:
    """Return the unit of a mount point (systemd-escape --path --suffix=mount)."""
    return f"{escaped(target)}.mount"


def escaped(path: str) -> str:
    """Return a path as it stands in unit names (systemd-escape --path)."""
    path = "/".join(part for part in path.split("/") if part)
    if not path:
        return "-"
    name = ""
    for number, byte in enumerate(path.encode()):
        char = chr(byte)
        plain = char.isascii() and (char.isalnum() or char in ":_" or (char == "." and number))
        name += "-" if char == "/" else char if plain else f"\\x{byte:02x}"
    return name


def working(shown: str) -> bool:
    """Tell from what `systemctl show -p Job,ActiveState UNIT…` prints whether a job of any runs or is queued."""
    lines = shown.splitlines()
    return "ActiveState=activating" in lines or any(
        line.startswith("Job=") and line not in ("Job=", "Job=0") for line in lines
    )
