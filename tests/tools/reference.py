"""Let Debian's cloud-init package work on rows, and keep what it made of them as a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGES = ("cloud-init", "python3-jsonpatch", "python3-json-pointer")  # its part handler imports jsonpatch


def make(table: Path, rows: Sequence[dict[str, Any]], program: str) -> None:
    """Download the package, run `program --drive` with cloud-init's on its path and the rows as input, write a table.

    The program prints the rows with what was made of them, as JSON.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), f"{folder}/tree"], check=True)
        (archive,) = Path(folder).glob("cloud-init_*.deb")
        version = subprocess.run(
            ["dpkg-deb", "-f", str(archive), "Version"], check=True, capture_output=True, text=True
        ).stdout.strip()
        driven = subprocess.run(
            [sys.executable, program, "--drive"],
            input=json.dumps(rows),
            env={**os.environ, "PYTHONPATH": f"{folder}/tree/usr/lib/python3/dist-packages", "TMPDIR": folder},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
    found = json.loads(driven)
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in found)
    table.write_text(f'{{"package": "cloud-init {version}", "rows": [\n{lines}\n]}}\n')
    print(f"{table}: {len(found)} rows by cloud-init {version}")
