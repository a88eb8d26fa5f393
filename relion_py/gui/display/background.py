"""Work beside the event loop: files are read in a thread, results arrive as Qt signals in the window's
thread.

Python's own daemon threads do the work: a QThreadPool that is destroyed with its window would wait for them
while it holds the interpreter's lock, which they need to finish.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from PySide6.QtCore import QCoreApplication, QObject, Signal, Slot
from PySide6.QtWidgets import QWidget

from relion_py.gui.display.errors import DisplayError

LONGEST_WAIT = 1.0
"""Seconds that a closing window waits for a read that cannot be interrupted; it ends on its own
afterwards."""


class _Signals(QObject):
    """Has no parent: a thread that still runs when the window goes keeps it alive."""

    done = Signal(int, object)
    failed = Signal(int, str)


class Background(QObject):
    """One worker thread for one window. Only the answer to the newest :meth:`start` is delivered.

    ``stop()`` (also called when the application quits) drops what waits and lets the running task end;
    windows call it, by :func:`stop_workers`, when they close.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._signals = _Signals()
        self._signals.done.connect(self._on_done)
        self._signals.failed.connect(self._on_failed)
        self._lock = threading.Lock()
        self._pending: tuple[int, Callable[[], Any]] | None = None
        self._thread: threading.Thread | None = None
        self._ticket = 0
        self._then: Callable[[Any], None] | None = None
        self._otherwise: Callable[[str], None] | None = None
        self.busy = False
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.stop)

    def start(
        self,
        function: Callable[[], Any],
        then: Callable[[Any], None],
        otherwise: Callable[[str], None],
    ) -> None:
        """Run ``function()`` in the thread; then ``then(result)`` or ``otherwise(sentence)`` here."""
        self._ticket += 1
        self._then, self._otherwise = then, otherwise
        self.busy = True
        with self._lock:
            self._pending = (self._ticket, function)
            if self._thread is None:
                signals = self._signals
                self._thread = threading.Thread(target=lambda: self._work(signals), daemon=True)
                self._thread.start()

    def _work(self, signals: _Signals) -> None:
        while True:
            with self._lock:
                if self._pending is None:
                    self._thread = None
                    return
                (ticket, function), self._pending = self._pending, None
            try:
                result = function()
            except DisplayError as error:
                _emit(signals.failed, ticket, str(error))
            except Exception as error:  # our own mistake: shown as such, never a dead window
                _emit(signals.failed, ticket, f"{type(error).__name__}: {error}")
            else:
                _emit(signals.done, ticket, result)

    @Slot()
    def stop(self) -> None:
        """Forget the newest task's answer and wait until the thread is idle."""
        self._ticket += 1
        self.busy = False
        with self._lock:
            self._pending = None
            thread = self._thread
        if thread is not None:
            thread.join(LONGEST_WAIT)

    @Slot(int, object)
    def _on_done(self, ticket: int, result: object) -> None:
        if ticket == self._ticket and self._then is not None:
            self.busy = False
            self._then(result)

    @Slot(int, str)
    def _on_failed(self, ticket: int, sentence: str) -> None:
        if ticket == self._ticket and self._otherwise is not None:
            self.busy = False
            self._otherwise(sentence)


def _emit(signal: Any, *values: object) -> None:
    with suppress(RuntimeError):  # the application is shutting down and has taken the signal along
        signal.emit(*values)


def stop_workers(widget: QWidget) -> None:
    """Stop every :class:`Background` below ``widget`` and every grid's reader."""
    from relion_py.gui.display.tile_grid import TileGrid

    for worker in widget.findChildren(Background):
        worker.stop()
    for grid in widget.findChildren(TileGrid):
        grid.stop()
