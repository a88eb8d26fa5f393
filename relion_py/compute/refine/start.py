"""How a refinement begins: from particles and a reference, or from the files of an earlier iteration.

Source: ml_optimiser.cpp, initialise, initialiseGeneral and initialiseSigma2Noise.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.image.masks import cylinder_mask, mask_outside, mask_outside_tubes, soft_mask, tube_mask
from relion_py.compute.refine import convergence, helical, outputs, source
from relion_py.compute.refine.auto_refine import AutoRefinement
from relion_py.compute.refine.classification import Classification
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.engine import FILTER_EDGE, Host, grid_of
from relion_py.compute.refine.first_references import RandomAverages, blobs_like, first_resolution
from relion_py.compute.refine.gradient import GradientClassification
from relion_py.compute.refine.images import DiscPixels, transform_images
from relion_py.compute.refine.maximization import initial_noise, mean_shell_power, power_of_average
from relion_py.compute.refine.model import ModelState, OptimiserState, SamplingState, healpix_angular_step
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reference import read_reference, read_solvent_mask

DEFAULT_PSI_STEP = 10.0
"""Degrees; in-plane step of a 2D classification without --psi_step."""
NORM_LIMITS = (0.5, 2.0)
"""Standard deviation of the background that normalised images have."""


def new_run(options: RefineOptions, particles: ParticleSet, host: Host) -> AutoRefinement | Classification:
    """A run on `particles`, those of the options, before its first iteration; its iteration-0 files are written."""
    if options.skip_align:
        options = replace(options, oversampling=0)  # there is nothing to search
    _begin_with_priors(particles, options)
    state = OptimiserState(random_seed=_seed(options, host), incr_size=options.incr_size)
    state.refs_are_ctf_corrected = True
    if options.auto_refine:
        _split(particles, options, state.random_seed)
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
        mask, ctf = _mask(options, model, host), _ctf(particles, options)
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


def _begin_with_priors(particles: ParticleSet, options: RefineOptions) -> None:
    if options.masks_tubes:
        helical.begin_with_priors(particles)


def _split(particles: ParticleSet, options: RefineOptions, seed: int) -> None:
    """Two random halves; filaments stay together."""
    if options.helix:
        helical.split_halves(particles, seed)
    particles.split_random_halves(seed)


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
    model.helix = helical.first_state(options)
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


def continued_run(
    options: RefineOptions, old: outputs.Continuation, particles: ParticleSet, host: Host
) -> AutoRefinement | Classification:
    """A refinement that goes on after the iteration whose files are `old`, `particles` among them."""
    _begin_with_priors(particles, options)
    if options.auto_refine:
        _split(particles, options, old.state.random_seed)
        for half, model in enumerate(old.models, 1):
            model.nr_particles_per_group = particles.particles_per_group(half)
    else:
        old.models[0].nr_particles_per_group = particles.particles_per_group()
    outputs.apply_changes(old, options)
    if options.helical_symmetry:
        helical.set_offsets(old.sampling, options)
    if options.skip_align:
        options = replace(options, oversampling=0)
    directions = 1 if options.skip_align else grid_of(old.sampling).n_directions
    for model in old.models:
        if model.pdf_direction.shape[1] != directions:  # 2D files do not hold it
            model.pdf_direction = np.repeat(model.pdf_class[:, None] / directions, directions, axis=1)
    source.prepare(particles, options, host.comm, host.say, lambda done, total: host.check_abort())
    with source.dropped_on_error(particles, options):
        ctf, mask = _ctf(particles, options), _mask(options, old.models[0], host)
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
        relax_symmetry=options.relax_symmetry,
        is_3d=three_d,
        limit_tilt=options.limit_tilt,
        perturbation_factor=0.0 if options.skip_align else options.perturb,
    )
    sampling.healpix_order_ori, sampling.psi_step_ori = options.healpix_order, step
    sampling.offset_range_ori, sampling.offset_step_ori = sampling.offset_range, sampling.offset_step
    if options.helical_symmetry:
        helical.set_offsets(sampling, options, options.helical_offset_step)
    return sampling


def _prior(model: ModelState, sampling: SamplingState, options: RefineOptions) -> None:
    """Local searches from the start, if asked for or if the first sampling is that fine."""
    given = options.prior_sigmas
    fine = options.auto_refine and sampling.healpix_order >= options.auto_local_healpix_order
    if fine or given is not None:
        convergence.start_local_searches(model, sampling, options)
    # standard deviations of some angles are for searches around priors; local ones need them all
    if given is not None and not (fine and options.helix and min(given) <= 0):
        model.sigma_rot, model.sigma_tilt, model.sigma_psi = given


def _ctf(particles: ParticleSet, options: RefineOptions) -> CtfParams | None:
    if not options.ctf:
        return None
    table = particles.table
    return CtfParams(
        defocus_u=table.floats("rlnDefocusU"),
        defocus_v=table.floats("rlnDefocusV"),
        defocus_angle=table.floats("rlnDefocusAngle", 0.0),
        voltage=table.per_particle("voltage"),
        cs=table.per_particle("cs"),
        q0=table.per_particle("q0"),
        phase_shift=table.floats("rlnPhaseShift", 0.0),
        bfactor=table.floats("rlnCtfBfactor", 0.0),
        scale=table.floats("rlnCtfScalefactor", 1.0),
    )


def _mask(options: RefineOptions, model: ModelState, host: Host) -> NDArray[np.float32] | None:
    """What multiplies the references: the user's mask, a sphere or circle, or nothing."""
    box, pixel_size = model.ori_size, model.pixel_size
    if options.has_solvent_mask:
        mask, notes = read_solvent_mask(options.solvent_mask, box, pixel_size)
        for note in notes:
            host.say(f" WARNING: {note}")
        return mask
    if options.flatten_solvent and model.ref_dim == 3 and options.helix:
        if options.helical_symmetry:
            return None  # the maps get their tube when they are made helical
        outer, inner = options.helical_outer_diameter, options.helical_inner_diameter
        return cylinder_mask(box, 0.5 * outer / pixel_size, 0.5 * inner / pixel_size, float(options.mask_edge))
    if options.flatten_solvent:
        radius = options.mask_diameter(box, pixel_size) / (2.0 * pixel_size)
        return soft_mask(box, radius, float(options.mask_edge), model.ref_dim)
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
    geometries = particles.geometries(model.ori_size, model.pixel_size)
    # one average image for all optics groups of one box and pixel size, called by the first of them
    looks = [(g.box, g.pixel_size) for g in geometries]
    first_alike = np.array([looks.index(look) for look in looks])
    averages = {int(o): np.zeros((geometries[o].box,) * 2) for o in np.unique(first_alike)}
    # the mean power of a shell, and the sum of the images, over all ranks
    power, counts = np.zeros((len(geometries), model.nr_shells)), np.zeros(len(geometries))
    random_averages = None
    if not options.has_reference:
        random_averages = RandomAverages(options.classes, model.ori_size, model.ref_dim, options.padding_factor)
    ctf_of = _ctf(particles, options)
    diameter = options.mask_diameter(model.ori_size, model.pixel_size)
    warned = False
    mine = source.share(np.sort(chosen), host.comm)
    for look, average in averages.items():
        geometry = geometries[look]
        radius, pixels = diameter / (2.0 * geometry.pixel_size), DiscPixels.of_size(geometry.box)
        tube = options.helical_outer_diameter / (2.0 * geometry.pixel_size)
        alike = mine[first_alike[particles.optics_group[mine]] == look]
        for first in range(0, len(alike), 256):
            host.check_abort()
            index = alike[first : first + 256]
            images = particles.read_images(index)
            psis = particles.psi[index] if options.masks_tubes else None
            if not (options.dont_check_norm or warned):
                warned = _warn_of_norm(images, radius, particles, index, host, tube)
            if options.zero_mask and psis is not None:
                images = mask_outside_tubes(images, psis, radius, tube, float(options.mask_edge))
            elif options.zero_mask:
                images = mask_outside(images, radius, float(options.mask_edge))
            average += images.sum(axis=0, dtype=np.float64)
            spectrum = mean_shell_power(images, options.threads)
            if random_averages is not None:
                _add_at_random(random_averages, images, index, geometry, pixels, ctf_of, state.random_seed, psis)
            np.add.at(power, particles.optics_group[index], geometry.gain**2 * geometry.mean_in_reference(spectrum))
            np.add.at(counts, particles.optics_group[index], 1.0)
    grids = [] if random_averages is None else [each.grid for each in random_averages.sums]
    totals: list[NDArray] = [power, counts, *averages.values(), *grids]
    for array in totals:
        host.comm.allreduce_sum(array)
    if (counts == 0).any():
        raise UserError("Some optics group has no particles; remove it from the table data_optics.")
    of_average = np.zeros_like(power)
    for look, average in averages.items():
        geometry, groups = geometries[look], first_alike == look
        spectrum = power_of_average(average / counts[groups].sum())
        of_average[groups] = geometry.gain**2 * geometry.mean_in_reference(spectrum[None])
    return initial_noise(power, counts, of_average), random_averages


def _add_at_random(
    averages: RandomAverages,
    images: NDArray[np.float32],
    index: NDArray[np.int64],
    geometry: ImageGeometry,
    pixels: DiscPixels,
    ctf_of: CtfParams | None,
    seed: int,
    psis: NDArray[np.float64] | None,
) -> None:
    """Adds images (n, box, box), the particles `index`, to random averages; the images are changed.

    psis (n,): in-plane angles in degrees, where they are known.
    """
    unmoved, gain = np.zeros((len(index), 2), np.int64), np.full(len(index), geometry.gain)
    transforms, _, _ = transform_images(images, unmoved, gain, float(geometry.box), 0.0, pixels)
    ctf = np.ones(transforms.shape, np.float32)
    if ctf_of is not None:
        ctf = ctf_values(ctf_of[index], pixels.kx, pixels.ky, geometry.box, geometry.pixel_size)
    averages.add(transforms, ctf, index, pixels.kx, pixels.ky, seed, psis, geometry.ratio)


def _warn_of_norm(
    images: NDArray[np.float32],
    radius: float,
    particles: ParticleSet,
    index: NDArray[np.int64],
    host: Host,
    tube: float = -1.0,
) -> bool:
    """Says so once if the background of an image does not have mean 0 and standard deviation 1.

    radius, tube  pixels: outside the circle, or with a positive tube outside the helix, is background
    """
    box = images.shape[1]
    if tube > 0:
        outside = np.array([tube_mask(box, float(psi), box, tube, 0.0)[1] == 0 for psi in particles.psi[index]])
    else:
        y, x = np.ogrid[-(box // 2) : box - box // 2, -(box // 2) : box - box // 2]
        outside = np.broadcast_to(x**2 + y**2 > radius**2, images.shape)
    count = outside.sum(axis=(1, 2))
    if not count.all():
        return True
    background = np.where(outside, images.astype(np.float64), 0.0)
    mean = background.sum(axis=(1, 2)) / count
    deviation = np.sqrt(np.maximum((background**2).sum(axis=(1, 2)) / count - mean**2, 0.0))
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
