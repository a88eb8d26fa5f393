"""Viewer of a three-dimensional map: three linked orthogonal slices and the lit surface.

Slices are drawn as RELION draws them: x to the right, y downwards from the first row. A click in one slice
moves the other two. Grey limits are shared by all slices and are set in standard deviations of the whole
map or as values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QPoint, QPointF, QRect, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QFont, QImage, QPainter, QPen, QPixmap
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display import render, surface
from relion_py.gui.display.background import Background, stop_workers
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.map_data import MapData, load_map

AXES = ("z", "y", "x")


class SliceView(QWidget):
    """One slice of a map, with cross-hair, scale bar and the slice number; a click or drag moves the
    cross-hair."""

    moved = Signal(int, int, int)  # axis of this view (0 z, 1 y, 2 x), row, column
    stepped = Signal(int, int)  # axis, number of slices by the wheel

    def __init__(self, axis: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.axis = axis
        self._image: QImage | None = None
        self._shape = (1, 1)
        self._cross = (0, 0)
        self._caption = ""
        self._pixel_size = 0.0
        self._scaled: QPixmap | None = None
        self.show_cross = True
        self.setMinimumSize(110, 110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        names = {0: "xy", 1: "xz", 2: "zy"}
        self.setToolTip(f"{names[axis]} slice: click to move the other slices, wheel to step")

    def sizeHint(self) -> QSize:
        return QSize(300, 300)

    def show_slice(self, levels: NDArray[np.uint8], cross: tuple[int, int], caption: str, pixel_size: float) -> None:
        """Show grey levels (rows, columns), with the cross-hair at (row, column)."""
        self._image = render.to_qimage(levels)
        self._shape = (levels.shape[0], levels.shape[1])
        self._cross, self._caption, self._pixel_size = cross, caption, pixel_size
        self._scaled = None
        self.update()

    def _frame(self) -> tuple[QRect, float]:
        rows, columns = self._shape
        scale = min(self.width() / columns, self.height() / rows)
        width, height = int(columns * scale), int(rows * scale)
        return QRect((self.width() - width) // 2, (self.height() - height) // 2, width, height), scale

    def resizeEvent(self, event: Any) -> None:
        self._scaled = None
        super().resizeEvent(event)

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(24, 24, 24))
        if self._image is None:
            return
        frame, scale = self._frame()
        if self._scaled is None:
            mode = Qt.TransformationMode.SmoothTransformation if scale < 4 else Qt.TransformationMode.FastTransformation
            self._scaled = QPixmap.fromImage(self._image).scaled(
                frame.size(), Qt.AspectRatioMode.IgnoreAspectRatio, mode
            )
        painter.drawPixmap(frame.topLeft(), self._scaled)
        if self.show_cross:
            x = frame.x() + (self._cross[1] + 0.5) * scale
            y = frame.y() + (self._cross[0] + 0.5) * scale
            painter.setPen(QPen(QColor(255, 210, 60, 130), 1, Qt.PenStyle.DashLine))
            painter.drawLine(QPointF(x, frame.top()), QPointF(x, frame.bottom()))
            painter.drawLine(QPointF(frame.left(), y), QPointF(frame.right(), y))
        self._draw_legend(painter, frame, scale)

    def _draw_legend(self, painter: QPainter, frame: QRect, scale: float) -> None:
        font = QFont(self.font())
        font.setPointSizeF(max(7.5, font.pointSizeF() * 0.9))
        painter.setFont(font)
        painter.setPen(QColor(255, 255, 255))
        painter.drawText(frame.adjusted(5, 3, -5, -3), Qt.AlignmentFlag.AlignTop, self._caption)
        length = render.scale_bar(self._shape[1] * self._pixel_size)
        if length <= 0:
            return
        pixels = int(length / self._pixel_size * scale)
        left, bottom = frame.left() + 8, frame.bottom() - 8
        painter.fillRect(left, bottom - 3, pixels, 3, QColor(255, 255, 255))
        painter.drawText(QPoint(left, bottom - 6), render.describe_length(length))

    def _point(self, position: QPointF) -> tuple[int, int]:
        frame, scale = self._frame()
        rows, columns = self._shape
        row = int((position.y() - frame.y()) / scale)
        column = int((position.x() - frame.x()) / scale)
        return min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)

    def mousePressEvent(self, event: Any) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self._image is not None:
            self.moved.emit(self.axis, *self._point(event.position()))

    def mouseMoveEvent(self, event: Any) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton and self._image is not None:
            self.moved.emit(self.axis, *self._point(event.position()))

    def wheelEvent(self, event: Any) -> None:
        self.stepped.emit(self.axis, 1 if event.angleDelta().y() > 0 else -1)


class SurfaceView(QWidget):
    """The lit surface; drag to turn, wheel to zoom. Drawn coarsely while it turns and finely when it
    rests."""

    threshold_changed = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._volume: NDArray[np.float32] | None = None
        self._coarse: NDArray[np.float32] | None = None
        self._threshold = 0.0
        self.rot, self.tilt, self.zoom = 25.0, 20.0, 1.0
        self._picture: QImage | None = None
        self._grabbed: QPointF | None = None
        self._worker = Background(self)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(120)
        self._rest.timeout.connect(self.draw_fine)
        self.setMinimumSize(110, 110)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setToolTip("surface: drag to turn, wheel to zoom, right-drag to change the threshold")

    def sizeHint(self) -> QSize:
        return QSize(300, 300)

    def show_volume(self, small: NDArray[np.float32], threshold: float) -> None:
        """Show the surface of a (binned) volume (nz, ny, nx) at ``threshold``; the view direction stays."""
        self._volume = small
        self._coarse, _ = surface.reduce_volume(small, 48)
        self._threshold = threshold
        if self._picture is None:
            self.zoom = surface.fitting_zoom(small, threshold)
        self.draw_fine()

    def set_threshold(self, threshold: float) -> None:
        """Draw at another threshold."""
        if threshold != self._threshold:
            self._threshold = threshold
            self.draw_coarse()

    def draw_coarse(self) -> None:
        """A quick picture now, a fine one when nothing has changed for a moment."""
        if self._coarse is None:
            return
        self._show(
            surface.render_surface(
                self._coarse, self._threshold, self.rot, self.tilt, 120, 0, self.zoom, self._lighting()
            )
        )
        self._rest.start()

    def draw_fine(self) -> None:
        """Draw at the widget's own resolution, in the worker thread."""
        if self._volume is None:
            return
        volume, size = self._volume, min(420, max(160, min(self.width(), self.height())))
        arguments = (self._threshold, self.rot, self.tilt, size, 0, self.zoom, self._lighting())
        self._worker.start(lambda: surface.render_surface(volume, *arguments), self._show, lambda sentence: None)

    def _lighting(self) -> surface.Lighting:
        base = self.palette().base().color()
        return surface.Lighting(background=(base.red(), base.green(), base.blue()))

    def _show(self, picture: NDArray[np.uint8]) -> None:
        self._picture = render.to_qimage(picture)
        self.update()

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        if self._volume is not None:
            self._rest.start()

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), self.palette().base())
        if self._picture is None:
            return
        edge = min(self.width(), self.height())
        scaled = self._picture.scaled(
            edge, edge, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
        )
        painter.drawImage((self.width() - edge) // 2, (self.height() - edge) // 2, scaled)

    def mousePressEvent(self, event: Any) -> None:
        self._grabbed = event.position()

    def mouseMoveEvent(self, event: Any) -> None:
        if self._grabbed is None:
            return
        step = event.position() - self._grabbed
        self._grabbed = event.position()
        if event.buttons() & Qt.MouseButton.RightButton and self._volume is not None:
            span = float(self._volume.max() - self._volume.min())
            self._threshold -= step.y() * span / 400
            self.threshold_changed.emit(self._threshold)
        else:
            self.rot += step.x() * 0.6
            self.tilt -= step.y() * 0.6
        self.draw_coarse()

    def mouseReleaseEvent(self, event: Any) -> None:
        self._grabbed = None

    def wheelEvent(self, event: Any) -> None:
        self.zoom = min(8.0, max(0.4, self.zoom * (1.1 if event.angleDelta().y() > 0 else 1 / 1.1)))
        self.draw_coarse()

    def wait_until_drawn(self) -> None:
        """Finish the fine picture now; for picture export and tests."""
        self._rest.stop()
        self._worker.stop()
        if self._volume is not None:
            size = min(420, max(160, min(self.width(), self.height())))
            self._show(
                surface.render_surface(
                    self._volume, self._threshold, self.rot, self.tilt, size, 0, self.zoom, self._lighting()
                )
            )


class MapPanel(QWidget):
    """Slices and surface of one map, with their controls; used in its own window and in the results panel."""

    def __init__(self, parent: QWidget | None = None, compact: bool = False) -> None:
        super().__init__(parent)
        self.data: MapData | None = None
        self._at = [0, 0, 0]
        self._limits = (0.0, 1.0)
        self._worker = Background(self)
        self.views = [SliceView(axis) for axis in range(3)]
        self.surface = SurfaceView()
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.sliders = [QSlider(Qt.Orientation.Horizontal) for _ in range(3)]
        self.numbers = [QLabel() for _ in range(3)]
        self._build_controls()
        self._lay_out(compact)
        for view in self.views:
            view.moved.connect(self._on_click)
            view.stepped.connect(self._on_wheel)
        for axis, slider in enumerate(self.sliders):
            slider.valueChanged.connect(lambda value, a=axis: self._on_slider(a, value))

    def _build_controls(self) -> None:
        self.contrast = QComboBox()
        self.contrast.addItems(["percentile", "sigma", "min – max", "values"])
        self.contrast.setToolTip("how the values shown as black and white are chosen")
        self.contrast.currentIndexChanged.connect(self._on_contrast)
        self.amount = QDoubleSpinBox()
        self.amount.setDecimals(2)
        self.amount.setSingleStep(0.1)
        self.amount.valueChanged.connect(self._redraw_all)
        self.black, self.white = QDoubleSpinBox(), QDoubleSpinBox()
        for box, tip in ((self.black, "value shown as black"), (self.white, "value shown as white")):
            box.setDecimals(5)
            box.setRange(-1e9, 1e9)
            box.setToolTip(tip)
            box.valueChanged.connect(self._redraw_all)
        self.threshold = QDoubleSpinBox()
        self.threshold.setDecimals(5)
        self.threshold.setRange(-1e9, 1e9)
        self.threshold.setToolTip("density at which the surface is drawn")
        self.threshold.valueChanged.connect(self._on_threshold)
        self.threshold_slider = QSlider(Qt.Orientation.Horizontal)
        self.threshold_slider.setRange(0, 1000)
        self.threshold.setMaximumWidth(96)
        self.threshold_slider.setMinimumWidth(40)
        self.threshold_slider.valueChanged.connect(self._on_threshold_slider)
        self.surface.threshold_changed.connect(self.threshold.setValue)
        self.cross = QPushButton("cross-hair")
        self.cross.setCheckable(True)
        self.cross.setChecked(True)
        self.cross.toggled.connect(self._on_cross)

    def _lay_out(self, compact: bool) -> None:
        grid = QGridLayout()
        grid.setSpacing(3)
        grid.setContentsMargins(0, 0, 0, 0)
        places = [(0, 0), (0, 1), (0, 2)] if compact else [(0, 0), (0, 1), (1, 0)]
        for axis, (row, column) in enumerate(places):
            grid.addWidget(self._with_slider(axis), row, column)
        surface_at = (0, 3) if compact else (1, 1)
        holder = QWidget()
        box = QVBoxLayout(holder)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        box.addWidget(self.surface, 1)
        line = QHBoxLayout()
        line.addWidget(QLabel("surface at"))
        line.addWidget(self.threshold_slider, 1)
        line.addWidget(self.threshold)
        box.addLayout(line)
        grid.addWidget(holder, *surface_at)
        for column in range(4 if compact else 2):
            grid.setColumnStretch(column, 1)
            grid.setColumnMinimumWidth(column, 110)
        controls = QHBoxLayout()
        controls.addWidget(QLabel("contrast"))
        for widget in (self.contrast, self.amount, self.black, self.white, self.cross):
            controls.addWidget(widget)
        controls.addStretch(1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(2, 2, 2, 2)
        outer.addLayout(controls)
        outer.addLayout(grid, 1)
        outer.addWidget(self.message)
        self.message.hide()
        self._on_contrast()

    def _with_slider(self, axis: int) -> QWidget:
        holder = QWidget()
        box = QVBoxLayout(holder)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        box.addWidget(self.views[axis], 1)
        line = QHBoxLayout()
        line.addWidget(QLabel(AXES[axis]))
        line.addWidget(self.sliders[axis], 1)
        self.numbers[axis].setMinimumWidth(34)
        line.addWidget(self.numbers[axis])
        box.addLayout(line)
        return holder

    # -- loading

    def load(self, path: Path) -> None:
        """Read the map in the worker thread and show it; the previous one stays until then."""
        if self.data is None:
            self.tell(f"Reading {path.name} …")
        self._worker.start(lambda: load_map(path), self.show_map, self.tell)

    def load_now(self, path: Path) -> None:
        """Read the map here and now; a damaged file becomes a sentence. For picture export and tests."""
        self._worker.stop()
        try:
            self.show_map(load_map(path))
        except DisplayError as error:
            self.tell(str(error))

    def tell(self, sentence: str) -> None:
        """Show a sentence below the slices; an empty one hides it."""
        self.message.setText(sentence)
        self.message.setVisible(bool(sentence))

    def show_map(self, data: MapData) -> None:
        """Show a map that was read; position, contrast and view are kept when its size is that of the last
        one."""
        same_size = self.data is not None and self.data.volume.shape == data.volume.shape
        self.data = data
        self.tell("")
        if not same_size:
            self._at = [n // 2 for n in data.volume.shape]
        for axis, slider in enumerate(self.sliders):
            slider.blockSignals(True)
            slider.setRange(0, data.volume.shape[axis] - 1)
            slider.setValue(self._at[axis])
            slider.blockSignals(False)
        step = data.sigma / 10 or 0.01
        for box in (self.threshold, self.black, self.white):
            box.setSingleStep(step)
        self._set_threshold(data.threshold)
        self._redraw_all()
        self.surface.show_volume(data.small, data.threshold)

    # -- slices

    def plane(self, axis: int) -> NDArray[np.float32]:
        """The slice now shown perpendicular to ``axis`` (0 z, 1 y, 2 x): rows and columns as drawn.

        z: (y, x); y: (z, x); x: (y, z).
        """
        assert self.data is not None
        volume, at = self.data.volume, self._at
        if axis == 0:
            return volume[at[0]]
        return volume[:, at[1], :] if axis == 1 else volume[:, :, at[2]].T

    def set_position(self, z: int, y: int, x: int) -> None:
        """Move to a voxel (from 0)."""
        if self.data is None:
            return
        new = [min(max(v, 0), n - 1) for v, n in zip((z, y, x), self.data.volume.shape, strict=True)]
        changed = new != self._at
        self._at = new
        for axis, slider in enumerate(self.sliders):
            slider.blockSignals(True)
            slider.setValue(new[axis])
            slider.blockSignals(False)
        if changed:
            self._redraw_slices()

    @property
    def position(self) -> tuple[int, int, int]:
        """The voxel (z, y, x) under the cross-hairs."""
        return self._at[0], self._at[1], self._at[2]

    def limits(self) -> tuple[float, float]:
        """Values shown as black and white now."""
        assert self.data is not None
        kind = self.contrast.currentText()
        if kind == "sigma":
            n = self.amount.value()
            return self.data.mean - n * self.data.sigma, self.data.mean + n * self.data.sigma
        if kind == "values":
            return render.contrast_limits(self.data.small, black=self.black.value(), white=self.white.value())
        if kind == "percentile":
            # zeros left out: they are the flattened solvent of a masked map
            values = self.data.volume[self.data.volume != 0]
            values = values if values.size > self.data.volume.size // 100 else self.data.volume
            return render.contrast_limits(values, percentile=self.amount.value() or 0.1)
        return render.contrast_limits(self.data.volume)

    def _on_contrast(self) -> None:
        kind = self.contrast.currentText()
        self.amount.blockSignals(True)
        if kind == "sigma":
            self.amount.setRange(0.1, 50)
            self.amount.setValue(4)
            self.amount.setSuffix(" σ")
        else:
            self.amount.setRange(0.0, 45)
            self.amount.setValue(0.2)
            self.amount.setSuffix(" %")
        self.amount.blockSignals(False)
        self.amount.setVisible(kind in ("sigma", "percentile"))
        if kind == "values" and self.data is not None:
            for box, value in zip((self.black, self.white), self._limits, strict=True):
                box.blockSignals(True)
                box.setValue(value)
                box.blockSignals(False)
        self.black.setVisible(kind == "values")
        self.white.setVisible(kind == "values")
        self._redraw_all()

    def _on_cross(self, shown: bool) -> None:
        for view in self.views:
            view.show_cross = shown
            view.update()

    def _redraw_all(self) -> None:
        if self.data is not None:
            self._limits = self.limits()
            self._redraw_slices()

    def _redraw_slices(self) -> None:
        if self.data is None:
            return
        z, y, x = self._at
        crosses = [(y, x), (z, x), (y, z)]
        for axis, view in enumerate(self.views):
            levels = render.to_bytes(self.plane(axis), *self._limits)
            n = self.data.volume.shape[axis]
            view.show_slice(levels, crosses[axis], f"{AXES[axis]} {self._at[axis]} / {n}", self.data.pixel_size)
            self.numbers[axis].setText(str(self._at[axis]))

    def _on_click(self, axis: int, row: int, column: int) -> None:
        z, y, x = self._at
        at = [(z, row, column), (row, y, column), (column, row, x)][axis]
        self.set_position(*at)

    def _on_wheel(self, axis: int, step: int) -> None:
        at = list(self._at)
        at[axis] += step
        self.set_position(*at)

    def _on_slider(self, axis: int, value: int) -> None:
        at = list(self._at)
        at[axis] = value
        self.set_position(*at)

    # -- surface

    def _set_threshold(self, value: float) -> None:
        for widget, v in ((self.threshold, value), (self.threshold_slider, self._slider_value(value))):
            widget.blockSignals(True)
            widget.setValue(v)  # type: ignore[arg-type]
            widget.blockSignals(False)

    def _slider_value(self, value: float) -> int:
        assert self.data is not None
        low, high = float(self.data.small.min()), float(self.data.small.max())
        return round(1000 * (value - low) / (high - low)) if high > low else 0

    def _on_threshold(self, value: float) -> None:
        if self.data is None:
            return
        self.threshold_slider.blockSignals(True)
        self.threshold_slider.setValue(self._slider_value(value))
        self.threshold_slider.blockSignals(False)
        self.surface.set_threshold(value)

    def _on_threshold_slider(self, value: int) -> None:
        if self.data is None:
            return
        low, high = float(self.data.small.min()), float(self.data.small.max())
        self.threshold.setValue(low + value / 1000 * (high - low))

    def finish(self) -> None:
        """Wait for reading and drawing; for picture export and tests."""
        self.surface.wait_until_drawn()


class MapWindow(QWidget):
    """A window for one map."""

    def __init__(self, data: MapData, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self.setWindowTitle(f"{data.path.name} – map")
        self.panel = MapPanel()
        self.status = QLabel(f"{data.path}: {data.description}")
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        save = QPushButton("Save picture …")
        save.clicked.connect(self._save_picture)
        bottom = QHBoxLayout()
        bottom.addWidget(self.status, 1)
        bottom.addWidget(save)
        box = QVBoxLayout(self)
        box.setContentsMargins(4, 4, 4, 4)
        box.addWidget(self.panel, 1)
        box.addLayout(bottom)
        self.resize(900, 740)
        self.panel.show_map(data)

    def finish(self) -> None:
        """Wait until everything is drawn."""
        self.panel.finish()

    def _save_picture(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save picture", "map.png", "Pictures (*.png)")
        if path:
            self.panel.grab().save(path)

    def closeEvent(self, event: Any) -> None:
        stop_workers(self)
        super().closeEvent(event)
