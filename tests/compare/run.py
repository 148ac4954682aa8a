"""Compare machines: `.venv/bin/python tests/compare/run.py [NAME …]`, as root; prints the score.

Each tests/compare/data/NAME.yaml (or .txt, .mime …) is a user data. Exit status 0 if all machines are the same but for
what docs/differences.md lets pass, 1 if not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # tests/, as under pytest

from boot.bed import BedError, missing_tools, sweep
from compare.difference import Pass, not_meant, passes
from compare.snapshot import AGENTS, Agents

LENGTH = 300  # of a difference that is shown
DATA = Path(__file__).parent / "data"


def main() -> int:
    """Boot, compare, print."""
    parser = argparse.ArgumentParser(description="Compare the machines that cloud-init and cloudboot make.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these user data")
    parser.add_argument("--suite", default="trixie", choices=("trixie", "bookworm"))
    arguments = parser.parse_args()
    if reason := missing_tools("container"):
        print(f"compare: {reason}", file=sys.stderr)
        return 1
    chosen = [path for path in cases() if not arguments.names or path.stem in arguments.names]
    if not chosen or len(chosen) < len(arguments.names):
        print("compare: no such user data", file=sys.stderr)
        return 1
    allowed = passes()
    used: dict[Pass, set[str]] = {row: set() for row in allowed}
    same, begun = 0, time.monotonic()
    sweep()
    with Agents(arguments.suite) as agents:
        for path in chosen:
            try:
                theirs, ours = (agents.boot(agent, data_of(path, agents.key.public)) for agent in AGENTS)
            except BedError as error:
                print(f"LOST {path.stem}: {error}")
                continue
            found = not_meant(theirs, ours, allowed, used)
            same += not found
            print(
                f"{'DIFF' if found else 'same'} {path.stem}",
                *(f"     {line[:LENGTH]}" for line in found),
                sep="\n",
                flush=True,
            )
    print(f"{same} of {len(chosen)} user data give the same machine, in {time.monotonic() - begun:.0f} s")
    if not arguments.names:
        for row in (row for row in allowed if not used[row]):
            print(f"let nothing pass: {row.aspect}: {row.pattern.pattern}")
    return 0 if same == len(chosen) else 1


def cases() -> list[Path]:
    """Return the user data files, by name."""
    return sorted(path for path in DATA.iterdir() if path.is_file())


def data_of(path: Path, key: str) -> bytes:
    """Return a user data with a public key in place of `@KEY@`."""
    return path.read_bytes().replace(b"@KEY@", key.encode())


if __name__ == "__main__":
    sys.exit(main())
