"""Signatures by the real ssh-keygen: right, over something else, by somebody else, for another purpose."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from casebook import ScratchHost
from cloudboot import signatures
from cloudboot.process import Result, spawn
from cloudboot.root import Root

if TYPE_CHECKING:
    from collections.abc import Sequence

SAYS = b"mount: {where: /srv/data}\n"


class KeygenHost(ScratchHost):
    """A scratch machine on which ssh-keygen is really run, on the files of the tree."""

    def spawn(self, argv: Sequence[str], *, stdin: bytes | None = None, **_: Any) -> Result:
        self.spawned.append(" ".join(argv))
        words = [self.root.outside(word) if word.startswith("/run") else word for word in argv]
        return spawn(words, stdin=stdin)


@pytest.fixture
def host(tmp_path: Path) -> KeygenHost:
    return KeygenHost(Root(str(tmp_path)))


def key(folder: Path, name: str) -> tuple[str, str]:
    """Make a key; return its file and the public half."""
    path = str(folder / name)
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@example.com", "-f", path]
    subprocess.run(words, check=True)
    return path, Path(f"{path}.pub").read_text()


def sign(key: str, content: bytes, namespace: str = signatures.NAMESPACE) -> bytes:
    words = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", key]
    return subprocess.run(words, input=content, check=True, capture_output=True).stdout


def test_only_a_signer_s_word_for_this_purpose_counts(host: KeygenHost, tmp_path: Path) -> None:
    vendor, public = key(tmp_path, "vendor")
    other, others = key(tmp_path, "other")
    assert signatures.unsigned(host, [others, public], SAYS, sign(vendor, SAYS), "xvdf") is None
    wrong = {
        "over something else": ([public], sign(vendor, SAYS + b"#")),
        "by somebody else": ([public], sign(other, SAYS)),
        "for another purpose": ([public], sign(vendor, SAYS, "file")),
        "no signature": ([public], b"garbage"),
        "a key that is none": (["ssh-ed25519 AAAA vendor"], sign(vendor, SAYS)),
    }
    for why, (signers, signature) in wrong.items():
        reason = signatures.unsigned(host, signers, SAYS, signature, "xvdf")
        assert reason is not None, why
        assert "not by a signer of the policy" in reason
    assert signatures.unsigned(host, [public], SAYS, None, "xvdf") == "it is not signed"
    assert "names no signers" in (signatures.unsigned(host, [], SAYS, sign(vendor, SAYS), "xvdf") or "")
    state = host.look(f"{signatures.FOLDER}/allowed_signers")
    assert state is not None
    assert state.mode == 0o600
    assert host.changes == []


def test_options_in_a_signer_s_line_do_not_reach_the_file() -> None:
    text = signatures.allowed_signers(
        ["ssh-ed25519 AAAA vendor@example.com cert-authority", "ssh-rsa BBBB\n* ssh-rsa CCCC"]
    )
    assert text.splitlines() == [
        'signer namespaces="cloudboot-consume" ssh-ed25519 AAAA',
        'signer namespaces="cloudboot-consume" ssh-rsa BBBB',
    ]


def test_without_ssh_keygen_it_is_said(tmp_path: Path) -> None:
    host = ScratchHost(Root(str(tmp_path)), missing=["ssh-keygen"])
    assert "install openssh-client" in (signatures.unsigned(host, ["ssh-ed25519 AAAA"], SAYS, b"x", "xvdf") or "")
