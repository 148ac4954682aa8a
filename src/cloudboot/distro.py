"""Facts about distributions, as a table."""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cloudboot.host import Host

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


class Distro(NamedTuple):
    """What differs between distributions. name: `ID` of os-release; version: `VERSION_ID`, None on testing."""

    name: str
    version: str | None
    default_user: dict[str, Any]


def _user(name: str, groups: str, gecos: str) -> dict[str, Any]:
    return {
        "name": name,
        "gecos": gecos,
        "groups": groups.split(","),
        "lock_passwd": True,
        "shell": "/bin/bash",
        "sudo": ["ALL=(ALL) NOPASSWD:ALL"],
    }


# The accounts that the distributions' own cloud images have (cloud-init's template for each).
DEFAULT_USERS = {
    "debian": _user("debian", "adm,audio,cdrom,dialout,dip,floppy,netdev,plugdev,sudo,video", "Debian"),
    "ubuntu": _user("ubuntu", "adm,cdrom,dip,lxd,sudo", "Ubuntu"),
}


def read(host: Host) -> Distro:
    """Return the facts about the tree's distribution, from os-release; an unknown one is taken for Debian-like."""
    values: dict[str, str] = {}
    for path in OS_RELEASE:
        for line in (host.text(path) or "").splitlines():
            key, _, value = line.partition("=")
            values.setdefault(key, value.strip().strip('"'))
    name = values.get("ID", "debian")
    return Distro(name, values.get("VERSION_ID"), DEFAULT_USERS.get(name, DEFAULT_USERS["debian"]))
