"""What apt says of settings that it cannot read."""

from __future__ import annotations

import re

import pytest

from cloudboot import process
from cloudboot.modules.apt_configure import READ_SETTINGS, REFUSED


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ('APT::Install-Recommends "false";\n', True),
        ('// why\nAcquire { http { Proxy "DIRECT"; }; };\n', True),
        ("#clear APT::Own;\n", True),
        ("APT::Install-Recommends\n", False),
        ('APT::Own "1"\n', False),
        ('Acquire::http::Proxy "http://proxy.example.com"";\n', False),
    ],
)
def test_apt_is_asked(text: str, fine: bool) -> None:
    asked = process.spawn(READ_SETTINGS, stdin=text.encode())
    assert asked.ok is fine
    assert (re.search(REFUSED, asked.output) is None) is fine
