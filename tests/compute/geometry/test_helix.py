"""Helical symmetry: against an exact helix of Gaussians, and beside RELION 3.1.3's helix toolbox."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helix_model import blob_map, helix_centres

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.helix import Range, Tube, check_parameters, operators
from relion_py.compute.geometry.helix_maps import deviations, impose, search
from relion_py.compute.io.mrc import read_map, write_map

BOX, PIXEL, SIGMA = 48, 3.0, 5.0
TWIST, RISE = 37.3, 11.2
TUBE = Tube(diameter=120, outer=90, central=0.4)


@pytest.fixture(scope="module")
def helix() -> np.ndarray:
    return blob_map(*helix_centres(TWIST, RISE, 15), BOX, PIXEL, SIGMA)


@pytest.fixture(scope="module")
def noisy(helix: np.ndarray) -> np.ndarray:
    return (helix + 0.3 * np.random.default_rng(2).standard_normal(helix.shape)).astype(np.float32)


def inside(margin: float = 0.0) -> np.ndarray:
    """The voxels of the sphere and tube."""
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    wall = np.hypot(x, y)
    return (wall <= TUBE.outer / 2 - margin) & (np.hypot(wall, z) <= TUBE.diameter / 2 - margin)


def test_operators_take_one_unit_to_the_next() -> None:
    centres, _ = helix_centres(TWIST, RISE, 2)
    units = centres.reshape(5, -1, 3)
    rotations, shifts = operators(TWIST, RISE, [-1, 0, 2])
    for number, rotation, shift in zip((1, 2, 4), rotations, shifts, strict=True):
        assert np.allclose(units[2] @ rotation.T + shift, units[number], atol=1e-9)


def test_imposing_the_symmetry_that_is_there_changes_nothing(helix: np.ndarray) -> None:
    out = impose(helix, PIXEL, TUBE, TWIST, RISE)
    difference = (out - helix)[inside()]
    assert np.sqrt(np.mean(difference**2)) < 0.1 * helix[inside()].std()  # linear interpolation blurs a little
    wrong = impose(helix, PIXEL, TUBE, -TWIST, RISE)
    assert np.sqrt(np.mean((wrong - helix)[inside()] ** 2)) > 0.3 * helix[inside()].std()


def test_imposing_takes_noise_away_and_reaches_beyond_the_central_part(helix: np.ndarray, noisy: np.ndarray) -> None:
    cut = noisy.copy()
    cut[: BOX // 2 - 12], cut[BOX // 2 + 12 :] = 0, 0  # nothing but the central part and its surroundings
    out = impose(cut, PIXEL, TUBE, TWIST, RISE, workers=2)
    error = np.sqrt(np.mean((out - helix)[inside()] ** 2))
    assert error < 0.15  # from 0.3 by more than the square root of five mates
    assert not out[inside(-7 * PIXEL) == 0].any()
    assert np.corrcoef(out[8][inside()[8]], helix[8][inside()[8]])[0, 1] > 0.95


def test_imposing_has_soft_walls(helix: np.ndarray) -> None:
    flat = np.ones_like(helix)
    out = impose(flat, PIXEL, Tube(120, 90, inner=24, central=0.4), TWIST, RISE, edge=4)
    row = out[BOX // 2, BOX // 2, BOX // 2 :]
    assert row[0] == 0 and row[1] < row[2] < row[3] < row[4] == pytest.approx(1)
    assert np.allclose(row[4:16], 1) and np.all(np.diff(row[15:20]) < 0) and not row[20:].any()


def test_the_search_finds_twist_and_rise(helix: np.ndarray) -> None:
    found = search(helix, PIXEL, TUBE, Range(30, 44), Range(9.5, 13))
    assert not found.warning
    assert found.twist == pytest.approx(TWIST, abs=0.02)
    assert found.rise == pytest.approx(RISE, abs=0.02)
    alone = search(helix, PIXEL, TUBE, Range.at(TWIST), Range(10, 12))
    assert alone.twist == TWIST and alone.rise == pytest.approx(RISE, abs=0.02)


def test_a_search_that_leaves_its_limits_stays_on_them_and_says_so(helix: np.ndarray) -> None:
    found = search(helix, PIXEL, TUBE, Range(37.5, 39), Range.at(RISE))
    assert found.twist == 37.5
    assert "limit of its range" in found.warning


def test_deviations_are_variances_among_mates(noisy: np.ndarray) -> None:
    """By brute force on a symmetry that needs no interpolation: half turns and whole voxels."""
    scores = deviations(noisy, PIXEL, TUBE, np.array([180.0, 180.0]), np.array([9.0, 12.0]), workers=2)
    first, last = -10, 10  # 0.2 of the box, outwards to whole planes
    y, x = np.meshgrid(np.arange(BOX) - BOX // 2, np.arange(BOX) - BOX // 2, indexing="ij")
    near = np.hypot(x, y) <= TUBE.outer / 2 / PIXEL
    for score, step in zip(scores, (3, 4), strict=True):
        spread = []
        for z in range(first, first + step + 1):
            mates = [
                noisy[z + n * step + BOX // 2][BOX // 2 + y[near] * (-1) ** n, BOX // 2 + x[near] * (-1) ** n]
                for n in range((last - z) // step + 1)
            ]
            spread.append(np.var(np.array(mates, np.float64), axis=0))
        assert score == pytest.approx(np.mean(spread), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tube": Tube(150, 90, central=0.4)}, "particle diameter of 150"),
        ({"tube": Tube(120, 130, central=0.4)}, "outer diameter of 130"),
        ({"tube": Tube(120, 90, inner=85, central=0.4)}, "inner diameter of 85"),
        ({"tube": Tube(120, 90, central=0.1)}, "central Z length of 10 %"),
        ({"tube": Tube(120, 90, central=0.7)}, "central Z length of 70 %"),
        ({"twist": 400.0}, "between -360 and 360"),
        ({"rise": 0.0}, "must be positive"),
        ({"rise": 80.0}, "too short for a rise"),
        ({"units": 12}, "1 to 7"),
        ({"twists": Range(40, 50)}, "twist of 37.3 degrees is not between"),
        ({"rises": Range(4, 12)}, "a third"),
    ],
)
def test_parameters_that_cannot_be_are_refused(change: dict, words: str) -> None:
    usual = {"tube": TUBE, "twist": TWIST, "rise": RISE, "box": BOX, "pixel_size": PIXEL, "units": 3}
    check_parameters(**usual)
    with pytest.raises(UserError, match=words):
        check_parameters(**{**usual, **change})


def toolbox(program: str, where: Path, *words: str) -> str:
    geometry = ["--angpix", "3", "--cyl_outer_diameter", "90", "--z_percentage", "0.4"]
    sphere = ["--sphere_percentage", str(TUBE.diameter / (BOX * PIXEL))]
    command = [program, "--i", "in.mrc", "--o", "out.mrc", *geometry, *sphere, *words]
    return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True, timeout=60).stdout


def test_as_relions_helix_toolbox(noisy: np.ndarray, tmp_path: Path, debian_relion: Callable[[str], str]) -> None:
    program = debian_relion("relion_helix_toolbox")
    write_map(str(tmp_path / "in.mrc"), noisy, PIXEL)
    toolbox(program, tmp_path, "--impose", "--twist", str(TWIST), "--rise", str(RISE), "--width", "5")
    theirs = read_map(str(tmp_path / "out.mrc"))[0]
    ours = impose(noisy, PIXEL, TUBE, TWIST, RISE, edge=5)
    assert np.abs(ours - theirs)[inside(2 * PIXEL)].max() < 1e-5
    assert np.abs(ours - theirs).max() < 2e-3  # they clear the surroundings while they go along
    limits = ["--twist_min", "30", "--twist_max", "45", "--rise_min", "9", "--rise_max", "13"]
    answer = toolbox(program, tmp_path, "--search", *limits).splitlines()
    line = next(text for text in reversed(answer) if "Refined helical rise" in text).replace(",", " ").split()
    found = search(noisy, PIXEL, TUBE, Range(30, 45), Range(9, 13))
    assert found.rise == pytest.approx(float(line[line.index("rise") + 2]), abs=1e-3)
    assert found.twist == pytest.approx(float(line[line.index("twist") + 2]), abs=1e-3)
