"""Log in with OpenSSH's client, from inside a namespace."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, NamedTuple

from boot.bed.command import run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from boot.bed.netns import Namespace


class KeyPair(NamedTuple):
    """An ed25519 key pair: the private key's file, and the public key as one line for `authorized_keys`."""

    private: str
    public: str

    @classmethod
    def create(cls, path: str) -> KeyPair:
        """Write a new pair to `path` and `path`.pub."""
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "boot-test", "-f", path])
        with open(f"{path}.pub", encoding="utf-8") as file:
            return cls(path, file.read().strip())


def ssh(
    ns: Namespace,
    key: KeyPair,
    user: str,
    argv: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 22,
    check: bool = True,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` as `user` on a guest by ssh. ssh's own failures exit with 255; host keys are not checked."""
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "IdentitiesOnly=yes"]
    options += ["LogLevel=ERROR", "ConnectTimeout=20", "ServerAliveInterval=10", "GlobalKnownHostsFile=/dev/null"]
    command = ["ssh", "-F", "none", "-i", key.private, "-p", str(port)]
    for option in options:
        command += ["-o", option]
    return ns.run([*command, f"{user}@{host}", "--", shlex.join(argv)], check=check, timeout=timeout)
