"""What every refinement shares besides its search: how references are filtered, masked and made symmetrical.

The drivers decide what is done with the weighted sums of a search: `auto_refine` makes two half maps until convergence,
`classification` several classes for a number of iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.post.local_symmetry import Region, symmetrised
from relion_py.compute.post.local_symmetry_files import read_regions
from relion_py.compute.refine import helical, outputs
from relion_py.compute.refine.helical_priors import update_priors
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.reference import read_solvent_mask
from relion_py.compute.refine.search import Search
from relion_py.compute.refine.solvent import SolventMasks, first_filter, first_filter_profile


class Engine(Search):
    """A run with what is done to its references between two iterations."""

    def make_helical(self, which: Sequence[tuple[ModelState, int, int]], *, keep: bool = False) -> None:
        """Classes become helical, with twist and rise refined if that was asked for; each: a model, number and owner.

        On the owner, a rank, for all; keep: refine twist and rise only. Does nothing without helical symmetry.
        """
        which = [each for each in which if each[0].helix is not None]
        if self.dimensions == 2 or not self.options.helical_symmetry:
            return
        comm, refine = self.job.comm, self.state.iteration > 1
        made = [
            helical.symmetrised(model.references[k], model, k, self.options, refine=refine, keep=keep)
            if comm.rank == owner
            else None
            for model, k, owner in which
        ]
        for (model, k, owner), result in zip(which, made, strict=True):
            assert model.helix is not None
            model.references[k], model.helix.twist[k], model.helix.rise[k], warning = comm.bcast(result, owner)
            self.job.say(
                f" Helical symmetry of class {k + 1}: twist= {model.helix.twist[k]:.4f} degrees, "
                f"rise= {model.helix.rise[k]:.4f} Angstroms"
            )
            if warning:
                self.job.say(f" WARNING: {warning}.")

    def update_helical_priors(self, model: ModelState) -> None:
        """Prior angles of helical segments for the next iteration."""
        if self.options.helix and model.ref_dim == 3 and not self.options.keeps_orientations:
            told = update_priors(self.particles, model, self.options)
            if told:
                self.job.say(told)

    @cached_property
    def _local_symmetry(self) -> list[Region]:
        return read_regions(self.options.local_symmetry) if self.options.has_local_symmetry else []

    def impose_local_symmetry(self) -> None:
        """Averages the parts of the references of all models that --local_symmetry says are alike."""
        if not self._local_symmetry:
            return
        self.job.say(" Applying local symmetry in real space...")
        comm, every = self.job.comm, [(model, k) for model in self.models for k in range(len(model.references))]
        made = {}

        def make_mine() -> None:
            for i in range(comm.rank, len(every), comm.size):
                model, k = every[i]
                volume = model.references[k]
                made[i] = symmetrised(volume, self._local_symmetry, self.pixel_size, self.job.check_abort)

        self.on_each_rank(make_mine)
        for i, (model, k) in enumerate(every):
            model.references[k] = comm.bcast(made.get(i), i % comm.size)

    def write_files(self, names: outputs.OutputNames, write_models: Callable[[], None]) -> None:
        """The iteration's files; write_models: writes those of the models that this rank makes.

        The particles are the last rank's and the rest the first one's; the file that names the others comes last.
        """
        rank, last = self.job.comm.rank, self.job.comm.size - 1

        def write_mine() -> None:
            write_models()
            if rank == 0:
                outputs.write_sampling(names, self.sampling)
            if rank == last:
                outputs.write_data(names, self.particles.to_star(self.dimensions == 2))

        self.on_each_rank(write_mine)
        self.on_first_rank(lambda: outputs.write_optimiser(names, self.state, self.options, self.box, self.pixel_size))

    def write_particles(self, names: outputs.OutputNames) -> None:
        """The particles' file alone, by the first rank, as --skip_maximize asks for."""
        self.on_first_rank(lambda: outputs.write_data(names, self.particles.to_star(self.dimensions == 2)))
        self.job.say(f" Skipping the maximization: the particles are in {names.data}, stopping now...")

    def filter_references(self, model: ModelState) -> None:
        """Filters the model's references to --ini_high again; what is finer is not known, as scales shall see."""
        resolution = self.options.ini_high
        model.references = [first_filter(v, self.pixel_size, resolution) for v in model.references]
        shells = np.arange(model.nr_shells, dtype=np.float64)
        kept = first_filter_profile(shells, self.box, self.pixel_size, resolution) ** 2
        model.data_vs_prior_class = model.data_vs_prior_class * kept
        if not self.fixed_tau2:
            model.tau2_class = model.tau2_class * kept

    def flatten(self) -> None:
        """Masks the references of all models; maps that were made helical, without a mask, have their tube already."""
        if self.mask is None:
            return
        masks = SolventMasks(self.mask, *self._lowpass_mask, self._level_mask)
        for model in self.models:
            model.references = [masks.flatten(volume, self.pixel_size) for volume in model.references]

    @cached_property
    def _level_mask(self) -> NDArray[np.float32] | None:
        return self._read_mask(self.options.solvent_mask2) if self.options.has_level_mask else None

    @cached_property
    def _lowpass_mask(self) -> tuple[NDArray[np.float32] | None, float]:
        mask = self._read_mask(self.options.lowpass_mask) if self.options.has_lowpass_mask else None
        return mask, self.options.lowpass

    def _read_mask(self, path: str) -> NDArray[np.float32]:
        mask, notes = read_solvent_mask(path, self.box, self.pixel_size)
        for note in notes:
            self.job.say(f" WARNING: {note}")
        return mask
