"""The life of an External job, from the browser to the trash, in the real window with a real script."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from window_driver import (
    choose,
    click,
    click_job,
    press,
    start_external,
    the_message,
    wait_for,
    wait_until,
    write,
)

from relion_py.pipeline.graph import Status

pytestmark = pytest.mark.timeout(120)


@pytest.mark.req("G2")
@pytest.mark.req("G7")
@pytest.mark.req("G11")
@pytest.mark.req("X1")
@pytest.mark.req("X2")
@pytest.mark.req("X4")
def test_a_job_runs_and_moves_from_running_to_finished(qtbot, window, project_root: Path) -> None:
    name = start_external(qtbot, window, seconds="1")
    assert name == "External/job003/"
    assert name in window.lists.running.names()
    assert window.stack.currentWidget() is window.forms["relion.external"]
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    assert name not in window.lists.running.names()
    assert window.lists.finished.names()[0] == name
    wait_until(qtbot, lambda: "done picking" in window.stdout_view.toPlainText())
    wait_until(qtbot, lambda: "a warning of the picker" in window.stderr_view.toPlainText())
    assert window.control.run_button.text() == "continue now!"
    assert window.control.run_button.property("state") == "continue"
    assert window.lists.inputs.names() == ["Import/job001/"]
    wait_until(
        qtbot,
        lambda: (
            [window.display_choice.itemText(i) for i in range(window.display_choice.count())]
            == ["out: coords_suffix_mine.star", "in: micrographs.star"]
        ),
    )
    assert "--in_mics Import/job001/micrographs.star" in (project_root / name / "note.txt").read_text()


@pytest.mark.req("J2")
@pytest.mark.req("J7")
def test_abort_stops_the_job_and_strikes_it_through(qtbot, window, project_root: Path) -> None:
    name = start_external(qtbot, window, seconds="60")
    wait_for(qtbot, window, name, Status.RUNNING)
    wait_until(qtbot, lambda: "picking into" in window.stdout_view.toPlainText())
    assert not window.control.run_button.isEnabled()
    window.actions_of_job.action("Abort running").trigger()
    press(qtbot, the_message(qtbot, window), "Abort!")
    wait_for(qtbot, window, name, Status.ABORTED)
    assert (project_root / name / "RELION_JOB_EXIT_ABORTED").exists()
    row = window.lists.finished.names().index(name)
    index = window.lists.finished.proxy.index(row, 0)
    assert index.data(Qt.ItemDataRole.FontRole).strikeOut()
    assert index.data(Qt.ItemDataRole.ForegroundRole).red() > 150


@pytest.mark.req("J7")
@pytest.mark.req("G8")
@pytest.mark.req("G9")
def test_a_failed_job_is_red_and_continues_in_its_own_directory(qtbot, window, project_root: Path) -> None:
    name = start_external(qtbot, window, fail="", seconds="0")
    wait_for(qtbot, window, name, Status.FAILED)
    row = window.lists.finished.names().index(name)
    index = window.lists.finished.proxy.index(row, 0)
    assert index.data(Qt.ItemDataRole.ForegroundRole).red() > 150
    assert index.data(Qt.ItemDataRole.FontRole) is None
    choose(qtbot, window, "External")
    click_job(qtbot, window, window.lists.finished, name)
    form = window.form
    assert window.control.run_button.text() == "continue now!"
    assert not form.fields["in_mic"].is_enabled(), "inputs may not change on continuation"
    click_free = form.fields["param1_label"]
    if click_free.is_enabled():
        click_free.set_value("")
    (project_root / "pick.sh").write_text("#!/bin/sh\necho second time\ntouch $2/RELION_JOB_EXIT_SUCCESS\n")
    click(qtbot, window.control.run_button)
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    assert sorted(p.name for p in (project_root / "External").iterdir()) == ["job003"]
    wait_until(qtbot, lambda: "second time" in window.stdout_view.toPlainText())


@pytest.mark.req("G4")
@pytest.mark.req("J1")
def test_alias_and_note(qtbot, window, project_root: Path) -> None:
    form = choose(qtbot, window, "External")
    write(qtbot, form, "fn_exe", "./pick.sh")
    write(qtbot, form, "in_mic", "Import/job001/micrographs.star")
    qtbot.keyClicks(window.alias_line, "my picks")
    click(qtbot, window.control.run_button)
    wait_until(qtbot, lambda: bool(window.current_job))
    name = window.current_job
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    assert (project_root / "External/my_picks").readlink() == Path("job003")
    assert window.lists.finished.proxy.index(0, 0).data() == "003: External/my_picks"
    window.actions_of_job.action("Alias …").trigger()
    dialog = window.actions_of_job.alias_dialog
    assert dialog.line.text() == "my_picks"
    dialog.line.clear()
    qtbot.keyClicks(dialog.line, "better")
    press(qtbot, dialog, "OK")
    wait_until(qtbot, lambda: window.alias_line.text() == "003: External/better")
    assert not (project_root / "External/my_picks").is_symlink()
    window.actions_of_job.action("Edit Note").trigger()
    wait_until(qtbot, lambda: hasattr(window.actions_of_job, "note_editor"))
    editor = window.actions_of_job.note_editor
    assert "./pick.sh --o External/job003/" in editor.text.toPlainText()
    qtbot.keyClicks(editor.text, "a fine job")
    press(qtbot, editor, "Save")
    assert window.session.wait_idle()
    assert "a fine job" in (project_root / name / "note.txt").read_text()


@pytest.mark.req("J4")
def test_delete_shows_dependants_and_undelete_brings_back(qtbot, window, project_root: Path) -> None:
    name = start_external(qtbot, window, seconds="0")
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    click_job(qtbot, window, window.lists.finished, "Import/job001/")
    window.actions_of_job.action("Delete …").trigger()
    dialog = window.actions_of_job.delete_dialog
    assert [dialog.list.item(i).text() for i in range(dialog.list.count())] == ["003: External/job003"]
    click_box = dialog.dependants_box
    click_box.setChecked(True)
    press(qtbot, dialog, "Move to Trash")
    wait_until(qtbot, lambda: name not in window.session.snapshot.graph.processes)
    assert not (project_root / "Import/job001").exists()
    assert (project_root / "Trash/External/job003/coords_suffix_mine.star").exists()
    assert window.current_job == "", "the window does not point at a job that is gone"
    window.actions_of_job.action("Undelete job(s) …").trigger()
    wait_until(qtbot, lambda: hasattr(window.actions_of_job, "undelete_dialog"))
    undelete = window.actions_of_job.undelete_dialog
    for row in range(undelete.list.count()):
        undelete.list.item(row).setCheckState(Qt.CheckState.Checked)
    press(qtbot, undelete, "Undelete")
    wait_until(qtbot, lambda: name in window.session.snapshot.graph.processes)
    assert (project_root / name / "coords_suffix_mine.star").exists()
    wait_until(qtbot, lambda: window.session.snapshot.graph.parents(name) == ["Import/job001/"])


@pytest.mark.req("G7")
def test_schedule_keeps_the_job_and_run_starts_it(qtbot, window) -> None:
    form = choose(qtbot, window, "External")
    write(qtbot, form, "fn_exe", "./pick.sh")
    write(qtbot, form, "in_mic", "Import/job001/micrographs.star")
    click(qtbot, window.control.schedule_button)
    wait_until(qtbot, lambda: window.lists.scheduled.names() == ["External/job003/"])
    wait_until(qtbot, lambda: window.current_job == "External/job003/" and window.control.run_button.isEnabled())
    assert window.control.run_button.text() == "Run!"
    click(qtbot, window.control.run_button)
    wait_for(qtbot, window, "External/job003/", Status.SUCCEEDED)
    assert window.lists.scheduled.names() == []


@pytest.mark.req("J2")
def test_overwrite_asks_and_runs_again_under_the_old_number(qtbot, window, project_root: Path) -> None:
    name = start_external(qtbot, window, seconds="0")
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    (project_root / name / "left_over").touch()
    window.actions_of_job.action("Overwrite").trigger()
    assert window.control.run_button.text() == "overwrite!"
    assert window.form.fields["in_mic"].is_enabled()
    click(qtbot, window.control.run_button)
    press(qtbot, the_message(qtbot, window), "Overwrite!")
    wait_until(qtbot, lambda: not (project_root / name / "left_over").exists())
    wait_until(qtbot, lambda: (project_root / name / "RELION_JOB_EXIT_SUCCESS").exists())
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    assert (project_root / name / "coords_suffix_mine.star").exists()
    assert sorted(p.name for p in (project_root / "External").iterdir()) == ["job003"]


@pytest.mark.req("J2")
def test_mark_as_failed_and_finished(qtbot, window) -> None:
    click_job(qtbot, window, window.lists.finished, "Import/job002/")
    window.actions_of_job.action("Mark as failed").trigger()
    wait_for(qtbot, window, "Import/job002/", Status.FAILED)
    window.actions_of_job.action("Mark as finished").trigger()
    wait_for(qtbot, window, "Import/job002/", Status.SUCCEEDED)
