"""The Results panel: the view that fits each job, iterations that appear while a job runs, the slider."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from relion_py.compute.io import star
from relion_py.gui.display.micrograph_views import CtfView, MotionView, PicksView
from relion_py.gui.display.refinement_views import ClassesView, PostprocessView, RefinementView
from relion_py.gui.display.results_data import JobFiles, find_map
from relion_py.gui.display.results_views import NodesView
from relion_py.gui.results_panel import ResultsPanel
from relion_py.pipeline.project import Project


class SmallProject:
    """What the panel asks of a project: root, process(name), outputs(name)."""

    def __init__(self, root: Path, type_label: str, outputs: tuple[tuple[str, str], ...] = ()) -> None:
        self.root = root
        self.type_label = type_label
        self.nodes = outputs
        self.status = "Running"

    def process(self, name: str) -> SimpleNamespace:
        if not (self.root / name).is_dir():
            raise KeyError(f"There is no job {name}")
        return SimpleNamespace(name=name, type_label=self.type_label, status=self.status)

    def outputs(self, name: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(path=path, type=kind) for path, kind in self.nodes]


def write_iteration(root: Path, number: int, resolution: float, write_mrc, sphere: np.ndarray) -> None:
    """What auto-refine leaves behind after an iteration, in the order in which RELION writes it."""
    job = "Refine3D/job001"
    stem = f"{job}/run_it{number:03d}"
    write_mrc(f"{stem}_half1_class001.mrc", sphere * number, 2.0, volume=True)
    random = np.random.default_rng(number)
    data = star.Table({"rlnAngleRot": random.uniform(-180, 180, 50), "rlnAngleTilt": random.uniform(0, 180, 50)})
    star.write(root / f"{stem}_data.star", {"particles": data})
    general = star.Table({"rlnReferenceDimensionality": ["3"], "rlnPixelSize": ["2.0"]}, loop=False)
    general.set("rlnCurrentResolution", resolution)
    classes = star.Table({"rlnReferenceImage": [f"{stem}_half1_class001.mrc"], "rlnClassDistribution": [1.0]})
    shells = star.Table({"rlnResolution": [0.0, 0.1, 0.2], "rlnGoldStandardFsc": [1.0, 0.6, 0.1]})
    star.write(
        root / f"{stem}_half1_model.star",
        {"model_general": general, "model_classes": classes, "model_class_1": shells},
    )
    optimiser = star.Table({"rlnCurrentIteration": [str(number)]}, loop=False)
    optimiser.set("rlnChangesOptimalOrientations", 10.0 / number)
    star.write(root / f"{stem}_optimiser.star", {"optimiser_general": optimiser})


@pytest.fixture
def panel(qtbot):
    """make(project, job): a shown panel on which everything has been drawn."""
    made: list[ResultsPanel] = []

    def make(project, job: str) -> ResultsPanel:
        widget = ResultsPanel(project)
        qtbot.addWidget(widget)
        widget.resize(1000, 560)
        widget.show()
        widget.show_job(job)
        qtbot.waitUntil(lambda: widget.results is not None, timeout=10_000)
        widget.finish()
        made.append(widget)
        return widget

    yield make
    for widget in made:
        widget.close()


@pytest.mark.req("G12")
def test_iterations_appear_by_themselves_while_a_job_runs(
    qtbot, panel, tmp_path: Path, write_mrc, sphere: np.ndarray
) -> None:
    (tmp_path / "Refine3D/job001").mkdir(parents=True)
    project = SmallProject(tmp_path, "relion.refine3d")
    widget = panel(project, "Refine3D/job001/")
    assert widget.message.text() == "No iteration has been written yet"
    write_iteration(tmp_path, 1, 20.0, write_mrc, sphere)
    qtbot.waitUntil(lambda: isinstance(widget.view, RefinementView), timeout=8000)  # no click, no call
    assert "iteration 1" in widget.title.text()
    write_iteration(tmp_path, 2, 12.5, write_mrc, sphere)
    qtbot.waitUntil(lambda: len(widget.results.summaries) == 2, timeout=8000)
    assert "iteration 2, resolution 12.50 Å" in widget.title.text()
    widget.finish()
    assert widget.view.map.data.volume.max() == pytest.approx(2.0)
    assert widget.view.angles._heading == "Angular distribution: 50 particles"
    first_view = widget.view

    widget.slider.setValue(0)
    qtbot.waitUntil(lambda: widget.results.chosen == 0, timeout=5000)
    widget.finish()
    assert widget.view is first_view
    assert widget.view.map.data.volume.max() == pytest.approx(1.0)
    assert "20.00 Å" in widget.view.fsc._heading
    write_iteration(tmp_path, 3, 11.0, write_mrc, sphere)
    qtbot.waitUntil(lambda: len(widget.results.summaries) == 3, timeout=8000)
    assert widget.results.chosen == 0  # who looks back is not dragged forward
    widget.follow.setChecked(True)
    qtbot.waitUntil(lambda: widget.results.chosen == 2, timeout=5000)


def test_a_file_that_is_being_written_does_no_harm(qtbot, panel, tmp_path: Path, write_mrc, sphere: np.ndarray) -> None:
    write_mrc("Refine3D/job001/x.mrc", sphere)
    write_iteration(tmp_path, 1, 20.0, write_mrc, sphere)
    (tmp_path / "Refine3D/job001/run_it002_half1_model.star").write_text("data_model_general\n_rlnPix")
    widget = panel(SmallProject(tmp_path, "relion.refine3d"), "Refine3D/job001/")
    assert len(widget.results.summaries) == 2
    assert "run_it002" in widget.results.problem


def test_a_job_that_is_deleted_while_it_is_shown(qtbot, panel, tmp_path: Path, write_mrc, sphere) -> None:
    write_iteration_in = tmp_path / "Refine3D/job001"
    write_mrc("Refine3D/job001/x.mrc", sphere)
    write_iteration(tmp_path, 1, 20.0, write_mrc, sphere)
    widget = panel(SmallProject(tmp_path, "relion.refine3d"), "Refine3D/job001/")
    for file in write_iteration_in.iterdir():
        file.unlink()
    write_iteration_in.rmdir()
    widget.refresh()
    assert widget.job is None
    assert "no job" in widget.message.text()


@pytest.mark.req("G12")
@pytest.mark.parametrize(
    ("job", "view", "text"),
    [
        ("Refine3D/job025/", RefinementView, "resolution"),
        ("Class2D/job008/", ClassesView, "iteration 25"),
        ("PostProcess/job030/", PostprocessView, ""),
        ("AutoPick/job011/", PicksView, ""),
        ("CtfFind/job003/", CtfView, ""),
        ("MotionCorr/job002/", MotionView, ""),
        ("Select/job009/", NodesView, ""),
    ],
)
def test_each_job_of_a_finished_project_has_its_view(panel, tutorial: Path, job: str, view: type, text: str) -> None:
    widget = panel(Project.open(tutorial, read_only=True), job)
    assert type(widget.view) is view
    assert text in widget.title.text()
    assert widget.message.isHidden()


@pytest.mark.parametrize("job", ["Refine3D/job025/", "Class2D/job008/", "AutoPick/job011/", "Select/job009/"])
def test_a_narrow_dock_cuts_nothing_off(qtbot, panel, tutorial: Path, job: str) -> None:
    widget = panel(Project.open(tutorial, read_only=True), job)
    widget.resize(420, 640)
    qtbot.waitUntil(lambda: widget.width() == 420, timeout=2000)
    qtbot.waitUntil(lambda: widget._area.horizontalScrollBar().maximum() == 0, timeout=2000)
    assert widget.view.minimumSizeHint().width() <= 420


def test_classes_carry_share_and_resolution_and_are_sorted_by_size(panel, shared: Path, tmp_path: Path) -> None:
    source = shared / "data/real/bgal-10017-relion2-project/relion_dataset/Class2D/job006"
    if not source.is_dir():
        pytest.skip("the RELION 2 project is not here")
    target = tmp_path / "Class2D/job006"
    target.mkdir(parents=True)
    for name in ("run_it025_model.star", "run_it025_classes.mrcs", "run_it025_optimiser.star"):
        (target / name).write_bytes((source / name).read_bytes())
    widget = panel(SmallProject(tmp_path, "relion.class2d"), "Class2D/job006/")
    grid = widget.view.panel.grid
    shares = [c.share for c in widget.results.summaries[0].model.classes]
    assert [shares[i] for i in grid.order] == sorted(shares, reverse=True)
    best = int(grid.order[0])
    assert grid._captions(best) == [f"{best + 1}: {100 * shares[best]:.1f} %", "14.8 Å"]
    assert all(not isinstance(tile, str) for tile in grid._tiles.values())


@pytest.mark.req("X4")
def test_external_job_shows_whatever_its_nodes_are(qtbot, panel, tmp_path: Path, write_mrc, sphere: np.ndarray) -> None:
    write_mrc("External/job001/out.mrc", sphere, 2.0, volume=True)
    (tmp_path / "External/job001/notes.txt").write_text("hello")
    project = SmallProject(
        tmp_path,
        "relion.external",
        (
            ("External/job001/notes.txt", "LogFile.txt"),
            ("External/job001/out.mrc", "DensityMap.mrc"),
            ("External/job001/later.star", "ParticleGroupMetadata.star.relion"),
        ),
    )
    widget = panel(project, "External/job001/")
    view = widget.view
    assert view.choice.currentData() == "External/job001/out.mrc"  # pictures first
    assert "40 × 40 × 40, 2 Å/px" in view.choice.currentText()
    assert type(view.viewer).__name__ == "MapWindow"
    view.choice.setCurrentIndex(0)
    qtbot.waitUntil(lambda: type(view.viewer).__name__ == "TextWindow", timeout=5000)
    view.choice.setCurrentIndex(2)
    qtbot.waitUntil(lambda: "not there yet" in view.message.text(), timeout=5000)
    table = star.Table({"rlnImageName": ["000001@External/job001/out.mrc"]})
    star.write(tmp_path / "External/job001/later.star", {"particles": table})
    qtbot.waitUntil(lambda: type(view.viewer).__name__ == "GridWindow", timeout=8000)
    assert "later.star: 1 particles" in view.choice.currentText()


def test_kinds_of_jobs_of_every_release() -> None:
    def kind(label: str, name: str = "X/job001/") -> str:
        return JobFiles(Path(), name, label, "", ()).kind

    assert kind("relion.refine3d") == kind("relion.class2d.em") == kind("relion.initialmodel") == "iterations"
    assert kind("relion.autopick.log") == kind("relion.manualpick") == "picks"
    assert kind("relion.motioncorr.own") == "motion"
    assert kind("relion.import.movies") == kind("relion.external") == kind("") == "nodes"
    assert kind("", "Refine3D/job001/") == "iterations"


def test_map_of_the_largest_class_is_shown(tmp_path: Path, write_mrc, sphere: np.ndarray) -> None:
    for number in (1, 2):
        write_mrc(f"run_it001_class00{number}.mrc", sphere, volume=True)
    classes = [
        SimpleNamespace(share=share, reference=f"Class3D/job001/run_it001_class00{i + 1}.mrc")
        for i, share in enumerate((0.3, 0.7))
    ]
    model = SimpleNamespace(classes=classes, path=tmp_path / "run_it001_model.star")
    assert find_map(SimpleNamespace(model=model), tmp_path) == tmp_path / "run_it001_class002.mrc"


def test_clearing_and_unknown_jobs(qtbot, panel, tmp_path: Path) -> None:
    (tmp_path / "Import/job001").mkdir(parents=True)
    widget = panel(SmallProject(tmp_path, "relion.import.movies"), "Import/job001/")
    assert widget.message.text() == "This job has no output nodes yet"
    widget.show_job("Import/job009/")
    assert widget.view is None
    assert "no job" in widget.message.text()
    widget.show_job("")
    assert widget.title.text() == "Select a job to see its results"


def test_the_main_window_can_import_the_panel_cheaply() -> None:
    code = (
        "import sys, relion_py.gui.results_panel, relion_py.gui.display;"
        "print([m for m in ('numpy', 'scipy', 'pyqtgraph', 'matplotlib', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
