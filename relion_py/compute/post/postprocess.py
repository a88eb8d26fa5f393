"""Post-processing: the corrected FSC of two half maps, and their sharpened, weighted and filtered mean.

Facts: RELION 5 ``src/postprocessing.cpp`` (``run``, ``getMask``, ``sharpenMap``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image import fft
from relion_py.compute.image import fsc as correlation
from relion_py.compute.image.fourier import filter_profile, radius_grid
from relion_py.compute.post import sharpening
from relion_py.compute.post.amplitudes import amplitude_agreement
from relion_py.compute.post.sharpening import Curve, LineFit, Mtf

Map = NDArray[np.float32]
Say = Callable[[str], None]

# Fraction of a box inside its largest sphere, as RELION has it, and A^3 that a Dalton of protein fills over 1.5.
SPHERE_FRACTION = 0.476
PROTEIN_VOLUME = 0.81

THRESHOLD = 0.143


@dataclass(frozen=True)
class Settings:
    """What is asked for; resolutions and pixel sizes in A, B-factors in A^2.

    adhoc_bfactor: 0 for none. fit_from, fit_to: range of the B-factor's fit (to 0: all). low_pass: 0 for none,
    negative for the final resolution. randomise_at: phases are random from there on; 0: where the unmasked FSC
    drops below randomise_at_fsc. seed: negative for another one each time. molecular_weight: kDa, 0 if unknown.
    """

    angpix: float
    mtf: Mtf | None = None
    auto_bfactor: bool = False
    adhoc_bfactor: float = 0.0
    fit_from: float = 10.0
    fit_to: float = 0.0
    fsc_weighting: bool = True
    low_pass: float = 0.0
    filter_edge: int = 2
    randomise_at_fsc: float = 0.8
    randomise_at: float = 0.0
    force_mask: bool = False
    molecular_weight: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Correlations:
    """FSC curves by shell and what follows from them.

    box: of the maps. true: the curve that counts. masked, random_masked, part_mask: None without a mask; part_weight:
    None without a molecular weight. resolution: where ``true`` falls below 0.143; fractional_resolution: the same,
    interpolated. fraction: box over mask (RELION's f), 0 without a mask. shell: first with random phases.
    amplitudes: STAR label -> how the amplitudes and phases of the halves agree, empty if not asked for.
    """

    box: int
    unmasked: Curve
    true: Curve
    resolution: float
    fractional_resolution: float
    masked: Curve | None = None
    random_masked: Curve | None = None
    part_mask: Curve | None = None
    part_weight: Curve | None = None
    fraction: float = 0.0
    weight_fraction: float = 0.0
    shell: int = 0
    warnings: tuple[str, ...] = ()
    amplitudes: dict[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Sharpened:
    """A sharpened map, the B-factor applied (A^2), the fit it came from, the filter (A, 0: none), Guinier plots.

    guinier: name of a stage ("in", "mtf", "weighted", "sharpened") -> curve by shell.
    """

    map: Map
    bfactor: float
    low_pass: float
    fit: LineFit | None = None
    guinier: dict[str, Curve] = field(default_factory=dict)


def correlate(
    half1: Map, half2: Map, mask: Map | None, settings: Settings, say: Say, evened: tuple[Map, Map] | None = None
) -> Correlations:
    """All FSC curves of two half maps (box, box, box), and the resolution that they tell.

    evened: the halves with their amplitudes evened, from which the curves without random phases are then, and whose
    amplitudes are compared. Raises UserError if the halves are too alike to be independent.
    """
    box, angpix = half1.shape[-1], settings.angpix
    first, second = evened or (half1, half2)
    unmasked = from_one(correlation.fsc(first, second))
    amplitudes = {} if evened is None else _amplitudes(first, second, "Unmasked")
    weight_fraction, part_weight = 0.0, None
    if settings.molecular_weight > 0:
        weight_fraction = SPHERE_FRACTION * (box * angpix) ** 3 * PROTEIN_VOLUME
        weight_fraction /= settings.molecular_weight * 1000.0
        part_weight = correlation.particle_fsc(unmasked, weight_fraction)
    if mask is None:
        return Correlations(
            box, unmasked, unmasked, *_resolutions(unmasked, box, angpix),
            part_weight=part_weight, weight_fraction=weight_fraction, amplitudes=amplitudes,
        )  # fmt: skip
    if settings.randomise_at > 0:
        shell = max(1, int(angpix * box / settings.randomise_at))
    else:
        shell = correlation.randomise_from(unmasked, settings.randomise_at_fsc)
    say(f"{'  + randomize phases beyond: ':<35}{box * angpix / shell:g} Angstroms")
    rng = np.random.default_rng(settings.seed if settings.seed >= 0 else None)
    curves = correlation.masked_fsc(half1, half2, mask, rng, shell=shell)
    masked, random_masked, true = curves.masked, from_one(curves.random_masked), curves.corrected
    if evened is not None:
        masked = correlation.fsc(first, second, mask)
        true = correlation.corrected(masked, curves.random_masked, shell)
        amplitudes |= _amplitudes(first * mask, second * mask, "Masked")
    true, warnings = _trusted(unmasked, true, random_masked, settings.force_mask)
    fraction = SPHERE_FRACTION / max(float((mask > 0.5).mean()), 1.0 / mask.size)
    return Correlations(
        box,
        unmasked,
        true,
        *_resolutions(true, box, angpix),
        from_one(masked),
        random_masked,
        correlation.particle_fsc(unmasked, fraction),
        part_weight,
        fraction,
        weight_fraction,
        shell,
        warnings,
        amplitudes,
    )


def _amplitudes(first: Map, second: Map, which: str) -> dict[str, Curve]:
    alike, residual = amplitude_agreement(first, second)
    return {f"rlnAmplitudeCorrelation{which}Maps": alike, f"rlnDifferentialPhaseResidual{which}Maps": residual}


def from_one(curve: Curve) -> Curve:
    """The origin may correlate negatively; it is then 1, as in ``calculateFSCtrue``."""
    return np.where((np.arange(len(curve)) == 0) & (curve <= 0.0), 1.0, curve)


def _trusted(unmasked: Curve, true: Curve, random: Curve, force: bool) -> tuple[Curve, tuple[str, ...]]:
    """The corrected curve, or the unmasked one where the mask made things worse; and warnings."""
    last, last_unmasked = _last_shell(true), _last_shell(unmasked)
    if last_unmasked > last:
        what = "the unmasked FSC extends beyond the solvent-corrected FSC"
        if force:
            return true, (f"{what}.",)
        return unmasked, (
            f"{what}, so the unmasked one is used; adjust your mask, or give --force_mask to use it all the same.",
        )
    if random[last] > 0.1:
        return true, (
            "the phase-randomised FSC is larger than 0.10 at the estimated resolution, which may therefore be "
            "wrong; a softer mask with fewer features lowers it.",
        )
    return true, ()


def _last_shell(curve: Curve) -> int:
    below = np.flatnonzero(curve < THRESHOLD)
    return max(0, int(below[0]) - 1) if len(below) else len(curve) - 1


def _resolutions(curve: Curve, box: int, angpix: float) -> tuple[float, float]:
    resolution = correlation.resolution_at(curve, box, angpix, THRESHOLD)
    last = _last_shell(curve)
    if last == 0 or last == len(curve) - 1:
        return resolution, resolution
    above, below = curve[last] - THRESHOLD, curve[last + 1] - THRESHOLD
    return resolution, box * angpix / (last + above / (above - below))


def sharpen(volume: Map, fsc: Curve, resolution: float, settings: Settings, say: Say) -> Sharpened:
    """Divide a map by the MTF, weight it by its FSC, apply a B-factor and filter it, in this order.

    volume: (box, box, box). fsc: curve of the weights. resolution: A, that of a negative ``low_pass``.
    Raises UserError if no B-factor can be fitted.
    """
    box, angpix = volume.shape[-1], settings.angpix
    transform = fft.rfftn(volume)
    guinier = {"in": sharpening.guinier_curve(transform, box)}
    if settings.mtf is not None:
        say("== Dividing map by the MTF of the detector ...")
        transform = sharpening.divide_by_mtf(transform, settings.mtf, box, angpix)
        guinier["mtf"] = sharpening.guinier_curve(transform, box)
    if settings.fsc_weighting:
        say("== Applying sqrt(2*FSC/(FSC+1)) weighting (as in Rosenthal & Henderson, 2003) ...")
        transform = sharpening.weight_shells(transform, sharpening.fsc_weights(fsc), box)
    guinier["weighted"] = sharpening.guinier_curve(transform, box)

    fit, bfactor = None, settings.adhoc_bfactor
    if settings.auto_bfactor:
        fit = _fit(guinier["weighted"], box, settings, say)
        bfactor = fit.bfactor
    elif bfactor:
        say("== Using a user-provided (ad-hoc) B-factor ...")
    if bfactor:
        say(f"{'  + apply b-factor of: ':<35}{bfactor:g}")
        transform = sharpening.apply_bfactor(transform, bfactor, box, angpix)
    guinier["sharpened"] = sharpening.guinier_curve(transform, box)

    low_pass = resolution if settings.low_pass < 0 else settings.low_pass
    if low_pass > 0:
        say("== Low-pass filtering final map ... ")
        say(f"{'  + filter frequency: ':<35}{low_pass:g}")
        profile = filter_profile(radius_grid(box, 3), box, angpix, low_pass, settings.filter_edge)
        transform *= profile.astype(transform.real.dtype)
    sharpened = fft.irfftn(transform, s=volume.shape).astype(np.float32, copy=False)
    return Sharpened(sharpened, bfactor, low_pass, fit, guinier)


def _fit(curve: Curve, box: int, settings: Settings, say: Say) -> LineFit:
    say("== Fitting straight line through Guinier plot to find B-factor ...")
    say(f"{'  + fit from resolution: ':<35}{settings.fit_from:g}")
    say(f"{'  + fit until resolution: ':<35}{settings.fit_to:g}")
    fit = sharpening.fit_guinier(curve, box, settings.angpix, settings.fit_from, settings.fit_to)
    say(f"{'  + slope of fit: ':<35}{fit.slope:g}")
    say(f"{'  + intercept of fit: ':<35}{fit.intercept:g}")
    say(f"{'  + correlation of fit: ':<35}{fit.correlation:g}")
    return fit
