"""What is special about refining helical segments: prior angles, offsets along and across, symmetry of the maps.

The offsets of a segment are searched in its own frame, in which the helix runs along X: along it within half a rise,
as a move by one rise and a turn by the twist give the same image, and across it as always, with a prior. The frame
is turned by the segment's psi of the iteration before.

Source: He & Scheres (2017) J Struct Biol 198:163; facts: RELION 5, ml_optimiser.cpp (do_helical_refine),
healpix_sampling.cpp (setTranslations), helix.cpp (transformCartesianAndHelicalCoords,
getHelicalSigma2Rot), exp_model.cpp (read, divideParticlesInRandomHalves).
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.geometry.helical_search import helical_directions, helical_psis
from relion_py.compute.geometry.helix_maps import impose, search
from relion_py.compute.refine.backprojector import HelicalUnits
from relion_py.compute.refine.data import ParticleSet, c_library_rand
from relion_py.compute.refine.model import HelixState, ModelState, SamplingState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.sampling import LocalSearch

_NO_TILT = 0.001
"""Degrees; a smaller tilt is none, so that the segment begins with its prior angles."""
_RAND_MAX = 2**31 - 1


# ---- particles -------------------------------------------------------------------------------------------------


def begin_with_priors(particles: ParticleSet) -> None:
    """Segments without angles get their prior tilt and psi, in place; UserError where there are neither."""
    p, table = particles, particles.table
    if p.tilt_prior is None or p.psi_prior is None:
        if "rlnAngleTilt" in table and "rlnAnglePsi" in table:
            return
        raise UserError(
            f"{table.path} has no _rlnAngleTiltPrior and _rlnAnglePsiPrior, which helical segments need: "
            "extract them as helical segments."
        )
    new = np.abs(p.tilt) < _NO_TILT
    if not ("rlnAngleTilt" in table and "rlnAnglePsi" in table):
        new[:] = True
    p.tilt[new], p.psi[new] = p.tilt_prior[new], p.psi_prior[new]


def split_halves(particles: ParticleSet, seed: int) -> None:
    """Give all segments of a filament the same half, 1 or 2, unless the file says the halves.

    Filaments are the tubes of a micrograph, or its segments where tubes are not told apart. The order of
    filaments, and so the halves, are those of the reference with the same seed.
    """
    names = filament_names(particles)
    if particles.random_subset.any():
        return
    order = sorted(set(names))
    sizes = Counter(names)
    numbers = iter(c_library_rand(seed, max(len(order), 1)).tolist())
    for first in range(len(order) - 1):
        reach = np.float32(_RAND_MAX / np.float32(len(order) - 1 - first))
        other = int(np.float32(first) + np.float32(next(numbers)) / reach + np.float32(0.5))
        if first < other < len(order):
            order[first], order[other] = order[other], order[first]
    halves, filled = {}, [0, 0]
    for name in order:
        half = 0 if filled[0] < filled[1] else 1
        filled[half] += sizes[name]
        halves[name] = half + 1
    particles.random_subset = np.array([halves[name] for name in names], dtype=np.int64)
    if not all(filled):
        raise UserError(
            f"{particles.table.path} has one filament only; its segments stay together in one half, so that "
            "auto-refinement needs two filaments at least."
        )


def filament_names(particles: ParticleSet) -> list[str]:
    """The filament of each particle: micrograph and, where there are numbers of tubes, tube."""
    table = particles.table
    names = table.strings("rlnMicrographName") if "rlnMicrographName" in table else [""] * len(table)
    if particles.tube is None:
        return list(names)
    return [f"{name}_TUBEID_{tube}" for name, tube in zip(names, particles.tube.tolist(), strict=True)]


# ---- frames and offsets ------------------------------------------------------------------------------------------


def turns(psi: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine and sine (N, 2) of the angles psi (degrees) by which frames are turned."""
    angle = np.deg2rad(psi)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def to_frame(offset: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets (N, 2) along and across each helix, of offsets in X and Y of the image."""
    x, y = offset.T
    cosine, sine = turn.T
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=-1)


def to_image(offset: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `to_frame`."""
    return to_frame(offset, turn * [1.0, -1.0])


def is_local(model: ModelState, sampling: SamplingState, options: RefineOptions) -> bool:
    """Whether orientations are searched around those of the iteration before, polarity and all."""
    if options.auto_refine or options.auto_sampling:
        if sampling.healpix_order >= options.auto_local_healpix_order:
            return True
        if options.auto_refine:
            return False
    return model.orientational_prior_mode != 0 and min(model.sigma_rot, model.sigma_tilt, model.sigma_psi) > 0


def set_offsets(sampling: SamplingState, options: RefineOptions, wanted: float = -1.0) -> None:
    """Steps along the helix (A) that fit the sampling, in place; wanted: the step, if that will do.

    There are at least three steps to a rise, none larger than those across or than before. In the local
    searches of an automatic refinement two steps to either side are looked at, within a sixth of a rise.
    """
    rise, before = options.helical_rise, sampling.helical_offset_step
    local = (options.auto_refine or options.auto_sampling) and (
        sampling.healpix_order >= options.auto_local_healpix_order
    )
    step = wanted if wanted > 0 else before
    if step <= 0 or (before > 0 and step > before) or step > sampling.offset_step or rise / step < 3:
        step = sampling.offset_step if before <= 0 else min(sampling.offset_step, before)
        if rise / step < 3:
            step = rise / 3.0
    reach = math.ceil(0.5 * rise / step)
    if local:
        reach = min(reach, 2)
        if before / step > 3:
            reach = math.floor(before / step)
        if step * reach > rise / 6:
            reach = max(math.floor(rise / 6 / step), 1)
    sampling.helical_rise, sampling.helical_offset_step, sampling.helical_reach = rise, step, reach


# ---- orientations --------------------------------------------------------------------------------------------------


def widened_sigma_rot(sigma: float, angular_step: float, sampling: SamplingState, options: RefineOptions) -> float:
    """Standard deviation (degrees) of rot such that a local search reaches the turn of a step along the helix."""
    reach = abs(options.helical_twist) * sampling.helical_offset_step / options.helical_rise
    return sigma * max(1.0, math.ceil(reach / 6.0 / angular_step))


def search_around_priors(
    grid: Sampling,
    particles: ParticleSet,
    members: NDArray[np.int64],
    model: ModelState,
    sampling: SamplingState,
    options: RefineOptions,
) -> LocalSearch:
    """Orientations near the priors of `members`: those of the file, or those that each iteration leaves.

    In 3D the polarity of psi is as likely to be the other one as the file's flip ratio says, or half of the
    time if it does not; in 2D --bimodal_psi says so.
    """
    p, local = particles, is_local(model, sampling, options)

    def prior(values: NDArray[np.float64] | None, angles: NDArray[np.float64]) -> NDArray[np.float64]:
        return (angles if values is None else values)[members]

    rot, tilt = prior(p.rot_prior, p.rot), prior(p.tilt_prior, p.tilt)
    psi, flip = prior(p.psi_prior, p.psi), np.zeros(len(members))
    if options.bimodal_psi:
        flip[:] = 0.5
    elif model.ref_dim == 3 and not local:
        flip = np.full(len(p), 0.5)[members] if p.flip_ratio is None else p.flip_ratio[members]
    if model.ref_dim == 3:
        rot_flip = None if p.rot_flip_ratio is None else p.rot_flip_ratio[members]
        directions = helical_directions(
            grid, rot, tilt, model.sigma_rot, model.sigma_tilt, mirrored=not local, rot_flip=rot_flip
        )
    else:
        directions = grid.local_directions(rot, tilt, 0.0, 0.0)
    position = np.full(len(p), -1, np.int64)
    position[members] = np.arange(len(members))
    return LocalSearch(directions, helical_psis(grid, psi, model.sigma_psi, flip), position)


# ---- symmetry of the maps ------------------------------------------------------------------------------------------


def first_state(options: RefineOptions) -> HelixState | None:
    """The helical symmetry that a run begins with; None if it is none of a helix."""
    if not options.helix:
        return None
    twists, rises = options.helical_ranges
    known = options.helical_symmetry
    return HelixState(
        options.helical_units if known else 1,
        twists,
        rises,
        np.full(options.classes, options.helical_twist if known else 0.0),
        np.full(options.classes, options.helical_rise if known else 0.0),
    )


def units_of(model: ModelState, k: int, options: RefineOptions) -> HelicalUnits | None:
    """The asymmetric units that each image of class k brings to its reconstruction; None without a helix."""
    if model.helix is None or not options.helical_symmetry or model.ref_dim == 2:
        return None
    return HelicalUnits(float(model.helix.twist[k]), float(model.helix.rise[k]) / model.pixel_size, model.helix.units)


def symmetrised(
    volume: NDArray[np.float32],
    model: ModelState,
    k: int,
    options: RefineOptions,
    *,
    refine: bool,
    keep: bool = False,
) -> tuple[NDArray[np.float32], float, float, str]:
    """A reconstruction of class k made helical, its twist and rise, refined if asked for, and a warning or "".

    keep: leave the map as it is.
    """
    assert model.helix is not None
    helix, warning = model.helix, ""
    tube = options.tube(model.ori_size, model.pixel_size)
    twist, rise = float(helix.twist[k]), float(helix.rise[k])
    if refine and options.helical_symmetry_search:
        found = search(volume, model.pixel_size, tube, helix.twists, helix.rises, options.threads)
        twist, rise, warning = found.twist, found.rise, found.warning
    if not keep:
        volume = impose(volume, model.pixel_size, tube, twist, rise, float(options.mask_edge), options.threads)
    return volume, twist, rise, warning
