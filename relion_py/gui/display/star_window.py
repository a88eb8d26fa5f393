"""A STAR file as tables: every block, sortable by any column, with a plot of what one clicks, and its
pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, QSortFilterProxyModel, Qt
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QListWidget,
    QPushButton,
    QSizePolicy,
    QSplitter,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.series import floats, read_star

Index = QModelIndex | QPersistentModelIndex


class StarTableModel(QAbstractTableModel):
    """One block: rows and columns as they stand in the file; sorting reorders an index, never the table."""

    def __init__(self, table: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table = table
        self.labels = list(table.labels)
        self._columns = [table.strings(label) for label in self.labels]
        self.order = np.arange(len(table))
        self.is_list = not table.loop

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        if parent.isValid():
            return 0
        return len(self.labels) if self.is_list else len(self.order)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        if parent.isValid():
            return 0
        return 2 if self.is_list else len(self.labels)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole) or not index.isValid():
            return None
        if self.is_list:
            label = self.labels[index.row()]
            return label if index.column() == 0 else self._columns[index.row()][0]
        return self._columns[index.column()][int(self.order[index.row()])]

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if orientation == Qt.Orientation.Vertical:
            return section + 1 if self.is_list else int(self.order[section]) + 1
        return ("label", "value")[section] if self.is_list else self.labels[section].removeprefix("rln")

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column: as numbers where all entries are, else as text. Column -1 is the file's own
        order."""
        if self.is_list:
            return
        self.layoutAboutToBeChanged.emit()
        if column < 0:
            self.order = np.arange(len(self.table))
        else:
            values = floats(self.table, self.labels[column])
            if np.isnan(values).all():
                values = np.unique(np.asarray(self._columns[column]), return_inverse=True)[1].astype(float)
            values = values if order == Qt.SortOrder.AscendingOrder else -values
            self.order = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")
        self.layoutChanged.emit()


class StarWindow(QWidget):
    """All blocks of a STAR file."""

    def __init__(
        self, path: Path, root: Path, blocks: Any = None, block: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self.path, self.root = path, root
        self.blocks = read_star(path) if blocks is None else blocks
        if not len(self.blocks):
            raise DisplayError(f"{path} holds no tables")
        self.children_windows: list[QWidget] = []
        self.names = list(self.blocks)
        self.setWindowTitle(f"{path.name} – STAR file")
        self.list = QListWidget()
        for name in self.names:
            table = self.blocks[name]
            size = f"{len(table)} rows" if table.loop else f"{len(table.labels)} values"
            self.list.addItem(f"{name or '(unnamed)'}  –  {size}")
        self.view = QTableView()
        self.view.setSortingEnabled(True)
        self.view.setAlternatingRowColors(True)
        self.view.verticalHeader().setDefaultSectionSize(22)
        self.view.setHorizontalScrollMode(QTableView.ScrollMode.ScrollPerPixel)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("filter rows (text in any column)")
        self.filter.setClearButtonEnabled(True)
        self.filter.textChanged.connect(self._on_filter)
        self.model: StarTableModel | None = None
        self.plot: Any = None
        self.status = QLabel(str(path))
        self.status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.against, self.column = QComboBox(), QComboBox()
        self.images_button = QPushButton("Show images")
        self.images_button.clicked.connect(self.show_images)
        self._lay_out()
        self.list.currentRowChanged.connect(self.show_block)
        start = self.names.index(block) if block in self.names else self._largest()
        self.list.setCurrentRow(start)

    def _largest(self) -> int:
        return max(range(len(self.names)), key=lambda i: len(self.blocks[self.names[i]]))

    def _lay_out(self) -> None:
        self.list.setMaximumWidth(280)
        right = QWidget()
        box = QVBoxLayout(right)
        box.setContentsMargins(0, 0, 0, 0)
        line = QHBoxLayout()
        line.addWidget(self.filter, 1)
        line.addWidget(QLabel("plot"))
        for combo in (self.column, self.against):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            combo.setMinimumContentsLength(14)
        line.addWidget(self.column)
        line.addWidget(QLabel("against"))
        line.addWidget(self.against)
        line.addWidget(self.images_button)
        box.addLayout(line)
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.addWidget(self.view)
        box.addWidget(self.splitter, 1)
        outer = QSplitter(Qt.Orientation.Horizontal)
        outer.addWidget(self.list)
        outer.addWidget(right)
        outer.setStretchFactor(1, 1)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(4, 4, 4, 4)
        whole.addWidget(outer, 1)
        whole.addWidget(self.status)
        self.resize(1040, 660)
        self.against.activated.connect(self.draw_plot)
        self.column.activated.connect(self.draw_plot)

    def show_block(self, row: int) -> None:
        """Show the block in that place of the list."""
        if not 0 <= row < len(self.names):
            return
        table = self.blocks[self.names[row]]
        self.model = StarTableModel(table, self)
        self.view.setSortingEnabled(False)
        self.view.setModel(self.model)
        self.view.setSortingEnabled(table.loop)
        self.view.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.model.sort(-1)
        header = self.view.horizontalHeader()
        if table.loop:
            header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
            for column, label in enumerate(self.model.labels):
                sample = max((len(t) for t in self.model._columns[column][:50]), default=6)
                width = 8 * max(min(sample, 42), len(label) - 3) + 26
                self.view.setColumnWidth(column, width)
        else:
            header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
            header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        numeric = [c for c in self.model.labels if table.loop and np.isfinite(floats(table, c)[:100]).any()]
        for combo, first in ((self.against, "row"), (self.column, "nothing")):
            combo.clear()
            combo.addItems([first, *(["histogram"] if combo is self.against else []), *numeric])
            combo.setEnabled(bool(numeric))
        self.images_button.setVisible(self._has_images(table))
        self.filter.clear()
        if self.plot is not None:
            self.plot.hide()

    def _has_images(self, table: Any) -> bool:
        from relion_py.gui.display.images import IMAGE_COLUMNS

        return any(label in table for label in IMAGE_COLUMNS)

    def _on_filter(self, text: str) -> None:
        if self.model is None:
            return
        if not text:
            self.view.setModel(self.model)
            return
        proxy = QSortFilterProxyModel(self)
        proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        proxy.setFilterKeyColumn(-1)
        proxy.setFilterFixedString(text)
        proxy.setSourceModel(self.model)
        self.view.setModel(proxy)

    def draw_plot(self) -> None:
        """Plot the chosen columns below the table."""
        if self.model is None or self.column.currentIndex() == 0:
            if self.plot is not None:
                self.plot.hide()
            return
        from relion_py.gui.plots import ColumnPlot, HistogramPlot

        label, against = self.column.currentText(), self.against.currentText()
        values = floats(self.model.table, label)
        if self.plot is not None:
            self.plot.setParent(None)
            self.plot.deleteLater()
        if against == "histogram":
            self.plot = HistogramPlot()
            self.plot.show_values(values, label)
        else:
            self.plot = ColumnPlot()
            x = np.arange(1, len(values) + 1.0) if against == "row" else floats(self.model.table, against)
            self.plot.show_points(x, {label: values}, against, label)
        self.splitter.addWidget(self.plot)
        self.splitter.setSizes([360, 240])

    def show_images(self) -> QWidget | None:
        """Open the pictures that this block names."""
        from relion_py.gui.display.grid_window import GridWindow
        from relion_py.gui.display.images import images_of_star

        try:
            name = self.names[self.list.currentRow()]
            window = GridWindow(images_of_star(self.path, self.root, table_name=name))
        except DisplayError as error:
            self.status.setText(str(error))
            return None
        self.children_windows.append(window)
        window.show()
        return window

    def finish(self) -> None:
        """Nothing is drawn later."""

    def closeEvent(self, event: Any) -> None:
        for window in self.children_windows:
            window.close()
        super().closeEvent(event)
