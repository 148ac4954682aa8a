"""Start programs and wait for them.

`subprocess` costs 10 ms of import and its captured pipes hang when a command leaves a daemon behind, so programs
are spawned by posix_spawn with their output in a file (by default one in memory).
"""

from __future__ import annotations

import os
import select

from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SIGINT, SIGKILL, SIGPIPE, SIGTERM = 2, 9, 13, 15  # Linux's, on every architecture; importing `signal` takes 0.7 ms
OUTPUT_LIMIT = 1 << 20  # bytes of output kept from one command


class Result(NamedTuple):
    """What became of a command: exit status (negative: a signal; 127: not found) and what it printed."""

    status: int
    output: str = ""
    recorded: bool = False  # not run, only written down: an image tree, a plan

    @property
    def ok(self) -> bool:
        """Tell whether the command succeeded."""
        return self.status == 0


def base_environment() -> dict[str, str]:
    """Return the environment that tools get: a full PATH, no language, nothing else."""
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}


def which(name: str, path: str = PATH) -> str | None:
    """Find a program on this machine's PATH."""
    if "/" in name:
        return name if os.access(name, os.X_OK) else None
    for folder in path.split(":"):
        full = f"{folder}/{name}"
        if os.access(full, os.X_OK):
            return full
    return None


def spawn(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    output: int | None = None,
    fds: Mapping[int, int] | None = None,
    timeout: float | None = None,
    waiting: Callable[[float], None] | None = None,
) -> Result:
    """Run a program to its end.

    `output` is a file descriptor for what it prints (else it is returned, at most 1 MiB); `fds` maps further
    descriptors of the child to ours. After `timeout` seconds its process group gets SIGTERM, 5 s later SIGKILL.
    `waiting(seconds)` is called every second.
    """
    full = which(argv[0], (env or {}).get("PATH", PATH))
    if full is None:
        return Result(127, f"{argv[0]}: not found")
    catch = output is None
    out = os.memfd_create("output", os.MFD_CLOEXEC) if output is None else output
    given = os.memfd_create("stdin", os.MFD_CLOEXEC) if stdin is not None else os.open(os.devnull, os.O_RDONLY)
    try:
        if stdin is not None:
            os.write(given, stdin)
            os.lseek(given, 0, os.SEEK_SET)
        # SIGPIPE is ignored by Python and would be inherited: shell pipelines need its default.
        actions = [
            (os.POSIX_SPAWN_DUP2, given, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, out, 2),
        ]
        actions += [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in (fds or {}).items()]
        pid = os.posix_spawn(
            full,
            list(argv),
            dict(env) if env is not None else base_environment(),
            file_actions=actions,
            setsid=True,
            setsigdef=[SIGPIPE, SIGINT, SIGTERM],
        )
        status = wait(pid, timeout, waiting)
        if not catch:
            return Result(status)
        os.lseek(out, 0, os.SEEK_SET)
        return Result(status, os.read(out, OUTPUT_LIMIT).decode("utf-8", "replace"))
    except OSError as error:
        return Result(126, f"{argv[0]}: {error.strerror}")
    finally:
        os.close(given)
        if catch:
            os.close(out)


def wait(pid: int, timeout: float | None, waiting: Callable[[float], None] | None) -> int:
    """Wait for a child; return its exit status, negative for a signal."""
    if timeout is not None or waiting is not None:
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        seconds = 0
        try:
            while not poll.poll(1000):
                seconds += 1
                if waiting is not None:
                    waiting(seconds)
                if timeout is not None and seconds >= timeout:
                    os.killpg(pid, SIGTERM if seconds < timeout + 5 else SIGKILL)
        finally:
            os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
