"""Micrographs with their picks: list with counts, band-passed view, circles of the particle's diameter,
score threshold.

Reading and filtering happen in a worker thread; the view is at most ``VIEW_EDGE`` pixels on a side
(binned), which is more than a screen shows. Coordinates stay in pixels of the micrograph.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display import render
from relion_py.gui.display.background import Background, stop_workers
from relion_py.gui.display.coordinates import NO_PICKS, Picks, PickSet, count_picks
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.flow import Flow
from relion_py.gui.display.image_window import ScaleBar
from relion_py.gui.display.sources import Opened

VIEW_EDGE = 1400
GREEN = (80, 255, 80)
Prepared = tuple[NDArray[np.float32] | None, int, tuple[int, int], float, Picks, str]


def guess_extent(picks: Picks) -> tuple[int, int]:
    """(ny, nx) that holds all picks: the canvas where the micrograph itself is not there."""
    if len(picks) == 0:
        return 1024, 1024
    return int(picks.y.max()) + 100, int(picks.x.max()) + 100


class MicrographPanel(QWidget):
    """List of micrographs and the chosen one with its picks; used in a window and in the results panel."""

    def __init__(self, parent: QWidget | None = None, diameter: float = 0.0) -> None:
        super().__init__(parent)
        import pyqtgraph as pg

        self._pg = pg
        self.root = Path()
        self.picks: PickSet | None = None
        self.current = -1
        self._opened: Opened | None = None
        self._worker = Background(self)
        self._counter = Background(self)
        self._shown_picks = NO_PICKS
        self.list = QTreeWidget()
        self.list.setHeaderLabels(["micrograph", "picks"])
        self.list.setRootIsDecorated(False)
        self.list.setUniformRowHeights(True)
        header = self.list.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.list.setMinimumWidth(150)
        self.list.setTextElideMode(Qt.TextElideMode.ElideLeft)
        self.list.currentItemChanged.connect(self._on_choice)
        self.view = pg.GraphicsLayoutWidget()
        self.box = self._make_box()
        self.view.addItem(self.box)
        self.item = pg.ImageItem(axisOrder="row-major")
        self.box.addItem(self.item)
        self.circles = self._make_circles()
        self.box.addItem(self.circles)
        self._scale_bar = ScaleBar(self.box)
        self._delay = QTimer(self)
        self._delay.setSingleShot(True)
        self._delay.setInterval(150)
        self._delay.timeout.connect(self.reload)
        self._build_controls(diameter)
        self._lay_out()

    def _make_box(self) -> Any:
        """The view of pixels and circles."""
        return self._pg.ViewBox(lockAspect=True, invertY=True)

    def _make_circles(self) -> Any:
        return self._pg.ScatterPlotItem(pxMode=False, brush=None)

    def _build_controls(self, diameter: float) -> None:
        def spin(low: float, high: float, value: float, suffix: str, tip: str) -> QDoubleSpinBox:
            box = QDoubleSpinBox()
            box.setRange(low, high)
            box.setDecimals(1)
            box.setValue(value)
            box.setSuffix(suffix)
            box.setToolTip(tip)
            box.setKeyboardTracking(False)
            return box

        self.lowpass = spin(0, 500, 20, " Å", "finer detail than this is not shown; 0 is off")
        self.highpass = spin(0, 5000, 0, " Å", "coarser variation than this is not shown; 0 is off")
        self.sigma = spin(
            0, 20, 3, " σ", "black and white lie this many standard deviations from the mean; 0: min – max"
        )
        self.diameter = spin(1, 5000, diameter or 100, " Å", "diameter of the circles")
        self.lowpass.setSpecialValueText("off")
        self.highpass.setSpecialValueText("off")
        for box in (self.lowpass, self.highpass, self.sigma):
            box.valueChanged.connect(lambda _: self._delay.start())
        self.diameter.valueChanged.connect(self.draw_picks)
        self.show_picks = QCheckBox("picks")
        self.show_picks.setChecked(True)
        self.show_picks.toggled.connect(self.draw_picks)
        self.threshold = QSlider(Qt.Orientation.Horizontal)
        self.threshold.setRange(0, 1000)
        self.threshold.setMinimumWidth(80)
        self.threshold.setToolTip("hide picks whose rlnAutopickFigureOfMerit is lower")
        self.threshold.valueChanged.connect(self.draw_picks)
        self.threshold_text = QLabel("score ≥ –")

    def _lay_out(self) -> None:
        line = QGridLayout()
        for index, (label, widget) in enumerate(
            (
                ("low-pass", self.lowpass),
                ("high-pass", self.highpass),
                ("contrast", self.sigma),
                ("diameter", self.diameter),
            )
        ):
            row, column = divmod(index, 2)
            line.addWidget(QLabel(label), row, 2 * column)
            line.addWidget(widget, row, 2 * column + 1)
        line.setColumnStretch(4, 1)
        self.pick_line = second = QHBoxLayout()
        second.addWidget(self.show_picks)
        second.addWidget(self.threshold_text)
        second.addWidget(self.threshold, 1)
        self.message = QLabel()
        self.message.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        right = QWidget()
        box = QVBoxLayout(right)
        box.setContentsMargins(0, 0, 0, 0)
        box.addLayout(line)
        box.addLayout(second)
        box.addWidget(self.view, 1)
        box.addWidget(self.message)
        right.setMinimumHeight(260)
        self.splitter = Flow(self.list, right, sizes=(250, 650))
        self.splitter.setStretchFactor(0, 0)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.splitter)

    # -- contents

    def show_set(self, picks: PickSet, root: Path) -> None:
        """Show micrographs of a project at ``root``; the chosen one stays chosen where it is still there."""
        before = self.current_name
        self.picks, self.root = picks, root
        self._opened = Opened(root, keep=2)
        self.list.blockSignals(True)
        self.list.clear()
        items = []
        for index in range(len(picks.micrographs)):
            items.append(self._row(index))
        self.list.addTopLevelItems(items)
        self.list.blockSignals(False)
        if not items:
            self.message.setText("There are no micrographs yet")
            return
        names = [m.name for m in picks.micrographs]
        self.current = -1
        self.list.setCurrentItem(items[names.index(before) if before in names else 0])
        self.recount()

    def _row(self, index: int) -> QTreeWidgetItem:
        """The list's entry of a micrograph."""
        assert self.picks is not None
        name = self.picks.micrographs[index].name
        item = QTreeWidgetItem([Path(name).name, ""])
        item.setToolTip(0, name)
        item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight)
        return item

    def recount(self) -> None:
        """Count the picks of all micrographs in the background."""
        self._counter.start(self._counting(), self._show_counts, lambda sentence: None)

    def _counting(self) -> Callable[[], list[int]]:
        root, picks = self.root, self.picks
        return lambda: [] if picks is None else count_picks(root, picks)

    @property
    def current_name(self) -> str:
        """Name of the micrograph that is shown, "" where none is."""
        if self.picks is None or not 0 <= self.current < len(self.picks.micrographs):
            return ""
        return self.picks.micrographs[self.current].name

    def _show_counts(self, counts: list[int]) -> None:
        for row, count in enumerate(counts):
            item = self.list.topLevelItem(row)
            if item is not None:
                item.setText(1, str(count) if count >= 0 else "damaged")
        total = sum(c for c in counts if c > 0)
        self.list.setHeaderLabels(["micrograph", f"{total} picks"])

    def _on_choice(self) -> None:
        item = self.list.currentItem()
        self.current = -1 if item is None else self.list.indexOfTopLevelItem(item)
        self.reload()

    def reload(self) -> None:
        """Read, filter and show the chosen micrograph."""
        if self.picks is None or not self.current_name:
            return
        micrograph, picks, root, opened = (
            self.picks.micrographs[self.current],
            self.picks,
            self.root,
            self._opened,
        )
        assert opened is not None
        low, high, pixel_size = self.lowpass.value(), self.highpass.value(), picks.pixel_size
        self._worker.start(
            lambda: prepare(opened, root, picks, micrograph.name, self.current, pixel_size, low, high),
            self._show,
            self.message.setText,
        )

    def _show(self, prepared: Prepared) -> None:
        pixels, binning, (ny, nx), pixel_size, picks, problem = prepared
        self._shown_picks = picks
        self._image_shape = None if pixels is None else (ny, nx)
        if pixels is None:
            self.item.clear()
        else:
            limits = self.fixed_limits or render.contrast_limits(pixels, sigma=self.sigma.value())
            self.item.setImage(pixels, levels=limits)
            by, bx = pixels.shape
            # the coordinate of a pixel is that of its centre
            self.item.setRect(self._pg.QtCore.QRectF(-0.5, -0.5, bx * binning, by * binning))
        self._pixel_size = pixel_size
        if self._framed != self.current_name:  # other filters leave the zoom alone
            self._framed = self.current_name
            self._frame(nx, ny)
        self._scale_bar.show_for((ny, nx), pixel_size)
        self.draw_picks()
        text = f"{self.current_name}: {len(picks)} picks"
        if pixels is not None:
            text = f"{text}, {nx} × {ny}" + (f", {pixel_size:.4g} Å/px" if pixel_size else "")
        self.message.setText(problem or text)
        self.message.setToolTip(problem or text)

    def _frame(self, nx: int, ny: int) -> None:
        """Show the whole micrograph."""
        self.box.setRange(xRange=(-0.5, nx - 0.5), yRange=(-0.5, ny - 0.5), padding=0.01)

    _framed = ""
    _image_shape: tuple[int, int] | None = None
    _pixel_size = 0.0
    fixed_limits: tuple[float, float] | None = None
    """Pixel values shown as black and white, instead of the contrast in sigma."""
    minimum_score = -np.inf
    """Picks of lower figure of merit are never shown."""
    diameter_pixels = 0.0
    """Diameter of the circles in pixels of the micrograph, where it is not given in A."""

    # -- picks

    def score_range(self) -> tuple[float, float]:
        """Lowest and highest score of the shown picks; (nan, nan) where they have none."""
        scores = self._shown_picks.score[np.isfinite(self._shown_picks.score)]
        return (float(scores.min()), float(scores.max())) if scores.size else (np.nan, np.nan)

    def limit(self) -> float:
        """Smallest figure of merit that is shown."""
        low, high = self.score_range()
        if not np.isfinite(low):
            return self.minimum_score
        return max(self.minimum_score, low + self.threshold.value() / 1000 * (high - low))

    def visible_picks(self) -> NDArray[np.int64]:
        """Rows of the picks that pass the threshold; those without a score always do."""
        return np.flatnonzero(~(self._shown_picks.score < self.limit()))

    def draw_picks(self) -> None:
        """Draw the circles; scores colour them from red (low) to green (high)."""
        picks, rows = self._shown_picks, self.visible_picks()
        scored = bool(np.isfinite(self.score_range()[0]))
        self.threshold.setEnabled(scored)
        text = (
            f"score ≥ {self.limit():.3f}: {len(rows)} of {len(picks)}"
            if scored
            else f"{len(picks)} picks without score"
        )
        self.threshold_text.setText(text)
        if not self.show_picks.isChecked() or len(rows) == 0:
            self.circles.setData([], [])
            return
        self.circles.setData(picks.x[rows], picks.y[rows], size=2 * self.radius(), pen=self._pens(rows), brush=None)

    def radius(self) -> float:
        """Radius of the circles in pixels of the micrograph."""
        return (self.diameter_pixels or self.diameter.value() / (self._pixel_size or 1.0)) / 2

    def _pens(self, rows: NDArray[np.int64]) -> Any:
        """Outlines of the circles: by score, green where there is none."""
        low, high = self.score_range()
        if not np.isfinite(low) or high <= low:
            return self._pg.mkPen(GREEN, width=1.5)
        share = (self._shown_picks.score[rows] - low) / (high - low)
        colours = [(int(255 * (1 - v)), int(90 + 165 * v), 80) for v in np.linspace(0, 1, 16)]
        levels = [self._pg.mkPen(colour, width=1.5) for colour in (*colours, GREEN)]
        return [levels[int(min(15, max(0.0, v) * 15)) if np.isfinite(v) else 16] for v in share]

    def finish(self) -> None:
        """Show the chosen micrograph now; for picture export and tests."""
        self._delay.stop()
        self._worker.stop()
        if self.picks is None or self._opened is None or not self.current_name:
            return
        self._show(
            prepare(
                self._opened,
                self.root,
                self.picks,
                self.current_name,
                self.current,
                self.picks.pixel_size,
                self.lowpass.value(),
                self.highpass.value(),
            )
        )
        self._counter.stop()
        self._show_counts(self._counting()())


def prepare(
    opened: Opened,
    root: Path,
    picks: PickSet,
    name: str,
    index: int,
    pixel_size: float,
    lowpass: float,
    highpass: float,
) -> Prepared:
    """Pixels to show (binned, filtered), binning, full (ny, nx), pixel size in A, picks, and what went
    wrong."""
    chosen = picks.picks(root, picks.micrographs[index])
    try:
        image = opened.image(name)
    except DisplayError as error:
        return None, 1, guess_extent(chosen), pixel_size, chosen, str(error)
    pixel_size = pixel_size or opened.pixel_size(name)
    factor = render.binning(image.shape, VIEW_EDGE)
    small = render.bin_down(image, VIEW_EDGE)
    if pixel_size > 0:
        binned = pixel_size * factor
        # finer than the binned image can hold: nothing to filter
        small = render.band_pass(small, binned, lowpass if lowpass > 2 * binned else 0.0, highpass)
    ny, nx = image.shape
    return small, factor, (ny, nx), pixel_size, chosen, ""


class MicrographWindow(QWidget):
    """A window over micrographs and picks."""

    def __init__(
        self,
        path: Path,
        picks: PickSet,
        root: Path,
        diameter: float = 0.0,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        if not picks.micrographs:
            raise DisplayError(f"{path} names no micrographs")
        self.setWindowTitle(f"{path.name} – {len(picks.micrographs)} micrographs")
        self.panel = self._make_panel(diameter)
        self.buttons = step = QHBoxLayout()
        for text, by in (("Previous", -1), ("Next", 1)):
            button = QPushButton(text)
            button.clicked.connect(lambda _=False, d=by: self.step(d))
            step.addWidget(button)
        step.addStretch(1)
        box = QVBoxLayout(self)
        box.setContentsMargins(4, 4, 4, 4)
        box.addWidget(self.panel, 1)
        box.addLayout(step)
        self.resize(1080, 760)
        self.panel.show_set(picks, root)

    def _make_panel(self, diameter: float) -> MicrographPanel:
        return MicrographPanel(diameter=diameter)

    def step(self, by: int) -> None:
        """Go to the next (or previous) micrograph."""
        row = min(max(self.panel.current + by, 0), self.panel.list.topLevelItemCount() - 1)
        item = self.panel.list.topLevelItem(row)
        if item is not None:
            self.panel.list.setCurrentItem(item)

    def finish(self) -> None:
        """Wait until the micrograph is drawn."""
        self.panel.finish()

    def closeEvent(self, event: Any) -> None:
        stop_workers(self)
        super().closeEvent(event)
