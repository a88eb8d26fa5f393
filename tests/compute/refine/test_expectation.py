"""The expectation step against a float64 sum over every orientation and shift, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.backend.kernels_numba import insert, project
from relion_py.compute.geometry.euler import matrix_to_euler
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.refine.expectation import Expectation, ExpectationSettings, WeightedSums
from relion_py.compute.refine.images import DiscPixels, PreparedImages
from relion_py.compute.refine.model import SamplingState
from relion_py.compute.refine.sampling import LocalSearch, SamplingTables

BOX, PIXEL, PAD, CLASSES = 24, 2.0, 2.0, 2
COARSE, FINE = 10, 16
SIZE = 2 * (PAD * (FINE // 2) + 1) + 1


def _volume(rng: np.random.Generator) -> np.ndarray:
    """A smooth Hermitian transform (Z, Y, X), as of a real map of a few blobs off the centre."""
    n = int(SIZE)
    z, y, x = np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2, np.arange(n // 2 + 1), indexing="ij")
    out = np.zeros(x.shape, complex)
    for _ in range(6):
        place = rng.uniform(-3.5, 3.5, 3)
        phase = -2j * np.pi * (x * place[0] + y * place[1] + z * place[2]) / (BOX * PAD)
        out += rng.uniform(0.5, 1.5) * np.exp(phase - (x**2 + y**2 + z**2) / (2 * (n / 3) ** 2))
    return out.astype(np.complex64) * 0.05


@pytest.fixture(scope="module")
def problem():
    """Six particles of two classes and the pieces an Expectation needs."""
    return _six_particles(False)


def _six_particles(with_origin):
    rng = np.random.default_rng(4)
    volumes = np.stack([_volume(rng) for _ in range(CLASSES)])
    grid = Sampling(healpix_order=1, symmetry="C2", perturbation=0.31)
    state = SamplingState(healpix_order=1, offset_range=3.0, offset_step=2.0)
    tables = SamplingTables.of(grid, state, 1)
    fine, coarse = DiscPixels.of_size(FINE, with_origin), DiscPixels.of_size(COARSE, with_origin)
    n, shells = 6, BOX // 2 + 1
    truth_dir = rng.integers(0, tables.directions, n)
    truth_psi = rng.integers(0, tables.angles, n)
    rotation = tables.fine_rotation(truth_dir, truth_psi, rng.integers(0, 8, n)).astype(np.float32)
    truth_class = rng.integers(0, CLASSES, n)
    ctf = rng.uniform(0.3, 1.0, (n, fine.size)).astype(np.float32)
    images = np.empty((n, fine.size), np.complex64)
    for i in range(n):
        row = np.empty((1, fine.size), np.complex64)
        _project(volumes[truth_class[i]], rotation[i : i + 1], fine, row)
        images[i] = row[0] * ctf[i]
    sigma2 = np.full((1, shells), 2e-3) * (1 + np.arange(shells) / shells)
    noise = np.sqrt(sigma2[0, fine.shell]) * (
        rng.standard_normal(images.shape) + 1j * rng.standard_normal(images.shape)
    )
    images = (images + noise).astype(np.complex64)
    spectrum = np.zeros((n, shells))
    for i in range(n):
        spectrum[i] = np.bincount(fine.shell, np.abs(images[i]) ** 2, shells)
    spectrum[:, FINE // 2 + 1 :] = rng.uniform(0.01, 0.02, (n, shells - FINE // 2 - 1))
    prepared = PreparedImages(
        index=np.arange(n), masked=images, unmasked=(images * np.float32(1.1)).astype(np.complex64), ctf=ctf,
        optics=np.zeros(n, np.int64), group=np.arange(n) % 2, scale=np.ones(n), old_offset=rng.uniform(-2, 2, (n, 2)),
        spectrum=spectrum, applied_norm=np.full(n, 0.9), fine=fine, coarse=coarse,
        coarse_in_fine=coarse.positions_in(fine), scale_shells=(np.arange(shells) < 6) & (np.arange(shells) > 0),
    )  # fmt: skip
    pdf = rng.uniform(0.5, 1.5, (CLASSES, tables.directions))
    inverse = np.divide(1.0, sigma2).astype(np.float32)
    inverse[:, 0] = 0
    return volumes, grid, tables, prepared, np.log(pdf / pdf.mean()).astype(np.float32), inverse


def _project(volume, rotations, pixels, out):
    project(
        volume,
        np.ascontiguousarray(rotations, np.float32),
        pixels.kx,
        pixels.ky,
        np.float32(PAD),
        np.float32(PAD * pixels.r_max),
        out,
    )


def _brute_scores(problem, particle, pixels, take, mats_of, shifts, correlate, prior_of, sigma2_offset):
    """Float64 scores (K, D, Q, children, T, V) of one particle, by definition of the squared difference."""
    volumes, _, tables, images, _, inverse = problem
    x = images.masked[particle, take].astype(complex)
    ctf = images.ctf[particle, take].astype(float)
    weight = inverse[0, pixels.shell].astype(float)
    total = images.old_offset[particle] + tables.shifts_unperturbed
    log_shift = -np.sum(total**2, axis=1) / (2 * sigma2_offset)
    log_shift -= np.log(np.mean(np.exp(log_shift)))
    moved = x * _phases(images, particle, pixels, shifts)  # (T, V, P)
    times = _times_in_transform(pixels)
    out = np.empty((CLASSES, tables.directions, tables.angles, mats_of(0, 0).shape[0], *shifts.shape[:2]))
    for k in range(CLASSES):
        for d in range(tables.directions):
            for q in range(tables.angles):
                rotations = mats_of(d, q)
                rows = np.empty((len(rotations), pixels.size), np.complex64)
                _project(volumes[k], rotations, pixels, rows)
                reference = rows.astype(complex) * ctf
                if correlate:
                    product = np.einsum("tvp,rp,p->rtv", moved, reference.conj(), times).real
                    out[k, d, q] = product / np.sqrt(np.abs(reference) ** 2 @ times)[:, None, None]
                    continue
                difference = np.abs(moved[None] - reference[:, None, None]) ** 2
                misfit = 0.5 * np.sum((np.abs(x) ** 2 - difference) * weight, axis=-1)
                out[k, d, q] = misfit + prior_of(k, d, q) + log_shift[:, None]
    return out


def _times_in_transform(pixels):
    """How often each pixel, or its conjugate, is in a half transform of the size: rows -size / 2 + 1 ... size / 2."""
    there = np.arange(-pixels.r_max + 1, pixels.r_max + 1)
    mate = (pixels.kx == 0) & (pixels.ky != 0) & np.isin(-pixels.ky, there)
    return np.isin(pixels.ky, there).astype(float) + mate


def _phases(images, particle, pixels, shifts):
    """Phases (..., P) of shifts (..., 2) A in the particle's frame."""
    x, y = shifts[..., :1], shifts[..., 1:]
    if images.turn is not None:
        cosine, sine = images.turn[particle]
        x, y = cosine * x + sine * y, cosine * y - sine * x
    return np.exp(-2j * np.pi * (x * pixels.kx + y * pixels.ky) / (PIXEL * BOX))


def _coarse_mats(tables):
    return lambda d, q: tables.coarse_rotations(d * tables.angles + q, d * tables.angles + q + 1)


def _fine_mats(tables):
    children = np.arange(8)
    return lambda d, q: tables.fine_rotation(np.full(8, d), np.full(8, q), children).astype(np.float32)


def _posterior(problem, particle, correlate, prior_of, sigma2_offset, fraction=0.999):
    """Weights (K, D, Q, 8, T, V) of the adaptive scheme, by sorting; and log of their total before the cut."""
    _, _, tables, images, _, _ = problem
    coarse = _brute_scores(
        problem, particle, images.coarse, images.coarse_in_fine, _coarse_mats(tables), tables.shifts[:, None],
        correlate, prior_of, sigma2_offset,
    )  # fmt: skip
    fine = _brute_scores(
        problem, particle, images.fine, slice(None), _fine_mats(tables), tables.child_shifts, correlate, prior_of,
        sigma2_offset,
    )  # fmt: skip
    if correlate:
        keep = coarse == coarse.max()
        fine = np.where(keep, fine, -np.inf)
        return (fine == fine.max()).astype(float), 0.0
    cut, _ = _cut(coarse, fraction)
    fine = np.where(coarse >= cut, fine, -np.inf)
    cut, log_total = _cut(fine, fraction)
    return np.where(fine >= cut, np.exp(fine - log_total), 0.0), log_total


def _cut(scores, fraction):
    best = scores.max()
    weights = np.exp(scores - best).ravel()
    order = np.sort(weights)[::-1]
    smallest = order[np.searchsorted(np.cumsum(order), fraction * order.sum())]
    return best + np.log(smallest) - 1e-9, best + np.log(weights.sum())


@pytest.mark.parametrize("mode", ["global", "in pieces", "local", "correlate", "residual", "turned", "premultiplied"])
@pytest.mark.parametrize("threads", [1, 3])
def test_posterior_and_sums_equal_brute_force(problem, mode, threads, monkeypatch):
    if mode == "in pieces":
        monkeypatch.setattr("relion_py.compute.refine.expectation.FEWEST", 2)
        monkeypatch.setattr(CpuBackend, "work_bytes", lambda _: 4)
    if mode == "correlate":
        problem = _six_particles(True)
    volumes, grid, tables, images, log_pdf, inverse = problem
    n, sigma2_offset = len(images), 9.0
    if mode == "premultiplied":
        images = replace(images, premultiplied=True)
        problem = (*problem[:3], images, *problem[4:])
    if mode == "turned":
        angles = np.linspace(0.3, 5.9, n)
        images = replace(images, turn=np.stack([np.cos(angles), np.sin(angles)], axis=-1))
        problem = (*problem[:3], images, *problem[4:])
    local = None
    if mode == "local":
        angles = matrix_to_euler(tables.fine_rotation(np.arange(n), np.arange(n), np.zeros(n, int)))
        local = LocalSearch.around(grid, images.index, n, angles, (20.0, 20.0, 25.0))
    sums = WeightedSums.zeros(volumes.shape[1:], CLASSES, tables.directions, images.shells, 1, 2)
    settings = ExpectationSettings(
        correlate=mode == "correlate",
        residual=mode == "residual",
        sigma2_offset=sigma2_offset,
        pixel_size=PIXEL,
        box=BOX,
    )
    with CpuBackend(threads, work_mib=1) as backend:
        step = Expectation(backend, settings, volumes, PAD, PAD * FINE // 2, tables, log_pdf, inverse, sums, local)
        found = step.run(images)
        step.finish()

    grids = np.zeros(sums.grids.shape, np.float32)
    direction_sum = np.zeros_like(sums.pdf_direction)
    noise = np.zeros(images.shells)
    offset_sum, signal, power = 0.0, np.zeros(2), np.zeros(2)
    for i in range(n):
        prior_of = _prior(local, i, log_pdf, tables)
        weights, log_total = _posterior(problem, i, mode == "correlate", prior_of, sigma2_offset)
        assert found.pmax[i] == pytest.approx(weights.max(), abs=2e-3)
        k, d, q, child, t, v = np.unravel_index(weights.argmax(), weights.shape)
        assert found.class_index[i] == k
        np.testing.assert_allclose(found.matrix[i], tables.fine_rotation(*(np.array([a]) for a in (d, q, child)))[0])
        offset = images.in_image((images.old_offset[i] + tables.child_shifts[t, v])[None], np.array([i]))[0]
        np.testing.assert_allclose(found.offset[i], offset)
        direction_sum += weights.sum(axis=(2, 3, 4, 5))
        per_shift = weights.sum(axis=(0, 1, 2, 3))
        offset_sum += np.sum(per_shift[..., None] * (images.old_offset[i] + tables.child_shifts) ** 2)
        if mode != "correlate":
            shell = images.fine.shell
            likelihood = log_total - 0.5 * np.sum(np.abs(images.masked[i]) ** 2 * inverse[0, shell])
            likelihood -= 0.5 * images.spectrum[i, FINE // 2 + 1 :].sum()
            likelihood -= np.sum(np.log(2 * np.pi / inverse[0, 1:]) * _pixels_of_shells(FINE, images.shells)[1:])
            assert found.log_likelihood[i] == pytest.approx(likelihood, rel=1e-4, abs=0.05)
        else:
            power_of_image = np.sum(np.abs(images.masked[i]) ** 2 * _times_in_transform(images.fine))
            best = _brute_scores(
                problem, i, images.fine, slice(None), _fine_mats(tables), tables.child_shifts, True, prior_of, 1.0
            )[k, d, q, child, t, v]
            assert found.log_likelihood[i] == pytest.approx(best / np.sqrt(power_of_image), rel=1e-4)
        xa, aa, per_shell = _add_sums(problem, i, weights, grids, mode == "residual")
        noise += per_shell
        noise[FINE // 2 + 1 :] += images.spectrum[i, FINE // 2 + 1 :]
        signal[i % 2] += xa
        power[i % 2] += aa
    scale = np.abs(grids).max()
    np.testing.assert_allclose(sums.grids, grids, atol=4e-3 * scale)
    np.testing.assert_allclose(sums.pdf_direction, direction_sum, atol=2e-3)
    np.testing.assert_allclose(sums.sigma2_noise[0, 1:], noise[1:], rtol=5e-3)
    np.testing.assert_allclose(sums.sigma2_offset, offset_sum, rtol=3e-3)
    np.testing.assert_allclose(sums.signal_product, signal, rtol=5e-3)
    np.testing.assert_allclose(sums.reference_power, power, rtol=5e-3)
    assert not sums.failed
    ctf2 = np.bincount(images.fine.shell, images.ctf.sum(axis=0), images.shells)
    np.testing.assert_allclose(sums.ctf2[0], ctf2 if mode == "premultiplied" else 0.0, rtol=1e-4)


def test_means_of_images_count_in_the_sums_but_not_in_the_scores(problem):
    volumes, _, tables, images, log_pdf, inverse = problem
    rng, n = np.random.default_rng(8), len(images)
    origin = np.stack([rng.normal(0.5, 0.1, n), rng.uniform(0.05, 0.1, n), rng.normal(0.3, 0.1, n)], axis=1)
    inverse = inverse.copy()
    inverse[0, 0] = 700.0
    sums, found = [], []
    for mine in (None, origin):
        sums.append(WeightedSums.zeros(volumes.shape[1:], CLASSES, tables.directions, images.shells, 1, 2))
        settings = ExpectationSettings(sigma2_offset=9.0, pixel_size=PIXEL, box=BOX)
        with CpuBackend(1) as backend:
            step = Expectation(backend, settings, volumes, PAD, PAD * FINE // 2, tables, log_pdf, inverse, sums[-1])
            looked = replace(images, origin=mine, scale_shells=np.arange(images.shells) < 6)
            found.append(step.run(looked))
            step.finish()
    np.testing.assert_array_equal(found[1].matrix, found[0].matrix)
    np.testing.assert_allclose(found[1].log_likelihood, found[0].log_likelihood)
    centre = (slice(None), int(SIZE) // 2, int(SIZE) // 2, 0)
    means, values = volumes[centre].real, np.zeros((CLASSES, 2))
    noise, norm, products, powers = 0.0, np.zeros(n), np.zeros(2), np.zeros(2)
    for i, (unmasked, ctf, masked) in enumerate(origin):
        weights, _ = _posterior(problem, i, False, _prior(None, i, log_pdf, tables), 9.0)
        of_class = weights.sum(axis=(1, 2, 3, 4, 5))
        norm[i] = of_class @ (masked - ctf * means) ** 2
        noise += norm[i]
        products[i % 2] += of_class @ (masked * ctf * means)
        powers[i % 2] += of_class @ (ctf * means) ** 2
        values += 700.0 * of_class[:, None] * [ctf * unmasked, ctf**2]
    assert sums[1].sigma2_noise[0, 0] == pytest.approx(noise, rel=1e-2)
    squared = [(each.norm_correction / 0.9) ** 2 / 2.0 for each in found]
    np.testing.assert_allclose(squared[1] - squared[0], norm, rtol=2e-2)
    np.testing.assert_allclose(sums[1].signal_product - sums[0].signal_product, products, rtol=1e-2)
    np.testing.assert_allclose(sums[1].reference_power - sums[0].reference_power, powers, rtol=1e-2)
    np.testing.assert_allclose((sums[1].grids - sums[0].grids)[(*centre, slice(None, None, 2))], values, rtol=1e-2)


def _pixels_of_shells(size, shells):
    """Pixels in each shell of a half transform cut to `size`, its last column's row by row."""
    count = np.zeros(shells)
    for ky in range(-size // 2 + 1, size // 2 + 1):
        for kx in range(size // 2 + 1):
            shell = round(float(np.hypot(kx, ky)))
            if shell <= size // 2 and not (kx == 0 and ky < 0):
                count[shell] += 1
    return count


def _prior(local, i, log_pdf, tables):
    if local is None:
        return lambda k, d, q: float(log_pdf[k, d])
    table = np.full((tables.directions, tables.angles), -np.inf)
    dirs, dir_weights = local.directions.of(i)
    psis, psi_weights = local.psis.of(i)
    table[np.ix_(dirs, psis)] = np.log(dir_weights / dir_weights.mean())[:, None] + np.log(
        psi_weights / psi_weights.mean()
    )
    return lambda k, d, q: table[d, q]


def _add_sums(problem, i, weights, grids, residual):
    """Back-projects one particle's weighted images or residuals; returns its scale sums and noise by shell."""
    volumes, _, tables, images, _, inverse = problem
    pixels, mats = images.fine, _fine_mats(tables)
    ctf = images.ctf[i].astype(float)
    weight = inverse[0, pixels.shell].astype(float)
    xa = aa = 0.0
    noise = np.zeros(images.shells)
    for k, d, q, child in zip(*np.nonzero(weights.sum(axis=(4, 5)) > 0), strict=True):
        rotation = mats(d, q)[child : child + 1]
        row = np.empty((1, pixels.size), np.complex64)
        _project(volumes[k], rotation, pixels, row)
        reference = row[0].astype(complex) * ctf
        numerator, denominator = np.zeros(pixels.size, complex), np.zeros(pixels.size)
        for t, v in zip(*np.nonzero(weights[k, d, q, child]), strict=True):
            w = weights[k, d, q, child, t, v]
            phase = _phases(images, i, pixels, tables.child_shifts[t, v])
            masked, unmasked = images.masked[i] * phase, images.unmasked[i] * phase
            again = 1.0 if images.premultiplied else ctf
            numerator += w * again * weight * (unmasked - reference if residual else unmasked)
            denominator += w * again * ctf * weight
            noise += np.bincount(pixels.shell, w * np.abs(masked - reference) ** 2, images.shells)
            use = images.scale_shells[pixels.shell]
            xa += w * np.sum((masked * reference.conj()).real[use])
            aa += w * np.sum(np.abs(reference[use]) ** 2)
        insert(
            grids[k], numerator[None].astype(np.complex64), denominator[None].astype(np.float32), rotation,
            pixels.kx, pixels.ky, np.float32(PAD), np.float32(PAD * pixels.r_max),
        )  # fmt: skip
    return xa, aa, noise


def test_particle_without_finite_pixels_is_set_aside(problem):
    volumes, _, tables, images, log_pdf, inverse = problem
    broken = replace(images.part(0, 3), masked=images.masked[:3].copy())
    broken.masked[1] = np.nan
    sums = WeightedSums.zeros(volumes.shape[1:], CLASSES, tables.directions, images.shells, 1, 2)
    settings = ExpectationSettings(sigma2_offset=9.0, pixel_size=PIXEL, box=BOX)
    with CpuBackend(1) as backend:
        step = Expectation(backend, settings, volumes, PAD, PAD * FINE // 2, tables, log_pdf, inverse, sums)
        found = step.run(broken)
        step.finish()
    assert list(found.failed) == [False, True, False]
    assert sums.failed == [1]
    assert np.isfinite(sums.grids).all() and sums.sum_weight == pytest.approx(2.0, abs=5e-3)
