"""What volumes may say, what owners let them do, and that a word which is not wholly understood counts for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cloudboot.errors import ConfigError
from cloudboot.identity_file import ALWAYS, BELOW, Identity, Policy, conflicts, judge, parse

DIGEST = "ab" * 32
RUN = f"run: {{program: bin/setup, digests: {{bin/setup: {DIGEST}}}}}\n"


def test_mount() -> None:
    text = b"mount: {where: /srv/data/, options: [noatime, nosuid, commit=30], owner: 'app:app', check: true}\n"
    assert parse(text) == Identity("mount", "/srv/data", (*ALWAYS, "noatime", "commit=30"), "app:app", check=True)
    assert parse(b"mount: {where: /srv/x}\n").options == ALWAYS


@pytest.mark.parametrize(
    ("timeout", "seconds"), [("10m", 600), ("90", 90), ("45s", 45), ("2h", 7200), (30, 30), ("999999h", 86400)]
)
def test_run(timeout: str | int, seconds: int) -> None:
    extra = f"arguments: [--fast, ''], user: app, frequency: per-boot, timeout: {timeout}"
    found = parse(RUN.replace("}}", f"}}, {extra}}}").encode())
    assert found == Identity(
        "run", program="bin/setup", arguments=("--fast", ""), user="app", frequency="per-boot", timeout=seconds,
        digests={"bin/setup": DIGEST},
    )  # fmt: skip


def test_root() -> None:
    assert parse(b"root: {}\n").mode == "root"
    assert parse(b"root:\n  mode: overlay\n").mode == "overlay"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "must say one of mount, run, root"),
        (b"- mount\n", "must say one of"),
        (b"mount\n", "must say one of"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"mount: {where: /srv/a}\0", "ebs-config.txt:1"),
        (b"mount: {where: /srv/a}\nmount: {where: /srv/b}\n", "ebs-config.txt:2"),
        (b"mount:\n\twhere: /srv/a\n", "ebs-config.txt:2"),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n",
            "ebs-config",
        ),
        (b"format: {where: /srv/a}\n", "ebs-config.txt:1:1: format: unknown key"),
        (b"mount: {where: /srv/a}\nroot: {}\n", "says several things"),
        (b"mount: {}\n", "where"),
        (b"mount: {where: /srv/a, fstype: ext4}\n", "mount.fstype: unknown key"),
        (b"mount: {where: srv/a}\n", "is not of the form an absolute path"),
        (b"mount: {where: /srv/../etc}\n", "is not a plain path"),
        (b"mount: {where: //srv/a}\n", "is not a plain path"),
        (b"mount: {where: /srv//a}\n", "is not a plain path"),
        (b"mount: {where: /srv/./a}\n", "is not a plain path"),
        ('mount: {where: "/srv/\u202egpj.a"}\n'.encode(), "is not a plain path"),
        (b'mount: {where: "/srv/a\\nx /etc"}\n', "is not of the form"),
        (b"mount: {where: /srv/a, options: [suid]}\n", "not an option that a volume may have: 'suid'"),
        (b"mount: {where: /srv/a, options: ['noatime,dev']}\n", "not an option"),
        (b"mount: {where: /srv/a, options: [exec, bind]}\n", "not an option"),
        (b"mount: {where: /srv/a, owner: 'app app'}\n", "is not of the form user:group"),
        (b"run: {program: bin/setup}\n", "digests"),
        (b"run: {program: bin/setup, digests: {}}\n", "run.digests"),
        (RUN.replace("bin/setup", "/bin/sh").encode(), "is not of the form a path on the volume"),
        (RUN.replace("bin/setup", "../bin/sh").encode(), "is not a path on the volume"),
        (RUN.replace("bin/setup", "a/../../bin/sh").encode(), "is not a path on the volume"),
        (RUN.replace("bin/setup:", "bin/other:").encode(), "has none of 'bin/setup'"),
        (RUN.replace(DIGEST, "a" * 63).encode(), "is not of the form a SHA-256"),
        (RUN.replace(DIGEST, "g" * 64).encode(), "is not of the form a SHA-256"),
        (RUN.replace("}}", "}, frequency: always}").encode(), "run.frequency: must be one of 'per-volume'"),
        (RUN.replace("}}", "}, timeout: 0}").encode(), "run.timeout"),
        (RUN.replace("}}", "}, user: root;reboot}").encode(), "is not of the form a user's name"),
        (b"root: {mode: pivot}\n", "root.mode: must be one of 'root', 'overlay'"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: bytes, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("where", "allowed"),
    [
        *((f"{place}/data", True) for place in BELOW),
        *((place, False) for place in BELOW),
        ("/etc", False),
        ("/etc/cron.d", False),
        ("/", False),
        ("/home/app", False),
        ("/srvx/a", False),
        ("/var/lib/cloudboot/instances", False),
        ("/var/lib/dpkg", False),
        ("/var/lib/dpkg-own", True),
        ("/usr/local/bin", False),
    ],
)
def test_where_a_volume_may_be(where: str, allowed: bool) -> None:
    reason = judge(Identity("mount", where), Policy(), signed=False)
    assert (reason is None) is allowed
    assert reason is None or reason.startswith(f"may not be mounted on {where}: ")


@pytest.mark.parametrize(
    ("policy", "action", "signed", "told"),
    [
        (True, "run", True, "run is not allowed: consume.allow has mount"),
        ({"allow": ["run"]}, "mount", True, "mount is not allowed: consume.allow has run"),
        ({"allow": []}, "mount", False, "mount is not allowed: consume.allow has nothing"),
        ({"allow": ["run"]}, "run", False, "run is not signed by one of consume.signers"),
        ({"allow": ["run"]}, "run", True, None),
        ({"allow": ["run"], "unsigned": True}, "run", False, None),
        ({"allow": ["root"]}, "root", False, "root is not signed by one of consume.signers"),
        ({"allow": ["root"]}, "root", True, None),
    ],
)
def test_what_a_policy_allows(policy: Any, action: str, signed: bool, told: str | None) -> None:
    read = Policy.of(policy)
    assert read is not None
    assert judge(Identity(action, "/srv/a"), read, signed) == told


@pytest.mark.parametrize("value", [None, False, "", [], 0])
def test_without_a_word_nothing_is_looked_at(value: Any) -> None:
    assert Policy.of(value) is None


@pytest.mark.parametrize(
    ("match", "admitted"),
    [
        ({}, True),
        ({"label": "vendor*"}, True),
        ({"label": ["other", "vendor-1"]}, True),
        ({"label": "other"}, False),
        ({"label": "vendor*", "volume-id": "vol-0*"}, True),
        ({"label": "vendor*", "volume-id": "vol-1*"}, False),
        ({"volume-id": "vol0123"}, True),
        ({"tag": "role=web"}, True),
        ({"tag": "role"}, True),
        ({"tag": "role=db"}, False),
        ({"label": []}, False),
    ],
)
def test_what_a_policy_admits(match: dict[str, Any], admitted: bool) -> None:
    policy = Policy.of({"match": match})
    assert policy is not None
    assert policy.admits(label="vendor-1", volume="vol-0123", tags={"role": "web"}) is admitted
    assert Policy().admits(label="", volume="", tags={})
    if "label" in match:
        assert not policy.admits(label="", volume="vol-0123", tags={})


def test_two_that_claim_the_same_lose_both() -> None:
    claims = {
        "a": Identity("mount", "/srv/data"),
        "b": Identity("mount", "/srv/data"),
        "c": Identity("mount", "/srv/data/below"),
        "d": Identity("run", program="x"),
        "e": Identity("run", program="x"),
        "f": Identity("root"),
        "g": Identity("root"),
    }
    found = conflicts(claims)
    assert set(found) == {"a", "b", "f", "g"}
    assert found["a"] == "b wants to be mounted on /srv/data too"
    assert found["g"] == "f wants to be the root too"
