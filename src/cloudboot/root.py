"""A directory as `/`: resolve as a chroot would, read, and write so that a power cut leaves old or new, never half."""

from __future__ import annotations

import errno
import os
import stat

from cloudboot.typed import NamedTuple

READ_LIMIT = 16 << 20  # bytes; no file that we read for a decision is larger
PIECE = 1 << 17
LINKS_LIMIT = 40  # as the kernel's ELOOP
OWNERS = "/var/lib/cloudboot/owners.json"  # owners that could not be set without root
DRAFT = ".cloudboot~"  # a name that run-parts, sudo and apt pass over


class Entry(NamedTuple):
    """What stands at a path, without its content."""

    kind: str  # "file", "dir", "link" or "other"
    mode: int  # permission bits
    uid: int
    gid: int
    size: int = 0
    mtime: float = 0.0
    links: int = 1  # names that the file has


class User(NamedTuple):
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    gecos: str
    home: str
    shell: str


class Group(NamedTuple):
    """A line of /etc/group."""

    name: str
    gid: int
    members: tuple[str, ...]


KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}


class Root:
    """The tree that we read and change; every path given and returned is a guest path."""

    def __init__(self, directory: str = "/") -> None:
        self.directory = os.path.realpath(directory).rstrip("/")
        self.live = self.directory == ""
        self.privileged = os.geteuid() == 0
        self._owners: dict[str, tuple[int, int]] | None = None

    # -- paths

    def resolve(self, path: str, *, follow: bool = True) -> str:
        """Follow symlinks as a process chrooted into the tree would; what does not exist stays as it is.

        Raises OSError (ELOOP) on a loop.
        """
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            if todo or follow:
                target = self.link_at("/" + "/".join([*done, part]))
                if target is not None:
                    links += 1
                    if links > LINKS_LIMIT:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    if target.startswith("/"):
                        done = []
                    todo += [piece for piece in reversed(target.split("/")) if piece not in ("", ".")]
                    continue
            done.append(part)
        return "/" + "/".join(done)

    def link_at(self, place: str) -> str | None:
        """Return where a symlink points, None if there is none. No link is followed on the way to `place`."""
        try:
            return os.readlink(self.directory + place)
        except OSError:
            return None

    def outside(self, path: str, *, follow: bool = True) -> str:
        """Return where a guest path is on the machine that runs us."""
        if self.live:
            return path
        return self.directory + self.resolve(path, follow=follow)

    # -- questions

    def look(self, path: str, *, follow: bool = True) -> Entry | None:
        """Return what stands at a path, or None."""
        try:
            found = os.stat(self.outside(path, follow=follow), follow_symlinks=self.live and follow)
        except OSError:
            return None
        uid, gid = found.st_uid, found.st_gid
        if not self.live and not self.privileged:
            uid, gid = self._recorded().get(self.resolve(path, follow=follow), (0, 0))
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "other")
        return Entry(kind, stat.S_IMODE(found.st_mode), uid, gid, found.st_size, found.st_mtime, found.st_nlink)

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        """Return a file's content, None if there is none.

        Raises OSError if it is there and cannot be read (EFBIG: larger than `limit` bytes).
        """
        try:
            file = os.open(self.outside(path), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            # In pieces: /proc/sys answers ENOMEM to a read of several megabytes.
            pieces, length = [], 0
            while piece := os.read(file, PIECE):
                pieces.append(piece)
                length += len(piece)
                if length > limit:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
            return b"".join(pieces)
        finally:
            os.close(file)

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Return bytes from the middle of a file that is no symlink; fewer if it is shorter. Raises OSError."""
        file = os.open(self.outside(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(file, length, offset)
        finally:
            os.close(file)

    def read_beneath(self, path: str, beneath: str, limit: int) -> tuple[Entry, bytes]:
        """Return what stands at a path in a user's home, and its content, at most `limit` bytes; follow no symlink.

        Owner and links are the file's own, not what is recorded beside the tree. Raises OSError: ELOOP or ENOTDIR for
        a symlink or no directory on the way.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        opened = [os.open(self.outside(beneath), os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)]
        try:
            for part in os.path.relpath(path, beneath).split("/"):
                opened.append(os.open(part, flags, dir_fd=opened[-1]))
            found = os.fstat(opened[-1])
            kind, mode = KINDS.get(stat.S_IFMT(found.st_mode), "other"), stat.S_IMODE(found.st_mode)
            entry = Entry(kind, mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime, found.st_nlink)
            return entry, os.read(opened[-1], limit) if kind == "file" else b""
        finally:
            for file in opened:
                os.close(file)

    def free(self, path: str) -> int:
        """Return the free bytes of the file system that a path is, or would be, on. Raises OSError."""
        while path != "/" and self.look(path) is None:
            path = os.path.dirname(path)
        state = os.statvfs(self.outside(path))
        return state.f_bavail * state.f_frsize

    def readlink(self, path: str) -> str | None:
        """Return where a symlink points, None if there is no symlink."""
        try:
            return os.readlink(self.outside(path, follow=False))
        except OSError:
            return None

    def listdir(self, path: str) -> list[str]:
        """Return the sorted names in a directory; none if it is not there."""
        try:
            return sorted(os.listdir(self.outside(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def users(self, name: str = "") -> dict[str, User]:
        """Return the tree's own accounts by name, from /etc/passwd; with `name` that one alone."""
        found = {}
        for part in self._lines("/etc/passwd", name):
            if len(part) == 7 and part[2].isdigit() and part[3].isdigit():
                found[part[0]] = User(part[0], int(part[2]), int(part[3]), part[4], part[5], part[6])
        return found

    def groups(self, name: str = "") -> dict[str, Group]:
        """Return the tree's own groups by name, from /etc/group; with `name` that one alone."""
        found = {}
        for part in self._lines("/etc/group", name):
            if len(part) == 4 and part[2].isdigit():
                found[part[0]] = Group(part[0], int(part[2]), tuple(name for name in part[3].split(",") if name))
        return found

    def _lines(self, path: str, name: str) -> list[list[str]]:
        lines = (self.read(path) or b"").decode("utf-8", "replace").splitlines()
        return [line.split(":") for line in lines if line.startswith(f"{name}:" if name else "")]

    def ids(self, owner: str) -> tuple[int, int]:
        """Turn `user`, `user:group` or `:group` (names of the tree, or numbers) into uid and gid.

        `user` alone means the user's own group. Raises KeyError naming what the tree does not know.
        """
        if owner in ("root:root", "root"):
            return 0, 0
        name, _, group = owner.partition(":")
        uid, gid = 0, 0
        if name.isdigit():
            uid = gid = int(name)
        elif name:
            users = self.users(name)
            if name not in users:
                raise KeyError(f"no such user: {name!r}")
            uid, gid = users[name].uid, users[name].gid
        if group.isdigit():
            gid = int(group)
        elif group:
            groups = self.groups(group)
            if group not in groups:
                raise KeyError(f"no such group: {group!r}")
            gid = groups[group].gid
        return uid, gid

    # -- changes (only actions call these)

    def write(self, path: str, content: bytes, mode: int, uid: int, gid: int, beneath: str | None = None) -> None:
        """Write a file whole: draft beside it, fsync, rename, fsync the directory.

        A symlink at the path is followed, except below `beneath` (a user's home), where none is: the
        user may not lead root elsewhere.
        """
        path = path if beneath else self.resolve(path)
        name = os.path.basename(path)
        folder = self._open_folder(os.path.dirname(path), beneath)
        draft = f".{name[:200]}{DRAFT}"
        durable = not path.startswith("/run/")
        try:
            file = self._open_draft(draft, folder)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(file, view) :]
                self._chown(file, path, uid, gid)
                os.fchmod(file, mode)
                if durable:
                    os.fsync(file)
            finally:
                os.close(file)
            try:
                os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                # Container managers bind-mount single files (/etc/hosts): such a file cannot be replaced.
                os.unlink(draft, dir_fd=folder)
                self._overwrite(name, folder, content)
            if durable:
                os.fsync(folder)
        finally:
            os.close(folder)

    def append(self, path: str, content: bytes, mode: int, uid: int, gid: int) -> None:
        """Append to a log of ours in one write, creating it with this mode and owner."""
        outside = self.outside(path)
        new = not os.path.exists(outside)
        file = os.open(outside, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            if new:
                self._chown(file, path, uid, gid)
                os.fchmod(file, mode)
            os.write(file, content)
        finally:
            os.close(file)

    def mkdir(self, path: str, mode: int, uid: int, gid: int, beneath: str | None = None) -> None:
        """Make a directory, or give an existing one this mode and owner; parents must exist."""
        path = path if beneath else self.resolve(path)
        folder = self._open_folder(os.path.dirname(path), beneath)
        try:
            name = os.path.basename(path)
            try:
                os.mkdir(name, 0o700, dir_fd=folder)
            except FileExistsError:
                pass
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                self._chown(made, path, uid, gid)
                os.fchmod(made, mode)
            finally:
                os.close(made)
            if not path.startswith("/run/"):
                os.fsync(folder)
        finally:
            os.close(folder)

    def symlink(self, path: str, target: str) -> None:
        """Put a symlink at a path, in place of a file or symlink that is there."""
        path = self.resolve(os.path.dirname(path)) + "/" + os.path.basename(path)
        folder = self._open_folder(os.path.dirname(path), None)
        draft = f".{os.path.basename(path)}{DRAFT}"
        try:
            try:
                os.symlink(target, draft, dir_fd=folder)
            except FileExistsError:
                os.unlink(draft, dir_fd=folder)
                os.symlink(target, draft, dir_fd=folder)
            os.rename(draft, os.path.basename(path), src_dir_fd=folder, dst_dir_fd=folder)
            if not path.startswith("/run/"):
                os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, path: str) -> None:
        """Remove a file, a symlink or a whole directory; nothing there is well."""
        outside = self.outside(path, follow=False)
        try:
            if stat.S_ISDIR(os.lstat(outside).st_mode):
                _remove_tree(outside)
            else:
                os.unlink(outside)
        except FileNotFoundError:
            return
        if not path.startswith("/run/"):
            folder = os.open(os.path.dirname(outside), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def set_access(self, path: str, mode: int, uid: int, gid: int) -> None:
        """Give an existing file or directory this mode and owner."""
        file = os.open(self.outside(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._chown(file, self.resolve(path), uid, gid)
            os.fchmod(file, mode)
        finally:
            os.close(file)

    # -- how

    def _open_folder(self, path: str, beneath: str | None) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if beneath is None:
            return os.open(self.outside(path), flags)
        folder = os.open(self.outside(beneath), flags)
        below = os.path.relpath(path, beneath)
        if below == ".":
            return folder
        if below.startswith(".."):
            os.close(folder)
            raise OSError(errno.EXDEV, f"not below {beneath}", path)
        for part in below.split("/"):
            try:
                deeper = os.open(part, flags | os.O_NOFOLLOW, dir_fd=folder)
            finally:
                os.close(folder)
            folder = deeper
        return folder

    def _open_draft(self, draft: str, folder: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(draft, flags, 0o600, dir_fd=folder)
        except FileExistsError:  # left by a crash
            os.unlink(draft, dir_fd=folder)
            return os.open(draft, flags, 0o600, dir_fd=folder)

    def _overwrite(self, name: str, folder: int, content: bytes) -> None:
        file = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
        try:
            os.write(file, content)
            os.fsync(file)
        finally:
            os.close(file)

    def _chown(self, file: int, path: str, uid: int, gid: int) -> None:
        if self.privileged:
            os.fchown(file, uid, gid)
        elif not self.live and (uid, gid) != self._recorded().get(path, (0, 0)):
            self._recorded()[path] = (uid, gid)
            self._store_owners()

    def _recorded(self) -> dict[str, tuple[int, int]]:
        if self._owners is None:
            import json

            self._owners = {}
            stored = self.read(OWNERS)
            if stored:
                self._owners = {path: (ids[0], ids[1]) for path, ids in json.loads(stored).items()}
        return self._owners

    def _store_owners(self) -> None:
        import json

        folder = self.outside(os.path.dirname(OWNERS))
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/owners.json", "w", encoding="utf-8") as file:
            json.dump(self._recorded(), file, indent=1, sort_keys=True)


def _remove_tree(path: str) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(path)
