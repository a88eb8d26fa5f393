"""CTF parameters of the particles of one micrograph, each fitted per particle, per micrograph or not at all.

The squared difference of image and CTF * prediction, weighted by the FSC, is minimised over all parameters together
by the method of Levenberg and Marquardt.  What particles have of their own makes the normal equations an arrow, which
is solved particle by particle.

The CTF's phase is  gamma = phase + defocus u^2 + a1 (x^2 - y^2) + 2 a2 x y + cs u^4  (+ even aberrations), for
frequencies x, y in 1/A.  Facts: RELION 5, jaz/single_particle/ctf/modular_ctf_optimisation.cpp (which uses L-BFGS),
defocus_estimator.cpp (bruteForceFit) and defocus_helper.cpp (findDefocus1D); Zivanov, Nakane & Scheres (2020),
IUCrJ 7, 253-267.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf_refine import kernels
from relion_py.compute.ctf_refine.particles import Views
from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams, electron_wavelength

Array = NDArray[np.float64]

PHASE, DEFOCUS, ASTIG1, ASTIG2, CS, BFACTOR, SCALE = range(7)
COUNT = 7
_LETTERS = ((PHASE,), (DEFOCUS,), (ASTIG1, ASTIG2), (CS,), (BFACTOR, SCALE))
"""Parameters that each letter of a fitting mode stands for."""
_MEANING = {"p": "per particle", "m": "per micrograph", "f": "fixed"}
_NAMES = ("phase shift", "defocus", "astigmatism", "spherical aberration", "B-factor and scale")

_UPPER5, _UPPER2 = np.triu_indices(BFACTOR), np.triu_indices(COUNT - BFACTOR)
_ALL52 = tuple(index.ravel() for index in np.indices((BFACTOR, COUNT - BFACTOR)))
"""Elements of the Hessian by phase and phase, CTF and CTF, phase and CTF."""

_ROUNDING = 1e-6  # a gain of so much of the cost is none
_FLAT = 1e-6  # least curvature, of what it is along the parameters themselves
_TURN = 1.0  # radians by which a step may turn the CTF's phase at the finest frequency
_PIECE = 1 << 22  # elements of the largest temporary array


@dataclass(frozen=True)
class FitMode:
    """Which of the seven parameters (indices) are a particle's own, and which a micrograph's."""

    own: tuple[int, ...]
    shared: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> FitMode:
        """Of five letters, p, m or f, for phase shift, defocus, astigmatism, Cs and B-factor; else UserError."""
        if len(text) != 5 or set(text) - set(_MEANING):
            raise UserError(
                f'--fit_mode must be five letters, "p" (per particle), "m" (per micrograph) or "f" (fixed), for '
                f'{", ".join(_NAMES)}: not "{text}".'
            )
        chosen = {letter: [i for mode, group in zip(text, _LETTERS, strict=True) if mode == letter for i in group]
                  for letter in "pm"}  # fmt: skip
        return cls(tuple(chosen["p"]), tuple(chosen["m"]))

    @property
    def any(self) -> bool:
        """Whether there is anything to fit."""
        return bool(self.own or self.shared)

    def fits(self, parameter: int) -> bool:
        """Whether this parameter is fitted."""
        return parameter in self.own or parameter in self.shared


def describe(text: str) -> list[str]:
    """A line for each parameter of a valid fitting mode, for people."""
    return [f"{name}: {_MEANING[letter]}" for name, letter in zip(_NAMES, text, strict=True)]


# ---- CTFs as the seven parameters -------------------------------------------------------------------------


def encode(params: CtfParams) -> Array:
    """(n, 7); see the module's first lines."""
    wave = np.pi * electron_wavelength(params.voltage)
    mean = 0.5 * (params.defocus_u + params.defocus_v)
    half = 0.5 * (params.defocus_u - params.defocus_v)
    azimuth = 2.0 * np.deg2rad(params.defocus_angle)
    theta = np.empty((len(params), COUNT))
    theta[:, PHASE] = -np.deg2rad(params.phase_shift) - np.arcsin(params.q0)
    theta[:, DEFOCUS] = -wave * mean
    theta[:, ASTIG1] = -wave * half * np.cos(azimuth)
    theta[:, ASTIG2] = -wave * half * np.sin(azimuth)
    theta[:, CS] = 0.5 * np.pi * params.cs * 1e7 * electron_wavelength(params.voltage) ** 3
    theta[:, BFACTOR], theta[:, SCALE] = params.bfactor, params.scale
    return theta


def decode(theta: Array, params: CtfParams, mode: FitMode) -> CtfParams:
    """The CTFs with the fitted parameters in place; defocus U is the larger one, its angle in -90..90 degrees."""
    wave = np.pi * electron_wavelength(params.voltage)
    changed: dict[str, Array] = {}
    if mode.fits(DEFOCUS) or mode.fits(ASTIG1):
        changed |= polar(-theta[:, DEFOCUS] / wave, -theta[:, ASTIG1] / wave, -theta[:, ASTIG2] / wave)
    if mode.fits(PHASE):
        changed["phase_shift"] = np.rad2deg(-theta[:, PHASE] - np.arcsin(params.q0))
    if mode.fits(CS):
        changed["cs"] = theta[:, CS] / (0.5 * np.pi * 1e7 * electron_wavelength(params.voltage) ** 3)
    if mode.fits(BFACTOR):
        changed |= {"bfactor": theta[:, BFACTOR], "scale": theta[:, SCALE]}
    return replace(params, **changed)


def polar(mean: Array, along: Array, across: Array) -> dict[str, Array]:
    """Defocus U, V (A) and angle (degrees) of mean + along cos(2 phi) + across sin(2 phi)."""
    half = np.hypot(along, across)
    angle = 0.5 * np.rad2deg(np.arctan2(across, along))
    return {"defocus_u": mean + half, "defocus_v": mean - half, "defocus_angle": angle}


# ---- the squared difference and its derivatives -----------------------------------------------------------


class _Comparison:
    """Views of one optics group beside CTFs of seven parameters; weight (P,)."""

    def __init__(self, views: Views, weight: Array) -> None:
        self.views = views
        counts = weight > 0
        x, y = (axis[counts] for axis in views.optics.undistorted)
        u2 = x * x + y * y
        offset = views.optics.gamma_offset
        self._root = np.sqrt(weight[counts])
        self.pixels = (
            weight[counts], u2, x * x - y * y, 2.0 * x * y, u2 * u2, np.zeros(0) if offset is None else offset[counts]
        )  # fmt: skip
        # a compact copy: what does not count is never looked at
        self.data = tuple(np.ascontiguousarray(a[:, counts]) for a in (views.power, views.agreement))
        gamma = np.stack([np.ones_like(u2), u2, x * x - y * y, 2.0 * x * y, u2 * u2])
        change = np.stack([-0.25 * u2, np.ones_like(u2)])
        self._first = [np.ascontiguousarray(part.T, np.float32) for part in (gamma, change)]
        self._pairs = [
            np.ascontiguousarray((a[rows] * b[columns]).T, np.float32)
            for a, b, (rows, columns) in ((gamma, gamma, _UPPER5), (gamma, change, _ALL52), (change, change, _UPPER2))
        ]

    def costs(self, theta: Array) -> Array:
        """(n,) squared differences less constants."""
        out = np.empty(len(theta))
        kernels.costs(theta, *self.data, *self.pixels, out)
        return out

    def normal_equations(self, theta: Array, curved: bool = False) -> tuple[Array, Array, Array]:
        """Costs (n,), half their gradient (n, 7), half their Hessian (n, 7, 7) as of Gauss and Newton.

        curved: with the curvature of the CTF's sine, which makes steps near the minimum better.
        """
        n, pixels = self.data[0].shape
        cost, gradient, hessian = np.empty(n), np.empty((n, COUNT)), np.empty((n, COUNT, COUNT))
        step = max(1, _PIECE // max(1, 5 * pixels))
        for start in range(0, n, step):
            part = slice(start, min(n, start + step))
            first = np.empty((part.stop - start, 2, pixels), np.float32)
            second = np.empty((part.stop - start, 3, pixels), np.float32)
            data = [a[part] for a in self.data]
            kernels.slopes(
                theta[part], *data, self._root, *self.pixels[1:], np.float32(curved), cost[part], first, second
            )
            gradient[part, :BFACTOR] = first[:, 0] @ self._first[0]
            gradient[part, BFACTOR:] = first[:, 1] @ self._first[1]
            for kind, ((rows, columns), (right, down)) in enumerate(
                ((_UPPER5, (0, 0)), (_ALL52, (0, BFACTOR)), (_UPPER2, (BFACTOR, BFACTOR)))
            ):
                values = second[:, kind] @ self._pairs[kind]
                hessian[part, rows + right, columns + down] = values
                hessian[part, columns + down, rows + right] = values
        # the CTF is proportional to its scale: d CTF / d scale = CTF / scale
        inverse = 1.0 / np.where(theta[:, SCALE] == 0, 1e-6, theta[:, SCALE])
        gradient[:, SCALE] *= inverse
        hessian[:, SCALE] *= inverse[:, None]
        hessian[:, :, SCALE] *= inverse[:, None]
        return cost, gradient, hessian


# ---- the fit ----------------------------------------------------------------------------------------------


def fit(
    views: Sequence[Views], params: Sequence[CtfParams], weights: Sequence[Array], mode: FitMode, iterations: int = 100
) -> list[CtfParams]:
    """Fit the CTFs of one micrograph, whose particles are in one or more optics groups.

    views, params, weights: one of each for each optics group, weights (P,).  Parameters per micrograph start from
    the mean.  Stops after ``iterations``, or when a step gains less than a millionth of the cost.
    """
    groups = [_Comparison(v, w) for v, w in zip(views, weights, strict=True)]
    sizes = [len(p) for p in params]
    theta = np.concatenate([encode(p) for p in params])
    for index in mode.shared:
        theta[:, index] = theta[:, index].mean()
    if mode.any:
        theta = _minimise(groups, np.cumsum(sizes)[:-1], theta, mode, iterations)
    parts = np.split(theta, np.cumsum(sizes)[:-1])
    return [decode(part, p, mode) for part, p in zip(parts, params, strict=True)]


def _minimise(groups: list[_Comparison], ends: NDArray, theta: Array, mode: FitMode, iterations: int) -> Array:
    damping = np.full(len(theta), 1e-3)
    curved = False
    finest = max(float(group.pixels[1].max(initial=0.0)) for group in groups)
    cost, gradient, hessian = _equations(groups, ends, theta, curved)
    for _ in range(iterations):
        step = _arrow_step(gradient, hessian, mode, damping, finest)
        trial = theta + step
        found = _equations(groups, ends, trial, curved)
        gain = cost.sum() - found[0].sum()
        worse = ~(found[0] <= cost + _ROUNDING * np.abs(cost))  # also where it is no number
        if (mode.shared and not gain >= 0) or (not mode.shared and worse.all()):
            if np.abs(gain) <= 0.1 * _ROUNDING * np.abs(cost).sum() or damping.min() > 1e8:
                break
            damping = np.minimum(damping * 10.0, 1e10)
            continue
        if not mode.shared:  # particles do not depend on one another: each takes its step or not
            trial[worse] = theta[worse]
            for old, new in zip((cost, gradient, hessian), found, strict=True):
                new[worse] = old[worse]
            gain = cost.sum() - found[0].sum()
        damping = np.clip(np.where(worse, damping * 10.0, damping * 0.2), 1e-9, 1e10)
        theta, (cost, gradient, hessian) = trial, found
        curved = gain < 0.05 * np.abs(cost).sum()
        if gain <= _ROUNDING * np.abs(cost).sum() and (damping[worse] > 100.0).all():
            break
    return theta


def _equations(groups: list[_Comparison], ends: NDArray, theta: Array, curved: bool) -> tuple[Array, Array, Array]:
    parts = np.split(theta, ends)
    found = [group.normal_equations(part, curved) for group, part in zip(groups, parts, strict=True)]
    return tuple(np.concatenate(values) for values in zip(*found, strict=True))  # type: ignore[return-value]


def _arrow_step(gradient: Array, hessian: Array, mode: FitMode, damping: Array, finest: float) -> Array:
    """The damped step (n, 7) of all particles: own parameters are eliminated, shared ones solved for.

    Noise can bend the cost the other way, where Newton's step goes uphill or anywhere: the curvature counts by its
    size (Dauphin et al. 2014), and no step turns the CTF's phase by more than _TURN at the frequency whose square is
    ``finest`` (1/A^2), so that a particle stays in the valley in which it starts.
    """
    own, shared = list(mode.own), list(mode.shared)
    step = np.zeros_like(gradient)
    if own:
        inverse = _positive_inverse(hessian[:, own][:, :, own], damping)
        solved = -np.einsum("nop,np->no", inverse, gradient[:, own])
    if shared:
        arrow = hessian[:, own][:, :, shared]
        total = hessian[:, shared][:, :, shared].sum(axis=0)
        force = gradient[:, shared].sum(axis=0)
        if own:
            pull = np.einsum("nop,nps->nos", inverse, arrow)
            total = total - np.einsum("nos,not->st", arrow, pull)
            force = force + np.einsum("nos,no->s", arrow, solved)
        common = -_positive_inverse(total[None], np.median(damping, keepdims=True))[0] @ force
        step[:, shared] = common
        step[:, shared] *= _shortened(step, finest)[:, None]
        if own:
            solved -= np.einsum("nos,ns->no", pull, step[:, shared])
    if own:
        alone = np.zeros_like(step)
        alone[:, own] = solved
        step[:, own] = solved * _shortened(alone, finest)[:, None]
    return step


def _positive_inverse(matrices: Array, damping: Array) -> Array:
    """Inverses of symmetric matrices (n, m, m) with their eigenvalues' absolute values, damped, (n,).

    Parameters are scaled by the roots of the diagonal, so that damping has no unit.
    """
    diagonal = np.abs(np.einsum("nii->ni", matrices))
    scale = 1.0 / np.sqrt(np.maximum(diagonal, 1e-30))
    values, vectors = np.linalg.eigh(matrices * scale[:, :, None] * scale[:, None, :])
    values = np.maximum(np.abs(values), _FLAT) + damping[:, None]
    vectors = vectors * scale[:, :, None]
    return np.einsum("nij,nj,nkj->nik", vectors, 1.0 / values, vectors)


def _shortened(step: Array, finest: float) -> Array:
    """Factors (n,) up to 1 for steps (n, 7): none turns the phase, or changes the damping's exponent, by more."""
    turn = np.abs(step[:, PHASE]) + np.abs(step[:, CS]) * finest**2
    turn += (np.abs(step[:, DEFOCUS]) + np.hypot(step[:, ASTIG1], step[:, ASTIG2])) * finest
    turn += np.abs(step[:, BFACTOR]) * 0.25 * finest
    return _TURN / np.maximum(turn, _TURN)


# ---- the search -------------------------------------------------------------------------------------------


def scan(views: Views, params: CtfParams, weight: Array, reach: float) -> CtfParams:
    """The best defocus within ``reach`` A of each particle's, the rest of its CTF kept.

    The first steps turn the CTF's phase by at most one radian at the finest frequency; twice more, a tenth of the
    step is tried about the best one.
    """
    comparison = _Comparison(views, weight)
    theta = encode(params)
    wave = np.pi * electron_wavelength(params.voltage)
    finest = float(comparison.pixels[1].max())
    step = min(reach / 5.0, 1.0 / (float(wave.max()) * finest))
    count = int(np.ceil(reach / step))
    best = np.zeros(len(params))
    for _ in range(3):
        start, least = best.copy(), np.full(len(params), np.inf)
        for i in range(-count, count + 1):
            offset = np.clip(start + i * step, -reach, reach)
            trial = theta.copy()
            trial[:, DEFOCUS] -= wave * offset
            cost = comparison.costs(trial)
            better = cost < least
            best, least = np.where(better, offset, best), np.where(better, cost, least)
        step, count = step / 10.0, 10
    return replace(params, defocus_u=params.defocus_u + best, defocus_v=params.defocus_v + best)
