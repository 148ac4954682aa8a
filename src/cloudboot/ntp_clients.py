"""The programs that keep the time, as data: what each is called, where it is configured and how. Pure values."""

from __future__ import annotations

import re

from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS = "# Changed by cloudboot (ntp): the sources of time. What the package had is kept beside, as FILE.dist.\n"
KINDS = ("servers", "pools", "peers", "allow")


class Client(NamedTuple):
    """A time client.

    program: tells whether it is there (a name or a path). lines: how it writes one of a kind; a kind that is missing
    here it does not know. replaces: words at the beginning of lines of the package's own file that ours stand for;
    none: the file is ours alone. initial: what a file that is not there yet begins with. check: asks whether the
    configuration can be read; empty: nothing does.
    """

    name: str
    program: str
    packages: tuple[str, ...]
    service: str
    path: str
    lines: Mapping[str, str]
    replaces: tuple[str, ...] = ()
    initial: str = ""
    check: tuple[str, ...] = ()


# In the order in which `auto` looks for them. OpenNTPD before NTPsec: both have an ntpd.
CLIENTS = (
    Client(
        "chrony",
        "chronyd",
        ("chrony",),
        "chrony",
        "/etc/chrony/chrony.conf",
        {"servers": "server {} iburst", "pools": "pool {} iburst", "peers": "peer {} iburst", "allow": "allow {}"},
        ("server", "pool", "peer", "allow"),
        "keyfile /etc/chrony/chrony.keys\ndriftfile /var/lib/chrony/chrony.drift\nlogdir /var/log/chrony\n"
        "maxupdateskew 100.0\nrtcsync\nmakestep 1 3\n",
        ("chronyd", "-p"),
    ),
    Client(
        "systemd-timesyncd",
        "/lib/systemd/systemd-timesyncd",
        ("systemd-timesyncd",),
        "systemd-timesyncd",
        "/etc/systemd/timesyncd.conf.d/cloud-init.conf",
        {"servers": "NTP={}", "pools": "NTP={}"},
        initial="[Time]\n",
    ),
    Client(
        "openntpd",
        "openntpd",
        ("openntpd",),
        "openntpd",
        "/etc/openntpd/ntpd.conf",
        {"servers": "server {}", "pools": "servers {}"},
        ("server", "servers"),
        check=("openntpd", "-n"),
    ),
    Client(
        "ntp",
        "ntpd",
        ("ntpsec",),
        "ntpsec",
        "/etc/ntpsec/ntp.conf",
        {
            "servers": "server {} iburst",
            "pools": "pool {} iburst",
            "peers": "peer {} iburst",
            "allow": "restrict {} kod nomodify nopeer noquery limited",
        },
        ("server", "pool", "peer"),
        "driftfile /var/lib/ntpsec/ntp.drift\nleapfile /usr/share/zoneinfo/leap-seconds.list\n"
        "restrict default kod nomodify nopeer noquery limited\nrestrict 127.0.0.1\nrestrict ::1\n",
    ),
)
ALIASES = {"ntpsec": "ntp", "timesyncd": "systemd-timesyncd"}
DEFAULT = CLIENTS[0]  # is installed where there is none


def find(name: str) -> Client | None:
    """Return the client of a name."""
    return next((each for each in CLIENTS if each.name == ALIASES.get(name, name)), None)


def render(client: Client, original: str | None, sources: Mapping[str, Sequence[str]]) -> str:
    """Return a client's configuration: the package's own file with our sources in place of its.

    `original`: that file; None if there is none. One that we made where there was none is as none.
    """
    lines = [
        client.lines[kind].format(each) for kind in ("pools", "servers", "peers", "allow") for each in sources[kind]
        if kind in client.lines
    ]  # fmt: skip
    if not client.replaces:
        return client.initial + "".join(f"{line}\n" for line in lines)
    before = (client.initial if original is None or original.startswith(OURS) else original).splitlines()
    old = re.compile(rf"\s*(?:{'|'.join(client.replaces)})\s")
    mine = [number for number, line in enumerate(before) if old.match(f"{line} ")]
    place = mine[0] if mine else len(before)
    kept = [line for number, line in enumerate(before) if number not in mine]
    kept[place:place] = lines
    return OURS + "".join(f"{line}\n" for line in kept)
