"""Qt item models over the project's graph: job lists and job-type list; testable without a window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from PySide6.QtCore import QAbstractListModel, QModelIndex, QPersistentModelIndex, QSortFilterProxyModel, Qt
from PySide6.QtGui import QColor, QFont

from relion_py.gui import theme
from relion_py.pipeline.graph import FINISHED, Process, Status

NAME_ROLE = int(Qt.ItemDataRole.UserRole)  # the job's name, e.g. "Refine3D/job007/"
NOTE_ROLE = NAME_ROLE + 1  # quiet text at the right edge: progress of a running job

Index = QModelIndex | QPersistentModelIndex
_DISPLAY = Qt.ItemDataRole.DisplayRole
_TIP = Qt.ItemDataRole.ToolTipRole
_COLOUR = Qt.ItemDataRole.ForegroundRole
_FONT = Qt.ItemDataRole.FontRole


def label_of(process: Process) -> str:
    """What a list shows: "007: Refine3D/best" as in RELION, alias instead of name where there is one."""
    name = process.display_name
    return f"{process.number:03d}: {name}" if process.number else name


class JobListModel(QAbstractListModel):
    """A list of jobs; failed ones are red, aborted ones red and struck through."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._jobs: list[Process] = []
        self._notes: dict[str, str] = {}
        self._struck = QFont()
        self._struck.setStrikeOut(True)

    def set_jobs(self, jobs: Iterable[Process], notes: dict[str, str] | None = None) -> None:
        """Show these jobs in this order; rows that stay the same keep their selection."""
        new, notes = list(jobs), notes or {}
        old = self._jobs
        if [j.name for j in new] == [j.name for j in old]:
            changed = [
                i
                for i, (a, b) in enumerate(zip(old, new, strict=True))
                if a != b or self._notes.get(b.name) != notes.get(b.name)
            ]
            self._jobs, self._notes = new, notes
            if changed:
                self.dataChanged.emit(self.index(changed[0]), self.index(changed[-1]))
            return
        if self._grow_at_one_place(new):
            self._notes = notes
            return
        self.beginResetModel()
        self._jobs, self._notes = new, notes
        self.endResetModel()

    def _grow_at_one_place(self, new: list[Process]) -> bool:
        """Insert or remove one run of rows if that is all that differs, so that views keep their place."""
        old = self._jobs
        head = 0
        while head < min(len(old), len(new)) and old[head].name == new[head].name:
            head += 1
        tail = 0
        while tail < min(len(old), len(new)) - head and old[-1 - tail].name == new[-1 - tail].name:
            tail += 1
        if len(new) > len(old) and head + tail == len(old):
            self.beginInsertRows(QModelIndex(), head, len(new) - tail - 1)
            self._jobs = new
            self.endInsertRows()
            return True
        if len(new) < len(old) and head + tail == len(new):
            self.beginRemoveRows(QModelIndex(), head, len(old) - tail - 1)
            self._jobs = new
            self.endRemoveRows()
            return True
        return False

    def job(self, row: int) -> Process:
        return self._jobs[row]

    def row_of(self, name: str) -> int:
        """The row of the job with this name; -1 if it is not in the list."""
        return next((i for i, job in enumerate(self._jobs) if job.name == name), -1)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's signature
        return 0 if parent.isValid() else len(self._jobs)

    def data(self, index: Index, role: int = _DISPLAY) -> Any:
        if not index.isValid() or index.row() >= len(self._jobs):
            return None
        job = self._jobs[index.row()]
        if role == _DISPLAY:
            return label_of(job)
        if role == NAME_ROLE:
            return job.name
        if role == NOTE_ROLE:
            return self._notes.get(job.name, "")
        if role == _TIP:
            alias = f"\nalias: {job.alias}" if job.alias else ""
            note = self._notes.get(job.name, "")
            return f"{job.name}{alias}\n{job.type_label}, {job.status.lower()}{', ' + note if note else ''}"
        if role == _COLOUR and job.status in (Status.FAILED, Status.ABORTED):
            return QColor(theme.current().error)
        if role == _FONT and job.status == Status.ABORTED:
            return self._struck
        return None


class FilteredJobs(QSortFilterProxyModel):
    """The jobs whose name, alias or type holds every word that was typed."""

    def __init__(self, source: JobListModel, parent: Any = None) -> None:
        super().__init__(parent)
        self._source = source
        self._words: list[str] = []
        self.setSourceModel(source)

    def set_text(self, text: str) -> None:
        """Filter by the words of `text`, in any order and case."""
        words = text.lower().split()
        if words != self._words:
            self._words = words
            self.invalidate()

    def filterAcceptsRow(self, row: int, parent: Index) -> bool:
        if not self._words:
            return True
        job = self._source.job(row)
        text = f"{label_of(job)} {job.name} {job.type_label} {job.status}".lower()
        return all(word in text for word in self._words)


def finished(jobs: Iterable[Process], alphabetical: bool) -> list[Process]:
    """Jobs that ended: newest first, or by what the list shows (gui_mainwindow.cpp, fillRunningJobLists)."""
    ended = [job for job in jobs if job.status in FINISHED]
    if alphabetical:
        return sorted(ended, key=lambda job: job.display_name.lower())
    return ended[::-1]


def with_status(jobs: Iterable[Process], status: Status) -> list[Process]:
    """Jobs with this status in the order of the project."""
    return [job for job in jobs if job.status == status]
