"""The parameter panel: one tab per group of parameters, made from a job's declaration.

The form knows values and how they depend on each other (which entries are inactive), nothing of running jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QScrollArea, QTabWidget, QWidget

from relion_py.gui import theme
from relion_py.gui.fields import Field
from relion_py.jobs.spec import JobSpec, Problem, Row, Tab


class JobForm(QTabWidget):
    """Entries for every option of one job type.

    `edited` is sent with the option's key when the user changed it, `browse` when Browse was clicked.
    """

    edited = Signal(str)
    browse = Signal(str)

    def __init__(self, spec: JobSpec, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spec = spec
        self.fields: dict[str, Field] = {}
        self.is_continue = False
        self._touched: set[str] = set()
        self._show_all_problems = False
        self._kept: dict[str, str] = {}  # values of keys that no tab shows
        self._filling = False
        self._shared_labels: list[tuple[QLabel, list[Field]]] = []
        self._tab_of: dict[str, int] = {}
        self.setDocumentMode(False)
        self.tabBar().setExpanding(False)
        self.setUsesScrollButtons(True)
        for tab in spec.tabs:
            self._add_tab(tab)
        self._grey()

    # ---- making --------------------------------------------------------------------------------------

    def _add_tab(self, tab: Tab) -> None:
        page = QWidget(self)
        grid = QGridLayout(page)
        grid.setContentsMargins(10, 8, 10, 8)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(3)
        grid.setColumnMinimumWidth(0, 250)
        grid.setColumnStretch(1, 10)
        grid.setColumnStretch(4, 1)
        rows = {key: row for row in tab.rows for key in row.options}
        number = self.count()
        done: set[str] = set()
        line = 0
        for key in tab.options:
            if key in done:
                continue
            shared = rows.get(key)
            keys = list(shared.options) if shared else [key]
            done.update(keys)
            fields = [self._make_field(k, page, number) for k in keys]
            line = self._lay_out(grid, line, fields, shared)
        grid.setRowStretch(line, 1)
        area = QScrollArea(self)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setWidget(page)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.addTab(area, tab.name)

    def _make_field(self, key: str, page: QWidget, tab: int) -> Field:
        field = Field(self.spec.options[key], page)
        field.set_value(field.option.default)
        field.changed.connect(self._on_changed)
        field.browse.connect(self.browse)
        self.fields[key] = field
        self._tab_of[key] = tab
        return field

    def _lay_out(self, grid: QGridLayout, line: int, fields: list[Field], shared: Row | None) -> int:
        """Put one row of entries (or one entry) into the grid; returns the next free line."""
        first = fields[0]
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if shared is None:
            grid.addWidget(first.label, line, 0, right)
            grid.addWidget(first.editor, line, 1)
        else:
            page = grid.parentWidget()
            label = QLabel(shared.label.strip(), page)
            label.setToolTip(first.label.toolTip())
            label.setBuddy(first.editor)
            self._shared_labels.append((label, fields))
            grid.addWidget(label, line, 0, right)
            together = QWidget(page)
            together.setMaximumWidth(first.editor.maximumWidth())
            box = QHBoxLayout(together)
            box.setContentsMargins(0, 0, 0, 0)
            for field in fields:
                field.label.hide()
                box.addWidget(field.editor, 1)
                if field is not first and field.help_button is not None:
                    field.help_button.hide()
            grid.addWidget(together, line, 1)
        if first.help_button is not None:
            grid.addWidget(first.help_button, line, 2)
        if first.browse_button is not None:
            grid.addWidget(first.browse_button, line, 3)
        line += 1
        for field in fields:
            grid.addWidget(field.problem_label, line, 1, 1, 3)
            line += 1
        return line

    # ---- values --------------------------------------------------------------------------------------

    def values(self) -> dict[str, str]:
        """Every option's value as `job.star` holds it, those on no tab included."""
        return {**self._kept, **{key: field.value() for key, field in self.fields.items()}}

    def set_values(self, values: Mapping[str, str], is_continue: bool) -> None:
        """Show the values of a job; options that it does not name get their defaults."""
        self._filling = True
        try:
            self._kept = {k: v for k, v in values.items() if k not in self.fields}
            for key, field in self.fields.items():
                field.set_value(values.get(key, field.option.default))
        finally:
            self._filling = False
        self._touched.clear()
        self._show_all_problems = False
        self.show_problems(())
        self.set_continue(is_continue)

    def set_continue(self, is_continue: bool) -> None:
        """Make entries active as for a new job, or as for the continuation of one."""
        self.is_continue = is_continue
        self._grey()

    def _on_changed(self, key: str) -> None:
        if self._filling:
            return
        self._touched.add(key)
        self._grey()
        self.edited.emit(key)

    def _grey(self) -> None:
        values = self.values()
        for key, field in self.fields.items():
            field.set_enabled(self.spec.is_active(key, values, self.is_continue))
        for label, fields in self._shared_labels:
            label.setEnabled(any(field.is_enabled() for field in fields))

    # ---- problems ------------------------------------------------------------------------------------

    def demand_everything(self) -> None:
        """From now on show every problem, also of entries that were not touched yet."""
        self._show_all_problems = True

    def show_problems(self, problems: Iterable[Problem]) -> list[Problem]:
        """Show each problem at its entry; returns those that are shown nowhere else."""
        by_key: dict[str, str] = {}
        homeless: list[Problem] = []
        for problem in problems:
            field = self.fields.get(problem.key)
            if field is None:
                homeless.append(problem)
            elif self._show_all_problems or problem.key in self._touched:
                by_key.setdefault(problem.key, problem.message)
        marked: set[int] = set()
        for key, field in self.fields.items():
            message = by_key.get(key, "") if field.is_enabled() else ""
            field.set_problem(message)
            if message:
                marked.add(self._tab_of[key])
        self._marked = marked
        self._colour_tabs()
        return homeless

    def _colour_tabs(self) -> None:
        for tab in range(self.count()):
            colour = QColor(theme.current().error) if tab in self._marked else QColor()
            self.tabBar().setTabTextColor(tab, colour)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange:
            self._colour_tabs()

    _marked: frozenset[int] | set[int] = frozenset()  # tabs with problems

    def go_to(self, key: str) -> None:
        """Bring the entry of this option into view and put the cursor there."""
        field = self.fields.get(key)
        if field is None:
            return
        self.setCurrentIndex(self._tab_of[key])
        area = self.widget(self._tab_of[key])
        if isinstance(area, QScrollArea):
            area.ensureWidgetVisible(field.editor)
        field.editor.setFocus()
