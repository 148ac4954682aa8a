"""Read files of a volume without writing to it: a program of its own, which `volume_reader` hands to python3.

    python3 -IS - read DEVICE KIND [DEVICE KIND]…   the identity files and their signatures
    python3 -IS - hash DEVICE KIND PATH…            SHA-256 of files
    python3 -IS - copy DEVICE KIND PATH             a file's bytes

A volume is mounted in a mount namespace that ends with its process, through a loop device that refuses every write:
whenever and however the process ends, the kernel takes both away. What is on the volume may be hostile: no symlink is
followed, no device or FIFO opened, no more read than is allowed.

It answers in JSON; what cannot be read is `{"error": …}`.
"""

from __future__ import annotations

import binascii
import ctypes
import errno
import json
import os
import select
import signal
import stat
import sys
import time
from fcntl import ioctl

IDENTITY, SIGNATURE = "ebs-config.txt", "ebs-config.txt.sig"
SMALL = 64 << 10  # bytes of an identity file, or of a signature
LARGE = 256 << 20  # bytes of a file that is run
PIECE = 1 << 20
AT_ONCE = 4  # volumes that are mounted
LIMIT = 20  # seconds for one
ROOM = 900 << 10  # bytes of all answers: more than this is not taken from a program
PLACE = "/run"  # always there; in a namespace of our own nobody misses what was there

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOSYMFOLLOW = 1, 2, 4, 8, 256
MS_REC, MS_PRIVATE = 0x4000, 0x40000
LOOP_CTL_GET_FREE, LOOP_CONFIGURE = 0x4C82, 0x4C0A
LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR = 1, 4
TRIES = 50  # others may take the loop device that we were given

JOURNALS = ("ext3", "ext4", "xfs", "btrfs")  # with a dirty one, a plain `ro` writes
RECOVERS = ("ext2", *JOURNALS)  # understand norecovery


def main(words: list[str]) -> int:
    """Do what the words say; return the exit status."""
    verb, device, kind, *others = words
    try:
        be_alone()
        if verb == "read":
            return answer(read_all([(device, kind), *zip(others[::2], others[1::2], strict=True)]))
        volume = mounted(device, kind)
    except OSError as error:
        return answer({"error": f"cannot be mounted: {error.strerror}"})
    if verb == "copy":
        return copy(volume, others[0])
    return answer({"files": {path: hashed(volume, path) for path in others}})


def answer(found: dict[str, object]) -> int:
    """Print the answer."""
    print(json.dumps(found))
    return 0


# -- many volumes


class Child:
    """A process that reads one volume after the other. device: the one that it reads, empty while it waits.

    orders: written to, a device and its kind. done: read from, a byte for each answer, which is in the file `answers`.
    """

    def __init__(self, others: list[Child]) -> None:
        self.device, self.end = "", 0.0
        self.answers = os.memfd_create("answers", os.MFD_CLOEXEC)
        orders, self.orders = os.pipe()
        self.done, done = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                # Whoever held the end of another's pipe would keep it from seeing that the parent is gone.
                for fd in (self.orders, self.done, *(fd for other in others for fd in other.ends)):
                    os.close(fd)
                serve(orders, done, self.answers)
            finally:
                os._exit(0)
        os.close(orders)
        os.close(done)

    @property
    def ends(self) -> tuple[int, int, int]:
        """What the parent has open for it."""
        return self.orders, self.done, self.answers

    def begin(self, device: str, kind: str) -> None:
        """Let it read a volume."""
        self.device, self.end = device, time.monotonic() + LIMIT
        os.write(self.orders, f"{device}\n{kind}".encode())

    def close(self) -> None:
        """Let go of it."""
        for fd in self.ends:
            os.close(fd)


def serve(orders: int, done: int, answers: int) -> None:
    """Read the volumes that are ordered, until there are no more orders."""
    be_alone()
    while order := os.read(orders, select.PIPE_BUF):
        text = json.dumps(read(*order.decode().split("\n"))).encode()
        os.ftruncate(answers, 0)
        os.pwrite(answers, text, 0)
        os.write(done, b"\n")


def read_all(volumes: list[tuple[str, str]]) -> dict[str, object]:
    """Return by device what each volume says, some at a time, each within a time limit.

    One that hangs in the kernel cannot be ended, nor waited for: its process is left behind, and another one goes on.
    """
    todo = volumes[::-1]
    children: list[Child] = []
    texts: dict[str, bytes] = {}
    while todo or any(child.device for child in children):
        while todo and len(children) < AT_ONCE:
            children.append(Child(children))
            children[-1].begin(*todo.pop())
        poll = select.poll()
        for child in children:
            poll.register(child.done, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(500)}
        for child in list(children):
            ended = False
            if child.done in ready:
                ended = not os.read(child.done, 1)
                texts[child.device] = b"" if ended else os.pread(child.answers, ROOM, 0)
            elif child.device and time.monotonic() >= child.end:
                os.kill(child.pid, signal.SIGKILL)
                texts[child.device] = json.dumps({"error": f"did not answer within {LIMIT} s"}).encode()
                ended = True
            else:
                continue
            child.device = ""
            if ended or not todo:
                children.remove(child)
                child.close()
            else:
                child.begin(*todo.pop())
    while sum(map(len, texts.values())) > ROOM:  # the largest go: nobody's file keeps another's from being read
        largest = max(texts, key=lambda device: len(texts[device]))
        texts[largest] = b'{"error": "identity file and signature are too large for so many volumes"}'
    return {device: json.loads(text or b'{"error": "could not be read"}') for device, text in texts.items()}


def read(device: str, kind: str) -> dict[str, object]:
    """Return the identity file of a volume and its signature, in base64, or why they cannot be read.

    Nothing is mounted afterwards. Raises OSError if it cannot be unmounted.
    """
    try:
        volume = mounted(device, kind)
    except OSError as error:
        return {"error": f"cannot be mounted: {error.strerror}"}
    found: dict[str, object] = {}
    try:
        for name, key in ((IDENTITY, "identity"), (SIGNATURE, "signature")):
            try:
                found[key] = small(volume, name)
            except FileNotFoundError:
                found[key] = None
            except OSError as error:
                return {"error": f"{name}: {told(error)}"}
    finally:
        os.close(volume)
        unmount()
    if found["identity"] is None and kind in JOURNALS:
        found["dirty"] = kind != "btrfs" and dirty(device, kind)  # of btrfs the superblock tells
    return found


# -- mounting


def be_alone() -> None:
    """Go into a mount namespace of our own, from which no mount is seen outside. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    call(libc.unshare(CLONE_NEWNS))
    call(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))


def mounted(device: str, kind: str) -> int:
    """Mount a device; return its root directory. Raises OSError."""
    mount(device, kind, recover=False)
    return os.open(PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def unmount() -> None:
    """Unmount what is mounted last. Raises OSError."""
    call(ctypes.CDLL(None, use_errno=True).umount2(PLACE.encode(), 0))


def dirty(device: str, kind: str) -> bool:
    """Tell whether a file that was not found may be in a journal only: whether the kernel would have to replay one.

    On a device that refuses writes it will not, and says so.
    """
    try:
        mount(device, kind, recover=True)
    except OSError as error:
        return error.errno == errno.EROFS
    unmount()
    return False


def mount(device: str, kind: str, *, recover: bool) -> None:
    """Mount a device read-only, through a loop device that refuses writes. Raises OSError."""
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOSYMFOLLOW
    # xfs refuses a second volume from the same snapshot without nouuid.
    options = ["norecovery"] * (not recover and kind in RECOVERS) + ["nouuid"] * (kind == "xfs")
    libc = ctypes.CDLL(None, use_errno=True)
    loop, keep = read_only_loop(device)
    try:
        given = ",".join(options).encode()
        call(libc.mount(loop.encode(), PLACE.encode(), kind.encode(), ctypes.c_ulong(flags), given))
    finally:
        os.close(keep)  # from now on only the mount holds it


def call(status: int) -> None:
    """Raise OSError for a call into libc that has failed."""
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def read_only_loop(device: str) -> tuple[str, int]:
    """Put a loop device before a device, which lets no write through and is gone with its last user. Raises OSError."""
    backing = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for turn in range(TRIES):
            path = f"/dev/loop{ioctl(control, LOOP_CTL_GET_FREE)}"
            loop = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                ioctl(loop, LOOP_CONFIGURE, configuration(backing))
            except OSError as error:
                os.close(loop)
                if error.errno != errno.EBUSY or turn == TRIES - 1:
                    raise
                continue
            return path, loop
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), device)
    finally:
        os.close(control)
        os.close(backing)


def configuration(backing: int) -> bytes:
    """Return a struct loop_config (linux/loop.h, Linux 5.8): file, block size 0 (the device's own), loop_info64."""
    from struct import pack

    info = bytearray(232)
    info[52:56] = pack("=I", LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR)  # lo_flags
    return pack("=II", backing, 0) + bytes(info) + bytes(64)


# -- reading


def opened(volume: int, path: str) -> tuple[int, os.stat_result]:
    """Open a regular file of the volume, step by step, following no symlink. Raises OSError."""
    *folders, name = path.strip("/").split("/")
    if not name or any(part in ("", ".", "..") for part in (*folders, name)):
        raise OSError(errno.EINVAL, "no path on the volume", path)
    place = os.dup(volume)
    try:
        for part in folders:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
            os.close(place)
            place = deeper
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return file, facts


def small(volume: int, name: str) -> str:
    """Return a small file in base64. Raises OSError."""
    file, facts = opened(volume, name)
    try:
        if facts.st_size > SMALL:
            raise OSError(errno.EFBIG, f"has {facts.st_size} bytes, {SMALL} are allowed", name)
        content = b""
        while piece := os.read(file, SMALL + 1 - len(content)):
            content += piece
        return binascii.b2a_base64(content, newline=False).decode()
    finally:
        os.close(file)


def hashed(volume: int, path: str) -> dict[str, object]:
    """Return a file's size and SHA-256, or why there is none."""
    from hashlib import sha256

    try:
        file, facts = opened(volume, path)
    except OSError as error:
        return {"error": told(error)}
    digest = sha256()
    try:
        if facts.st_size > LARGE:
            return {"error": f"has {facts.st_size} bytes, {LARGE} are allowed"}
        while piece := os.read(file, PIECE):
            digest.update(piece)
    except OSError as error:
        return {"error": told(error)}
    finally:
        os.close(file)
    return {"sha256": digest.hexdigest(), "size": facts.st_size}


def copy(volume: int, path: str) -> int:
    """Write a file's bytes to standard output; 1 where they cannot be read."""
    try:
        file, facts = opened(volume, path)
        if facts.st_size > LARGE:
            return 1
        left = LARGE
        while left and (piece := os.read(file, min(PIECE, left))):
            left -= len(piece)
            while piece:
                piece = piece[os.write(1, piece) :]
    except OSError:
        return 1
    return 0


def told(error: OSError) -> str:
    """Return in words why a file cannot be read."""
    words = {
        errno.ELOOP: "is a symlink, or is reached by one: not followed",
        errno.ENOTDIR: "is reached by a symlink, or by what is no directory: not followed",
        errno.ENOENT: "is not on the volume",
    }
    return words.get(error.errno or 0, error.strerror or "cannot be read")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
