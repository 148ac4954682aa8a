"""Measure cloudboot against Debian's cloud-init package: the same tree, wire, metadata service and user data.

`.venv/bin/python tests/bench/compare.py [--runs N | --quick] [--data NAME] [--json FILE]`, as root. See
docs/benchmarks.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # tests/, as under pytest

from bench.measure import BOOTS, measure
from bench.table import Rounds, plain, render
from bench.variants import VARIANTS, Fleet, user_data
from boot.bed import BedError, missing_tools, sweep


def main() -> int:
    """Measure and print; 1 if it could not be measured. A reach that is missed is printed, not an exit status."""
    parser = argparse.ArgumentParser(description="Compare cloudboot with Debian's cloud-init package.")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="rounds; each boots every variant twice (5)")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--data", choices=("default", "web"), help="only this user data")
    parser.add_argument("--json", metavar="FILE", help="write every figure there")
    arguments = parser.parse_args()
    if reason := missing_tools("container"):
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    try:
        tables = _measure(1 if arguments.quick else arguments.runs, arguments.data)
    except BedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    for (data, boot), rounds in tables.items():
        print("\n".join(render(f"{data} user data", boot, rounds)))
    if arguments.json:
        content = [{"data": data, "boot": boot, **plain(boot, rounds)} for (data, boot), rounds in tables.items()]
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
    return 0


def _measure(runs: int, only: str | None) -> dict[tuple[str, str], Rounds]:
    sweep()
    tables: dict[tuple[str, str], Rounds] = {}
    with Fleet() as fleet:
        for number in range(runs):
            for data, text in user_data(fleet.key.public):
                if only not in (None, data):
                    continue
                found = {}
                # The variants take turns, and another one begins each time: what else the machine does hits them all.
                for turn in range(len(VARIANTS)):
                    variant = VARIANTS[(turn + number) % len(VARIANTS)]
                    began = time.monotonic()
                    found[variant] = measure(variant, fleet.trees[variant], fleet.scratch, text, fleet.key.public)
                    told = f"round {number + 1} of {runs}, {data}, {variant}: {time.monotonic() - began:.0f} s"
                    print(f"{told}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
                for boot in BOOTS:
                    tables.setdefault((data, boot), []).append({name: each[boot] for name, each in found.items()})
    return tables


if __name__ == "__main__":
    sys.exit(main())
