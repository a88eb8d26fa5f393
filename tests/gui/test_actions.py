"""Menus and job actions: files, order, cleaning, trash, flowchart, notes; all through the real window."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QMenu, QMessageBox
from window_driver import (
    choose,
    click,
    click_job,
    edit_pipeline,
    press,
    start_external,
    the_message,
    wait_for,
    wait_until,
    write,
)

from relion_py.pipeline.graph import Graph, Node, Process, Status
from relion_py.pipeline.project import Project

MENUS = {
    "File": {
        "Re-read pipeline": "Alt+R",
        "Edit project note": "Alt+E",
        "Print all notes": "",
        "Remake .Nodes/": "Alt+N",
        "Display …": "Alt+D",
        "Show initial screen": "Alt+Z",
        "Empty trash …": "Alt+T",
        "About": "",
        "Quit": "Alt+Q",
    },
    "Jobs": {
        "Save job.star …": "Alt+S",
        "Load job.star …": "Alt+L",
        "Order alphabetically": "Alt+A",
        "Order chronologically": "Alt+C",
        "Undelete job(s) …": "Alt+U",
        "Toggle overwrite button": "Alt+O",
        "Run scheduled jobs …": "",
        "Stop running scheduled jobs …": "",
        "Gently clean all jobs …": "Alt+G",
        "Harshly clean all jobs …": "Alt+H",
    },
}


@pytest.mark.req("G13")
def test_menus_and_shortcuts_are_those_of_the_reference(window) -> None:
    """Texts and keys: gui_mainwindow.cpp, constructor."""
    menus = {menu.title().replace("&", ""): menu for menu in window.menuBar().findChildren(QMenu)}
    for title, entries in MENUS.items():
        found = {action.text(): action.shortcut().toString() for action in menus[title].actions()}
        assert entries.items() <= found.items()


@pytest.mark.req("G13")
def test_order_and_filter(qtbot, window, project_root: Path) -> None:
    with edit_pipeline(project_root) as graph:
        graph.add_process(Process("External/job003/", "External/zebra/", "relion.external", Status.FAILED))
        graph.add_process(Process("External/job004/", "External/ant/", "relion.external", Status.SUCCEEDED))
    finished = window.lists.finished
    wait_until(qtbot, lambda: finished.proxy.rowCount() == 4)
    assert [finished.proxy.index(i, 0).data() for i in range(4)] == [
        "004: External/ant",
        "003: External/zebra",
        "002: Import/job002",
        "001: Import/mics",
    ]
    window.actions_of_job.action("Order alphabetically").trigger()
    assert finished.names() == ["External/job004/", "External/job003/", "Import/job002/", "Import/job001/"]
    qtbot.keyClicks(window.lists.filter, "failed zeb")
    assert finished.names() == ["External/job003/"]
    window.lists.filter.clear()
    window.actions_of_job.action("Order chronologically").trigger()
    assert finished.names()[0] == "External/job004/"


@pytest.mark.req("G10")
def test_inputs_and_outputs_browse_through_the_history(qtbot, window) -> None:
    name = start_external(qtbot, window, seconds="0")
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    click_job(qtbot, window, window.lists.inputs, "Import/job001/")
    assert window.current_job == "Import/job001/"
    assert window.alias_line.text() == "001: Import/mics"
    assert window.lists.outputs.names() == [name]
    click_job(qtbot, window, window.lists.outputs, name)
    assert window.current_job == name


@pytest.mark.req("G13")
def test_job_star_is_saved_and_loaded(qtbot, window, tmp_path: Path) -> None:
    form = choose(qtbot, window, "External")
    write(qtbot, form, "fn_exe", "./pick.sh")
    write(qtbot, form, "param1_label", "threshold")
    values = form.values()
    window.actions_of_job.action("Save job.star …").trigger()
    dialog = window.findChildren(QFileDialog)[0]
    dialog.fileSelected.emit(str(tmp_path / "kept_job.star"))
    dialog.close()
    wait_until(qtbot, (tmp_path / "kept_job.star").exists)
    choose(qtbot, window, "3D auto-refine")
    with qtbot.waitSignal(window.job_shown):
        window.actions_of_job.load_job_file(str(tmp_path / "kept_job.star"))
    assert window.form.spec.type_label == "relion.external"
    assert window.form.values() == values
    assert window.control.run_button.text() == "Run!"


@pytest.mark.req("G13")
@pytest.mark.req("J1")
def test_project_note_and_all_notes(qtbot, window, project_root: Path) -> None:
    actions = window.actions_of_job
    actions.action("Edit project note").trigger()
    wait_until(qtbot, lambda: hasattr(actions, "note_editor"))
    qtbot.keyClicks(actions.note_editor.text, "a new enzyme")
    press(qtbot, actions.note_editor, "Save")
    name = start_external(qtbot, window, seconds="0")
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    actions.action("Print all notes").trigger()
    wait_until(qtbot, lambda: hasattr(actions, "notes_dialog"))
    text = actions.notes_dialog.text.toPlainText()
    assert "a new enzyme" in text and "./pick.sh --o External/job003/" in text
    assert (project_root / "project_all_notes.txt").read_text() == text
    actions.notes_dialog.close()


@pytest.mark.req("J5")
@pytest.mark.req("J6")
def test_clean_tells_the_bytes_first_and_respects_protection(qtbot, window, project_root: Path) -> None:
    job = project_root / "Refine3D/job003"
    job.mkdir(parents=True)
    for iteration in range(3):
        (job / f"run_it{iteration:03d}_half1_class001.mrc").write_bytes(b"\0" * 1_000_000)
        (job / f"run_it{iteration:03d}_data.star").write_text("data_\n")
    with edit_pipeline(project_root) as graph:
        graph.add_process(Process("Refine3D/job003/", "", "relion.refine3d", Status.SUCCEEDED))
    wait_until(qtbot, lambda: "Refine3D/job003/" in window.lists.finished.names())
    window.select_job("Refine3D/job003/")
    expected = window.session.project.clean("Refine3D/job003/", False, dry_run=True)
    assert expected, "the rule of the job type finds the old iterations"
    window.actions_of_job.action("Gentle clean …").trigger()
    message = the_message(qtbot, window)
    assert "2.0 MB" in message.text()
    assert all((project_root / path).exists() for path in expected), "nothing moves before it is agreed to"
    press(qtbot, message, "Clean up")
    wait_until(qtbot, lambda: not any((project_root / path).exists() for path in expected))
    assert (job / "run_it002_half1_class001.mrc").exists()
    assert all((project_root / "Trash" / path).exists() for path in expected)
    (job / "NO_HARSH_CLEAN").touch()
    window.actions_of_job.action("Harsh clean …").trigger()
    wait_until(qtbot, window.control.banner.isVisible)
    assert "NO_HARSH_CLEAN" in window.control.banner.text.text()
    window.actions_of_job.action("Empty trash …").trigger()
    press(qtbot, the_message(qtbot, window), "Empty trash")
    wait_until(qtbot, lambda: not any((project_root / "Trash" / path).exists() for path in expected))


@pytest.mark.req("J3")
def test_flowchart_opens_jobs_and_is_exported(qtbot, window, tmp_path: Path) -> None:
    name = start_external(qtbot, window, seconds="0")
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    window.actions_of_job.action("Flowchart of its history").trigger()
    chart = window.actions_of_job.chart
    assert set(chart.boxes) == {name, "Import/job001/"}, "jobs that are no part of its history are left out"
    assert chart.boxes["Import/job001/"].pos().y() < chart.boxes[name].pos().y()
    qtbot.waitExposed(chart)
    place = chart.canvas.mapFromScene(chart.boxes["Import/job001/"].sceneBoundingRect().center())
    qtbot.mouseClick(chart.canvas.viewport(), Qt.MouseButton.LeftButton, pos=place)
    wait_until(qtbot, lambda: window.current_job == "Import/job001/")
    chart.save_svg(tmp_path / "chart.svg")
    chart.save_pdf(tmp_path / "chart.pdf")
    chart.save_tikz(tmp_path / "chart.tex")
    assert "External" in (tmp_path / "chart.svg").read_text()
    tikz = (tmp_path / "chart.tex").read_text()
    assert r"\begin{tikzpicture}" in tikz and "job003" in tikz and "job002" not in tikz
    assert (tmp_path / "chart.pdf").read_bytes().startswith(b"%PDF")
    chart.close()
    window.actions_of_job.action("Flowchart of the project").trigger()
    assert set(window.actions_of_job.chart.boxes) == {name, "Import/job001/", "Import/job002/"}
    window.actions_of_job.chart.close()


@pytest.mark.req("G13")
def test_scheduled_jobs_run_in_order(qtbot, window) -> None:
    form = choose(qtbot, window, "External")
    write(qtbot, form, "fn_exe", "./pick.sh")
    write(qtbot, form, "in_mic", "Import/job001/micrographs.star")
    click(qtbot, window.control.schedule_button)
    wait_until(qtbot, lambda: window.lists.scheduled.names() == ["External/job003/"])
    window.actions_of_job.action("Run scheduled jobs …").trigger()
    dialog = window.actions_of_job.schedule_dialog
    assert dialog.chosen() == ["External/job003/"]
    press(qtbot, dialog, "Execute")
    wait_for(qtbot, window, "External/job003/", Status.SUCCEEDED)


@pytest.mark.req("G13")
def test_about_and_initial_screen(qtbot, window) -> None:
    window.actions_of_job.action("About").trigger()
    message = the_message(qtbot, window)
    assert "GPL" in message.text()
    message.close()
    choose(qtbot, window, "External")
    window.actions_of_job.action("Show initial screen").trigger()
    assert window.stack.currentWidget() is window.start_page
    assert not window.control.run_button.isEnabled()


@pytest.mark.req("G5")
@pytest.mark.req("G8")
def test_changes_by_another_program_show_by_themselves(qtbot, window, project_root: Path) -> None:
    with edit_pipeline(project_root) as graph:
        graph.add_process(Process("Extract/job003/", "", "relion.extract", Status.SUCCEEDED))
    wait_until(qtbot, lambda: "Extract/job003/" in window.lists.finished.names())


def test_an_unknown_job_type_is_shown_and_left_alone(qtbot, window, project_root: Path) -> None:
    with edit_pipeline(project_root) as graph:
        graph.add_process(Process("Tomo/job003/", "", "relion.tomo.magic", Status.SUCCEEDED))
    wait_until(qtbot, lambda: "Tomo/job003/" in window.lists.finished.names())
    window.select_job("Tomo/job003/")
    assert window.stack.currentWidget() is window.unknown_page
    assert "relion.tomo.magic" in window.unknown_page.text()
    assert not window.control.run_button.isEnabled()


def test_drafts_are_kept_without_run(qtbot, open_window, project_root: Path) -> None:
    first = open_window(project_root)
    form = choose(qtbot, first, "External")
    write(qtbot, form, "fn_exe", "./half_typed")
    wait_until(qtbot, lambda: "./half_typed" in draft_text(project_root))
    write(qtbot, form, "fn_exe", "./typed_last")
    first.close()
    assert "./typed_last" in draft_text(project_root)
    again = open_window(project_root)
    assert choose(qtbot, again, "External").values()["fn_exe"] == "./typed_last"


def draft_text(root: Path) -> str:
    path = root / ".gui_externaljob.star"
    return path.read_text() if path.exists() else ""


def test_a_mistake_of_ours_is_told_and_the_window_stays(qtbot, window, capsys) -> None:
    import sys

    def wrong(_project: Project) -> None:
        raise ZeroDivisionError("made for a test")

    window.session.call(wrong)
    message = the_message(qtbot, window)
    assert "ZeroDivisionError" in message.text() and "ZeroDivisionError" in message.detailedText()
    message.close()
    try:
        raise KeyError("also made for a test")
    except KeyError as error:
        sys.excepthook(KeyError, error, error.__traceback__)
    wait_until(
        qtbot,
        lambda: any(b.isVisible() and "also made" in b.text() for b in window.findChildren(QMessageBox)),
    )
    for box in window.findChildren(QMessageBox):
        box.close()
    assert window.isVisible()
    assert "made for a test" in capsys.readouterr().err


def test_layout_and_taste_are_remembered(qtbot, open_window, project_root: Path) -> None:
    first = open_window(project_root)
    first.resize(1100, 760)
    first.halves.setSizes([420, 280])
    first.results_button.click()
    qtbot.wait(100)
    first.actions_of_job.set_appearance("dark")
    kept = first.halves.sizes()
    first.close()
    from relion_py.gui import app, theme

    app.make_application()
    assert theme.current().dark
    again = open_window(project_root)
    qtbot.wait(100)
    assert abs(again.halves.sizes()[0] - kept[0]) <= 3
    assert not again.results.isVisible(), "the Results panel was closed"


def test_progress_of_a_refinement_is_told(tmp_path: Path) -> None:
    from relion_py.gui.progress import job_progress

    assert job_progress(tmp_path) == ""
    head = "data_model_general\n\n_rlnReferenceDimensionality 3\n_rlnCurrentResolution    {}\n"
    (tmp_path / "run_it009_half1_model.star").write_text(head.format("21.3"))
    (tmp_path / "run_it010_half1_model.star").write_text(head.format("8.4321"))
    (tmp_path / "run_it010_half2_model.star").write_text(head.format("1"))
    assert job_progress(tmp_path) == "iteration 10, 8.43 Å"
    (tmp_path / "run_ct10_it011_half1_model.star").write_text("data_model_general\n")
    assert job_progress(tmp_path) == "iteration 11"


def test_a_look_right_after_a_change_does_not_bring_the_old_graph_back(qtbot, window) -> None:
    """The worker may look for progress before the window has taken the graph of the change before."""
    session = window.session
    values = {"fn_exe": "./pick.sh", "in_mic": "Import/job001/micrographs.star", "param1_label": "seconds"}
    values["param1_value"] = "3"
    seen: list[bool] = []
    session.changed.connect(lambda snapshot: seen.append("External/job003/" in snapshot.graph.processes))
    session.call(lambda project: project.run("relion.external", values), changes=True)
    for _ in range(5):
        session._refresh_waiting = False
        session.refresh()
    assert session.wait_idle(), "all of this was done before the window looked once"
    wait_until(qtbot, lambda: True in seen)
    qtbot.wait(300)
    assert False not in seen[seen.index(True) :]
    wait_for(qtbot, window, "External/job003/", Status.SUCCEEDED)


def test_snapshots_do_not_follow_later_changes() -> None:
    graph = Graph()
    graph.add_process(Process("A/job001/"))
    graph.add_node(Node("A/job001/x", "DensityMap.mrc"))
    graph.add_output("A/job001/", "A/job001/x")
    copy = graph.copy()
    graph.add_process(Process("A/job002/"))
    graph.add_input("A/job001/x", "A/job002/")
    assert list(copy.processes) == ["A/job001/"]
    assert copy.consumers_of("A/job001/x") == []
    assert copy.same_as(copy.copy())
