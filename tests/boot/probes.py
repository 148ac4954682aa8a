"""Callers at the metadata service's door inside a guest: their units, what is done to the firewall, what they saw.

`probe.py` runs three times from early boot to the very end: as nobody, as root beside it (the control: the service is
there and answers), and as root of a bridged network namespace (a container), whose control is a neighbour's address.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import Any, NamedTuple

from boot.bed import IMDS_LINK_LOCAL, IMDS_V4, IMDS_V6, run

SHUT = (IMDS_V4, IMDS_V6, IMDS_LINK_LOCAL)
REWRITTEN = ("198.51.100.80", "2001:db8:80::80")
"""The image's own firewall leads these to the metadata service."""
NEIGHBOURS = ("169.254.169.123", "fd00:ec2::123")
BRIDGED_V4, BRIDGED_V6 = "10.9.0.0/24", "2001:db8:9::/64"
PROGRAM = "/usr/local/lib/probe.py"
STORM = "/usr/local/lib/storm"
STORM_LOG = "/run/storm.log"
REPORTS = "/var/lib/probe"
PYTHON = "/usr/bin/python3 -IS"
FORWARD = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

# No After=: it starts with the first units of the boot. No Conflicts=shutdown.target: no job stops it, it goes with the
# last processes, by SIGTERM; a stop by systemd would be SIGUSR1 and show in the report.
WATCH = """[Unit]
DefaultDependencies=no
{order}

[Service]
Type=notify
User={user}
KillSignal=SIGUSR1
TimeoutStartSec=120
LimitNOFILE=16384
Nice=10
{options}
ExecStart={python} {program} watch {reports}/{name}.jsonl {period} {patience} {addresses}
"""
EARLY = "Wants=network-pre.target\nBefore=network-pre.target"

# Each word of the image's firewall is one that could undo the lock-down: a flush, rewritten addresses, an early accept.
NFTABLES = f"""#!/usr/sbin/nft -f
flush ruleset
table inet image {{
    chain rewrite_v4 {{
        ip daddr {REWRITTEN[0]} dnat ip to {IMDS_V4}
    }}
    chain rewrite_v6 {{
        ip6 daddr {REWRITTEN[1]} dnat ip6 to {IMDS_V6}
    }}
    chain output {{ type nat hook output priority -100; jump rewrite_v6; }}
    chain prerouting {{ type nat hook prerouting priority -100; jump rewrite_v4; jump rewrite_v6; }}
    chain first {{ type filter hook output priority -10; accept; }}
    chain forwarded {{ type filter hook forward priority -10; accept; }}
    chain postrouting {{
        type nat hook postrouting priority 100;
        ip saddr {BRIDGED_V4} masquerade
        ip6 saddr {BRIDGED_V6} masquerade
    }}
}}
"""

# Not in the file above: of a local packet that is rewritten the kernel looks up the new IPv4 route as root's, so against
# this one the first layer stands alone, and is not there for the moment between that file and its restoration.
REWRITE = "nft add rule inet image output jump rewrite_v4"

# With addresses of their own: udev gives an interface that has none another one, seconds later on a busy machine, and
# who has asked for the old one before is cut off until the kernel asks again.
BRIDGE = """#!/bin/sh -e
ip netns add bridged
ip link add br0 address 02:00:00:00:09:01 type bridge
ip addr add 10.9.0.1/24 dev br0
ip addr add 2001:db8:9::1/64 dev br0 nodad
ip link add b0 address 02:00:00:00:09:03 type veth peer name eth0 address 02:00:00:00:09:02 netns bridged
ip link set b0 master br0 up
ip link set br0 up
ip -n bridged link set lo up
ip -n bridged addr add 10.9.0.2/24 dev eth0
ip -n bridged addr add 2001:db8:9::2/64 dev eth0 nodad
ip -n bridged link set eth0 up
ip -n bridged route add default via 10.9.0.1
ip -n bridged -6 route add default via 2001:db8:9::1
"""
BRIDGE_UNIT = """[Unit]
DefaultDependencies=no
After=systemd-networkd.service nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/bridge
"""

# `$1` is how long each state is left to the probes, the rest when a change of the lock-down is killed; in seconds.
STORM_TEXT = f"""#!/bin/sh
say() {{ echo "storm: $(cut -d" " -f1 /proc/uptime): $*"; "$@" || echo "storm: exit $?"; sleep "$PAUSE"; }}
PAUSE=$1; shift; DELAYS=$*
if command -v nft > /dev/null; then
    for verb in reload restart stop start; do
        say systemctl $verb nftables
        [ $verb = stop ] || say {REWRITE}
    done
    say nft flush ruleset
    say systemctl restart cloudboot-lockdown
    for delay in $DELAYS; do
        nft flush ruleset
        cloudboot lockdown apply & sleep $delay
        say kill -9 $!
    done
    say cloudboot lockdown apply
    say systemctl stop cloudboot-lockdown
    say systemctl start cloudboot-lockdown
    say systemctl restart nftables
    say {REWRITE}
else
    say systemctl restart cloudboot-lockdown-iptables
    say iptables -P OUTPUT ACCEPT
    say systemctl stop cloudboot-lockdown-iptables
    say systemctl start cloudboot-lockdown-iptables
fi
say systemctl restart systemd-networkd
echo "storm: the first layer alone"
for family in 4 6; do
    ip -$family rule flush
    ip -$family rule add pref 32766 lookup main protocol kernel
done
sleep "$PAUSE"
say cloudboot lockdown apply
echo "storm: over"
"""

# The network stage dies in the middle of its crawl, in the first boot.
KILLER = f"""[Unit]
DefaultDependencies=no
Before=cloudboot-network.service
ConditionPathExists=!{REPORTS}/killed

[Service]
ExecStart=/bin/sh -c '{PYTHON} {PROGRAM} kill "cloudboot boot --stage network" && touch {REPORTS}/killed'
"""


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file of a guest's tree, its folders too."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


class Pace(NamedTuple):
    """How often the probes try, and how long each waits for an answer; in seconds."""

    nobody: float
    root: float
    bridged: float
    patience: float


CONTAINER = Pace(nobody=0.001, root=0.2, bridged=0.01, patience=0.2)
# Under emulation a connection through QEMU's network takes up to a fifth of a second; who gives up before that sees
# neither what should get through nor what should not. More attempts than these make the boot take minutes.
EMULATED = Pace(nobody=0.01, root=0.5, bridged=0.1, patience=2.0)


def install(root: str, pace: Pace = CONTAINER) -> None:
    """Put the probes, the killer and the image's own firewall into a tree."""
    shutil.copyfile(os.path.join(os.path.dirname(__file__), "probe.py"), f"{root}{PROGRAM}")
    write(f"{root}/etc/sysctl.d/90-forward.conf", "".join(f"{line}\n" for line in FORWARD))
    os.makedirs(f"{root}{REPORTS}")
    os.chmod(f"{root}{REPORTS}", 0o777)
    write(f"{root}{STORM}", STORM_TEXT, 0o755)
    write(f"{root}/usr/local/lib/bridge", BRIDGE, 0o755)
    if os.path.exists(f"{root}/usr/sbin/nft"):
        write(f"{root}/etc/nftables.conf", NFTABLES, 0o755)
        run(["systemctl", f"--root={root}", "enable", "nftables.service"])
    late = "Requires=bridge.service\nAfter=bridge.service"
    inside = "NetworkNamespacePath=/run/netns/bridged"
    units = {
        "probe-nobody": watch_unit("nobody", "nobody", EARLY, pace.nobody, pace, (*SHUT, *REWRITTEN)),
        "probe-root": watch_unit("root", "root", EARLY, pace.root, pace, (*SHUT, *REWRITTEN)),
        "bridge": BRIDGE_UNIT,
        "probe-bridged": watch_unit(
            "bridged", "root", late, pace.bridged, pace, (*SHUT, *REWRITTEN, *NEIGHBOURS), inside
        ),
        "killer": KILLER,
    }
    for name, text in units.items():
        write(f"{root}/etc/systemd/system/{name}.service", text)
        if name != "bridge":
            target = "multi-user.target" if name == "probe-bridged" else "sysinit.target"
            wants = f"{root}/etc/systemd/system/{target}.wants"
            os.makedirs(wants, exist_ok=True)
            os.symlink(f"../{name}.service", f"{wants}/{name}.service")


def watch_unit(
    name: str, user: str, order: str, period: float, pace: Pace, addresses: tuple[str, ...], options: str = ""
) -> str:
    """Return the unit of one probe."""
    return WATCH.format(
        name=name,
        user=user,
        order=order,
        options=options,
        period=period,
        patience=pace.patience,
        addresses=" ".join(addresses),
        python=PYTHON,
        program=PROGRAM,
        reports=REPORTS,
    )


def last(text: str) -> dict[str, Any]:
    """Return the last whole line of a report: all that was seen."""
    lines = [line for line in text.split("\n")[:-1] if line.endswith("}")]
    assert lines, f"a probe that wrote nothing: {text!r}"
    seen: dict[str, Any] = json.loads(lines[-1])
    return seen


def judge(seen: dict[str, dict[str, Any]], there: set[str]) -> None:
    """Nobody and the bridged namespace never got in, though they tried until the machine was off; root did.

    `seen` has the last line of each probe's report; `there` are the addresses that answer whoever is let in, those of
    NEIGHBOURS everybody.
    """
    said = json.dumps(seen, indent=1)
    nobody, control, bridged = seen["nobody"], seen["root"], seen["bridged"]
    for probe in seen.values():
        assert probe["ended"] == ["SIGTERM"], said
    for address, door in nobody["doors"].items():
        assert door["connected"] == 0, f"{address}: {said}"
    assert nobody["trees"]["opened"] == 0, said
    assert nobody["trees"]["denied"] > 0, said
    assert control["trees"]["opened"] > 0, said
    for address in control["doors"].keys() & there:
        root = control["doors"][address]
        assert root["connected"] > (5 if address in REWRITTEN else 20), f"{address}: {said}"
        if address in SHUT[:2]:  # others fail with the image's own firewall, or on the interface of a bridge
            assert root["failed"] < root["connected"] / 10, f"{address}: {said}"
        assert nobody["doors"][address]["attempts"] > 5 * root["attempts"], f"{address}: {said}"
    for address, door in bridged["doors"].items():
        if address in NEIGHBOURS:
            assert door["connected"] > 20 or address not in there, f"{address}: {said}"
        else:
            assert door["connected"] == 0, f"{address}: {said}"
            assert door["attempts"] > 20, f"{address}: {said}"
