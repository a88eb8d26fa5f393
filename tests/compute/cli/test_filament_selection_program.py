"""relion_filament_selection beside the files that RELION 5.0.1's script wrote from the same classification.

The classification was RELION 5.0.1's, of 700 simulated segments: 14 filaments each of two helices, whose images are in
the stacks A and B. The script ran with `-t 0.5 -c 100`.
"""

import gzip
from functools import partial
from pathlib import Path

import pytest
from in_process import outcome

from relion_py.compute.cli.filament_selection import _main
from relion_py.compute.io import star
from relion_py.jobs import registry

GOLDEN = Path(__file__).parents[2] / "golden" / "filament_selection"
OPTIMISER = "Class2D/job001/run_it015_optimiser.star"


select = partial(outcome, _main)


def golden(name: str) -> str:
    return gzip.decompress((GOLDEN / f"{name}.gz").read_bytes()).decode()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    job = tmp_path / "Class2D" / "job001"
    job.mkdir(parents=True)
    for kind in ("data", "model", "optimiser"):
        (job / f"run_it015_{kind}.star").write_text(golden(f"run_it015_{kind}.star"))
    return tmp_path


def the_same(ours: star.Table, theirs: star.Table) -> None:
    """Labels, their order, and values; what the script printed as numbers is compared as numbers."""
    assert ours.labels == theirs.labels
    for label in ours.labels:
        if ours.strings(label) != theirs.strings(label):
            assert ours.floats(label) == pytest.approx(theirs.floats(label), rel=1e-5, abs=1e-6), label


def test_the_files_are_those_of_relion(project: Path) -> None:
    values = registry.by_label("relion.select").defaults()
    values |= {
        "fn_model": OPTIMISER,
        "do_filaments": "Yes",
        "dendrogram_threshold": "0.5",
        "dendrogram_minclass": "100",
    }
    built = registry.by_label("relion.select").build(values, "Select/job002/")
    ((program, *words),) = built.commands
    assert program == "relion_filament_selection"
    status, out, err = select(project, *words)
    assert (status, err) == (0, "")
    assert "4 clusters" in out
    job = project / "Select/job002"
    assert {path.name for path in job.iterdir()} == {
        "RELION_JOB_EXIT_SUCCESS", "logfile.pdf", "run_data.star", "run_model.star", "run_optimiser.star",
        "run_cluster1_particles.star", "run_cluster2_particles.star", "run_cluster4_particles.star",
        "run_clustersfailed_particles.star",
    }  # fmt: skip
    assert all((project / node.path).is_file() for node in built.output_nodes)
    assert (job / "logfile.pdf").read_bytes().startswith(b"%PDF")
    for path in job.glob("run_[cm]*.star"):
        theirs = star.parse(golden(path.name))
        ours = star.read(path)
        assert list(ours) == list(theirs)
        for name in theirs:
            the_same(ours[name], theirs[name])
    ours, theirs = star.read(job / "run_optimiser.star"), star.parse(golden("run_optimiser.star"))
    for label in ("rlnModelStarFile", "rlnExperimentalDataStarFile"):
        named = theirs["optimiser_general"].value(label)
        theirs["optimiser_general"].set(label, named.replace("//", "/"))
    the_same(ours["optimiser_general"], theirs["optimiser_general"])
    data = star.read(project / "Class2D/job001/run_it015_data.star")
    assert star.read(job / "run_data.star")["particles"] == data["particles"]


def test_the_two_helices_are_told_apart(project: Path) -> None:
    assert select(project, "--input", OPTIMISER, "--output", "out", "--threshold", "0.5", "--classmin", "1")[0] == 0
    kinds = []
    for path in sorted((project / "out").glob("run_cluster*_particles.star")):
        names = star.read(path)["particles"].strings("rlnImageName")
        assert len({name.partition("@")[2] for name in names}) == 1, path.name
        kinds.append(names[0].partition("@")[2][0])
    assert kinds == ["A", "B", "B", "B"]  # 14 filaments of one and, as their classes show other views, 6 + 3 + 5


def test_another_threshold_in_the_same_directory(project: Path) -> None:
    assert select(project, "-i", OPTIMISER, "-o", "out", "-t", "0.5", "-c", "100")[0] == 0
    assert select(project, "-i", OPTIMISER, "-o", "out", "-t", "0.99", "-c", "100")[0] == 0
    assert {path.name for path in (project / "out").glob("run_cluster*")} == {
        "run_cluster1_particles.star",
        "run_cluster2_particles.star",
    }
    assert select(project, "-i", OPTIMISER, "-o", "out")[0] == 0
    assert not list((project / "out").glob("run_cluster*"))
    # what it wrote can be its input, and the classes keep their numbers
    assert select(project, "-i", "out/run_optimiser.star", "-o", "again")[0] == 0
    model, again = (star.read(project / d / "run_model.star")["model_classes"] for d in ("out", "again"))
    assert again == model and model.strings("rlnReferenceImage")[0].startswith("00000008@")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-i", OPTIMISER], "-o (a directory) must be given"),
        (["-i", OPTIMISER, "-o", "out", "-t", "-1"], "-t must be a cosine distance of 0 or more, not -1"),
        (["-i", OPTIMISER, "-o", "out", "-c", "half"], '-c needs a number, not "half"'),
        (["-i", OPTIMISER, "-o", "out", "--regroup", "20"], "--regroup is not available"),
        (["-i", "Class2D/job001/run_it015_data.star", "-o", "out"], "is no optimiser file"),
    ],
)
def test_mistakes_are_told(project: Path, words: list[str], sentence: str) -> None:
    status, _, err = select(project, *words)
    assert status == 1 and sentence in err and "Traceback" not in err
    assert not (project / "out").exists()


def test_particles_that_are_no_segments(project: Path) -> None:
    path = project / "Class2D/job001/run_it015_data.star"
    data = star.read(path)
    data["particles"].remove("rlnHelicalTubeID")
    star.write(path, data)
    status, _, err = select(project, "-i", OPTIMISER, "-o", "out")
    assert status == 1 and "has no _rlnHelicalTubeID" in err
