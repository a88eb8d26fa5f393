"""The state of a refinement that runs: options, particles, models, sampling, and where it computes and writes.

Every rank has the same state and goes through the same steps, so that any number of ranks will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.base import Backend
from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.backend.cuda import CudaBackend
from relion_py.compute.backend.cuda_arrays import GIB
from relion_py.compute.backend.cuda_device import Share, bytes_of_maps
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io.atomic import written_together
from relion_py.compute.refine.clock import Stopwatch
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.external import ExternalProgram
from relion_py.compute.refine.host import Host
from relion_py.compute.refine.model import ModelState, OptimiserState, SamplingState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.preparation import ImagePreparation

WORK_MIB_2D = 16, 8
"""Work space of a batch of images for 2D references, at least and for each thread: more is no faster, as there are few
projections to be shared by the images of a batch. Of maps there are many, see `CpuBackend`."""


def grid_of(sampling: SamplingState) -> Sampling:
    """The coarse grid of orientations of a sampling state, not perturbed; all of them where symmetry is relaxed."""
    return Sampling(
        sampling.healpix_order if sampling.is_3d else 0,
        psi_step=None if sampling.is_3d else sampling.psi_step,
        symmetry="C1" if sampling.relax_symmetry else sampling.symmetry,
        limit_tilt=sampling.limit_tilt if sampling.is_3d and sampling.limit_tilt > -90.0 else None,
        is_3d=sampling.is_3d,
    )


@dataclass
class Run:
    """Everything of a running refinement. `mask` is the solvent mask of the references, or None.

    box, pixel_size: of the references; geometries: of each optics group's images.
    models: one, or those of the two halves. The references of a model are K maps, or K images in 2D.
    """

    options: RefineOptions
    job: Host
    particles: ParticleSet
    ctf: CtfParams | None
    state: OptimiserState
    sampling: SamplingState
    models: list[ModelState]
    mask: NDArray[np.float32] | None

    def __post_init__(self) -> None:
        self.aberrations = [Aberrations.of_group(g.values, g.voltage, g.cs) for g in self.particles.table.optics_groups]
        self.operators = operators(self.sampling.symmetry)
        self.grid = self._new_grid()
        self.box, self.pixel_size = self.models[0].ori_size, self.models[0].pixel_size
        self.geometries = self.particles.geometries(self.box, self.pixel_size)
        self.shell_pixels = np.stack([g.pixels_per_shell() for g in self.geometries])
        self.dimensions = self.models[0].ref_dim
        if self.dimensions == 2:  # images turn in their plane
            self.particles.rot[:] = self.particles.tilt[:] = 0.0
        self.diameter = self.options.mask_diameter(self.box, self.pixel_size)
        self.external = ExternalProgram.of(self.options, self.pixel_size, self.diameter, self.job.check_abort)
        self.clock = Stopwatch()
        if self.sampling.relax_symmetry:
            self.job.say(f" Relaxing symmetry to {self.sampling.relax_symmetry}")
        self.devices: Sequence[Share] = ()

    @cached_property
    def preparation(self) -> ImagePreparation:
        """What images are prepared with; once the run's options are as they stay."""
        return ImagePreparation(
            self.options,
            self.particles,
            self.ctf,
            self.state,
            self.sampling,
            self.geometries,
            self.aberrations,
            self.diameter,
        )

    def external_stem(self, suffix: str) -> str:
        """Rootname of the files that are exchanged with a program that makes maps, in this iteration."""
        return f"{self.options.output_root}_it{self.state.iteration:03d}{suffix}"

    def compute_on(self, devices: Sequence[Share]) -> None:
        """From now on these devices do the expectation, instead of the CPU; none: the CPU does it.

        Says what they have to hold, and refuses an auto-refinement whose last iteration they could not hold.
        """
        self.devices = devices
        here = [(share.device.name, share.budget) for share in devices]
        every = [(rank, *each) for rank, theirs in enumerate(self.job.comm.allgather(here)) for each in theirs]
        if not every:
            return
        needed = bytes_of_maps(self.box, len(self.models[0].references), self.options.padding_factor, self.dimensions)
        for rank, name, budget in every:
            self.job.say(f" Rank {rank} computes on GPU {name} and may use {budget / GIB:.1f} GB of its memory")
        self.job.say(f" References and their sums take {needed / GIB:.1f} GB of it at the full image size")
        least = min(budget for _, _, budget in every)
        if needed < least:
            return
        sentence = (
            f"References and sums need {needed / GIB:.1f} GB of GPU memory at the full image size, but a rank has "
            f"{least / GIB:.1f} GB: use --pad 1, fewer classes, fewer ranks on a GPU or one with more memory, or leave "
            "--gpu out."
        )
        if self.options.auto_refine:  # its last iteration is at the full size
            raise UserError(sentence)
        self.job.say(f" WARNING: {sentence}")

    def _backend(self) -> Backend:
        threads, check = self.options.threads, self.job.check_abort
        if not self.devices:
            least, each = WORK_MIB_2D
            return CpuBackend(threads, check, max(least, each * threads) if self.dimensions == 2 else 0)
        first, *others = self.devices
        partners = [CudaBackend(share.device, threads, check, share.budget) for share in others]
        return CudaBackend(first.device, threads, check, first.budget, partners)

    def _new_grid(self) -> Sampling:
        """The coarse grid of orientations that the sampling says, not perturbed; its directions go into the files."""
        grid = grid_of(self.sampling)
        self.sampling.directions = np.column_stack(grid.directions())
        return grid

    @contextmanager
    def working(self, total: int) -> Iterator[tuple[Backend, Callable[[int], None]]]:
        """The threads of an expectation step over this rank's `total` particles, and a call for n more done."""
        done = 0
        with self._backend() as backend, self.job.progress(total) as bar:

            def advance(n: int) -> None:
                nonlocal done
                done += n
                bar.update(done)

            yield backend, advance

    def on_first_rank(self, action: Callable[[], object]) -> None:
        """Do something on the first rank only; what goes wrong is raised on all, so that none waits for the others."""
        self.on_each_rank(action if self.job.comm.rank == 0 else lambda: None)

    def on_each_rank(self, action: Callable[[], object]) -> None:
        """Do something on all ranks; what goes wrong on one is raised on all, so that none waits for the others.

        The files that a rank writes take their names together.
        """
        error: UserError | OSError | None = None
        try:
            with written_together():
                action()
        except (UserError, OSError) as problem:
            error = problem
        error = next((each for each in self.job.comm.allgather(error) if each is not None), None)
        if error is not None:
            raise error

    def _owner(self, k: int) -> int:
        """Rank that makes what there is of class k: its transform, its map and its files."""
        return k % self.job.comm.size

    def _owns(self, k: int) -> bool:
        """Whether this rank is the owner of class k."""
        return self.job.comm.rank == self._owner(k)

    @property
    def first_by_correlation(self) -> bool:
        """Whether this is a first iteration by cross-correlation."""
        return self.state.iteration == 1 and self.options.firstiter_cc

    @property
    def by_correlation(self) -> bool:
        """Whether images and projections are compared by cross-correlation in this iteration."""
        return self.first_by_correlation or self.options.always_cc

    @property
    def residual(self) -> bool:
        """Whether images are back-projected less their projections, as for steps along the gradient."""
        return False

    @property
    def maximum_significants(self) -> int:
        """Poses per particle that the coarse pass keeps at most; -1 for no limit."""
        return self.options.maximum_significants

    @property
    def fixed_tau2(self) -> bool:
        """Whether the prior was given with --tau."""
        return self.options.tau_spectrum not in ("", "None")
