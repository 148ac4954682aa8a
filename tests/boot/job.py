"""The main job as an owner sees it: one user data, and what must be true of the machine afterwards."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Ask = Callable[[str], subprocess.CompletedProcess[str]]

PASSWORD = "correct horse battery staple"

USER_DATA = f"""#cloud-config
hostname: web
fqdn: web.example.com
timezone: Europe/Berlin
ssh_pwauth: true
users:
  - default
  - name: alice
    gecos: Alice
    groups: [sudo, users]
    shell: /bin/bash
    lock_passwd: false
    plain_text_passwd: {PASSWORD}
write_files:
  - path: /etc/app/app.conf
    permissions: "0640"
    owner: root:adm
    content: |
      answer = 42
mounts:
  - [tmpfs, /srv/cache, tmpfs, "size=4m,mode=0750"]
packages: [cloudboot-hello, no-such-package-at-all]
runcmd:
  - cd /srv/cache
  - WHO=runcmd
  - echo "$WHO in $PWD" > /var/tmp/where
  - [sh, -c, "exit 3"]
  - sleep 1000 & echo $! > /var/tmp/daemon
  - echo last >> /var/tmp/runs
"""


class Inside:
    """Questions to a booted machine through `ask`, which runs a shell line as root in it."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    def __call__(self, line: str) -> str:
        """Run a shell line; fail with its output if it fails."""
        answer = self.ask(line)
        assert answer.returncode == 0, f"{line}: {answer.returncode}: {answer.stdout}{answer.stderr}"
        return answer.stdout.strip()

    def status(self) -> dict[str, Any]:
        """Return `cloudboot status --wait` as a value; it must end."""
        answer = self.ask("cloudboot status --wait --timeout 200 --long --format json")
        assert answer.returncode in (0, 1, 2), answer.stdout + answer.stderr
        values: dict[str, Any] = json.loads(answer.stdout)
        return values

    def audit(self) -> list[dict[str, Any]]:
        """Return the audit, oldest first."""
        return [json.loads(line) for line in self("cat /var/lib/cloudboot/audit.jsonl").splitlines()]

    def ran(self, since: int = 0) -> set[str]:
        """Return the modules that changed something or ran a command, by the audit from record `since` on."""
        records = self.audit()[since:]
        return {record["in"].partition("/")[2] for record in records if "change" in record or "command" in record} - {
            ""
        }

    def host_keys(self) -> str:
        """Return the checksums of the host keys."""
        return self("cat /etc/ssh/ssh_host_*_key.pub | sort")


def check_first_boot(inside: Inside, status: dict[str, Any]) -> None:
    """All that USER_DATA asks for is there, and what could not be done is said."""
    modules = status["modules"]
    failed = {name for name, facts in modules.items() if facts["state"] == "failed"}
    assert failed == {"package_update_upgrade_install", "runcmd"}, json.dumps(status, indent=1)
    assert status["status"] == "error"
    assert any("no-such-package-at-all" in text for text in status["errors"]), status["errors"]
    assert "runcmd item 4: exit status 3" in status["errors"], status["errors"]
    items = {each["item"]: each["state"] for each in modules["runcmd"]["commands"]}
    assert items == {1: "done", 2: "done", 3: "done", 4: "failed", 5: "done", 6: "done"}

    assert inside("systemctl is-enabled ssh.socket || true") == "disabled"
    assert inside("hostname") == "web"
    assert inside("cat /etc/hostname") == "web"
    assert inside("readlink /etc/localtime") == "/usr/share/zoneinfo/Europe/Berlin"
    assert inside("cat /etc/app/app.conf") == "answer = 42"
    assert inside("stat -c '%a %U %G' /etc/app/app.conf") == "640 root adm"
    assert inside("findmnt -no FSTYPE,SIZE /srv/cache").split() == ["tmpfs", "4M"]
    assert inside("grep -c /srv/cache /etc/fstab") == "1"
    assert set(inside("id -Gn alice").split()) >= {"alice", "sudo", "users"}
    assert inside("getent shadow alice").split(":")[1].startswith("$y$")
    assert inside("sudo -n -u debian sudo -n id -un") == "root"
    assert inside("cloudboot-hello") == "hello from the package"
    assert inside("cat /var/tmp/where") == "runcmd in /srv/cache"
    assert inside("kill -0 $(cat /var/tmp/daemon) && echo alive") == "alive"
    assert inside("sshd -T | grep -i ^passwordauthentication") == "passwordauthentication yes"
    assert inside("stat -c '%a %U' /run/ec2 /run/ec2/user-data /run/ec2/metadata.json").split("\n") == [
        "700 root",
        "600 root",
        "600 root",
    ]
    everything = inside("cat /var/log/cloudboot.log /var/lib/cloudboot/audit.jsonl /run/cloudboot/*.json")
    assert PASSWORD not in everything
    assert "SecretAccessKey" not in inside("grep -rl SecretAccessKey /run/ec2 /var/lib/cloudboot || true")


def fingerprints(console: str) -> set[str]:
    """Return the fingerprints between AWS's markers on a console."""
    block = re.search(
        r"-----BEGIN SSH HOST KEY FINGERPRINTS-----(.*?)-----END SSH HOST KEY FINGERPRINTS-----", console, re.DOTALL
    )
    assert block, console[-3000:]
    return set(re.findall(r"SHA256:\S+", block.group(1)))
