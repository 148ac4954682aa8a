"""Changes as values: each can say itself, tell whether it is done already, and do itself.

Only `Host.do` calls `apply`; whatever changes a machine is one of these.
"""

from __future__ import annotations

import os

from cloudboot.errors import CommandError, ConfigError
from cloudboot.typed import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.host import Host
    from cloudboot.process import Result

ROOT = "root:root"


class Action(Protocol):
    """A change. `text` is one line for log and audit, without secrets."""

    @property
    def text(self) -> str: ...

    @property
    def live_only(self) -> str | None:
        """Say why this makes sense on a running machine only; None if it also does in an image tree."""

    def done(self, host: Host) -> bool:
        """Tell whether the machine is already so."""

    def apply(self, host: Host) -> None:
        """Make it so. Raises OSError, CommandError or ConfigError.

        One that goes past `host.root` and `host.spawn` has a method `plan` beside it, which a plan calls instead.
        """


class WriteFile(NamedTuple):
    """A file with this content, mode and owner (`user:group`).

    `mode` or `owner` None keeps what an existing file has (a new one gets 0644, root). `beneath`: a user's home, below
    which no symlink is followed, and no directory is made in passing.
    """

    path: str
    content: bytes
    mode: int | None = 0o644
    owner: str | None = ROOT
    beneath: str | None = None

    @property
    def text(self) -> str:
        mode = "" if self.mode is None else f" {self.mode:04o}"
        return f"write {self.path}{mode} {self.owner or ''} ({len(self.content)} bytes)".replace("  ", " ")

    @property
    def live_only(self) -> str | None:
        return None

    def done(self, host: Host) -> bool:
        entry = host.root.look(self.path, follow=not self.beneath)
        if entry is None or entry.kind != "file" or entry.size != len(self.content):
            return False
        mode, uid, gid = self._access(host)
        return (entry.mode, entry.uid, entry.gid) == (mode, uid, gid) and host.root.read(self.path) == self.content

    def apply(self, host: Host) -> None:
        mode, uid, gid = self._access(host)
        if self.beneath is None:
            host.make_parents(self.path)
        entry = host.root.look(self.path, follow=not self.beneath)
        if entry is not None and entry.kind == "dir":
            raise ConfigError(f"{self.path}: is a directory: a file was to be written there")
        host.root.write(self.path, self.content, mode, uid, gid, self.beneath)

    def _access(self, host: Host) -> tuple[int, int, int]:
        entry = host.root.look(self.path) if self.mode is None or self.owner is None else None
        mode = self.mode if self.mode is not None else entry.mode if entry else 0o644
        if self.owner is not None:
            return mode, *ids(host, self.owner, self.path)
        return mode, entry.uid if entry else 0, entry.gid if entry else 0


class MakeDir(NamedTuple):
    """A directory with this mode and owner. `keep`: one that exists stays as it is."""

    path: str
    mode: int = 0o755
    owner: str = ROOT
    beneath: str | None = None
    keep: bool = True

    @property
    def text(self) -> str:
        return f"mkdir {self.path} {self.mode:04o} {self.owner}"

    @property
    def live_only(self) -> str | None:
        return None

    def done(self, host: Host) -> bool:
        entry = host.root.look(self.path, follow=not self.beneath)
        if entry is None or entry.kind != "dir":
            return False
        return self.keep or (entry.mode, entry.uid, entry.gid) == (
            self.mode,
            *ids(host, self.owner, self.path),
        )

    def apply(self, host: Host) -> None:
        host.make_parents(self.path)
        host.root.mkdir(self.path, self.mode, *ids(host, self.owner, self.path), self.beneath)


class Symlink(NamedTuple):
    """A symlink with this target, in place of a file or link that is there."""

    path: str
    target: str

    @property
    def text(self) -> str:
        return f"symlink {self.path} -> {self.target}"

    @property
    def live_only(self) -> str | None:
        return None

    def done(self, host: Host) -> bool:
        return host.root.readlink(self.path) == self.target

    def apply(self, host: Host) -> None:
        host.make_parents(self.path)
        host.root.symlink(self.path, self.target)


class Remove(NamedTuple):
    """Nothing at this path."""

    path: str

    @property
    def text(self) -> str:
        return f"remove {self.path}"

    @property
    def live_only(self) -> str | None:
        return None

    def done(self, host: Host) -> bool:
        return host.root.look(self.path, follow=False) is None

    def apply(self, host: Host) -> None:
        host.root.remove(self.path)


class SetAccess(NamedTuple):
    """This mode and owner on what exists."""

    path: str
    mode: int
    owner: str = ROOT

    @property
    def text(self) -> str:
        return f"access {self.path} {self.mode:04o} {self.owner}"

    @property
    def live_only(self) -> str | None:
        return None

    def done(self, host: Host) -> bool:
        entry = host.root.look(self.path)
        return entry is not None and (entry.mode, entry.uid, entry.gid) == (
            self.mode,
            *ids(host, self.owner, self.path),
        )

    def apply(self, host: Host) -> None:
        host.root.set_access(self.path, self.mode, *ids(host, self.owner, self.path))


class Run(NamedTuple):
    """A tool, run to its end.

    There is no telling whether a tool's work is done: whoever runs one asks first. `live` says why it makes sense on a
    running machine only. `stdin` is never logged; what is secret goes there, not into `argv`.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = None
    live: str | None = None
    timeout: float | None = None
    env: Mapping[str, str] | None = None
    accept: tuple[int, ...] = (0,)

    @property
    def text(self) -> str:
        return f"run {' '.join(self.argv)}"

    @property
    def live_only(self) -> str | None:
        return self.live

    def done(self, host: Host) -> bool:
        return False

    def apply(self, host: Host) -> None:
        self.result(host)

    def result(self, host: Host) -> Result:
        """Run it and return its result. Raises CommandError for an exit status that is not accepted."""
        result = host.spawn(self.argv, stdin=self.stdin, timeout=self.timeout, env=self.env)
        if result.status not in self.accept:
            raise CommandError(list(self.argv), result.status, result.output)
        return result


class SwapTree(NamedTuple):
    """A directory of files that changes as one: a reader that opened it sees one state, whole, to the end.

    The tree is drafted under `/run/.NAME/` and put in place by one rename (or one exchange, when an older one is
    there). Replaced trees stay for readers that are still in them: the last 64, and any younger than 10 s.
    """

    path: str
    files: Mapping[str, bytes]  # relative path -> content

    @property
    def text(self) -> str:
        return f"swap {self.path} ({len(self.files)} files)"

    @property
    def live_only(self) -> str | None:
        return None

    def done(self, host: Host) -> bool:
        entry = host.root.look(self.path, follow=False)
        if entry is None or entry.kind != "dir" or entry.mode != 0o700:
            return False
        return host.tree(self.path) == dict(self.files)

    def apply(self, host: Host) -> None:
        place = f"{os.path.dirname(self.path)}/.{os.path.basename(self.path)}"
        host.make_parents(f"{place}/x")
        host.root.mkdir(place, 0o700, 0, 0)
        old = sorted((int(name) for name in host.root.listdir(place) if name.isdigit()), reverse=True)
        draft = f"{place}/{old[0] + 1 if old else 1}"
        folders = {draft}
        host.root.mkdir(draft, 0o700, 0, 0)
        for name, content in self.files.items():
            folder = draft
            for part in name.split("/")[:-1]:
                folder = f"{folder}/{part}"
                if folder not in folders:
                    folders.add(folder)
                    os.mkdir(host.root.outside(folder), 0o700)
            file = os.open(host.root.outside(f"{draft}/{name}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(file, content)
            finally:
                os.close(file)
        target = host.root.outside(self.path, follow=False)
        if os.path.isdir(target):
            exchange(host.root.outside(draft), target)
        else:
            os.rename(host.root.outside(draft), target)
        for number in old[64:]:
            stale = host.root.look(f"{place}/{number}")
            if stale is not None and host.now() - stale.mtime > 10:
                host.root.remove(f"{place}/{number}")

    def plan(self, host: Host) -> None:
        """Put the tree in place, in a plan."""
        host.root.remove(self.path)
        for name, content in self.files.items():
            host.make_parents(f"{self.path}/{name}")
            host.root.write(f"{self.path}/{name}", content, 0o600, 0, 0)
        host.root.mkdir(self.path, 0o700, 0, 0)


def exchange(one: str, other: str) -> None:
    """Swap two paths in one step (renameat2 with RENAME_EXCHANGE, Linux 3.15; glibc 2.28). Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, rename_exchange = -100, 2
    if libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), one)


def ids(host: Host, owner: str, path: str) -> tuple[int, int]:
    """Turn an owner into uid and gid in the tree. Raises ConfigError if the tree does not know it."""
    try:
        return host.root.ids(owner)
    except KeyError as error:
        raise ConfigError(f"{path}: owner {owner!r}: {error.args[0]}") from None
