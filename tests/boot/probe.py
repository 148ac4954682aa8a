"""A caller at the metadata service's door: it tries for as long as the machine runs, and writes down what came of it.

This file is copied into guests and run by their own python3, so it needs nothing but the standard library.

    probe.py watch FILE PERIOD PATIENCE ADDRESS...
                                            connect to TCP port 80 of each address every PERIOD seconds, until SIGTERM;
                                            an attempt that nobody answers is kept open for PATIENCE seconds; append
                                            to FILE, four times a second, all that was seen so far as a JSON line
    probe.py ask tcp|udp ADDRESS...         connect once to each (TCP port 80, UDP port 123); print a JSON object
    probe.py serve ADDRESS...               answer on both ports of each
    probe.py kill WORDS                     kill -9 the first process with WORDS in its command line, half a second
                                            after it has a connection to port 80
"""

from __future__ import annotations

import errno
import json
import os
import select
import selectors
import signal
import socket
import sys
import time

TCP_PORT, UDP_PORT = 80, 123
PENDING = 1000  # attempts that nobody has answered yet, at most, for each address (the unit raises LimitNOFILE=)
REPORT = 0.25  # seconds
TREES = ("/run/ec2", "/run/ec2/metadata.json", "/run/ec2/user-data", "/run/.ec2", "/run/.ec2/1/metadata.json")
ANSWER = b"here\n"


class Door:
    """One address: the attempts at it, and what came of them."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.attempts = 0
        self.connected = 0
        self.outcomes: dict[str, int] = {}
        self.failed = 0  # after the first connection
        self.pending: dict[int, tuple[socket.socket, float]] = {}  # oldest first

    def knock(self, poll: select.epoll, now: float, patience: float) -> None:
        """Start one attempt; for a link-local address one on each interface."""
        for target in targets(self.address, TCP_PORT):
            if len(self.pending) >= PENDING:
                return
            attempt = socket.socket(self.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self.attempts += 1
            answer = attempt.connect_ex(target)
            if answer == errno.EINPROGRESS:
                self.pending[attempt.fileno()] = (attempt, now + patience)
                poll.register(attempt.fileno(), select.EPOLLOUT)
            else:
                self.note(answer)
                attempt.close()

    def settle(self, number: int) -> None:
        """Take the answer to a pending attempt."""
        attempt, _ = self.pending.pop(number)
        self.note(attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        attempt.close()

    def give_up(self, now: float) -> None:
        """Close the attempts that nobody has answered in time."""
        while self.pending:
            number = next(iter(self.pending))
            attempt, until = self.pending[number]
            if until > now:
                return
            del self.pending[number]
            self.note(errno.ETIMEDOUT)
            attempt.close()

    def note(self, answer: int) -> None:
        """Count an outcome."""
        if answer == 0:
            self.connected += 1
        elif self.connected:
            self.failed += 1
        name = errno.errorcode.get(answer, str(answer)) if answer else "connected"
        self.outcomes[name] = self.outcomes.get(name, 0) + 1


def targets(address: str, port: int) -> list[tuple[str, int] | tuple[str, int, int, int]]:
    """Return what to connect to: a link-local address says nothing without an interface."""
    if not address.startswith("fe80:"):
        return [(address, port)]
    return [(address, port, 0, index) for index, name in socket.if_nameindex() if name != "lo"]


def watch(path: str, period: float, patience: float, addresses: list[str]) -> None:
    """Try until SIGTERM. systemd, if it started us, is told when every address has been tried once."""
    ended: list[str] = []
    for wanted in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(wanted, lambda got, _: ended.append(signal.Signals(got).name))
    doors = [Door(address) for address in addresses]
    looks = {"opened": 0, "denied": 0, "absent": 0}
    poll = select.epoll()
    rounds, longest, reported = 0, 0.0, 0.0
    began = last = time.monotonic()
    while True:
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        for door in doors:
            door.knock(poll, now, patience)
        answered = {number for number, _ in poll.poll(0)}
        for door in doors:
            for number in answered & door.pending.keys():
                door.settle(number)
            door.give_up(now)
        if rounds % 20 == 0:
            look(looks)
        if rounds == 0:
            tell_systemd()
        rounds += 1
        if now - reported >= REPORT or ended:
            seen = {
                "began": began,
                "now": now,
                "rounds": rounds,
                "longest": longest,
                "ended": ended[:1],
                "trees": looks,
                "doors": {door.address: state(door) for door in doors},
            }
            # A root file system that is read-only still is no reason to stop trying.
            if append(path, seen):
                longest, reported = 0.0, now
            if ended:
                return
        time.sleep(period)


def state(door: Door) -> dict[str, object]:
    """Return a door as a JSON value."""
    return {
        "attempts": door.attempts,
        "connected": door.connected,
        "failed": door.failed,
        "outcomes": door.outcomes,
    }


def look(looks: dict[str, int]) -> None:
    """Try to open what root alone may read, also where it is drafted."""
    for path in TREES:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            looks["denied"] += 1
        except OSError:
            looks["absent"] += 1
        else:
            looks["opened"] += 1


def append(path: str, value: object) -> bool:
    """Append a JSON line; return whether that was possible."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:
        return False
    try:
        os.write(file, json.dumps(value).encode() + b"\n")
    finally:
        os.close(file)
    return True


def tell_systemd() -> None:
    """Say READY=1 to whoever started us as Type=notify."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"READY=1", path.replace("@", "\0", 1))


def ask(kind: str, addresses: list[str]) -> dict[str, str]:
    """Try each address once; return `connected` or the name of the error."""
    found = {}
    for address in addresses:
        answers = [_ask(kind, address, target) for target in targets(address, TCP_PORT if kind == "tcp" else UDP_PORT)]
        found[address] = "connected" if "connected" in answers else answers[0] if answers else "no interface"
    return found


def _ask(kind: str, address: str, target: tuple[str, int] | tuple[str, int, int, int]) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as attempt:
        attempt.settimeout(3)
        try:
            attempt.connect(target)
            if kind == "udp":
                attempt.send(b"who is there\n")
                attempt.recv(100)
        except TimeoutError:
            return "ETIMEDOUT"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
    return "connected"


def serve(addresses: list[str]) -> None:
    """Answer on TCP_PORT and UDP_PORT of each address, for ever."""
    with selectors.DefaultSelector() as waiting:
        for address in addresses:
            for kind, port in ((socket.SOCK_STREAM, TCP_PORT), (socket.SOCK_DGRAM, UDP_PORT)):
                family, _, _, _, where = socket.getaddrinfo(address, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
                channel = socket.socket(family, kind)
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                channel.bind(where)
                if kind == socket.SOCK_STREAM:
                    channel.listen(128)
                waiting.register(channel, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in waiting.select():
                channel = key.fileobj  # type: ignore[assignment]  # we registered sockets only
                if channel.type == socket.SOCK_STREAM:
                    caller, _ = channel.accept()
                    caller.close()
                else:
                    channel.sendto(ANSWER, channel.recvfrom(100)[1])


def kill(words: str) -> None:
    """Wait for a process with `words` in its command line to talk to port 80, then kill it."""
    while True:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    line = file.read().replace(b"\0", b" ").decode(errors="replace")
                talking = words in line and int(pid) != os.getpid() and _talks(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if talking:
                time.sleep(0.5)
                os.kill(int(pid), signal.SIGKILL)
                print(f"killed {pid}: {line}", flush=True)
                return
        time.sleep(0.05)


def _talks(pid: str) -> bool:
    """Tell whether a process has an established connection to TCP_PORT."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}", encoding="ascii") as file:
            for row in file.read().splitlines()[1:]:
                fields = row.split()
                if fields[2].endswith(f":{TCP_PORT:04X}") and fields[3] == "01":
                    inodes.add(f"socket:[{fields[9]}]")
    return any(os.readlink(f"/proc/{pid}/fd/{number}") in inodes for number in os.listdir(f"/proc/{pid}/fd"))


def main(words: list[str]) -> None:
    """Do as the module's description says."""
    match words:
        case ["watch", path, period, patience, *addresses]:
            watch(path, float(period), float(patience), addresses)
        case ["ask", "tcp" | "udp" as kind, *addresses]:
            print(json.dumps(ask(kind, addresses)))
        case ["serve", *addresses]:
            serve(addresses)
        case ["kill", text]:
            kill(text)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
