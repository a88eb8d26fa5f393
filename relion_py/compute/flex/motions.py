"""The bodies of a multi-body refinement moved as particles show them, and principal components of these motions.

Source: flex_analyser.cpp and flex_analyser.h. Method: Nakane et al. (2018) eLife 7:e36861.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.fourier import resize_map
from relion_py.compute.refine.bodies import NO_TURN, Bodies, Volume, moved
from relion_py.compute.refine.data import ParticleSet

PER_BODY = 6
"""Coordinates of a body in the analysis: rot, tilt, psi (degrees) and x, y, z (pixels), all times their weights."""
COORDINATES = ("rot", "tilt", "psi", "x", "y", "z")
_ANGLES = 3


@dataclass(frozen=True)
class MovingBodies:
    """Bodies inside their masks, each with its centre in that of the box, and the masks likewise.

    centres (B, 3): where they belong, pixels x, y, z from the box's centre; scale: pixels of these maps per pixel of
    the refinement's.
    """

    bodies: Bodies
    maps: tuple[Volume, ...]
    masks: tuple[Volume, ...]
    centres: NDArray[np.float64]
    scale: float = 1.0

    @classmethod
    def of(cls, bodies: Bodies, references: Sequence[Volume], size: int = -1) -> MovingBodies:
        """The bodies of these maps, one for each, in boxes of `size` pixels if that is smaller than theirs."""
        maps = [moved(volume * body.mask, -body.centre) for volume, body in zip(references, bodies.bodies, strict=True)]
        masks = [moved(body.mask, -body.centre) for body in bodies.bodies]
        scale, box = 1.0, len(maps[0])
        if 0 < size < box:
            scale = size / box
            maps, masks = ([resize_map(each, size).astype(np.float32) for each in some] for some in (maps, masks))
        centres = np.array([body.centre for body in bodies.bodies], np.float64) * scale
        return cls(bodies, tuple(maps), tuple(masks), centres, scale)

    def weights(self) -> NDArray[np.float64]:
        """How much each body's map changes (B, 4) with a degree of rot, tilt and psi and with a pixel of offset."""
        shifted = np.array([1.0, 0.0, 0.0])
        result = np.empty((len(self.maps), 4))
        for b, (volume, body) in enumerate(zip(self.maps, self.bodies.bodies, strict=True)):
            for k, angles in enumerate(NO_TURN + np.eye(3)):
                turned = turn_and_move(volume, body.turn(euler_to_matrix(*angles)), np.zeros(3))
                result[b, k] = np.linalg.norm(turned.astype(np.float64) - volume)
            result[b, 3] = np.linalg.norm(turn_and_move(volume, np.eye(3), shifted).astype(np.float64) - volume)
        return result

    def assembled(self, angles: NDArray[np.float64], moves: NDArray[np.float64]) -> Volume:
        """The map with its bodies turned by residual angles (B, 3), degrees, and moved by (B, 3) pixels, x, y, z.

        Each body turns about its own centre. Where masks overlap to more than 1 the mean is taken.
        """
        total, weight = np.zeros_like(self.maps[0]), np.zeros_like(self.maps[0])
        for b, body in enumerate(self.bodies.bodies):
            turn, place = body.turn(euler_to_matrix(*angles[b])), self.centres[b] + moves[b] * self.scale
            total += turn_and_move(self.maps[b], turn, place)
            weight += turn_and_move(self.masks[b], turn, place)
        total /= np.maximum(weight, 1.0)
        return total


def turn_and_move(volume: Volume, turn: NDArray[np.float64], move: NDArray[np.float64]) -> Volume:
    """A map whose point p (x, y, z pixels from the centre) comes to turn @ p + move; interpolated linearly."""
    back = turn.T[::-1, ::-1]  # from the new place to the old one, in the order of the axes
    centre = np.array(volume.shape) // 2
    offset = centre - back @ (centre + move[::-1])
    return scipy.ndimage.affine_transform(volume, back, offset, order=1, output=np.float32)


def residual_motions(particles: ParticleSet, bodies: Bodies) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Residual angles (N, B, 3), degrees, and moves (N, B, 3), pixels of the images, x, y, z of the map's frame.

    Of a move only what is seen in the image is known; along the direction of projection it is taken as 0.
    """
    consensus = euler_to_matrix(particles.rot, particles.tilt, particles.psi)
    pixel_size = particles.table.per_particle("pixel_size")
    angles, moves = [], []
    for poses, body in zip(particles.bodies, bodies.bodies, strict=True):
        own = body.own_matrices(consensus, euler_to_matrix(poses.rot, poses.tilt, poses.psi))
        seen = np.stack([poses.origin_x, poses.origin_y, np.zeros(len(particles))], axis=1) / pixel_size[:, None]
        angles.append(np.stack([poses.rot, poses.tilt, poses.psi], axis=1))
        moves.append(-np.einsum("nji,nj->ni", own, seen))
    return np.stack(angles, axis=1), np.stack(moves, axis=1)


@dataclass(frozen=True)
class Components:
    """Principal components of N particles' motions in D = 6 B coordinates.

    means (D,); variances (D,), descending; vectors (D, D), one in each row, the largest coordinate positive;
    projections (N, D): the particles along each. weights (B, 4) of the coordinates, see `MovingBodies.weights`.
    """

    means: NDArray[np.float64]
    variances: NDArray[np.float64]
    vectors: NDArray[np.float64]
    projections: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, angles: NDArray[np.float64], moves: NDArray[np.float64], weights: NDArray[np.float64]) -> Components:
        """Of angles and moves (N, B, 3), see `residual_motions`. UserError for too few particles."""
        n, bodies, _ = angles.shape
        if n < PER_BODY * bodies:
            raise UserError(
                f"{n} particles are too few to analyse the motions of {bodies} bodies: {PER_BODY * bodies} are needed."
            )
        rows = np.concatenate([angles, moves], axis=2) * _coordinate_weights(weights)
        rows = rows.reshape(n, -1)
        means = rows.mean(axis=0)
        variances, columns = np.linalg.eigh((rows - means).T @ (rows - means) / n)
        variances, vectors = np.maximum(variances[::-1], 0.0), columns[:, ::-1].T
        signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
        vectors = vectors * signs[:, None]
        return cls(means, variances, vectors, (rows - means) @ vectors.T, weights)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Part of the variance (D,) that each component explains."""
        return self.variances / max(float(self.variances.sum()), 1e-300)

    def number_that_explains(self, share: float) -> int:
        """How many components explain at least that part of the variance."""
        enough = np.flatnonzero(np.cumsum(self.shares) >= share - 1e-12)
        return int(enough[0]) + 1 if len(enough) else len(self.shares)

    def at(self, component: int, value: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Angles and moves (B, 3) of a particle at `value` along a component (from 0), and the mean in all others."""
        row = self.means + value * self.vectors[component]
        scaled = row.reshape(-1, PER_BODY) / _coordinate_weights(self.weights)
        return scaled[:, :_ANGLES], scaled[:, _ANGLES:]

    def bin_means(self, component: int, bins: int) -> NDArray[np.float64]:
        """Mean values (bins,) along a component of equally many particles each, from the lowest to the highest."""
        values = np.sort(self.projections[:, component])
        width = int(len(values) / bins + 0.5)
        if width < 1:
            raise UserError(f"{len(values)} particles are too few for {bins} maps along a component.")
        stops = [min((k + 1) * width, len(values)) for k in range(bins - 1)] + [len(values)]
        parts = [values[min(k * width, len(values) - 1) : stop] for k, stop in enumerate(stops)]
        return np.array([part.mean() if len(part) else values[-1] for part in parts])


def _coordinate_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 6): the weights of a body's coordinates; one of 0, of an empty map, counts as 1."""
    every = weights[:, [0, 1, 2, 3, 3, 3]]
    return np.where(every > 0, every, 1.0)
