"""The menus of the window, and what can be done to jobs: note, alias, abort, clean, delete, flowchart."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction, QActionGroup, QKeySequence
from PySide6.QtWidgets import QApplication, QFileDialog, QMenu

import relion_py
from relion_py.gui import dialogs, models, project_files, theme
from relion_py.gui.flowchart_view import FlowchartWindow
from relion_py.gui.schemes_panel import fill_schemes_menu
from relion_py.gui.settings import settings
from relion_py.pipeline import jobstar
from relion_py.pipeline.graph import FINISHED, Process, Status
from relion_py.pipeline.project import Project

if TYPE_CHECKING:
    from relion_py.gui.main_window import MainWindow


class JobActions(QObject):
    """Builds the menus and carries out what they offer."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self.window = window
        self.session = window.session
        self._for_job: list[tuple[QAction, Callable[[Process], bool]]] = []
        self.job_menu = QMenu("Job actions", window)
        self._fill_job_menu()
        bar = window.menuBar()
        self._fill_file_menu(bar.addMenu("&File"))
        self._fill_jobs_menu(bar.addMenu("&Jobs"))
        self._fill_view_menu(bar.addMenu("&View"))
        schemes = bar.addMenu("&Schemes")
        fill_schemes_menu(window, lambda text, slot: self._add(schemes, text, slot))
        self.update()

    # ---- menus -----------------------------------------------------------------------------------------

    def _add(self, menu: QMenu, text: str, slot: Callable[[], object], key: str = "", name: str = "") -> QAction:
        action = menu.addAction(text)
        action.setObjectName(name or text)
        action.triggered.connect(lambda _checked=False: slot())
        if key:
            action.setShortcut(QKeySequence(key))
        return action

    def _fill_file_menu(self, menu: QMenu) -> None:
        reread = self._add(menu, "Re-read pipeline", self.reread)
        reread.setShortcuts([QKeySequence("Alt+R"), QKeySequence("F5")])
        self._add(menu, "Edit project note", self.edit_project_note, "Alt+E")
        self._add(menu, "Print all notes", self.print_all_notes)
        self._add(menu, "Remake .Nodes/", self.remake_nodes, "Alt+N")
        self._add(menu, "Display …", self.display_file, "Alt+D")
        menu.addSeparator()
        self._add(menu, "Flowchart of the project", self.project_flowchart)
        self._add(menu, "Show initial screen", self.window.show_initial_screen, "Alt+Z")
        menu.addSeparator()
        self._add(menu, "Empty trash …", self.empty_trash, "Alt+T")
        menu.addSeparator()
        self._add(menu, "About", self.about)
        self._add(menu, "Quit", self.window.close, "Alt+Q")

    def _fill_jobs_menu(self, menu: QMenu) -> None:
        self._add(menu, "Save job.star …", self.save_job_star, "Alt+S")
        self._add(menu, "Load job.star …", self.load_job_star, "Alt+L")
        menu.addSeparator()
        self._add(menu, "Order alphabetically", lambda: self.window.lists.set_alphabetical(True), "Alt+A")
        self._add(menu, "Order chronologically", lambda: self.window.lists.set_alphabetical(False), "Alt+C")
        menu.addSeparator()
        self._add(menu, "Undelete job(s) …", self.undelete, "Alt+U")
        self._add(menu, "Toggle overwrite button", self.toggle_overwrite, "Alt+O")
        menu.addSeparator()
        self._add(menu, "Run scheduled jobs …", self.run_scheduled)
        self._add(menu, "Stop running scheduled jobs …", self.stop_scheduled)
        menu.addSeparator()
        self._add(menu, "Gently clean all jobs …", lambda: self.clean_all(False), "Alt+G")
        self._add(menu, "Harshly clean all jobs …", lambda: self.clean_all(True), "Alt+H")

    def _fill_view_menu(self, menu: QMenu) -> None:
        group = QActionGroup(menu)
        now = str(settings().value("appearance", "system"))
        for name, text in (("system", "Colours of the system"), ("light", "Light"), ("dark", "Dark")):
            action = menu.addAction(text)
            action.setCheckable(True)
            action.setChecked(name == now)
            action.triggered.connect(lambda _checked=False, n=name: self.set_appearance(n))
            group.addAction(action)
        menu.addSeparator()
        self._add(menu, "Larger text", lambda: self.zoom_text(1), "Ctrl++")
        self._add(menu, "Smaller text", lambda: self.zoom_text(-1), "Ctrl+-")
        menu.addSeparator()
        io_view = menu.addAction("I/O view (large stdout and stderr)")
        io_view.setCheckable(True)
        io_view.toggled.connect(self.window.io_view_button.setChecked)
        self.window.io_view_button.toggled.connect(io_view.setChecked)
        results = menu.addAction("Results panel")
        results.setCheckable(True)
        results.setChecked(self.window.results_button.isChecked())
        results.toggled.connect(self.window.results_button.setChecked)
        self.window.results_button.toggled.connect(results.setChecked)

    def _fill_job_menu(self) -> None:
        def ended(job: Process) -> bool:
            return job.status in FINISHED

        def running(job: Process) -> bool:
            return job.status == Status.RUNNING

        def any_job(_job: Process) -> bool:
            return True

        def not_running(job: Process) -> bool:
            return job.status != Status.RUNNING

        entries: tuple[tuple[str, Callable[[], object], Callable[[Process], bool]] | None, ...] = (
            ("Edit Note", self.edit_note, any_job),
            ("Alias …", self.set_alias, any_job),
            ("Flowchart of its history", self.flowchart, any_job),
            None,
            ("Overwrite", self.toggle_overwrite, ended),
            ("Abort running", self.abort, running),
            (
                "Mark as finished",
                lambda: self.mark(Status.SUCCEEDED),
                lambda job: job.status != Status.SUCCEEDED,
            ),
            ("Mark as failed", lambda: self.mark(Status.FAILED), lambda job: job.status != Status.FAILED),
            None,
            ("Gentle clean …", lambda: self.clean(False), ended),
            ("Harsh clean …", lambda: self.clean(True), ended),
            ("Delete …", self.delete, not_running),
        )
        for entry in entries:
            if entry is None:
                self.job_menu.addSeparator()
            else:
                text, slot, applies = entry
                self._for_job.append((self._add(self.job_menu, text, slot), applies))

    def action(self, name: str) -> QAction:
        """The action of a menu by its text (tests and other parts of the window trigger it)."""
        for menu in self.window.findChildren(QMenu):
            for action in menu.actions():
                if action.objectName() == name:
                    return action
        raise KeyError(name)

    def update(self) -> None:
        """Offer what the selected job allows."""
        job = self.window.process
        for action, applies in self._for_job:
            action.setEnabled(job is not None and applies(job))
        self.window.job_actions_button.setEnabled(job is not None)

    # ---- small helpers -----------------------------------------------------------------------------------

    def _change(self, function: Callable[[Project], object], said: str = "", select: str = "") -> None:
        """Change the project in the worker; then say what was done."""

        def done(_result: object) -> None:
            if said:
                self.window.statusBar().showMessage(said, 8000)
            if select:
                self.window.select_job(select)

        self.session.call(function, done, changes=True)

    def _label(self, name: str) -> str:
        process = self.session.snapshot.graph.processes.get(name)
        return models.label_of(process) if process is not None else name

    # ---- notes -------------------------------------------------------------------------------------------

    def edit_note(self) -> None:
        """Edit `note.txt` of the selected job."""
        name = self.window.current_job

        def save(text: str) -> None:
            self.session.call(lambda project: project.write_note(name, text))

        def show(text: str) -> None:
            self.note_editor = dialogs.NoteEditor(f"Note of {self._label(name)}", text, save, self.window)
            self.note_editor.open()

        self.session.call(lambda project: project.note(name), show)

    def edit_project_note(self) -> None:
        """Edit the note of the whole project."""

        def save(text: str) -> None:
            self.session.call(lambda project: project.write_note("", text))

        def show(text: str) -> None:
            self.note_editor = dialogs.NoteEditor("Project note", text, save, self.window)
            self.note_editor.open()

        self.session.call(lambda project: project.note(), show)

    def print_all_notes(self) -> None:
        """Write the notes of all jobs into one file and show them."""

        def show(written: tuple[Path, str]) -> None:
            path, text = written
            self.notes_dialog = dialogs.TextDialog("All notes", f"Written to {path}", text, self.window)
            self.notes_dialog.open()

        self.session.call(project_files.write_all_notes, show)

    # ---- what happens to one job -------------------------------------------------------------------------

    def set_alias(self) -> None:
        """Ask for an alias; an empty one takes it away."""
        job = self.window.process
        if job is None:
            return
        name = job.name
        now = job.alias.rstrip("/").rsplit("/", 1)[-1]
        self.alias_dialog = dialogs.LineDialog(
            "Alias",
            f"Name to show for {name}:",
            now,
            lambda text: self._change(lambda project: project.set_alias(name, text.strip())),
            "Letters, digits, “_”, “-”, “+” and “.”; leave it empty to remove the alias.",
            self.window,
        )
        self.alias_dialog.open()

    def toggle_overwrite(self) -> None:
        """Switch the button between continue now! and overwrite!."""
        job = self.window.process
        if job is not None and job.status in FINISHED:
            self.window.control.set_overwriting(not self.window.control.overwriting)

    def abort(self) -> None:
        """Ask, then tell the running job to stop."""
        name = self.window.current_job
        dialogs.ask(
            self.window,
            "Abort",
            f"Abort {self._label(name)}?",
            "Abort!",
            lambda: self._change(lambda project: project.abort(name), f"{name} was told to stop."),
        )

    def mark(self, status: Status) -> None:
        """Mark the selected job as finished or failed; one that still runs is asked about first."""
        job = self.window.process
        if job is None:
            return
        name = job.name
        word = "finished" if status == Status.SUCCEEDED else "failed"

        def do() -> None:
            self._change(lambda project: project.mark(name, status), f"{name} is marked as {word}.")

        if job.status == Status.RUNNING:
            hint = "It may still be running; marking does not stop it (use Abort running for that)."
            dialogs.ask(self.window, "Mark", f"Mark {self._label(name)} as {word}?", f"Mark as {word}", do, hint)
        else:
            do()

    def delete(self) -> None:
        """Show what depends on the job, then move it to the trash."""
        name = self.window.current_job
        graph = self.session.snapshot.graph
        dependants = [self._label(each) for each in graph.downstream(name)]

        def take(with_dependants: bool) -> None:
            count = 1 + len(dependants) * with_dependants
            said = f"{dialogs.plural(count, 'job')} moved to the Trash; Jobs > Undelete brings them back."
            self._change(lambda project: project.delete(name, with_dependants), said)

        self.delete_dialog = dialogs.DeleteDialog(self._label(name), dependants, take, self.window)
        self.delete_dialog.open()

    def undelete(self) -> None:
        """Choose jobs of the trash that shall come back."""

        def show(names: list[str]) -> None:
            if not names:
                dialogs.tell(self.window, "Undelete", "There is no job in the Trash.")
                return

            def restore(chosen: list[str]) -> None:
                def work(project: Project) -> None:
                    for name in chosen:
                        project.undelete(name)

                self._change(work, f"{dialogs.plural(len(chosen), 'job')} brought back.", chosen[-1])

            self.undelete_dialog = dialogs.ChooseDialog(
                "Undelete",
                "Which jobs shall come back from the Trash?",
                [(name, name.rstrip("/")) for name in names],
                "Undelete",
                restore,
                parent=self.window,
            )
            self.undelete_dialog.open()

        self.session.call(lambda project: list(project.deleted_jobs()), show)

    def flowchart(self) -> None:
        """Draw the history of the selected job."""
        name = self.window.current_job
        graph = self.session.snapshot.graph
        if name in graph.processes:
            self._open_flowchart(graph.history(name), f"History of {self._label(name)}", name, name)

    def project_flowchart(self) -> None:
        """Draw all jobs of the project."""
        self._open_flowchart(list(self.session.snapshot.graph.processes), "Flowchart of the project", "")

    def _open_flowchart(self, names: list[str], title: str, chosen: str, history_of: str = "") -> None:
        graph = self.session.snapshot.graph
        chosen = chosen or self.window.current_job
        self.chart = FlowchartWindow(graph, names, title, chosen, self.window, history_of)
        self.chart.job_chosen.connect(self.window.select_job)
        self.chart.show()

    # ---- cleaning ----------------------------------------------------------------------------------------

    def clean(self, harsh: bool) -> None:
        """Tell what cleaning the selected job would move to the trash, then do it."""
        name = self.window.current_job
        self._clean(lambda project, dry: project.clean(name, harsh, dry), harsh, self._label(name))

    def clean_all(self, harsh: bool) -> None:
        """The same for all finished jobs."""
        self._clean(lambda project, dry: project.clean_all(harsh, dry), harsh, "all finished jobs")

    def _clean(self, clean: Callable[[Project, bool], list[str]], harsh: bool, what: str) -> None:
        word = "Harsh" if harsh else "Gentle"

        def look(project: Project) -> tuple[int, int]:
            return project_files.size_on_disc(project.root, clean(project, True))

        def show(found: tuple[int, int]) -> None:
            files, size = found
            if not files:
                dialogs.tell(self.window, f"{word} clean", f"There is nothing to clean in {what}.")
                return
            hint = (
                "Files that other jobs could use as input are moved as well."
                if harsh
                else "Everything that another job could use stays."
            )
            dialogs.ask(
                self.window,
                f"{word} clean",
                f"Move {dialogs.plural(files, 'file')} ({dialogs.size_text(size)}) of {what} to the Trash?",
                "Clean up",
                lambda: self._change(
                    lambda project: clean(project, False), f"{dialogs.size_text(size)} moved to the Trash."
                ),
                f"{hint} “Empty trash” then frees the space.",
            )

        self.session.call(look, show)

    def empty_trash(self) -> None:
        """Ask, then delete for good what lies in the trash."""
        dialogs.ask(
            self.window,
            "Empty trash",
            "Delete everything in the Trash for good?",
            "Empty trash",
            lambda: self.session.call(
                lambda project: project.empty_trash(),
                lambda freed: self.window.statusBar().showMessage(f"{dialogs.size_text(freed or 0)} freed.", 8000),
            ),
            "Jobs in it cannot be undeleted afterwards.",
        )

    # ---- scheduled jobs ----------------------------------------------------------------------------------

    def run_scheduled(self) -> None:
        """Choose scheduled jobs, and how often and with which waiting times they run."""
        jobs = models.with_status(self.session.snapshot.graph.processes.values(), Status.SCHEDULED)
        if not jobs:
            dialogs.tell(self.window, "Run scheduled jobs", "No job is scheduled.")
            return
        options = dialogs.ScheduleOptions()

        def take(names: list[str]) -> None:
            # read here and now: the dialog is gone by the time that the project's thread gets to it
            run = partial(
                Project.run_scheduled,
                names=names,
                schedule=options.name.text().strip() or "schedule1",
                repeat=options.repeat.value(),
                wait_minutes=options.wait_between.value(),
                wait_before_minutes=options.wait_before.value(),
                seconds_after=options.wait_after.value(),
            )
            self._change(run, f"{dialogs.plural(len(names), 'scheduled job')} started.")

        self.schedule_dialog = dialogs.ChooseDialog(
            "Run scheduled jobs",
            "Which jobs shall run, one after the other?",
            [(job.name, models.label_of(job)) for job in jobs],
            "Execute",
            take,
            checked=True,
            parent=self.window,
        )
        self.schedule_dialog.extra.addWidget(options)
        self.schedule_dialog.open()

    def stop_scheduled(self) -> None:
        """Ask which running schedule shall stop after its current job."""

        def show(names: list[str]) -> None:
            if not names:
                dialogs.tell(self.window, "Stop", "No scheduled jobs are being run.")
                return

            def stop(chosen: list[str]) -> None:
                def work(project: Project) -> None:
                    for name in chosen:
                        project.stop_scheduled(name)

                self._change(work, "The schedule stops when its present job has ended.")

            self.stop_dialog = dialogs.ChooseDialog(
                "Stop running scheduled jobs",
                "Which schedules shall stop after their present job?",
                [(name, name) for name in names],
                "Stop",
                stop,
                checked=len(names) == 1,
                parent=self.window,
            )
            self.stop_dialog.open()

        self.session.call(lambda project: list(project.schedules()), show)

    # ---- files -------------------------------------------------------------------------------------------

    def reread(self) -> None:
        """Read the pipeline again."""
        self._change(lambda project: project.refresh(), "The pipeline was read again.")

    def remake_nodes(self) -> None:
        """Make the directory .Nodes/ anew, by which RELION's own window finds files."""
        self._change(lambda project: project.remake_node_directory(), ".Nodes/ was made anew.")

    def display_file(self) -> None:
        """Open any file in its viewer."""
        dialog = QFileDialog(self.window, "Display", str(self.window.root / self.window.current_job))
        dialog.setNameFilters(
            [
                "Files that can be displayed (*.star *.mrc *.mrcs *.map *.spi *.tif *.tiff *.pdf *.txt)",
                "All files (*)",
            ]
        )
        dialog.fileSelected.connect(
            lambda path: self.window.open_viewer(lambda display: display.open_file(Path(path), self.window))
        )
        dialog.open()

    def save_job_star(self) -> None:
        """Write the parameters on show to a job.star file."""
        form = self.window.form
        if form is None:
            dialogs.tell(self.window, "Save job.star", "Choose a job type or a job first.")
            return
        label, values = form.spec.type_label, form.values()
        dialog = QFileDialog(self.window, "Save job.star", str(self.window.root))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setNameFilters(["Job files (*job.star)", "All files (*)"])
        dialog.selectFile("job.star")
        dialog.fileSelected.connect(
            lambda path: self.session.call(lambda _project: jobstar.write(Path(path), jobstar.JobStar(label, values)))
        )
        dialog.open()

    def load_job_star(self) -> None:
        """Show the parameters of a job.star file as a new job."""
        dialog = QFileDialog(self.window, "Load job.star", str(self.window.root))
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.setNameFilters(["Job files (*job.star)", "All files (*)"])
        dialog.fileSelected.connect(self.load_job_file)
        dialog.open()

    def load_job_file(self, path: str) -> None:
        """Show the parameters of this job.star file as a new job."""
        self.session.call(
            lambda _project: jobstar.read(Path(path)),
            lambda job: self.window.show_values(job.type_label, job.values),
        )

    # ---- the program -------------------------------------------------------------------------------------

    def set_appearance(self, name: str) -> None:
        """Light, dark, or what the desktop asks for; remembered."""
        settings().setValue("appearance", name)
        app = QApplication.instance()
        if isinstance(app, QApplication):
            theme.apply(app, name)

    def zoom_text(self, steps: int) -> None:
        """Make all text of the window larger or smaller by points; remembered."""
        store = settings()
        size = QApplication.font().pointSize() + steps
        if 6 <= size <= 24:
            store.setValue("text_size", size)
            theme.set_text_size(size)

    def about(self) -> None:
        """What this program is."""
        dialogs.tell(
            self.window,
            "About",
            f"RELION in Python {relion_py.__version__}\n\n"
            "Cryo-EM structure determination by empirical Bayes, with the window, files and command lines of "
            "RELION (Scheres, J. Struct. Biol. 180, 2012), written anew.\n\n"
            f"Free software, GPL version 3 or later, without any warranty. Python {sys.version.split()[0]}.",
        )
