"""relion_class_ranker on a small 2D classification with classes that are good, cut off, noise, and empty."""

import gzip
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from in_process import outcome

from relion_py.compute.cli import class_ranker
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map, write_stack
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.ranking.rank import Choice, choose
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.model_star import model_to_star

BOX, PIXEL, N = 48, 4.0, 400
SHARES = (0.4, 0.2, 0.15, 0.15, 0.09, 0.01)
GOOD = (0, 1, 2)  # then: two neighbours at the rim, noise, and four particles


program = partial(outcome, class_ranker._main)


def averages() -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    y, x = np.indices((BOX, BOX)) - BOX // 2

    def blob(cy: float, cx: float, size: float) -> np.ndarray:
        return np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * size**2))

    inside = np.hypot(y, x) < 18
    grain = [
        lowpass(rng.normal(size=(BOX, BOX)), PIXEL, resolution) * inside for resolution in (12, 12, 12, 20, 30, 30)
    ]
    return [
        blob(-3, 2, 4) + blob(4, -3, 3) + 0.05 * grain[0],
        blob(0, 5, 4) + blob(2, -5, 4) + 0.05 * grain[1],
        blob(5, 0, 3) + blob(-5, 1, 3) + blob(0, 3, 3) + 0.08 * grain[2],
        (blob(-13, 8, 5) + blob(12, -10, 5)) * inside + 0.3 * grain[3],
        2.0 * grain[4],
        2.0 * grain[5],
    ]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Class2D/job002/run_it025_*: optimiser, model, averages and particles."""
    job = tmp_path / "Class2D" / "job002"
    job.mkdir(parents=True)
    pictures, count = averages(), len(SHARES)
    write_stack(job / "run_it025_classes.mrcs", np.stack(pictures).astype(np.float32), PIXEL)
    shells = np.arange(BOX // 2 + 1)
    snr = [1e3 * np.exp(-shells / 2.0)] * 3 + [20 * np.exp(-shells / 1.5)] + [5 * np.exp(-shells)] * 2
    model = ModelState(
        ori_size=BOX,
        pixel_size=PIXEL,
        ref_dim=2,
        reference_names=[f"{k + 1:06d}@Class2D/job002/run_it025_classes.mrcs" for k in range(count)],
        pdf_class=np.array(SHARES),
        accuracy_rot=np.full(count, 2.0),
        accuracy_trans=np.full(count, 1.5),
        estimated_resolution=np.array([12.0, 13.0, 14.0, 48.0, 64.0, 64.0]),
        total_fourier_coverage=np.ones(count),
        prior_offset_class=np.zeros((count, 2)),
        data_vs_prior_class=np.array(snr),
        fsc_halves_class=np.zeros((count, len(shells))),
        fourier_coverage_class=np.ones((count, len(shells))),
        sigma2_class=np.ones((count, len(shells))),
        tau2_class=np.ones((count, len(shells))),
        group_names=["group_01"],
        nr_particles_per_group=np.array([N]),
        scale_correction=np.ones(1),
        sigma2_noise=np.ones((1, len(shells))),
    )
    star.write(job / "run_it025_model.star", model_to_star(model))
    optics = Table({"rlnOpticsGroupName": ["a"], "rlnOpticsGroup": [1], "rlnImagePixelSize": [PIXEL]})
    for label, value in (("rlnVoltage", 300.0), ("rlnSphericalAberration", 2.7), ("rlnAmplitudeContrast", 0.1)):
        optics.set(label, value)
    rows = Table({"rlnImageName": [f"{n + 1:06d}@parts.mrcs" for n in range(N)], "rlnOpticsGroup": [1] * N})
    of_class = np.repeat(np.arange(count), np.round(np.array(SHARES) * N).astype(int)) + 1
    rows.set("rlnClassNumber", np.random.default_rng(1).permutation(of_class))
    rows.set("rlnSomebodysOwn", [f"00{n}" for n in range(N)])
    star.write(job / "run_it025_data.star", StarFile({"optics": optics, "particles": rows}))
    general = {
        "rlnModelStarFile": "Class2D/job002/run_it025_model.star",
        "rlnExperimentalDataStarFile": "Class2D/job002/run_it025_data.star",
        "rlnParticleDiameter": "140.0",
        "rlnDoIgnoreCtfUntilFirstPeak": "0",
        "rlnSomebodysOwn": "kept",
    }
    star.write(
        job / "run_it025_optimiser.star",
        StarFile({"optimiser_general": Table({k: [v] for k, v in general.items()}, loop=False)}),
    )
    return tmp_path


OPTIMISER = "Class2D/job002/run_it025_optimiser.star"
AS_THE_JOB = (
    f"--opt {OPTIMISER} --o Select/job007/ --fn_sel_parts particles.star --fn_sel_classavgs class_averages.star "
)
AS_THE_JOB += "--fn_root rank --do_granularity_features --auto_select --pipeline_control Select/job007/"


def test_good_classes_are_selected_and_all_files_are_there(project: Path) -> None:
    code, out, err = program(project, *AS_THE_JOB.split(), "--min_score", "0.5")
    assert code == 0, err
    job = project / "Select" / "job007"
    table = star.read(job / "rank_model.star")["model_classes"]
    scores = table.floats("rlnClassScore")
    assert table.labels[:3] == ["rlnReferenceImage", "rlnClassScore", "rlnClassDistribution"]
    assert scores[5] == -999 and ((scores[:5] >= 0) & (scores[:5] <= 1)).all()
    assert scores[list(GOOD)].min() >= 0.5 > scores[3:5].max()

    averages = star.read(job / "class_averages.star")[""]
    assert averages.strings("rlnReferenceImage") == [table.strings("rlnReferenceImage")[k] for k in GOOD]
    np.testing.assert_array_equal(averages.floats("rlnPredictedClassScore"), scores[list(GOOD)])
    backup = star.read(job / "backup_selection.star")[""]
    assert backup.strings("rlnSelected") == ["1", "1", "1", "0", "0", "0"]

    given = star.read(project / "Class2D" / "job002" / "run_it025_data.star")
    selected = star.read(job / "particles.star")
    kept = given["particles"].select(np.flatnonzero(given["particles"].ints("rlnClassNumber") <= 3))
    assert selected["particles"] == kept and selected["optics"] == given["optics"]
    assert star.read(job / "rank_data.star") == given
    optimiser = star.read(job / "rank_optimiser.star")["optimiser_general"]
    assert optimiser.value("rlnModelStarFile") == "Select/job007/rank_model.star"
    assert optimiser.value("rlnExperimentalDataStarFile") == "Select/job007/rank_data.star"
    assert optimiser.value("rlnSomebodysOwn") == "kept"
    features = star.read(job / "features.star")["class_features"]
    assert features.ints("rlnClassIndex").tolist() == [1, 2, 3, 4, 5]
    assert all(len(json.loads(text)) == 6 for text in features.strings("rlnGranulo"))
    assert (job / "RELION_JOB_EXIT_SUCCESS").exists()
    assert "Written 300 selected particles" in out and "Written 3 selected classes" in out


def test_output_of_a_ranking_is_not_a_classification(project: Path) -> None:
    assert program(project, *AS_THE_JOB.split())[0] == 0
    code, _, err = program(project, "--opt", "Select/job007/rank_optimiser.star", "--o", "again")
    assert code == 1 and "give the optimiser of the 2D classification itself" in err


def test_without_auto_select_nothing_is_selected(project: Path) -> None:
    assert program(project, "--opt", OPTIMISER, "--o", "scores/", "--save_masks")[0] == 0
    assert not (project / "scores" / "particles.star").exists()
    assert set(star.read(project / "scores" / "backup_selection.star")[""].strings("rlnSelected")) == {"0"}
    picture, pixel = read_map(project / "scores" / "protein_solvent_masks" / "class1_p_mask.mrc")
    assert pixel == pytest.approx(4.0) and 0 < picture.sum() < 0.4 * picture.size


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (Choice(least=0.5), [0, 3]),
        (Choice(least=0.5, most=0.8), [3]),
        (Choice(least=0.95), []),
        (Choice(least=0.8, relative=True), [0]),
        (Choice(least=0.5, least_classes=3), [0, 3, 2]),
        (Choice(least=0.5, least_particles=150), [0, 3, 2, 1]),
        (Choice(least=0.95, least_particles=45), [0]),
        (Choice(least=0.5, least_particles=1e9), [0, 3, 2, 1]),
    ],
)
def test_choice(choice: Choice, chosen: list[int]) -> None:
    assert choose(np.array([0.9, 0.1, 0.4, 0.7]), np.array([50.0, 70.0, 60.0, 30.0]), choice) == chosen


def test_mistakes_are_told(project: Path) -> None:
    for words, part in (
        (("--train",), "--train is not available"),
        (("--min_score", "0.9", "--max_score", "0.1"), "--min_score must not be above"),
        (("--radius_ratio", "2"), "--radius_ratio must lie between"),
    ):
        code, _, err = program(project, "--opt", OPTIMISER, "--o", "x", *words)
        assert code == 1 and part in err
        assert not (project / "x").exists()
    model = project / "Class2D" / "job002" / "run_it025_model.star"
    model.write_text(model.read_text().replace("run_it025_classes.mrcs", "gone.mrcs"))
    code, _, err = program(project, "--opt", OPTIMISER, "--o", "x")
    assert code == 1 and "gone.mrcs" in err


def test_people_chose_the_classes_with_high_scores(shared: Path, tmp_path: Path) -> None:
    """RELION 2's tutorial data: 100 classes, of which a person selected 16 (Select/job015)."""
    source = shared / "data" / "real" / "bgal-10017-relion2-project" / "relion_dataset"
    job = tmp_path / "Class2D" / "job014"
    job.mkdir(parents=True)
    for name in ("model.star", "optimiser.star"):
        (job / f"run_it025_{name}").write_bytes((source / "Class2D" / "job014" / f"run_it025_{name}").read_bytes())
    packed = source / "Class2D" / "job014" / "run_it025_classes.mrcs.gz"
    (job / "run_it025_classes.mrcs").write_bytes(gzip.decompress(packed.read_bytes()))
    # the job's particles are not stored: as many in each class as the model says
    sizes = np.round(star.read(job / "run_it025_model.star")["model_classes"].floats("rlnClassDistribution") * 9600)
    of_class = np.repeat(np.arange(100) + 1, sizes.astype(int))
    rows = Table({"rlnImageName": [f"{n + 1:06d}@p.mrcs" for n in range(len(of_class))], "rlnClassNumber": of_class})
    for label, value in (("rlnVoltage", 300.0), ("rlnSphericalAberration", 2.0), ("rlnAmplitudeContrast", 0.1),
                         ("rlnMagnification", 10000.0), ("rlnDetectorPixelSize", 3.54)):  # fmt: skip
        rows.set(label, value)
    star.write(job / "run_it025_data.star", StarFile({"": rows}))
    code, _, err = program(tmp_path, "--opt", "Class2D/job014/run_it025_optimiser.star", "--o", "x", "--auto_select")
    assert code == 0, err
    chosen = star.read(source / "Select" / "job015" / "backup_selection.star")[""].ints("rlnSelected") == 1
    scores = star.read(tmp_path / "x" / "rank_model.star")["model_classes"].floats("rlnClassScore")
    ours = scores >= 0.5
    assert (ours & chosen).sum() >= 0.9 * chosen.sum()
    # the person left out some good ones too, which are like those that were chosen
    assert ours.sum() <= 30
    assert sizes[ours & ~chosen].sum() < 0.3 * sizes[ours].sum()
