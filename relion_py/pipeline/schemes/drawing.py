"""Where the nodes of a scheme stand when it is drawn: the start on top, what follows below, ways back beside it."""

from __future__ import annotations

from relion_py.pipeline.layout import Layout, layered
from relion_py.pipeline.schemes.model import Scheme


def lay_out(scheme: Scheme) -> tuple[Layout, list[tuple[str, str]]]:
    """Places of all nodes, with the bends of the edges that lead downwards, and the edges that lead back up.

    Nodes that no edge joins stand below the others. An edge leads back if it closes a circle on a walk from the
    start (depth-first search): the layers are made without it. The start is where a reset
    scheme begins: the source of the first edge.
    """
    following: dict[str, list[str]] = {node: [] for node in scheme.nodes}
    for edge in scheme.edges:
        if edge.source in following:
            following[edge.source] += [t for t in edge.targets if t in following and t not in following[edge.source]]
    starts = [scheme.edges[0].source] if scheme.edges and scheme.edges[0].source in following else []
    order = list(dict.fromkeys([*starts, *(e.source for e in scheme.edges if e.source in following), *following]))
    back = _edges_back(order, following)
    down = [(a, b) for a in following for b in following[a] if (a, b) not in back]
    joined = {node for arrow in (*down, *back) for node in arrow}
    layout = layered([node for node in order if node in joined], down)
    foot = 1 + max((row for _, row in layout.places.values()), default=-1)
    alone = {node: (float(i), foot) for i, node in enumerate(node for node in order if node not in joined)}
    ways_back = [(a, b) for a in following for b in following[a] if (a, b) in back]
    return Layout({**layout.places, **alone}, layout.bends), ways_back


def _edges_back(order: list[str], following: dict[str, list[str]]) -> set[tuple[str, str]]:
    """The edges that end at a node from which the walk came."""
    back: set[tuple[str, str]] = set()
    done: set[str] = set()
    for start in order:
        way = [(start, iter(following[start]))] if start not in done else []
        on_way = {start}
        while way:
            node, targets = way[-1]
            target = next(targets, None)
            if target is None:
                way.pop()
                on_way.discard(node)
                done.add(node)
            elif target in on_way:
                back.add((node, target))
            elif target not in done:
                on_way.add(target)
                way.append((target, iter(following[target])))
    return back
