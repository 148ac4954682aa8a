"""The built-in spare-time suites: thin over fio, iperf3, stress-ng and the kernel's own counters.

Each prints its result as the last thing, one line of JSON: `{"suite": …, "tool": …, …}`, or `{"suite": …, "error": …}`.
A tool that is missing is said, and never installed. SIGTERM ends the tool, whose result so far still counts.
"""

from __future__ import annotations

import json

from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.host import Host

PACKAGES = {"fio": "fio", "iperf3": "iperf3", "stress-ng": "stress-ng"}
SECONDS = 20  # of each measurement
FIO_SIZE = 256  # MiB
IDLE_SECONDS = 60
PLACE = "/var/tmp/cloudboot-lease"  # noqa: S108 - a directory of root's own

Suite = dict[str, Any]


def run(host: Host, name: str, peer: str | None, write: Callable[[str], Any]) -> int:
    """Run a suite and print its result; return 0 if it measured something."""
    import signal

    # systemd sends SIGTERM to the tool too: wait for what it says then.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    suites: dict[str, Callable[[], Suite]] = {
        "disk": lambda: disk(host),
        "network": lambda: network(host, peer),
        "cpu": lambda: cpu(host),
        "idle": lambda: idle(host),
    }
    try:
        result = {"suite": name, **suites[name]()}
    finally:
        signal.signal(signal.SIGTERM, before)
    write(json.dumps(result) + "\n")
    return 1 if "error" in result else 0


def tool(host: Host, argv: list[str]) -> tuple[str, Suite]:
    """Run a suite's tool; return what it printed, and the error if there is one."""
    if host.which(argv[0]) is None:
        return "", {"error": f"{argv[0]}: not installed: install {PACKAGES[argv[0]]} (nothing is installed unasked)"}
    done = host.spawn(argv, timeout=SECONDS * 20)
    if not done.ok:
        last = (done.output.strip().splitlines() or [""])[-1]
        return done.output, {"error": f"{argv[0]}: exit status {done.status}: {last[:200]}"}
    return done.output, {}


# -- disk


def disk(host: Host) -> Suite:
    """Measure the file system of /var/tmp: 4 KiB at random, 1 MiB in sequence, past the cache."""
    kinds = {"randread": "4k", "randwrite": "4k", "read": "1m", "write": "1m"}
    options = [f"--directory={PLACE}", f"--size={FIO_SIZE}m", "--filename=fio", "--ioengine=libaio", "--direct=1"]
    options += ["--iodepth=16", f"--runtime={SECONDS}", "--time_based", "--output-format=json"]
    jobs: list[str] = []
    for kind, block in kinds.items():
        jobs += [f"--name={kind}", "--stonewall", f"--rw={kind}", f"--bs={block}"]
    host.mkdir(PLACE, mode=0o700)
    try:
        text, error = tool(host, ["fio", *options, *jobs])
        return fio(text) or error or {"error": "fio: its result cannot be read"}
    finally:
        host.remove(PLACE)


def fio(text: str) -> Suite:
    """Return the rates of fio's JSON: operations and bytes a second, latency in milliseconds; nothing if it is none."""
    values = json_of(text)
    jobs = values.get("jobs") if values else None
    if not jobs:
        return {}
    measured = {}
    for job in jobs:
        if not job.get("job_runtime"):
            continue  # its turn did not come
        side = job["write" if "write" in job["jobname"] else "read"]
        latency = side.get("clat_ns", {})
        slowest = latency.get("percentile", {}).get("99.000000")
        measured[job["jobname"]] = {
            "iops": round(side.get("iops", 0.0), 1),
            "bytes_per_second": int(side.get("bw_bytes", 0)),
            "latency_ms": round(latency.get("mean", 0.0) / 1e6, 3),
            **({"latency_p99_ms": round(slowest / 1e6, 3)} if slowest is not None else {}),
        }
    return {"tool": str(values.get("fio version", "fio")), "measured": measured} if measured else {}


# -- network


def network(host: Host, peer: str | None) -> Suite:
    """Measure to a peer that runs `iperf3 -s`: there and back."""
    if not peer:
        return {"error": "no peer: give it one (peer: HOST, where `iperf3 -s` runs)"}
    made: Suite = {"peer": peer}
    for name, words in (("sent", []), ("received", ["--reverse"])):
        text, error = tool(host, ["iperf3", "--json", "--client", peer, f"--time={SECONDS}", *words])
        found = iperf3(text)
        if "error" in found or not found:
            return {**made, **(found or error or {"error": "iperf3: its result cannot be read"})}
        made["tool"] = found.pop("tool")
        made[name] = found
    return made


def iperf3(text: str) -> Suite:
    """Return the rate of iperf3's JSON and what was sent twice, or its own error; nothing if it is no JSON."""
    values = json_of(text)
    if not values:
        return {}
    if values.get("error"):
        return {"error": f"iperf3: {values['error']}"}
    ends = values.get("end", {})
    if "sum_received" not in ends:
        return {}
    return {
        "tool": values.get("start", {}).get("version", "iperf3"),
        "bits_per_second": round(ends["sum_received"]["bits_per_second"]),
        "retransmits": ends.get("sum_sent", {}).get("retransmits"),
    }


# -- cpu


def cpu(host: Host) -> Suite:
    """Load every processor and count how much of it was done, by kind of work."""
    kinds = ["cpu", "matrix", "memcpy"]
    words = [word for kind in kinds for word in (f"--{kind}", "0")]
    argv = ["stress-ng", *words, "--timeout", f"{SECONDS}s", "--metrics-brief", "--yaml", "/dev/stdout"]
    text, error = tool(host, argv)
    return stress_ng(text) or error or {"error": "stress-ng: its result cannot be read"}


def stress_ng(text: str) -> Suite:
    """Return operations a second by kind, from stress-ng's YAML between its other lines; nothing if there are none."""
    import re

    measured: dict[str, float] = {}
    kind = ""
    for line in text.splitlines():
        found = re.match(r"\s*(?:- )?([a-z-]+): (.*)$", line)
        if found is None:
            continue
        if found[1] == "stressor":
            kind = found[2].strip()
        elif found[1] == "bogo-ops-per-second-real-time" and kind:
            measured[kind] = round(float(found[2]), 2)
    return {"tool": "stress-ng", "bogo_ops_per_second": measured} if measured else {}


# -- idle


def wait(seconds: float) -> None:
    """Wait without waking up in between; SIGTERM ends it."""
    import signal

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        signal.sigtimedwait({signal.SIGTERM}, seconds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def idle(host: Host, sleep: Callable[[float], None] = wait, seconds: float = IDLE_SECONDS) -> Suite:
    """Watch a machine that should be doing nothing: what it does all the same, and what its neighbours take."""
    before = counters(host)
    sleep(seconds)
    after = counters(host)
    passed = after["at"] - before["at"]
    ticks = {name: after["cpu"][name] - before["cpu"][name] for name in after["cpu"]}
    total = sum(ticks.values()) or 1
    share = {name: round(100 * value / total, 3) for name, value in ticks.items()}
    load = (host.text("/proc/loadavg") or "0 0 0").split()[:3]
    return {
        "seconds": round(passed, 3),
        "load": [float(each) for each in load],
        "busy_percent": round(100 - share["idle"] - share["iowait"], 3),
        "steal_percent": share["steal"],
        "percent": share,
        "wakeups_per_second": round((after["switches"] - before["switches"]) / passed, 1) if passed else 0.0,
        "interrupts_per_second": round((after["interrupts"] - before["interrupts"]) / passed, 1) if passed else 0.0,
        "forks_per_second": round((after["forks"] - before["forks"]) / passed, 2) if passed else 0.0,
    }


def counters(host: Host) -> dict[str, Any]:
    """Return the kernel's counters (proc(5), /proc/stat) and when they were read, in seconds since the boot."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    lines = {words[0]: words[1:] for line in (host.text("/proc/stat") or "").splitlines() if (words := line.split())}
    return {
        "at": float((host.text("/proc/uptime") or "0").split()[0]),
        "cpu": dict(zip(names, map(int, [*lines.get("cpu", []), *"00000000"][:8]), strict=True)),
        "switches": int((lines.get("ctxt") or ["0"])[0]),
        "interrupts": int((lines.get("intr") or ["0"])[0]),
        "forks": int((lines.get("processes") or ["0"])[0]),
    }


def json_of(text: str) -> dict[str, Any]:
    """Return the object that stands in a tool's output, between its notes; empty if there is none."""
    begin, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[begin : end + 1]) if begin >= 0 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
