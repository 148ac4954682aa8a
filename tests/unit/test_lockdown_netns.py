"""The lock-down in real kernels' hands: a guest, a metadata server and a container, each a network namespace.

container --bridge--> guest --veth--> server (the addresses are the server's, as on a cloud)
"""

from __future__ import annotations

import ast
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cloudboot import firewall, lockdown, netfilter, proof
from cloudboot.firewall import Access, Account, Policy, Rule
from cloudboot.host import Host
from cloudboot.log import Log
from cloudboot.root import Root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cloudboot.process import Result

STATIC = Path(__file__).parents[2] / "systemd" / "lockdown"
SRC = str(Path(__file__).parents[2] / "src")
TAG = f"cb{os.getpid()}"
GUEST, SERVER, CONTAINER = f"{TAG}g", f"{TAG}s", f"{TAG}c"
SHUT = ("169.254.169.254", "fd00:ec2::254", "fe80::a9fe:a9fe")
ROUTED = SHUT[:2]
UNTOUCHED = (
    "169.254.169.123", "169.254.169.253", "169.254.170.2", "169.254.170.23",
    "fd00:ec2::123", "fd00:ec2::253", "fd00:ec2::23",
)  # fmt: skip
NOBODY = 65534

SERVE = """
import socket, threading, time
def serve(listener):
    while True:
        peer, _ = listener.accept()
        peer.recv(100)
        peer.sendall(b"metadata")
        peer.close()
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    listener = socket.socket(family)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 80))
    listener.listen(100)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
print("ready", flush=True)
time.sleep(600)
"""
PROBE = """
import errno, os, socket, sys
uid, gid, device, *addresses = sys.argv[1:]
patience = 0.4 if device == "wan0" else 2  # over IPv6 the second SYN of a container is answered first
os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
for address in addresses:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    scope = socket.if_nametoindex(device) if address.startswith("fe80") else 0
    try:
        with socket.socket(family) as attempt:
            attempt.settimeout(patience)
            attempt.connect((address, 80, 0, scope) if ":" in address else (address, 80))
            attempt.settimeout(3)
            attempt.sendall(b"GET")
            print("open" if attempt.recv(100) == b"metadata" else "empty")
    except TimeoutError:
        print("silent")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""

ASK_KERNEL = f"""
import sys
sys.path.insert(0, {SRC!r})
from cloudboot import netfilter, netlink
from cloudboot.host import Host
from cloudboot.log import Log
from cloudboot.root import Root
class Untooled(Host):
    def ask(self, argv, **_):
        raise AssertionError(argv)
root = Root("/")
host = Untooled(root, Log(root, keep=False, echo=False))
rules = {{family: [tuple(rule) for rule in netfilter.routing_rules(host, family)] for family in (4, 6)}}
shape = netlink.table("cloudboot")
print((rules, (set(shape.hooks), netfilter.sorted_by_chain(list(shape.lines)))))
"""


def usable() -> str | None:
    """Say what keeps these tests from running."""
    if os.geteuid() != 0:
        return "needs root: it makes network namespaces"
    missing = [tool for tool in ("ip", "nft", "iptables-restore", "ip6tables-restore") if not shutil.which(tool)]
    return f"needs {', '.join(missing)}" if missing else None


def run(namespace: str, *argv: str, stdin: str | None = None, ok: bool = True) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *argv], input=stdin, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 or not ok, done.stderr
    return done.stdout


def probe(uid: int, *addresses: str, gid: int | None = None, namespace: str = GUEST) -> list[str]:
    """Talk to port 80 of each address as a user; tell how each attempt ended."""
    device = "wan0" if namespace == GUEST else "eth0"
    argv = (sys.executable, "-c", PROBE, str(uid), str(uid if gid is None else gid), device, *(addresses or SHUT))
    return run(namespace, *argv).split()


class Guest(Host):
    """A live host whose tools act in the guest's namespace and whose files are in a tree."""

    def __init__(self, tree: Path, prefix: Sequence[str] = ()) -> None:
        root = Root(str(tree))
        super().__init__(root, Log(root, echo=False))
        self.live = True
        self.prefix = ["ip", "netns", "exec", GUEST, *prefix]

    def spawn(
        self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float | None = None, **_: object
    ) -> Result:
        return super().spawn([*self.prefix, *argv], stdin=stdin, timeout=timeout)


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    """Make the three namespaces and the server; take them away."""
    reason = usable()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    names = (GUEST, SERVER, CONTAINER)
    server = None
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        batch = {
            SERVER: [
                f"link add wan0 netns {GUEST} type veth peer name eth0 netns {SERVER}",
                "addr add 10.9.0.1/24 dev eth0",
                "addr add fd99::1/64 dev eth0 nodad",
                "addr add fe80::a9fe:a9fe/64 dev eth0 nodad",
                *(f"addr add {address} dev lo" for address in (*ROUTED, *UNTOUCHED)),
                "link set eth0 up",
                "route add 10.8.0.0/24 via 10.9.0.2",
                "route add fd98::/64 via fd99::2",
            ],
            GUEST: [
                f"link add inside netns {GUEST} type veth peer name eth0 netns {CONTAINER}",
                "link add br0 type bridge",
                "link set inside master br0",
                "addr add 10.9.0.2/24 dev wan0",
                "addr add fd99::2/64 dev wan0 nodad",
                "addr add 10.8.0.1/24 dev br0",
                "addr add fd98::1/64 dev br0 nodad",
                *(f"link set {device} up" for device in ("wan0", "inside", "br0")),
                "route add default via 10.9.0.1",
                "route add default via fd99::1",
            ],
            CONTAINER: [
                "addr add 10.8.0.2/24 dev eth0",
                "addr add fd98::2/64 dev eth0 nodad",
                "link set eth0 up",
                "route add default via 10.8.0.1",
                "route add default via fd98::1",
            ],
        }
        for name in (SERVER, GUEST, CONTAINER):
            for line in batch[name]:
                subprocess.run(["ip", "-n", name, *line.split()], check=True)
        run(GUEST, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        server = subprocess.Popen(["ip", "netns", "exec", SERVER, sys.executable, "-c", SERVE], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        wait_for_network()
        yield
    finally:
        if server is not None:
            server.kill()
            server.wait()
            if server.stdout is not None:
                server.stdout.close()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def wait_for_network() -> None:
    deadline = time.monotonic() + 20
    while True:  # duplicate address detection of the link-local addresses, the bridge's first forwarding
        seen = probe(NOBODY, *SHUT) + probe(0, *ROUTED, namespace=CONTAINER)
        if seen == ["open"] * 5:
            return
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)


@pytest.fixture(autouse=True)
def clean(network: None) -> Iterator[None]:
    """Leave no rule of ours or of a test's in the guest."""
    yield
    run(GUEST, "nft", "flush", "ruleset")
    for family in ("-4", "-6"):
        for pref in range(firewall.PAST, firewall.END + 1):
            while run(GUEST, "ip", family, "rule", "show", "pref", str(pref)).strip():
                run(GUEST, "ip", family, "rule", "del", "pref", str(pref))
        run(GUEST, "ip", family, "route", "flush", "table", str(firewall.ROUTES), ok=False)


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    (tmp_path / "usr/sbin").mkdir(parents=True)
    for tool in ("nft", "iptables-restore"):
        (tmp_path / "usr/sbin" / tool).write_text("")
        (tmp_path / "usr/sbin" / tool).chmod(0o755)
    return Guest(tmp_path)


def put_up_static() -> None:
    """Do what cloudboot-lockdown.service does."""
    for line in (STATIC / "rules").read_text().splitlines():
        run(GUEST, "ip", *line.replace("/usr/lib/cloudboot/lockdown", str(STATIC)).split(), ok=False)
    run(GUEST, "nft", "-f", str(STATIC / "lockdown.nft"))


def our_rules() -> list[str]:
    lines = [line for family in ("-4", "-6") for line in run(GUEST, "ip", family, "rule").splitlines()]
    return [line for line in lines if 50 <= int(line.split(":")[0]) <= 59]


# -- the static layer


def test_static_lets_root_in_and_refuses_the_rest_at_once() -> None:
    put_up_static()
    assert probe(0) == ["open"] * 3
    assert probe(NOBODY) == ["ECONNREFUSED", "ECONNREFUSED", "EACCES"]
    assert probe(0, *ROUTED, namespace=CONTAINER) == ["EHOSTUNREACH", "EACCES"]


def test_static_leaves_the_other_services_alone() -> None:
    put_up_static()
    assert probe(NOBODY, *UNTOUCHED) == ["open"] * len(UNTOUCHED)
    assert probe(0, *UNTOUCHED, namespace=CONTAINER) == ["open"] * len(UNTOUCHED)


def test_static_twice_is_static_once() -> None:
    put_up_static()
    table, rules = run(GUEST, "nft", "-s", "list", "table", "inet", "cloudboot"), our_rules()
    put_up_static()
    assert run(GUEST, "nft", "-s", "list", "table", "inet", "cloudboot") == table
    assert our_rules() == rules
    assert len(rules) == 3 * 3 + 2


def test_routing_alone_holds_when_every_table_is_flushed() -> None:
    put_up_static()
    run(GUEST, "nft", "flush", "ruleset")
    assert "open" not in probe(NOBODY)
    assert "open" not in probe(0, *ROUTED, namespace=CONTAINER)
    assert probe(0) == ["open"] * 3


def test_table_alone_holds_when_every_rule_is_gone() -> None:
    run(GUEST, "nft", "-f", str(STATIC / "lockdown.nft"))
    assert probe(NOBODY) == ["ECONNREFUSED"] * 3
    assert probe(0, *ROUTED, namespace=CONTAINER) == ["ECONNREFUSED"] * 2
    assert probe(0) == ["open"] * 3


def test_without_our_route_the_prohibition_holds() -> None:
    put_up_static()
    run(GUEST, "nft", "flush", "ruleset")
    for family in ("-4", "-6"):
        run(GUEST, "ip", family, "route", "flush", "table", str(firewall.ROUTES))
    assert probe(NOBODY) == ["EACCES"] * 3


def test_root_follows_the_machines_own_policy_routing() -> None:
    run(GUEST, "ip", "route", "del", "default")
    run(GUEST, "ip", "route", "add", "default", "via", "10.9.0.1", "table", "77")
    run(GUEST, "ip", "rule", "add", "pref", "1000", "from", "all", "lookup", "77")
    try:
        put_up_static()
        assert probe(0, SHUT[0]) == ["open"]
        assert probe(NOBODY, SHUT[0]) == ["ECONNREFUSED"]
    finally:
        run(GUEST, "ip", "rule", "del", "pref", "1000")
        run(GUEST, "ip", "route", "flush", "table", "77")
        run(GUEST, "ip", "route", "add", "default", "via", "10.9.0.1")


FOREIGN = """table ip foreign {
	chain early {
		type filter hook output priority -300; policy accept;
		ip daddr 169.254.169.254 accept
	}
	chain forwarded {
		type filter hook forward priority -300; policy accept;
		accept
	}
	chain rewrite {
		type nat hook output priority -100; policy accept;
		ip daddr 10.9.0.77 dnat to 169.254.169.254
	}
	chain rewrite_others {
		type nat hook prerouting priority -100; policy accept;
		ip daddr 10.9.0.77 dnat to 169.254.169.254
	}
}
"""


def test_rewritten_addresses_and_foreign_accepts_do_not_pass() -> None:
    run(GUEST, "nft", "-f", "-", stdin=FOREIGN)
    assert probe(NOBODY, "10.9.0.77") == ["open"]
    put_up_static()
    assert probe(NOBODY, "10.9.0.77", SHUT[0]) == ["ECONNREFUSED"] * 2
    assert "open" not in probe(0, "10.9.0.77", namespace=CONTAINER)
    assert probe(0, "10.9.0.77") == ["open"]


def test_foreign_rules_stay_as_they_are(guest: Guest) -> None:
    run(GUEST, "nft", "-f", "-", stdin=FOREIGN)
    run(GUEST, "ip", "rule", "add", "pref", "55", "to", "10.9.0.99", "lookup", "main")
    before, rules = run(GUEST, "nft", "list", "ruleset"), our_rules()
    put_up_static()
    lockdown.apply(guest, Policy(Access.ALLOW, (Account(1000, "alice"),), (Account(990, "imds"),)))
    assert run(GUEST, "nft", "list", "table", "ip", "foreign") == before
    lockdown.lift(guest)
    assert run(GUEST, "nft", "list", "ruleset") == before
    assert our_rules() == rules


def test_restoring_takes_the_policy_in_force_or_nothing(tmp_path: Path) -> None:
    restore = tmp_path / "restore.nft"
    text = (STATIC / "restore.nft").read_text()
    way = "/run/cloudboot/lockdow[n]/../../../usr/lib/cloudboot/lockdown"
    assert way in text
    text = text.replace(way, f"{tmp_path}/i[n]/../lib").replace("/run/cloudboot/lockdown", f"{tmp_path}/in")
    restore.write_text(text)
    (tmp_path / "lib").symlink_to(STATIC)
    run(GUEST, "nft", "-f", str(restore))
    assert run(GUEST, "nft", "list", "ruleset") == ""
    (tmp_path / "in").mkdir()
    run(GUEST, "nft", "-f", str(restore))
    assert probe(NOBODY, SHUT[0]) == ["ECONNREFUSED"]
    policy = Policy(Access.ALLOW, (Account(NOBODY, "nobody"),))
    (tmp_path / "in/1-policy.nft").write_text(firewall.render_nft(policy))
    run(GUEST, "nft", "-f", str(restore))
    assert probe(NOBODY, SHUT[0]) == ["open"]
    assert probe(1000, SHUT[0]) == ["ECONNREFUSED"]


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(Access.NONE),
        Policy(Access.OPEN),
        Policy(Access.ALLOW, (Account(1000, "alice"),), (Account(990, "imds"),), (), True),
    ],
)
def test_the_kernel_tells_what_the_tools_tell(guest: Guest, policy: Policy) -> None:
    """A settled boot asks the kernel itself; the guest's tools are the judges of what it understood."""
    put_up_static()
    lockdown.apply(guest, policy)
    asked = run(GUEST, sys.executable, "-c", ASK_KERNEL)
    rules, shape = ast.literal_eval(asked)
    told = {family: netfilter.routing_rules(guest, family) for family in (4, 6)}
    assert {family: {Rule(*each) for each in some} for family, some in rules.items()} == told
    standing = netfilter.standing(guest)
    assert shape == ((set(standing.hooks), list(standing.lines)) if standing else (set(), []))


# -- policies

ALICE = Account(1000, "alice")
IMDS = Account(990, "imds")


@pytest.mark.parametrize(
    ("policy", "opened", "shut"),
    [
        (Policy(), [(0, 0)], [(1000, 1000), (NOBODY, 990)]),
        (Policy(Access.NONE), [], [(0, 0), (1000, 1000)]),
        (Policy(Access.OPEN), [(0, 0), (NOBODY, NOBODY)], []),
        (Policy(Access.ROOT, (Account(107, "ec2-instance-connect"),)), [(0, 0), (107, NOBODY)], [(1000, 1000)]),
        (Policy(Access.ALLOW, (ALICE,)), [(0, 0), (1000, 5)], [(1001, 1001), (NOBODY, 1000)]),
        (Policy(Access.ALLOW, (), (IMDS,)), [(0, 0), (NOBODY, 990)], [(NOBODY, NOBODY), (990, 5)]),
    ],
    ids=["root", "none", "open", "system", "users", "groups"],
)
def test_a_policy_lets_in_whom_it_names(
    policy: Policy, opened: list[tuple[int, int]], shut: list[tuple[int, int]], guest: Guest
) -> None:
    put_up_static()
    # The static rules are those of the default policy: nothing is left to do for it.
    assert lockdown.apply(guest, policy) is (policy != Policy())
    for uid, gid in opened:
        assert probe(uid, gid=gid) == ["open"] * 3, (uid, gid)
    for uid, gid in shut:
        assert "open" not in probe(uid, gid=gid), (uid, gid)
    forwarded = probe(0, *ROUTED, namespace=CONTAINER)
    assert ("open" in forwarded) == (policy.access is Access.OPEN)
    assert lockdown.apply(guest, policy) is False


def test_forwarded_opens_to_containers_alone(guest: Guest) -> None:
    put_up_static()
    assert lockdown.apply(guest, Policy(Access.ALLOW, forwarded=True))
    assert probe(0, *ROUTED, namespace=CONTAINER) == ["open"] * 2
    assert "open" not in probe(NOBODY)
    assert lockdown.apply(guest, Policy())
    assert "open" not in probe(0, *ROUTED, namespace=CONTAINER)


def test_groups_stay_shut_when_every_table_is_flushed(guest: Guest) -> None:
    lockdown.apply(guest, Policy(Access.ALLOW, (), (IMDS,)))
    run(GUEST, "nft", "flush", "ruleset")
    assert "open" not in probe(NOBODY, *ROUTED, gid=990)


def test_what_was_flushed_or_deleted_is_put_back(guest: Guest) -> None:
    lockdown.apply(guest, Policy())
    assert lockdown.apply(guest, Policy()) is False
    run(GUEST, "nft", "flush", "ruleset")
    assert lockdown.apply(guest, Policy()) is True
    run(GUEST, "nft", "flush", "chain", "inet", "cloudboot", "judge")
    assert lockdown.apply(guest, Policy()) is True
    run(GUEST, "ip", "rule", "del", "pref", "58")
    assert lockdown.apply(guest, Policy()) is True
    assert lockdown.apply(guest, Policy()) is False


def test_switching_policies_never_opens_to_a_third(guest: Guest) -> None:
    lockdown.apply(guest, Policy())
    script = PROBE.replace(
        "for address in addresses:",
        "import time\nend = time.monotonic() + 2.5\nseen = set()\n"
        "while time.monotonic() < end:\n  for address in addresses:",
    ).replace("\n    ", "\n      ")
    argv = ["ip", "netns", "exec", GUEST, sys.executable, "-c", script, "1001", "1001", "wan0", *ROUTED]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as attempts:
        for policy in [Policy(Access.ALLOW, (ALICE,), (IMDS,)), Policy(Access.NONE), Policy()] * 3:
            lockdown.apply(guest, policy)
        seen = attempts.communicate(timeout=30)[0].split()
    assert len(seen) > 50
    assert set(seen) <= {"ECONNREFUSED", "EACCES"}


def test_refusals_are_counted_by_user_and_outlive_a_change_of_policy(guest: Guest) -> None:
    put_up_static()
    probe(1000, *ROUTED)
    probe(NOBODY, SHUT[0])
    lockdown.apply(guest, Policy(Access.ALLOW, (Account(1001, "bob"),)))
    probe(1000, SHUT[0])
    found = netfilter.standing(guest)
    assert found is not None
    assert found.refused == {1000: 3, NOBODY: 1}


def test_units_are_let_in_by_their_cgroup(tmp_path: Path) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    hierarchy = next((words[1] for words in mounts if words[2] == "cgroup2"), None)
    assert hierarchy is not None, "no cgroup2 file system is mounted"
    unit = f"{TAG}.slice/web.service"
    folder = Path(hierarchy) / unit
    folder.mkdir(parents=True)
    script = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'  # where nft looks
    guest = Guest(tmp_path, ["unshare", "-m", "sh", "-c", script, "sh"])
    (tmp_path / f"sys/fs/cgroup/{unit}").mkdir(parents=True)
    inside = f'echo 0 > {folder}/cgroup.procs && exec "$@"'
    argv = ["sh", "-c", inside, "sh", "ip", "netns", "exec", GUEST, sys.executable, "-c", PROBE, "1000", "1000", "wan0"]
    try:
        policy = Policy(Access.ALLOW, units=(unit,))
        for action in (netfilter.Routing(policy), netfilter.Table(policy)):
            assert guest.do(action)
            assert not guest.do(action)
        seen = subprocess.run([*argv, *SHUT], capture_output=True, text=True, check=True).stdout.split()
        assert seen == ["open"] * 3
        assert "open" not in probe(1000)
    finally:
        folder.rmdir()
        folder.parent.rmdir()


# -- the proof


def stranger(address: str) -> int:
    """Run the real probe in the guest."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); from cloudboot import proof"
    call = "print(proof.connect_as_stranger(sys.argv[2]))"
    return int(run(GUEST, sys.executable, "-c", f"{script}; {call}", SRC, address))


def test_status_proves_by_the_counter(guest: Guest) -> None:
    put_up_static()
    probe(NOBODY, SHUT[0])
    report = proof.status(guest, stranger)
    assert [found.state for found in report.addresses] == [proof.State.BLOCKED] * 3
    assert [found.detail for found in report.addresses[:2]] == ["refused, and our counter moved"] * 2
    assert report.missing == ()
    assert [(user.name, user.packets) for user in report.refused] == [("nobody", 1)]


def test_status_finds_the_open_door(guest: Guest) -> None:
    report = proof.status(guest, stranger)
    assert [found.state for found in report.addresses] == [proof.State.REACHABLE] * 3
    assert len(report.missing) == 2


def test_status_says_no_route(guest: Guest) -> None:
    run(GUEST, "nft", "-f", str(STATIC / "lockdown.nft"))
    report = proof.status(guest, lambda _: errno.ENETUNREACH)
    assert {found.state for found in report.addresses} == {proof.State.NO_ROUTE}


# -- where there is no nft


def restore(which: str) -> None:
    for family, tool in (("4", "iptables-restore"), ("6", "ip6tables-restore")):
        run(GUEST, tool, "-w", "5", "--noflush", str(STATIC / f"iptables-{which}-v{family}"), ok=False)


def saved() -> str:
    lines = (run(GUEST, "iptables-save") + run(GUEST, "ip6tables-save")).splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def test_iptables_does_the_same_and_twice_is_once() -> None:
    run(GUEST, "iptables", "-A", "OUTPUT", "-d", "10.9.9.9", "-j", "ACCEPT")
    for _ in range(2):
        restore("hook")
        restore("fill")
    once = saved()
    assert once.count("-j CLOUDBOOT-OUT") == 3
    assert "-A OUTPUT -d 10.9.9.9/32 -j ACCEPT" in once
    assert probe(0) == ["open"] * 3
    assert probe(NOBODY) == ["ECONNREFUSED"] * 3
    assert probe(0, *ROUTED, namespace=CONTAINER) == ["ECONNREFUSED"] * 2
    assert probe(NOBODY, *UNTOUCHED) == ["open"] * len(UNTOUCHED)
    restore("hook")
    restore("fill")
    assert saved() == once


@pytest.mark.parametrize(
    ("policy", "opened", "shut"),
    [
        (Policy(Access.NONE), [], [(0, 0)]),
        (Policy(Access.ALLOW, (ALICE,), (IMDS,)), [(0, 0), (1000, 1000), (NOBODY, 990)], [(NOBODY, NOBODY)]),
    ],
    ids=["none", "allow"],
)
def test_iptables_applies_policies(
    policy: Policy, opened: list[tuple[int, int]], shut: list[tuple[int, int]], guest: Guest
) -> None:
    (Path(guest.root.directory) / "usr/sbin/nft").unlink()
    before = saved()
    assert lockdown.apply(guest, Policy())
    # The static rules are those of the default policy: nothing is left to do for it.
    assert lockdown.apply(guest, policy) is (policy != Policy())
    assert not lockdown.apply(guest, policy)
    for uid, gid in opened:
        assert probe(uid, gid=gid) == ["open"] * 3, (uid, gid)
    for uid, gid in shut:
        assert "open" not in probe(uid, gid=gid), (uid, gid)
    run(GUEST, "iptables", "-F", "OUTPUT")
    # The static rules are those of the default policy: nothing is left to do for it.
    assert lockdown.apply(guest, policy) is (policy != Policy())
    assert lockdown.lift(guest)
    assert not lockdown.lift(guest)
    assert "CLOUDBOOT" not in saved()
    assert probe(NOBODY) == ["open"] * 3
    assert before.count("-A") == saved().count("-A")
