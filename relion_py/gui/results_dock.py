"""Where the Results panel lives in the window: made when it is first seen, its libraries loaded beforehand.

The libraries that it draws with take a good part of a second to load; that happens in a thread after the
first paint, so that neither the start of the window nor the first click on a job waits for it.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from relion_py.gui.session import ProjectSession, ProjectView

if TYPE_CHECKING:
    from relion_py.gui.results_panel import ResultsPanel

START_AFTER_MS = 400
LIBRARIES = ("numpy", "scipy.ndimage", "pyqtgraph", "relion_py.gui.display.results_views")


class ResultsDock(QWidget):
    """Holds the Results panel of the selected job."""

    _loaded = Signal()

    def __init__(self, session: ProjectSession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.panel: ResultsPanel | None = None
        self._session = session
        self._job = ""
        self._started = False
        self._thread: threading.Thread | None = None
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(0, 0, 0, 0)
        self.setMinimumWidth(300)
        self._loaded.connect(self._make_panel)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if not self._started:
            self._started = True
            QTimer.singleShot(START_AFTER_MS, self, self._load)

    def _load(self) -> None:
        self._thread = threading.Thread(target=self._load_libraries, name="libraries", daemon=True)
        self._thread.start()

    def _load_libraries(self) -> None:
        for name in LIBRARIES:
            importlib.import_module(name)
        try:
            self._loaded.emit()
        except RuntimeError:  # the window was closed meanwhile
            return

    def _make_panel(self) -> None:
        from relion_py.gui.results_panel import ResultsPanel

        self.panel = ResultsPanel(ProjectView(self._session), self)
        self._box.addWidget(self.panel)
        self.panel.show_job(self._job)

    def show_job(self, name: str) -> None:
        """Show the results of this job from now on; "" for none."""
        self._job = name
        if self.panel is not None:
            self.panel.show_job(name)

    def stop(self) -> None:
        """Stop looking at files; the window is closing."""
        self._job = ""
        self._started = True
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        if self.panel is not None:
            self.panel.clear()
