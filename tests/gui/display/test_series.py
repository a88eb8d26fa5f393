"""Iterations, curves and angles of real finished jobs, against what RELION itself reported about them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from relion_py.gui.display import series
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.images import images_of_star
from relion_py.gui.display.results_data import read_trajectory


def touch(directory: Path, *names: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).touch()


def test_iterations_in_order_with_their_files(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "run_it010_half1_model.star",
        "run_it010_half2_model.star",
        "run_it010_data.star",
        "run_it010_optimiser.star",
        "run_it002_model.star",
        "run_model.star",
        "run_data.star",
        "run_it003_data.star",
        "job.star",
    )
    found = series.find_iterations(tmp_path)
    assert [i.label for i in found] == ["iteration 2", "iteration 10", "final"]
    assert [p.name for p in found[1].models] == ["run_it010_half1_model.star", "run_it010_half2_model.star"]
    assert found[1].data is not None
    assert found[1].data.name == "run_it010_data.star"
    assert series.find_iterations(tmp_path / "nothere") == []


def test_a_continuation_replaces_the_iterations_that_it_repeats(tmp_path: Path) -> None:
    touch(tmp_path, "run_it003_model.star", "run_it004_model.star", "run_ct3_it004_model.star")
    os.utime(tmp_path / "run_it004_model.star", (1, 1))
    found = series.find_iterations(tmp_path)
    assert [(i.stem, i.number) for i in found] == [("run", 3), ("run_ct3", 4)]


def test_final_resolution_is_where_the_corrected_curve_crosses(tutorial: Path) -> None:
    result = series.read_postprocess(tutorial / "PostProcess/job030/postprocess.star")
    assert result.resolution == pytest.approx(2.818265)
    assert series.crossing(result.curves["corrected"], 0.143) == pytest.approx(result.resolution, abs=1e-4)
    assert result.b_factor == pytest.approx(-1.5553)
    assert {"original", "weighted", "sharpened"} <= set(result.guinier)


def test_curve_that_never_crosses_has_no_resolution() -> None:
    curve = series.Spectrum(np.linspace(0, 0.2, 5), np.ones(5))
    assert math.isnan(series.crossing(curve, 0.143))


def test_model_and_progress_of_a_real_refinement(tutorial: Path) -> None:
    iterations = series.find_iterations(tutorial / "Refine3D/job025")
    assert [i.number for i in iterations] == [15, None]
    summary = series.summarise(iterations[0], series.FileCache())
    assert summary.problem == ""
    assert summary.model is not None
    assert summary.progress is not None
    assert summary.progress.iteration == 15
    assert summary.model.dimensionality == 3
    assert len(summary.model.fsc) == 1
    final = series.read_model(tutorial / "Refine3D/job025/run_model.star")
    assert series.crossing(final.fsc[0], 0.143) == pytest.approx(final.resolution, rel=0.03)


def test_classes_of_a_real_classification(tutorial: Path) -> None:
    model = series.read_model(tutorial / "Class2D/job008/run_it025_model.star")
    assert model.dimensionality == 2
    assert sum(c.share for c in model.classes) == pytest.approx(1.0, abs=1e-3)
    assert model.classes[23].resolution == pytest.approx(20.596364)
    assert model.fsc == ()


def test_model_of_release_2_gives_accuracies_in_angstrom(shared: Path) -> None:
    path = shared / "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027/run_model.star"
    if not path.is_file():
        pytest.skip("the RELION 2 project is not here")
    text = path.read_text()
    pixels = next(line for line in text.splitlines() if line.startswith("Refine3D/job027/run_class001.mrc")).split()
    model = series.read_model(path)
    assert model.pixel_size == pytest.approx(3.54)
    assert model.classes[0].accuracy_translations == pytest.approx(float(pixels[3]) * 3.54)


def test_half_written_file_is_a_problem_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "run_it001_model.star").write_text("data_model_general\n_rlnPixelSize")
    summary = series.summarise(series.find_iterations(tmp_path)[0], series.FileCache())
    assert summary.model is None
    assert "run_it001_model.star" in summary.problem


def test_cache_reads_again_when_a_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    cache = series.FileCache()
    calls: list[str] = []

    def read(file: Path) -> str:
        calls.append(file.read_text())
        return calls[-1]

    assert cache.get(read, path, arguments=(path,)) == "one"
    assert cache.get(read, path, arguments=(path,)) == "one"
    path.write_text("three")
    assert cache.get(read, path, arguments=(path,)) == "three"
    assert calls == ["one", "three"]


def orientations(rot: np.ndarray, tilt: np.ndarray) -> series.Orientations:
    return series.Orientations(rot, tilt, np.ones(len(rot), dtype=np.int64))


def test_uniform_directions_fill_the_angular_map_evenly() -> None:
    random = np.random.default_rng(3)
    directions = random.normal(size=(400_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rot = np.degrees(np.arctan2(directions[:, 1], directions[:, 0]))
    tilt = np.degrees(np.arccos(directions[:, 2]))
    counts = series.angular_histogram(orientations(rot, tilt), n_rot=20, n_tilt=10)
    assert counts.sum() == 400_000
    assert counts.min() > 0.9 * 2000
    assert counts.max() < 1.1 * 2000


def test_negative_tilt_is_the_same_direction_seen_from_the_other_side() -> None:
    one = series.angular_histogram(orientations(np.array([30.0]), np.array([50.0])))
    other = series.angular_histogram(orientations(np.array([30.0 + 180.0]), np.array([-50.0])))
    again = series.angular_histogram(orientations(np.array([30.0 - 360.0]), np.array([50.0 + 360.0])))
    assert np.array_equal(one, other)
    assert np.array_equal(one, again)


def test_angular_map_of_one_class() -> None:
    angles = series.Orientations(np.zeros(5), np.full(5, 90.0), np.array([1, 1, 2, 2, 2]))
    assert series.angular_histogram(angles, only_class=2).sum() == 3


def test_angles_of_real_particles(tutorial: Path) -> None:
    angles = series.read_orientations(tutorial / "Refine3D/job025/run_data.star")
    assert len(angles.rot) == 4501
    assert series.angular_histogram(angles).sum() == 4501
    with pytest.raises(DisplayError, match="no columns rlnAngleRot"):
        series.read_orientations(tutorial / "CtfFind/job003/micrographs_ctf.star")


def test_trajectory_of_a_real_movie(tutorial: Path) -> None:
    path = tutorial / "MotionCorr/job002/Movies/20170629_00021_frameImage.star"
    motion = read_trajectory(path)
    assert motion.frames.tolist() == list(range(1, 25))
    assert motion.x[0] == motion.y[0] == 0.0
    # the total motion that RELION wrote is the length of the path
    table = series.read_star(tutorial / "MotionCorr/job002/corrected_micrographs.star")["micrographs"]
    row = next(i for i, n in enumerate(table.strings("rlnMicrographName")) if "00021" in n)
    length = np.hypot(np.diff(motion.x), np.diff(motion.y)).sum()
    assert length == pytest.approx(table.floats("rlnAccumMotionTotal")[row], rel=1e-4)


def test_bodies_are_read_as_classes_are(tmp_path: Path) -> None:
    """The model of a multi-body refinement, in the words of RELION 5."""
    path = tmp_path / "run_model.star"
    rows = "\n".join(f"{k} {0.01 * k} {1.0 - 0.2 * k}" for k in range(4))
    head = "\n\nloop_\n_rlnSpectralIndex\n_rlnResolution\n_rlnGoldStandardFsc\n"
    spectra = "".join(f"data_model_body_{b}{head}{rows}\n\n" for b in (1, 2))
    path.write_text(
        "data_model_general\n\n_rlnReferenceDimensionality 3\n_rlnOriginalImageSize 64\n_rlnNrClasses 1\n"
        "_rlnNrBodies 2\n_rlnPixelSize 3.5\n_rlnCurrentResolution 8.1\n\ndata_model_bodies\n\nloop_\n"
        "_rlnReferenceImage\n_rlnClassDistribution\n_rlnAccuracyRotations\n_rlnEstimatedResolution\n"
        f"M/run_body001.mrc 1 1.5 9.5\nM/run_body002.mrc 1 2.5 8.1\n\n{spectra}"
    )
    model = series.read_model(path)
    assert [(body.reference, body.resolution) for body in model.classes] == [
        ("M/run_body001.mrc", 9.5), ("M/run_body002.mrc", 8.1),
    ]  # fmt: skip
    assert len(model.fsc) == 2 and model.fsc[1].values == pytest.approx([1.0, 0.8, 0.6, 0.4])
    images = images_of_star(path, tmp_path)
    assert images.kind == "classes" and list(images.named) == ["M/run_body001.mrc", "M/run_body002.mrc"]
