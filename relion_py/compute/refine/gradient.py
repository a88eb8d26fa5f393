"""Classification and initial models by steps along the gradient (VDAM), of images in 2D or of maps in 3D.

Each iteration takes a random subset of the particles in two pseudo-halves, back-projects their residuals, and moves
each reference a step; the other parameters move by --mu. What a step is, is in `vdam`. The last --grad_em_iters
iterations, and a first one by cross-correlation, are expectation maximization as in `classification`.
Source: ml_optimiser.cpp, iterate, maximizationGradientParameters and maximization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image.shift import centre_of_mass, shifted
from relion_py.compute.refine import convergence, helical, source, vdam
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.classification import Classification
from relion_py.compute.refine.expectation import WeightedSums
from relion_py.compute.refine.halves import keep_spectra, reduce_grid
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.reconstruct import update_tau2

SIGNIFICANT_POSES = {2: 5, 3: 100}
"""Poses per particle and class that a gradient step looks at, by the dimension of the references."""
SAMPLING_EVERY = 10
"""Accuracies are measured and the sampling is changed once in so many iterations."""
NO_CONVERGENCE_BEFORE = 10
"""In earlier iterations a resolution that does not improve means nothing."""


def schedule_of(options: RefineOptions, particles: int) -> vdam.Schedule:
    """The schedule that the options ask for."""
    kind = vdam.CLASS_2D
    if options.is_3d:
        kind = vdam.INITIAL_MODEL if options.denovo_3d else vdam.CLASS_3D
    return vdam.Schedule.of(
        kind,
        particles,
        options.classes,
        options.max_iterations,
        initial_share=options.gradient_initial_share,
        final_share=options.gradient_final_share,
        step=options.gradient_step,
        step_scheme=options.gradient_step_scheme,
        tau2_fudge=options.tau2_fudge,
        tau2_fudge_scheme=options.tau2_fudge_scheme,
        first_subset=options.gradient_first_subset,
        last_subset=options.gradient_last_subset,
        em_iterations=options.gradient_em_iterations,
    )


@dataclass
class GradientClassification(Classification):
    """A run with one model of K classes, which keeps the moments of each. Each class's are up to date on its owner."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.schedule = schedule = schedule_of(self.options, len(self.particles))
        # what was decided is written, so that a continuation does the same
        self.options = replace(
            self.options,
            gradient_step=schedule.step,
            gradient_step_scheme=_scheme(schedule.step_factor),
            tau2_fudge=schedule.tau2_fudge,
            tau2_fudge_scheme=_scheme(schedule.fudge_divisor),
            gradient_first_subset=schedule.first_subset,
            gradient_last_subset=schedule.last_subset,
        )
        model = self.models[0]
        if not model.moments:
            model.moments = [
                vdam.new_moments(self.box, model.padding_factor, self.dimensions) for _ in range(model.nr_classes)
            ]

    # ---- what differs from expectation maximization ----

    @property
    def residual(self) -> bool:
        """Whether this iteration takes a step, and so back-projects residuals."""
        return self.schedule.is_gradient(self.state.iteration) and not self.first_by_correlation

    @property
    def maximum_significants(self) -> int:
        """Poses per particle that the coarse pass keeps at most."""
        if self.options.maximum_significants > 0 or not self.residual:
            return self.options.maximum_significants
        return SIGNIFICANT_POSES[self.dimensions] * self.models[0].nr_classes

    def iterate(self) -> None:
        """One iteration: a step, or expectation and maximization."""
        state, iteration = self.state, self.state.iteration
        state.is_gradient, state.subset_size = self.residual, self.schedule.subset(iteration)
        state.gradient_step = self.schedule.step_size(iteration)
        self.models[0].tau2_fudge = self.schedule.tau2_fudge_at(iteration)
        if iteration < NO_CONVERGENCE_BEFORE:
            state.nr_iter_wo_resol_gain = state.nr_iter_wo_large_hidden_variable_changes = 0
        super().iterate()

    def _adjust_sampling(self, references: list[FourierReference]) -> None:
        iteration = self.state.iteration
        if not self.residual or iteration % SAMPLING_EVERY == 0 or iteration in (1, self.schedule.iterations):
            super()._adjust_sampling(references)

    def _members(self) -> NDArray[np.int64]:
        """The particles of this iteration: a random subset, or all."""
        every, size = self.particles.members(), self.state.subset_size
        if size < 0 or not self.residual:
            return every
        random = np.random.default_rng([self.state.random_seed, self.state.iteration, 5])
        return np.sort(random.permutation(every)[:size])

    # ---- expectation ----

    @property
    def _shared_as(self) -> tuple[int | None, int | None]:
        """How ranks share the two pseudo-halves: apart, as fewer batches then need projections, where they can."""
        return (None, None) if source.reads_for_all(self.options, self.job.comm) else (0, 1)

    def _expectation(
        self, references: list[FourierReference], sizes: convergence.ImageSizes
    ) -> tuple[list[BackProjector], WeightedSums]:
        """Back-projected residuals, of the K classes in the first pseudo-half and then of those in the second."""
        if not self.residual:
            return super()._expectation(references, sizes)
        options, comm, state = self.options, self.job.comm, self.state
        members, old = self._members(), self.poses()
        self.job.say(
            f" Gradient optimisation iteration {state.iteration} of {options.max_iterations} with {len(members)} "
            f"particles (step size {state.gradient_step:.2f})"
        )
        halves = list(zip(vdam.pseudo_halves(members), self._shared_as, strict=True))
        model, seeds = self.models[0], self._seeds()
        with self.working(sum(len(source.share(part, comm, half=half)) for part, half in halves)) as (backend, advance):
            first, second = (
                self.find(backend, model, references, sizes, part, advance, seeds, half) for part, half in halves
            )
        for mine in (first, second):
            self.tell_all(model, mine)
        sums, weighted = first.grids + second.grids, first.weighted
        weighted.unpack(weighted.pack() + second.weighted.pack())
        weighted.failed += second.weighted.failed
        for number, each in enumerate(sums):
            via_disc = f"{options.output_root}_sum{number + 1:03d}" if options.combine_weights_via_disc else ""
            reduce_grid(each.grid, self._owner(number % self.models[0].nr_classes), comm, via_disc)
        self.clock.lap("sums over ranks")
        self.report_failed([weighted])
        self.measure_changes(old, members)
        return sums, weighted

    # ---- maximization ----

    def _maximization(self, sums: list[BackProjector], weighted: WeightedSums) -> None:
        if not self.residual:
            super()._maximization(sums, weighted)
            return
        self.job.say(" Maximization...")
        model = self.models[0]
        halves = list(zip(sums[: model.nr_classes], sums[model.nr_classes :], strict=True))
        gradients = self._gradients(halves)
        replaced = self._replace_idle_class([g.strength if g else 0.0 for g in gradients])
        ctf2 = self._average_ctf2(weighted)
        self._step({k: g for k, g in enumerate(gradients) if g is not None and k != replaced}, halves, ctf2)
        self.make_helical([(model, k, self._owner(k)) for k, g in enumerate(gradients) if g is not None])
        before = vdam.Parameters.of(model)
        self._update_parameters(weighted)
        self.update_helical_priors(model)
        if self.state.subset_size > 0:
            before.keep_in(model, self.options.gradient_momentum)
            model.sigma_offset = max(model.sigma_offset, self.options.min_sigma2_offset**0.5)
        self._finish_iteration()

    def _gradients(self, halves: Sequence[tuple[BackProjector, BackProjector]]) -> list[vdam.Gradient | None]:
        """Direction for each class, on its owner alone the whole of it; None where no particle was."""
        mine: dict[int, vdam.Gradient] = {}
        for k, pair in enumerate(halves):
            if self._owns(k) and self.models[0].pdf_class[k] > 0 and pair[0].weight.any():
                for each in pair:
                    units = helical.units_of(self.models[0], k, self.options)
                    each.symmetrise(workers=self.options.threads, helix=units)
                mine[k] = vdam.update_moments(pair, self.models[0].moments[k])
        without = {k: replace(gradient, direction=gradient.direction[:0]) for k, gradient in mine.items()}
        told = [self.job.comm.bcast(without.get(k), self._owner(k)) for k in range(len(halves))]
        return [mine.get(k, each) for k, each in enumerate(told)]

    def _replace_idle_class(self, strengths: list[float]) -> int | None:
        """Puts a copy of the class with the largest error in the place of an idle one; returns which was replaced."""
        model, comm = self.models[0], self.job.comm
        if not self.schedule.may_replace_classes(self.state.iteration):
            return None
        found = vdam.idle_class(model.pdf_class, np.array(strengths), self.options.class_inactivity_threshold)
        if found is None:
            return None
        drop, grow = found
        if self._owner(drop) != self._owner(grow):
            model.moments[grow] = comm.bcast(model.moments[grow], self._owner(grow))
        vdam.replace_class(model, drop, grow)
        self.job.say(f" Class {drop + 1} has hardly any particles and goes on as a copy of class {grow + 1}")
        return drop

    def _step(
        self,
        gradients: Mapping[int, vdam.Gradient],
        halves: Sequence[tuple[BackProjector, BackProjector]],
        ctf2: NDArray[np.float64] | None,
    ) -> None:
        """Moves the references; the sums of the first pseudo-half tell how well their shells are known."""
        model, made = self.models[0], {}
        for k, gradient in gradients.items():
            if self._owns(k):
                sums, fudge = halves[k][0], model.tau2_fudge
                spectra = update_tau2(sums, model.tau2_class[k], tau2_fudge=fudge, average_ctf2=ctf2)
                step = vdam.step_of_class(self.state.gradient_step, model.nr_classes, float(model.pdf_class[k]))
                volume = vdam.take_step(model.references[k], gradient, sums, step, fudge, self.options.threads)
                made[k] = spectra, volume
        for k in gradients:
            spectra, model.references[k] = self.job.comm.bcast(made.pop(k, None), self._owner(k))
            keep_spectra(model, k, spectra, model.fsc_halves_class[k])

    def _center_classes(self) -> None:
        """Moves classes to their centres of mass with their moments, unless they are nearly there."""
        if not self.residual:
            super()._center_classes()
            return
        if not self.schedule.may_center_classes(self.state.iteration):
            return
        model, reach = self.models[0], self.sampling.offset_range / self.pixel_size
        nearly = max(0.01 * self.diameter / self.pixel_size, 2.0)
        for k, average in enumerate(model.references):
            shift = centre_of_mass(average)
            length = float(np.linalg.norm(shift))
            if length > reach:
                shift, length = shift * reach / length, reach
            if length < nearly:
                continue
            model.references[k] = shifted(average, -shift).astype(np.float32)
            model.moments[k].shift(-shift)

    # ---- files ----

    def write(self) -> None:
        """The iteration's files, every --grad_write_iter iterations and at the end."""
        iteration, model = self.state.iteration, self.models[0]
        on_the_way = self.residual and self.state.subset_size > 0 and iteration != self.schedule.iterations
        if on_the_way and iteration % self.options.gradient_write_every != 0:
            return
        if self.job.comm.size > 1 and self.dimensions == 2:  # in one stack
            model.moments = [self.job.comm.bcast(m, self._owner(k)) for k, m in enumerate(model.moments)]
        super().write()


def _scheme(factor: float) -> str:
    return "plain" if factor == 1.0 else f"{factor:g}-step"
