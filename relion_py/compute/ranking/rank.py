"""A 2D classification as the ranker reads it, the scores of its classes, and the STAR files with the choice.

Facts: RELION 5, class_ranker.cpp (initialise, getFeatures, performRanking, writeFeatures).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.image.fourier import half_transform, real_image
from relion_py.compute.io import star
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.io.star import StarFile, Table, format_float
from relion_py.compute.ranking import score
from relion_py.compute.ranking.features import FeatureOptions, ImageFeatures, image_features
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.outputs import classification_files, number_of_optics_groups, read_model

FEWEST = 10
"""Classes with no more particles than this get no score: there is nothing to be seen."""
NO_SCORE = -999.0
_SMALLEST_CTF = 0.07  # amplitude contrast that was set to 0 must not divide


@dataclass(frozen=True)
class Classification:
    """A 2D classification. optimiser: its file; particles: of the last iteration; diameter: of the mask (A)."""

    optimiser: StarFile
    model: ModelState
    particles: ParticleTable
    diameter: float

    @property
    def sizes(self) -> NDArray[np.float64]:
        """Particles of each class (K,), by the class distribution."""
        return np.asarray(self.model.pdf_class) * len(self.particles)

    @property
    def ranked(self) -> NDArray[np.int64]:
        """Classes (from 0) that are large enough for a score."""
        return np.flatnonzero(self.sizes > FEWEST)


@dataclass(frozen=True)
class ClassFeatures:
    """Of one class (number from 0): what its average shows and what the model tells."""

    k: int
    size: float
    resolution: float
    image: ImageFeatures


def read_classification(path: str) -> Classification:
    """The model, averages and particles that an `_optimiser.star` names, of any release; UserError if it is of no 2D
    classification."""
    optimiser, model_path, data_path = classification_files(path)
    general = optimiser["optimiser_general"]
    if "model_general" not in star.read(model_path):  # a ranker's own output
        raise UserError(f"{model_path} is of a ranking: give the optimiser of the 2D classification itself.")
    model = read_model(model_path, number_of_optics_groups(data_path), True)
    if model.ref_dim != 2:
        raise UserError(f"{path} is of a 3D classification: give the _optimiser.star of a 2D classification.")
    found = Classification(
        optimiser, model, ParticleTable(star.read(data_path)), float(general.floats("rlnParticleDiameter")[0])
    )
    if "rlnDoIgnoreCtfUntilFirstPeak" in general and general.ints("rlnDoIgnoreCtfUntilFirstPeak")[0]:
        _correct_until_first_peak(found)
    return found


def features_of(
    found: Classification, options: FeatureOptions, step: Callable[[int], None] = lambda done: None
) -> list[ClassFeatures]:
    """The features of all classes that are large enough, in order; `step` is told how many are done."""
    model, features = found.model, []
    for done, k in enumerate(map(int, found.ranked), 1):
        image = image_features(model.references[k], model.pixel_size, options)
        features.append(ClassFeatures(k, float(found.sizes[k]), score.resolution_of(model, k), image))
        step(done)
    return features


def evidence_of(path: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers (from 1) of the classes of an optimiser file that get a score, and the evidence (K, 4) for it."""
    found = read_classification(path)
    features = features_of(found, FeatureOptions(found.diameter))
    return found.ranked + 1, evidence_table(found, features)


def evidence_table(found: Classification, features: list[ClassFeatures]) -> NDArray[np.float64]:
    """The evidence (K, 4) of classes with features."""
    if not features:
        return np.zeros((0, len(score.EVIDENCE)))
    best = min(f.resolution for f in features)
    return np.stack([score.evidence(found.model, f.k, f.image, found.diameter, best) for f in features])


def _correct_until_first_peak(found: Classification) -> None:
    """Divide the averages by the CTF of the mean defocus up to its first peak, where refinement left it in."""
    particles, group = found.particles, found.particles.optics_groups[0]
    defocus = (particles.floats("rlnDefocusU").mean() + particles.floats("rlnDefocusV").mean()) / 2.0
    one = np.ones(1)
    params = CtfParams(defocus * one, defocus * one, 0.0 * one, group.voltage * one, group.cs * one, group.q0 * one)
    model = found.model
    ctf = ctf_image(params, model.ori_size, model.pixel_size, intact_after_first_peak=True, damping=False)[0]
    for k, average in enumerate(model.references):
        transform = half_transform(average) / np.maximum(ctf, _SMALLEST_CTF)
        model.references[k] = np.asarray(real_image(transform, model.ori_size), np.float32)


# -------------------------------------------------------------------------------------------------------- choice


@dataclass(frozen=True)
class Choice:
    """least, most: scores that are chosen. relative: they are parts of the best score. least_particles, least_classes:
    go on with the next best classes until so many are chosen."""

    least: float = 0.5
    most: float = 999.0
    relative: bool = False
    least_particles: float = -1
    least_classes: int = -1


def choose(scores: NDArray[np.float64], sizes: NDArray[np.float64], choice: Choice) -> list[int]:
    """Places in `scores` of the chosen classes: those within the limits in order, then the others from the best down.

    sizes: particles of each class. RELION's relative limits are by mistake relative to -999 (class_ranker.cpp,
    performRanking); here they are what its help says.
    """
    scale = float(scores.max()) if choice.relative and len(scores) else 1.0
    within = (scores >= choice.least * scale) & (scores <= choice.most * scale)
    chosen = [int(i) for i in np.flatnonzero(within)]
    for i in np.argsort(scores, kind="stable")[::-1]:
        enough = sizes[chosen].sum() >= choice.least_particles and len(chosen) >= choice.least_classes
        if enough:
            break
        if not within[i]:
            chosen.append(int(i))
    return chosen


# --------------------------------------------------------------------------------------------------------- files


def class_table(found: Classification, scores: NDArray[np.float64]) -> Table:
    """The table of all classes with their scores (K,), as `rank_model.star` has it."""
    model = found.model
    columns = {
        "rlnReferenceImage": model.reference_names,
        "rlnClassScore": _texts(scores),
        "rlnClassDistribution": _texts(model.pdf_class),
        "rlnAccuracyRotations": _texts(model.accuracy_rot),
        "rlnAccuracyTranslationsAngst": _texts(model.accuracy_trans),
        "rlnEstimatedResolution": _texts(model.estimated_resolution),
        "rlnOverallFourierCompleteness": _texts(model.total_fourier_coverage),
        "rlnClassPriorOffsetX": _texts(model.prior_offset_class[:, 0]),
        "rlnClassPriorOffsetY": _texts(model.prior_offset_class[:, 1]),
    }
    return Table(columns)


def write_ranking(
    found: Classification, scores: NDArray[np.float64], chosen: list[int], directory: str, root: str
) -> str:
    """Write `<root>_model.star`, `<root>_data.star`, `backup_selection.star` and last `<root>_optimiser.star`.

    scores (K,) of all classes; chosen: numbers of classes from 0. Returns the path of the optimiser file.
    """
    paths = {kind: os.path.join(directory, f"{root}_{kind}.star") for kind in ("optimiser", "model", "data")}
    star.write(paths["model"], StarFile([("model_classes", class_table(found, scores))]))
    star.write(paths["data"], found.particles.star)
    flags = [int(k in set(chosen)) for k in range(found.model.nr_classes)]
    star.write(os.path.join(directory, "backup_selection.star"), StarFile([("", Table({"rlnSelected": flags}))]))
    general = found.optimiser["optimiser_general"].copy()
    general.set("rlnModelStarFile", [paths["model"]])
    general.set("rlnExperimentalDataStarFile", [paths["data"]])
    star.write(paths["optimiser"], StarFile([("optimiser_general", general)]))
    return paths["optimiser"]


def write_selection(
    found: Classification, features: list[ClassFeatures], scores: NDArray[np.float64], particles: str, averages: str
) -> tuple[int, int]:
    """Write the particles and the averages of the chosen classes; how many particles and classes there are.

    features, scores: of the chosen classes, in the order in which they are listed.
    """
    of_class = found.particles.ints("rlnClassNumber")
    rows = np.flatnonzero(np.isin(of_class, [f.k + 1 for f in features]))
    star.write(particles, _with_particles(found.particles, rows))
    model, which = found.model, [f.k for f in features]
    columns = {
        "rlnReferenceImage": [model.reference_names[k] for k in which],
        "rlnPredictedClassScore": _texts(scores),
        "rlnClassDistribution": _texts(np.asarray(model.pdf_class)[which]),
        "rlnAccuracyRotations": _texts(np.asarray(model.accuracy_rot)[which]),
        "rlnAccuracyTranslationsAngst": _texts(np.asarray(model.accuracy_trans)[which]),
        "rlnEstimatedResolution": _texts([f.resolution for f in features]),
    }
    star.write(averages, StarFile([("", Table(columns))]))
    return len(rows), len(which)


def _with_particles(particles: ParticleTable, rows: NDArray[np.int64]) -> StarFile:
    chosen = StarFile(list(particles.star.blocks))
    chosen[particles.block] = particles.particles.select(rows)
    return chosen


def feature_table(
    features: list[ClassFeatures], evidence: NDArray[np.float64], scores: NDArray[np.float64], found: Classification
) -> Table:
    """All that was measured, one row a class: RELION's columns, and the score's evidence as `relionpyScore...`."""
    model, which = found.model, [f.k for f in features]
    resolution = np.array([f.resolution for f in features])
    size = np.array([f.size for f in features])
    columns: dict[str, object] = {
        "rlnReferenceImage": [model.reference_names[k] for k in which],
        "rlnClassScore": _texts(scores),
        "rlnClassIndex": [k + 1 for k in which],
        "rlnClassDistribution": _texts(np.asarray(model.pdf_class)[which]),
        "rlnAccuracyRotations": _texts(np.asarray(model.accuracy_rot)[which]),
        "rlnAccuracyTranslationsAngst": _texts(np.asarray(model.accuracy_trans)[which]),
        "rlnEstimatedResolution": _texts(resolution),
        "rlnWeightedResolution": _texts(1.0 / (resolution**2 * np.log(size))),
        "rlnRelativeResolution": _texts(resolution / (model.ori_size * model.pixel_size)),
        "rlnParticleNr": _texts(size),
    }
    for label in features[0].image.values if features else ():
        values = [f.image.values[label] for f in features]
        whole = label in ("rlnProteinArea", "rlnSolventArea")
        columns[label] = [int(v) for v in values] if whole else _texts(values)
    if features and features[0].image.granulo is not None:
        columns["rlnGranulo"] = [
            "[" + ",".join(_texts(f.image.granulo)) + "]" for f in features if f.image.granulo is not None
        ]
    for name, column in zip(score.EVIDENCE, evidence.T, strict=True):
        columns["relionpyScore" + name.title().replace(" ", "")] = _texts(column)
    return Table(columns)


def _texts(values: object) -> list[str]:
    return [format_float(value) for value in np.asarray(values, dtype=np.float64)]
