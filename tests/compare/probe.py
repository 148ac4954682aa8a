"""What a machine is, by meaning: printed as JSON by the machine's own python3, as root, after the boot.

Each aspect is a mapping of names to values that two machines are compared by.
"""

from __future__ import annotations

import glob
import grp
import json
import os
import pwd
import re
import subprocess


def ask(*argv: str) -> str:
    ran = subprocess.run(
        argv, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    return ran.stdout if ran.returncode == 0 else f"exit {ran.returncode}"


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def meant(text: str) -> list[str]:
    """Return the lines that are neither blank nor comments."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", ";", "//"))]


def password(field: str) -> str:
    """Return the kind of a password: what it is hashed with, whether it is locked, or that there is none."""
    locked, rest = field.startswith("!"), field.lstrip("!")
    kind = (
        "empty" if rest == "" else "none" if rest == "*" else rest[: rest.find("$", 1) + 1] if "$" in rest else "other"
    )
    return f"locked, {kind}" if locked else kind


def shadow() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in read("/etc/shadow").splitlines():
        name, field, changed, *rest = line.split(":")
        found[name] = f"{password(field)}, {'must change' if changed == '0' else 'stays'}, {':'.join(rest)}"
    return found


def number(value: int) -> str:
    """Return an id that somebody has chosen; those that useradd takes in order say nothing."""
    return "taken in order" if 1000 <= value < 1100 or 100 <= value < 1000 else str(value)


def users() -> dict[str, str]:
    names = {each.gr_gid: each.gr_name for each in grp.getgrall()}
    return {
        each.pw_name: f"{number(each.pw_uid)}:{names.get(each.pw_gid)}:{each.pw_gecos}:{each.pw_dir}:{each.pw_shell}"
        for each in pwd.getpwall()
    }


def groups() -> dict[str, str]:
    return {each.gr_name: f"{number(each.gr_gid)}: {', '.join(sorted(each.gr_mem))}" for each in grp.getgrall()}


def sudo() -> dict[str, str]:
    lines = [line for path in ["/etc/sudoers", *sorted(glob.glob("/etc/sudoers.d/*"))] for line in meant(read(path))]
    return dict.fromkeys(lines, "there")


def keys() -> dict[str, str]:
    found: dict[str, str] = {}
    for each in pwd.getpwall():
        path = f"{each.pw_dir}/.ssh/authorized_keys"
        for line in meant(read(path)):
            state = os.stat(path)
            found[f"{each.pw_name}: {line}"] = f"{state.st_mode & 0o777:o} {pwd.getpwuid(state.st_uid).pw_name}"
    return found


def sshd() -> dict[str, str]:
    lines = ask("/usr/sbin/sshd", "-T").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        found[key] = ", ".join(sorted([*found.get(key, "").split(", "), value])).removeprefix(", ")
    return found


def host_keys() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(glob.glob("/etc/ssh/ssh_host_*")):
        state = os.stat(path)
        found[os.path.basename(path)] = f"{state.st_mode & 0o777:o}"
    return found


def fstab() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in meant(read("/etc/fstab")):
        words = [*line.split(), "", "", "", ""][:6]
        words[3] = ",".join(sorted(words[3].split(",")))
        found[f"{words[0]} {words[1]}"] = " ".join(words[2:])
    return found


def mounts() -> dict[str, str]:
    tree = json.loads(ask("findmnt", "--json", "--list", "-o", "TARGET,SOURCE,FSTYPE") or "{}")
    kinds = ("ext4", "xfs", "tmpfs", "btrfs")
    places = ("/srv", "/mnt", "/opt", "/data", "/var/lib/app")
    return {
        each["target"]: f"{each['source']} {each['fstype']}"
        for each in tree.get("filesystems", [])
        if each["fstype"] in kinds and each["target"].startswith(places)
    }


def apt() -> dict[str, str]:
    form = "$(MetaKey) $(REPO_URI) $(RELEASE) $(COMPONENT) $(ARCHITECTURE) $(SIGNED_BY)"
    found = {" ".join(line.split()): "index" for line in ask("apt-get", "indextargets", "--format", form).splitlines()}
    found |= {" ".join(line.split()): "setting" for line in ask("apt-config", "dump").splitlines()}
    for path in glob.glob("/etc/apt/preferences.d/*") + ["/etc/apt/preferences"]:
        found |= {f"{path}: {line}": "preference" for line in meant(read(path))}
    for path in glob.glob("/etc/apt/trusted.gpg.d/*") + glob.glob("/etc/apt/keyrings/*"):
        found[path] = "key"
    return {name: kind for name, kind in found.items() if not name.startswith(("CommandLine", "Binary::", "Dir::Bin"))}


def debconf() -> dict[str, str]:
    questions = ("keyboard-configuration/layoutcode", "tzdata/Areas", "tzdata/Zones/Europe", "postfix/mailname")
    shown = ask("debconf-show", "keyboard-configuration", "tzdata", "postfix")
    return {name: line.strip() for line in shown.splitlines() for name in questions if name in line}


def packages() -> dict[str, str]:
    lines = ask("dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev} ${Version}\n").splitlines()
    return {line.split()[0]: line.partition(" ")[2] for line in lines if line}


def units() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in ask("systemctl", "list-unit-files", "--no-legend", "--plain", "--no-pager").splitlines():
        name, state, *_ = line.split()
        if state in ("enabled", "masked", "disabled"):
            found[name] = state
    for line in ask("systemctl", "list-units", "--failed", "--no-legend", "--plain", "--no-pager").splitlines():
        found[line.split()[0]] = "failed"
    return found


def names() -> dict[str, str]:
    found = {"hostname": ask("hostname").strip(), "/etc/hostname": read("/etc/hostname").strip()}
    found["localtime"] = os.path.realpath("/etc/localtime")
    found["date"] = ask("date", "+%Z").strip()
    found["/etc/timezone"] = read("/etc/timezone").strip()
    found |= {f"hosts: {line}": "there" for line in meant(read("/etc/hosts"))}
    found |= {f"locale: {line}": "there" for line in meant(read("/etc/default/locale"))}
    found |= {f"locale.gen: {line}": "there" for line in meant(read("/etc/locale.gen"))}
    lines = sorted(meant(read("/etc/default/keyboard").replace('"', "")))
    found |= {f"keyboard: {line}": "there" for line in lines}
    return found


def ntp() -> dict[str, str]:
    """Return the sources of time, whatever else stands in a client's configuration."""
    paths = ("/etc/chrony/chrony.conf", "/etc/ntpsec/ntp.conf", "/etc/systemd/timesyncd.conf.d/cloud-init.conf")
    words = ("server", "pool", "peer", "allow", "NTP", "FallbackNTP", "[Time]")
    return {f"{path}: {line}": "there" for path in paths for line in meant(read(path)) if line.startswith(words)}


def processes() -> dict[str, str]:
    """Return what the owner's commands left running."""
    found: dict[str, str] = {}
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        line = read(path).replace("\0", " ").strip()
        if re.match(r"(/bin/)?sleep \d{4,}", line):
            found[line] = "runs"
    return found


ASPECTS = (
    users,
    groups,
    shadow,
    sudo,
    keys,
    sshd,
    host_keys,
    fstab,
    mounts,
    apt,
    debconf,
    packages,
    units,
    names,
    ntp,
    processes,
)

if __name__ == "__main__":
    print(json.dumps({aspect.__name__: aspect() for aspect in ASPECTS}))
