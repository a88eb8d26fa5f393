"""State of a refinement between two iterations: the model, the sampling and the optimiser.

These dataclasses hold exactly what `_model.star`, `_sampling.star` and `_optimiser.star` hold, plus the maps.
They are plain values: arithmetic on them lives in `maximization.py` and `convergence.py`, reading and writing
in `outputs.py`.

Units in memory, without exception: lengths, offsets and resolutions in A (also `best_resolution`, whose STAR
label is in 1/A), angles in degrees, standard deviations rather than variances for `sigma_*`, variances for
`sigma2_*` and `tau2_*`. "No value yet" is 999 A or 999 degrees as in the reference (ml_optimiser.cpp,
parseInitial). Spectra have one value per Fourier shell 0 ... ori_size/2 of the original box.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry.helix import Range

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NO_PRIOR = 0
"""rlnOrientationalPriorMode of global searches (ml_model.h, NOPRIOR)."""
PRIOR_ROTTILT_PSI = 1
"""rlnOrientationalPriorMode of local searches around rot, tilt and psi (ml_model.h, PRIOR_ROTTILT_PSI)."""

TRILINEAR = 1
"""rlnFourierSpaceInterpolator (projector.h)."""

UNKNOWN = 999.0
"""What accuracies, changes and resolutions are before they were measured."""
UNKNOWN_CLASS_CHANGES = 9999999
"""The same for the changes of class (a count)."""


def number_of_shells(box: int) -> int:
    """Fourier shells of a `box`-pixel image, 0 ... box/2."""
    return box // 2 + 1


def shell_to_resolution(shell: int | FloatArray | IntArray, box: int, pixel_size: float) -> FloatArray:
    """Resolution (A) of Fourier shell(s) of a box of `box` pixels of `pixel_size` A; 999 for shell 0.

    Source: ml_model.h, getResolutionAngstrom.
    """
    shells = np.asarray(shell, dtype=np.float64)
    return np.where(shells > 0, box * pixel_size / np.maximum(shells, 1.0), UNKNOWN)


def resolution_to_shell(resolution: float, box: int, pixel_size: float) -> int:
    """Fourier shell nearest to `resolution` (A) (ml_model.h, getPixelFromResolution of 1/resolution)."""
    return round(box * pixel_size / resolution) if resolution > 0 else 0


@dataclass
class Moments:
    """Running means of one class's gradient, transforms divided by box^2, origin in the centre of z and y.

    first   complex64 (2, Z, Y, X), one per pseudo-half; Z = Y = pad * box (Z == 1 in 2D), X = Y / 2 + 1
    second  float32 (Z, Y, X)
    """

    first: NDArray[np.complex64]
    second: NDArray[np.float32]

    def copy(self) -> Moments:
        """Independent moments of the same values."""
        return Moments(self.first.copy(), self.second.copy())

    def shift(self, pixels: FloatArray) -> None:
        """Moves the gradient with a reference that moves by `pixels` (slowest axis first), in place."""
        depth, height, width = self.first.shape[1:]
        axes = [np.arange(height) - height // 2, np.arange(width)]
        if depth > 1:
            axes.insert(0, np.arange(depth) - depth // 2)
        turns = np.zeros(self.first.shape[1:])
        for axis, distance in zip(np.meshgrid(*axes, indexing="ij", sparse=True), pixels, strict=True):
            turns = turns + axis * (float(distance) / height)
        self.first *= np.exp(-2j * np.pi * turns).astype(np.complex64)


@dataclass
class HelixState:
    """The helical symmetry of a model: asymmetric units per segment, limits of twist (degrees) and rise (A) where they
    are refined, and those of each class, twist and rise (K,)."""

    units: int
    twists: Range
    rises: Range
    twist: FloatArray
    rise: FloatArray

    def copy(self) -> HelixState:
        """An independent state with the same values."""
        return replace(self, twist=self.twist.copy(), rise=self.rise.copy())


@dataclass
class BodyState:
    """What a model tells of its B bodies: axes (B, 3) they rotate about, and which of them (B,) are fixed for now."""

    axes: FloatArray
    fixed: NDArray[np.bool_]

    def copy(self) -> BodyState:
        """An independent state with the same values."""
        return BodyState(self.axes.copy(), self.fixed.copy())


@dataclass
class ModelState:
    """One half's (or the joined) model. K classes, S shells, O optics groups, G scale groups, D directions.

    K is 1 in auto-refinement; the arrays keep the class axis so that nothing changes for classification. In a
    multi-body refinement there is a body in place of each class, and pdf_class is 1 for all of them.
    """

    ori_size: int  # pixels: box of the references, and of the (first optics group's) images
    pixel_size: float  # A/pixel of the references
    ref_dim: int = 3
    data_dim: int = 2
    current_size: int = 0  # pixels: Fourier-cropped box used in this iteration's expectation
    current_resolution: float = UNKNOWN  # A
    padding_factor: float = 2.0
    interpolator: int = TRILINEAR
    r_min_nn: int = 10  # shells
    tau2_fudge: float = 1.0
    avg_norm_correction: float = 1.0
    sigma_offset: float = 10.0  # A, standard deviation of the origin offsets
    orientational_prior_mode: int = NO_PRIOR
    sigma_rot: float = 0.0  # degrees
    sigma_tilt: float = 0.0
    sigma_psi: float = 0.0
    log_likelihood: float = 0.0
    ave_pmax: float = 0.0

    helix: HelixState | None = None  # None: no helix
    bodies: BodyState | None = None  # None: the references are classes

    # per class
    references: list[NDArray[np.float32]] = field(default_factory=list)  # K maps (N, N, N): z, y, x; centre N//2
    reference_names: list[str] = field(default_factory=list)  # file names as read or written
    moments: list[Moments] = field(default_factory=list)  # K, of gradient refinement; else empty
    moment_names: list[tuple[str, str]] = field(default_factory=list)  # files of first and second moments
    pdf_class: FloatArray = field(default_factory=lambda: np.ones(1))  # (K,), sums to 1
    accuracy_rot: FloatArray = field(default_factory=lambda: np.full(1, UNKNOWN))  # (K,) degrees
    accuracy_trans: FloatArray = field(default_factory=lambda: np.full(1, UNKNOWN))  # (K,) A
    estimated_resolution: FloatArray = field(default_factory=lambda: np.zeros(1))  # (K,) A
    total_fourier_coverage: FloatArray = field(default_factory=lambda: np.zeros(1))  # (K,) 0..1
    prior_offset_class: FloatArray = field(default_factory=lambda: np.zeros((1, 2)))  # (K, 2) x, y; 2D only
    pdf_direction: FloatArray = field(default_factory=lambda: np.zeros((1, 0)))  # (K, D), sums to pdf_class

    # per class and shell, (K, S)
    tau2_class: FloatArray = field(default_factory=lambda: np.zeros((1, 0)))
    sigma2_class: FloatArray = field(default_factory=lambda: np.zeros((1, 0)))
    data_vs_prior_class: FloatArray = field(default_factory=lambda: np.zeros((1, 0)))
    fourier_coverage_class: FloatArray = field(default_factory=lambda: np.zeros((1, 0)))
    fsc_halves_class: FloatArray = field(default_factory=lambda: np.zeros((1, 0)))
    orientability_contrib: FloatArray | None = None  # (K, S), once accuracies were estimated

    # per optics group and shell, (O, S)
    sigma2_noise: FloatArray = field(default_factory=lambda: np.zeros((1, 0)))

    # per scale group (micrograph), (G,)
    group_names: list[str] = field(default_factory=list)
    nr_particles_per_group: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    scale_correction: FloatArray = field(default_factory=lambda: np.ones(0))

    @classmethod
    def new(
        cls,
        ori_size: int,
        pixel_size: float,
        *,
        group_names: list[str],
        nr_particles_per_group: IntArray,
        nr_classes: int = 1,
        nr_optics_groups: int = 1,
        nr_directions: int = 0,
        ref_dim: int = 3,
    ) -> ModelState:
        """A model of the given sizes before the first iteration (ml_model.cpp, initialise)."""
        shells = number_of_shells(ori_size)

        def spectra(rows: int) -> FloatArray:
            return np.zeros((rows, shells))

        pdf_direction = np.zeros((nr_classes, nr_directions))
        if nr_directions:
            pdf_direction[:] = 1.0 / (nr_classes * nr_directions)
        return cls(
            ori_size=ori_size,
            pixel_size=pixel_size,
            ref_dim=ref_dim,
            current_size=ori_size,
            pdf_class=np.full(nr_classes, 1.0 / nr_classes),
            accuracy_rot=np.full(nr_classes, UNKNOWN),
            accuracy_trans=np.full(nr_classes, UNKNOWN),
            estimated_resolution=np.zeros(nr_classes),
            total_fourier_coverage=np.zeros(nr_classes),
            prior_offset_class=np.zeros((nr_classes, 2)),
            pdf_direction=pdf_direction,
            tau2_class=spectra(nr_classes),
            sigma2_class=spectra(nr_classes),
            data_vs_prior_class=spectra(nr_classes),
            fourier_coverage_class=spectra(nr_classes),
            fsc_halves_class=spectra(nr_classes),
            sigma2_noise=spectra(nr_optics_groups),
            group_names=list(group_names),
            nr_particles_per_group=np.asarray(nr_particles_per_group, dtype=np.int64),
            scale_correction=np.ones(len(group_names)),
        )

    @property
    def nr_classes(self) -> int:
        return len(self.pdf_class)

    @property
    def nr_shells(self) -> int:
        return number_of_shells(self.ori_size)

    @property
    def nr_optics_groups(self) -> int:
        return len(self.sigma2_noise)

    @property
    def nr_groups(self) -> int:
        return len(self.group_names)

    @property
    def nr_directions(self) -> int:
        return self.pdf_direction.shape[1]

    def shell_of(self, resolution: float) -> int:
        """Fourier shell of `resolution` (A)."""
        return resolution_to_shell(resolution, self.ori_size, self.pixel_size)

    def resolution_of(self, shell: int) -> float:
        """Resolution (A) of a Fourier shell; 999 for shell 0."""
        return float(shell_to_resolution(shell, self.ori_size, self.pixel_size))

    def copy(self) -> ModelState:
        """Deep copy: the two halves start as copies of one model."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                values[name] = value.copy()
            elif name in ("references", "moments"):
                values[name] = [reference.copy() for reference in value]
            elif isinstance(value, list):
                values[name] = list(value)
            elif isinstance(value, HelixState | BodyState):
                values[name] = value.copy()
        return replace(self, **values)


@dataclass
class SamplingState:
    """Orientational and translational sampling, before oversampling (healpix_sampling.cpp, read and write).

    Steps and ranges of offsets in A. `*_ori` are those that the run was started with; coarser sampling in
    the first iterations of a classification goes by them.
    """

    healpix_order: int = 2
    psi_step: float = -1.0  # degrees; -1: that of the HEALPix order
    offset_range: float = 0.0  # A
    offset_step: float = 0.0  # A
    symmetry: str = "C1"
    relax_symmetry: str = ""  # cyclic group whose views local searches look at, too; not stored in the file
    is_3d: bool = True
    is_3d_trans: bool = False
    limit_tilt: float = -91.0  # degrees; -91: none
    helical_offset_step: float = -1.0  # A, along a helix
    helical_rise: float = 0.0  # A; 0: offsets are not those along and across a helix. Not stored in the file
    helical_reach: int = 0  # steps along a helix to either side; not stored in the file
    random_perturbation: float = 0.0  # fraction of a step, this iteration's instance
    perturbation_factor: float = 0.5
    healpix_order_ori: int = 2
    psi_step_ori: float = -1.0
    offset_range_ori: float = 0.0
    offset_step_ori: float = 0.0
    directions: FloatArray = field(default_factory=lambda: np.zeros((0, 2)))  # (D, 2) rot, tilt of the unit

    @property
    def angular_step(self) -> float:
        """In-plane step in degrees before oversampling (healpix_sampling.cpp, setOrientations)."""
        return healpix_angular_step(self.healpix_order) if self.psi_step <= 0 else self.psi_step


def healpix_angular_step(order: int) -> float:
    """Approximate angular step (degrees) of HEALPix `order`: 15 at order 2, halved with each order."""
    return 360.0 / (6 * 2**order)


@dataclass
class OptimiserState:
    """Everything of `_optimiser.star` that changes during a run or that a continuation needs.

    What the command line fixes once (diameter, masks, corrections) is in `RefineOptions`;
    `outputs.py` puts both into the file.
    """

    iteration: int = 0
    random_seed: int = 0
    has_converged: bool = False
    nr_iter_wo_resol_gain: int = 0
    nr_iter_wo_large_hidden_variable_changes: int = 0
    best_resolution: float = UNKNOWN  # A
    has_high_fsc_at_limit: bool = False
    has_large_incr_size_iter_ago: int = 0
    has_fine_enough_angular_sampling: bool = False  # not stored in the file
    incr_size: int = 10  # shells
    coarse_size: int = -1  # pixels: box of the first pass; not stored in the file
    accuracy_rot: float = UNKNOWN  # degrees
    accuracy_trans: float = UNKNOWN  # A
    current_changes_optimal_orientations: float = UNKNOWN  # degrees
    current_changes_optimal_offsets: float = UNKNOWN  # A
    current_changes_optimal_classes: float = float(UNKNOWN_CLASS_CHANGES)  # share of particles
    smallest_changes_optimal_orientations: float = UNKNOWN
    smallest_changes_optimal_offsets: float = UNKNOWN
    smallest_changes_optimal_classes: int = UNKNOWN_CLASS_CHANGES
    refs_are_ctf_corrected: bool = True
    is_gradient: bool = False  # the iteration takes a step along the gradient
    gradient_step: float = 0.0  # of the iteration
    subset_size: int = -1  # particles of the iteration; -1: all
