"""Moved images against SciPy's, and centres of mass against blobs whose place is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from relion_py.compute.image.shift import centre_of_mass, shifted

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(9, 12), (7, 8, 9)])
@pytest.mark.parametrize("scale", [0.0, 0.7, 3.3, 40.0])
def test_images_move_as_with_scipy(shape, scale):
    image, shift = RANDOM.standard_normal(shape), scale * RANDOM.uniform(-1, 1, len(shape))
    np.testing.assert_allclose(shifted(image, shift), ndimage.shift(image, shift, order=1), atol=1e-12)


def test_whole_pixels_move_exactly():
    image = RANDOM.standard_normal((6, 5)).astype(np.float32)
    moved = shifted(image, (2, -1))
    np.testing.assert_array_equal(moved[2:, :-1], image[:-2, 1:])
    assert not moved[:2].any() and not moved[:, -1].any()


def test_the_centre_of_mass_counts_positive_pixels():
    image = np.full((10, 14, 12), -3.0, np.float32)
    image[7, 4, 9], image[7, 4, 10] = 1.0, 3.0
    np.testing.assert_allclose(centre_of_mass(image), (2.0, -3.0, 3.75))
    np.testing.assert_allclose(centre_of_mass(-np.ones((4, 4))), (0, 0))
