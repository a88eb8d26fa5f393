"""What post-processing leaves: the STAR file, the FSC as XML (for the EMDB) and as text, and the PDF log.

Facts: RELION 5 ``src/postprocessing.cpp`` (``writeOutput``, ``writeFscXml``, ``writeFscDat``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from relion_py import __version__
from relion_py.compute.image.fsc import NO_RESOLUTION
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_file, atomic_write
from relion_py.compute.io.charts import Axes, ends, panels, widened
from relion_py.compute.io.pdf import BLACK, GREEN, GREY, HALF_A4, RED, Page, write_pages
from relion_py.compute.io.star import VERSION_COMMENT, StarFile, Table
from relion_py.compute.post.postprocess import Correlations, Settings, Sharpened
from relion_py.compute.post.sharpening import NO_AMPLITUDE, Curve, guinier_squares


@dataclass(frozen=True)
class Names:
    """The files of a run: half maps, mask ("" for none), root of the outputs, command line."""

    half1: str
    half2: str
    mask: str
    root: str
    command_line: str = ""


def write_outputs(names: Names, curves: Correlations, sharpened: Sharpened, settings: Settings) -> None:
    """Write <root>.star, <root>_fsc.xml, <root>_fsc.dat, and logfile.pdf beside them."""
    tables = {
        "general": _general(names, curves, sharpened, settings),
        "fsc": _fsc(curves, settings),
        "guinier": _guinier(sharpened, curves.box, settings),
    }
    star.write(f"{names.root}.star", StarFile(tables))
    x = [f"{1.0 / value:g}" for value in _angstrom(curves.box, settings.angpix)]
    y = [f"{value:g}" for value in curves.true]
    points = "".join(
        f"  <coordinate>\n    <x>{a}</x>\n    <y>{b}</y>\n  </coordinate>\n" for a, b in zip(x, y, strict=True)
    )
    title = 'title="RELION masked-corrected FSC" xaxis="Resolution (A-1)" yaxis="Correlation Coefficient"'
    atomic_write(f"{names.root}_fsc.xml", f"<fsc {title}>\n{points}</fsc>\n".encode())
    lines = "".join(f"{a} {b}\n" for a, b in zip(x, y, strict=True))
    atomic_write(f"{names.root}_fsc.dat", lines.encode())
    write_log(os.path.join(os.path.dirname(names.root), "logfile.pdf"), curves, sharpened, settings)


def _angstrom(box: int, angpix: float) -> Curve:
    """Resolution of each shell (box // 2 + 1,); 999 for the first."""
    index = np.arange(box // 2 + 1)
    return np.where(index > 0, box * angpix / np.maximum(index, 1), NO_RESOLUTION)


def _general(names: Names, curves: Correlations, sharpened: Sharpened, settings: Settings) -> Table:
    comments = (
        f"# RELION postprocess; relion_py version {__version__}",
        f"# {names.command_line}",
        VERSION_COMMENT,
    )
    table = Table(loop=False, comments=comments)
    table.set("rlnFinalResolution", curves.resolution)
    table.set("rlnBfactorUsedForSharpening", sharpened.bfactor)
    table.set("rlnUnfilteredMapHalf1", names.half1)
    table.set("rlnUnfilteredMapHalf2", names.half2)
    table.set("rlnPostprocessedMap", f"{names.root}.mrc")
    if settings.molecular_weight > 0:
        table.set("rlnMolecularWeight", settings.molecular_weight)
        table.set("rlnParticleBoxFractionMolecularWeight", curves.weight_fraction)
    if curves.masked is not None:
        table.set("rlnParticleBoxFractionSolventMask", curves.fraction)
        table.set("rlnMaskName", names.mask)
        table.set("rlnRandomiseFrom", curves.box * settings.angpix / curves.shell)
        table.set("rlnPostprocessedMapMasked", f"{names.root}_masked.mrc")
    if sharpened.fit is not None:
        table.set("rlnFittedSlopeGuinierPlot", sharpened.fit.slope)
        table.set("rlnFittedInterceptGuinierPlot", sharpened.fit.intercept)
        table.set("rlnCorrelationFitGuinierPlot", sharpened.fit.correlation)
    return table


def _fsc(curves: Correlations, settings: Settings) -> Table:
    angstrom = _angstrom(curves.box, settings.angpix)
    table = Table()
    table.set("rlnSpectralIndex", np.arange(len(angstrom)))
    table.set("rlnResolution", 1.0 / angstrom)
    table.set("rlnAngstromResolution", angstrom)
    optional = {
        "rlnFourierShellCorrelationCorrected": curves.true if curves.masked is not None else None,
        "rlnFourierShellCorrelationParticleMaskFraction": curves.part_mask,
        "rlnFourierShellCorrelationParticleMolWeight": curves.part_weight,
        "rlnFourierShellCorrelationUnmaskedMaps": curves.unmasked,
        "rlnFourierShellCorrelationMaskedMaps": curves.masked,
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": curves.random_masked,
    }
    for label, curve in optional.items():
        if curve is not None:
            table.set(label, curve)
    for what in ("AmplitudeCorrelation", "DifferentialPhaseResidual"):
        for which in ("Unmasked", "Masked"):
            if (label := f"rln{what}{which}Maps") in curves.amplitudes:
                table.set(label, curves.amplitudes[label])
    return table


def _guinier(sharpened: Sharpened, box: int, settings: Settings) -> Table:
    plots = sharpened.guinier
    table = Table()
    table.set("rlnResolutionSquared", guinier_squares(box, settings.angpix))
    table.set("rlnLogAmplitudesOriginal", plots["in"])
    if "mtf" in plots:
        table.set("rlnLogAmplitudesMTFCorrected", plots["mtf"])
    if settings.fsc_weighting:
        table.set("rlnLogAmplitudesWeighted", plots["weighted"])
    if sharpened.bfactor:
        table.set("rlnLogAmplitudesSharpened", plots["sharpened"])
    if sharpened.fit is not None:
        table.set("rlnLogAmplitudesIntercept", np.full(len(table), sharpened.fit.intercept))
    return table


# ---- the PDF log ------------------------------------------------------------------------------------------


def write_log(path: str, curves: Correlations, sharpened: Sharpened, settings: Settings) -> None:
    """Plots of the FSC curves and of the Guinier plots, a page each."""
    with atomic_file(path) as file:
        write_pages(file, [_fsc_page(curves, settings), _guinier_page(curves, sharpened, settings)])


def _fsc_page(curves: Correlations, settings: Settings) -> Page:
    page = Page(HALF_A4)
    axes = Axes(page, *panels(page, 0, 1)[0], f"Final resolution = {curves.resolution:.2f} A")
    x = 1.0 / _angstrom(curves.box, settings.angpix)
    lines = (
        ("corrected" if curves.masked is not None else "unmasked", curves.true, BLACK, 2.0),
        ("unmasked", curves.unmasked if curves.masked is not None else None, GREEN, 1.0),
        ("masked", curves.masked, "0 0 1", 1.0),
        ("masked, phases randomised", curves.random_masked, RED, 1.0),
    )
    known = [(name, curve, colour, width) for name, curve, colour, width in lines if curve is not None]
    axes.scale((0.0, float(x[-1])), widened(ends(*(curve for _, curve, *_ in known))))
    axes.name("resolution (1/Å)", "Fourier shell correlation")
    for name, curve, colour, width in known:
        axes.curve(x, curve, colour, width, name=name)
    axes.curve(x[[0, -1]], np.full(2, 0.143), GREY, 0.8, dashed=True)
    axes.legend()
    return page


def _guinier_page(curves: Correlations, sharpened: Sharpened, settings: Settings) -> Page:
    page = Page(HALF_A4)
    axes = Axes(page, *panels(page, 0, 1)[0], f"Guinier plots; B-factor = {sharpened.bfactor:.1f} Å²")
    names = {
        "in": ("original", BLACK),
        "mtf": ("MTF corrected", GREEN),
        "weighted": ("FSC weighted", "0 0 1"),
        "sharpened": ("sharpened", RED),
    }
    x = guinier_squares(curves.box, settings.angpix)
    known = {
        stage: np.where(curve > NO_AMPLITUDE, curve, np.nan)
        for stage in names
        if (curve := sharpened.guinier.get(stage)) is not None
    }
    fit = None if sharpened.fit is None else sharpened.fit.intercept + sharpened.fit.slope * x
    axes.scale(widened(ends(x)), widened(ends(*known.values(), *([] if fit is None else [fit]))))
    axes.name("resolution² (1/Å²)", "ln(amplitudes)")
    for stage, curve in known.items():
        name, colour = names[stage]
        axes.curve(x, curve, colour, 1.5, name=name)
    if fit is not None:
        axes.curve(x, fit, GREY, 1.5, dashed=True, name="fit")
    axes.legend()
    return page
