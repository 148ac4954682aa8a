"""The table of distributions: what each has for each architecture."""

from __future__ import annotations

import pytest

from cloudboot.distro import RELEASES


@pytest.mark.parametrize(
    ("name", "version", "architecture", "primary"),
    [
        ("debian", "12", "arm64", "https://deb.debian.org/debian"),
        ("debian", "13", "amd64", "https://deb.debian.org/debian"),
        ("ubuntu", "22.04", "amd64", "http://archive.ubuntu.com/ubuntu"),
        ("ubuntu", "22.04", "arm64", "http://ports.ubuntu.com/ubuntu-ports"),
        ("ubuntu", "24.04", "arm64", "http://ports.ubuntu.com/ubuntu-ports"),
        ("ubuntu", "26.04", "arm64", "http://archive.ubuntu.com/ubuntu"),
        ("ubuntu", "26.04", "riscv64", "http://ports.ubuntu.com/ubuntu-ports"),
    ],
)
def test_mirror(name: str, version: str, architecture: str, primary: str) -> None:
    apt = RELEASES[name][version][1].of(architecture)
    assert apt.primary == primary
    assert ("ports" in apt.regional) == ("ports" in apt.security) == ("ports" in primary)
