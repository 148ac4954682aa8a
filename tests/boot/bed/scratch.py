"""Tags and scratch directories: everything the bed makes can be found again by the pid in its name."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Self

from boot.bed.command import MARK, PATH, BedError, run

TAG = re.compile(r"cbt-(\d+)-[0-9a-f]{6}")
NETNS = "/run/netns"
TOOLS = {
    "container": ["mmdebstrap", "systemd-nspawn", "ip", "nft", "nsenter", "mount", "ssh", "ssh-keygen", "dpkg-deb"],
    "machine": ["mmdebstrap", "qemu-img", "mkfs.ext4", "sfdisk", "ip", "ssh", "ssh-keygen"],
}


def new_tag() -> str:
    """Return a name that no other resource has and that says which process made it: `cbt-PID-HEX`."""
    return f"cbt-{os.getpid()}-{secrets.token_hex(3)}"


def cache_directory() -> str:
    """Return where trees are kept between runs: $CLOUDBOOT_CACHE, else $XDG_CACHE_HOME/cloudboot, else /var/cache."""
    if own := os.environ.get("CLOUDBOOT_CACHE"):
        return own
    if user := os.environ.get("XDG_CACHE_HOME"):
        return f"{user}/cloudboot"
    return "/var/cache/cloudboot-tests"


def missing_tools(tier: str) -> str:
    """Say in one line why boot tests of `tier` (`container`, `machine`) cannot run here; empty if they can."""
    if os.geteuid() != 0:
        return f"{tier} tests need root"
    absent = [tool for tool in TOOLS[tier] if shutil.which(tool, path=PATH) is None]
    if absent:
        return f"{tier} tests need {', '.join(absent)}: install the packages in tests/boot/packages.txt"
    return ""


class Scratch:
    """A directory on the cache's file system, removed with everything mounted below it on exit.

    It is not under /tmp, which may be a small tmpfs and is kept for three sessions by pytest.
    """

    def __init__(self, cache: str | None = None) -> None:
        self.path = f"{cache or cache_directory()}/scratch/{new_tag()}"

    def __enter__(self) -> Self:
        os.makedirs(self.path, mode=0o755)
        return self

    def __exit__(self, *_: object) -> None:
        unmount_below(self.path)
        shutil.rmtree(self.path)

    def file(self, name: str) -> str:
        """Return the path of `name` in this directory; nothing is created."""
        return f"{self.path}/{name}"

    def directory(self, prefix: str) -> str:
        """Create an empty directory with a name of its own and return its path."""
        path = tempfile.mkdtemp(prefix=f"{prefix}-", dir=self.path)  # tries another name where one is taken
        os.chmod(path, 0o755)
        return path


def mounts_below(path: str) -> list[str]:
    """List the mount points at or below `path`, the deepest first."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in file]
    return sorted((p for p in points if p == path or p.startswith(path + "/")), key=len, reverse=True)


def unmount_below(path: str) -> None:
    """Unmount everything at or below `path`; a busy mount is tried for 5 s, then detached."""
    for point in mounts_below(path):
        for _ in range(50):
            if run(["umount", point], check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            run(["umount", "--lazy", point])


def cgroup_mounts() -> list[str]:
    """List where cgroup hierarchies are mounted, the unified one first (/sys/fs/cgroup, or …/unified if hybrid).

    On a hybrid host systemd-nspawn mirrors its cgroups in the old hierarchies, where nobody else removes them.
    """
    mounts: dict[str, list[str]] = {"cgroup2": [], "cgroup": []}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            fields = line.split(" ")
            mounts.get(fields[fields.index("-") + 1], []).append(fields[4])
    if not mounts["cgroup2"]:
        raise BedError("cgroup2: not mounted: mount it on /sys/fs/cgroup")
    return mounts["cgroup2"] + mounts["cgroup"]


def kill_cgroup(name: str) -> None:
    """Kill every process in the cgroup `name` and below, at once, and remove it; quiet if there is none."""
    unified, *others = (f"{mount}/{name}" for mount in cgroup_mounts())
    if os.path.isdir(unified):
        with open(f"{unified}/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")
    deadline = time.monotonic() + 10
    for path in (unified, *others):
        for directory, _, _ in os.walk(path, topdown=False):
            while True:
                try:
                    os.rmdir(directory)
                    break
                except OSError:  # EBUSY until the last process is reaped
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)


def _tagged(names: list[str]) -> dict[str, int]:
    """Pick the names that are tags, with the pid in each."""
    return {name: int(found[1]) for name in names if (found := TAG.fullmatch(name))}


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _cgroups() -> list[str]:
    return [name for mount in cgroup_mounts() for name in _listing(mount)]


def _marked_processes() -> dict[int, int]:
    """Map the pid of every living process that a bed started to the pid of that bed's test process."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environ = file.read()
        except OSError:  # it has ended meanwhile
            continue
        if match := re.search(rb"(?:^|\0)%s=(\d+)" % MARK.encode(), environ):
            found[int(name)] = int(match[1])
    return found


def _loops() -> dict[str, str]:
    """Map loop device names to what is behind them."""
    found = {}
    for name in _listing("/sys/block"):
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as file:
                found[name] = file.read().strip()
        except OSError:
            continue
    return found


def leftovers(owner: int, cache: str | None = None) -> list[str]:
    """List what the test process `owner` made and did not remove, one line each; empty when all is clean."""
    base = f"{cache or cache_directory()}/scratch"
    lines = [f"namespace {name}" for name, pid in _tagged(_listing(NETNS)).items() if pid == owner]
    lines += [f"scratch {base}/{name}" for name, pid in _tagged(_listing(base)).items() if pid == owner]
    lines += [f"cgroup {name}" for name, pid in _tagged(_cgroups()).items() if pid == owner]
    lines += [f"mount {point}" for point in mounts_below(base) if f"/cbt-{owner}-" in point]
    lines += [f"loop {name}: {file}" for name, file in _loops().items() if f"/cbt-{owner}-" in file]
    lines += [f"process {pid}" for pid, starter in _marked_processes().items() if starter == owner]
    return lines


def sweep(cache: str | None = None) -> None:
    """Remove what test processes left that no longer live (a killed pytest cannot clean up after itself)."""
    base = f"{cache or cache_directory()}/scratch"
    os.makedirs(base, exist_ok=True)
    lock = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of one run begin at the same time
        _sweep(base)
    finally:
        os.close(lock)


def _sweep(base: str) -> None:
    for pid, starter in _marked_processes().items():
        if _dead(starter):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    for name, owner in _tagged(_cgroups()).items():
        if _dead(owner):
            kill_cgroup(name)
    for name, owner in _tagged(_listing(NETNS)).items():
        if _dead(owner):
            run(["ip", "netns", "del", name])
    for name, owner in _tagged(_listing(base)).items():
        if _dead(owner):
            unmount_below(f"{base}/{name}")
            for device, file in _loops().items():
                if file.startswith(f"{base}/{name}/"):
                    subprocess.run(["losetup", "--detach", f"/dev/{device}"], check=True)
            shutil.rmtree(f"{base}/{name}")


def _dead(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")
