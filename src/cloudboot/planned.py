"""A machine as it will be: an overlay in memory over a tree, and a door behind which nothing is done.

Modules cannot tell it from a machine: what they changed is there when they look again. Reads go through to the tree,
writes stay in memory, programs are not started: what they would do to the tree is done to the overlay (`effects`).
"""

from __future__ import annotations

import errno
import os

from cloudboot.actions import Remove, Symlink
from cloudboot.host import Host
from cloudboot.http import Answer, Fetcher
from cloudboot.log import Log
from cloudboot.process import Result
from cloudboot.root import READ_LIMIT, Entry, Root
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cloudboot.actions import Action

# Stands in whatever is drawn when it is made (keys, salts) or was not fetched: nobody knows it beforehand.
OPAQUE = "opaque to a plan"
SALT = "opaque.to.a.plan"
ENOUGH = 1 << 62  # bytes free on a volume that a plan does not mount
DESCRIPTOR = 9  # where a program that only tells finds the first planned file that its words name


def is_opaque(content: bytes | None) -> bool:
    """Tell whether a file's content holds something that is not known before it is made."""
    return content is not None and (OPAQUE.encode() in content or SALT.encode() in content)


class Node(NamedTuple):
    """What is planned at a place. content: of a file; None: as it is in the tree. fresh: hides a directory's past."""

    entry: Entry
    content: bytes | None = None
    target: str = ""
    fresh: bool = False


class PlannedRoot(Root):
    """A tree with changes that are not made. Whoever works on it is taken for root, as a boot is.

    nodes: place (a guest path without symlinks) -> what is planned there; None: nothing. unread: what may not be read
    by who asks, and was taken for absent. mounted: places whose content is that of volumes which are not mounted yet.
    """

    def __init__(self, base: Root) -> None:
        super().__init__(base.directory or "/")
        self.base = base
        self.privileged = True
        self.nodes: dict[str, Node | None] = {}
        self.unread: set[str] = set()
        self.mounted: list[str] = []

    # -- questions

    def link_at(self, place: str) -> str | None:
        """Return where a symlink points, None if there is none."""
        if place in self.nodes:
            node = self.nodes[place]
            return node.target if node is not None and node.entry.kind == "link" else None
        return None if self._hidden(place) else self.base.link_at(place)

    def look(self, path: str, *, follow: bool = True) -> Entry | None:
        """Return what stands at a path, or None."""
        try:
            return self._at(self.resolve(path, follow=follow))
        except OSError:
            return None

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """Return a file's content, None if there is none, or if we may not read it (then it is in `unread`)."""
        place = self.resolve(path)
        if place in self.nodes or self._hidden(place):
            node = self.nodes.get(place)
            if node is None:
                return None
            if node.entry.kind == "dir":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if node.content is not None:
                if len(node.content) > limit:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
                return node.content
        try:
            return self.base.read(place, limit)
        except PermissionError:
            self.unread.add(place)
            return None

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes from the middle of a file that is no symlink. Raises OSError."""
        place = self.resolve(path, follow=False)
        entry = self._at(place)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if entry.kind == "link":
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        node = self.nodes.get(place)
        if node is not None and node.content is not None:
            return node.content[offset : offset + length]
        return self.base.read_at(place, offset, length)

    def read_beneath(self, path: str, beneath: str, limit: int) -> tuple[Entry, bytes]:
        """Return what stands at a path in a user's home, and its content; follow no symlink. Raises OSError."""
        place = self._target(path, beneath)
        entry = self._at(place)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if entry.kind == "link":
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        try:
            return entry, self.read_at(place, 0, limit) if entry.kind == "file" else b""
        except PermissionError:
            self.unread.add(place)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None

    def free(self, path: str) -> int:
        """Return the free bytes where a path would be; more than enough on a volume that is only planned."""
        place = self.resolve(path)
        if self.on_planned_volume(place):
            return ENOUGH
        return self.base.free(place)

    def readlink(self, path: str) -> str | None:
        """Return where a symlink points, None if there is no symlink."""
        try:
            return self.link_at(self.resolve(path, follow=False))
        except OSError:
            return None

    def listdir(self, path: str) -> list[str]:
        """Return the sorted names in a directory; none if it is not there or may not be read."""
        place = self.resolve(path)
        entry = self._at(place)
        if entry is None or entry.kind != "dir":
            return []
        node = self.nodes.get(place)
        names: set[str] = set()
        if not (node is not None and node.fresh) and not self._hidden(place):
            try:
                names = set(self.base.listdir(place))
            except PermissionError:
                self.unread.add(place)
        for known, planned in self.nodes.items():
            folder, name = os.path.split(known)
            if folder == place and name:
                (names.discard if planned is None else names.add)(name)
        return sorted(names)

    def on_planned_volume(self, path: str) -> bool:
        """Tell whether a path is on a volume that would be mounted."""
        return any(path == target or path.startswith(f"{target.rstrip('/')}/") for target in self.mounted)

    # -- changes, in memory

    def write(self, path: str, content: bytes, mode: int, uid: int, gid: int, beneath: str | None = None) -> None:
        """Plan a file. Raises OSError as writing it would."""
        place = self._target(path, beneath)
        there = self._at(place)
        if there is not None and there.kind == "dir":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self.nodes[place] = Node(Entry("file", mode, uid, gid, len(content)), content)

    def append(self, path: str, content: bytes, mode: int, uid: int, gid: int) -> None:
        """Plan more content for a file."""
        there = self.look(path)
        if there is not None:
            mode, uid, gid = there.mode, there.uid, there.gid
        self.write(path, (self.read(path) or b"") + content, mode, uid, gid)

    def mkdir(self, path: str, mode: int, uid: int, gid: int, beneath: str | None = None) -> None:
        """Plan a directory, or another mode and owner for one. Raises OSError as making it would."""
        place = self._target(path, beneath)
        there = self._at(place)
        if there is not None and there.kind != "dir":
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        node = self.nodes.get(place)
        fresh = there is None or (node is not None and node.fresh)
        self.nodes[place] = Node(Entry("dir", mode, uid, gid), fresh=fresh)

    def symlink(self, path: str, target: str) -> None:
        """Plan a symlink in place of a file or symlink. Raises OSError as making it would."""
        place = f"{self.resolve(os.path.dirname(path)).rstrip('/')}/{os.path.basename(path)}"
        self._need_folder(os.path.dirname(place))
        there = self._at(place)
        if there is not None and there.kind == "dir":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self.nodes[place] = Node(Entry("link", 0o777, 0, 0, len(target)), target=target)

    def remove(self, path: str) -> None:
        """Plan that nothing is at a path, nor below it."""
        place = self.resolve(path, follow=False)
        if self._at(place) is None:
            return
        for known in [known for known in self.nodes if known.startswith(f"{place}/")]:
            del self.nodes[known]
        self.nodes[place] = None

    def set_access(self, path: str, mode: int, uid: int, gid: int) -> None:
        """Plan another mode and owner for what exists. Raises OSError if nothing does."""
        place = self.resolve(path)
        there = self._at(place)
        if there is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        node = self.nodes.get(place) or Node(there)
        self.nodes[place] = node._replace(entry=there._replace(mode=mode, uid=uid, gid=gid))

    # -- how

    def _at(self, place: str) -> Entry | None:
        if place in self.nodes or self._hidden(place):
            node = self.nodes.get(place)
            return node.entry if node is not None else None
        found = self.base.look(place, follow=False)
        if found is None:
            self._note_unread(place)
        return found

    def _hidden(self, place: str) -> bool:
        """Tell whether the tree's own entry at a place is gone together with a directory above it."""
        folder = place
        while folder not in ("/", ""):
            folder = os.path.dirname(folder)
            if folder in self.nodes:
                node = self.nodes[folder]
                if node is None or node.fresh or node.entry.kind != "dir":
                    return True
        return False

    def _note_unread(self, place: str) -> None:
        try:
            os.lstat(self.directory + place)
        except PermissionError:
            self.unread.add(os.path.dirname(place))
        except OSError:
            pass

    def _target(self, path: str, beneath: str | None) -> str:
        """Return the place that a path means for a change; its directory must be there. Raises OSError."""
        if beneath is None:
            place = self.resolve(path)
            self._need_folder(os.path.dirname(place))
            return place
        folder, name = self.resolve(beneath), os.path.basename(path)
        self._need_folder(folder)
        below = os.path.relpath(os.path.dirname(path), beneath)
        if below.startswith(".."):
            raise OSError(errno.EXDEV, f"not below {beneath}", path)
        for part in () if below == "." else below.split("/"):
            folder = f"{folder.rstrip('/')}/{part}"
            self._need_folder(folder)
        return f"{folder.rstrip('/')}/{name}"

    def _need_folder(self, place: str) -> None:
        entry = self._at(place)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
        if entry.kind != "dir":
            code = errno.ELOOP if entry.kind == "link" else errno.ENOTDIR
            raise OSError(code, os.strerror(code), place)


class State(NamedTuple):
    """What stands at a path: its entry, a file's content (None: cannot be read), a symlink's target."""

    entry: Entry
    content: bytes | None = None
    target: str = ""


class Change(NamedTuple):
    """Something that a boot would do.

    kind: `action`, `command` (the owner's) or `request` (over the network). where: `STAGE/MODULE`. command: the owner's
    words. effect: what a tool does, in words. recorded: why it is not done in this tree. unsure: why it may come out
    differently.
    """

    where: str
    kind: str
    text: str
    action: Action | None = None
    path: str = ""
    before: State | None = None
    after: State | None = None
    command: str = ""
    effect: str = ""
    recorded: str = ""
    unsure: str = ""


class PlannedLog(Log):
    """A log that is kept in memory: (where, text) of what modules say beside their changes."""

    def __init__(self, root: Root, now: Callable[[], float]) -> None:
        super().__init__(root, now=now, echo=False, keep=False)
        self.notes: list[tuple[str, str]] = []

    def audit(self, kind: str, text: str, reason: str = "") -> None:
        """Record nothing: a plan has its own list."""

    def print(self, text: str) -> None:
        """Show nothing: the console may be shown passwords."""

    def _write(self, level: str, text: str) -> None:
        self.notes.append((self.context, text))


class PlannedHost(Host):
    """The door to a machine on which nothing is done.

    base: the door to the machine itself; programs that only tell are started through it, and nothing else. log: what
    modules say. planned_changes: what would be done, in order. unsure: why what follows may come out differently.
    """

    planned = True

    def __init__(self, base: Host) -> None:
        self.overlay = PlannedRoot(base.root)
        self.said = PlannedLog(self.overlay, base.now)
        super().__init__(self.overlay, self.said, now=base.now)
        self.base = base
        self.live = base.live
        self.planned_changes: list[Change] = []
        self.unsure = ""
        self.effect = ""
        self.locales: list[str] = []  # generated
        self._standing: dict[type, Action] = {}  # the last of a kind that the overlay alone does not show

    def which(self, name: str) -> str | None:
        """Return where the tree has a program: what packages would bring is not known."""
        return self.base.which(name)

    def ask(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float | None = 60) -> Result:
        """Answer a question: from what is planned, or really asked where that is harmless (see `effects.ANSWERS`)."""
        from cloudboot import effects

        return effects.answer(self, argv, stdin, timeout)

    def ask_machine(self, argv: Sequence[str], stdin: bytes | None, timeout: float | None) -> Result:
        """Really start a program that only tells; status 127 in an image tree.

        A word that names a planned file becomes a descriptor with its content: the file itself is not there.
        """
        if not self.live:
            return Result(127, f"{argv[0]}: not asked: this is an image tree")
        words = list(argv)
        files: dict[int, int] = {}
        try:
            for number, word in enumerate(argv):
                node = self.overlay.nodes.get(self.overlay.resolve(word)) if word.startswith("/") else None
                if number and node is not None and node.content is not None:
                    theirs = DESCRIPTOR + len(files)
                    files[theirs] = _in_memory(node)
                    words[number] = f"/proc/self/fd/{theirs}"
            return self.base.spawn(words, stdin=stdin, timeout=timeout, fds=files)
        finally:
            for file in files.values():
                os.close(file)

    def do(self, action: Action) -> bool:
        """Plan a change unless the machine is so already, or it is planned; return whether a boot would make it."""
        if self._standing.get(type(action)) == action or action.done(self):
            return False
        reason = self.hindrance(action)
        path: str = getattr(action, "path", "")
        follow = not isinstance(action, (Symlink, Remove)) and getattr(action, "beneath", None) is None
        before, self.effect = self.state(path, follow=follow), ""
        unsure = self.unsure
        if reason is not None:
            self.recorded.append((action, reason))
        else:
            self.changes.append(action)
        try:
            if reason is None:
                self._plan(action)
        finally:
            after = self.state(path, follow=follow)
            change = Change(self.log.context, "action", action.text, action, path, before, after)
            if path and self.overlay.on_planned_volume(path):
                unsure = unsure or "it is on a volume that is not mounted yet"
            self.planned_changes.append(change._replace(effect=self.effect, recorded=reason or "", unsure=unsure))
        return reason is None

    def keep(self, action: Action) -> bool:
        """Keep a state of our own, in the overlay; it is no change that a plan names."""
        if action.done(self):
            return False
        self._plan(action)
        return True

    def only_records(self, label: str, items: Sequence[str]) -> bool:
        """Plan the owner's commands: never run. What comes after them may come out differently."""
        kept = "" if self.live else "recorded, not run: this is an image tree, not the running machine"
        for number, command in enumerate(items, 1):
            script = "/" in label
            path = self._program(command) if script else ""
            text = label if script else f"item {number}: {command}"
            change = Change(self.log.context, "command", text, path=path, after=self.state(path), recorded=kept)
            self.planned_changes.append(change._replace(command=command))
        self.unsure = self.unsure or f"{label} runs before it"
        return True

    def request(self, text: str, effect: str) -> None:
        """Plan a request over the network."""
        self.planned_changes.append(Change(self.log.context, "request", text, effect=effect))

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
        """Do to the overlay what a program would do to the machine; it is taken to succeed if it is there."""
        from cloudboot import effects

        if self.which(argv[0]) is None:
            return Result(127, f"{argv[0]}: not found")
        told = effects.apply(self, list(argv), stdin)
        self.effect = self.effect or told
        return Result(0, recorded=True)

    def state(self, path: str, *, follow: bool = True) -> State | None:
        """Return what stands at a path; of none (an empty one), nothing."""
        entry = self.look(path, follow=follow) if path else None
        if entry is None:
            return None
        if entry.kind == "link":
            return State(entry, target=self.overlay.readlink(path) or "")
        try:
            return State(entry, self.overlay.read(path) if entry.kind == "file" else None)
        except OSError:  # too large
            return State(entry)

    def _program(self, command: str) -> str:
        """Return the owner's file that a command line runs: the last word that names one."""
        words = [word for word in command.split() if word.startswith("/")]
        files = [word for word in words if (entry := self.look(word)) is not None and entry.kind == "file"]
        return files[-1] if files else ""

    def _plan(self, action: Action) -> None:
        plan: Callable[[Host], None] | None = getattr(action, "plan", None)
        if plan is None:
            action.apply(self)
            return
        self._standing[type(action)] = action
        plan(self)


class PlannedFetcher(Fetcher):
    """A fetcher that sends nothing; with `fetch` it does GET, for what the plan is made from."""

    def __init__(self, host: PlannedHost, *, fetch: bool) -> None:
        super().__init__()
        self.host = host
        self.fetch = fetch

    def _request(
        self,
        method: str,
        url: str,
        form: Mapping[str, str] | None,
        tries: int,
        pause: float,
        deadline: float,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        if method == "GET" and self.fetch:
            return super()._request(method, url, form, tries, pause, deadline, headers)
        told = f"sends {', '.join(form)}" if form else "not fetched for this plan (--fetch does)"
        self.host.request(f"{method} {url}", told)
        return Answer(200, f"{OPAQUE}: {url} was not fetched\n".encode())


def _in_memory(node: Node) -> int:
    file = os.memfd_create("planned")
    os.write(file, node.content or b"")
    os.lseek(file, 0, os.SEEK_SET)
    os.fchmod(file, node.entry.mode)
    return file
