"""The window of manual picking: micrographs with counts, a click adds a pick, another removes it.

Left click adds, dragging moves, middle or right click (or Shift and left) removes; Shift or the middle button
dragged removes what it passes. Dragging empty ground moves the picture and the wheel zooms. Every change is
written within half a second, and when another micrograph is chosen or the window is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QMenuBar,
    QMessageBox,
    QPushButton,
    QTreeWidgetItem,
    QWidget,
)

from relion_py.gui.display.coordinates import NO_PICKS
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.image_window import ImageWindow
from relion_py.gui.display.manualpick_data import NO_THRESHOLD, PickFile, PickJob, above
from relion_py.gui.display.micrograph_window import GREEN, MicrographPanel, MicrographWindow, Prepared
from relion_py.gui.display.series import floats

AUTOSAVE_MILLISECONDS = 400
SMALLEST_GRIP = 6
"""A pick is taken hold of from this many screen pixels, however small its circle."""
LEFT, MIDDLE, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton, Qt.MouseButton.RightButton
SHIFT = Qt.KeyboardModifier.ShiftModifier


class _Circles(pg.ScatterPlotItem):  # type: ignore[misc]
    """Clicks pass through circles to the view below them."""

    def mouseClickEvent(self, event: Any) -> None:
        event.ignore()


class _PickBox(pg.ViewBox):  # type: ignore[misc]
    """A view that tells its panel about clicks and drags in pixels of the micrograph."""

    def __init__(self, panel: PickPanel) -> None:
        super().__init__(lockAspect=True, invertY=True, enableMenu=False)
        self._panel = panel

    def _place(self, scene_position: Any) -> tuple[float, float]:
        # the mouse is somewhere in a screen pixel, on average in its middle
        at = self.mapSceneToView(scene_position + pg.QtCore.QPointF(0.5, 0.5))
        return at.x(), at.y()

    def mouseClickEvent(self, event: Any) -> None:
        x, y = self._place(event.scenePos())
        removing = event.button() in (MIDDLE, RIGHT) or bool(event.modifiers() & SHIFT)
        if self._panel.remove_at(x, y) if removing else self._panel.add_at(x, y):
            event.accept()

    def mouseDragEvent(self, event: Any, axis: int | None = None) -> None:
        panel = self._panel
        erasing = event.button() == MIDDLE or (event.button() == LEFT and bool(event.modifiers() & SHIFT))
        if panel.editing and erasing:
            panel.remove_at(*self._place(event.scenePos()))
            event.accept()
            return
        if event.button() == LEFT and event.isStart():
            panel.take(*self._place(event.buttonDownScenePos(LEFT)))
        if event.button() == LEFT and panel.taken >= 0:
            panel.drag_to(*self._place(event.scenePos()))
            if event.isFinish():
                panel.taken = -1
            event.accept()
            return
        super().mouseDragEvent(event, axis)


class PickPanel(MicrographPanel):
    """Micrographs of a :class:`PickJob` with picks that can be edited (where ``editing`` is on)."""

    changed = Signal()  # picks or the selection of micrographs were changed
    counted = Signal(int, int)  # picks, selected micrographs

    def __init__(self, job: PickJob, diameter: float = 0.0, parent: QWidget | None = None) -> None:
        super().__init__(parent, diameter)
        self.job = job
        self.editing = True
        self.start_end = False
        self.display_scale = 0.0
        self.colour_label = ""
        self.colour_limits = (1.0, 0.0)  # shown as blue, and as red
        self.colours_of: Any = None
        self.taken = -1
        self.file: PickFile | None = None
        self._file_of = -1
        self._dirty = False
        self._counts: list[int] = []
        self.filaments = pg.PlotCurveItem(pen=pg.mkPen(GREEN, width=1.5), connect="pairs")
        self.box.addItem(self.filaments, ignoreBounds=True)
        self._saver = QTimer(self)
        self._saver.setSingleShot(True)
        self._saver.setInterval(AUTOSAVE_MILLISECONDS)
        self._saver.timeout.connect(self.save)
        self.list.setHeaderLabels(["micrograph", "picks", "µm", "Å"])
        header = self.list.header()
        for column in (1, 2, 3):
            header.setSectionResizeMode(column, header.ResizeMode.ResizeToContents)
        for column, tip in ((2, "defocus U"), (3, "resolution to which the CTF was fitted")):
            self.list.headerItem().setToolTip(column, tip)
        self._defocus = self._numbers("rlnDefocusU", 1e-4, 2)
        self._fits = self._numbers("rlnCtfMaxResolution", 1.0, 1)
        self.list.setColumnHidden(2, not self._defocus)
        self.list.setColumnHidden(3, not self._fits)
        self.list.itemChanged.connect(self._on_item)
        self.splitter.setSizes([340, 740])

    def _numbers(self, label: str, factor: float, digits: int) -> list[str]:
        """Texts of a column of the micrographs' table times ``factor``; [] where there is none."""
        if not self.job.column(label):
            return []
        return [f"{v:.{digits}f}" if np.isfinite(v) else "" for v in floats(self.job.table, label) * factor]

    def _make_box(self) -> Any:
        return _PickBox(self)

    def _make_circles(self) -> Any:
        return _Circles(pxMode=False, brush=None)

    def _row(self, index: int) -> QTreeWidgetItem:
        item = super()._row(index)
        if self._defocus:
            item.setText(2, self._defocus[index])
        if self._fits:
            item.setText(3, self._fits[index])
        for column in (2, 3):
            item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight)
        if self.job.may_save:
            on = self.job.selected[index]
            item.setCheckState(0, Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
        return item

    # -- counts and selection

    def _counting(self) -> Callable[[], list[int]]:
        job, minimum = self.job, self.minimum_score
        return lambda: [job.count(i, minimum) for i in range(len(job.micrographs))]

    def _show_counts(self, counts: list[int]) -> None:
        self._counts = list(counts)
        self._count_current()
        self.list.blockSignals(True)
        for row in range(len(self._counts)):
            self._write_count(row)
        self.list.blockSignals(False)
        self._tell_total()

    def _write_count(self, row: int) -> None:
        item = self.list.topLevelItem(row)
        if item is not None and row < len(self._counts):
            item.setText(1, str(self._counts[row]) if self._counts[row] >= 0 else "damaged")

    def _count_current(self) -> None:
        if self.file is not None and 0 <= self._file_of < len(self._counts):
            self._counts[self._file_of] = len(above(self.file.picks(), self.minimum_score))

    def _tell_total(self) -> None:
        chosen = [max(0, c) for c, on in zip(self._counts, self.job.selected, strict=False) if on]
        self.counted.emit(sum(chosen), sum(self.job.selected))

    def _on_item(self, item: QTreeWidgetItem, column: int) -> None:
        row = self.list.indexOfTopLevelItem(item)
        on = item.checkState(0) == Qt.CheckState.Checked
        if column == 0 and self.job.may_save and row >= 0 and on != self.job.selected[row]:
            self.job.selected[row] = on
            self._tell_total()
            self.changed.emit()

    def select(self, flags: list[bool]) -> None:
        """Choose which micrographs are selected."""
        self.job.selected = list(flags)
        self.list.blockSignals(True)
        for row, on in enumerate(flags):
            item = self.list.topLevelItem(row)
            if item is not None:
                item.setCheckState(0, Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
        self.list.blockSignals(False)
        self._tell_total()
        self.changed.emit()

    # -- the file of the shown micrograph

    def _on_choice(self) -> None:
        self.save()
        self.file, self._file_of, self.taken = None, -1, -1
        self._shown_picks = NO_PICKS
        super()._on_choice()

    def _show(self, prepared: Prepared) -> None:
        pixels, binning, shape, pixel_size, _, problem = prepared
        if self._file_of != self.current:
            try:
                self.file, self._file_of = self.job.pick_file(self.current), self.current
            except DisplayError as error:
                self.file, self._file_of, problem = None, -1, str(error)
        picks = NO_PICKS if self.file is None else self.file.picks()
        super()._show((pixels, binning, shape, pixel_size, picks, problem))

    def _frame(self, nx: int, ny: int) -> None:
        width = self.box.width()
        if self.display_scale <= 0 or width <= 0:
            super()._frame(nx, ny)
            return
        half_x, half_y = width / self.display_scale / 2, self.box.height() / self.display_scale / 2
        x, y = (nx - 1) / 2, (ny - 1) / 2
        if half_x > nx / 2 and half_y > ny / 2:
            super()._frame(nx, ny)
            return
        self.box.setRange(xRange=(x - half_x, x + half_x), yRange=(y - half_y, y + half_y), padding=0)

    def _after_change(self) -> None:
        assert self.file is not None
        self._shown_picks = self.file.picks()
        self.draw_picks()
        self._dirty = True
        self._saver.start()
        self._count_current()
        self._write_count(self._file_of)
        self.message.setText(f"{self.current_name}: {len(self._shown_picks)} picks")
        self._tell_total()

    def save(self) -> None:
        """Write changed picks now."""
        self._saver.stop()
        if not self._dirty or self.file is None:
            return
        try:
            self.file.save()
        except DisplayError as error:
            self.message.setText(str(error))
            return
        self._dirty = False
        self.changed.emit()

    # -- editing

    def _grip(self) -> float:
        return max(self.radius(), SMALLEST_GRIP * float(self.box.viewPixelSize()[0]))

    def _at(self, x: float, y: float, radius: float) -> int:
        return -1 if self.file is None else self.file.nearest(x, y, radius, self.visible_picks())

    def add_at(self, x: float, y: float) -> bool:
        """Add a pick at (x, y), unless another's circle is there or the micrograph is not."""
        outside = self._image_shape is not None and not (
            -0.5 <= x <= self._image_shape[1] - 0.5 and -0.5 <= y <= self._image_shape[0] - 0.5
        )
        if not self.editing or self.file is None or outside or self._at(x, y, self.radius()) >= 0:
            return False
        self.file.add(x, y)
        self._after_change()
        return True

    def remove_at(self, x: float, y: float) -> bool:
        """Remove the pick at (x, y); of a filament, both ends."""
        row = self._at(x, y, self._grip()) if self.editing else -1
        if row < 0 or self.file is None:
            return False
        rows = [row]
        if self.start_end:
            rows = [i for i in (row - row % 2, row - row % 2 + 1) if i < len(self.file)]
        self.file.remove(rows)
        self._after_change()
        return True

    def take(self, x: float, y: float) -> None:
        """Take hold of the pick at (x, y) for dragging."""
        self.taken = self._at(x, y, self._grip()) if self.editing else -1
        if self.taken >= 0 and self.file is not None:
            self.file.move(self.taken, *self._position(self.taken))  # one step back undoes the whole drag

    def _position(self, row: int) -> tuple[float, float]:
        return float(self._shown_picks.x[row]), float(self._shown_picks.y[row])

    def drag_to(self, x: float, y: float) -> None:
        """Move the pick that was taken hold of."""
        if self.file is not None and self.taken >= 0:
            self.file.move(self.taken, x, y, remember=False)
            self._after_change()

    def undo(self) -> None:
        """Take back the last change on this micrograph."""
        if self.editing and self.file is not None and self.file.undo():
            self._after_change()

    def remove_hidden(self) -> int:
        """Remove the picks of this micrograph that the threshold hides; their number."""
        if not self.editing or self.file is None:
            return 0
        hidden = np.setdiff1d(np.arange(len(self._shown_picks)), self.visible_picks())
        if len(hidden):
            self.file.remove(hidden.tolist())
            self._after_change()
        return len(hidden)

    def remove_below_everywhere(self, minimum: float) -> int:
        """Remove the picks of all micrographs whose score is below ``minimum``; their number."""
        self.save()
        removed = 0
        for index in range(len(self.job.micrographs)):
            try:
                if not self.job.path(index).is_file():
                    continue
                file = self.job.pick_file(index)
                kept = set(above(file.picks(), minimum).tolist())
                gone = [row for row in range(len(file)) if row not in kept]
                if gone:
                    file.remove(gone)
                    file.save()
                    removed += len(gone)
            except DisplayError as error:
                self.message.setText(str(error))
        self.file, self._file_of = None, -1
        self.reload()
        self.recount()
        self.changed.emit()
        return removed

    # -- drawing

    def draw_picks(self) -> None:
        super().draw_picks()
        if not hasattr(self, "filaments"):
            return
        picks = self._shown_picks
        whole = len(picks) - len(picks) % 2 if self.start_end and self.show_picks.isChecked() else 0
        self.filaments.setData(picks.x[:whole], picks.y[:whole])

    def _pens(self, rows: NDArray[np.int64]) -> Any:
        values = self._colour_values()
        if values is None:
            return super()._pens(rows)
        blue, red = self.colour_limits
        share = np.clip((values[rows] - blue) / ((red - blue) or 1.0), 0, 1)
        colours = [(int(255 * v), 0, int(255 * (1 - v))) for v in np.linspace(0, 1, 16)]
        levels = [pg.mkPen(colour, width=1.5) for colour in (*colours, GREEN)]
        return [levels[int(v * 15) if known else 16] for v, known in zip(share, values[rows] != -999.0, strict=True)]

    def _colour_values(self) -> NDArray[np.float64] | None:
        if not self.colour_label or self.file is None:
            return None
        if self.colours_of is not None:
            return np.asarray(self.colours_of(self.current_name, self._shown_picks))
        if self.colour_label not in self.file.table:
            return None
        return np.nan_to_num(floats(self.file.table, self.colour_label), nan=-999.0)


class PickWindow(MicrographWindow):
    """Manual picking. ``finished`` is emitted once, when the window is closed."""

    finished = Signal()
    panel: PickPanel

    def __init__(self, job: PickJob, title: str, diameter: float = 0.0, parent: QWidget | None = None) -> None:
        self.job = job
        super().__init__(Path(title), job.pick_set(), job.root, diameter, parent)
        self.setWindowTitle(f"{title} – picking on {len(job.micrographs)} micrographs")
        self._windows: list[QWidget] = []
        self._closed = False
        self._lists = QTimer(self)
        self._lists.setSingleShot(True)
        self._lists.setInterval(AUTOSAVE_MILLISECONDS)
        self._lists.timeout.connect(self.save)
        self.panel.changed.connect(self._lists.start)
        self.panel.counted.connect(self._show_total)
        self.edit_switch = QCheckBox("edit picks")
        self.edit_switch.setToolTip("left click adds, middle or right click removes, dragging moves")
        self.edit_switch.setChecked(True)
        self.edit_switch.toggled.connect(lambda on: setattr(self.panel, "editing", on))
        self.panel.pick_line.insertWidget(0, self.edit_switch)
        self._add_buttons()
        self._add_menu()

    def _make_panel(self, diameter: float) -> PickPanel:
        return PickPanel(self.job, diameter)

    def _add_buttons(self) -> None:
        has_ctf = bool(self.job.column("rlnCtfImage"))
        for text, tip, action, shown in (
            ("Undo", "take back the last change on this micrograph (Ctrl+Z)", self.panel.undo, True),
            ("Remove hidden", "remove the picks here that the threshold hides", self.panel.remove_hidden, True),
            ("… on all", "remove picks below the threshold on all micrographs", self.remove_everywhere, True),
            ("CTF", "show the fit of the CTF of this micrograph", self.show_ctf, has_ctf),
        ):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(lambda _=False, do=action: do())
            button.setVisible(shown)
            self.buttons.addWidget(button)

    def _add_menu(self) -> None:
        bar = QMenuBar(self)
        menu = bar.addMenu("File")
        entries: list[tuple[str, str, Callable[[], Any]]] = [("Save now", "Ctrl+S", self.save)]
        if self.job.may_save:
            flip = lambda: self.panel.select([not on for on in self.job.selected])  # noqa: E731
            entries += [
                ("Invert selection", "Alt+I", flip),
                ("Select all", "Alt+A", lambda: self.panel.select([True] * len(self.job.selected))),
            ]
        entries += [
            ("Recount picked particles", "Alt+C", self.panel.recount),
            ("Undo", "Ctrl+Z", self.panel.undo),
            ("Load coordinates of this micrograph …", "", self.load_coordinates),
            ("Clear coordinates of this micrograph", "", self.clear),
            ("Next micrograph", "PgDown", lambda: self.step(1)),
            ("Previous micrograph", "PgUp", lambda: self.step(-1)),
            ("Quit", "Ctrl+Q", self.close),
        ]
        for text, keys, action in entries:
            entry = menu.addAction(text)
            if keys:
                entry.setShortcut(QKeySequence(keys))
            entry.triggered.connect(lambda _=False, do=action: do())
        layout = self.layout()
        assert layout is not None
        layout.setMenuBar(bar)

    def _show_total(self, picks: int, micrographs: int) -> None:
        self.panel.list.headerItem().setText(1, f"{picks} picks")
        self.setWindowTitle(f"{picks} picks on {micrographs} of {len(self.job.micrographs)} micrographs – picking")

    def save(self) -> None:
        """Write the picks and the job's lists."""
        self._lists.stop()
        self.panel.save()
        self._lists.stop()
        try:
            self.job.save_lists()
        except DisplayError as error:
            self.panel.message.setText(str(error))

    def show_ctf(self) -> None:
        """Open the power spectrum that the CTF was fitted to."""
        names = self.job.column("rlnCtfImage")
        if not 0 <= self.panel.current < len(names) or self.panel._opened is None:
            return
        try:
            image = self.panel._opened.image(names[self.panel.current])
        except DisplayError as error:
            self.panel.message.setText(str(error))
            return
        window = ImageWindow(image, 0.0, names[self.panel.current])
        window.panel.amount.setValue(self.ctf_sigma)
        self._windows.append(window)
        window.show()

    ctf_sigma = 3.0

    def clear(self) -> None:
        """Remove all picks of the shown micrograph (which can be undone)."""
        file = self.panel.file
        if file is not None and len(file) and self.panel.editing:
            file.remove(list(range(len(file))))
            self.panel._after_change()

    def load_coordinates(self) -> None:
        """Take the picks of another coordinate file over to the shown micrograph."""
        path, _ = QFileDialog.getOpenFileName(self, "Load coordinates", str(self.job.root), "Coordinates (*.star)")
        file = self.panel.file
        if not path or file is None or not self.panel.editing:
            return
        try:
            other = PickFile(Path(path), self.job.scale)
        except DisplayError as error:
            self.panel.message.setText(str(error))
            return
        file.replace(other.table)
        self.panel._after_change()

    def remove_everywhere(self) -> None:
        """Ask, then remove the picks below the threshold on all micrographs."""
        if not self.panel.editing:
            return
        limit = self.panel.limit()
        if not np.isfinite(limit) or limit <= NO_THRESHOLD:
            self.panel.message.setText("These picks have no score, so there is no threshold to remove them by")
            return
        question = f"Remove the picks with a score below {limit:.3f} on all {len(self.job.micrographs)} micrographs?"
        box = QMessageBox(QMessageBox.Icon.Question, "Remove picks", question, parent=self)
        box.setInformativeText("This cannot be undone here.")
        remove = box.addButton("Remove", QMessageBox.ButtonRole.AcceptRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        box.exec()
        if box.clickedButton() is remove:
            number = self.panel.remove_below_everywhere(limit)
            self.panel.message.setText(f"{number} picks were removed")

    def hideEvent(self, event: Any) -> None:
        self.panel.save()
        super().hideEvent(event)

    def closeEvent(self, event: Any) -> None:
        if not self._closed:
            self._closed = True
            self.save()
            for window in self._windows:
                window.close()
            self.finished.emit()
        super().closeEvent(event)
