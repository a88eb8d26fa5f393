"""The main window: job types and parameters above, job lists and logs below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from PySide6.QtCore import QByteArray, QEvent, QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QMainWindow,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui import dialogs, models
from relion_py.gui.browse import NodeDialog, file_dialog, matching_nodes, path_in_project
from relion_py.gui.display_choice import DisplayChoice
from relion_py.gui.job_actions import JobActions
from relion_py.gui.job_form import JobForm
from relion_py.gui.job_lists import JobLists
from relion_py.gui.log_view import LogView, LogWindow
from relion_py.gui.results_dock import ResultsDock
from relion_py.gui.run_control import GIVE_ALIAS, RunControl
from relion_py.gui.session import ProjectSession, ProjectView, Snapshot
from relion_py.gui.settings import settings
from relion_py.gui.start_page import StartPage
from relion_py.jobs import registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.spec import JobSpec, Option, Problem
from relion_py.pipeline.graph import Node, Process, Status

VALIDATE_AFTER_MS = 250  # typing pauses this long before the values are checked
SLOW_MS = 150  # values that come later than this are waited for with an inactive form
DRAFT_AFTER_MS = 1000  # and this long before they are kept


class MainWindow(QMainWindow):
    """The window on one project."""

    job_shown = Signal(str)  # the parameters of this job are on show now

    def __init__(self, session: ProjectSession) -> None:
        super().__init__()
        self.session = session
        session.setParent(self)
        self.root = session.root
        self.env = SiteEnvironment.from_environ()
        self.specs = [spec.for_site(self.env) for spec in registry.all_specs()]
        self.forms: dict[str, JobForm] = {}
        self.current_job = ""  # "" is a new job
        self.is_filled = False  # the form shows the values of what is selected
        self.ticket = 0  # counts selections, so that late answers for an earlier one are dropped
        self.setWindowTitle(f"RELION — {self.root.name} — {self.root}")
        self.setObjectName("main")
        self.control = RunControl(self)
        self._make_upper()
        self._make_lower()
        self._put_together()
        self.running_label = QLabel(self)
        self.running_label.setObjectName("quiet")
        self.statusBar().addPermanentWidget(self.running_label)
        self.actions_of_job = JobActions(self)
        self.job_actions_button.setMenu(self.actions_of_job.job_menu)
        self.lists.menu_wanted.connect(self._context_menu)
        self._validate_timer = _single_shot(self, VALIDATE_AFTER_MS, self._validate)
        self._draft_timer = _single_shot(self, DRAFT_AFTER_MS, self.keep_draft)
        QShortcut(QKeySequence("Ctrl+Return"), self, self.control.run_button.click)
        QShortcut(QKeySequence.StandardKey.Find, self, self.lists.filter.setFocus)
        session.changed.connect(self._snapshot_changed)
        session.problem.connect(self.control.say_problem)
        session.crashed.connect(self.tell_crash)
        for complaint in registry.complaints():
            self.control.say_problem(complaint)
        self._restore()
        self._snapshot_changed(session.snapshot)
        self.control.update()

    # ---- making --------------------------------------------------------------------------------------

    def _make_upper(self) -> None:
        self.browser = QListWidget(self)
        self.browser.setObjectName("browser")
        self.browser.setAccessibleName("Job types")
        self.browser.setMinimumWidth(150)
        for spec in self.specs:
            item = QListWidgetItem(spec.browser_label, self.browser)
            item.setData(Qt.ItemDataRole.UserRole, spec.type_label)
            item.setToolTip(spec.help)
        self.browser.itemClicked.connect(self._browser_clicked)
        self.browser.itemActivated.connect(self._browser_clicked)
        self.stack = QStackedWidget(self)
        self.start_page = StartPage(self.root, self.stack)
        self.unknown_page = QLabel(self.stack)
        self.unknown_page.setWordWrap(True)
        self.unknown_page.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.stack.addWidget(self.start_page)
        self.stack.addWidget(self.unknown_page)

    def _make_lower(self) -> None:
        self.io_view_button = QPushButton("I/O view", self)
        self.io_view_button.setObjectName("plain")
        self.io_view_button.setCheckable(True)
        self.io_view_button.setToolTip("Give the room of the job lists to stdout and stderr")
        self.job_actions_button = QToolButton(self)
        self.job_actions_button.setObjectName("plain")
        self.job_actions_button.setProperty("popup", "true")
        self.job_actions_button.setText("Job actions")
        self.job_actions_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.alias_line = QLineEdit(self)
        self.alias_line.setPlaceholderText(GIVE_ALIAS)
        self.alias_line.setAccessibleName("Current job")
        self.alias_line.setMaximumWidth(420)
        self.display_choice = DisplayChoice(self.session, self)
        self.display_choice.chosen.connect(self._display)
        self.results = ResultsDock(self.session, self)
        self.results_button = QPushButton("Results", self)
        self.results_button.setObjectName("plain")
        self.results_button.setCheckable(True)
        self.results_button.setToolTip("Show what the selected job has found, beside everything else")
        self.results_button.toggled.connect(self.results.setVisible)
        self.lists = JobLists(self)
        self.lists.clicked.connect(self.select_job)
        self.stdout_view = LogView("stdout", False, self)
        self.stderr_view = LogView("stderr", True, self)
        for view in (self.stdout_view, self.stderr_view):
            view.opened.connect(self.open_log)
            view.setMinimumHeight(32)
        self.io_view_button.toggled.connect(lambda wide: self.lists.setVisible(not wide))

    def _put_together(self) -> None:
        right = QWidget(self)
        column = QVBoxLayout(right)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.stack, 1)
        column.addLayout(self.control.row())
        self.upper = QSplitter(Qt.Orientation.Horizontal, self)
        self.upper.addWidget(self.browser)
        self.upper.addWidget(right)
        self.upper.setStretchFactor(1, 1)
        self.upper.setSizes([200, 1080])
        self.upper.setChildrenCollapsible(False)
        middle = QHBoxLayout()
        middle.setContentsMargins(0, 2, 0, 2)
        middle.addWidget(self.io_view_button)
        middle.addWidget(self.job_actions_button)
        middle.addSpacing(14)
        middle.addWidget(QLabel("Current:", self))
        middle.addWidget(self.alias_line, 3)
        middle.addSpacing(14)
        middle.addWidget(QLabel("Display:", self))
        middle.addWidget(self.display_choice, 3)
        middle.addStretch(1)
        middle.addWidget(self.results_button)
        self.bottom = QSplitter(Qt.Orientation.Vertical, self)
        for widget, stretch in ((self.lists, 3), (self.stdout_view, 2), (self.stderr_view, 1)):
            self.bottom.addWidget(widget)
            self.bottom.setStretchFactor(self.bottom.count() - 1, stretch)
        self.bottom.setSizes([190, 112, 42])
        self.bottom.setChildrenCollapsible(False)
        lower = QWidget(self)
        column = QVBoxLayout(lower)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(middle)
        column.addWidget(self.bottom, 1)
        self.halves = QSplitter(Qt.Orientation.Vertical, self)
        self.halves.addWidget(self.upper)
        self.halves.addWidget(lower)
        self.halves.setStretchFactor(0, 1)
        self.halves.setStretchFactor(1, 1)
        self.halves.setSizes([382, 402])
        self.halves.setChildrenCollapsible(False)
        centre = QWidget(self)
        box = QVBoxLayout(centre)
        box.setContentsMargins(8, 4, 8, 2)
        self.whole = QSplitter(Qt.Orientation.Horizontal, self)
        self.whole.addWidget(self.halves)
        self.whole.addWidget(self.results)
        self.whole.setStretchFactor(0, 1)
        self.whole.setStretchFactor(1, 2)
        self.whole.setSizes([860, 420])
        self.whole.setChildrenCollapsible(False)
        box.addWidget(self.whole)
        self.setCentralWidget(centre)
        self.statusBar().setSizeGripEnabled(True)
        self.resize(1280, 800)

    # ---- what is remembered ----------------------------------------------------------------------------

    def _splitters(self) -> dict[str, QSplitter]:
        return {
            "whole": self.whole,
            "halves": self.halves,
            "upper": self.upper,
            "bottom": self.bottom,
            "columns": self.lists.columns,
        }

    def _restore(self) -> None:
        store = settings()
        geometry = store.value("geometry")
        if isinstance(geometry, QByteArray):
            self.restoreGeometry(geometry)
        self.results_button.setChecked(str(store.value("results", "true")) == "true")
        self.results.setVisible(self.results_button.isChecked())
        for name, splitter in self._splitters().items():
            state = store.value(f"splitter/{name}")
            if isinstance(state, QByteArray):
                splitter.restoreState(state)

    def closeEvent(self, event: QCloseEvent) -> None:
        """Remember the layout and what was typed; running jobs go on without the window."""
        store = settings()
        store.setValue("geometry", self.saveGeometry())
        for name, splitter in self._splitters().items():
            store.setValue(f"splitter/{name}", splitter.saveState())
        store.setValue("results", "true" if self.results_button.isChecked() else "false")
        store.sync()
        if self._draft_timer.isActive():
            self.keep_draft()
        self.stdout_view.follow(None)
        self.stderr_view.follow(None)
        self.results.stop()
        self.session.close()
        super().closeEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.ActivationChange and self.isActiveWindow():
            self.session.refresh()
        super().changeEvent(event)

    # ---- job types and forms ---------------------------------------------------------------------------

    @property
    def form(self) -> JobForm | None:
        """The form that is on show; None for the initial screen and unknown job types."""
        shown = self.stack.currentWidget()
        return shown if isinstance(shown, JobForm) else None

    @property
    def process(self) -> Process | None:
        """The selected job; None for a new one."""
        return self.session.snapshot.graph.processes.get(self.current_job)

    def form_for(self, spec: JobSpec) -> JobForm:
        """The form of a job type, made when it is first wanted."""
        form = self.forms.get(spec.type_label)
        if form is None:
            form = JobForm(spec, self.stack)
            form.edited.connect(self._edited)
            form.browse.connect(self._browse)
            for field in form.fields.values():
                if field.option.kind == "node":
                    field.set_suggester(partial(self._paths_for, field.option))
            self.forms[spec.type_label] = form
            self.stack.addWidget(form)
        return form

    def spec_of(self, type_label: str) -> JobSpec | None:
        """The job type of this label, with this site's defaults; None if there is none."""
        try:
            label = registry.by_label(type_label).type_label
        except registry.JobTypeError:
            return None
        return next((spec for spec in self.specs if spec.type_label == label), None)

    def _browser_clicked(self, item: QListWidgetItem) -> None:
        self.new_job(item.data(Qt.ItemDataRole.UserRole))

    def new_job(self, type_label: str) -> None:
        """Show an empty job of this type, with the values that were typed last."""
        spec = self.spec_of(type_label)
        if spec is None:
            return
        form = self._show_new(spec)
        ticket = self.ticket
        self.control.update()
        self.session.call(
            lambda project: dict(project.draft(spec.type_label)),
            lambda values: self._fill(ticket, form, values, False),
            lambda sentence: self._fill_defaults(ticket, form, sentence),
        )

    def _show_new(self, spec: JobSpec) -> JobForm:
        """The form of a new job of this type, now in view and yet to be filled."""
        self._keep_pending_draft()
        self._select("")
        form = self.form_for(spec)
        self.stack.setCurrentWidget(form)
        self._mark_browser(spec)
        return form

    def show_values(self, type_label: str, values: Mapping[str, str]) -> None:
        """Show these parameters as a new job (File > Load job.star)."""
        spec = self.spec_of(type_label)
        if spec is None:
            self.control.say_problem(
                f"There is no job type “{type_label}” in this program, so the file was not loaded."
            )
            return
        form = self._show_new(spec)
        self._fill(self.ticket, form, {**spec.defaults(self.env), **values}, False)
        self._draft_timer.start()

    def show_initial_screen(self) -> None:
        """Show the welcome page again."""
        self._keep_pending_draft()
        self._select("")
        self.browser.clearSelection()
        self.stack.setCurrentWidget(self.start_page)
        self.control.update()

    def _mark_browser(self, spec: JobSpec | None) -> None:
        self.browser.clearSelection()
        if spec is not None:
            self.browser.setCurrentRow(self.specs.index(spec))

    def _fill(self, ticket: int, form: JobForm, values: Mapping[str, str], is_continue: bool) -> None:
        if ticket != self.ticket:
            return
        self.is_filled = True
        form.setEnabled(True)
        form.set_values(values, is_continue)
        self._draft_timer.stop()
        self.control.update()
        self.job_shown.emit(self.current_job)

    def _fill_defaults(self, ticket: int, form: JobForm, sentence: str) -> None:
        """What was typed last cannot be read: say so and begin with the defaults."""
        if ticket == self.ticket:
            self._fill(ticket, form, form.spec.defaults(self.env), False)
            self.control.say_problem(sentence)

    def _lock_unfilled(self, ticket: int) -> None:
        """Values that take long to come must not overwrite what is typed meanwhile."""
        if ticket == self.ticket and not self.is_filled and self.form is not None:
            self.form.setEnabled(False)

    def _paths_for(self, option: Option) -> list[str]:
        return [node.path for node in matching_nodes(self.session.snapshot.graph, option)]

    # ---- jobs of the project ---------------------------------------------------------------------------

    def _select(self, name: str) -> None:
        self.ticket += 1
        self.current_job = name
        self.is_filled = False
        QTimer.singleShot(SLOW_MS, self, partial(self._lock_unfilled, self.ticket))
        self.control.overwriting = False
        self.control.banner.hide()
        self.lists.set_current(name)
        self.alias_line.clear()
        process = self.process
        if process is not None:
            self.alias_line.setText(models.label_of(process))
            self.alias_line.setCursorPosition(0)
            out, err = self.root / name / "run.out", self.root / name / "run.err"
            self.stdout_view.follow(out)
            self.stderr_view.follow(err)
        else:
            self.stdout_view.follow(None)
            self.stderr_view.follow(None)
        self.display_choice.show_job(self.current_job)
        self.results.show_job(name)

    def select_job(self, name: str) -> None:
        """Show a job of the project: its parameters, logs, inputs and outputs."""
        if name not in self.session.snapshot.graph.processes:
            return
        self._keep_pending_draft()
        self._select(name)
        process = self.process
        assert process is not None
        spec = self.spec_of(process.type_label)
        self._mark_browser(spec)
        if spec is None:
            self.unknown_page.setText(
                f"{process.name} is a job of type “{process.type_label}”, which this program does not know.\n"
                "Its logs, inputs and outputs are shown below; it is left as it is."
            )
            self.stack.setCurrentWidget(self.unknown_page)
            self.control.update()
            return
        form = self.form_for(spec)
        self.stack.setCurrentWidget(form)
        ticket = self.ticket
        is_continue = process.status != Status.SCHEDULED
        self.control.update()
        self.session.call(
            lambda project: dict(project.job_values(name)),
            lambda values: self._fill(ticket, form, values, is_continue),
            lambda sentence: self._no_parameters(ticket, sentence),
        )

    def _no_parameters(self, ticket: int, sentence: str) -> None:
        if ticket == self.ticket:
            self.unknown_page.setText(sentence)
            self.stack.setCurrentWidget(self.unknown_page)
            self.control.update()
            self.job_shown.emit(self.current_job)

    def _snapshot_changed(self, snapshot: Snapshot) -> None:
        self.lists.show_snapshot(snapshot)
        if self.current_job and self.current_job not in snapshot.graph.processes:
            self.show_initial_screen()
        elif self.current_job:
            process = self.process
            assert process is not None
            self.alias_line.setText(models.label_of(process))
            self.alias_line.setCursorPosition(0)
            self.stdout_view.poll()
            self.stderr_view.poll()
            self.display_choice.show_job(self.current_job)
        self.control.update()
        self._say_what_runs(snapshot)

    def _say_what_runs(self, snapshot: Snapshot) -> None:
        running = models.with_status(snapshot.graph.processes.values(), Status.RUNNING)
        parts = [f"{dialogs.plural(len(running), 'job')} running"] if running else ["No job is running"]
        parts += [f"{name.rstrip('/')}: {text}" for name, text in list(snapshot.progress.items())[:3]]
        self.running_label.setText("   ·   ".join(parts))

    def _context_menu(self, _name: str, place: QPoint) -> None:
        self.actions_of_job.job_menu.popup(place)

    # ---- editing ---------------------------------------------------------------------------------------

    def _edited(self, _key: str) -> None:
        self._validate_timer.start()
        if not self.current_job:
            self._draft_timer.start()

    def _validate(self) -> None:
        form, ticket = self.form, self.ticket
        if form is None:
            return
        spec, values, is_continue, root = form.spec, form.values(), form.is_continue, self.root
        self.session.call(
            lambda _project: spec.validate(values, root, is_continue),
            lambda problems: self._validated(ticket, form, problems),
        )

    def _validated(self, ticket: int, form: JobForm, problems: tuple[Problem, ...]) -> None:
        if ticket != self.ticket or form is not self.form:
            return
        form.show_problems(problems)
        banner = self.control.banner
        if banner.isVisible() and banner.about == "problems":
            self.control.show_problems(problems, jump=False)

    def forget_pending_draft(self) -> None:
        """What is on show is being run: the project keeps it itself."""
        self._draft_timer.stop()

    def _keep_pending_draft(self) -> None:
        if self._draft_timer.isActive():
            self.keep_draft()

    def keep_draft(self) -> None:
        """Keep what was typed for a new job, so that neither a crash nor closing the window loses it."""
        self._draft_timer.stop()
        form = self.form
        if form is not None and not self.current_job:
            type_label, values = form.spec.type_label, form.values()
            self.session.call(lambda project: project.save_draft(type_label, values))

    def _browse(self, key: str) -> None:
        form = self.form
        if form is None:
            return
        field = form.fields[key]
        option = field.option
        if option.kind == "node":
            chooser = NodeDialog(self.session.snapshot.graph, option, self.root, self)
            chooser.chosen.connect(field.set_value)
            chooser.open()
            return
        start = self.root / self.current_job if option.directory == "CURRENT_ODIR" else self.root
        dialog = file_dialog(option, self.root, start, self)
        dialog.fileSelected.connect(lambda path: field.set_value(path_in_project(self.root, path)))
        dialog.open()

    # ---- display -----------------------------------------------------------------------------------------

    def _display(self, node: Node) -> None:
        self.open_viewer(lambda display: display.open_node(ProjectView(self.session), node, self))

    def open_viewer(self, opener: Callable[..., QWidget]) -> None:
        """Open a viewer; whatever goes wrong in it becomes one sentence."""
        QApplication.setOverrideCursor(Qt.CursorShape.WaitCursor)
        try:
            from relion_py.gui import display

            self._viewer = opener(display)
        except Exception as error:  # a file that cannot be shown must never take the window along
            self.control.say_problem(f"This cannot be displayed: {error}")
        finally:
            QApplication.restoreOverrideCursor()

    def open_log(self, path: Path) -> None:
        """Open all of a log in a window that can be searched."""
        window = LogWindow(path, str(path.relative_to(self.root)), path.name == "run.err", self)
        window.show()

    def tell_crash(self, traceback_text: str) -> None:
        last = traceback_text.strip().splitlines()[-1] if traceback_text.strip() else ""
        dialogs.tell(
            self,
            "A mistake of the program",
            "The program made a mistake. Your project and running jobs are not affected, and the window "
            f"can be used further.\n\n{last}",
            traceback_text,
            bad=True,
        )


def _single_shot(parent: QWidget, interval: int, slot: Callable[[], None]) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(interval)
    timer.timeout.connect(slot)
    return timer
