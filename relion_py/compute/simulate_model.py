"""Pseudo-atomic models for simulated data, and their exact maps and projections.

A model is a set of Gaussian blobs, so its Fourier transform is known in closed form: a map and projections
are sums over the blobs at the very Fourier pixels that are asked for, and nothing is interpolated.  Maps have
axes z, y, x with the origin at pixel ``box // 2``; transforms are those of ``image/fourier.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry import symmetry as point_groups
from relion_py.compute.image.fourier import frequencies, radius_grid, real_image

_CANDIDATES = 24  # directions tried for each new segment of the chain
_HELIX = 14  # blobs in a helical segment, fewer where the asymmetric unit has few
_FILLED = 0.4  # fraction of the particle's ellipsoid that one cubic spacing per blob takes up


@dataclass(frozen=True)
class PseudoAtoms:
    """positions (A, 3): x, y, z in A from the centre; weights (A,): integrated density; sigma in A."""

    positions: NDArray[np.float64]
    weights: NDArray[np.float64]
    sigma: float

    def __len__(self) -> int:
        return len(self.weights)

    def without(self, removed: NDArray[np.bool_]) -> PseudoAtoms:
        """The model less some of its blobs (mask (A,)); the others stay where they are."""
        return PseudoAtoms(self.positions[~removed], self.weights[~removed], self.sigma)

    def scaled(self, factor: float) -> PseudoAtoms:
        """The model with every weight multiplied."""
        return PseudoAtoms(self.positions, self.weights * factor, self.sigma)


def build_model(symmetry: str, atoms: int, diameter: float, sigma: float, seed: int) -> PseudoAtoms:
    """A compact chain of right-handed helices, repeated by a point group, within ``diameter`` A.

    About ``atoms`` blobs in all, at least 30 in the asymmetric unit; sigma in A.  The blobs of each copy
    follow one another, copies in the order of the group's operators.  The same arguments give the same model.
    """
    rng = np.random.default_rng(seed)
    group = point_groups.operators(symmetry)
    unit = max(30, round(atoms / len(group)))
    axes = 0.5 * diameter * _axes_of(point_groups.canonical(symmetry))
    spacing = (_FILLED * 4.0 / 3.0 * np.pi * axes.prod() / (unit * len(group))) ** (1.0 / 3.0)
    # the chain's helices must not stick out by their own radius
    chain = _fold_chain(unit, spacing, axes - spacing, group, rng)
    positions = np.concatenate([chain @ operator for operator in group])
    weights = np.tile(rng.uniform(0.7, 1.3, unit), len(group))
    if len(group) == 1:
        positions = positions - np.average(positions, axis=0, weights=weights)
    elif symmetry.strip().upper().startswith("C"):
        positions = positions - [0.0, 0.0, np.average(positions[:, 2], weights=weights)]
    furthest = np.linalg.norm(positions, axis=1).max()
    return PseudoAtoms(positions * min(1.0, 0.5 * diameter / furthest), weights, sigma)


def _axes_of(group: str) -> NDArray[np.float64]:
    """Relative half axes of the ellipsoid that a particle fills: as unround as its point group lets it be."""
    if group == "C1":
        return np.array([1.0, 0.75, 0.6])
    return np.array([1.0, 1.0, 0.75]) if group[0] in "CD" else np.ones(3)


def _fold_chain(
    count: int,
    spacing: float,
    axes: NDArray[np.float64],
    group: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Positions (count, 3) of a chain inside the ellipsoid and nearer to its own centre than to mates."""
    home = np.array([0.45, 0.31, 0.38]) * axes if len(group) > 1 else np.zeros(3)
    mates = np.einsum("j,mjk->mk", home, group)[1:]

    def misplaced(points: NDArray[np.float64]) -> float:
        """A penalty in units of spacing for leaving the ellipsoid and for going to a mate's region."""
        outside = np.maximum(np.linalg.norm(points / axes, axis=1) - 1.0, 0.0).sum() * axes.min()
        own = np.linalg.norm(points - home, axis=1)
        other = np.linalg.norm(points[:, None] - mates[None], axis=2).min(axis=1) if len(mates) else own
        return (outside + np.maximum(own - other, 0.0).sum()) / spacing

    chain, length = np.empty((0, 3)), min(_HELIX, max(5, count // 6))
    end = home
    while len(chain) < count:
        best, best_cost = None, np.inf
        for direction in rng.normal(size=(_CANDIDATES, 3)):
            segment = end + _helix(direction / np.linalg.norm(direction), spacing, rng.uniform(0, 2 * np.pi), length)
            near = np.linalg.norm(segment[:, None] - chain[None], axis=2) < 1.2 * spacing
            cost = misplaced(segment) + 0.5 * near.sum()
            if cost < best_cost:
                best, best_cost = segment, cost
        assert best is not None
        chain = np.concatenate([chain, best])
        end = best[-1]
    return chain[:count]


def _helix(axis: NDArray[np.float64], spacing: float, phase: float, count: int) -> NDArray[np.float64]:
    """``count`` blobs, ``spacing`` A apart, of a right-handed helix along ``axis``, 3.6 to a turn."""
    across = np.cross(axis, [0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0.0, 0.0])
    across /= np.linalg.norm(across)
    turn = np.deg2rad(100.0)
    radius, rise = 0.6 * spacing, spacing * np.sqrt(1.0 - (1.2 * np.sin(turn / 2.0)) ** 2)
    step = np.arange(1, count + 1)[:, None]
    angle = phase + turn * step
    around = np.cos(angle) * across + np.sin(angle) * np.cross(axis, across)
    return rise * step * axis + radius * around


def _waves(model: PseudoAtoms, coordinate: NDArray[np.float64], k: NDArray[np.int32], length: float) -> NDArray:
    """(A, K): the blobs' factors exp(-2 pi i k x / L) * exp(-2 pi^2 sigma^2 k^2 / L^2) along one axis."""
    frequency = k / length
    decay = np.exp(-2.0 * (np.pi * model.sigma * frequency) ** 2)
    return np.exp(-2j * np.pi * coordinate[:, None] * frequency) * decay


def model_transform(model: PseudoAtoms, box: int, angpix: float) -> NDArray[np.complex128]:
    """Half transform (box, box, box // 2 + 1) of the model's map, 0 from Nyquist's radius on."""
    length, k, half = box * angpix, frequencies(box), np.arange(box // 2 + 1, dtype=np.int32)
    x, y, z = model.positions.T
    planes = (_waves(model, z, k, length).T * model.weights)[:, None, :] * _waves(model, y, k, length).T[None]
    transform = planes.reshape(-1, len(model)) @ _waves(model, x, half, length)
    transform = transform.reshape(box, box, box // 2 + 1) / angpix**3
    return np.where(radius_grid(box, 3) < box // 2, transform, 0.0)


def model_map(model: PseudoAtoms, box: int, angpix: float) -> NDArray[np.float32]:
    """The model's density per A^3 sampled in a map (box, box, box), band-limited to Nyquist's radius."""
    return real_image(model_transform(model, box, angpix), box, 3).astype(np.float32)


def project(
    model: PseudoAtoms,
    matrices: NDArray[np.float64],
    box: int,
    angpix: float,
    magnification: NDArray[np.float64] | None = None,
) -> NDArray[np.complex64]:
    """Half transforms (N, box, box // 2 + 1) of projections along the third rows of matrices (N, 3, 3).

    A projection is the sum of the map's voxels along the line of sight, as of RELION's projector: the central
    section of :func:`model_transform`.  0 from Nyquist's radius on.  magnification: (2, 2), what a frequency of
    the image is multiplied with to become one of the undistorted projection (rlnMagMat..).
    """
    if magnification is not None:
        return _project_distorted(model, matrices, box, angpix, magnification)
    length, k, half = box * angpix, frequencies(box), np.arange(box // 2 + 1, dtype=np.int32)
    inside = radius_grid(box) < box // 2
    out = np.empty((len(matrices), box, box // 2 + 1), dtype=np.complex64)
    for n, matrix in enumerate(matrices):
        x, y, _ = matrix @ model.positions.T
        section = (_waves(model, y, k, length).T * model.weights) @ _waves(model, x, half, length)
        out[n] = np.where(inside, section / angpix**3, 0.0)
    return out


def _project_distorted(
    model: PseudoAtoms, matrices: NDArray[np.float64], box: int, angpix: float, magnification: NDArray[np.float64]
) -> NDArray[np.complex64]:
    """As :func:`project`: blobs move by the transposed matrix, and are no longer round."""
    length = box * angpix
    points = PseudoAtoms(model.positions, model.weights, 0.0)
    ky, kx = np.meshgrid(frequencies(box), np.arange(box // 2 + 1), indexing="ij")
    true = np.einsum("ij,jyx->iyx", magnification, np.stack([kx, ky]) / length)
    decay = np.exp(-2.0 * (np.pi * model.sigma) ** 2 * (true**2).sum(axis=0)) / angpix**3
    decay[radius_grid(box) >= box // 2] = 0.0
    out = np.empty((len(matrices), *decay.shape), dtype=np.complex64)
    for n, matrix in enumerate(matrices):
        x, y = magnification.T @ (matrix @ model.positions.T)[:2]
        half = np.arange(box // 2 + 1, dtype=np.int32)
        rows = _waves(points, y, frequencies(box), length).T * model.weights
        out[n] = (rows @ _waves(points, x, half, length)) * decay
    return out
