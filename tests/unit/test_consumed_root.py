"""A root that is a volume's: the machine is the volume, the instance around it may be another."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from casebook import Book, NoFetcher, ScratchHost, plant
from cloudboot import blank, consumed_root, disks, disks_verb, planning, root_volume, volumes
from cloudboot.boot import Boot
from cloudboot.commands import Commands
from cloudboot.compat import files
from cloudboot.host import Host
from cloudboot.instance import Identity, Instance, Kind, decide, may_have_moved
from cloudboot.ledger import Marker, State
from cloudboot.log import Log
from cloudboot.module import Context, Frequency, Stage
from cloudboot.modules.consume import wants_to_be_root
from cloudboot.planned import PlannedHost
from cloudboot.root import Root
from cloudboot.runner import Timing, why
from cloudboot.single import why_sentence
from cloudboot.status import Status
from cloudboot.superblock import Superblock
from cloudboot.volume_reader import Found
from unit.modules.test_disks import NITRO, PAGES
from unit.modules.test_disks import host as disks_host
from unit.test_boot import ASSET, DATA, A, B, Machine
from unit.test_runner import Killed

UUID = "1f0c8f0e-0000-4000-8000-000000000001"
KEY = f"root-{UUID}"
USED = f"state=used\nmode=overlay\ndevice=nvme1n1\nuuid={UUID}\nvolume=vol-0123\nlabel=vendor\nfirst=no\n"
FALLBACK = "state=fallback\nreason=no volume says that it is the root (waited 30 s)\nrefused=nvme2n1 (vol-9): it is not signed\n"
KEYS = "/home/debian/.ssh/authorized_keys"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
C = "i-0cccccccccccccccc"
OTHER = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'B' * 43} other"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class Rooted(NamedTuple):
    """Boots of a machine whose root is a volume's."""

    machine: Machine

    def boot(self, *stages: Stage, report: str = USED) -> dict[str, Any]:
        """Boot as after an initramfs that has left this; return the status."""
        self._start(report)
        return self.machine.boot(*stages, new=False).status.values

    def prepare(self) -> Boot:
        """Return a boot that has not begun."""
        self._start(USED)
        return Boot(Host(self.machine.root, Log(self.machine.root, echo=False)))

    def _start(self, report: str) -> None:
        self.machine.root.remove("/run")
        plant(self.machine.root, consumed_root.FILE, report)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return user data that gives the machine a host key, which a scratch tree cannot make itself."""
    file = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    words = {"ed25519_private": file.read_text(), "ed25519_public": Path(f"{file}.pub").read_text()}
    return f"{DATA}ssh_keys: {json.dumps(words)}\n"


def own_host_key(machine: Machine) -> None:
    """Make the machine's host key another one than the user data's, which only a first run of `ssh` puts back."""
    content = machine.text(HOST_KEY)
    assert content is not None
    plant(machine.root, HOST_KEY, {"content": "mine\n", "mode": 0o600})


# -- deciding


def test_the_volume_decides() -> None:
    words = [None, A, B]
    for hardware, service, previous in itertools.product(words, words, [None, Identity(A, A, A), Identity(KEY, A, A)]):
        found = decide(previous, hardware, service, KEY)
        assert found.id == KEY
        if previous is not None and previous.id == KEY:
            assert found.kind is Kind.SAME
        else:
            assert found.kind is (Kind.NEW if service else Kind.NEW_WITHOUT_DATA)


@pytest.mark.parametrize(
    ("hardware", "previous", "may"),
    [
        (A, Identity(KEY, A, A), False),
        (None, Identity(KEY, A, A), True),
        (B, Identity(KEY, A, A), True),
        (None, Identity(KEY, None, A), True),
        (A, None, True),
    ],
)
def test_whether_it_may_have_moved(hardware: str | None, previous: Identity | None, may: bool) -> None:
    assert may_have_moved(previous, hardware) is may


def test_a_volume_that_is_no_root_any_more_is_another_machine() -> None:
    """Its file system boots in another way: what is known there is not of this instance, even if it is the same one."""
    previous = Identity(KEY, A, A)
    for hardware, service in itertools.product([None, A, B], repeat=2):
        assert decide(previous, hardware, service) == decide(None, hardware, service)


def test_what_follows_the_instance_runs_again() -> None:
    from cloudboot import modules

    when = Timing(Frequency.INSTANCE, "the module's default")
    ran = Marker(State.DONE, "boot", 0.0, instance=A)

    def decided(name: str, instance: str) -> bool:
        each = modules.load(name)
        return why(each, when, keys=frozenset(each.keys), marker=ran, kind=Kind.SAME, instance=instance).run

    assert not decided("ssh", A)
    assert decided("ssh", B)
    assert not decided("users_groups", B)
    assert [each.name for each in modules.load_all() if each.follows] == ["ssh"]


# -- whole boots


@pytest.mark.parametrize("hardware", [True, False])
def test_another_instance_around_the_same_volume(machine: Machine, hardware: bool, keyed: str) -> None:
    rooted = Rooted(machine)
    for number, instance in enumerate([A, A, B, B, C]):
        if hardware:
            plant(machine.root, ASSET, f"{instance}\n")
        with machine.serve(instance, keyed.replace("hostname: web\n", "")):
            status = rooted.boot()
        assert status["kind"] == ("new" if number == 0 else "same")
        assert status["instance"] == instance
        assert status["root"] == {
            "key": KEY, "mode": "overlay", "device": "nvme1n1", "uuid": UUID, "volume": "vol-0123", "label": "vendor",
        }  # fmt: skip
        assert status["errors"] == []
        assert machine.result()["root"] == status["root"]
        assert machine.root.readlink("/var/lib/cloudboot/instance") == f"instances/{KEY}"
        assert f"CLOUDBOOT_INSTANCE_ID={instance}\n" in (machine.text("/run/cloudboot/instance.env") or "")
        if number == 0:
            name = machine.text("/etc/hostname")
            own_host_key(machine)
            plant(machine.root, "/etc/motd", "mine")
        assert machine.text(HOST_KEY) == "mine\n"
        assert machine.text("/etc/hostname") == name, "the name is the volume's"
        assert machine.text("/etc/motd") == "mine", "what ran once for an instance has run once for the volume"
        ran = [module for module, facts in status["modules"].items() if facts["state"] == "done"]
        assert ("ssh" in ran) == (number in (0, 2, 4)), f"boot {number}: {ran}"


def test_the_new_instances_key_may_log_in(machine: Machine, keyed: str) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A, keyed):
        rooted.boot()
    old = (machine.text(KEYS) or "").splitlines()
    assert old
    own_host_key(machine)
    plant(machine.root, ASSET, f"{B}\n")
    with machine.serve(B, keyed, keys=[OTHER]):
        rooted.boot(Stage.LOCAL)
        assert machine.text("/run/cloudboot/skip/network") is None, "the login waits for the new instance's keys"
        machine.boot(Stage.NETWORK, new=False)
        assert set((machine.text(KEYS) or "").splitlines()) == {*old, OTHER}
        assert machine.text(HOST_KEY) == "mine\n"
        assert "was attached to" in why_sentence(machine.boot(Stage.FINAL, new=False).host, "ssh")


def test_a_settled_boot_on_the_same_instance_starts_nothing(machine: Machine) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        rooted.boot()
    status = rooted.boot(Stage.LOCAL)
    assert status["kind"] == "same"
    assert machine.text("/run/cloudboot/skip/network") == ""


def test_an_outage_on_another_instance_changes_no_key(machine: Machine, keyed: str) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A, keyed):
        rooted.boot()
    own_host_key(machine)
    plant(machine.root, ASSET, f"{B}\n")
    status = rooted.boot()
    assert status["kind"] == "same"
    assert status["instance"] == B
    assert machine.text(HOST_KEY) == "mine\n"
    assert machine.result()["status"] == "degraded"
    with machine.serve(B, keyed):  # the next boot makes up for it
        status = rooted.boot()
        assert "was attached to" in status["modules"]["ssh"]["reason"]
    assert machine.text(HOST_KEY) == "mine\n"


def test_hardware_that_says_nothing_and_a_service_that_is_late(machine: Machine, keyed: str) -> None:
    """The login waits for a second; the config stage finds out that the instance is another, and lets its key in."""
    rooted = Rooted(machine)
    with machine.serve(A, keyed):
        rooted.boot()
    own_host_key(machine)
    before = machine.text(KEYS) or ""
    began = time.monotonic()
    status = rooted.boot(Stage.LOCAL, Stage.NETWORK)
    assert time.monotonic() - began < 10
    assert (status["kind"], status["crawled"]) == ("same", None)
    assert machine.text(KEYS) == before
    with machine.serve(B, keyed, keys=[OTHER]):
        status = machine.boot(Stage.CONFIG, new=False).status.values
    assert (status["kind"], status["instance"]) == ("same", B)
    assert OTHER in (machine.text(KEYS) or "")
    assert machine.text(HOST_KEY) == "mine\n"


def test_a_new_volume_on_a_known_instance_is_a_new_machine(machine: Machine) -> None:
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        machine.boot()
        status = Rooted(machine).boot()
    assert status["kind"] == "new"


def test_plan_of_a_moved_root(machine: Machine) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        rooted.boot()
    plant(machine.root, ASSET, f"{B}\n")
    asked = planning.Asked()
    made = planning.make(PlannedHost(Host(machine.root, Log(machine.root, echo=False))), asked)
    assert (made.instance.id, made.instance.root) == (B, KEY)
    assert any(f"has come from {A} to {B}" in text for text in made.remarks)
    runs = {part.module: part.reason for part in made.parts if part.runs}
    assert f"was attached to {A} when it ran" in runs["ssh"]
    assert "users_groups" not in runs


def test_an_interrupted_run_on_another_instance_is_no_first_run(machine: Machine, keyed: str) -> None:
    """A volume that moved and lost its power while the keys were let in keeps its host keys."""
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A, keyed):
        rooted.boot()
    own_host_key(machine)
    plant(machine.root, ASSET, f"{B}\n")
    with machine.serve(B, keyed):
        boot = rooted.prepare()

        def cut(_: int, action: object) -> None:
            if getattr(action, "path", "").endswith("/ran/ssh") and b'"started"' in getattr(action, "content", b""):
                boot.host.on_change = die

        def die(_: int, action: object) -> None:
            raise Killed

        boot.host.on_change = cut
        with pytest.raises(Killed):
            boot.run(list(Stage))
        status = rooted.boot()
    assert status["modules"]["ssh"]["reason"] == "its last run was interrupted"
    assert machine.text(HOST_KEY) == "mine\n"


# -- what is said


def test_fallback_is_said_everywhere(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        status = Rooted(machine).boot(report=FALLBACK)
    assert status["root"] is None
    assert status["kind"] == "new"
    assert status["recoverable"] == [
        "root: refused: nvme2n1 (vol-9): it is not signed",
        "root: the image itself is booted: no volume says that it is the root (waited 30 s)",
    ]
    assert machine.result()["status"] == "degraded"
    assert any("the image itself is booted" in line for line in machine.lines)
    assert status["fallback"] == "no volume says that it is the root (waited 30 s)"
    assert machine.root.readlink("/var/lib/cloudboot/instance") == f"instances/{A}"
    from cloudboot.cli import main

    assert main(["status", "--root", machine.root.outside("/")]) == 2
    assert "root: the image itself is booted: no volume says" in capsys.readouterr().out
    main(["why", "consume", "--root", machine.root.outside("/")])
    shown = capsys.readouterr().out
    assert "The image itself is booted: no volume says" in shown
    assert "Refused as a root: nvme2n1 (vol-9): it is not signed." in shown


def test_status_shows_both(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    from cloudboot.cli import main

    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        Rooted(machine).boot()
    assert main(["status", "--root", machine.root.outside("/")]) == 0
    shown = capsys.readouterr().out
    assert f"instance: {A} (new, Ec2)" in shown
    assert "root: vol-0123 (nvme1n1), overlay" in shown
    main(["why", "consume", "--root", machine.root.outside("/")])
    assert "The root of this system is vol-0123 (nvme1n1) (overlay)." in capsys.readouterr().out


def test_another_image_below_is_said(machine: Machine) -> None:
    with machine.serve(A):
        status = Rooted(machine).boot(report=f"{USED}rebased=yes\n")
    assert any("over another image" in text for text in status["recoverable"])


@pytest.mark.parametrize("content", ["", "nonsense", "state=used\n", "state=used\nuuid=\n", "=\n\n"])
def test_a_file_that_is_not_what_it_should_be(machine: Machine, content: str) -> None:
    with machine.serve(A):
        status = Rooted(machine).boot(report=content)
    assert status["root"] is None
    assert status["instance"] == A


@pytest.mark.parametrize(
    ("blocks", "free", "nearly"),
    [(1 << 20, 1 << 19, False), (1 << 20, 1 << 13, True), (1 << 15, 1 << 14, False), (1 << 15, 1 << 13, True)],
)
def test_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, free: int, nearly: bool) -> None:
    from cloudboot.host import Host

    state = os.statvfs_result((4096, 4096, blocks, free, free, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: state)
    root = Root(str(tmp_path))
    found = consumed_root.shortage(Host(root, Log(root, echo=False)))
    assert (found is not None) == nearly


# -- what the verbs show


def test_plan_shows_the_packages_that_are_held(machine: Machine) -> None:
    rooted = Rooted(machine)
    plant(machine.root, ASSET, f"{A}\n")
    plant(machine.root, "/usr/bin/apt-mark", {"content": "", "mode": 0o755})
    plant(machine.root, "/var/lib/dpkg/status", "Package: linux-image-6.1\nStatus: install ok installed\n")
    with machine.serve(A):
        rooted.boot()

    def planned() -> set[str]:
        made = planning.make(PlannedHost(Host(machine.root, Log(machine.root, echo=False))), planning.Asked())
        return {part.module for part in made.parts if part.runs}

    assert "kernel_hold" in planned()
    plant(machine.root, "/var/lib/dpkg/status", "Package: linux-image-6.1\nStatus: hold ok installed\n")
    assert "kernel_hold" not in planned()


def test_metadata_of_another_instance_in_a_plan(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> None:
    rooted = Rooted(machine)
    with machine.serve(A):
        rooted.boot()
    file = tmp_path_factory.mktemp("metadata") / "b.yaml"
    file.write_text(f"{{instance-id: {B}, local-hostname: other}}")
    host = PlannedHost(Host(machine.root, Log(machine.root, echo=False)))
    made = planning.make(host, planning.Asked(metadata=str(file)))
    assert (made.kind, made.instance.id, made.instance.root) == (Kind.SAME, B, KEY)
    assert made.instance.hostname != "other"
    again = planning.make(PlannedHost(host), planning.Asked(metadata=str(file), new=True))
    assert (again.kind, again.instance.root) == (Kind.NEW, "")


@pytest.mark.parametrize(
    ("mode", "target", "words", "shown"),
    [
        ("root", "/", "is the root of this system", ("/",)),
        ("overlay", "/run/cloudboot/volume", "holds the upper layer of this system's root", ("/run/cloudboot/volume", "/ (upper layer)")),
    ],
)  # fmt: skip
def test_a_volume_that_is_the_root_is_named_so(
    tmp_path: Path, mode: str, target: str, words: str, shown: tuple[str, ...]
) -> None:
    def pages(path: str) -> bytes:
        return PAGES[path.rpartition("/")[2]]

    host = disks_host(tmp_path, NITRO, {})
    plant(host.root, consumed_root.FILE, USED.replace("overlay", mode))
    plant(host.root, "/proc/self/mountinfo", f"27 1 259:9 / {target} rw - ext4 /dev/nvme1n1 rw\n")
    plant(host.root, "/sys/dev/block/259:9", {"link": "../../devices/nvme1n1"})
    (volume,) = [each for each in volumes.classes(disks.Disks(host, {}, pages)) if each.name == "nvme1n1"]
    assert volume.verdict == f"in use: {words}"
    rows = [row for row in disks_verb.rows(disks.Disks(host, {}, pages)) if row.name == "nvme1n1"]
    assert rows[0].mounted == shown
    assert "nvme1n1" in blank.system_disks(host)


def test_what_becomes_of_another_root(tmp_path: Path) -> None:
    volume = volumes.Volume(Found("nvme3n1", None, Superblock("ext4")), "vol-7", volumes.State.ACCEPTED)

    def said() -> str:
        host = ScratchHost(Root(str(tmp_path)))
        ctx = Context(
            host=host, config={}, instance=Instance(A, "Ec2"), image={}, name="consume", marks={},
            commands=Commands(host, "/var/lib/cloudboot/instance", "consume"), fetcher=NoFetcher(), first=True,
        )  # fmt: skip
        wants_to_be_root(ctx, volume)
        return " ".join(problem.text for problem in ctx.problems)

    assert said().endswith("this image is not baked for it")
    plant(Root(str(tmp_path)), root_volume.SCRIPT, "")
    assert "vol-7 (nvme3n1): wants to be the root of the system: it is taken by the initramfs" in said()
    plant(Root(str(tmp_path)), consumed_root.FILE, FALLBACK)
    assert said() == "", "the initramfs has said why not"
    plant(Root(str(tmp_path)), consumed_root.FILE, USED)
    assert "vol-0123 (nvme1n1) is that already" in said()


def test_a_nearly_full_root_is_said_in_status_and_on_the_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(Root(str(tmp_path)), consumed_root.FILE, USED)
    host = ScratchHost(Root(str(tmp_path)))
    status = Status(host)
    consumed_root.report(host, status, consumed_root.read(host))
    before = list(status.values["recoverable"])
    state = os.statvfs_result((4096, 4096, 1 << 20, 1 << 13, 1 << 13, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: state)
    consumed_root.report(host, status, consumed_root.read(host))
    (said,) = [text for text in status.values["recoverable"] if text not in before] or before
    assert said == "root: vol-0123 (nvme1n1): is nearly full: 32 MiB are free: make room, or attach a larger volume"
    assert said in host.console


@pytest.mark.parametrize(("instance", "armed"), [(A, False), (B, True)])
def test_a_lease_that_was_taken_back_on_another_instance(tmp_path: Path, instance: str, armed: bool) -> None:
    """The paid hour is the instance's: what was said of another one's does not count."""
    metadata = {"instance-id": A}
    case = {"config": {"lease": {"until": "8h"}}, "tree": {"/proc/uptime": "20.00 30.00\n"}, "metadata": metadata}
    book = Book(case, tmp_path, "lease")
    book.run()
    state = f"{book.ledger.folder}/lease/state.json"
    kept = json.loads(book.host.text(state) or "")
    assert kept["who"]["instance_id"] == A
    kept["term"].update(state="cancelled", boot="an earlier one")
    plant(book.root, state, json.dumps(kept))
    book.instance = book.instance._replace(id=instance, root=A)
    book.ledger.instance = instance
    book.run()
    assert json.loads(book.host.text(state) or "")["term"]["state"] == ("armed" if armed else "cancelled")


def test_cloud_inits_files_name_the_instance(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    files.adopt(Host(root, Log(root, echo=False)), KEY, B)
    assert root.read(f"{files.LIB}/data/instance-id") == f"{B}\n".encode()
    assert root.readlink(files.INSTANCE) == f"instances/{KEY}"
    assert root.readlink(f"{files.INSTANCE}/user-data.txt") == f"/var/lib/cloudboot/instances/{KEY}/user-data"


class Counting(Root):
    """A tree that counts how often the initramfs's word is looked for."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.asked = 0

    def read(self, path: str, *limit: int) -> bytes | None:
        self.asked += path == consumed_root.FILE
        return super().read(path, *limit)


def test_an_ordinary_machine_looks_once_in_a_stage(machine: Machine) -> None:
    plant(machine.root, ASSET, f"{A}\n")
    with machine.serve(A):
        machine.boot()
        machine.root.remove("/run")
        for stage in Stage:
            root = Counting(machine.root.directory)
            Boot(Host(root, Log(root, echo=False))).run([stage])
            assert root.asked == 1, stage
