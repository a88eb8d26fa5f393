"""Model and sampling as the STAR tables of RELION 5, and back from those of every release.

Only text and numbers here; which files they go to is `outputs.py`, and `optimiser_star.py` has the rest of a run.
Tables, labels and their order are those of ml_model.cpp (MlModel::write) and healpix_sampling.cpp
(HealpixSampling::write); how older files differ is in the `read` functions beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.helix import Range
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.refine.model import (
    BodyState,
    FloatArray,
    HelixState,
    ModelState,
    SamplingState,
    number_of_shells,
    shell_to_resolution,
)
from relion_py.compute.refine.star_values import ListValues, as_texts, column_or_zeros, texts_of

# ------------------------------------------------------------------------------------------------ model


def model_to_star(model: ModelState) -> StarFile:
    """The tables of `_model.star`. `reference_names` must have been set to the maps that go with it."""
    star = StarFile()
    star["model_general"] = Table(_model_general(model), loop=False)
    kind, kinds = ("class", "classes") if model.bodies is None else ("body", "bodies")
    star[f"model_{kinds}"] = Table(_model_classes(model))
    for k in range(model.nr_classes):
        star[f"model_{kind}_{k + 1}"] = Table(_class_spectra(model, k))
    star["model_groups"] = Table(
        {
            "rlnGroupNumber": np.arange(1, model.nr_groups + 1),
            "rlnGroupName": model.group_names,
            "rlnGroupNrParticles": model.nr_particles_per_group,
            "rlnGroupScaleCorrection": texts_of(model.scale_correction),
        }
    )
    for g in range(model.nr_optics_groups):
        noise = model.sigma2_noise[g].copy()
        # never used here, but the reference divides by it, and what it continues becomes NaN where it is missing
        noise[0] = noise[0] or noise[1]
        # shells without an estimate are left out (MlModel::write)
        shells = np.flatnonzero(noise > 0)
        star[f"model_optics_group_{g + 1}"] = Table(
            {
                "rlnSpectralIndex": shells,
                "rlnResolution": texts_of(shells / (model.ori_size * model.pixel_size)),
                "rlnSigma2Noise": texts_of(noise[shells]),
            }
        )
    if model.ref_dim == 3:
        for k in range(model.nr_classes):
            star[f"model_pdf_orient_{kind}_{k + 1}"] = Table(
                {"rlnOrientationDistribution": texts_of(model.pdf_direction[k])}
            )
    return star


def _model_general(model: ModelState) -> dict[str, str]:
    return as_texts(
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
            "rlnNrClasses": 1 if model.bodies else model.nr_classes,
            "rlnNrBodies": model.nr_classes if model.bodies else 1,
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


def _read_helix(general: ListValues, star: StarFile) -> HelixState | None:
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
        "rlnClassDistribution": texts_of(model.pdf_class),
        "rlnAccuracyRotations": texts_of(model.accuracy_rot),
        "rlnAccuracyTranslationsAngst": texts_of(model.accuracy_trans),
        "rlnEstimatedResolution": texts_of(model.estimated_resolution),
        "rlnOverallFourierCompleteness": texts_of(model.total_fourier_coverage),
    }
    if model.bodies is not None:
        for place, axis in enumerate("XYZ"):
            columns[f"rlnBodyRotateDirection{axis}"] = texts_of(model.bodies.axes[:, place])
        columns["rlnBodyKeepFixed"] = model.bodies.fixed.astype(np.int64)
    if model.moment_names:
        columns["rlnGradMoment1"] = [first for first, _ in model.moment_names]
        columns["rlnGradMoment2"] = [second for _, second in model.moment_names]
    if model.ref_dim == 2:
        columns["rlnClassPriorOffsetX"] = texts_of(model.prior_offset_class[:, 0])
        columns["rlnClassPriorOffsetY"] = texts_of(model.prior_offset_class[:, 1])
    if model.helix is not None:
        columns["rlnHelicalRise"] = texts_of(model.helix.rise)
        columns["rlnHelicalTwist"] = texts_of(model.helix.twist)
    return columns


def _class_spectra(model: ModelState, k: int) -> dict[str, Any]:
    shells = np.arange(model.nr_shells)
    columns: dict[str, Any] = {
        "rlnSpectralIndex": shells,
        "rlnResolution": texts_of(shells / (model.ori_size * model.pixel_size)),
        "rlnAngstromResolution": texts_of(shell_to_resolution(shells, model.ori_size, model.pixel_size)),
        "rlnSsnrMap": texts_of(model.data_vs_prior_class[k]),
        "rlnGoldStandardFsc": texts_of(model.fsc_halves_class[k]),
        "rlnFourierCompleteness": texts_of(model.fourier_coverage_class[k]),
        "rlnReferenceSigma2": texts_of(model.sigma2_class[k]),
        "rlnReferenceTau2": texts_of(model.tau2_class[k]),
    }
    if model.orientability_contrib is not None:
        columns["rlnSpectralOrientabilityContribution"] = texts_of(model.orientability_contrib[k])
    return columns


def model_from_star(star: StarFile, nr_optics_groups: int = 1) -> ModelState:
    """The model of a `_model.star`; `references` is left empty, `reference_names` says where the maps are.

    Release 3.1 and older kept noise spectra per micrograph group: as the reference does, the first one then
    serves every one of `nr_optics_groups`. Release 3.0 and older gave offsets in pixels. UserError says what
    is missing.
    """
    general = ListValues(star["model_general"], star.path)
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
    bodies = general.integer("rlnNrBodies", 1)
    if bodies > 1:
        _read_classes(model, star, bodies, "body", "bodies")
        model.bodies = _read_bodies(star["model_bodies"])
    else:
        _read_classes(model, star, general.integer("rlnNrClasses"))
    groups = star["model_groups"]
    model.group_names = groups.strings("rlnGroupName")
    model.nr_particles_per_group = groups.ints("rlnGroupNrParticles")
    model.scale_correction = groups.floats("rlnGroupScaleCorrection")
    _read_noise(model, star, general.integer("rlnNrOpticsGroups", 0), nr_optics_groups)
    return model


def _read_bodies(table: Table) -> BodyState:
    axes = np.column_stack([table.floats(f"rlnBodyRotateDirection{axis}") for axis in "XYZ"])
    fixed = table.ints("rlnBodyKeepFixed") if "rlnBodyKeepFixed" in table else np.zeros(len(table), np.int64)
    return BodyState(axes, fixed > 0)


def _read_classes(
    model: ModelState, star: StarFile, nr_classes: int, kind: str = "class", kinds: str = "classes"
) -> None:
    table = star[f"model_{kinds}"]
    if len(table) != nr_classes:
        raise UserError(f"{star.path}: model_{kinds} has {len(table)} rows for {nr_classes} {kinds}.")
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
    model.estimated_resolution = column_or_zeros(table, "rlnEstimatedResolution", nr_classes)
    model.total_fourier_coverage = column_or_zeros(table, "rlnOverallFourierCompleteness", nr_classes)
    model.prior_offset_class = np.zeros((nr_classes, 2))
    if "rlnClassPriorOffsetX" in table:
        model.prior_offset_class[:, 0] = table.floats("rlnClassPriorOffsetX")
        model.prior_offset_class[:, 1] = table.floats("rlnClassPriorOffsetY")

    spectra = [star[f"model_{kind}_{k + 1}"] for k in range(nr_classes)]
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
        tables = [star[f"model_pdf_orient_{kind}_{k + 1}"] for k in range(nr_classes)]
        pdfs = [table.floats("rlnOrientationDistribution") for table in tables]
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
    star["sampling_general"] = Table(as_texts(general), loop=False)
    if sampling.is_3d:
        star["sampling_directions"] = Table(
            {
                "rlnAngleRot": texts_of(sampling.directions[:, 0]),
                "rlnAngleTilt": texts_of(sampling.directions[:, 1]),
            }
        )
    return star


def sampling_from_star(star: StarFile, pixel_size_of_offsets: float = 1.0) -> SamplingState:
    """The sampling of a `_sampling.star`. Files of release 3.0 and older have offsets in pixels: give their
    pixel size (A) then."""
    general = ListValues(star["sampling_general"], star.path)
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
