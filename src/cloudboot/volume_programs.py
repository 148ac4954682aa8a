"""Programs of volumes: a verified copy, run as often as the volume says, and once however often it is attached.

The copy is made when the volume is looked at, and run at the end of the boot, when the machine is ready.
"""

from __future__ import annotations

import posixpath

from cloudboot.actions import MakeDir, Remove, WriteFile
from cloudboot.errors import CloudbootError, ConfigError
from cloudboot.ledger import Ledger, State
from cloudboot.module import Frequency
from cloudboot.typed import TYPE_CHECKING, Any
from cloudboot.volume_reader import CopyFile

if TYPE_CHECKING:
    from cloudboot.host import Host
    from cloudboot.identity_file import Identity
    from cloudboot.ledger import Marker
    from cloudboot.module import Context, Facts
    from cloudboot.volumes import Volume

COPIES = "/var/lib/cloudboot/consume"  # not /run, on which nothing may be executed
QUEUE = "/run/cloudboot/consume/queue"
FREQUENCIES = {"per-volume": Frequency.ONCE, "per-instance": Frequency.INSTANCE, "per-boot": Frequency.BOOT}
TOOK_TOO_LONG = 124  # exit status of timeout(1)


def prepare(ctx: Context, volume: Volume) -> None:
    """Copy what a volume wants to have run, verified, and put it into the queue; unless it has run."""
    identity = volume.identity
    if identity is None:
        return
    import json

    host, name = ctx.host, f"consume.{volume.key}"
    before = marker(host, ctx.commands.folder, volume)
    if before is not None and before.state is State.STARTED:
        place = f"{Ledger(host, ctx.commands.folder).place(FREQUENCIES[identity.frequency])}/{name}"
        told = "was interrupted and is not started again: remove"
        ctx.fail(f"{volume.called}: {identity.program}: {told} {place}, and it is", ("consume",))
        return
    if before is not None:
        host.log.info(f"consume: {volume.called}: {identity.program} has run ({identity.frequency}, {before.state})")
        return
    folder = f"{COPIES}/{volume.key}"
    try:
        copy(ctx, volume, identity, folder)
    except (CloudbootError, OSError) as error:
        ctx.fail(f"{volume.called}: refused: {error}", ("consume",))
        return
    job = {
        "name": name,
        "label": f"{volume.called}: {identity.program}",
        "device": f"/dev/{volume.name}",
        "volume": volume.volume,
        "folder": folder,
        "argv": [_inside(folder, identity.program), *identity.arguments],
        "user": identity.user,
        "timeout": identity.timeout,
        "frequency": identity.frequency,
    }
    host.keep(MakeDir(QUEUE, 0o700))
    host.keep(WriteFile(f"{QUEUE}/{name}", json.dumps(job).encode(), 0o600))


def marker(host: Host, folder: str, volume: Volume) -> Marker | None:
    """Return what is known of the run of a volume's program, None if it has not run as often as it may."""
    if volume.identity is None:
        return None
    return Ledger(host, folder).find(f"consume.{volume.key}", FREQUENCIES[volume.identity.frequency])


def copy(ctx: Context, volume: Volume, identity: Identity, folder: str) -> None:
    """Copy all files that the identity file has digests of. Raises OSError, CloudbootError."""
    host, user = ctx.host, identity.user or "root"
    account = host.user(user)
    if account is None:
        raise ConfigError(f"{identity.program}: no such user: {user!r}")
    # Root's, so that nobody else changes it; the user's group may read it.
    owner, mode = f"root:{account.gid}", 0o700 if account.uid == 0 else 0o750
    host.mkdir(COPIES, mode=0o711, keep=False)
    folders = {folder}
    for path in identity.digests:
        below = posixpath.dirname(_inside(folder, path))
        while below.startswith(folder):
            folders.add(below)
            below = posixpath.dirname(below)
    for each in sorted(folders):
        host.mkdir(each, mode=mode, owner=owner, keep=False)
    content = volume.found.content
    for path, digest in identity.digests.items():
        host.do(CopyFile(volume.name, content.kind, path, digest, _inside(folder, path), mode, owner))


def none_waits(facts: Facts) -> bool:
    """Tell whether no program is in the queue."""
    return not facts.host.listdir(QUEUE)


def run_all(ctx: Context) -> None:
    """Run the programs of the queue, each with a result of its own; a copy that has run goes."""
    import json

    host = ctx.host
    for name in host.listdir(QUEUE):
        job: dict[str, Any] = json.loads(host.read(f"{QUEUE}/{name}") or b"{}")
        run(ctx, job)
        host.keep(Remove(f"{QUEUE}/{name}"))
        host.keep(Remove(job["folder"]))


def run(ctx: Context, job: dict[str, Any]) -> None:
    """Run a program; what becomes of it is on the disk before it starts and when it has ended."""
    ledger, frequency = Ledger(ctx.host, ctx.commands.folder), FREQUENCIES[job["frequency"]]
    user = job["user"] or "root"
    account = ctx.host.user(user)
    as_user = [] if user == "root" else ["runuser", "-u", user, "--"]
    limit = ["timeout", "--kill-after=10", str(job["timeout"])]
    ledger.note(job["name"], frequency, State.STARTED)
    environment = {
        "HOME": account.home if account is not None else "/",
        "USER": user,
        "LOGNAME": user,
        "INSTANCE_ID": ctx.instance.id,
        "CLOUDBOOT_DEVICE": job["device"],
        "CLOUDBOOT_VOLUME": job["volume"],
        "CLOUDBOOT_FILES": job["folder"],
    }
    outcome = ctx.commands.script(job["label"], [*limit, *as_user, *job["argv"]], env=environment)
    if outcome.status == TOOK_TOO_LONG:
        ctx.fail(f"{job['label']}: took longer than {job['timeout']} s and was ended", ("consume",))
    ledger.note(job["name"], frequency, State.FAILED if outcome.status else State.DONE)


def _inside(folder: str, path: str) -> str:
    return folder + posixpath.normpath(f"/{path.lstrip('/')}")
