"""Viewers driven by real clicks: grid, map, STAR table, text, micrographs, curves; and which opens what."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QMessageBox

from relion_py.compute.io import star
from relion_py.gui.display import DisplayError, open_file, open_node
from relion_py.gui.display.curve_window import CurveWindow
from relion_py.gui.display.grid_window import GridWindow, Saving
from relion_py.gui.display.image_window import ImageWindow, PictureWindow, fourier_view
from relion_py.gui.display.images import images_of_mrc, images_of_star
from relion_py.gui.display.map_viewer import MapWindow
from relion_py.gui.display.micrograph_window import MicrographWindow
from relion_py.gui.display.star_window import StarWindow
from relion_py.gui.display.text_window import PdfNote, TextWindow


@pytest.fixture
def project(tmp_path: Path, write_mrc) -> Path:
    """A small project: a stack of 12 images in 3 classes, a model, particles, a micrograph with picks."""
    random = np.random.default_rng(0)
    write_mrc("Extract/job001/a.mrcs", random.normal(size=(12, 16, 16)).astype(np.float16), 2.0)
    write_mrc("Class2D/job002/run_it001_classes.mrcs", random.normal(size=(3, 16, 16)).astype(np.float32), 2.0)
    write_mrc("MotionCorr/job003/m.mrc", random.normal(size=(120, 100)).astype(np.float32), 2.0)
    particles = star.Table({"rlnImageName": [f"{i + 1:06d}@Extract/job001/a.mrcs" for i in range(12)]})
    particles.set("rlnAutopickFigureOfMerit", [float(12 - i) for i in range(12)])
    particles.set("rlnClassNumber", [i % 3 + 1 for i in range(12)])
    particles.set("rlnMicrographName", "MotionCorr/job003/m.mrc")
    particles.set("rlnOpticsGroup", [1] * 12)
    optics = star.Table({"rlnOpticsGroup": [1], "rlnImagePixelSize": [2.0]})
    (tmp_path / "AutoPick/job004").mkdir(parents=True)
    for name in ("Extract/job001/particles.star", "Class2D/job002/run_it001_data.star"):
        star.write(tmp_path / name, {"optics": optics, "particles": particles})
    classes = star.Table(
        {"rlnReferenceImage": [f"{i + 1:06d}@Class2D/job002/run_it001_classes.mrcs" for i in range(3)]}
    )
    classes.set("rlnClassDistribution", [0.2, 0.5, 0.3])
    classes.set("rlnEstimatedResolution", [20.0, 10.0, 15.0])
    general = star.Table({"rlnReferenceDimensionality": ["2"], "rlnPixelSize": ["2.0"]}, loop=False)
    star.write(tmp_path / "Class2D/job002/run_it001_model.star", {"model_general": general, "model_classes": classes})
    coordinates = star.Table({"rlnCoordinateX": [20.0, 50.0, 80.0], "rlnCoordinateY": [30.0, 60.0, 90.0]})
    coordinates.set("rlnAutopickFigureOfMerit", [0.1, 0.5, 0.9])
    star.write(tmp_path / "AutoPick/job004/m_autopick.star", {"": coordinates})
    files = star.Table({"rlnMicrographName": ["MotionCorr/job003/m.mrc"]})
    files.set("rlnMicrographCoordinates", ["AutoPick/job004/m_autopick.star"])
    star.write(tmp_path / "AutoPick/job004/autopick.star", {"coordinate_files": files})
    (tmp_path / "default_pipeline.star").write_text("data_pipeline_general\n_rlnPipeLineJobCounter 5\n")
    return tmp_path


def click(qtbot, window: GridWindow, place: int, modifier=Qt.KeyboardModifier.NoModifier) -> None:
    cell = window.grid._cell_at(place)
    qtbot.mouseClick(window.grid.viewport(), Qt.MouseButton.LeftButton, modifier, cell.center())


def show(qtbot, window):
    qtbot.addWidget(window)
    window.show()
    window.finish()
    return window


# -- the grid


@pytest.mark.req("G12")
def test_first_page_of_100000_particles_in_a_second_and_no_more_is_read(qtbot, tmp_path: Path) -> None:
    path = tmp_path / "big.mrcs"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((1, 64, 64), np.float16))
        file.set_image_stack()
        file.header.nz = file.header.mz = 100_000
    with open(path, "r+b") as raw:  # sparse: the disc holds only the header
        raw.truncate(1024 + 100_000 * 64 * 64 * 2)
    show(qtbot, open_file(path)).close()  # imports are paid once
    started = time.perf_counter()
    window = open_file(path)
    qtbot.addWidget(window)
    assert window.grid.wait_until_shown(5)
    seconds = time.perf_counter() - started
    page = len(window.grid.visible_places())
    assert len(window.images) == 100_000
    assert window.grid.tiles_read == page < 200
    assert seconds < 1.0
    window.grid.verticalScrollBar().setValue(window.grid.verticalScrollBar().maximum())
    assert window.grid.wait_until_shown(5)
    assert 99_999 in window.grid._tiles
    assert window.grid.tiles_read < 3 * page


def test_star_of_100000_particles_opens(qtbot, tmp_path: Path, write_mrc) -> None:
    write_mrc("a.mrcs", np.zeros((10, 8, 8), np.float32))
    rows = "".join(f"{i % 10 + 1:06d}@a.mrcs {i % 7} {i * 0.5:.3f}\n" for i in range(100_000))
    (tmp_path / "p.star").write_text(f"data_particles\nloop_\n_rlnImageName\n_rlnClassNumber\n_rlnDefocusU\n{rows}")
    started = time.perf_counter()
    window = open_file(tmp_path / "p.star")
    qtbot.addWidget(window)
    assert window.grid.wait_until_shown(10)
    assert time.perf_counter() - started < 4.0
    window.panel.sort.setCurrentText("rlnDefocusU")
    window.panel.reverse.setChecked(True)
    assert int(window.grid.order[0]) == 99_999


def test_tiles_show_the_pixels_of_the_file(qtbot, write_mrc) -> None:
    data = np.zeros((2, 32, 32), np.float32)
    data[0, :16] = 1.0  # upper half white
    window = show(qtbot, GridWindow(images_of_mrc(write_mrc("a.mrcs", data))))
    tile = window.grid._tiles[0].toImage()
    middle = tile.width() // 2
    assert tile.pixelColor(middle, tile.height() // 5).lightness() > 250
    assert tile.pixelColor(middle, tile.height() * 4 // 5).lightness() < 5


@pytest.mark.req("G12")
def test_clicks_select_and_sorting_keeps_the_selection(qtbot, project: Path) -> None:
    window = show(qtbot, open_file(project / "Extract/job001/particles.star"))
    click(qtbot, window, 0)
    click(qtbot, window, 2)
    assert window.grid.selected == [0, 2]
    click(qtbot, window, 2)
    assert window.grid.selected == [0]
    click(qtbot, window, 3, Qt.KeyboardModifier.ShiftModifier)
    assert window.grid.selected == [0, 2, 3]
    window.panel.sort.setCurrentText("rlnAutopickFigureOfMerit")
    assert window.grid.order.tolist() == list(range(11, -1, -1))
    assert window.grid.selected == [0, 2, 3]
    click(qtbot, window, 0)
    assert window.grid.selected == [0, 2, 3, 11]
    assert "12 particles, 4 selected" in window.status.text()


def test_menu_selects_above_and_below(qtbot, project: Path) -> None:
    window = show(qtbot, open_file(project / "Extract/job001/particles.star"))
    actions = {action.text(): action for action in window.make_menu(4).actions()}
    actions["Select this and all above"].trigger()
    assert window.grid.selected == [0, 1, 2, 3, 4]
    actions["Invert selection"].trigger()
    assert window.grid.selected == [5, 6, 7, 8, 9, 10, 11]
    actions["Clear selection"].trigger()
    assert window.grid.selected == []
    actions["Show metadata"].trigger()
    table = window.children_windows[-1]
    assert table.item(0, 1).text() == "000005@Extract/job001/a.mrcs"


def test_double_click_opens_the_image_and_selects_nothing(qtbot, project: Path) -> None:
    window = show(qtbot, open_file(project / "Extract/job001/particles.star"))
    qtbot.mouseClick(window.grid.viewport(), Qt.MouseButton.LeftButton, pos=window.grid._cell_at(1).center())
    qtbot.mouseDClick(window.grid.viewport(), Qt.MouseButton.LeftButton, pos=window.grid._cell_at(1).center())
    assert isinstance(window.children_windows[0], ImageWindow)
    assert window.grid.selected == []


@pytest.mark.req("G12")
def test_selected_classes_are_saved_with_particles_and_backup(qtbot, project: Path) -> None:
    out = project / "Select/job005"
    images = images_of_star(project / "Class2D/job002/run_it001_model.star", project)
    saved = []
    saving = Saving(str(out / "class_averages.star"), str(out / "particles.star"), on_saved=lambda: saved.append(True))
    window = show(qtbot, GridWindow(images, saving))
    assert window.grid.order.tolist() == [1, 2, 0]  # classes begin sorted by size
    click(qtbot, window, 0)
    qtbot.mouseClick(window.save_button, Qt.MouseButton.LeftButton)
    assert saved == [True]
    assert star.read(out / "particles.star")["particles"].ints("rlnClassNumber").tolist() == [2, 2, 2, 2]
    assert star.read(out / "class_averages.star")[""].ints("rlnClassNumber").tolist() == [2]
    assert star.read(out / "backup_selection.star")[""].strings("rlnSelected") == ["0", "1", "0"]
    again = GridWindow(images, saving)
    qtbot.addWidget(again)
    again.show()
    qtbot.waitUntil(lambda: again.grid.selected == [1], timeout=2000)


def test_recentred_averages_are_written_as_a_stack(qtbot, project: Path, write_mrc) -> None:
    data = np.zeros((3, 16, 16), np.float32)
    data[1, 2:4, 2:4] = 1.0
    write_mrc("Class2D/job002/run_it001_classes.mrcs", data, 2.0)
    images = images_of_star(project / "Class2D/job002/run_it001_model.star", project)
    window = show(qtbot, GridWindow(images))
    window.grid.select([1])
    window.write_selection(Saving(str(project / "Select/class_averages.star"), recentre=True))
    with mrcfile.open(project / "Select/class_averages.mrcs") as file:
        centred = file.data.reshape(16, 16)
        assert file.voxel_size.x == pytest.approx(2.0)
    assert np.argwhere(centred > 0.5).mean(axis=0) == pytest.approx([8, 8], abs=0.5)
    table = star.read(project / "Select/class_averages.star")[""]
    assert table.strings("rlnReferenceImage") == [f"000001@{project / 'Select/class_averages.mrcs'}"]


def test_nothing_selected_is_a_sentence_in_a_box(qtbot, project: Path, monkeypatch) -> None:
    told = []
    monkeypatch.setattr(QMessageBox, "warning", lambda *words: told.append(words[-1]))
    window = show(qtbot, open_file(project / "Extract/job001/particles.star"))
    qtbot.mouseClick(window.save_button, Qt.MouseButton.LeftButton)
    assert told == ["Nothing is selected: click the images that you want to keep, then save again"]


def test_unreadable_images_are_marked_and_the_rest_is_shown(qtbot, project: Path) -> None:
    (project / "x.star").write_text(
        "data_particles\nloop_\n_rlnImageName\n000001@Extract/job001/a.mrcs\n000099@Extract/job001/a.mrcs\n"
        "000001@gone.mrcs\n"
    )
    window = show(qtbot, open_file(project / "x.star"))
    assert "12 images" in window.grid._tiles[1]
    assert "gone.mrcs is not there" in window.grid._tiles[2]
    assert not isinstance(window.grid._tiles[0], str)


def test_classes_in_the_order_of_a_dendrogram_stay_in_it(qtbot, project: Path) -> None:
    path = project / "Class2D/job002/run_it001_model.star"
    model = star.read(path)
    classes = model["model_classes"].select([2, 0, 1])
    classes.set("rlnClassNumber", [3, 1, 2])
    classes.set("clusteredOrder", [0, 1, 2])
    model["model_classes"] = classes
    star.write(path, model)
    window = show(qtbot, GridWindow(images_of_star(path, project)))
    assert window.grid.order.tolist() == [0, 1, 2]
    assert window.images.class_number(0) == 3


def test_particles_of_selected_classes_open(qtbot, project: Path) -> None:
    window = show(qtbot, open_file(project / "Class2D/job002/run_it001_model.star"))
    window.grid.select([0, 2])
    particles = window.show_particles_of_selection()
    assert particles is not None
    assert particles.grid.order.tolist() == [2, 5, 8, 11, 0, 3, 6, 9]


# -- maps


@pytest.fixture
def ramp(qtbot, write_mrc) -> tuple[MapWindow, np.ndarray]:
    data = np.random.default_rng(0).normal(size=(8, 10, 12)).astype(np.float32)
    return show(qtbot, open_file(write_mrc("map.mrc", data, 2.0, volume=True))), data


@pytest.mark.req("G12")
def test_three_slices_are_linked(qtbot, ramp) -> None:
    window, data = ramp
    panel = window.panel
    assert panel.position == (4, 5, 6)
    view = panel.views[0]
    frame, scale = view._frame()
    at = frame.topLeft() + QPoint(int(2.5 * scale), int(7.5 * scale))
    qtbot.mouseClick(view, Qt.MouseButton.LeftButton, pos=at)
    assert panel.position == (4, 7, 2)
    panel.sliders[0].setValue(1)
    assert panel.position == (1, 7, 2)
    assert np.array_equal(panel.plane(0), data[1])
    assert np.array_equal(panel.plane(1), data[:, 7, :])
    assert np.array_equal(panel.plane(2), data[:, :, 2].T)
    assert panel.numbers[0].text() == "1"


def test_grey_scale_in_standard_deviations_or_values(ramp) -> None:
    window, data = ramp
    panel = window.panel
    panel.contrast.setCurrentText("sigma")
    panel.amount.setValue(2)
    assert panel.limits() == pytest.approx((data.mean() - 2 * data.std(), data.mean() + 2 * data.std()), rel=1e-4)
    panel.contrast.setCurrentText("values")
    panel.black.setValue(-1)
    panel.white.setValue(3)
    assert panel.limits() == (-1, 3)
    panel.contrast.setCurrentText("min – max")
    assert panel.limits() == pytest.approx((data.min(), data.max()))


def test_surface_turns_and_follows_its_threshold(qtbot, write_mrc, sphere: np.ndarray) -> None:
    shifted = np.roll(sphere, 6, axis=2)
    window = show(qtbot, open_file(write_mrc("ball.mrc", shifted, 2.0, volume=True)))
    view = window.panel.surface
    before = view._picture.copy()
    qtbot.mousePress(view, Qt.MouseButton.LeftButton, pos=QPoint(50, 50))
    qtbot.mouseMove(view, QPoint(90, 50))
    qtbot.mouseRelease(view, Qt.MouseButton.LeftButton, pos=QPoint(90, 50))
    view.wait_until_drawn()
    assert view.rot != 25.0
    assert view._picture != before
    window.panel.threshold.setValue(0.9)
    assert view._threshold == pytest.approx(0.9)


def test_map_that_is_replaced_keeps_the_position(ramp, write_mrc) -> None:
    window, data = ramp
    window.panel.set_position(2, 3, 4)
    window.panel.load_now(write_mrc("map.mrc", data + 1, 2.0, volume=True))
    assert window.panel.position == (2, 3, 4)
    assert np.array_equal(window.panel.plane(0), (data + 1)[2])


# -- everything else


def test_single_image_and_its_transform(qtbot, project: Path) -> None:
    window = show(qtbot, open_file(project / "MotionCorr/job003/m.mrc"))
    assert isinstance(window, ImageWindow)
    window.panel.what.setCurrentIndex(1)
    y, x = np.mgrid[:32, :32]
    wave = np.cos(2 * np.pi * (3 * x + 5 * y) / 32)
    row, column = np.unravel_index(fourier_view(wave, phases=False).argmax(), (32, 32))
    assert (abs(row - 16), abs(column - 16)) == (5, 3)


def test_star_tables_sort_as_numbers_and_filter(qtbot, project: Path) -> None:
    (project / "t.star").write_text(
        "data_general\n_rlnFinalResolution 3.5\n\ndata_t\nloop_\n_rlnA #1\n_rlnB #2\n10 x\n9 y\nnan z\n-1 w\n"
    )
    window = show(qtbot, open_file(project / "t.star"))
    assert isinstance(window, StarWindow)
    model = window.model
    assert model.data(model.index(0, 0)) == "10"
    model.sort(0, Qt.SortOrder.AscendingOrder)
    assert [model.data(model.index(r, 0)) for r in range(4)] == ["-1", "9", "10", "nan"]
    model.sort(0, Qt.SortOrder.DescendingOrder)
    assert [model.data(model.index(r, 1)) for r in range(4)] == ["x", "y", "w", "z"]
    assert model.headerData(0, Qt.Orientation.Vertical) == 1
    window.filter.setText("y")
    assert window.view.model().rowCount() == 1
    window.list.setCurrentRow(0)
    assert window.model.data(window.model.index(0, 1)) == "3.5"
    window.list.setCurrentRow(1)
    window.column.setCurrentText("rlnA")
    window.draw_plot()
    assert window.plot is not None


def test_text_is_found_around_the_end_and_long_files_show_their_end(qtbot, tmp_path: Path) -> None:
    (tmp_path / "run.out").write_text("alpha\nbeta\nalpha\n")
    window = show(qtbot, open_file(tmp_path / "run.out"))
    assert isinstance(window, TextWindow)
    window.search.setText("alpha")
    assert window.find_next()
    assert window.find_next()
    assert window.find_next()
    window.search.setText("gamma")
    assert not window.find_next()
    (tmp_path / "long.txt").write_text("first\n" + "x" * 99 + "\n" * 1 + ("y" * 99 + "\n") * 60_000 + "last\n")
    text = show(qtbot, open_file(tmp_path / "long.txt")).text.toPlainText()
    assert text.endswith("last\n")
    assert "first" not in text


def test_pdf_goes_to_the_desktop(qtbot, tmp_path: Path, monkeypatch) -> None:
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()) or True)
    (tmp_path / "logfile.pdf").write_bytes(b"%PDF-1.4")
    window = show(qtbot, open_file(tmp_path / "logfile.pdf"))
    assert isinstance(window, PdfNote)
    assert opened == [str(tmp_path / "logfile.pdf")]
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: False)
    assert not window.open()
    assert "No PDF viewer answered" in window.message.text()


@pytest.mark.req("X6")
def test_picks_lie_over_their_micrograph(qtbot, project: Path) -> None:
    node = SimpleNamespace(path="AutoPick/job004/autopick.star", type="MicrographCoordsGroup.star.relion.autopick")
    window = open_node(SimpleNamespace(root=project), node)
    show(qtbot, window)
    assert isinstance(window, MicrographWindow)
    panel = window.panel
    assert panel.list.topLevelItem(0).text(1) == "3"
    x, y = panel.circles.getData()
    assert x.tolist() == [20, 50, 80]
    assert y.tolist() == [30, 60, 90]
    panel.diameter.setValue(40)
    assert panel.circles.opts["size"] == pytest.approx(20.0)  # 40 A at 2 A/px
    panel.threshold.setValue(500)
    assert panel.visible_picks().tolist() == [1, 2]
    panel.show_picks.setChecked(False)
    assert len(panel.circles.getData()[0]) == 0


def test_micrograph_that_is_not_there_still_shows_its_picks(qtbot, project: Path) -> None:
    (project / "MotionCorr/job003/m.mrc").unlink()
    window = show(qtbot, open_file(project / "AutoPick/job004/autopick.star"))
    assert "m.mrc is not there" in window.panel.message.text()
    assert len(window.panel.circles.getData()[0]) == 3


def test_postprocess_opens_as_curves(qtbot, tutorial: Path) -> None:
    window = show(qtbot, open_file(tutorial / "PostProcess/job030/postprocess.star"))
    assert isinstance(window, CurveWindow)
    assert "final resolution 2.82 Å" in window.status.text()


def test_picture_files(qtbot, tmp_path: Path, project: Path) -> None:
    show(qtbot, open_file(project / "MotionCorr/job003/m.mrc")).grab().save(str(tmp_path / "p.png"))
    assert isinstance(show(qtbot, open_file(tmp_path / "p.png")), PictureWindow)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gone.star", None),
        ("bad.star", b"data_x\nloop_\n_rlnA\n_rlnB\n1 2 3\n"),
        ("binary.star", b"data_\0\1\2"),
        ("empty.star", b""),
        ("bad.mrc", b"\xff" * 2000),
        ("short.mrcs", b"x"),
        ("bad.png", b"no picture"),
        ("bad.tif", b"II*\0zzzz"),
        ("bad.bin", bytes(range(256)) * 10),
        ("coords_suffix_x.star", b"nothing.star"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(tmp_path: Path, qtbot, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DisplayError) as caught:
        open_file(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_directory_is_refused(tmp_path: Path, qtbot) -> None:
    with pytest.raises(DisplayError, match="is a directory"):
        open_file(tmp_path)


def test_every_node_of_real_projects_opens_or_says_why(qtbot, shared: Path) -> None:
    root = shared / "data/real/bgal-10204-relion5-project"
    if not root.is_dir():
        pytest.skip("the RELION 5 project is not here")
    nodes = star.read(root / "default_pipeline.star")["pipeline_nodes"]
    shown = []
    for row in nodes.rows():
        node = SimpleNamespace(path=row["rlnPipeLineNodeName"], type=row["rlnPipeLineNodeTypeLabel"])
        try:
            window = open_node(SimpleNamespace(root=root), node)
        except DisplayError as error:
            assert node.path in str(error) or Path(node.path).name.split("_it")[0] in str(error)
            continue
        show(qtbot, window)
        shown.append(node.path)
    assert len(shown) >= 12
