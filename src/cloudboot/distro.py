"""Facts about distributions, as a table."""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cloudboot.host import Host

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


class Apt(NamedTuple):
    """Where packages come from. primary, security: mirrors; path: the file of sources, `.sources` for deb822.

    ports: the mirror for all architectures that are not among `architectures`.
    """

    primary: str
    security: str
    components: str
    keyring: str
    kinds: str  # "deb", or "deb deb-src"
    path: str
    preserve: bool  # whether the image's own sources stay unless the owner says otherwise
    regional: str = ""  # the mirror of an EC2 region
    architectures: tuple[str, ...] = ()
    ports: str = ""
    ports_regional: str = ""

    def of(self, architecture: str) -> Apt:
        """Return the facts for an architecture of dpkg's."""
        if not self.ports or architecture in self.architectures:
            return self
        return self._replace(primary=self.ports, security=self.ports, regional=self.ports_regional)


class Distro(NamedTuple):
    """What differs between distributions. name: `ID` of os-release; version: `VERSION_ID`, None on testing."""

    name: str
    version: str | None
    default_user: dict[str, Any]
    codename: str
    apt: Apt


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


LEGACY = "/etc/apt/sources.list"
DEBIAN = Apt(
    "https://deb.debian.org/debian",
    "https://deb.debian.org/debian-security",
    "main",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "deb deb-src",
    "/etc/apt/sources.list.d/debian.sources",
    preserve=True,
)
UBUNTU = Apt(
    "http://archive.ubuntu.com/ubuntu",
    "http://security.ubuntu.com/ubuntu",
    "main universe restricted multiverse",
    "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
    "deb",
    "/etc/apt/sources.list.d/ubuntu.sources",
    preserve=False,
    regional="http://{region}.ec2.archive.ubuntu.com/ubuntu",
    architectures=("amd64", "i386", "arm64"),
    ports="http://ports.ubuntu.com/ubuntu-ports",
    ports_regional="http://{region}.ec2.ports.ubuntu.com/ubuntu-ports",
)
WITHOUT_ARM = ("amd64", "i386")  # archive.ubuntu.com has had arm64 since 25.10 (cloud-init issue 6825)
# By name and version: codename, and how apt is set up. The first of a name is for its versions that are not listed.
RELEASES: dict[str, dict[str, tuple[str, Apt]]] = {
    "debian": {
        "13": ("trixie", DEBIAN),
        "12": ("bookworm", DEBIAN._replace(path=LEGACY)),
    },
    "ubuntu": {
        "26.04": ("resolute", UBUNTU),
        "24.04": ("noble", UBUNTU._replace(architectures=WITHOUT_ARM)),
        "22.04": ("jammy", UBUNTU._replace(path=LEGACY, architectures=WITHOUT_ARM)),
    },
}


def read(host: Host) -> Distro:
    """Return the facts about the tree's distribution, from os-release; an unknown one is taken for Debian-like."""
    values: dict[str, str] = {}
    for path in OS_RELEASE:
        for line in (host.text(path) or "").splitlines():
            key, _, value = line.partition("=")
            values.setdefault(key, value.strip().strip('"'))
    name, version = values.get("ID", "debian"), values.get("VERSION_ID")
    known = RELEASES.get(name, RELEASES["debian"])
    codename, apt = known.get(version or "", next(iter(known.values())))
    named = values.get("VERSION_CODENAME") or values.get("DEBIAN_CODENAME") or codename
    return Distro(name, version, DEFAULT_USERS.get(name, DEFAULT_USERS["debian"]), named, apt)
