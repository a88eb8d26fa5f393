"""The particles of a refinement: poses and weights as arrays, images on demand, and back to a STAR file.

Particles are kept sorted by micrograph name, as the reference keeps and writes them (exp_model.cpp,
Experiment::read); "particle i" is always row i of that order. Columns and tables that nobody here knows
survive, columns that a refinement adds come after them in the reference's order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io.mrc import open_stack
from relion_py.compute.io.particles import ParticleTable, read_particles
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.refine.model import FloatArray, IntArray
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.scratch import Scratch

_POSE_COLUMNS = (
    ("rot", "rlnAngleRot"),
    ("tilt", "rlnAngleTilt"),
    ("psi", "rlnAnglePsi"),
    ("origin_x", "rlnOriginXAngst"),
    ("origin_y", "rlnOriginYAngst"),
    ("class_number", "rlnClassNumber"),
    ("norm_correction", "rlnNormCorrection"),
)
_RESULT_COLUMNS = (
    ("log_likelihood", "rlnLogLikeliContribution"),
    ("max_prob", "rlnMaxValueProbDistribution"),
    ("nr_significant", "rlnNrOfSignificantSamples"),
)
_PRIOR_COLUMNS = (
    ("rot_prior", "rlnAngleRotPrior"),
    ("tilt_prior", "rlnAngleTiltPrior"),
    ("psi_prior", "rlnAnglePsiPrior"),
    ("origin_x_prior", "rlnOriginXPriorAngst"),
    ("origin_y_prior", "rlnOriginYPriorAngst"),
    ("flip_ratio", "rlnAnglePsiFlipRatio"),
    ("rot_flip_ratio", "rlnAngleRotFlipRatio"),
    ("track", "rlnHelicalTrackLengthAngst"),
)
_BODY_COLUMNS = (
    ("rot", "rlnAngleRot"),
    ("tilt", "rlnAngleTilt"),
    ("psi", "rlnAnglePsi"),
    ("origin_x", "rlnOriginXAngst"),
    ("origin_y", "rlnOriginYAngst"),
)
_FOUND = tuple(name for name, _ in (*_POSE_COLUMNS, *_RESULT_COLUMNS))
"""What a refinement finds for each particle."""
_PIPELINE_NAME = re.compile(r"/job\d{3}[^/]*/")


@dataclass
class BodyPoses:
    """Residual poses of one body of N particles: angles (degrees) and origins (A), see `bodies`."""

    rot: FloatArray
    tilt: FloatArray
    psi: FloatArray
    origin_x: FloatArray
    origin_y: FloatArray

    @classmethod
    def none(cls, n: int) -> BodyPoses:
        """Of n particles whose body is where the consensus has it."""
        return cls(np.zeros(n), np.full(n, 90.0), np.zeros(n), np.zeros(n), np.zeros(n))

    def copy(self) -> BodyPoses:
        """Independent poses of the same values."""
        return BodyPoses(*(values.copy() for values in vars(self).values()))


@dataclass
class ParticleSet:
    """N particles in the order of their micrographs' names. Angles in degrees, origins in A.

    Arrays are (N,); a refinement changes them in place. rot, tilt, psi and origin_x, origin_y are RELION's:
    the image, moved by the origin, is the projection of the map turned by the three angles. A missing prior
    is None. flip_ratio and rot_flip_ratio are the prior probabilities of psi and rot half a turn off, track is
    the position along a filament (A) and tube its number in the micrograph. group is the index into
    group_names (scale correction), optics_group that into table.optics_groups, random_subset 0 before the
    halves are made, then 1 or 2. has_results: log_likelihood,
    max_prob and nr_significant hold something; set it after the first iteration. bodies: of a multi-body
    refinement, else empty.
    """

    table: ParticleTable
    rot: FloatArray
    tilt: FloatArray
    psi: FloatArray
    origin_x: FloatArray
    origin_y: FloatArray
    class_number: IntArray
    norm_correction: FloatArray
    optics_group: IntArray
    group: IntArray
    group_names: list[str]
    random_subset: IntArray
    log_likelihood: FloatArray
    max_prob: FloatArray
    nr_significant: IntArray
    rot_prior: FloatArray | None = None
    tilt_prior: FloatArray | None = None
    psi_prior: FloatArray | None = None
    origin_x_prior: FloatArray | None = None
    origin_y_prior: FloatArray | None = None
    flip_ratio: FloatArray | None = None
    rot_flip_ratio: FloatArray | None = None
    track: FloatArray | None = None
    tube: IntArray | None = None
    has_results: bool = False
    bodies: list[BodyPoses] = field(default_factory=list)
    scratch: Scratch | None = None
    _images: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)  # by box
    _memory_place: IntArray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)  # -1: not there
    _scratch_place: IntArray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    @classmethod
    def read(cls, path: str, project: str = ".") -> ParticleSet:
        """The particles of a STAR file; UserError says what is wrong with it."""
        return cls.from_table(read_particles(path, project))

    @classmethod
    def from_table(cls, table: ParticleTable) -> ParticleSet:
        """Sort by micrograph and take the poses; what a file does not have starts as in the reference:
        angles and origins 0, class 0, norm correction 1."""
        order = np.arange(len(table))
        if "rlnMicrographName" in table:
            names = table.strings("rlnMicrographName")
            order = np.array(sorted(range(len(names)), key=names.__getitem__))
            table = table.select(order)
        group_names, group = _scale_groups(table)
        return (
            cls(
                table=table,
                rot=table.floats("rlnAngleRot", 0.0),
                tilt=table.floats("rlnAngleTilt", 0.0),
                psi=table.floats("rlnAnglePsi", 0.0),
                origin_x=table.floats("rlnOriginXAngst", 0.0),
                origin_y=table.floats("rlnOriginYAngst", 0.0),
                class_number=table.ints("rlnClassNumber", 0),
                norm_correction=table.floats("rlnNormCorrection", 1.0),
                optics_group=table.group_index.copy(),
                group=group,
                group_names=group_names,
                random_subset=table.ints("rlnRandomSubset", 0),
                log_likelihood=table.floats("rlnLogLikeliContribution", 0.0),
                max_prob=table.floats("rlnMaxValueProbDistribution", 0.0),
                nr_significant=table.ints("rlnNrOfSignificantSamples", 0),
                has_results=all(label in table for _, label in _RESULT_COLUMNS),
                bodies=_read_body_poses(table, order),
            )
            ._with_priors()
            ._checked()
        )

    def _with_priors(self) -> ParticleSet:
        for name, label in _PRIOR_COLUMNS:
            if label in self.table:
                setattr(self, name, self.table.floats(label))
        if "rlnHelicalTubeID" in self.table:
            self.tube = self.table.ints("rlnHelicalTubeID")
        return self

    def _checked(self) -> ParticleSet:
        for name, label in (*_POSE_COLUMNS, *_PRIOR_COLUMNS):
            values = getattr(self, name)
            finite = np.isfinite(0.0 if values is None else values)
            if not finite.all():
                name = self.image_name(int(np.argmin(finite)))
                raise UserError(f"{self.table.path}: _{label} of {name} is not a number.")
        return self

    def __len__(self) -> int:
        return len(self.rot)

    @property
    def nr_groups(self) -> int:
        return len(self.group_names)

    @property
    def nr_optics_groups(self) -> int:
        return len(self.table.optics_groups)

    @property
    def box_size(self) -> int:
        """Pixels, of the first optics group: references have this box, too (ml_model.cpp, initialiseFromImages)."""
        return self.table.optics_groups[0].box_size

    @property
    def pixel_size(self) -> float:
        """A, of the first optics group, likewise."""
        return self.table.optics_groups[0].pixel_size

    @property
    def boxes(self) -> IntArray:
        """(N,) pixels of each particle's image."""
        return np.array([g.box_size for g in self.table.optics_groups], np.int64)[self.optics_group]

    def _box_of(self, index: int) -> int:
        return self.table.optics_groups[self.optics_group[index]].box_size

    def geometries(self, reference_box: int, reference_pixel_size: float) -> list[ImageGeometry]:
        """For each optics group, how its images lie in the transform of such a reference."""
        return [
            ImageGeometry.of(g.box_size, g.pixel_size, reference_box, reference_pixel_size)
            for g in self.table.optics_groups
        ]

    def image_name(self, index: int) -> str:
        return self.table.particles.row(index)["rlnImageName"]

    def particles_per_group(self, half: int = 0) -> IntArray:
        """(G,) particles of half 1 or 2, or all (0), in each scale group."""
        return np.bincount(self.group[self.members(half)], minlength=self.nr_groups).astype(np.int64)

    # ---- halves and order ----

    def members(self, half: int = 0) -> IntArray:
        """Indices of the particles of half 1 or 2, or of all (0), ascending."""
        return np.flatnonzero(self.random_subset == half) if half else np.arange(len(self))

    def split_random_halves(self, seed: int) -> None:
        """Give every particle a half, 1 or 2, unless the file did.

        The numbers are the C library's, one per particle in this order, so that the same seed makes the
        halves that the reference makes (exp_model.cpp, divideParticlesInRandomHalves). UserError for a file
        with some particles in a half and others in none, with other numbers, or with an empty half.
        """
        where = self.table.path
        if not self.random_subset.any():
            self.random_subset = c_library_rand(seed, len(self)) % 2 + 1
        wrong = self.random_subset[(self.random_subset != 1) & (self.random_subset != 2)]
        if len(wrong) and (wrong == 0).all():
            raise UserError(
                f"{where}: _rlnRandomSubset is 0 for some particles and not for others; "
                "make it 1 or 2 for all, or remove the column."
            )
        if len(wrong):
            raise UserError(f"{where}: _rlnRandomSubset must be 1 or 2, not {wrong[wrong != 0][0]}.")
        for half in (1, 2):
            if not (self.random_subset == half).any():
                raise UserError(
                    f"{where}: half {half} has no particles; auto-refinement needs particles in both halves."
                )

    def with_own_poses(self) -> ParticleSet:
        """The same particles, whose poses and results change on their own."""
        return replace(self, **{name: getattr(self, name).copy() for name in _FOUND})

    def take_poses(self, other: ParticleSet) -> None:
        """Poses and results of a set of the same particles, in place."""
        for name in _FOUND:
            getattr(self, name)[:] = getattr(other, name)
        self.has_results = other.has_results

    # ---- images ----

    @property
    def preread_bytes(self) -> int:
        """Memory that all images take: the sum of box * box * 4."""
        return int(np.sum(self.boxes**2)) * 4

    def preread(self, indices: Sequence[int] | IntArray | None = None) -> None:
        """Read all images (or those of `indices`, a rank's share) into memory; others stay where they are."""
        wanted = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        place, held = np.full(len(self), -1, np.int64), {}
        for box in np.unique(self.boxes[wanted]).tolist():
            mine = wanted[self.boxes[wanted] == box]
            images = np.empty((len(mine), box, box), np.float32)
            for start in range(0, len(mine), 1024):
                images[start : start + 1024] = self.read_images(mine[start : start + 1024])
            held[box], place[mine] = images, np.arange(len(mine))
        self._images, self._memory_place = held, place

    def read_images(self, indices: Sequence[int] | IntArray) -> NDArray[np.float32]:
        """Images (n, box, box), float32, of these particles in this order: from memory, scratch or stacks.

        All must have one box. Safe to call from several threads at once.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if not len(wanted):
            return np.empty((0, self.box_size, self.box_size), np.float32)
        box = self._box_of(wanted[0])
        images = np.empty((len(wanted), box, box), np.float32)
        if self._images:
            places = self._memory_place[wanted]
            away = places < 0
            if not away.all():
                images[~away] = self._images[box][places[~away]]
            if away.any():
                images[away] = self._square(self.table.read_images(wanted[away]), wanted[away])
            return images
        if self.scratch is None:
            return self._square(self.table.read_images(wanted), wanted)
        places = self._scratch_place[wanted]
        away = places < 0
        if away.any():
            images[away] = self._square(self.table.read_images(wanted[away]), wanted[away])
        groups = self.optics_group[wanted]
        for group in np.unique(groups[~away]):
            mine = (groups == group) & ~away
            with open_stack(self.scratch.stack(int(group) + 1)) as stack:
                images[mine] = stack.images(places[mine])
        return images

    @cached_property
    def images_to_reconstruct(self) -> ParticleTable | None:
        """The particles with the images of which the last maps are made, if others than those that are compared."""
        label = "rlnReconstructImageName"
        return self.table.with_images(label) if label in self.table else None

    def _square(self, images: NDArray[np.float32], wanted: IntArray) -> NDArray[np.float32]:
        box = self._box_of(wanted[0])
        if images.shape[1:] != (box, box):
            raise UserError(
                f"{self.image_name(int(wanted[0]))} is {images.shape[2]} x {images.shape[1]} pixels, but "
                f"{self.table.path} says {box} x {box}: extract the particles again."
            )
        return images

    def image_names_by_optics_group(self) -> dict[int, list[str]]:
        """Optics group number from 1, as in the names of scratch stacks -> its images in this order."""
        names = self.table.strings("rlnImageName")
        return {g + 1: [names[i] for i in np.flatnonzero(self.optics_group == g)] for g in range(self.nr_optics_groups)}

    def use_scratch(self, scratch: Scratch) -> None:
        """Read from `scratch`, which has been filled or attached, what is there."""
        names = self.table.strings("rlnImageName")
        groups = (self.optics_group + 1).tolist()
        self._scratch_place = np.array(
            [scratch.place(group, name) for group, name in zip(groups, names, strict=True)], dtype=np.int64
        )
        self.scratch = scratch

    # ---- back to a file ----

    def to_star(self, flat: bool = False) -> StarFile:
        """The input file with this set's values, for `_data.star`; flat: its rot and tilt stay, as in 2D.

        Columns that the input had keep their places; new ones follow in the reference's order (exp_model.cpp,
        Experiment::read and divideParticlesInRandomHalves, then ml_optimiser.cpp, setMetaDataSubset).
        """
        particles = self.table.particles.copy()
        particles.set("rlnGroupNumber", self.group + 1)
        for name, label in _POSE_COLUMNS:
            if not (flat and name in ("rot", "tilt") and label in particles):
                particles.set(label, getattr(self, name))
        if self.random_subset.any():
            particles.set("rlnRandomSubset", self.random_subset)
        if self.has_results:
            for name, label in _RESULT_COLUMNS:
                particles.set(label, getattr(self, name))
        for name, label in _PRIOR_COLUMNS:
            values = getattr(self, name)
            if values is not None and (label not in self.table or not np.array_equal(values, self.table.floats(label))):
                particles.set(label, values)
        result = StarFile(list(self.table.star.blocks))
        result.path = self.table.path
        if self.table.block != "particles":
            del result[self.table.block]
        result["particles"] = particles
        for number, poses in enumerate(self.bodies, 1):
            columns = {label: getattr(poses, name) for name, label in _BODY_COLUMNS}
            result[f"images_body_{number}"] = Table({**columns, "rlnNormCorrection": self.norm_correction})
        return result


def _read_body_poses(table: ParticleTable, order: IntArray) -> list[BodyPoses]:
    """The tables images_body_1 ... of a file, whose rows go with those of the particles before they were sorted."""
    bodies: list[BodyPoses] = []
    while (name := f"images_body_{len(bodies) + 1}") in table.star:
        rows = table.star[name]
        if len(rows) != len(table):
            raise UserError(f"{table.path}: data_{name} has {len(rows)} rows for {len(table)} particles.")
        bodies.append(BodyPoses(*(rows.floats(label)[order] for _, label in _BODY_COLUMNS)))
    return bodies


def _scale_groups(table: ParticleTable) -> tuple[list[str], IntArray]:
    """Names of the groups of the scale correction in the order of their first particles, and each particle's.

    A group is _rlnGroupName, else the micrograph's name without the job that made it (exp_model.cpp,
    Experiment::read; filename.cpp, decomposePipelineFileName), else all particles.
    """
    if "rlnGroupName" in table:
        names = table.strings("rlnGroupName")
    elif "rlnMicrographName" in table:
        names = [_without_job(name) for name in table.strings("rlnMicrographName")]
    else:
        names = ["group"] * len(table)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return list(numbers), np.array([numbers[name] for name in names], dtype=np.int64)


def _without_job(name: str) -> str:
    """MotionCorr/job002/Movies/a.mrc -> Movies/a.mrc"""
    match = _PIPELINE_NAME.search(name)
    return name[match.end() :] if match else name


def c_library_rand(seed: int, count: int) -> IntArray:
    """The first `count` numbers of rand() after srand(seed) in the GNU C library (its manual, "ISO Random").

    An additive feedback generator over 31 words that a multiplicative one fills; the first 310 outputs are
    thrown away and each number loses its lowest bit.
    """
    state = [(seed & 0xFFFFFFFF) or 1]
    word = state[0] - (1 << 32) if state[0] >= 1 << 31 else state[0]
    for _ in range(30):
        high = int(word / 127773)
        low = word - high * 127773
        word = 16807 * low - 2836 * high
        if word < 0:
            word += 2147483647
        state.append(word)
    state += state[:3]
    for i in range(34, 344 + count):
        state.append((state[i - 31] + state[i - 3]) & 0xFFFFFFFF)
    return np.array([value >> 1 for value in state[344 : 344 + count]], dtype=np.int64)
