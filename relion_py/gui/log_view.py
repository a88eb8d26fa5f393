"""The stdout and stderr displays of the window, and the searchable window that a double-click opens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, Qt, QTimer, Signal
from PySide6.QtGui import QGuiApplication, QKeySequence, QMouseEvent, QShortcut, QTextCursor
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui import theme
from relion_py.gui.line_area import LineArea
from relion_py.gui.log_tail import LineFile, LogChange, LogTail

LINES_KEPT = 1500
LOOK_EVERY_MS = 700


class _Reader(QObject):
    """Polls log files in a thread of its own, so that a slow disc never holds the window."""

    arrived = Signal(int, object)  # generation, LogChange

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._busy = threading.Lock()

    def poll(self, generation: int, tail: LogTail) -> None:
        """Read what is new, unless the read before has not come back yet."""
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._read, args=(generation, tail), name="log", daemon=True).start()

    def _read(self, generation: int, tail: LogTail) -> None:
        try:
            change = tail.poll()
        finally:
            self._busy.release()
        if change is not None:
            try:
                self.arrived.emit(generation, change)
            except RuntimeError:  # the window was closed meanwhile
                return


class LogView(QPlainTextEdit):
    """The live tail of one log; `opened` is sent on a double-click."""

    opened = Signal(object)  # Path

    def __init__(self, name: str, error: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("stderr" if error else "stdout")
        self.setReadOnly(True)
        self.setUndoRedoEnabled(False)
        self.setMaximumBlockCount(LINES_KEPT)
        self.setFont(theme.fixed_font())
        self.setProperty("fixed_pitch", True)
        self.setPlaceholderText(f"{name} of the selected job is shown here; double-click opens all of it.")
        self.setAccessibleName(name)
        self.setToolTip(f"Live {name}. Double-click to open all of it in a window that can be searched.")
        self._generation = 0
        self._tail: LogTail | None = None
        self._reader = _Reader(self)
        self._reader.arrived.connect(self._show)
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_EVERY_MS)
        self._timer.timeout.connect(self.poll)

    @property
    def path(self) -> Path | None:
        return self._tail.path if self._tail else None

    def follow(self, path: Path | None) -> None:
        """Show the tail of this file from now on; None shows nothing."""
        if self._tail is not None and self._tail.path == path:
            self.poll()
            return
        self._generation += 1
        self.clear()
        self._tail = LogTail(path) if path is not None else None
        if path is None:
            self._timer.stop()
        else:
            self._timer.start()
            self.poll()

    def poll(self) -> None:
        """Ask for what is new."""
        if self._tail is not None:
            self._reader.poll(self._generation, self._tail)

    def _show(self, generation: int, change: LogChange) -> None:
        if generation != self._generation:
            return
        bar = self.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 2
        lines = change.lines[-LINES_KEPT:]
        if change.reset:
            self.setPlainText("\n".join(lines))
            at_end = True
        else:
            cursor = QTextCursor(self.document())
            cursor.movePosition(QTextCursor.MoveOperation.End)
            cursor.movePosition(
                QTextCursor.MoveOperation.StartOfBlock, QTextCursor.MoveMode.KeepAnchor
            )  # the unfinished line is written anew
            cursor.insertText("\n".join(lines))
        if at_end:
            bar.setValue(bar.maximum())

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        if self.path is not None:
            self.opened.emit(self.path)
        event.accept()


class LogWindow(QWidget):
    """All of a log, however long, with search; follows the file while it grows."""

    _told = Signal(object, object)

    def __init__(self, path: Path, title: str, error: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self.setWindowTitle(title)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(900, 600)
        self.lines = LineFile(path)
        self._working = False
        self._next: tuple[Callable[[], Any], Callable[[Any], None]] | None = None
        self._told.connect(self._answer)
        self.view = LineArea(self.lines.line, error, self)
        self.search = QLineEdit(self)
        self.search.setPlaceholderText("Search (Enter: next, Shift+Enter: previous)")
        self.search.setClearButtonEnabled(True)
        self.next_button, self.previous_button = QPushButton("Next", self), QPushButton("Previous", self)
        self.count_label = QLabel(self)
        self.count_label.setObjectName("quiet")
        bar = QHBoxLayout()
        bar.addWidget(self.search, 1)
        for button, backwards in ((self.previous_button, True), (self.next_button, False)):
            button.setObjectName("plain")
            button.clicked.connect(lambda _=False, b=backwards: self.search_text(b))
            bar.addWidget(button)
        bar.addWidget(self.count_label)
        column = QVBoxLayout(self)
        column.addLayout(bar)
        column.addWidget(self.view, 1)
        self.search.returnPressed.connect(
            lambda: self.search_text(bool(QGuiApplication.keyboardModifiers() & Qt.KeyboardModifier.ShiftModifier))
        )
        QShortcut(QKeySequence.StandardKey.Find, self, self.search.setFocus)
        QShortcut(QKeySequence("Ctrl+W"), self, self.close)
        self._first = True
        self._timer = QTimer(self)
        self._timer.setInterval(1000)
        self._timer.timeout.connect(self.look)
        self._timer.start()
        self.look()

    def look(self) -> None:
        """Index what the file has gained; the first time the end is shown."""
        self._in_background(self.lines.scan, self._scanned)

    def _in_background(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if self._working:
            self._next = (work, done)
            return
        self._working = True

        def run() -> None:
            result = work()
            try:
                self._told.emit(done, result)
            except RuntimeError:  # closed meanwhile
                return

        threading.Thread(target=run, name="log window", daemon=True).start()

    def _answer(self, callback: Callable[[Any], None], result: Any) -> None:
        self._working = False
        callback(result)
        if self._next is not None:
            work, done = self._next
            self._next = None
            self._in_background(work, done)

    def _scanned(self, grew: bool) -> None:
        if not grew:
            return
        at_end = self._first or self.view.is_at_end()
        self._first = False
        self.view.set_count(len(self.lines))
        self.count_label.setText(f"{len(self.lines):,} lines")
        if at_end:
            self.view.scroll_to_end()

    def search_text(self, backwards: bool = False) -> None:
        """Go to the next (previous) line that holds the text, round the end of the file if need be."""
        text = self.search.text()
        if not text or not len(self.lines):
            return
        here = self.view.current
        start = here - 1 if backwards else here + 1

        def work() -> int:
            found = self.lines.find(text, start, backwards)
            if found < 0:
                found = self.lines.find(text, len(self.lines) - 1 if backwards else 0, backwards)
            return found

        self._in_background(work, self._found)

    def _found(self, row: int) -> None:
        if row < 0:
            self.count_label.setText("not found")
            return
        self.view.set_count(len(self.lines))
        self.view.go_to(row)
        self.count_label.setText(f"line {row + 1:,} of {len(self.lines):,}")
