"""Multi-body refinement: the parts of a particle that move against each other are refined one after the other.

A consensus auto-refinement goes on with bodies in place of its one map. In each iteration, and in each half, the
particles are compared with one body after the other: the others are subtracted from the images at their last poses, and
what is searched is how the body has turned about its centre and moved, with Gaussian priors on both. Each body has its
own half maps, FSC and final map; noise spectra are those of all bodies together; norms and scales stay as they were.
A body whose accuracy is worse than the sampling is kept where it is until the last iteration.

Source: ml_optimiser.cpp (initialiseGeneral, expectationOneParticle, updateAngularSampling, checkConvergence) and
ml_optimiser_mpi.cpp (iterate, maximization). Method: Nakane et al. (2018) eLife 7:e36861. Geometry: `bodies`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import angular_distance, euler_to_matrix, matrix_to_euler
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.io.mrc import read_map
from relion_py.compute.refine import convergence, outputs
from relion_py.compute.refine.auto_refine import AutoRefinement
from relion_py.compute.refine.bodies import Bodies, moved, write_bodies
from relion_py.compute.refine.body_images import BodyModel, BodyPreparation
from relion_py.compute.refine.body_search import BodySearch
from relion_py.compute.refine.data import BodyPoses
from relion_py.compute.refine.expectation import Assignments, Expectation, WeightedSums
from relion_py.compute.refine.halves import Halves, owner
from relion_py.compute.refine.maximization import update_model
from relion_py.compute.refine.model import (
    NO_PRIOR,
    UNKNOWN,
    UNKNOWN_CLASS_CHANGES,
    BodyState,
    ModelState,
    OptimiserState,
)
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.sampling import LocalSearch, SamplingTables
from relion_py.compute.refine.search import Batch

RawMaps = dict[tuple[int, int], NDArray[np.float32]]
"""Unregularised maps by half (1, 2) and body (from 0)."""


@dataclass
class MultiBodyRefinement(AutoRefinement):
    """A run with several bodies; its models have one reference for each, and its particles residual poses of each."""

    bodies: Bodies = dataclasses.field(kw_only=True)

    @cached_property
    def preparation(self) -> BodyPreparation:
        """What images are prepared with; once the run's options are as they stay."""
        return BodyPreparation(
            self.options, self.particles, self.ctf, self.state, self.sampling, self.geometries, self.aberrations,
            self.diameter, self.bodies, self.pixel_size,
        )  # fmt: skip

    def iterate(self) -> None:
        """One iteration: expectation of both halves of each body, maximization, files."""
        last = self.state.has_converged
        if last:
            self._release()
        references, sizes = self.begin_iteration(last)
        # all have maps of all particles at the end, those that never moved, too
        refined = list(range(len(self.bodies))) if last else self._refined()
        if refined:
            halves = self._expect(references, sizes, refined)
            del references
            raw = self._maximise(halves, refined, last)
        else:
            self.job.say(" All bodies are kept fixed in this iteration.")
            raw = None
            self._measure_changes([poses.copy() for poses in self.particles.bodies], [])
            self._update_resolution()
        self.write_bodies_iteration(raw)
        self.clock.lap("writing")

    def _refined(self) -> list[int]:
        """Numbers from 0 of the bodies that are not kept fixed."""
        state = self.models[0].bodies
        assert state is not None
        return [b for b in range(len(self.bodies)) if not state.fixed[b]]

    def _release(self) -> None:
        """For the last iteration all bodies move again that do so at all."""
        for model in self.models:
            model.bodies = body_state(self.bodies)

    # ---- before the expectation ----

    def fourier_references(self, model: ModelState) -> list[FourierReference]:
        """Each body inside its mask, its centre in that of the box; its power becomes the prior tau2."""
        references = []
        for b in range(len(self.bodies)):
            reference = self._masked_reference(model, b)
            if not self.fixed_tau2:
                model.tau2_class[b] = reference.spectrum
            references.append(reference)
        return references

    def _masked_reference(
        self, model: ModelState, body: int, mask: NDArray[np.float32] | None = None
    ) -> FourierReference:
        one = self.bodies[body]
        volume = model.references[body] * (one.mask if mask is None else mask)
        return FourierReference.from_map(
            moved(volume, -one.centre), model.current_size, self.options.padding_factor, workers=self.options.threads
        )

    def _others(
        self, model: ModelState, body: int, references: list[FourierReference]
    ) -> list[tuple[int, FourierReference]]:
        """What is subtracted from the images of a body: the others, without what belongs to it."""
        others = []
        for other, reference in enumerate(references):
            if other != body:
                mask = self.bodies.subtracted(body, other)
                others.append((other, reference if mask is None else self._masked_reference(model, other, mask)))
        return others

    def _update_sampling(self) -> None:
        before = self._refined()
        super()._update_sampling()
        state = self.models[0].bodies
        assert state is not None
        for model in self.models[1:]:
            model.bodies = state.copy()
        for b in before:
            if state.fixed[b]:
                accuracy = self.models[0].accuracy_rot[b]
                self.job.say(f" Body {b + 1} with rotational accuracy of {accuracy:g} degrees will be kept fixed")
        for model in self.models:
            if len(model.pdf_direction) != len(self.bodies):  # of a new sampling
                model.pdf_direction = np.repeat(model.pdf_direction, len(self.bodies), axis=0)

    # ---- expectation ----

    def _expect(
        self, references: list[list[FourierReference]], sizes: convergence.ImageSizes, refined: list[int]
    ) -> dict[int, Halves]:
        """Back-projections of each body; the other sums go into `self.by_body`, by half and body."""
        self.job.say(f" Expectation iteration {self.state.iteration}")
        halves = {b: Halves(self.division, self.options.threads, self.external) for b in refined}
        via_disc = self.options.output_root if self.options.combine_weights_via_disc else ""
        old = [poses.copy() for poses in self.particles.bodies]
        self.by_body: list[dict[int, WeightedSums]] = [{}, {}]
        with self.working(self._number_of_mine() * len(refined)) as (backend, advance):
            for b in refined:  # each is looked at with the others at their newest poses
                ones, found = [], []
                for half, model in enumerate(self.models):
                    one = BodyModel.of(model, b, self._others(model, b, references[half]), self.bodies[b].sigma_offset)
                    if self._is_fixed(one):
                        one.pdf_direction = np.ones((1, 1))  # each particle has a direction of its own
                    self.clock.lap("references")
                    ones.append(one)
                    found.append(self.find_in_half(half, backend, one, references[half][b : b + 1], sizes, advance))
                self.clock.lap("reading")
                for half, (one, each) in enumerate(zip(ones, found, strict=True)):
                    self.tell_all(one, each)
                    halves[b].reduce(half, each.grids[0] if each.grids else None, via_disc)
                    self.by_body[half][b] = each.weighted
                self.clock.lap("sums over ranks")
        self.report_failed([sums for half in self.by_body for sums in half.values()])
        self._measure_changes(old, refined)
        return halves

    def _local_search(
        self, model: ModelState, tables: SamplingTables, grid: Sampling, members: NDArray[np.int64]
    ) -> LocalSearch | BodySearch | None:
        assert isinstance(model, BodyModel)
        if self._is_fixed(model):
            return None
        p = self.particles
        poses = p.bodies[model.body]
        local = model.orientational_prior_mode != NO_PRIOR
        sigmas = (max(model.sigma_rot, model.sigma_tilt), model.sigma_psi) if local else (0.0, 0.0)
        return BodySearch.around(
            tables,
            members,
            len(p),
            self.bodies[model.body],
            self._matrices()[members],
            euler_to_matrix(poses.rot[members], poses.tilt[members], poses.psi[members]),
            sigmas if min(sigmas) > 0 else (0.0, 0.0),
        )

    def _is_fixed(self, model: BodyModel) -> bool:
        """Whether the body keeps its poses in this iteration."""
        return model.body not in self._refined()

    def _run_batch(
        self, step: Expectation, model: ModelState, batch: Batch, only_class: NDArray[np.int32] | None
    ) -> Assignments:
        assert isinstance(model, BodyModel)
        if self._is_fixed(model):
            step.keep_poses(self._own_matrices(model.body, batch.index))
        return super()._run_batch(step, model, batch, only_class)

    def _own_matrices(self, body: int, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Euler matrices (N, 3, 3) of a body of these particles."""
        p, poses = self.particles, self.particles.bodies[body]
        consensus = euler_to_matrix(p.rot[index], p.tilt[index], p.psi[index])
        residual = euler_to_matrix(poses.rot[index], poses.tilt[index], poses.psi[index])
        return self.bodies[body].own_matrices(consensus, residual)

    def _gather(self, model: ModelState, found: list[tuple[NDArray, Assignments]]) -> None:
        """New residual poses of the model's body on every rank; statistics are those of the first body."""
        assert isinstance(model, BodyModel)
        p, poses, body = self.particles, self.particles.bodies[model.body], self.bodies[model.body]
        moves = not self._is_fixed(model)
        for index, new in (item for part in self.job.comm.allgather(found) for item in part):
            good = ~new.failed
            to = index[good]
            if moves:
                consensus = euler_to_matrix(p.rot[to], p.tilt[to], p.psi[to])
                residual = body.residual_matrices(consensus, new.matrix[good])
                poses.rot[to], poses.tilt[to], poses.psi[to] = matrix_to_euler(residual)
                poses.origin_x[to], poses.origin_y[to] = new.offset[good].T
            if model.body == 0:
                p.log_likelihood[to] = new.log_likelihood[good]
                p.max_prob[to] = new.pmax[good]
                p.nr_significant[to] = new.nr_significant[good]
        p.has_results = True

    def _measure_changes(self, old: list[BodyPoses], refined: list[int]) -> None:
        """How far the bodies moved, over all of them, into the state."""
        angles, squares = [np.zeros(1)], [np.zeros(1)]
        if refined:
            angles, squares = [], []
        for b in refined:
            now = self.particles.bodies[b]
            matrices = [euler_to_matrix(poses.rot, poses.tilt, poses.psi) for poses in (old[b], now)]
            angles.append(angular_distance(*matrices))
            squares.append((now.origin_x - old[b].origin_x) ** 2 + (now.origin_y - old[b].origin_y) ** 2)
        convergence.update_changes(
            self.state,
            self.sampling,
            self.options.oversampling,
            float(np.mean(np.concatenate(angles))),
            float(np.sqrt(np.mean(np.concatenate(squares)) / 2.0)),
            0.0,
        )

    # ---- maximization ----

    def _maximise(self, halves: dict[int, Halves], refined: list[int], last: bool) -> RawMaps | None:
        """New maps of the bodies and the rest of the model; the unregularised maps of the last iteration."""
        self.job.say(" Maximization...")
        raw: RawMaps | None = {} if last else None
        if self.options.low_resol_join_halves > 0:
            resolution = max(self.options.low_resol_join_halves, self.models[0].current_resolution)
            self.job.say(
                f" Averaging half-reconstructions up to {resolution:g} Angstrom resolution to prevent diverging "
                "orientations ..."
            )
        for b in refined:
            self.job.check_abort()
            halves[b].symmetrise()
            if raw is not None:
                self._keep_raw(raw, b, self._body_maps(halves[b], b))
            if self.options.low_resol_join_halves > 0:
                halves[b].join_low_resolution(resolution, self.pixel_size)
            if self.options.solvent_correct_fsc:
                self.job.say(f" Calculating solvent-corrected gold-standard FSC for body {b + 1} ...")
                maps = self._body_maps(halves[b], b)
                size, seed = self.models[0].current_size, self.state.random_seed
                fsc = halves[b].solvent_corrected_fsc(self.bodies[b].mask, maps, size, seed)
            else:
                self.job.say(f" Calculating gold-standard FSC for body {b + 1} ...")
                fsc = halves[b].fsc()
            convergence.watch_fsc(self.models[0], self.state, fsc)
            if last:
                halves[b].join()
            models = self.models[:1] if last else self.models
            ones = [BodyModel.of(model, b, [], 0.0) for model in models]
            stems = [self.external_stem(f"{'' if last else f'_half{half}'}_body{b + 1:03d}") for half in (1, 2)]
            halves[b].maximise(ones, fsc, self.options.tau2_fudge_factor, self.fixed_tau2, stems)
            for model, one in zip(models, ones, strict=True):
                model.references[b] = moved(one.references[0], self.bodies[b].centre)
            del halves[b]
        if last:
            self._join()
        self._update_bodies_models()
        self._update_resolution()
        self.clock.lap("maximization")
        return raw

    def _body_maps(self, halves: Halves, body: int) -> list[NDArray[np.float32] | None]:
        """Unregularised half maps of a body, in its place, on their owners."""
        centre = self.bodies[body].centre
        maps = [halves.unregularised(half) for half in (0, 1)]
        return [None if volume is None else moved(volume, centre) for volume in maps]

    def _keep_raw(self, raw: RawMaps, body: int, maps: list[NDArray[np.float32] | None]) -> None:
        comm = self.job.comm
        for half, volume in enumerate(maps):
            whole = comm.bcast(volume, owner(half, comm))
            if comm.rank == 0:
                raw[half + 1, body] = whole

    def _join(self) -> None:
        """One model from here on, of all particles."""
        first, second = self.by_body
        for b, sums in first.items():
            sums.unpack(sums.pack() + second[b].pack())
        self.by_body = [first]
        self.models = [self.models[0]]
        self.models[0].nr_particles_per_group = self.particles.particles_per_group()

    def _update_bodies_models(self) -> None:
        """Noise and statistics from the sums of all bodies, orientations of each from its own."""
        for model, by_body in zip(self.models, self.by_body, strict=True):
            for b, sums in by_body.items():
                if sums.sum_weight > 0 and sums.pdf_direction.shape[1] == model.nr_directions:
                    model.pdf_direction[b] = sums.pdf_direction[0] / sums.sum_weight
                sums.pdf_direction = sums.pdf_direction.sum(axis=1, keepdims=True)  # what the sum over bodies needs
            each = list(by_body.values())
            together = each[0].like()
            together.unpack(np.sum([sums.pack() for sums in each], axis=0))
            one = BodyModel.of(model, 0, [], 0.0)
            update_model(
                one,
                together,
                min_sigma2_offset=0.0,
                fix_sigma_offset=True,
                fix_sigma_noise=self.options.fix_sigma_noise,
                do_norm=False,
                do_scale=False,
                by_correlation=False,
                shell_pixels=self.shell_pixels,
            )
            model.sigma2_noise = one.sigma2_noise
            model.log_likelihood, model.ave_pmax = one.log_likelihood, one.ave_pmax
        for model in self.models[1:]:
            model.ave_pmax = self.models[0].ave_pmax
            model.data_vs_prior_class = self.models[0].data_vs_prior_class.copy()

    # ---- files ----

    def write_bodies_iteration(self, raw: RawMaps | None = None) -> None:
        """The iteration's files; raw: the unregularised half maps of the last one, on the first rank."""
        names = outputs.names_of_iteration(self.options, self.state, len(self.models))

        def write_models() -> None:
            if self.job.comm.rank != 0:
                return
            for half in range(len(self.models)):
                outputs.write_model_of_iteration(names, self.options, self.state, self.sampling, self.models, half)
            for (half, b), volume in (raw or {}).items():
                outputs.write_reference(names.unfiltered_body(half, b + 1), volume, self.pixel_size)

        self.write_files(names, write_models)

    def _report_end(self) -> None:
        say, root = self.job.say, self.options.output_root
        say(" Auto-refine: Refinement has converged, stopping now... ")
        say(f" Auto-refine: + Final reconstructions of each body from all particles are saved as {root}_bodyNNN.mrc")
        say(f" Auto-refine: + Final model parameters are stored in: {root}_model.star")
        say(f" Auto-refine: + Final data parameters are stored in: {root}_data.star")
        kind = "already with masking" if self.options.solvent_correct_fsc else "without masking"
        say(f" Auto-refine: + Final resolution ({kind}) is: {self.models[0].current_resolution:g}")


def body_state(bodies: Bodies) -> BodyState:
    """The bodies as a model tells of them, those fixed that never move."""
    return BodyState(
        np.stack([body.axis for body in bodies.bodies]), np.array([body.is_fixed for body in bodies.bodies])
    )


def begin(
    old: outputs.Continuation, options: RefineOptions, bodies: Bodies, particles_bodies: int
) -> tuple[OptimiserState, list[BodyPoses]]:
    """Makes bodies of the models of a consensus refinement, in place; the state before the first iteration, and poses.

    particles_bodies: number of particles. Searches are local from --auto_local_healpix_order on, around the last poses
    and at least as wide as the new sampling asks for; coarser ones are bounded by the bodies' priors alone.
    """
    if all(body.is_fixed for body in bodies.bodies):
        raise UserError(f"{bodies.path}: all bodies have standard deviations of 0, so that none is to be refined.")
    for model in old.models:
        _expand(model, bodies)
    sampling = old.sampling
    sampling.healpix_order, sampling.psi_step = options.healpix_order, -1.0
    sampling.offset_range = options.offset_range * old.models[0].pixel_size
    sampling.offset_step = options.offset_step * old.models[0].pixel_size
    sampling.healpix_order_ori, sampling.psi_step_ori = sampling.healpix_order, sampling.angular_step
    sampling.offset_range_ori, sampling.offset_step_ori = sampling.offset_range, sampling.offset_step
    wide = 2.0 * convergence.angular_step(sampling, options.oversampling)
    for model in old.models:
        if sampling.healpix_order >= options.auto_local_healpix_order:
            before = (model.sigma_rot, model.sigma_tilt, model.sigma_psi)
            convergence.start_local_searches(model, sampling, options)
            least = 0.0 if options.prior_sigmas else wide
            model.sigma_rot, model.sigma_tilt, model.sigma_psi = (max(least, sigma) for sigma in before)
        else:
            model.orientational_prior_mode = NO_PRIOR
            model.sigma_rot = model.sigma_tilt = model.sigma_psi = 0.0
    state = dataclasses.replace(
        old.state,
        iteration=0,
        has_converged=False,
        has_fine_enough_angular_sampling=False,
        nr_iter_wo_resol_gain=0,
        nr_iter_wo_large_hidden_variable_changes=0,
        current_changes_optimal_classes=float(UNKNOWN_CLASS_CHANGES),
        current_changes_optimal_offsets=UNKNOWN,
        current_changes_optimal_orientations=UNKNOWN,
        smallest_changes_optimal_classes=UNKNOWN_CLASS_CHANGES,
        smallest_changes_optimal_offsets=UNKNOWN,
        smallest_changes_optimal_orientations=UNKNOWN,
    )
    return state, [BodyPoses.none(particles_bodies) for _ in bodies.bodies]


def _expand(model: ModelState, bodies: Bodies) -> None:
    """The one class of a model becomes one body after the other, each with the class's map or one of its own."""
    n = len(bodies)
    for name in (
        "accuracy_rot", "accuracy_trans", "estimated_resolution", "total_fourier_coverage", "prior_offset_class",
        "pdf_direction", "tau2_class", "sigma2_class", "data_vs_prior_class", "fourier_coverage_class",
        "fsc_halves_class",
    ):  # fmt: skip
        setattr(model, name, np.repeat(getattr(model, name), n, axis=0))
    if model.orientability_contrib is not None:
        model.orientability_contrib = np.repeat(model.orientability_contrib, n, axis=0)
    model.pdf_class = np.ones(n)
    model.bodies = body_state(bodies)
    consensus = model.references[0]
    model.references = [_own_reference(body.reference, consensus) for body in bodies.bodies]


def _own_reference(name: str, consensus: NDArray[np.float32]) -> NDArray[np.float32]:
    if not name:
        return consensus.copy()
    volume = read_map(name)[0]
    if volume.shape != consensus.shape:
        raise UserError(f"The body reference {name} has {volume.shape[-1]} pixels, but the maps {len(consensus)}.")
    return volume.astype(np.float32)


def write_masks(bodies: Bodies, options: RefineOptions, box: int, pixel_size: float) -> None:
    """The bodies' masks under the run's own names, and a drawing of their centres and axes."""
    write_bodies(
        bodies,
        options.output_root,
        box,
        pixel_size,
        lambda path, mask: outputs.write_reference(path, mask, pixel_size),
    )
