"""Beam tilt, higher-order aberrations and anisotropic magnification, against formulas of their own."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.backend.estep_numba import block_rotations
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.aberrations import Aberrations, even_indices, odd_indices, zernike
from relion_py.compute.image.ctf import electron_wavelength

KX = np.array([0, 1, 5, 7, 12], np.int32)
KY = np.array([3, -4, 0, 7, -9], np.int32)
BOX, ANGPIX = 64, 1.5


def test_zernike_polynomials_are_the_textbook_ones():
    x, y = np.array([0.3, -0.2, 0.0]), np.array([0.4, 0.1, 0.0])
    r2 = x**2 + y**2
    np.testing.assert_allclose(zernike(0, 0, x, y), 1.0)
    np.testing.assert_allclose(zernike(1, 1, x, y), x, atol=1e-15)
    np.testing.assert_allclose(zernike(-1, 1, x, y), y, atol=1e-15)
    np.testing.assert_allclose(zernike(0, 2, x, y), 2 * r2 - 1)
    np.testing.assert_allclose(zernike(2, 2, x, y), x**2 - y**2, atol=1e-15)
    np.testing.assert_allclose(zernike(1, 3, x, y), (3 * r2 - 2) * x, atol=1e-15)
    np.testing.assert_allclose(zernike(3, 3, x, y), x**3 - 3 * x * y**2, atol=1e-15)
    np.testing.assert_allclose(zernike(0, 4, x, y), 6 * r2**2 - 6 * r2 + 1)


def test_coefficients_are_counted_as_in_the_reference():
    assert [odd_indices(i) for i in range(6)] == [(-1, 1), (1, 1), (-3, 3), (-1, 3), (1, 3), (3, 3)]
    assert [even_indices(i) for i in range(4)] == [(0, 0), (-2, 2), (0, 2), (2, 2)]
    assert even_indices(6) == (0, 4)


def test_beam_tilt_is_undone_by_the_classical_formula():
    # RELION 2, fftw.cpp, selfApplyBeamTilt: degrees, frequencies in pixels of the box
    found = Aberrations.of_group({"rlnBeamTiltX": "0.7", "rlnBeamTiltY": "-0.4"}, 300.0, 2.7)
    wavelength = float(electron_wavelength(300.0))
    factor = 0.360 * 2.7 * 1e7 * wavelength**2 / (BOX * ANGPIX) ** 3
    degrees = factor * (KX**2 + KY**2) * (KX * 0.7 + KY * -0.4)
    wanted = np.exp(1j * np.deg2rad(degrees))
    np.testing.assert_allclose(found.phase_factors(KX, KY, BOX, ANGPIX), wanted, atol=1e-5)


def test_even_coefficients_add_to_the_phase_of_the_ctf():
    found = Aberrations.of_group({"rlnEvenZernike": "[0,0,0,0,0,0,2.5,0,0]"}, 300.0, 2.7)
    r2 = (KX**2 + KY**2) / (BOX * ANGPIX) ** 2
    np.testing.assert_allclose(found.gamma_offset(KX, KY, BOX, ANGPIX), 2.5 * (6 * r2**2 - 6 * r2 + 1))


def test_nothing_is_nothing():
    found = Aberrations.of_group({"rlnBeamTiltX": "0", "rlnMagMat00": "1", "rlnOddZernike": "[0,0]"}, 300.0, 2.7)
    assert found.phase_factors(KX, KY, BOX, ANGPIX) is None
    assert found.gamma_offset(KX, KY, BOX, ANGPIX) is None
    assert found.magnification is None
    np.testing.assert_array_equal(found.distortion, np.eye(2))


def test_distorted_frequencies_are_those_of_the_undistorted_image():
    values = {"rlnMagMat00": "1.02", "rlnMagMat01": "0.01", "rlnMagMat10": "-0.005", "rlnMagMat11": "0.99"}
    found = Aberrations.of_group(values, 300.0, 2.7)
    mats = euler_to_matrix(30.0, 50.0, 0.0).astype(np.float32)[None]
    psi = np.deg2rad(70.0)
    table = np.array([[[np.cos(psi), np.sin(psi)]]], np.float32)
    out = np.empty((1, 3, 3), np.float32)
    block_rotations(mats, table, np.zeros(1, np.int32), 1, found.distortion, out)
    k = np.stack([KX, KY]).astype(float)
    undistorted = np.array([[1.02, 0.01], [-0.005, 0.99]]) @ k
    wanted = euler_to_matrix(30.0, 50.0, 70.0)[:2].T @ undistorted
    np.testing.assert_allclose(out[0][:2].T @ k, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "values", [{"rlnOddZernike": "[a]"}, {"rlnMagMat00": "0", "rlnMagMat11": "0"}, {"rlnBeamTiltX": "x"}]
)
def test_nonsense_is_told(values):
    with pytest.raises(UserError, match="optics group"):
        Aberrations.of_group(values, 300.0, 2.7)
