"""How an automatic refinement goes on: resolution, image sizes, angular sampling, convergence.

Pure decisions on the state of model, sampling and optimiser; nothing is computed on images here.
Source: ml_optimiser.cpp, updateCurrentResolution, updateImageSizeAndResolutionPointers, updateAngularSampling,
updateOverallChangesInHiddenVariables and checkConvergence; ml_optimiser_mpi.cpp, iterate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.refine import helical
from relion_py.compute.refine.model import (
    PRIOR_ROTTILT_PSI,
    UNKNOWN,
    UNKNOWN_CLASS_CHANGES,
    ModelState,
    OptimiserState,
    SamplingState,
    healpix_angular_step,
)
from relion_py.compute.refine.options import RefineOptions

MAX_ITER_WITHOUT_RESOLUTION_GAIN = 1
MAX_ITER_WITHOUT_LARGE_CHANGES = 1
MIN_SHELL = 5
"""The resolution never falls below this shell (minres_map)."""
BODY_STEP_OF_ACCURACY = 0.9
"""A body is fine enough when the angular step is less than this of its accuracy; a whole particle at 0.75."""
WORTH_FINER_OFFSETS = 0.7
"""Offsets of bodies are refined alone where their new step is less than this of the old one."""
KEEPSAFE = {3: 1.2, 2: 1.5}
"""Coarse images show detail down to the coarse step on the particle's rim, over this factor (2D, 3D references)."""


def angular_step(sampling: SamplingState, oversampling: int) -> float:
    """Angular step in degrees after oversampling (healpix_sampling.cpp, getAngularSampling)."""
    if not sampling.is_3d:
        return sampling.psi_step / 2.0**oversampling
    return healpix_angular_step(sampling.healpix_order + oversampling)


def offset_step(sampling: SamplingState, oversampling: int) -> float:
    """Step of the offsets in A after oversampling."""
    return sampling.offset_step / 2.0**oversampling


def update_resolution(model: ModelState, state: OptimiserState, options: RefineOptions) -> str | None:
    """Sets current_resolution (A) from data_vs_prior, counts iterations without gain; returns a warning or None.

    The resolution is that of the last shell before data_vs_prior falls below 1. Before the first iteration, and after
    a first one by cross-correlation, it is --ini_high.
    """
    warning = None
    first = state.iteration == 0 or (state.iteration == 1 and options.firstiter_cc)
    if options.ini_high > 0 and first:
        shell = model.shell_of(options.ini_high)
    else:
        shell, warning = _resolved_shell(model, options)
    resolution = model.resolution_of(shell)
    if 1.0 / resolution <= 1.0 / model.current_resolution + 0.0001:
        state.nr_iter_wo_resol_gain += 1
    else:
        state.nr_iter_wo_resol_gain = 0
    state.best_resolution = min(state.best_resolution, resolution)
    model.current_resolution = resolution
    return warning


def _resolved_shell(model: ModelState, options: RefineOptions) -> tuple[int, str | None]:
    warning, best = None, 0
    half = model.ori_size // 2
    for ratio in model.data_vs_prior_class:
        below = np.nonzero(ratio[1:half] < 1.0)[0]
        shell = int(below[0]) if len(below) else half - 1
        if options.split_random_halves:
            # an FSC that dips and rises again, often from a tight mask: trust the higher shell
            above = np.nonzero(ratio[:half] > 1.0)[0]
            highest = int(above[-1]) if len(above) else shell - 1
            if highest > shell + 3:
                warning = (
                    f"WARNING: the FSC dipped below 0.5 and rose again. Using the higher resolution of "
                    f"{model.resolution_of(highest):.2f} A, instead of {model.resolution_of(shell):.2f} A."
                )
                shell = highest
        best = max(best, shell)
    return max(best, MIN_SHELL), warning


@dataclass(frozen=True)
class ImageSizes:
    """Box sizes in pixels of the Fourier-cropped images of the two passes."""

    coarse: int
    current: int


def image_sizes(
    model: ModelState,
    sampling: SamplingState,
    state: OptimiserState,
    options: RefineOptions,
    use_all_data: bool,
) -> ImageSizes:
    """The sizes for the next expectation step.

    current: beyond the resolution by a quarter of the box while the FSC is high at the limit, else by incr_size shells.
    coarse: detail as fine as the coarse angular step on the rim of the particle.
    """
    shell = model.shell_of(model.current_resolution)
    if model.ave_pmax > 0.1 and state.has_high_fsc_at_limit:
        shell += math.floor(0.25 * model.ori_size / 2 + 0.5)
    else:
        shell += state.incr_size
    current = model.ori_size if use_all_data else min(2 * shell, model.ori_size)
    largest = options.max_coarse_size if options.max_coarse_size > 0 else model.ori_size
    length = model.pixel_size * model.ori_size
    if options.strict_highres_exp > 0:
        coarse = 2 * math.floor(length / options.strict_highres_exp + 0.5)
    elif options.oversampling > 0:
        moved = angular_step(sampling, 0) / 360.0 * math.pi * options.mask_diameter(model.ori_size, model.pixel_size)
        coarse = min(largest, 2 * math.ceil(length * KEEPSAFE[model.ref_dim] / moved))
    else:
        coarse = current
    return ImageSizes(min(coarse, current), current)


def watch_fsc(model: ModelState, state: OptimiserState, fsc: NDArray[np.float64]) -> None:
    """After a half-map FSC: how far beyond the resolution to look next (ml_optimiser_mpi.cpp, iterate)."""
    fsc05 = np.nonzero(fsc < 0.5)[0]
    fsc0143 = np.nonzero(fsc < 0.143)[0]
    first05 = int(fsc05[0]) if len(fsc05) else -1
    first0143 = int(fsc0143[0]) if len(fsc0143) else -1
    state.incr_size = max(state.incr_size, first0143 - first05 + 5)
    if not state.has_high_fsc_at_limit:
        state.has_high_fsc_at_limit = bool(fsc[model.current_size // 2 - 1] > 0.2)


def update_changes(
    state: OptimiserState,
    sampling: SamplingState,
    oversampling: int,
    mean_angle: float,
    rms_offset: float,
    class_share: float,
) -> None:
    """Counts iterations without large changes: mean_angle (degrees), rms_offset (A per axis), share of particles."""
    state.current_changes_optimal_orientations = mean_angle
    state.current_changes_optimal_offsets = rms_offset
    state.current_changes_optimal_classes = class_share
    angles_settled = mean_angle / angular_step(sampling, oversampling) < 0.40
    offsets_settled = rms_offset / offset_step(sampling, oversampling) < 0.40
    if (
        1.03 * class_share >= state.smallest_changes_optimal_classes
        and (offsets_settled or 1.03 * rms_offset >= state.smallest_changes_optimal_offsets)
        and (angles_settled or 1.03 * mean_angle >= state.smallest_changes_optimal_orientations)
    ):
        state.nr_iter_wo_large_hidden_variable_changes += 1
    else:
        state.nr_iter_wo_large_hidden_variable_changes = 0
    if class_share < state.smallest_changes_optimal_classes:
        state.smallest_changes_optimal_classes = math.floor(class_share + 0.5)
    state.smallest_changes_optimal_offsets = min(state.smallest_changes_optimal_offsets, rms_offset)
    state.smallest_changes_optimal_orientations = min(state.smallest_changes_optimal_orientations, mean_angle)


def has_converged(state: OptimiserState, options: RefineOptions) -> bool:
    """Whether the next iteration is the last one, with all data (checkConvergence)."""
    return (
        state.has_fine_enough_angular_sampling
        and state.nr_iter_wo_resol_gain >= MAX_ITER_WITHOUT_RESOLUTION_GAIN
        and (
            options.auto_ignore_angles
            or state.nr_iter_wo_large_hidden_variable_changes >= MAX_ITER_WITHOUT_LARGE_CHANGES
        )
    )


def update_angular_sampling(
    model: ModelState,
    sampling: SamplingState,
    state: OptimiserState,
    options: RefineOptions,
    *,
    ignore_changes: bool = False,
    stay_global: bool = False,
) -> bool:
    """Twice as fine orientations, and matching offsets, once the present ones are exhausted; True when changed.

    From --auto_local_healpix_order on, the searches become local, with a standard deviation of two fine steps.
    ignore_changes: orientations need not have settled; stay_global: never so fine that searches become local.
    """
    old_step = angular_step(sampling, options.oversampling)
    diameter = options.mask_diameter(model.ori_size, model.pixel_size)
    needed_step = 360.0 / math.ceil(math.pi * diameter / model.current_resolution)
    resolution_asks = (
        options.auto_resol_angles
        and needed_step < old_step
        and sampling.healpix_order + 1 != options.auto_local_healpix_order
    )
    resolution_asks |= state.nr_iter_wo_resol_gain >= MAX_ITER_WITHOUT_RESOLUTION_GAIN
    settled = (
        ignore_changes
        or options.auto_ignore_angles
        or state.nr_iter_wo_large_hidden_variable_changes >= MAX_ITER_WITHOUT_LARGE_CHANGES
    )
    if not (resolution_asks and settled):
        return False
    if _bodies_need_finer_offsets(model, sampling, state, options):
        return True
    bodies_done = _fix_bodies(model, old_step)
    too_coarse_still = options.minimum_angular_sampling > 0 and old_step > options.minimum_angular_sampling
    fine_enough = options.maximum_angular_sampling > 0 and old_step < options.maximum_angular_sampling
    if bodies_done or fine_enough or (old_step < 0.75 * state.accuracy_rot and not too_coarse_still):
        state.has_fine_enough_angular_sampling = True
        return False
    state.has_fine_enough_angular_sampling = False
    new_step, new_range = _new_offsets(sampling, state, options.oversampling)
    along = sampling.helical_offset_step
    if sampling.is_3d and new_step < along:
        along /= 2.0
    finer = not (stay_global and sampling.healpix_order + 1 >= options.auto_local_healpix_order)
    if not sampling.is_3d:
        sampling.psi_step /= 2.0
    elif finer:
        sampling.healpix_order += 1
        sampling.psi_step = healpix_angular_step(sampling.healpix_order)
    if new_step <= sampling.offset_step:
        sampling.offset_step, sampling.offset_range = new_step, new_range
    if options.helical_symmetry:
        helical.set_offsets(sampling, options, along)
    _begin_to_count_again(state)
    if sampling.is_3d and finer and sampling.healpix_order >= options.auto_local_healpix_order:
        start_local_searches(model, sampling, options)
    return True


def _fix_bodies(model: ModelState, step: float) -> bool:
    """Keeps bodies fixed whose orientations cannot be told more finely than in steps of `step` degrees.

    Returns whether none is left that moves; False without bodies.
    """
    if model.bodies is None:
        return False
    model.bodies.fixed |= _fine_enough_bodies(model, step)
    return bool(model.bodies.fixed.all())


def _fine_enough_bodies(model: ModelState, step: float) -> NDArray[np.bool_]:
    return step < BODY_STEP_OF_ACCURACY * model.accuracy_rot


def _bodies_need_finer_offsets(
    model: ModelState, sampling: SamplingState, state: OptimiserState, options: RefineOptions
) -> bool:
    """Before the last of the bodies is kept fixed: finer offsets, if these can be told better; whether that was so.

    The orientations of a small body are told less well than its place, and the step of the offsets is refined with
    that of the angles only, so that it would stay as it was at the start.
    """
    step = angular_step(sampling, options.oversampling)
    if model.bodies is None or not (model.bodies.fixed | _fine_enough_bodies(model, step)).all():
        return False
    finer, reach = _new_offsets(sampling, state, options.oversampling)
    if finer > WORTH_FINER_OFFSETS * sampling.offset_step:
        return False
    sampling.offset_step, sampling.offset_range = finer, reach
    _begin_to_count_again(state)
    return True


def _begin_to_count_again(state: OptimiserState) -> None:
    """Nothing is known yet of how much a new sampling changes."""
    state.nr_iter_wo_resol_gain = 0
    state.nr_iter_wo_large_hidden_variable_changes = 0
    state.smallest_changes_optimal_classes = UNKNOWN_CLASS_CHANGES
    state.smallest_changes_optimal_offsets = UNKNOWN
    state.smallest_changes_optimal_orientations = UNKNOWN


def start_local_searches(model: ModelState, sampling: SamplingState, options: RefineOptions) -> None:
    """Gaussian priors around each particle's last orientation, two fine steps wide; for helices wider in rot."""
    model.orientational_prior_mode = PRIOR_ROTTILT_PSI
    step = angular_step(sampling, options.oversampling)
    model.sigma_rot = model.sigma_psi = 2.0 * step
    if not (options.helix and options.helical_keep_tilt_prior and model.sigma_tilt > 0):
        model.sigma_tilt = 2.0 * step
    if options.helical_symmetry and model.ref_dim == 3:
        model.sigma_rot = helical.widened_sigma_rot(model.sigma_rot, step, sampling, options)


def _new_offsets(sampling: SamplingState, state: OptimiserState, oversampling: int) -> tuple[float, float]:
    """Step and range (A) of the offsets for the next sampling, from their accuracy and their last changes."""
    step = min(1.5, 0.75 * state.accuracy_trans) * 2.0**oversampling
    reach = min(1.3 * sampling.offset_range, 5.0 * state.current_changes_optimal_offsets)
    reach = max(reach, 1.5 * step)
    if reach > 4.0 * step:
        reach /= 2.0
    if reach > 4.0 * step:
        step = reach / 4.0
    return step, reach
