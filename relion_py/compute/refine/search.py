"""The expectation step of a run over ranks, devices and threads: what its particles look like in its references.

Every rank works on its share of the particles, in batches that a device or the threads go through together.
Source: ml_optimiser.cpp and ml_optimiser_mpi.cpp, expectation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.base import Backend
from relion_py.compute.backend.cuda import CudaBackend
from relion_py.compute.backend.work import Array
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import angular_distance, euler_to_matrix, matrix_to_euler
from relion_py.compute.geometry.healpix import Sampling, next_perturbation
from relion_py.compute.geometry.symmetry import order
from relion_py.compute.parallel.comm import Communicator
from relion_py.compute.refine import convergence, helical, source
from relion_py.compute.refine.accuracy import expected_errors, random_axes
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.body_search import BodySearch
from relion_py.compute.refine.clock import Stopwatch
from relion_py.compute.refine.expectation import Assignments, Expectation, ExpectationSettings, WeightedSums
from relion_py.compute.refine.images import DiscPixels
from relion_py.compute.refine.model import NO_PRIOR, UNKNOWN, ModelState
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.projector import FourierReference, padded_box, radii, transform_shape, transforms
from relion_py.compute.refine.run import Run
from relion_py.compute.refine.sampling import LocalSearch, SamplingTables

ACCURACY_TRIALS = {3: 100, 2: 10}
"""Particles on which the accuracy of angles and offsets is estimated, by the dimension of the references."""
FAILED_SHARE = 0.05
"""A run stops when more than this share of the particles cannot be scored."""
EMPTY_CLASS = 0.01
"""Accuracies are not estimated for classes with a smaller share of the particles."""


@dataclass
class Batch:
    """Particles `index` (N,) that are treated together, their images (N, box, box), and how they are compared.

    geometry: that of all the images; distortion (2, 2): see `estep_numba.block_rotations`. images may be the device's.
    means (N,): those of the images. reconstructed: others of which the maps are made, if so; means are those of these.
    Both are let go, None, once they are transformed.
    """

    index: NDArray[np.int64]
    images: Array
    coarse: DiscPixels
    fine: DiscPixels
    geometry: ImageGeometry
    distortion: NDArray[np.float32]
    means: NDArray[np.float64]
    reconstructed: NDArray[np.float32] | None = None


@dataclass
class Findings:
    """What a rank has found in an expectation step: back-projections of each class, other sums, poses of each batch."""

    grids: list[BackProjector]
    weighted: WeightedSums
    found: list[tuple[NDArray[np.int64], Assignments]]


class Search(Run):
    """A run whose particles are compared with its references."""

    # ---- before the expectation ----

    def perturb(self) -> None:
        """Moves the sampling grid at random."""
        random = np.random.default_rng([self.state.random_seed, self.state.iteration])
        self.sampling.random_perturbation = next_perturbation(
            self.sampling.random_perturbation, self.sampling.perturbation_factor, random
        )

    def fourier_references(self, model: ModelState) -> list[FourierReference]:
        """The model's references ready for projection; their power becomes the prior tau2 unless that is given.

        Of several classes each is made by its owner, for all ranks: to send one takes less time than to make it.
        """
        lowest, classes, padding = self.options.strict_lowres_exp, model.nr_classes, self.options.padding_factor
        r_max, radius = radii(self.box, model.current_size, padding)
        # parts of one array, as the expectation takes them
        whole = np.zeros((classes, *transform_shape(radius, self.dimensions)), np.complex64)
        spectra = np.zeros((classes, model.nr_shells))
        for k, volume in enumerate(model.references):
            if classes == 1 or self._owns(k):
                spectra[k] = FourierReference.from_map(
                    volume,
                    model.current_size,
                    padding,
                    min_shell=model.shell_of(lowest) if lowest > 0 else -1,
                    workers=self.options.threads,
                    out=whole[k],
                ).spectrum
        if classes > 1:
            for k, (data, spectrum) in enumerate(zip(whole, spectra, strict=True)):
                self.job.comm.bcast_array(data, self._owner(k))
                self.job.comm.bcast_array(spectrum, self._owner(k))
        if not self.fixed_tau2:
            model.tau2_class[:] = spectra
        pad = padded_box(self.box, padding) / self.box
        return [FourierReference(d, self.box, r_max, pad, s) for d, s in zip(whole, spectra, strict=True)]

    def estimate_accuracy(
        self, model: ModelState, references: Sequence[FourierReference], group: Communicator | None
    ) -> None:
        """Accuracy of angles and offsets of each class that is not empty; the best class's for the state.

        group: the ranks that have the references, or None on the others.
        """
        state, p = self.state, self.particles
        shuffled = np.random.default_rng([state.random_seed, state.iteration, 1]).permutation(len(p))
        trial = shuffled[: ACCURACY_TRIALS[self.dimensions]]
        strict = self.options.strict_highres_exp > 0
        sizes = convergence.image_sizes(model, self.sampling, state, self.options, False)
        size = sizes.coarse if strict else model.current_size
        inverse, comm = self._inverse_noise(model), self.job.comm
        sums = np.zeros((model.nr_classes, 2 + model.nr_shells))
        known = (model.pdf_class >= EMPTY_CLASS) | (model.nr_classes == 1)
        if group is not None:
            for k, reference in enumerate(references):
                if known[k]:
                    sums[k] = self._expected_errors(reference, trial, size, inverse, group)
        comm.allreduce_sum(sums)
        errors = np.where(known[:, None], sums[:, :2] / len(trial), UNKNOWN)
        model.accuracy_rot, model.accuracy_trans = errors.T.copy()
        model.orientability_contrib = sums[:, 2:] / np.maximum(sums[:, 2:].sum(axis=1, keepdims=True), 1e-300)
        state.accuracy_rot, state.accuracy_trans = model.accuracy_rot.min(), model.accuracy_trans.min()
        self.job.say(
            f" Auto-refine: Estimated accuracy angles= {state.accuracy_rot:g} degrees; "
            f"offsets= {state.accuracy_trans:g} Angstroms"
        )
        self.clock.lap("accuracy")

    def _expected_errors(
        self,
        reference: FourierReference,
        trial: NDArray[np.int64],
        size: int,
        inverse: NDArray[np.float32],
        comm: Communicator,
    ) -> NDArray[np.float64]:
        """Sums over this rank's share of these particles of errors of angles and offsets, and of what each shell tells.

        size: of the reference, pixels; comm: the ranks that share them.
        """
        p, random = self.particles, np.random.default_rng([self.state.random_seed, 2])
        sums = np.zeros(2 + inverse.shape[1])
        for part in self._alike(trial):
            # the same for any number of ranks
            axes, along_x = random_axes(len(part), random, in_plane_only=self.dimensions == 2)
            mine = source.share(np.arange(len(part)), comm)
            if not len(mine):
                continue
            axes, along_x, part = axes[mine], along_x[mine], part[mine]
            group = p.optics_group[part[0]]
            geometry = self.geometries[group]
            pixels = DiscPixels.of_images(geometry.current_size(size), geometry)
            angle, offset, shells = expected_errors(
                reference,
                euler_to_matrix(p.rot[part], p.tilt[part], p.psi[part]),
                self.preparation.ctf(part, pixels),
                inverse[p.optics_group[part]],
                pixels,
                geometry.pixel_size,
                axes,
                along_x,
                distortion=self.aberrations[group].distortion / geometry.ratio,
                box=geometry.box,
            )
            sums += np.concatenate([[angle, offset], shells])
        return sums

    # ---- expectation ----

    def find(
        self,
        backend: Backend,
        model: ModelState,
        references: Sequence[FourierReference],
        sizes: convergence.ImageSizes,
        members: NDArray[np.int64],
        advance: Callable[[int], None],
        only_class: NDArray[np.int32] | None = None,
        half: int | None = None,
    ) -> Findings:
        """Scores and sums this rank's share of `members` against the model's references; `tell_all` makes it known.

        advance(n) is told of n particles done; only_class (all particles): the one class each is compared with, or -1
        for all classes.
        half: these are all of half 0 or 1, and ranks work on the halves apart. A rank whose share is empty by that
        needs no references; ranks wait for each other only where the first one reads for all.
        """
        options = self.options
        grid = self.grid.perturbed(self.sampling.random_perturbation)
        tables = SamplingTables.of(grid, self.sampling, options.oversampling)
        sums, weighted = self._empty_grids(model, sizes.current)
        every = [weighted, *(weighted.like() for _ in backend.members[1:])]
        steps = []
        for each, mine in zip(backend.members, every, strict=True):
            each.use()
            # several devices work at a time: the clock follows the first
            clock = self.clock if each is backend else None
            steps.append(self._expectation_step(each, model, references, tables, grid, members, mine, clock))
        batches = self._batches(steps, sizes, members, half)
        found = self._work_off(
            batches, steps, lambda step, batch: self._run_batch(step, model, batch, only_class), advance
        )
        for step in reversed(steps):  # the first, whose device stays in use, is the last
            step.backend.use()
            step.finish()
        for other in every[1:]:
            weighted.unpack(weighted.pack() + other.pack())
            weighted.failed += other.failed
        weighted.grids = np.zeros((0, 0, 0, 0, 3), np.float32)  # these are in the sums, and need not be kept as long
        return Findings(sums, weighted, found)

    def tell_all(self, model: ModelState, mine: Findings) -> None:
        """What each rank has found: new poses into the particles and sums over ranks, but not those of grids."""
        comm, weighted = self.job.comm, mine.weighted
        self._gather(model, mine.found)
        weighted.unpack(comm.allreduce_sum(weighted.pack()))
        weighted.failed = sorted(i for part in comm.allgather(weighted.failed) for i in part)

    def _work_off(
        self,
        batches: Generator[Batch, None, None],
        steps: list[Expectation],
        run: Callable[[Expectation, Batch], Assignments],
        advance: Callable[[int], None],
    ) -> list[tuple[NDArray[np.int64], Assignments]]:
        """What run(step, batch) finds for each batch; every step, each with a device of its own, takes the next one."""
        found: list[tuple[NDArray[np.int64], Assignments]] = []
        lock = threading.Lock()
        if self.devices:
            first = steps[0].backend
            # not with several devices, as any may take a batch; tubes are masked on the host
            if isinstance(first, CudaBackend) and len(steps) == 1 and not self.options.masks_tubes:
                batches = source.ahead(self._staged(batches, first))
            else:
                batches = source.ahead(batches)

        def go_through(step: Expectation) -> None:
            try:
                while True:
                    batch = None  # lest its images stay while the next ones are read
                    with lock:
                        batch = next(batches, None)
                    if batch is None:
                        return
                    self.job.check_abort()
                    step.clock.lap("reading")
                    new = run(step, batch)
                    with lock:
                        found.append((batch.index, new))
                        advance(len(batch.index))
            except BaseException as error:
                with lock:
                    batches.close()
                if step.backend.out_of_memory(error):
                    raise UserError(
                        "The memory of the GPU is too small for one particle at this image size: use --pad 1, fewer "
                        "classes, fewer ranks on this GPU or one with more memory, or leave --gpu out."
                    ) from None
                raise

        steps[0].backend.side_by_side(go_through, steps)
        return found

    def _staged(self, batches: Iterator[Batch], backend: CudaBackend) -> Iterator[Batch]:
        """The batches, their images on the device: the way there takes as long as some of the work on them."""
        for batch in batches:
            backend.use()  # of the thread that reads ahead
            yield replace(batch, images=backend.staged(batch.images))

    def _batches(
        self, steps: list[Expectation], sizes: convergence.ImageSizes, members: NDArray[np.int64], half: int | None
    ) -> Generator[Batch, None, None]:
        """This rank's share of `members`, as they are read."""
        parts = self._alike(members)
        looks, least = [], []
        for part in parts:
            group = self.particles.optics_group[part[0]]
            geometry = self.geometries[group]
            # means count in correlations
            coarse, fine = (
                DiscPixels.of_images(size, geometry, self.by_correlation)
                for size in (geometry.coarse_size(sizes.coarse), geometry.current_size(sizes.current))
            )
            looks.append((coarse, fine, geometry, self.aberrations[group].distortion))
            least.append(min(step.batch_size(coarse.size, fine.size, geometry.box) for step in steps))
        if source.reads_for_all(self.options, self.job.comm):
            # all ranks must go on in the same batches; their devices may have different memories
            least = np.min(self.job.comm.allgather(least), axis=0).tolist()
        smallest = self.options.pool * self.options.threads
        return self._read(
            [(part, max(size, smallest), *look) for part, size, look in zip(parts, least, looks, strict=True)], half
        )

    def _read(
        self,
        parts: Sequence[tuple[NDArray[np.int64], int, DiscPixels, DiscPixels, ImageGeometry, NDArray]],
        half: int | None,
    ) -> Generator[Batch, None, None]:
        """Batches of parts: particles, how many at most, and how all of them are compared."""
        others = self.particles.images_to_reconstruct if self.state.has_converged else None
        for part, size, coarse, fine, geometry, distortion in parts:
            for index, images in source.batches(self.particles, part, size, self.options, self.job.comm, half):
                other = None if others is None else others.read_images(index)
                means = (images if other is None else other).mean(axis=(1, 2), dtype=np.float64)
                batch = Batch(index, images, coarse, fine, geometry, distortion, means, other)
                del images, other  # lest they stay for longer than those of the batch
                yield batch

    def _run_batch(
        self, step: Expectation, model: ModelState, batch: Batch, only_class: NDArray[np.int32] | None
    ) -> Assignments:
        p, index = self.particles, batch.index
        step.look_at(batch.geometry, batch.distortion)
        prepared = self.preparation.prepare(
            step.backend, model, index, batch.images, batch.means, batch.coarse, batch.fine, batch.reconstructed
        )
        batch.images = batch.reconstructed = None
        step.clock.lap("images")
        if self.options.keeps_orientations:
            own = euler_to_matrix(p.rot[index], p.tilt[index], p.psi[index])
            step.keep_poses(own, and_offsets=self.options.skip_align)
        return step.run(prepared, None if only_class is None else only_class[index])

    def _alike(self, members: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The particles in parts of one geometry, magnification and use of the CTF: a batch shares projections."""
        looks = [
            (geometry.box, geometry.pixel_size, a.distortion.tobytes(), group.ctf_premultiplied)
            for geometry, a, group in zip(
                self.geometries, self.aberrations, self.particles.table.optics_groups, strict=True
            )
        ]
        kind = np.array([looks.index(look) for look in looks])[self.particles.optics_group[members]]
        return [members[kind == k] for k in np.unique(kind)]

    def empty_sums(self, model: ModelState) -> WeightedSums:
        """Zero sums without grids."""
        return WeightedSums.zeros(
            (0, 0, 0), model.nr_classes, model.nr_directions, model.nr_shells, model.nr_optics_groups, model.nr_groups
        )

    def _empty_grids(self, model: ModelState, size: int) -> tuple[list[BackProjector], WeightedSums]:
        """Back-projectors of all classes, whose grids are one array, and zero sums around it."""
        weighted = self.empty_sums(model)
        first = BackProjector(self.box, size, self.options.padding_factor, self.operators, ndim=self.dimensions)
        if model.nr_classes == 1:
            weighted.grids = first.grid[None]
            return [first], weighted
        weighted.grids = np.zeros((model.nr_classes, *first.grid.shape), np.float32)
        sums = [first, *(first.copy() for _ in range(model.nr_classes - 1))]
        for each, grid in zip(sums, weighted.grids, strict=True):
            each.grid = grid
        return sums, weighted

    def _expectation_step(
        self,
        backend: Backend,
        model: ModelState,
        references: Sequence[FourierReference],
        tables: SamplingTables,
        grid: Sampling,
        members: NDArray[np.int64],
        weighted: WeightedSums,
        clock: Stopwatch | None = None,
    ) -> Expectation:
        settings = ExpectationSettings(
            adaptive_fraction=self.options.adaptive_fraction,
            maximum_significants=self.maximum_significants,
            correlate=self.by_correlation,
            limited=self.options.strict_highres_exp > 0,
            residual=self.residual,
            sigma2_offset=model.sigma_offset**2,
            free_along=self.options.helical_symmetry,
            pixel_size=self.pixel_size,
            box=self.box,
        )
        with np.errstate(divide="ignore"):
            log_pdf = np.log(model.pdf_direction / model.pdf_direction.mean()).astype(np.float32)
        return Expectation(
            backend,
            settings,
            transforms(references),
            references[0].pad,
            references[0].r_max_padded,
            tables,
            log_pdf,
            self._inverse_noise(model),
            weighted,
            self._local_search(model, tables, grid, members),
            clock,
            model.prior_offset_class,
        )

    def _local_search(
        self, model: ModelState, tables: SamplingTables, grid: Sampling, members: NDArray[np.int64]
    ) -> LocalSearch | BodySearch | None:
        """Where `members` are searched; None: everywhere."""
        if model.orientational_prior_mode == NO_PRIOR or self.options.keeps_orientations:
            return None
        p = self.particles
        if self.options.masks_tubes:
            return helical.search_around_priors(grid, p, members, model, self.sampling, self.options)
        return LocalSearch.around(
            grid,
            members,
            len(p),
            (p.rot[members], p.tilt[members], p.psi[members]),
            (model.sigma_rot, model.sigma_tilt, model.sigma_psi),
            fold=order(self.sampling.relax_symmetry or "C1"),
        )

    def _inverse_noise(self, model: ModelState) -> NDArray[np.float32]:
        """1 / sigma2_noise (O, S) of one pixel, 0 where no noise is known.

        Images with zeros outside their mask are noise inside it alone, and finer Fourier pixels in a wider box tell
        nothing more: each pixel counts as much less as they are more than in the reference's box.
        """
        inverse = np.divide(
            1.0, model.sigma2_noise, out=np.zeros(model.sigma2_noise.shape), where=model.sigma2_noise > 0
        )
        if self.options.zero_mask:
            inverse /= np.array([[geometry.ratio**2] for geometry in self.geometries])
        return inverse.astype(np.float32)

    def _matrices(self) -> NDArray[np.float64]:
        p = self.particles
        return euler_to_matrix(p.rot, p.tilt, p.psi)

    def _gather(self, model: ModelState, found: list[tuple[NDArray, Assignments]]) -> None:
        """New poses and statistics of all ranks' particles, on every rank. Failed ones keep what they had."""
        p = self.particles
        for index, new in (item for part in self.job.comm.allgather(found) for item in part):
            good = ~new.failed
            to = index[good]
            if not self.options.keeps_orientations:
                p.rot[to], p.tilt[to], p.psi[to] = matrix_to_euler(new.matrix[good])
            if not self.options.skip_align:
                p.origin_x[to], p.origin_y[to] = new.offset[good].T
            p.class_number[to] = new.class_index[good] + 1
            if self.options.do_norm_correction:
                p.norm_correction[to] = new.norm_correction[good]
            p.log_likelihood[to] = new.log_likelihood[good]
            p.max_prob[to] = new.pmax[good]
            p.nr_significant[to] = new.nr_significant[good]
        p.has_results = True

    def report_failed(self, weighted: list[WeightedSums]) -> None:
        """Tells of particles that could not be scored; raises UserError if they are too many."""
        failed = [i for sums in weighted for i in sums.failed]
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

    def poses(self) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Copies of matrices (N, 3, 3), origins x and y (A) and classes of all particles."""
        p = self.particles
        return self._matrices(), p.origin_x.copy(), p.origin_y.copy(), p.class_number.copy()

    def measure_changes(self, old: tuple[NDArray, NDArray, NDArray, NDArray], members: NDArray[np.int64]) -> None:
        """How far the poses of `members` moved from `old`, into the state."""
        if not len(members):
            return
        p, now = self.particles, self._matrices()
        angles = angular_distance(now[members], old[0][members], self.operators)
        moved = (p.origin_x - old[1])[members] ** 2 + (p.origin_y - old[2])[members] ** 2
        convergence.update_changes(
            self.state,
            self.sampling,
            self.options.oversampling,
            float(angles.mean()),
            float(np.sqrt(moved.mean() / 2.0)),
            float(np.mean(p.class_number[members] != old[3][members])),
        )
