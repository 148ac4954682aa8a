"""From figures to what people read: medians, the spread, the ratios, and whether the reach is met."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measure import FIRST, REBOOT, Figures
from bench.variants import CLOUD_INIT, CLOUDBOOT, CLOUDBOOT_NO_ID, NO_AGENT, VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Rounds = list[dict[str, Figures]]
"""One round after the other: variant -> what it cost. All variants boot in every round."""


class Row(NamedTuple):
    """A line of the table: how it is called and printed, and how it is read out of one round for a variant."""

    name: str
    unit: str
    digits: int
    value: Callable[[Mapping[str, Figures], str], float]


ROWS = (
    Row("CPU of the agent's units", "s", 3, lambda found, name: found[name].cpu),
    Row("  of its Python processes", "s", 3, lambda found, name: found[name].own),
    Row("CPU of the boot over no agent", "s", 3, lambda found, name: found[name].whole - found[NO_AGENT].whole),
    Row("largest process", "MB", 1, lambda found, name: found[name].peak),
    Row("sshd delay over no agent", "s", 3, lambda found, name: found[name].ssh - found[NO_AGENT].ssh),
    Row("settled later than no agent", "s", 3, lambda found, name: found[name].settled - found[NO_AGENT].settled),
    Row("requests", "", 0, lambda found, name: found[name].requests),
    Row("connections", "", 0, lambda found, name: found[name].connections),
    Row("tokens", "", 0, lambda found, name: found[name].tokens),
)


class Reach(NamedTuple):
    """What is to be reached: the row, and the largest value, of cloudboot's own or as a share of cloud-init's."""

    row: str
    boot: str | None  # None: every boot
    limit: float
    share: bool


REACH = (
    Reach("CPU of the agent's units", FIRST, 1 / 2, share=True),
    Reach("CPU of the agent's units", REBOOT, 1 / 5, share=True),
    Reach("largest process", None, 30, share=False),
    Reach("sshd delay over no agent", None, 1 / 3, share=True),
    Reach("connections", None, 8, share=False),
    Reach("tokens", None, 1, share=False),
)


class Spread(NamedTuple):
    """Minimum, median and maximum over the rounds."""

    low: float
    middle: float
    high: float


def spread(rounds: Rounds, row: Row, variant: str) -> Spread:
    """Summarise one figure of one variant. A difference to no agent is taken within each round."""
    values = [row.value(found, variant) for found in rounds]
    return Spread(min(values), median(values), max(values))


def ratio(rounds: Rounds, row: Row) -> float | None:
    """Return cloudboot's median over cloud-init's; None if the latter has none."""
    theirs = spread(rounds, row, CLOUD_INIT).middle
    return spread(rounds, row, CLOUDBOOT).middle / theirs if theirs > 0 else None


def verdict(rounds: Rounds, row: Row, boot: str) -> str:
    """Say whether the reach is met; nothing if the row has none in this kind of boot."""
    for reach in REACH:
        if reach.row != row.name or reach.boot not in (None, boot):
            continue
        value = ratio(rounds, row) if reach.share else spread(rounds, row, CLOUDBOOT).middle
        limit = f"{reach.limit:.2f}" if reach.share else f"{reach.limit:g}"
        return f"{'met' if value is not None and value <= reach.limit else 'NOT MET'} (≤ {limit})"
    return ""


def render(title: str, boot: str, rounds: Rounds) -> list[str]:
    """Return the lines of one table."""
    shown = (CLOUD_INIT, CLOUDBOOT, CLOUDBOOT_NO_ID)
    head = f"{title}, {boot}: median (minimum to maximum) of {len(rounds)}"
    lines = ["", head, "=" * len(head), _line("", [*shown, "ratio", "reach"])]
    for row in ROWS:
        cells = [_cell(spread(rounds, row, variant), row) for variant in shown]
        share = ratio(rounds, row)
        cells += ["-" if share is None else f"{share:.2f}", verdict(rounds, row, boot)]
        lines.append(_line(row.name, cells))
    base = [f"{name} {_cell(_base(rounds, name), ROWS[0])}" for name in ("whole", "ssh", "settled")]
    lines.append(f"no agent, seconds: {', '.join(base)}")
    return lines


def plain(boot: str, rounds: Rounds) -> dict[str, Any]:
    """Return the same as a value for JSON, with every round's figures."""
    rows = {
        row.name.strip(): {
            "unit": row.unit,
            **{name: spread(rounds, row, name)._asdict() for name in VARIANTS if name != NO_AGENT},
            "ratio": ratio(rounds, row),
            "reach": verdict(rounds, row, boot),
        }
        for row in ROWS
    }
    return {"rows": rows, "rounds": [{name: each._asdict() for name, each in found.items()} for found in rounds]}


def _base(rounds: Rounds, name: str) -> Spread:
    values = [getattr(found[NO_AGENT], name) for found in rounds]
    return Spread(min(values), median(values), max(values))


def _cell(figure: Spread, row: Row) -> str:
    low, middle, high = (f"{value:.{row.digits}f}" for value in figure)
    unit = f" {row.unit}" if row.unit else ""
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"


def _line(name: str, cells: Sequence[str]) -> str:
    widths = (30, 29, 29, 29, 7, 0)
    return "".join(text.ljust(width) for text, width in zip((name, *cells), widths, strict=True)).rstrip()
