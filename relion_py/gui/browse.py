"""What Browse opens: the matching nodes of this project, with any other file one click away."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QSortFilterProxyModel, Qt, Signal
from PySide6.QtGui import QStandardItem, QStandardItemModel
from PySide6.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTreeView,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui.fields import name_filters
from relion_py.jobs.spec import Option
from relion_py.pipeline.graph import Graph, Node


def matching_nodes(graph: Graph, option: Option) -> list[Node]:
    """The nodes of the project that the option accepts by type and file pattern, newest job first."""
    nodes = graph.nodes_of_type(option.node_type) if option.node_type else list(graph.nodes.values())
    globs = [
        glob
        for text in name_filters(option.pattern)[:-1]
        for glob in text[text.rindex("(") + 1 : -1].split()
        if glob not in ("*", "*.*")
    ]
    if globs:
        fitting = [n for n in nodes if any(fnmatch.fnmatch(os.path.basename(n.path), g) for g in globs)]
        nodes = fitting
    order = {name: i for i, name in enumerate(graph.processes)}
    return sorted(nodes, key=lambda n: (-order.get(graph.producer_of(n.path) or "", -1), n.path))


def path_in_project(root: Path, chosen: str) -> str:
    """The path as a job stores it: relative to the project where it lies inside, else as it is."""
    path = Path(chosen)
    try:
        return str(path.absolute().relative_to(root.absolute()))
    except ValueError:
        return chosen


class NodeDialog(QDialog):
    """The nodes that fit an entry; `chosen` gives the path."""

    chosen = Signal(str)

    def __init__(self, graph: Graph, option: Option, root: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._root, self._option = root, option
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(f"Browse: {option.label.strip(' :')}")
        self.resize(760, 420)
        nodes = matching_nodes(graph, option)
        self.filter = QLineEdit(self)
        self.filter.setPlaceholderText("Filter")
        self.filter.setClearButtonEnabled(True)
        self.model = QStandardItemModel(0, 3, self)
        self.model.setHorizontalHeaderLabels(["File", "Job", "Type"])
        for node in nodes:
            self.model.appendRow(_row(graph, node))
        self.proxy = QSortFilterProxyModel(self)
        self.proxy.setSourceModel(self.model)
        self.proxy.setFilterKeyColumn(-1)
        self.proxy.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.view = QTreeView(self)
        self.view.setRootIsDecorated(False)
        self.view.setModel(self.proxy)
        self.view.setSortingEnabled(True)
        self.view.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setUniformRowHeights(True)
        self.view.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.view.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.view.header().setSectionResizeMode(2, QHeaderView.ResizeMode.ResizeToContents)
        self.view.header().setStretchLastSection(False)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel, self
        )
        self.open_button = self.buttons.button(QDialogButtonBox.StandardButton.Open)
        self.any_file_button = QPushButton("Any file …", self)
        self.buttons.addButton(self.any_file_button, QDialogButtonBox.ButtonRole.ActionRole)
        column = QVBoxLayout(self)
        self.headline = QLabel(self)
        self.headline.setWordWrap(True)
        column.addWidget(self.headline)
        column.addWidget(self.filter)
        column.addWidget(self.view, 1)
        column.addWidget(self.buttons)
        kind = option.node_type.split(".")[0] or "any type"
        self.headline.setText(
            f"Files of this project that fit here ({kind}), newest first:"
            if nodes
            else f"No job has made a file that fits here yet ({kind}). “Any file …” opens others."
        )
        self.filter.textChanged.connect(self.proxy.setFilterFixedString)
        self.view.doubleClicked.connect(self._accept_selected)
        self.buttons.accepted.connect(self._accept_selected)
        self.buttons.rejected.connect(self.reject)
        self.any_file_button.clicked.connect(self._any_file)
        self.view.selectionModel().selectionChanged.connect(self._selection_changed)
        if nodes:
            self.view.setCurrentIndex(self.proxy.index(0, 0))
        self._selection_changed()
        self.filter.setFocus()

    def paths(self) -> list[str]:
        """The paths that are offered now."""
        return [self.proxy.index(row, 0).data(Qt.ItemDataRole.UserRole) for row in range(self.proxy.rowCount())]

    def _selection_changed(self) -> None:
        self.open_button.setEnabled(self.view.currentIndex().isValid())

    def _accept_selected(self) -> None:
        index = self.view.currentIndex()
        if not index.isValid() and self.proxy.rowCount():
            index = self.proxy.index(0, 0)
        if index.isValid():
            self.chosen.emit(index.siblingAtColumn(0).data(Qt.ItemDataRole.UserRole))
            self.accept()

    def _any_file(self) -> None:
        dialog = file_dialog(self._option, self._root, self._root, self.parentWidget())
        dialog.fileSelected.connect(lambda path: self.chosen.emit(path_in_project(self._root, path)))
        dialog.open()
        self.reject()


def _row(graph: Graph, node: Node) -> Sequence[QStandardItem]:
    maker = graph.processes.get(graph.producer_of(node.path) or "")
    shown = node.path
    if maker is not None and maker.alias and node.path.startswith(maker.name):
        shown = maker.alias + node.path[len(maker.name) :]
    row = [QStandardItem(shown), QStandardItem(maker.display_name if maker else ""), QStandardItem(node.type)]
    for item in row:
        item.setEditable(False)
        item.setToolTip(node.path)
    row[0].setData(node.path, Qt.ItemDataRole.UserRole)
    return row


def file_dialog(option: Option, root: Path, start: Path, parent: QWidget | None) -> QFileDialog:
    """A dialog for any file; it begins in `start` and filters by the option's pattern."""
    dialog = QFileDialog(parent, f"Browse: {option.label.strip(' :')}", str(start if start.is_dir() else root))
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    dialog.setNameFilters(name_filters(option.pattern))
    return dialog
