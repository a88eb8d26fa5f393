"""PDF pages of plain charts: values one after the other, and their histograms.

A log needs dots, bars and a few words, which a page of PDF operators draws; Matplotlib takes longer to start than
many jobs take altogether.

Source of the file's structure and operators: ISO 32000-1 (7.5 file structure, 8.5 paths, 9.4 text; Helvetica is one of
the fonts that every viewer has, 9.6.2.2).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 595.0, 842.0  # A4 in points
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 25.0, 70.0, 50.0
_GAP, _UNDER = 65.0, 60.0  # between columns and between rows, for titles and labels
_LETTER = 0.556  # of a Helvetica digit, in its size; near the mean of its letters
_TICK = 3.0
_BLUE = "0.12 0.47 0.71"


@dataclass(frozen=True)
class Curve:
    """Values of one kind, in order; not a number: left out."""

    title: str
    values: NDArray[np.float64]


def write_charts(file: IO[bytes], heading: str, curves: list[Curve], things: str) -> None:
    """One page: on the left each curve over the number of the thing (`things`: "micrograph"), on the right how many
    have which value."""
    page = _Page()
    page.text(WIDTH / 2, HEIGHT - 40, heading, 13, middle=True)
    wide = (WIDTH - _LEFT - _RIGHT - _GAP) / 2
    high = (HEIGHT - _TOP - _BOTTOM - _UNDER * (len(curves) - 1)) / max(1, len(curves))
    for row, curve in enumerate(curves):
        bottom = HEIGHT - _TOP - high - row * (high + _UNDER)
        values = np.asarray(curve.values, np.float64)
        numbers = np.flatnonzero(np.isfinite(values))
        values = values[numbers]
        axes = _Axes(page, _LEFT, bottom, wide, high, curve.title)
        axes.scale((1, max(len(curve.values), 1)), _ends(values))
        axes.name(f"{things}", "")
        axes.dots(1.0 + numbers.astype(np.float64), values)
        bins = min(50, max(5, int(np.sqrt(len(values)) * 2)))
        counts, edges = np.histogram(values, bins, _ends(values)) if len(values) else (np.zeros(1), np.arange(2.0))
        axes = _Axes(page, _LEFT + wide + _GAP, bottom, wide, high, curve.title)
        axes.scale((float(edges[0]), float(edges[-1])), (0.0, float(max(1, counts.max()))), grown_below=False)
        axes.name("", f"{things}s")
        axes.bars(edges, counts)
    file.write(_document(page.operators()))


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """Lowest and highest; some room where they are the same."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.5 * max(abs(low) * 1e-3, 1.0) if high == low else 0.0
    return low - room, high + room


class _Page:
    """PDF operators, gathered."""

    def __init__(self) -> None:
        self._lines: list[str] = ["0.6 w"]

    def add(self, operators: str) -> None:
        self._lines.append(operators)

    def text(
        self, x: float, y: float, words: str, size: float = 8.0, middle: bool = False, end: bool = False,
        upwards: bool = False,
    ) -> None:  # fmt: skip
        """Words that begin at x, y, or have their middle or end there; in Latin letters."""
        back = len(words) * size * _LETTER * (0.46 if middle else 1.0 if end else 0.0)
        x, y = (x, y - back) if upwards else (x - back, y)
        safe = words.encode("latin-1", "replace").decode("latin-1")
        for special in "\\()":
            safe = safe.replace(special, "\\" + special)
        turn = "0 1 -1 0" if upwards else "1 0 0 1"
        self.add(f"BT /F1 {size:g} Tf {turn} {x:.2f} {y:.2f} Tm ({safe}) Tj ET")

    def operators(self) -> bytes:
        return "\n".join(self._lines).encode("latin-1")


class _Axes:
    """A frame on a page, with ticks."""

    def __init__(self, page: _Page, x: float, y: float, width: float, height: float, title: str) -> None:
        self._page, self._x, self._y, self._width, self._height = page, x, y, width, height
        page.add(f"0 G 0 g {x:.2f} {y:.2f} {width:.2f} {height:.2f} re S")
        page.text(x + width / 2, y + height + 7, title, 10, middle=True)

    def scale(self, across: tuple[float, float], up: tuple[float, float], grown_below: bool = True) -> None:
        """What the sides stand for; a little more, so that no mark lies on them."""
        more = 0.05 * (across[1] - across[0]) or 0.5
        self._from_x, self._to_x = across[0] - more, across[1] + more
        more = 0.05 * (up[1] - up[0]) or 0.5
        self._from_y, self._to_y = up[0] - more * grown_below, up[1] + more
        for value, name in _ticks(self._from_x, self._to_x):
            x = self._place_x(value)
            self._page.add(f"{x:.2f} {self._y:.2f} m {x:.2f} {self._y - _TICK:.2f} l S")
            self._page.text(x, self._y - 12, name, middle=True)
        for value, name in _ticks(self._from_y, self._to_y):
            y = self._place_y(value)
            self._page.add(f"{self._x:.2f} {y:.2f} m {self._x - _TICK:.2f} {y:.2f} l S")
            self._page.text(self._x - 5, y - 2.5, name, end=True)

    def name(self, across: str, up: str) -> None:
        """Labels of the sides."""
        self._page.text(self._x + self._width / 2, self._y - 25, across, 9, middle=True)
        self._page.text(self._x - 33, self._y + self._height / 2, up, 9, middle=True, upwards=True)

    def dots(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        """A dot for each pair: a line of no length with round ends."""
        points = zip(self._place_x(x), self._place_y(y), strict=True)
        marks = " ".join(f"{a:.2f} {b:.2f} m {a:.2f} {b:.2f} l" for a, b in points)
        if marks:
            self._page.add(f"q 1 J 2.5 w {_BLUE} RG {marks} S Q")

    def bars(self, edges: NDArray[np.float64], counts: NDArray[np.float64]) -> None:
        """A bar from each edge to the next."""
        left, foot = self._place_x(edges), self._place_y(0.0)
        tops = self._place_y(counts)
        marks = [
            f"{left[i]:.2f} {foot:.2f} {left[i + 1] - left[i]:.2f} {tops[i] - foot:.2f} re"
            for i in range(len(counts))
            if counts[i]
        ]
        if marks:
            self._page.add(f"q {_BLUE} rg {' '.join(marks)} f Q")

    def _place_x(self, value):  # type: ignore[no-untyped-def]
        return self._x + (value - self._from_x) / (self._to_x - self._from_x) * self._width

    def _place_y(self, value):  # type: ignore[no-untyped-def]
        return self._y + (value - self._from_y) / (self._to_y - self._from_y) * self._height


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Some four to seven round numbers between two, with their names."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999) * power
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    large = max(abs(low), abs(high)) >= 1e6
    return [(number, f"{number:.3g}" if large else f"{number:.{places}f}") for number in numbers]


def _document(operators: bytes) -> bytes:
    """A PDF file of one page."""
    packed = zlib.compress(operators)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents 5 0 R "
        b"/Resources << /Font << /F1 4 0 R >> >> >>" % (WIDTH, HEIGHT),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%b\nendstream" % (len(packed), packed),
    ]
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)
