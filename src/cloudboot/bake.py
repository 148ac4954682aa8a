"""Install the agent into an image tree: offline, repeatable, saying everything that it does."""

from __future__ import annotations

import json
import os
import re
import sys

from cloudboot import compat, distro, modules, root_volume, store
from cloudboot.compat import install, settings
from cloudboot.errors import CommandError, ImageError, UsageError
from cloudboot.process import spawn
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import argparse

    from cloudboot.host import Host

HOME = "/usr/lib/cloudboot"  # the package, the lock-down's rules, bundled dependencies
UNITS = "/usr/lib/systemd/system"
LAUNCHER = "/usr/bin/cloudboot"
ENABLED = "/etc/cloudboot/enabled"  # "this is our cloud", for images that no DMI marks
CONFIG = "/etc/cloudboot/cloudboot.yaml"
NETWORK = "/etc/systemd/network/80-cloudboot-dhcp.network"
RULES = "/usr/lib/udev/rules.d"
CONSUME = "/etc/cloudboot/conf.d/50-consume.yaml"
CONSUME_TEXT = """# Written by `cloudboot bake --consume`: volumes say what they are for. What they may is said here.
consume: true
"""
PRESETS = "/etc/systemd/system-preset/50-cloudboot.preset"
PRESETS_HEAD = "# Written by `cloudboot bake`: what was disabled in the image stays so on its first boot.\n"
COMPAT = "compat"  # our units by cloud-init's names
PYTHON = (3, 11)
# -I: no PYTHON* variables, no current directory; -S: no site (3 ms, and no .pth files of others).
LAUNCHER_TEXT = f"""#!/usr/bin/python3 -IS
import sys

if sys.argv[1:2] == ["boot"]:  # short and small: neither collecting nor tidying up pays
    import gc

    gc.disable()
sys.path.insert(0, "{HOME}")
sys.path += ["{HOME}/bundle", "/usr/lib/python3/dist-packages"]
from cloudboot.cli import main

status = main()
if sys.argv[1:2] == ["boot"]:
    import os

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(status)
"""
COMMAND_TEXT = f"""#!/usr/bin/python3 -IS
# cloudboot, by cloud-init's words.
import sys

sys.path.insert(0, "{HOME}")
sys.path += ["{HOME}/bundle", "/usr/lib/python3/dist-packages"]
from cloudboot.compat.command import main

sys.exit(main())
"""
NETWORK_TEXT = """# Written by `cloudboot bake`, because the image had no network configuration.
# No MAC address, no fixed name: it fits every instance. DHCPv4 and router advertisements, on every Ethernet interface.
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes
IPv6AcceptRA=yes
LinkLocalAddressing=ipv6

[DHCPv4]
UseDomains=yes
"""
# What runs need, and the Debian package that brings it.
MODULES = {
    "yaml": "python3-yaml",
    "requests": "python3-requests",
    "jinja2": "python3-jinja2",
    "jsonschema": "python3-jsonschema",
}
TOOLS = {
    "useradd": "passwd",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "growpart": "cloud-guest-utils",
    "resize2fs": "e2fsprogs",
    "sudo": "sudo",
}
REQUIREMENTS = ("PyYAML>=6", "requests>=2.28", "jinja2>=3.1", "jsonschema>=4.10")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--root", metavar="DIR", required=True, help="the image's tree")
    parser.add_argument(
        "--datasource",
        metavar="NAME",
        help="mark the image for this datasource (Ec2, NoCloud): needed where no DMI says so",
    )
    parser.add_argument(
        "--no-compat",
        dest="compat",
        action="store_false",
        help="leave out cloud-init's command, units and files, for what waits for it",
    )
    parser.add_argument(
        "--consume",
        action="store_true",
        help="let volumes say what they are for: `consume: true` in the image's configuration",
    )
    parser.add_argument(
        "--bundle", action="store_true", help="bring our own PyYAML, requests, jinja2, jsonschema (by pip)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Bake; return 0. Raises ImageError naming everything that is missing, before anything is changed."""
    from cloudboot.cli import open_host

    if os.path.realpath(arguments.root) == "/":
        raise UsageError("--root: is the running machine: bake works on an image tree")
    host = open_host(arguments.root, echo=False, keep_log=False)
    if not host.root.privileged:
        raise ImageError("bake: must be run as root: it compiles with the image's own python3 (chroot)")
    bake(
        host,
        datasource=arguments.datasource,
        bundle=arguments.bundle,
        by_their_names=arguments.compat,
        consume=arguments.consume,
    )
    for action in host.changes:
        print(action.text)
    print(f"{len(host.changes)} changes: {arguments.root} is baked")
    return 0


def bake(
    host: Host,
    *,
    datasource: str | None = None,
    bundle: bool = False,
    by_their_names: bool = True,
    consume: bool = False,
) -> None:
    """Install the agent into the tree behind `host` and enable it; a second time changes nothing.

    by_their_names: with cloud-init's command, units and files. consume: volumes say what they are for.

    Raises ImageError if the image lacks what the agent needs, CommandError if a tool in it fails.
    """
    host.log.context = "bake"
    _check(host, bundle=bundle)
    if datasource is not None:
        _check_datasource(datasource)
    changed = _install(host)
    if bundle:
        changed = _bundle(host) or changed
    if changed:
        _compile(host)
    _configure(host, datasource)
    if consume and not host.exists(CONSUME):
        host.write(CONSUME, CONSUME_TEXT)
    _enable(host, "")
    settings.take_over(host)
    folder = f"{units_folder()}/{COMPAT}"
    theirs = {name: _source(f"{folder}/{name}") for name in sorted(os.listdir(folder))}
    if install.install(host, theirs, COMMAND_TEXT, wanted=by_their_names):
        _enable(host, COMPAT)
    _network(host)
    keep_disabled(host)
    _anonymous(host)
    # The image's configuration is read once, here: the first boot then reads no YAML for it.
    image, _ = store.image(host)
    root_volume.bake(host, image.value, f"{units_folder()}/../initramfs")


def _check(host: Host, *, bundle: bool) -> None:
    missing = []
    version = _python_version(host)
    if version is None or version < PYTHON:
        missing.append(f"python3 (3.11 or newer{'' if version is None else f', has {version[0]}.{version[1]}'})")
    elif not bundle:
        packages = "/usr/lib/python3/dist-packages"
        missing += [package for name, package in MODULES.items() if not host.exists(f"{packages}/{name}/__init__.py")]
    if not host.exists("/usr/lib/systemd/systemd"):
        missing.append("systemd")
    missing += [package for tool, package in (("ip", "iproute2"), ("xargs", "findutils")) if host.which(tool) is None]
    if host.which("nft") is None and (
        host.which("iptables-restore") is None or host.which("ip6tables-restore") is None
    ):
        missing.append("nftables (or iptables)")
    if missing:
        hint = "" if bundle else ", or use --bundle for the python3-… ones"
        raise ImageError(f"the image lacks {', '.join(missing)}: install them in it{hint}")
    for tool, package in TOOLS.items():
        if host.which(tool) is None:
            host.log.info(f"the image has no {tool} ({package}): what needs it will say so")
            print(f"note: no {tool} in the image: install {package} if its users need it")


def _check_datasource(name: str) -> None:
    from cloudboot.datasources import ORDER

    if name not in ORDER:
        raise UsageError(f"--datasource: must be one of {', '.join(ORDER)}: {name!r}")


def _python_version(host: Host) -> tuple[int, int] | None:
    target = host.root.resolve("/usr/bin/python3")
    found = re.search(r"python(\d+)\.(\d+)$", target)
    return (int(found.group(1)), int(found.group(2))) if found and host.exists(target) else None


def _install(host: Host) -> bool:
    """Copy the package, the rules and the units; return whether a Python file changed."""
    changed = False
    package = os.path.dirname(__file__)
    wanted = set()
    for folder, folders, names in sorted(os.walk(package)):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        below = os.path.relpath(folder, os.path.dirname(package))
        for name in sorted(names):
            if name.endswith((".py", ".typed")):
                wanted.add(f"{HOME}/{below}/{name}")
                changed = host.write(f"{HOME}/{below}/{name}", _source(f"{folder}/{name}")) or changed
    index = f"{HOME}/cloudboot/modules/{modules.INDEX}"
    wanted.add(index)
    host.write(index, modules.index())
    schemas = f"{HOME}/cloudboot/modules/{modules.SCHEMAS}"
    wanted.add(schemas)
    host.write(schemas, json.dumps(modules.schemas(fresh=True)) + "\n")
    for stale in [f"{HOME}/cloudboot/{name}" for name in host.tree(f"{HOME}/cloudboot")]:
        if stale not in wanted and "__pycache__" not in stale:
            changed = host.remove(stale) or changed
    host.write(LAUNCHER, LAUNCHER_TEXT, mode=0o755)
    units = units_folder()
    for folder, folders, names in sorted(os.walk(units)):
        folders.sort()
        below = os.path.relpath(folder, units)
        for name in sorted(names) if below != COMPAT else ():
            target = f"{HOME}/{below}" if below.startswith("lockdown") else f"{UNITS}/{below}"
            target = RULES if below == "udev" else target
            host.write(os.path.normpath(f"{target}/{name}"), _source(f"{folder}/{name}"))
    return changed


def units_folder() -> str:
    """Return where our units are on the machine that bakes: a checkout, or an installation. Raises ImageError."""
    package = os.path.dirname(os.path.abspath(__file__))
    for place in (f"{package}/../../systemd", f"{sys.prefix}/share/cloudboot/systemd", f"{HOME}/systemd"):
        if os.path.exists(f"{place}/cloudboot.target"):
            return os.path.realpath(place)
    raise ImageError("our own systemd units are not installed beside the package: reinstall cloudboot")


def _source(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _bundle(host: Host) -> bool:
    version = _python_version(host)
    target = f"{HOME}/bundle"
    stamp = "\n".join([*REQUIREMENTS, str(version), ""])
    if host.text(f"{target}/requirements.txt") == stamp or version is None:
        return False
    host.do(PipInstall(target, version))
    host.write(f"{target}/requirements.txt", stamp)
    return True


class PipInstall(NamedTuple):
    """Our dependencies in a directory of the tree, for the tree's version of Python, by the builder's pip."""

    target: str
    version: tuple[int, int]

    @property
    def text(self) -> str:
        return f"pip install --target {self.target} {' '.join(REQUIREMENTS)}"

    @property
    def live_only(self) -> str | None:
        return None

    def done(self, host: Host) -> bool:
        return False

    def apply(self, host: Host) -> None:
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", "--upgrade"]
        argv += ["--python-version", f"{self.version[0]}.{self.version[1]}"]
        argv += ["--target", host.root.outside(self.target), *REQUIREMENTS]
        result = spawn(argv, env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
        if not result.ok:
            raise CommandError(argv, result.status, result.output)


def _compile(host: Host) -> None:
    # Hash-based and unchecked: the same bits in every bake, and no look at the source at every import.
    argv = ["python3", "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    host.run([*argv, f"{HOME}/cloudboot", *([f"{HOME}/bundle"] if host.exists(f"{HOME}/bundle") else [])])


def _configure(host: Host, datasource: str | None) -> None:
    facts = distro.read(host)
    user = facts.default_user
    if not host.exists(CONFIG):
        lines = ["# The image's configuration; files in conf.d/ go over it. See the documentation of each module."]
        lines += [f"datasource_list: [{datasource}]"] if datasource else []
        lines += ["default_user:"]
        lines += [f"  {key}: {_yaml(value)}" for key, value in user.items()]
        host.write(CONFIG, "\n".join(lines) + "\n")
    if datasource:
        host.write(ENABLED, f"{datasource}\n")
    host.mkdir("/var/lib/cloudboot", mode=0o755)
    if host.exists("/usr/bin/cloud-init") or host.exists("/etc/cloud/cloud.cfg"):
        host.write(compat.DISABLED, compat.BY_US)


def _yaml(value: object) -> str:
    return json.dumps(value)  # JSON is YAML


def _enable(host: Host, folder: str) -> None:
    """Enable the units of one of our folders, as their [Install] says."""
    for name in sorted(os.listdir(f"{units_folder()}/{folder}")):
        text = host.text(f"{UNITS}/{name}") if name.startswith("cloud") else None
        for line in (text or "").splitlines():
            key, _, value = line.partition("=")
            if key == "WantedBy":
                for target in value.split():
                    host.symlink(f"/etc/systemd/system/{target}.wants/{name}", f"{UNITS}/{name}")


def _network(host: Host) -> None:
    if _has_network(host):
        return
    host.write(NETWORK, NETWORK_TEXT)
    if not host.exists("/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"):
        host.run(["systemctl", "enable", "systemd-networkd.service"])
    resolved = host.exists(f"{UNITS}/systemd-resolved.service")
    if resolved and not host.exists("/etc/systemd/system/sysinit.target.wants/systemd-resolved.service"):
        host.run(["systemctl", "enable", "systemd-resolved.service"])


def keep_disabled(host: Host) -> None:
    """Keep disabled what the image has disabled.

    On the first boot of an `uninitialized` machine systemd enables everything that no preset disables (Debian has no
    rule of its own): ssh.socket beside ssh.service, and services that make the boot wait for time or network.
    """
    if host.exists(PRESETS):
        return
    answer = host.ask(["systemctl", "list-unit-files", "--state=disabled", "--no-legend", "--plain", "--no-pager"])
    # Standard error is in the answer too ("/proc/ is not mounted …"): only what is a unit's name counts.
    names = sorted(set(re.findall(r"^([\w@.:-]+\.[a-z]+) +disabled", answer.output, re.MULTILINE)))
    lines = [f"disable {name}\n" for name in names if not name.startswith("cloudboot")]
    if lines:
        host.write(PRESETS, PRESETS_HEAD + "".join(lines))


def _has_network(host: Host) -> bool:
    def names(folder: str, *ends: str) -> list[str]:
        return [name for name in host.listdir(folder) if name.endswith(ends)]

    if names("/etc/netplan", ".yaml") or names("/etc/NetworkManager/system-connections", ".nmconnection"):
        return True
    own = os.path.basename(NETWORK)
    if [name for name in names("/etc/systemd/network", ".network") if name != own]:
        return True
    if host.exists("/usr/sbin/NetworkManager"):
        return True
    text = host.text("/etc/network/interfaces") or ""
    parts = [host.text(f"/etc/network/interfaces.d/{name}") or "" for name in host.listdir("/etc/network/interfaces.d")]
    stanzas = re.findall(r"^\s*iface\s+(\S+)", "\n".join([text, *parts]), re.MULTILINE)
    return any(name != "lo" for name in stanzas)


def _anonymous(host: Host) -> None:
    """Remove what may not be the same on two machines."""
    for name in host.listdir("/etc/ssh"):
        if name.startswith("ssh_host_") and "key" in name:
            host.remove(f"/etc/ssh/{name}")
    # Not empty and not removed: `uninitialized` is what systemd fills in at the first boot, also on a read-only /etc.
    host.write("/etc/machine-id", "uninitialized\n", mode=0o444)
    if host.look("/var/lib/dbus/machine-id", follow=False) is not None:
        host.symlink("/var/lib/dbus/machine-id", "/etc/machine-id")
    host.remove("/var/lib/systemd/random-seed")
