"""relion_align_symmetry on maps whose axes were turned away by a known rotation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.refine import align_symmetry

BOX, PIXEL = 40, 4.0


def blobs(places: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Gaussians (x, y, z in voxels from the centre), so that a turned map is known exactly."""
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume = np.zeros((BOX,) * 3)
    for (px, py, pz), width in zip(places, widths, strict=True):
        volume += np.exp(-((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) / (2 * width**2))
    return volume.astype(np.float32)


def symmetric_places(group: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    first = random.uniform(-9, 9, (4, 3))
    widths = random.uniform(1.5, 2.5, 4)
    turns = operators(group)
    return np.concatenate([first @ g.T for g in turns]), np.tile(widths, len(turns))


def asymmetry(volume: np.ndarray, group: str) -> float:
    """Squared difference from the map turned in real space, over its squared norm; independent of Fourier space."""
    from scipy.ndimage import affine_transform

    centre, total = np.full(3, BOX // 2, float), np.zeros(volume.shape)
    turns = operators(group)
    for g in turns:
        matrix = g[::-1, ::-1]  # axes z, y, x
        total += affine_transform(volume, matrix, centre - matrix @ centre, order=3)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    radius = np.sqrt((np.arange(BOX) - BOX // 2)[:, None, None] ** 2 + y**2 + x**2)
    inside = radius < BOX // 2 - 2
    unlike = (volume - total / len(turns))[inside]
    return float(np.sum(unlike**2) / np.sum(volume[inside] ** 2))


def run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relion_py.compute.cli.align_symmetry", *words],
        cwd=root, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


def write(path: Path, volume: np.ndarray) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(volume.astype(np.float32))
        file.voxel_size = PIXEL


def test_turning_agrees_with_the_turned_object() -> None:
    """A turned map is the map of the turned places: x_image = A x_map."""
    random = np.random.default_rng(0)
    places, widths = random.uniform(-8, 8, (5, 3)), random.uniform(1.5, 2.5, 5)
    matrix = euler_to_matrix(33.0, 71.0, 150.0)
    found = align_symmetry.turned_map(blobs(places, widths), matrix[None])
    expected = blobs(places @ matrix.T, widths)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.998
    assert np.abs(found - expected).max() < 0.05 * expected.max()


@pytest.mark.parametrize("group", ["C3", "D2", "T"])
def test_axes_of_a_turned_map_are_found(group: str) -> None:
    places, widths = symmetric_places(group, 5)
    away = Rotation.random(random_state=3).as_matrix()
    volume = blobs(places @ away.T, widths)
    before = asymmetry(volume, group)
    search = align_symmetry.SymmetrySearch(volume, operators(group), BOX)
    candidates = align_symmetry.random_angles(150, np.random.default_rng(1))
    found = search.refine(search.best_of(candidates, lambda n: None), 2, 2.0)
    aligned = align_symmetry.turned_map(volume, euler_to_matrix(*found.angles)[None])
    assert asymmetry(aligned, group) < 0.02 < before
    assert found.difference < 0.02


def test_only_rot_keeps_the_z_axis() -> None:
    places, widths = symmetric_places("D2", 2)
    volume = blobs(places @ Rotation.from_euler("z", 25, degrees=True).as_matrix().T, widths)
    search = align_symmetry.SymmetrySearch(volume, operators("D2"), BOX)
    candidates = align_symmetry.random_angles(60, np.random.default_rng(1), only_rot=True)
    found = search.refine(search.best_of(candidates, lambda n: None), 2, 1.0, only_rot=True)
    assert found.angles[1:] == (0.0, 0.0)
    turn = found.angles[0] % 90.0
    assert min(abs(turn - 25.0), abs(turn - 65.0)) < 2.0


def test_program_aligns_and_symmetrises(tmp_path: Path) -> None:
    places, widths = symmetric_places("D2", 7)
    away = Rotation.random(random_state=8).as_matrix()
    noise = np.random.default_rng(2).normal(0, 0.05, (BOX,) * 3)
    write(tmp_path / "in.mrc", blobs(places @ away.T, widths) + noise)
    (tmp_path / "job").mkdir()
    done = run(
        tmp_path, "--i", "in.mrc", "--o", "job/out.mrc", "--sym", "D2", "--apply_sym", "--nr_uniform", "200",
        "--pipeline_control", "job/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "job/RELION_JOB_EXIT_SUCCESS").exists()
    with mrcfile.open(tmp_path / "job/out.mrc") as file:
        assert file.voxel_size.x == pytest.approx(PIXEL)
        out = np.array(file.data)
    assert asymmetry(out, "D2") < 0.003
    # the object itself, up to the turns that keep D2's axes
    truth = blobs(places, widths).ravel()
    turned = (align_symmetry.turned_map(out, g[None]).ravel() for g in operators("O"))
    assert max(np.corrcoef(t, truth)[0, 1] for t in turned) > 0.97


MODEL = """
data_model_classes

loop_
_rlnReferenceImage #1
_rlnClassDistribution #2
_rlnEstimatedResolution #3
IM/run_class001.mrc 0.2 10.0
IM/run_class002.mrc 0.5 30.0
IM/run_class003.mrc 0.3 20.0
"""


@pytest.mark.parametrize(("choice", "chosen"), [("--select_largest_class", 2), ("--select_highest_resol", 1), ("", 3)])
def test_class_of_a_model(tmp_path: Path, choice: str, chosen: int) -> None:
    """The largest, the best resolved, or the most symmetric class; without symmetry a plain copy."""
    (tmp_path / "IM").mkdir()
    (tmp_path / "IM/run_model.star").write_text(MODEL)
    random, maps = np.random.default_rng(1), {}
    for k in (1, 2, 3):
        places, widths = symmetric_places("C3", k)
        if k < 3:
            places = random.uniform(-8, 8, (6, 3))
            widths = np.full(6, 2.0)
        maps[k] = blobs(places, widths)
        write(tmp_path / f"IM/run_class{k:03d}.mrc", maps[k])
    words = ["--i", "IM/run_model.star", "--o", "out.mrc", "--keep_centre", "--nr_uniform", "20"]
    done = run(tmp_path, *words, "--sym", "C1" if choice else "C3", *([choice] if choice else []))
    assert done.returncode == 0, done.stderr
    found = np.array(mrcfile.read(tmp_path / "out.mrc"))
    if choice:
        np.testing.assert_array_equal(found, maps[chosen])
    else:
        assert asymmetry(found, "C3") < 0.02


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--i", "in.mrc", "--sym", "D2", "--box_size", "31"], "even number"),
        (["--i", "in.mrc", "--sym", "X9"], "X9"),
        (["--i", "IM/run_model.star", "--sym", "C1"], "--select_largest_class"),
        (["--i", "none.mrc", "--sym", "D2"], "none.mrc"),
        (["--i", "in.mrc", "--sym", "D2", "--o", "nowhere/out.mrc"], "nowhere"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path: Path, words: list[str], told: str) -> None:
    write(tmp_path / "in.mrc", np.ones((8, 8, 8)))
    (tmp_path / "IM").mkdir()
    (tmp_path / "IM/run_model.star").write_text(MODEL)
    done = run(tmp_path, *words)
    assert done.returncode == 1
    assert told in done.stderr and "Traceback" not in done.stderr
