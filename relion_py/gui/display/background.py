"""Work beside the event loop: files are read in a worker thread, results arrive as Qt signals in the
window's thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from PySide6.QtCore import QCoreApplication, QObject, QRunnable, QThreadPool, Signal, Slot
from PySide6.QtWidgets import QWidget

from relion_py.gui.display.errors import DisplayError


class _Signals(QObject):
    done = Signal(int, object)
    failed = Signal(int, str)


class _Task(QRunnable):
    def __init__(self, ticket: int, function: Callable[[], Any], signals: _Signals) -> None:
        super().__init__()
        self.ticket, self.function, self.signals = ticket, function, signals

    def run(self) -> None:
        try:
            result = self.function()
        except DisplayError as error:
            self._tell(self.signals.failed, str(error))
        except Exception as error:  # our own mistake: shown as such, never a dead window
            self._tell(self.signals.failed, f"{type(error).__name__}: {error}")
        else:
            self._tell(self.signals.done, result)

    def _tell(self, signal: Any, value: object) -> None:
        with suppress(RuntimeError):  # the window was closed meanwhile and took its signals along
            signal.emit(self.ticket, value)


class Background(QObject):
    """One worker thread for one window. Only the answer to the newest :meth:`start` is delivered.

    ``stop()`` (also called when the application quits) drops what waits and lets the running task end;
    windows call it, by :func:`stop_workers`, when they close, so no thread outlives a window.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._pool = QThreadPool(self)
        self._pool.setMaxThreadCount(1)
        self._signals = _Signals(self)
        self._signals.done.connect(self._on_done)
        self._signals.failed.connect(self._on_failed)
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
        self._pool.clear()
        self._pool.start(_Task(self._ticket, function, self._signals))

    @Slot()
    def stop(self) -> None:
        """Forget the newest task's answer and wait until the thread is idle."""
        self._ticket += 1
        self.busy = False
        self._pool.clear()
        self._pool.waitForDone(5000)

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


def stop_workers(widget: QWidget) -> None:
    """Stop every :class:`Background` below ``widget`` and every grid's reader."""
    from relion_py.gui.display.tile_grid import TileGrid

    for worker in widget.findChildren(Background):
        worker.stop()
    for grid in widget.findChildren(TileGrid):
        grid.stop()
