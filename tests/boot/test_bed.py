"""Does the bed hold? Trees without an agent boot in it, see their metadata service, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from boot.bed import (
    AMAZON,
    IMDS_V4,
    IMDS_V6,
    UEC,
    BedError,
    Container,
    Disk,
    Imds,
    KeyPair,
    Link,
    Machine,
    Namespace,
    Repository,
    Scratch,
    blank,
    filesystem,
    gpt_image,
    leftovers,
    missing_tools,
    prepare_machine,
    root_image,
    run,
    ssh,
    sweep,
)
from boot.bed.command import start, wait_until
from boot.bed.scratch import mounts_below

if TYPE_CHECKING:
    from boot.bed import Tree, Trees

TOKEN = ["curl", "-gsS", "--max-time", "5", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60"]

# What is written by journald survives the hang-up that agetty does on the serial line.
PROBE = """\
[Unit]
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
StandardOutput=journal+console
ExecStart=grep . /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/board_asset_tag /sys/block/nvme0n1/device/serial
ExecStart=curl -sS --max-time 9 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" \
    -o /run/token -w "token %{http_code}\\n" http://169.254.169.254/latest/api/token
ExecStart=echo probe finished

[Install]
WantedBy=multi-user.target
"""

COUNT = """\
#!/bin/sh
echo boot >> /var/lib/boots
sync
number=$(wc -l < /var/lib/boots)
echo "boot $number of $(cat /sys/class/dmi/id/sys_vendor), $(cat /sys/block/vdb/size) sectors"
if [ "$number" -gt 1 ]; then systemctl --no-block reboot; fi
"""
COUNT_UNIT = """\
[Service]
Type=oneshot
StandardOutput=journal+console
ExecStart=/usr/local/sbin/count

[Install]
WantedBy=multi-user.target
"""


def _token(box: Container, address: str) -> int:
    """Ask for a token as a guest would; return curl's exit status."""
    host = f"[{address}]" if ":" in address else address
    return box.exec([*TOKEN, f"http://{host}/latest/api/token"], check=False).returncode


def _lives(pid: int) -> bool:
    """Say whether the process does more than wait to be reaped (then it has no command line)."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read() != b""
    except FileNotFoundError:
        return False


def _write(path: str, text: str, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


@pytest.mark.container
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_container_keeps_its_disk_over_reboot_and_crash(suite: str, trees: Trees) -> None:
    tree = trees.get(suite)
    assert not [name for name in os.listdir(f"{tree.layers[0]}/etc/ssh") if name.startswith("ssh_host_")]
    assert run(["grep", "-rl", "^nameserver", f"{tree.layers[0]}/etc"], check=False).stdout == ""
    with (
        Scratch() as scratch,
        Namespace() as ns,
        tree.overlay(scratch) as disk,
        Container(disk.path, ns, scratch, binds=[f"{scratch.directory('out')}:/out"]) as box,
    ):
        box.boot()
        assert box.wait_settled() in {"running", "degraded"}
        box.exec(["systemctl", "is-active", "multi-user.target"])
        assert box.exec(["sh", "-c", "exit 7"], check=False).returncode == 7
        assert box.exec(["id", "-un"], user="nobody").stdout == "nobody\n"
        assert box.exec(["findmnt", "-n", "/out"]).stdout
        box.exec(["sh", "-c", "echo seen > /dev/console; echo kept > /root/note"])
        box.wait_console("seen", 5)

        first = box.exec(["cat", "/etc/machine-id"]).stdout
        box.exec(["nft", "add", "table", "inet", "of_the_first_boot"])
        box.exec(["ip", "rule", "add", "pref", "50", "to", IMDS_V4, "prohibit"])
        box.reboot()
        box.wait_settled()
        assert box.exec(["cat", "/etc/machine-id", "/root/note"]).stdout == f"{first}kept\n"
        assert box.exec(["nft", "list", "ruleset"]).stdout == ""
        assert "prohibit" not in box.exec(["ip", "rule"]).stdout

        leader = box.leader
        box.crash()
        assert not _lives(leader)
        box.boot()
        box.wait_for(["test", "-e", "/root/note"])
        box.poweroff()
        assert "Powering off" in box.console()
        assert box.boots == 3
    assert not os.path.exists(ns.path)


@pytest.mark.container
def test_container_that_does_not_boot_is_reported_with_its_console(tree_trixie: Tree) -> None:
    with Scratch() as scratch, Namespace() as ns, tree_trixie.overlay(scratch) as disk:
        _write(f"{disk.path}/etc/systemd/system/stuck.service", "[Service]\nType=oneshot\nExecStart=sleep 600\n")
        with Container(disk.path, ns, scratch) as box:
            box.boot()
            box.wait_settled()
            box.exec(["systemctl", "--no-block", "start", "stuck.service"])
            with pytest.raises(BedError, match=r"(?s)is-active.*not within 1 s; its console:\n.*Reached target"):
                box.wait_for(["systemctl", "is-active", "stuck.service"], 1)


@pytest.mark.container
def test_container_on_the_namespace_reaches_the_service_and_its_log_says_so(tree_trixie: Tree) -> None:
    with (
        Scratch() as scratch,
        Namespace(untouched=True) as ns,
        tree_trixie.overlay(scratch) as disk,
        Imds(ns, scratch, "--v1", user_data=b"#!/bin/sh\n") as imds,
        Container(disk.path, ns, scratch) as box,
    ):
        box.boot()
        assert _token(box, IMDS_V4) == 0
        assert _token(box, IMDS_V6) == 0
        assert [entry["method"] for entry in imds.log()] == ["PUT", "PUT"]
        fetch = ["curl", "-sS", "--max-time", "5", f"http://{IMDS_V4}/latest/user-data"]
        assert box.exec(fetch).stdout == "#!/bin/sh\n"
        imds.set_user_data(b"#cloud-config\n")
        box.wait_for(lambda: box.exec(fetch).stdout == "#cloud-config\n", 5)
        imds.stop()
        assert _token(box, IMDS_V4) == 7  # refused
        imds.start()
        assert _token(box, IMDS_V4) == 0


@pytest.mark.container
@pytest.mark.parametrize("family", ["v4", "v6"])
def test_address_that_appears_late_on_a_wire(family: str, tree_trixie: Tree) -> None:
    near, far = (IMDS_V4, IMDS_V6) if family == "v4" else (IMDS_V6, IMDS_V4)
    with (
        Scratch() as scratch,
        Link() as link,
        tree_trixie.overlay(scratch) as disk,
        Imds(link.cloud, scratch),
        Container(disk.path, link.guest, scratch) as box,
    ):
        box.boot()
        assert _token(box, near) == 7
        link.connect_v4() if family == "v4" else link.connect_v6()
        assert _token(box, near) == 0
        assert _token(box, far) != 0
        link.disconnect()
        assert _token(box, near) == 7


@pytest.mark.container
def test_ssh_and_packages_without_a_network(tree_trixie: Tree, key_pair: KeyPair) -> None:
    with Scratch() as scratch, Namespace() as ns, tree_trixie.overlay(scratch) as baked:
        run(["chroot", baked.path, "ssh-keygen", "-A"])
        _write(f"{baked.path}/root/.ssh/authorized_keys", f"{key_pair.public}\n", 0o600)
        repository = Repository(scratch)
        assert repository.install(baked.path).startswith("deb [trusted=yes] file:")
        with baked.tree().overlay(scratch) as disk, Container(disk.path, ns, scratch) as box:
            box.boot()
            box.wait_settled()
            assert ssh(ns, key_pair, "root", ["echo", "two  words"]).stdout == "two  words\n"
            assert ssh(ns, key_pair, "nobody", ["true"], check=False).returncode == 255
            box.exec(["apt-get", "-q", "update"])
            box.exec(["apt-get", "-qy", "install", "cloudboot-hello"], timeout=60)
            assert box.exec(["cloudboot-hello"]).stdout == "hello from the package\n"
            box.exec(["apt-get", "-qy", "remove", "cloudboot-hello"], timeout=60)
            _write(f"{disk.path}/etc/apt/sources.list", repository.serve(ns, IMDS_V4) + "\n")
            box.wait_for(["curl", "-sf", "-o", "/dev/null", f"http://{IMDS_V4}:8000/Release"], 10)
            box.exec(["apt-get", "-q", "update"])
            box.exec(["apt-get", "-qy", "install", "cloudboot-hello"], timeout=60)
        assert not os.path.exists(f"{baked.path}/usr/bin/cloudboot-hello")


@pytest.mark.container
def test_what_a_killed_run_left_is_found_and_swept(trees: Trees) -> None:
    """A process that is no more stands in for a killed test run."""
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    tag = f"cbt-{int(gone.stdout)}-0a1b2c"
    owner = int(gone.stdout)
    base = os.path.dirname(trees.cache)
    where = f"{base}/scratch/{tag}"
    os.makedirs(f"{where}/mnt")
    run(["mount", "-t", "tmpfs", "tmpfs", f"{where}/mnt"])
    run(["ip", "netns", "add", tag])
    with open("/dev/null", "wb") as nowhere:
        sleeper = start(["sleep", "600"], nowhere, {"CLOUDBOOT_BED": str(owner)})
    try:
        assert wait_until(lambda: len(leftovers(owner)) == 4, 5), leftovers(owner)
        kinds = sorted(line.split()[0] for line in leftovers(owner))
        assert kinds == ["mount", "namespace", "process", "scratch"]
        sweep()
        assert sleeper.wait(5) == -9
        assert leftovers(owner) == []
    finally:
        if sleeper.poll() is None:
            sleeper.kill()
            sleeper.wait()


@pytest.mark.container
def test_a_mount_with_a_blank_in_its_name_is_unmounted() -> None:
    with Scratch() as scratch:
        place = scratch.directory("my data")
        run(["mount", "-t", "tmpfs", "none", place])
        assert mounts_below(scratch.path) == [place]
    assert not os.path.exists(scratch.path)


def test_missing_root_is_one_clear_reason() -> None:
    reason = missing_tools("machine")
    assert reason == "" or reason.startswith("machine tests need ")


@pytest.mark.machine
def test_machine_keeps_what_was_synced_over_a_power_cut(tree_bookworm: Tree) -> None:
    """A private cloud's guest: nothing of Amazon in DMI, virtio disks, no partition table."""
    with Scratch() as scratch, Namespace() as ns:
        with tree_bookworm.overlay(scratch) as view:
            prepare_machine(view.path)
            _write(f"{view.path}/usr/local/sbin/count", COUNT, 0o755)
            _write(f"{view.path}/etc/systemd/system/count.service", COUNT_UNIT)
            run(["systemctl", f"--root={view.path}", "enable", "count.service"])
            image = root_image(view.path, scratch.file("root.img"))
        ephemeral = Disk(blank(scratch.file("ephemeral.img"), 64), interface="virtio")
        with Machine(ns, scratch, image, tree_bookworm, disks=[ephemeral], dmi=UEC) as box:
            box.boot()
            box.wait_console(r"boot 1 of Bochs, 131072 sectors\b")
            box.power_cut()
            assert not box.running()
            box.boot()
            box.wait_console(r"boot 2 of Bochs, 131072 sectors\b")
            box.wait_exit()  # the second time, it reboots
            assert box.boots == 2


@pytest.mark.machine
def test_machine_looks_like_ec2(tree_trixie: Tree, key_pair: KeyPair) -> None:
    began = time.monotonic()
    with Scratch() as scratch, Namespace() as ns:
        with tree_trixie.overlay(scratch) as view:
            prepare_machine(view.path)
            run(["chroot", view.path, "ssh-keygen", "-A"])
            _write(f"{view.path}/root/.ssh/authorized_keys", f"{key_pair.public}\n", 0o600)
            _write(f"{view.path}/etc/systemd/system/probe.service", PROBE)
            run(["systemctl", f"--root={view.path}", "enable", "probe.service"])
            image = gpt_image(view.path, scratch.file("root.img"))
        volume = Disk(filesystem(scratch.file("ebs.img"), 64, label="data"), "vol0123456789abcdef0")
        with Imds(ns, scratch) as imds, Machine(ns, scratch, image, tree_trixie, disks=[volume]) as box:
            made = time.monotonic()
            box.boot()
            box.wait_console("probe finished")
            box.wait_console(r"sys_vendor:Amazon EC2\b", 1)
            box.wait_console(rf"board_asset_tag:{AMAZON.asset}\b", 1)
            box.wait_console(r"serial:vol0123456789abcdef0\b", 1)
            box.wait_console(r"token 200\b", 1)
            assert [entry["path"] for entry in imds.log()] == ["/latest/api/token"]
            up = time.monotonic()

            box.wait_ssh(key_pair, "root")
            assert box.ssh(key_pair, "root", ["findmnt", "-no", "SOURCE", "/"]).stdout == "/dev/vda1\n"
            box.plug(Disk(blank(scratch.file("late.img"), 32), "vol0123456789abcdef1"))
            seen = ["udevadm", "wait", "--timeout=20", "/dev/nvme1n1"]
            box.ssh(key_pair, "root", seen)
            serials = box.ssh(key_pair, "root", ["lsblk", "-dno", "SERIAL", "/dev/nvme0n1", "/dev/nvme1n1"])
            assert serials.stdout.split() == ["vol0123456789abcdef0", "vol0123456789abcdef1"]
            box.powerdown()
            done = time.monotonic()
    print(f"image {made - began:.1f} s, boot to probe {up - made:.1f} s, ssh to power-off {done - up:.1f} s")
