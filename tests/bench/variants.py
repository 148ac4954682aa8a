"""Three trees that differ in the agent alone: none, Debian's cloud-init, cloudboot; and what their owners ask for."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from boot.bed import KeyPair, Repository, Scratch, Tree, Trees, run
from cloudboot import bake
from cloudboot.cli import open_host

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_AGENT, CLOUD_INIT, CLOUDBOOT, CLOUDBOOT_NO_ID = "no agent", "cloud-init", "cloudboot", "cloudboot (no id)"
VARIANTS = (NO_AGENT, CLOUD_INIT, CLOUDBOOT, CLOUDBOOT_NO_ID)
"""The last is cloudboot's tree on hardware that does not name the instance: Xen, UEC, a container."""

UNITS = {
    NO_AGENT: (),
    CLOUD_INIT: ("cloud-init*.service", "cloud-config.service", "cloud-final.service"),
    CLOUDBOOT: ("cloudboot*.service",),
    CLOUDBOOT_NO_ID: ("cloudboot*.service",),
}
"""The agents' units, as patterns for `systemctl show`."""

LAUNCHERS = {CLOUD_INIT: "usr/bin/cloud-init", CLOUDBOOT: "usr/bin/cloudboot"}
NOTES = "run/bench-notes"

# Both agents' programs are Python scripts: the same lines in both write down, when the process ends, what it took.
HOOK = f"""import atexit, os, sys, time

_pid, _exit = os.getpid(), os._exit


def _note():
    if os.getpid() == _pid:
        with open("/proc/self/status") as status:
            peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
        with open("/{NOTES}", "a") as notes:
            notes.write(f"{{peak}} {{time.process_time():.4f}} {{' '.join(sys.argv)}}\\n")


def _exit_at_once(status):
    _note()
    _exit(status)


os._exit = _exit_at_once
atexit.register(_note)
"""

# Host keys are in the tree already and stay: their generation takes up to a second, by chance, whoever asks for it.
KEEP_KEYS = "ssh_deletekeys: false\n"

# A container shows no platform and has no udevd: neither may cost a warning or a failed module.
CLOUD_INIT_SETTINGS = """datasource_list: [Ec2]
datasource: {Ec2: {strict_id: false}}
network: {config: disabled}
updates: {network: {when: [boot-new-instance]}}
"""

# What would run by the clock, in some boots and not in others, or wait for a time server.
CHANCE = """apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer logrotate.timer
man-db.timer systemd-tmpfiles-clean.timer chrony.service chrony-wait.service e2scrub_reap.service
systemd-networkd-wait-online.service""".split()

DEFAULT = ""


def web(key: str) -> str:
    """Return a typical web server's user data; `key` is the public key of its people."""
    return f"""#cloud-config
hostname: web
fqdn: web.example.com
timezone: Europe/Berlin
users:
  - default
  - name: deploy
    gecos: Deployment
    groups: [users, www-data]
    shell: /bin/bash
    sudo: "ALL=(ALL) NOPASSWD:ALL"
    ssh_authorized_keys: ["{key}"]
  - name: operator1
    groups: [adm]
    shell: /bin/bash
    ssh_authorized_keys: ["{key}"]
write_files:
  - path: /etc/app/app.conf
    permissions: "0640"
    owner: root:adm
    content: |
      listen = 8080
      workers = 4
  - path: /etc/app/site.conf
    content: |
      server_name = web.example.com
      root = /srv/www
  - path: /usr/local/bin/app-health
    permissions: "0755"
    content: |
      #!/bin/sh
      exec test -e /srv/www/index.html
  - path: /etc/sysctl.d/60-app.conf
    encoding: b64
    content: bmV0LmNvcmUuc29tYXhjb25uID0gMTAyNAo=
packages: [cloudboot-hello]
runcmd:
  - mkdir -p /srv/www
  - echo ready > /srv/www/index.html
  - [chown, -R, www-data, /srv/www]
  - [sh, -c, "app-health && echo healthy > /srv/www/health"]
  - cloudboot-hello > /srv/www/hello
"""


class Fleet:
    """The variants' trees, made from one: `with Fleet() as fleet: fleet.trees[CLOUDBOOT]`."""

    def __init__(self) -> None:
        self.trees: dict[str, Tree] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            trees = stack.enter_context(Trees())
            self.scratch = stack.enter_context(Scratch())
            self.key = KeyPair.create(self.scratch.file("id_ed25519"))
            common = stack.enter_context(trees.get("trixie", extra=("cloud-init",)).overlay(self.scratch))
            run(["ssh-keygen", "-A", "-f", common.path], timeout=120)
            prepare(common.path, self.scratch)
            for name in (NO_AGENT, CLOUD_INIT, CLOUDBOOT):
                view = stack.enter_context(common.tree().overlay(self.scratch))
                _variant(name, view.path, f"{common.path}/etc/ssh")
                self.trees[name] = view.tree()
            self.trees[CLOUDBOOT_NO_ID] = self.trees[CLOUDBOOT]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def prepare(root: str, scratch: Scratch) -> None:
    """Make what all variants of a tree have: a machine-id, a local package source, no network of their own."""
    # A published image is told apart from a booted one by this word, and its first boot applies presets; ours has it by
    # baking, so have it all.
    write(f"{root}/etc/machine-id", "uninitialized\n")
    # The wire has its addresses before the boot: nobody waits for them, and what is measured is the agent.
    write(f"{root}/etc/systemd/network/10-wire.network", "[Match]\nName=host0\n\n[Link]\nUnmanaged=yes\n")
    # Without a name server, look-ups are to fail at once, as they do where there is one: cloud-init makes three.
    write(f"{root}/etc/systemd/resolved.conf.d/bench.conf", "[Resolve]\nLLMNR=no\nMulticastDNS=no\n")
    Repository(scratch).install(root)
    for unit in CHANCE:
        os.symlink("/dev/null", f"{root}/etc/systemd/system/{unit}")


def _variant(name: str, root: str, keys: str) -> None:
    if name == CLOUDBOOT:
        bake.bake(open_host(root, echo=False, keep_log=False), datasource="Ec2")
        write(f"{root}/etc/cloudboot/conf.d/50-bench.yaml", KEEP_KEYS)
        # Baking removes them, as no two machines may share them.
        for file in os.listdir(keys):
            if file.startswith("ssh_host_"):
                run(["cp", "-a", f"{keys}/{file}", f"{root}/etc/ssh/{file}"])
    elif name == CLOUD_INIT:
        write(f"{root}/etc/cloud/cloud.cfg.d/99-bench.cfg", CLOUD_INIT_SETTINGS + KEEP_KEYS)
    else:
        write(f"{root}/etc/cloud/cloud-init.disabled", "")
    if name in LAUNCHERS:
        _hook(f"{root}/{LAUNCHERS[name]}")


def _hook(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        first, rest = file.readline(), file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(first + HOOK + rest)


def write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def user_data(key: str) -> Iterator[tuple[str, str]]:
    """Yield the user data that are measured, with their names."""
    yield "default", DEFAULT
    yield "web", web(key)
