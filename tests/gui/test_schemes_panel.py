"""The window on schemes, driven as a person does: real files, real runs in processes of their own."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QMessageBox
from window_driver import click, wait_until

from relion_py.gui.schemes_panel import MakeSchemeDialog, SchemesPanel, show_schemes
from relion_py.pipeline.jobstar import JobStar
from relion_py.pipeline.project import Project
from relion_py.pipeline.schemes import Edge, SchemeStore, add_job
from relion_py.pipeline.schemes.operators import make

EXAMPLES = Path(__file__).parents[1] / "golden" / "schemes"


@pytest.fixture
def store(project_root: Path) -> SchemeStore:
    """pick (a real script) -> ASK a person -> good: COUNT, back to pick; not good: EXIT."""
    store = SchemeStore(project_root, "night")
    project = Project.open(project_root)
    values = {
        **project.spec("relion.external").defaults(),
        "fn_exe": "./pick.sh",
        "in_mic": "Import/job001/micrographs.star",
        "param1_label": "seconds",
        "param1_value": "$$seconds",
    }
    add_job(store, JobStar("relion.external", values), "pick")
    with store.change() as scheme:
        scheme.set_variable("seconds", "1")
        scheme.set_variable("turns", "0")
        scheme.set_variable("good", "False")
        scheme.set_variable("question", "Once more?")
        make(scheme, "gate", "question", output="good", name="ASK")
        make(scheme, "float=plus", "turns", "1", "turns", name="COUNT")
        make(scheme, "exit", name="EXIT")
        scheme.add_edge("pick", "ASK")
        scheme.add_fork("ASK", "good", "COUNT", "EXIT")
        scheme.add_edge("COUNT", "pick")
    return store


@pytest.fixture
def panel(qtbot, open_window, project_root: Path, store: SchemeStore) -> SchemesPanel:
    window = open_window(project_root)
    window.actions_of_job.action("Schemes …").trigger()
    panel = window.findChild(SchemesPanel)
    assert panel is not None and panel.isVisible()
    wait_until(qtbot, lambda: panel.name == "night" and bool(panel.graph.boxes))
    return panel


def cell(panel: SchemesPanel, name: str, column: int = 1):
    rows = range(panel.variables.rowCount())
    row = next(row for row in rows if panel.variables.item(row, 0).text() == name)
    return panel.variables.item(row, column)


def picture(panel: SchemesPanel, name: str) -> None:
    """A picture for looking at, where SCREENSHOTS names a directory."""
    if directory := os.environ.get("SCREENSHOTS"):
        panel.grab().save(f"{directory}/{name}.png")


@pytest.mark.req("S2")
def test_a_scheme_is_run_and_asks_in_the_window(qtbot, panel: SchemesPanel, store: SchemeStore) -> None:
    assert set(panel.graph.boxes) == {"pick", "ASK", "COUNT", "EXIT"}
    assert panel.graph.boxes["pick"].is_current and "does not run" in panel.state.text()
    assert not panel.buttons["Stop"].isEnabled() and not panel.gate_bar.isVisible()
    click(qtbot, panel.buttons["Start"])
    wait_until(qtbot, lambda: "is running" in panel.state.text())
    picture(panel, "schemes_running")
    assert not panel.buttons["Start"].isEnabled() and panel.buttons["Abort"].isEnabled()
    wait_until(qtbot, panel.gate_bar.isVisible)
    assert "Once more?" in panel.question.text() and panel.graph.boxes["ASK"].is_current
    picture(panel, "schemes_gate")
    click(qtbot, panel.yes_button)
    wait_until(qtbot, lambda: cell(panel, "turns").text() == "1")
    assert cell(panel, "turns", 2).text() == "0"
    wait_until(qtbot, lambda: panel.gate_bar.isVisible() and panel.graph.boxes["ASK"].is_current)
    click(qtbot, panel.no_button)
    wait_until(qtbot, lambda: "does not run, at EXIT" in panel.state.text())
    assert store.read().floats["turns"].value == 1
    assert "Executing External/job003/" in panel.log.toPlainText()
    assert panel.problem.text() == ""


def test_variables_and_edges_are_edited(qtbot, panel: SchemesPanel, store: SchemeStore) -> None:
    cell(panel, "seconds").setText("7.5")
    wait_until(qtbot, lambda: store.read().floats["seconds"].value == 7.5)
    cell(panel, "seconds", 2).setText("3")
    wait_until(qtbot, lambda: store.read().floats["seconds"].original == 3)
    assert store.read().floats["seconds"].value == 7.5
    cell(panel, "seconds").setText("many")
    wait_until(qtbot, lambda: "seconds cannot be 'many'" in panel.problem.text())
    wait_until(qtbot, lambda: cell(panel, "seconds").text() == "7.5")
    panel.new_name.setText("limit")
    panel.new_value.setText("True")
    click(qtbot, panel.add_variable_button)
    wait_until(qtbot, lambda: "limit" in store.read().bools)
    panel.tabs.setCurrentIndex(1)
    panel.edges.selectRow(0)
    click(qtbot, panel.remove_edge_button)
    wait_until(qtbot, lambda: [edge.source for edge in store.read().edges] == ["ASK", "COUNT"])
    wait_until(qtbot, lambda: panel.edges.rowCount() == 2)
    for end, text in (("From", "pick"), ("To", "COUNT"), ("If", "limit"), ("Else", "EXIT")):
        panel.ends[end].setCurrentText(text)
    click(qtbot, panel.add_edge_button)
    wait_until(qtbot, lambda: len(store.read().edges) == 3)
    edge = store.read().edges[-1]
    assert (edge.source, edge.target_if_true, edge.condition, edge.target) == ("pick", "COUNT", "limit", "EXIT")


def choose_in_cell(qtbot, panel: SchemesPanel, row: int, column: int, text: str) -> None:
    """Double-click a cell of the edges and choose from the list that opens there, with the keyboard."""
    table = panel.edges
    wait_until(qtbot, lambda: table.viewport().findChild(QComboBox) is None)  # the one before may not be gone yet
    place = table.visualItemRect(table.item(row, column)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    choose(qtbot, table.viewport().findChild(QComboBox), text)


def choose(qtbot, box: QComboBox, text: str) -> None:
    wait_until(qtbot, box.view().isVisible)
    steps = box.findText(text) - box.currentIndex()
    assert box.findText(text) >= 0, [box.itemText(i) for i in range(box.count())]
    for _ in range(abs(steps)):
        qtbot.keyClick(box.view(), Qt.Key.Key_Down if steps > 0 else Qt.Key.Key_Up)
    if directory := os.environ.get("SCREENSHOTS"):
        box.screen().grabWindow(0).save(f"{directory}/schemes_edge_choice_{text}.png")
    qtbot.keyClick(box.view(), Qt.Key.Key_Return)


def written(edge: Edge) -> tuple[str, ...]:
    if edge.is_fork:
        return edge.source, edge.target_if_true, edge.condition, edge.target
    assert (edge.target_if_true, edge.condition) == ("undefined", "undefined")
    return edge.source, edge.target, "", ""


def rows_of(panel: SchemesPanel) -> list[tuple[str, ...]]:
    table = panel.edges
    return [tuple(table.item(i, j).text() for j in range(4)) for i in range(table.rowCount())]


@pytest.mark.req("S2")
def test_an_edge_is_edited_in_place(qtbot, panel: SchemesPanel, store: SchemeStore) -> None:
    """Each cell of a row, a fork that becomes a plain edge and again a fork; what cannot be is told and put back."""
    panel.tabs.setCurrentIndex(1)
    wait_until(qtbot, lambda: panel.edges.rowCount() == 3)
    with store.change() as scheme:
        scheme.set_variable("late", "False")
    wait_until(qtbot, lambda: panel.edges.choices(2) == ["", "good", "late"])
    others = [("pick", "ASK", "", ""), ("COUNT", "pick", "", "")]
    assert rows_of(panel) == [others[0], ("ASK", "COUNT", "good", "EXIT"), others[1]]
    for column, text, fork in (
        (1, "pick", ("ASK", "pick", "good", "EXIT")),
        (3, "COUNT", ("ASK", "pick", "good", "COUNT")),
        (2, "late", ("ASK", "pick", "late", "COUNT")),
        (2, "", ("ASK", "pick", "", "")),
        (2, "good", ("ASK", "pick", "good", "pick")),
        (0, "EXIT", ("EXIT", "pick", "good", "pick")),
    ):
        choose_in_cell(qtbot, panel, 1, column, text)
        wait_until(qtbot, lambda fork=fork: written(store.read().edges[1]) == fork)
        wait_until(qtbot, lambda fork=fork: rows_of(panel) == [others[0], fork, others[1]])
    assert panel.problem.text() == ""

    choose_in_cell(qtbot, panel, 0, 0, "COUNT")
    wait_until(qtbot, lambda: "An edge or fork leaves COUNT already" in panel.problem.text())
    wait_until(qtbot, lambda: rows_of(panel)[0] == others[0])
    assert not panel.edges.item(0, 3).flags() & Qt.ItemFlag.ItemIsEditable, "a plain edge has no Else"


def test_an_edge_that_changed_meanwhile_is_not_overwritten(qtbot, panel: SchemesPanel, store: SchemeStore) -> None:
    panel.tabs.setCurrentIndex(1)
    wait_until(qtbot, lambda: panel.edges.rowCount() == 3)
    table = panel.edges
    table.setCurrentCell(0, 1)
    table.edit(table.model().index(0, 1))
    with store.change() as scheme:
        scheme.edges.pop(0)
    wait_until(qtbot, lambda: panel.shown is not None and len(panel.shown.scheme.edges) == 2)
    assert table.rowCount() == 3, "rows do not move below a person who chooses"
    choose(qtbot, table.viewport().findChild(QComboBox), "EXIT")
    wait_until(qtbot, lambda: "is not as it was" in panel.problem.text())
    wait_until(qtbot, lambda: table.rowCount() == 2)
    assert [edge.source for edge in store.read().edges] == ["ASK", "COUNT"]


def test_step_stop_abort_reset(qtbot, panel: SchemesPanel, store: SchemeStore, project_root: Path) -> None:
    click(qtbot, panel.buttons["Step"])
    wait_until(qtbot, lambda: "does not run, at ASK" in panel.state.text())
    panel.choose_node("pick")
    click(qtbot, panel.go_here)
    wait_until(qtbot, lambda: panel.graph.boxes["pick"].is_current)
    click(qtbot, panel.change_mode)
    wait_until(qtbot, lambda: store.read().jobs["pick"].mode == "continue")
    cell(panel, "seconds").setText("60")
    wait_until(qtbot, lambda: store.read().floats["seconds"].value == 60)
    click(qtbot, panel.buttons["Start"])
    wait_until(qtbot, lambda: "is running" in panel.state.text())
    project = Project.open(project_root)
    wait_until(qtbot, lambda: project.refresh() or project.process("External/job003/").status == "Running")
    click(qtbot, panel.buttons["Abort"])
    box = panel.findChild(QMessageBox)
    click(qtbot, next(button for button in box.buttons() if button.objectName() == "yes_button"))
    wait_until(qtbot, lambda: "does not run" in panel.state.text(), timeout=40_000)
    project.refresh()
    assert project.process("External/job003/").status == "Aborted"
    click(qtbot, panel.buttons["Reset"])
    box = next(
        box for box in panel.findChildren(QMessageBox) if box.windowTitle() == "Reset" or "original" in box.text()
    )
    click(qtbot, next(button for button in box.buttons() if button.objectName() == "yes_button"))
    wait_until(qtbot, lambda: store.read().floats["seconds"].value == 1)
    assert store.read().jobs["pick"].current_name == "pick"


def test_the_references_examples_are_drawn(qtbot, panel: SchemesPanel, project_root: Path) -> None:
    for name in ("prep", "proc"):
        directory = project_root / "Schemes" / name
        directory.mkdir()
        packed = (EXAMPLES / name / "scheme.star.gz").read_bytes()
        (directory / "scheme.star").write_bytes(gzip.decompress(packed))
        show_schemes(panel.main_window, name)
        wait_until(qtbot, lambda name=name: panel.shown is not None and panel.shown.scheme.name == name)
        scheme = SchemeStore(project_root, name).read()
        assert set(panel.graph.boxes) == set(scheme.nodes)
        boxes = [box.sceneBoundingRect() for box in panel.graph.boxes.values()]
        assert not any(a.intersects(b) for i, a in enumerate(boxes) for b in boxes[:i]), "boxes overlap"
        picture(panel, f"schemes_{name}")


def test_scheme_of_scheduled_jobs(qtbot, panel: SchemesPanel, project_root: Path) -> None:
    window = panel.main_window
    project = Project.open(project_root)
    values = {**project.spec("relion.external").defaults(), "fn_exe": "./pick.sh"}
    project.schedule("relion.external", {**values, "in_mic": "Import/job001/micrographs.star"})
    wait_until(qtbot, lambda: "External/job003/" in window.session.snapshot.graph.processes)
    window.actions_of_job.action("Make a scheme of scheduled jobs …").trigger()
    dialog = window.findChild(MakeSchemeDialog)
    dialog.name.setText("mine")
    dialog.loop.setChecked(True)
    click(qtbot, dialog.accept_button)
    wait_until(qtbot, lambda: panel.shown is not None and panel.shown.scheme.name == "mine")
    assert set(panel.graph.boxes) == {"WAIT", "EXIT_maxtime", "external"}


def test_damaged_scheme_is_told_and_the_window_lives(qtbot, panel: SchemesPanel, store: SchemeStore) -> None:
    good = store.file.read_bytes()
    store.file.write_text("data_other\n_x 1\n")
    wait_until(qtbot, lambda: "is not a scheme" in panel.problem.text())
    store.file.write_bytes(good)
    click(qtbot, panel.add_variable_button)
    wait_until(qtbot, lambda: "cannot name a part of a scheme" in panel.problem.text())
