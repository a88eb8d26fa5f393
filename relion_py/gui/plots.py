"""Curves that people judge a reconstruction by: FSC, Guinier, resolution and changes per iteration,
classes, angles.

Every plot is a widget with one ``show_...`` method that may be called again and again while a job runs.
This module imports pyqtgraph; windows import it when the first plot is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import QEvent
from PySide6.QtGui import QFont, QFontMetrics, QPalette
from PySide6.QtWidgets import QSizePolicy, QWidget

from relion_py.gui.display.series import (
    IterationSummary,
    Orientations,
    PostProcess,
    Spectrum,
    angular_histogram,
    crossing,
)

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f")
GOLD_STANDARD = 0.143
"""Rosenthal and Henderson (2003), JMB 333:721, section on the 0.143 criterion."""


class ResolutionAxis(pg.AxisItem):
    """Axis over 1/A (or 1/A^2 with ``squared``) whose ticks read as resolution in A."""

    def __init__(self, orientation: str = "bottom", squared: bool = False) -> None:
        super().__init__(orientation)
        self.squared = squared
        self.enableAutoSIPrefix(False)

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        texts = []
        for value in values:
            frequency = math.sqrt(max(value, 0.0)) if self.squared else value
            texts.append("∞" if abs(frequency) < 1e-9 else "" if frequency < 0 else f"{1 / frequency:.3g}")
        return texts


def set_title(plot: pg.PlotWidget, text: str) -> None:
    """Set a plot's title, shortened to the plot's width (the tool tip has all of it)."""
    font = QFont(plot.font())
    font.setPointSize(9)
    room = max(60, plot.width() - 56)
    short = QFontMetrics(font).elidedText(text, pg.QtCore.Qt.TextElideMode.ElideRight, room)
    plot.setToolTip(text)
    label = plot.getPlotItem().titleLabel
    hint = pg.QtCore.Qt.SizeHint

    def keep_within_plot() -> None:
        # by itself a label takes its text's width as its least width and pushes the plot out of its widget
        size = label.itemRect()
        label.setMinimumSize(0, size.height())
        label._sizeHint = {
            hint.MinimumSize: (0, size.height()),
            hint.PreferredSize: (size.width(), size.height()),
            hint.MaximumSize: (-1, -1),
        }
        label.updateGeometry()

    label.updateMin = keep_within_plot
    plot.setTitle(short, color=plot.palette().color(QPalette.ColorRole.Text).name(), size="9pt")


def iteration_range(numbers: Sequence[int]) -> tuple[float, float]:
    """Limits of an axis over iterations: at least two iterations wide, whole numbers."""
    low, high = min(numbers, default=0), max(numbers, default=1)
    return (low - 1, high + 1) if high - low < 2 else (low, high)


class Plot(pg.PlotWidget):
    """A plot in the window's own colours (light or dark), with mouse zoom limited to the data."""

    def __init__(
        self,
        title: str,
        bottom: str,
        left: str,
        bottom_axis: pg.AxisItem | None = None,
        parent: QWidget | None = None,
    ) -> None:
        axes = {"bottom": bottom_axis} if bottom_axis is not None else {}
        super().__init__(parent=parent, axisItems=axes)
        self._labels = {"bottom": bottom, "left": left}
        self._heading = title
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(150, 150)
        self.getPlotItem().hideButtons()
        self._legend: pg.LegendItem | None = None
        self._apply_palette()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "_heading"):
            self._apply_palette()

    def _apply_palette(self) -> None:
        palette = self.palette()
        text = palette.color(QPalette.ColorRole.Text)
        self.setBackground(palette.color(QPalette.ColorRole.Base))
        for name in ("bottom", "left"):
            axis = self.getAxis(name)
            axis.setPen(text)
            axis.setTextPen(text)
            axis.enableAutoSIPrefix(False)
            self.setLabel(name, self._labels[name], color=text.name())
        self.set_heading(self._heading)
        self.showGrid(x=True, y=True, alpha=0.15)

    def set_heading(self, text: str) -> None:
        """Change the title."""
        self._heading = text
        set_title(self, text)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        if hasattr(self, "_heading"):
            set_title(self, self._heading)

    def start(self, legend: bool = True) -> None:
        """Remove all curves before new ones are drawn."""
        self.clear()
        if self._legend is not None:
            self._legend.clear()
        elif legend:
            ground = self.palette().color(QPalette.ColorRole.Base)
            ground.setAlpha(190)
            self._legend = self.addLegend(offset=(-6, 4), labelTextSize="8pt", brush=ground, verSpacing=-5)
            self._legend.setLabelTextColor(self.palette().color(QPalette.ColorRole.Text))

    def curve(self, x: NDArray[Any], y: NDArray[Any], name: str, index: int, dots: bool = False) -> None:
        """Add a curve in the ``index``-th colour; not-finite points are gaps."""
        colour = COLOURS[index % len(COLOURS)]
        marks = {"symbol": "o", "symbolSize": 5, "symbolBrush": colour, "symbolPen": None} if dots else {}
        self.plot(
            np.asarray(x, dtype=np.float64),
            np.asarray(y, dtype=np.float64),
            name=name or None,
            pen=pg.mkPen(colour, width=2),
            connect="finite",
            **marks,
        )

    def line(self, value: float, vertical: bool = False, label: str = "") -> None:
        """Add a dashed line at ``value``, with a small label."""
        text = self.palette().color(QPalette.ColorRole.Text)
        text.setAlpha(140)
        pen = pg.mkPen(text, width=1, style=pg.QtCore.Qt.PenStyle.DashLine)
        options = {"position": 0.14, "color": text, "movable": False} if label else None
        self.addItem(
            pg.InfiniteLine(value, angle=90 if vertical else 0, pen=pen, label=label or None, labelOpts=options)
        )


class FscPlot(Plot):
    """Fourier shell correlations against resolution."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("FSC", "resolution (Å)", "FSC", ResolutionAxis(), parent)

    def show_curves(self, curves: Mapping[str, Spectrum], heading: str = "", threshold: bool = True) -> None:
        """Draw named curves; the title tells where the first crosses 0.143 unless ``heading`` is given."""
        self.start(legend=len(curves) > 1)
        top = 0.0
        for index, (name, curve) in enumerate(curves.items()):
            self.curve(curve.frequency, curve.values, name, index)
            top = max(top, float(np.nanmax(curve.frequency, initial=0.0)))
        if threshold:
            self.line(GOLD_STANDARD, label="0.143")
        self.line(0.0)
        if curves and not heading:
            name, first = next(iter(curves.items()))
            at = crossing(first, GOLD_STANDARD)
            heading = f"FSC: {name} crosses 0.143 at {at:.2f} Å" if math.isfinite(at) else "FSC"
        self.set_heading(heading or "FSC")
        self.setYRange(-0.1, 1.02, padding=0)
        if top > 0:
            self.setXRange(0, top, padding=0.01)


class GuinierPlot(Plot):
    """Logarithm of the amplitudes against 1/d^2."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Guinier", "resolution (Å)", "ln(amplitude)", ResolutionAxis(squared=True), parent)

    def show_result(self, result: PostProcess) -> None:
        """Draw the curves of a post-processing result."""
        self.start()
        for index, (name, (squared, values)) in enumerate(result.guinier.items()):
            self.curve(squared, values, name, index)
        b = result.b_factor
        self.set_heading(f"Guinier plot: B-factor {b:.1f} Å²" if math.isfinite(b) else "Guinier plot")
        self.getPlotItem().autoRange()


class ResolutionPlot(Plot):
    """Resolution of each iteration, with the iteration that is looked at marked."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Resolution per iteration", "iteration", "resolution (Å)", None, parent)

    def show_iterations(self, summaries: Sequence[IterationSummary], chosen: int | None = None) -> None:
        """Draw one point per iteration (best class where there are several); coarse resolutions are at the
        top."""
        self.start(legend=False)
        numbers, values = [], []
        for summary in summaries:
            if summary.iteration.number is None or summary.model is None:
                continue
            of_classes = [c.resolution for c in summary.model.classes if math.isfinite(c.resolution)]
            best = summary.model.resolution
            if not math.isfinite(best) and of_classes:
                best = min(of_classes)
            numbers.append(summary.iteration.number)
            values.append(best)
        self.curve(np.asarray(numbers), np.asarray(values), "", 0, dots=True)
        last = [v for v in values if math.isfinite(v)]
        self.set_heading(f"Resolution at {numbers[-1]}: {values[-1]:.2f} Å" if last else "Resolution per iteration")
        if chosen is not None:
            self.line(chosen, vertical=True)
        if last:
            self.setYRange(0, max(last) * 1.05, padding=0)
        self.setXRange(*iteration_range(numbers), padding=0.04)


class ChangesPlot(Plot):
    """How much the assignments still change, and how accurate they can be, per iteration."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Changes per iteration", "iteration", "degrees, Å", None, parent)

    def show_iterations(self, summaries: Sequence[IterationSummary], chosen: int | None = None) -> None:
        """Draw changes in angles, offsets and classes and the estimated accuracies."""
        self.start()
        progress = [s.progress for s in summaries if s.progress is not None and s.iteration.number is not None]
        numbers = np.asarray([p.iteration for p in progress])
        curves = {
            "angles change (°)": [p.change_angles for p in progress],
            "offsets change (Å)": [p.change_offsets for p in progress],
            "angular accuracy (°)": [p.accuracy_angles for p in progress],
            "offset accuracy (Å)": [p.accuracy_offsets for p in progress],
            "angular step (°)": [p.angular_step for p in progress],
            "classes change (%)": [100 * p.change_classes for p in progress],
        }
        for index, (name, values) in enumerate(curves.items()):
            array = np.asarray(values, dtype=np.float64)
            if np.any(np.isfinite(array)) and (np.nanmax(np.abs(array)) > 0 or index < 2):
                self.curve(numbers, array, name, index, dots=True)
        if chosen is not None:
            self.line(chosen, vertical=True)
        self.getPlotItem().autoRange()
        self.setXRange(*iteration_range([int(n) for n in numbers]), padding=0.04)
        self.setYRange(0, max(1e-3, self.getPlotItem().viewRange()[1][1]), padding=0)


class ClassDistributionPlot(Plot):
    """Share of the particles of each class over the iterations, or as bars for one iteration."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Class distribution", "class", "share (%)", None, parent)

    def show_shares(self, shares: Sequence[float]) -> None:
        """Draw one bar per class; ``shares`` are fractions."""
        self.start(legend=False)
        self._labels["bottom"] = "class"
        self.setLabel("bottom", "class")
        numbers = np.arange(1, len(shares) + 1)
        heights = 100 * np.nan_to_num(np.asarray(shares, dtype=np.float64))
        self.addItem(pg.BarGraphItem(x=numbers, height=heights, width=0.8, brush=COLOURS[0], pen=None))
        self.set_heading(f"Class distribution ({int((heights > 1).sum())} of {len(shares)} above 1 %)")
        self.setXRange(0.4, len(shares) + 0.6, padding=0)
        self.setYRange(0, max(1.0, float(heights.max(initial=0.0)) * 1.05), padding=0)

    def show_iterations(self, summaries: Sequence[IterationSummary]) -> None:
        """Draw the share of each class against the iteration (for a few classes)."""
        self.start()
        self._labels["bottom"] = "iteration"
        self.setLabel("bottom", "iteration")
        with_model = [s for s in summaries if s.model is not None and s.iteration.number is not None]
        count = max((len(s.model.classes) for s in with_model if s.model), default=0)
        numbers = np.asarray([s.iteration.number for s in with_model])
        for index in range(count):
            values = [
                100 * s.model.classes[index].share if s.model and index < len(s.model.classes) else math.nan
                for s in with_model
            ]
            name = f"class {index + 1}" if count <= 10 else ""
            self.curve(numbers, np.asarray(values), name, index, dots=len(numbers) < 30)
        self.set_heading("Class distribution per iteration")
        self.getPlotItem().autoRange()
        self.setXRange(*iteration_range([int(n) for n in numbers]), padding=0.04)


class _TiltAxis(pg.AxisItem):
    """Axis over -cos(tilt) whose ticks are tilt angles."""

    def tickValues(self, minimum: float, maximum: float, size: float) -> list[tuple[float, list[float]]]:
        angles = np.arange(0, 181, 30)
        return [(0.1, [float(v) for v in -np.cos(np.radians(angles))])]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        return [f"{math.degrees(math.acos(max(-1.0, min(1.0, -v)))):.0f}" for v in values]


class AngularDistributionPlot(pg.PlotWidget):
    """Number of particles per direction as an equal-area map over rot and tilt."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent=parent, axisItems={"left": _TiltAxis("left")})
        self.setMinimumSize(150, 150)
        self.getPlotItem().hideButtons()
        self._image = pg.ImageItem(axisOrder="row-major")
        self._image.setColorMap(pg.colormap.get("viridis"))
        self.addItem(self._image)
        text = self.palette().color(QPalette.ColorRole.Text)
        self.setBackground(self.palette().color(QPalette.ColorRole.Base))
        for name, label in (("bottom", "rot (°)"), ("left", "tilt (°)")):
            self.getAxis(name).setPen(text)
            self.getAxis(name).setTextPen(text)
            self.getAxis(name).enableAutoSIPrefix(False)
            self.setLabel(name, label, color=text.name())
        self.getAxis("bottom").setTickSpacing(60, 30)
        self._heading = "Angular distribution: no angles yet"
        set_title(self, self._heading)
        self.setXRange(-180, 180, padding=0)
        self.setYRange(-1, 1, padding=0)
        self.getPlotItem().invertY(True)
        self.setMouseEnabled(False, False)

    def show_orientations(self, orientations: Orientations, only_class: int = 0) -> None:
        """Draw the histogram of the particles (of one class where ``only_class`` > 0)."""
        counts = angular_histogram(orientations, only_class)
        self._image.setImage(counts, levels=(0.0, max(1.0, float(counts.max()))))
        self._image.setRect(pg.QtCore.QRectF(-180.0, -1.0, 360.0, 2.0))
        self.setXRange(-180, 180, padding=0)
        self.setYRange(-1, 1, padding=0)
        seen, total = int(counts.sum()), len(orientations.rot)
        of = f" of {total}" if only_class else ""
        self._heading = f"Angular distribution: {seen}{of} particles"
        set_title(self, self._heading)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        if hasattr(self, "_heading"):
            set_title(self, self._heading)


class HistogramPlot(Plot):
    """Distribution of one column of numbers."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("", "", "count", None, parent)

    def show_values(self, values: NDArray[np.float64], name: str, heading: str = "") -> None:
        """Draw the histogram of ``values`` (not-finite ones left out) and tell mean and median in the
        title."""
        self.start(legend=False)
        finite = values[np.isfinite(values)]
        self._labels["bottom"] = name
        self.setLabel("bottom", name)
        if finite.size == 0:
            self.set_heading(heading or name)
            return
        counts, edges = np.histogram(finite, bins=int(np.clip(math.sqrt(finite.size) * 1.5, 8, 100)))
        width = edges[1] - edges[0]
        self.addItem(pg.BarGraphItem(x=edges[:-1] + width / 2, height=counts, width=width, brush=COLOURS[0], pen=None))
        self.set_heading(heading or f"{name}: mean {finite.mean():.4g}, median {np.median(finite):.4g}")
        self.getPlotItem().autoRange()


class ColumnPlot(Plot):
    """Values of one or more columns against row number or another column."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("", "", "", None, parent)

    def show_points(
        self,
        x: NDArray[np.float64],
        series: Mapping[str, NDArray[np.float64]],
        bottom: str,
        left: str,
        heading: str = "",
        connect: bool = False,
    ) -> None:
        """Draw points (joined with ``connect``), one colour per series."""
        self.start(legend=len(series) > 1)
        self._labels.update(bottom=bottom, left=left)
        self.setLabel("bottom", bottom)
        self.setLabel("left", left)
        for index, (name, values) in enumerate(series.items()):
            if connect:
                self.curve(x, values, name if len(series) > 1 else "", index, dots=len(x) < 200)
                continue
            colour = COLOURS[index % len(COLOURS)]
            self.plot(x, values, name=name, pen=None, symbol="o", symbolSize=5, symbolBrush=colour, symbolPen=None)
        self.set_heading(heading)
        self.getPlotItem().autoRange()
