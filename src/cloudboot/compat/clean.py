"""`cloud-init clean`: forget the instance, so that the next boot of this disk, or of an image of it, is a first one.

What the image brings for every instance (`/var/lib/cloud/scripts`, handlers, seeds) stays; cloud-init's takes it away.
"""

from __future__ import annotations

from cloudboot import fstab
from cloudboot.errors import CommandError
from cloudboot.instance import IDENTITY, INSTANCES, LINK
from cloudboot.ledger import ONCE
from cloudboot.log import AUDIT, LOG
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.host import Host

STATE = (LINK, INSTANCES, IDENTITY, ONCE)
THEIRS = ("/var/lib/cloud/instance", "/var/lib/cloud/instances", "/var/lib/cloud/data", "/var/lib/cloud/sem")
SEEDS = ("/var/lib/cloudboot/seed", "/var/lib/cloud/seed")
OUTPUT = "/var/log/cloudboot-output.log"
SSH = "/etc/ssh/sshd_config.d/50-cloud-init.conf"
HOOKS = "/etc/cloud/clean.d"  # of other packages: executables, run after it


def clean(host: Host, *, logs: bool, seed: bool, machine_id: bool, configs: frozenset[str]) -> None:
    """Remove what was kept about instances, and what else is asked for; the boot that runs is not touched.

    configs: `all`, or of `ssh_config`, `fstab` (`network` and `datasource` are nothing of ours).
    """
    for path in (*STATE, *THEIRS, *(SEEDS if seed else ())):
        host.remove(path)
    for path in (LOG, OUTPUT, AUDIT, f"{AUDIT}.1") if logs else ():
        host.remove(path)
    if configs & {"all", "ssh_config"}:
        host.remove(SSH)
    table = host.text(fstab.PATH)
    if configs & {"all", "fstab"} and table is not None:
        lines = [line for line in table.splitlines(keepends=True) if fstab.MARK not in line]
        host.write(fstab.PATH, "".join(lines), mode=None, owner=None)
    if machine_id:
        host.write("/etc/machine-id", "uninitialized\n", mode=0o444)
    for name in host.listdir(HOOKS):
        entry = host.look(f"{HOOKS}/{name}")
        if entry is not None and entry.kind == "file" and entry.mode & 0o111:
            try:
                host.run([f"{HOOKS}/{name}"], live="hooks of other packages, for a running machine")
            except CommandError as error:
                host.log.warning(str(error))
