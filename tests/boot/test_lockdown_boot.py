"""The lock-down on booted systems: nobody ever gets to the metadata service, whatever is done to the firewall."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from boot import probe, probes
from boot.bed import (
    IMDS_LINK_LOCAL,
    UNTOUCHED,
    Container,
    Imds,
    KeyPair,
    Link,
    Machine,
    Namespace,
    Scratch,
    Tree,
    root_image,
    run,
)
from boot.job import Inside
from boot.probes import PROGRAM, REPORTS, REWRITTEN, SHUT, STORM
from boot.worlds import OPTIONS, World
from cloudboot import bake
from cloudboot.cli import open_host

if TYPE_CHECKING:
    import subprocess

WIRE = f"""[Match]
Name=host0

[Network]
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
Address={Link.GUEST_V4}/24
Gateway={Link.ROUTER_V4}
Address={Link.GUEST_V6}/64
Gateway={Link.ROUTER_V6}
"""
USER_DATA = b"#cloud-config\nhostname: web\n"
BLOCKED = "blocked by our rule"


def neighbours(ns: Namespace, *addresses: str) -> None:
    """Answer on these addresses of a namespace as long as it is there."""
    said = f"/proc/{os.getpid()}/fd/1"
    ns.popen([sys.executable, probe.__file__, "serve", *addresses], said)


def asked(inside: Inside, user: str, kind: str, addresses: tuple[str, ...]) -> dict[str, Any]:
    """Let a user try each address once."""
    words = f"runuser -u {user} -- python3 -IS {PROGRAM} ask {kind} {' '.join(addresses)}"
    answers: dict[str, Any] = json.loads(inside(words))
    return answers


def lockdown(inside: Inside) -> tuple[int, dict[str, Any]]:
    """Return the exit code of `cloudboot lockdown status` and what it says."""
    answer = inside.ask("cloudboot lockdown status --format json")
    assert answer.stderr == ""
    report: dict[str, Any] = json.loads(answer.stdout)
    return answer.returncode, report


def states(report: dict[str, Any]) -> set[str]:
    return {each["state"] for each in report["addresses"]}


def storm(inside: Inside, pause: str) -> None:
    """Check what must be true of a booted guest with the probes in it, and shake its firewall."""
    killed = inside("systemctl show -p Result --value cloudboot-network.service")
    assert killed == "signal", inside("journalctl -b -u killer -u cloudboot-network")
    status = inside.status()
    assert status["status"] == "done", status
    assert "storm: over" in inside(f"{STORM} {pause}")
    for kind in ("tcp", "udp"):
        answers = asked(inside, "nobody", kind, UNTOUCHED)
        assert set(answers.values()) == {"connected"}, answers
    code, report = lockdown(inside)
    assert (code, states(report)) == (0, {BLOCKED}), report
    assert report["missing"] == []
    units = "/usr/lib/systemd/system/cloudboot*.service /usr/lib/systemd/system/cloudboot*.t*"
    assert inside(f"systemd-analyze verify --man=no {units} 2>&1 | grep -v '^$' || true") == ""
    assert inside("journalctl -b --no-pager | grep -i 'ordering cycle' || true") == ""


@pytest.mark.container
@pytest.mark.parametrize("suite", ["trixie", "bookworm", "trixie-without-nft"])
def test_nobody_gets_in(suite: str, scratch: Scratch, key_pair: KeyPair, request: pytest.FixtureRequest) -> None:
    suite, _, without_nft = suite.partition("-")
    tree: Tree = request.getfixturevalue(f"baked_{suite}")
    with Link(untouched=True) as link, tree.overlay(scratch) as disk:
        if without_nft:
            os.unlink(f"{disk.path}/usr/sbin/nft")
            os.unlink(f"{disk.path}/usr/lib/systemd/system/nftables.service")
            bake.bake(open_host(disk.path, echo=False, keep_log=False), datasource="Ec2")
        # The guest itself gives the wire its addresses, as early as a real one does.
        probes.write(f"{disk.path}/etc/systemd/network/10-wire.network", WIRE)
        run(["systemctl", f"--root={disk.path}", "enable", "systemd-networkd.service"])
        run(["systemctl", f"--root={disk.path}", "mask", "systemd-networkd-wait-online.service"])
        probes.install(disk.path)
        neighbours(link.cloud, f"{IMDS_LINK_LOCAL}%cloud0", *UNTOUCHED)
        link.cloud.ip("route", "add", probes.BRIDGED_V4, "via", Link.GUEST_V4)
        link.cloud.ip("route", "add", probes.BRIDGED_V6, "via", Link.GUEST_V6)
        link.guest.run(["sysctl", "-qw", *probes.FORWARD])
        options = ["--ssh-key", key_pair.public, "--latency", "0.2", "--hop-limit", "64"]
        with (
            Imds(link.cloud, scratch, *options, user_data=USER_DATA),
            Container(disk.path, link.guest, scratch, options=OPTIONS) as box,
        ):

            def ask(line: str) -> subprocess.CompletedProcess[str]:
                return box.exec(["sh", "-c", line], check=False, timeout=120)

            inside = Inside(ask)
            box.boot()
            box.wait_settled()
            active = "cloudboot-lockdown-iptables.service" if without_nft else "cloudboot-lockdown.service"
            shown = inside("systemctl list-units --plain --no-legend --state=active 'cloudboot-lockdown*'")
            assert [line.split()[0] for line in shown.splitlines()] == [active]
            storm(inside, "0.15")
            box.poweroff()
        seen = {}
        for name in ("nobody", "root", "bridged"):
            with open(f"{disk.path}{REPORTS}/{name}.jsonl", encoding="utf-8") as file:
                seen[name] = probes.last(file.read())
        probes.judge(seen, SHUT if without_nft else (*SHUT, *REWRITTEN))
        print(json.dumps(seen))
