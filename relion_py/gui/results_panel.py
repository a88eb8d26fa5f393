"""The Results panel: what the selected job has found so far, without any click, kept up to date while it
runs.

The panel looks at the job's directory every two seconds while it is visible, in a worker thread; plots and
grids are updated in place. Viewers and pyqtgraph are imported when the first job is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display.background import Background

if TYPE_CHECKING:
    from relion_py.gui.display.result_view import ResultView
    from relion_py.gui.display.results_data import Collector, JobFiles, Results

POLL_MILLISECONDS = 2000
SLICE_MILLISECONDS = 1


class ResultsPanel(QWidget):
    """Results of one job of a project (``relion_py.pipeline.project.Project``, or anything like it)."""

    updated = Signal()  # something new is shown

    def __init__(self, project: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.project = project
        self.job: JobFiles | None = None
        self.view: ResultView | None = None
        self.results: Results | None = None
        self._collector: Collector | None = None
        self._worker = Background(self)
        self._slices: Iterator[None] | None = None  # of making and filling the view
        self._built = False
        self._turn = QTimer(self)
        self._turn.setInterval(SLICE_MILLISECONDS)
        self._turn.timeout.connect(self._next_slice)
        self.title = QLabel("Select a job to see its results")
        self.title.setWordWrap(True)
        self.title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setPageStep(1)
        self.slider.setToolTip("iteration")
        self.slider.valueChanged.connect(self._on_slider)
        self.follow = QCheckBox("follow")
        self.follow.setToolTip("show each new iteration as it is written")
        self.follow.setChecked(True)
        self.follow.toggled.connect(self._on_follow)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._iteration_bar = QWidget()
        bar = QHBoxLayout(self._iteration_bar)
        bar.setContentsMargins(0, 0, 0, 0)
        bar.addWidget(QLabel("iteration"))
        bar.addWidget(self.slider, 1)
        bar.addWidget(self.follow)
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(4, 4, 4, 4)
        self._box.addWidget(self.title)
        self._box.addWidget(self._iteration_bar)
        self._box.addWidget(self.message)
        self._area = QScrollArea()
        self._area.setWidgetResizable(True)
        self._area.setFrameShape(QScrollArea.Shape.NoFrame)
        self._area.hide()
        self._box.addWidget(self._area, 1)
        self._box.addStretch(0)
        self._iteration_bar.hide()
        self.message.hide()
        self._delay = QTimer(self)
        self._delay.setSingleShot(True)
        self._delay.setInterval(120)
        self._delay.timeout.connect(lambda: self.refresh(force=True))
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.timeout.connect(self.refresh)

    def show_job(self, job_name: str) -> None:
        """Show the results of a job ("Refine3D/job007/" or its alias); "" shows nothing."""
        if not job_name:
            self.clear()
            return
        from relion_py.gui.display.results_data import Collector, job_files

        try:
            job = job_files(self.project, job_name)
        except Exception as error:  # a job that has gone meanwhile: say so, as the project words it
            self.clear()
            self._tell(str(error))
            return
        if self.job is not None and job.name == self.job.name and job.kind == self.job.kind:
            self._take(job)
            self.refresh()
            return
        self.clear()
        self.job = job
        self._collector = Collector(job)
        self.title.setText(self._heading())
        self._tell("Looking …")
        self.refresh(force=True)
        if self.isVisible():
            self._timer.start()

    def _take(self, job: JobFiles) -> None:
        self.job = job
        if self._collector is not None:
            self._collector.job = job
        if self.view is not None:
            self.view.job = job

    def _heading(self, more: str = "") -> str:
        assert self.job is not None
        text = f"<b>{self.job.name.rstrip('/')}</b> – {self.job.status}"
        return f"{text} – {more}" if more else text

    def clear(self) -> None:
        """Show nothing and stop looking."""
        self._timer.stop()
        self._delay.stop()
        self._worker.stop()
        self._turn.stop()
        self._slices, self._built = None, False
        if self.view is not None:
            self.view.stop()
            self._area.takeWidget()
            self._area.hide()
            self.view.deleteLater()
        self.job, self.view, self.results, self._collector = None, None, None, None
        self.follow.setChecked(True)
        self._iteration_bar.hide()
        self.title.setText("Select a job to see its results")
        self._tell("")

    def _tell(self, sentence: str) -> None:
        self.message.setText(sentence)
        self.message.setVisible(bool(sentence))

    # -- collecting

    def refresh(self, force: bool = False) -> None:
        """Look whether there is anything new (or collect anyway with ``force``), in the worker thread."""
        if self.job is None or self._collector is None or (self._worker.busy and not force):
            return
        if not force:
            from relion_py.gui.display.results_data import job_files

            try:
                self._take(job_files(self.project, self.job.name))
            except Exception as error:  # deleted while it was shown
                self.clear()
                self._tell(str(error))
                return
        collector, wanted = self._collector, self.wanted_iteration()
        before = None if force or self.results is None else self.results.stamp
        self._worker.start(lambda: collector.collect(before, wanted), self._show, self._tell)

    def wanted_iteration(self) -> int:
        """Index of the iteration that is to be shown; -1 is the newest."""
        return -1 if self.follow.isChecked() or self.results is None else self.slider.value()

    def _show(self, results: Results | None) -> None:
        if results is None or self.job is None:
            return
        self.results = results
        nothing = results.kind == "iterations" and not results.summaries
        if results.problem and (nothing or results.kind != "iterations"):
            self._tell(results.problem)
            self.title.setText(self._heading())
            if nothing or results.kind != "nodes":
                self.updated.emit()
                return
        else:
            self._tell("")
        self._update_slider(results)
        if self.view is None:
            from relion_py.gui.display.results_views import make_view

            self.view = make_view(self.job, results)
            self._built = False
        if self._built or self._slices is None:  # a view that is being made will be filled with these results
            self._slices = self._work(self.view)
            self._turn.start()
        more = ""
        if results.summaries:
            from relion_py.gui.display.results_data import iteration_line

            more = iteration_line(results.summaries[results.chosen])
        self.title.setText(self._heading(more))
        self.title.setToolTip(results.problem)

    def _work(self, view: ResultView) -> Iterator[None]:
        """Make the view where it is not made yet, and fill it with the newest results."""
        if not self._built:
            yield from self._building(view)
        if self.results is not None:
            yield from view.fill(self.results)
        self.updated.emit()

    def _building(self, view: ResultView) -> Iterator[None]:
        yield from view.build()
        self._built = True
        self._area.setWidget(view)
        self._area.show()
        yield

    def _next_slice(self) -> None:
        """Go on with the view for one slice; the event loop comes round between two of them."""
        if self._slices is None or next(self._slices, self._turn) is self._turn:
            self._slices = None
            self._turn.stop()

    def _update_slider(self, results: Results) -> None:
        self._iteration_bar.setVisible(len(results.summaries) > 1)
        self.slider.blockSignals(True)
        self.slider.setRange(0, max(0, len(results.summaries) - 1))
        self.slider.setValue(max(0, results.chosen))
        self.slider.blockSignals(False)

    def _on_slider(self, value: int) -> None:
        newest = value == self.slider.maximum()
        self.follow.blockSignals(True)
        self.follow.setChecked(newest)
        self.follow.blockSignals(False)
        self._delay.start()

    def _on_follow(self, following: bool) -> None:
        if following and self.job is not None:
            self.refresh(force=True)

    def finish(self) -> None:
        """Collect and draw everything now; for pictures and tests."""
        if self._collector is None:
            return
        self._delay.stop()
        self._worker.stop()
        self._show(self._collector.collect(None, self.wanted_iteration()))
        while self._slices is not None:
            self._next_slice()
        if self.view is not None:
            self.view.finish()

    # -- life

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        if self.job is not None:
            self.refresh()
            self._timer.start()

    def hideEvent(self, event: Any) -> None:
        self._timer.stop()
        super().hideEvent(event)

    def closeEvent(self, event: Any) -> None:
        self.clear()
        super().closeEvent(event)
