"""The table that is printed: the median of each figure, what is wanted of it, and whether it is reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

OURS, NODE, BARE = "ours", "node", "bare"


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    value: float
    goal: str = ""
    """What the ratio to Node's must be: `≤ 0.5`, `≥ 3`."""
    limit: str = ""
    """What our value itself must be, whatever Node's is, in its unit: `≤ 25`."""


Round = dict[str, list[Figure]]
"""What one round measured, by side."""


def lines(rounds: Sequence[Round]) -> list[str]:
    """Write the table: a heading, and a line for each figure."""
    sides = list(rounds[0])
    figures = {figure.name: figure for side in sides for figure in rounds[0][side]}
    heading = f"{'':50} {'unit':10} {' '.join(f'{side:>10}' for side in sides)} {'ratio':>7}  {'wanted':12}"
    return [heading.rstrip(), *(_line(figure, rounds) for figure in figures.values())]


def _line(figure: Figure, rounds: Sequence[Round]) -> str:
    values = {side: _median(figure.name, [one.get(side, []) for one in rounds]) for side in rounds[0]}
    ours, node = values.get(OURS), values.get(NODE)
    ratio = ours / node if ours is not None and node else None
    if figure.limit:
        wanted, verdict = figure.limit, _verdict(ours, figure.limit)
    else:
        wanted, verdict = f"ratio {figure.goal}" if figure.goal else "", _verdict(ratio, figure.goal)
    shown = [_number(values[side]) for side in values] + [f"{'' if ratio is None else f'{ratio:.2f}':>7}"]
    return f"{figure.name:50} {figure.unit:10} {' '.join(shown)}  {wanted:12} {verdict}".rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return f"{'':10}"
    return f"{value:10.2f}" if abs(value) < 10 else f"{value:10.1f}"


def _median(name: str, measured: Sequence[Sequence[Figure]]) -> float | None:
    values = [figure.value for figures in measured for figure in figures if figure.name == name]
    return median(values) if values else None


def _verdict(value: float | None, wanted: str) -> str:
    """Say `ok` or `missed`; nothing where nothing is wanted, or was measured."""
    if value is None or not wanted:
        return ""
    sign, bound = wanted.split()
    return "ok" if (value <= float(bound) if sign == "≤" else value >= float(bound)) else "missed"
