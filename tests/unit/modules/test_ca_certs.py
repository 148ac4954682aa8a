"""What is taken for a certificate, against certificates that openssl makes."""

from __future__ import annotations

import subprocess

import pytest

from cloudboot.modules.ca_certs import certificates


def make(name: str, *options: str) -> str:
    words = ["openssl", "req", "-x509", "-nodes", "-newkey", *(options or ("ed25519",)), "-keyout", "/dev/null"]
    return subprocess.run(
        [*words, "-subj", f"/CN={name}", "-days", "3650"], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def pem() -> str:
    return make("Example CA")


@pytest.mark.parametrize("kind", ["ed25519", "rsa:1024"])
def test_certificate_is_kept_as_openssl_writes_it(kind: str) -> None:
    made = make("Example CA", kind)
    assert certificates(made) == [made]


def test_what_stands_around_is_left(pem: str) -> None:
    windows = pem.replace("\n", "\r\n")
    indented = "\n".join(f"  {line}" for line in pem.splitlines())
    for text in (f"Subject: CN = Example CA\n\n{pem}trailing", windows, indented, pem.replace("CERTIF", "X509 CERTIF")):
        assert certificates(text) == [pem]


def test_several(pem: str) -> None:
    other = make("Other CA")
    assert certificates(pem + other) == [pem, other]


@pytest.mark.parametrize("cut", [30, 64, 200])
def test_damaged(pem: str, cut: int) -> None:
    lines = pem.splitlines()
    assert certificates(pem[:-cut]) == []
    assert certificates("\n".join([lines[0], *lines[2:]])) == []
    assert certificates(pem[:cut] + "!" + pem[cut:]) == []
    assert certificates(pem + pem[:-cut]) == [], "half of it would be silently lost"


@pytest.mark.parametrize(
    "text",
    ["", "x", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"]
    + [f"-----BEGIN {kind}-----\nMAA=\n-----END {kind}-----\n" for kind in ("PRIVATE KEY", "CERTIFICATE REQUEST")],
)
def test_something_else(text: str) -> None:
    assert certificates(text) == []
