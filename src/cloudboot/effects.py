"""What programs do to a machine, done to a plan's overlay; and which of them may be asked while planning.

One row for each program that modules run, its effect beside what is known of the program. Only what a later question
of ours would see is imitated. What a program draws itself (keys, salts) is opaque: right in place, owner and mode.
"""

from __future__ import annotations

import re

from cloudboot import account_files, disk_effects, passwords
from cloudboot.planned import OPAQUE, SALT
from cloudboot.process import Result
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloudboot.planned import PlannedHost

    Effect = Callable[["Call"], str]

KERNEL_NAME = "/proc/sys/kernel/hostname"
TRANSIENT = "/run/systemd/transient"
DPKG_STATUS, DPKG_UPDATES = "/var/lib/dpkg/status", "/var/lib/dpkg/updates"
LOCALE_LIST = "/etc/locale.gen"
APT_LEAVES_NO_TRACE = [  # even a simulation keeps a log of what it asked its planner, and its caches
    f"-oDir::{name}" for name in ("Log::Planner=/dev/null", "Cache::pkgcache=", "Cache::srcpkgcache=")
]
APT_VERBS = ("update", "dist-upgrade", "install")


class Call(NamedTuple):
    """A program that would be started on a planned machine."""

    host: PlannedHost
    argv: list[str]
    stdin: bytes | None


def apply(host: PlannedHost, argv: list[str], stdin: bytes | None) -> str:
    """Do to the overlay what a program would do to the machine; return that in words, where there is more to say.

    A program without a row leaves everything as it is, and makes what follows uncertain.
    """
    if argv[0] not in EFFECTS:
        host.unsure = host.unsure or f"what {argv[0]} changes is not known beforehand"
    effect = EFFECTS.get(argv[0])
    return effect(Call(host, argv, stdin)) if effect is not None else ""


# -- accounts


def useradd(call: Call) -> str:
    user, groups = account_files.add_user(call.host, call.argv[1:])
    own = next((group.name for group in call.host.root.groups().values() if group.gid == user.gid), str(user.gid))
    also = f", also in {', '.join(groups)}" if groups else ""
    home = "" if "-M" in call.argv else f", home {user.home}"
    return f"creates the user {user.name} (uid {user.uid}, group {own}{also}, shell {user.shell}{home})"


def groupadd(call: Call) -> str:
    gid = account_files.add_group(call.host, call.argv[-1], system="--system" in call.argv)
    return f"creates the group {call.argv[-1]} (gid {gid})"


def usermod(call: Call) -> str:
    name = call.argv[-1]
    if "--lock" in call.argv or "--unlock" in call.argv:
        locked, old = "--lock" in call.argv, passwords.field(call.host, name) or ""
        account_files.set_password(call.host, name, f"{'!' * locked}{old.removeprefix('!')}", changed=False)
        return f"{'locks' if locked else 'unlocks'} the password of {name}"
    if "-G" in call.argv:
        group = call.argv[call.argv.index("-G") + 1]
        account_files.add_member(call.host, group, name)
        return f"puts {name} into the group {group}"
    return ""


def passwd(call: Call) -> str:
    name = call.argv[-1]
    if "--expire" in call.argv:
        account_files.expire(call.host, name)
        return f"the next login of {name} must choose another password"
    account_files.set_password(call.host, name, "")
    return f"empties the password of {name}"


def chpasswd(call: Call) -> str:
    """Hash with a salt of ours, so that a module which asks later finds the password accepted."""
    names = []
    for line in (call.stdin or b"").decode("utf-8", "surrogateescape").splitlines():
        name, _, secret = line.partition(":")
        wanted = secret if "-e" in call.argv else _hashed(secret)
        account_files.set_password(call.host, name, wanted)
        names.append(name)
    return f"sets the password of {', '.join(names)}"


def _hashed(secret: str) -> str:
    import ctypes

    try:
        library = ctypes.CDLL("libcrypt.so.1")
        library.crypt.restype = ctypes.c_char_p
        made = library.crypt(secret.encode("utf-8", "surrogateescape"), f"$6${SALT}$".encode())
    except (OSError, AttributeError):
        made = None
    return made.decode() if made else f"$6${SALT}$unknown"


# -- host keys, host name, locale


def ssh_keygen(call: Call) -> str:
    kind, path = call.argv[call.argv.index("-t") + 1], call.argv[call.argv.index("-f") + 1]
    text = f"{OPAQUE}: a new {kind} key\n".encode()
    call.host.root.write(path, text, 0o600, 0, 0)
    call.host.root.write(f"{path}.pub", text, 0o644, 0, 0)
    return f"makes a new {kind} host key (opaque: drawn when it is made)"


def hostname(call: Call) -> str:
    call.host.make_parents(KERNEL_NAME)
    call.host.root.write(KERNEL_NAME, f"{call.argv[1]}\n".encode(), 0o644, 0, 0)
    return f"the running machine is called {call.argv[1]}"


def locale_gen(call: Call) -> str:
    lines = (line.strip() for line in (call.host.text(LOCALE_LIST) or "").splitlines())
    call.host.locales += [line.split()[0] for line in lines if line and not line.startswith("#")]
    return ""


# -- packages, systemd


def apt_get(call: Call) -> str:
    verb = next((word for word in call.argv if word in APT_VERBS), "")
    words = call.argv[call.argv.index(verb) + 1 :] if verb else []
    if verb == "update":
        return "fetches the package lists"
    call.host.unsure = call.host.unsure or "packages bring files of their own before it"
    if verb == "install":
        return f"installs {', '.join(words)}, and what that needs"
    return "upgrades all packages (which ones the fetched lists will say)"


def apt_mark(call: Call) -> str:
    """Put packages on hold, in dpkg's own file."""
    names, lines, name = set(call.argv[2:]), [], ""
    for line in (call.host.text(DPKG_STATUS) or "").splitlines():
        name = line.removeprefix("Package: ") if line.startswith("Package: ") else name
        hold = name in names and line.startswith("Status: install ")
        lines.append(line.replace("install", "hold", 1) if hold else line)
    call.host.root.write(DPKG_STATUS, "\n".join([*lines, ""]).encode(), 0o644, 0, 0)
    return f"holds back {', '.join(sorted(names))}"


def dpkg(call: Call) -> str:
    for name in call.host.listdir(DPKG_UPDATES):
        call.host.root.remove(f"{DPKG_UPDATES}/{name}")
    return "lets dpkg finish what was interrupted"


def systemd_run(call: Call) -> str:
    unit = next((word.partition("=")[2] for word in call.argv if word.startswith("--unit=")), "")
    if unit:
        path = f"{TRANSIENT}/{unit if unit.endswith('.service') else f'{unit}.service'}"
        call.host.make_parents(path)
        call.host.root.write(path, b"", 0o644, 0, 0)
    words = call.argv[call.argv.index("shutdown") :] if "shutdown" in call.argv else []
    return f"when cloudboot has finished: {' '.join(words)}" if words else ""


# -- certificates, random seeds


def update_ca_certificates(call: Call) -> str:
    """Say what it is for: what it makes in /etc/ssl/certs we never look at."""
    files = [name for name in call.host.listdir("/usr/local/share/ca-certificates") if name.endswith(".crt")]
    return f"makes /etc/ssl/certs anew of what is trusted ({len(files)} local files)"


def dd(call: Call) -> str:
    target = next((word.partition("=")[2] for word in call.argv if word.startswith("of=")), "")
    return f"adds {len(call.stdin or b'')} bytes of randomness to {target}"


EFFECTS: dict[str, Effect | None] = {  # None: nothing that we would look at
    "useradd": useradd,
    "groupadd": groupadd,
    "usermod": usermod,
    "passwd": passwd,
    "chpasswd": chpasswd,
    "ssh-keygen": ssh_keygen,
    "hostname": hostname,
    "locale-gen": locale_gen,
    "mount": disk_effects.mount,
    "umount": None,
    "mkswap": disk_effects.mkfs,
    "sfdisk": disk_effects.sfdisk,
    "partx": disk_effects.partx,
    "wipefs": disk_effects.wipefs,
    "mdadm": disk_effects.mdadm,
    **{f"mkfs.{kind}": disk_effects.mkfs for kind in "ext2 ext3 ext4 xfs btrfs vfat f2fs ntfs exfat".split()},
    "swapon": disk_effects.swapon,
    "growpart": disk_effects.growpart,
    "resize2fs": None,
    "fsck": None,
    "xfs_growfs": None,
    "btrfs": None,
    "apt-get": apt_get,
    "apt-mark": apt_mark,
    "dpkg": dpkg,
    "systemctl": None,
    "systemd-run": systemd_run,
    "update-ca-certificates": update_ca_certificates,
    "debconf-set-selections": None,
    "dd": dd,
    "dpkg-reconfigure": None,
    "add-apt-repository": None,
    **dict.fromkeys(("modprobe", "snap", "lxd", "lxc", "pro", "landscape-config")),
    "nft": None,
    "ip": None,
    "iptables-restore": None,
    "ip6tables-restore": None,
}


# -- questions


def answer(host: PlannedHost, argv: Sequence[str], stdin: bytes | None, timeout: float | None) -> Result:
    """Answer what a module asks of a program: see docs/plan.md for each program and why.

    What is not in the table is the owner's own command: it is not run, and taken to say yes.
    """
    words = list(argv)
    for prefix, reply in ANSWERS:
        if tuple(words[: len(prefix)]) == prefix:
            if isinstance(reply, bool):
                return host.ask_machine(argv, stdin, timeout) if reply else Result(0, recorded=True)
            return reply(Call(host, words, stdin))
    host.unsure = f"a command of the owner's decides about it: {' '.join(words)[:60]}"
    host.log.info(f"not run for a plan, taken to say yes: {' '.join(words)}")
    return Result(0, recorded=True)


def _locales(call: Call) -> Result:
    asked = call.host.ask_machine(call.argv, None, 60)
    return Result(asked.status, "\n".join([asked.output, *call.host.locales]))


def _upgrade(call: Call) -> Result:
    """Ask apt, with the lists that it has now; where it cannot be asked, take it that there is something to upgrade."""
    asked = call.host.ask_machine([*call.argv, *APT_LEAVES_NO_TRACE], None, 180)
    names = re.findall(r"(?m)^Inst (\S+)", asked.output)
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        call.host.log.info(f"with the package lists of now, {', '.join(names[:10])}{more} would be upgraded")
    return asked


def _packages(call: Call) -> Result:
    """List an image tree's packages as dpkg-query would, from dpkg's own file."""
    if call.host.live:
        return call.host.ask_machine(call.argv, None, 60)
    lines = []
    for block in (call.host.text(DPKG_STATUS) or "").split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Status|Architecture|Version|Provides): (.*)$", block))
        if fields.get("Status", "").endswith(" ok installed"):
            short = "hi" if fields["Status"].startswith("hold") else "ii"
            values = (fields.get(key, "") for key in ("Package", "Architecture", "Version", "Provides"))
            lines.append("\t".join([f"{short} ", *values]))
    return Result(0, "\n".join(lines), recorded=True)


# True: really asked. False: not asked, the answer is yes.
ANSWERS: tuple[tuple[tuple[str, ...], Callable[[Call], Result] | bool], ...] = (
    (("dpkg-query",), _packages),
    (("apt-get",), _upgrade),
    (("locale", "-a"), _locales),
    (("visudo", "-cf", "-"), True),
    (("ssh-keygen", "-y"), True),
    (("ssh-keygen", "-Y", "verify"), True),
    (("python3", "-IS", "-"), True),  # volume_worker: reads a volume through what lets no write through
    (("blkid",), True),
    (("wipefs", "--no-act"), True),
    (("sfdisk", "--json"), True),
    (("nft", "-j", "list"), True),
    (("ip",), True),
    (("iptables-save",), True),
    (("ip6tables-save",), True),
    (("systemctl", "is-active"), True),
    (("systemctl", "is-enabled"), True),
    (("apt-cache", "show"), True),
    (("pro", "status"), True),
    (("pro", "api", "u.pro.attach.auto.should_auto_attach.v1"), True),
    (("landscape-config", "--silent", "--is-registered"), True),
    (("snap", "wait"), False),
    (("dpkg", "--print-architecture"), True),
    (("apt-config", "-c=/dev/stdin", "dump"), True),
    (("getent", "ahosts"), True),
    (("grub-probe",), True),
    (("udevadm", "info"), True),
    (("snap", "list"), True),
    (("systemctl", "show", "-p", "Job,ActiveState"), False),  # whether to wait for systemd: a plan waits for nothing
    (("systemctl", "show"), True),
    (("sshd", "-t"), False),  # would judge the files of now, not those of then
    (("rsyslogd", "-N1"), False),
    (("chronyd", "-p"), False),
    (("openntpd", "-n"), False),
)
