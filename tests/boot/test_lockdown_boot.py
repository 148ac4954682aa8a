"""The lock-down on booted systems: nobody ever gets to the metadata service, whatever is done to the firewall."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from boot import probe, probes
from boot.bed import (
    AMAZON,
    IMDS_LINK_LOCAL,
    IMDS_V4,
    UNTOUCHED,
    Container,
    Imds,
    KeyPair,
    Link,
    Machine,
    Namespace,
    Scratch,
    Tree,
    prepare_machine,
    root_image,
    run,
)
from boot.bed.command import wait_until
from boot.job import Inside
from boot.probes import PROGRAM, REPORTS, REWRITTEN, SHUT, STORM, STORM_LOG
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
UNTOUCHED_V4 = tuple(address for address in UNTOUCHED if ":" not in address)
BLOCKED, OPEN = "blocked by our rule", "REACHABLE"


def neighbours(ns: Namespace, *addresses: str) -> None:
    """Answer on these addresses of a namespace as long as it is there."""
    ns.popen([sys.executable, probe.__file__, "serve", *addresses])


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


def complaints(inside: Inside) -> list[str]:
    """Return what systemd has to say about our units (and what they pull in)."""
    units = " ".join(f"/usr/lib/systemd/system/{name}" for name in ("cloudboot*.service", "cloudboot*.t*", "cloud-*.*"))
    said = inside(f"systemd-analyze verify --man=no {units} 2>&1 || true").splitlines()
    # The probe's own unit, and the unit that its condition skips where there is no nft.
    known = ("Special user nobody configured", "Command /usr/sbin/nft is not executable")
    return [line for line in said if not any(words in line for words in known)]


def storm(inside: Inside, times: str, untouched: tuple[str, ...] = UNTOUCHED) -> None:
    """Check what must be true of a booted guest with the probes in it, and shake its firewall."""
    killed = inside("systemctl show -p Result --value cloudboot-network.service")
    assert killed == "signal", inside("journalctl -b -u killer -u cloudboot-network")
    status = inside.status()
    assert status["status"] == "done", status
    shake(inside, times)
    for kind in ("tcp", "udp"):
        answers = asked(inside, "nobody", kind, untouched)
        assert set(answers.values()) == {"connected"}, answers
    code, report = lockdown(inside)
    assert (code, states(report)) == (0, {BLOCKED}), report
    assert report["missing"] == []
    assert inside("journalctl -b --no-pager _PID=1 | grep -i 'ordering cycle' || true") == ""


def shake(inside: Inside, times: str) -> None:
    """Run the storm to its end, away from the connection that asks for it: it takes the guest's address away, too."""
    inside(
        f"systemd-run --quiet --unit=storm -p StandardOutput=file:{STORM_LOG} -p StandardError=inherit {STORM} {times}"
    )

    def log() -> str:
        return inside.ask(f"cat {STORM_LOG}").stdout

    if not wait_until(lambda: "storm: over" in log(), 200, 0.5):
        told = inside.ask(f"cat {STORM_LOG}; journalctl -b -u storm")
        raise AssertionError(told.stdout + told.stderr)


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
            assert complaints(inside) == []
            storm(inside, "0.15 0.03 0.06 0.1 0.15")
            # The server has to ask who has the guest's link-local address, and the kernel's answer goes to the server.
            link.cloud.ip("-6", "neigh", "flush", "dev", "cloud0")
            assert asked(inside, "root", "tcp", (IMDS_LINK_LOCAL,)) == {IMDS_LINK_LOCAL: "connected"}
            box.poweroff()
        seen = {}
        for name in ("nobody", "root", "bridged"):
            with open(f"{disk.path}{REPORTS}/{name}.jsonl", encoding="utf-8") as file:
                seen[name] = probes.last(file.read())
        probes.judge(seen, {*SHUT, *probes.NEIGHBOURS, *(() if without_nft else REWRITTEN)})


@pytest.mark.machine
def test_nobody_gets_in_on_a_machine(tree_trixie: Tree, scratch: Scratch, key_pair: KeyPair) -> None:
    """Amazon's DMI switches the lock-down on, systemd-networkd and a network card of its own bring the network."""
    with tree_trixie.overlay(scratch) as view:
        prepare_machine(view.path)
        run(["systemctl", f"--root={view.path}", "mask", "chrony-wait.service"])
        bake.bake(open_host(view.path, echo=False, keep_log=False))
        probes.install(view.path, probes.EMULATED)
        image = root_image(view.path, scratch.file("root.img"))
    options = ["--ssh-key", key_pair.public, "--latency", "0.1", "--hop-limit", "64", "--instance-id", AMAZON.asset]
    with (
        Namespace(untouched=True) as ns,
        Imds(ns, scratch, *options, user_data=USER_DATA),
        Machine(ns, scratch, image, tree_trixie) as machine,
    ):
        neighbours(ns, *UNTOUCHED)

        def ask(line: str) -> subprocess.CompletedProcess[str]:
            return machine.ssh(key_pair, "debian", ["sudo", "sh", "-c", line], check=False, timeout=200)

        machine.boot()
        machine.wait_ssh(key_pair, "debian")
        # The stage that makes up for the killed one reloads sshd when it has set it up: ask until it is over.
        assert wait_until(lambda: ask("cloudboot status --wait").returncode == 0, 120, 1)
        storm(Inside(ask), "0.2 1", UNTOUCHED_V4)
        machine.powerdown()
        disk = scratch.file("afterwards.img")
        run(["qemu-img", "convert", "-O", "raw", machine.root.path, disk], timeout=120)
        # debugfs does not read the journal, and a root that was busy at the end has its newest files only there.
        run(["e2fsck", "-fp", disk], check=False, timeout=120)
        seen = {}
        for name in ("nobody", "root", "bridged"):
            shown = run(["debugfs", "-R", f"cat {REPORTS}/{name}.jsonl", disk])
            assert shown.stdout, shown.stderr
            seen[name] = probes.last(shown.stdout)
        # IPv6 to the service does not get through QEMU's network, and the link itself has no service.
        probes.judge(seen, {IMDS_V4, REWRITTEN[0], probes.NEIGHBOURS[0]})


POLICIES = {
    "allow": ("{allow: {users: [deploy]}}", {"root", "deploy"}),
    "open": ("open", {"root", "deploy", "nobody"}),
    "none": ("none", set()),
    "disabled": ("root\ndisable_ec2_metadata: true", set()),
}


@pytest.mark.container
def test_who_is_let_in(trixie: World, key_pair: KeyPair) -> None:
    """Every policy, at the first boot of an instance and at the next; then the verb on the default."""
    shutil.copyfile(probe.__file__, f"{trixie.box.root}{PROGRAM}")
    neighbours(trixie.link.cloud, f"{IMDS_LINK_LOCAL}%cloud0")
    for number, (name, (words, let_in)) in enumerate(POLICIES.items()):
        data = f"#cloud-config\nusers: [default, {{name: deploy}}]\nmetadata_access: {words}\n"
        instance = f"i-0aaaaaaaaaaaaaaa{number}"
        with service(trixie, key_pair, instance, data):
            for kind in ("new", "same"):
                boot(trixie)
                status = trixie.inside.status()
                assert (status["kind"], status["instance"]) == (kind, instance)
                for user in ("root", "deploy", "nobody"):
                    answers = asked(trixie.inside, user, "tcp", SHUT)
                    expected = {True} if user in let_in else {False}
                    assert {answer == "connected" for answer in answers.values()} == expected, (
                        name,
                        kind,
                        user,
                        answers,
                    )
                code, report = lockdown(trixie.inside)
                assert (code, states(report)) == ((1, {OPEN}) if name == "open" else (0, {BLOCKED})), (name, report)
    with service(trixie, key_pair, "i-0aaaaaaaaaaaaaaaf", "#cloud-config\n"):
        boot(trixie)
        trixie.inside.status()
        the_verb(trixie.inside)


def the_verb(inside: Inside) -> None:
    """`cloudboot lockdown` under the default policy: status, lift, status, apply, status."""
    asked(inside, "nobody", "tcp", SHUT[:2])
    code, report = lockdown(inside)
    assert (code, states(report), report["missing"], report["let_in"]) == (0, {BLOCKED}, [], ["root"]), report
    (nobody,) = report["refused"]
    assert (nobody["uid"], nobody["name"], nobody["packets"]) == (65534, "nobody", 2)
    assert nobody["user_data"] == "metadata_access: {allow: {users: [nobody]}}"
    text = inside("cloudboot lockdown")
    assert text.count(BLOCKED) == len(SHUT)
    assert "refused: nobody (uid 65534), 2 times; to let it in: metadata_access: {allow: {users: [nobody]}}" in text

    inside("cloudboot lockdown lift")
    assert set(asked(inside, "nobody", "tcp", SHUT).values()) == {"connected"}
    code, report = lockdown(inside)
    assert (code, states(report)) == (1, {OPEN}), report
    inside("cloudboot lockdown apply")
    assert "connected" not in asked(inside, "nobody", "tcp", SHUT).values()
    code, report = lockdown(inside)
    assert (code, states(report), report["missing"]) == (0, {BLOCKED}, []), report


def service(world: World, key: KeyPair, instance: str, user_data: str) -> Imds:
    words = ["--ssh-key", key.public, "--instance-id", instance]
    return Imds(world.link.cloud, world.scratch, *words, user_data=user_data.encode())


def boot(world: World) -> None:
    """Boot, or boot again, with both families on the wire."""
    if world.box.running():
        world.reboot()
    else:
        world.box.boot()
        world.connect()
    world.connect(v6=True)
