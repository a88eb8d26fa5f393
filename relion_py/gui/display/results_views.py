"""The view of a job's results: which one it is, and that of jobs that have no view of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from relion_py.gui.display.background import Background, stop_workers
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.micrograph_views import CtfView, MotionView, PicksView
from relion_py.gui.display.refinement_views import ClassesView, PostprocessView, RefinementView
from relion_py.gui.display.result_view import ResultView
from relion_py.gui.display.results_data import JobFiles, Results


class NodesView(ResultView):
    """Any other job: its output nodes with what they hold; the chosen one is shown by its viewer."""

    def __init__(self, job: JobFiles, parent: QWidget | None = None) -> None:
        super().__init__(job, parent)
        self.choice = QComboBox()
        self.choice.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.choice.currentIndexChanged.connect(self.show_node)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setAlignment(Qt.AlignmentFlag.AlignCenter)
        line = QHBoxLayout()
        line.addWidget(QLabel("output"))
        line.addWidget(self.choice, 1)
        self.box = QVBoxLayout(self)
        self.box.setContentsMargins(0, 0, 0, 0)
        self.box.addLayout(line)
        self.box.addWidget(self.message)
        self.viewer: QWidget | None = None
        self._worker = Background(self)
        self._shown: tuple[str, int, int] = ("", 0, 0)

    def fill(self, results: Results) -> Iterator[None]:
        before = self.choice.currentData()
        self.choice.blockSignals(True)
        self.choice.clear()
        for path, text in results.counts:
            self.choice.addItem(f"{Path(path).name}: {text}" if text else Path(path).name, path)
        at = self.choice.findData(before)
        self.choice.setCurrentIndex(at if at >= 0 else self._best(results))
        self.choice.blockSignals(False)
        yield
        self.show_node()

    def _best(self, results: Results) -> int:
        """Pictures before tables before documents."""
        worth = {".mrc": 0, ".mrcs": 0, ".star": 1}
        paths = [path for path, _ in results.counts]
        types = dict(self.job.outputs)
        return min(
            range(len(paths)),
            key=lambda i: (
                not (self.job.root / paths[i]).is_file(),
                worth.get(Path(paths[i]).suffix, 2) - ("classaverages" in types.get(paths[i], "")),
            ),
            default=0,
        )

    def show_node(self) -> None:
        """Show the chosen node, unless it is shown already and has not changed."""
        path = self.choice.currentData()
        if not path:
            return
        full = self.job.root / path
        try:
            status = full.stat()
            stamp = (str(path), status.st_mtime_ns, status.st_size)
        except OSError:
            self._tell(f"{path} is not there yet")
            return
        if stamp == self._shown:
            return
        self._shown = stamp
        self._worker.start(self._preparation(full), self._show, self._tell)

    def _preparation(self, full: Path) -> Callable[[], Any]:
        from relion_py.gui.display.choose import prepare

        node_type = dict(self.job.outputs).get(str(full.relative_to(self.job.root)), "")
        return lambda: prepare(full, self.job.root, node_type)

    def _remove_viewer(self) -> None:
        if self.viewer is not None:
            stop_workers(self.viewer)
            self.box.removeWidget(self.viewer)
            self.viewer.hide()
            self.viewer.setParent(None)
            self.viewer.deleteLater()
            self.viewer = None

    def _tell(self, sentence: str) -> None:
        self._remove_viewer()
        self.message.setText(sentence)
        self.message.show()

    def _show(self, builder: Any) -> None:
        try:
            viewer = builder(self)
        except DisplayError as error:
            self._tell(str(error))
            return
        self._remove_viewer()
        self.message.hide()
        viewer.setWindowFlags(Qt.WindowType.Widget)
        self.viewer = viewer
        self.box.addWidget(viewer, 1)
        viewer.show()

    def finish(self) -> None:
        path = self.choice.currentData()
        self._worker.stop()
        if path and self.viewer is None:
            try:
                self._show(self._preparation(self.job.root / path)())
            except DisplayError as error:
                self._tell(str(error))
        if self.viewer is not None:
            self.viewer.finish()  # type: ignore[attr-defined]


def make_view(job: JobFiles, results: Results) -> ResultView:
    """The view for a job's results."""
    if results.kind == "iterations":
        model = results.summaries[results.chosen].model if results.summaries else None
        several = model is not None and (model.dimensionality == 2 or len(model.classes) > 1)
        return ClassesView(job) if several else RefinementView(job)
    views: dict[str, type[ResultView]] = {
        "postprocess": PostprocessView,
        "picks": PicksView,
        "motion": MotionView,
        "ctf": CtfView,
    }
    return views.get(results.kind, NodesView)(job)
