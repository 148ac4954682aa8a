"""The overlay behaves as the disk does, leaves none of it changed, and tools' effects are those of the tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casebook import BASE_TREE, ScratchHost, plant
from cloudboot import disks, passwords, swapfile
from cloudboot.actions import SwapTree
from cloudboot.host import Host
from cloudboot.log import Log
from cloudboot.planned import PlannedFetcher, PlannedHost, PlannedRoot, is_opaque
from cloudboot.process import Result
from cloudboot.root import DRAFT, Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("a", "b", "link", "home")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
STEPS = st.one_of(
    st.tuples(st.just("write"), PATHS, st.binary(max_size=3), st.sampled_from([0o600, 0o644])),
    st.tuples(st.just("write"), PATHS, st.binary(max_size=3), st.just(0o600), st.just("/home")),
    st.tuples(st.just("mkdir"), PATHS, st.sampled_from([0o700, 0o755])),
    st.tuples(st.just("symlink"), PATHS, st.sampled_from(["a", "/b", "../a/b", "/nowhere", "link"])),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("set_access"), PATHS, st.sampled_from([0o600, 0o755])),
)


def stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return all that the kernel knows of every name below a directory, but when it was last read."""
    found: dict[str, tuple[int, ...]] = {}
    for place, folders, files in os.walk(folder):
        for name in [".", *folders, *files]:
            state = os.lstat(f"{place}/{name}")
            found[f"{place}/{name}"] = (
                state.st_ino, state.st_mode, state.st_nlink, state.st_uid, state.st_gid,
                state.st_size, state.st_mtime_ns, state.st_ctime_ns,
            )  # fmt: skip
    return found


def step(root: Root, name: str, path: str, *rest: Any) -> str:
    """Make one change, as an action would that asks first; return what became of it."""
    if name == "remove" and root.look(path, follow=False) is None:
        return "nothing to do"
    try:
        if name == "write":
            root.write(path, rest[0], rest[1], 0, 0, *rest[2:])
        elif name in ("mkdir", "set_access"):
            getattr(root, name)(path, rest[0], 0, 0)
        else:
            getattr(root, name)(path, *rest)
    except OSError:
        return "refused"
    return "done"


def seen(root: Root) -> dict[str, Any]:
    """Return all answers about the few names that the steps use."""
    found: dict[str, Any] = {}
    todo = [f"/{name}" for name in NAMES]
    todo += [f"{path}/{name}" for path in todo for name in NAMES]
    for path in ["/", *todo]:
        for follow in (True, False):
            entry = root.look(path, follow=follow)
            found[f"{path} {follow}"] = entry and (entry.kind, entry.mode if entry.kind != "link" else 0)
        found[f"{path} link"] = root.readlink(path)
        asks: dict[str, Any] = {"names": root.listdir, "content": root.read}
        if path.startswith("/home/"):
            asks["beneath"] = lambda path: root.read_beneath(path, "/home", 9)[1]
        for name, ask in asks.items():
            try:
                answer = ask(path)
                found[f"{path} {name}"] = [each for each in answer if DRAFT not in each] if name == "names" else answer
            except OSError:
                found[f"{path} {name}"] = "refused"
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=8))
def test_overlay_and_disk_give_the_same_answers(tmp_path: Path, steps: list[tuple[Any, ...]]) -> None:
    for place in ("disk", "below"):
        shutil.rmtree(tmp_path / place, ignore_errors=True)
        root = Root(str(make(tmp_path / place)))
        for path, what in {"/a": {"dir": True}, "/a/b": "old", "/link": {"link": "a"}, "/home": {"dir": True}}.items():
            plant(root, path, what)
    disk, overlay = Root(str(tmp_path / "disk")), PlannedRoot(Root(str(tmp_path / "below")))
    before = stamps(tmp_path / "below")
    for each in steps:
        assert step(overlay, *each) == step(disk, *each), each
        assert seen(overlay) == seen(disk), each
    assert stamps(tmp_path / "below") == before


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_what_is_removed_and_made_again_is_empty(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    plant(root, "/etc/ssh/old", "x")
    overlay = PlannedRoot(root)
    overlay.remove("/etc/ssh")
    assert (overlay.look("/etc/ssh/old"), overlay.listdir("/etc")) == (None, [])
    overlay.mkdir("/etc/ssh", 0o755, 0, 0)
    overlay.write("/etc/ssh/new", b"", 0o600, 0, 0)
    assert overlay.listdir("/etc/ssh") == ["new"]
    assert overlay.read("/etc/ssh/old") is None
    assert root.read("/etc/ssh/old") == b"x"


def test_what_may_not_be_read_is_noted_and_taken_for_absent(ordinary: Path) -> None:
    plant_as_root(ordinary, "/etc/shadow", "root:x", 0o600)
    plant_as_root(ordinary, "/var/lib/secret/file", "x", 0o600)
    os.chmod(ordinary / "var/lib/secret", 0o700)
    with as_nobody():
        overlay = PlannedRoot(Root(str(ordinary)))
        assert overlay.read("/etc/shadow") is None
        assert overlay.look("/var/lib/secret/file") is None
        assert overlay.listdir("/var/lib/secret") == []
        assert overlay.unread == {"/etc/shadow", "/var/lib/secret"}


# -- the door


@pytest.fixture
def machine(tmp_path: Path) -> PlannedHost:
    """A planned machine on a scratch tree that is believed to be live."""
    root = Root(str(tmp_path))
    for path, what in BASE_TREE.items():
        plant(root, path, what)
    return PlannedHost(ScratchHost(root))


def test_a_second_question_sees_the_first_change(machine: PlannedHost) -> None:
    before = stamps_of(machine)
    assert machine.write("/etc/motd", "hi\n")
    assert not machine.write("/etc/motd", "hi\n")
    assert machine.run(["useradd", "-m", "bob"])
    bob = machine.user("bob")
    assert bob is not None
    assert machine.mkdir(f"{bob.home}/.ssh", owner="bob", beneath=bob.home)
    assert machine.run(["hostname", "web"])
    assert machine.text("/proc/sys/kernel/hostname") == "web\n"
    assert machine.run(["swapon", "/dev/xvdz"])
    assert disks.swaps(machine) == ["/dev/xvdz"]
    assert machine.do(swapfile.SwapFile("/swap.img", 16, "ext4"))
    assert swapfile.is_swap(machine, "/swap.img")
    assert machine.do(SwapTree("/run/ec2", {"meta-data/instance-id": b"i-1"}))
    assert machine.text("/run/ec2/meta-data/instance-id") == "i-1"
    assert [change.text for change in machine.planned_changes] == [action.text for action in machine.changes]
    assert stamps_of(machine) == before
    assert isinstance(machine.base, ScratchHost)
    assert machine.base.spawned == []


def test_mounts_hide_what_is_known(machine: PlannedHost) -> None:
    machine.write("/etc/fstab", "LABEL=my\\040data /data ext4 defaults 0 0\n")
    machine.mkdir("/data")
    machine.run(["mount", "/data"])
    assert disks.mounted(machine, "/data") is not None
    machine.write("/data/file", "x")
    assert "not mounted yet" in machine.planned_changes[-1].unsure
    assert swapfile.free_space(machine, "/data/swap") > 1 << 60


def test_what_follows_the_owner_s_commands_may_differ(machine: PlannedHost) -> None:
    machine.write("/etc/one", "")
    assert machine.only_records("runcmd", ["touch /etc/two"])
    machine.write("/etc/two", "")
    kinds = [(change.kind, change.unsure) for change in machine.planned_changes]
    assert kinds == [("action", ""), ("command", ""), ("action", "runcmd runs before it")]


def test_a_program_that_is_not_there_fails_as_in_a_boot(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    plant(root, "/etc/passwd", "")
    host = PlannedHost(ScratchHost(root, missing=["useradd"]))
    with pytest.raises(Exception, match="useradd bob: not found"):
        host.run(["useradd", "bob"])


def test_only_what_tells_is_asked_and_the_owner_s_condition_is_not(machine: PlannedHost) -> None:
    base = machine.base
    assert isinstance(base, ScratchHost)
    base.tools = [{"argv": "visudo", "status": 1}]
    assert machine.ask(["visudo", "-cf", "-"], stdin=b"x").status == 1
    assert machine.ask(["/bin/sh", "-c", "rm -rf /"]) == Result(0, recorded=True)
    assert machine.ask(["sshd", "-t"]).ok
    assert base.spawned == ["visudo -cf -"]
    assert "decides about it" in machine.unsure


def test_a_planned_file_is_shown_to_a_program_that_tells(tmp_path: Path) -> None:
    """Really asks: the word is a file that is only planned."""
    tmp_path.joinpath("bin").mkdir()
    host = PlannedHost(Host(Root("/"), Log(Root("/"), echo=False, keep=False)))
    host.root.write("/planned", b"what it holds", 0o600, 0, 0)
    assert host.ask_machine(["cat", "/planned"], None, 10).output == "what it holds"
    assert not os.path.exists("/planned")


def test_image_trees_are_asked_by_their_files(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    status = (
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5\n\nPackage: gone\nStatus: x\n"
    )
    plant(root, "/var/lib/dpkg/status", status)
    host = PlannedHost(Host(root, Log(root, echo=False, keep=False)))
    assert host.ask(["dpkg-query", "-W"]).output == "ii \tbash\tamd64\t5\t"
    assert host.ask(["visudo", "-cf", "-"]).status == 127


def test_a_password_that_is_planned_is_accepted(machine: PlannedHost) -> None:
    machine.run(["useradd", "-m", "bob"])
    assert passwords.set_plain(machine, "bob", "correct horse")
    assert not passwords.set_plain(machine, "bob", "correct horse")
    assert is_opaque(machine.read("/etc/shadow"))
    assert "correct horse" not in repr(machine.planned_changes[-1].text + machine.planned_changes[-1].effect)


def test_nothing_is_sent_and_what_is_not_fetched_is_opaque(machine: PlannedHost) -> None:
    fetcher = PlannedFetcher(machine, fetch=False)
    assert is_opaque(fetcher.get("http://127.0.0.1:9/x").body)
    fetcher.post("http://127.0.0.1:9/home", {"fqdn": "web"})
    assert [change.text for change in machine.planned_changes] == [
        "GET http://127.0.0.1:9/x",
        "POST http://127.0.0.1:9/home",
    ]


# -- effects against the tools themselves

ACCOUNT_CALLS: list[list[list[str]]] = [
    [["useradd", "-m", "bob"]],
    [["groupadd", "ops"], ["useradd", "--groups", "adm,ops", "-M", "bob"], ["usermod", "-a", "-G", "sudo", "bob"]],
    [["useradd", "--comment", "B B", "--home-dir", "/srv/b", "--uid", "1500", "--shell", "/bin/false", "-m", "bob"]],
    [["useradd", "--system", "-M", "daemon1"], ["useradd", "--system", "-M", "daemon2"], ["groupadd", "--system", "s"]],
    [["useradd", "--no-user-group", "-M", "bob"], ["useradd", "-m", "carol"]],
    [["useradd", "--expiredate", "2030-01-31", "--inactive", "7", "-M", "bob"], ["usermod", "--lock", "root"]],
    [["useradd", "-M", "bob"], ["usermod", "--lock", "bob"], ["usermod", "--unlock", "root"]],
    [["groupadd", "bob"], ["useradd", "--gid", "bob", "-M", "bob"]],
]


@pytest.mark.parametrize("calls", ACCOUNT_CALLS, ids=lambda calls: " ; ".join(" ".join(call) for call in calls))
def test_account_tools_do_what_is_planned(tmp_path: Path, calls: list[list[str]]) -> None:
    """Run the real tools on a tree (`--prefix`), and plan the same on a copy of it."""
    real, planned = make(tmp_path / "real"), make(tmp_path / "planned")
    for place in (real, planned):
        root = Root(str(place))
        for path, what in BASE_TREE.items():
            plant(root, path, what)
        plant(root, "/etc/shadow", {"content": "root:$6$a$b:19000:0:99999:7:::\n", "mode": 0o640})
        plant(root, "/etc/gshadow", {"content": "root:*::\nadm:*::\nsudo:*::\nnogroup:*::\n", "mode": 0o640})
        plant(
            root,
            "/etc/login.defs",
            "UID_MIN 1000\nUID_MAX 60000\nPASS_MAX_DAYS 99999\nUSERGROUPS_ENAB yes\nHOME_MODE 0750\n",
        )
        plant(root, "/etc/default/useradd", "SHELL=/bin/sh\n")
        # With --prefix the tool takes the machine's own skeleton.
        for name, content in Host(Root("/"), Log(Root("/"), keep=False)).tree("/etc/skel").items():
            plant(root, f"/etc/skel/{name}", {"content": content})
        plant(root, "/home", {"dir": True})
        plant(root, "/srv", {"dir": True})
    host = PlannedHost(ScratchHost(Root(str(planned))))
    host.now = __import__("time").time
    for call in calls:
        done = subprocess.run([call[0], "--prefix", str(real), *call[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        host.run(call)
    there = Root(str(real))
    for path in ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"):
        assert (host.read(path) or b"").decode() == (there.read(path) or b"").decode(), path
    for user in there.users().values():
        if user.home.startswith(("/home/", "/srv/")):
            one, other = host.look(user.home), there.look(user.home)
            assert (one and (one.mode, one.uid, one.gid)) == (other and (other.mode, other.uid, other.gid))
            assert host.tree(user.home) == Host(there, host.said).tree(user.home)


# -- helpers of this file


@pytest.fixture
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tree that everybody may read: pytest's own directories are for its user alone."""
    import tempfile
    from pathlib import Path as RealPath

    folder = RealPath(tempfile.mkdtemp(prefix="cloudboot-plan-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class as_nobody:  # noqa: N801 -- reads as a statement
    """Do something without root's rights (whoever has none already, goes on as he is)."""

    def __enter__(self) -> None:
        self.groups, self.root = os.getgroups(), os.geteuid() == 0
        if self.root:
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self.root:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(self.groups)


def plant_as_root(folder: Path, path: str, content: str, mode: int) -> None:
    place = folder / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    place.chmod(mode)


def stamps_of(host: PlannedHost) -> dict[str, tuple[int, ...]]:
    from pathlib import Path as RealPath

    return stamps(RealPath(host.root.directory))
