"""Classification into K classes, of images in 2D or of maps in 3D, by expectation maximization.

All particles are compared with all classes in each of a fixed number of iterations. Source: ml_optimiser.cpp,
iterate, maximization, centerClasses and updateAngularSampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image.shift import centre_of_mass, shifted
from relion_py.compute.refine import convergence, helical, outputs, source
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.clock import Stopwatch
from relion_py.compute.refine.engine import Engine
from relion_py.compute.refine.expectation import WeightedSums
from relion_py.compute.refine.halves import FIRST_PRIOR_SHELL, keep_spectra, reduce_grid
from relion_py.compute.refine.maximization import average_ctf2, update_model
from relion_py.compute.refine.model import healpix_angular_step
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.reconstruct import ShellSpectra, reconstruct, update_tau2

SUBSET_PARTICLES = {2: 100, 3: 1500}
"""Particles per class in the first iterations with --fast_subsets, by the dimension of the references."""
COARSER_FACTOR = 0.8
"""Coarser sampling stays this much finer than the estimated accuracy."""


@dataclass
class Classification(Engine):
    """A run with one model of K classes."""

    def run(self) -> None:
        """Goes through the iterations that were asked for."""
        self.go_on_until(self.options.max_iterations)

    def go_on_until(self, iteration: int) -> None:
        """Goes through the iterations up to this one."""
        model = self.models[0]
        self._update_resolution()
        while self.state.iteration < iteration:
            self.state.iteration += 1
            self.clock = Stopwatch()
            self.iterate()
            if self.options.skip_maximize:
                return
            self.job.say(
                f" Iteration {self.state.iteration}: resolution {model.current_resolution:g} A, classes with particles "
                f"{int(np.sum(model.pdf_class > 0))}, changes in angles "
                f"{self.state.current_changes_optimal_orientations:g} degrees, in offsets "
                f"{self.state.current_changes_optimal_offsets:g} A, in classes "
                f"{100 * self.state.current_changes_optimal_classes:.1f} %"
            )
            self.job.say(f" Time per step (s): {self.clock}")

    def iterate(self) -> None:
        """One iteration: expectation over all classes, maximization, files."""
        model, state = self.models[0], self.state
        model.current_size = self.image_sizes.current
        self.perturb()
        references = self.fourier_references(model)
        self.clock.lap("references")
        self._adjust_sampling(references)
        sizes = self.image_sizes
        state.coarse_size = sizes.coarse
        sums, weighted = self._expectation(references, sizes)
        del references  # as large as the sums, and not needed for new ones
        if self.options.skip_maximize:
            self.write_particles(outputs.OutputNames(self.options.output_root, state.iteration))
            return
        self._maximization(sums, weighted)

    @property
    def image_sizes(self) -> convergence.ImageSizes:
        """Those of an iteration with the present resolution and sampling."""
        return convergence.image_sizes(self.models[0], self.sampling, self.state, self.options, False)

    def _update_resolution(self) -> None:
        convergence.update_resolution(self.models[0], self.state, self.options)

    # ---- sampling ----

    def _adjust_sampling(self, references: list[FourierReference]) -> None:
        """Measures how accurate angles and offsets are, and samples as finely as that is worth."""
        if not self.by_correlation and not self.options.keeps_orientations:
            self.estimate_accuracy(self.models[0], references, self.job.comm)
        if self.options.auto_sampling:
            if self.state.iteration > 1:
                self._finer_sampling()
        elif self.options.allow_coarser_sampling and self.models[0].nr_classes > 1:
            self._coarser_sampling()

    def _finer_sampling(self) -> None:
        """With --auto_sampling: finer angles and offsets once the resolution does not improve any more."""
        model, options = self.models[0], self.options
        steps = self.options.gradient
        if convergence.update_angular_sampling(
            model, self.sampling, self.state, options, ignore_changes=steps, stay_global=steps
        ):
            self._new_directions()
        step = convergence.angular_step(self.sampling, options.oversampling)
        self.job.say(
            f" Angular step {step:g} degrees, offsets within {self.sampling.offset_range:g} A in steps of "
            f"{convergence.offset_step(self.sampling, options.oversampling):g} A"
        )

    def _new_directions(self) -> None:
        """After a change of the sampling: all its directions are equally likely again."""
        self.grid = self._new_grid()
        model, n = self.models[0], self.grid.n_directions
        model.pdf_direction = np.repeat(model.pdf_class[:, None] / n, n, axis=1)

    def _coarser_sampling(self) -> None:
        """No finer angles than the accuracy allows, and never finer than what was asked for."""
        s, over, model = self.sampling, self.options.oversampling, self.models[0]
        if s.is_3d:
            needed = COARSER_FACTOR * self.state.accuracy_rot
            if self.by_correlation:
                needed = 360.0 / math.ceil(math.pi * self.diameter / model.current_resolution)
            order = s.healpix_order_ori
            while order > 0 and healpix_angular_step(order + over) < needed:
                order -= 1
            # one finer again, so that the step is below what is needed
            order = min(order + 1, s.healpix_order_ori) if order < s.healpix_order_ori else order
            changed = order != s.healpix_order
            s.healpix_order, s.psi_step = order, healpix_angular_step(order)
        else:
            step = max(COARSER_FACTOR * self.state.accuracy_rot * 2.0**over, s.psi_step_ori)
            changed = abs(step - s.psi_step) > 0.001
            s.psi_step = min(step, 90.0)
        # coarser offsets too, but at least five of them
        step = min(COARSER_FACTOR * self.state.accuracy_trans * 2.0**over, 0.95 * s.offset_range)
        s.offset_step = max(step, s.offset_step_ori)
        if self.options.helical_symmetry:
            helical.set_offsets(s, self.options)
        if changed:
            self._new_directions()

    def _members(self) -> NDArray[np.int64]:
        """The particles of this iteration: all, or a random subset early on with --fast_subsets."""
        every = self.particles.members()
        iteration = self.state.iteration
        if not self.options.fast_subsets or iteration > 15:
            return every
        base = SUBSET_PARTICLES[self.dimensions] * self.models[0].nr_classes
        size = base if iteration <= 5 else 3 * base
        if iteration > 10:
            size = max(size, int(0.3 * len(every)))
        if size >= len(every):
            return every
        random = np.random.default_rng([self.state.random_seed, iteration, 5])
        return np.sort(random.permutation(every)[:size])

    def _seeds(self) -> NDArray[np.int32] | None:
        """The one class that each particle may have while all classes are copies of one reference, or None.

        By cross-correlation the first class alone is made; then each particle gets a random class once, also where a
        run is continued after that first iteration (in the reference its classes stay alike for ever).
        """
        references = self.models[0].references
        if self.options.gradient and self.state.iteration > 1 + int(self.options.firstiter_cc):
            return None  # a class that was given up may be a copy for a while
        if len(references) == 1 or not all(np.array_equal(each, references[0]) for each in references[1:]):
            return None
        n = len(self.particles)
        if self.first_by_correlation:
            return np.zeros(n, np.int32)
        random = np.random.default_rng([self.state.random_seed, 6])
        return random.integers(0, len(references), n).astype(np.int32)

    # ---- expectation ----

    def _expectation(
        self, references: list[FourierReference], sizes: convergence.ImageSizes
    ) -> tuple[list[BackProjector], WeightedSums]:
        options, comm = self.options, self.job.comm
        self.job.say(f" Expectation iteration {self.state.iteration} of {options.max_iterations}")
        members, old = self._members(), self.poses()
        with self.working(len(source.share(members, comm))) as (backend, advance):
            mine = self.find(backend, self.models[0], references, sizes, members, advance, self._seeds())
            self.tell_all(self.models[0], mine)
        for k, each in enumerate(mine.grids):
            via_disc = f"{options.output_root}_class{k + 1:03d}" if options.combine_weights_via_disc else ""
            reduce_grid(each.grid, self._owner(k), comm, via_disc)
        self.clock.lap("sums over ranks")
        self.report_failed([mine.weighted])
        self.measure_changes(old, members)
        return mine.grids, mine.weighted

    # ---- maximization ----

    def _maximization(self, sums: list[BackProjector], weighted: WeightedSums) -> None:
        model = self.models[0]
        self.job.say(" Maximization...")
        alive = weighted.pdf_direction.sum(axis=1) > 0
        ctf2 = self._average_ctf2(weighted)
        made = {k: self._reconstruct(k, each, ctf2) for k, each in enumerate(sums) if alive[k] and self._owns(k)}
        for k in range(model.nr_classes):
            if not alive[k]:
                model.references[k] = np.zeros_like(model.references[k])
                continue
            spectra, model.references[k], fsc = self.job.comm.bcast(made.pop(k, None), self._owner(k))
            keep_spectra(model, k, spectra, fsc)
        if self.first_by_correlation and self.options.ini_high > 0:
            self.filter_references(model)
        self.make_helical([(model, int(k), self._owner(int(k))) for k in np.flatnonzero(alive)])
        self._update_parameters(weighted)
        self.update_helical_priors(model)
        if self.first_by_correlation and self.options.grows_classes:
            self._first_for_every_class()
        self._finish_iteration()

    def _average_ctf2(self, weighted: WeightedSums) -> NDArray[np.float64] | None:
        """What the prior is divided by in shells where images are multiplied with their CTF, or None."""
        premultiplied = np.array(self.preparation.premultiplied)
        return None if self.fixed_tau2 else average_ctf2(weighted, self.shell_pixels, premultiplied)

    def _reconstruct(
        self, k: int, sums: BackProjector, ctf2: NDArray[np.float64] | None
    ) -> tuple[ShellSpectra, NDArray[np.float32], NDArray[np.float64]]:
        """Spectra, map and FSC of class k from its sums over all ranks."""
        options, model = self.options, self.models[0]
        sums.symmetrise(workers=options.threads, helix=helical.units_of(model, k, options))
        spectra = update_tau2(sums, model.tau2_class[k], tau2_fudge=model.tau2_fudge, average_ctf2=ctf2)
        fsc = model.fsc_halves_class[k]
        if self.external is not None:
            stem = self.external_stem(f"_class{k + 1:03d}")
            return self.external.reconstruct(sums, spectra, fsc, model.tau2_fudge, stem, False)
        volume = reconstruct(
            sums, spectra.tau2, model.tau2_fudge, first_prior_shell=FIRST_PRIOR_SHELL, workers=options.threads
        )
        return spectra, volume, fsc

    def _update_parameters(self, weighted: WeightedSums) -> None:
        """Noise, priors, scales and norms."""
        options = self.options
        update_model(
            self.models[0],
            weighted,
            min_sigma2_offset=options.min_sigma2_offset,
            fix_sigma_offset=options.fix_sigma_offset,
            fix_sigma_noise=options.fix_sigma_noise,
            do_norm=options.do_norm_correction,
            do_scale=self.preparation.do_scale,
            by_correlation=self.by_correlation,
            offset_dimensions=1 if options.helical_symmetry else 2,
            shell_pixels=self.shell_pixels,
        )

    def _finish_iteration(self) -> None:
        """Makes the references locally symmetric, centres and masks them, and writes the files."""
        self.impose_local_symmetry()
        if self.options.center_classes:
            self._center_classes()
        if self.dimensions == 2 and not self.options.gradient:
            self.on_first_rank(lambda: outputs.write_unmasked_averages(self.options.output_root, self.models[0]))
        if self.options.flatten_solvent:
            self.flatten()
        self._update_resolution()
        self.clock.lap("maximization")
        self.write()
        self.clock.lap("writing")

    def _first_for_every_class(self) -> None:
        """The first class becomes every class: they grow from one."""
        model = self.models[0]
        model.references = [model.references[0].copy() for _ in range(model.nr_classes)]
        for spectra in (model.tau2_class, model.data_vs_prior_class, model.sigma2_class):
            spectra[:] = spectra[0]
        model.pdf_class[:] = 1.0 / model.nr_classes
        model.pdf_direction[:] = model.pdf_direction[0] / model.nr_classes

    def _center_classes(self) -> None:
        """Moves each class to its centre of mass, at most as far as offsets are searched."""
        model, reach = self.models[0], self.sampling.offset_range / self.pixel_size
        for k, average in enumerate(model.references):
            shift = centre_of_mass(average)
            length = float(np.linalg.norm(shift))
            if length > reach:
                shift = shift * reach / length
            if length > 0:
                model.references[k] = shifted(average, -shift).astype(np.float32)

    def write(self) -> None:
        """The iteration's files: each class's by its owner."""
        names = outputs.names_of_iteration(self.options, self.state, 1)
        self.write_files(
            names,
            lambda: outputs.write_model_of_iteration(
                names, self.options, self.state, self.sampling, self.models, 0, self._owns
            ),
        )
