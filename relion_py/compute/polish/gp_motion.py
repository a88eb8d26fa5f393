"""The motion of all particles of a micrograph as a Gaussian process, and its most probable course.

A particle's track starts at a free place and goes on by steps v_f. Over the particles, each component of v_f has
the prior covariance s_vel^2 exp(-distance / s_div); steps of successive frames differ by s_acc in standard
deviation, or freely if s_acc <= 0. In the eigenbasis of the covariance, v_f = B c_f with B = V sqrt(lambda), the
prior is |c_f|^2, and what is minimised is

    E = - sum_pf CC_pf(track_pf) + sum_f |c_f|^2 + sum_f sum_d lambda_d |c_f+1,d - c_f,d|^2 / s_acc^2

with CC the cross-correlation of frame and prediction. Source: Zivanov et al. (2019) IUCrJ 6:5; RELION 5,
src/jaz/single_particle/motion/gp_motion_fit.cpp. Where this differs: the gradient is right with padded
correlations too, and the squared-exponential kernel is exp(-d^2 / (2 s_div^2)), whereas there the square of s_div
was forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from relion_py.compute.polish.kernels import interpolate_all

_SMALLEST_EIGENVALUE = 1e-10  # square pixels
_SMALLEST_SIGMA = 1e-20
_Real = NDArray[np.float64]


@dataclass(frozen=True)
class MotionPrior:
    """Standard deviations in pixels: velocity and acceleration of the particles' images, a frame each (and
    acceleration <= 0 for no bound); divergence of the coordinates."""

    velocity: float
    divergence: float
    acceleration: float


def deformation_basis(
    positions: _Real, prior: MotionPrior, squared: bool = False, most: int = -1
) -> tuple[_Real, _Real]:
    """The eigenbasis B (P, D), columns times sqrt(lambda), and lambda (D,), of the covariance; largest first.

    positions: (P, 2), pixels of the coordinates. squared: the squared-exponential kernel. most: keep that many,
    -1 for all; those below 1e-10 square pixels go.
    """
    distance = cdist(positions, positions) / max(prior.divergence, _SMALLEST_SIGMA)
    kernel = np.exp(-0.5 * distance**2) if squared else np.exp(-distance)
    values, vectors = np.linalg.eigh(max(prior.velocity, _SMALLEST_SIGMA) ** 2 * kernel)
    values, vectors = values[::-1], vectors[:, ::-1]
    count = int((values >= _SMALLEST_EIGENVALUE).sum())
    count = count if most < 0 else min(most, count)
    values = values[:count]
    return np.ascontiguousarray(vectors[:, :count] * np.sqrt(values)), np.ascontiguousarray(values)


class MotionFit:
    """The energy of a micrograph's motion, and its minimum.

    correlation: float32 (P, F, n, n), periodic, of shifts y, x times `pad` from pixel (0, 0). offsets: (F, 2), a
    motion of all particles that the prior does not see, pixels.
    """

    def __init__(
        self,
        correlation: NDArray[np.float32],
        basis: _Real,
        eigenvalues: _Real,
        acceleration: float,
        offsets: _Real | None = None,
        pad: float = 1.0,
    ) -> None:
        self._correlation, self._basis, self._pad = correlation, basis, pad
        self.particles, self.frames = correlation.shape[:2]
        self.dimensions = len(eigenvalues)
        self._offsets = np.zeros((self.frames, 2)) if offsets is None else offsets
        self._stiffness = eigenvalues / acceleration**2 if acceleration > 0 else np.zeros_like(eigenvalues)
        self._eigenvalues = eigenvalues
        self._values = np.empty((self.particles, self.frames))
        self._slopes = np.empty((self.particles, self.frames, 2))

    def parameters_of(self, tracks: _Real) -> _Real:
        """Starts and coefficients, flat, of tracks (P, F, 2), pixels, without the offsets."""
        steps = np.diff(tracks, axis=1)
        coefficients = np.einsum("pd,pfc->fdc", self._basis, steps) / self._eigenvalues[:, None]
        return np.concatenate([tracks[:, 0].ravel(), coefficients.ravel()])

    def tracks_of(self, parameters: _Real) -> _Real:
        """The inverse (within the basis): tracks (P, F, 2), without the offsets."""
        starts, coefficients = self._parts(parameters)
        tracks = np.empty((self.particles, self.frames, 2))
        tracks[:, 0] = starts
        steps = np.matmul(self._basis, coefficients)  # (F - 1, P, 2)
        tracks[:, 1:] = starts[:, None] + np.cumsum(steps, axis=0).transpose(1, 0, 2)
        return tracks

    def energy(self, parameters: _Real) -> tuple[float, _Real]:
        """E and its gradient."""
        _, coefficients = self._parts(parameters)
        places = self._pad * (self.tracks_of(parameters) + self._offsets)
        interpolate_all(self._correlation, places, self._values, self._slopes)
        changes = np.diff(coefficients, axis=0)
        stiff = self._stiffness[:, None] * changes
        energy = -self._values.sum() + (coefficients**2).sum() + (changes * stiff).sum()
        slopes = -self._pad * self._slopes
        later = np.cumsum(slopes[:, ::-1], axis=1)[:, ::-1]  # a step moves all frames after it
        gradient = np.matmul(self._basis.T, later[:, 1:].transpose(1, 0, 2)) + 2.0 * coefficients
        gradient[:-1] -= 2.0 * stiff
        gradient[1:] += 2.0 * stiff
        return float(energy), np.concatenate([later[:, 0].ravel(), gradient.ravel()])

    def best(self, tracks: _Real, iterations: int = 10000, tolerance: float = 1e-5) -> _Real:
        """The tracks (P, F, 2) of least energy, by L-BFGS from `tracks`; both without the offsets.

        tolerance: of the gradient's length over that of the parameters (at least 1).
        """
        last: dict[str, Any] = {}

        def energy(x: _Real) -> tuple[float, _Real]:
            value, gradient = self.energy(x)
            last["gradient"] = gradient
            return value, gradient

        def stop(x: _Real) -> None:
            if np.linalg.norm(last["gradient"]) < tolerance * max(1.0, float(np.linalg.norm(x))):
                raise StopIteration

        found = minimize(
            energy, self.parameters_of(tracks), jac=True, method="L-BFGS-B", callback=stop,
            options={"maxiter": iterations, "maxfun": 20 * iterations, "maxcor": 6, "ftol": 0.0, "gtol": 0.0},
        )  # fmt: skip
        return self.tracks_of(found.x)

    def _parts(self, parameters: _Real) -> tuple[_Real, _Real]:
        starts = parameters[: 2 * self.particles].reshape(self.particles, 2)
        return starts, parameters[2 * self.particles :].reshape(self.frames - 1, self.dimensions, 2)
