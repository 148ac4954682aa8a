"""The report of a lease: what spare work did, what it left; kept, and sent before the machine stops."""

from __future__ import annotations

import errno
import os

from cloudboot import lease_units as units
from cloudboot import leases
from cloudboot.actions import MakeDir, WriteFile
from cloudboot.errors import CloudbootError
from cloudboot.http import Fetcher
from cloudboot.lease_time import stamp
from cloudboot.lease_work import load, output, settled, store
from cloudboot.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudboot.host import Host
    from cloudboot.leases import Lease

FILES = f"{leases.CURRENT}/files"
FILE_SHOWN, FILES_SHOWN = 256 << 10, 4 << 20  # bytes of collected files in a report: of one, of all
FILE_KEPT, FILES_KEPT = 16 << 20, 64 << 20  # and on the disk


def report(host: Host, lease: Lease) -> bool:
    """Collect what is to be kept, write the report, send it; tell whether all of it was done.

    Called when spare work is stopped, also by somebody else's shutdown; a reboot in the middle is no end.
    """
    if not host.exists(units.CLOSING) and rebooting(host):
        return True
    runs = settled(host, lease, load(host, lease))
    store(host, lease, runs)
    content = written(host, lease, runs)
    host.keep(WriteFile(f"{leases.CURRENT}/report.json", content.encode(), 0o600))
    wanted = lease.spec.get("report") or {}
    try:
        if "file" in wanted:
            host.write(wanted["file"], content, mode=0o600)
        if "url" in wanted:
            send(lease, wanted, content)
    except (CloudbootError, OSError) as error:
        host.log.error(f"lease: the report was not delivered: {error}: it is in {leases.CURRENT}/report.json")
        return False
    return True


def send(lease: Lease, wanted: dict[str, Any], content: str) -> None:
    """POST the report as `phone_home` does, with the names that it sends. Raises CloudbootError."""
    url = wanted["url"]
    for word in ("${INSTANCE_ID}", "$INSTANCE_ID"):
        url = url.replace(word, lease.who["instance_id"])
    form = {**lease.who, "report": content}
    deadline = max(2.0, lease.terms.margin * units.REPORTING * 0.8)
    Fetcher().post(url, form, tries=wanted.get("tries", 10), pause=1.0, deadline=deadline)


def rebooting(host: Host) -> bool:
    """Tell whether the machine goes down to come up again."""
    jobs = host.ask(["systemctl", "list-jobs", "--no-legend", "--plain"], timeout=5).output
    return any(word in jobs for word in ("reboot.target", "kexec.target"))


def written(host: Host, lease: Lease, runs: list[dict[str, Any]]) -> str:
    """Return the report: JSON for a program, as everything else of it."""
    import json

    term = lease.term
    facts = {
        "until": lease.spec["until"],
        "mark": stamp(term.mark),
        "origin": stamp(term.origin),
        "extended": term.extended,
        "state": term.state,
        "then": lease.terms.then,
        "reported": stamp(host.now()),
    }
    jobs = [{**run, "text": output(host, run)} for run in runs]
    return json.dumps({**lease.who, "lease": facts, "run": jobs, "collected": collect(host, lease)}, indent=1) + "\n"


def collect(host: Host, lease: Lease) -> list[dict[str, Any]]:
    """Keep the owner's files beside the results, and return them for the report, as far as there is room."""
    import base64

    found: list[dict[str, Any]] = []
    kept = shown = 0
    for path in [each for pattern in lease.spec.get("collect", ()) for each in matching(host, pattern) or [pattern]]:
        facts: dict[str, Any] = {"path": path}
        found.append(facts)
        try:
            entry, content = host.root.read_beneath(path, "/", FILE_KEPT)  # a symlink may lead to what is not theirs
        except OSError as error:
            facts["left_out"] = "reached through a symlink" if error.errno == errno.ELOOP else error.strerror
            continue
        if entry.kind != "file" or len(content) < entry.size or kept + len(content) > FILES_KEPT:
            facts["left_out"] = "too large" if entry.kind == "file" else f"is a {entry.kind}, not a file"
            continue
        kept += len(content)
        host.keep(MakeDir(FILES, 0o700))
        host.keep(WriteFile(f"{FILES}{path}", content, 0o600))
        facts |= {"size": len(content), "kept": f"{FILES}{path}"}
        if len(content) <= FILE_SHOWN and shown + len(content) <= FILES_SHOWN:
            shown += len(content)
            facts["base64"] = base64.b64encode(content).decode()
    return found


def matching(host: Host, pattern: str) -> list[str]:
    """Return the paths that a pattern with `*`, `?` and `[…]` names."""
    from fnmatch import fnmatchcase

    paths = [""]
    for step in os.path.normpath(pattern).strip("/").split("/"):
        if not set(step) & set("*?["):
            paths = [f"{path}/{step}" for path in paths]
            continue
        hidden = step.startswith(".")
        paths = [
            f"{path}/{name}"
            for path in paths
            for name in host.listdir(path or "/")
            if fnmatchcase(name, step) and name.startswith(".") == hidden
        ]
    return [path for path in paths if host.look(path, follow=False) is not None]
