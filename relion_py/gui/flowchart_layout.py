"""Places for the boxes of a flowchart: a layered drawing of a directed acyclic graph (no Qt).

Layers by longest path from the sources, order within a layer by sweeps of barycentres (Sugiyama, Tagawa and
Toda, IEEE Trans. SMC 11, 1981), which is all that a project of some hundred jobs needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SWEEPS = 8


def layers_of(names: Sequence[str], parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The layer of each name: one more than the deepest of its parents; edges closing a cycle are ignored."""
    known = set(names)
    layer: dict[str, int] = {}
    for start in names:
        stack = [start]
        opened: set[str] = set()
        while stack:
            name = stack[-1]
            if name in layer:
                stack.pop()
                continue
            waiting = [p for p in parents.get(name, ()) if p in known and p not in layer and p not in opened]
            if waiting and name not in opened:
                opened.add(name)
                stack.extend(waiting)
                continue
            opened.add(name)
            above = [layer[p] for p in parents.get(name, ()) if p in layer]
            layer[name] = 1 + max(above, default=-1)
            stack.pop()
    return layer


Edge = tuple[str, str]


@dataclass(frozen=True)
class Layout:
    """Places in units of boxes, rows growing downwards: (column, row) of each name, and for each edge
    (parent, child) the points between its ends, so that no edge runs behind a box."""

    places: dict[str, tuple[float, float]]
    bends: dict[Edge, list[tuple[float, float]]]


def place(names: Sequence[str], parents: Mapping[str, Sequence[str]]) -> Layout:
    """Where to draw each name and how to lead each edge."""
    layer = layers_of(names, parents)
    rows: list[list[str]] = [[] for _ in range(1 + max(layer.values(), default=-1))]
    for name in names:
        rows[layer[name]].append(name)
    above: dict[str, list[str]] = {name: [] for name in names}
    passing: dict[Edge, list[str]] = {}
    for child in names:
        for parent in parents.get(child, ()):
            if parent not in layer or layer[parent] >= layer[child]:
                continue
            last = parent
            for row in range(layer[parent] + 1, layer[child]):
                point = f"{parent}\n{child}\n{row}"  # a name that no job can have
                rows[row].append(point)
                above[point] = [last]
                passing.setdefault((parent, child), []).append(point)
                last = point
            above[child].append(last)
    x = _columns(rows, above)
    left = min(x.values(), default=0.0)
    at = {name: (x[name] - left, float(row)) for row, line in enumerate(rows) for name in line}
    bends = {edge: [at[point] for point in points] for edge, points in passing.items()}
    return Layout({name: at[name] for name in names}, bends)


def _columns(rows: list[list[str]], above: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The column of everything in the rows, ordered so that edges are short and cross little."""
    below: dict[str, list[str]] = {name: [] for name in above}
    for name, uppers in above.items():
        for upper in uppers:
            below[upper].append(name)
    x = {name: float(i) for row in rows for i, name in enumerate(row)}
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            neighbours = above if down else below
            wish = {name: _mean([x[n] for n in neighbours[name]], x[name]) for name in row}
            row.sort(key=lambda name, wish=wish: wish[name])  # type: ignore[misc]
            _spread(row, wish, x)
    return x


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _spread(row: Sequence[str], wish: Mapping[str, float], x: dict[str, float]) -> None:
    """Give the row places at least one box apart, as near to the wished ones as that allows on average."""
    if not row:
        return
    places: list[float] = []
    for name in row:
        places.append(max(wish[name], places[-1] + 1.0) if places else wish[name])
    shift = sum(wish[name] - at for name, at in zip(row, places, strict=True)) / len(row)
    for name, at in zip(row, places, strict=True):
        x[name] = at + shift
