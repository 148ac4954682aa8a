"""kernel_hold: kernel packages on hold where the kernel that runs is not theirs."""

from __future__ import annotations

import re

from cloudboot import consumed_root
from cloudboot.module import Context, Facts, Frequency, Stage, module
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudboot.host import Host

DATABASE = "/var/lib/dpkg/status"
# Its entries are paragraphs; the whole of it, a megabyte, is looked through at every boot.
INSTALLED = r"(?m)^Package: (linux-(?:image|headers)-\S+)\n(?:.+\n)*?Status: install ok installed$"


def held(facts: Facts) -> bool:
    """Prove that no kernel package has to be held."""
    return not facts.instance.root or not to_hold(facts.host)


@module(stage=Stage.NETWORK, frequency=Frequency.ALWAYS, keys=(), idle=held)
def kernel_hold(ctx: Context) -> None:
    """Put the kernel's packages on hold where the root is a volume's: the kernel that runs, and its modules, are the
    image's, and an upgrade of those packages would only fill the volume.

    `apt-mark unhold` is undone at the next boot. Where the root is not a volume's nothing is done.
    """
    names = to_hold(ctx.host)
    if names:
        ctx.host.run(["apt-mark", "hold", *names], timeout=60)


def to_hold(host: Host) -> list[str]:
    """Return the kernel packages that are installed and not on hold, by dpkg's own file; none on an ordinary root."""
    if not consumed_root.key(host):
        return []
    return re.findall(INSTALLED, host.text(DATABASE) or "")
