"""What is mounted must be the volume itself, whatever the kernel takes its UUID for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from casebook import Book

if TYPE_CHECKING:
    import pytest

CASE = Path(__file__).parents[2] / "cases/consume/mount.yaml"
THEIRS = "30 27 202:1 / /srv/vendor rw - ext4 /dev/xvda1 rw\n"


def test_another_device_keeps_its_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = yaml.safe_load(CASE.read_text(encoding="utf-8"))
    case["tools"][1]["writes"] = {"/proc/self/mountinfo": THEIRS}
    book = Book(case, tmp_path, "consume")
    book.run()
    assert not [text for text in book.changes() if text.startswith("access")]
    (error,) = book.status.values["errors"]
    assert "is another device's too, and that is mounted on /srv/vendor: its owner is not changed" in error
    assert error.endswith("unmount it, and give one of them a UUID of its own")
    assert capsys.readouterr().out == ""

    # The line that means the other device does not outlive the next look.
    book.run()
    assert "x-cloudboot.consume" not in (book.host.text("/etc/fstab") or "")
