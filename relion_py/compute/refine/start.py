"""How a refinement begins: from particles and a reference, or from the files of an earlier iteration.

Source: ml_optimiser.cpp, initialise, initialiseGeneral and initialiseSigma2Noise.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.masks import cylinder_mask, soft_mask
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.refine import convergence, helical, multibody, outputs, source
from relion_py.compute.refine.auto_refine import AutoRefinement
from relion_py.compute.refine.bodies import read_bodies
from relion_py.compute.refine.classification import Classification
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.first_noise import first_noise
from relion_py.compute.refine.first_references import RandomAverages, blobs_like, first_resolution
from relion_py.compute.refine.gradient import GradientClassification
from relion_py.compute.refine.host import Host
from relion_py.compute.refine.initial_model import STARTS, InitialModel
from relion_py.compute.refine.maximization import first_data_versus_prior
from relion_py.compute.refine.model import ModelState, OptimiserState, SamplingState, healpix_angular_step
from relion_py.compute.refine.multibody import MultiBodyRefinement
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reference import read_reference, read_solvent_mask
from relion_py.compute.refine.run import grid_of
from relion_py.compute.refine.solvent import first_filter

DEFAULT_PSI_STEP = 10.0
"""Degrees; in-plane step of a 2D classification without --psi_step."""


def new_run(options: RefineOptions, particles: ParticleSet, host: Host) -> AutoRefinement | Classification:
    """A run on `particles`, those of the options, before its first iteration; its iteration-0 files are written."""
    if options.keeps_orientations:
        options = replace(options, oversampling=0)  # nothing is searched, or offsets alone in their full steps
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
        ctf = ctf_params(particles.table) if options.ctf else None
        if not options.has_reference and options.ini_high <= 0:
            options = replace(options, ini_high=first_resolution(model.ori_size, model.pixel_size))
        model.sigma2_noise, averages = first_noise(particles, options, model, ctf, state.random_seed, host)
        if not options.has_reference:
            starts = _made_references(options, model, averages, state)
            model.references = starts[0]
        mask = _mask(options, model, host)
        if options.auto_refine:
            model.nr_particles_per_group = particles.particles_per_group(1)
        # along the gradient the factor grows from 1
        factor = 1.0 if options.gradient else options.tau2_fudge_factor
        first_data_versus_prior(model, factor, fix_tau2=options.tau_spectrum not in ("", "None"))
        if options.auto_refine:
            halves = [model, model.copy()]
            halves[1].nr_particles_per_group = particles.particles_per_group(2)
            run: AutoRefinement | Classification = AutoRefinement(
                options, host, particles, ctf, state, sampling, halves, mask
            )
        elif options.gradient and options.denovo_3d:
            run = InitialModel(options, host, particles, ctf, state, sampling, [model], mask, starts)
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
        nr_directions=1 if options.keeps_orientations else grid_of(sampling).n_directions,
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
    """The references, filtered: each class its own, or all copies of one."""
    references = []
    for name in options.reference_names or (options.reference,):
        volume, notes = read_reference(
            name,
            particles.box_size,
            particles.pixel_size,
            ref_angpix=options.ref_angpix,
            trust_ref_size=options.trust_ref_size,
        )
        for note in notes:
            host.say(f" {note}")
        if options.ini_high > 0:
            volume = first_filter(volume, particles.pixel_size, options.ini_high)
        references.append(volume)
    return references if len(references) > 1 else [references[0].copy() for _ in range(options.classes)]


def _made_references(
    options: RefineOptions, model: ModelState, averages: RandomAverages | None, state: OptimiserState
) -> list[list[NDArray[np.float32]]]:
    """First references from the particles: random averages, or random blobs as strong as they are.

    Those of several starts for an initial model from blobs, else of one.
    """
    assert averages is not None
    maps = averages.maps(options.threads)
    filtered = [first_filter(m, model.pixel_size, options.ini_high) for m in maps]
    if options.no_init_blobs:
        return [filtered]
    diameter = options.mask_diameter(model.ori_size, model.pixel_size)
    alike = (diameter, model.pixel_size, options.ini_high, options.mask_edge)
    return [
        [blobs_like(m, *alike, state.random_seed + k, start) for k, m in enumerate(filtered)]
        for start in range(STARTS if options.denovo_3d else 1)
    ]


def continued_run(
    options: RefineOptions, old: outputs.Continuation, particles: ParticleSet, host: Host
) -> AutoRefinement | Classification:
    """A refinement that goes on after the iteration whose files are `old`, `particles` among them.

    With --multibody_masks a consensus refinement goes on with bodies, from iteration 0 whose files are written.
    """
    if options.has_bodies:
        return _with_bodies(options, old, particles, host)
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
    if options.keeps_orientations:
        options = replace(options, oversampling=0)
    directions = 1 if options.keeps_orientations else grid_of(old.sampling).n_directions
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


def _with_bodies(
    options: RefineOptions, old: outputs.Continuation, particles: ParticleSet, host: Host
) -> MultiBodyRefinement:
    """A multi-body refinement, a new one or one that goes on."""
    if particles.images_to_reconstruct is not None:
        raise UserError(
            f"{particles.table.path} has a column _rlnReconstructImageName, from whose images no bodies are "
            "subtracted: remove the column."
        )
    first = old.models[0]
    box, pixel_size = first.ori_size, first.pixel_size
    bodies = read_bodies(options.multibody_masks, box, pixel_size, normalise_overlap=options.normalise_overlap)
    begins, state = first.bodies is None, old.state
    _split(particles, options, state.random_seed)
    outputs.apply_changes(old, options)
    if begins:
        host.say(" + Initialising multi-body refinement ...")
        state, particles.bodies = multibody.begin(old, options, bodies, len(particles))
    elif not len(bodies) == first.nr_classes == len(particles.bodies):
        raise UserError(
            f"{options.multibody_masks} has {len(bodies)} bodies, but the run that is continued has "
            f"{first.nr_classes}, and its particles {len(particles.bodies)}."
        )
    directions = grid_of(old.sampling).n_directions
    for half, model in enumerate(old.models, 1):
        model.nr_particles_per_group = particles.particles_per_group(half)
        if model.pdf_direction.shape[1] != directions:
            model.pdf_direction = np.full((len(bodies), directions), 1.0 / directions)
    source.prepare(particles, options, host.comm, host.say, lambda done, total: host.check_abort())
    with source.dropped_on_error(particles, options):
        ctf = ctf_params(particles.table) if options.ctf else None
        run = MultiBodyRefinement(
            options, host, particles, ctf, state, old.sampling, list(old.models), None, bodies=bodies
        )
        run.on_first_rank(lambda: multibody.write_masks(bodies, options, box, pixel_size))
        if begins:
            run.write_bodies_iteration()
        return run


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
        perturbation_factor=0.0 if options.keeps_orientations else options.perturb,
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
