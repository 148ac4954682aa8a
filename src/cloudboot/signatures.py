"""SSH signatures (`ssh-keygen -Y`) over files, for the keys that the owner trusts."""

from __future__ import annotations

from cloudboot.actions import MakeDir, WriteFile
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloudboot.host import Host

NAMESPACE = "cloudboot-consume"  # what is signed for another purpose is not signed for this one
PRINCIPAL = "signer"
FOLDER = "/run/cloudboot/consume"
LIMIT = 20  # seconds


def unsigned(host: Host, signers: Sequence[str], content: bytes, signature: bytes | None, name: str) -> str | None:
    """Return in words why a content is not signed by one of the signers (public keys), None if it is.

    `name`: of the file that the signature is put into, for ssh-keygen.
    """
    if signature is None:
        return "it is not signed"
    if not signers:
        return "it is signed, and the policy names no signers"
    if host.which("ssh-keygen") is None:
        return "the signature cannot be verified: no ssh-keygen on this machine: install openssh-client"
    allowed, file = f"{FOLDER}/allowed_signers", f"{FOLDER}/{name}.sig"
    host.keep(MakeDir(FOLDER, 0o700))
    host.keep(WriteFile(allowed, allowed_signers(signers).encode(), 0o600))
    host.keep(WriteFile(file, signature, 0o600))
    argv = ["ssh-keygen", "-Y", "verify", "-n", NAMESPACE, "-I", PRINCIPAL, "-f", allowed, "-s", file]
    answer = host.ask(argv, stdin=content, timeout=LIMIT)
    if answer.ok:
        return None
    said = answer.output.strip().splitlines()[-1:] or [f"ssh-keygen: exit status {answer.status}"]
    return f"its signature is not by a signer of the policy, or not over this file ({said[0]})"


def allowed_signers(signers: Sequence[str]) -> str:
    """Return the text of an allowed_signers file, see ssh-keygen(1): these keys, for our namespace and nothing else."""
    keys = [" ".join(line.split()[:2]) for line in signers]
    return "".join(f'{PRINCIPAL} namespaces="{NAMESPACE}" {key}\n' for key in keys)
