"""The state and options of a run as `_optimiser.star` of RELION 5, and back from those of every release.

Labels and their order are those of ml_optimiser.cpp (MlOptimiser::write).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from relion_py.compute.errors import UserError
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.refine.model import (
    UNKNOWN,
    OptimiserState,
)
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.star_values import ListValues, as_texts, one_line


@dataclasses.dataclass(frozen=True)
class OptimiserFiles:
    """The names in `_optimiser.star`; `model2` is "" unless there are two halves."""

    output_root: str
    model: str
    model2: str
    data: str
    sampling: str


def optimiser_to_star(
    state: OptimiserState,
    options: RefineOptions,
    files: OptimiserFiles,
    *,
    iteration: int,
    split_random_halves: bool,
    particle_diameter: float,
) -> StarFile:
    """The table of `_optimiser.star`, above it the command line as the reference puts it there.

    particle_diameter in A, after -1 has been resolved. What this program cannot do is written as the
    reference writes it when it is off, so that its own `--continue` accepts the file.
    """
    general: dict[str, Any] = {"rlnOutputRootName": files.output_root, "rlnModelStarFile": files.model}
    if split_random_halves:
        general["rlnModelStarFile2"] = files.model2
    general |= {
        "rlnExperimentalDataStarFile": files.data,
        "rlnTomoTomogramsFile": "",
        "rlnTomoTrajectoriesFile": "",
        "rlnOrientSamplingStarFile": files.sampling,
        "rlnCurrentIteration": iteration,
        "rlnNumberOfIterations": options.max_iterations,
        "rlnDoSplitRandomHalves": split_random_halves,
        "rlnJoinHalvesUntilThisResolution": options.low_resol_join_halves,
        "rlnAdaptiveOversampleOrder": options.oversampling,
        "rlnAdaptiveOversampleFraction": options.adaptive_fraction,
        "rlnRandomSeed": state.random_seed,
        "rlnParticleDiameter": float(particle_diameter),
        "rlnWidthMaskEdge": options.mask_edge,
        "rlnDoZeroMask": options.zero_mask,
        "rlnDoSolventFlattening": options.flatten_solvent,
        "rlnDoSolventFscCorrection": options.solvent_correct_fsc,
        "rlnSolventMaskName": options.solvent_mask,
        "rlnSolventMask2Name": options.solvent_mask2,
        "rlnBodyStarFile": options.multibody_masks or "None",
        "rlnTauSpectrumName": options.tau_spectrum,
        "rlnMaximumCoarseImageSize": options.max_coarse_size,
        "rlnHighresLimitExpectation": options.strict_highres_exp,
        "rlnLowresLimitExpectation": options.strict_lowres_exp,
        "rlnIncrementImageSize": state.incr_size,
        "rlnDoMapEstimation": True,
        "rlnDoFastSubsetOptimisation": options.fast_subsets,
        "rlnDoExternalReconstruct": options.external_reconstruct,
        "rlnDoBlush": options.blush,
        "rlnBlushNoSpectralTrailing": options.blush_skip_spectral_trailing,
        **_gradient(state, options),
        "rlnTau2FudgeScheme": options.tau2_fudge_scheme,
        "rlnTau2FudgeArg": options.tau2_fudge,
        "rlnMaximumSignificantPoses": options.maximum_significants,
        "rlnDoAutoRefine": options.auto_refine,
        "rlnDoAutoSampling": options.auto_refine or options.auto_sampling,
        "rlnAutoLocalSearchesHealpixOrder": options.auto_local_healpix_order,
        "rlnNumberOfIterWithoutResolutionGain": state.nr_iter_wo_resol_gain,
        "rlnBestResolutionThusFar": 1.0 / state.best_resolution,
        "rlnNumberOfIterWithoutChangingAssignments": state.nr_iter_wo_large_hidden_variable_changes,
        "rlnDoSkipAlign": options.skip_align,
        "rlnDoSkipRotate": options.skip_rotate,
        "rlnOverallAccuracyRotations": float(state.accuracy_rot),
        "rlnOverallAccuracyTranslationsAngst": float(state.accuracy_trans),
        "rlnChangesOptimalOrientations": float(state.current_changes_optimal_orientations),
        "rlnChangesOptimalOffsets": float(state.current_changes_optimal_offsets),
        "rlnChangesOptimalClasses": float(state.current_changes_optimal_classes),
        "rlnSmallestChangesOrientations": float(state.smallest_changes_optimal_orientations),
        "rlnSmallestChangesOffsets": float(state.smallest_changes_optimal_offsets),
        "rlnSmallestChangesClasses": int(state.smallest_changes_optimal_classes),
        "rlnLocalSymmetryFile": options.local_symmetry or "None",
        **_helix(options),
        "rlnHasConverged": state.has_converged,
        "rlnHasHighFscAtResolLimit": state.has_high_fsc_at_limit,
        "rlnHasLargeSizeIncreaseIterationsAgo": state.has_large_incr_size_iter_ago,
        "rlnDoCorrectNorm": options.do_norm_correction,
        "rlnDoCorrectScale": options.do_scale_correction,
        "rlnDoCorrectCtf": options.ctf,
        "rlnDoCenterClasses": options.center_classes,
        "rlnDoIgnoreCtfUntilFirstPeak": options.ctf_intact_first_peak,
        "rlnCtfDataArePhaseFlipped": options.ctf_phase_flipped,
        "rlnDoOnlyFlipCtfPhases": options.only_flip_phases,
        "rlnRefsAreCtfCorrected": state.refs_are_ctf_corrected,
        "rlnFixSigmaNoiseEstimates": options.fix_sigma_noise,
        "rlnFixSigmaOffsetEstimates": options.fix_sigma_offset,
        "rlnMaxNumberOfPooledParticles": options.pool * options.threads,
        "rlnOffsetRangeX": -1.0,
        "rlnOffsetRangeY": -1.0,
        "rlnOffsetRangeZ": -1.0,
    }
    star = StarFile()
    table = Table(as_texts(general), loop=False)
    head = ["# RELION optimiser; written by relion-py", f"# {one_line(options.command_line)}"]
    table.comments = (*head, *table.comments)
    star["optimiser_general"] = table
    return star


def _gradient(state: OptimiserState, options: RefineOptions) -> dict[str, Any]:
    """What belongs to steps along the gradient, in the reference's order."""
    return {
        "rlnDoGradientRefine": options.gradient,
        "rlnDoStochasticGradientDescent": state.is_gradient,
        "rlnGradEmIters": options.gradient_em_iterations,
        "rlnGradHasConverged": False,
        "rlnGradCurrentStepsize": float(state.gradient_step),
        "rlnGradSubsetOrder": 0,
        "rlnGradSuspendFinerSamplingIter": -1,
        "rlnGradSuspendLocalSamplingIter": -1,
        "rlnSgdInitialIterationsFraction": options.gradient_initial_share,
        "rlnSgdFinalIterationsFraction": options.gradient_final_share,
        "rlnSgdMinimumResolution": 20.0,
        "rlnSgdInitialResolution": -1.0,
        "rlnSgdFinalResolution": -1.0,
        "rlnSgdInitialSubsetSize": options.gradient_first_subset,
        "rlnSgdFinalSubsetSize": options.gradient_last_subset,
        "rlnSgdMuFactor": options.gradient_momentum if options.gradient else 0.0,
        "rlnSgdSkipAnneal": False,
        "rlnSgdClassInactivityThreshold": options.class_inactivity_threshold,
        "rlnSgdSubsetSize": state.subset_size,
        "rlnSgdWriteEverySubset": options.gradient_write_every,
        "rlnSgdStepsize": options.gradient_step,
        "rlnSgdStepsizeScheme": options.gradient_step_scheme,
    }


def _helix(options: RefineOptions) -> dict[str, Any]:
    """What belongs to helices, in the reference's order."""
    ignored = options.ignore_helical_symmetry
    return {
        "rlnDoHelicalRefine": options.helix,
        "rlnIgnoreHelicalSymmetry": ignored,
        "rlnFourierMask": "None",
        "rlnHelicalTwistInitial": 0.0 if ignored else options.helical_twist,
        "rlnHelicalRiseInitial": 0.0 if ignored else options.helical_rise,
        "rlnHelicalCentralProportion": 0.0 if ignored else options.helical_central,
        "rlnNrHelicalNStart": options.helical_starts,
        "rlnHelicalMaskTubeInnerDiameter": options.helical_inner_diameter,
        "rlnHelicalMaskTubeOuterDiameter": options.helical_outer_diameter,
        "rlnHelicalSymmetryLocalRefinement": options.helical_symmetry_search and not ignored,
        "rlnHelicalSigmaDistance": options.helical_sigma_distance,
        "rlnHelicalKeepTiltPriorFixed": options.helical_keep_tilt_prior,
    }


def _helix_options(general: ListValues) -> dict[str, Any]:
    """Options of a helical run; its units and limits are in the model."""
    return {
        "helix": bool(general.integer("rlnDoHelicalRefine", 0)),
        "ignore_helical_symmetry": bool(general.integer("rlnIgnoreHelicalSymmetry", 0)),
        "helical_twist": general.number("rlnHelicalTwistInitial", 0.0),
        "helical_rise": general.number("rlnHelicalRiseInitial", 0.0),
        "helical_central": general.number("rlnHelicalCentralProportion", 0.3),
        "helical_starts": general.integer("rlnNrHelicalNStart", 1),
        "helical_inner_diameter": general.number("rlnHelicalMaskTubeInnerDiameter", -1.0),
        "helical_outer_diameter": general.number("rlnHelicalMaskTubeOuterDiameter", -1.0),
        "helical_symmetry_search": bool(general.integer("rlnHelicalSymmetryLocalRefinement", 0)),
        "helical_sigma_distance": general.number("rlnHelicalSigmaDistance", -1.0),
        "helical_keep_tilt_prior": bool(general.integer("rlnHelicalKeepTiltPriorFixed", 0)),
    }


_FOREIGN: Mapping[str, tuple[str, str]] = {
    "rlnFourierMask": ("None", "a Fourier mask"),
    "rlnTomoTomogramsFile": ("", "tomograms"),
    "rlnFourierSpaceInterpolator": ("1", "nearest-neighbour interpolation"),
}
"""Label -> (the value that this release continues from, what the run did otherwise)."""


def optimiser_from_star(star: StarFile) -> tuple[OptimiserState, RefineOptions, OptimiserFiles]:
    """State, options and file names of an `_optimiser.star` of any release from 2 on.

    The state still lacks what lives in the sampling and model files. UserError names what the run did that
    this release does not, or the label that is missing.
    """
    general = ListValues(star["optimiser_general"], star.path)
    for label, (wanted, what) in _FOREIGN.items():
        if label in general and general.text(label) != wanted:
            raise UserError(f"{star.path} is of a run with {what}, which is not in this release.")
    split = bool(general.integer("rlnDoSplitRandomHalves"))
    files = OptimiserFiles(
        output_root=general.text("rlnOutputRootName"),
        model=general.text("rlnModelStarFile"),
        model2=general.text("rlnModelStarFile2", "") if split else "",
        data=general.text("rlnExperimentalDataStarFile"),
        sampling=general.text("rlnOrientSamplingStarFile"),
    )
    auto = bool(general.integer("rlnDoAutoRefine", 0))
    if general.integer("rlnCurrentIteration") < 0 or (auto and not files.model2):
        raise UserError(
            f"{star.path} is of the last iteration, after the halves were joined: "
            "continue from the _optimiser.star of a numbered iteration."
        )
    return _optimiser_state(general), _options_of_run(general, files), files


def _optimiser_state(general: ListValues) -> OptimiserState:
    best = general.number("rlnBestResolutionThusFar")
    return OptimiserState(
        iteration=general.integer("rlnCurrentIteration"),
        random_seed=general.integer("rlnRandomSeed"),
        has_converged=bool(general.integer("rlnHasConverged")),
        nr_iter_wo_resol_gain=general.integer("rlnNumberOfIterWithoutResolutionGain"),
        nr_iter_wo_large_hidden_variable_changes=general.integer("rlnNumberOfIterWithoutChangingAssignments"),
        best_resolution=1.0 / best if best > 0 else UNKNOWN,
        has_high_fsc_at_limit=bool(general.integer("rlnHasHighFscAtResolLimit")),
        has_large_incr_size_iter_ago=general.integer("rlnHasLargeSizeIncreaseIterationsAgo"),
        incr_size=general.integer("rlnIncrementImageSize"),
        accuracy_rot=general.number("rlnOverallAccuracyRotations"),
        accuracy_trans=general.number("rlnOverallAccuracyTranslationsAngst", UNKNOWN),
        current_changes_optimal_orientations=general.number("rlnChangesOptimalOrientations"),
        current_changes_optimal_offsets=general.number("rlnChangesOptimalOffsets"),
        current_changes_optimal_classes=general.number("rlnChangesOptimalClasses"),
        smallest_changes_optimal_orientations=general.number("rlnSmallestChangesOrientations"),
        smallest_changes_optimal_offsets=general.number("rlnSmallestChangesOffsets"),
        smallest_changes_optimal_classes=general.integer("rlnSmallestChangesClasses"),
        refs_are_ctf_corrected=bool(general.integer("rlnRefsAreCtfCorrected")),
        is_gradient=bool(general.integer("rlnDoStochasticGradientDescent", 0)),
        gradient_step=general.number("rlnGradCurrentStepsize", 0.0),
        subset_size=general.integer("rlnSgdSubsetSize", -1),
    )


def _options_of_run(general: ListValues, files: OptimiserFiles) -> RefineOptions:
    auto_refine = bool(general.integer("rlnDoAutoRefine", 0))
    return RefineOptions(
        **_gradient_options(general),
        **_helix_options(general),
        auto_sampling=bool(general.integer("rlnDoAutoSampling", 0)) and not auto_refine,
        particles=files.data,
        output_root=files.output_root,
        multibody_masks=_unless_none(general.text("rlnBodyStarFile", "None")),
        solvent_mask=general.text("rlnSolventMaskName"),
        solvent_mask2=general.text("rlnSolventMask2Name", "None"),
        local_symmetry=general.text("rlnLocalSymmetryFile", "None"),
        tau_spectrum=general.text("rlnTauSpectrumName"),
        external_reconstruct=bool(general.integer("rlnDoExternalReconstruct", 0)),
        blush=bool(general.integer("rlnDoBlush", 0)),
        blush_skip_spectral_trailing=bool(general.integer("rlnBlushNoSpectralTrailing", 0)),
        auto_refine=auto_refine,
        split_random_halves=bool(general.integer("rlnDoSplitRandomHalves")),
        # an auto-refinement goes on until it has converged, wherever it was stopped (initialiseGeneral)
        iterations=-1 if auto_refine else general.integer("rlnNumberOfIterations"),
        center_classes=bool(general.integer("rlnDoCenterClasses", 0)),
        skip_align=bool(general.integer("rlnDoSkipAlign", 0)),
        skip_rotate=bool(general.integer("rlnDoSkipRotate", 0)),
        fast_subsets=bool(general.integer("rlnDoFastSubsetOptimisation", 0)),
        random_seed=general.integer("rlnRandomSeed"),
        tau2_fudge=general.number("rlnTau2FudgeArg", -1.0),
        low_resol_join_halves=general.number("rlnJoinHalvesUntilThisResolution"),
        incr_size=general.integer("rlnIncrementImageSize"),
        particle_diameter=general.number("rlnParticleDiameter"),
        zero_mask=bool(general.integer("rlnDoZeroMask")),
        flatten_solvent=bool(general.integer("rlnDoSolventFlattening")),
        solvent_correct_fsc=bool(general.integer("rlnDoSolventFscCorrection", 0)),
        mask_edge=general.integer("rlnWidthMaskEdge"),
        ctf=bool(general.integer("rlnDoCorrectCtf")),
        ctf_intact_first_peak=bool(general.integer("rlnDoIgnoreCtfUntilFirstPeak")),
        ctf_phase_flipped=bool(general.integer("rlnCtfDataArePhaseFlipped")),
        only_flip_phases=bool(general.integer("rlnDoOnlyFlipCtfPhases")),
        norm=bool(general.integer("rlnDoCorrectNorm")),
        scale=bool(general.integer("rlnDoCorrectScale")),
        auto_local_healpix_order=general.integer("rlnAutoLocalSearchesHealpixOrder"),
        oversampling=general.integer("rlnAdaptiveOversampleOrder"),
        adaptive_fraction=general.number("rlnAdaptiveOversampleFraction"),
        maximum_significants=general.integer("rlnMaximumSignificantPoses", -1),
        max_coarse_size=general.integer("rlnMaximumCoarseImageSize"),
        strict_highres_exp=general.number("rlnHighresLimitExpectation"),
        strict_lowres_exp=general.number("rlnLowresLimitExpectation", -1.0),
        fix_sigma_noise=bool(general.integer("rlnFixSigmaNoiseEstimates")),
        fix_sigma_offset=bool(general.integer("rlnFixSigmaOffsetEstimates")),
    )


def _unless_none(name: str) -> str:
    return "" if name == "None" else name


def _gradient_options(general: ListValues) -> dict[str, Any]:
    """Options of a gradient refinement; before release 4 there were others, of another algorithm."""
    if not general.integer("rlnDoGradientRefine", 0):
        return {}
    return {
        "gradient": True,
        "gradient_em_iterations": general.integer("rlnGradEmIters", 0),
        "gradient_initial_share": general.number("rlnSgdInitialIterationsFraction", 0.3),
        "gradient_final_share": general.number("rlnSgdFinalIterationsFraction", 0.2),
        "gradient_first_subset": general.integer("rlnSgdInitialSubsetSize", -1),
        "gradient_last_subset": general.integer("rlnSgdFinalSubsetSize", -1),
        "gradient_momentum": general.number("rlnSgdMuFactor", 0.9),
        "gradient_step": general.number("rlnSgdStepsize", -1.0),
        "gradient_step_scheme": general.text("rlnSgdStepsizeScheme", ""),
        "gradient_write_every": general.integer("rlnSgdWriteEverySubset", 10),
        "class_inactivity_threshold": general.number("rlnSgdClassInactivityThreshold", 0.0),
        "tau2_fudge_scheme": general.text("rlnTau2FudgeScheme", ""),
    }
