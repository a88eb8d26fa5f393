"""Window over a set of images: particles, class averages, micrographs, the sections of a map.

Sorting, contrast, scale, selection and its saving; pixels are read only for what is in view. The
right-click menu has the entries of ``relion_display``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QPoint, Qt, QTimer
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMenu,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QSlider,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display import render, selection
from relion_py.gui.display.background import Background, stop_workers
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.images import ImageSet
from relion_py.gui.display.tile_grid import Look, TileGrid

CONTRASTS = ("min – max", "percentile", "sigma", "values")


@dataclass(frozen=True)
class Saving:
    """Where "Save selection" writes without asking; "" asks. ``regroup`` and ``most_per_class``: 0 = not at
    all."""

    images: str = ""
    particles: str = ""
    regroup: int = 0
    most_per_class: int = 0
    recentre: bool = False
    on_saved: Callable[[], None] | None = None

    @property
    def backup(self) -> Path | None:
        """The backup_selection.star beside the files that are saved."""
        name = self.images or self.particles
        return Path(name).parent / selection.BACKUP_NAME if name else None


class GridPanel(QWidget):
    """The grid with its controls, without a window around it."""

    def __init__(self, images: ImageSet, parent: QWidget | None = None, compact: bool = False) -> None:
        super().__init__(parent)
        self.images = images
        self.highpass_value = 0.0  # A, 0 = off
        self.grid = TileGrid()
        self.sort = QComboBox()
        self.caption = QComboBox()
        self.column = QComboBox()
        self.reverse = QCheckBox("reverse")
        self.contrast = QComboBox()
        self.amount = QDoubleSpinBox()
        self.black, self.white = QDoubleSpinBox(), QDoubleSpinBox()
        self.lowpass = QDoubleSpinBox()
        self.colours = QComboBox()
        self.edge = QSlider(Qt.Orientation.Horizontal)
        self._set_up_widgets()
        rows: list[list[tuple[str, QWidget]]] = [
            [("show", self.column), ("sort by", self.sort), ("", self.reverse)],
            [("label", self.caption), ("size", self.edge), ("low-pass", self.lowpass)],
            [
                ("colours", self.colours),
                ("contrast", self.contrast),
                ("", self.amount),
                ("", self.black),
                ("", self.white),
            ],
        ]
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        lines = [QHBoxLayout()] if compact else [QHBoxLayout() for _ in rows]
        for index, row in enumerate(rows):
            line = lines[min(index, len(lines) - 1)]
            for label, widget in row:
                _add(line, label, widget)
        for line in lines:
            line.addStretch(1)
            box.addLayout(line)
        box.addWidget(self.grid, 1)
        if compact:
            for widget in (self.column, self.caption, self.lowpass, self.colours, self.contrast):
                _hide_with_label(widget)
        self.show_images(images)

    def _set_up_widgets(self) -> None:
        self.contrast.addItems(CONTRASTS)
        self.contrast.currentIndexChanged.connect(self._on_contrast)
        self.amount.setDecimals(1)
        for box, tip in ((self.black, "value shown as black"), (self.white, "value shown as white")):
            box.setDecimals(4)
            box.setRange(-1e9, 1e9)
            box.setToolTip(tip)
            box.valueChanged.connect(self.refresh_look)
        self.amount.valueChanged.connect(self.refresh_look)
        self.lowpass.setRange(0, 500)
        self.lowpass.setSuffix(" Å")
        self.lowpass.setSpecialValueText("off")
        self.lowpass.setKeyboardTracking(False)
        self.lowpass.valueChanged.connect(self.refresh_look)
        self.colours.addItems(list(render.COLOUR_MAPS))
        self.colours.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.colours.setMinimumContentsLength(5)
        self.lowpass.setMaximumWidth(84)
        self.colours.currentIndexChanged.connect(self.refresh_look)
        self.edge.setRange(32, 512)
        self.edge.setMinimumWidth(70)
        self.edge.setToolTip("size of a tile in screen pixels (also Ctrl + wheel)")
        self.edge.valueChanged.connect(self.refresh_look)
        self.sort.setToolTip("order by a column of the STAR file")
        self.caption.setToolTip("what is written below each image")
        self.sort.currentIndexChanged.connect(self._on_sort)
        self.reverse.toggled.connect(self._on_sort)
        self.caption.currentIndexChanged.connect(self._on_caption)
        self.column.currentIndexChanged.connect(self._on_column)
        for combo in (self.sort, self.caption, self.column):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.setMinimumContentsLength(7)
            combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            combo.setMaximumWidth(210)

    def show_images(self, images: ImageSet, keep: bool = False) -> None:
        """Show another set; with ``keep`` the order, selection and look stay as they are chosen."""
        sort, caption = self.sort.currentText(), self.caption.currentText()
        self.images = images
        combos: tuple[tuple[QComboBox, list[str]], ...] = (
            (self.sort, ["file order", "random", *images.sort_columns]),
            (self.caption, ["", *(images.table.labels if images.table is not None else [])]),
            (self.column, images.image_columns or ["images"]),
        )
        for combo, entries in combos:
            combo.blockSignals(True)
            combo.clear()
            combo.addItems(entries)
            combo.blockSignals(False)
        self.column.blockSignals(True)
        self.column.setCurrentText(images.image_column)
        self.column.blockSignals(False)
        self.caption.setItemText(0, "share and resolution" if images.kind == "classes" else "nothing")
        self.column.setEnabled(len(images.image_columns) > 1)
        if keep and self.sort.findText(sort) >= 0:
            _set_quietly(self.sort, sort)
            _set_quietly(self.caption, caption)
        elif (
            images.kind == "classes"
            and "rlnClassDistribution" in images.sort_columns
            and "clusteredOrder" not in images.sort_columns  # relion_filament_selection has put them in order
        ):
            _set_quietly(self.sort, "rlnClassDistribution")
            self.reverse.blockSignals(True)
            self.reverse.setChecked(True)
            self.reverse.blockSignals(False)
        if not keep:
            self.edge.blockSignals(True)
            self.edge.setValue(self._first_edge())
            self.edge.blockSignals(False)
            self._on_contrast()
        self._show_source(keep)
        self._on_sort()

    def _first_edge(self) -> int:
        longest = max(self.images.source.shape)
        if self.images.kind in ("micrographs", "movies") or longest > 400:
            return 200
        return int(np.clip(longest, 80, 128))

    def _show_source(self, keep: bool) -> None:
        label = self._caption_label()
        lines = 1 if label else 0
        if not label and self.images.kind == "classes":
            lines = 3 if self.images.class_sizes is not None else 2
        self.grid.set_source(
            self.images.source,
            (lambda index: self.images.caption(index, self._caption_label())) if lines else None,
            lines,
            keep_selection=keep,
        )
        self.refresh_look()

    def refresh_captions(self) -> None:
        """Write the captions again, when more is known about the images."""
        self._on_caption()

    def _caption_label(self) -> str:
        return self.caption.currentText() if self.caption.currentIndex() > 0 else ""

    def _on_caption(self) -> None:
        order = self.grid.order
        self._show_source(keep=True)
        self.grid.set_order(order)

    def _on_column(self) -> None:
        self.images.use_column(self.column.currentText())
        self._show_source(keep=True)
        self._on_sort()

    def _on_sort(self) -> None:
        label = self.sort.currentText()
        seed = 1 if label == "random" else None
        by = "" if self.sort.currentIndex() < 2 else label
        self.grid.set_order(self.images.order(by, self.reverse.isChecked(), seed))

    def _on_contrast(self) -> None:
        kind = self.contrast.currentText()
        self.amount.blockSignals(True)
        if kind == "sigma":
            self.amount.setRange(0.1, 50)
            self.amount.setValue(3)
            self.amount.setSuffix(" σ")
        else:
            self.amount.setRange(0.1, 45)
            self.amount.setValue(1)
            self.amount.setSuffix(" %")
        self.amount.blockSignals(False)
        self.amount.setVisible(kind in ("sigma", "percentile"))
        self.black.setVisible(kind == "values")
        self.white.setVisible(kind == "values")
        self.refresh_look()

    def refresh_look(self) -> None:
        """Draw the tiles as the controls say now."""
        kind, amount = self.contrast.currentText(), self.amount.value()
        self.grid.set_look(
            Look(
                edge=self.edge.value(),
                sigma=amount if kind == "sigma" else 0.0,
                percentile=amount if kind == "percentile" else 0.0,
                black=self.black.value() if kind == "values" else 0.0,
                white=self.white.value() if kind == "values" else 0.0,
                colours=self.colours.currentText(),
                lowpass=self.lowpass.value(),
                highpass=self.highpass_value,
                pixel_size=self.images.pixel_size or 1.0,
            )
        )


class GridWindow(QWidget):
    """The grid in a window, with selection and saving."""

    def __init__(
        self,
        images: ImageSet,
        saving: Saving | None = None,
        selectable: bool = True,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        if len(images) == 0:
            raise DisplayError(f"{images.path} holds no images")
        self.images = images
        self.saving = saving or Saving()
        self.children_windows: list[QWidget] = []
        self.setWindowTitle(f"{images.path.name} – {len(images)} {images.kind}")
        self.panel = GridPanel(images)
        self.grid = self.panel.grid
        self.grid.set_selectable(selectable)
        self.status = QLabel()
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        for_job = bool(self.saving.images or self.saving.particles)
        self.save_button = QPushButton("Save and finish" if for_job else "Save selection …")
        self._saved: set[int] = set()  # the selection that was saved last
        self._counter = Background(self)
        self.save_button.setVisible(selectable and images.table is not None)
        bottom = QHBoxLayout()
        bottom.addWidget(self.status, 1)
        choose = QMenu(self)
        choose.addAction("All (Ctrl+A)", self.select_all)
        choose.addAction("None", lambda: self.grid.select([]))
        choose.addAction("Invert", self.grid.invert_selection)
        choose.addAction("Load a selection …", self.load_selection)
        self.select_button = QPushButton("Select")
        self.select_button.setMenu(choose)
        self.select_button.setVisible(selectable)
        bottom.addWidget(self.select_button)
        bottom.addWidget(self.save_button)
        box = QVBoxLayout(self)
        box.setContentsMargins(4, 4, 4, 4)
        box.addWidget(self.panel, 1)
        box.addLayout(bottom)
        self.save_button.clicked.connect(
            lambda: self.try_or_tell(self.save_and_finish if for_job else self.save_selection)
        )
        self.grid.selection_changed.connect(self._update_status)
        self.grid.menu_wanted.connect(self._show_menu)
        self.grid.activated.connect(self.open_image)
        QShortcut(QKeySequence.StandardKey.SelectAll, self, self.select_all)
        QShortcut(QKeySequence.StandardKey.Save, self, lambda: self.try_or_tell(self.save_selection))
        self.resize(940, 680)
        backup = self.saving.backup
        if backup is not None and backup.is_file():
            QTimer.singleShot(0, lambda: self.try_or_tell(lambda: self.read_selection(backup)))
        self._update_status()
        data = images.data_star
        if images.kind == "classes" and data is not None and images.class_sizes is None:
            self._counter.start(lambda: selection.class_sizes(data), self._take_sizes, lambda sentence: None)

    def _take_sizes(self, sizes: dict[int, int]) -> None:
        self.images.class_sizes = sizes
        self.panel.refresh_captions()
        self._update_status()

    def finish(self) -> None:
        """Wait until every tile in view is drawn."""
        self.grid.wait_until_shown()

    def try_or_tell(self, action: Callable[[], Any]) -> None:
        """Run ``action``; a person's mistake becomes a sentence in a box."""
        try:
            action()
        except DisplayError as error:
            QMessageBox.warning(self, "Display", str(error))

    # -- selection

    def select_all(self) -> None:
        """Select every image."""
        self.grid.select(range(len(self.images)))

    def read_selection(self, path: Path) -> None:
        """Select what a backup_selection.star says."""
        self.grid.select(selection.load_backup(path, len(self.images)))
        if path == self.saving.backup:
            self._saved = {int(i) for i in self.grid.selected}

    def load_selection(self) -> None:
        """Ask for a backup_selection.star and select what it says."""
        path, _ = QFileDialog.getOpenFileName(self, "Load selection", "", "Selections (*.star)")
        if path:
            self.try_or_tell(lambda: self.read_selection(Path(path)))

    def _update_status(self) -> None:
        chosen = self.grid.selected
        text = f"{len(self.images)} {self.images.kind}, {len(chosen)} selected"
        table = self.images.table
        if chosen and self.images.kind == "classes" and table is not None and "rlnClassDistribution" in table:
            share = float(np.nansum(self.images.numbers("rlnClassDistribution")[chosen]))
            text += f" with {100 * share:.1f} % of the particles"
            if self.images.class_sizes is not None:
                sizes = self.images.class_sizes
                text += f" ({sum(sizes.get(self.images.class_number(int(i)), 0) for i in chosen):,})"
        ny, nx = self.images.source.shape
        pixel = f", {self.images.pixel_size:.4g} Å/px" if self.images.pixel_size else ""
        self.status.setText(f"{text} – {nx} × {ny}{pixel}")

    def selected_classes(self) -> list[int]:
        """RELION's numbers of the selected classes, in the order shown."""
        chosen = set(self.grid.selected)
        return [self.images.class_number(int(i)) for i in self.grid.order if int(i) in chosen]

    # -- saving

    def save_selection(self) -> list[Path]:
        """Write the selection; asks for a name where :class:`Saving` gives none. Returns the files
        written."""
        if not self.grid.selected:
            raise DisplayError("Nothing is selected: click the images that you want to keep, then save again")
        saving = self.saving
        if not (saving.images or saving.particles):
            saving = self._ask_where()
            if not (saving.images or saving.particles):
                return []
        written = self.write_selection(saving)
        self._saved = {int(i) for i in self.grid.selected}
        names = ", ".join(str(path) for path in written)
        self.status.setText(f"Saved {names}")
        if saving.on_saved is not None:
            saving.on_saved()
        return written

    def save_and_finish(self) -> None:
        """Save where the job wants it, and close."""
        if self.save_selection():
            self.close()

    def _may_close(self) -> bool:
        """Ask what shall become of a selection for a job that has not been saved."""
        chosen = {int(i) for i in self.grid.selected}
        if not (self.saving.images or self.saving.particles) or not chosen or chosen == self._saved:
            return True
        buttons = QMessageBox.StandardButton
        answer = QMessageBox.question(
            self,
            "Selection",
            f"Save the selection of {len(chosen)} {self.images.kind}?",
            buttons.Save | buttons.Discard | buttons.Cancel,
            buttons.Save,
        )
        if answer == buttons.Save:
            try:
                self.save_selection()
            except DisplayError as error:
                QMessageBox.warning(self, "Display", str(error))
                return False
        return answer in (buttons.Save, buttons.Discard)

    def _ask_where(self) -> Saving:
        if self.images.kind == "classes":
            folder = QFileDialog.getExistingDirectory(self, "Directory for particles.star and class_averages.star")
            if not folder:
                return Saving()
            particles = str(Path(folder) / "particles.star") if self.images.data_star else ""
            return replace(self.saving, images=str(Path(folder) / "class_averages.star"), particles=particles)
        default = f"{self.images.kind}.star"
        path, _ = QFileDialog.getSaveFileName(self, "Save selected images", default, "STAR files (*.star)")
        return replace(self.saving, images=path)

    def write_selection(self, saving: Saving) -> list[Path]:
        """Write the files that ``saving`` names for the present selection, and backup_selection.star beside
        them."""
        chosen, written = self.grid.selected, []
        if self.images.kind == "classes":
            if saving.particles:
                if self.images.data_star is None:
                    raise DisplayError(
                        f"No _data.star lies beside {self.images.path}, so its particles cannot be saved"
                    )
                path = Path(saving.particles)
                selection.save_particles_of_classes(
                    path,
                    self.images.data_star,
                    self.selected_classes(),
                    saving.most_per_class,
                    saving.regroup,
                )
                written.append(path)
            if saving.images:
                written += self._write_class_averages(Path(saving.images), saving.recentre)
        elif saving.images:
            path = Path(saving.images)
            selection.save_images(path, self.images.blocks, self.images.table_name, chosen)
            written.append(path)
        elif saving.particles:
            path = Path(saving.particles)
            selection.save_images(path, self.images.blocks, self.images.table_name, chosen)
            written.append(path)
        if saving.backup is not None:
            selection.save_backup(saving.backup, chosen, len(self.images))
            written.append(saving.backup)
        return written

    def _write_class_averages(self, path: Path, recentre: bool) -> list[Path]:
        chosen = self.grid.selected
        if not recentre:
            selection.save_class_averages(path, self.images.table, chosen)
            return [path]
        from relion_py.compute.io import mrc
        from relion_py.compute.io.particles import image_name

        stack = path.with_suffix(".mrcs")
        shifted = []
        for index in chosen:
            image = self.images.source.image(index)
            shifted.append(np.roll(image, selection.centre_of_mass_shift(image), axis=(0, 1)))
        path.parent.mkdir(parents=True, exist_ok=True)
        mrc.write_stack(stack, np.stack(shifted), self.images.pixel_size)
        table = selection.with_class_numbers(self.images.table)
        names = table.strings("rlnReferenceImage")
        for place, index in enumerate(chosen):
            names[index] = image_name(place, stack)
        table.set("rlnReferenceImage", names)
        selection.save_class_averages(path, table, chosen)
        return [path, stack]

    # -- single images

    def open_image(self, index: int) -> None:
        """Open one image at full size in a window of its own."""
        from relion_py.gui.display.image_window import ImageWindow

        def show() -> None:
            title = f"{self.images.path.name} – image {index + 1}"
            window = ImageWindow(self.images.source.image(index), self.images.pixel_size, title)
            self.children_windows.append(window)
            window.show()

        self.try_or_tell(show)

    def show_metadata(self, index: int) -> QTableWidget:
        """Show all columns of one image in a small window."""
        rows = self.images.metadata(index)
        table = QTableWidget(len(rows), 2)
        table.setWindowTitle(f"image {index + 1}")
        table.setHorizontalHeaderLabels(["label", "value"])
        table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        table.verticalHeader().hide()
        for row, (label, text) in enumerate(rows):
            table.setItem(row, 0, QTableWidgetItem(label))
            table.setItem(row, 1, QTableWidgetItem(text))
        table.horizontalHeader().setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        table.resizeColumnToContents(0)
        table.resize(620, min(700, 60 + 26 * len(rows)))
        self.children_windows.append(table)
        table.show()
        return table

    def show_particles_of_selection(self) -> GridWindow | None:
        """Open the particles of the selected classes in a grid of their own."""
        from relion_py.gui.display.images import images_of_star

        if self.images.data_star is None:
            raise DisplayError("The particles of these classes are not there (no _data.star beside the model)")
        images = images_of_star(self.images.data_star, self.images.root)
        rows = selection.particles_of_classes(images.table.ints("rlnClassNumber"), self.selected_classes())
        if not rows:
            raise DisplayError("The selected classes hold no particles")
        window = GridWindow(images, selectable=False)
        window.grid.set_order(rows)
        window.panel.sort.setEnabled(False)
        window.setWindowTitle(f"{len(rows)} particles of {len(self.selected_classes())} classes")
        self.children_windows.append(window)
        window.show()
        return window

    def make_menu(self, index: int) -> QMenu:
        """The right-click menu of one image."""
        menu = QMenu(self)
        menu.addAction("Select this and all above", lambda: self.grid.select_from(index, above=True))
        menu.addAction("Select this and all below", lambda: self.grid.select_from(index, above=False))
        menu.addAction("Invert selection", self.grid.invert_selection)
        menu.addAction("Clear selection", lambda: self.grid.select([]))
        menu.addSeparator()
        menu.addAction("Show original image", lambda: self.open_image(index))
        menu.addAction("Show metadata", lambda: self.show_metadata(index))
        if self.images.kind == "classes" and self.images.data_star is not None:
            menu.addAction(
                "Show particles of selected classes",
                lambda: self.try_or_tell(self.show_particles_of_selection),
            )
        if self.images.table is not None:
            menu.addSeparator()
            menu.addAction("Save selection …", lambda: self.try_or_tell(self.save_selection))
        return menu

    def _show_menu(self, index: int, at: QPoint) -> None:
        self.make_menu(index).popup(at)

    def closeEvent(self, event: Any) -> None:
        if self.isVisible() and not self._may_close():
            event.ignore()
            return
        stop_workers(self)
        for window in self.children_windows:
            window.close()
        super().closeEvent(event)


def _add(layout: QHBoxLayout, label: str, widget: QWidget) -> None:
    if label:
        text = QLabel(label)
        text.setBuddy(widget)
        widget.setProperty("label_widget", text)
        layout.addWidget(text)
    layout.addWidget(widget)


def _hide_with_label(widget: QWidget) -> None:
    widget.hide()
    label = widget.property("label_widget")
    if label is not None:
        label.hide()


def _set_quietly(combo: QComboBox, text: str) -> None:
    combo.blockSignals(True)
    combo.setCurrentText(text)
    combo.blockSignals(False)
