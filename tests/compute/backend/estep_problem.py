"""Small expectation problems of several kinds, and their solution by any backend."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from relion_py.compute.backend.kernels_numba import project
from relion_py.compute.backend.kernels_volume import fold_friedel_plane
from relion_py.compute.geometry.euler import matrix_to_euler
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.refine.expectation import Assignments, Expectation, ExpectationSettings, WeightedSums
from relion_py.compute.refine.images import DiscPixels, PreparedImages
from relion_py.compute.refine.model import SamplingState
from relion_py.compute.refine.sampling import LocalSearch, SamplingTables

BOX, PIXEL, PAD, COARSE, FINE = 24, 2.0, 2.0, 10, 16
PARTICLES, CLASSES = 7, 2


@dataclass
class Problem:
    """References, sampling, images and what is asked for; all arrays NumPy's."""

    volumes: np.ndarray
    grid: Sampling
    tables: SamplingTables
    images: PreparedImages
    log_pdf: np.ndarray
    inverse: np.ndarray
    settings: ExpectationSettings
    local: LocalSearch | None = None
    only_class: np.ndarray | None = None
    own_poses: np.ndarray | None = None
    distortion: np.ndarray | None = None


def make(
    kind: str = "global", dimensions: int = 3, oversampling: int = 1, noise: float = 2e-3, seed: int = 4
) -> Problem:
    """A problem of some kind.

    kind: global, local, correlate, residual, few (maximum_significants), own (poses kept), seeded (one class each),
    distorted (magnification), premultiplied (by the CTF), turned (each particle's shifts in a frame of its own, as
    segments of helices have).

    noise: variance of each Fourier component; a large one leaves many poses possible.
    """
    rng = np.random.default_rng(4)
    volumes = np.stack([_transform(rng, dimensions) for _ in range(CLASSES)])
    order = 1 if dimensions == 3 else 0
    grid = Sampling(
        healpix_order=order, symmetry="C2" if dimensions == 3 else "C1", perturbation=0.31, is_3d=dimensions == 3,
        psi_step=None if dimensions == 3 else 20.0,
    )  # fmt: skip
    state = SamplingState(healpix_order=order, offset_range=3.0, offset_step=2.0)
    tables = SamplingTables.of(grid, state, oversampling)
    fine, coarse = (DiscPixels.of_size(size, kind == "correlate") for size in (FINE, COARSE))
    n, shells = PARTICLES, BOX // 2 + 1
    directions, psis = rng.integers(0, tables.directions, n), rng.integers(0, tables.angles, n)
    poses = tables.fine_rotation(directions, psis, rng.integers(0, tables.rot_children, n))
    ctf = rng.uniform(0.3, 1.0, (n, fine.size)).astype(np.float32)
    images = np.empty((n, fine.size), np.complex64)
    for i, k in enumerate(rng.integers(0, CLASSES, n)):
        project(
            volumes[k], poses[i : i + 1].astype(np.float32), fine.kx, fine.ky, np.float32(PAD),
            np.float32(PAD * fine.r_max), images[i : i + 1],
        )  # fmt: skip
    sigma2 = np.full((2, shells), noise) * (1 + np.arange(shells) / shells) * np.array([[1.0], [1.3]])
    optics = np.arange(n) % 2
    deviation = np.sqrt(sigma2[optics][:, fine.shell])
    images = images * ctf + deviation * (rng.standard_normal((n, fine.size)) + 1j * rng.standard_normal((n, fine.size)))
    images = images.astype(np.complex64)
    spectrum = np.stack([np.bincount(fine.shell, np.abs(x) ** 2, shells) for x in images])
    spectrum[:, FINE // 2 + 1 :] = rng.uniform(0.01, 0.02, (n, shells - FINE // 2 - 1))
    prepared = PreparedImages(
        index=np.arange(n), masked=images, unmasked=(images * np.float32(1.1)).astype(np.complex64), ctf=ctf,
        optics=optics, group=np.arange(n) % 3, scale=np.ones(n), old_offset=rng.uniform(-2, 2, (n, 2)),
        spectrum=spectrum, applied_norm=np.full(n, 0.9), fine=fine, coarse=coarse,
        coarse_in_fine=coarse.positions_in(fine), scale_shells=np.arange(shells) < 6,
        premultiplied=kind == "premultiplied",
    )  # fmt: skip
    pdf = rng.uniform(0.5, 1.5, (CLASSES, tables.directions))
    inverse = np.divide(1.0, sigma2).astype(np.float32)
    inverse[:, 0] = 0
    settings = ExpectationSettings(
        correlate=kind == "correlate", residual=kind == "residual", sigma2_offset=9.0, pixel_size=PIXEL, box=BOX,
        maximum_significants=12 if kind == "few" else -1,
    )  # fmt: skip
    log_pdf = np.log(pdf / pdf.mean()).astype(np.float32)
    problem = Problem(volumes, grid, tables, prepared, log_pdf, inverse, settings)
    if kind == "local":
        problem.local = LocalSearch.around(grid, np.arange(n), n, matrix_to_euler(poses), (20.0, 20.0, 25.0))
    if kind == "seeded":
        problem.only_class = rng.integers(-1, CLASSES, n).astype(np.int32)
    if kind == "turned":
        angle = np.linspace(0.3, 5.9, n)
        prepared.turn = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    if kind == "own":
        problem.own_poses = poses
    if kind == "distorted":
        problem.distortion = np.array([[1.02, 0.01], [-0.015, 0.97]], np.float32)
    return problem


def _transform(rng: np.random.Generator, dimensions: int) -> np.ndarray:
    """A smooth Hermitian transform (Z, Y, X), as of a real map or image of a few blobs off the centre."""
    n = int(2 * (PAD * (FINE // 2) + 1) + 1)
    z, y, x = np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2, np.arange(n // 2 + 1), indexing="ij")
    out = np.zeros(x.shape, complex)
    for _ in range(6):
        place = rng.uniform(-3.5, 3.5, 3)
        phase = -2j * np.pi * (x * place[0] + y * place[1] + z * place[2]) / (BOX * PAD)
        out += rng.uniform(0.5, 1.5) * np.exp(phase - (x**2 + y**2 + z**2) / (2 * (n / 3) ** 2))
    out = out.astype(np.complex64) * np.float32(0.05)
    if dimensions == 3:
        return out
    flat = np.zeros((3, *out.shape[1:]), np.complex64)
    flat[1] = out[n // 2]
    return flat


def solve(backend, problem: Problem) -> tuple[Assignments, WeightedSums]:
    """Assignments and sums of the problem's particles."""
    p, images = problem, problem.images
    directions = 1 if p.own_poses is not None else p.tables.directions
    sums = WeightedSums.zeros(p.volumes.shape[1:], CLASSES, directions, images.shells, 2, 3)
    with backend:
        there = backend.to_device
        prepared = replace(images, masked=there(images.masked), unmasked=there(images.unmasked), ctf=there(images.ctf))
        step = Expectation(
            backend, p.settings, p.volumes, PAD, PAD * FINE // 2, p.tables, p.log_pdf, p.inverse, sums, p.local,
            prior_offset=np.array([[0.0, 0.0], [0.7, -0.4]]),
        )  # fmt: skip
        if p.distortion is not None:
            step.distortion = p.distortion
        if p.own_poses is not None:
            step.keep_poses(p.own_poses)
        found = step.run(prepared, p.only_class)
        step.finish()
    return found, sums


def assert_same(ours: tuple[Assignments, WeightedSums], wanted: tuple[Assignments, WeightedSums]) -> None:
    """That two solutions are equal up to single precision."""
    found, right = ours[0], wanted[0]
    for name in ("matrix", "offset", "class_index", "failed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(right, name), err_msg=name)
    # a sample whose weight is that of the threshold, up to rounding, may be in or out
    np.testing.assert_allclose(found.nr_significant, right.nr_significant, rtol=1e-3, atol=1)
    np.testing.assert_allclose(found.pmax, right.pmax, atol=3e-4)
    np.testing.assert_allclose(found.log_likelihood, right.log_likelihood, rtol=1e-6, atol=2e-3)
    np.testing.assert_allclose(found.norm_correction, right.norm_correction, rtol=1e-5)
    sums, correct = ours[1], wanted[1]
    mine, theirs = folded(sums.grids), folded(correct.grids)
    for channel, name in enumerate(("real", "imaginary", "weight")):
        largest = np.abs(theirs[..., channel]).max()
        assert largest > 0
        assert np.abs(mine[..., channel] - theirs[..., channel]).max() < 3e-4 * largest, name
    for field in fields(WeightedSums):
        if field.name not in ("grids", "failed"):
            value = np.asarray(getattr(correct, field.name))
            tolerance = 1e-4 * np.abs(value).max()
            np.testing.assert_allclose(getattr(sums, field.name), value, atol=tolerance, err_msg=field.name)
    assert sums.failed == correct.failed


def folded(grids: np.ndarray) -> np.ndarray:
    """The sums with Friedel mates at x = 0 added up: which of the two gets a pixel is a matter of rounding."""
    grids = grids.copy()
    for grid in grids:
        fold_friedel_plane(grid)
    return grids
