"""cloud-init's command, units and files, for what waits for them: Packer, Terraform, Ansible, other packages.

`bake` installs them (`--no-compat` does not). Where the real cloud-init is installed later, its files replace ours, and
nothing of this is done any more.
"""

from __future__ import annotations

from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.host import Host

UNITS = "/usr/lib/systemd/system"
TARGET = f"{UNITS}/cloud-init.target"
TARGETS_ALIAS = "cloudboot.target"
DISABLED = "/etc/cloud/cloud-init.disabled"
BY_US = "by cloudboot bake\n"
VERSION = "26.2"  # of cloud-init, whose behaviour is ours; what asks for its version asks for that


def installed(host: Host) -> bool:
    """Tell whether cloud-init's names are ours on this machine."""
    return host.root.readlink(TARGET) == TARGETS_ALIAS
