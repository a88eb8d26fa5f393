"""The window on a project's schemes: the graph with its current node, live variables, edges, and the controls.

Everything is read from, and written to, the scheme's directory, so it shows what a scheme does that was started
elsewhere too. A scheme that is started here runs in a process of its own and goes on when the window is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QCloseEvent, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from relion_py.gui import dialogs
from relion_py.gui.schemes_edges import EdgeTable, fill_table, make_table
from relion_py.gui.schemes_graph import SchemeGraph
from relion_py.pipeline import schemes
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.project import Project
from relion_py.pipeline.schemes import Edge, Gate, Scheme, SchemeStore
from relion_py.pipeline.schemes.model import like, value_text
from relion_py.pipeline.schemes.store import RUN_ERR, RUN_OUT

if TYPE_CHECKING:
    from relion_py.gui.main_window import MainWindow

LOOK_EVERY_MS = 700
_LOG_BYTES = 40_000


@dataclass(frozen=True)
class Look:
    """What a scheme looks like at one moment."""

    names: tuple[str, ...]
    scheme: Scheme | None = None
    running: bool = False
    gate: Gate | None = None
    log: str = ""


def look(project: Project, name: str) -> Look:
    """Read a scheme's directory. PipelineError if its file does not make sense."""
    names = tuple(schemes.names(project.root))
    name = name if name in names else (names[0] if names else "")
    if not name:
        return Look(names)
    store = SchemeStore(project.root, name)
    running = store.is_locked()
    log = "".join(_tail(store, file) for file in (RUN_OUT, RUN_ERR))
    return Look(names, store.read(), running, store.gate() if running else None, log)


def _tail(store: SchemeStore, file: str) -> str:
    with suppress(OSError), open(store.directory / file, "rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - _LOG_BYTES))
        return handle.read().decode("utf-8", "replace")
    return ""


class SchemesPanel(QWidget):
    """A window that shows one scheme of the project and lets a person run and edit it."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window, Qt.WindowType.Window)
        self.main_window = window
        self.session = window.session
        self.shown: Look | None = None
        self.chosen_node = ""
        self._asking = False
        self.setWindowTitle(f"Schemes — {window.root.name}")
        self.resize(1180, 760)
        self._make_bars()
        self._make_tables()
        self._put_together()
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_EVERY_MS)
        self._timer.timeout.connect(self.refresh)

    # ---- making --------------------------------------------------------------------------------------

    def _make_bars(self) -> None:
        self.choice = QComboBox(self)
        self.choice.setAccessibleName("Scheme")
        self.choice.setMinimumWidth(180)
        self.choice.activated.connect(lambda _index: self.refresh())
        self.state = QLabel(self)
        self.state.setObjectName("heading")
        self.buttons: dict[str, QPushButton] = {}
        for name, slot, tip in (
            ("Start", self.start, "Run from the current node on; it goes on when this window is closed"),
            ("Step", self.step, "Run the current node only"),
            ("Stop", self.stop, "Stop when the present job has ended"),
            ("Abort", self.abort, "Abort the present job and stop"),
            ("Reset", self.reset, "All variables to their original values, and back to the first node"),
        ):
            self.buttons[name] = self._button(name, slot, tip)
        self.problem = QLabel(self)
        self.problem.setObjectName("problem")
        self.problem.setWordWrap(True)
        self.problem.setTextFormat(Qt.TextFormat.PlainText)
        self.problem.hide()
        self.gate_bar = QFrame(self)
        self.gate_bar.setObjectName("banner")
        self.question = QLabel(self.gate_bar)
        self.question.setTextFormat(Qt.TextFormat.PlainText)
        self.question.setWordWrap(True)
        row = QHBoxLayout(self.gate_bar)
        row.addWidget(self.question, 1)
        self.yes_button = self._button("Yes", lambda: self.decide(True), "Go on with True")
        self.no_button = self._button("No", lambda: self.decide(False), "Go on with False")
        row.addWidget(self.yes_button)
        row.addWidget(self.no_button)
        self.gate_bar.hide()
        self.node_label = QLabel("Click a node to see what it does.", self)
        self.node_label.setObjectName("quiet")
        self.go_here = self._button("Make it current", self.make_current, "Let this node come next")
        self.open_job = self._button("Open its job", self.show_job, "Show the node's job in the main window")
        self.change_mode = self._button("Change mode", self.toggle_mode, "new: a new job each time; continue: one job")

    def _button(self, text: str, slot: Callable[[], object], tip: str) -> QPushButton:
        button = QPushButton(text, self)
        button.setObjectName("plain")
        button.setToolTip(tip)
        button.clicked.connect(lambda: slot())
        return button

    def _make_tables(self) -> None:
        self.graph = SchemeGraph(self)
        self.graph.node_chosen.connect(self.choose_node)
        self.variables = make_table(("Variable", "Value", "Original"), self)
        self.variables.itemChanged.connect(self._variable_edited)
        self.edges = EdgeTable(self)
        self.edges.edge_edited.connect(self._edge_edited)
        self.log = QPlainTextEdit(self)
        self.log.setReadOnly(True)
        self.log.setAccessibleName("Log of the scheme")
        self.new_name, self.new_value = QLineEdit(self), QLineEdit(self)
        self.new_name.setPlaceholderText("name")
        self.new_value.setPlaceholderText("value: a number, True, False or text")
        self.add_variable_button = self._button("Add", self.add_variable, "Add this variable")
        self.remove_variable_button = self._button(
            "Remove", self.remove_variable, "Remove the selected variable, and the operators that use it"
        )
        self.ends = {name: QComboBox(self) for name in ("From", "To", "If", "Else")}
        self.add_edge_button = self._button("Add edge", self.add_edge, "Without an If it is a plain edge")
        self.remove_edge_button = self._button("Remove edge", self.remove_edge, "Remove the selected edge")

    def _put_together(self) -> None:
        top = QHBoxLayout()
        top.addWidget(self.choice)
        top.addWidget(self.state, 1)
        for button in self.buttons.values():
            top.addWidget(button)
        below = QHBoxLayout()
        below.addWidget(self.node_label, 1)
        for button in (self.go_here, self.open_job, self.change_mode):
            below.addWidget(button)
        left = QWidget(self)
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.graph, 1)
        column.addLayout(below)
        tabs = QTabWidget(self)
        tabs.addTab(self._variables_page(), "Variables")
        tabs.addTab(self._edges_page(), "Edges")
        tabs.addTab(self.log, "Log")
        self.tabs = tabs
        split = QSplitter(Qt.Orientation.Horizontal, self)
        split.addWidget(left)
        split.addWidget(tabs)
        split.setSizes([720, 460])
        split.setChildrenCollapsible(False)
        whole = QVBoxLayout(self)
        whole.addLayout(top)
        whole.addWidget(self.gate_bar)
        whole.addWidget(self.problem)
        whole.addWidget(split, 1)

    def _variables_page(self) -> QWidget:
        page = QWidget(self)
        column = QVBoxLayout(page)
        column.addWidget(self.variables, 1)
        row = QHBoxLayout()
        for widget in (self.new_name, self.new_value, self.add_variable_button, self.remove_variable_button):
            row.addWidget(widget)
        column.addLayout(row)
        return page

    def _edges_page(self) -> QWidget:
        page = QWidget(self)
        column = QVBoxLayout(page)
        column.addWidget(self.edges, 1)
        form = QFormLayout()
        for name, box in self.ends.items():
            form.addRow(name, box)
        column.addLayout(form)
        row = QHBoxLayout()
        row.addWidget(self.add_edge_button)
        row.addWidget(self.remove_edge_button)
        column.addLayout(row)
        return page

    # ---- looking -------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._timer.start()
        self.refresh()

    def closeEvent(self, event: QCloseEvent) -> None:
        self._timer.stop()
        super().closeEvent(event)

    @property
    def name(self) -> str:
        """The scheme that is chosen; "" if there is none."""
        return self.choice.currentText()

    def refresh(self) -> None:
        """Look at the scheme's directory; looks are never piled up."""
        if self._asking:
            return
        self._asking = True
        name = self.name
        self.session.call(lambda project: look(project, name), self._show, self._looked_in_vain)

    def _looked_in_vain(self, sentence: str) -> None:
        self._asking = False
        self.say_problem(sentence)

    def _show(self, seen: Look) -> None:
        self._asking = False
        if self.shown is not None and seen == self.shown:
            return
        before, self.shown = self.shown, seen
        if [self.choice.itemText(i) for i in range(self.choice.count())] != list(seen.names):
            chosen = self.name
            self.choice.clear()
            self.choice.addItems(seen.names)
            self.choice.setCurrentText(chosen if chosen in seen.names else next(iter(seen.names), ""))
        if seen.scheme is None:
            self.state.setText("There is no scheme in this project yet.")
        else:
            self._show_scheme(seen.scheme, before.scheme if before else None)
            runs = "waits for you" if seen.gate else "is running" if seen.running else "does not run"
            self.state.setText(f"{seen.scheme.name} {runs}, at {seen.scheme.current_node}")
        if self.log.toPlainText() != seen.log:
            self.log.setPlainText(seen.log)
            self.log.verticalScrollBar().setValue(self.log.verticalScrollBar().maximum())
        self.gate_bar.setVisible(seen.gate is not None and seen.gate.answer is None)
        if seen.gate is not None:
            self.question.setText(f"{seen.gate.node}: {seen.gate.question}")
        self._update_buttons()

    def _show_scheme(self, scheme: Scheme, before: Scheme | None) -> None:
        if scheme == before:
            return
        self.graph.show_scheme(scheme)
        if self.variables.state() != QAbstractItemView.State.EditingState:
            rows = [(name, v.text, value_text(v.original)) for _, name, v in scheme.variables()]
            fill_table(self.variables, rows, editable=(1, 2))
        self.edges.show_scheme(scheme)
        for end, box in self.ends.items():
            entries = ["", *scheme.bools] if end == "If" else scheme.nodes
            if [box.itemText(i) for i in range(box.count())] != entries:
                box.clear()
                box.addItems(entries)
        self.choose_node(self.chosen_node)

    def _update_buttons(self) -> None:
        seen = self.shown
        there = seen is not None and seen.scheme is not None
        running = there and seen is not None and seen.running
        for name in ("Start", "Step", "Reset"):
            self.buttons[name].setEnabled(there and not running)
        for name in ("Stop", "Abort"):
            self.buttons[name].setEnabled(running)

    def choose_node(self, node: str) -> None:
        """Tell about a node, and offer what can be done to it."""
        scheme = self.shown.scheme if self.shown else None
        self.chosen_node = node if scheme and node in scheme.nodes else ""
        job = scheme.jobs.get(node) if scheme else None
        self.go_here.setEnabled(bool(self.chosen_node))
        self.change_mode.setEnabled(job is not None)
        self.open_job.setEnabled(job is not None and job.current_name != node)
        if scheme is None or not self.chosen_node:
            self.node_label.setText("Click a node to see what it does.")
        elif job is not None:
            self.node_label.setText(f"{node}: a job in mode {job.mode}")
        else:
            op = scheme.operators[node]
            self.node_label.setText(
                f"{node}: {op.type} {schemes.OPERATORS[op.type].help}, here {_inputs(scheme, node)}"
            )

    def say_problem(self, sentence: str) -> None:
        """Show a sentence; "" puts the last one away."""
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))

    # ---- doing ---------------------------------------------------------------------------------------

    def _do(self, function: Callable[[Project, SchemeStore], object]) -> None:
        """Change something in the worker, then look anew. A mistake is told below the buttons."""
        name = self.name
        if not name:
            return
        self.say_problem("")

        def failed(sentence: str) -> None:
            self.say_problem(sentence)
            self.shown = None
            self.refresh()

        self.session.call(
            lambda project: function(project, SchemeStore(project.root, name)), lambda _: self.refresh(), failed
        )

    def _edit(self, change: Callable[[Scheme], object]) -> None:
        def work(_project: Project, store: SchemeStore) -> None:
            with store.change() as scheme:
                change(scheme)

        self._do(work)

    def start(self) -> None:
        """Run the scheme in a process of its own."""
        self._do(lambda project, store: schemes.start_in_background(project.root, store.name))

    def step(self) -> None:
        """Run the current node only."""
        self._do(lambda project, store: schemes.start_in_background(project.root, store.name, steps=1))

    def stop(self) -> None:
        """Ask the run to stop when its present job has ended."""
        self._do(lambda _project, store: store.request_stop())

    def abort(self) -> None:
        """Abort the run and its job, after a question."""
        question = f"Abort the scheme {self.name} and the job that it runs?"
        dialogs.ask(self, "Abort", question, "Abort", lambda: self._do(schemes.abort))

    def reset(self) -> None:
        """All variables to their original values, after a question."""
        question = f"Set all variables of {self.name} to their original values, and begin with its first node?"
        more = "Jobs that have run stay in the project; the scheme will not continue them."
        dialogs.ask(
            self, "Reset", question, "Reset", lambda: self._do(lambda _project, store: schemes.reset(store)), more
        )

    def decide(self, answer: bool) -> None:
        """Answer the gate that waits."""
        gate = self.shown.gate if self.shown else None
        if gate is not None:
            self._do(lambda _project, store: store.decide(gate.node, answer))

    def make_current(self) -> None:
        """Let the chosen node come next."""
        node = self.chosen_node
        self._edit(lambda scheme: scheme.set_current_node(node))

    def toggle_mode(self) -> None:
        """Change the mode of the chosen job between new and continue."""
        node = self.chosen_node

        def change(scheme: Scheme) -> None:
            scheme.jobs[node].mode = "new" if scheme.jobs[node].mode == "continue" else "continue"

        self._edit(change)

    def show_job(self) -> None:
        """Show the job of the chosen node in the main window."""
        scheme = self.shown.scheme if self.shown else None
        if scheme is not None and self.chosen_node in scheme.jobs:
            self.main_window.select_job(scheme.jobs[self.chosen_node].current_name)
            self.main_window.raise_()

    def _variable_edited(self, item: QTableWidgetItem) -> None:
        name_item = self.variables.item(item.row(), 0)
        if name_item is None or item.column() == 0:
            return
        name, text, original = name_item.text(), item.text(), item.column() == 2

        def change(scheme: Scheme) -> None:
            variable = scheme.variable(name)
            if variable is None:
                raise PipelineError(f"The variable {name} is not in the scheme any more.")
            if original:
                variable.original = like(variable.original, text, name)
            else:
                scheme.set_variable(name, text)

        self._edit(change)

    def add_variable(self) -> None:
        """Add the variable that was typed below the table."""
        name, text = self.new_name.text().strip(), self.new_value.text()
        self._edit(lambda scheme: scheme.set_variable(name, text))

    def remove_variable(self) -> None:
        """Remove the selected variable."""
        item = self.variables.item(self.variables.currentRow(), 0)
        if item is not None:
            name = item.text()
            self._edit(lambda scheme: scheme.remove_variable(name))

    def add_edge(self) -> None:
        """Add the edge or fork that was chosen below the table."""
        source, target, condition, otherwise = (self.ends[n].currentText() for n in ("From", "To", "If", "Else"))
        if condition:
            self._edit(lambda scheme: scheme.add_fork(source, condition, target, otherwise))
        else:
            self._edit(lambda scheme: scheme.add_edge(source, target))

    def _edge_edited(self, old: Edge, new: Edge) -> None:
        self._edit(lambda scheme: scheme.change_edge(old, new))

    def remove_edge(self) -> None:
        """Remove the selected edge."""
        edge = self.edges.selected()
        if edge is not None:
            self._edit(lambda fresh: setattr(fresh, "edges", [e for e in fresh.edges if e != edge]))


class MakeSchemeDialog(dialogs.ChooseDialog):
    """Asks of which scheduled jobs a scheme shall be made, and how it shall be called."""

    def __init__(self, entries: list[tuple[str, str]], make: Callable[[str, list[str], bool], None], parent: QWidget):
        super().__init__(
            "Make a scheme",
            "The scheme runs these jobs in this order.",
            entries,
            "Make scheme",
            lambda names: make(self.name.text(), names, self.loop.isChecked()),
            True,
            parent,
        )
        self.name = QLineEdit(self)
        self.name.setPlaceholderText("name of the scheme")
        self.loop = QCheckBox("Go round for ever: wait, look for what is new, run the jobs", self)
        self.extra.addWidget(self.name)
        self.extra.addWidget(self.loop)


def fill_schemes_menu(window: MainWindow, add: Callable[[str, Callable[[], object]], object]) -> None:
    """The entries of the main window's Schemes menu; `add(text, slot)` adds one."""
    add("Schemes …", lambda: show_schemes(window))
    add("Make a scheme of scheduled jobs …", lambda: make_scheme(window))


def show_schemes(window: MainWindow, name: str = "") -> SchemesPanel:
    """Show the window on the project's schemes; it is made once."""
    panel = window.findChild(SchemesPanel) or SchemesPanel(window)
    if name:
        panel.choice.addItem(name)
        panel.choice.setCurrentText(name)
    panel.show()
    panel.raise_()
    panel.refresh()
    return panel


def make_scheme(window: MainWindow) -> MakeSchemeDialog | None:
    """Ask for scheduled jobs and a name, make the scheme and show it."""
    graph = window.session.snapshot.graph
    names = schemes.scheduled_jobs(graph)
    if not names:
        text = "There are no scheduled jobs. Fill in a job and press Schedule, then make the scheme of it."
        dialogs.tell(window, "Make a scheme", text)
        return None

    def made(scheme: str) -> None:
        show_schemes(window, scheme)

    def make(name: str, jobs: list[str], loop: bool) -> None:
        window.session.call(lambda project: schemes.from_jobs(project, name, jobs, loop).name, made)

    entries = [(name, graph.processes[name].display_name) for name in names]
    dialog = MakeSchemeDialog(entries, make, window)
    dialog.open()
    return dialog


def _inputs(scheme: Scheme, node: str) -> str:
    """The variables of an operator with their values, for people."""
    op = scheme.operators[node]
    parts = []
    for label, name in (("input1", op.input1), ("input2", op.input2), ("output", op.output)):
        variable = scheme.variable(name)
        if variable is not None:
            parts.append(f"{label} {name} = {variable.text}")
    return ", ".join(parts) or "without variables"
