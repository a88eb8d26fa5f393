"""The grid of orientations and shifts that a refinement searches, coarse and oversampled, as RELION's.

Directions (rot, tilt) are the centres of HEALPix pixels in NESTED order that lie in one asymmetric unit;
in-plane angles (psi) are evenly spaced.  Oversampling by order o cuts a pixel in 4^o, a psi step in 2^o and
a shift step in 2^o along x and along y.  In a 2D search there is one direction (0, 0) and only psi.

Facts: RELION 5 ``src/healpix_sampling.cpp``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import hpgeom
import numpy as np
from numpy.typing import ArrayLike, NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry import local_search
from relion_py.compute.geometry.asymmetric_unit import unique_directions
from relion_py.compute.geometry.euler import direction, euler_to_matrix
from relion_py.compute.geometry.local_search import Selection
from relion_py.compute.geometry.symmetry import canonical, operators

# HEALPix grids beyond this have 100 million directions and more; nothing searches them.
HIGHEST_ORDER = 11
# Up to this many oversampled directions their frames are computed once and kept (72 bytes each).
_KEPT_FRAMES = 2**20


def angular_step(order: int) -> float:
    """RELION's nominal angular sampling in degrees of a HEALPix order: 360 / (6 * 2^order)."""
    return 360.0 / (6 * 2**order)


def next_perturbation(current: float, factor: float, rng: np.random.Generator) -> float:
    """The random perturbation of the next iteration: a fraction of the sampling step, in -factor..factor.

    ``factor`` is rlnSamplingPerturbFactor (0 to 1), ``current`` the last one (rlnSamplingPerturbInstance).
    Source: ``resetRandomlyPerturbedSampling``: a random step of factor/2 to factor, wrapped around.
    """
    if not 0.0 <= factor <= 1.0:
        raise UserError(f"The random perturbation factor must lie between 0 and 1, not {factor}.")
    if factor == 0.0:
        return 0.0
    moved = current + rng.uniform(0.5 * factor, factor)
    return float((moved + factor) % (2.0 * factor) - factor)


def translations(
    offset_range: float, offset_step: float, oversampling: int = 0, perturbation: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The grid of shifts: coarse (T, 2) and children (T, 4^oversampling, 2), columns x, y, in A.

    The coarse grid holds the multiples of ``offset_step`` in a disc of radius ``offset_range`` (both in A),
    x slowest; children fill the square of one step around their parent, x slowest, and are moved by
    ``perturbation * offset_step`` in x and y.  The coarse grid is never perturbed: the prior on shifts is
    evaluated there; what is compared with the images are the children (one each for oversampling 0).
    Source: ``setTranslations``, ``getTranslationsInPixel``.
    """
    if not offset_step > 0.0:
        raise UserError(f"The step of the offset search must be positive, not {offset_step}.")
    if offset_range < 0.0:
        raise UserError(f"The range of the offset search must not be negative, but is {offset_range}.")
    reach = ceil(offset_range / offset_step)
    steps = np.arange(-reach, reach + 1) * offset_step
    x, y = (g.ravel() for g in np.meshgrid(steps, steps, indexing="ij"))
    # 0.001 guards against rounding, as in the reference
    inside = x**2 + y**2 < offset_range**2 + 0.001
    coarse = np.stack([x[inside], y[inside]], axis=1)
    parts = 2**oversampling
    fine = ((np.arange(parts) + 0.5) / parts - 0.5 + perturbation) * offset_step
    fx, fy = (g.ravel() for g in np.meshgrid(fine, fine, indexing="ij"))
    return coarse, coarse[:, None, :] + np.stack([fx, fy], axis=1)[None]


@dataclass(frozen=True)
class Sampling:
    """The orientations of a search.

    healpix_order: order of the coarse grid of directions (ignored in 2D).
    psi_step: degrees; None for RELION's default (the nominal step of the directions in 3D, 10 degrees in 2D);
        made smaller until a whole number of steps fills the circle.
    symmetry: point group; only one asymmetric unit of directions is searched.
    limit_tilt: degrees or None; positive keeps |tilt| >= limit (side views), negative keeps |tilt| <= -limit
        (top views), tilt counted from -90 to 90; 90 and beyond keep everything.
    perturbation: current random perturbation as a fraction of the step (:func:`next_perturbation`).
    is_3d: False for the search of 2D classification.

    Raises UserError for an unknown point group, an impossible order or psi step, or if no direction is left.
    """

    healpix_order: int = 2
    psi_step: float | None = None
    symmetry: str = "C1"
    limit_tilt: float | None = None
    perturbation: float = 0.0
    is_3d: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "symmetry", canonical(self.symmetry) if self.is_3d else "C1")
        if not 0 <= self.healpix_order <= HIGHEST_ORDER:
            raise UserError(f"The HEALPix order must lie between 0 and {HIGHEST_ORDER}, not {self.healpix_order}.")
        step = self.psi_step
        if step is None:
            step = angular_step(self.healpix_order) if self.is_3d else 10.0
        if not 0.0 < step <= 360.0:
            raise UserError(f"The psi step must lie between 0 and 360 degrees, not {step}.")
        object.__setattr__(self, "psi_step", 360.0 / ceil(360.0 / step - 1e-6))
        if len(self._pixels) == 0:
            raise UserError(f"No direction is left with limit_tilt {self.limit_tilt}; choose a wider range.")

    def perturbed(self, perturbation: float) -> Sampling:
        """The same grid with another random perturbation."""
        other = copy.copy(self)  # with the directions, which take long to find
        object.__setattr__(other, "perturbation", perturbation)
        return other

    @property
    def step(self) -> float:
        """Nominal angular sampling in degrees of the coarse grid (getAngularSampling)."""
        return angular_step(self.healpix_order) if self.is_3d else float(self.psi_step or 0.0)

    @property
    def n_directions(self) -> int:
        """Number of coarse directions D."""
        return len(self._pixels)

    @property
    def n_psis(self) -> int:
        """Number of coarse in-plane angles Q."""
        return round(360.0 / float(self.psi_step or 360.0))

    def n_children(self, oversampling: int) -> int:
        """Oversampled orientations per coarse one: 8^oversampling in 3D, 2^oversampling in 2D."""
        return (8 if self.is_3d else 2) ** oversampling

    @cached_property
    def _all_angles(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _pixel_angles(self.healpix_order, np.arange(12 * 4**self.healpix_order))

    @cached_property
    def _pixels(self) -> NDArray[np.int64]:
        """NESTED pixel of each coarse direction (D,)."""
        if not self.is_3d:
            return np.zeros(1, dtype=np.int64)
        rot, tilt = self._all_angles
        pixels = unique_directions(rot, tilt, self.symmetry, self.healpix_order)
        if self.limit_tilt is None or abs(self.limit_tilt) >= 90.0:
            return pixels
        from_equator = np.where(tilt > 90.0, tilt - 180.0, tilt)[pixels]
        limit = abs(self.limit_tilt)
        keep = np.abs(from_equator) >= limit if self.limit_tilt > 0 else np.abs(from_equator) <= limit
        return pixels[keep]

    def pixels(self) -> NDArray[np.int64]:
        """HEALPix pixel (NESTED, this order) of each coarse direction (D,), ascending."""
        return self._pixels

    def directions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(rot, tilt) in degrees of the coarse directions, (D,) each, not perturbed; rot in -180..180."""
        if not self.is_3d:
            return np.zeros(1), np.zeros(1)
        rot, tilt = self._all_angles
        return rot[self._pixels], tilt[self._pixels]

    def psis(self) -> NDArray[np.float64]:
        """The coarse in-plane angles in degrees (Q,), from 0 to below 360, not perturbed."""
        return np.arange(self.n_psis, dtype=np.float64) * float(self.psi_step or 0.0)

    def oversampled(self, dirs: ArrayLike, psis: ArrayLike, oversampling: int) -> NDArray[np.float64]:
        """Rotation matrices (L, children, 3, 3), float64, of the children of L coarse orientations.

        dirs, psis: integers (L,), indices into :meth:`directions` and :meth:`psis`.  Children in the order of
        the reference (``getOrientations``): the direction's children row by row of the HEALPix face, psi
        fastest.  With oversampling 0 the only child is the coarse orientation itself.  In 3D the random
        perturbation turns every orientation by the Euler matrix of three equal angles ``perturbation * step``,
        on the right; in 2D it is added to psi.
        """
        direction_index, psi_index = np.asarray(dirs, dtype=np.int64), np.asarray(psis, dtype=np.int64)
        turns = self._psi_turns(oversampling)[psi_index]  # (L, 2^o, 3, 3)
        frames = self.frames(direction_index, oversampling)  # (L, 4^o or 1, 3, 3)
        matrices = np.matmul(turns[:, None], frames[:, :, None])
        return matrices.reshape(len(direction_index), -1, 3, 3)

    def local_directions(
        self, rot: ArrayLike, tilt: ArrayLike, sigma_rot: float, sigma_tilt: float, cutoff: float = 3.0
    ) -> Selection:
        """The directions near the prior (rot, tilt) (degrees, (N,)) of each of N particles, with weights.

        With both sigmas (degrees) positive, those within ``cutoff`` times the larger sigma, by the angle to
        the nearest symmetry mate; with one of them positive, by that angle alone; with none, all.
        Source: ``selectOrientationsWithNonZeroPriorProbability``.
        """
        rot, tilt = np.atleast_1d(np.asarray(rot, np.float64)), np.atleast_1d(np.asarray(tilt, np.float64))
        if not self.is_3d or (sigma_rot <= 0.0 and sigma_tilt <= 0.0):
            return local_search.everything(len(rot), self.n_directions)
        if sigma_rot > 0.0 and sigma_tilt > 0.0:
            prior, measure = direction(rot, tilt), local_search.BOTH
        elif sigma_rot > 0.0:
            prior, measure = direction(rot, 90.0), local_search.ONLY_ROT
        else:
            prior, measure = direction(0.0, tilt) * [0.0, 0.0, 1.0], local_search.ONLY_TILT
        vectors, group = direction(*self.directions()), operators(self.symmetry)
        return local_search.near_directions(vectors, group, prior, max(sigma_rot, sigma_tilt), cutoff, measure)

    def local_psis(self, psi: ArrayLike, sigma_psi: float, cutoff: float = 3.0) -> Selection:
        """The in-plane angles within ``cutoff * sigma_psi`` degrees of each particle's prior psi (N,).

        All of them where ``sigma_psi`` is not positive.
        """
        prior = np.atleast_1d(np.asarray(psi, dtype=np.float64))
        if sigma_psi <= 0.0:
            return local_search.everything(len(prior), self.n_psis)
        return local_search.near_psis(self.psis(), prior, sigma_psi, cutoff)

    def child_psis(self, oversampling: int) -> NDArray[np.float64]:
        """(Q, 2^o) in degrees (pushbackOversampledPsiAngles)."""
        parts = 2**oversampling
        offsets = ((np.arange(parts) + 0.5) / parts - 0.5) * float(self.psi_step or 0.0)
        psi = self.psis()[:, None] + offsets
        return psi if self.is_3d else np.where((psi > 180.0) & (oversampling > 0), psi - 360.0, psi)

    def _psi_turns(self, oversampling: int) -> NDArray[np.float64]:
        psi = self.child_psis(oversampling)
        return euler_to_matrix(0.0, 0.0, psi if self.is_3d else psi + self.perturbation * self.step)

    def _child_angles(
        self, dirs: NDArray[np.int64], oversampling: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(rot, tilt) (L, 4^o) of the children of directions, in the order of the reference."""
        pixels = (self._pixels[dirs] << (2 * oversampling))[:, None] + _face_order(oversampling)
        return _pixel_angles(self.healpix_order + oversampling, pixels)

    @cached_property
    def _frame_tables(self) -> dict[int, NDArray[np.float64]]:
        return {}

    def frames(self, dirs: NDArray[np.int64], oversampling: int) -> NDArray[np.float64]:
        """Matrices (L, 4^o, 3, 3) of the children with psi 0, perturbed; (L, 1, 3, 3) identities in 2D."""
        if not self.is_3d:
            return np.broadcast_to(np.eye(3), (len(dirs), 1, 3, 3))
        if self.n_directions * 4**oversampling > _KEPT_FRAMES:
            unique, back = np.unique(dirs, return_inverse=True)
            return self._compute_frames(unique, oversampling)[back]
        if oversampling not in self._frame_tables:
            every = np.arange(self.n_directions)
            self._frame_tables[oversampling] = self._compute_frames(every, oversampling)
        return self._frame_tables[oversampling][dirs]

    def _compute_frames(self, dirs: NDArray[np.int64], oversampling: int) -> NDArray[np.float64]:
        rot, tilt = self._child_angles(dirs, oversampling)
        angle = self.perturbation * self.step
        return euler_to_matrix(rot, tilt, 0.0) @ euler_to_matrix(angle, angle, angle)


def _pixel_angles(order: int, pixels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(rot, tilt) in degrees of NESTED pixels of any shape; rot in -180..180."""
    theta, phi = hpgeom.pixel_to_angle(2**order, pixels.ravel(), nest=True, lonlat=False, degrees=False)
    rot = np.degrees(phi, dtype=np.float64)
    rot = np.where(rot > 180.0, rot - 360.0, rot)
    return rot.reshape(pixels.shape), np.rad2deg(theta).reshape(pixels.shape)


def _face_order(oversampling: int) -> NDArray[np.int64]:
    """NESTED offsets (4^o,) of a pixel's children row by row of the face: x fastest (bits interleaved)."""
    y, x = np.divmod(np.arange(4**oversampling), 2**oversampling)
    offsets = np.zeros_like(x)
    for bit in range(oversampling):
        offsets |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
    return offsets
