"""apt-get: what is missing, another apt at work, one bad package, the upgrade."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from casebook import ScratchHost
from cloudboot import apt
from cloudboot.errors import CommandError
from cloudboot.root import Root

if TYPE_CHECKING:
    from pathlib import Path

    from cloudboot.process import Result

FOLDER = "/var/lib/cloudboot/instances/i-0123456789abcdef0"
GET = " ".join(apt.APT_GET)
LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 612 (apt-get)\nE: Unable to lock\n"


class AptHost(ScratchHost):
    """A host whose programs answer from a script: the answers to each command, one after another."""

    def __init__(self, folder: Path, answers: dict[str, list[tuple[int, str]]]) -> None:
        super().__init__(Root(str(folder)))
        self.answers = answers
        self.clock = 1_700_000_000.0
        self.now = lambda: self.clock
        self.slept: list[float] = []

    def spawn(self, argv: Any, **options: Any) -> Result:
        from cloudboot.process import Result

        line = " ".join(argv).removeprefix(f"{GET} ")
        self.spawned.append(line)
        left = self.answers.get(line)
        return Result(*(left.pop(0) if left else (0, "")))


def test_waits_for_another_apt(tmp_path: Path) -> None:
    host = AptHost(tmp_path, {"update": [(100, LOCKED)] * 3})
    assert apt.apt_get(host, ["update"], sleep=host.slept.append)
    assert host.slept == [apt.PAUSE] * 3
    assert host.console == [
        "apt-get update: waits for another apt: Could not get lock /var/lib/apt/lists/lock. "
        "It is held by process 612 (apt-get)"
    ]


def test_does_not_wait_for_ever(tmp_path: Path) -> None:
    host = AptHost(tmp_path, {"update": [(100, LOCKED)] * 100})
    with pytest.raises(CommandError, match="exit status 100"):
        apt.apt_get(host, ["update"], sleep=host.slept.append)
    assert sum(host.slept) == apt.LOCK_WAIT


def test_one_bad_package_does_not_cost_the_others(tmp_path: Path) -> None:
    bad = (100, "Reading package lists...\nE: Unable to locate package nginz\n")
    host = AptHost(tmp_path, {"install curl nginz git": [bad], "install nginz": [bad]})
    assert apt.install(host, ["curl", "nginz", "git"]) == {"nginz": "Unable to locate package nginz"}
    assert host.spawned == ["install curl nginz git", "install curl", "install nginz", "install git"]


def test_a_lock_that_stays_is_not_tried_package_by_package(tmp_path: Path) -> None:
    host = AptHost(tmp_path, {"install a b": [(100, LOCKED)] * 100})
    failed = apt.install(host, ["a", "b"], sleep=host.slept.append)
    assert list(failed) == ["a", "b"]
    assert "held by process 612" in failed["b"]
    assert set(host.spawned) == {"install a b"}


def test_lists_are_fetched_again_after_a_while(tmp_path: Path) -> None:
    host = AptHost(tmp_path, {})
    assert apt.update(host, FOLDER)
    host.clock += apt.FRESH - 1
    assert not apt.update(host, FOLDER)
    host.clock += 2
    assert apt.update(host, FOLDER)
    host.clock -= 1000  # the clock was set back: the note is of no use
    assert apt.update(host, FOLDER)
    assert host.spawned == ["update"] * 3


def test_lists_that_could_not_be_fetched_are_not_fresh(tmp_path: Path) -> None:
    host = AptHost(tmp_path, {"update": [(100, "E: 404\n")]})
    with pytest.raises(CommandError):
        apt.update(host, FOLDER)
    assert apt.update(host, FOLDER)


@pytest.mark.parametrize(
    ("simulated", "runs"),
    [
        ((0, "0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n"), False),
        ((0, "Inst libc6 [2.41-11] (2.41-12 Debian:13/stable [amd64])\nConf libc6\n"), True),
        ((0, "Remv old [1]\n"), True),
        ((0, "Conf half-done (1)\n"), True),
        ((100, "E: broken\n"), True),  # let the real one say why
    ],
)
def test_upgrade_asks_first(tmp_path: Path, simulated: tuple[int, str], runs: bool) -> None:
    host = AptHost(tmp_path, {"--simulate dist-upgrade": [simulated]})
    assert apt.upgrade(host) is runs
    assert host.spawned == ["--simulate dist-upgrade"] + ["dist-upgrade"] * runs


def test_never_asks_anybody(tmp_path: Path) -> None:
    host = ScratchHost(Root(str(tmp_path)))
    apt.apt_get(host, ["install", "x"])
    action: Any = host.changes[-1]
    assert action.env["DEBIAN_FRONTEND"] == "noninteractive"
    assert "--assume-yes" in action.argv
    assert "Dpkg::Options::=--force-confold" in action.argv
    assert action.stdin is None


@pytest.mark.parametrize(
    ("word", "done"),
    [
        ("bash", True), ("bash:amd64", True), ("bash:arm64", False), ("zsh", False), ("bash+", True), ("g++", True),
        ("bash=5.2", True), ("bash=5.*", True), ("bash=6", False), ("zsh=1", False), ("sh-provider", True),
        ("zsh-", True), ("bash-", False), ("bash/trixie-backports", False), ("web-server^", False), ("gone", False),
        ("dash-", False), ("g+", False),
    ],
)  # fmt: skip
def test_what_is_there(tmp_path: Path, word: str, done: bool) -> None:
    lines = [
        "ii \tbash\tamd64\t5.2\tsh-provider (= 1), other", "ii \tg++\tamd64\t4:14\t", "rc \tgone\tall\t1\t",
        "dpkg-query: warning", "hi \tdash\tamd64\t1\t",
    ]  # fmt: skip
    query = f"dpkg-query -W -f={apt.INSTALLED}"
    host = AptHost(tmp_path, {query: [(0, "\n".join(lines))]})
    assert apt.have(host).satisfies(word) is done


@pytest.mark.parametrize(
    "word",
    [
        "-y",
        "--help",
        "-oX=y",
        "a b",
        "",
        "a;b",
        "a=",
        "a/",
        "a=-x",
        "/tmp/x.deb",
        "a\n-y",
        "é",
        "=1",
        "a$",
        "'a'",
        "a\n",
    ],
)
def test_words_that_are_no_packages(word: str) -> None:
    assert not re.search(apt.WORD, word)


STOCK = "// Pre-configure all packages with debconf.\n" + apt.PRECONFIGURE + "\n"


@pytest.mark.parametrize(
    ("files", "cleared"),
    [
        ({"70debconf": STOCK}, True),
        ({"70debconf": STOCK, "50pty": "Dpkg::Use-Pty 0;\n"}, True),
        ({}, False),
        (
            {"70debconf": STOCK, "20listchanges": 'DPkg::Pre-Install-Pkgs { "/usr/bin/apt-listchanges --apt"; };\n'},
            False,
        ),
        ({"70debconf": STOCK.replace("|| true", "")}, False),
    ],
)
def test_debconf_is_not_asked_beforehand_where_nobody_else_is(
    tmp_path: Path, files: dict[str, str], cleared: bool
) -> None:
    (tmp_path / "etc/apt/apt.conf.d").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "etc/apt/apt.conf.d" / name).write_text(text)
    host = AptHost(tmp_path, {})
    apt.apt_get(host, ["install", "git"])
    assert host.spawned == [f"-c {apt.NO_PRECONFIGURE} install git" if cleared else "install git"]
