"""Manual picking with real clicks: coordinates, removal, dragging, thresholds, the files of a job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from relion_py.compute.io import star
from relion_py.gui.display import manualpick, open_file
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.manualpick_data import PickFile, read_pick_job
from relion_py.gui.display.manualpick_window import PickWindow

SPOTS = ((100, 80), (300, 120), (210, 310))
"""(x, y) of the bright discs on the first micrograph, in pixels."""
LEFT, MIDDLE, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton, Qt.MouseButton.RightButton


@pytest.fixture
def project(tmp_path: Path, write_mrc, monkeypatch) -> Path:
    """Two micrographs of 400 x 400 pixels of 2 A, the first with three bright spots, and their STAR file."""
    y, x = np.mgrid[:400, :400]
    image = np.zeros((400, 400), np.float32)
    for sx, sy in SPOTS:
        image[np.hypot(x - sx, y - sy) <= 4] = 1.0
    write_mrc("MotionCorr/job002/Movies/a.mrc", image, 2.0)
    write_mrc("MotionCorr/job002/Movies/b.mrc", image.T.copy(), 2.0)
    optics = star.Table({"rlnOpticsGroupName": ["g"], "rlnOpticsGroup": [1], "rlnMicrographPixelSize": [2.0]})
    names = [f"MotionCorr/job002/Movies/{m}.mrc" for m in "ab"]
    table = star.Table({"rlnMicrographName": names, "rlnOpticsGroup": [1, 1]})
    table.set("rlnDefocusU", [10000.0, 20500.0])
    table.set("rlnCtfMaxResolution", [3.5, 4.25])
    (tmp_path / "CtfFind/job003").mkdir(parents=True)
    (tmp_path / "ManualPick/job004/Movies").mkdir(parents=True)
    star.write(tmp_path / "CtfFind/job003/micrographs_ctf.star", {"optics": optics, "micrographs": table})
    (tmp_path / "default_pipeline.star").write_text("data_pipeline_general\n_rlnPipeLineJobCounter 5\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = [
    *("--i", "CtfFind/job003/micrographs_ctf.star", "--odir", "ManualPick/job004/", "--pickname", "manualpick"),
    *("--selection", "ManualPick/job004/micrographs_selected.star", "--allow_save", "--fast_save"),
    *("--scale", "1", "--sigma_contrast", "0", "--black", "0", "--white", "1", "--particle_diameter", "60"),
]


def open_picker(qtbot, project: Path, *more: str) -> PickWindow:
    options = manualpick.parse([*WORDS, *more])
    window = manualpick.make_window(manualpick.make_job(options, project), options)
    qtbot.addWidget(window)
    window.show()
    qtbot.waitExposed(window)
    qtbot.waitUntil(lambda: window.panel.file is not None, timeout=10_000)
    QApplication.processEvents()
    return window


def at(window: PickWindow, x: float, y: float) -> QPoint:
    """The screen pixel of the view in which a point of the micrograph is drawn."""
    scene = window.panel.box.mapViewToScene(window.panel._pg.QtCore.QPointF(x, y))
    return window.panel.view.mapFromScene(scene)


def click(window: PickWindow, where: QPoint, button=LEFT, modifier=Qt.KeyboardModifier.NoModifier) -> None:
    QTest.mouseClick(window.panel.view.viewport(), button, modifier, where)
    QApplication.processEvents()


def spots_on_screen(window: PickWindow) -> list[tuple[float, float]]:
    """Centres of the bright spots in the picture that is on the screen: independent of all geometry here."""
    from scipy import ndimage

    picture = window.panel.view.grab().toImage().convertToFormat(QImage.Format.Format_Grayscale8)
    rows = np.frombuffer(picture.constBits(), np.uint8).reshape(picture.height(), picture.bytesPerLine())
    grey = rows[:, : picture.width()]
    marks, number = ndimage.label(grey > 127)
    return [(x, y) for y, x in ndimage.center_of_mass(grey > 127, marks, range(1, number + 1))]


def coordinates(path: Path) -> list[tuple[float, float]]:
    table = next(iter(star.read(path).values()))
    return list(zip(table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY"), strict=True))


PICKS = "ManualPick/job004/Movies/a_manualpick.star"


@pytest.mark.req("G12")
@pytest.mark.parametrize("zoom", [1.0, 2.0, 5.0])
def test_clicks_on_what_is_seen_are_right_to_half_a_pixel(qtbot, project: Path, zoom: float) -> None:
    window = open_picker(qtbot, project)
    panel = window.panel
    panel._scale_bar.text.hide(), panel._scale_bar.line.hide()
    for x, y in SPOTS:
        width, height = panel.box.width() / zoom, panel.box.height() / zoom
        # off centre, so that screen and image pixels do not coincide
        panel.box.setRange(
            xRange=(x - 0.43 * width, x + 0.57 * width), yRange=(y - 0.61 * height, y + 0.39 * height), padding=0
        )
        panel.show_picks.setChecked(False)
        QApplication.processEvents()
        ppx, _ = panel.box.viewPixelSize()
        assert ppx == pytest.approx(1 / zoom, rel=0.02)
        seen = spots_on_screen(window)
        expected = at(window, x, y)
        spot = min(seen, key=lambda s: abs(s[0] - expected.x()) + abs(s[1] - expected.y()))
        click(window, QPoint(round(spot[0]), round(spot[1])))
    window.close()
    found = coordinates(project / PICKS)
    assert len(found) == 3
    error = np.abs(np.array(found) - np.array(SPOTS)).max()
    print(f"zoom {zoom}: largest error {error:.2f} px")
    assert error <= (0.5 if zoom > 1 else 0.55)  # a screen pixel is a pixel at zoom 1


@pytest.mark.req("J3")
def test_removing_moving_undoing_and_reopening(qtbot, project: Path) -> None:
    window = open_picker(qtbot, project)
    for x, y in ((100, 80), (300, 120), (200, 200), (60, 300)):
        click(window, at(window, x, y))
    click(window, at(window, 105, 85))  # within a circle: RELION adds none there
    assert len(window.panel.file) == 4
    click(window, at(window, 300, 120), MIDDLE)
    click(window, at(window, 200, 200), RIGHT)
    assert len(window.panel.file) == 2
    window.panel.undo()
    assert len(window.panel.file) == 3
    click(window, at(window, 200, 200), LEFT, Qt.KeyboardModifier.ShiftModifier)
    viewport = window.panel.view.viewport()
    QTest.mousePress(viewport, LEFT, Qt.KeyboardModifier.NoModifier, at(window, 60, 300))
    for step in range(1, 6):
        QTest.mouseMove(viewport, at(window, 60 + 20 * step, 300))
        QTest.qWait(20)
    QTest.mouseRelease(viewport, LEFT, Qt.KeyboardModifier.NoModifier, at(window, 160, 300))
    assert window.panel.list.topLevelItem(0).text(1) == "2"
    window.close()
    found = coordinates(project / PICKS)
    assert np.allclose(found, [(100, 80), (160, 300)], atol=1.0)
    table = next(iter(star.read(project / PICKS).values()))
    assert table.strings("rlnParticleSelectionType") == ["2", "2"]
    assert set(table.floats("rlnAnglePsi")) == {-999.0}

    again = open_picker(qtbot, project)
    assert len(again.panel.circles.getData()[0]) == 2
    again.finish()
    assert again.panel.list.topLevelItem(0).text(1) == "2"
    click(again, at(again, 100, 80), MIDDLE)
    again.close()
    assert len(coordinates(project / PICKS)) == 1


def test_changes_are_saved_without_asking(qtbot, project: Path) -> None:
    window = open_picker(qtbot, project)
    click(window, at(window, 100, 80))
    qtbot.waitUntil(lambda: (project / PICKS).is_file(), timeout=3000)
    click(window, at(window, 300, 120))
    window.step(1)  # another micrograph: what was changed is written at once
    assert len(coordinates(project / PICKS)) == 2


def test_lists_of_the_job_are_those_of_the_reference(qtbot, project: Path) -> None:
    window = open_picker(qtbot, project)
    click(window, at(window, 100, 80))
    window.step(1)
    qtbot.waitUntil(lambda: window.panel.file is not None, timeout=5000)
    QApplication.processEvents()
    click(window, at(window, 80, 100))
    item = window.panel.list.topLevelItem(1)
    assert (item.text(2), item.text(3)) == ("2.05", "4.2")
    item.setCheckState(0, Qt.CheckState.Unchecked)
    window.close()
    job = project / "ManualPick/job004"
    selected = star.read(job / "micrographs_selected.star")
    assert list(selected) == ["optics", "micrographs"]
    assert selected["micrographs"].strings("rlnMicrographName") == ["MotionCorr/job002/Movies/a.mrc"]
    files = star.read(job / "manualpick.star")["coordinate_files"]
    assert files.strings("rlnMicrographCoordinates") == [PICKS]
    local = next(iter(star.read(job / "local_selection.star").values()))
    assert local.strings("rlnSelected") == ["1", "0"]
    again = open_picker(qtbot, project)
    assert again.job.selected == [True, False]
    assert again.panel.list.topLevelItem(1).checkState(0) == Qt.CheckState.Unchecked
    again.close()


@pytest.mark.skipif(shutil.which("relion_preprocess", path="/usr/bin") is None, reason="Debian's RELION is not here")
def test_debians_relion_extracts_at_the_picks(qtbot, project: Path) -> None:
    window = open_picker(qtbot, project)
    for x, y in SPOTS:
        click(window, at(window, x, y))
    window.close()
    table = star.read(project / "CtfFind/job003/micrographs_ctf.star")
    for label, value in (("rlnVoltage", 300.0), ("rlnSphericalAberration", 2.7), ("rlnAmplitudeContrast", 0.1)):
        table["optics"].set(label, [value])
    table["optics"].set("rlnMicrographOriginalPixelSize", [2.0])
    star.write(project / "mics.star", dict(table.items()))
    (project / "ManualPick/job004/coords_suffix_manualpick.star").write_text("mics.star\n")
    (project / "Extract/job005").mkdir(parents=True)
    command = "relion_preprocess --i mics.star --coord_dir ManualPick/job004/ --coord_suffix _manualpick.star"
    command += " --part_star Extract/job005/particles.star --part_dir Extract/job005/ --extract --extract_size 32"
    done = subprocess.run(["/usr/bin/" + command.split()[0], *command.split()[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with mrcfile.open(project / "Extract/job005/Movies/a.mrcs") as file:
        for image in file.data:
            y, x = np.nonzero(image > 0.5)
            assert abs(y.mean() - 16) <= 1.0 and abs(x.mean() - 16) <= 1.0


@pytest.mark.req("J3")
def test_autopicks_are_opened_from_display_with_a_threshold(qtbot, project: Path) -> None:
    (project / "AutoPick/job005/Movies").mkdir(parents=True)
    picks = star.Table({"rlnCoordinateX": [100.0, 300.0, 210.0], "rlnCoordinateY": [80.0, 120.0, 310.0]})
    picks.set("rlnAutopickFigureOfMerit", [0.1, 0.5, 0.9])
    picks.set("rlnClassNumber", [1, 2, 3])
    picks.set("rlnAnglePsi", [10.0, 20.0, 30.0])
    path = project / "AutoPick/job005/Movies/a_autopick.star"
    star.write(path, {"": picks})
    listed = star.Table({"rlnMicrographName": ["MotionCorr/job002/Movies/a.mrc"]})
    listed.set("rlnMicrographCoordinates", ["AutoPick/job005/Movies/a_autopick.star"])
    star.write(project / "AutoPick/job005/autopick.star", {"coordinate_files": listed})
    window = open_file(project / "AutoPick/job005/autopick.star")
    qtbot.addWidget(window)
    assert isinstance(window, PickWindow)
    window.finish()
    before = path.read_bytes()
    click(window, at(window, 300, 300))  # looking only
    assert path.read_bytes() == before
    window.edit_switch.setChecked(True)
    panel = window.panel
    assert len(panel.circles.getData()[0]) == 3
    panel.threshold.setValue(400)  # 0.1 + 0.4 * 0.8 = 0.42
    assert len(panel.circles.getData()[0]) == 2
    click(window, at(window, 40, 340))
    assert len(panel.circles.getData()[0]) == 3  # a pick by hand has no score to hide it
    assert panel.remove_hidden() == 1
    window.close()
    table = next(iter(star.read(path).values()))
    assert table.strings("rlnClassNumber")[:2] == ["2", "3"]
    assert len(table) == 3
    assert not (project / "AutoPick/job005/micrographs_selected.star").exists()


def test_filaments_have_two_ends(qtbot, project: Path) -> None:
    window = open_picker(qtbot, project, "--pick_start_end")
    for x, y in ((50, 50), (150, 60), (50, 200), (150, 210)):
        click(window, at(window, x, y))
    assert len(window.panel.filaments.getData()[0]) == 4
    click(window, at(window, 150, 60), MIDDLE)
    window.close()
    assert np.allclose(coordinates(project / PICKS), [(50, 200), (150, 210)], atol=1)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--i", "gone.star", "--particle_diameter", "9"], "gone.star is not there"),
        (["--i", "CtfFind/job003/micrographs_ctf.star"], "particle_diameter"),
        ([*WORDS, "--topaz_denoise"], "--topaz_denoise is not offered"),
        ([*WORDS, "--open_simultaneous", "3"], "--open_simultaneous is not offered"),
        ([*WORDS, "--color_star", "x.star"], "--color_label"),
        ([*WORDS, "--scale", "0"], "--scale"),
        ([*WORDS, "--odir", "../elsewhere/"], "outside the project"),
    ],
)
def test_mistakes_are_sentences(qtbot, project: Path, capsys, words: list[str], part: str) -> None:
    assert manualpick.main([*words, "--pipeline_control", "ManualPick/job004/"]) == 1
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1
    assert (project / "ManualPick/job004/RELION_JOB_EXIT_FAILURE").exists()
    assert not (project.parent / "elsewhere").exists()


def test_names_that_lead_out_of_the_project_are_refused(project: Path) -> None:
    listed = star.Table({"rlnMicrographName": ["a.mrc"], "rlnMicrographCoordinates": ["../../picks.star"]})
    star.write(project / "list.star", {"coordinate_files": listed})
    job = read_pick_job("list.star", project, "ManualPick/job004/")
    with pytest.raises(DisplayError, match="outside the project"):
        job.path(0)
    damaged = project / "bad.star"
    star.write(damaged, {"": star.Table({"rlnImageName": ["x"]})})
    with pytest.raises(DisplayError, match="no picks"):
        PickFile(damaged)


def test_the_program_ends_with_the_control_files(project: Path) -> None:
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    job = project / "ManualPick/job004"
    words = [sys.executable, "-m", "relion_py.gui.display.manualpick", *WORDS, "--pipeline_control", f"{job}/"]
    process = subprocess.Popen(words, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not (job / "local_selection.star").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(job.glob("RELION_JOB_EXIT_*"))
        (job / "RELION_JOB_ABORT_NOW").touch()
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.stderr.close()
    assert (job / "RELION_JOB_EXIT_ABORTED").exists() and not (job / "RELION_JOB_ABORT_NOW").exists()
    assert (job / "manualpick.star").exists()


def test_every_flag_of_the_reference_is_offered_or_refused(shared: Path) -> None:
    listed = json.loads((shared / "reference/programs.json").read_text())["relion_manualpick"]["groups"]
    flags = {entry["option"] for group in listed.values() for entry in group}
    offered = {word for action in manualpick.build_parser()._actions for word in action.option_strings}
    assert flags <= offered | set(manualpick.REFUSED)


def test_picks_below_a_score_are_removed_everywhere(qtbot, project: Path, monkeypatch) -> None:
    for name, scores in (("a", [0.1, 0.6]), ("b", [0.2, 0.3, 0.9])):
        table = star.Table({"rlnCoordinateX": [50.0 * (i + 1) for i in range(len(scores))]})
        table.set("rlnCoordinateY", [60.0] * len(scores))
        table.set("rlnAutopickFigureOfMerit", scores)
        star.write(project / f"ManualPick/job004/Movies/{name}_manualpick.star", {"": table})
    window = open_picker(qtbot, project, "--minimum_pick_fom", "0.25")
    window.finish()
    assert [window.panel.list.topLevelItem(i).text(1) for i in range(2)] == ["1", "2"]
    assert len(window.panel.circles.getData()[0]) == 1
    assert window.panel.remove_below_everywhere(0.25) == 2
    window.finish()
    window.close()
    assert len(coordinates(project / PICKS)) == 1
    assert len(coordinates(project / "ManualPick/job004/Movies/b_manualpick.star")) == 2


def test_picks_are_coloured_by_a_particle_file(qtbot, project: Path) -> None:
    table = star.Table({"rlnCoordinateX": [50.0, 150.0, 250.0], "rlnCoordinateY": [60.0, 60.0, 60.0]})
    star.write(project / PICKS, {"": table})
    particles = star.Table({"rlnCoordinateX": [50.0, 150.4], "rlnCoordinateY": [60.0, 60.0]})
    particles.set("rlnMicrographName", ["MotionCorr/job002/Movies/a.mrc"] * 2)
    particles.set("rlnParticleSelectZScore", [0.0, 1.0])
    star.write(project / "p.star", {"particles": particles})
    more = ("--color_star", "p.star", "--color_label", "rlnParticleSelectZScore", "--blue", "0", "--red", "1")
    window = open_picker(qtbot, project, *more)
    pens = [point.pen().color().getRgb()[:3] for point in window.panel.circles.points()]
    assert pens == [(0, 0, 255), (255, 0, 0), (80, 255, 80)]
    window.close()
