"""Places for the boxes of a flowchart: a layered drawing of a directed acyclic graph (no Qt).

Layers by longest path from the sources, order within a layer by sweeps of barycentres (Sugiyama, Tagawa and
Toda, IEEE Trans. SMC 11, 1981), which is all that a project of some hundred jobs needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def place(names: Sequence[str], parents: Mapping[str, Sequence[str]]) -> dict[str, tuple[float, float]]:
    """(column, row) of each name, in units of boxes; rows grow downwards from sources to results."""
    layer = layers_of(names, parents)
    rows: list[list[str]] = [[] for _ in range(1 + max(layer.values(), default=-1))]
    for name in names:
        rows[layer[name]].append(name)
    children: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        for parent in parents.get(name, ()):
            if parent in children:
                children[parent].append(name)
    x = {name: float(i) for row in rows for i, name in enumerate(row)}
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            neighbours = parents if down else children
            wish = {name: _mean([x[n] for n in neighbours.get(name, ()) if n in x], x[name]) for name in row}
            row.sort(key=lambda name: wish[name])
            _spread(row, wish, x)
    left = min(x.values(), default=0.0)
    return {name: (x[name] - left, float(layer[name])) for name in names}


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
