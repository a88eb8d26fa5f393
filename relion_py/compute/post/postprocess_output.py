"""What post-processing leaves: the STAR file, the FSC as XML (for the EMDB) and as text, and the PDF log.

Facts: RELION 5 ``src/postprocessing.cpp`` (``writeOutput``, ``writeFscXml``, ``writeFscDat``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from relion_py import __version__
from relion_py.compute.image.fsc import NO_RESOLUTION
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_file, atomic_write
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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with atomic_file(path) as file, PdfPages(file) as pdf:
        for draw in (_draw_fsc, _draw_guinier):
            figure = Figure(figsize=(8.3, 5.8), layout="constrained")
            draw(figure.add_subplot(), curves, sharpened, settings)
            pdf.savefig(figure)


def _draw_fsc(axes: Any, curves: Correlations, sharpened: Sharpened, settings: Settings) -> None:
    x = 1.0 / _angstrom(curves.box, settings.angpix)
    lines = (
        ("corrected" if curves.masked is not None else "unmasked", curves.true, "black", 2.0),
        ("unmasked", curves.unmasked if curves.masked is not None else None, "green", 1.0),
        ("masked", curves.masked, "blue", 1.0),
        ("masked, phases randomised", curves.random_masked, "red", 1.0),
    )
    for label, curve, colour, width in lines:
        if curve is not None:
            axes.plot(x, curve, color=colour, linewidth=width, label=label)
    axes.axhline(0.143, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xlabel="resolution (1/A)", ylabel="Fourier shell correlation", xlim=(0, x[-1]))
    axes.set_title(f"Final resolution = {curves.resolution:.2f} A")
    axes.legend()


def _draw_guinier(axes: Any, curves: Correlations, sharpened: Sharpened, settings: Settings) -> None:
    names = {
        "in": ("original", "black"),
        "mtf": ("MTF corrected", "green"),
        "weighted": ("FSC weighted", "blue"),
        "sharpened": ("sharpened", "red"),
    }
    for stage, (label, colour) in names.items():
        curve = sharpened.guinier.get(stage)
        if curve is not None:
            x = guinier_squares(curves.box, settings.angpix)
            axes.plot(x, np.where(curve > NO_AMPLITUDE, curve, np.nan), color=colour, label=label)
    if sharpened.fit is not None:
        x = guinier_squares(curves.box, settings.angpix)
        axes.plot(x, sharpened.fit.intercept + sharpened.fit.slope * x, color="grey", linestyle="--", label="fit")
    axes.set(xlabel="resolution^2 (1/A^2)", ylabel="ln(amplitudes)")
    axes.set_title(f"Guinier plots; B-factor = {sharpened.bfactor:.1f} A^2")
    axes.legend()
