"""The views of the Results panel: one widget per kind of result, each with ``build()`` and ``fill(results)``.

A view is made once per job and updated in place, so that zoom, sorting, selection and slice positions survive
while a job runs. Making and filling it goes in slices, ``yield`` ending each, between which the window answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QStackedWidget,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display.background import Background, stop_workers
from relion_py.gui.display.coordinates import PickSet, count_picks, read_pick_set
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.flow import Flow
from relion_py.gui.display.grid_window import GridPanel, GridWindow
from relion_py.gui.display.map_viewer import MapPanel
from relion_py.gui.display.micrograph_window import MicrographPanel
from relion_py.gui.display.results_data import (
    JobFiles,
    Results,
    Trajectory,
    read_trajectory,
    reference_path,
)
from relion_py.gui.display.series import Spectrum, floats
from relion_py.gui.display.sources import NamedImages, SurfaceImages
from relion_py.gui.plots import (
    AngularDistributionPlot,
    ChangesPlot,
    ClassDistributionPlot,
    ColumnPlot,
    FscPlot,
    GuinierPlot,
    HistogramPlot,
    ResolutionPlot,
)


class ResultView(QWidget):
    """Base of all views."""

    def __init__(self, job: JobFiles, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.job = job

    def build(self) -> Iterator[None]:
        """Make the widgets, one slice at a time. Called once, before anything is shown."""
        yield from ()

    def fill(self, results: Results) -> Iterator[None]:
        """Show what was collected, one slice at a time."""
        raise TypeError(f"{type(self).__name__} must say how results are shown")

    def finish(self) -> None:
        """Draw what is still being drawn in the background; for picture export and tests."""

    def stop(self) -> None:
        """Stop all background work; the view is about to go."""
        stop_workers(self)


def two_by_two(*plots: QWidget) -> QWidget:
    """Four (or fewer) widgets in two columns of equal width; the last of an odd number takes a whole row."""
    holder = QWidget()
    grid = QGridLayout(holder)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setSpacing(4)
    for index, plot in enumerate(plots):
        alone = index == len(plots) - 1 and index % 2 == 0
        grid.addWidget(plot, index // 2, index % 2, 1, 2 if alone else 1)
        grid.setColumnStretch(index % 2, 1)
        grid.setRowStretch(index // 2, 1)
    return holder


def filling(parent: QWidget, *children: QWidget) -> QVBoxLayout:
    """Lay ``children`` out below each other in ``parent``, the last one growing."""
    box = QVBoxLayout(parent)
    box.setContentsMargins(0, 0, 0, 0)
    for child in children[:-1]:
        box.addWidget(child)
    box.addWidget(children[-1], 1)
    return box


class RefinementView(ResultView):
    """One map: slices and surface, FSC, resolution, angular distribution and changes."""

    def build(self) -> Iterator[None]:
        self._map_path: Path | None = None
        self._map_time = 0.0
        self.map = MapPanel()
        yield
        self.fsc = FscPlot()
        yield
        self.resolution = ResolutionPlot()
        yield
        self.angles = AngularDistributionPlot()
        yield
        self.changes = ChangesPlot()
        yield
        plots = two_by_two(self.fsc, self.resolution, self.angles, self.changes)
        filling(self, Flow(self.map, plots, sizes=(560, 640)))

    def fill(self, results: Results) -> Iterator[None]:
        summary = results.summaries[results.chosen]
        model = summary.model
        number = summary.iteration.number
        if model is not None:
            curves = {"gold standard": model.fsc[0]} if model.fsc else {}
            if curves:
                heading = f"FSC, {summary.iteration.label}: {model.resolution:.2f} Å"
                self.fsc.show_curves(curves, heading if math.isfinite(model.resolution) else "")
            else:
                half = {f"class {i + 1}": _fsc_from_ssnr(c) for i, c in enumerate(model.ssnr)}
                self.fsc.show_curves(half, "SSNR / (1 + SSNR)", threshold=False)
        yield
        self.resolution.show_iterations(results.summaries, number)
        yield
        self.changes.show_iterations(results.summaries, number)
        yield
        if results.orientations is not None:
            self.angles.show_orientations(results.orientations)
            yield
        self._show_map(results.map_path)

    def _show_map(self, path: Path | None) -> None:
        if path is None:
            self.map.tell("The map of this iteration is not there")
            return
        try:
            time = path.stat().st_mtime
        except OSError:
            return
        if path != self._map_path or time != self._map_time:
            self._map_path, self._map_time = path, time
            self.map.load(path)

    def finish(self) -> None:
        if self._map_path is not None:
            self.map.load_now(self._map_path)
        self.map.finish()


def _fsc_from_ssnr(curve: Spectrum) -> Spectrum:
    """SSNR as a correlation, SSNR / (1 + SSNR), which fits on the axes of an FSC."""
    return Spectrum(curve.frequency, curve.values / (1.0 + curve.values))


class ClassesView(ResultView):
    """Several classes: grid with share and resolution, distribution, resolution and changes; maps in 3D."""

    def build(self) -> Iterator[None]:
        self.panel: GridPanel | None = None
        self._results: Results | None = None
        self.windows: list[QWidget] = []
        self.shares = ClassDistributionPlot()
        yield
        self.resolution = ResolutionPlot()
        yield
        self.changes = ChangesPlot()
        yield
        self.angles = AngularDistributionPlot()
        yield
        self.history = ClassDistributionPlot()
        yield
        self.surfaces = QCheckBox("surfaces")
        self.surfaces.setToolTip("show the classes' surfaces instead of their central slices")
        self.surfaces.setChecked(True)
        self.surfaces.toggled.connect(self._show_grid)
        self.open_button = QPushButton("Select classes …")
        self.open_button.setToolTip("open the classes in a window in which a selection can be saved")
        self.open_button.clicked.connect(self.open_window)
        self.left = QWidget()
        self.left.setMinimumHeight(300)
        self._left = QVBoxLayout(self.left)
        self._left.setContentsMargins(0, 0, 0, 0)
        line = QHBoxLayout()
        line.addWidget(self.open_button)
        line.addWidget(self.surfaces)
        line.addStretch(1)
        self._left.addLayout(line)
        self._last = QStackedWidget()
        self._last.addWidget(self.history)
        self._last.addWidget(self.angles)
        right = QWidget()
        filling(right, two_by_two(self.shares, self.resolution, self.changes, self._last))
        filling(self, Flow(self.left, right, sizes=(640, 560)))

    def fill(self, results: Results) -> Iterator[None]:
        self._results = results
        summary = results.summaries[results.chosen]
        if summary.model is not None:
            self.shares.show_shares([c.share for c in summary.model.classes])
        yield
        self.resolution.show_iterations(results.summaries, summary.iteration.number)
        yield
        self.changes.show_iterations(results.summaries, summary.iteration.number)
        yield
        self.history.show_iterations(results.summaries)
        yield
        self._last.setCurrentIndex(0 if results.orientations is None else 1)
        if results.orientations is not None:
            self.angles.show_orientations(results.orientations)
            yield
        self.surfaces.setVisible(summary.model is not None and summary.model.dimensionality == 3)
        self._show_grid()

    def _show_grid(self) -> None:
        results = self._results
        if results is None or results.images is None:
            return
        model = results.summaries[results.chosen].model
        if model is not None and model.dimensionality == 3:
            names = list(results.images.named)
            kind = SurfaceImages if self.surfaces.isChecked() else NamedImages
            if not isinstance(results.images.source, kind):
                results.images.source = kind(names, self.job.root)
                if self.panel is not None and self.panel.images is results.images:
                    self.panel.show_images(results.images, keep=True)
        if self.panel is None:
            self.panel = GridPanel(results.images, compact=True)
            self.panel.grid.set_selectable(False)
            self.panel.grid.activated.connect(self.open_class)
            self._left.addWidget(self.panel, 1)
        elif results.images is not self.panel.images:
            self.panel.show_images(results.images, keep=True)

    def open_class(self, index: int) -> None:
        """Open one class: its map, or its average at full size."""
        from relion_py.gui.display.choose import make_window
        from relion_py.gui.display.image_window import ImageWindow

        if self._results is None or self._results.images is None:
            return
        images, model = self._results.images, self._results.summaries[self._results.chosen].model
        try:
            path = reference_path(model.classes[index].reference, self.job.root, model.path) if model else None
            if model is not None and model.dimensionality == 3 and path is not None:
                window: QWidget = make_window(path, self.job.root)
            else:
                window = ImageWindow(images.source.image(index), images.pixel_size, f"class {index + 1}")
        except DisplayError:
            return
        self.windows.append(window)
        window.show()

    def open_window(self) -> None:
        """Open the classes of this iteration in a grid window with selection."""
        if self._results is not None and self._results.images is not None:
            window = GridWindow(self._results.images)
            self.windows.append(window)
            window.show()

    def finish(self) -> None:
        if self.panel is not None:
            self.panel.grid.wait_until_shown()


class PostprocessView(ResultView):
    """FSC curves, Guinier plot and the sharpened map."""

    def build(self) -> Iterator[None]:
        self._path: Path | None = None
        self.fsc = FscPlot()
        yield
        self.guinier = GuinierPlot()
        yield
        self.map = MapPanel()
        yield
        plots = QSplitter(Qt.Orientation.Vertical)
        plots.addWidget(self.fsc)
        plots.addWidget(self.guinier)
        filling(self, Flow(plots, self.map, sizes=(560, 640)))

    def fill(self, results: Results) -> Iterator[None]:
        result = results.postprocess
        if result is not None:
            self.fsc.show_curves(result.curves, f"FSC: final resolution {result.resolution:.2f} Å")
            yield
            self.guinier.show_result(result)
            yield
        self._path = results.map_path
        if results.map_path is not None:
            self.map.load(results.map_path)
        else:
            self.map.tell("The sharpened map is not there")

    def finish(self) -> None:
        if self._path is not None:
            self.map.load_now(self._path)
        self.map.finish()


class PicksView(ResultView):
    """Micrographs with picks and the number of picks per micrograph."""

    def build(self) -> Iterator[None]:
        self._worker = Background(self)
        self._path: Path | None = None
        self.panel = MicrographPanel()
        yield
        self.plot = ColumnPlot()
        yield
        self.plot.setMaximumHeight(220)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.addWidget(self.panel)
        splitter.addWidget(self.plot)
        splitter.setStretchFactor(0, 1)
        splitter.setSizes([430, 170])
        filling(self, splitter)

    def fill(self, results: Results) -> Iterator[None]:
        path = results.coordinates
        self._path = path
        if path is not None:
            self._worker.start(lambda: self._read(path), self._show, self.panel.message.setText)
        yield

    def _read(self, path: Path) -> tuple[PickSet, list[int]]:
        picks = read_pick_set(path, self.job.root)
        return picks, count_picks(self.job.root, picks)

    def _show(self, found: Any) -> None:
        picks, counts = found
        self.panel.show_set(picks, self.job.root)
        numbers = np.asarray(counts, dtype=np.float64)
        total = int(numbers[numbers > 0].sum())
        self.plot.show_points(
            np.arange(1, len(numbers) + 1.0),
            {"picks": numbers},
            "micrograph",
            "picks",
            f"{total} picks on {len(numbers)} micrographs",
        )

    def finish(self) -> None:
        self._worker.stop()
        if self._path is not None:
            try:
                self._show(self._read(self._path))
            except DisplayError as error:
                self.panel.message.setText(str(error))
        self.panel.finish()


class TableView(ResultView):
    """Base of views over a table of micrographs: points that one clicks to look at a micrograph."""

    columns: tuple[tuple[str, str], ...] = ()

    def __init__(self, job: JobFiles, parent: QWidget | None = None) -> None:
        super().__init__(job, parent)
        self.list = QListWidget()
        self.list.setMinimumWidth(140)
        self.list.setTextElideMode(Qt.TextElideMode.ElideLeft)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.currentRowChanged.connect(self.show_row)
        self.plots: dict[str, ColumnPlot | HistogramPlot] = {}
        self.table: Any = None

    def _fill_list(self, table: Any) -> None:
        before = self.list.currentRow()
        self.table = table
        names = [Path(name).name for name in table.strings("rlnMicrographName")]
        self.list.blockSignals(True)
        self.list.clear()
        self.list.addItems(names)
        self.list.blockSignals(False)
        if names:
            self.list.setCurrentRow(before if 0 <= before < len(names) else 0)

    def show_row(self, row: int) -> None:
        """Show one micrograph."""


class MotionView(TableView):
    """Motion correction: total motion of every micrograph and the trajectory of the chosen one.

    RELION writes the total as the length of the trajectory, both in pixels of the movie.
    """

    def build(self) -> Iterator[None]:
        self.worker = Background(self)
        self.trajectory = ColumnPlot()
        yield
        self.total = ColumnPlot()
        yield
        self.split = HistogramPlot()
        yield
        plots = two_by_two(self.trajectory, self.split, self.total)
        filling(self, Flow(self.list, plots, sizes=(200, 900)))

    def fill(self, results: Results) -> Iterator[None]:
        table = results.table
        if table is None:
            return
        rows = np.arange(1, len(table) + 1.0)
        names = {"total": "rlnAccumMotionTotal", "early": "rlnAccumMotionEarly", "late": "rlnAccumMotionLate"}
        series = {word: floats(table, label) for word, label in names.items() if label in table}
        if series:
            self.total.show_points(rows, series, "micrograph", "motion (px)", "Accumulated motion")
            yield
            first = next(iter(series.values()))
            self.split.show_values(first, "total motion (px)")
            yield
        self._fill_list(table)

    def show_row(self, row: int) -> None:
        if self.table is None or "rlnMicrographMetadata" not in self.table or row < 0:
            return
        path = self.job.root / self.table.strings("rlnMicrographMetadata")[row]
        self.worker.start(lambda: read_trajectory(path), self._show_trajectory, self.trajectory.set_heading)

    def finish(self) -> None:
        self.worker.stop()
        row = self.list.currentRow()
        if self.table is not None and row >= 0 and "rlnMicrographMetadata" in self.table:
            path = self.job.root / self.table.strings("rlnMicrographMetadata")[row]
            try:
                self._show_trajectory(read_trajectory(path))
            except DisplayError as error:
                self.trajectory.set_heading(str(error))

    def _show_trajectory(self, motion: Trajectory) -> None:
        self.trajectory.show_points(
            motion.x,
            {"motion": motion.y},
            "x (px)",
            "y (px)",
            f"Trajectory over {len(motion.frames)} frames",
            connect=True,
        )
        self.trajectory.setAspectLocked(True)


class CtfView(TableView):
    """CTF estimation: fits, defocus, astigmatism and maximum resolution over micrographs."""

    def build(self) -> Iterator[None]:
        self.defocus = ColumnPlot()
        yield
        self.resolution = ColumnPlot()
        yield
        self.histogram = HistogramPlot()
        yield
        self.merit = ColumnPlot()
        yield
        self.info = QLabel()
        self.info.setWordWrap(True)
        self.grid: GridPanel | None = None
        self.tabs = QTabWidget()
        self.tabs.addTab(two_by_two(self.defocus, self.resolution, self.histogram, self.merit), "over micrographs")
        right = QWidget()
        filling(right, self.info, self.tabs)
        filling(self, Flow(self.list, right, sizes=(200, 900)))

    def fill(self, results: Results) -> Iterator[None]:
        table = results.table
        if table is None:
            return
        rows = np.arange(1, len(table) + 1.0)
        u, v = floats(table, "rlnDefocusU") / 1e4, floats(table, "rlnDefocusV") / 1e4
        mean = (u + v) / 2
        self.defocus.show_points(
            rows, {"U": u, "V": v}, "micrograph", "defocus (µm)", f"Defocus {np.nanmean(mean):.2f} µm"
        )
        yield
        self.histogram.show_values(mean, "defocus (µm)")
        yield
        limit = floats(table, "rlnCtfMaxResolution")
        if np.isfinite(limit).any():
            self.resolution.show_points(
                rows,
                {"": limit},
                "micrograph",
                "Å",
                f"Maximum resolution, median {np.nanmedian(limit):.1f} Å",
            )
            yield
        merit = floats(table, "rlnCtfFigureOfMerit")
        self.merit.show_points(mean, {"": merit}, "defocus (µm)", "figure of merit", "Figure of merit against defocus")
        yield
        if results.images is not None:
            if self.grid is None:
                self.grid = GridPanel(results.images, compact=True)
                self.grid.grid.set_selectable(False)
                self.tabs.addTab(self.grid, "fits")
            else:
                self.grid.show_images(results.images, keep=True)
            yield
        self._fill_list(table)

    def show_row(self, row: int) -> None:
        if self.table is None or row < 0:
            return
        values = self.table.row(row)
        words = []
        for label, text, factor, unit in (
            ("rlnDefocusU", "defocus U", 1e-4, "µm"),
            ("rlnDefocusV", "V", 1e-4, "µm"),
            ("rlnDefocusAngle", "angle", 1.0, "°"),
            ("rlnCtfMaxResolution", "fit to", 1.0, "Å"),
            ("rlnCtfFigureOfMerit", "figure of merit", 1.0, ""),
        ):
            if label in values:
                words.append(f"{text} {float(values[label]) * factor:.4g} {unit}".strip())
        self.info.setText(f"{Path(values['rlnMicrographName']).name}: {', '.join(words)}")


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
