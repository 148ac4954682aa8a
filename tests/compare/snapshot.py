"""Boot a user data under one of the two agents, and say what became of the machine."""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import yaml

from bench.measure import OPTIONS
from bench.variants import CLOUD_INIT, CLOUD_INIT_SETTINGS, CLOUDBOOT, prepare, write
from boot.bed import BedError, Container, Imds, KeyPair, Link, Scratch, Trees
from cloudboot import bake
from cloudboot.cli import open_host

if TYPE_CHECKING:
    from boot.bed import Tree

    Snapshot = dict[str, dict[str, str]]

AGENTS = (CLOUD_INIT, CLOUDBOOT)
INSTANCE = "i-0dddddddddddddd01"
PROBE = os.path.join(os.path.dirname(__file__), "probe.py")
WAIT = {
    CLOUD_INIT: ["cloud-init", "status", "--wait", "--long"],
    CLOUDBOOT: ["cloudboot", "status", "--wait", "--long"],
}
# What no two boots have in common, what the agents keep for themselves, and what the probe reads by its meaning.
NOT_COMPARED = re.compile(
    r"""/(run|proc|sys|dev|tmp)/.*|/var/(log|cache|backups)/.*|/var/tmp/(cloud-init|systemd-private.*)(/.*)?
    |/var/lib/(cloud|cloudboot|systemd|dpkg|apt|dbus|chrony|private|ucf|polkit-1|logrotate|NetworkManager|sudo)/.*
    |/etc/(cloud|cloudboot)/.*|/etc/(machine-id|ld\.so\.cache|\.updated|\.pwd\.lock)|/var/\.updated
    |/etc/(passwd|shadow|group|gshadow|subuid|subgid)-?|/etc/(fstab|hostname|hosts|timezone|localtime|sudoers)
    |/etc/sudoers\.d/.*|/etc/ssh/.*|.*/\.ssh/.*|/etc/default/(locale|keyboard)|/etc/locale\.gen
    |/etc/locale\.conf|/usr/lib/locale/.*|.*/__pycache__/.*
    |/etc/apt/(sources\.list.*|apt\.conf.*|preferences.*|trusted\.gpg\.d.*|keyrings.*)
    |/etc/systemd/system/.*\.wants/.*|/etc/systemd/system/(ctrl-alt-del|dbus-org).*|/usr/share/perl.*|/etc/ssl/certs/.*""",
    re.VERBOSE,
)
INCLUDED = "#cloud-config\nhostname: included\nruncmd: [touch /var/tmp/included]\n"
COMMENTS = ("#", ";", "//")


class Agents:
    """The two trees, made from one: `with Agents("trixie") as agents: agents.boot(CLOUDBOOT, text)`."""

    def __init__(self, suite: str = "trixie") -> None:
        self.suite = suite
        self.trees: dict[str, Tree] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            trees = stack.enter_context(Trees())
            self.scratch = stack.enter_context(Scratch())
            self.key = KeyPair.create(self.scratch.file("id_ed25519"))
            common = stack.enter_context(trees.get(self.suite, extra=("cloud-init", "gnupg")).overlay(self.scratch))
            prepare(common.path, self.scratch)
            write(f"{common.path}/usr/share/compare/included.yaml", INCLUDED)
            for name in os.listdir(f"{common.path}/etc/ssh"):
                if name.startswith("ssh_host_"):
                    os.unlink(f"{common.path}/etc/ssh/{name}")
            for name in AGENTS:
                view = stack.enter_context(common.tree().overlay(self.scratch))
                host = open_host(view.path, echo=False, keep_log=False)
                if name == CLOUDBOOT:
                    # The account that Debian's package names, which differs from release to release.
                    user = json.dumps(
                        yaml.safe_load(host.text("/etc/cloud/cloud.cfg") or "")["system_info"]["default_user"]
                    )
                    write(f"{view.path}/etc/cloudboot/conf.d/50-compare.yaml", f"default_user: {user}\n")
                    bake.bake(host, datasource="Ec2")
                else:
                    bake.keep_disabled(host)  # what systemd enables at a first boot is not what is compared
                    write(f"{view.path}/etc/cloud/cloud.cfg.d/99-compare.cfg", CLOUD_INIT_SETTINGS)
                self.trees[name] = view.tree()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def boot(self, agent: str, user_data: bytes) -> Snapshot:
        """Boot a new instance with this user data and return what it is when all is over."""
        words = ["--ssh-key", self.key.public, "--v1", "--hop-limit", "64", "--instance-id", INSTANCE]
        with (
            Link() as link,
            self.trees[agent].overlay(self.scratch) as disk,
            Imds(link.cloud, self.scratch, *words, user_data=user_data),
            Container(disk.path, link.guest, self.scratch, options=OPTIONS) as box,
        ):
            link.connect_v4()
            box.boot()
            box.wait_settled(180)
            box.exec(WAIT[agent], check=False, timeout=180)
            with open(PROBE, encoding="utf-8") as file:
                probe = file.read()
            answer = box.exec(["python3", "-"], stdin=probe, check=False, timeout=60)
            if answer.returncode:
                raise BedError(f"{agent}: the probe failed: {answer.stderr[-500:]}")
            found: Snapshot = json.loads(answer.stdout)
            box.poweroff()
            found["files"] = files(f"{os.path.dirname(disk.path)}/upper", disk.path)
            return found


def files(upper: str, root: str) -> dict[str, str]:
    """Return what a boot left in the upper layer of `root`: kind, mode, owner and what a file says, comments aside."""
    found = {}
    users, groups = (_names(f"{root}/etc/{name}") for name in ("passwd", "group"))
    for folder, folders, names in os.walk(upper):
        for name in (*folders, *names):
            path = f"{folder}/{name}"
            guest = path.removeprefix(upper)
            if NOT_COMPARED.fullmatch(guest):
                continue
            state = os.lstat(path)
            if stat.S_ISDIR(state.st_mode):
                continue  # of directories only what is in them
            owner = f"{users.get(state.st_uid, state.st_uid)}:{groups.get(state.st_gid, state.st_gid)}"
            about = f"{state.st_mode & 0o7777:o} {owner}"
            if stat.S_ISLNK(state.st_mode):
                found[guest] = f"-> {os.readlink(path)}"
            elif stat.S_ISCHR(state.st_mode) and state.st_rdev == 0:
                found[guest] = "removed"
            elif stat.S_ISREG(state.st_mode):
                with open(path, "rb") as file:
                    found[guest] = f"{about} {said(file.read())}"
    return found


def _names(path: str) -> dict[int, str]:
    """Return the names of numbers, of a passwd or group file."""
    with open(path, encoding="utf-8") as file:
        lines = [line.split(":") for line in file.read().splitlines() if line.count(":") >= 3]
    return {int(words[2]): words[0] for words in lines}


def said(content: bytes) -> str:
    """Return the lines of a text that mean something; of other contents the bytes."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return repr(content)
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line and not line.lstrip().startswith(COMMENTS))
