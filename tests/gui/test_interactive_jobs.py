"""Subset selection and Manual picking from Run! to the finished job: the windows are those of the programs,
in processes of their own, and clicked there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from window_driver import choose, click, edit_pipeline, wait_for, wait_until, write

from relion_py.compute.io import star
from relion_py.pipeline.graph import Node, Process, Status

PERSON = """#!{python}
# The program, with a person at its window: {what}
import sys
from PySide6.QtCore import QPoint, QPointF, Qt, QTimer
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from relion_py.gui.display import {module} as program

application = QApplication(["program"])


def window():
    return next(w for w in application.topLevelWidgets() if w.isVisible())


def act():
{act}


def try_again():
    try:
        act()
    except (StopIteration, AssertionError):
        QTimer.singleShot(200, try_again)


QTimer.singleShot(500, try_again)
sys.exit(program.main())
"""

SELECT = """
    w = window()
    assert w.images.class_sizes is not None or w.images.kind != "classes"
    w.finish()
    for number in {numbers}:
        place = list(w.grid.order).index(number)
        QTest.mouseClick(w.grid.viewport(), Qt.LeftButton, Qt.NoModifier, w.grid._cell_at(place).center())
    QTest.mouseClick(w.save_button, Qt.LeftButton)
"""

PICK = """
    w = window()
    assert w.panel.file is not None
    for x, y in ((20, 30), (70, 60)):
        at = w.panel.view.mapFromScene(w.panel.box.mapViewToScene(QPointF(x, y)))
        QTest.mouseClick(w.panel.view.viewport(), Qt.LeftButton, Qt.NoModifier, at)
    w.close()
"""


@pytest.fixture
def person(tmp_path: Path, monkeypatch):
    """person(program, module, act): whenever a job starts that program, this is what is done at its window."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")

    def put(program: str, module: str, act: str) -> None:
        text = PERSON.format(python=sys.executable, what=program, module=module, act=act)
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)

    return put


@pytest.fixture
def classified(project_root: Path) -> Path:
    """The small project with a finished 2D classification: 60 particles in four classes of 10, 30, 15 and 5."""
    folder = project_root / "Class2D/job003"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    averages = np.zeros((4, 24, 24), np.float32)
    for index in range(4):
        averages[index, 4 + 2 * index : 10 + 2 * index, 8:16] = 1.0
    with mrcfile.new(folder / "run_it025_classes.mrcs") as file:
        file.set_data(averages + 0.1 * random.normal(size=averages.shape).astype(np.float32))
        file.set_image_stack()
        file.voxel_size = 3.0
    classes = [1] * 10 + [2] * 30 + [3] * 15 + [4] * 5
    particles = star.Table({"rlnImageName": [f"{i + 1:06d}@stack.mrcs" for i in range(60)]})
    particles.set("rlnMicrographName", [f"Micrographs/mic{i % 3}.mrc" for i in range(60)])
    particles.set("rlnClassNumber", classes)
    particles.set("rlnGroupNumber", [i % 3 + 1 for i in range(60)])
    particles.set("rlnOpticsGroup", [1] * 60)
    optics = star.Table({"rlnOpticsGroupName": ["g"], "rlnOpticsGroup": [1], "rlnImagePixelSize": [3.0]})
    star.write(folder / "run_it025_data.star", {"optics": optics, "particles": particles})
    table = star.Table({"rlnReferenceImage": [f"{i + 1:06d}@Class2D/job003/run_it025_classes.mrcs" for i in range(4)]})
    table.set("rlnClassDistribution", [10 / 60, 30 / 60, 15 / 60, 5 / 60])
    table.set("rlnEstimatedResolution", [12.0, 8.0, 10.0, 25.0])
    general = star.Table({"rlnReferenceDimensionality": ["2"], "rlnPixelSize": ["3.0"]}, loop=False)
    groups = star.Table({"rlnGroupNumber": [1, 2, 3], "rlnGroupScaleCorrection": [0.9, 1.0, 1.1]})
    groups.set("rlnGroupName", ["a", "b", "c"])
    star.write(
        folder / "run_it025_model.star", {"model_general": general, "model_classes": table, "model_groups": groups}
    )
    names = {"rlnModelStarFile": "model", "rlnExperimentalDataStarFile": "data"}
    optimiser = star.Table(
        {label: [f"Class2D/job003/run_it025_{kind}.star"] for label, kind in names.items()}, loop=False
    )
    star.write(folder / "run_it025_optimiser.star", {"optimiser_general": optimiser})
    (folder / "RELION_JOB_EXIT_SUCCESS").touch()
    with edit_pipeline(project_root) as graph:
        graph.add_process(Process("Class2D/job003/", "", "relion.class2d", Status.SUCCEEDED))
        graph.add_node(Node("Class2D/job003/run_it025_optimiser.star", "OptimiserData.star.relion.class2d"))
        graph.add_output("Class2D/job003/", "Class2D/job003/run_it025_optimiser.star")
        graph.set_job_counter(4)
    return project_root


def run_select(qtbot, window, **values: str) -> str:
    form = choose(qtbot, window, "Subset selection")
    for key, value in values.items():
        form.fields[key].set_value(value)
    click(qtbot, window.control.run_button)
    wait_until(qtbot, lambda: window.current_job.startswith("Select/"))
    wait_for(qtbot, window, window.current_job, Status.SUCCEEDED)
    return window.current_job


@pytest.mark.req("G12")
@pytest.mark.req("J1")
def test_classes_are_selected_from_run_to_the_finished_job(qtbot, open_window, classified: Path, person) -> None:
    person("relion_display", "cli", SELECT.format(numbers="(1, 3)"))
    window = open_window(classified)
    name = run_select(
        qtbot,
        window,
        fn_model="Class2D/job003/run_it025_optimiser.star",
        do_class_ranker="No",
        do_regroup="Yes",
        nr_groups="2",
    )
    folder = classified / name
    particles = star.read(folder / "particles.star")
    assert list(particles) == ["optics", "particles"]
    assert sorted(set(particles["particles"].strings("rlnClassNumber"))) == ["2", "4"]
    assert len(particles["particles"]) == 35
    assert len(set(particles["particles"].strings("rlnGroupName"))) <= 3
    averages = next(iter(star.read(folder / "class_averages.star").values()))
    assert averages.strings("rlnReferenceImage") == [f"{i:06d}@Class2D/job003/run_it025_classes.mrcs" for i in (2, 4)]
    backup = next(iter(star.read(folder / "backup_selection.star").values()))
    assert backup.strings("rlnSelected") == ["0", "1", "0", "1"]
    assert (folder / "RELION_JOB_EXIT_SUCCESS").exists()
    made = {node.path for node in window.session.snapshot.graph.outputs_of(name)}
    assert made == {f"{name}particles.star", f"{name}class_averages.star"}
    shown = [window.display_choice.itemText(i) for i in range(window.display_choice.count())]
    wait_until(qtbot, lambda: window.display_choice.count() >= 2)
    shown = [window.display_choice.itemText(i) for i in range(window.display_choice.count())]
    assert "out: particles.star" in shown and "out: class_averages.star" in shown


def test_micrographs_are_selected(qtbot, open_window, classified: Path, person) -> None:
    (classified / "Micrographs").mkdir()
    for number in range(3):
        with mrcfile.new(classified / f"Micrographs/mic{number}.mrc") as file:
            file.set_data(np.random.default_rng(number).normal(size=(60, 60)).astype(np.float32))
    table = star.Table({"rlnMicrographName": [f"Micrographs/mic{i}.mrc" for i in range(3)]})
    table.set("rlnOpticsGroup", [1, 1, 1])
    optics = star.Table({"rlnOpticsGroupName": ["g"], "rlnOpticsGroup": [1], "rlnMicrographPixelSize": [1.0]})
    star.write(classified / "Import/job001/micrographs.star", {"optics": optics, "micrographs": table})
    person("relion_display", "cli", SELECT.format(numbers="(0, 2)"))
    window = open_window(classified)
    name = run_select(qtbot, window, fn_mic="Import/job001/micrographs.star")
    chosen = star.read(classified / name / "micrographs.star")["micrographs"]
    assert chosen.strings("rlnMicrographName") == ["Micrographs/mic0.mrc", "Micrographs/mic2.mrc"]


@pytest.mark.req("J3")
def test_manual_picking_from_run_to_the_finished_job(qtbot, open_window, project_root: Path, person) -> None:
    (project_root / "Micrographs").mkdir()
    with mrcfile.new(project_root / "Micrographs/mic001.mrc") as file:
        file.set_data(np.random.default_rng(1).normal(size=(100, 90)).astype(np.float32))
        file.voxel_size = 1.0
    person("relion_manualpick", "manualpick", PICK)
    window = open_window(project_root)
    form = choose(qtbot, window, "Manual picking")
    write(qtbot, form, "fn_in", "Import/job001/micrographs.star")
    form.fields["diameter"].set_value("20")
    click(qtbot, window.control.run_button)
    wait_until(qtbot, lambda: window.current_job.startswith("ManualPick/"))
    name = window.current_job
    wait_for(qtbot, window, name, Status.SUCCEEDED)
    files = star.read(project_root / name / "manualpick.star")["coordinate_files"]
    assert files.strings("rlnMicrographCoordinates") == [f"{name}Micrographs/mic001_manualpick.star"]
    picks = next(iter(star.read(project_root / f"{name}Micrographs/mic001_manualpick.star").values()))
    assert np.allclose(picks.floats("rlnCoordinateX"), [20, 70], atol=1)
    assert np.allclose(picks.floats("rlnCoordinateY"), [30, 60], atol=1)
    made = {node.path for node in window.session.snapshot.graph.outputs_of(name)}
    assert made == {f"{name}manualpick.star", f"{name}micrographs_selected.star"}


@pytest.mark.req("G12")
def test_tiles_tell_counts_and_an_unsaved_selection_is_asked_about(
    qtbot, classified: Path, tmp_path: Path, monkeypatch
) -> None:
    from PySide6.QtWidgets import QMessageBox

    from relion_py.gui.display.grid_window import GridWindow, Saving
    from relion_py.gui.display.images import images_of_star

    images = images_of_star(classified / "Class2D/job003/run_it025_optimiser.star", classified)
    window = GridWindow(images, Saving(str(tmp_path / "class_averages.star"), str(tmp_path / "particles.star")))
    qtbot.addWidget(window)
    window.show()
    wait_until(qtbot, lambda: images.class_sizes is not None)
    assert window.grid._captions(1) == ["2: 50.0 %", "8.0 Å", "30 particles"]
    assert list(window.grid.order) == [1, 2, 0, 3]  # largest first
    window.panel.reverse.setChecked(False)
    window.panel.sort.setCurrentText("rlnEstimatedResolution")
    assert list(window.grid.order) == [1, 2, 0, 3]
    window.grid.select([1, 3])
    assert "60" not in window.status.text() and "(35)" in window.status.text()
    answers = [QMessageBox.StandardButton.Cancel, QMessageBox.StandardButton.Save]
    monkeypatch.setattr(QMessageBox, "question", lambda *_: answers.pop(0))
    window.close()
    assert window.isVisible() and not (tmp_path / "particles.star").exists()
    window.close()
    assert not window.isVisible() and len(star.read(tmp_path / "particles.star")["particles"]) == 35
    assert not answers
