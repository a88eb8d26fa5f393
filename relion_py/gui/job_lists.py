"""The lower half's lists: finished, running and scheduled jobs, and what came before and after."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPoint, QRect, Qt, Signal
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListView,
    QSplitter,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui import models, theme
from relion_py.gui.session import Snapshot
from relion_py.pipeline.graph import Status


class _JobDelegate(QStyledItemDelegate):
    """Draws a job, with its progress in quiet text at the right edge."""

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        super().paint(painter, option, index)
        note = index.data(models.NOTE_ROLE)
        if not note:
            return
        painter.save()
        colours = theme.current()
        selected = bool(option.state & QStyle.StateFlag.State_Selected)  # type: ignore[attr-defined]
        rect = QRect(option.rect).adjusted(0, 0, -6, 0)  # type: ignore[attr-defined]
        name_width = option.fontMetrics.horizontalAdvance(index.data()) + 16  # type: ignore[attr-defined]
        if name_width + option.fontMetrics.horizontalAdvance(note) < rect.width():  # type: ignore[attr-defined]
            painter.setPen(QColor(colours.selection_text if selected else colours.quiet))
            painter.drawText(rect, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, note)
        painter.restore()


class JobList(QWidget):
    """One list of jobs under its heading."""

    clicked = Signal(str)
    menu_wanted = Signal(str, QPoint)

    def __init__(self, heading: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.heading = heading
        self.model = models.JobListModel(self)
        self.proxy = models.FilteredJobs(self.model, self)
        self.view = QListView(self)
        self.view.setModel(self.proxy)
        self.view.setItemDelegate(_JobDelegate(self.view))
        self.view.setUniformItemSizes(True)
        self.view.setAccessibleName(heading)
        self.view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.view.setMinimumHeight(44)
        self.label = QLabel(heading, self)
        self.label.setObjectName("heading")
        self.bar = QHBoxLayout()
        self.bar.setContentsMargins(0, 0, 0, 0)
        self.bar.addWidget(self.label)
        self.bar.addStretch(1)
        self.label.setMinimumHeight(26)  # as high as the filter beside one of them
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(self.bar)
        column.addWidget(self.view, 1)
        self.view.clicked.connect(self._clicked)
        self.view.activated.connect(self._clicked)
        self.view.customContextMenuRequested.connect(self._menu)

    def names(self) -> list[str]:
        """The names of the jobs that are shown."""
        return [self.proxy.index(i, 0).data(models.NAME_ROLE) for i in range(self.proxy.rowCount())]

    def select(self, name: str) -> None:
        """Mark the job with this name, if it is here, as the current one."""
        row = self.model.row_of(name) if name else -1
        index = self.proxy.mapFromSource(self.model.index(row)) if row >= 0 else QModelIndex()
        if index.isValid():
            if index != self.view.currentIndex() or not self.view.selectionModel().isSelected(index):
                self.view.setCurrentIndex(index)
        else:
            self.view.selectionModel().clear()

    def show_count(self) -> None:
        """Put the number of jobs beside the heading."""
        count = self.proxy.rowCount()
        self.label.setText(f"{self.heading} ({count})" if count else self.heading)

    def _clicked(self, index: QModelIndex) -> None:
        self.clicked.emit(index.data(models.NAME_ROLE))

    def _menu(self, place: QPoint) -> None:
        index = self.view.indexAt(place)
        if index.isValid():
            name = index.data(models.NAME_ROLE)
            self.clicked.emit(name)
            self.menu_wanted.emit(name, self.view.viewport().mapToGlobal(place))


class JobLists(QWidget):
    """All five lists; `clicked` gives the name of the job that was chosen in any of them."""

    clicked = Signal(str)
    menu_wanted = Signal(str, QPoint)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.alphabetical = False
        self._snapshot = Snapshot()
        self._current = ""
        self.finished = JobList("Finished jobs", self)
        self.running = JobList("Running jobs", self)
        self.scheduled = JobList("Scheduled jobs", self)
        self.inputs = JobList("Input to this job", self)
        self.outputs = JobList("Output from this job", self)
        self.filter = QLineEdit(self)
        self.filter.setPlaceholderText("Filter jobs")
        self.filter.setToolTip("Shows only jobs whose name, alias, type or state holds these words (Ctrl+F)")
        self.filter.setClearButtonEnabled(True)
        self.filter.setMaximumWidth(190)
        self.order = QToolButton(self)
        self.order.setObjectName("plain")
        self.order.setCheckable(True)
        self.order.setText("A–Z")
        self.order.setToolTip("Order alphabetically instead of newest first")
        self.finished.bar.addWidget(self.filter)
        self.finished.bar.addWidget(self.order)
        self.columns = QSplitter(Qt.Orientation.Horizontal, self)
        self.columns.addWidget(self.finished)
        self.middle = _pair(self.running, self.scheduled)
        self.columns.addWidget(self.middle)
        self.right = _pair(self.inputs, self.outputs)
        self.columns.addWidget(self.right)
        self.columns.setSizes([420, 400, 400])
        self.columns.setChildrenCollapsible(False)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.columns)
        for each in self.all_lists():
            each.clicked.connect(self.clicked)
            each.menu_wanted.connect(self.menu_wanted)
        self.filter.textChanged.connect(self._filter)
        self.order.toggled.connect(self.set_alphabetical)

    def all_lists(self) -> tuple[JobList, ...]:
        return (self.finished, self.running, self.scheduled, self.inputs, self.outputs)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Bring all lists up to date."""
        self._snapshot = snapshot
        jobs = list(snapshot.graph.processes.values())
        self.finished.model.set_jobs(models.finished(jobs, self.alphabetical))
        self.running.model.set_jobs(models.with_status(jobs, Status.RUNNING), snapshot.progress)
        self.scheduled.model.set_jobs(models.with_status(jobs, Status.SCHEDULED))
        self.set_current(self._current)

    def set_current(self, name: str) -> None:
        """Mark the selected job and list the jobs before and after it."""
        self._current = name
        graph = self._snapshot.graph
        known = name in graph.processes
        self.inputs.model.set_jobs(graph.processes[n] for n in (graph.parents(name) if known else ()))
        self.outputs.model.set_jobs(graph.processes[n] for n in (graph.children(name) if known else ()))
        for each in (self.finished, self.running, self.scheduled):
            each.select(name)
        for each in self.all_lists():
            each.show_count()

    def set_alphabetical(self, alphabetical: bool) -> None:
        """Order the finished jobs by what the list shows instead of newest first."""
        if self.order.isChecked() != alphabetical:
            self.order.setChecked(alphabetical)
            return
        self.alphabetical = alphabetical
        self.show_snapshot(self._snapshot)

    def _filter(self, text: str) -> None:
        for each in (self.finished, self.running, self.scheduled):
            each.proxy.set_text(text)
            each.show_count()
            each.select(self._current)


def _pair(upper: QWidget, lower: QWidget) -> QSplitter:
    pair = QSplitter(Qt.Orientation.Vertical)
    pair.addWidget(upper)
    pair.addWidget(lower)
    pair.setChildrenCollapsible(False)
    return pair
