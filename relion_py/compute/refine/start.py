"""How a refinement begins: from particles and a reference, or from the files of an earlier iteration.

Source: ml_optimiser.cpp, initialise, initialiseGeneral and initialiseSigma2Noise.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import ctf_values
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.image.masks import mask_outside, soft_mask
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.refine import convergence, outputs, source
from relion_py.compute.refine.auto_refine import AutoRefinement
from relion_py.compute.refine.classification import Classification
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.engine import FILTER_EDGE, Host, grid_of
from relion_py.compute.refine.first_references import RandomAverages, blobs_like, first_resolution
from relion_py.compute.refine.gradient import GradientClassification
from relion_py.compute.refine.images import DiscPixels, transform_images
from relion_py.compute.refine.maximization import initial_noise, mean_shell_power
from relion_py.compute.refine.model import ModelState, OptimiserState, SamplingState, healpix_angular_step
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reference import read_reference, read_solvent_mask

DEFAULT_PSI_STEP = 10.0
"""Degrees; in-plane step of a 2D classification without --psi_step."""
NORM_LIMITS = (0.5, 2.0)
"""Standard deviation of the background that normalised images have."""


def new_run(options: RefineOptions, host: Host) -> AutoRefinement | Classification:
    """A run before its first iteration; its iteration-0 files are written."""
    if options.skip_align:
        options = replace(options, oversampling=0)  # there is nothing to search
    particles = ParticleSet.read(options.particles)
    state = OptimiserState(random_seed=_seed(options, host), incr_size=options.incr_size)
    state.refs_are_ctf_corrected = True
    if options.auto_refine:
        particles.split_random_halves(state.random_seed)
    sampling = _sampling(options, particles.pixel_size)
    model = _first_model(options, particles, sampling)
    if options.has_reference:
        model.references = _given_references(options, particles, host)
    source.prepare(particles, options, host.comm, host.say, lambda done, total: host.check_abort())
    with source.dropped_on_error(particles, options):
        model.sigma2_noise, averages = _initial_noise(particles, options, model, state, host)
        if not options.has_reference:
            if options.ini_high <= 0:
                options = replace(options, ini_high=first_resolution(model.ori_size, model.pixel_size))
            model.references = _made_references(options, model, averages, state)
        mask, ctf = _mask(options, model, host), ctf_params(particles.table) if options.ctf else None
        if options.auto_refine:
            halves = [model, model.copy()]
            for half, each in enumerate(halves, 1):
                each.nr_particles_per_group = particles.particles_per_group(half)
            run: AutoRefinement | Classification = AutoRefinement(
                options, host, particles, ctf, state, sampling, halves, mask
            )
        else:
            kind = GradientClassification if options.gradient else Classification
            run = kind(options, host, particles, ctf, state, sampling, [model], mask)
        run.write()
    return run


def _first_model(options: RefineOptions, particles: ParticleSet, sampling: SamplingState) -> ModelState:
    """The model before anything is known: no references yet."""
    model = ModelState.new(
        particles.box_size,
        particles.pixel_size,
        group_names=particles.group_names,
        nr_particles_per_group=particles.particles_per_group(),
        nr_classes=options.classes,
        nr_optics_groups=particles.nr_optics_groups,
        nr_directions=1 if options.skip_align else grid_of(sampling).n_directions,
        ref_dim=3 if options.is_3d else 2,
    )
    model.padding_factor = float(options.padding_factor)
    model.tau2_fudge = options.tau2_fudge_factor
    model.sigma_offset = options.sigma_offset
    _prior(model, sampling, options)
    if options.tau_spectrum not in ("", "None"):
        model.tau2_class[:] = outputs.read_tau2_spectrum(options.tau_spectrum, model.nr_shells, model.tau2_fudge)
    return model


def _given_references(options: RefineOptions, particles: ParticleSet, host: Host) -> list[NDArray[np.float32]]:
    """The reference map, filtered, once for each class."""
    volume, notes = read_reference(
        options.reference,
        particles.box_size,
        particles.pixel_size,
        ref_angpix=options.ref_angpix,
        trust_ref_size=options.trust_ref_size,
    )
    for note in notes:
        host.say(f" {note}")
    if options.ini_high > 0:
        volume = lowpass(volume, particles.pixel_size, options.ini_high, FILTER_EDGE).astype(np.float32)
    return [volume.copy() for _ in range(options.classes)]


def _made_references(
    options: RefineOptions, model: ModelState, averages: RandomAverages | None, state: OptimiserState
) -> list[NDArray[np.float32]]:
    """First class averages from the particles: random averages, or random blobs as strong as they are."""
    assert averages is not None
    maps = averages.maps(options.threads)
    filtered = [lowpass(m, model.pixel_size, options.ini_high, FILTER_EDGE).astype(np.float32) for m in maps]
    if options.no_init_blobs:
        return filtered
    diameter = options.mask_diameter(model.ori_size, model.pixel_size)
    return [
        blobs_like(each, diameter, model.pixel_size, options.ini_high, options.mask_edge, state.random_seed + k)
        for k, each in enumerate(filtered)
    ]


def continued_run(options: RefineOptions, old: outputs.Continuation, host: Host) -> AutoRefinement | Classification:
    """A refinement that goes on after the iteration whose files are `old`."""
    particles = ParticleSet.read(old.data)
    if options.auto_refine:
        particles.split_random_halves(old.state.random_seed)
        for half, model in enumerate(old.models, 1):
            model.nr_particles_per_group = particles.particles_per_group(half)
    else:
        old.models[0].nr_particles_per_group = particles.particles_per_group()
    outputs.apply_changes(old, options)
    if options.skip_align:
        options = replace(options, oversampling=0)
    directions = 1 if options.skip_align else grid_of(old.sampling).n_directions
    for model in old.models:
        if model.pdf_direction.shape[1] != directions:  # 2D files do not hold it
            model.pdf_direction = np.repeat(model.pdf_class[:, None] / directions, directions, axis=1)
    source.prepare(particles, options, host.comm, host.say, lambda done, total: host.check_abort())
    with source.dropped_on_error(particles, options):
        ctf, mask = ctf_params(particles.table) if options.ctf else None, _mask(options, old.models[0], host)
        kind: type[AutoRefinement] | type[Classification] = AutoRefinement
        if not options.auto_refine:
            kind = GradientClassification if options.gradient else Classification
        return kind(options, host, particles, ctf, old.state, old.sampling, list(old.models), mask)


def _seed(options: RefineOptions, host: Host) -> int:
    seed = options.random_seed if options.random_seed >= 0 else int(time.time()) % 1_000_000
    return host.comm.bcast(seed, 0)


def _sampling(options: RefineOptions, pixel_size: float) -> SamplingState:
    three_d = options.is_3d
    step = healpix_angular_step(options.healpix_order)
    if not three_d:
        step = options.psi_step if options.psi_step > 0 else DEFAULT_PSI_STEP
    sampling = SamplingState(
        healpix_order=options.healpix_order,
        psi_step=step,
        offset_range=options.offset_range * pixel_size,
        offset_step=options.offset_step * pixel_size,
        symmetry=options.symmetry if three_d else "C1",
        is_3d=three_d,
        limit_tilt=options.limit_tilt,
        perturbation_factor=0.0 if options.skip_align else options.perturb,
    )
    sampling.healpix_order_ori, sampling.psi_step_ori = options.healpix_order, step
    sampling.offset_range_ori, sampling.offset_step_ori = sampling.offset_range, sampling.offset_step
    return sampling


def _prior(model: ModelState, sampling: SamplingState, options: RefineOptions) -> None:
    """Local searches from the start, if asked for or if the first sampling is that fine."""
    fine = options.auto_refine and sampling.healpix_order >= options.auto_local_healpix_order
    if fine or options.prior_sigmas is not None:
        convergence.start_local_searches(model, sampling, options.oversampling)
    if options.prior_sigmas is not None:
        model.sigma_rot, model.sigma_tilt, model.sigma_psi = options.prior_sigmas


def _mask(options: RefineOptions, model: ModelState, host: Host) -> NDArray[np.float32] | None:
    """What multiplies the references: the user's mask, a sphere, or nothing."""
    box, pixel_size = model.ori_size, model.pixel_size
    if options.has_solvent_mask:
        mask, notes = read_solvent_mask(options.solvent_mask, box, pixel_size)
        for note in notes:
            host.say(f" WARNING: {note}")
        return mask
    if options.flatten_solvent and model.ref_dim == 3:
        radius = options.mask_diameter(box, pixel_size) / (2.0 * pixel_size)
        return soft_mask(box, radius, float(options.mask_edge))
    return None


def _initial_noise(
    particles: ParticleSet, options: RefineOptions, model: ModelState, state: OptimiserState, host: Host
) -> tuple[NDArray[np.float64], RandomAverages | None]:
    """Noise spectra (O, S) from the power of the first images of each optics group, in random order.

    Without a reference also random averages of these images, on every rank.
    """
    host.say(" Estimating initial noise spectra ...")
    wanted = options.minimum_particles_sigma2_noise
    random = np.random.default_rng([state.random_seed, 3])
    order = random.permutation(len(particles))
    chosen = np.concatenate(
        [order[particles.optics_group[order] == o][:wanted] for o in range(particles.nr_optics_groups)]
    )
    box, shells = model.ori_size, model.nr_shells
    # the mean power of a shell, and the sum of the images, over all ranks
    power, average = np.zeros((particles.nr_optics_groups, shells)), np.zeros((box, box))
    counts = np.zeros(particles.nr_optics_groups)
    radius = options.mask_diameter(box, model.pixel_size) / (2.0 * model.pixel_size)
    averages = None
    if not options.has_reference:
        averages = RandomAverages(options.classes, box, model.ref_dim, options.padding_factor)
    pixels = DiscPixels.of_size(box)
    ctf_of = ctf_params(particles.table) if options.ctf else None
    warned = False
    mine = source.share(np.sort(chosen), host.comm)
    for first in range(0, len(mine), 256):
        host.check_abort()
        index = mine[first : first + 256]
        images = particles.read_images(index)
        if not (options.dont_check_norm or warned):
            warned = _warn_of_norm(images, radius, particles, index, host)
        if options.zero_mask:
            images = mask_outside(images, radius, float(options.mask_edge))
        average += images.sum(axis=0, dtype=np.float64)
        spectrum = mean_shell_power(images, options.threads)
        if averages is not None:
            unmoved = np.zeros((len(index), 2), np.int64)
            transforms, _, _ = transform_images(images, unmoved, np.ones(len(index)), float(box), 0.0, pixels)
            ctf = np.ones(transforms.shape, np.float32)
            if ctf_of is not None:
                ctf = ctf_values(ctf_of[index], pixels.kx, pixels.ky, box, model.pixel_size)
            averages.add(transforms, ctf, index, pixels.kx, pixels.ky, state.random_seed)
        np.add.at(power, particles.optics_group[index], spectrum)
        np.add.at(counts, particles.optics_group[index], 1.0)
    grids = [] if averages is None else [each.grid for each in averages.sums]
    totals: list[NDArray] = [power, average, counts, *grids]
    for array in totals:
        host.comm.allreduce_sum(array)
    if (counts == 0).any():
        raise UserError("Some optics group has no particles; remove it from the table data_optics.")
    return initial_noise(power, counts, average / counts.sum()), averages


def _warn_of_norm(
    images: NDArray[np.float32], radius: float, particles: ParticleSet, index: NDArray[np.int64], host: Host
) -> bool:
    """Says so once if the background of an image does not have mean 0 and standard deviation 1."""
    box = images.shape[1]
    y, x = np.ogrid[-(box // 2) : box - box // 2, -(box // 2) : box - box // 2]
    outside = x**2 + y**2 > radius**2
    if not outside.any():
        return True
    background = images[:, outside]
    mean, deviation = background.mean(axis=1), background.std(axis=1)
    low, high = NORM_LIMITS
    with np.errstate(divide="ignore", invalid="ignore"):
        odd = (deviation < low) | (deviation > high) | (np.abs(mean / deviation) > 0.5)
    if not odd.any():
        return False
    n = int(np.argmax(odd))
    host.say(
        f" WARNING: {particles.image_name(int(index[n]))} has a background of {mean[n]:.2f} +/- {deviation[n]:.2f} "
        "instead of 0 +/- 1: normalise the particles when extracting them, or say --dont_check_norm."
    )
    return True
