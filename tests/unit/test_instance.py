"""Same machine or another: the identity table, row by row."""

from __future__ import annotations

import pytest

from cloudboot.instance import Identity, Instance, Kind, decide, folder

A, B, C = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2", "i-0cccccccccccccc3"
BEFORE = Identity(A, A, A)


@pytest.mark.parametrize(
    ("hardware", "service", "kind", "instance_id", "reported"),
    [
        (A, A, Kind.SAME, A, False),
        (A, B, Kind.NEW, B, True),
        (A, None, Kind.SAME, A, False),
        (B, A, Kind.NEW, B, True),
        (B, B, Kind.NEW, B, False),
        (B, C, Kind.NEW, C, True),
        (B, None, Kind.NEW_WITHOUT_DATA, B, False),
        (None, A, Kind.SAME, A, False),
        (None, B, Kind.NEW, B, False),
        (None, None, Kind.UNKNOWN, A, False),
    ],
)
def test_table(hardware: str | None, service: str | None, kind: Kind, instance_id: str, reported: bool) -> None:
    decision = decide(BEFORE, hardware, service)
    assert (decision.kind, decision.id, bool(decision.note)) == (kind, instance_id, reported)


@pytest.mark.parametrize(
    ("hardware", "service", "kind", "instance_id"),
    [
        (A, A, Kind.NEW, A),
        (None, A, Kind.NEW, A),
        (A, None, Kind.NEW_WITHOUT_DATA, A),
        (None, None, Kind.UNKNOWN, None),
    ],
)
def test_first_boot_ever(hardware: str | None, service: str | None, kind: Kind, instance_id: str | None) -> None:
    decision = decide(None, hardware, service)
    assert (decision.kind, decision.id) == (kind, instance_id)


def test_lasting_disagreement_makes_new_once() -> None:
    """The machine that says A while its service says B is new once, not at every boot."""
    first = decide(BEFORE, A, B)
    assert first.kind is Kind.NEW
    after = Identity(first.id or "", A, B)
    assert decide(after, A, B).kind is Kind.SAME
    assert decide(after, A, None).kind is Kind.SAME


def test_folder_is_safe() -> None:
    assert folder("../../etc").startswith("/var/lib/cloudboot/instances/")
    assert "/.." not in folder("../../etc")
    assert folder("..") != "/var/lib/cloudboot/instances/.."
    assert folder("i-0123") == "/var/lib/cloudboot/instances/i-0123"


def test_json_round_trip() -> None:
    instance = Instance(
        A, "Ec2", "aws", "ip-10-0-0-1", ("ssh-ed25519 AAAA x",), 3, "eu-west-1a", "eu-west-1", (("root", "sda1"),)
    )
    assert Instance.from_json(instance.to_json()) == instance
