"""Run the host's commands: a clean environment, a time limit always, an error that shows what was printed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MARK = "CLOUDBOOT_BED"
"""Environment variable of every process that the bed starts; its value is the test process's pid."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BedError(AssertionError):
    """The bed, or what runs on it, did not do what the test waits for."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build the environment of a bed process: nothing of the caller's, so that no test depends on it."""
    plain = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "TERM": "dumb", MARK: str(os.getpid())}
    return plain | dict(extra or {})


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60.0,
    check: bool = True,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` and return what it printed (text), with `env` added to the bed's own environment.

    Raises BedError if it takes more than `timeout` seconds, or, with `check`, if it does not exit with 0.
    """
    try:
        done = subprocess.run(
            list(argv),
            timeout=timeout,
            check=False,
            input="" if stdin is None else stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment(env),
        )
    except subprocess.TimeoutExpired as late:
        raise BedError(f"{' '.join(argv)}: not done after {timeout:g} s: {late.stderr or late.stdout!r}") from late
    if check and done.returncode != 0:
        raise BedError(f"{' '.join(argv)}: exit {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def start(argv: Sequence[str], output: IO[bytes], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start `argv` as the leader of a process group of its own; what it prints goes to `output`.

    It is killed by the kernel when the test process dies, even by SIGKILL.
    """
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment(env),
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], grace: float = 3.0) -> int:
    """End `process` and its group: SIGTERM, after `grace` seconds SIGKILL. Return its exit status."""
    if process.poll() is None and grace > 0:
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
    # The group may outlive its leader, and its number is not given away while members live.
    _signal_group(process, signal.SIGKILL)
    return process.wait(10)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def wait_until(condition: Callable[[], bool], timeout: float, pause: float = 0.1) -> bool:
    """Ask `condition` until it holds; return False if it does not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def tail(path: str, lines: int = 60) -> str:
    """Return the last `lines` of a text file that something else may still be writing; empty if it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except FileNotFoundError:
        return ""
