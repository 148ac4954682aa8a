"""The initramfs's script on loop devices, in a mount namespace of its own: what becomes the root, and what does not."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from boot.bed import Scratch
from boot.bed.command import run
from cloudboot.cli import main
from unit.test_root_volume import SCRIPT

if TYPE_CHECKING:
    pass

WAIT = "unsigned no\notherwise fallback\nwait 0\nrebase no\n"
# What is there afterwards, as the system would find it: the mounts, the report, and that the root can be written or not.
SHOW = """
echo "== mounts"; findmnt -rno TARGET,FSTYPE,OPTIONS | grep -E "^($rootmnt|$RUN|$ASIDE)"
echo "== report"; cat "$RUN/root-volume" 2>/dev/null
echo "== files"; cd "$rootmnt"; find . -xdev -path ./lost+found -prune -o -printf '%P %m\n' | sort
echo "== fstab"; cat "$rootmnt/etc/fstab"
echo "== end"
"""


class Bench:
    """An image, volumes, and the script over them."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.key = scratch.file("key")
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key])
        self.signer = " ".join(Path(f"{self.key}.pub").read_text(encoding="utf-8").split()[:2])
        self.image = self.disk(self.tree("Debian 13"), "rootfs")

    def tree(self, release: str) -> str:
        """Make the tree of a small image."""
        tree = Path(self.scratch.directory("image"))
        kernel = os.uname().release
        for path, text in {
            "etc/fstab": "# of the image\nLABEL=rootfs / ext4 rw,discard,errors=remount-ro 0 1\ntmpfs /srv tmpfs size=1m 0 0\n",
            "usr/lib/systemd/systemd": "x" * 3_000_000,
            "usr/lib/os-release": f"PRETTY_NAME={release!r}\n",
            f"usr/lib/modules/{kernel}/modules.dep": f"of {release}\n",
            "var/lib/dpkg/status": "Package: hello\n",
        }.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text, encoding="utf-8")
        (tree / "sbin").symlink_to("usr/sbin")
        secret = tree / "etc/secret"
        secret.write_text("s", encoding="utf-8")
        secret.chmod(0o600)
        os.chown(secret, 7, 8)
        os.setxattr(secret, "user.kept", b"yes")
        os.link(secret, tree / "etc/twin")
        for name in ("dev", "proc", "sys", "run"):
            (tree / name).mkdir()
        return str(tree)

    def disk(self, tree: str, label: str, mib: int = 40, *options: str) -> str:
        """Make a disk of a tree."""
        file = f"{self.scratch.directory('disk')}/img"
        with open(file, "xb") as empty:
            empty.truncate(mib << 20)
        run(["mkfs.ext4", "-q", "-L", label, *options, "-d", tree, file])
        return file

    def volume(self, identity: str = "root: {mode: root}\n", *, label: str = "vendor", sign: bool = True,
               mib: int = 40, files: dict[str, str] | None = None, options: tuple[str, ...] = ()) -> str:  # fmt: skip
        """Make a volume that says this."""
        tree = self.scratch.directory("volume")
        said = f"{self.scratch.directory('said')}/said"
        Path(said).write_text(identity, encoding="utf-8")
        if identity:
            assert main(["consume", "--init", tree, "--identity", said, *(["--sign", self.key] * sign)]) == 0
        for name, text in (files or {}).items():
            Path(tree, name).parent.mkdir(parents=True, exist_ok=True)
            Path(tree, name).write_text(text, encoding="utf-8")
        return self.disk(tree, label, mib, *options)

    def boot(
        self, *volumes: str, policy: str = WAIT, cmdline: str = "ro", then: str = "", image: str = "", before: str = ""
    ) -> Boot:
        """Run the script with these volumes attached, then lines, in a machine that is only mounts."""
        place = Path(self.scratch.directory("machine"))
        for name in ("root", "run", "aside", "dev", "sys/class/block"):
            (place / name).mkdir(parents=True)
        (place / "policy").write_text(f"{policy}signer {self.signer}\n", encoding="utf-8")
        (place / "cmdline").write_text(f"{cmdline}\n", encoding="utf-8")
        (place / "sys/dev").symlink_to("/sys/dev")
        nodes = [run(["losetup", "--find", "--show", file]).stdout.strip() for file in (image or self.image, *volumes)]
        try:
            for number, node in enumerate(nodes):
                name = "vd" + "abcdefgh"[number]
                (place / "dev" / name).symlink_to(node)
                (place / "sys/class/block" / name).symlink_to(f"/sys/class/block/{node.removeprefix('/dev/')}")
            env = {
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "CLOUDBOOT_TEST": "yes", "KMSG": "/dev/null",
                "POLICY": f"{place}/policy", "CMDLINE": f"{place}/cmdline", "SYS": f"{place}/sys", "DEV": f"{place}/dev",
                "RUN": f"{place}/run", "ASIDE": f"{place}/aside", "rootmnt": f"{place}/root", "readonly": "y",
            }  # fmt: skip
            lines = f'mount -o ro {nodes[0]} $rootmnt || exit 9\n{before}\n. {SCRIPT}\npanic() {{ echo "PANIC: $*"; exit 1; }}\nmain\n'
            argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{lines}{SHOW}{then}"]
            done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)
            return Boot(done.stdout, done.stderr, str(place))
        finally:
            for node in nodes:
                run(["losetup", "--detach", node])
            shutil.rmtree(place)


class Boot:
    """What came of a boot."""

    def __init__(self, output: str, errors: str, place: str) -> None:
        self.output = output.replace(place, "")
        self.errors = errors

    def part(self, name: str) -> str:
        """Return what was shown under a heading."""
        return self.output.partition(f"== {name}\n")[2].partition("== ")[0]

    @property
    def report(self) -> dict[str, str]:
        """What is left for the system."""
        return dict(line.split("=", 1) for line in self.part("report").splitlines())

    @property
    def mounts(self) -> list[str]:
        return self.part("mounts").splitlines()


@pytest.fixture(scope="module")
def bench(scratch: Scratch) -> Bench:
    return Bench(scratch)


def digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def dirty(bench: Bench, file: str, script: str) -> None:
    """Write to a volume, and leave it as a power cut does."""
    where = bench.scratch.directory("mnt")
    copy = f"{file}.cut"
    line = f'mount -o loop "$1" "$2" && cd "$2" && {script} && sync && cp --sparse=always "$1" "$3"; cd /; umount "$2"'
    run(["sh", "-ec", line, "sh", file, where, copy])
    os.replace(copy, file)


# -- root


def test_first_use_copies_the_image(bench: Bench) -> None:
    volume = bench.volume()
    first = bench.boot(volume)
    assert first.report["state"] == "used", first.output + first.errors
    assert first.report["mode"] == "root"
    assert first.report["first"] == "yes"
    kernel = os.uname().release
    assert [line.split()[0] for line in first.mounts] == ["/root", f"/root/usr/lib/modules/{kernel}"]
    assert all("ro" in line.split()[2].split(",") for line in first.mounts)
    assert f"UUID={first.report['uuid']} / ext4 defaults 0 1" in first.part("fstab")
    assert "LABEL=rootfs" not in first.part("fstab")
    assert "tmpfs /srv" in first.part("fstab")
    assert "the image's files are copied onto it" in first.output
    look = """cd "$rootmnt/etc"; stat -c "%u:%g %a %h" secret
    python3 -c "import os; print(os.getxattr('secret', 'user.kept').decode())"; cat ../usr/lib/modules/*/modules.dep"""
    kept = bench.boot(volume, then=look)
    assert kept.report["first"] == "no"
    assert "copied onto" not in kept.output
    assert kept.part("end") == "7:8 600 2\nyes\nof Debian 13\n"


def test_the_kernels_modules_are_the_images(bench: Bench) -> None:
    volume = bench.volume()
    bench.boot(volume)
    newer = bench.disk(bench.tree("Debian 14"), "rootfs")
    second = bench.boot(
        volume, image=newer, then='cat "$rootmnt"/usr/lib/modules/*/modules.dep "$rootmnt/usr/lib/os-release"'
    )
    assert second.report["state"] == "used", second.output + second.errors
    assert "of Debian 14" in second.part("end")
    assert "PRETTY_NAME='Debian 13'" in second.part("end"), "the rest is the volume's"


def test_a_copy_that_was_cut_off_is_made_again(bench: Bench) -> None:
    volume = bench.volume()
    dirty(
        bench,
        volume,
        "mkdir -p .cloudboot usr/lib/systemd other && echo copying > .cloudboot/copied && echo half > usr/lib/systemd/systemd && ln -s / etc",
    )
    again = bench.boot(volume)
    assert again.report["state"] == "used", again.output + again.errors
    assert again.report["first"] == "yes"
    assert "other" not in again.part("files").split()
    assert "etc/secret 600" in again.part("files").splitlines()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        ({"files": {"data/x": "1"}}, "holds files, and no system"),
        ({"identity": "root: {copy: false}\n"}, "does not let one be copied"),
        ({"mib": 4}, "is too small for a copy of the image"),
    ],
)
def test_what_is_not_copied_onto(bench: Bench, make: dict[str, object], told: str) -> None:
    found = bench.boot(bench.volume(**make))  # type: ignore[arg-type]
    assert found.report["state"] == "fallback"
    assert told in found.report["reason"], found.output
    assert [line.split()[:2] for line in found.mounts] == [["/root", "ext4"]]
    assert "LABEL=rootfs / " in found.part("fstab"), "the image is as it was"


def test_a_system_that_somebody_else_has_put_there_is_used(bench: Bench) -> None:
    volume = bench.volume(files={"usr/lib/systemd/systemd": "theirs", "etc/fstab": "none /tmp tmpfs\n"})
    found = bench.boot(volume)
    assert found.report["state"] == "used"
    assert found.report["first"] == "no"
    assert found.part("fstab") == "none /tmp tmpfs\n"


# -- overlay


def test_overlay(bench: Bench) -> None:
    volume = bench.volume("root: {mode: overlay}\n")
    before = digest(bench.image)
    first = bench.boot(
        volume, then='mount -o remount,rw "$rootmnt"; echo new > "$rootmnt/etc/new"; rm "$rootmnt/etc/secret"'
    )
    assert first.report | {"uuid": ""} == {
        "state": "used", "mode": "overlay", "device": "vdb", "uuid": "", "volume": "", "label": "vendor", "first": "yes",
    }, first.output + first.errors  # fmt: skip
    assert sorted(line.split()[0] for line in first.mounts) == ["/root", "/run/image", "/run/volume"]
    image = next(line for line in first.mounts if line.startswith("/run/image"))
    assert "ro" in image.split()[2].split(",")
    assert first.part("fstab") == "# of the image\ntmpfs /srv tmpfs size=1m 0 0\n"
    second = bench.boot(volume)
    assert second.report["first"] == "no"
    assert "etc/new 644" in second.part("files").splitlines()
    assert "etc/secret 600" not in second.part("files").splitlines()
    assert digest(bench.image) == before, "the image is never written to"


def test_another_image_under_an_upper_layer(bench: Bench) -> None:
    volume = bench.volume("root: {mode: overlay}\n")
    bench.boot(volume)
    other = bench.disk(bench.tree("Debian 14"), "rootfs")
    refused = bench.boot(volume, image=other)
    assert refused.report["state"] == "fallback"
    assert "was made over another image" in refused.report["reason"]
    assert [line.split()[:2] for line in refused.mounts] == [["/root", "ext4"]]
    moved = bench.boot(volume, image=other, cmdline="ro cloudboot.root.rebase=yes")
    assert moved.report["state"] == "used"
    assert moved.report["rebased"] == "yes"
    assert bench.boot(volume, image=other).report["state"] == "used", "it belongs to the other one now"
    assert bench.boot(volume, policy=WAIT.replace("rebase no", "rebase yes")).report["rebased"] == "yes"


# -- which volume


@pytest.mark.parametrize(
    ("make", "told"),
    [
        ({"sign": False}, "root is not signed by one of consume.signers"),
        ({"files": {"ebs-config.txt": "root: {}\n"}}, "its signature is not by a signer of the policy"),
        ({"files": {"ebs-config.txt": "root: {mode: root}\n"}}, "is not in the plain form"),
        ({"files": {"ebs-config.txt": "x" * 70000}}, "is no regular file, or too large"),
        ({"identity": "root: {volume: vol-0123}\n"}, "it is the identity of vol-0123"),
    ],
)
def test_refused(bench: Bench, make: dict[str, object], told: str) -> None:
    volume = bench.volume(**make)  # type: ignore[arg-type]
    before = digest(volume)
    found = bench.boot(volume)
    assert found.report["state"] == "fallback", found.output
    assert found.report["reason"] == "no volume says that it is the root (waited 0 s)"
    assert told in found.report["refused"], found.output + found.errors
    assert digest(volume) == before


def test_a_link_is_not_followed(bench: Bench) -> None:
    volume = bench.volume("")
    dirty(bench, volume, "ln -s /etc/hostname ebs-config.txt")
    assert "is no regular file" in bench.boot(volume).report["refused"]


@pytest.mark.parametrize("identity", ["", "mount: {where: /srv/a}\n"])
def test_volumes_that_are_for_something_else_are_no_business_of_ours(bench: Bench, identity: str) -> None:
    volume = bench.volume(identity, sign=False)
    before = digest(volume)
    found = bench.boot(volume)
    assert found.report == {"state": "fallback", "reason": "no volume says that it is the root (waited 0 s)"}
    assert digest(volume) == before


def test_unsigned_where_the_owner_says_so(bench: Bench) -> None:
    volume = bench.volume("root: {mode: overlay}\n", sign=False)
    assert bench.boot(volume, policy=WAIT.replace("unsigned no", "unsigned yes")).report["state"] == "used"


def test_match(bench: Bench) -> None:
    volumes = [bench.volume("root: {mode: overlay}\n", label=label) for label in ("mine", "other")]
    both = bench.boot(*volumes)
    assert both.report["reason"] == "vdb and vdc both say that they are the root"
    assert bench.boot(*volumes, policy=f"{WAIT}label mi*\n").report["device"] == "vdb"
    assert bench.boot(*volumes, cmdline="cloudboot.root=LABEL=other").report["device"] == "vdc"
    off = bench.boot(*volumes, cmdline="cloudboot.root=off")
    assert off.report == {}
    assert [line.split()[:2] for line in off.mounts] == [["/root", "ext4"]]


def test_a_twin_of_the_image(bench: Bench) -> None:
    volume = bench.volume("root: {mode: overlay}\n")
    uuid = run(["blkid", "-p", "-o", "value", "-s", "UUID", bench.image]).stdout.strip()
    run(["tune2fs", "-f", "-U", uuid, volume])
    assert "has the UUID of the image's" in bench.boot(volume).report["refused"]


def test_a_dirty_volume_is_used_after_its_check(bench: Bench) -> None:
    volume = bench.volume("root: {mode: overlay}\n")
    dirty(bench, volume, "echo 1 > file")
    assert "needs_recovery" in run(["dumpe2fs", "-h", volume]).stdout
    found = bench.boot(volume)
    assert found.report["state"] == "used", found.output + found.errors
    assert "recovering journal" in found.output


def test_a_volume_that_cannot_be_mounted_is_left(bench: Bench) -> None:
    volume = bench.volume("root: {mode: overlay}\n")
    run(["debugfs", "-w", "-R", "clri <2>", volume])
    before = digest(volume)
    assert "cannot be mounted for a look" in bench.boot(volume).report["refused"]
    assert digest(volume) == before


def test_a_volume_that_its_check_cannot_mend_is_left(bench: Bench) -> None:
    volume = bench.volume("root: {mode: overlay}\n", files={"folder/file": "text"})
    for change in ("set_inode_field /folder mode 0100644", "set_super_value state 2"):
        run(["debugfs", "-w", "-R", change, volume])
    found = bench.boot(volume)
    assert found.report == {"state": "fallback", "reason": "vdb: its file system is damaged: e2fsck /dev/vdb"}
    assert [line.split()[:2] for line in found.mounts] == [["/root", "ext4"]]


def test_xfs(bench: Bench, scratch: Scratch) -> None:
    tree = scratch.directory("volume")
    said = f"{scratch.directory('said')}/said"
    Path(said).write_text("root: {mode: root}\n", encoding="utf-8")
    assert main(["consume", "--init", tree, "--identity", said, "--sign", bench.key]) == 0
    file, where = scratch.file("xfs.img"), scratch.directory("mnt")
    with open(file, "xb") as empty:
        empty.truncate(300 << 20)
    run(["mkfs.xfs", "-q", "-L", "vendor", file])
    run(["sh", "-ec", 'mount -o loop "$1" "$2"; cp "$3"/* "$2"; umount "$2"', "sh", file, where, tree])
    found = bench.boot(file)
    assert found.report["state"] == "used", found.output + found.errors
    assert f"UUID={found.report['uuid']} / xfs defaults 0 0" in found.part("fstab")


# -- without one


def test_wait_then_stop(bench: Bench) -> None:
    found = bench.boot(policy=WAIT.replace("fallback", "stop").replace("wait 0", "wait 2"))
    assert "PANIC: cloudboot: no volume says that it is the root (waited 2 s); the policy says: stop" in found.output
    assert "waits for a volume that is the root (1 of 2 s)" in found.output


def test_a_volume_that_comes_late(bench: Bench) -> None:
    late = bench.volume("root: {mode: overlay}\n")
    # The device appears while the script waits.
    before = 'mv "$SYS/class/block/vdb" "$SYS/late"; (sleep 2; mv "$SYS/late" "$SYS/class/block/vdb") &'
    found = bench.boot(late, policy=WAIT.replace("wait 0", "wait 20"), before=before)
    assert found.report["state"] == "used", found.output + found.errors


def test_usr_of_its_own(bench: Bench) -> None:
    found = bench.boot(bench.volume("root: {mode: overlay}\n"), before='mount -t tmpfs tmpfs "$rootmnt/usr"')
    assert found.report["state"] == "fallback"
    assert "/usr is a file system of its own" in found.report["reason"]


def test_without_a_policy_nothing_is_done(bench: Bench) -> None:
    found = bench.boot(bench.volume(), before='POLICY="$RUN/none"')
    assert found.report == {}
    assert "cloudboot:" not in found.output


def test_no_loop_is_left(bench: Bench) -> None:
    bench.boot(bench.volume(), bench.volume(sign=False))
    shown = run(["losetup", "--noheadings", "--list", "--output", "BACK-FILE"]).stdout
    assert bench.scratch.path not in shown
