"""Names from the network: what is followed, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudboot.imds.listing import fault, parse, quote, secret


def test_a_listing_of_leaves_and_directories() -> None:
    found = parse("meta-data/", b"ami-id\nnetwork/\npublic-keys/\nami-id\n")
    assert found.children == ["ami-id", "network/", "public-keys/"]
    assert found.refused == []


def test_public_keys_are_listed_with_their_names() -> None:
    found = parse("meta-data/public-keys/", b"0=my-key\n1=other/key")
    assert found.children == ["0/openssh-key", "1/openssh-key"]


def test_public_keys_without_a_slash_is_still_a_directory() -> None:
    assert parse("meta-data/", b"public-keys").children == ["public-keys/"]


def test_an_equals_sign_elsewhere_is_part_of_the_name() -> None:
    assert parse("meta-data/tags/instance/", b"a=b").children == ["a=b"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"..", "begins with a dot"),
        (b"../", "begins with a dot"),
        (b".value", "begins with a dot"),
        (b"a/b", "has a slash inside"),
        (b"/etc/passwd", "has a slash inside"),
        (b"a//", "has a slash inside"),
        (b"/", "is empty"),
        (b"", "is empty"),
        (b"a\x00b", "is not printable"),
        (b"a\x1b[2J", "is not printable"),
        (b"a\xe2\x80\xaeb", "is not printable"),
        (b"x" * 256, "is longer than 255 bytes"),
        (b"caf\xe9", "is not UTF-8"),
    ],
)
def test_a_hostile_name_is_refused_and_the_rest_is_kept(line: bytes, why: str) -> None:
    found = parse("meta-data/tags/", b"good\n" + line + b"\nalso-good")
    assert found.children == ["good", "also-good"]
    assert len(found.refused) == 1
    assert why in found.refused[0]


def test_a_hostile_key_number_is_refused() -> None:
    found = parse("meta-data/public-keys/", b"../../x=evil\n0=good")
    assert found.children == ["0/openssh-key"]
    assert len(found.refused) == 1


@pytest.mark.parametrize(
    "path",
    [
        "meta-data/iam/security-credentials/",
        "meta-data/iam/security-credentials",
        "meta-data/identity-credentials/ec2/info",
        "dynamic/a/b/Identity-Credentials/x",
    ],
)
def test_credentials_are_known_at_any_depth(path: str) -> None:
    assert secret(path)
    assert not secret("meta-data/iam/info")


@given(st.binary(max_size=200))
def test_no_listing_leads_out_of_its_directory(body: bytes) -> None:
    for child in parse("meta-data/", body).children:
        parts = child.removesuffix("/").split("/")
        assert len(parts) == 1
        assert fault(parts[0]) is None
        assert parts[0] not in ("", ".", "..")
        assert not set(quote(child)) & set(" \r\n\t?#")


def test_quoting() -> None:
    assert quote("meta-data/tags/instance/a b?ü%") == "meta-data/tags/instance/a%20b%3F%C3%BC%25"
    assert quote("macs/02:0a:0b/") == "macs/02:0a:0b/"
