"""New prior angles of helical segments after an iteration, from their own new poses or from their neighbours' too.

Segments of a filament belong together: with --helical_sigma_distance, the prior of each is a mean over its
neighbours, Gaussian in the distance along the filament, rot being unwound by the twist between them.

Facts: RELION 5, helix.cpp (updatePriorsForHelicalReconstruction, updatePriorsForOneHelicalTube,
updateAngularPriorsForHelicalReconstructionFromLastIter).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import wrapped
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.helical import filament_names, to_frame, to_image, turns
from relion_py.compute.refine.model import HelixState, ModelState
from relion_py.compute.refine.options import RefineOptions

_CUTOFF = 3.0
"""Standard deviations beyond which neighbours do not count, and offsets are outliers."""

Array = NDArray[np.float64]


@dataclass
class Filament:
    """The n segments of a filament; angles in degrees, lengths in A. track: positions along it. offset (n, 2): x, y.
    twist, rise (n,): of each segment's class."""

    rot: Array
    tilt: Array
    psi: Array
    tilt_prior: Array
    psi_prior: Array
    flip_ratio: Array
    offset: Array
    track: Array
    twist: Array
    rise: Array


@dataclass
class Priors:
    """What `smoothed` makes of a filament; reverse: positions along it run the other way. wrong: segments whose
    polarity is not that of their priors."""

    rot: Array
    tilt: Array
    psi: Array
    flip_ratio: Array
    offset: Array
    reverse: bool
    wrong: int


def update_priors(particles: ParticleSet, model: ModelState, options: RefineOptions) -> str:
    """New priors for the next iteration, in place; a line for the user, or ""."""
    p = particles
    if options.helical_sigma_distance < 0:
        if p.tilt_prior is not None and not options.helical_keep_tilt_prior:
            p.tilt_prior = p.tilt.copy()
        if p.psi_prior is not None:
            p.psi_prior = p.psi.copy()
        if p.rot_prior is not None:
            p.rot_prior = p.rot.copy()
        return ""
    if p.tilt_prior is None or p.psi_prior is None or p.flip_ratio is None or p.tube is None or p.track is None:
        raise UserError(
            f"{p.table.path} lacks the tubes, track lengths or priors of helical segments, which "
            "--helical_sigma_distance needs: extract them as helical segments."
        )
    if p.rot_prior is None:
        p.rot_prior = p.rot.copy()
    sigma = options.helical_sigma_distance * model.ori_size
    twist, rise = _rotational_symmetry(model.helix, options.helical_starts)
    names = np.array(filament_names(p))
    wrong = reversed_filaments = 0
    order = np.argsort(names, kind="stable")
    groups = np.split(order, np.flatnonzero(names[order][1:] != names[order][:-1]) + 1)
    for rows in groups:
        k = np.maximum(p.class_number[rows] - 1, 0)
        filament = Filament(
            p.rot[rows], p.tilt[rows], p.psi[rows], p.tilt_prior[rows], p.psi_prior[rows], p.flip_ratio[rows],
            np.stack([p.origin_x[rows], p.origin_y[rows]], axis=1), p.track[rows], twist[k], rise[k],
        )  # fmt: skip
        new = smoothed(filament, sigma, model.sigma_offset)
        p.rot_prior[rows], p.psi_prior[rows], p.flip_ratio[rows] = new.rot, new.psi, new.flip_ratio
        if not options.helical_keep_tilt_prior:
            p.tilt_prior[rows] = new.tilt
        p.origin_x[rows], p.origin_y[rows] = new.offset.T
        if new.reverse:
            p.track[rows] *= -1.0
        wrong += new.wrong
        reversed_filaments += new.reverse
    return (
        f" Helical segments with the polarity of their psi priors: {len(p) - wrong} of {len(p)}; filaments whose rot "
        f"runs the way of their track lengths: {len(groups) - reversed_filaments} of {len(groups)}"
    )


def _rotational_symmetry(helix: HelixState | None, starts: int) -> tuple[Array, Array]:
    """Twist and rise by class, those of the N-start helix where there are several starts."""
    assert helix is not None
    if starts <= 1:
        return helix.twist, helix.rise
    twist = helix.twist * starts
    return np.where(twist > 360.0, twist - 360.0, twist + 360.0), helix.rise * starts


def smoothed(filament: Filament, sigma: float, sigma_offset: float) -> Priors:
    """Priors from neighbours within 3 sigma (A) along the filament; sigma 0: from each segment alone.

    Segments of the other polarity than most are turned round. Rot is averaged for both directions of the
    track, and that in which neighbours agree better is taken. Offsets across the filament that are farther than
    3 sigma_offset (A) from their neighbours' become these.
    """
    f = filament
    wrong = np.abs(wrapped(f.psi - f.psi_prior)) > 90.0
    psi = np.where(wrong, _turned(f.psi), f.psi)
    tilt = np.where(wrong, 180.0 - f.tilt, f.tilt)
    flip_ratio, turn_round = _new_flip_ratio(f.flip_ratio, int(wrong.sum()))
    distance = f.track[None] - f.track[:, None]
    weight = np.eye(len(f.track))
    if sigma > 0.01:
        weight = np.where(np.abs(distance) <= _CUTOFF * sigma, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
    mean_psi, mean_tilt = _mean_direction(psi, tilt, weight)
    turn = turns(psi)
    along, across = to_frame(f.offset, turn).T
    unwind = np.divide(f.twist, f.rise, out=np.zeros_like(f.twist), where=f.rise > 0)
    best: tuple[float, Array] | None = None
    reverse = False
    for sign in (-1.0, 1.0):
        rot = f.rot[None] + sign * unwind[None] * (distance - along[None] + along[:, None])
        mean = _mean_angle(rot, weight, f.rot)
        off = np.abs(wrapped(f.rot - mean))
        change = float(np.minimum(off, 180.0 - off).mean())  # half a turn is no matter of direction
        if best is None or change < best[0]:
            best, reverse = (change, mean), sign > 0
    assert best is not None
    mean_across = (weight @ across) / weight.sum(axis=1)
    outlier = np.abs(mean_across - across) > _CUTOFF * sigma_offset
    pulled = to_image(np.stack([along, mean_across], axis=1), turns(mean_psi))
    offset = np.where(outlier[:, None], pulled, f.offset)
    if turn_round:
        mean_psi, mean_tilt = _turned(mean_psi), 180.0 - mean_tilt
    return Priors(best[1], mean_tilt, mean_psi, flip_ratio, offset, reverse, int(wrong.sum()))


def _new_flip_ratio(old: Array, opposite: int) -> tuple[Array, bool]:
    """What is left of the other polarity where most segments have it, and whether that is so; else as before.

    The priors then take the polarity of the majority; the reference averages them in that of the old priors.
    """
    ratio = (opposite + 1) / (len(old) + 2)  # Laplace smoothing
    if opposite == 0 and np.all(np.abs(old) <= 0.01):
        ratio = 0.0
    return (np.full(len(old), 1.0 - ratio), True) if ratio > 0.5 else (old.copy(), False)


def _turned(psi: Array) -> Array:
    return np.where(psi < 0.0, psi + 180.0, psi - 180.0)


def _mean_direction(psi: Array, tilt: Array, weight: Array) -> tuple[Array, Array]:
    """Weighted mean (rows of weight) of the directions with these angles, as psi and tilt."""
    azimuth, polar = np.deg2rad(psi), np.deg2rad(tilt)
    vectors = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], axis=1)
    mean = weight @ vectors
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return np.rad2deg(np.arctan2(mean[:, 1], mean[:, 0])), np.rad2deg(np.arccos(np.clip(mean[:, 2], -1.0, 1.0)))


def _mean_angle(angles: Array, weight: Array, fallback: Array) -> Array:
    """Weighted mean of the angles (n, n) in each row, or fallback (n,) where they cancel."""
    radians = np.deg2rad(angles)
    x, y = (weight * np.cos(radians)).sum(axis=1), (weight * np.sin(radians)).sum(axis=1)
    return np.where(np.hypot(x, y) > 1e-12, np.rad2deg(np.arctan2(y, x)), fallback)
