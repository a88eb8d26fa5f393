"""Run!, continue now!, Schedule and Check command: the buttons, and what comes of pressing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QToolButton, QWidget

from relion_py.gui import dialogs
from relion_py.jobs.quoting import display as command_text
from relion_py.jobs.spec import BuiltJob, Problem
from relion_py.pipeline.graph import Status
from relion_py.pipeline.project import Project

if TYPE_CHECKING:
    from relion_py.gui.main_window import MainWindow

GIVE_ALIAS = "Give_alias_here"
"""What RELION shows where the alias of a new job can be typed."""


def command_in_lines(command: Sequence[str]) -> str:
    """A command for people: one option a line, with backslashes so that a shell reads it as one."""
    groups: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--") and groups[-1]:
            groups.append([])
        groups[-1].append(word)
    return " \\\n    ".join(command_text(group) for group in groups)


@dataclass(frozen=True)
class Attempt:
    """What came of pressing Run! or Schedule: the job's name, or why there is none."""

    name: str = ""
    problems: tuple[Problem, ...] = ()


class Banner(QFrame):
    """A sentence beside the run buttons, with a button that puts it away; `about` tells what it is about."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("banner")
        self.about = ""
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 3, 4, 3)
        self.text = QLabel(self)
        self.text.setObjectName("problem")
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setWordWrap(True)
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        close = QToolButton(self)
        close.setText("✕")
        close.setAutoRaise(True)
        close.setToolTip("Put this message away")
        close.clicked.connect(self.hide)
        row.addWidget(self.text, 1)
        row.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    def say(self, sentence: str, about: str = "") -> None:
        """Show the sentence."""
        self.about = about
        self.text.setText(sentence)
        self.show()


class RunControl(QObject):
    """The run buttons of a window and what they do."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self.window = window
        self.session = window.session
        self.overwriting = False
        self._busy = False
        self.banner = Banner(window)
        self.schedule_button = self._button("Schedule", self.schedule, "Keep this job for later")
        self.check_button = self._button(
            "Check command", self.check_command, "Show the exact command lines; nothing is run"
        )
        self.run_button = self._button("Run!", self.run, "Execute this job now (Ctrl+Return)")
        self.run_button.setMinimumWidth(150)

    def _button(self, text: str, slot: Callable[[], None], tip: str) -> QPushButton:
        button = QPushButton(text, self.window)
        button.setObjectName("run")
        button.setToolTip(tip)
        button.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        button.clicked.connect(lambda: slot())
        return button

    def row(self) -> QHBoxLayout:
        """The line of the window that holds the message and the buttons."""
        row = QHBoxLayout()
        row.addWidget(self.banner, 1)
        row.addStretch(0)
        for button in (self.schedule_button, self.check_button, self.run_button):
            row.addWidget(button, 0, Qt.AlignmentFlag.AlignBottom)
        return row

    def update(self) -> None:
        process, form = self.window.process, self.window.form
        ready = form is not None and self.window.is_filled and not self._busy
        running = process is not None and process.status == Status.RUNNING
        scheduled = process is not None and process.status == Status.SCHEDULED
        continuing = process is not None and not scheduled and not self.overwriting
        state = "overwrite" if self.overwriting else "continue" if continuing else "run"
        text = {"overwrite": "overwrite!", "continue": "continue now!", "run": "Run!"}[state]
        can_continue = not continuing or (form is not None and form.spec.continuable)
        self.run_button.setText(text)
        if self.run_button.property("state") != state:
            self.run_button.setProperty("state", state)
            self.run_button.style().unpolish(self.run_button)
            self.run_button.style().polish(self.run_button)
        self.run_button.setEnabled(ready and not running and can_continue)
        self.schedule_button.setEnabled(ready and process is None)
        self.check_button.setEnabled(ready)
        if running:
            tip = "This job is running; it can be continued when it has ended"
        elif not can_continue:
            tip = "This type of job cannot be continued; use Job actions > Overwrite to run it again"
        else:
            tip = f"{text} (Ctrl+Return)"
        self.run_button.setToolTip(tip)
        self.window.alias_line.setReadOnly(process is not None)
        self.window.actions_of_job.update()

    def set_overwriting(self, overwriting: bool) -> None:
        """Switch between continuing the selected job and running it again from the beginning."""
        if self.window.process is None or self.window.form is None:
            return
        self.overwriting = overwriting
        self.window.form.set_continue(not overwriting and self.window.process.status != Status.SCHEDULED)
        self.update()

    def run(self) -> None:
        """Run!, continue now! or overwrite!, whichever the button says."""
        if self.overwriting:
            users = self.session.snapshot.graph.children(self.window.current_job)
            used = f"{dialogs.plural(len(users), 'job')} used its results; their history will not fit any more."
            dialogs.ask(
                self.window,
                "Overwrite",
                f"Run {self.window.current_job} from the beginning? Its present results go to the Trash.",
                "Overwrite!",
                lambda: self._start("run"),
                used if users else "",
            )
        else:
            self._start("run")

    def schedule(self) -> None:
        """Keep this job for later."""
        self._start("schedule")

    def _start(self, what: str) -> None:
        form = self.window.form
        if form is None or self._busy:
            return
        form.demand_everything()
        spec, values, job, root = form.spec, form.values(), self.window.current_job, self.window.root
        label, is_continue = spec.type_label, form.is_continue
        alias = self.window.alias_line.text().strip() if not job else ""
        alias = "" if alias == GIVE_ALIAS else alias
        scheduled = self.window.process is not None and self.window.process.status == Status.SCHEDULED
        overwriting = self.overwriting

        def attempt(project: Project) -> Attempt:
            problems = tuple(spec.validate(values, root, is_continue))
            if problems:
                return Attempt(problems=problems)
            if what == "schedule":
                name = project.schedule(label, values, alias)
            elif overwriting:
                name = project.overwrite(job, values)
            elif scheduled:
                name = project.run_scheduled_job(job, values)
            elif job:
                name = project.continue_job(job, values)
            else:
                name = project.run(label, values, alias)
            return Attempt(name)

        self._set_busy(True)
        self.window.forget_pending_draft()
        self.session.call(attempt, self._started, self._not_started, changes=True)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self.update()

    def _started(self, attempt: Attempt) -> None:
        self._set_busy(False)
        if attempt.problems:
            self.show_problems(attempt.problems, jump=True)
        else:
            self.window.statusBar().showMessage(f"{attempt.name} was started.", 8000)
            self.window.select_job(attempt.name)

    def _not_started(self, sentence: str) -> None:
        self._set_busy(False)
        self.session.refresh()
        self.say_problem(sentence)

    def show_problems(self, problems: tuple[Problem, ...], jump: bool) -> None:
        """Say above the buttons what is missing, mark the entries and go to the first."""
        form = self.window.form
        if form is None:
            return
        form.show_problems(problems)
        if not problems:
            self.banner.hide()
            return
        shown = [problem.message for problem in problems[:4]]
        if len(problems) > 4:
            shown.append(f"… and {len(problems) - 4} more, marked red on the tabs.")
        self.say_problem("\n".join(shown), about="problems")
        if jump:
            first = next((problem.key for problem in problems if problem.key in form.fields), "")
            if first:
                form.go_to(first)

    def say_problem(self, sentence: str, about: str = "") -> None:
        """Show a sentence beside the run buttons; it stays until it is put away or mended."""
        self.banner.say(sentence, about)

    def check_command(self) -> None:
        """Show the exact command lines of what is in the form; nothing is changed."""
        form = self.window.form
        if form is None:
            return
        label, values, job, ticket = (
            form.spec.type_label,
            form.values(),
            self.window.current_job,
            self.window.ticket,
        )
        is_continue = form.is_continue
        form.demand_everything()
        self.session.call(
            lambda project: project.commands(label, values, job or None, is_continue=is_continue),
            lambda built: self._show_commands(ticket, built, values.get("do_queue") == "Yes"),
        )

    def _show_commands(self, ticket: int, built: BuiltJob, queued: bool) -> None:
        if ticket != self.window.ticket:
            return
        if self.window.form is not None:
            self.show_problems(built.problems, jump=False)
        if built.refusal:
            self.say_problem(built.refusal)
            return
        commands = built.commands if queued else built.local_commands or built.commands
        count = dialogs.plural(len(commands), "command")
        place = "put into the submission script of the queue" if queued else "run, one after the other"
        head = f"{built.job_name} — {count}, {place if len(commands) > 1 or queued else 'run on this machine'}:"
        if built.problems:
            head += f"\n{dialogs.plural(len(built.problems), 'problem')} must be mended before it can run."
        text = "\n\n".join(command_in_lines(command) for command in commands)
        self.command_dialog = dialogs.TextDialog("Check command", head, text, self.window)
        self.command_dialog.open()
