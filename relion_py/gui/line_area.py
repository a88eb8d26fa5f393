"""A display of very many lines that asks only for those on screen.

Qt's list and table views keep something for each row, which takes seconds for a log of millions of lines.
"""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QRect, Qt
from PySide6.QtGui import QColor, QGuiApplication, QKeyEvent, QKeySequence, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QAbstractScrollArea, QWidget

from relion_py.gui import theme

MARGIN = 4


class LineArea(QAbstractScrollArea):
    """Shows `count` lines of which `line(number)` gives the text; whole lines can be selected and copied."""

    def __init__(self, line: Callable[[int], str], error: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._line = line
        self._error = error
        self._count = 0
        self._widest = 0  # pixels
        self._anchor = self._current = -1
        self.setFont(theme.fixed_font())
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.viewport().setCursor(Qt.CursorShape.IBeamCursor)

    @property
    def count(self) -> int:
        return self._count

    @property
    def current(self) -> int:
        """The line that was found or clicked last; -1 if none was."""
        return self._current

    def set_count(self, count: int) -> None:
        """There are this many lines now."""
        self._count = count
        self._set_ranges()
        self.viewport().update()

    def go_to(self, number: int) -> None:
        """Mark this line and bring it to the middle of the display."""
        self._anchor = self._current = number
        self.verticalScrollBar().setValue(number - self._rows() // 2)
        self.viewport().update()

    def scroll_to_end(self) -> None:
        self.verticalScrollBar().setValue(self.verticalScrollBar().maximum())

    def is_at_end(self) -> bool:
        return self.verticalScrollBar().value() >= self.verticalScrollBar().maximum()

    def selected(self) -> range:
        """The numbers of the selected lines."""
        if self._current < 0:
            return range(0)
        first, last = sorted((self._anchor, self._current))
        return range(first, min(last + 1, self._count))

    def copy(self) -> None:
        """Put the selected lines on the clipboard."""
        QGuiApplication.clipboard().setText("\n".join(self._line(number) for number in self.selected()))

    def _rows(self) -> int:
        return max(1, self.viewport().height() // self.fontMetrics().lineSpacing())

    def _set_ranges(self) -> None:
        rows = self._rows()
        self.verticalScrollBar().setRange(0, max(0, self._count - rows))
        self.verticalScrollBar().setPageStep(rows)
        spare = self._widest + 2 * MARGIN - self.viewport().width()
        self.horizontalScrollBar().setRange(0, max(0, spare))
        self.horizontalScrollBar().setPageStep(self.viewport().width())
        self.horizontalScrollBar().setSingleStep(20)

    def resizeEvent(self, event: object) -> None:
        at_end = self.is_at_end()
        self._set_ranges()
        if at_end:
            self.scroll_to_end()

    def paintEvent(self, event: QPaintEvent) -> None:
        colours = theme.current()
        painter = QPainter(self.viewport())
        painter.fillRect(event.rect(), QColor(colours.panel))
        painter.setFont(self.font())
        metrics = self.fontMetrics()
        height, first = metrics.lineSpacing(), self.verticalScrollBar().value()
        left = MARGIN - self.horizontalScrollBar().value()
        selected = self.selected()
        for row in range(self._rows() + 1):
            number = first + row
            if number >= self._count:
                break
            text = self._line(number)
            chosen = number in selected
            if chosen:
                painter.fillRect(QRect(0, row * height, self.viewport().width(), height), QColor(colours.selection))
            painter.setPen(QColor(colours.selection_text if chosen else colours.error if self._error else colours.text))
            painter.drawText(left, row * height + metrics.ascent(), text)
            self._widest = max(self._widest, metrics.horizontalAdvance(text))
        painter.end()
        if self._widest + 2 * MARGIN - self.viewport().width() > self.horizontalScrollBar().maximum():
            self._set_ranges()

    def _number_at(self, event: QMouseEvent) -> int:
        row = int(event.position().y()) // self.fontMetrics().lineSpacing()
        return max(0, min(self.verticalScrollBar().value() + row, self._count - 1))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self._count:
            self._current = self._number_at(event)
            if not event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
                self._anchor = self._current
            self.viewport().update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton and self._count:
            self._current = self._number_at(event)
            self.viewport().update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        bar = self.verticalScrollBar()
        steps = {
            Qt.Key.Key_Up: -1,
            Qt.Key.Key_Down: 1,
            Qt.Key.Key_PageUp: -bar.pageStep(),
            Qt.Key.Key_PageDown: bar.pageStep(),
            Qt.Key.Key_Home: -self._count,
            Qt.Key.Key_End: self._count,
        }
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy()
        elif (step := steps.get(Qt.Key(event.key()))) is not None:
            bar.setValue(bar.value() + step)
        else:
            super().keyPressEvent(event)
