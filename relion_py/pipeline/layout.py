"""A layered drawing of a directed acyclic graph: who comes first stands on top.

The steps are those of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11, 1981, 109): layers by longest path,
places inside a layer by sweeps of barycentres, long edges bent through a place in each layer they cross.
Edges that would close a circle (damaged projects may have them) are left out of the layering.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SWEEPS = 8
_SHIFTS = 12


@dataclass(frozen=True)
class Layout:
    """places: for each vertex (x, layer), x in units of one column. bends: for each edge the places between
    its ends, from start to end."""

    places: dict[str, tuple[float, int]]
    bends: dict[tuple[str, str], list[tuple[float, int]]]


def layered(vertices: Sequence[str], edges: Iterable[tuple[str, str]]) -> Layout:
    """Lay out the graph; edges to unknown vertices are passed over."""
    known = set(vertices)
    wanted = list(dict.fromkeys((a, b) for a, b in edges if a in known and b in known and a != b))
    layer = _layers(vertices, wanted)
    forward = [(a, b) for a, b in wanted if layer[a] < layer[b]]
    rows, above, below = _with_bends(vertices, forward, layer)
    _order(rows, above, below)
    x = _positions(rows, above, below)
    places = {vertex: (x[vertex], layer[vertex]) for vertex in vertices}
    bends = {
        (a, b): [(x[_bend(a, b, level)], level) for level in range(layer[a] + 1, layer[b])]
        if layer[a] < layer[b]
        else []
        for a, b in wanted
    }
    return Layout(places, bends)


def _layers(vertices: Sequence[str], edges: list[tuple[str, str]]) -> dict[str, int]:
    """The length of the longest way to each vertex, in the order of Kahn's algorithm."""
    users: dict[str, list[str]] = {vertex: [] for vertex in vertices}
    open_inputs = dict.fromkeys(vertices, 0)
    for a, b in edges:
        users[a].append(b)
        open_inputs[b] += 1
    layer = dict.fromkeys(vertices, 0)
    waiting = dict.fromkeys(vertices)
    while waiting:
        # Where a circle blocks the way, the first of it goes on as if it were free.
        ready = [v for v in waiting if open_inputs[v] == 0] or [next(iter(waiting))]
        for vertex in ready:
            del waiting[vertex]
            for user in users[vertex]:
                open_inputs[user] -= 1
                if user in waiting:
                    layer[user] = max(layer[user], layer[vertex] + 1)
    return layer


def _bend(a: str, b: str, level: int) -> str:
    return f"\0{a}\0{b}\0{level}"


Neighbours = dict[str, list[str]]


def _with_bends(
    vertices: Sequence[str], edges: list[tuple[str, str]], layer: dict[str, int]
) -> tuple[list[list[str]], Neighbours, Neighbours]:
    """Rows of vertices and bends, and who is joined to whom in the row above and below."""
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    above: Neighbours = {vertex: [] for vertex in vertices}
    below: Neighbours = {vertex: [] for vertex in vertices}
    for vertex in vertices:
        rows[layer[vertex]].append(vertex)
    for a, b in edges:
        chain = [a]
        for level in range(layer[a] + 1, layer[b]):
            bend = _bend(a, b, level)
            rows[level].append(bend)
            above[bend], below[bend] = [], []
            chain.append(bend)
        chain.append(b)
        for upper, lower in pairwise(chain):
            below[upper].append(lower)
            above[lower].append(upper)
    return rows, above, below


def _order(rows: list[list[str]], above: Neighbours, below: Neighbours) -> None:
    """Sort each row by the mean place of its neighbours, down and up in turn."""
    place = {vertex: float(i) for row in rows for i, vertex in enumerate(row)}
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            neighbours = above if downwards else below
            row.sort(key=lambda v, n=neighbours: _mean([place[u] for u in n[v]], place[v]))  # type: ignore[misc]
            place.update({vertex: float(i) for i, vertex in enumerate(row)})


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _positions(rows: list[list[str]], above: Neighbours, below: Neighbours) -> dict[str, float]:
    """Columns: each vertex near its neighbours, at least one column from the next in its row."""
    x = {vertex: float(i) for row in rows for i, vertex in enumerate(row)}
    for shift in range(_SHIFTS):
        for row in rows if shift % 2 == 0 else reversed(rows):
            wanted = [_mean([x[u] for u in (*above[v], *below[v])], x[v]) for v in row]
            for vertex, value in zip(row, _spread(wanted), strict=True):
                x[vertex] = value
    left = min(x.values(), default=0.0)
    return {vertex: value - left for vertex, value in x.items()}


def _spread(wanted: list[float]) -> list[float]:
    """The places nearest to those wanted (least squares) that stand one apart in this order.

    With the distance taken off it is a monotone regression: pool adjacent violators.
    """
    pools: list[tuple[float, int]] = []
    for index, value in enumerate(wanted):
        pools.append((value - index, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean2, count2), (mean1, count1) = pools.pop(), pools.pop()
            pools.append(((mean1 * count1 + mean2 * count2) / (count1 + count2), count1 + count2))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [value + index for index, value in enumerate(flat)]
