"""A grid of images that reads only what is seen: class averages, particles, micrographs, slices.

The widget paints placeholders at once and asks a worker thread for the tiles in view; tiles scrolled past
before they were read are never read. Sorting and selecting work on indices and touch no pixels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEventLoop, QObject, QPoint, QRect, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QFontMetrics, QImage, QPainter, QPen, QPixmap
from PySide6.QtWidgets import QAbstractScrollArea, QApplication, QToolTip, QWidget

from relion_py.gui.display import render
from relion_py.gui.display.background import LONGEST_WAIT
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.sources import ImageSource


@dataclass(frozen=True)
class Look:
    """How tiles are drawn. ``edge`` is the longer side of a tile in screen pixels; limits as in
    contrast_limits."""

    edge: int = 96
    sigma: float = 0.0
    black: float = 0.0
    white: float = 0.0
    percentile: float = 0.0
    colours: str = "grey"
    lowpass: float = 0.0
    highpass: float = 0.0
    pixel_size: float = 1.0


def make_tile(image: NDArray[Any], look: Look) -> QImage:
    """The picture of one image, ``look.edge`` pixels on its longer side, as the grid shows it."""
    if image.ndim == 3:
        picture = render.to_qimage(image)
    else:
        if look.lowpass > 0 or look.highpass > 0:
            image = render.band_pass(image, look.pixel_size, look.lowpass, look.highpass)
        small = render.bin_down(image, 2 * look.edge) if max(image.shape) > 2 * look.edge else image
        low, high = render.contrast_limits(small, look.sigma, look.black, look.white, look.percentile)
        table = None if look.colours == "grey" else render.colour_table(look.colours)
        picture = render.to_qimage(render.to_bytes(small, low, high), table)
    return picture.scaled(
        look.edge,
        look.edge,
        Qt.AspectRatioMode.KeepAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )


class _Signals(QObject):
    """Has no parent: a reader that still runs when the window goes keeps it alive."""

    tile_read = Signal(int, int, object)


class _Reader:
    """Reads wanted tiles in a thread until none is wanted; the widget refills the queue at any time.

    A new look or source gets a new reader; the old one finds an empty queue and ends.
    """

    def __init__(self, source: ImageSource | None, look: Look, version: int, signals: _Signals) -> None:
        self.source, self.look, self.version, self.signals = source, look, version, signals
        self.wanted: deque[int] = deque()
        self.in_hand: set[int] = set()  # taken from the queue, not yet delivered
        self.thread: threading.Thread | None = None

    def want(self, indices: Sequence[int]) -> None:
        """Read these next, in this order, and nothing else."""
        self.wanted.clear()
        self.wanted.extend(indices)
        if indices and (self.thread is None or not self.thread.is_alive()):
            self.thread = threading.Thread(target=self._run, daemon=True)
            self.thread.start()

    def stop(self) -> None:
        """Read no more; returns when the tile in hand is done."""
        self.wanted.clear()
        if self.thread is not None:
            self.thread.join(LONGEST_WAIT)

    def _run(self) -> None:
        while True:
            try:
                index = self.wanted.popleft()
            except IndexError:
                return
            self.in_hand.add(index)
            tile = self._tile(index)
            with suppress(RuntimeError):  # the application is shutting down and has taken the signal along
                self.signals.tile_read.emit(self.version, index, tile)

    def _tile(self, index: int) -> QImage | str:
        assert self.source is not None
        try:
            return make_tile(self.source.image(index), self.look)
        except DisplayError as error:
            return str(error)
        except Exception as error:  # a damaged image must not end the reader
            return f"{type(error).__name__}: {error}"


class TileGrid(QAbstractScrollArea):
    """Scrolling grid over an :class:`ImageSource`, with captions, selection and an order of one's own.

    Selection is kept by image number (not by place), so it survives sorting. A click selects or deselects
    one tile, shift-click the range from the last click, as in ``relion_display``.
    """

    selection_changed = Signal()
    activated = Signal(int)  # image number, on double-click
    menu_wanted = Signal(int, QPoint)  # image number, global position

    MARGIN = 4

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._source: ImageSource | None = None
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._captions: Callable[[int], Sequence[str]] | None = None
        self._caption_lines = 0
        self._look = Look()
        self._version = 0
        self._signals = _Signals()
        self._signals.tile_read.connect(self._on_tile)
        self._reader = _Reader(None, self._look, 0, self._signals)
        self._tiles: OrderedDict[int, QPixmap | str] = OrderedDict()
        self._selected: set[int] = set()
        self._selectable = True
        self._last_clicked = 0
        self._current = -1
        self._columns = 0  # 0: as many as fit
        self.tiles_read = 0  # how many images were read in all
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setMouseTracking(False)
        self.setMinimumSize(120, 90)

    # -- contents

    def set_source(
        self,
        source: ImageSource | None,
        captions: Callable[[int], Sequence[str]] | None = None,
        caption_lines: int = 0,
        keep_selection: bool = False,
    ) -> None:
        """Show ``source``; ``captions(number)`` gives up to ``caption_lines`` lines below each tile."""
        self._source, self._captions, self._caption_lines = source, captions, caption_lines
        n = 0 if source is None else len(source)
        self._order = np.arange(n)
        if not keep_selection:
            self._selected.clear()
        self._selected = {i for i in self._selected if i < n}
        self._current = -1
        self._forget_tiles()

    def set_order(self, order: NDArray[np.int64] | Sequence[int]) -> None:
        """Show the images in this order: image numbers (from 0), each at most once."""
        self._order = np.asarray(order, dtype=np.int64)
        self._update_scroll_bars()
        self.verticalScrollBar().setValue(0)
        self.viewport().update()

    @property
    def order(self) -> NDArray[np.int64]:
        """Image numbers in the order shown."""
        return self._order

    def set_look(self, look: Look) -> None:
        """Draw all tiles in this way from now on."""
        if look != self._look:
            self._look = look
            self._forget_tiles()

    @property
    def look(self) -> Look:
        """How tiles are drawn."""
        return self._look

    def set_edge(self, edge: int) -> None:
        """Set the tiles' longer side, in screen pixels."""
        self.set_look(replace(self._look, edge=max(16, edge)))

    def set_columns(self, columns: int) -> None:
        """Fix the number of columns; 0 lets the window's width decide."""
        self._columns = columns
        self._update_scroll_bars()
        self.viewport().update()

    def _forget_tiles(self) -> None:
        self._version += 1
        self._reader.wanted.clear()
        self._reader = _Reader(self._source, self._look, self._version, self._signals)
        self._tiles.clear()
        self._update_scroll_bars()
        self.viewport().update()

    # -- selection

    def set_selectable(self, selectable: bool) -> None:
        """Allow or forbid selecting by clicks."""
        self._selectable = selectable

    @property
    def selected(self) -> list[int]:
        """Selected image numbers in ascending order."""
        return sorted(self._selected)

    def select(self, numbers: Sequence[int] | set[int]) -> None:
        """Make ``numbers`` (image numbers) the selection."""
        n = 0 if self._source is None else len(self._source)
        self._selected = {int(i) for i in numbers if 0 <= int(i) < n}
        self.viewport().update()
        self.selection_changed.emit()

    def invert_selection(self) -> None:
        """Select what is shown and not selected, deselect the rest."""
        self.select({int(i) for i in self._order} - self._selected)

    def select_from(self, number: int, above: bool) -> None:
        """Add the image and all that are shown above (or below) it, as relion_display's menu does."""
        place = int(np.flatnonzero(self._order == number)[0])
        part = self._order[: place + 1] if above else self._order[place:]
        self.select(self._selected | {int(i) for i in part})

    # -- layout

    def _tile_size(self) -> QSize:
        if self._source is None or len(self._source) == 0:
            return QSize(self._look.edge, self._look.edge)
        ny, nx = self._source.shape
        longest = max(ny, nx, 1)
        return QSize(max(1, self._look.edge * nx // longest), max(1, self._look.edge * ny // longest))

    def _cell_size(self) -> QSize:
        tile = self._tile_size()
        text = self._caption_lines * QFontMetrics(self.font()).height()
        return QSize(tile.width() + 2 * self.MARGIN, tile.height() + 2 * self.MARGIN + text)

    def columns(self) -> int:
        """Number of columns now."""
        return self._columns or max(1, self.viewport().width() // self._cell_size().width())

    def _rows(self) -> int:
        return -(-len(self._order) // self.columns())

    def _update_scroll_bars(self) -> None:
        cell = self._cell_size()
        height = self._rows() * cell.height()
        bar = self.verticalScrollBar()
        bar.setRange(0, max(0, height - self.viewport().height()))
        bar.setSingleStep(cell.height())
        bar.setPageStep(max(cell.height(), self.viewport().height() // cell.height() * cell.height()))
        width = self.columns() * cell.width()
        across = self.horizontalScrollBar()
        across.setRange(0, max(0, width - self.viewport().width()) if self._columns else 0)
        across.setPageStep(self.viewport().width())

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._update_scroll_bars()

    def _cell_at(self, place: int) -> QRect:
        cell, columns = self._cell_size(), self.columns()
        x = place % columns * cell.width() - self.horizontalScrollBar().value()
        y = place // columns * cell.height() - self.verticalScrollBar().value()
        return QRect(QPoint(x, y), cell)

    def place_at(self, point: QPoint) -> int:
        """Place (not image number) under a point of the viewport, or -1."""
        cell, columns = self._cell_size(), self.columns()
        column = (point.x() + self.horizontalScrollBar().value()) // cell.width()
        row = (point.y() + self.verticalScrollBar().value()) // cell.height()
        place = row * columns + column
        return place if 0 <= column < columns and 0 <= place < len(self._order) else -1

    def visible_places(self) -> range:
        """Places in view."""
        height, columns = self._cell_size().height(), self.columns()
        first = self.verticalScrollBar().value() // height * columns
        rows = self.viewport().height() // height + 2
        return range(first, min(len(self._order), first + rows * columns))

    # -- painting

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self.viewport())
        self._paint(painter, self.visible_places())
        painter.end()
        self._request_missing()

    def _paint(self, painter: QPainter, places: range) -> None:
        tile_size, selected_pen = self._tile_size(), QPen(QColor(220, 40, 40), 3)
        line = QFontMetrics(self.font()).height()
        for place in places:
            index = int(self._order[place])
            cell = self._cell_at(place)
            frame = QRect(cell.topLeft() + QPoint(self.MARGIN, self.MARGIN), tile_size)
            tile = self._tiles.get(index)
            if isinstance(tile, QPixmap):
                at = frame.center() - QPoint(tile.width() // 2, tile.height() // 2)
                painter.drawPixmap(max(frame.x(), at.x()), max(frame.y(), at.y()), tile)
            else:
                painter.fillRect(frame, QColor(128, 128, 128, 60))
                if tile:
                    painter.setPen(QColor(200, 60, 60))
                    flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWrapAnywhere
                    painter.drawText(frame.adjusted(2, 2, -2, -2), flags, "cannot be read")
            if index in self._selected:
                painter.setPen(selected_pen)
                painter.drawRect(frame.adjusted(-2, -2, 1, 1))
            elif index == self._current:
                painter.setPen(QPen(self.palette().highlight().color(), 2))
                painter.drawRect(frame.adjusted(-2, -2, 1, 1))
            if self._captions is not None and self._caption_lines:
                painter.setPen(self.palette().text().color())
                top = frame.bottom() + 2
                for text in list(self._captions(index))[: self._caption_lines]:
                    box = QRect(cell.x(), top, cell.width(), line)
                    short = QFontMetrics(self.font()).elidedText(text, Qt.TextElideMode.ElideMiddle, box.width() - 2)
                    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, short)
                    top += line

    def _request_missing(self) -> None:
        if self._source is None:
            return
        reader = self._reader
        shown = (int(self._order[place]) for place in self.visible_places())
        reader.want([i for i in shown if i not in self._tiles and i not in reader.in_hand])

    def _on_tile(self, version: int, index: int, tile: QImage | str) -> None:
        self.tiles_read += 1
        if version != self._version:
            return
        self._reader.in_hand.discard(index)
        self._tiles[index] = tile if isinstance(tile, str) else QPixmap.fromImage(tile)
        keep = max(2000, 4 * len(self.visible_places()))
        while len(self._tiles) > keep:
            self._tiles.popitem(last=False)
        self.viewport().update()

    def wait_until_shown(self, seconds: float = 20.0) -> bool:
        """Process events until every tile in view has been read; for picture export and tests."""
        loop = QEventLoop()
        step = QTimer()
        step.setInterval(5)
        waited = 0.0
        while waited < seconds:
            if all(int(self._order[p]) in self._tiles for p in self.visible_places()):
                return True
            self._request_missing()
            step.timeout.connect(loop.quit)
            step.start()
            loop.exec()
            waited += 0.005
        return False

    def stop(self) -> None:
        """Read no more; returns once the reader is idle."""
        self._reader.stop()

    def closeEvent(self, event: Any) -> None:
        self.stop()
        super().closeEvent(event)

    # -- mouse and keys

    def mousePressEvent(self, event: Any) -> None:
        place = self.place_at(event.position().toPoint())
        if place < 0:
            return
        index = int(self._order[place])
        self._current = index
        if event.button() == Qt.MouseButton.RightButton:
            self.menu_wanted.emit(index, event.globalPosition().toPoint())
        elif event.button() == Qt.MouseButton.LeftButton and self._selectable:
            if event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
                first, last = sorted((self._last_clicked, place))
                self._selected |= {int(i) for i in self._order[first : last + 1]}
            else:
                self._selected ^= {index}
            self.selection_changed.emit()
        self._last_clicked = place
        self.viewport().update()

    def mouseDoubleClickEvent(self, event: Any) -> None:
        place = self.place_at(event.position().toPoint())
        if place >= 0 and event.button() == Qt.MouseButton.LeftButton:
            if self._selectable:  # the first click of the two has toggled it: toggle it back
                self._selected ^= {int(self._order[place])}
                self.selection_changed.emit()
            self.activated.emit(int(self._order[place]))
            self.viewport().update()

    def wheelEvent(self, event: Any) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.set_edge(int(self._look.edge * (1.15 if event.angleDelta().y() > 0 else 1 / 1.15)))
        else:
            super().wheelEvent(event)

    def viewportEvent(self, event: Any) -> bool:
        if event.type() == event.Type.ToolTip:
            place = self.place_at(event.pos())
            if place >= 0:
                index = int(self._order[place])
                tile = self._tiles.get(index)
                lines = list(self._captions(index)) if self._captions else []
                text = "\n".join([f"image {index + 1}", *lines, *([tile] if isinstance(tile, str) else [])])
                QToolTip.showText(event.globalPos(), text, self)
            return True
        return super().viewportEvent(event)

    def sizeHint(self) -> QSize:
        screen = QApplication.primaryScreen()
        width = 900 if screen is None else min(900, screen.availableSize().width() - 80)
        return QSize(width, 620)
