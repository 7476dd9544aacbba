"""The table that is printed: the median of each figure, its goal, and whether the goal is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

OURS, NODE, FLOOR, BEFORE = "ours", "node", "floor", "before"
CHANGE_MAX = 0.05  # of a figure beside that of an earlier version


@dataclass(frozen=True)
class Figure:
    """One line of the table, as measured on one target in one round."""

    name: str
    unit: str
    value: float
    goal: str = ""
    """A bound on the ratio to Node's figure: `≤ 0.5`, `≥ 3`."""
    limit: str = ""
    """A bound on our own figure, in its unit: `≤ 25`."""


Round = dict[str, list[Figure]]
"""What one round measured, by target."""


def to_lines(rounds: Sequence[Round]) -> list[str]:
    """Write the table: a heading, and a line for each figure."""
    targets = list(rounds[0])
    figures = {figure.name: figure for target in targets for figure in rounds[0][target]}
    heading = f"{'':50} {'unit':10} {' '.join(f'{target:>10}' for target in targets)} {'ratio':>7}  {'goal':12}"
    return [heading.rstrip(), *(_to_line(figure, rounds) for figure in figures.values())]


def _to_line(figure: Figure, rounds: Sequence[Round]) -> str:
    values = {target: _median(figure.name, [one.get(target, []) for one in rounds]) for target in rounds[0]}
    ours, other = values.get(OURS), values.get(NODE) or values.get(BEFORE)
    ratio = ours / other if ours is not None and other else None
    bound = figure.goal
    if BEFORE in values:
        bound = f"≥ {1 - CHANGE_MAX}" if figure.unit.endswith("/s") else f"≤ {1 + CHANGE_MAX}"
    if figure.limit and BEFORE not in values:
        goal, verdict = figure.limit, _verdict(ours, figure.limit)
    else:
        goal, verdict = f"ratio {bound}" if bound else "", _verdict(ratio, bound)
    columns = [_format(values[target]) for target in values] + [f"{'' if ratio is None else f'{ratio:.2f}':>7}"]
    return f"{figure.name:50} {figure.unit:10} {' '.join(columns)}  {goal:12} {verdict}".rstrip()


def _format(value: float | None) -> str:
    if value is None:
        return f"{'':10}"
    return f"{value:10.2f}" if abs(value) < 10 else f"{value:10.1f}"


def _median(name: str, rounds: Sequence[Sequence[Figure]]) -> float | None:
    values = [figure.value for figures in rounds for figure in figures if figure.name == name]
    return median(values) if values else None


def _verdict(value: float | None, bound: str) -> str:
    """Return `ok` or `missed`; nothing where there is no bound or no value."""
    if value is None or not bound:
        return ""
    sign, number = bound.split()
    return "ok" if (value <= float(number) if sign == "≤" else value >= float(number)) else "missed"
