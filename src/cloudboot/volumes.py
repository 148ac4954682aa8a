"""Volumes that say themselves what they are for: which there are, what each says, and whether it may.

Nothing here changes anything. `modules/consume.py` does what is accepted, `cloudboot consume` shows all of it.
"""

from __future__ import annotations

from enum import StrEnum

from cloudboot import blank, consumed_root, disks, fstab, mount_entries, signatures, udev, volume_reader
from cloudboot.actions import WriteFile
from cloudboot.errors import CloudbootError
from cloudboot.identity_file import Policy, conflicts, judge, parse
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple
from cloudboot.volume_reader import FILE_SYSTEMS, Files, Found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudboot.disks import Disks
    from cloudboot.host import Host
    from cloudboot.identity_file import Identity


CHECKED = ("ext2", "ext3", "ext4", "vfat")  # what fsck does something for
CRAWL = "/run/ec2/meta-data"
TAGS = f"{CRAWL}/tags/instance"


class State(StrEnum):
    """What became of looking at a device."""

    IN_USE = "in use"
    NOTHING = "holds no file system"  # or one that is never mounted for a look
    NOT_ADMITTED = "not admitted"
    UNREADABLE = "unreadable"
    NO_IDENTITY = "no identity"
    REFUSED = "refused"
    ACCEPTED = "accepted"


class Volume(NamedTuple):
    """A device, what it says it is for, and what came of it. volume: its id (`vol-0123…`). digest: of what it says."""

    found: Found
    volume: str
    state: State
    reason: str = ""
    identity: Identity | None = None
    digest: str = ""
    signed: bool = False

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.found.name

    @property
    def called(self) -> str:
        """What to call it in a message."""
        return f"{self.volume} ({self.name})" if self.volume else self.name

    @property
    def key(self) -> str:
        """What stands for this volume with this identity, also on another machine and under another kernel name."""
        return f"{self.volume or self.found.content.uuid or self.name}-{self.digest[:16]}"

    @property
    def verdict(self) -> str:
        """State and reason in words."""
        return f"{self.state}: {self.reason}" if self.reason else str(self.state)


def survey(known: Disks, policy: Policy, tags: Mapping[str, str], names: Sequence[str] | None = None) -> list[Volume]:
    """Look at all devices (or at these), read the identity files of those that the policy admits, judge them."""
    host = known.host
    found = volume_reader.look(host, volume_reader.candidates(known) if names is None else names)
    volumes = [_first(known, policy, tags, each) for each in found]
    to_read = [each for each in volumes if each.state is State.ACCEPTED]
    files = dict(zip((each.name for each in to_read), _read(host, to_read), strict=True))
    # Of devices in use too, and of those that are not asked about: a line of fstab may not mean another one.
    looked = {each.name for each in found if each.use is None}
    others = {*volume_reader.candidates(known), *(each.name for each in found)} - looked
    uuids = [each.content.uuid for each in found if each.content.uuid]
    uuids += [uuid for name in others if (uuid := blank.content(host, name).uuid)]
    judged = [_judged(host, policy, each, files[each.name], uuids) if each.name in files else each for each in volumes]
    accepted = [each for each in judged if each.state is State.ACCEPTED and each.identity is not None]
    clashes = conflicts({each.name: each.identity for each in accepted if each.identity is not None})
    return [_placed(host, _refused(each, clashes.get(each.name))) for each in judged]


def entry(host: Host, volume: Volume) -> fstab.Entry:
    """Return the line of fstab for a volume that wants to be mounted."""
    identity = volume.identity
    if identity is None:
        raise ValueError(volume.name)
    source, kind = f"UUID={volume.found.content.uuid}", volume.found.content.kind
    if volume.found.use is not None:  # it is mounted because it said so, and was not looked at again
        there = line_of(host, volume.name)
        source, kind = (there.source, there.kind) if there is not None else ("", "auto")
    options, passno = ",".join(identity.options) or "defaults", "2" if identity.check and kind in CHECKED else "0"
    line = fstab.Entry(source, identity.where, kind, options, "0", passno)
    return line.with_option(*mount_entries.WITHOUT_DEVICE, fstab.CONSUMED)


def hindrance(host: Host, volume: Volume, line: fstab.Entry, table: Sequence[fstab.Entry]) -> str | None:
    """Return in words why a volume cannot be mounted where it says, None if it can."""
    if volume.found.use is not None:
        there = line_of(host, volume.name)
        same = there is not None and there.same_place(line)
        return None if same else f"now it wants to be on {line.target}, and {volume.found.use}: unmount it"
    if not volume.found.content.uuid:
        return "it has no UUID to know it by"
    place = host.root.resolve(line.target)
    if place != fstab.place(line.target):
        return f"{line.target} is a link to {place}"
    for other in table:
        if other.same_place(line) and (other.source != line.source or fstab.CONSUMED not in other.words):
            return f"{fstab.PATH} mounts {other.source} on {other.target} already"
    mount = disks.mounted(host, place)
    if mount is not None:
        return None if disks.device_of(host, mount) == volume.name else f"something else is mounted on {line.target}"
    if host.listdir(line.target):
        return f"{line.target} is not empty: it would be hidden"
    return None


def classes(known: Disks) -> list[Volume]:
    """Tell what is on each device, and read nothing of it."""
    found = volume_reader.look(known.host, volume_reader.candidates(known))
    return [_first(known, None, {}, each) for each in found]


def policy_of(config: Mapping[str, Any]) -> Policy | None:
    """Return the policy of a configuration, None if no volume is to be consumed."""
    return Policy.of(config.get("consume"))


def tags_of(host: Host, folder: str) -> dict[str, str]:
    """Return the instance's tags as the last crawl had them. `folder`: the instance's, which keeps them for a boot
    that has not asked the metadata service.
    """
    import json

    kept = f"{folder}/tags.json"
    if not host.exists(CRAWL):
        found: dict[str, str] = json.loads(host.text(kept) or "{}")
        return found
    tags = {name: (host.text(f"{TAGS}/{name}") or "").strip() for name in host.listdir(TAGS)}
    if tags or host.exists(kept):
        host.keep(WriteFile(kept, json.dumps(tags).encode(), 0o600))
    return tags


def consumed(host: Host) -> list[fstab.Entry]:
    """Return the lines of fstab that were written for volumes."""
    return [entry for entry in fstab.parse(mount_entries.read(host)) if fstab.CONSUMED in entry.words]


def line_of(host: Host, name: str) -> fstab.Entry | None:
    """Return the line of fstab by which a device is mounted because it said so, None if it is not."""
    for entry in consumed(host):
        mount = disks.mounted(host, host.root.resolve(entry.target))
        if mount is not None and disks.device_of(host, mount) == name:
            return entry
    return None


# -- how


def _first(known: Disks, policy: Policy | None, tags: Mapping[str, str], found: Found) -> Volume:
    """Say what comes of a device before anything of it is mounted; ACCEPTED is what is to be read."""
    volume, content = known.volume(known.disk_of(found.name)), found.content
    here = Volume(found, volume, State.ACCEPTED)
    if found.use is not None and line_of(known.host, found.name) is None:
        return here._replace(state=State.IN_USE, reason=consumed_root.use(known.host, found.name) or found.use)
    if found.use is None and content.kind not in FILE_SYSTEMS:
        unread = content is volume_reader.SILENT or content.detail.startswith("cannot be read")
        state = State.UNREADABLE if unread else State.NOTHING
        return here._replace(state=state, reason=content.detail if unread else content.kind)
    label = content.label or blank.content(known.host, found.name).label
    if policy is None or not policy.admits(label=label, volume=volume, tags=tags):
        return here._replace(state=State.NOT_ADMITTED, reason="the policy's match does not name it")
    return here


def _read(host: Host, volumes: Sequence[Volume]) -> list[Files]:
    """Read the identity files: of a volume that is mounted because it said so, there; else as a volume that is not."""
    there = {each.name: _read_mounted(host, each.name) for each in volumes if each.found.use is not None}
    loose = [each.found for each in volumes if each.found.use is None]
    files = dict(zip((each.name for each in loose), volume_reader.read(host, loose), strict=True))
    if loose:
        udev.settle(host)  # udev has seen the loop devices, and may have pointed by-uuid at them
    return [{**there, **files}[each.name] for each in volumes]


def _read_mounted(host: Host, name: str) -> Files:
    line = line_of(host, name)
    if line is None:
        return Files(error="is not mounted any more")
    target = line.target
    found: dict[str, bytes] = {}
    for file in (volume_reader.IDENTITY, volume_reader.SIGNATURE):
        try:
            entry, content = host.root.read_beneath(f"{target}/{file}", target, volume_reader.SMALL + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            return Files(error=f"{file}: {error.strerror}")
        if entry.kind != "file" or len(content) > volume_reader.SMALL:
            return Files(error=f"{file}: is no regular file, or too large")
        found[file] = content
    return Files(found.get(volume_reader.IDENTITY), found.get(volume_reader.SIGNATURE))


def _judged(host: Host, policy: Policy, volume: Volume, files: Files, uuids: Sequence[str]) -> Volume:
    """Return a volume with what comes of its files."""
    from hashlib import sha256

    content = volume.found.content
    dirty = files.dirty or content.state == "dirty"
    if files.error:
        return volume._replace(state=State.UNREADABLE, reason=f"dirty ({files.error})" if dirty else files.error)
    if files.identity is None:
        if dirty:  # what was written last may be in the journal only, which a look without a write does not see
            return volume._replace(state=State.UNREADABLE, reason="dirty")
        return volume._replace(state=State.NO_IDENTITY)
    volume = volume._replace(digest=sha256(files.identity).hexdigest(), state=State.REFUSED)
    try:
        identity = parse(files.identity)
    except CloudbootError as error:
        return volume._replace(reason=str(error))
    unsigned = signatures.unsigned(host, policy.signers, files.identity, files.signature, volume.name)
    volume = volume._replace(identity=identity, signed=unsigned is None)
    reason = judge(identity, policy, unsigned is None)
    if reason is not None:
        told = f"{reason}: {unsigned}" if unsigned and files.signature is not None else reason
        return volume._replace(reason=told)
    if identity.action != "mount" and volume.found.use is not None:
        return volume._replace(reason=f"says {identity.action} now, and {volume.found.use}: unmount it")
    if content.uuid and uuids.count(content.uuid) > 1:
        return volume._replace(reason=f"another volume has the same UUID ({content.uuid})")
    if identity.action == "run":
        try:
            there = volume_reader.digests(host, volume.found, list(identity.digests))
        except CloudbootError as error:
            return volume._replace(reason=str(error))
        for path, wanted in identity.digests.items():
            if there[path] != wanted:
                return volume._replace(reason=f"{path}: is not what the identity file says (another SHA-256)")
    return volume._replace(state=State.ACCEPTED)


def _placed(host: Host, volume: Volume) -> Volume:
    """Return a volume, refused if what it says cannot be where it wants it."""
    identity = volume.identity
    if volume.state is not State.ACCEPTED or identity is None or identity.action != "mount":
        return volume
    table = fstab.parse(mount_entries.read(host))
    return _refused(volume, hindrance(host, volume, entry(host, volume), table))


def _refused(volume: Volume, reason: str | None) -> Volume:
    return volume if reason is None else volume._replace(state=State.REFUSED, reason=reason)
