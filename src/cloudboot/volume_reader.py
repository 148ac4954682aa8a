"""Look at volumes that may be anything: what is on them, and a few files of them, without writing a byte.

What a device holds is told from its superblocks, without mounting (`superblock`). Files are read by a program of its
own (`volume_worker`) with a time limit: a device that does not answer holds up nobody but itself.
"""

from __future__ import annotations

import os
import time

from cloudboot import blank, disks
from cloudboot.errors import ConfigError
from cloudboot.superblock import Superblock, classify
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cloudboot.disks import Disks
    from cloudboot.host import Host
    from cloudboot.process import Result

WORKER = f"{os.path.dirname(os.path.abspath(__file__))}/volume_worker.py"
PROGRAM = ("python3", "-IS", "-")  # the worker is on its standard input: it need not be in the tree
IDENTITY, SIGNATURE = "ebs-config.txt", "ebs-config.txt.sig"  # these three as in the worker
SMALL = 64 << 10  # bytes of each
LOOKS = 8  # devices that are looked at at once
LOOK_LIMIT = 20.0  # seconds for the superblocks of one device
READ_LIMIT = 20.0  # seconds for the identity file of one volume: as in the worker
COPY_LIMIT = 120.0
# What has files and may be mounted for a look. Members of LVM, RAID and LUKS are never put together.
FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "iso9660", "squashfs")
SILENT = Superblock("unknown", "unknown", "", "", "does not answer")


class Found(NamedTuple):
    """What is on a device. `use`: who uses it, None if nobody does, and only then it was looked at."""

    name: str  # the kernel's
    use: str | None
    content: Superblock


class Files(NamedTuple):
    """The identity file of a volume and its signature, None where there is none; or why they cannot be read.

    dirty: there is none, and one may be in a journal that was not replayed.
    """

    identity: bytes | None = None
    signature: bytes | None = None
    error: str = ""
    dirty: bool = False


def candidates(known: Disks) -> list[str]:
    """Return the kernel names of all disks and partitions; an optical drive is none, and may be empty.

    A container sees its host's in /sys, and has no nodes of them.
    """
    names = [disk for disk in known.all() if not disk.startswith("sr")]
    found = [name for disk in names for name in (disk, *blank.parts(known.host, disk))]
    return [name for name in found if known.host.exists(f"/dev/{name}")]


def look(host: Host, names: Sequence[str]) -> list[Found]:
    """Tell what is on each device, without mounting it."""
    taken = blank.mounts_and_swaps(host)
    found = at_once(lambda name: _look(host, name, taken), names, LOOKS, LOOK_LIMIT)
    return [each or Found(name, None, SILENT) for name, each in zip(names, found, strict=True)]


def read(host: Host, found: Sequence[Found]) -> list[Files]:
    """Read the identity files of these volumes, some at a time, each with a time limit."""
    import binascii

    if not found:
        return []
    words = [word for each in found for word in (f"/dev/{each.name}", each.content.kind)]
    answers = _parsed(host.ask([*PROGRAM, "read", *words], stdin=_worker(), timeout=READ_LIMIT * (len(found) + 1)))
    files = []
    for each in found:
        answer = answers.get(f"/dev/{each.name}", answers)
        if "error" in answer:
            files.append(Files(error=str(answer["error"])))
            continue
        content = {
            key: binascii.a2b_base64(answer[key]) for key in ("identity", "signature") if answer.get(key) is not None
        }
        files.append(Files(content.get("identity"), content.get("signature"), dirty=bool(answer.get("dirty"))))
    return files


def digests(host: Host, found: Found, paths: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of files of a volume, in hexadecimal. Raises ConfigError if one cannot be read."""
    argv = [*PROGRAM, "hash", f"/dev/{found.name}", found.content.kind, *paths]
    answer = _parsed(host.ask(argv, stdin=_worker(), timeout=COPY_LIMIT))
    if "error" in answer:
        raise ConfigError(str(answer["error"]))
    files: dict[str, dict[str, Any]] = answer["files"]
    for path in paths:
        if "error" in files[path]:
            raise ConfigError(f"{path}: {files[path]['error']}")
    return {path: str(files[path]["sha256"]) for path in paths}


class CopyFile(NamedTuple):
    """A file of a volume with this SHA-256, copied to where only root may write. What differs is never there."""

    device: str  # the kernel's name
    kind: str
    source: str
    sha256: str
    path: str
    mode: int = 0o700
    owner: str = "root:root"

    @property
    def text(self) -> str:
        return f"copy {self.source} of {self.device} to {self.path} {self.mode:04o} (sha256 {self.sha256[:12]}…)"

    @property
    def live_only(self) -> str | None:
        return "volumes are those of the running machine"

    def done(self, host: Host) -> bool:
        entry = host.look(self.path, follow=False)
        if entry is None or entry.kind != "file":
            return False
        access = (self.mode, *host.root.ids(self.owner))
        return (entry.mode, entry.uid, entry.gid) == access and _sha256(host.root.outside(self.path)) == self.sha256

    def apply(self, host: Host) -> None:
        folder, name = os.path.split(self.path)
        host.make_parents(self.path)
        draft = host.root.outside(f"{folder}/.{name}.draft")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            argv = [*PROGRAM, "copy", f"/dev/{self.device}", self.kind, self.source]
            result = host.spawn(argv, stdin=_worker(), timeout=COPY_LIMIT, output=file)
            if not result.ok:
                raise ConfigError(f"{self.source}: cannot be read from {self.device}")
            if _sha256(draft) != self.sha256:
                raise ConfigError(f"{self.source}: is not what was signed (another SHA-256)")
            os.fchown(file, *host.root.ids(self.owner))
            os.fchmod(file, self.mode)
            os.fsync(file)
            os.rename(draft, host.root.outside(self.path))
        except BaseException:
            os.unlink(draft)
            raise
        finally:
            os.close(file)

    def plan(self, host: Host) -> None:
        """Put a file in the place, in a plan."""
        host.make_parents(self.path)
        host.root.write(self.path, b"", self.mode, *host.root.ids(self.owner))


def at_once(work: Callable[[Any], Any], items: Sequence[Any], most: int, limit: float) -> list[Any]:
    """Do the work for all items, `most` of them at a time; None for what has not come to an end after `limit` seconds.

    Who hangs in the kernel cannot be ended: its thread is left behind, another one takes its place.
    """
    import threading

    todo = list(enumerate(items))[::-1]
    running: dict[int, float] = {}
    answers: dict[int, Any] = {}
    given_up: set[int] = set()
    changed = threading.Condition()

    def thread() -> None:
        while True:
            with changed:
                if not todo:
                    return
                number, item = todo.pop()
                running[number] = time.monotonic()
            try:
                answer = work(item)
            except Exception as error:  # noqa: BLE001 - raised where the answers are collected
                answer = error
            with changed:
                running.pop(number, None)
                answers[number] = answer
                changed.notify()
                if number in given_up:
                    return  # another thread has its place

    def begin() -> None:
        threading.Thread(target=thread, daemon=True).start()

    for _ in range(min(most, len(items))):
        begin()
    with changed:
        while len(answers.keys() | given_up) < len(items):
            changed.wait(0.5)
            now = time.monotonic()
            for number in [number for number, since in running.items() if now - since >= limit]:
                del running[number]
                given_up.add(number)
                begin()
        found = [None if number in given_up else answers[number] for number in range(len(items))]
    for answer in found:
        if isinstance(answer, Exception):
            raise answer
    return found


# -- how


def _look(host: Host, name: str, taken: Mapping[str, str]) -> Found:
    use = blank.in_use(host, name, taken)
    if use is not None:
        return Found(name, use, SILENT)

    def bytes_at(offset: int, length: int) -> bytes:
        return host.root.read_at(f"/dev/{name}", offset, length)

    try:
        return Found(name, None, classify(bytes_at, disks.size(host, name) * disks.SECTOR))
    except OSError as error:
        return Found(name, None, SILENT._replace(detail=f"cannot be read: {error.strerror}"))


def _parsed(result: Result) -> dict[str, Any]:
    import json

    try:
        answer = json.loads(result.output) if result.ok else None
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    if result.status < 0:
        return {"error": "did not answer in time"}
    last = result.output.strip().splitlines()[-1:] or [f"exit status {result.status}"]
    return {"error": f"cannot be read: {last[0]}"}


def _worker() -> bytes:
    with open(WORKER, "rb") as file:
        return file.read()


def _sha256(path: str) -> str:
    from hashlib import file_digest

    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
