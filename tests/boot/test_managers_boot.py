"""Configuration management in a container, with Debian's own ansible-core, puppet-agent and git."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from boot.bed import Imds, KeyPair, Scratch, Tree, Trees, run
from boot.worlds import World, baked, world

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.container
PLAY = """- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {content: "played\\n", dest: /var/tmp/played, mode: "0640"}
"""
USER_DATA = """#cloud-config
fqdn: Web.example.com
puppet:
  start_service: false
  conf: {agent: {server: puppet.example.com, certname: "%i.%f"}}
  exec: true
  exec_args: [--version]
ansible:
  run_user: debian
  pull: [{url: "file:///srv/play", playbook_names: [site.yml], checkout: main, full: true}]
"""


@pytest.fixture(scope="module")
def tree(trees: Trees, session_scratch: Scratch) -> Iterator[Tree]:
    yield from baked(trees.get("trixie", extra=("ansible-core", "git", "puppet-agent")), session_scratch)


@pytest.fixture
def machine(tree: Tree, scratch: Scratch) -> Iterator[World]:
    yield from world(tree, scratch)


def repository(path: str) -> None:
    """Make a git repository with the play in it."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        who = ["-c", "user.name=Owner", "-c", "user.email=owner@example.com"]
        return run(["git", *who, "-C", path, *words])

    os.makedirs(path)
    with open(f"{path}/site.yml", "w", encoding="ascii") as file:
        file.write(PLAY)
    git("init", "--quiet", "--initial-branch=main")
    git("add", "site.yml")
    git("commit", "--quiet", "-m", "play")


def test_plays_and_settings(machine: World, key_pair: KeyPair) -> None:
    repository(f"{machine.box.root}/srv/play")
    # The repository is root's, and git asks whoever reads it to say that this is meant.
    with open(f"{machine.box.root}/etc/gitconfig", "w", encoding="ascii") as file:
        file.write("[safe]\n\tdirectory = *\n")
    instance = "i-0aaaaaaaaaaaaaaa1"
    words = ["--ssh-key", key_pair.public, "--instance-id", instance]
    with Imds(machine.link.cloud, machine.scratch, *words, user_data=USER_DATA.encode()):
        machine.box.boot()
        time.sleep(0.5)
        machine.connect()
        inside = machine.inside
        status = inside.status()
        assert status["status"] == "done", f"{status['errors']} {inside('cat /var/log/cloudboot-output.log')}"
        assert inside("stat -c '%U %a' /var/tmp/played") == "debian 640"
        assert inside("puppet config print server --section agent") == "puppet.example.com"
        assert inside("puppet config print certname --section agent") == f"{instance}.web.example.com"
        assert inside("ls /etc/puppet/puppet.conf.old")

        records = len(inside.audit())
        for name in ("puppet", "ansible"):
            inside(f"cloudboot single --module {name}")
        changed = [record["change"] for record in inside.audit()[records:] if "change" in record]
        assert changed == []
