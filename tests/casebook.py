"""Run a module on a scratch tree as a case file says, and compare.

A case is a YAML file in tests/cases/<module>/:

    user-data: |            # as the owner would send it (or `config:`, a mapping)
    vendor-data: |          # as the platform would send it
    image: {…}              # the image's own configuration
    web: {url: text}        # what URLs have; all others answer an include with 404, a module with nothing
    service: {meta-data: {…}}  # what was crawled, for templates
    metadata: {instance-id, hostname, region, public-keys: […], devices: {ephemeral0: sdb}, launch-index}
    tree:                   # before: path -> text, {content, mode, owner}, {link: target}, {dir: true, mode, owner},
                            # {zeros: bytes, at: {offset: hexadecimal}}
    tools:                  # how programs answer, first match wins; a tool that is not listed succeeds silently
      - {argv: "prefix of the command", status: 1, output: "…", writes: {path: text}, appends: {path: text}}
    missing: [growpart]     # programs that `Host.which` does not find (it finds all others)
    modules: [timezone]     # default: the folder's name
    first: true             # the modules' first run on this instance
    expect:
      files: {path: text, or {content, mode, owner}, or {link: target}, or {dir: true}, or null for absent}
      ran: ["argv …"]       # exactly the changing commands of the first run, in order (if given)
      commands: ["…"]       # the owner's commands, in order
      problems: ["user-data:3:1: …"]   # each is contained in a problem, and there are no others
      errors: ["…"]         # each is contained in an error, and there are no others
      again: ["argv …"]     # changing commands of a second run: default none
    plan: {differs: "why"}  # what comes is not what `plan` foresaw: a tool fails, a condition does not hold

Every case is run twice: the second run makes no change, and inode and mtime of every file stay.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import yaml

from cloudboot import config as configuration
from cloudboot import instance as instances
from cloudboot import modules, store
from cloudboot.commands import load_outcomes
from cloudboot.errors import CloudbootError
from cloudboot.host import Host
from cloudboot.http import Answer, Fetcher
from cloudboot.instance import Instance, Kind
from cloudboot.ledger import Ledger, State
from cloudboot.log import Log
from cloudboot.process import Result
from cloudboot.root import Root
from cloudboot.runner import Decision, Runner
from cloudboot.status import Status
from cloudboot.userdata.parts import Services
from cloudboot.userdata.variables import facts, variables
from recipes import made

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

NOW = 1_700_000_000.0
BASE_TREE: dict[str, Any] = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": "root:x:0:\nadm:x:4:\nsudo:x:27:\nnogroup:x:65534:\n",
    "/etc/shadow": {"content": "root:*:19000:0:99999:7:::\n", "mode": 0o640},
    "/etc/os-release": 'ID=debian\nVERSION_ID="13"\n',
    "/proc/sys/kernel/random/boot_id": "8c8a1c1e-0000-4000-8000-000000000001\n",
    "/root": {"dir": True, "mode": 0o700},
}


class ScratchLog(Log):
    """A log whose console is a list."""

    def __init__(self, root: Root, console: list[str]) -> None:
        super().__init__(root, now=lambda: NOW, echo=False)
        self.lines = console

    def print(self, text: str) -> None:
        self.lines += text.splitlines()

    def say(self, text: str) -> None:
        self.lines.append(text)


class ScratchHost(Host):
    """A host on a scratch tree that believes to be live; programs answer as the case says."""

    def __init__(self, root: Root, tools: Sequence[Mapping[str, Any]] = (), missing: Sequence[str] = ()) -> None:
        self.console: list[str] = []
        super().__init__(root, ScratchLog(root, self.console), now=lambda: NOW)
        self.live = True
        self.tools = tools
        self.missing = missing
        self.spawned: list[str] = []
        self.stdins: list[bytes | None] = []

    def which(self, name: str) -> str | None:
        return None if name in self.missing else f"/usr/bin/{name}"

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
        line = " ".join(argv)
        self.spawned.append(line)
        self.stdins.append(stdin)
        if argv[0] in ("/bin/sh", "sh") and "-n" not in argv:
            # The owner's own scripts are really run, on this machine: cases keep them harmless.
            return self.really(argv, env, output, fds)
        for tool in self.tools:
            if line.startswith(tool["argv"]):
                for path, text in tool.get("writes", {}).items():
                    plant(self.root, path, text)
                for path, text in tool.get("appends", {}).items():
                    plant(self.root, path, (self.root.read(path) or b"").decode() + text)
                return Result(tool.get("status", 0), tool.get("output", ""))
        return Result(127 if argv[0] in self.missing else 0)

    def really(
        self, argv: Sequence[str], env: Mapping[str, str] | None, output: int | None, fds: Mapping[int, int] | None
    ) -> Result:
        from cloudboot import process

        outside = [self.root.outside(word) if word.startswith("/var/lib/cloudboot") else word for word in argv]
        return process.spawn(outside, env={**process.base_environment(), **(env or {})}, output=output, fds=fds)


class NoFetcher(Fetcher):
    """A fetcher that notes what was asked and answers 200 with what the case has for it, or nothing."""

    def __init__(self, web: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.web = web or {}
        self.asked: list[tuple[str, str, dict[str, str] | None]] = []

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
        self.asked.append((method, url, dict(form) if form else None))
        return Answer(200, made(self.web.get(url, "")))


class Book:
    """One case: its tree, its run, what came out."""

    def __init__(self, case: Mapping[str, Any], folder: Path, default_module: str) -> None:
        self.case = case
        self.root = Root(str(folder))
        for path, what in {**BASE_TREE, **case.get("tree", {})}.items():
            plant(self.root, path, what)
        self.host = ScratchHost(self.root, case.get("tools", ()), case.get("missing", ()))
        self.names: list[str] = case.get("modules", [default_module])
        self.fetcher = NoFetcher(case.get("web", {}))
        metadata = case.get("metadata", {})
        self.instance = Instance(
            id=metadata.get("instance-id", "i-0123456789abcdef0"),
            datasource="Ec2",
            platform="aws",
            hostname=metadata.get("hostname", "ip-10-0-2-15.ec2.internal"),
            region=metadata.get("region"),
            public_keys=tuple(metadata.get("public-keys", ())),
            launch_index=metadata.get("launch-index", 0),
            devices=tuple(metadata.get("devices", {}).items()),
        )
        if "image" in case:
            plant(self.root, configuration.IMAGE_FILE, yaml.safe_dump(case["image"]))
        self.status = Status(self.host)
        self.ledger = Ledger(self.host, instances.folder(self.instance.id))

    def run(self) -> None:
        """Run the case's modules once, in order, as `single` would."""
        loaded = (
            modules.load_all()
            if not self.names
            else [modules.load(name) for name in modules.ORDER if self._there(name)]
        )
        schemas = dict(configuration.CORE_SCHEMA)
        for module in loaded:
            schemas.update(module.schema)
        raw = self.case.get("user-data")
        if raw is None and "config" in self.case:
            raw = "#cloud-config\n" + yaml.safe_dump(self.case["config"])
        user_data = raw.encode() if isinstance(raw, str) else raw
        vendor_data = self.case["vendor-data"].encode() if "vendor-data" in self.case else None
        config = store.config(self.host, self.instance, user_data, vendor_data, schemas, self.services())
        for problem in config.problems:
            self.status.problem(problem)
        from cloudboot import distro

        image, _ = store.image(self.host)
        facts = {"default_user": distro.read(self.host).default_user, **image.value}
        runner = Runner(
            self.host, self.ledger, config, self.instance, loaded, self.status, self.fetcher,
            kind=Kind.NEW, image=facts, distro="debian",
        )  # fmt: skip
        for name in self.names:
            module = modules.load(name)
            if not self.case.get("first", True):
                self.ledger.note(name, module.frequency, State.DONE)
            when, _ = runner.decision(module)
            if not module.keys or set(module.keys) & set(config.value):
                runner.run(module, when, Decision(True, "the case asks for it"))

    def services(self) -> Services:
        """Return what reading the user data needs, as the case has it."""

        def fetch(url: str, *, once: bool) -> bytes:
            if url not in self.case.get("web", {}):
                raise CloudbootError(f"GET {url}: HTTP 404")
            return made(self.case["web"][url])

        def of_templates() -> dict[str, Any]:
            return variables(self.instance, self.case.get("service", {}), facts(self.host))

        return Services(fetch, self.host.read, of_templates)

    def changes(self) -> list[str]:
        """Return the texts of the changes so far, and forget them."""
        texts = [action.text for action in self.host.changes]
        self.host.changes.clear()
        return texts

    def outcomes(self) -> list[str]:
        """Return the owner's commands that the last run of each module recorded."""
        return [
            entry["text"]
            for name in self.names
            for entries in load_outcomes(self.host, self.ledger.folder, name).values()
            for entry in entries
        ]

    def stamps(self) -> dict[str, tuple[int, int]]:
        """Return inode and mtime of every file in the tree that is not our own state."""
        found = {}
        for folder, _, files in os.walk(self.root.directory):
            inside = folder.removeprefix(self.root.directory)
            if inside.startswith(("/var/lib/cloudboot", "/var/log", "/run/cloudboot")):
                continue
            for name in files:
                state = os.lstat(f"{folder}/{name}")
                found[f"{inside}/{name}"] = (state.st_ino, state.st_mtime_ns)
        return found

    def _there(self, name: str) -> bool:
        return os.path.exists(f"{os.path.dirname(modules.__file__)}/{name}.py")


def plant(root: Root, path: str, what: Any) -> None:
    """Put a file, link or directory into a scratch tree."""
    outside = root.directory + path
    os.makedirs(os.path.dirname(outside), exist_ok=True)
    spec = what if isinstance(what, dict) else {"content": what}
    if "link" in spec:
        if os.path.lexists(outside):
            os.unlink(outside)
        os.symlink(spec["link"], outside)
        return
    mode = spec.get("mode", 0o755 if "dir" in spec else 0o644)
    uid, gid = root.ids(spec.get("owner", "root:root"))
    if "dir" in spec:
        os.makedirs(outside, exist_ok=True)
        root.mkdir(path, mode, uid, gid)
    else:
        content = bytes(spec["zeros"]) if "zeros" in spec else spec["content"]
        for offset, data in spec.get("at", {}).items():
            piece = bytes.fromhex(data)
            content = content[:offset] + piece + content[offset + len(piece) :]
        root.write(path, content if isinstance(content, bytes) else content.encode(), mode, uid, gid)


def differences(book: Book, expected: Mapping[str, Any]) -> list[str]:
    """Compare files with what a case expects; return what differs."""
    found = []
    for path, what in expected.items():
        entry = book.root.look(path, follow=False)
        if what is None:
            if entry is not None:
                found.append(f"{path}: is there")
            continue
        if entry is None:
            found.append(f"{path}: is not there")
            continue
        spec = what if isinstance(what, dict) else {"content": what}
        if "link" in spec and book.root.readlink(path) != spec["link"]:
            found.append(f"{path}: {entry.kind} -> {book.root.readlink(path)}, not a link to {spec['link']}")
        if "dir" in spec and entry.kind != "dir":
            found.append(f"{path}: is a {entry.kind}, not a directory")
        if "content" in spec:
            content = (book.root.read(path) or b"").decode("utf-8", "replace")
            if content != spec["content"]:
                found.append(f"{path}: holds {content!r}, not {spec['content']!r}")
        if "mode" in spec and entry.mode != spec["mode"]:
            found.append(f"{path}: mode {entry.mode:04o}, not {spec['mode']:04o}")
        if "owner" in spec and (entry.uid, entry.gid) != book.root.ids(spec["owner"]):
            found.append(f"{path}: owner {entry.uid}:{entry.gid}, not {spec['owner']}")
    return found
