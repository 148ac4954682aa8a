"""Names out of configuration and metadata, and how /etc/hostname, /etc/hosts hold them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudboot import hostname
from cloudboot.hostname import Names
from cloudboot.modules.update_etc_hosts import with_line


@pytest.mark.parametrize(
    ("config", "metadata", "names"),
    [
        ({}, "web.example.com", Names("web", "web.example.com")),
        ({}, "web", Names("web", "web")),
        ({}, None, None),
        ({}, "", None),
        ({}, "192.0.2.7", Names("ip-192-0-2-7", "ip-192-0-2-7")),
        # a VPC with several domain names in its DHCP options
        ({}, "ip-10-0-0-1.one.example ip-10-0-0-1.two.example", Names("ip-10-0-0-1", "ip-10-0-0-1.one.example")),
        ({"hostname": "a"}, "web.example.com", Names("a", "web.example.com")),
        ({"hostname": "a"}, None, Names("a", "a")),
        ({"hostname": "a.example.org"}, "web.example.com", Names("a", "a.example.org")),
        ({"fqdn": "a.example.org"}, "web.example.com", Names("a", "a.example.org")),
        ({"fqdn": "a.example.org", "hostname": "b"}, "web.example.com", Names("b", "a.example.org")),
        ({"hostname": ""}, "web", Names("web", "web")),
        ({"hostname": "a\n"}, None, Names("a", "a")),
    ],
)
def test_precedence(config: dict[str, Any], metadata: str | None, names: Names | None) -> None:
    assert hostname.resolve(config, metadata) == names


@pytest.mark.parametrize(
    "name",
    [
        "../etc",
        "a b/c",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "a;reboot",
        "a\nb;c",
        "$(reboot)",
        "x" * 64,
        "é",
        "a." * 130 + "a",
    ],
)
def test_hostile_names_of_the_service(name: str) -> None:
    assert hostname.from_metadata(name) is None


@given(st.text())
def test_whatever_the_service_says_is_a_name_or_nothing(text: str) -> None:
    names = hostname.from_metadata(text)
    if names is not None:
        assert 1 <= len(names.hostname) <= 63
        assert len(names.fqdn) <= 253
        assert not set(names.fqdn) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")


def test_prefer_fqdn() -> None:
    names = Names("web", "web.example.com")
    assert names.chosen({}) == "web"
    assert names.chosen({"prefer_fqdn_over_hostname": True}) == "web.example.com"
    assert Names("web", "web." + "x" * 62).chosen({"prefer_fqdn_over_hostname": True}) == "web"


@pytest.mark.parametrize(
    ("text", "name"),
    [(None, ""), ("", ""), ("web\n", "web"), ("# c\n\n web \nother\n", "web"), ("web", "web"), ("# only\n", "")],
)
def test_name_in_the_file(text: str | None, name: str) -> None:
    assert hostname.name_in(text) == name


@pytest.mark.parametrize("text", [None, "", "old\n", "# c\nold", "old\n# after\n"])
def test_name_put_into_the_file(text: str | None) -> None:
    after = hostname.with_name(text, "new")
    assert hostname.name_in(after) == "new"
    assert "old" not in after
    assert after.count("#") == (text or "").count("#")


LINES = st.lists(
    st.sampled_from(
        [b"127.0.0.1 localhost", b"127.0.1.1 old", b"# c", b"", b"192.0.2.1\tdb # x", b"::1 localhost", b"\xff bad"]
    )
)


@given(LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_hosts_keep_every_other_line(lines: list[bytes], end: bytes, ended: bool) -> None:
    before = end.join(lines) + (end if ended and lines else b"")
    after = with_line(before, b"127.0.1.1 web.example.com web")
    assert b"127.0.1.1 web.example.com web" in after.splitlines()
    assert with_line(after, b"127.0.1.1 web.example.com web") == after
    kept = [line for line in before.splitlines() if not line.startswith(b"127.0.1.1")]
    assert [line for line in after.splitlines() if not line.startswith(b"127.0.1.1")] == kept
