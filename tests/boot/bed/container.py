"""Boot a tree with systemd-nspawn: real systemd, in a namespace that holds the metadata service."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Self

from boot.bed.command import BedError, run, start, tail, wait_until
from boot.bed.scratch import cgroup_mounts, kill_cgroup, new_tag

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO

    from boot.bed.netns import Namespace
    from boot.bed.scratch import Scratch

REBOOT = 133
"""What systemd-nspawn exits with when the container rebooted (man systemd-nspawn, --keep-unit)."""

SETTLED = {"running", "degraded", "maintenance"}

# A process is put into the cgroup before it becomes nspawn, so that nothing of the container is ever outside it.
JOIN = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class Container:
    """A container whose disk is the directory `root` (an overlay's path: it stays over reboots and crashes).

    `with Container(...) as box: box.boot(); box.wait_settled()`. On exit whatever still runs is killed. The network
    is `ns` itself, so addresses on its `lo` are local in the container; give `link.guest` for a wire between them.
    `binds` are nspawn's `--bind=` values (`SOURCE[:TARGET]`), `options` further nspawn options.
    """

    def __init__(
        self, root: str, ns: Namespace, scratch: Scratch, *, binds: Sequence[str] = (), options: Sequence[str] = ()
    ) -> None:
        self.root = root
        self.boots = 0
        self._ns = ns
        self._directory = scratch.directory("container")
        self._name = new_tag()
        self._cgroup = f"{cgroup_mounts()[0]}/{self._name}"
        self._options = [*(f"--bind={bind}" for bind in binds), *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.crash()

    def boot(self, timeout: float = 20.0) -> None:
        """Start the container and return as soon as its systemd is executing (see `wait_settled`)."""
        if self.running():
            raise BedError("container: it is running already")
        if self.boots:
            self._ns.forget_boot()
        self.boots += 1
        os.mkdir(self._cgroup)
        argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine={self._name}"]
        argv += [f"--directory={self.root}", f"--network-namespace-path={self._ns.path}"]
        # Output only, but a terminal inside: what is written to /dev/console lands in our file.
        argv += ["--console=read-only", *self._options, "--boot"]
        self._output = open(self.console_file, "wb")  # noqa: SIM115 - closed in _ended
        self._process = start(
            ["sh", "-c", JOIN, self._cgroup, *argv], self._output, {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        )
        self._leader = 0
        if not wait_until(self._find_leader, timeout, 0.02) or not self._leader:
            raise self._error(f"systemd did not start within {timeout:g} s")

    @property
    def console_file(self) -> str:
        """The file that the console of this boot goes to."""
        return f"{self._directory}/console-{self.boots}"

    def console(self) -> str:
        """Return what was printed on the console in this boot so far."""
        with open(self.console_file, encoding="utf-8", errors="replace") as file:
            return file.read()

    def running(self) -> bool:
        """Say whether the container runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def leader(self) -> int:
        """The host's pid of the container's systemd."""
        if not self.running():
            raise self._error("it does not run")
        return self._leader

    def exec(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 30.0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` inside as root, or as `user`, from outside of systemd; return its exit status and output."""
        if user is not None:
            argv = ["runuser", "-u", user, "--", *argv]
        inside = ["nsenter", f"--target={self.leader}", "--all", "--root", "--wd", "--", *argv]
        return run(inside, check=check, timeout=timeout, stdin=stdin, env=env)

    def wait_for(self, condition: Callable[[], bool] | Sequence[str], timeout: float = 30.0) -> None:
        """Wait until `condition` holds, or, if it is an argv, until that exits with 0 inside."""
        if callable(condition):
            asked = condition
        else:
            argv = list(condition)

            def asked() -> bool:
                return self.exec(argv, check=False).returncode == 0

        if not wait_until(lambda: not self.running() or asked(), timeout) or not self.running():
            raise self._error(f"{condition}: not within {timeout:g} s")

    def wait_settled(self, timeout: float = 60.0) -> str:
        """Wait until systemd has no more jobs; return `running`, `degraded` or `maintenance`."""
        state = ""

        def settled() -> bool:
            nonlocal state
            state = self.exec(["systemctl", "is-system-running"], check=False).stdout.strip()
            return state in SETTLED

        self.wait_for(settled, timeout)
        return state

    def wait_console(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Wait until the regular expression `pattern` matches what this boot printed; return the match."""
        wait_until(lambda: re.search(pattern, self.console()) is not None or not self.running(), timeout)
        found = re.search(pattern, self.console())
        if found is None:
            raise self._error(f"console: {pattern!r} not within {timeout:g} s")
        return found

    def wait_exit(self, timeout: float = 60.0) -> int:
        """Wait until the container has ended by itself; return 0 after a power-off, REBOOT (133) after a reboot."""
        if not wait_until(lambda: not self.running(), timeout):
            raise self._error(f"still running after {timeout:g} s")
        return self._ended()

    def poweroff(self, timeout: float = 60.0) -> None:
        """Shut down in order."""
        self._ask_systemd("poweroff", timeout)
        if (status := self.wait_exit(timeout)) != 0:
            raise self._error(f"power-off: systemd-nspawn: exit {status}")

    def reboot(self, timeout: float = 60.0) -> None:
        """Shut down in order and boot again on the same disk, with the kernel's firewall empty as after a reset."""
        self._ask_systemd("reboot", timeout)
        if (status := self.wait_exit(timeout)) != REBOOT:
            raise self._error(f"reboot: systemd-nspawn: exit {status}")
        self.boot()

    def crash(self) -> None:
        """Kill everything at once: a power cut, as far as a container can have one (what was written, stays)."""
        if self._process is not None:
            kill_cgroup(self._name)
            self._process.wait(10)
            self._ended()

    def _ask_systemd(self, verb: str, timeout: float) -> None:
        """Ask systemd to shut down; early in a boot it does not listen yet."""
        argv = ["systemctl", "--no-block", verb]
        if not wait_until(lambda: not self.running() or self.exec(argv, check=False).returncode == 0, timeout):
            raise self._error(f"{verb}: systemd did not take it within {timeout:g} s")

    def _ended(self) -> int:
        """Reap systemd-nspawn and remove its cgroup; return its exit status."""
        if self._process is None or self._output is None:
            raise self._error("it was not started")
        status = self._process.wait(10)
        kill_cgroup(self._name)
        self._output.close()
        self._process = None
        return status

    def _find_leader(self) -> bool:
        """Look for pid 1 of the container once it is systemd; True ends the search (also when nspawn has ended)."""
        if self._process is None or self._process.poll() is not None:
            return True
        pid = self._process.pid
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                children = file.read().split()
            for child in children:
                with open(f"/proc/{child}/status", encoding="ascii", errors="replace") as file:
                    status = file.read()
                # Its innermost pid is 1 before nspawn's child executes systemd: the name tells that it has.
                if re.search(r"^NSpid:.*\t1$", status, re.M) and re.search(r"^Name:\t(systemd|init)$", status, re.M):
                    self._leader = int(child)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return self._leader != 0

    def _error(self, what: str) -> BedError:
        return BedError(f"container, boot {self.boots}: {what}; its console:\n{tail(self.console_file)}")
