"""How the time to read user data grows with its size: 100 parts of 1 KB against 1,000 of them.

`.venv/bin/python tests/bench/userdata.py`. CPU seconds of this process, the best of five; needs no root.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # tests/, as under pytest

from cloudboot import modules
from cloudboot.compose import Given, compose
from cloudboot.config import CORE_SCHEMA, Layer
from cloudboot.instance import Instance

REACH = 13.0  # ten times the data in at most this much more time
APPEND = "merge_how: list(append)+dict(no_replace,recurse_list)\n"


class Reading(NamedTuple):
    """One size: bytes, files that came of it, CPU seconds."""

    size: int
    files: int
    seconds: float


def user_data(parts: int, merge_how: str) -> bytes:
    """Return a MIME message of so many cloud-config parts, of about 1 KB each."""
    entry = "  - path: /etc/part-{0}-{1}\n    content: {2}\n    permissions: '0644'\n"
    pieces = ["MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n"]
    for number in range(parts):
        files = "".join(entry.format(number, each, "x" * 60) for each in range(8))
        pieces.append(f"--B\nContent-Type: text/cloud-config\n\n#cloud-config\n{merge_how}write_files:\n{files}")
    return "\n".join([*pieces, "--B--\n"]).encode()


def read(parts: int, merge_how: str, runs: int = 5) -> Reading:
    """Read and merge user data; raise ValueError if anything of it is lost."""
    raw = user_data(parts, merge_how)
    schemas = {**CORE_SCHEMA, **modules.schemas(fresh=True)}
    given = Given(raw, None, Layer("image", {}, {}))
    best, files = float("inf"), 0
    for _ in range(runs):
        began = time.process_time()
        made = compose(given, Instance("i-1", "Ec2", "openstack"), schemas, None)
        best = min(best, time.process_time() - began)
        files = len(made.config.value["write_files"])
    if files != (8 * parts if merge_how else 8):
        raise ValueError(f"{files} files came of {parts} parts")
    return Reading(len(raw), files, best)


def main() -> int:
    """Measure and print."""
    for name, merge_how in (("later parts replace", ""), ("lists are appended", APPEND)):
        small, large = read(100, merge_how), read(1000, merge_how)
        ratio = large.seconds / small.seconds
        print(
            f"{name}: {small.size / 1000:.0f} KB in {small.seconds:.3f} s, {large.size / 1000:.0f} KB in "
            f"{large.seconds:.3f} s: ratio {ratio:.1f} {'met' if ratio <= REACH else 'NOT MET'} (≤ {REACH:g})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
