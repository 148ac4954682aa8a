"""The only door to the machine: a few questions, a few changes, one funnel `do(action)`.

Because every change passes `do`, these stand in one place: the no-op on a second run, the audit, the count of
changes, the crash test's kill points, image trees (`--root`) and plans.
"""

from __future__ import annotations

import os
import time

from cloudboot import process
from cloudboot.actions import ROOT, Action, MakeDir, Remove, Run, SetAccess, Symlink, WriteFile
from cloudboot.process import Result
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cloudboot.log import Log
    from cloudboot.root import Entry, Group, Root, User

NOT_LIVE = "recorded, not run: this is an image tree, not the running machine"


class Host:
    """A machine, or an image tree.

    root: where files are. log: decisions, changes, audit, console. now: wall clock, seconds. on_change: called with
    the number of each change right before it is made (crash tests). run_commands: in an image tree, run the owner's
    commands in a chroot instead of recording them. planned: nothing is done here, nothing is worth waiting for.
    """

    planned = False

    def __init__(
        self,
        root: Root,
        log: Log,
        *,
        now: Callable[[], float] = time.time,
        on_change: Callable[[int, Action], None] | None = None,
        run_commands: bool = False,
    ) -> None:
        self.root = root
        self.log = log
        self.now = now
        self.on_change = on_change
        self.run_commands = run_commands
        self.live = root.live
        self.changes: list[Action] = []  # made on the machine
        self.recorded: list[tuple[Action, str]] = []  # not made, with the reason
        self._steps = 0

    # -- questions: about files

    def exists(self, path: str) -> bool:
        """Tell whether something stands at a path (symlinks followed)."""
        return self.root.look(path) is not None

    def look(self, path: str, *, follow: bool = True) -> Entry | None:
        """Return kind, mode, owner and size of what stands at a path."""
        return self.root.look(path, follow=follow)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None if there is no file. Raises OSError if it cannot be read."""
        return self.root.read(path)

    def text(self, path: str) -> str | None:
        """Return a file's text (UTF-8, anything else replaced); None if there is no file or it cannot be read.

        For the kernel's files (/proc, /sys) and other small facts.
        """
        try:
            content = self.root.read(path)
        except OSError:
            return None
        return None if content is None else content.decode("utf-8", "replace")

    def listdir(self, path: str) -> list[str]:
        """Return the sorted names in a directory; none if it is not there."""
        return self.root.listdir(path)

    def tree(self, path: str) -> dict[str, bytes]:
        """Return all files below a directory: relative path -> content."""
        found: dict[str, bytes] = {}
        for name in self.root.listdir(path):
            entry = self.root.look(f"{path}/{name}", follow=False)
            if entry is not None and entry.kind == "dir":
                found |= {f"{name}/{below}": data for below, data in self.tree(f"{path}/{name}").items()}
            elif entry is not None and entry.kind == "file":
                found[name] = self.root.read(f"{path}/{name}") or b""
        return found

    # -- questions: about accounts, tools, processes

    def user(self, name: str) -> User | None:
        """Return a local account of the tree."""
        return self.root.users(name).get(name)

    def group(self, name: str) -> Group | None:
        """Return a local group of the tree."""
        return self.root.groups(name).get(name)

    def which(self, name: str) -> str | None:
        """Return where the tree has a program (a name or a path), None if it has not."""
        for folder in [""] if "/" in name else process.PATH.split(":"):
            path = f"{folder}/{name}" if folder else name
            entry = self.root.look(path)
            if entry is not None and entry.kind == "file" and entry.mode & 0o111:
                return path
        return None

    def ask(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float | None = 60) -> Result:
        """Run a program that only tells (blkid, dpkg-query …) and return its result.

        It must not change anything. In an image tree it runs in a chroot, or, without root, answers 127.
        """
        self.log.audit("ask", " ".join(argv))
        return self.spawn(argv, stdin=stdin, timeout=timeout)

    # -- changes

    def write(
        self,
        path: str,
        content: str | bytes,
        *,
        mode: int | None = 0o644,
        owner: str | None = ROOT,
        beneath: str | None = None,
    ) -> bool:
        """Make a file have this content, mode and owner; tell whether that changed anything (see WriteFile)."""
        data = content.encode() if isinstance(content, str) else content
        return self.do(WriteFile(path, data, mode, owner, beneath))

    def mkdir(
        self,
        path: str,
        *,
        mode: int = 0o755,
        owner: str = ROOT,
        beneath: str | None = None,
        keep: bool = True,
    ) -> bool:
        """Make a directory (see MakeDir)."""
        return self.do(MakeDir(path, mode, owner, beneath, keep))

    def symlink(self, path: str, target: str) -> bool:
        """Make a symlink (see Symlink)."""
        return self.do(Symlink(path, target))

    def remove(self, path: str) -> bool:
        """Remove what stands at a path."""
        return self.do(Remove(path))

    def set_access(self, path: str, mode: int, owner: str = ROOT) -> bool:
        """Set mode and owner of what exists (see SetAccess)."""
        return self.do(SetAccess(path, mode, owner))

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        live: str | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (0,),
    ) -> bool:
        """Run a tool that changes something (see Run). Ask first whether it is needed.

        Raises CommandError if it fails.
        """
        return self.do(Run(tuple(argv), stdin, live, timeout, env, accept))

    def do(self, action: Action) -> bool:
        """Make a change unless it is so already; return whether it was made.

        In an image tree, what makes sense on a live machine only is recorded with the reason instead.
        Raises OSError, CommandError or ConfigError: what the action raises.
        """
        if action.done(self):
            return False
        reason = self.hindrance(action)
        if reason is not None:
            self.recorded.append((action, reason))
            self.log.audit("recorded", action.text, reason)
            return False
        self._step(action)
        self.log.audit("change", action.text)
        self.changes.append(action)
        action.apply(self)
        return True

    def keep(self, action: Action) -> bool:
        """Write down a state of our own (semaphores, status, cache): as `do`, but not counted and not in the audit."""
        if action.done(self):
            return False
        self._step(action)
        action.apply(self)
        return True

    def only_records(self, label: str, items: Sequence[str]) -> bool:
        """Write the owner's commands down where they are not to be run; tell whether that is so here."""
        if self.live or self.run_commands:
            return False
        self.log.audit("recorded", f"the owner's command: {'; '.join(items)}", "this is an image tree")
        return True

    # -- how

    def hindrance(self, action: Action) -> str | None:
        """Return why an action cannot be made here, None if it can."""
        if self.live:
            return None
        if action.live_only is not None:
            return f"{NOT_LIVE} ({action.live_only})"
        if isinstance(action, Run) and not self.root.privileged:
            return "recorded, not run: a tool inside an image tree needs root (chroot)"
        if isinstance(action, Run) and self.which(action.argv[0].rpartition("/")[2]) is None:
            return f"recorded, not run: this tree has no {action.argv[0]}"
        return None

    def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        output: int | None = None,
        fds: Mapping[int, int] | None = None,
        waiting: Callable[[float], None] | None = None,
    ) -> Result:
        """Start a program in the tree and wait for it. For actions and the owner's commands; modules `run` or `ask`."""
        full = list(argv)
        if not self.live:
            if not self.root.privileged:
                return Result(127, f"{argv[0]}: not run: a tool inside an image tree needs root")
            full = ["chroot", self.root.directory, *full]
        environment = {**process.base_environment(), **(env or {})}
        return process.spawn(
            full, stdin=stdin, env=environment, output=output, fds=fds, timeout=timeout, waiting=waiting
        )

    def make_parents(self, path: str) -> None:
        """Make the directories above a path (0755, root) where they are missing; part of the action that needs them."""
        missing = []
        folder = os.path.dirname(path)
        while folder not in ("/", "") and self.root.look(folder) is None:
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            self.root.mkdir(folder, 0o755, 0, 0)

    def _step(self, action: Action) -> None:
        self._steps += 1
        if self.on_change is not None:
            self.on_change(self._steps, action)
