"""The main job on a built-in metadata service and a scratch root: nothing on this machine changes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile

from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.boot import Boot
    from cloudboot.host import Host

USER_DATA = """#cloud-config
hostname: demo
timezone: Europe/Berlin
ssh_authorized_keys:
  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH5Y0h7PZ1m5m5nqHq0Zk3wYb0bWc2eTq2W9x1bq9N0w owner@example
write_files:
  - {path: /etc/motd, content: "Configured by cloudboot.\\n"}
mounts:
  - [tmpfs, /scratch, tmpfs]
packages: [nginx]
runcmd:
  - cd /tmp
  - [echo, "first boot of", demo]
frequency: {mounts: always}
"""
TREE = {
    "/bin/bash": "",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndebian:x:1000:1000:Debian:/home/debian:/bin/bash\n",
    "/etc/group": "root:x:0:\nadm:x:4:\nsudo:x:27:\ndebian:x:1000:\n",
    "/etc/shadow": "root:*:19000:0:99999:7:::\ndebian:!:19000:0:99999:7:::\n",
    "/etc/os-release": 'ID=debian\nVERSION_ID="13"\n',
    "/etc/fstab": "# a line of somebody else's\nLABEL=rootfs / ext4 defaults 0 1\n",
    "/etc/hostname": "image\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n",
    "/usr/share/zoneinfo/Europe/Berlin": "TZif\n",
}


def run(keep: str | None) -> int:
    """Run the demo and print what happened; `keep` names the scratch root. Returns the exit status."""
    from cloudboot.boot import Boot
    from cloudboot.cli import STAGES, open_host
    from cloudboot.imds import simulator
    from cloudboot.module import Stage

    scratch = keep or tempfile.mkdtemp(prefix="cloudboot-demo-")
    if keep and os.path.exists(f"{scratch}/etc"):
        shutil.rmtree(scratch)  # an earlier demo's
    for path, text in TREE.items():
        os.makedirs(os.path.dirname(scratch + path), exist_ok=True)
        with open(scratch + path, "w", encoding="utf-8") as file:
            file.write(text)
    for home in ("root", "home/debian"):
        os.makedirs(f"{scratch}/{home}", exist_ok=True)
    options = simulator.Options(user_data=USER_DATA.encode())
    with simulator.serve(options) as service:
        address, port = service.listening[0]
        os.makedirs(f"{scratch}/etc/cloudboot", exist_ok=True)
        with open(f"{scratch}/etc/cloudboot/cloudboot.yaml", "w", encoding="utf-8") as file:
            file.write(f"datasource_list: [Ec2]\ndatasource: {{Ec2: {{metadata_urls: ['http://{address}:{port}']}}}}\n")
            file.write("default_user: {name: debian, groups: [adm, sudo], sudo: ['ALL=(ALL) NOPASSWD:ALL']}\n")
        host = open_host(scratch, echo=False)
        boot = Boot(host)
        well = boot.run([Stage(name) for name in STAGES])
        requests, connections = len(service.log), service.connections
    _report(host, boot, scratch, requests, connections)
    return 0 if well else 1


def _report(host: Host, boot: Boot, scratch: str, requests: int, connections: int) -> None:
    values = boot.status.values
    crawled = host.tree("/run/ec2")
    print(f"1. Crawled {len(crawled)} files with {requests} requests on {connections} connections:")
    for name in ("instance-id", "instance-type", "local-hostname", "placement/availability-zone"):
        print(f"     meta-data/{name}: {crawled.get(f'meta-data/{name}', b'').decode()}")
    print(f"   instance {values['instance']} is {values['kind']}; cached for root alone: {scratch}/run/ec2")
    print("2. Locked down (as it would be; a scratch root has no firewall):")
    from cloudboot import firewall, lockdown

    problems: list[str] = []
    policy = lockdown.policy({}, host, problems)
    for line in firewall.render_nft(policy).splitlines():
        if "reject" in line or "skuid" in line:
            print(f"     {line.strip()}")
    print("3. Changed, module by module (+ done, . recorded only: it needs a live machine or root):")
    current = ""
    for record in _audit(host):
        kind = next(key for key in ("change", "recorded", "command", "ask") if key in record)
        if kind == "ask":
            continue
        module = record["in"].partition("/")[2] or "lock-down"
        if module != current:
            current = module
            facts = values["modules"].get(module, {})
            print(f"   {module} ({facts['frequency']}): {facts['state']}" if facts else f"   {module}")
        mark = "+" if kind == "change" else "."
        print(f"     {mark} {record[kind]}")
    skipped = [name for name, facts in values["modules"].items() if facts["state"] == "skipped"]
    print(f"   not run: {', '.join(skipped)}")
    for text in [*values["errors"], *values["recoverable"]]:
        print(f"   ! {text}")
    print("4. Where to look:")
    program = os.path.relpath(sys.argv[0])
    print(f"     {program} status --long --root {scratch}")
    print(f"     {program} why mounts --root {scratch}")
    print(f"     {scratch}/var/log/cloudboot.log")
    print(f"     {scratch}/var/lib/cloudboot/audit.jsonl (every change)")


def _audit(host: Host) -> list[dict[str, str]]:
    text = host.text("/var/lib/cloudboot/audit.jsonl") or ""
    return [json.loads(line) for line in text.splitlines()]
