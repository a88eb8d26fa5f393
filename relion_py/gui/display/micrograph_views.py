"""Results that are looked at micrograph by micrograph: picks, motion, CTFs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QListWidget, QSplitter, QTabWidget, QWidget

from relion_py.gui.display.background import Background
from relion_py.gui.display.coordinates import PickSet, count_picks, read_pick_set
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.flow import Flow
from relion_py.gui.display.grid_window import GridPanel
from relion_py.gui.display.micrograph_window import MicrographPanel
from relion_py.gui.display.result_view import ResultView, filling, two_by_two
from relion_py.gui.display.results_data import JobFiles, Results, Trajectory, read_trajectory
from relion_py.gui.display.series import floats
from relion_py.gui.plots import ColumnPlot, HistogramPlot


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
