"""CTF parameters of a micrograph: the comparison by brute force in float64, and fits of known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from relion_py.compute.ctf_refine import defocus
from relion_py.compute.ctf_refine.bfactor import BfactorSettings, fit_bfactors
from relion_py.compute.ctf_refine.defocus import BFACTOR, COUNT, FitMode, decode, encode
from relion_py.compute.ctf_refine.particles import Optics, Views
from relion_py.compute.errors import UserError
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.image.fourier import disc_pixels

EVEN = (0.0, 0.4, 0.0, -0.7, 20.0, -10.0, 15.0, 8.0, -12.0)
MAGNIFICATION = np.array([[1.01, 0.004], [-0.002, 0.995]])


def optics(aberrations: Aberrations | None = None) -> Optics:
    kx, ky = disc_pixels(30)
    return Optics(1, "one", 64, 1.5, 300.0, 2.7, aberrations or Aberrations(), kx, ky)


def params(n: int = 6, **changes: object) -> CtfParams:
    rng = np.random.default_rng(1)
    u = rng.uniform(8000, 16000, n)
    ctf = CtfParams(u, u - 400.0, np.full(n, 25.0), phase_shift=np.full(n, 10.0), q0=np.full(n, 0.1))
    return replace(ctf, **{name: np.broadcast_to(value, n).astype(float) for name, value in changes.items()})


def independent_ctf(ctf: CtfParams, n: int, group: Optics) -> np.ndarray:
    """The textbook's CTF of one particle in float64 (P,), frequencies distorted and aberrations written out."""
    k = np.stack([group.kx, group.ky]) / group.length
    x, y = k if group.aberrations.magnification is None else group.aberrations.magnification @ k
    r2, phi = x * x + y * y, np.arctan2(y, x)
    volt = ctf.voltage[n] * 1e3
    wavelength = 12.2643247 / np.sqrt(volt * (1 + volt * 0.978466e-6))
    u, v, angle = ctf.defocus_u[n], ctf.defocus_v[n], np.deg2rad(ctf.defocus_angle[n])
    local = 0.5 * (u + v + (u - v) * np.cos(2 * (phi - angle)))
    chi = np.pi * wavelength * local * r2 - 0.5 * np.pi * ctf.cs[n] * 1e7 * wavelength**3 * r2**2
    chi += np.deg2rad(ctf.phase_shift[n]) + np.arcsin(ctf.q0[n])
    if group.aberrations.even:
        e = group.aberrations.even
        chi -= e[1] * 2 * x * y + e[3] * (x * x - y * y) + e[0] + e[2] * (2 * r2 - 1)
        chi -= e[4] * 4 * x * y * (x * x - y * y) + e[5] * (4 * r2 - 3) * 2 * x * y + e[6] * (6 * r2**2 - 6 * r2 + 1)
        chi -= e[7] * (4 * r2 - 3) * (x * x - y * y) + e[8] * (x**4 - 6 * x * x * y * y + y**4)
    return ctf.scale[n] * np.exp(-ctf.bfactor[n] / 4 * r2) * np.sin(chi)


def views(ctf: CtfParams, group: Optics, noise: float = 0.0) -> Views:
    """Random predictions, and the images that these CTFs make of them."""
    rng = np.random.default_rng(2)
    shape = (len(ctf), len(group.kx))
    predicted = rng.standard_normal((2, *shape)) / (1.0 + np.hypot(group.kx, group.ky) / 10)
    predicted = predicted[0] + 1j * predicted[1]
    observed = np.stack([independent_ctf(ctf, n, group) for n in range(len(ctf))]) * predicted
    observed = observed + noise * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    every = np.arange(len(ctf))
    return Views(
        group, every, every % 2, np.zeros((len(ctf), 3, 3), np.float32),
        observed.astype(np.complex64), predicted.astype(np.complex64), 1.0,
    )  # fmt: skip


def weight(group: Optics) -> np.ndarray:
    return np.where(np.hypot(group.kx, group.ky) > 4, 0.8, 0.0)


@pytest.mark.parametrize("aberrations", [Aberrations(), Aberrations(even=EVEN, magnification=MAGNIFICATION)])
def test_costs_are_the_squared_differences(aberrations):
    group, truth = optics(aberrations), params(bfactor=20.0, scale=0.8)
    seen, w = views(truth, group, 0.1), weight(optics())
    trial = replace(truth, defocus_u=truth.defocus_u + 300.0, bfactor=truth.bfactor + 5.0)
    found = defocus._Comparison(seen, w).costs(encode(trial))
    for n in range(len(truth)):
        model = independent_ctf(trial, n, group) * seen.predicted[n].astype(np.complex128)
        difference = (w * np.abs(seen.observed[n] - model) ** 2).sum() - (w * np.abs(seen.observed[n]) ** 2).sum()
        assert found[n] == pytest.approx(difference, rel=1e-4)


def test_gradients_are_differences_of_costs():
    group, truth = optics(), params(bfactor=20.0, scale=0.8)
    compared = defocus._Comparison(views(truth, group, 0.1), weight(group))
    theta = encode(replace(truth, defocus_u=truth.defocus_u + 200.0))
    cost, gradient, _ = compared.normal_equations(theta)
    np.testing.assert_allclose(cost, compared.costs(theta), rtol=1e-6)
    steps = np.array([1e-4, 1e-2, 1e-2, 1e-2, 1e-1, 1e-1, 1e-4])
    for i in range(COUNT):
        ahead, behind = theta.copy(), theta.copy()
        ahead[:, i] += steps[i]
        behind[:, i] -= steps[i]
        slope = (compared.costs(ahead) - compared.costs(behind)) / (4 * steps[i])
        np.testing.assert_allclose(gradient[:, i], slope, rtol=2e-3, atol=1e-3 * np.abs(slope).max())


def test_parameters_survive_the_way_there_and_back():
    ctf = params(bfactor=30.0, scale=0.7)
    back = decode(encode(ctf), ctf, FitMode.parse("ppppp"))
    for name in ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "cs", "bfactor", "scale"):
        np.testing.assert_allclose(getattr(back, name), getattr(ctf, name), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("text", ["", "fpmf", "fpmfmm", "fpxfm"])
def test_wrong_modes_are_refused(text):
    with pytest.raises(UserError, match="--fit_mode"):
        FitMode.parse(text)


def test_fixed_parameters_stay_as_they_are():
    truth, group = params(), optics()
    [found] = defocus.fit([views(truth, group)], [truth], [weight(group)], FitMode.parse("fffff"))
    for name in ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "cs", "bfactor", "scale"):
        np.testing.assert_array_equal(getattr(found, name), getattr(truth, name))


@pytest.mark.parametrize("aberrations", [Aberrations(), Aberrations(even=EVEN, magnification=MAGNIFICATION)])
def test_defocus_per_particle_and_astigmatism_per_micrograph(aberrations):
    truth, group = params(12), optics(aberrations)
    error = np.random.default_rng(4).normal(0, 150, 12)
    start = replace(
        truth, defocus_u=truth.defocus_u + error - 100, defocus_v=truth.defocus_v + error + 100,
        defocus_angle=truth.defocus_angle + 20,
    )  # fmt: skip
    [found] = defocus.fit([views(truth, group, 0.05)], [start], [weight(group)], FitMode.parse("fpmff"))
    assert np.abs(found.defocus_u - truth.defocus_u).max() < 10.0
    assert np.abs(found.defocus_v - truth.defocus_v).max() < 10.0
    assert np.ptp(found.defocus_angle) < 1e-9 and found.defocus_angle[0] == pytest.approx(25.0, abs=0.5)


def test_phase_shift_cs_bfactor_and_scale():
    truth, group = params(10, bfactor=40.0, scale=0.7), optics()
    start = replace(
        truth, phase_shift=truth.phase_shift + 8, cs=truth.cs - 0.2, bfactor=np.zeros(10), scale=np.ones(10)
    )
    [found] = defocus.fit([views(truth, group, 0.02)], [start], [weight(group)], FitMode.parse("mpfmp"))
    assert found.phase_shift[0] == pytest.approx(10.0, abs=0.5) and np.ptp(found.phase_shift) < 1e-9
    assert found.cs[0] == pytest.approx(2.7, abs=0.05)
    assert np.abs(found.bfactor - 40.0).max() < 3.0
    assert np.abs(found.scale - 0.7).max() < 0.02


def test_two_optics_groups_share_what_is_the_micrographs():
    truth, groups = params(10), [optics(), optics(Aberrations(even=EVEN))]
    halves = [truth[:4], truth[4:]]
    seen = [views(part, group, 0.02) for part, group in zip(halves, groups, strict=True)]
    start = [replace(part, phase_shift=part.phase_shift + 5.0) for part in halves]
    found = defocus.fit(seen, start, [weight(g) for g in groups], FitMode.parse("mpfff"))
    phases = np.concatenate([part.phase_shift for part in found])
    assert np.ptp(phases) < 1e-9 and phases[0] == pytest.approx(10.0, abs=0.3)
    for part, true in zip(found, halves, strict=True):
        assert np.abs(part.defocus_u - true.defocus_u).max() < 10.0


def test_a_search_finds_what_is_far_off():
    truth, group = params(8), optics()
    start = replace(truth, defocus_u=truth.defocus_u + 1500, defocus_v=truth.defocus_v + 1500)
    seen = views(truth, group, 0.1)
    [descended] = defocus.fit([seen], [start], [weight(group)], FitMode.parse("fpfff"))
    assert np.abs(descended.defocus_u - truth.defocus_u).max() > 500.0  # the valley beside it
    found = defocus.scan(seen, start, weight(group), 2000.0)
    assert np.abs(found.defocus_u - truth.defocus_u).max() < 10.0
    np.testing.assert_allclose(found.defocus_u - found.defocus_v, 400.0)


@pytest.mark.parametrize("per_micrograph", [False, True])
def test_bfactors_from_amplitudes_by_shell(per_micrograph):
    truth, group = params(8, bfactor=60.0, scale=0.8), optics()
    settings = BfactorSettings(-30.0, 300.0, 0.2, per_micrograph)
    start = replace(truth, bfactor=np.full(8, 500.0), scale=np.full(8, 3.0))  # which must not matter
    [found] = fit_bfactors([views(truth, group, 0.01)], [start], [weight(group)], settings)
    np.testing.assert_allclose(found.bfactor, 60.0 + 30.0, atol=1.0)  # less the smallest, as in the reference
    np.testing.assert_allclose(found.scale, 0.8, atol=0.01)
    np.testing.assert_array_equal(found.defocus_u, truth.defocus_u)


def test_the_order_of_parameters_is_that_of_the_letters():
    assert FitMode.parse("pffff").own == (0,)
    assert FitMode.parse("ffffm").shared == (BFACTOR, BFACTOR + 1)
    assert FitMode.parse("fpmff") == FitMode((1,), (2, 3))


def test_noise_does_not_drive_a_particle_out_of_its_valley():
    """Images of almost nothing but noise: each fit ends at the first minimum downhill of where it began."""
    truth, group = params(40), optics()
    error = np.random.default_rng(5).normal(0, 100, len(truth))
    start = replace(truth, defocus_u=truth.defocus_u + error, defocus_v=truth.defocus_v + error)
    seen = views(truth, group, 20.0)
    [found] = defocus.fit([seen], [start], [weight(group)], FitMode.parse("fpfff"))
    compared, offsets = defocus._Comparison(seen, weight(group)), np.arange(-4000.0, 4000.5, 10.0)
    landscape = np.stack([
        compared.costs(encode(replace(start, defocus_u=start.defocus_u + d, defocus_v=start.defocus_v + d)))
        for d in offsets
    ])  # fmt: skip
    moved = found.defocus_u - start.defocus_u
    for n, cost in enumerate(landscape.T):
        at = len(offsets) // 2
        way = 1 if cost[at + 1] < cost[at] else -1
        while cost[at + way] < cost[at]:
            at += way
        assert moved[n] == pytest.approx(offsets[at], abs=15.0), n


@pytest.mark.parametrize("mode", ["fpmff", "fppff", "mpmff"])
def test_noise_alone_is_fitted_without_failing(mode):
    truth, group = params(100), optics()
    seen = views(truth, group, 2000.0)
    compared = defocus._Comparison(seen, weight(group))
    [found] = defocus.fit([seen], [truth], [weight(group)], FitMode.parse(mode))
    assert compared.costs(encode(found)).sum() < compared.costs(encode(truth)).sum()
    assert np.abs(found.defocus_u - truth.defocus_u).max() < 3000.0
