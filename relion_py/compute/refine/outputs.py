"""The files of a refinement: `run_it012_half1_model.star` and the rest, and reading them to go on.

Every file appears whole or not at all, and `_optimiser.star`, which names the others, appears last: whoever
finds it finds the complete iteration. Names as in ml_optimiser.cpp (MlOptimiser::write), ml_model.cpp
(MlModel::write) and ml_optimiser_mpi.cpp (iterate). A rank that holds one half writes that half with
`write_model`; the rank that ends an iteration calls `write_optimiser` when all others have written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.mrc import read_image, read_map, write_map, write_stack
from relion_py.compute.io.particles import image_name, split_image_name
from relion_py.compute.refine.angular_distribution import bild
from relion_py.compute.refine.model import (
    PRIOR_ROTTILT_PSI,
    FloatArray,
    ModelState,
    Moments,
    OptimiserState,
    SamplingState,
    healpix_angular_step,
)
from relion_py.compute.refine.model_star import model_from_star, model_to_star, sampling_from_star, sampling_to_star
from relion_py.compute.refine.optimiser_star import OptimiserFiles, optimiser_from_star, optimiser_to_star
from relion_py.compute.refine.options import RefineOptions

FINAL = -1
"""The iteration number of the last, all-data iteration: its files bear none."""


@dataclass(frozen=True)
class OutputNames:
    """File names of one iteration: `root` is --o, `iteration` its number or FINAL."""

    root: str
    iteration: int

    @property
    def stem(self) -> str:
        return self.root if self.iteration == FINAL else f"{self.root}_it{self.iteration:03d}"

    @property
    def optimiser(self) -> str:
        return f"{self.stem}_optimiser.star"

    @property
    def data(self) -> str:
        return f"{self.stem}_data.star"

    @property
    def sampling(self) -> str:
        return f"{self.stem}_sampling.star"

    def model(self, half: int = 0) -> str:
        """Model of half 1 or 2, or of all particles (0)."""
        return f"{self._of_half(half)}_model.star"

    def reference(self, half: int = 0, k: int = 1) -> str:
        """Map of class k = 1, 2 ..."""
        return f"{self._of_half(half)}_class{k:03d}.mrc"

    def body(self, half: int = 0, k: int = 1) -> str:
        """Map of body k = 1, 2 ..."""
        return f"{self._of_half(half)}_body{k:03d}.mrc"

    def angular_distribution(self, half: int = 0, k: int = 1) -> str:
        """Cylinders that show how often class k is seen from where."""
        return f"{self._of_half(half)}_class{k:03d}_angdist.bild"

    @property
    def class_averages(self) -> str:
        """Stack of 2D class averages."""
        return f"{self.stem}_classes.mrcs"

    @property
    def unmasked_averages(self) -> str:
        """Stack of the last 2D class averages before they were masked."""
        return f"{self.root}_unmasked_classes.mrcs"

    def moment(self, order: int, number: int) -> str:
        """Map of first or second moments (order 1, 2); the second pseudo-half's first moments come last."""
        return f"{self.stem}_{order}moment{number:03d}.mrc"

    def moment_stack(self, order: int) -> str:
        """The same of 2D classes, all in one."""
        return f"{self.stem}_{order}moment.mrcs"

    def unfiltered(self, half: int, k: int = 1) -> str:
        """Half map before any filter or mask: what post-processing reads."""
        return f"{self._of_half(half)}_class{k:03d}_unfil.mrc"

    def unfiltered_body(self, half: int, k: int) -> str:
        """The same of body k."""
        return f"{self._of_half(half)}_body{k:03d}_unfil.mrc"

    def _of_half(self, half: int) -> str:
        return f"{self.stem}_half{half}" if half else self.stem


# ----------------------------------------------------------------------------------------------- writing


def _every(k: int) -> bool:
    return True


def write_model(names: OutputNames, model: ModelState, half: int = 0, owns: Callable[[int], bool] = _every) -> None:
    """The maps and the `_model.star` of half 1 or 2, or of all particles (0); sets `reference_names`.

    owns: whose maps are written here, by the number of the class from 0; what all have together goes with class 0.
    """
    if model.ref_dim == 2:
        stack = names.class_averages
        model.reference_names = [image_name(k, stack) for k in range(model.nr_classes)]
        if owns(0):
            write_stack(stack, np.asarray(model.references, np.float32), model.pixel_size)
    else:
        name_of = names.reference if model.bodies is None else names.body
        model.reference_names = [name_of(half, k + 1) for k in range(model.nr_classes)]
        for k in filter(owns, range(model.nr_classes)):
            write_reference(model.reference_names[k], model.references[k], model.pixel_size)
    model.moment_names = _write_moments(names, model, owns)
    if owns(0):
        star.write(names.model(half), model_to_star(model))


def _write_moments(names: OutputNames, model: ModelState, owns: Callable[[int], bool]) -> list[tuple[str, str]]:
    """The moments of gradient refinement: real and imaginary parts in turn along x (ml_model.cpp, write).

    Returns the names of each class's first and second moments.
    """
    if not model.moments:
        return []
    classes = range(model.nr_classes)
    if model.ref_dim == 2:
        if owns(0):
            first = [_interleaved(each.first[half]) for half in (0, 1) for each in model.moments]
            second = [_interleaved(each.second) for each in model.moments]
            for order, stack in ((1, first), (2, second)):
                path = names.moment_stack(order)
                write_stack(path, np.concatenate(stack), model.pixel_size)
        return [(image_name(k, names.moment_stack(1)), image_name(k, names.moment_stack(2))) for k in classes]
    for k in filter(owns, classes):
        mine = model.moments[k]
        numbered = ((1, k, mine.first[0]), (1, model.nr_classes + k, mine.first[1]), (2, k, mine.second))
        for order, number, values in numbered:
            write_reference(names.moment(order, number + 1), _interleaved(values), model.pixel_size)
    return [(names.moment(1, k + 1), names.moment(2, k + 1)) for k in classes]


def _interleaved(values: NDArray[np.complex64] | NDArray[np.float32]) -> NDArray[np.float32]:
    """(Z, Y, 2 X) float32 of (Z, Y, X) numbers."""
    return np.ascontiguousarray(values, np.complex64).view(np.float32)


def write_reference(path: str, volume: NDArray[np.floating], pixel_size: float) -> None:
    """A map (z, y, x) as float32 with its pixel size (A)."""
    write_map(path, np.asarray(volume, dtype=np.float32), pixel_size)


def write_unmasked_averages(root: str, model: ModelState) -> None:
    """The 2D class averages as they are before the mask; each iteration replaces those of the one before."""
    path = OutputNames(root, FINAL).unmasked_averages
    write_stack(path, np.asarray(model.references, np.float32), model.pixel_size)


def write_angular_distribution(
    names: OutputNames,
    model: ModelState,
    sampling: SamplingState,
    half: int = 0,
    owns: Callable[[int], bool] = _every,
) -> None:
    """The `_angdist.bild` of each class; owns: as for `write_model`."""
    radius, (rot, tilt) = model.ori_size * model.pixel_size / 2.0, sampling.directions.T
    for k in filter(owns, range(model.nr_classes)):
        path, weights = names.angular_distribution(half, k + 1), model.pdf_direction[k]
        atomic_write(path, bild(weights, rot, tilt, healpix_angular_step(sampling.healpix_order), radius).encode())


def write_sampling(names: OutputNames, sampling: SamplingState) -> None:
    """How orientations and offsets were sampled."""
    star.write(names.sampling, sampling_to_star(sampling))


def write_data(names: OutputNames, data: star.StarFile) -> None:
    """The particles: `data` is what `ParticleSet.to_star` gives."""
    star.write(names.data, data)


def write_optimiser(
    names: OutputNames, state: OptimiserState, options: RefineOptions, box: int, pixel_size: float
) -> None:
    """The file that names the others, last. box (pixels) and pixel_size (A) are those of the reference."""
    split = options.split_random_halves and names.iteration != FINAL
    files = OptimiserFiles(
        output_root=names.root,
        model=names.model(1) if split else names.model(),
        model2=names.model(2) if split else "",
        data=names.data,
        sampling=names.sampling,
    )
    table = optimiser_to_star(
        state,
        options,
        files,
        iteration=names.iteration,
        split_random_halves=split,
        particle_diameter=options.mask_diameter(box, pixel_size),
    )
    star.write(names.optimiser, table)


def names_of_iteration(options: RefineOptions, state: OptimiserState, models: int) -> OutputNames:
    """The names of an iteration's files: those of an auto-refinement's last one, with one joined model, bear none."""
    joined = options.split_random_halves and models == 1
    return OutputNames(options.output_root, FINAL if joined else state.iteration)


def write_model_of_iteration(
    names: OutputNames,
    options: RefineOptions,
    state: OptimiserState,
    sampling: SamplingState,
    models: Sequence[ModelState],
    number: int,
    owns: Callable[[int], bool] = _every,
) -> None:
    """The files of one of the models, number 0 or 1: of a half, of a classification or of the joined last one.

    owns: as for `write_model`.
    """
    half = number + 1 if len(models) == 2 else 0
    write_model(names, models[number], half, owns)
    if sampling.is_3d and not (options.keeps_orientations or state.is_gradient):
        write_angular_distribution(names, models[number], sampling, half, owns)


# ----------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Continuation:
    """Everything that a run goes on from."""

    options: RefineOptions
    state: OptimiserState
    sampling: SamplingState
    models: tuple[ModelState, ...]  # half 1, half 2; or that of a classification
    data: str  # STAR file of the particles


def read_optimiser(path: str, with_references: bool = True) -> Continuation:
    """What `--continue PATH` needs, from files of release 2 to 5 or of this program.

    Names inside the file are relative to the project directory, where programs run; a file that is not there
    is looked for beside PATH. Without `with_references` the maps are left unread. UserError names the file
    that is missing or damaged, or what the run did that this release cannot continue.
    """
    if not path.endswith("_optimiser.star"):
        raise UserError(f"{path} was given where the program takes an _optimiser.star file.")
    state, options, files = optimiser_from_star(star.read(path))
    data = find_beside(files.data, path)
    groups = number_of_optics_groups(data)
    models = tuple(
        read_model(find_beside(name, path), groups, with_references) for name in (files.model, files.model2) if name
    )
    first = models[0]
    sampling_star = star.read(find_beside(files.sampling, path))
    old_units = "rlnSigmaOffsets" in star.read(find_beside(files.model, path))["model_general"]
    sampling = sampling_from_star(sampling_star, first.pixel_size if old_units else 1.0)
    if old_units:
        _accuracy_to_angstrom(state, path, first.pixel_size)
    pixels = first.pixel_size
    options = replace(
        options,
        particles=data,
        symmetry=sampling.symmetry,
        padding_factor=int(first.padding_factor),
        sigma_offset=first.sigma_offset,
        perturb=sampling.perturbation_factor,
        healpix_order=sampling.healpix_order_ori,
        offset_range=sampling.offset_range_ori / pixels,
        offset_step=sampling.offset_step_ori / pixels,
        tau2_fudge=options.tau2_fudge if options.gradient else first.tau2_fudge,
        classes=first.nr_classes if first.bodies is None else 1,
        psi_step=sampling.psi_step_ori if not sampling.is_3d else -1.0,
        limit_tilt=sampling.limit_tilt if sampling.is_3d else -91.0,
        **_helix_of(first),
    )
    return Continuation(options, state, sampling, models, data)


def _helix_of(model: ModelState) -> dict[str, Any]:
    """What the model of a helix knows of the options that its run began with."""
    if model.helix is None:
        return {}
    twists, rises = model.helix.twists, model.helix.rises
    return {
        "helical_units": model.helix.units,
        "helical_twist_min": twists.low,
        "helical_twist_max": twists.high,
        "helical_twist_step": twists.step,
        "helical_rise_min": rises.low,
        "helical_rise_max": rises.high,
        "helical_rise_step": rises.step,
    }


def apply_changes(old: Continuation, options: RefineOptions) -> None:
    """What the options of a continuation change in the state that was read, in place.

    --offset, --sigma_ang, --sigma_rot ..., --perturb, --pad and --tau2_fudge (ml_optimiser.cpp,
    parseContinue); standard deviations that are given switch local searches on.
    """
    for model in old.models:
        model.padding_factor = float(options.padding_factor)
        model.tau2_fudge = options.tau2_fudge_factor
        if options.sigma_offset != old.options.sigma_offset:
            model.sigma_offset = options.sigma_offset
        if options.prior_sigmas is not None:
            model.orientational_prior_mode = PRIOR_ROTTILT_PSI
        for name in ("sigma_rot", "sigma_tilt", "sigma_psi"):
            given = max(options.sigma_ang, getattr(options, name))
            if given > 0:
                setattr(model, name, given)
    old.sampling.perturbation_factor = options.perturb
    old.sampling.relax_symmetry = options.relax_symmetry


def _accuracy_to_angstrom(state: OptimiserState, path: str, pixel_size: float) -> None:
    """Before release 3.1 the accuracy of offsets was in pixels, under another label."""
    general = star.read(path)["optimiser_general"]
    if "rlnOverallAccuracyTranslations" in general:
        state.accuracy_trans = float(general.floats("rlnOverallAccuracyTranslations")[0]) * pixel_size


def read_model(path: str, nr_optics_groups: int, with_references: bool) -> ModelState:
    """A `_model.star`, with its maps and moments if they are asked for, which are found as `find_beside` does."""
    model = model_from_star(star.read(path), nr_optics_groups)
    if with_references:
        for name in model.reference_names:
            volume = _read_values(name, path)
            if volume.shape != (model.ori_size,) * model.ref_dim:
                raise UserError(
                    f"{name} has the shape {volume.shape}, but {path} says that its box is {model.ori_size}."
                )
            model.references.append(volume)
        model.moments = _read_moments(model, path)
    return model


def _read_moments(model: ModelState, path: str) -> list[Moments]:
    """The moments that the model names (ml_model.cpp, read)."""
    moments = []
    for first, second in model.moment_names:
        names = (first, _second_half(first, model.nr_classes))
        halves = [_complex(_read_values(name, path)) for name in names]
        moments.append(Moments(np.stack(halves), _complex(_read_values(second, path)).real.copy()))
    return moments


def _second_half(name: str, classes: int) -> str:
    """Name of the other pseudo-half's first moment, K images or files further on."""
    if "@" in name:
        index, stack = split_image_name(name)
        return image_name(index + classes, stack)
    stem, extension = os.path.splitext(name)
    return f"{stem[:-3]}{int(stem[-3:]) + classes:03d}{extension}"


def _complex(values: NDArray[np.float32]) -> NDArray[np.complex64]:
    """(Z, Y, X) numbers of their (Z, Y, 2 X) or (Y, 2 X) parts."""
    whole = values if values.ndim == 3 else values[None]
    return np.ascontiguousarray(whole, np.float32).view(np.complex64)


def _read_values(name: str, beside: str) -> NDArray[np.float32]:
    """A map, or the 2D average `3@stack`; found as `find_beside` does."""
    number, at, path = name.rpartition("@")
    if at:
        return read_image(f"{number}@{find_beside(path, beside)}")[0]
    return read_map(find_beside(name, beside))[0]


def number_of_optics_groups(data: str) -> int:
    """Rows of data_optics; only the head of the file is read, for the particles can be very many."""
    head: list[str] = []
    with open(data, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("data_") and line.split()[0] != "data_optics":
                break
            head.append(line)
    tables = star.parse("".join(head), data)
    return len(tables["optics"]) if "optics" in tables else 1


def classification_files(path: str) -> tuple[star.StarFile, str, str]:
    """The optimiser file of a classification, and the paths of its model and its particles.

    UserError if it is no optimiser file, or of a refinement of two halves.
    """
    optimiser = star.read(path)
    if "optimiser_general" not in optimiser:
        raise UserError(f"{path} is no optimiser file: give the _optimiser.star of a 2D classification.")
    general = optimiser["optimiser_general"]
    if "rlnModelStarFile" not in general:
        raise UserError(f"{path} is of a 3D refinement: give the _optimiser.star of a 2D classification.")
    model, data = (general.value(label) for label in ("rlnModelStarFile", "rlnExperimentalDataStarFile"))
    return optimiser, find_beside(model, path), find_beside(data, path)


def find_beside(name: str, beside: str) -> str:
    """`name` as it is, or its last part beside the file that names it."""
    if os.path.exists(name):
        return name
    other = os.path.join(os.path.dirname(beside), os.path.basename(name))
    if os.path.exists(other):
        return other
    raise UserError(
        f"{beside} names {name}, which does not exist: continue from an iteration whose files are all there."
    )


def read_tau2_spectrum(path: str, nr_shells: int, tau2_fudge: float) -> FloatArray:
    """tau2 (nr_shells,) of `--tau`, times the fudge factor; shells that the file lacks are 0.

    Source: ml_model.cpp, readTauSpectrum.
    """
    tables = star.read(path)
    for table in tables.values():
        if "rlnSpectralIndex" in table and "rlnReferenceTau2" in table:
            shells, values = table.ints("rlnSpectralIndex"), table.floats("rlnReferenceTau2")
            spectrum = np.zeros(nr_shells)
            inside = (shells >= 0) & (shells < nr_shells)
            spectrum[shells[inside]] = tau2_fudge * values[inside]
            return spectrum
    raise UserError(f"{path} has no table with _rlnSpectralIndex and _rlnReferenceTau2.")
