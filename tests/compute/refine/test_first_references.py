"""Random averages that keep only what the first filter leaves, and the blobs that are made from them."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.refine.first_references import RandomAverages, blobs_like, first_resolution, size_within
from relion_py.compute.refine.images import DiscPixels, at_disc, half_transforms
from relion_py.compute.refine.solvent import first_filter

BOX, PIXEL_SIZE = 48, 3.0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_the_filter_removes_is_not_needed(dimensions: int) -> None:
    rng = np.random.default_rng(8)
    y, x = np.indices((BOX, BOX)) - BOX / 2
    images = np.exp(-((x - 5) ** 2 + y**2) / 30.0) + 0.3 * rng.standard_normal((24, BOX, BOX))
    transforms = half_transforms(images.astype(np.float32))
    resolution = first_resolution(BOX, PIXEL_SIZE)
    maps = []
    for size in (BOX, size_within(resolution, BOX, PIXEL_SIZE)):
        averages, pixels = RandomAverages(2, BOX, size, dimensions, 2.0), DiscPixels.of_size(size)
        values = at_disc(transforms, pixels)
        averages.add(values, np.ones(values.shape, np.float32), np.arange(24), pixels.kx, pixels.ky, seed=3)
        maps.append([first_filter(m, PIXEL_SIZE, resolution) for m in averages.maps(1)])
    for all_pixels, few in zip(*maps, strict=True):
        assert np.corrcoef(all_pixels.ravel(), few.ravel())[0, 1] > 0.999
        assert few.std() == pytest.approx(all_pixels.std(), rel=0.01)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_blobs_are_gaussians_as_high_as_the_average(dimensions: int) -> None:
    """Beside a sum over all pixels, blob by blob, of the same random places."""
    average = np.random.default_rng(2).normal(size=(BOX,) * dimensions).astype(np.float32)
    diameter, seed = 90.0, 5
    random, width = np.random.default_rng([seed, 4, 0]), diameter / PIXEL_SIZE
    grid = np.indices(average.shape)
    total = np.zeros(average.shape)
    for sign in (1.0, -0.5):
        for place in random.normal(BOX / 2.0, width / (7.0 if dimensions == 2 else 6.0), (40, dimensions)):
            squared = sum((axis - p) ** 2 for axis, p in zip(grid, place, strict=True))
            total += sign * abs(average[tuple(place.astype(int))]) * np.exp(-100.0 * squared / width**2)
    total *= average.std() / total.std()
    expected = first_filter(total, PIXEL_SIZE, 30.0)
    blobs = blobs_like(average, diameter, PIXEL_SIZE, 30.0, 3.0, seed)
    inside = sum((axis - BOX // 2) ** 2 for axis in grid) < (width / 2.0) ** 2
    np.testing.assert_allclose(blobs[inside], expected[inside], atol=1e-5)
    assert np.ptp(blobs) > 0.01
