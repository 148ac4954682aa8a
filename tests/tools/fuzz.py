"""Try random user data, fstabs and index keys for a while: `python tests/tools/fuzz.py --minutes 60 [--seed N]`.

The strategies and what must hold are those of tests/unit/userdata/strategies.py. The first that fails is shrunk, shown
as bytes that can be pasted into a test, and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
ROUND = 500  # user data of one kind, before the clock is looked at


def main() -> int:
    """Run rounds of every kind until the time is over."""
    sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    from unit.userdata import strategies

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    words = parser.parse_args()
    inputs: dict[str, st.SearchStrategy[bytes]] = {
        "bytes": st.binary(max_size=2000),
        "texts": strategies.texts,
        "mime": strategies.multiparts(strategies.texts),
        "archives": strategies.archives(strategies.texts),
        "gzip": strategies.packed(strategies.texts),
        "templates": strategies.templates,
        "patches": strategies.patches,
        "includes": strategies.includes,
        "all": strategies.user_data,
        "mutations": strategies.mutated(strategies.user_data),
    }
    kinds: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any, Mapping[str, bytes]], None]]] = {
        name: (kind, strategies.holds) for name, kind in inputs.items()
    }
    # From the bytes to the merged and checked configuration; and what else reads texts of others.
    kinds["configurations"] = (strategies.configurations, strategies.composes)
    kinds["mutated configurations"] = (strategies.mutated(strategies.configurations), strategies.composes)
    kinds["fstab"] = (strategies.fstabs, lambda text, _: strategies.fstab_holds(text))
    kinds["index keys"] = (strategies.index_keys, lambda key, _: strategies.index_key_holds(key))
    longer = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    end, number, tried, slowest = time.monotonic() + 60 * words.minutes, words.seed, 0, 0.0

    def round_of(kind: st.SearchStrategy[Any], holds: Callable[[Any, Mapping[str, bytes]], None]) -> Callable[[], None]:
        @seed(number)
        @longer
        @given(kind, strategies.webs)
        def run(raw: Any, web: Mapping[str, bytes]) -> None:
            nonlocal tried, slowest
            began = time.process_time()
            holds(raw, web)
            tried += 1
            slowest = max(slowest, time.process_time() - began)

        return run

    while time.monotonic() < end:
        for name, (kind, holds) in kinds.items():
            if time.monotonic() >= end:
                break
            try:
                round_of(kind, holds)()
            except Exception:
                print(f"failed: {name}, --seed {number}", file=sys.stderr)
                raise
        number += 1
    print(f"{tried} inputs, seeds {words.seed} to {number - 1}: nothing raised; the slowest took {slowest:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
