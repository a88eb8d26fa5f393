"""What contradicts itself, or is missing, in the options of a refinement: a sentence for each.

Those of a continuation with bodies are in `body_options`, and those that need a file in `checks`. Source of what goes
with what: ml_optimiser.cpp, parseInitial, parseContinue and initialiseGeneral.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relion_py.compute.refine.options import RefineOptions


def _given(options: RefineOptions, *names: str) -> Iterator[str]:
    """The flags of those fields that are not as they are by default."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    for name in names:
        if getattr(options, name) not in (fields[name].default, fields[name].metadata["unset"]):
            yield fields[name].metadata["flag"]


def of_new_run(options: RefineOptions) -> Iterator[str]:
    """Sentences about the options of a run that continues none."""
    if not options.particles:
        yield "No particles were given: name their STAR file with --i."
    if not options.output_root:
        yield "No output name was given: name it with --o, such as Refine3D/job001/run."
    if options.auto_refine:
        yield from _of_auto_refinement(options)
    elif options.split_random_halves:
        yield "--split_random_halves goes with --auto_refine: add that, or leave it out."
    if options.has_local_symmetry and not options.is_3d:
        yield "--local_symmetry is about parts of maps: leave it out for 2D classes."
    if options.denovo_3d and options.has_reference:
        yield "--denovo_3dref makes a reference from the particles: leave it out, or --ref."
    if options.force_converge:
        yield "--force_converge goes with --continue only."
    if options.has_bodies:
        yield "--multibody_masks goes with --continue only."
    for flag in _given(options, "reconstruct_subtracted", "normalise_overlap"):
        yield f"{flag} goes with --continue only."
    if options.relax_symmetry and not options.is_3d:
        yield "--relax_sym is for maps: leave it out of a 2D classification."
    if "," in options.symmetry:
        yield f"--sym takes one point group, not the list '{options.symmetry}'."
    yield from _of_helices(options)
    yield from of_any_run(options)


def _of_helices(options: RefineOptions) -> Iterator[str]:
    if not options.helix:
        yield from _of_helices_without_helix(options)
        return
    if not options.masks_tubes:
        yield "--helix needs the tube's diameter (A): give --helical_outer_diameter."
    if options.denovo_3d:
        yield "--helix goes with --ref in 3D, or with 2D classes, not with --denovo_3dref."
    if not options.is_3d and options.helical_symmetry and options.helical_rise <= 0:
        yield "--helix restricts offsets to one rise: give it (A) with --helical_rise_initial."
    if not options.is_3d and options.helical_symmetry_search:
        yield "--helical_symmetry_search refines the symmetry of maps: leave it out, or give --ref."
    if options.is_3d and options.symmetry.upper()[:1] not in ("C", "D"):
        yield f"A helix can have the point group Cn or Dn, not {options.symmetry}: correct --sym."
    if options.is_3d and options.bimodal_psi:
        yield "--bimodal_psi is for 2D classes: in 3D, _rlnAnglePsiFlipRatio of the particles says it."


def _of_helices_without_helix(options: RefineOptions) -> Iterator[str]:
    if options.masks_tubes and options.is_3d:
        yield "--helical_outer_diameter has no effect without --helix: add that, or leave it out."
    for flag in _given(
        options, "ignore_helical_symmetry", "helical_units", "helical_twist", "helical_rise",
        "helical_symmetry_search", "helical_sigma_distance", "helical_keep_tilt_prior", "helical_offset_step",
        "helical_inner_diameter",
    ):  # fmt: skip
        yield f"{flag} has no effect without --helix: add that, or leave {flag} out."


def _of_auto_refinement(options: RefineOptions) -> Iterator[str]:
    if not options.has_reference:
        yield "No reference was given: name a map with --ref."
    if not options.split_random_halves:
        yield "Auto-refinement needs --split_random_halves: add it."
    if options.classes > 1:
        yield f"Auto-refinement has one class, not {options.classes}: leave --K out, or --auto_refine."
    for flag in _given(
        options, "skip_align", "skip_rotate", "fast_subsets", "allow_coarser_sampling", "center_classes", "gradient",
        "auto_sampling",
    ):  # fmt: skip
        yield f"{flag} is for classifications: leave it out, or --auto_refine."


def of_any_run(options: RefineOptions) -> Iterator[str]:
    """Sentences about the options of a new run or a continuation."""
    yield from _of_masks(options)
    if not options.ctf:
        for flag in _given(options, "ctf_intact_first_peak", "only_flip_phases", "ctf_phase_flipped"):
            yield f"{flag} has no effect without --ctf: add it, or leave {flag} out."
    if options.bimodal_psi and options.sigma_psi <= 0:
        yield "--bimodal_psi has no effect without --sigma_psi: add it, or leave --bimodal_psi out."
    if options.relax_symmetry and not re.fullmatch(r"[cC][1-9]\d*", options.relax_symmetry):
        yield f"--relax_sym takes a cyclic group such as C2, as in RELION, not {options.relax_symmetry}."
    yield from _of_computation(options)
    if options.strict_highres_exp > 0 and 0 < options.strict_lowres_exp <= options.strict_highres_exp:
        yield "--strict_lowres_exp must be a larger number of A than --strict_highres_exp."
    yield from _of_gradient_and_blush(options)
    if options.fast_subsets and options.max_iterations < 20:
        yield "--fast_subsets needs at least 20 iterations: give them with --iter."


def _of_masks(options: RefineOptions) -> Iterator[str]:
    masked = options.flatten_solvent or options.solvent_correct_fsc or options.has_bodies
    if options.has_solvent_mask and not masked:
        yield "--solvent_mask has no effect without --flatten_solvent: add it, or leave the mask out."
    if options.solvent_correct_fsc and not (options.has_solvent_mask or options.has_bodies):
        yield "--solvent_correct_fsc needs a mask: name one with --solvent_mask."
    for flag, given in (("--solvent_mask2", options.has_level_mask), ("--lowpass_mask", options.has_lowpass_mask)):
        if given and not options.flatten_solvent:
            yield f"{flag} has no effect without --flatten_solvent: add it, or leave the mask out."
    if options.has_lowpass_mask != (options.lowpass > 0):
        yield "--lowpass_mask and --lowpass, a resolution in A, need each other: give both or none."


def _of_computation(options: RefineOptions) -> Iterator[str]:
    if options.cpu and options.gpu:
        yield "--cpu and --gpu exclude each other: give one of them."
    if options.free_gpu_memory > 0 and not options.gpu:
        yield "--free_gpu_memory has no effect without --gpu: add that, or leave --free_gpu_memory out."
    if options.preread_images and options.scratch_dir:
        yield "--preread_images and --scratch_dir exclude each other: give one of them."
    if not options.scratch_dir:
        for flag in _given(options, "reuse_scratch", "keep_scratch"):
            yield f"{flag} needs a directory: name it with --scratch_dir."


def _of_gradient_and_blush(options: RefineOptions) -> Iterator[str]:
    if options.gradient:
        for flag in _given(options, "always_cc", "skip_maximize", "fast_subsets", "blush", "external_reconstruct"):
            yield f"{flag} and --grad exclude each other: give one of them."
    else:
        for flag in _given(options, "class_inactivity_threshold", "gradient_em_iterations", "tau2_fudge_scheme"):
            yield f"{flag} has no effect without --grad: add that, or leave {flag} out."
    if options.blush and not options.is_3d and not options.continue_from:
        yield "--blush is for 3D references: leave it out."
    if options.blush and options.external_reconstruct:
        yield "--blush and --external_reconstruct exclude each other: give one of them."
    if options.blush_skip_spectral_trailing and not options.blush:
        yield "--blush_skip_spectral_trailing has no effect without --blush: add that, or leave it out."
