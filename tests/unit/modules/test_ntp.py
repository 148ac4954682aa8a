"""Configurations of time clients: ours in place of the package's sources, the same however often it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from casebook import Book
from cloudboot import ntp_clients
from cloudboot.ntp_clients import CLIENTS, OURS, Client, find, render

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = {
    "servers": ["a.example.com"],
    "pools": ["p.example.com"],
    "peers": ["b.example.com"],
    "allow": ["192.0.2.0/24"],
}
PACKAGED = "# own\npool 2.debian.pool.ntp.org iburst\n  server x\nservers y\n#server z\npoolside\nrtcsync\n"


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize("original", [None, PACKAGED, ""])
def test_sources_are_ours_alone(client: Client, original: str | None) -> None:
    text = render(client, original, SOURCES)
    lines = text.splitlines()
    for kind, values in SOURCES.items():
        for value in values:
            assert (client.lines.get(kind, "").format(value) in lines) == (kind in client.lines)
    own = [client.lines[kind].split()[0] for kind in SOURCES if kind in client.lines]
    found = [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in client.replaces]
    assert sorted(found) == sorted(word for word in own if word in client.replaces)
    if client.replaces and original:
        assert {"# own", "#server z", "poolside", "rtcsync"} <= set(lines)
    # Where there was no package's file, ours is what the next run finds.
    if original is None:
        assert render(client, text, SOURCES) == text


def test_place_of_the_sources() -> None:
    assert render(CLIENTS[0], "a\nserver x\nb\npool y\n", {**SOURCES, "peers": [], "allow": []}) == (
        OURS + "a\npool p.example.com iburst\nserver a.example.com iburst\nb\n"
    )


@pytest.mark.parametrize(("name", "found"), [("ntp", "ntp"), ("ntpsec", "ntp"), ("timesyncd", "systemd-timesyncd")])
def test_names(name: str, found: str) -> None:
    client = find(name)
    assert client is not None
    assert client.name == found
    assert find("ntpdate") is None


@pytest.mark.parametrize(
    ("there", "name"),
    [
        (["chronyd", "/lib/systemd/systemd-timesyncd"], "chrony"),
        (["/lib/systemd/systemd-timesyncd", "ntpd"], "systemd-timesyncd"),
        (["openntpd", "ntpd"], "openntpd"),
        (["ntpd"], "ntp"),
        ([], "chrony"),
    ],
)
def test_auto(tmp_path: Path, there: list[str], name: str) -> None:
    missing = [client.program for client in CLIENTS if client.program not in there]
    book = Book({"config": {"ntp": None}, "missing": missing}, tmp_path, "ntp")
    book.run()
    assert [client.name for client in CLIENTS if book.host.exists(client.path)] == [name]
    assert any("apt-get" in text for text in book.changes()) == (not there)


def test_image_names_the_client(tmp_path: Path) -> None:
    image = {"system_info": {"ntp_client": "systemd-timesyncd"}}
    book = Book({"config": {"ntp": {}}, "image": image}, tmp_path, "ntp")
    book.run()
    assert book.host.exists("/etc/systemd/timesyncd.conf.d/cloud-init.conf")


def test_distribution_names_the_pools(tmp_path: Path) -> None:
    book = Book({"config": {"ntp": {}}, "tree": {"/etc/os-release": "ID=ubuntu\n"}}, tmp_path, "ntp")
    book.run()
    assert "pool 0.ubuntu.pool.ntp.org iburst\n" in (book.host.text(ntp_clients.CLIENTS[0].path) or "")


def test_an_image_tree_is_configured(tmp_path: Path) -> None:
    book = Book({"config": {"ntp": {"servers": ["a.example.com"]}}}, tmp_path, "ntp")
    book.host.live = False
    book.run()
    assert "server a.example.com iburst" in (book.host.text("/etc/chrony/chrony.conf") or "")
    assert [action.text for action, _ in book.host.recorded] == [
        "run systemctl reload-or-restart --no-block chrony.service"
    ]
    assert book.host.spawned == []
