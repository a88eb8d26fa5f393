"""What a refinement or classification has written so far: its iterations, and what each of them says.

RELION writes per iteration ``run_itNNN_{model,optimiser,sampling,data}.star``
(``run_itNNN_half1_model.star`` and ``half2`` when the halves are apart; ``run_ctMM_itNNN_...`` after a
continuation) and at the end of auto-refine the same files without an iteration. Only reading happens here,
no Qt: this is the model under plots and results panel.
"""

from __future__ import annotations

import math
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display.errors import DisplayError

_NAME = re.compile(
    r"^(?P<stem>.*?)(?:_it(?P<it>\d{3,}))?(?:_half(?P<half>[12]))?_(?P<kind>model|optimiser|sampling|data)\.star$"
)
NO_RESOLUTION = 999.0
"""RELION writes 999 A (or inf, nan) where there is no resolution."""


@dataclass(frozen=True)
class Iteration:
    """The files of one iteration; ``number`` is None for the final files without an iteration number."""

    stem: str  # "run" or "run_ct7"
    number: int | None
    models: tuple[Path, ...]
    optimiser: Path | None = None
    sampling: Path | None = None
    data: Path | None = None

    @property
    def label(self) -> str:
        """Text for the iteration slider: ``iteration 7`` or ``final``."""
        return "final" if self.number is None else f"iteration {self.number}"


def find_iterations(directory: Path) -> list[Iteration]:
    """The iterations below ``directory`` in order, the final files last; [] where there are none.

    An iteration counts once it has a model file. Where a continuation repeats an iteration, the newer file
    wins.
    """
    found: dict[tuple[int | None, str], dict[str, Any]] = {}
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return []
    for entry in entries:
        match = _NAME.match(entry.name)
        if match is None:
            continue
        number = None if match["it"] is None else int(match["it"])
        files = found.setdefault((number, match["stem"]), {"models": [], "mtime": 0.0})
        try:
            files["mtime"] = max(files["mtime"], entry.stat().st_mtime)
        except OSError:
            continue
        if match["kind"] == "model":
            files["models"].append(Path(entry.path))
        else:
            files[match["kind"]] = Path(entry.path)
    newest: dict[int | None, tuple[float, Iteration]] = {}
    for (number, stem), files in found.items():
        if not files["models"]:
            continue
        iteration = Iteration(
            stem,
            number,
            tuple(files["models"]),
            files.get("optimiser"),
            files.get("sampling"),
            files.get("data"),
        )
        if number not in newest or files["mtime"] > newest[number][0]:
            newest[number] = (files["mtime"], iteration)
    return [newest[n][1] for n in sorted(newest, key=lambda n: math.inf if n is None else n)]


@dataclass(frozen=True)
class Spectrum:
    """One curve over resolution shells: ``frequency`` in 1/A, ``values`` of the same length (float64)."""

    frequency: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class ClassInfo:
    """One class (or body) of a model: its reference (``000001@file`` or ``file``), share 0..1, resolution and
    accuracies."""

    number: int  # from 1
    reference: str
    share: float
    resolution: float  # A; nan where unknown
    accuracy_rotations: float  # degrees; nan where unknown
    accuracy_translations: float  # A; nan where unknown


@dataclass(frozen=True)
class Model:
    """What one ``model.star`` says (both halves joined where there are two)."""

    path: Path
    dimensionality: int
    box: int
    pixel_size: float
    resolution: float  # A; nan where unknown
    current_size: int
    pmax: float
    log_likelihood: float
    classes: tuple[ClassInfo, ...]
    fsc: tuple[Spectrum, ...] = ()  # gold-standard FSC per class; empty for 2D classes and single models
    ssnr: tuple[Spectrum, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What one ``optimiser.star`` says about convergence; nan where a release does not write it."""

    iteration: int
    converged: bool
    change_angles: float  # degrees
    change_offsets: float  # A
    change_classes: float  # fraction of the particles
    accuracy_angles: float  # degrees
    accuracy_offsets: float  # A
    angular_step: float  # degrees, after oversampling none
    offset_step: float  # A or pixels, as the sampling file says


@dataclass(frozen=True)
class IterationSummary:
    """An iteration with its model and progress; ``problem`` says what could not be read."""

    iteration: Iteration
    model: Model | None
    progress: Progress | None
    problem: str = ""


def read_star(path: Path) -> Any:
    """The STAR file at ``path``; DisplayError with a sentence when it cannot be read."""
    from relion_py.compute.io import star

    try:
        return star.read(path)
    except Exception as error:  # the reader's own errors, encodings, vanished files: all end in one sentence
        raise DisplayError(f"{path} cannot be read as a STAR file: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def number(block: Any, label: str, default: float = math.nan) -> float:
    """The first value of column ``label`` in ``block`` as a float, else ``default`` (also for text and 999
    A)."""
    if block is None or label not in block or len(block) == 0:
        return default
    try:
        return float(block.strings(label)[0])
    except ValueError:
        return default


def known_resolution(value: float) -> float:
    """``value`` in A, nan where RELION says that there is none (999, inf, 0)."""
    return value if math.isfinite(value) and 0 < value < NO_RESOLUTION - 1e-6 else math.nan


def _fraction(value: float) -> float:
    """``value``, nan where it is no fraction (RELION writes 9999999 before the first iteration)."""
    return value if 0.0 <= value <= 1.0 else math.nan


def floats(block: Any, label: str, default: float = math.nan) -> NDArray[np.float64]:
    """Column ``label`` of ``block`` as float64 of its length; ``default`` where it is absent."""
    if label not in block:
        return np.full(len(block), default)
    values: list[float] = []
    for text in block.strings(label):
        try:
            values.append(float(text))
        except ValueError:
            values.append(math.nan)
    return np.asarray(values, dtype=np.float64)


def read_model(path: Path) -> Model:
    """Read one ``model.star`` of any release (pixels or Angstrom accuracies); DisplayError when it is
    none."""
    blocks = read_star(path)
    general = blocks.get("model_general")
    table, kind = blocks.get("model_classes"), "class"
    if table is None:  # of a multi-body refinement
        table, kind = blocks.get("model_bodies"), "body"
    if general is None or table is None:
        raise DisplayError(f"{path} holds no model_general and model_classes tables, so it is no RELION model")
    pixel = number(general, "rlnPixelSize", 1.0)
    translations = floats(table, "rlnAccuracyTranslationsAngst")
    if "rlnAccuracyTranslationsAngst" not in table:
        translations = floats(table, "rlnAccuracyTranslations") * pixel
    rotations = floats(table, "rlnAccuracyRotations")
    share = floats(table, "rlnClassDistribution")
    resolutions = floats(table, "rlnEstimatedResolution")
    references = table.strings("rlnReferenceImage") if "rlnReferenceImage" in table else [""] * len(table)
    classes = []
    fsc: list[Spectrum] = []
    ssnr: list[Spectrum] = []
    for index in range(len(table)):
        resolution = known_resolution(float(resolutions[index]))
        classes.append(
            ClassInfo(
                number=index + 1,
                reference=str(references[index]),
                share=float(share[index]),
                resolution=resolution,
                accuracy_rotations=known_resolution(float(rotations[index])),
                accuracy_translations=known_resolution(float(translations[index])),
            )
        )
        shells = blocks.get(f"model_{kind}_{index + 1}")
        if shells is not None and "rlnResolution" in shells:
            frequency = floats(shells, "rlnResolution")
            if "rlnGoldStandardFsc" in shells:
                fsc.append(Spectrum(frequency, floats(shells, "rlnGoldStandardFsc")))
            if "rlnSsnrMap" in shells:
                ssnr.append(Spectrum(frequency, floats(shells, "rlnSsnrMap")))
    if not any(np.any(curve.values > 0) for curve in fsc):
        fsc = []  # classification writes zeros where no halves were compared
    return Model(
        path=path,
        dimensionality=int(number(general, "rlnReferenceDimensionality", 3)),
        box=int(number(general, "rlnOriginalImageSize", 0)),
        pixel_size=pixel,
        resolution=known_resolution(number(general, "rlnCurrentResolution")),
        current_size=int(number(general, "rlnCurrentImageSize", 0)),
        pmax=number(general, "rlnAveragePmax"),
        log_likelihood=number(general, "rlnLogLikelihood"),
        classes=tuple(classes),
        fsc=tuple(fsc),
        ssnr=tuple(ssnr),
    )


def read_progress(iteration: Iteration) -> Progress | None:
    """What the optimiser (and sampling) file of an iteration says; None where there is no optimiser file."""
    if iteration.optimiser is None:
        return None
    blocks = read_star(iteration.optimiser)
    general = blocks.get("optimiser_general")
    if general is None:
        raise DisplayError(f"{iteration.optimiser} holds no optimiser_general table")
    offsets = number(general, "rlnChangesOptimalOffsets")
    accuracy = number(general, "rlnOverallAccuracyTranslationsAngst")
    step = offset_step = math.nan
    if iteration.sampling is not None and iteration.sampling.is_file():
        sampling = read_star(iteration.sampling).get("sampling_general")
        order = number(sampling, "rlnHealpixOrder")
        step = 60.0 / 2**order if order >= 0 else number(sampling, "rlnPsiStep")
        offset_step = number(sampling, "rlnOffsetStep")
    return Progress(
        iteration=int(number(general, "rlnCurrentIteration", -1)),
        converged=number(general, "rlnHasConverged", 0) > 0,
        change_angles=known_resolution(number(general, "rlnChangesOptimalOrientations")),
        change_offsets=known_resolution(offsets),
        change_classes=_fraction(number(general, "rlnChangesOptimalClasses")),
        accuracy_angles=known_resolution(number(general, "rlnOverallAccuracyRotations")),
        accuracy_offsets=known_resolution(accuracy),
        angular_step=step,
        offset_step=offset_step,
    )


Value = TypeVar("Value")


@dataclass
class FileCache:
    """Remembers what was read from files until they change; the oldest entries go first."""

    size: int = 400
    _kept: OrderedDict[tuple[Any, ...], Any] = field(default_factory=OrderedDict)

    def get(self, read: Callable[..., Value], *paths: Path, key: Any = None, arguments: tuple[Any, ...]) -> Value:
        """``read(*arguments)``, or what it gave before if none of ``paths`` changed since (time and size)."""
        stamps = []
        for path in paths:
            try:
                status = path.stat()
                stamps.append((str(path), status.st_mtime_ns, status.st_size))
            except OSError:
                stamps.append((str(path), 0, 0))
        name = (read.__qualname__, key, *stamps)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]  # type: ignore[no-any-return]
        value = read(*arguments)
        self._kept[name] = value
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)
        return value


def summarise(iteration: Iteration, cache: FileCache) -> IterationSummary:
    """Model and progress of an iteration; a file that is being written just now is a ``problem``, not an
    error."""
    model: Model | None = None
    progress: Progress | None = None
    problems: list[str] = []
    try:
        model = cache.get(read_model, iteration.models[0], arguments=(iteration.models[0],))
    except DisplayError as error:
        problems.append(str(error))
    if iteration.optimiser is not None:
        watched = [iteration.optimiser] + ([iteration.sampling] if iteration.sampling else [])
        try:
            progress = cache.get(read_progress, *watched, arguments=(iteration,))
        except DisplayError as error:
            problems.append(str(error))
    return IterationSummary(iteration, model, progress, "; ".join(problems))


@dataclass(frozen=True)
class Orientations:
    """Directions of particles: ``rot`` and ``tilt`` in degrees, ``classes`` from 1 (0 where not written)."""

    rot: NDArray[np.float64]
    tilt: NDArray[np.float64]
    classes: NDArray[np.int64]


def read_orientations(path: Path) -> Orientations:
    """Angles and classes of the particles in a ``data.star``; DisplayError when it has no angles."""
    blocks = read_star(path)
    table = particle_table(blocks)
    if table is None or "rlnAngleRot" not in table or "rlnAngleTilt" not in table:
        raise DisplayError(f"{path} has no columns rlnAngleRot and rlnAngleTilt, so it has no angular distribution")
    classes = floats(table, "rlnClassNumber", 0.0)
    return Orientations(
        rot=floats(table, "rlnAngleRot"),
        tilt=floats(table, "rlnAngleTilt"),
        classes=np.nan_to_num(classes).astype(np.int64),
    )


def particle_table(blocks: Any) -> Any | None:
    """The table of particles in a data STAR of any release (``particles``, else ``images``, else the
    unnamed one)."""
    for name in ("particles", "images", ""):
        table = blocks.get(name)
        if table is not None and len(table):
            return table
    return None


def angular_histogram(
    orientations: Orientations, only_class: int = 0, n_rot: int = 72, n_tilt: int = 36
) -> NDArray[np.float64]:
    """Particles per direction, shape (n_tilt, n_rot), in bins of equal solid angle.

    ``rot`` runs from -180 to 180 degrees along the second axis; the first axis runs over tilt from 0 to 180
    degrees in equal steps of cos(tilt). Directions are brought into that range first: (rot, -tilt) = (rot +
    180, tilt). ``only_class`` 0 takes all classes.
    """
    rot, tilt = orientations.rot, orientations.tilt
    keep = np.isfinite(rot) & np.isfinite(tilt)
    if only_class:
        keep &= orientations.classes == only_class
    rot, tilt = rot[keep], np.mod(tilt[keep] + 180.0, 360.0) - 180.0
    rot = np.where(tilt < 0, rot + 180.0, rot)
    rot = np.mod(rot + 180.0, 360.0) - 180.0
    height = np.clip(-np.cos(np.radians(tilt)), -1.0, 1.0)
    counts, _, _ = np.histogram2d(height, rot, bins=(n_tilt, n_rot), range=((-1.0, 1.0), (-180.0, 180.0)))
    return counts


@dataclass(frozen=True)
class PostProcess:
    """What ``postprocess.star`` says: curves over 1/A and the summary values (nan where absent)."""

    resolution: float  # A
    b_factor: float  # A^2
    curves: dict[str, Spectrum]
    guinier: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]  # name -> (1/d^2 in 1/A^2, ln amplitude)
    slope: float
    intercept: float


FSC_COLUMNS = {
    "corrected": "rlnFourierShellCorrelationCorrected",
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "phase-randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
}
GUINIER_COLUMNS = {
    "original": "rlnLogAmplitudesOriginal",
    "MTF-corrected": "rlnLogAmplitudesMTFCorrected",
    "weighted": "rlnLogAmplitudesWeighted",
    "sharpened": "rlnLogAmplitudesSharpened",
    "fitted intercept": "rlnLogAmplitudesIntercept",
}
NO_AMPLITUDE = -99.0
"""RELION writes -99 for the logarithm of a vanishing amplitude."""


def read_postprocess(path: Path) -> PostProcess:
    """Read a ``postprocess.star`` (RELION 2 to 5); DisplayError when it holds no ``fsc`` table."""
    blocks = read_star(path)
    table, general, guinier_table = blocks.get("fsc"), blocks.get("general"), blocks.get("guinier")
    if table is None or "rlnResolution" not in table:
        raise DisplayError(f"{path} holds no fsc table, so it is no post-processing result")
    frequency = floats(table, "rlnResolution")
    curves = {name: Spectrum(frequency, floats(table, label)) for name, label in FSC_COLUMNS.items() if label in table}
    guinier: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    if guinier_table is not None and "rlnResolutionSquared" in guinier_table:
        squared = floats(guinier_table, "rlnResolutionSquared")
        for name, label in GUINIER_COLUMNS.items():
            if label in guinier_table:
                values = floats(guinier_table, label)
                keep = values > NO_AMPLITUDE + 1e-6
                guinier[name] = (squared[keep], values[keep])
    return PostProcess(
        resolution=known_resolution(number(general, "rlnFinalResolution")),
        b_factor=number(general, "rlnBfactorUsedForSharpening"),
        curves=curves,
        guinier=guinier,
        slope=number(general, "rlnFittedSlopeGuinierPlot"),
        intercept=number(general, "rlnFittedInterceptGuinierPlot"),
    )


def crossing(curve: Spectrum, threshold: float) -> float:
    """Resolution in A of the last shell before ``curve`` first falls below ``threshold``; nan if it never
    does.

    Shell 0 is left out. This is RELION's rule for reporting a resolution (postprocessing.cpp, run).
    """
    below = np.flatnonzero(curve.values[1:] < threshold)
    if below.size == 0:
        return math.nan
    last = int(below[0])
    frequency = float(curve.frequency[last])
    return 1.0 / frequency if last > 0 and frequency > 0 else math.nan
