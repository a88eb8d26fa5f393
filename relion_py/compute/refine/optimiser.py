"""Automatic 3D refinement: the loop of expectation and maximization over two random halves until convergence.

Every rank goes through the same steps with the same state; each works on its share of the particles of both halves,
so that no rank idles and any number of ranks will do. Source: ml_optimiser_mpi.cpp, iterate and expectation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import angular_distance, euler_to_matrix, matrix_to_euler
from relion_py.compute.geometry.healpix import Sampling, next_perturbation
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.parallel.comm import Communicator
from relion_py.compute.refine import convergence, outputs, source
from relion_py.compute.refine.accuracy import expected_errors
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.clock import Stopwatch
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.expectation import Assignments, Expectation, ExpectationSettings, WeightedSums
from relion_py.compute.refine.halves import Halves
from relion_py.compute.refine.images import DiscPixels, PreparedImages, noise_images, transform_images
from relion_py.compute.refine.maximization import update_model
from relion_py.compute.refine.model import NO_PRIOR, ModelState, OptimiserState, SamplingState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.sampling import LocalSearch, SamplingTables

ACCURACY_TRIALS = 100
"""Particles on which the accuracy of angles and offsets is estimated."""
FAILED_SHARE = 0.05
"""A run stops when more than this share of the particles cannot be scored."""
FILTER_EDGE = 2
"""Width in shells of the edge of --ini_high's filter (WIDTH_FMASK_EDGE)."""
SCALE_DATA_VS_PRIOR = 3.0
"""Scales are estimated where the signal exceeds the prior by this factor."""


class Progress(Protocol):
    """A progress bar."""

    def update(self, done: int) -> None:
        """`done` pieces are finished."""


class Host(Protocol):
    """What a refinement runs in: its ranks, where it talks to, and who may stop it (`cli.program.Job`)."""

    comm: Communicator
    check_abort: Callable[[], None]

    def say(self, text: str) -> None:
        """A line for the user."""

    def progress(self, total: int) -> AbstractContextManager[Progress]:
        """A progress bar of `total` pieces."""


@dataclass
class Refinement:
    """Everything of a running refinement. `mask` is the solvent mask of the references, or None."""

    options: RefineOptions
    job: Host
    particles: ParticleSet
    ctf: CtfParams | None
    state: OptimiserState
    sampling: SamplingState
    models: list[ModelState]
    mask: NDArray[np.float32] | None

    def __post_init__(self) -> None:
        self.operators = operators(self.sampling.symmetry)
        self.grid = Sampling(self.sampling.healpix_order, symmetry=self.sampling.symmetry)
        self.box, self.pixel_size = self.models[0].ori_size, self.models[0].pixel_size
        self.diameter = self.options.mask_diameter(self.box, self.pixel_size)
        self.do_scale = self.options.do_scale_correction and self.particles.nr_groups > 1
        self.clock = Stopwatch()

    # ---- the loop ----

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
            self.job.say(f" Time per step (s): {self.clock}")
            if self.state.has_converged:
                self._report_end()
                return
        self.job.say(f" Stopping after iteration {self.state.iteration}, the largest that was asked for.")

    def iterate(self) -> None:
        """One iteration: expectation of both halves, maximization, files."""
        state, last = self.state, self.state.has_converged
        for model in self.models:
            sizes = convergence.image_sizes(model, self.sampling, state, self.options, last)
            model.current_size = sizes.current
        self._perturb()
        references = self._fourier_references()
        if not self._first_by_correlation:
            self._estimate_accuracy(references[0])
        if state.iteration > 1 and not last:
            self._update_sampling()
        # the coarse size follows the angular step
        sizes = convergence.image_sizes(self.models[0], self.sampling, state, self.options, last)
        state.coarse_size = sizes.coarse
        halves = self._expectation(references, sizes)
        del references
        self._maximization(halves, last)

    @property
    def _first_by_correlation(self) -> bool:
        return self.state.iteration == 1 and self.options.firstiter_cc

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
        say(
            f" Auto-refine: Resolution= {model.current_resolution:g} "
            f"(no gain for {state.nr_iter_wo_resol_gain} iter) "
        )
        say(
            f" Auto-refine: Changes in angles= {state.current_changes_optimal_orientations:g} degrees; and in "
            f"offsets= {state.current_changes_optimal_offsets:g} Angstroms "
            f"(no gain for {state.nr_iter_wo_large_hidden_variable_changes} iter) "
        )
        if state.has_converged:
            say(
                " Auto-refine: Refinement has converged, entering last iteration where two halves will be combined..."
            )
            say(
                " Auto-refine: The last iteration will use data to Nyquist frequency, which may take more CPU and RAM."
            )

    def _report_end(self) -> None:
        say, root = self.job.say, self.options.output_root
        say(" Auto-refine: Refinement has converged, stopping now... ")
        say(f" Auto-refine: + Final reconstruction from all particles is saved as: {root}_class001.mrc")
        say(f" Auto-refine: + Final model parameters are stored in: {root}_model.star")
        say(f" Auto-refine: + Final data parameters are stored in: {root}_data.star")
        kind = "already with masking" if self.options.solvent_correct_fsc else "without masking"
        say(f" Auto-refine: + Final resolution ({kind}) is: {self.models[0].current_resolution:g}")
        if self.state.accuracy_rot > 10.0:
            say(
                " Auto-refine: + WARNING: The angular accuracy is worse than 10 degrees, so basically you cannot align "
                "your particles! Do not trust the FSC."
            )

    # ---- before the expectation ----

    def _perturb(self) -> None:
        random = np.random.default_rng([self.state.random_seed, self.state.iteration])
        self.sampling.random_perturbation = next_perturbation(
            self.sampling.random_perturbation, self.sampling.perturbation_factor, random
        )

    def _fourier_references(self) -> list[FourierReference]:
        lowest = self.options.strict_lowres_exp
        references = []
        for model in self.models:
            reference = FourierReference.from_map(
                model.references[0],
                model.current_size,
                self.options.padding_factor,
                min_shell=model.shell_of(lowest) if lowest > 0 else -1,
                workers=self.options.threads,
            )
            if not self._fixed_tau2:
                model.tau2_class[0] = reference.spectrum
            references.append(reference)
        self.clock.lap("references")
        return references

    @property
    def _fixed_tau2(self) -> bool:
        return self.options.tau_spectrum not in ("", "None")

    def _estimate_accuracy(self, reference: FourierReference) -> None:
        model, state = self.models[0], self.state
        order = np.random.default_rng([state.random_seed, state.iteration, 1]).permutation(len(self.particles))
        trial = order[:ACCURACY_TRIALS]
        strict = self.options.strict_highres_exp > 0
        sizes = convergence.image_sizes(model, self.sampling, state, self.options, False)
        pixels = DiscPixels.of_size(sizes.coarse if strict else model.current_size)
        p = self.particles
        rot, trans, contribution = expected_errors(
            reference,
            euler_to_matrix(p.rot[trial], p.tilt[trial], p.psi[trial]),
            self._ctf(trial, pixels),
            self._inverse_noise(model)[p.optics_group[trial]],
            pixels,
            self.pixel_size,
            np.random.default_rng([state.random_seed, 2]),
        )
        state.accuracy_rot, state.accuracy_trans = rot, trans
        for each in self.models:
            each.accuracy_rot[0], each.accuracy_trans[0] = rot, trans
            each.orientability_contrib = contribution[None]
        self.job.say(
            f" Auto-refine: Estimated accuracy angles= {rot:g} degrees; offsets= {trans:g} Angstroms"
        )
        self.clock.lap("accuracy")

    def _update_sampling(self) -> None:
        changed = False
        for i, model in enumerate(self.models):
            if i == 0:
                changed = convergence.update_angular_sampling(model, self.sampling, self.state, self.options)
            elif changed and self.sampling.healpix_order >= self.options.auto_local_healpix_order:
                convergence.start_local_searches(model, self.sampling, self.options.oversampling)
        if changed:
            self.grid = Sampling(self.sampling.healpix_order, symmetry=self.sampling.symmetry)
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
        )

    # ---- expectation ----

    def _expectation(self, references: list[FourierReference], sizes: convergence.ImageSizes) -> Halves:
        options, comm = self.options, self.job.comm
        self.job.say(f" Expectation iteration {self.state.iteration}")
        grid = self.grid.perturbed(self.sampling.random_perturbation)
        tables = SamplingTables.of(grid, self.sampling, options.oversampling)
        halves = Halves(comm, options.threads)
        old_pose = (self._matrices(), self.particles.origin_x.copy(), self.particles.origin_y.copy())
        mine = sum(len(source.share(self.particles.members(h), comm)) for h in (1, 2))
        with CpuBackend(options.threads) as backend, self.job.progress(mine) as bar:
            done = 0
            self.half_sums: list[WeightedSums] = []
            for half, (model, reference) in enumerate(zip(self.models, references, strict=True)):
                sums = BackProjector(self.box, sizes.current, options.padding_factor, self.operators)
                step, weighted = self._expectation_step(backend, half, model, reference, tables, grid, sums)
                found: list[tuple[NDArray, Assignments]] = []
                coarse, fine = DiscPixels.of_size(sizes.coarse), DiscPixels.of_size(sizes.current)
                size = max(step.batch_size(coarse.size, fine.size), options.pool * options.threads)
                members = self.particles.members(half + 1)
                for index, images in source.batches(self.particles, members, size, options, comm):
                    self.job.check_abort()
                    self.clock.lap("reading")
                    prepared = self._prepare(model, index, images, coarse, fine)
                    self.clock.lap("images")
                    found.append((index, step.run(prepared)))
                    done += len(index)
                    bar.update(done)
                step.finish()
                del step
                self._gather(found)
                via_disc = options.output_root if options.combine_weights_via_disc else ""
                halves.reduce(half, sums, via_disc)
                weighted.unpack(comm.allreduce_sum(weighted.pack()))
                weighted.failed = sorted(i for part in comm.allgather(weighted.failed) for i in part)
                self.half_sums.append(weighted)
                self.clock.lap("sums over ranks")
        self._report_failed()
        self._measure_changes(old_pose)
        return halves

    def _expectation_step(
        self,
        backend: CpuBackend,
        half: int,
        model: ModelState,
        reference: FourierReference,
        tables: SamplingTables,
        grid: Sampling,
        sums: BackProjector,
    ) -> tuple[Expectation, WeightedSums]:
        weighted = WeightedSums.zeros(
            (0, 0, 0), 1, tables.directions, model.nr_shells, model.nr_optics_groups, model.nr_groups
        )
        weighted.grids = sums.grid[None]
        settings = ExpectationSettings(
            adaptive_fraction=self.options.adaptive_fraction,
            maximum_significants=self.options.maximum_significants,
            correlate=self._first_by_correlation,
            sigma2_offset=model.sigma_offset**2,
            pixel_size=self.pixel_size,
            box=self.box,
        )
        with np.errstate(divide="ignore"):
            log_pdf = np.log(model.pdf_direction / model.pdf_direction.mean()).astype(np.float32)
        local = None
        if model.orientational_prior_mode != NO_PRIOR:
            members = self.particles.members(half + 1)
            p = self.particles
            local = LocalSearch.around(
                grid,
                members,
                len(p),
                (p.rot[members], p.tilt[members], p.psi[members]),
                (model.sigma_rot, model.sigma_tilt, model.sigma_psi),
            )
        step = Expectation(
            backend,
            settings,
            reference.data[None],
            reference.pad,
            reference.r_max_padded,
            tables,
            log_pdf,
            self._inverse_noise(model),
            weighted,
            local,
            self.clock,
        )
        return step, weighted

    def _inverse_noise(self, model: ModelState) -> NDArray[np.float32]:
        """1 / sigma2_noise (O, S), 0 at the origin and where no noise is known."""
        inverse = np.divide(
            1.0, model.sigma2_noise, out=np.zeros(model.sigma2_noise.shape), where=model.sigma2_noise > 0
        )
        inverse[:, 0] = 0.0
        return inverse.astype(np.float32)

    def _ctf(self, index: NDArray[np.int64], pixels: DiscPixels) -> NDArray[np.float32]:
        """CTF (N, P) of particles, 1 without CTF correction."""
        if self.ctf is None:
            return np.ones((len(index), pixels.size), np.float32)
        return ctf_values(
            self.ctf[index],
            pixels.kx,
            pixels.ky,
            self.box,
            self.pixel_size,
            intact_first_peak=self.options.ctf_intact_first_peak,
            absolute=self.options.ctf_phase_flipped,
            only_flip_phases=self.options.only_flip_phases,
        )

    def _prepare(
        self,
        model: ModelState,
        index: NDArray[np.int64],
        images: NDArray[np.float32],
        coarse: DiscPixels,
        fine: DiscPixels,
    ) -> PreparedImages:
        p, options = self.particles, self.options
        norm = np.ones(len(index))
        if options.do_norm_correction:
            norm = p.norm_correction[index] / model.avg_norm_correction
        origin = np.stack([p.origin_x[index], p.origin_y[index]], axis=1) / self.pixel_size
        shift = np.floor(origin + 0.5).astype(np.int64)
        noise = None
        if not options.zero_mask:
            noise = noise_images(
                model.sigma2_noise[p.optics_group[index]], self.box, self.state.random_seed + index
            )
        unmasked, masked, spectrum = transform_images(
            images,
            shift,
            1.0 / norm,
            self.diameter / (2.0 * self.pixel_size),
            float(options.mask_edge),
            fine,
            noise=noise,
            workers=options.threads,
        )
        scale = np.ones(len(index))
        if self.do_scale:
            scale = np.maximum(model.scale_correction[p.group[index]], 0.001)
        ctf = self._ctf(index, fine)
        ctf *= scale[:, None].astype(np.float32)
        return PreparedImages(
            index=index,
            masked=masked,
            unmasked=unmasked,
            ctf=ctf,
            optics=p.optics_group[index],
            group=p.group[index],
            scale=scale,
            old_offset=shift * self.pixel_size,
            spectrum=spectrum,
            applied_norm=norm,
            fine=fine,
            coarse=coarse,
            coarse_in_fine=coarse.positions_in(fine),
            scale_shells=model.data_vs_prior_class[0] > SCALE_DATA_VS_PRIOR,
        )

    def _matrices(self) -> NDArray[np.float64]:
        p = self.particles
        return euler_to_matrix(p.rot, p.tilt, p.psi)

    def _gather(self, found: list[tuple[NDArray, Assignments]]) -> None:
        """New poses and statistics of all ranks' particles, on every rank. Failed ones keep what they had."""
        p = self.particles
        for index, new in (item for part in self.job.comm.allgather(found) for item in part):
            good = ~new.failed
            to = index[good]
            p.rot[to], p.tilt[to], p.psi[to] = matrix_to_euler(new.matrix[good])
            p.origin_x[to], p.origin_y[to] = new.offset[good].T
            p.class_number[to] = new.class_index[good] + 1
            if self.options.do_norm_correction:
                p.norm_correction[to] = new.norm_correction[good]
            p.log_likelihood[to] = new.log_likelihood[good]
            p.max_prob[to] = new.pmax[good]
            p.nr_significant[to] = new.nr_significant[good]
        p.has_results = True

    def _report_failed(self) -> None:
        failed = [i for sums in self.half_sums for i in sums.failed]
        if not failed:
            return
        names = ", ".join(self.particles.image_name(i) for i in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        sentence = (
            f"{len(failed)} particles could not be scored, their images are probably empty or not normalised: "
            f"{names}{more}"
        )
        if len(failed) > FAILED_SHARE * len(self.particles):
            raise UserError(f"{sentence}; normalise the particles again, or remove these.")
        self.job.say(f" WARNING: {sentence}; they are left out of this iteration.")

    def _measure_changes(self, old: tuple[NDArray, NDArray, NDArray]) -> None:
        p = self.particles
        angles = angular_distance(self._matrices(), old[0], self.operators)
        squared = (p.origin_x - old[1]) ** 2 + (p.origin_y - old[2]) ** 2
        convergence.update_changes(
            self.state,
            self.sampling,
            self.options.oversampling,
            float(angles.mean()),
            float(np.sqrt(squared.mean() / 2.0)),
            0.0,
        )

    # ---- maximization ----

    def _maximization(self, halves: Halves, last: bool) -> None:
        options, state = self.options, self.state
        self.job.say(" Maximization...")
        halves.symmetrise()
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
            fsc = halves.solvent_corrected_fsc(
                self.mask, maps, self.models[0].current_size, state.random_seed
            )
        else:
            fsc = halves.fsc()
        convergence.watch_fsc(self.models[0], state, fsc)
        if last:
            halves.join()
            self._join_sums()
        for half, model in enumerate(self.models):
            halves.maximise(half, model, fsc, options.tau2_fudge_factor, self._fixed_tau2, last)
        self._update_models()
        if self._first_by_correlation and options.ini_high > 0:
            self._filter_references()
        if options.flatten_solvent and not last:
            self._flatten()
        self._update_resolution()
        self.clock.lap("maximization")
        self._write(raw)
        self.clock.lap("writing")

    def _join_sums(self) -> None:
        """One model from here on, from both halves' sums."""
        first, second = self.half_sums
        total = first.pack() + second.pack()
        first.unpack(total)
        self.half_sums = [first]
        self.models = [self.models[0]]
        self.models[0].nr_particles_per_group = self.particles.particles_per_group()

    def _update_models(self) -> None:
        for model, sums in zip(self.models, self.half_sums, strict=True):
            update_model(
                model,
                sums,
                min_sigma2_offset=self.options.min_sigma2_offset,
                fix_sigma_offset=self.options.fix_sigma_offset,
                fix_sigma_noise=self.options.fix_sigma_noise,
                do_norm=self.options.do_norm_correction,
                do_scale=self.do_scale,
                first_iteration_cc=self._first_by_correlation,
            )
        # decisions are made on the first half's values
        for model in self.models[1:]:
            model.ave_pmax = self.models[0].ave_pmax
            model.data_vs_prior_class = self.models[0].data_vs_prior_class.copy()
        self.state.refs_are_ctf_corrected |= self.options.ctf

    def _filter_references(self) -> None:
        for model in self.models:
            model.references[0] = lowpass(
                model.references[0], self.pixel_size, self.options.ini_high, FILTER_EDGE
            )

    def _flatten(self) -> None:
        for model in self.models:
            model.references[0] = (model.references[0] * self.mask).astype(np.float32)

    def _write(self, raw: list[NDArray[np.float32] | None] | None) -> None:
        """The iteration's files; raw: the unregularised half maps of the last one, on their owners."""
        comm = self.job.comm
        error = None
        if raw is not None:
            second = comm.bcast(raw[1], 1 % comm.size)
            raw = [raw[0], second]
        if comm.rank == 0:
            try:
                names = outputs.write_iteration(
                    self.options, self.state, self.sampling, self.models, self.particles.to_star()
                )
                for half, volume in enumerate(raw or [], 1):
                    if volume is not None:
                        outputs.write_reference(names.unfiltered(half), volume, self.pixel_size)
            except UserError as problem:
                error = problem
        error = comm.bcast(error, 0)
        if error is not None:
            raise error
