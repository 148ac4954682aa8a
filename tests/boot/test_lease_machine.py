"""The paid hour on a machine, with a short one: a clock that jumps, a report before the power goes, a clean file system."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from datetime import datetime

import pytest

from boot.bed import Imds, Machine, Namespace, Scratch, Tree, prepare_machine, root_image, run
from boot.test_lease_boot import PORT, RECEIVER, posted
from cloudboot import bake
from cloudboot.cli import open_host

pytestmark = pytest.mark.machine
CMDLINE = "root=LABEL=rootfs ro console=ttyS0 panic=-1 nokaslr mitigations=off"
UNTIL, MARGIN = 120, 30
USER_DATA = f"""#cloud-config
ssh_deletekeys: false
runcmd:
  - date -s '+1 day'
lease:
  until: {UNTIL}s
  margin: {MARGIN}s
  run:
    - name: load
      command: |
        trap 'date +%s > /srv/stopped; exit 7' TERM
        cd /sys/fs/cgroup/cloudbootlease.slice
        cat cpu.idle memory.max pids.max > /srv/started
        while :; do sleep 0.5; done
  collect: [/srv/started, /srv/stopped]
  report: http://10.0.2.2:{PORT}/
"""
WITNESS = """[Unit]
Description=the witness
After=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
StandardOutput=journal+console
ExecStart=/usr/bin/true
ExecStop=/usr/bin/echo the witness is stopped, the network is up
[Install]
WantedBy=multi-user.target
"""


def test_clean_shutdown_before_the_mark(tree_trixie: Tree, scratch: Scratch) -> None:
    with tree_trixie.overlay(scratch) as view:
        prepare_machine(view.path)
        run(["systemctl", f"--root={view.path}", "mask", "chrony-wait.service"])
        with open(f"{view.path}/etc/systemd/system/witness.service", "w", encoding="utf-8") as file:
            file.write(WITNESS)
        run(["systemctl", f"--root={view.path}", "enable", "witness.service"])
        bake.bake(open_host(view.path, echo=False, keep_log=False))
        image = root_image(view.path, scratch.file("root.img"))
    posts = scratch.file("posted")
    with Namespace() as ns, Machine(ns, scratch, image, tree_trixie, cmdline=CMDLINE) as machine:
        ns.popen(["python3", RECEIVER, "127.0.0.1", str(PORT), posts])
        # Nobody says when it was launched: the boot counts.
        with Imds(ns, scratch, user_data=USER_DATA.encode(), metadata={"dynamic": None}):
            began = time.time()
            machine.boot()
            machine.wait_exit(400)  # a busy host emulates slowly: the lease counts from its arming then
            off = time.time()
        console = machine.console()
        shown = state_of(machine.root.path, scratch)
    [post] = posted(posts)
    report = json.loads(post["form"]["report"])
    [load] = report["run"]
    assert (load["state"], load["exit"]) == ("stopped", 7), report
    mark = datetime.fromisoformat(report["lease"]["mark"]).timestamp()  # by the clock before it jumped: the host's
    assert began + UNTIL - 1 < mark
    assert mark - MARGIN - 2 < post["time"] < off < mark + 2, f"{post['time'] - mark:.1f}, {off - mark:.1f}"
    # The clock jumped by a day before the spare work began; it moved nothing.
    assert load["began"] > began + 80000, report
    assert load["seconds"] > 2
    started, stopped = report["collected"]
    assert [each["path"] for each in (started, stopped) if "kept" in each] == ["/srv/started", "/srv/stopped"]
    idle, memory, tasks = base64.b64decode(started["base64"]).decode().split()
    assert (idle, tasks) == ("1", "1024")
    assert 300 << 20 < int(memory) < 600 << 20  # half of 1 GiB

    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console)
    steps = [
        "lease: it ends now",
        "Stopped cloudboot-lease-run-load",
        "Stopped cloudboot-lease-report",
        "the witness is stopped",
        "Stopped target network.target",
        "Reached target poweroff.target",
        "reboot: Power down",
    ]
    places = [plain.find(step) for step in steps if step in plain]
    assert "the witness is stopped" in plain, plain[-4000:]
    assert "reboot: Power down" in plain, plain[-4000:]
    assert places == sorted(places), list(zip(steps, places, strict=False))
    assert "powers off in less than 1 minute" in plain or "powers off in 1 minute" in plain
    assert re.search(r"Filesystem state:\s+clean\n", shown), shown
    assert "needs_recovery" not in shown


def state_of(disk: str, scratch: Scratch) -> str:
    """Return what the superblock of a machine's root disk says."""
    raw = scratch.file("off.img")
    run(["qemu-img", "convert", "-O", "raw", disk, raw], timeout=120)
    shown = run(["dumpe2fs", "-h", raw]).stdout
    os.unlink(raw)
    return shown
