"""The two half maps: sums over ranks, joining at low resolution, gold-standard FSC, reconstruction.

The first rank reconstructs half 0 and the last one half 1 at the same time; curves and maps then go to every rank.
Source: ml_optimiser_mpi.cpp, joinTwoHalvesAtLowResolution, compareTwoHalves, maximization,
reconstructUnregularisedMapAndCalculateSolventCorrectedFSC.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image import fsc as fsc_tools
from relion_py.compute.parallel.comm import Communicator
from relion_py.compute.refine import source
from relion_py.compute.refine.backprojector import BackProjector, HelicalUnits
from relion_py.compute.refine.external import ExternalProgram
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reconstruct import ShellSpectra, reconstruct, update_tau2

RANDOMISE_AT_FSC = 0.8
"""Phases are randomised beyond the shell where the unmasked FSC falls below this."""
FIRST_PRIOR_SHELL = 5
"""Below this shell a reconstruction gets no prior (minres_map)."""


Reconstruction = tuple[ShellSpectra, NDArray[np.float64], NDArray[np.float32]]
"""Spectra, FSC and map of a half."""


def owner(half: int, comm: Communicator) -> int:
    """Rank that holds the complete sums of half 0 or 1: one that has no particles of the other, if there is one."""
    return half * (comm.size - 1)


@dataclass(frozen=True)
class Division:
    """Which ranks of `comm` work on the particles of half 0 and 1.

    groups: the ranks of each half; None for a half that this rank has no particles of. apart: ranks work on one half,
    but the one in the middle of an odd number (see `source.strides`); otherwise all work on both.
    """

    comm: Communicator
    groups: tuple[Communicator | None, Communicator | None]
    apart: bool

    @classmethod
    def of(cls, comm: Communicator, options: RefineOptions) -> Division:
        """The halves apart, as each rank then makes one reference only, but not where the first rank reads for all."""
        if comm.size == 1 or source.reads_for_all(options, comm):
            return cls(comm, (comm, comm), False)
        groups: list[Communicator | None] = []
        for half in (0, 1):
            has = bool(source.strides(half, comm, comm.rank))
            group = comm.split(int(has))
            groups.append(group if has else None)
        return cls(comm, (groups[0], groups[1]), True)

    def sharing(self, half: int) -> int | None:
        """What `source.share` is to be told about the ranks' shares of this half."""
        return half if self.apart else None


class Halves:
    """Back-projections of both halves; after `reduce` complete on their owners, elsewhere None."""

    def __init__(self, division: Division, workers: int, external: ExternalProgram | None = None) -> None:
        self.division, self.comm = division, division.comm
        self.workers, self.external = workers, external
        self.sums: list[BackProjector | None] = [None, None]

    def reduce(self, half: int, sums: BackProjector | None, via_disc: str = "") -> None:
        """Adds up the sums of one half, of the ranks that have some; via_disc: a rootname for files, not messages."""
        group = self.division.groups[half]
        if group is None or sums is None:
            return
        root = owner(half, group)
        reduce_grid(sums.grid, root, group, via_disc)
        self.sums[half] = sums if group.rank == root else None

    def mine(self, half: int) -> BackProjector | None:
        """The sums of a half if this rank owns them."""
        return self.sums[half]

    def symmetrise(self, helices: Sequence[HelicalUnits | None] = (None, None)) -> None:
        """Adds the views that the point group, and each half's helix, make equal."""
        for sums, helix in zip(self.sums, helices, strict=True):
            if sums is not None:
                sums.symmetrise(workers=self.workers, helix=helix)

    def join_low_resolution(self, resolution: float, pixel_size: float) -> None:
        """Both halves get the mean of their sums up to `resolution` A, lest their orientations drift apart."""
        some = next((s for s in self.sums if s is not None), None)
        r_low = 0 if some is None else min(math.ceil(some.box * pixel_size / resolution), some.r_max)
        parts = [None if s is None else s.low_resolution(r_low) for s in self.sums]
        others = [self._at_owner(parts, half) for half in (0, 1)]
        for sums, mine, other in zip(self.sums, parts, others, strict=True):
            if sums is not None:
                assert mine is not None and other is not None
                sums.set_low_resolution((mine + other) / 2.0, r_low)

    def _at_owner(self, values: Sequence[NDArray[Any] | None], half: int) -> NDArray[Any] | None:
        """On the owner of `half` the other half's value; elsewhere None."""
        here, there = owner(half, self.comm), owner(1 - half, self.comm)
        value = values[1 - half]
        if here == there:
            return value
        if self.comm.rank == there:
            assert value is not None
            self.comm.send(value, here)
        return self.comm.recv(there) if self.comm.rank == here else None

    def fsc(self) -> NDArray[np.float64]:
        """Gold-standard FSC of the unregularised halves, (box // 2 + 1,), on every rank."""
        averages = [None if s is None else s.downsampled_average() for s in self.sums]
        first, second, curve = averages[0], self._at_owner(averages, 0), None
        if self.sums[0] is not None:
            assert first is not None and second is not None
            curve = self.sums[0].correlation(first, second)
        return self.comm.bcast(curve, 0)

    def unregularised(self, half: int) -> NDArray[np.float32] | None:
        """Map (box,)*3 of a half without prior, on its owner."""
        sums = self.sums[half]
        return None if sums is None else reconstruct(sums, do_map=False, workers=self.workers)

    def solvent_corrected_fsc(
        self, mask: NDArray[np.float32], maps: list[NDArray[np.float32] | None], current_size: int, seed: int
    ) -> NDArray[np.float64]:
        """FSC of the masked halves, corrected for what the mask itself correlates; 0 beyond current_size."""
        second, curve = self._at_owner(maps, 0), None
        if self.comm.rank == 0:
            curve = self._corrected(maps[0], second, mask, seed)
            curve[current_size // 2 + 1 :] = 0.0
        return self.comm.bcast(curve, 0)

    @staticmethod
    def _corrected(
        first: NDArray[np.float32] | None, second: NDArray[np.float32] | None, mask: NDArray[np.float32], seed: int
    ) -> NDArray[np.float64]:
        assert first is not None and second is not None
        unmasked = fsc_tools.fsc(first, second)
        if not (unmasked[1:] < RANDOMISE_AT_FSC).any():
            return unmasked  # so high at the start of a run that there is nothing to randomise
        return fsc_tools.masked_fsc(first, second, mask, np.random.default_rng(seed)).corrected

    def join(self) -> None:
        """Both halves become one, on the owner of the first."""
        other = self._at_owner([None if s is None else s.grid for s in self.sums], 0)
        if self.sums[0] is not None:
            assert other is not None
            self.sums[0].grid += other
        self.sums[1] = None

    def maximise(
        self, models: Sequence[ModelState], fsc: NDArray[np.float64], tau2_fudge: float, fixed_tau2: bool,
        stems: Sequence[str],
    ) -> None:  # fmt: skip
        """New maps and spectra of the halves in their models, or of all particles in a single one, on every rank.

        stems: rootnames of the files for a program that makes the maps, if there is one.
        """
        joined = len(models) == 1
        made = [
            None if sums is None else self._reconstruct(sums, model, fsc, tau2_fudge, fixed_tau2, joined, stem)
            for sums, model, stem in zip(self.sums, models, stems, strict=False)
        ]
        for half, model in enumerate(models):
            spectra, curve, model.references[0] = self.comm.bcast(made[half], owner(half, self.comm))
            keep_spectra(model, 0, spectra, curve)

    def _reconstruct(
        self, sums: BackProjector, model: ModelState, fsc: NDArray[np.float64], tau2_fudge: float, fixed_tau2: bool,
        joined: bool, stem: str,
    ) -> Reconstruction:  # fmt: skip
        spectra = update_tau2(
            sums,
            model.tau2_class[0],
            tau2_fudge=tau2_fudge,
            fsc=None if fixed_tau2 else fsc,
            is_whole_instead_of_half=joined,
        )
        if self.external is None:
            volume = reconstruct(
                sums, spectra.tau2, tau2_fudge, first_prior_shell=FIRST_PRIOR_SHELL, workers=self.workers
            )
        else:
            spectra, volume, fsc = self.external.reconstruct(sums, spectra, fsc, tau2_fudge, stem, joined)
        return spectra, fsc, volume


def keep_spectra(model: ModelState, k: int, spectra: ShellSpectra, fsc: NDArray[np.float64]) -> None:
    """Puts the spectra of class k into the model, with what follows from them."""
    model.tau2_class[k] = spectra.tau2
    model.sigma2_class[k] = spectra.sigma2
    model.data_vs_prior_class[k] = spectra.data_vs_prior
    model.fourier_coverage_class[k] = spectra.fourier_coverage
    model.fsc_halves_class[k] = fsc
    shells = np.arange(len(fsc))
    below = np.nonzero(spectra.data_vs_prior[1:] < 1.0)[0]
    model.estimated_resolution[k] = model.resolution_of(int(below[0]) if len(below) else len(fsc) - 1)
    sampled = (shells > 0) & (shells <= model.current_size // 2)
    count = shells.astype(np.float64) ** 2
    covered = np.sum(spectra.fourier_coverage[sampled] * count[sampled])
    model.total_fourier_coverage[k] = float(covered / max(np.sum(count[1:]), 1.0))


def reduce_grid(grid: NDArray[np.float32], root: int, comm: Communicator, via_disc: str = "") -> None:
    """The sum of a grid over ranks, in place on `root`; via_disc: a rootname for files instead of messages."""
    if via_disc and comm.size > 1:
        _add_via_disc(grid, root, comm, via_disc)
    else:
        comm.reduce_sum(grid, root)


def _add_via_disc(grid: NDArray[np.float32], root: int, comm: Communicator, stem: str) -> None:
    """The sum over ranks on `root`, each rank's share going through a file that is removed at once."""
    tag = comm.bcast(uuid.uuid4().hex[:8], root)
    name = f"{stem}_rank{comm.rank}_{tag}.npy"
    try:
        if comm.rank != root:
            np.save(name, grid)
        comm.barrier()
        if comm.rank == root:
            for rank in range(comm.size):
                if rank != root:
                    grid += np.load(f"{stem}_rank{rank}_{tag}.npy", mmap_mode="r")
        comm.barrier()
    finally:
        if comm.rank != root and os.path.exists(name):
            os.unlink(name)
