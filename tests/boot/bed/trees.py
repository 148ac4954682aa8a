"""Image trees by Debian suite: built once with mmdebstrap, kept in a cache, used through overlays and copies."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from boot.bed.command import BedError, run
from boot.bed.scratch import cache_directory, unmount_below

if TYPE_CHECKING:
    from boot.bed.scratch import Scratch

FORMAT = 3
"""Raise it when `_clean` or the way a tree is built changes: cached trees of other formats are not used."""

BUILD_TIMEOUT = 900.0
SPARE_BYTES = 6 << 30
"""With less than this free in the cache, trees that nobody uses are removed before one is built."""

PACKAGES = [
    "systemd-sysv",
    "udev",
    "dbus",
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "python3",
    "python3-yaml",
    "python3-requests",
    "python3-jinja2",
    "python3-jsonschema",
    "iproute2",
    "nftables",
    "iptables",
    "openssh-server",
    "sudo",
    "kmod",
    "util-linux",
    "fdisk",
    "gdisk",
    "parted",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "cloud-guest-utils",
    "ca-certificates",
    "curl",
    "systemd-resolved",
    "locales",
    "passwd",
    "rsyslog",
    "chrony",
]

SUITES: dict[str, list[str]] = {
    "bookworm": [],
    "trixie": [],
    # The index of a suite in development expires while a mirror snapshot stands still.
    "forky": ['--aptopt=Acquire::Check-Valid-Until "false"'],
}

# Debian 12's QEMU breaks or hangs a guest's kernel in one boot of some twenty, and takes half as long again.
EMULATOR = "trixie"
EMULATOR_PACKAGES = ["qemu-system-x86"]

HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"


class Tree(NamedTuple):
    """An image tree that nobody may write to: one or more directories, the topmost first."""

    suite: str
    layers: tuple[str, ...]

    @property
    def kernel(self) -> str:
        """The path of the kernel, for `Machine`."""
        return self._boot_file("vmlinuz-")

    @property
    def initrd(self) -> str:
        """The path of the initramfs, for `Machine`. After a rebuild in an overlay, use `Overlay.tree()`'s."""
        return self._boot_file("initrd.img-")

    def overlay(self, scratch: Scratch) -> Overlay:
        """Return a writable view for `with`; what is written lives in `scratch`, the tree stays as it is."""
        return Overlay(self, scratch.directory("overlay"))

    def copy(self, dest: str, scratch: Scratch) -> None:
        """Copy the whole tree to the directory `dest`, which must not exist yet (seconds; prefer `overlay`)."""
        with self.overlay(scratch) as view:
            run(["cp", "-a", "--reflink=auto", view.path, dest], timeout=300)

    def _boot_file(self, prefix: str) -> str:
        for layer in self.layers:
            boot = f"{layer}/boot"
            names = sorted(name for name in os.listdir(boot) if name.startswith(prefix)) if os.path.isdir(boot) else []
            if names:
                return f"{boot}/{names[-1]}"
        raise BedError(f"{self.suite}: no {prefix}* in its /boot")


class Overlay:
    """A writable view of a tree (overlayfs), mounted from `__enter__` to `__exit__`; `path` is its root directory."""

    def __init__(self, tree: Tree, directory: str) -> None:
        self.suite = tree.suite
        self.path = f"{directory}/root"
        self._lower = tree
        self._directory = directory

    def __enter__(self) -> Self:
        for name in ("root", "upper", "work"):
            os.mkdir(f"{self._directory}/{name}", 0o755)
        options = f"lowerdir={':'.join(self._lower.layers)},upperdir={self._upper},workdir={self._directory}/work"
        run(["mount", "-t", "overlay", "-o", options, "overlay", self.path])
        return self

    def __exit__(self, *_: object) -> None:
        unmount_below(self.path)
        shutil.rmtree(self._directory)

    @property
    def _upper(self) -> str:
        return f"{self._directory}/upper"

    def tree(self) -> Tree:
        """Return this state as a tree to put further overlays on, while this one stays mounted and is not written to.

        Bake once into an overlay, then give every test an overlay of `overlay.tree()`.
        """
        return Tree(self.suite, (self._upper, *self._lower.layers))


class Trees:
    """The cache of trees. What `get` returned stays in the cache at least until `close`."""

    def __init__(self, cache: str | None = None) -> None:
        self.cache = f"{cache or cache_directory()}/trees"
        self._locks: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the trees: another process may remove them when it needs the room."""
        for lock in self._locks.values():
            os.close(lock)
        self._locks.clear()

    def get(self, suite: str, *, extra: tuple[str, ...] = ()) -> Tree:
        """Return the tree of `suite` (a key of SUITES) with the packages `extra` added; build it if need be.

        Building takes about a minute. `extra=("cloud-init",)` is the reference agent for comparisons. Two
        processes that want the same tree wait for each other. Raises BedError if it cannot be built.
        """
        return Tree(suite, (self._kept("-".join([suite, *extra]), suite, "minbase", [*PACKAGES, *extra]),))

    def emulator(self) -> str:
        """Return a directory with Debian 13's QEMU and its libraries, unpacked but not installed; fetch it if need be."""
        return self._kept("emulator", EMULATOR, "extract", EMULATOR_PACKAGES)

    def _kept(self, label: str, suite: str, variant: str, packages: list[str]) -> str:
        """Return the path of a tree in the cache, built if it is not there; it stays until `close`."""
        digest = hashlib.sha256(json.dumps([FORMAT, variant, packages, SUITES[suite]]).encode()).hexdigest()[:12]
        name = f"{label}-{digest}"
        path = f"{self.cache}/{name}"
        if name not in self._locks:
            os.makedirs(self.cache, exist_ok=True)
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._locks[name] = lock
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Changing a lock lets go of it for a moment: another process may build, or remove, the tree in between.
            while not os.path.isdir(path):
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not os.path.isdir(path):
                    self._make_room()
                    _build(suite, variant, packages, path)
                fcntl.flock(lock, fcntl.LOCK_SH)
        return path

    def _make_room(self) -> None:
        """Remove trees that no process holds, the one built longest ago first, until there is room for another."""
        trees = [f"{self.cache}/{name[:-5]}" for name in os.listdir(self.cache) if name.endswith(".lock")]
        for path in sorted((p for p in trees if os.path.isdir(p)), key=os.path.getmtime):
            if shutil.disk_usage(self.cache).free > SPARE_BYTES:
                return
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(path, f"{path}.part")  # never half a tree under its name
                shutil.rmtree(f"{path}.part")
            except BlockingIOError:
                continue
            finally:
                os.close(lock)


def _build(suite: str, variant: str, packages: list[str], path: str) -> None:
    """Build a tree at `path`: complete or not at all. Called with the tree's lock held."""
    draft = f"{path}.part"
    if os.path.isdir(draft):  # its builder was killed: the lock is ours now
        unmount_below(draft)
        shutil.rmtree(draft)
    argv = ["mmdebstrap", f"--variant={variant}", "--mode=root", "--format=directory"]
    argv += [f"--include={','.join(packages)}", *SUITES[suite], suite, draft]
    if mirror := os.environ.get("CLOUDBOOT_MIRROR"):  # else mmdebstrap's own choice for the suite
        argv.append(f"deb {mirror} {suite} main")
    log = f"{path}.log"
    # The caller's environment, not the bed's clean one: a proxy may be the only way to the mirror.
    with open(log, "wb") as output:
        try:
            subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True, timeout=BUILD_TIMEOUT
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            unmount_below(draft)
            raise BedError(f"{suite}: tree not built: {error}: see {log}") from error
    if variant != "extract":
        _clean(draft)
    os.utime(draft, (time.time(), time.time()))
    os.rename(draft, path)


def _clean(root: str) -> None:
    """Remove what the building host left, and what a published image never has: host keys.

    The machine-id stays as mmdebstrap leaves it (empty).
    """
    ssh = f"{root}/etc/ssh"
    for name in os.listdir(ssh):
        if name.startswith("ssh_host_"):
            os.unlink(f"{ssh}/{name}")
    # The options a tree was built with, and systemd-resolved's copy of the builder's resolv.conf.
    for path in ("etc/apt/apt.conf.d/99mmdebstrap", "etc/.resolv.conf.systemd-resolved.bak"):
        if os.path.exists(f"{root}/{path}"):
            os.unlink(f"{root}/{path}")
    resolv = f"{root}/etc/resolv.conf"
    if not os.path.islink(resolv):  # systemd-resolved's link is the image's own; a file came from the builder
        if os.path.exists(resolv):
            os.unlink(resolv)
        os.symlink("../run/systemd/resolve/stub-resolv.conf", resolv)
    for path, text in (("etc/hostname", "localhost\n"), ("etc/hosts", HOSTS)):
        with open(f"{root}/{path}", "w", encoding="utf-8") as file:
            file.write(text)


def prepare_machine(root: str, interfaces: str = "en* eth*") -> None:
    """Give the tree `root` what a published image has and a container does without: fstab and a network.

    The fstab mounts the root file system read-write by its label; systemd-networkd configures `interfaces` by DHCP
    and router advertisements.
    """
    with open(f"{root}/etc/fstab", "w", encoding="utf-8") as file:
        file.write("LABEL=rootfs / ext4 rw,discard,errors=remount-ro 0 1\n")
    with open(f"{root}/etc/systemd/network/80-dhcp.network", "w", encoding="utf-8") as file:
        file.write(f"[Match]\nName={interfaces}\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n")
    run(["systemctl", f"--root={root}", "enable", "systemd-networkd.service"])
