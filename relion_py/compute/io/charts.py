"""Charts on PDF pages: values one after the other with their histograms, and curves with a legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.io.pdf import BLUE, Page, text_width

_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 25.0, 70.0, 50.0
_GAP, _UNDER = 65.0, 60.0  # between columns and between rows, for titles and labels
_TICK = 3.0
_ROOM = 0.05  # beyond the values, of their range, so that no mark lies on a side
_LEGEND_LINE, _LEGEND_STEP = 22.0, 12.0

Values = NDArray[np.float64]
Ends = tuple[float, float]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Curve:
    """Values of one kind, in order; not a number: left out."""

    title: str
    values: Values


def curve_pages(heading: str, curves: Sequence[Curve], things: str, per_page: int = 4) -> list[Page]:
    """On the left each curve over the number of the thing (`things`: "micrograph"), on the right how many have which
    value."""
    pages = []
    for first in range(0, len(curves), per_page):
        page = Page()
        page.text(page.width / 2, page.height - 40, heading, 13, middle=True)
        some = curves[first : first + per_page]
        for row, curve in enumerate(some):
            left, right = panels(page, row, len(some), 2)
            values = np.asarray(curve.values, np.float64)
            numbers = np.flatnonzero(np.isfinite(values))
            axes = Axes(page, *left, curve.title)
            axes.scale(widened((1, max(len(values), 1))), widened(ends(values)))
            axes.name(things, "")
            axes.dots(1.0 + numbers.astype(np.float64), values[numbers])
            bins = min(50, max(5, int(np.sqrt(len(numbers)) * 2)))
            Axes(page, *right, curve.title).histogram(values, bins, "", f"{things}s")
        pages.append(page)
    return pages


@dataclass(frozen=True)
class Tiles:
    """Drawings of one kind in columns and rows: the step from one to the next, and where the first one begins, from the
    left of the page and below its top."""

    columns: int
    rows: int
    step: float
    left: float
    below: float

    def pages(
        self, heading: str, things: Sequence[Thing], draw: Callable[[Page, Thing, float, float], None]
    ) -> Iterator[Page]:
        """Pages with a tile for each thing: draw(page, thing, left, top)."""
        for first in range(0, len(things), self.columns * self.rows):
            page = Page()
            page.text(page.width / 2, page.height - 40, heading, 12, middle=True)
            for place, thing in enumerate(things[first : first + self.columns * self.rows]):
                row, column = divmod(place, self.columns)
                draw(page, thing, self.left + column * self.step, page.height - self.below - row * self.step)
            yield page


def shortened(name: str, most: int) -> str:
    """A name of that many letters at most: its end."""
    return name if len(name) <= most else "..." + name[3 - most :]


def panels(page: Page, row: int, rows: int, columns: int = 1) -> list[tuple[float, float, float, float]]:
    """Places of the axes in a row of a page under a heading: x, y, width, height."""
    wide = (page.width - _LEFT - _RIGHT - _GAP * (columns - 1)) / columns
    high = (page.height - _TOP - _BOTTOM - _UNDER * (rows - 1)) / rows
    bottom = page.height - _TOP - high - row * (high + _UNDER)
    return [(_LEFT + column * (wide + _GAP), bottom, wide, high) for column in range(columns)]


def ends(*values: Values) -> Ends:
    """Lowest and highest of all finite values; some room where they are the same."""
    kept = np.concatenate([each[np.isfinite(each)] for each in values])
    low, high = (float(kept.min()), float(kept.max())) if len(kept) else (0.0, 1.0)
    room = 0.5 * max(abs(low) * 1e-3, 1.0) if high == low else 0.0
    return low - room, high + room


def widened(between: Ends, below: bool = True) -> Ends:
    """A little more on both sides, or above only."""
    more = _ROOM * (between[1] - between[0]) or 0.5
    return between[0] - more * below, between[1] + more


class Axes:
    """A frame on a page, with ticks."""

    def __init__(self, page: Page, x: float, y: float, width: float, height: float, title: str) -> None:
        self._page, self._x, self._y, self._width, self._height = page, x, y, width, height
        self._named: list[tuple[str, str, float, bool]] = []
        page.frame(x, y, width, height)
        page.text(x + width / 2, y + height + 7, title, 10, middle=True)

    def scale(self, across: Ends, up: Ends) -> None:
        """What the sides stand for."""
        self._across, self._up = across, up
        for value, name in _ticks(*across):
            x = self._place_x(value)
            self._page.lines([np.array([(x, self._y), (x, self._y - _TICK)])])
            self._page.text(x, self._y - 12, name, middle=True)
        for value, name in _ticks(*up):
            y = self._place_y(value)
            self._page.lines([np.array([(self._x, y), (self._x - _TICK, y)])])
            self._page.text(self._x - 5, y - 2.5, name, end=True)

    def name(self, across: str, up: str) -> None:
        """Labels of the sides."""
        self._page.text(self._x + self._width / 2, self._y - 25, across, 9, middle=True)
        self._page.text(self._x - 35, self._y + self._height / 2, up, 9, middle=True, upwards=True)

    def dots(self, x: Values, y: Values) -> None:
        """A dot for each pair."""
        self._page.dots(self._places(x, y))

    def curve(
        self, x: Values, y: Values, colour: str = BLUE, width: float = 1.0, dashed: bool = False, name: str = ""
    ) -> None:
        """A line through the pairs, broken where one is no number; a named one is in the legend."""
        breaks = np.flatnonzero(~np.isfinite(y))
        paths = [path[np.isfinite(path).all(axis=1)] for path in np.split(self._places(x, y), breaks)]
        with self._page.within(self._x, self._y, self._width, self._height):
            self._page.lines(paths, colour, width, dashed)
        if name:
            self._named.append((name, colour, width, dashed))

    def legend(self) -> None:
        """The names of the curves, in the upper right corner."""
        if not self._named:
            return
        wide = _LEGEND_LINE + 16 + max(text_width(name, 8) for name, *_ in self._named)
        high = _LEGEND_STEP * len(self._named) + 4
        x, y = self._x + self._width - wide - 6, self._y + self._height - high - 6
        self._page.filled(np.array([(x, y, wide, high)]), "1 1 1")
        self._page.frame(x, y, wide, high, "0.8 0.8 0.8")
        for row, (name, colour, width, dashed) in enumerate(self._named):
            at = y + high - 2 - _LEGEND_STEP * (row + 0.5)
            self._page.lines([np.array([(x + 5, at), (x + 5 + _LEGEND_LINE, at)])], colour, width, dashed)
            self._page.text(x + 10 + _LEGEND_LINE, at - 2.8, name)

    def histogram(self, values: Values, bins: int, across: str, up: str) -> None:
        """How many of the finite values lie in each bin, with the labels of the sides."""
        kept = values[np.isfinite(values)]
        between = ends(kept)
        counts, edges = np.histogram(kept, bins, between)
        self.scale(widened(between), widened((0.0, float(max(1, counts.max()))), below=False))
        self.name(across, up)
        self.bars(edges, counts)

    def bars(self, edges: NDArray, heights: NDArray) -> None:
        """A bar from 0 to each of the heights (N,), none of them negative, between the edges (N + 1,)."""
        left, foot, tops = self._place_x(edges), self._place_y(0.0), self._place_y(heights)
        bars = np.stack([left[:-1], np.full(len(heights), foot), np.diff(left), tops - foot], axis=1)
        self._page.filled(bars[heights > 0])

    def _places(self, x: Values, y: Values) -> Values:
        return np.stack([self._place_x(np.asarray(x, np.float64)), self._place_y(np.asarray(y, np.float64))], axis=1)

    def _place_x(self, value):  # type: ignore[no-untyped-def]
        return self._x + (value - self._across[0]) / (self._across[1] - self._across[0]) * self._width

    def _place_y(self, value):  # type: ignore[no-untyped-def]
        return self._y + (value - self._up[0]) / (self._up[1] - self._up[0]) * self._height


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Some four to nine round numbers between two, with their names."""
    raw = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999) * power
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    large = max(abs(low), abs(high)) >= 1e6
    return [(number, f"{number:.3g}" if large else f"{number:.{places}f}") for number in numbers]
