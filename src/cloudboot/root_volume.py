"""The root that is on a volume: what the initramfs is told of the policy, and how an image comes to have that part.

The work itself is done before the system is there, by initramfs/scripts/local-bottom/cloudboot-root.
"""

from __future__ import annotations

import os
import re

from cloudboot.errors import ConfigError, ImageError
from cloudboot.identity_file import Policy
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.host import Host
    from cloudboot.typed import Any

FOLDER = "/usr/share/initramfs-tools"
HOOK = f"{FOLDER}/hooks/cloudboot-root"
SCRIPT = f"{FOLDER}/scripts/local-bottom/cloudboot-root"
BAKED = "/usr/lib/cloudboot/root-policy"  # the policy that the initramfs was last made with
PATTERN = r"[A-Za-z0-9_.:+@*?-]+"
KEY = r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+"
LIMIT = 900  # seconds that one update of an initramfs may take


def policy_text(config: Mapping[str, Any]) -> str:
    """Return a configuration's policy for volumes as the initramfs reads it, one `key value` to a line.

    Empty if no volume may be the root. Raises ConfigError where the initramfs could not act on it.
    """
    policy = Policy.of(config.get("consume"))
    if policy is None or "root" not in policy.allow:
        return ""
    if "tag" in policy.match:
        raise ConfigError("consume.match.tag: tags are not known before the network: a root is matched by label or id")
    if not policy.signers and not policy.unsigned:
        raise ConfigError("consume: allows root, and has neither signers nor `unsigned: true`: no volume could be one")
    lines = [
        f"unsigned {_word(policy.unsigned)}",
        f"otherwise {policy.otherwise}",
        f"wait {policy.wait}",
        f"rebase {_word(policy.rebase)}",
    ]
    for key in ("label", "volume-id"):
        for pattern in policy.match.get(key, ()):
            if not re.fullmatch(PATTERN, pattern):
                raise ConfigError(
                    f"consume.match.{key}: only letters, digits, `*`, `?` and _.:+@- for a root: {pattern!r}"
                )
            lines.append(f"{key} {pattern}")
    for signer in policy.signers:
        key = " ".join(signer.split()[:2])
        if not re.fullmatch(KEY, key):
            raise ConfigError(f"consume.signers: is no SSH public key: {signer!r}")
        lines.append(f"signer {key}")
    return "".join(f"{line}\n" for line in lines)


def bake(host: Host, config: Mapping[str, Any], folder: str) -> None:
    """Put the part for roots into the image's initramfs if its policy allows any, take it out if not.

    folder: where our initramfs-tools files are on the machine that bakes. Raises ImageError, CommandError.
    """
    try:
        wanted = policy_text(config)
    except ConfigError as error:
        raise ImageError(f"the image's configuration: {error}") from None
    if wanted and not host.exists("/usr/sbin/update-initramfs"):
        raise ImageError("the image's policy lets volumes be the root: install initramfs-tools in it")
    if "\nsigner " in wanted and host.which("ssh-keygen") is None:
        raise ImageError("the image's policy lets signed volumes be the root: install openssh-client in it")
    before = len(host.changes)
    for path in (HOOK, SCRIPT):
        if wanted:
            with open(f"{folder}/{os.path.relpath(path, FOLDER)}", "rb") as file:
                host.write(path, file.read(), mode=0o755)
        else:
            host.remove(path)
    if len(host.changes) == before and (host.text(BAKED) or "") == wanted:
        return
    host.run(["update-initramfs", "-u", "-k", "all"], timeout=LIMIT)
    # Last: a bake that died on the way makes it again.
    host.write(BAKED, wanted) if wanted else host.remove(BAKED)


def _word(value: bool) -> str:
    return "yes" if value else "no"
