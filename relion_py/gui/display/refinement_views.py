"""Results of refinements, classifications and post-processing: maps, classes and their curves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.flow import Flow
from relion_py.gui.display.grid_window import GridPanel, GridWindow
from relion_py.gui.display.map_viewer import MapPanel
from relion_py.gui.display.result_view import ResultView, filling, two_by_two
from relion_py.gui.display.results_data import Results, reference_path
from relion_py.gui.display.series import Spectrum
from relion_py.gui.display.sources import NamedImages, SurfaceImages
from relion_py.gui.plots import (
    AngularDistributionPlot,
    ChangesPlot,
    ClassDistributionPlot,
    FscPlot,
    GuinierPlot,
    ResolutionPlot,
)


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
