"""Model, sampling and optimiser as the STAR tables of RELION 5, and back from those of every release.

Only text and numbers here; which files they go to is `outputs.py`. Tables, labels and their order are those
of ml_model.cpp (MlModel::write), healpix_sampling.cpp (HealpixSampling::write) and ml_optimiser.cpp
(MlOptimiser::write); how older files differ is in the `read` functions beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.helix import Range
from relion_py.compute.io.star import StarFile, Table, format_float
from relion_py.compute.refine.model import (
    UNKNOWN,
    FloatArray,
    HelixState,
    ModelState,
    OptimiserState,
    SamplingState,
    number_of_shells,
    shell_to_resolution,
)
from relion_py.compute.refine.options import RefineOptions

# ------------------------------------------------------------------------------------------------ model


def model_to_star(model: ModelState) -> StarFile:
    """The tables of `_model.star`. `reference_names` must have been set to the maps that go with it."""
    star = StarFile()
    star["model_general"] = Table(_model_general(model), loop=False)
    star["model_classes"] = Table(_model_classes(model))
    for k in range(model.nr_classes):
        star[f"model_class_{k + 1}"] = Table(_class_spectra(model, k))
    star["model_groups"] = Table(
        {
            "rlnGroupNumber": np.arange(1, model.nr_groups + 1),
            "rlnGroupName": model.group_names,
            "rlnGroupNrParticles": model.nr_particles_per_group,
            "rlnGroupScaleCorrection": _texts(model.scale_correction),
        }
    )
    for g in range(model.nr_optics_groups):
        # shells without an estimate are left out (MlModel::write)
        shells = np.flatnonzero(model.sigma2_noise[g] > 0)
        star[f"model_optics_group_{g + 1}"] = Table(
            {
                "rlnSpectralIndex": shells,
                "rlnResolution": _texts(shells / (model.ori_size * model.pixel_size)),
                "rlnSigma2Noise": _texts(model.sigma2_noise[g][shells]),
            }
        )
    if model.ref_dim == 3:
        for k in range(model.nr_classes):
            star[f"model_pdf_orient_class_{k + 1}"] = Table(
                {"rlnOrientationDistribution": _texts(model.pdf_direction[k])}
            )
    return star


def _model_general(model: ModelState) -> dict[str, str]:
    return _as_text(
        {
            "rlnReferenceDimensionality": model.ref_dim,
            "rlnDataDimensionality": model.data_dim,
            "rlnOriginalImageSize": model.ori_size,
            "rlnCurrentResolution": model.current_resolution,
            "rlnCurrentImageSize": model.current_size,
            "rlnPaddingFactor": model.padding_factor,
            "rlnIsHelix": model.helix is not None,
            **_helix_of_model(model),
            "rlnFourierSpaceInterpolator": model.interpolator,
            "rlnMinRadiusNnInterpolation": model.r_min_nn,
            "rlnPixelSize": model.pixel_size,
            "rlnNrClasses": model.nr_classes,
            "rlnNrBodies": 1,
            "rlnNrGroups": model.nr_groups,
            "rlnNrOpticsGroups": model.nr_optics_groups,
            "rlnTau2FudgeFactor": float(model.tau2_fudge),
            "rlnNormCorrectionAverage": float(model.avg_norm_correction),
            "rlnSigmaOffsetsAngst": float(model.sigma_offset),
            "rlnOrientationalPriorMode": model.orientational_prior_mode,
            "rlnSigmaPriorRotAngle": float(model.sigma_rot),
            "rlnSigmaPriorTiltAngle": float(model.sigma_tilt),
            "rlnSigmaPriorPsiAngle": float(model.sigma_psi),
            "rlnLogLikelihood": float(model.log_likelihood),
            "rlnAveragePmax": float(model.ave_pmax),
        }
    )


def _helix_of_model(model: ModelState) -> dict[str, Any]:
    helix = model.helix
    if helix is None:
        return {}
    return {
        "rlnNrHelicalAsymUnits": helix.units,
        "rlnHelicalTwistMin": float(helix.twists.low),
        "rlnHelicalTwistMax": float(helix.twists.high),
        "rlnHelicalTwistInitialStep": float(helix.twists.step),
        "rlnHelicalRiseMin": float(helix.rises.low),
        "rlnHelicalRiseMax": float(helix.rises.high),
        "rlnHelicalRiseInitialStep": float(helix.rises.step),
    }


def _read_helix(general: _Values, star: StarFile) -> HelixState | None:
    if not general.integer("rlnIsHelix", 0):
        return None
    table = star["model_classes"]

    def limits(name: str) -> Range:
        low, high = (general.number(f"rlnHelical{name}{end}", 0.0) for end in ("Min", "Max"))
        return Range(low, high, general.number(f"rlnHelical{name}InitialStep", 0.0))

    return HelixState(
        general.integer("rlnNrHelicalAsymUnits", 1),
        limits("Twist"),
        limits("Rise"),
        table.floats("rlnHelicalTwist"),
        table.floats("rlnHelicalRise"),
    )


def _model_classes(model: ModelState) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "rlnReferenceImage": model.reference_names,
        "rlnClassDistribution": _texts(model.pdf_class),
        "rlnAccuracyRotations": _texts(model.accuracy_rot),
        "rlnAccuracyTranslationsAngst": _texts(model.accuracy_trans),
        "rlnEstimatedResolution": _texts(model.estimated_resolution),
        "rlnOverallFourierCompleteness": _texts(model.total_fourier_coverage),
    }
    if model.moment_names:
        columns["rlnGradMoment1"] = [first for first, _ in model.moment_names]
        columns["rlnGradMoment2"] = [second for _, second in model.moment_names]
    if model.ref_dim == 2:
        columns["rlnClassPriorOffsetX"] = _texts(model.prior_offset_class[:, 0])
        columns["rlnClassPriorOffsetY"] = _texts(model.prior_offset_class[:, 1])
    if model.helix is not None:
        columns["rlnHelicalRise"] = _texts(model.helix.rise)
        columns["rlnHelicalTwist"] = _texts(model.helix.twist)
    return columns


def _class_spectra(model: ModelState, k: int) -> dict[str, Any]:
    shells = np.arange(model.nr_shells)
    columns: dict[str, Any] = {
        "rlnSpectralIndex": shells,
        "rlnResolution": _texts(shells / (model.ori_size * model.pixel_size)),
        "rlnAngstromResolution": _texts(shell_to_resolution(shells, model.ori_size, model.pixel_size)),
        "rlnSsnrMap": _texts(model.data_vs_prior_class[k]),
        "rlnGoldStandardFsc": _texts(model.fsc_halves_class[k]),
        "rlnFourierCompleteness": _texts(model.fourier_coverage_class[k]),
        "rlnReferenceSigma2": _texts(model.sigma2_class[k]),
        "rlnReferenceTau2": _texts(model.tau2_class[k]),
    }
    if model.orientability_contrib is not None:
        columns["rlnSpectralOrientabilityContribution"] = _texts(model.orientability_contrib[k])
    return columns


def model_from_star(star: StarFile, nr_optics_groups: int = 1) -> ModelState:
    """The model of a `_model.star`; `references` is left empty, `reference_names` says where the maps are.

    Release 3.1 and older kept noise spectra per micrograph group: as the reference does, the first one then
    serves every one of `nr_optics_groups`. Release 3.0 and older gave offsets in pixels. UserError says what
    is missing.
    """
    general = _Values(star["model_general"], star.path)
    _refuse_foreign_model(general, star.path)
    pixel_size = general.number("rlnPixelSize")
    ori_size = general.integer("rlnOriginalImageSize")
    in_pixels = "rlnSigmaOffsetsAngst" not in general
    to_angstrom = pixel_size if in_pixels else 1.0
    model = ModelState(
        ori_size=ori_size,
        pixel_size=pixel_size,
        ref_dim=general.integer("rlnReferenceDimensionality"),
        data_dim=general.integer("rlnDataDimensionality", 2),
        current_size=general.integer("rlnCurrentImageSize"),
        current_resolution=general.number("rlnCurrentResolution"),
        padding_factor=general.number("rlnPaddingFactor"),
        interpolator=general.integer("rlnFourierSpaceInterpolator"),
        r_min_nn=general.integer("rlnMinRadiusNnInterpolation"),
        tau2_fudge=general.number("rlnTau2FudgeFactor"),
        avg_norm_correction=general.number("rlnNormCorrectionAverage"),
        sigma_offset=general.number("rlnSigmaOffsets" if in_pixels else "rlnSigmaOffsetsAngst") * to_angstrom,
        orientational_prior_mode=general.integer("rlnOrientationalPriorMode"),
        sigma_rot=general.number("rlnSigmaPriorRotAngle"),
        sigma_tilt=general.number("rlnSigmaPriorTiltAngle"),
        sigma_psi=general.number("rlnSigmaPriorPsiAngle"),
        log_likelihood=general.number("rlnLogLikelihood"),
        ave_pmax=general.number("rlnAveragePmax"),
        helix=_read_helix(general, star),
    )
    _read_classes(model, star, general.integer("rlnNrClasses"))
    groups = star["model_groups"]
    model.group_names = groups.strings("rlnGroupName")
    model.nr_particles_per_group = groups.ints("rlnGroupNrParticles")
    model.scale_correction = groups.floats("rlnGroupScaleCorrection")
    _read_noise(model, star, general.integer("rlnNrOpticsGroups", 0), nr_optics_groups)
    return model


def _refuse_foreign_model(general: _Values, path: str) -> None:
    if general.integer("rlnNrBodies", 1) > 1:
        raise UserError(f"{path} is the model of a multi-body refinement, which is not in this release.")


def _read_classes(model: ModelState, star: StarFile, nr_classes: int) -> None:
    table = star["model_classes"]
    if len(table) != nr_classes:
        raise UserError(f"{star.path}: model_classes has {len(table)} rows for {nr_classes} classes.")
    model.reference_names = table.strings("rlnReferenceImage")
    if "rlnGradMoment1" in table and "rlnGradMoment2" in table:
        names = zip(table.strings("rlnGradMoment1"), table.strings("rlnGradMoment2"), strict=True)
        model.moment_names = list(names)
    model.pdf_class = table.floats("rlnClassDistribution")
    model.accuracy_rot = table.floats("rlnAccuracyRotations")
    if "rlnAccuracyTranslationsAngst" in table:
        model.accuracy_trans = table.floats("rlnAccuracyTranslationsAngst")
    else:
        model.accuracy_trans = table.floats("rlnAccuracyTranslations") * model.pixel_size
    model.estimated_resolution = _column(table, "rlnEstimatedResolution", nr_classes)
    model.total_fourier_coverage = _column(table, "rlnOverallFourierCompleteness", nr_classes)
    model.prior_offset_class = np.zeros((nr_classes, 2))
    if "rlnClassPriorOffsetX" in table:
        model.prior_offset_class[:, 0] = table.floats("rlnClassPriorOffsetX")
        model.prior_offset_class[:, 1] = table.floats("rlnClassPriorOffsetY")

    spectra = [star[f"model_class_{k + 1}"] for k in range(nr_classes)]
    shape = (nr_classes, model.nr_shells)

    def stacked(label: str) -> FloatArray:
        rows = np.zeros(shape)
        for k, table in enumerate(spectra):
            if label in table:
                rows[k, _shells_of(table, model.nr_shells, star.path)] = table.floats(label)
        return rows

    model.data_vs_prior_class = stacked("rlnSsnrMap")
    model.fsc_halves_class = stacked("rlnGoldStandardFsc")
    model.fourier_coverage_class = stacked("rlnFourierCompleteness")
    model.sigma2_class = stacked("rlnReferenceSigma2")
    model.tau2_class = stacked("rlnReferenceTau2")
    if all("rlnSpectralOrientabilityContribution" in table for table in spectra):
        model.orientability_contrib = stacked("rlnSpectralOrientabilityContribution")
    if model.ref_dim == 3:
        pdfs = [star[f"model_pdf_orient_class_{k + 1}"].floats("rlnOrientationDistribution") for k in range(nr_classes)]
        model.pdf_direction = np.stack(pdfs)


def _read_noise(model: ModelState, star: StarFile, written: int, wanted: int) -> None:
    """sigma2_noise, one row per optics group; `written` is 0 in files before release 4."""
    if written and written != wanted:
        raise UserError(
            f"{star.path} has {written} optics groups and the particles have {wanted}: they do not belong together."
        )
    model.sigma2_noise = np.zeros((wanted, number_of_shells(model.ori_size)))
    for g in range(wanted):
        table = star[f"model_optics_group_{g + 1}" if written else "model_group_1"]
        if len(table):
            model.sigma2_noise[g, _shells_of(table, model.nr_shells, star.path)] = table.floats("rlnSigma2Noise")


def _shells_of(table: Table, nr_shells: int, path: str) -> np.ndarray:
    shells = table.ints("rlnSpectralIndex")
    if len(shells) and (shells.min() < 0 or shells.max() >= nr_shells):
        raise UserError(f"{path} has a spectrum with more shells than its box has ({nr_shells}).")
    return shells


# --------------------------------------------------------------------------------------------- sampling


def sampling_to_star(sampling: SamplingState) -> StarFile:
    """The tables of `_sampling.star`."""
    general: dict[str, Any] = {
        "rlnIs3DSampling": sampling.is_3d,
        "rlnIs3DTranslationalSampling": sampling.is_3d_trans,
    }
    if sampling.is_3d:
        general["rlnHealpixOrder"] = sampling.healpix_order
        general["rlnSymmetryGroup"] = sampling.symmetry
        general["rlnTiltAngleLimit"] = float(sampling.limit_tilt)
    general |= {
        "rlnPsiStep": float(sampling.angular_step),
        "rlnOffsetRange": float(sampling.offset_range),
        "rlnOffsetStep": float(sampling.offset_step),
        "rlnHelicalOffsetStep": float(sampling.helical_offset_step),
        "rlnSamplingPerturbInstance": float(sampling.random_perturbation),
        "rlnSamplingPerturbFactor": float(sampling.perturbation_factor),
        "rlnHealpixOrderOriginal": sampling.healpix_order_ori,
        "rlnPsiStepOriginal": float(sampling.psi_step_ori),
        "rlnOffsetRangeOriginal": float(sampling.offset_range_ori),
        "rlnOffsetStepOriginal": float(sampling.offset_step_ori),
    }
    star = StarFile()
    star["sampling_general"] = Table(_as_text(general), loop=False)
    if sampling.is_3d:
        star["sampling_directions"] = Table(
            {
                "rlnAngleRot": _texts(sampling.directions[:, 0]),
                "rlnAngleTilt": _texts(sampling.directions[:, 1]),
            }
        )
    return star


def sampling_from_star(star: StarFile, pixel_size_of_offsets: float = 1.0) -> SamplingState:
    """The sampling of a `_sampling.star`. Files of release 3.0 and older have offsets in pixels: give their
    pixel size (A) then."""
    general = _Values(star["sampling_general"], star.path)
    is_3d = bool(general.integer("rlnIs3DSampling"))
    offset_range = general.number("rlnOffsetRange") * pixel_size_of_offsets
    offset_step = general.number("rlnOffsetStep") * pixel_size_of_offsets
    order = general.integer("rlnHealpixOrder") if is_3d else 0
    psi_step = general.number("rlnPsiStep")
    directions = np.zeros((0, 2))
    if is_3d and "sampling_directions" in star:
        table = star["sampling_directions"]
        directions = np.column_stack([table.floats("rlnAngleRot"), table.floats("rlnAngleTilt")])
    return SamplingState(
        healpix_order=order,
        psi_step=-1.0 if is_3d else psi_step,  # in 3D it follows from the order (HealpixSampling::read)
        offset_range=offset_range,
        offset_step=offset_step,
        symmetry=general.text("rlnSymmetryGroup") if is_3d else "C1",
        is_3d=is_3d,
        is_3d_trans=bool(general.integer("rlnIs3DTranslationalSampling", 0)),
        limit_tilt=general.number("rlnTiltAngleLimit") if is_3d else 0.0,
        helical_offset_step=general.number("rlnHelicalOffsetStep", -1.0),
        random_perturbation=general.number("rlnSamplingPerturbInstance", 0.0),
        perturbation_factor=general.number("rlnSamplingPerturbFactor"),
        healpix_order_ori=general.integer("rlnHealpixOrderOriginal", order),
        psi_step_ori=general.number("rlnPsiStepOriginal", psi_step),
        offset_range_ori=general.number("rlnOffsetRangeOriginal", offset_range),
        offset_step_ori=general.number("rlnOffsetStepOriginal", offset_step),
        directions=directions,
    )


# -------------------------------------------------------------------------------------------- optimiser


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
        "rlnSolventMask2Name": "None",
        "rlnBodyStarFile": "None",
        "rlnTauSpectrumName": options.tau_spectrum,
        "rlnMaximumCoarseImageSize": options.max_coarse_size,
        "rlnHighresLimitExpectation": options.strict_highres_exp,
        "rlnLowresLimitExpectation": options.strict_lowres_exp,
        "rlnIncrementImageSize": state.incr_size,
        "rlnDoMapEstimation": True,
        "rlnDoFastSubsetOptimisation": options.fast_subsets,
        **_SWITCHED_OFF,
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
        "rlnDoSkipRotate": False,
        "rlnOverallAccuracyRotations": float(state.accuracy_rot),
        "rlnOverallAccuracyTranslationsAngst": float(state.accuracy_trans),
        "rlnChangesOptimalOrientations": float(state.current_changes_optimal_orientations),
        "rlnChangesOptimalOffsets": float(state.current_changes_optimal_offsets),
        "rlnChangesOptimalClasses": float(state.current_changes_optimal_classes),
        "rlnSmallestChangesOrientations": float(state.smallest_changes_optimal_orientations),
        "rlnSmallestChangesOffsets": float(state.smallest_changes_optimal_offsets),
        "rlnSmallestChangesClasses": int(state.smallest_changes_optimal_classes),
        "rlnLocalSymmetryFile": "None",
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
    table = Table(_as_text(general), loop=False)
    head = ["# RELION optimiser; written by relion-py", f"# {_one_line(options.command_line)}"]
    table.comments = (*head, *table.comments)
    star["optimiser_general"] = table
    return star


_SWITCHED_OFF: Mapping[str, Any] = {
    "rlnDoExternalReconstruct": False,
    "rlnDoBlush": False,
    "rlnBlushNoSpectralTrailing": False,
}
"""What this program does not do, as the reference writes it."""


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


def _helix_options(general: _Values) -> dict[str, Any]:
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
    "rlnBodyStarFile": ("None", "several bodies"),
    "rlnLocalSymmetryFile": ("None", "local symmetry"),
    "rlnDoBlush": ("0", "Blush regularisation"),
    "rlnDoExternalReconstruct": ("0", "external reconstruction"),
    "rlnSolventMask2Name": ("None", "a second solvent mask"),
    "rlnFourierMask": ("None", "a Fourier mask"),
    "rlnDoSkipRotate": ("0", "fixed orientations"),
    "rlnTomoTomogramsFile": ("", "tomograms"),
    "rlnFourierSpaceInterpolator": ("1", "nearest-neighbour interpolation"),
}
"""Label -> (the value that this release continues from, what the run did otherwise)."""


def optimiser_from_star(star: StarFile) -> tuple[OptimiserState, RefineOptions, OptimiserFiles]:
    """State, options and file names of an `_optimiser.star` of any release from 2 on.

    The state still lacks what lives in the sampling and model files. UserError names what the run did that
    this release does not, or the label that is missing.
    """
    general = _Values(star["optimiser_general"], star.path)
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


def _optimiser_state(general: _Values) -> OptimiserState:
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
        nr_pool=general.integer("rlnMaxNumberOfPooledParticles"),
    )


def _options_of_run(general: _Values, files: OptimiserFiles) -> RefineOptions:
    auto_refine = bool(general.integer("rlnDoAutoRefine", 0))
    return RefineOptions(
        **_gradient_options(general),
        **_helix_options(general),
        auto_sampling=bool(general.integer("rlnDoAutoSampling", 0)) and not auto_refine,
        particles=files.data,
        output_root=files.output_root,
        solvent_mask=general.text("rlnSolventMaskName"),
        tau_spectrum=general.text("rlnTauSpectrumName"),
        auto_refine=auto_refine,
        split_random_halves=bool(general.integer("rlnDoSplitRandomHalves")),
        iterations=general.integer("rlnNumberOfIterations"),
        center_classes=bool(general.integer("rlnDoCenterClasses", 0)),
        skip_align=bool(general.integer("rlnDoSkipAlign", 0)),
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


def _gradient_options(general: _Values) -> dict[str, Any]:
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


# ---------------------------------------------------------------------------------------------- helpers


class _Values:
    """A list block, with sentences for what is missing or not a number."""

    def __init__(self, table: Table, path: str) -> None:
        self._table, self._path = table, path

    def __contains__(self, label: str) -> bool:
        return label in self._table

    def text(self, label: str, default: str | None = None) -> str:
        if label not in self._table:
            if default is not None:
                return default
            raise UserError(f"{self._path} has no _{label}: it is damaged, or not of RELION.")
        return self._table.value(label)

    def number(self, label: str, default: float | None = None) -> float:
        if label not in self._table and default is not None:
            return default
        text = self.text(label)
        try:
            return float(text)
        except ValueError:
            raise UserError(f"{self._path}: _{label} is '{text}', not a number.") from None

    def integer(self, label: str, default: int | None = None) -> int:
        number = self.number(label, default)
        if number != number or number != int(number):
            raise UserError(f"{self._path}: _{label} is {number:g}, not a whole number.")
        return int(number)


def _texts(values: Any) -> list[str]:
    return [format_float(float(value)) for value in np.asarray(values).tolist()]


def _as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Floats in the reference's twelve characters, switches as 1 and 0."""
    texts = {}
    for label, value in values.items():
        if isinstance(value, bool | np.bool_):
            texts[label] = "1" if value else "0"
        elif isinstance(value, float | np.floating):
            texts[label] = format_float(float(value))
        else:
            texts[label] = str(value)
    return texts


def _column(table: Table, label: str, rows: int) -> FloatArray:
    return table.floats(label) if label in table else np.zeros(rows)


def _one_line(text: str) -> str:
    return " ".join(text.split())
