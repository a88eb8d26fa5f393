"""The two sides of the Ewald sphere against what the formulas demand; test_reconstruct_program.py compares maps."""

import numpy as np
import pytest

from relion_py.compute.image.ctf import CtfParams, ctf_phases, ctf_values
from relion_py.compute.image.fourier import frequencies, half_transform
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.ewald import EwaldSettings, insert_curved, overlap_weight, part_images

BOX, ANGPIX = 24, 1.5
KX, KY = (grid.ravel() for grid in np.meshgrid(np.arange(BOX // 2 + 1), frequencies(BOX)))
PARAMS = CtfParams(defocus_u=[9000.0, 12000.0], defocus_v=[8500.0, 11800.0], defocus_angle=[30.0, -70.0])


def images() -> tuple[np.ndarray, np.ndarray]:
    """Transforms of two images of noise, and the phases of their CTFs."""
    transforms = half_transform(np.random.default_rng(3).normal(size=(2, BOX, BOX)).astype(np.float32))
    return transforms.astype(np.complex64), ctf_phases(PARAMS, KX, KY, BOX, ANGPIX).reshape(transforms.shape)


def test_phases_are_those_of_the_ctf() -> None:
    gamma = ctf_phases(PARAMS, KX, KY, BOX, ANGPIX)
    np.testing.assert_allclose(-np.sin(gamma), ctf_values(PARAMS, KX, KY, BOX, ANGPIX), atol=1e-6)


@pytest.mark.parametrize("sectors", [2, 3, 4, 6])
def test_both_sides_together_are_the_image_times_twice_the_ctf(sectors: int) -> None:
    transforms, gamma = images()
    for reverse in (False, True):
        p, q = part_images(transforms, gamma, ANGPIX, EwaldSettings(30.0, 3.0, sectors, reverse, mask=False))
        np.testing.assert_allclose(p + q, -2 * np.sin(gamma) * transforms, atol=1e-4)
        sign = -1 if reverse else 1
        # on the right half of the plane, away from its ends, P has the sign of the positive curvature
        expected = transforms * (-np.sin(gamma) + sign * 1j * np.cos(gamma))
        np.testing.assert_allclose(p[:, 1:9, 9:], expected[:, 1:9, 9:], atol=1e-4)


def test_images_that_the_defocus_moves_apart_count_half() -> None:
    x, y = np.array([0.0, 1e-3, 0.3]), np.zeros(3)
    ctf = np.array([[0.1, 0.7, 0.9]] * 2, np.float32)
    weight = overlap_weight(ctf, PARAMS, x, y, diameter=100.0)
    np.testing.assert_allclose(weight[:, 0], ctf[:, 0], atol=1e-6)  # not moved: the CTF itself
    np.testing.assert_allclose(weight[:, 2], 0.5, atol=1e-6)  # 9000 A of 20 mrad: far beyond 100 A
    assert np.all(np.abs(weight[:, 1] - ctf[:, 1]) < 0.01)


def test_slices_bend_as_far_as_the_sphere() -> None:
    """One pixel at (4, 0) on a paraboloid of curvature 1/16 lies one pixel above the plane, of the map's three axes."""
    for axis in range(3):
        turn = np.roll(np.eye(3), axis, axis=1)  # the image's x, y and z axes are other axes of the map
        sums = BackProjector(BOX)
        one = np.ones((1, 1), np.complex64)
        insert_curved(sums, one, np.ones((1, 1), np.float32), turn[None], np.array([4.0]), np.array([0.0]), 1 / 16)
        place = (turn.T @ [4.0, 0.0, 1.0] * sums.pad).astype(int)
        z, y, x = np.argwhere(sums.weight > 0)[0]
        assert np.count_nonzero(sums.weight) == 1
        assert [x, y - sums.weight.shape[1] // 2, z - sums.weight.shape[0] // 2] == list(place)
