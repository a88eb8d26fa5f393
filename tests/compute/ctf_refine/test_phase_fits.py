"""Aberrations and magnification from sums by Fourier pixel, made by hand from known truth."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.ctf_refine import phases, sums
from relion_py.compute.ctf_refine.magnification import adapt_astigmatism, anisotropy, fit_magnification
from relion_py.compute.ctf_refine.particles import Optics
from relion_py.compute.errors import UserError
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.image.fourier import disc_pixels

BOX, ANGPIX, KV, CS = 96, 1.0, 300.0, 2.7
WAVELENGTH = 12.2643247 / np.sqrt(3e5 * (1 + 3e5 * 0.978466e-6))


def optics(aberrations: Aberrations | None = None) -> Optics:
    kx, ky = disc_pixels(40)
    return Optics(1, "one", BOX, ANGPIX, KV, CS, aberrations or Aberrations(), kx, ky)


def odd_sums(phase: np.ndarray, noise: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    strength = rng.uniform(0.5, 1.5, len(phase))
    total = strength * np.exp(1j * phase) + noise * (rng.standard_normal((2, len(phase))) * [[1], [1j]]).sum(axis=0)
    return {"real": total.real, "imag": total.imag, "weight": strength}


def classical_tilt(group: Optics, tilt_x: float, tilt_y: float) -> np.ndarray:
    """The phase, in radians, that an image has by a beam tilt in mrad (RELION 2, fftw.cpp, selfApplyBeamTilt)."""
    factor = 0.360 * CS * 1e7 * WAVELENGTH**2 / (BOX * ANGPIX) ** 3
    degrees = factor * (group.kx**2 + group.ky**2) * (group.kx * tilt_x + group.ky * tilt_y)
    return -np.deg2rad(degrees)


@pytest.mark.parametrize("tilt", [(0.2, -0.1), (-1.5, 2.5)])
def test_beam_tilt_alone(tilt):
    """The second one wraps the phase several times."""
    group = optics()
    shift = 2 * np.pi * (0.7 * group.kx - 0.4 * group.ky) / BOX
    fit, x, y = phases.fit_tilt(odd_sums(classical_tilt(group, *tilt) + shift, 0.2), np.ones(len(group.kx)), group)
    assert (x, y) == pytest.approx(tilt, abs=0.01)
    np.testing.assert_allclose(fit.coefficients[:2] / (2 * np.pi * ANGPIX), [0.7, -0.4], atol=0.02)


def test_odd_coefficients_and_the_tilt_in_them():
    """What is written is what refinement reads: the phase of all columns together is the true one."""
    group = optics()
    x, y = group.kx / group.length, group.ky / group.length
    true = classical_tilt(group, 0.5, -0.8) + 12.0 * (3 * x * x * y - y**3) - 9.0 * (x**3 - 3 * x * y * y)
    fit = phases.fit_odd(odd_sums(true), np.ones(len(x)), group, 3)
    coefficients, tilt_x, tilt_y = phases.extract_tilt(fit.coefficients, group)
    assert (tilt_x, tilt_y) == pytest.approx((0.5, -0.8), abs=1e-4)
    np.testing.assert_allclose(coefficients, [0, 0, 12.0, 0, 0, -9.0], atol=1e-3)
    written = {
        "rlnBeamTiltX": str(tilt_x),
        "rlnBeamTiltY": str(tilt_y),
        "rlnOddZernike": "[" + ",".join(map(str, coefficients)) + "]",
    }
    undo = Aberrations.of_group(written, KV, CS).phase_factors(group.kx, group.ky, BOX, ANGPIX)
    np.testing.assert_allclose(undo * np.exp(1j * true), 1.0, atol=1e-3)


def test_even_coefficients():
    group = optics()
    rng = np.random.default_rng(6)
    x, y = group.kx / group.length, group.ky / group.length
    r2 = x * x + y * y
    true = 0.3 + 20.0 * 4 * x * y * (x * x - y * y) - 15.0 * (x**4 - 6 * x * x * y * y + y**4) + 9.0 * 6 * r2 * r2
    gamma = rng.uniform(-np.pi, np.pi, (8, len(x)))  # of eight particles of unit power, without that aberration
    ctf = -np.sin(gamma + true)
    s, c = np.sin(gamma), np.cos(gamma)
    total = {"Axx": (s * s).sum(0), "Axy": (s * c).sum(0), "Ayy": (c * c).sum(0),
             "bx": -(ctf * s).sum(0), "by": -(ctf * c).sum(0)}  # fmt: skip
    fit = phases.fit_even(total, np.ones(len(x)), group, 4)
    np.testing.assert_allclose(np.exp(1j * fit.fitted), np.exp(1j * true), atol=1e-4)
    np.testing.assert_allclose(np.exp(1j * fit.observed), np.exp(1j * true), atol=1e-6)
    assert fit.coefficients[4] == pytest.approx(20.0, abs=0.05)
    assert fit.coefficients[8] == pytest.approx(-15.0, abs=0.05)
    assert len(fit.coefficients) == phases.number_of_even(4) == 9


def test_what_has_no_weight_does_not_count():
    group = optics()
    frequency = group.frequency
    total = odd_sums(classical_tilt(group, 0.4, 0.3))
    ring = (1 / frequency > 4.0) & (1 / frequency <= 6.0)
    total["real"][ring], total["imag"][ring] = 5.0, -3.0
    weight = phases.ring_weight(np.ones(len(frequency)), frequency, 4.0, 6.0)
    np.testing.assert_array_equal(weight == 0, ring)
    _, x, y = phases.fit_tilt(total, weight, group)
    assert (x, y) == pytest.approx((0.4, 0.3), abs=1e-6)
    np.testing.assert_array_equal(phases.ring_weight(np.ones(3), np.ones(3), -1.0, -1.0), 1.0)


def test_too_few_frequencies_give_small_coefficients_and_no_error():
    group = optics()
    weight = np.where(group.frequency < 0.03, 1.0, 0.0)
    fit = phases.fit_odd(odd_sums(classical_tilt(group, 0.3, 0.0)), weight, group, 5)
    assert np.isfinite(fit.coefficients).all() and len(fit.coefficients) == phases.number_of_odd(5) == 12


def test_magnification_is_the_matrix_of_the_displacements():
    group = optics()
    rng = np.random.default_rng(9)
    change = np.array([[0.01, 0.004], [-0.003, -0.008]])
    g = rng.standard_normal((2, 5, len(group.kx)))
    displacement = change @ np.stack([group.kx, group.ky])
    rest = (g * displacement[:, None]).sum(axis=0)
    total = {"Axx": (g[0] ** 2).sum(0), "Axy": (g[0] * g[1]).sum(0), "Ayy": (g[1] ** 2).sum(0),
             "bx": (g[0] * rest).sum(0), "by": (g[1] * rest).sum(0)}  # fmt: skip
    fit = fit_magnification(total, np.ones(len(group.kx)), group)
    np.testing.assert_allclose(fit.change, np.eye(2) + change, atol=1e-9)
    np.testing.assert_allclose(fit.observed, displacement, atol=1e-7)
    with pytest.raises(UserError, match="cannot be told"):
        fit_magnification(total, np.where(group.ky == 0, 1.0, 0.0), group)


def test_mean_magnification_and_anisotropy():
    mean, difference = anisotropy(np.diag([1.02, 0.99]))
    assert (mean, difference) == pytest.approx((1.005, 0.03))


def test_adapted_astigmatism_leaves_the_ctf_of_the_image_as_it_was():
    change = np.array([[1.012, 0.006], [-0.004, 0.991]])
    kx, ky = disc_pixels(40)
    before = CtfParams([12000.0, 15000.0], [11500.0, 14900.0], [20.0, -70.0], cs=np.zeros(2))
    after = adapt_astigmatism(before, change)
    np.testing.assert_allclose(
        ctf_values(after, kx, ky, BOX, ANGPIX, magnification=change), ctf_values(before, kx, ky, BOX, ANGPIX), atol=1e-4
    )
    together = adapt_astigmatism(before, change, np.zeros(2, int))
    np.testing.assert_allclose(np.diff(together.defocus_angle), 0.0, atol=1e-9)
    np.testing.assert_allclose(together.defocus_u + together.defocus_v, after.defocus_u + after.defocus_v, rtol=1e-12)


@pytest.mark.parametrize("kind", sums.KINDS)
def test_sums_survive_their_files(tmp_path, kind):
    group = optics()
    rng = np.random.default_rng(2)
    total = {name: rng.standard_normal(len(group.kx)) for name in sums.paths("", kind, 1)}
    root = str(tmp_path / "mic1")
    assert not sums.are_there(root, kind, 1)
    sums.write_sums(root, kind, group, total)
    assert sums.are_there(root, kind, 1)
    for name, values in sums.read_sums(root, kind, group).items():
        np.testing.assert_allclose(values, total[name], rtol=1e-6)
