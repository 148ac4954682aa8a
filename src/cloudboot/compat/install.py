"""Put cloud-init's command and units into an image tree, or take them away again."""

from __future__ import annotations

from cloudboot.compat import BY_US, DISABLED, TARGET, TARGETS_ALIAS, UNITS, installed
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.host import Host

COMMANDS = ("/usr/bin/cloud-init", "/usr/bin/cloud-id", "/usr/bin/cloud-init-per")
LINKS = {TARGET: TARGETS_ALIAS, f"{UNITS}/cloud-init-network.service": "cloud-init.service"}


def install(host: Host, units: Mapping[str, bytes], command: str, *, wanted: bool) -> bool:
    """Make the tree answer by cloud-init's names, or no longer; tell whether it does.

    units: our units of those names. command: the text of the commands. Where cloud-init is installed it keeps them.
    """
    ours = installed(host)
    if host.exists(COMMANDS[0]) and not ours:
        print("note: cloud-init is installed: it is disabled, and keeps its command and its units")
        return False
    if not wanted:
        enabled = [f"/etc/systemd/system/{TARGETS_ALIAS}.wants/{name}" for name in units]
        for path in (*LINKS, *COMMANDS, *(f"{UNITS}/{name}" for name in units), *enabled) if ours else ():
            host.remove(path)
        return False
    for name, text in units.items():
        host.write(f"{UNITS}/{name}", text)
    for path, target in LINKS.items():
        host.symlink(path, target)
    for path in COMMANDS:
        host.write(path, command, mode=0o755)
    host.write(DISABLED, BY_US)  # should it be installed later: one agent on a machine
    return True
