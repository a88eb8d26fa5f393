"""What a person does with the window, as functions for tests: click, type, wait and see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QMessageBox, QPushButton

from relion_py.pipeline import pipeline_file
from relion_py.pipeline.graph import Graph, Status


@contextmanager
def edit_pipeline(root: Path) -> Iterator[Graph]:
    """Change a project's pipeline file as another program would."""
    graph = pipeline_file.read(root / "default_pipeline.star")
    yield graph
    pipeline_file.write(root / "default_pipeline.star", graph)


def wait_until(qtbot, condition: Callable[[], bool], timeout: int = 20_000) -> None:
    """Run the event loop until the condition holds; fails after `timeout` ms."""
    qtbot.waitUntil(condition, timeout=timeout)


def click(qtbot, widget) -> None:
    qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)


def choose(qtbot, window, label: str):
    """Click a job type in the browser and wait for its form."""
    item = window.browser.findItems(label, Qt.MatchFlag.MatchExactly)[0]
    with qtbot.waitSignal(window.job_shown, timeout=10_000):
        qtbot.mouseClick(
            window.browser.viewport(),
            Qt.MouseButton.LeftButton,
            pos=window.browser.visualItemRect(item).center(),
        )
    return window.form


def click_job(qtbot, window, job_list, name: str) -> None:
    """Click a job in one of the lists and wait for its parameters."""
    row = job_list.names().index(name)
    index = job_list.proxy.index(row, 0)
    job_list.view.scrollTo(index)
    with qtbot.waitSignal(window.job_shown, timeout=10_000):
        qtbot.mouseClick(
            job_list.view.viewport(), Qt.MouseButton.LeftButton, pos=job_list.view.visualRect(index).center()
        )


def write(qtbot, form, key: str, text: str) -> None:
    editor = form.fields[key].editor
    editor.clear()
    qtbot.keyClicks(editor, text)


def start_external(qtbot, window, **params: str) -> str:
    """Fill in the form, press Run!, and return the name of the job that came of it."""
    form = choose(qtbot, window, "External")
    write(qtbot, form, "fn_exe", "./pick.sh")
    write(qtbot, form, "in_mic", "Import/job001/micrographs.star")
    for number, (label, value) in enumerate(params.items(), 1):
        write(qtbot, form, f"param{number}_label", label)
        write(qtbot, form, f"param{number}_value", value)
    assert window.control.run_button.text() == "Run!"
    click(qtbot, window.control.run_button)
    wait_until(qtbot, lambda: bool(window.current_job) and window.process is not None)
    return window.current_job


def wait_for(qtbot, window, name: str, status: Status) -> None:
    wait_until(qtbot, lambda: window.session.snapshot.graph.processes[name].status == status)


def press(qtbot, dialog: QDialog, name: str) -> None:
    """Click the button of a message box or dialog that has this text."""
    button = next(b for b in dialog.findChildren(QPushButton) if b.text().replace("&", "") == name)
    click(qtbot, button)


def the_message(qtbot, window) -> QMessageBox:
    """The message box that is open."""
    wait_until(qtbot, lambda: any(b.isVisible() for b in window.findChildren(QMessageBox)))
    return next(b for b in window.findChildren(QMessageBox) if b.isVisible())
