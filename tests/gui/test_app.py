"""`relion` typed in a directory: a project, none yet, the home directory, a damaged pipeline, no display."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QMessageBox

from relion_py.gui import app as application


def answer(button_text: str, seen: list[str]) -> None:
    """Press this button of the message box that is about to open, and keep what it said."""

    def press() -> None:
        box = QApplication.activeModalWidget()
        if not isinstance(box, QMessageBox):
            QTimer.singleShot(20, press)
            return
        seen.append(box.text() + " " + box.informativeText())
        next(b for b in box.buttons() if b.text().replace("&", "") == button_text).click()

    QTimer.singleShot(20, press)


@pytest.mark.req("G1")
def test_a_directory_that_is_no_project_is_asked_about(qapp, tmp_path: Path) -> None:
    seen: list[str] = []
    answer("No", seen)
    assert not application.confirm_project(tmp_path)
    assert list(tmp_path.iterdir()) == [], "No leaves the directory as it was"
    assert "does not look like a RELION project" in seen[0]
    answer("Yes", seen)
    assert application.confirm_project(tmp_path)
    assert (tmp_path / ".gui_projectdir").exists()
    assert application.confirm_project(tmp_path), "a project is not asked about again"
    assert len(seen) == 2


@pytest.mark.req("G1")
def test_the_home_directory_is_always_asked_about(qapp, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seen: list[str] = []
    answer("No", seen)
    assert not application.confirm_project(tmp_path, without_asking=True)
    assert "home directory" in seen[0]
    project = tmp_path / "project"
    project.mkdir()
    assert application.confirm_project(project, without_asking=True)


@pytest.mark.req("G1")
def test_relion_opens_the_project_of_the_current_directory(tmp_path: Path) -> None:
    """The installed program itself, as a process, in a project; it is closed after its first paint."""
    (tmp_path / ".gui_projectdir").touch()
    code = (
        "import sys; from PySide6.QtCore import QTimer; from relion_py.gui import app, main_window as m\n"
        "def look():\n"
        "    w = [x for x in app_.topLevelWidgets() if isinstance(x, m.MainWindow)][0]\n"
        "    print(w.root, w.isVisible()); w.close()\n"
        "from PySide6.QtWidgets import QApplication as app_\n"
        "make = app.make_application\n"
        "def made(*a):\n    r = make(*a); QTimer.singleShot(300, look); return r\n"
        "app.make_application = made\n"
        "sys.exit(app.main([]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=25,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path} True" in done.stdout
    assert (tmp_path / "default_pipeline.star").exists()


@pytest.mark.req("G5")
def test_a_damaged_pipeline_is_told_and_restored(qtbot, qapp, project_root: Path) -> None:
    from relion_py.pipeline.project import Project

    project = Project.open(project_root)
    values = project.draft("relion.external")
    values.update(fn_exe="./pick.sh", in_mic="Import/job001/micrographs.star")
    name = project.run("relion.external", values)
    project.wait(name, timeout=20)
    (project_root / "default_pipeline.star").write_text("data_pipeline_general\n\n_rlnPipe")
    seen: list[str] = []
    answer("Cancel", seen)
    assert application.open_window(project_root) is None
    answer("Restore", seen)
    window = application.open_window(project_root)
    assert window is not None
    qtbot.addWidget(window)
    assert "External/job003" in seen[1], "it says from where it can be restored"
    assert set(window.session.snapshot.graph.processes) == {"Import/job001/", "Import/job002/", name}
    window.close()


def run_relion(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    return subprocess.run(
        [sys.executable, "-m", "relion_py.gui.app"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**kept, **environment},
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DISPLAY is of X11")
def test_without_a_display_one_sentence_tells_so(tmp_path: Path) -> None:
    done = run_relion(tmp_path)
    assert done.returncode == 1
    assert "no display" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there(capsys, qapp) -> None:
    assert application.main(["/no/such/directory"]) == 1
    assert "is not a directory" in capsys.readouterr().err


def test_garbage_is_collected_in_the_thread_of_the_window(qtbot) -> None:
    import gc
    import threading
    import weakref

    from relion_py.gui.collector import Collector

    class Ring:
        def __init__(self) -> None:
            self.me = self
            self.more = [[] for _ in range(2000)]

    freed_in: list[str] = []
    collector = Collector()
    assert not gc.isenabled()
    ring = Ring()
    weakref.finalize(ring, lambda: freed_in.append(threading.current_thread().name))
    del ring
    allocating = threading.Thread(target=lambda: [[[]] for _ in range(100_000)], name="other")
    allocating.start()
    allocating.join()
    assert freed_in == [], "another thread does not collect"
    kept = [Ring() for _ in range(5)]
    qtbot.waitUntil(lambda: freed_in == ["MainThread"], timeout=5000)
    assert kept
    collector.stop()
    assert gc.isenabled()


def test_a_copy_of_a_project_without_its_hidden_mark_is_a_project(tmp_path, monkeypatch):
    monkeypatch.setattr(application, "ask_for_project", lambda *_: pytest.fail("asked about a project"))
    (tmp_path / "default_pipeline.star").touch()
    assert application.confirm_project(tmp_path)
