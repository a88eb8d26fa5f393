"""Automatic 3D refinement: two random halves, gold-standard FSC, finer sampling until convergence.

Source: ml_optimiser_mpi.cpp, iterate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.base import Backend
from relion_py.compute.refine import convergence, helical, outputs, source
from relion_py.compute.refine.clock import Stopwatch
from relion_py.compute.refine.engine import Engine
from relion_py.compute.refine.halves import Division, Halves, owner
from relion_py.compute.refine.maximization import update_model
from relion_py.compute.refine.model import NO_PRIOR, ModelState
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.search import Findings


@dataclass
class AutoRefinement(Engine):
    """A run with two half models of one class; after convergence with one model of all particles."""

    def run(self) -> None:
        """Iterates to convergence, or to the largest number of iterations."""
        if self.options.force_converge and self.state.iteration > 0:
            self.state.has_converged = True
        self._update_resolution()
        while self.state.iteration < self.options.max_iterations:
            self.state.iteration += 1
            self.clock = Stopwatch()
            self.state.has_converged |= convergence.has_converged(self.state, self.options)
            self._report_iteration()
            self.iterate()
            if self.options.skip_maximize:
                return
            self.job.say(f" Time per step (s): {self.clock}")
            if self.state.has_converged:
                self._report_end()
                return
        self.job.say(f" Stopping after iteration {self.state.iteration}, the largest that was asked for.")

    def iterate(self) -> None:
        """One iteration: expectation of both halves, maximization, files."""
        last = self.state.has_converged
        references, sizes = self.begin_iteration(last)
        halves = self._expectation(references, sizes)
        del references
        if self.options.skip_maximize:
            self.write_particles(outputs.OutputNames(self.options.output_root, outputs.FINAL))
            return
        self._maximization(halves, last)

    def begin_iteration(self, last: bool) -> tuple[list[list[FourierReference]], convergence.ImageSizes]:
        """The references of both halves, ready for projection, and the sizes at which images are compared with them."""
        state = self.state
        for model in self.models:
            sizes = convergence.image_sizes(model, self.sampling, state, self.options, last)
            model.current_size = sizes.current
        self.perturb()
        references = [
            self.fourier_references(model) if group is not None else []
            for model, group in zip(self.models, self.division.groups, strict=True)
        ]
        for half, model in enumerate(self.models):
            model.tau2_class = self.job.comm.bcast(model.tau2_class, owner(half, self.job.comm))
        self.clock.lap("references")
        if not self.by_correlation:
            self.estimate_accuracy(self.models[0], references[0], self.division.groups[0])
            self.models[1].accuracy_rot = self.models[0].accuracy_rot.copy()
            self.models[1].accuracy_trans = self.models[0].accuracy_trans.copy()
            self.models[1].orientability_contrib = self.models[0].orientability_contrib
        if state.iteration > 1:
            # in the last iteration, too: angles may be known better by now than when they seemed fine enough
            self._update_sampling()
        # the coarse size follows the angular step
        sizes = convergence.image_sizes(self.models[0], self.sampling, state, self.options, last)
        state.coarse_size = sizes.coarse
        return references, sizes

    def _update_resolution(self) -> None:
        # both halves share data_vs_prior, so that they agree on the resolution
        counter = self.state.nr_iter_wo_resol_gain
        for model in self.models:
            self.state.nr_iter_wo_resol_gain = counter
            warning = convergence.update_resolution(model, self.state, self.options)
        if warning:
            self.job.say(f" {warning}")

    def _report_iteration(self) -> None:
        say, state, model = self.job.say, self.state, self.models[0]
        say(f" Auto-refine: Iteration= {state.iteration}")
        say(f" Auto-refine: Resolution= {model.current_resolution:g} (no gain for {state.nr_iter_wo_resol_gain} iter) ")
        say(
            f" Auto-refine: Changes in angles= {state.current_changes_optimal_orientations:g} degrees; and in "
            f"offsets= {state.current_changes_optimal_offsets:g} Angstroms "
            f"(no gain for {state.nr_iter_wo_large_hidden_variable_changes} iter) "
        )
        if state.has_converged:
            say(" Auto-refine: Refinement has converged, entering last iteration where two halves will be combined...")
            say(" Auto-refine: The last iteration will use data to Nyquist frequency, which may take more CPU and RAM.")

    def _report_end(self) -> None:
        say, root = self.job.say, self.options.output_root
        say(" Auto-refine: Refinement has converged, stopping now... ")
        say(f" Auto-refine: + Final reconstruction from all particles is saved as: {root}_class001.mrc")
        say(f" Auto-refine: + Final model parameters are stored in: {root}_model.star")
        say(f" Auto-refine: + Final data parameters are stored in: {root}_data.star")
        kind = "already with masking" if self.options.solvent_correct_fsc else "without masking"
        say(f" Auto-refine: + Final resolution ({kind}) is: {self.models[0].current_resolution:g}")
        if self.particles.images_to_reconstruct is not None:
            say(
                " Auto-refine: + Used rlnReconstructImageName images for final reconstruction. Ignore filtered map, "
                "and only assess the unfiltered half-reconstructions!"
            )
        if self.state.accuracy_rot > 10.0:
            say(
                " Auto-refine: + WARNING: The angular accuracy is worse than 10 degrees, so basically you cannot align "
                "your particles! Do not trust the FSC."
            )

    # ---- expectation ----

    @cached_property
    def division(self) -> Division:
        """Which ranks work on which half."""
        return Division.of(self.job.comm, self.options)

    def _number_of_mine(self) -> int:
        """Particles that this rank works on."""
        comm, sharing = self.job.comm, self.division.sharing
        return sum(len(source.share(self.particles.members(h + 1), comm, half=sharing(h))) for h in (0, 1))

    def find_in_half(
        self, half: int, backend: Backend, model: ModelState, references: Sequence[FourierReference],
        sizes: convergence.ImageSizes, advance: Callable[[int], None],
    ) -> Findings:  # fmt: skip
        """What this rank finds about its particles of half 0 or 1; nothing if it has none."""
        if self.division.groups[half] is None:
            return Findings([], self.empty_sums(model), [])
        members = self.particles.members(half + 1)
        return self.find(backend, model, references, sizes, members, advance, half=self.division.sharing(half))

    def _update_sampling(self) -> None:
        changed = False
        for i, model in enumerate(self.models):
            if i == 0:
                changed = convergence.update_angular_sampling(model, self.sampling, self.state, self.options)
            elif changed and self.sampling.healpix_order >= self.options.auto_local_healpix_order:
                convergence.start_local_searches(model, self.sampling, self.options)
        if changed:
            self.grid = self._new_grid()
            n = self.grid.n_directions
            for model in self.models:
                model.pdf_direction = np.full((1, n), 1.0 / n)
        over = self.options.oversampling
        local = self.models[0].orientational_prior_mode != NO_PRIOR
        self.job.say(
            f" Auto-refine: Angular step= {convergence.angular_step(self.sampling, over):g} degrees; "
            f"local searches= {'true' if local else 'false'}"
        )
        self.job.say(
            f" Auto-refine: Offset search range= {self.sampling.offset_range:g} Angstroms; "
            f"offset step= {convergence.offset_step(self.sampling, over):g} Angstroms"
            + (
                f"; offset step along helical axis= {self.sampling.helical_offset_step / 2**over:g} Angstroms"
                if self.options.helical_symmetry
                else ""
            )
        )

    def _expectation(self, references: list[list[FourierReference]], sizes: convergence.ImageSizes) -> Halves:
        options = self.options
        self.job.say(f" Expectation iteration {self.state.iteration}")
        halves = Halves(self.division, options.threads, self.external)
        old = self.poses()
        with self.working(self._number_of_mine()) as (backend, advance):
            found = []
            for half, model in enumerate(self.models):
                found.append(self.find_in_half(half, backend, model, references[half], sizes, advance))
                references[half] = []  # half as large as the sums
        self.clock.lap("reading")
        for half, (model, each) in enumerate(zip(self.models, found, strict=True)):
            self.tell_all(model, each)
            via_disc = options.output_root if options.combine_weights_via_disc else ""
            halves.reduce(half, each.grids[0] if each.grids else None, via_disc)
        self.weighted = [each.weighted for each in found]
        self.clock.lap("sums over ranks")
        self.report_failed(self.weighted)
        self.measure_changes(old, self.particles.members())
        return halves

    # ---- maximization ----

    def _maximization(self, halves: Halves, last: bool) -> None:
        options, state = self.options, self.state
        self.job.say(" Maximization...")
        halves.symmetrise([helical.units_of(model, 0, options) for model in self.models])
        raw = [halves.unregularised(h) for h in (0, 1)] if last else None
        if options.low_resol_join_halves > 0:
            resolution = max(options.low_resol_join_halves, self.models[0].current_resolution)
            self.job.say(
                f" Averaging half-reconstructions up to {resolution:g} Angstrom resolution to prevent diverging "
                "orientations ..."
            )
            halves.join_low_resolution(resolution, self.pixel_size)
        self.job.say(" Calculating gold-standard FSC ...")
        if options.solvent_correct_fsc and self.mask is not None:
            maps = [halves.unregularised(h) for h in (0, 1)]
            fsc = halves.solvent_corrected_fsc(self.mask, maps, self.models[0].current_size, state.random_seed)
        else:
            fsc = halves.fsc()
        convergence.watch_fsc(self.models[0], state, fsc)
        if last:
            halves.join()
            self._join_sums()
        stems = [self.external_stem(f"{'' if last else f'_half{half}'}_class001") for half in (1, 2)]
        halves.maximise(self.models, fsc, options.tau2_fudge_factor, self.fixed_tau2, stems)
        if not last:
            self.impose_local_symmetry()
        self._make_helical(last)
        self._update_models()
        self.update_helical_priors(self.models[0])
        if self.first_by_correlation and options.ini_high > 0:
            for model in self.models:
                self.filter_references(model)
        if options.flatten_solvent and not last:
            self.flatten()
        self._update_resolution()
        self.clock.lap("maximization")
        self.write(raw)
        self.clock.lap("writing")

    def _make_helical(self, last: bool) -> None:
        """Both halves become helical, but not the last map; the mean of their twists and rises is kept."""
        self.make_helical([(model, 0, owner(h, self.job.comm)) for h, model in enumerate(self.models)], keep=last)
        helices = [model.helix for model in self.models if model.helix is not None]
        if self.options.helical_symmetry and len(helices) == 2:
            twist, rise = helices[0].twist + helices[1].twist, helices[0].rise + helices[1].rise
            for helix in helices:
                helix.twist, helix.rise = twist / 2.0, rise / 2.0

    def _join_sums(self) -> None:
        """One model from here on, from both halves' sums."""
        first, second = self.weighted
        total = first.pack() + second.pack()
        first.unpack(total)
        self.weighted = [first]
        self.models = [self.models[0]]
        self.models[0].nr_particles_per_group = self.particles.particles_per_group()

    def _update_models(self) -> None:
        for model, sums in zip(self.models, self.weighted, strict=True):
            update_model(
                model,
                sums,
                min_sigma2_offset=self.options.min_sigma2_offset,
                fix_sigma_offset=self.options.fix_sigma_offset,
                fix_sigma_noise=self.options.fix_sigma_noise,
                do_norm=self.options.do_norm_correction,
                do_scale=self.preparation.do_scale,
                by_correlation=self.by_correlation,
                offset_dimensions=1 if self.options.helical_symmetry else 2,
                shell_pixels=self.shell_pixels,
            )
        # decisions are made on the first half's values
        for model in self.models[1:]:
            model.ave_pmax = self.models[0].ave_pmax
            model.data_vs_prior_class = self.models[0].data_vs_prior_class.copy()
        self.state.refs_are_ctf_corrected |= self.options.ctf

    def write(self, raw: list[NDArray[np.float32] | None] | None = None) -> None:
        """The iteration's files; raw: the unregularised half maps of the last one, on their owners.

        The owner of a half writes that half.
        """
        options, state, models, rank = self.options, self.state, self.models, self.job.comm.rank
        names = outputs.names_of_iteration(options, state, len(models))

        def write_models() -> None:
            for half in (0, 1):
                if rank != owner(half, self.job.comm):
                    continue
                if half < len(models):
                    outputs.write_model_of_iteration(names, options, state, self.sampling, models, half)
                volume = None if raw is None else raw[half]
                if volume is not None:
                    outputs.write_reference(names.unfiltered(half + 1), volume, self.pixel_size)

        self.write_files(names, write_models)
