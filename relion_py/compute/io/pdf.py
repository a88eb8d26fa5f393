"""PDF files of a few lines, words and pictures, which logs of programs need.

A page is written as the operators that draw it. Matplotlib does more, but takes longer to start than many jobs take
altogether.

Lengths and places are points, 1/72 inch, from a page's lower left corner; colours are red, green and blue, 0 to 1.

Source of the file's structure and operators: ISO 32000-1 (7.5 file structure, 8.4 graphics state, 8.5 paths, 8.9
images, 9.4 text; Helvetica is one of the fonts that every viewer has, 9.6.2.2; its widths are from Adobe's metrics).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import numpy as np
from numpy.typing import NDArray

A4 = (595.0, 842.0)
HALF_A4 = (595.0, 421.0)
BLACK, GREY, BLUE, GREEN, RED = "0 0 0", "0.5 0.5 0.5", "0.12 0.47 0.71", "0 0.5 0", "1 0 0"

_WIDTHS = (
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833,
    722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556,
    556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334,
    260, 334, 584,
)  # fmt: skip
"""Of Helvetica's letters from the space to the tilde, in thousandths of its size."""

Points = NDArray[np.float64]


def text_width(words: str, size: float) -> float:
    """Length of a line of text of a size; letters beyond ASCII count as a digit."""
    widths = (_WIDTHS[ord(one) - 32] if 32 <= ord(one) < 127 else 556 for one in words)
    return sum(widths) * size / 1000


class Page:
    """PDF operators, gathered."""

    def __init__(self, size: tuple[float, float] = A4) -> None:
        self.width, self.height = size
        self.images: list[NDArray[np.uint8]] = []
        self._lines: list[str] = ["0.6 w 1 J 1 j"]

    def add(self, operators: str) -> None:
        """Operators of one's own; what they change stays changed."""
        self._lines.append(operators)

    def text(
        self, x: float, y: float, words: str, size: float = 8.0, middle: bool = False, end: bool = False,
        upwards: bool = False,
    ) -> None:  # fmt: skip
        """Words that begin at x, y, or have their middle or end there; in Latin letters."""
        back = text_width(words, size) * (0.5 if middle else 1.0 if end else 0.0)
        x, y = (x, y - back) if upwards else (x - back, y)
        safe = words.encode("latin-1", "replace").decode("latin-1")
        for special in "\\()":
            safe = safe.replace(special, "\\" + special)
        turn = "0 1 -1 0" if upwards else "1 0 0 1"
        self.add(f"BT 0 g /F1 {size:g} Tf {turn} {x:.2f} {y:.2f} Tm ({safe}) Tj ET")

    def lines(self, paths: Sequence[Points], colour: str = BLACK, width: float = 0.7, dashed: bool = False) -> None:
        """A line through the points (n, 2) of each path."""
        drawn = [
            ("%.2f %.2f m" + " %.2f %.2f l" * (len(path) - 1)) % tuple(np.ravel(path).tolist())
            for path in paths
            if len(path) > 1
        ]
        if drawn:
            dashes = " 0 J [3 2] 0 d" if dashed else ""
            self.add(f"q {width:g} w{dashes} {colour} RG {' '.join(drawn)} S Q")

    def dots(self, points: Points, colour: str = BLUE, size: float = 2.5) -> None:
        """A dot at each of the points (n, 2): a line of no length with round ends."""
        if len(points):
            marks = ("%.2f %.2f m %.2f %.2f l " * len(points)) % tuple(np.hstack([points, points]).ravel().tolist())
            self.add(f"q 1 J {size:g} w {colour} RG {marks}S Q")

    def frame(self, x: float, y: float, width: float, height: float, colour: str = BLACK) -> None:
        """The sides of a rectangle."""
        self.add(f"q {colour} RG 0 J 0 j {x:.2f} {y:.2f} {width:.2f} {height:.2f} re S Q")

    def filled(self, boxes: Points, colour: str = BLUE) -> None:
        """Rectangles (n, 4): x, y, width, height."""
        if len(boxes):
            marks = ("%.2f %.2f %.2f %.2f re " * len(boxes)) % tuple(np.ravel(boxes).tolist())
            self.add(f"q {colour} rg {marks}f Q")

    @contextmanager
    def within(self, x: float, y: float, width: float, height: float) -> Iterator[None]:
        """What is drawn meanwhile shows within a rectangle only."""
        self.add(f"q {x:.2f} {y:.2f} {width:.2f} {height:.2f} re W n")
        yield
        self.add("Q")

    def picture(self, x: float, y: float, width: float, height: float, pixels: NDArray[np.uint8]) -> None:
        """A picture, its first row on top: grey (rows, columns), 0 is black, or coloured (rows, columns, 3)."""
        self.images.append(np.ascontiguousarray(pixels, np.uint8))
        self.add(f"q {width:.2f} 0 0 {height:.2f} {x:.2f} {y:.2f} cm /I{len(self.images)} Do Q")

    def operators(self) -> bytes:
        """All of them."""
        return "\n".join(self._lines).encode("latin-1")


def write_pages(file: IO[bytes], pages: Iterable[Page]) -> None:
    """The pages as a PDF file; each is forgotten before the next is asked for."""
    out = _Objects(file)
    catalogue, tree, font = out.number(), out.number(), out.number()
    kids = []
    for page in pages:
        names = []
        for number, image in enumerate(page.images, start=1):
            rows, columns = image.shape[:2]
            colours = b"DeviceGray" if image.ndim == 2 else b"DeviceRGB"
            what = b"/Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /%b /BitsPerComponent 8 "
            names.append(b"/I%d %d 0 R" % (number, out.stream(what % (columns, rows, colours), image.tobytes())))
        content = out.stream(b"", page.operators())
        pictures = b"/XObject << %b >> " % b" ".join(names) if names else b""
        kids.append(out.number())
        out.write(
            kids[-1],
            b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 %d %d] /Contents %d 0 R "
            b"/Resources << %b/Font << /F1 %d 0 R >> >> >>" % (tree, page.width, page.height, content, pictures, font),
        )
    out.write(catalogue, b"<< /Type /Catalog /Pages %d 0 R >>" % tree)
    listed = b" ".join(b"%d 0 R" % kid for kid in kids)
    out.write(tree, b"<< /Type /Pages /Kids [%b] /Count %d >>" % (listed, len(kids)))
    out.write(font, b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>")
    out.finish(catalogue)


class _Objects:
    """The objects of a file, and where they are."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._at = file, 0
        self._places: list[int] = []
        self._put(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")

    def number(self) -> int:
        """Of an object that is written later."""
        self._places.append(0)
        return len(self._places)

    def write(self, number: int, content: bytes) -> None:
        self._places[number - 1] = self._at
        self._put(b"%d 0 obj\n%b\nendobj\n" % (number, content))

    def stream(self, entries: bytes, content: bytes) -> int:
        """An object of many bytes; its number."""
        packed, number = zlib.compress(content), self.number()
        what = b"<< %b/Length %d /Filter /FlateDecode >>\nstream\n%b\nendstream"
        self.write(number, what % (entries, len(packed), packed))
        return number

    def finish(self, root: int) -> None:
        """The table of places, which a reader looks for first."""
        start, count = self._at, len(self._places) + 1
        self._put(b"xref\n0 %d\n0000000000 65535 f \n" % count)
        self._put(b"".join(b"%010d 00000 n \n" % place for place in self._places))
        self._put(b"trailer\n<< /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, root, start))

    def _put(self, content: bytes) -> None:
        self._file.write(content)
        self._at += len(content)
