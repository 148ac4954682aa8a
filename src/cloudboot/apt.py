"""Packages by apt-get: never interactive, patient with another apt, and nothing is done twice."""

from __future__ import annotations

import re
import time

from cloudboot.actions import WriteFile
from cloudboot.errors import CommandError
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloudboot.host import Host

LOCK_WAIT = 120  # seconds that another apt or dpkg (apt-daily, unattended-upgrades) may take
PAUSE = 5  # seconds between two tries for a lock for which apt itself does not wait
FRESH = 300  # seconds for which package lists that we fetched are not fetched again
# A changed configuration file stays as it is: dpkg's question about it would wait for ever.
APT_GET = (
    ["apt-get", "--assume-yes", "--quiet", "-o", f"DPkg::Lock::Timeout={LOCK_WAIT}"]
    + ["-o", "Dpkg::Options::=--force-confold"]
)  # fmt: skip
# debconf's questions before the packages are unpacked, by Perl (50 ms each time): unattended there are none to ask.
CONFIGURATION = "/etc/apt/apt.conf.d"
PRECONFIGURE = 'DPkg::Pre-Install-Pkgs {"/usr/sbin/dpkg-preconfigure --apt || true";};'
NO_PRECONFIGURE = "/run/cloudboot/apt.conf"
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "APT_LISTCHANGES_FRONTEND": "none", "NEEDRESTART_MODE": "l"}
LIVE = "packages are installed on a running machine"
INSTALLED = "${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\t${Provides}\n"
# A package as apt-get takes it; the first character keeps it from being read as an option.
WORD = r"^[a-zA-Z0-9][a-zA-Z0-9+.-]*(:[a-z0-9-]+)?([=/][a-zA-Z0-9][a-zA-Z0-9+.~:*-]*)?[\^+-]?$(?!\n)"


class Have(NamedTuple):
    """What dpkg has. names: packages and what they provide, also as `name:arch`. versions: by name."""

    names: frozenset[str]
    versions: dict[str, str]

    def satisfies(self, word: str) -> bool:
        """Tell whether nothing is to do for a word of apt-get's command line.

        Of tasks (`name^`) and releases (`name/release`) only apt knows.
        """
        if word.endswith("^") or "/" in word:
            return False
        name, equals, version = word.partition("=")
        if equals:
            import fnmatch

            return fnmatch.fnmatchcase(self.versions.get(name, ""), version)
        if word.endswith("-") and word not in self.names:
            return word[:-1] not in self.names
        return word in self.names or (word.endswith("+") and word[:-1] in self.names)


def have(host: Host) -> Have:
    """Ask dpkg what is installed."""
    names: set[str] = set()
    versions: dict[str, str] = {}
    for line in host.ask(["dpkg-query", "-W", f"-f={INSTALLED}"]).output.splitlines():
        parts = line.split("\t")
        if len(parts) != 5 or parts[0].strip() not in ("ii", "hi"):
            continue
        _, name, architecture, version, provides = parts
        for each in (name, f"{name}:{architecture}"):
            names.add(each)
            versions[each] = version
        names |= {re.split(r"[ (:]", each.strip(), maxsplit=1)[0] for each in provides.split(",") if each.strip()}
    return Have(frozenset(names), versions)


def update(host: Host, folder: str, *, anew: bool = False, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Fetch the package lists, unless we did so just now; tell whether that was needed.

    `folder`: the instance's, where the time is kept. `anew`: the sources have changed. Raises CommandError.
    """
    place = f"{folder}/apt-update"
    stamp = host.text(place) or ""
    if not anew and stamp.isdigit() and 0 <= host.now() - int(stamp) < FRESH:
        return False
    ran = apt_get(host, ["update"], sleep=sleep)
    if ran:
        host.keep(WriteFile(place, str(int(host.now())).encode(), 0o600))
    return ran


def upgrade(host: Host, *, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Upgrade everything, also where that brings in or takes away packages. Raises CommandError."""
    simulated = host.ask([*APT_GET, "--simulate", "dist-upgrade"], timeout=LOCK_WAIT + 60)
    if simulated.ok and not re.search(r"^(Inst|Remv|Conf) ", simulated.output, re.MULTILINE):
        return False
    return apt_get(host, ["dist-upgrade"], sleep=sleep)


def install(host: Host, words: Sequence[str], *, sleep: Callable[[float], None] = time.sleep) -> dict[str, str]:
    """Install packages, all in one go; if that fails one by one, so that one does not cost the others.

    Returns why, for each that could not be installed.
    """
    mend(host)
    try:
        apt_get(host, ["install", *words], sleep=sleep)
        return {}
    except CommandError as error:
        if len(words) == 1 or locked(error) or error.status == 127:
            return dict.fromkeys(words, reason(error))
    failed = {}
    for word in words:
        try:
            apt_get(host, ["install", word], sleep=sleep)
        except CommandError as error:
            failed[word] = reason(error)
    return failed


def mend(host: Host) -> None:
    """Let dpkg finish what a power cut interrupted, else apt-get refuses everything."""
    if not host.listdir("/var/lib/dpkg/updates"):
        return
    try:
        host.run(["dpkg", "--force-confold", "--configure", "-a"], env=ENVIRONMENT, live=LIVE)
    except CommandError as error:
        host.log.warning(str(error))  # apt-get says what it means for the packages that are asked for


def apt_get(host: Host, words: Sequence[str], *, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Run apt-get. Raises CommandError; tells False where it was only recorded (image trees).

    apt waits by itself for dpkg's lock only; for those on lists and archives we try again.
    """
    host.log.doing(f"apt-get {' '.join(words)}"[:200])
    argv = [*APT_GET, *words]
    if words[0] != "update" and preconfigures(host):
        host.keep(WriteFile(NO_PRECONFIGURE, b"#clear DPkg::Pre-Install-Pkgs;\n"))  # not by an option: those only add
        argv = [*APT_GET, "-c", NO_PRECONFIGURE, *words]
    waited = 0
    try:
        while True:
            try:
                return host.run(argv, env=ENVIRONMENT, live=LIVE)
            except CommandError as error:
                if not locked(error) or waited >= LOCK_WAIT:
                    raise
                if waited == 0:
                    host.log.say(f"apt-get {words[0]}: waits for another apt: {reason(error)}")
                sleep(PAUSE)
                waited += PAUSE
    finally:
        host.log.doing("")


def preconfigures(host: Host) -> bool:
    """Tell whether apt asks debconf's questions beforehand and calls nobody else's program then."""
    texts = [host.text(f"{CONFIGURATION}/{name}") or "" for name in host.listdir(CONFIGURATION)]
    lines = [line for text in [*texts, host.text("/etc/apt/apt.conf") or ""] for line in text.splitlines()]
    return [line.strip() for line in lines if "pre-install-pkgs" in line.lower()] == [PRECONFIGURE]


def locked(error: CommandError) -> bool:
    """Tell whether apt-get gave up because another one holds a lock."""
    return "Could not get lock" in error.output or "Unable to lock" in error.output


def reason(error: CommandError) -> str:
    """Return the line of apt-get's output that says what is wrong."""
    lines = [line[3:].strip() for line in error.output.splitlines() if line.startswith("E: ")]
    return lines[0] if lines else str(error).rpartition(": ")[2]
