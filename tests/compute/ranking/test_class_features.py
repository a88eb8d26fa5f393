"""Features of class averages against pixel-by-pixel loops and pictures whose answers are known."""

import numpy as np
import pytest

from relion_py.compute.ranking.features import (
    FeatureOptions,
    at_uniform_scale,
    granulometry,
    image_features,
    protein_area,
)


def disc(box: int, radius: float, y: float = 0.0, x: float = 0.0) -> np.ndarray:
    """1 within `radius` of a point, from the centre of a box."""
    rows, columns = np.indices((box, box)) - box // 2
    return (np.hypot(rows - y, columns - x) <= radius).astype(float)


def flooded(white: np.ndarray, start: tuple[int, int]) -> set[tuple[int, int]]:
    """The 4-connected white pixels around one, found one at a time as class_ranker.cpp does."""
    todo, seen = [start], {start}
    while todo:
        y, x = todo.pop()
        for there in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if min(there) >= 0 and max(there) < len(white) and white[there] and there not in seen:
                seen.add(there)
                todo.append(there)
    return seen


def test_areas_are_those_of_a_flood_fill() -> None:
    box, radius, threshold = 40, 17.0, 0.2
    rng = np.random.default_rng(3)
    smooth = disc(box, 6.0) + 0.35 * rng.normal(size=(box, box))
    rows, columns = np.indices((box, box)) - box // 2
    white = (smooth > threshold) & (rows**2 + columns**2 <= radius**2)
    central = rows**2 + columns**2 <= 0.36 * radius**2
    protein, scattered = np.zeros((box, box), bool), 0
    left = {tuple(p) for p in np.argwhere(white & central)}
    while left:
        island = flooded(white, next(iter(left)))
        left -= island
        if sum(central[p] for p in island) > 0.1 * 3.14 * 0.36 * radius**2:
            protein[tuple(np.array(sorted(island)).T)] = True
        else:
            scattered += len(island)
    found, part = protein_area(smooth, threshold, radius)
    assert protein.any() and scattered > 5
    np.testing.assert_array_equal(found, protein)
    assert part == pytest.approx(scattered / (scattered + protein.sum() + 1))


def test_granulometry_is_that_of_loops() -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(size=(16, 16))

    def filtered(picture: np.ndarray, radius: int, best: type) -> np.ndarray:
        out = np.empty_like(picture)
        for y, x in np.ndindex(picture.shape):
            near = [
                picture[yy, xx] for yy, xx in np.ndindex(picture.shape) if (yy - y) ** 2 + (xx - x) ** 2 <= radius**2
            ]
            out[y, x] = best(near)
        return out

    wanted = [filtered(filtered(image, r, min), r, max).sum() for r in (1, 2, 3, 4, 5, 6)]
    np.testing.assert_allclose(granulometry(image), wanted)


def test_particle_in_the_middle_and_one_cut_off() -> None:
    angpix, box = 4.0, 64
    options = FeatureOptions(diameter=160.0)
    middle = image_features(disc(box, 10.0) - 0.05, angpix, options).values
    cut = image_features(disc(box, 14.0, x=12.0) - 0.05, angpix, options).values
    assert middle["rlnProteinArea"] == cut["rlnProteinArea"] == 1
    assert middle["rlnEdgeSignal"] == 0.0 and cut["rlnEdgeSignal"] > 0.1
    # nearly all density lies in the protein; the solvent is flat but for what the filter spreads
    assert middle["rlnProteinMean"] > 0.6 and abs(middle["rlnSolventMean"] + 0.05) < 0.01
    assert middle["rlnSolventStddev"] < 0.02 < middle["rlnProteinStddev"]
    assert 0.9 < middle["rlnProteinCAR"] < 1.3
    ring = disc(box, 20.0).astype(bool) & (disc(box, 19.0 - 1e-9) == 0)
    picture = np.random.default_rng(5).normal(size=(box, box))
    values = image_features(picture, angpix, options).values
    assert values["rlnRingMean"] == pytest.approx(picture[ring].mean())
    assert values["rlnRingStddev"] == pytest.approx(picture[ring].std())


def test_averages_come_to_four_angstrom_with_their_densities() -> None:
    y, x = np.indices((80, 80)) - 40
    wave = np.cos(2 * np.pi * x * 2.0 / 64.0) + 0.0 * y  # wavelength 64 A at 2 A per pixel
    scaled = at_uniform_scale(wave, 2.0)
    assert scaled.shape == (40, 40)
    np.testing.assert_allclose(scaled[:, 10:30], (wave[::2, ::2])[:, 10:30], atol=0.1)


def test_blank_average_has_features_all_the_same() -> None:
    values = image_features(np.zeros((48, 48)), 4.0, FeatureOptions(diameter=120.0, granulo=True))
    assert all(np.isfinite(v) for v in values.values.values())
    assert values.values["rlnProteinArea"] == 0
