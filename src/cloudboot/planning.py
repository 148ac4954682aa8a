"""The verb `cloudboot plan`: which instance, with which user data, in which tree; then the plan, printed.

Nothing is changed, no lock is taken, no log is written; nothing is fetched but from a metadata service that was named,
and what user data includes, with `--fetch`.
"""

from __future__ import annotations

import os
import sys

from cloudboot import consumed_root, datasource, distro, includes, power, sshd, store
from cloudboot import instance as instances
from cloudboot.actions import MakeDir, SwapTree, WriteFile
from cloudboot.boot import Boot
from cloudboot.crawl import CACHE, schemas
from cloudboot.errors import CloudbootError, UsageError
from cloudboot.http import Answer, Fetcher
from cloudboot.instance import Identity, Instance, Kind
from cloudboot.plan import Plan, fleet, plan
from cloudboot.planned import PlannedFetcher, PlannedHost
from cloudboot.problem import Level
from cloudboot.status import RUN
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from cloudboot.config import Config
    from cloudboot.host import Host
    from cloudboot.plan import Fleet

WELL, PROBLEMS = 0, 2
UNFETCHED = "not fetched for this plan (--fetch does)"
FLEET_LIMIT = 200  # plans of one fleet
PATIENCE = 20.0  # seconds for a metadata service that was named
KEPT = "with the metadata and the user data of the last boot: the next one asks for them again"
INVENTED = Instance("i-00000000000000000", "Ec2", "aws", hostname="ip-10-0-0-10", launch_index=0)
# What does not outlive a boot, and would not be there when the next one begins.
FORGOTTEN = (RUN, power.PENDING, power.SCHEDULED, "/run/reboot-required", "/run/reboot-needed", *sshd.PROCESSES)
SIMPLE = {  # keys of a simple --metadata file: what EC2 and NoCloud call them
    "instance-id": "id", "local-hostname": "hostname", "hostname": "hostname", "public-keys": "keys",
    "ami-launch-index": "index", "launch-index": "index", "block-device-mapping": "devices",
    "availability-zone": "zone", "region": "region",
}  # fmt: skip


class Asked(NamedTuple):
    """What the plan is to be made for. metadata: what `--metadata` names; new: whatever ran does not count."""

    user_data: bytes | None = None
    metadata: str | None = None
    new: bool = False
    fetch: bool = False


class Subject(NamedTuple):
    """An instance to plan for, its data, and what is to be told about where these come from."""

    instance: Instance
    kind: Kind
    user_data: bytes | None
    vendor_data: bytes | None
    remarks: tuple[str, ...] = ()
    unchanged: bool = False  # as kept on the disk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `cloudboot plan` understands."""
    parser.epilog = (
        "exit status: 0, also when there are changes; 2 when something in the user data is wrong; 64 bad usage"
    )
    add = parser.add_argument
    add("--user-data", metavar="FILE", help="plan with this user data")
    add(
        "--metadata",
        metavar="FILE|URL",
        help="plan for the instance that it describes (JSON, YAML), or a simulator's URL",
    )
    add("--launch-index", metavar="N|all", help="plan for this instance of a launch, or show where they differ")
    add("--as", dest="as_what", choices=("new",), help="new: as a new instance, whatever has run here")
    add("--fetch", action="store_true", help="fetch what the user data includes and names as a source")
    add("--format", choices=("text", "json"), default="text")
    add("--color", "--colour", choices=("auto", "always", "never"), default="auto")


def run(arguments: argparse.Namespace, host: Host, write: Callable[[str], object]) -> int:
    """Do `cloudboot plan`; return the exit status. Raises UsageError, CloudbootError."""
    from cloudboot import plan_text

    user_data = _read_file("--user-data", arguments.user_data) if arguments.user_data is not None else None
    asked = Asked(user_data, arguments.metadata, arguments.as_what == "new", arguments.fetch)
    index = arguments.launch_index
    made: Plan | Fleet
    if index == "all":
        indices = representatives(PlannedHost(host), asked)
        made = fleet([make(PlannedHost(host), asked, number) for number in indices])
    elif index is not None and not index.isdigit():
        raise UsageError(f"--launch-index: must be a number or all: {index!r}")
    else:
        made = make(PlannedHost(host), asked, int(index) if index is not None else None)
    if arguments.format == "json":
        import json

        write(json.dumps(plan_text.document(made), indent=1) + "\n")
    else:
        colour = arguments.color == "always" or (
            arguments.color == "auto"
            and sys.stdout.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )
        write(plan_text.text(made, colour=colour))
    return WELL if made.well else PROBLEMS


def make(host: PlannedHost, asked: Asked, index: int | None = None) -> Plan:
    """Make the plan for one instance. `index`: its launch index instead of the metadata's."""
    of_root = host.text(consumed_root.FILE)
    for path in FORGOTTEN:
        host.root.remove(path)
    if of_root is not None:  # the next boot's initramfs leaves the same
        host.keep(MakeDir(RUN))
        host.keep(WriteFile(consumed_root.FILE, of_root.encode(), 0o600))
    boot = Boot(host)
    subject = find(host, boot, asked)
    current = subject.instance
    if index is not None:
        current, subject = current._replace(launch_index=index), subject._replace(unchanged=False)
    merged, left_out = _configure(host, subject, current, fetch=asked.fetch)
    return plan(
        host,
        current,
        merged,
        boot.modules,
        kind=subject.kind,
        image=boot.image_facts(),
        schemas=schemas(),
        fetcher=PlannedFetcher(host, fetch=asked.fetch),
        distro=distro.read(host).name,
        remarks=(*subject.remarks, *left_out),
    )


def representatives(host: PlannedHost, asked: Asked) -> list[int | None]:
    """Return one launch index for each different choice that the user data makes among its parts and sections."""
    from cloudboot.userdata import launch_index, parts
    from cloudboot.userdata.document import load
    from cloudboot.userdata.kinds import Kind as PartKind

    subject = find(host, Boot(host), asked)
    alone: set[int | None] = set()  # indices that a part is for
    ranges: set[int | None] = set()  # of sections: the lowest of each choice, and one beyond them all
    for part in parts.split(subject.user_data or b"").parts:
        alone.add(part.launch_index)
        if part.kind is PartKind.CLOUD_CONFIG:
            value = load(parts.text_of(part.content, part.mark)[0], part.name).value
            if isinstance(value, dict):
                ranges |= set(launch_index.indices_named(value))
                alone.add(value.get("launch-index"))
    known = {0, *(index for index in (*alone, *ranges) if isinstance(index, int))}
    beyond = {max(known) + 1} if max(known) in alone else set()
    if len(known | beyond) > FLEET_LIMIT:
        told = f"the user data makes {len(known | beyond)} different choices by launch index, more than {FLEET_LIMIT}"
        raise UsageError(f"--launch-index all: {told}: plan for one: --launch-index N")
    return [*sorted(known | beyond)]


# -- which instance


def find(host: PlannedHost, boot: Boot, asked: Asked) -> Subject:
    """Return the instance that is meant and its data. Raises UsageError where nothing is known of any."""
    identity = instances.load_identity(host)
    known = store.load_instance(host, identity.id) if identity else None
    kept = store.user_data(host, known.key) if known else (None, None)
    if asked.metadata is not None:
        current, data, remark = described(host, boot, asked.metadata)
        given = asked.user_data if asked.user_data is not None else data
        same = known is not None and not asked.new and (known.id == current.id or bool(known.root))
        if given is None and same:
            given = kept[0]
        if known is not None and known.root and same:  # the machine is the volume, its name too
            current = current._replace(root=known.root, hostname=known.hostname)
        return Subject(current, Kind.SAME if same else Kind.NEW, given, None, (remark,))
    if known is None:
        subject = _unknown(host, boot, asked)
        root = "" if asked.new else boot.crawl.root_key
        return subject._replace(instance=subject.instance._replace(root=root))
    user_data = kept[0] if asked.user_data is None else asked.user_data
    hardware = instances.hardware_id(host)
    decided = instances.decide(identity, hardware, None, known.root)
    if asked.new or decided.kind is Kind.NEW_WITHOUT_DATA:
        told = f"as a new instance of this disk, {INVENTED.id}, with the metadata of {known.id}"
        return Subject(known._replace(id=INVENTED.id, root=""), Kind.NEW, user_data, kept[1], (told,))
    unchanged = user_data == kept[0]
    told = KEPT if unchanged else "the user data is not what was applied; what ran for this instance has run"
    remarks: tuple[str, ...] = (told,)
    current = known
    if known.root and hardware is not None and hardware != known.id:
        current = known._replace(id=hardware)
        moved = f"the root's volume has come from {known.id} to {hardware}, whose metadata are not known yet"
        remarks = (told, moved)
    return Subject(current, Kind.SAME, user_data, kept[1], remarks, unchanged)


def _unknown(host: PlannedHost, boot: Boot, asked: Asked) -> Subject:
    """Return the instance of a machine that knows none: of a seed that it has, else an invented one."""
    if asked.user_data is None:
        found = datasource.find(host, boot.image.value)
        listed = [str(name).lower() for name in boot.image.value.get("datasource_list") or ()]
        # The last resort is what a machine has that shows no other; a tree shows nothing of the machine it will be.
        meant = found is not None and (found.source.name != "None" or host.live or "none" in listed)
        if found is not None and meant and found.source.offline:
            settings = (boot.image.value.get("datasource") or {}).get(found.source.name) or {}
            fetched = found.source.fetch(host, settings, found.platform, say=host.log.info)
            return Subject(fetched.instance, Kind.NEW, fetched.user_data, fetched.vendor_data, (fetched.word,))
        hidden = sorted(path for path in host.overlay.unread if path.startswith("/var/lib/cloudboot"))
        if hidden:
            raise CloudbootError(f"plan: {hidden[0]}: cannot be read: run as root, or give --user-data FILE")
        raise UsageError("plan: no instance is known here: give --user-data FILE (and --metadata FILE)")
    told = (
        f"no instance is known here: planned for an invented one, {INVENTED.id} (name {INVENTED.hostname}, launch "
        "index 0, no ssh keys, no volumes): --metadata describes another"
    )
    return Subject(INVENTED, Kind.NEW, asked.user_data, None, (told,))


def _configure(host: PlannedHost, subject: Subject, current: Instance, *, fetch: bool) -> tuple[Config, list[str]]:
    """Make the configuration as the boot would, in the overlay; tell what was not fetched for it."""
    merged = store.load(host, current) if subject.unchanged else None
    if merged is None or merged.volatile:
        store.adopt(host, current, Identity(current.key, None, current.id), subject.user_data, subject.vendor_data)
        services = includes.services(host, current, Fetcher() if fetch else Unfetched(), host.log.doing)
        data = (subject.user_data, subject.vendor_data)
        merged = store.config(host, current, *data, schemas(), services)
    left_out = [problem for problem in merged.problems if UNFETCHED in problem.text]
    kept = tuple(problem for problem in merged.problems if problem not in left_out)
    return merged._replace(problems=kept), [str(problem._replace(level=Level.ERROR)) for problem in left_out]


class Unfetched(Fetcher):
    """A fetcher that fetches nothing: what an earlier boot has kept of an include is used, else it is left out."""

    def _request(self, *_: Any, **__: Any) -> Answer:
        raise CloudbootError(UNFETCHED)


# -- metadata


def described(host: PlannedHost, boot: Boot, where: str) -> tuple[Instance, bytes | None, str]:
    """Return the instance that a file or a metadata service describes, its user data, and a word about it.

    Raises UsageError for a file that is none, MetadataError for a service that does not answer.
    """
    if where.startswith("http://"):
        from cloudboot.datasources.ec2 import SOURCE

        found = datasource.find(host, boot.image.value)
        platform = found.platform if found is not None and found.source.name == SOURCE.name else "uec"
        fetched = SOURCE.fetch(host, {"metadata_urls": [where]}, platform, say=host.log.info, deadline=PATIENCE)
        host.keep(SwapTree(CACHE, fetched.files))
        return fetched.instance, fetched.user_data, fetched.word
    value = _parse(where, _read_file("--metadata", where))
    facts = _of_tree(where, value) if set(value) & {"meta-data", "dynamic"} else _simple(where, value)
    index = facts.get("index", 0)
    if not str(index).isdigit():
        raise UsageError(f"--metadata: {where}: ami-launch-index: must be a number: {index!r}")
    zone = facts.get("zone")
    return (
        Instance(
            str(facts.get("id") or INVENTED.id),
            "Ec2",
            "aws",
            hostname=str(facts["hostname"]) if facts.get("hostname") else None,
            public_keys=tuple(_keys(facts.get("keys"))),
            launch_index=int(index),
            availability_zone=str(zone) if zone else None,
            region=str(facts.get("region") or str(zone)[:-1]) if zone or facts.get("region") else None,
            devices=tuple(sorted((str(name), str(device)) for name, device in (facts.get("devices") or {}).items())),
        ),
        None,
        f"metadata: {where}",
    )


def _parse(where: str, content: bytes) -> dict[str, Any]:
    import yaml  # a superset of JSON

    try:
        value = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"--metadata: {where}: neither JSON nor YAML") from None
    if not isinstance(value, dict):
        raise UsageError(f"--metadata: {where}: must be a mapping, such as {{instance-id: i-…, local-hostname: web}}")
    return value


def _simple(where: str, value: dict[str, Any]) -> dict[str, Any]:
    for key in value:
        if key not in SIMPLE:
            from cloudboot.config import suggestion

            hint = suggestion(str(key), tuple(SIMPLE)) or f": it knows {', '.join(SIMPLE)}"
            raise UsageError(f"--metadata: {where}: no such key: {key!r}{hint}")
    if not isinstance(value.get("block-device-mapping") or {}, dict):
        raise UsageError(f"--metadata: {where}: block-device-mapping: must be a mapping, such as {{ephemeral0: sdb}}")
    return {SIMPLE[key]: item for key, item in value.items()}


def _of_tree(where: str, value: dict[str, Any]) -> dict[str, Any]:
    """Read what `cloudboot imds --metadata` reads: JSON that is laid over the simulator's own tree."""
    from cloudboot.imds import tree

    if not set(value) <= {"meta-data", "dynamic"}:
        raise UsageError(f'--metadata: {where}: expected {{"meta-data": {{…}}, "dynamic": {{…}}}}')
    found = tree.merge(tree.build(tree.Machine()), value).get("meta-data") or {}
    place = found.get("placement") or {}
    return {
        "id": found.get("instance-id"),
        "hostname": found.get("local-hostname"),
        "keys": [each.get("openssh-key", "") for each in (found.get("public-keys") or {}).values()],
        "index": found.get("ami-launch-index", 0),
        "devices": found.get("block-device-mapping"),
        "zone": place.get("availability-zone"),
        "region": place.get("region"),
    }


def _keys(given: Any) -> Sequence[str]:
    """Return public keys, of a text, a list, or a mapping of names to either."""
    if isinstance(given, str):
        return [line.strip() for line in given.splitlines() if line.strip()]
    values = given.values() if isinstance(given, dict) else given if isinstance(given, list) else ()
    return [key for each in values for key in _keys(each)]


def _read_file(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{option}: {path}: {error.strerror}") from None
