"""A 3D initial model from the particles alone: the likeliest of a few random starts.

Steps along the gradient from random blobs may end in a wrong map, and nothing in the run tells so. The first phase is
cheap, as subsets are small and angles coarse. So it is gone through from several first references, with the same
particles in the same iterations; the one that explains the particles best goes on, the others are forgotten.
RELION follows a single one (ml_optimiser.cpp, initialiseReferences).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.parallel.comm import Communicator
from relion_py.compute.refine import convergence, source
from relion_py.compute.refine.gradient import GradientClassification
from relion_py.compute.refine.host import Host, Progress
from relion_py.compute.refine.model import healpix_angular_step

STARTS = 4
"""First references that are tried: of eight on simulated CFTR (C1, 1,000 particles) two led to wrong maps."""
COARSEST_LOCAL_ORDER = 3
"""HEALPix order that the starts do not reach by --auto_sampling: maps are told apart at 7.5 degrees already."""
JUDGES = 1000
"""Particles, at most, by whose log-likelihood the starts are compared."""


@dataclass
class InitialModel(GradientClassification):
    """A run along the gradient from the likeliest of `starts`, each the K first references of one start."""

    starts: Sequence[list[NDArray[np.float32]]] = field(default_factory=list)

    def run(self) -> None:
        """The first phase from every start, then the other iterations from the likeliest."""
        phase = self.schedule.initial - 1  # the iteration after it is the first to be as fine as it likes
        if len(self.starts) > 1 and phase > 0 and self.state.iteration == 0 and not self.options.skip_maximize:
            self._go_on_from_the_likeliest(phase)
        super().run()

    def _go_on_from_the_likeliest(self, phase: int) -> None:
        starts = len(self.starts)
        self.job.say(f" Trying {starts} random first references, {phase} iterations from each ...")
        random = np.random.default_rng([self.state.random_seed, 7])
        judges = np.sort(random.permutation(self.particles.members())[:JUDGES])
        subsets = [self.schedule.subset(iteration) for iteration in range(1, phase + 1)]
        particles = starts * sum(len(self.particles) if size < 0 else size for size in subsets)
        particles += 2 * (starts - 1) * len(judges)
        with self.job.progress(particles // self.job.comm.size) as bar:
            host = _Background(self.job, bar)
            best, chosen, told = self._trial(host, phase, self.starts[0]), 1, []
            for number, references in enumerate(self.starts[1:], 2):
                trial = self._trial(host, phase, references)
                gain = _gain(best, trial, judges)
                told.append(f"{number} against {chosen} {gain:+.2f}")
                if gain > 0:  # two at a time, as their moments may be large
                    best, chosen = trial, number
        self.job.say(f" Log-likelihood per particle of reference {', '.join(told)}; going on from {chosen}")
        self._adopt(best)

    def _trial(self, host: Host, phase: int, references: list[NDArray[np.float32]]) -> _Trial:
        """The first iterations of a run like this one, from other references; it keeps to itself what it finds."""
        options, model = self.options, replace(self.models[0], references=references).copy()
        order = min(options.auto_local_healpix_order, COARSEST_LOCAL_ORDER)
        trial = _Trial(
            replace(options, auto_local_healpix_order=order),
            host,
            self.particles.with_own_poses(),
            self.ctf,
            replace(self.state),
            replace(self.sampling),
            [model],
            self.mask,
        )
        trial.devices = self.devices
        trial.go_on_until(phase)
        return trial

    def _adopt(self, trial: _Trial) -> None:
        """Goes on where a trial has come to."""
        self.models, self.state, self.sampling, self.grid = trial.models, trial.state, trial.sampling, trial.grid
        self.particles.take_poses(trial.particles)


class _Trial(GradientClassification):
    """The first phase of a run from one start."""

    def write(self) -> None:
        """Nothing: the files are those of the start that is chosen."""

    def log_likelihood(self, judges: NDArray[np.int64], order: int, sizes: convergence.ImageSizes) -> float:
        """Mean over the particles `judges`, of all ranks; at a HEALPix order, where the run then stays, and sizes."""
        model, count = self.models[0], len(source.share(judges, self.job.comm))
        if self.sampling.healpix_order != order:
            self.sampling.healpix_order, self.sampling.psi_step = order, healpix_angular_step(order)
            self._new_directions()
        model.current_size = sizes.current
        with self.working(count) as (backend, advance):
            mine = self.find(backend, model, self.fourier_references(model), sizes, judges, advance)
            self.tell_all(model, mine)
        return float(self.particles.log_likelihood[judges].mean())


def _gain(old: _Trial, new: _Trial, judges: NDArray[np.int64]) -> float:
    """Mean log-likelihood of the judges given the new trial's model, less that given the old one's."""
    order, each = max(trial.sampling.healpix_order for trial in (old, new)), (old.image_sizes, new.image_sizes)
    sizes = convergence.ImageSizes(min(size.coarse for size in each), min(size.current for size in each))
    return new.log_likelihood(judges, order, sizes) - old.log_likelihood(judges, order, sizes)


class _Background:
    """A host for work that is not told about; the bars of its parts, one after the other, are one."""

    def __init__(self, host: Host, bar: Progress) -> None:
        self._bar, self._before = bar, 0
        self.check_abort = host.check_abort
        self.comm: Communicator = host.comm

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def progress(self, total: int) -> Iterator[Progress]:
        """A part of the bar."""
        yield self
        self._before += total

    def update(self, done: int) -> None:
        """`done` pieces of the part are finished."""
        self._bar.update(self._before + done)
