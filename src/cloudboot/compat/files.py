"""The files that cloud-init leaves for others: its status and result, instance-data, `boot-finished`, `cloud-id`.

Written where `installed` says so, by the stages, beside our own; each is a view of what we keep.
"""

from __future__ import annotations

from cloudboot.actions import MakeDir, Remove, Symlink, WriteFile
from cloudboot.compat import VERSION
from cloudboot.instance import folder
from cloudboot.status import RESULT as OUR_RESULT
from cloudboot.status import key
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.host import Host

RUN = "/run/cloud-init"
LIB = "/var/lib/cloud"
INSTANCE = f"{LIB}/instance"
FINISHED = f"{INSTANCE}/boot-finished"
STATUS, RESULT = f"{RUN}/status.json", f"{RUN}/result.json"
# Our stages by the names of its own.
STAGES = {"local": "init-local", "network": "init", "config": "modules-config", "final": "modules-final"}
REDACTED = "redacted for non-root user"


def publish(host: Host, values: Mapping[str, Any]) -> None:
    """Write its status.json, and at the end of the boot its result.json and `boot-finished`.

    values: those of our own status.json.
    """
    import json

    states = [entry["state"] for entry in values["stages"].values()]
    if states == ["started"]:
        for path in (FINISHED, RESULT):
            host.keep(Remove(path))
    elif states[-1] in ("started", "skipped") and not host.exists(OUR_RESULT):
        return  # what ends next says that too
    host.keep(MakeDir(RUN))
    told = status(values, uptime(host), host.now())
    host.keep(WriteFile(STATUS, f"{json.dumps(told, indent=1)}\n".encode()))
    if host.exists(OUR_RESULT):
        errors = [text for name in STAGES.values() for text in told["v1"][name]["errors"]]
        result = {"v1": {"datasource": told["v1"]["datasource"], "errors": errors}}
        host.keep(WriteFile(RESULT, f"{json.dumps(result, indent=1)}\n".encode()))
        if (known := key(values)) is not None:
            finished(host, known, values["instance"] or known)


def status(values: Mapping[str, Any], up: float, now: float) -> dict[str, Any]:
    """Return its status.json, whose times are seconds of uptime. up, now: of this moment."""
    entries: dict[str, Any] = {}
    running = None
    for ours, theirs in STAGES.items():
        entry = values["stages"].get(ours, {})
        times = [entry.get(word) for word in ("started", "ended")]
        if entry.get("state") == "started":
            running, times[1] = theirs, None
        elif times[0] is None:  # proved empty by an earlier stage
            times[0] = times[1]
        start, end = (None if each is None else round(max(0.0, up - (now - each)), 3) for each in times)
        entries[theirs] = {"errors": [], "recoverable_errors": {}, "start": start, "finished": end}
    for text, stage in _stages_of_errors(values).items():
        entries[stage]["errors"].append(text)
    if values["recoverable"]:
        entries["init"]["recoverable_errors"] = {"WARNING": list(values["recoverable"])}
    source = f"DataSource{values['datasource']}" if values["datasource"] else None
    return {"v1": {"datasource": source, "stage": running, **entries}}


def _stages_of_errors(values: Mapping[str, Any]) -> dict[str, str]:
    """Return each error with the stage it belongs to; what is no module's is the network stage's."""
    found = dict.fromkeys(values["errors"], STAGES["network"])
    if found:
        from cloudboot import modules

        stages = {module.name: STAGES[module.stage] for module in modules.declared()}
        for name, facts in values["modules"].items():
            own = dict.fromkeys(facts.get("errors", ()), stages.get(name, STAGES["final"]))
            found |= {text: stage for text, stage in own.items() if text in found}
    return found


def publish_instance(host: Host, variables: Mapping[str, Any]) -> None:
    """Write its instance-data: `v1` for everybody; what the lock-down keeps from users (`ds`) for root alone."""
    import json

    known = {name: variables[name] for name in ("v1", "sys_info", "ds")}
    host.keep(MakeDir(RUN))
    whole = {"base64_encoded_keys": [], "sensitive_keys": ["ds"], **known}
    host.keep(WriteFile(f"{RUN}/instance-data-sensitive.json", json.dumps(whole, indent=1).encode(), 0o600))
    shown = {**whole, "ds": REDACTED}
    host.keep(WriteFile(f"{RUN}/instance-data.json", json.dumps(shown, indent=1).encode()))
    cloud = str(variables["v1"]["cloud_id"])
    if cloud.replace("-", "").isalnum():
        host.keep(WriteFile(f"{RUN}/cloud-id-{cloud}", f"{cloud}\n".encode()))
        host.keep(Symlink(f"{RUN}/cloud-id", f"cloud-id-{cloud}"))


def adopt(host: Host, key: str, instance_id: str) -> None:
    """Make `/var/lib/cloud/instance` this instance's, with ways to what we keep under `key` (root)."""
    ours = folder(key)
    name = ours.rpartition("/")[2]
    place = f"{LIB}/instances/{name}"
    for path in (LIB, f"{LIB}/data", f"{LIB}/instances", place):
        host.keep(MakeDir(path))
    host.keep(Symlink(INSTANCE, f"instances/{name}"))
    host.keep(Symlink(f"{place}/user-data.txt", f"{ours}/user-data"))
    host.keep(Symlink(f"{place}/vendor-data.txt", f"{ours}/vendor-data"))
    host.keep(WriteFile(f"{LIB}/data/instance-id", f"{instance_id}\n".encode()))
    for path in (STATUS, RESULT):
        host.keep(Symlink(f"{LIB}/data/{path.rpartition('/')[2]}", path))


def finished(host: Host, key: str, instance_id: str) -> None:
    """Leave `boot-finished` with the instance, once in a boot."""
    import time

    adopt(host, key, instance_id)
    if host.exists(FINISHED):
        return
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(host.now()))
    host.keep(WriteFile(FINISHED, f"{uptime(host):.2f} - {stamp} - v. {VERSION}\n".encode()))


def uptime(host: Host) -> float:
    """Return the seconds since the kernel started."""
    return float((host.text("/proc/uptime") or "0").split()[0])
