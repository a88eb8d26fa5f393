"""The window on schemes, driven as a person does: real files, real runs in processes of their own."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from PySide6.QtWidgets import QMessageBox
from window_driver import click, wait_until

from relion_py.gui.schemes_panel import MakeSchemeDialog, SchemesPanel, show_schemes
from relion_py.pipeline.jobstar import JobStar
from relion_py.pipeline.project import Project
from relion_py.pipeline.schemes import SchemeStore, add_job
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
