"""``relion_display`` as a program: pictures without a screen, flags of the reference, refusals, exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtGui import QImage

from relion_py.compute.io import star
from relion_py.gui.display import cli
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.grid_window import GridWindow
from relion_py.gui.display.map_viewer import MapWindow


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    command = [sys.executable, "-m", "relion_py.gui.display.cli", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def stack(tmp_path: Path, write_mrc) -> Path:
    write_mrc("a.mrcs", np.random.default_rng(0).normal(size=(6, 16, 16)).astype(np.float32), 2.0)
    table = star.Table({"rlnImageName": [f"{i + 1:06d}@a.mrcs" for i in range(6)]})
    table.set("rlnClassNumber", [i % 2 + 1 for i in range(6)])
    star.write(tmp_path / "particles.star", {"particles": table})
    return tmp_path


@pytest.mark.req("G12")
def test_picture_without_a_screen(stack: Path) -> None:
    done = run("--i", "particles.star", "--sigma_contrast", "3", "--export", "p.png", cwd=stack)
    assert done.returncode == 0, done.stderr
    picture = QImage(str(stack / "p.png"))
    assert picture.width() > 500
    colours = {picture.pixelColor(x, 120).lightness() for x in range(900)}
    assert len(colours) > 20  # there are images in it


def test_window_without_a_screen_is_refused_with_a_sentence(stack: Path) -> None:
    done = run("--i", "particles.star", "--pipeline_control", ".", cwd=stack)
    assert done.returncode == 1
    assert "no screen" in done.stderr
    assert "Traceback" not in done.stderr
    assert (stack / "RELION_JOB_EXIT_FAILURE").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--i", "gone.star"], "gone.star is not there"),
        (["--i", "particles.star", "--pick"], "--pick is not offered"),
        (["--i", "particles.star", "--scale", "big"], "--scale"),
        (["--i", "particles.star", "--sort", "rlnNothing", "--export", "x.png"], "no column rlnNothing"),
        (["--i", "particles.star", "--class", "--export", "x.png"], "--class needs"),
        (["--i", "particles.star", "--lowpass", "20", "--export", "x.png"], "--angpix"),
        (["--i", "particles.star", "--colour_fire", "--colour_ice", "--export", "x.png"], "one colour table"),
        (["--i", "particles.star", "--export", "no/such/dir/x.png"], "cannot be written"),
        (["--i", "a.mrcs", "--show_fourier_amplitudes", "--show_fourier_phase_angles"], "give one"),
        (["--export", "x.png"], "Nothing to show"),
    ],
)
def test_mistakes_are_sentences(stack: Path, qtbot, monkeypatch, capsys, words: list[str], part: str) -> None:
    monkeypatch.chdir(stack)
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_words_that_are_no_options_are_warned_about_and_ignored(stack: Path, qtbot, monkeypatch, capsys) -> None:
    """As RELION does with what people write in a job's additional arguments."""
    monkeypatch.chdir(stack)
    assert cli.main(["--i", "a.mrcs", "--nonsense", "1.5", "--export", "x.png", "-1"]) == 0
    error = capsys.readouterr().err
    assert all(f'"{word}" is not an option' in error for word in ("--nonsense", "1.5", "-1"))
    assert (stack / "x.png").exists()


def test_the_pipeline_is_told_of_mistaken_options(stack: Path, qtbot, monkeypatch) -> None:
    monkeypatch.chdir(stack)
    assert cli.main(["--i", "a.mrcs", "--scale", "big", "--pipeline_control", "."]) == 1
    assert (stack / "RELION_JOB_EXIT_FAILURE").exists()


def test_every_flag_of_the_reference_is_offered_or_refused(shared: Path) -> None:
    listed = json.loads((shared / "reference/programs.json").read_text())["relion_display"]["groups"]
    parser = cli.build_parser()
    offered = {name for action in parser._actions for name in action.option_strings}
    for group in listed.values():
        for option in group:
            assert (option["option"] in offered) != (option["option"] in cli.REFUSED), option["option"]


def test_flags_set_up_the_grid(stack: Path, qtbot) -> None:
    words = "--sort rlnClassNumber --reverse --text_label rlnClassNumber --scale 3 --col 2 --sigma_contrast 2"
    options = cli.parse(["--i", str(stack / "particles.star"), *words.split(), "--angpix", "2", "--lowpass", "9"])
    window = cli.make_window(options)
    qtbot.addWidget(window)
    assert isinstance(window, GridWindow)
    assert window.grid.order.tolist() == [1, 3, 5, 0, 2, 4]
    assert window.grid.look.edge == 48
    assert window.grid.look.sigma == 2
    assert window.grid.look.lowpass == 9
    assert window.grid.look.pixel_size == 2
    assert window.grid.columns() == 2
    assert window.grid._captions(1) == ["2"]
    options = cli.parse(["--i", str(stack / "particles.star"), "--max_nr_images", "3", "--black", "-1", "--white", "2"])
    window = cli.make_window(options)
    qtbot.addWidget(window)
    assert len(window.grid.order) == 3
    assert (window.grid.look.black, window.grid.look.white) == (-1, 2)


def test_flags_set_up_a_map_and_refuse_what_does_not_fit(qtbot, write_mrc, sphere: np.ndarray) -> None:
    path = str(write_mrc("v.mrc", sphere, volume=True))
    window = cli.make_window(cli.parse(["--i", path, "--sigma_contrast", "5"]))
    qtbot.addWidget(window)
    assert isinstance(window, MapWindow)
    assert window.panel.amount.value() == 5
    with pytest.raises(DisplayError, match="--sort does not fit"):
        cli.make_window(cli.parse(["--i", path, "--sort", "rlnClassNumber"]))


def test_coordinates_over_a_micrograph(qtbot, tmp_path: Path, write_mrc) -> None:
    write_mrc("m.mrc", np.zeros((50, 60), np.float32), 2.0)
    star.write(tmp_path / "c.star", {"": star.Table({"rlnCoordinateX": [10.0], "rlnCoordinateY": [20.0]})})
    words = ["--i", str(tmp_path / "m.mrc"), "--coords", str(tmp_path / "c.star"), "--coord_scale", "2"]
    window = cli.make_window(cli.parse([*words, "--particle_radius", "5"]))
    qtbot.addWidget(window)
    window.show()
    window.finish()
    x, y = window.panel.circles.getData()
    assert (x[0], y[0]) == (20.0, 40.0)
    assert window.panel.circles.opts["size"] == 20.0


def test_saving_for_a_job_ends_with_its_exit_file(stack: Path, qtbot, monkeypatch) -> None:
    """The command line of a Subset selection job; the person selects two images, saves and closes."""
    from PySide6.QtWidgets import QApplication

    monkeypatch.chdir(stack)
    (stack / "Select").mkdir()
    words = "--gui --i particles.star --allow_save --fn_imgs Select/particles.star --pipeline_control Select/"

    def act() -> int:
        grids = [w for w in QApplication.topLevelWidgets() if isinstance(w, GridWindow) and w.isVisible()]
        (window,) = [w for w in grids if w.saving.images]
        window.grid.select([0, 3])
        window.save_selection()
        window.close()
        return 0

    monkeypatch.setattr(QApplication, "exec", staticmethod(act))
    assert cli.main(words.split()) == 0
    assert (stack / "Select/RELION_JOB_EXIT_SUCCESS").exists()
    assert star.read(stack / "Select/particles.star")["particles"].strings("rlnImageName") == [
        "000001@a.mrcs",
        "000004@a.mrcs",
    ]
    assert star.read(stack / "Select/backup_selection.star")[""].ints("rlnSelected").tolist() == [
        1,
        0,
        0,
        1,
        0,
        0,
    ]
    monkeypatch.setattr(QApplication, "exec", staticmethod(lambda: 0))
    assert cli.main(words.split()) == 0
    assert (stack / "Select/RELION_JOB_EXIT_ABORTED").exists()
    assert not (stack / "Select/RELION_JOB_EXIT_SUCCESS").exists()
