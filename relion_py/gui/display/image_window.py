"""One picture at full size: grey levels, zoom, pixel values under the mouse, scale bar, Fourier amplitudes
or phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import Qt
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display import render
from relion_py.gui.display.errors import DisplayError


def fourier_view(image: NDArray[Any], phases: bool) -> NDArray[np.float32]:
    """ln(1 + amplitude), or phases in degrees, of the transform of an image (ny, nx), origin in the
    middle."""
    transform = np.fft.fftshift(np.fft.fft2(np.nan_to_num(np.asarray(image, dtype=np.float32))))
    if phases:
        return np.degrees(np.angle(transform)).astype(np.float32)
    amplitudes = np.log1p(np.abs(transform)).astype(np.float32)
    amplitudes[image.shape[0] // 2, image.shape[1] // 2] = 0.0
    return amplitudes


class ScaleBar:
    """A white bar with its length in the lower left of a pyqtgraph view, drawn in image pixels."""

    def __init__(self, box: Any) -> None:
        import pyqtgraph as pg

        self.line = pg.PlotCurveItem(pen=pg.mkPen((255, 255, 255), width=4))
        self.text = pg.TextItem(color=(255, 255, 255), anchor=(0.0, 1.0), fill=(0, 0, 0, 110))
        for item in (self.line, self.text):
            item.setZValue(10)
            box.addItem(item, ignoreBounds=True)

    def show_for(self, shape: tuple[int, ...], pixel_size: float) -> None:
        """Show a bar for an image (ny, nx) of ``pixel_size`` A; none where that is 0."""
        length = render.scale_bar(shape[1] * pixel_size)
        self.line.setVisible(length > 0)
        self.text.setVisible(length > 0)
        if length > 0:
            x, y = 0.03 * shape[1], 0.97 * shape[0]
            self.line.setData([x, x + length / pixel_size], [y, y])
            self.text.setText(render.describe_length(length))
            self.text.setPos(x, y - 0.005 * shape[0])


class ImagePanel(QWidget):
    """pyqtgraph view of one image with contrast controls; y runs downwards."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        import pyqtgraph as pg

        self._pg = pg
        self.image: NDArray[Any] | None = None
        self.pixel_size = 0.0
        self.view = pg.GraphicsLayoutWidget()
        self.box = self.view.addViewBox(lockAspect=True, invertY=True)
        self.item = pg.ImageItem(axisOrder="row-major")
        self.box.addItem(self.item)
        self.bar = ScaleBar(self.box)
        self.contrast = QComboBox()
        self.contrast.addItems(["sigma", "percentile", "min – max"])
        self.amount = QDoubleSpinBox()
        self.amount.setRange(0.1, 50)
        self.amount.setSingleStep(0.5)
        self.amount.setValue(3)
        self.lowpass, self.highpass = QDoubleSpinBox(), QDoubleSpinBox()
        for spin in (self.lowpass, self.highpass):
            spin.setRange(0, 5000)
            spin.setSuffix(" Å")
            spin.setSpecialValueText("off")
            spin.setKeyboardTracking(False)
            spin.valueChanged.connect(self.redraw)
        self.what = QComboBox()
        self.what.addItems(["image", "Fourier amplitudes", "Fourier phases"])
        self.what.currentIndexChanged.connect(self.redraw)
        self.contrast.currentIndexChanged.connect(self.redraw)
        self.amount.valueChanged.connect(self.redraw)
        self.controls = QHBoxLayout()
        for label, widget in (
            ("show", self.what),
            ("contrast", self.contrast),
            ("", self.amount),
            ("low-pass", self.lowpass),
            ("high-pass", self.highpass),
        ):
            if label:
                self.controls.addWidget(QLabel(label))
            self.controls.addWidget(widget)
        self.controls.addStretch(1)
        self.readout = QLabel()
        self.readout.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addLayout(self.controls)
        box.addWidget(self.view, 1)
        box.addWidget(self.readout)
        self.view.scene().sigMouseMoved.connect(self._on_mouse)
        self.shown: NDArray[np.float32] | None = None
        self.fixed_limits: tuple[float, float] | None = None  # values shown as black and white

    def set_image(self, image: NDArray[Any], pixel_size: float, fit: bool = True) -> None:
        """Show an image (ny, nx); ``pixel_size`` in A, 0 where unknown."""
        self.image, self.pixel_size = image, pixel_size
        for spin in (self.lowpass, self.highpass):
            spin.setEnabled(pixel_size > 0)
            spin.setToolTip("" if pixel_size > 0 else "the pixel size is not known, so no filter in Å")
        self.redraw()
        if fit:
            ny, nx = image.shape
            self.box.setRange(xRange=(0, nx), yRange=(0, ny), padding=0)

    def set_colours(self, name: str) -> None:
        """Use a colour table of ``render.COLOUR_MAPS``."""
        self.item.setLookupTable(None if name == "grey" else render.colour_table(name))

    def redraw(self) -> None:
        """Filter, choose the grey limits and draw."""
        if self.image is None:
            return
        what, kind, amount = self.what.currentIndex(), self.contrast.currentText(), self.amount.value()
        if what:
            pixels = fourier_view(self.image, phases=what == 2)
            limits = (-180.0, 180.0) if what == 2 else render.contrast_limits(pixels, percentile=0.5)
        else:
            pixels = render.band_pass(self.image, self.pixel_size or 1.0, self.lowpass.value(), self.highpass.value())
            limits = render.contrast_limits(
                pixels,
                sigma=amount if kind == "sigma" else 0.0,
                percentile=min(amount, 45.0) if kind == "percentile" else 0.0,
            )
        if self.fixed_limits is not None and not what:
            limits = self.fixed_limits
        self.amount.setVisible(kind != "min – max" and not what)
        self.shown = pixels
        self.item.setImage(pixels, levels=limits)
        length = 0.0 if what else self.pixel_size
        self.bar.show_for(self.image.shape, length)

    def _on_mouse(self, position: Any) -> None:
        if self.shown is None:
            return
        at = self.box.mapSceneToView(position)
        x, y = int(np.floor(at.x())), int(np.floor(at.y()))
        ny, nx = self.shown.shape
        if 0 <= x < nx and 0 <= y < ny:
            self.readout.setText(f"x {x}, y {y}: {self.shown[y, x]:.6g}")


class ImageWindow(QWidget):
    """A window for one image."""

    def __init__(self, image: NDArray[Any], pixel_size: float, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self.setWindowTitle(title)
        self.panel = ImagePanel()
        save = QPushButton("Save picture …")
        save.clicked.connect(self._save_picture)
        self.panel.controls.addWidget(save)
        box = QVBoxLayout(self)
        box.setContentsMargins(4, 4, 4, 4)
        box.addWidget(self.panel)
        self.resize(760, 780)
        self.panel.set_image(image, pixel_size)

    def finish(self) -> None:
        """Nothing is drawn later."""

    def _save_picture(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save picture", "image.png", "Pictures (*.png)")
        if path:
            self.panel.view.grab().save(path)


class PictureWindow(QWidget):
    """A picture file (PNG, JPEG, SVG where Qt can read it), scaled to the window."""

    def __init__(self, path: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self._pixmap = QPixmap(str(path))
        if self._pixmap.isNull():
            raise DisplayError(f"{path} cannot be read as a picture")
        self.setWindowTitle(path.name)
        self.label = QLabel()
        self.label.setAlignment(Qt.AlignmentFlag.AlignCenter)
        area = QScrollArea()
        area.setWidget(self.label)
        area.setWidgetResizable(True)
        box = QVBoxLayout(self)
        box.setContentsMargins(4, 4, 4, 4)
        box.addWidget(area)
        self.resize(min(1100, self._pixmap.width() + 30), min(760, self._pixmap.height() + 30))
        self._fit()

    def _fit(self) -> None:
        room = self.size()
        fitted = self._pixmap.size().scaled(room.width() - 30, room.height() - 30, Qt.AspectRatioMode.KeepAspectRatio)
        if fitted.width() > self._pixmap.width():
            fitted = self._pixmap.size()
        self.label.setPixmap(
            self._pixmap.scaled(fitted, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation)
        )

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit()

    def finish(self) -> None:
        """Nothing is drawn later."""
