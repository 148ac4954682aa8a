"""Which machine this is: its metadata as one frozen value, and the decision same, new or unknown."""

from __future__ import annotations

import re
from enum import StrEnum

from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cloudboot.host import Host

INSTANCES = "/var/lib/cloudboot/instances"
LINK = "/var/lib/cloudboot/instance"
IDENTITY = "/var/lib/cloudboot/identity.json"
ASSET_TAG = "/sys/class/dmi/id/board_asset_tag"
NITRO_ID = r"i-[0-9a-f]{8,17}"
VOLUME = "root-"  # how a key begins that stands for a root that is a volume's, in place of an instance id


class Instance(NamedTuple):
    """A machine, as its metadata describe it.

    platform: `aws`, `openstack`, `uec` …, `nocloud`, `none`. launch_index: `ami-launch-index`. devices: block-device
    mapping, EC2 name -> device (`ephemeral0` -> `sdb`). metadata: everything crawled, nested; empty where this boot
    has not asked yet. root: the key of the volume that is the root, see consumed_root.
    """

    id: str
    datasource: str
    platform: str = ""
    hostname: str | None = None
    public_keys: tuple[str, ...] = ()
    launch_index: int | None = None
    availability_zone: str | None = None
    region: str | None = None
    devices: tuple[tuple[str, str], ...] = ()
    metadata: dict[str, Any] = {}  # noqa: RUF012
    root: str = ""

    @property
    def key(self) -> str:
        """What its state is kept under: its id, or, where the root is a volume's, what stands for that."""
        return self.root or self.id

    def to_json(self) -> dict[str, Any]:
        """Return a value that JSON can hold, without the metadata tree (that is /run/ec2/metadata.json)."""
        return {**self._asdict(), "metadata": {}}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Instance:
        """Return what `to_json` stored."""
        return cls(
            **{
                **stored,
                "public_keys": tuple(stored.get("public_keys", ())),
                "devices": tuple((name, device) for name, device in stored.get("devices", ())),
            }
        )


class Kind(StrEnum):
    """Same machine as at the last boot, or another one."""

    SAME = "same"
    NEW = "new"
    NEW_WITHOUT_DATA = "new-without-data"
    UNKNOWN = "unknown"


class Identity(NamedTuple):
    """What was known at the last boot: the key that state is kept under, and what hardware and service said."""

    id: str
    hardware: str | None
    service: str | None


class Decision(NamedTuple):
    """Which instance this is. id: the key that its state is kept under; None only if unknown and never known. note:
    they disagree, for the report.
    """

    kind: Kind
    id: str | None
    note: str = ""


def decide(previous: Identity | None, hardware: str | None, service: str | None, root: str = "") -> Decision:
    """Decide from two facts: what the hardware says of itself and what the metadata service says; None is silence.

    The table is in the documentation (docs/identity.md). Each fact is compared with what the same source said at
    the last boot, so that a lasting disagreement is reported once and does not make the machine new at every boot.
    root: the key of the volume that is the root. Then the machine is that, whatever instance it is attached to.
    """
    if root:
        if previous is not None and previous.id == root:
            return Decision(Kind.SAME, root)
        return Decision(Kind.NEW_WITHOUT_DATA if service is None else Kind.NEW, root)
    if previous is None or previous.id.startswith(VOLUME):  # what is known is of a volume that was the root then
        if service is None:
            return Decision(Kind.NEW_WITHOUT_DATA, hardware) if hardware else Decision(Kind.UNKNOWN, None)
        note = (
            f"the hardware says {hardware}, the metadata service {service}" if hardware not in (None, service) else ""
        )
        return Decision(Kind.NEW, service, note)
    known_hardware = previous.hardware or previous.id
    known_service = previous.service or previous.id
    if service is None:
        if hardware is None:
            return Decision(Kind.UNKNOWN, previous.id)
        return (
            Decision(Kind.SAME, previous.id)
            if hardware == known_hardware
            else Decision(Kind.NEW_WITHOUT_DATA, hardware)
        )
    if hardware is None:
        return Decision(Kind.SAME, previous.id) if service == known_service else Decision(Kind.NEW, service)
    if hardware == known_hardware:
        if service == known_service:
            return Decision(Kind.SAME, previous.id)
        return Decision(Kind.NEW, service, f"the hardware is {hardware} as before, the metadata service says {service}")
    if service == known_service:
        return Decision(
            Kind.NEW, hardware, f"the hardware is {hardware}, the metadata service says {service} as before"
        )
    note = f"the hardware says {hardware}, the metadata service {service}" if hardware != service else ""
    return Decision(Kind.NEW, service, note)


def may_have_moved(previous: Identity | None, hardware: str | None) -> bool:
    """Tell whether the instance around a root that is a volume's may be another than at the last boot."""
    return hardware is None or previous is None or hardware != previous.hardware


def hardware_id(host: Host) -> str | None:
    """Return the instance id that Nitro puts into DMI (`board_asset_tag`); None elsewhere."""
    tag = (host.text(ASSET_TAG) or "").strip()
    return tag if re.fullmatch(NITRO_ID, tag) else None


def load_identity(host: Host) -> Identity | None:
    """Return what was known at the last boot."""
    import json

    stored = host.text(IDENTITY)
    if not stored:
        return None
    try:
        values = json.loads(stored)
        return Identity(values["id"], values.get("hardware"), values.get("service"))
    except (ValueError, KeyError):
        host.log.error(f"{IDENTITY}: cannot be read: this boot is taken for the first")
        return None


def folder(key: str) -> str:
    """Return the guest path where everything about an instance (its `key`) is kept."""
    safe = re.sub(r"[^A-Za-z0-9_.:-]", "_", key).lstrip(".") or "_"
    return f"{INSTANCES}/{safe[:128]}"
