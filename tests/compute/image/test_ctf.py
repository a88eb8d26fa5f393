"""CTF values against projections that RELION 5 wrote with and without --ctf, and against the formula."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams, ctf_image, ctf_values, electron_wavelength

GOLDEN = Path(__file__).parents[2] / "golden" / "project"


def read_gz(path: Path) -> np.ndarray:
    with mrcfile.open(path, permissive=True) as mrc:
        return np.array(mrc.data, dtype=np.float64)


def golden_rows() -> np.ndarray:
    lines = (GOLDEN / "ang.star").read_text().splitlines()
    return np.array([[float(w) for w in line.split()[:9]] for line in lines if line.strip().endswith("x.mrcs")])


@pytest.fixture(scope="module")
def golden_params() -> CtfParams:
    rows = golden_rows()
    return CtfParams(rows[:, 5], rows[:, 6], rows[:, 7], voltage=300.0, cs=2.7, q0=0.1, phase_shift=rows[:, 8])


def test_ctf_and_its_sign_are_those_of_relion_project(golden_params: CtfParams) -> None:
    plain = np.fft.rfft2(read_gz(GOLDEN / "proj.mrcs.gz"))
    seen = np.fft.rfft2(read_gz(GOLDEN / "projctf.mrcs.gz"))
    ours = ctf_image(golden_params, 100, 3.54).astype(np.float64)
    # inside Nyquist, where the reference's projections have power
    inside = np.hypot(np.fft.fftfreq(100)[:, None], np.fft.rfftfreq(100)[None]) < 0.48
    for n in range(len(golden_params)):
        error = np.abs(seen[n] - ours[n] * plain[n])[inside]
        assert error.max() < 2e-5 * np.abs(plain[n]).max()
        assert np.linalg.norm(error) < 1e-4 * np.linalg.norm(seen[n][inside])
        # the same test fails for the other sign
        assert np.linalg.norm((seen[n] + ours[n] * plain[n])[inside]) > np.linalg.norm(seen[n][inside])


def test_formula_of_the_field() -> None:
    """-sin of Rohou and Grigorieff's chi (2015, eq. 2-4) with the phase of the amplitude contrast."""
    rng = np.random.default_rng(3)
    params = CtfParams(
        *(rng.uniform(low, high, 5) for low, high in [(8e3, 3e4), (8e3, 3e4), (-180, 180), (80, 300)]),
        *(rng.uniform(low, high, 5) for low, high in [(0, 2.7), (0, 0.2), (0, 180), (0, 80)]),
        0.7,
    )
    kx, ky = rng.integers(0, 32, 200), rng.integers(-32, 32, 200)
    s2 = (kx**2 + ky**2) / (64 * 1.3) ** 2
    for n in range(5):
        wavelength = electron_wavelength(params.voltage[n])
        around = 2 * (np.arctan2(ky, kx) - np.deg2rad(params.defocus_angle[n]))
        u, v = params.defocus_u[n], params.defocus_v[n]
        defocus = 0.5 * (u + v + (u - v) * np.cos(around))
        chi = np.pi * wavelength * s2 * (defocus - 0.5 * wavelength**2 * s2 * params.cs[n] * 1e7)
        chi += np.deg2rad(params.phase_shift[n])
        chi += np.arctan(params.q0[n] / np.sqrt(1 - params.q0[n] ** 2))
        expected = np.sin(chi) * np.exp(-params.bfactor[n] * s2 / 4) * 0.7
        got = ctf_values(params[n], kx, ky, 64, 1.3)[0]
        np.testing.assert_allclose(got, expected, atol=2e-6)
        flipped = ctf_values(params[n], kx, ky, 64, 1.3, only_flip_phases=True)[0]
        np.testing.assert_allclose(flipped, 0.7 * np.where(expected < 0, -1, 1), atol=1e-6)
        absolute = ctf_values(params[n], kx, ky, 64, 1.3, absolute=True)[0]
        np.testing.assert_allclose(absolute, np.abs(expected), atol=2e-6)
        intact = ctf_values(params[n], kx, ky, 64, 1.3, intact_first_peak=True, damping=False)[0]
        np.testing.assert_allclose(intact, np.where(np.abs(chi) < np.pi / 2, 0.7, 0.7 * np.sin(chi)), atol=2e-6)
        later = ctf_values(params[n], kx, ky, 64, 1.3, intact_after_first_peak=True, damping=False)[0]
        np.testing.assert_allclose(later, np.where(np.abs(chi) > np.pi / 2, 0.7, 0.7 * np.sin(chi)), atol=2e-6)


def test_wavelength_of_textbooks() -> None:
    np.testing.assert_allclose(electron_wavelength([100, 200, 300]), [0.03701, 0.02508, 0.01969], atol=2e-5)


def test_magnification_matrix_and_even_aberrations() -> None:
    params = CtfParams(15000.0, 14000.0, 30.0)
    kx, ky = np.array([3, 10, 25]), np.array([-7, 0, 12])
    twice = ctf_values(params, kx, ky, 64, 2.0, magnification=[[2.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(twice, ctf_values(params, 2 * kx, 2 * ky, 64, 2.0), atol=1e-6)
    sheared = ctf_values(params, kx, ky, 64, 2.0, magnification=[[1.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(sheared, ctf_values(params, kx + ky, ky, 64, 2.0), atol=1e-6)
    shifted = ctf_values(params, kx, ky, 64, 2.0, gamma_offset=np.full(3, -np.pi / 3))
    plate = CtfParams(15000.0, 14000.0, 30.0, phase_shift=60.0)
    np.testing.assert_allclose(shifted, ctf_values(plate, kx, ky, 64, 2.0), atol=1e-6)


def test_no_value_is_zero() -> None:
    values = ctf_values(CtfParams(15000.0, 15000.0, q0=0.0), [0], [0], 64, 1.0)
    assert abs(values[0, 0]) == np.float32(1e-8)


def test_mistakes_are_sentences() -> None:
    with pytest.raises(UserError, match="amplitude contrast"):
        CtfParams(1e4, 1e4, q0=1.5)
    with pytest.raises(UserError, match="voltage"):
        CtfParams(1e4, 1e4, voltage=0.0)
    with pytest.raises(UserError, match="zero everywhere"):
        CtfParams([1e4, 0.0], [1e4, 0.0], cs=0.0, q0=0.0)


def test_selection_of_particles() -> None:
    params = CtfParams(np.arange(1, 6) * 1e3, 5e3)
    assert len(params) == 5
    assert list(params[1:3].defocus_u) == [2e3, 3e3]
    assert list(params[np.array([4, 0])].defocus_u) == [5e3, 1e3]
