"""The Laplacian-of-Gaussian picker: known positions, the definition in float64, RELION's own picks."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from blob_micrographs import blob_micrograph
from hypothesis import given, settings
from hypothesis import strategies as st

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_image
from relion_py.compute.picking.kernels import moments
from relion_py.compute.picking.log import LogSettings, _highest_first, best_of, diameters_of, log_maps, pick_log
from relion_py.compute.picking.micrograph import Geometry, Picks, geometry_of, working_size

PIXEL = 2.0


def pick(image: np.ndarray, how: LogSettings, angpix: float = PIXEL) -> Picks:
    geometry = geometry_of(image.shape, angpix, how)
    return pick_log(*best_of(log_maps(image.copy(), geometry, how)), geometry, how)


@pytest.mark.parametrize("shape", [(400, 400), (300, 400), (400, 301), (387, 400)])
@pytest.mark.parametrize("shrink", [0.0, 1.0])
def test_known_positions_are_found(shape: tuple[int, int], shrink: float) -> None:
    image, x, y = blob_micrograph(shape, seed=3)
    found = pick(image, LogSettings(50, 80, adjust_threshold=0.5, lowpass=10, shrink=shrink))
    assert len(found) == len(x)
    distance = np.hypot(found.x[:, None] - x, found.y[:, None] - y)
    # noise, and one shrunk pixel
    assert distance.min(0).max() < (3.0 if shrink else 5.0)
    assert np.all(np.diff(found.merit) <= 0)
    nearest = distance.argmin(0)
    offset = np.median(found.x[nearest] - x), np.median(found.y[nearest] - y)
    assert np.abs(offset).max() < 1.0  # no shift, whatever the shape


def test_white_particles() -> None:
    image, x, _ = blob_micrograph((400, 400), seed=4)
    assert len(pick(-image, LogSettings(50, 80, adjust_threshold=0.5, white=True))) == len(x)


def test_the_filter_by_its_definition() -> None:
    """All the frequencies in float64, against the shrunk float32 maps taken at every second pixel."""
    image, _, _ = blob_micrograph((128, 128), seed=5)
    how = LogSettings(50, 80, lowpass=8.0, shrink=0)
    geometry = geometry_of(image.shape, PIXEL, how)
    assert geometry == Geometry(128, 128, PIXEL, 64)
    standard = -(image.astype(np.float64) - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    k = np.fft.fftfreq(128, 1 / 128)
    r2 = k[:, None] ** 2 + k**2
    for diameter, found in log_maps(image.copy(), geometry, how):
        s2 = (0.5 * 128 * PIXEL / diameter) ** 2
        transform = np.fft.fft2(standard) * r2 * np.exp(-0.5 * r2 / s2) / s2
        if diameter < 50:
            continue  # frequencies beyond those that are kept play a role
        wanted = np.fft.ifft2(transform).real[::2, ::2]
        np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("work", [40, 66, 262])  # the last is SciPy's turn
def test_all_maps_by_their_definition(work: int) -> None:
    """Down to the highest frequencies and the widest filters, against NumPy in double precision."""
    size = 2 * work
    image = np.random.default_rng(3).standard_normal((size, size)).astype(np.float32)
    how = LogSettings(20, 60, outlier_zscore=99, shrink=work, optimise_scale=False)
    geometry = geometry_of(image.shape, PIXEL, how)
    assert geometry.work == work
    standard = -(image.astype(np.float64) - image.mean(dtype=np.float64)) / image.std(ddof=1, dtype=np.float64)
    ky = np.r_[0 : work // 2 + 1, work // 2 + 1 - work : 0]
    transform = np.fft.rfft2(standard)[ky, : work // 2 + 1] / size**2
    r2 = ky[:, None] ** 2.0 + np.arange(work // 2 + 1) ** 2
    diameters = []
    for diameter, found in log_maps(image, geometry, how):
        s2 = (0.5 * size * PIXEL / diameter) ** 2
        filtered = transform * r2 * np.exp(-0.5 * r2 / s2) / s2
        wanted = np.fft.irfft2(filtered, s=(work, work), norm="forward")
        np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())
        diameters.append(diameter)
    assert diameters == diameters_of(how) and len(diameters) == 11


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1e-30, 0.5, 1.0, 1.5, 3e30]), max_size=20))
def test_the_highest_come_first_and_of_equal_ones_the_first(heights: list[float]) -> None:
    expected = sorted((place for place, height in enumerate(heights) if height > 0), key=lambda place: -heights[place])
    assert list(_highest_first(np.array(heights, np.float32))) == expected


def test_the_diameter_of_a_disc_is_found() -> None:
    rows, columns = np.mgrid[-128:128, -128:128]
    for diameter in (60.0, 80.0, 100.0):
        image = np.where(np.hypot(rows, columns) * PIXEL < diameter / 2, -1, 0).astype(np.float32)
        how = LogSettings(60, 100, outlier_zscore=1e6)
        _, size = best_of(log_maps(image, geometry_of(image.shape, PIXEL, how), how))
        # the scale of the highest peak is sigma = radius / sqrt(2); the filter's diameter is a multiple of it
        assert size[128, 128] in diameters_of(how)
        assert size[128, 128] == {60.0: 60.0, 80.0: 80.0, 100.0: 100.0}[diameter]


def test_thresholds_are_in_deviations_of_the_merit() -> None:
    image, _, _ = blob_micrograph((400, 400), seed=6)
    counts = [len(pick(image, LogSettings(50, 80, adjust_threshold=t))) for t in (-1, 0, 1, 2)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
    free = pick(image, LogSettings(50, 80))
    capped = pick(image, LogSettings(50, 80, upper_threshold=2.0))
    # what is too high is dropped, and its neighbours do not take its place
    assert 0 < len(capped) < len(free)
    kept = {(x, y) for x, y in zip(free.x, free.y, strict=True)}
    assert {(x, y) for x, y in zip(capped.x, capped.y, strict=True)} < kept
    assert capped.merit.max() < free.merit[len(free) - len(capped) - 1]


def test_picks_keep_their_distance_and_leave_the_edge() -> None:
    image = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
    how = LogSettings(40, 60, adjust_threshold=-1, skip_side=35)
    found = pick(image, how)
    assert len(found) > 10
    points = np.stack([found.x, found.y], 1)
    nearest = min(np.hypot(*(a - b)) for a, b in itertools.combinations(points, 2))
    assert nearest >= 40 / PIXEL  # (detected + smallest) / 2
    assert points.min() >= 34 and points.max() < 300 - 34  # in whole pixels at work
    assert len(pick(image, LogSettings(40, 60, adjust_threshold=-1, skip_side=35, neighbour=2.0))) < len(found)


def test_outliers_do_not_become_particles() -> None:
    image, _, _ = blob_micrograph((400, 400), seed=7)
    image[50:54, 60:64] = -1000
    how = LogSettings(50, 80, adjust_threshold=0.5)
    found = pick(image, how)
    assert not np.any(np.hypot(found.x - 62, found.y - 52) < 10)


@pytest.mark.parametrize(
    ("size", "angpix", "lowpass", "shrink", "wanted"),
    [
        (1024, 1.77, 20, 0, 182),  # RELION's run of tests/golden numbers
        (1024, 1.77, -1, 0, 1024),
        (1024, 1.77, 20, 1, 1024),  # 1024 = 2^10 and 513 = 3^3 * 19
        (4096, 1.0, 20, 0.5, 2048),
        (4096, 1.0, 20, 1000, 1000),  # 501 = 3 * 167 is rough: see below
    ],
)
def test_working_sizes(size: int, angpix: float, lowpass: float, shrink: float, wanted: int) -> None:
    how = LogSettings(100, 200, lowpass=lowpass, shrink=shrink)
    assert working_size(size, angpix, LogSettings(100, 200, lowpass=lowpass, shrink=shrink, optimise_scale=False)) == (
        wanted
    )
    assert abs(working_size(size, angpix, how) - wanted) <= 20


@settings(deadline=None)
@given(st.integers(64, 9000), st.floats(0.01, 1.0))
def test_working_sizes_are_even_and_have_no_large_factors(size: int, shrink: float) -> None:
    work = working_size(size, 1.0, LogSettings(100, 200, shrink=shrink))
    if work < 8:
        return
    assert work % 2 == 0 and work <= size
    for number in (work, work // 2 + 1):
        left = number
        for factor in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43):
            while left % factor == 0:
                left //= factor
        assert left == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_moments(bad: float) -> None:
    image = (1e4 + np.random.default_rng(0).standard_normal((70, 90))).astype(np.float32)
    mean, deviation = moments(image)
    assert mean == pytest.approx(image.mean(dtype=np.float64), rel=1e-12)
    assert deviation == pytest.approx(image.std(dtype=np.float64, ddof=1), rel=1e-9)
    for place in ((0, 0), (33, 44)):
        spoiled = image.copy()
        spoiled[place] = bad
        assert not np.all(np.isfinite(moments(spoiled)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"diameter_min": 0.0}, {"diameter_min": 90.0}, {"diameter_max": np.inf}, {"shrink": -0.5},
        {"max_search": 0}, {"outlier_zscore": 0.0}, {"neighbour": -1.0}, {"lowpass": np.nan},
        {"adjust_threshold": np.inf},
    ],
)  # fmt: skip
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must"):
        LogSettings(**{"diameter_min": 50, "diameter_max": 80, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", ["001"])
def test_the_picks_of_relion_5(shared: Path, tmp_path: Path, number: str) -> None:
    """RELION 5.0.1's coordinates and figures of merit on its own motion-corrected micrograph."""
    numeric = shared / "golden/numeric"
    path = tmp_path / "mic.mrc"
    path.write_bytes(gzip.decompress((numeric / f"motioncorr/mic{number}.mrc.gz").read_bytes()))
    found = pick(read_image(path)[0], LogSettings(120, 190, lowpass=20, shrink=0), 1.77)
    table = star.read(numeric / f"autopick_log/mic{number}_autopick.star")[""]
    assert len(found) == len(table) > 40
    np.testing.assert_allclose(found.x, table.floats("rlnCoordinateX"), atol=1e-3)
    np.testing.assert_allclose(found.y, table.floats("rlnCoordinateY"), atol=1e-3)
    np.testing.assert_allclose(found.merit, table.floats("rlnAutopickFigureOfMerit"), atol=2e-6)
