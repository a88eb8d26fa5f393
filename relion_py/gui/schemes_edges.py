"""The table of a scheme's edges, in which a person changes them in place, and what it shares with the other table.

A double click (or F2) on a cell offers what can stand there: the scheme's nodes, or for a fork its bool variables.
A fork's variable that is chosen for a plain edge makes a fork of it, both of whose ways go to the old target until
another is chosen; an empty variable makes a plain edge of a fork, which keeps the target for True.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PySide6.QtCore import QAbstractItemModel, QModelIndex, QPersistentModelIndex, QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtWidgets import (
    QAbstractItemDelegate,
    QAbstractItemView,
    QComboBox,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from relion_py.pipeline.schemes import Edge, Scheme
from relion_py.pipeline.schemes.model import UNDEFINED

COLUMNS = ("From", "To", "If", "Else")
FROM, TO, IF, ELSE = range(4)

_Index = QModelIndex | QPersistentModelIndex


class EdgeTable(QTableWidget):
    """The edges of one scheme, a row each; `edge_edited(old, new)` tells what a person wants instead of which."""

    edge_edited = Signal(object, object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(COLUMNS), parent)
        dress_table(self, COLUMNS)
        self.setAccessibleName("Edges of the scheme")
        self.setToolTip("Double-click a cell to change the edge")
        self.setItemDelegate(_Choices(self))
        self._scheme: Scheme | None = None
        self._newer: Scheme | None = None  # to be shown when the person has chosen
        self.itemChanged.connect(self._edited)

    def show_scheme(self, scheme: Scheme) -> None:
        """Show a scheme's edges; while a person chooses in a cell it waits, for the choice belongs to what is shown."""
        if self.state() == QAbstractItemView.State.EditingState:
            self._newer = scheme
            return
        self._scheme, self._newer = scheme, None
        fill_table(self, [_row(edge) for edge in scheme.edges], editable=(FROM, TO, IF, ELSE))
        plain = [i for i, edge in enumerate(scheme.edges) if not edge.is_fork]
        with QSignalBlocker(self):
            for i in plain:
                if (item := self.item(i, ELSE)) is not None:
                    item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)

    def closeEditor(self, editor: QWidget, hint: QAbstractItemDelegate.EndEditHint) -> None:
        super().closeEditor(editor, hint)
        if self._newer is not None:
            self.show_scheme(self._newer)

    def choices(self, column: int) -> list[str]:
        """What may stand in a column."""
        if self._scheme is None:
            return []
        return ["", *self._scheme.bools] if column == IF else self._scheme.nodes

    def selected(self) -> Edge | None:
        """The edge of the current row."""
        edges = self._scheme.edges if self._scheme else []
        return edges[self.currentRow()] if 0 <= self.currentRow() < len(edges) else None

    def _edited(self, item: QTableWidgetItem) -> None:
        if self._scheme is None:
            return
        old = self._scheme.edges[item.row()]
        new = changed_edge(old, item.column(), item.text())
        if new != old:
            self.edge_edited.emit(old, new)
            # shown when the cell is closed, so that the next edit begins with this one; a refusal shows the old again
            self.show_scheme(replace(self._scheme, edges=[new if edge == old else edge for edge in self._scheme.edges]))


class _Choices(QStyledItemDelegate):
    """A list to choose from in each cell."""

    def __init__(self, table: EdgeTable) -> None:
        super().__init__(table)
        self._table = table

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: _Index) -> QWidget:
        box = _OpenBox(parent)
        box.addItems(self._table.choices(index.column()))
        box.closed.connect(lambda: self._take(box))
        return box

    def setEditorData(self, editor: QWidget, index: _Index) -> None:
        assert isinstance(editor, QComboBox)
        text = index.data()
        if editor.findText(text) < 0:  # what the file names but the scheme does not have
            editor.addItem(text)
        editor.setCurrentText(text)

    def setModelData(self, editor: QWidget, model: QAbstractItemModel, index: _Index) -> None:
        assert isinstance(editor, QComboBox)
        if editor.currentText() != index.data():
            model.setData(index, editor.currentText())

    def _take(self, box: QComboBox) -> None:
        self.commitData.emit(box)
        self.closeEditor.emit(box)


class _OpenBox(QComboBox):
    """A list that is open from the start; `closed` tells that something was chosen, or nothing."""

    closed = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        # timers of its own, which end with it: Qt closes the list before it takes what was chosen
        self._opening, self._closing = QTimer(self), QTimer(self)
        for timer, slot in ((self._opening, self.showPopup), (self._closing, self.closed.emit)):
            timer.setSingleShot(True)
            timer.timeout.connect(slot)
        self._opening.start()

    def hidePopup(self) -> None:
        super().hidePopup()
        self._closing.start()


def changed_edge(edge: Edge, column: int, text: str) -> Edge:
    """The edge that a person wants who has put `text` into a column of its row."""
    if column == FROM:
        return replace(edge, source=text)
    if column == TO:
        return replace(edge, target_if_true=text) if edge.is_fork else replace(edge, target=text)
    if column == ELSE:
        return replace(edge, target=text)
    if text:
        if_true = edge.target_if_true if edge.is_fork else edge.target
        return replace(edge, is_fork=True, condition=text, target_if_true=if_true)
    target = edge.target_if_true if edge.is_fork else edge.target
    return replace(edge, is_fork=False, condition=UNDEFINED, target_if_true=UNDEFINED, target=target)


def _row(edge: Edge) -> tuple[str, ...]:
    if edge.is_fork:
        return edge.source, edge.target_if_true, edge.condition, edge.target
    return edge.source, edge.target, "", ""


def make_table(headers: tuple[str, ...], parent: QWidget) -> QTableWidget:
    """An empty table with these columns, of which rows are selected one at a time."""
    table = QTableWidget(0, len(headers), parent)
    dress_table(table, headers)
    return table


def dress_table(table: QTableWidget, headers: tuple[str, ...]) -> None:
    """Headers, equal widths, whole rows selected."""
    table.setHorizontalHeaderLabels(headers)
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
    table.verticalHeader().hide()
    table.setWordWrap(False)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)


def fill_table(table: QTableWidget, rows: Sequence[tuple[str, ...]], editable: tuple[int, ...] = ()) -> None:
    """Show these rows, of which some columns can be edited; tells nobody of a change."""
    table.blockSignals(True)
    table.setRowCount(len(rows))
    for i, row in enumerate(rows):
        for j, text in enumerate(row):
            item = QTableWidgetItem(text)
            item.setToolTip(text)
            if j not in editable:
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
            table.setItem(i, j, item)
    table.blockSignals(False)
