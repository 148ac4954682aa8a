"""The vendor's side of `cloudboot consume`: what it writes, what it signs, what it refuses to write."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from cloudboot import volume_reader
from cloudboot.cli import main
from cloudboot.identity_file import parse

PROGRAM = "#!/bin/sh\necho hello\n"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/setup").write_text(PROGRAM)
    (folder / "payload").write_text("data\n")
    return folder


def init(volume: Path, says: str, *options: str) -> int:
    file = volume.parent / "identity.yaml"
    file.write_text(says)
    return main(["consume", "--init", str(volume), "--identity", str(file), *options])


def test_the_digests_are_those_of_the_files(volume: Path) -> None:
    assert init(volume, "run: {program: bin/setup, files: [payload], timeout: 5m}\n") == 0
    identity = parse((volume / volume_reader.IDENTITY).read_bytes())
    assert identity.timeout == 300
    assert identity.digests == {
        path: hashlib.sha256((volume / path).read_bytes()).hexdigest() for path in ("bin/setup", "payload")
    }
    assert not (volume / volume_reader.SIGNATURE).exists()


def test_what_is_signed_is_the_file_itself(volume: Path) -> None:
    key = volume.parent / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    assert init(volume, "mount: {where: /srv/x}\n", "--sign", str(key)) == 0
    allowed = volume.parent / "allowed"
    allowed.write_text(f"vendor {Path(f'{key}.pub').read_text()}")
    words = ["ssh-keygen", "-Y", "verify", "-n", "cloudboot-consume", "-I", "vendor", "-f", str(allowed)]
    content = (volume / volume_reader.IDENTITY).read_bytes()
    asked = subprocess.run([*words, "-s", str(volume / volume_reader.SIGNATURE)], input=content, check=False)
    assert asked.returncode == 0
    before = (volume / volume_reader.SIGNATURE).stat()
    assert init(volume, "mount: {where: /srv/x}\n", "--sign", str(key)) == 0
    assert (volume / volume_reader.SIGNATURE).stat().st_ino == before.st_ino, "ed25519 signs the same way twice"
    assert init(volume, "mount: {where: /srv/y}\n") == 0
    assert not (volume / volume_reader.SIGNATURE).exists(), "a signature over something else is left"


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("mount: {where: ../etc}\n", "mount.where"),
        ("mount: {where: /srv/x}\nrun: {program: bin/setup}\n", "says several things"),
        ("run: {program: bin/nothing}\n", "bin/nothing: is not on the volume"),
        ("run: {program: ../../../etc/passwd}\n", "no path on the volume"),
        ("run: {program: link}\n", "link: is a symlink"),
        ("run: {program: bin/setup, files: payload}\n", "files: must be a list"),
        ("start: {program: bin/setup}\n", "start"),
        ("- {}\n", "must say one of"),
        ("{", "no YAML"),
    ],
)
def test_what_no_machine_would_accept_is_not_written(
    volume: Path, capsys: pytest.CaptureFixture[str], says: str, told: str
) -> None:
    (volume / "link").symlink_to("bin/setup")
    assert init(volume, says) != 0
    assert told in capsys.readouterr().err
    assert not (volume / volume_reader.IDENTITY).exists()


def test_the_options_go_together(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["consume", "--init", str(volume)]) == 64
    assert main(["consume", "--sign", "key"]) == 64
    assert main(["consume", "--init", "/dev/null", "--identity", "/dev/null"]) == 64
    assert "neither a device nor a directory" in capsys.readouterr().err
