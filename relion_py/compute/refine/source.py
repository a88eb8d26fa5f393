"""Where a rank gets its images from: memory, scratch, its own reads, or the first rank that reads for all."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.parallel.comm import Communicator
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.scratch import Scratch

Indices = NDArray[np.int64]
T = TypeVar("T")


def share(members: Indices, comm: Communicator, rank: int | None = None, half: int | None = None) -> Indices:
    """The particles of `members`, ascending, that a rank (this one) works on: every size-th.

    half: `members` are those of half 0 or 1, and the ranks work on the halves apart, see `strides`.
    """
    rank = comm.rank if rank is None else rank
    if half is None:
        return members[rank :: comm.size]
    return np.sort(np.concatenate([members[:0], *(members[at :: comm.size] for at in strides(half, comm, rank))]))


def strides(half: int, comm: Communicator, rank: int) -> list[int]:
    """Where the strides over half 0 or 1 begin that a rank works on: two of the 2 x size ones of both halves.

    The first ranks have the first half, the last ones the second, and with an odd number of ranks the one in the
    middle has particles of both: no rank has more particles than another, and few or none need both references.
    """
    return [at - half * comm.size for at in (2 * rank, 2 * rank + 1) if at // comm.size == half]


def reads_for_all(options: RefineOptions, comm: Communicator) -> bool:
    """Whether the first rank reads the images of all: they then go through the same batches at a time."""
    return comm.size > 1 and options.no_parallel_disc_io and not options.preread_images


def prepare(
    particles: ParticleSet,
    options: RefineOptions,
    comm: Communicator,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> None:
    """Copies to scratch, or reads into memory, what the options ask for.

    progress(done, total) is called while copying and may raise to stop. On each node the first rank copies.
    """
    if options.preread_images:
        where = "over all ranks" if not _changes_hands(options) else "on each rank"
        say(f" Reading all particles into memory: {particles.preread_bytes / 2**30:.2f} GB {where} ...")
        particles.preread(_to_be_read(particles, options, comm))
    elif options.scratch_dir:
        scratch = Scratch(options.scratch_dir, particles.image_names_by_optics_group())
        hosts = comm.allgather(socket.gethostname())
        first_here = hosts.index(hosts[comm.rank])
        counts: dict[int, int] = {}
        if first_here == comm.rank:
            if options.reuse_scratch:
                counts = scratch.reuse()
            else:
                say(f" Copying particles to scratch directory {scratch.directory} ...")
                counts = scratch.copy(options.keep_free_scratch, progress)
        everywhere = comm.allgather(counts)
        scratch.attach(everywhere[first_here])
        particles.use_scratch(scratch)


def _changes_hands(options: RefineOptions) -> bool:
    """Whether a particle may be another rank's in the next iteration: of random subsets each takes a share."""
    return options.gradient or options.fast_subsets


def _to_be_read(particles: ParticleSet, options: RefineOptions, comm: Communicator) -> Indices:
    """The particles that this rank may work on, ascending."""
    if _changes_hands(options):
        return particles.members()
    if not options.auto_refine:
        return share(particles.members(), comm)
    return np.sort(np.concatenate([share(particles.members(half + 1), comm, half=half) for half in (0, 1)]))


def batches(
    particles: ParticleSet,
    members: Indices,
    size: int,
    options: RefineOptions,
    comm: Communicator,
    half: int | None = None,
) -> Iterator[tuple[Indices, NDArray[np.float32]]]:
    """This rank's share of `members` in batches of at most `size` particles: indices and images (n, box, box).

    half: as for `share`. Without parallel disc I/O the first rank reads every batch of every rank and sends it; all
    ranks then go through the same number of batches of both halves.
    """
    if not reads_for_all(options, comm):
        mine = share(members, comm, half=half)
        for first in range(0, len(mine), size):
            part = mine[first : first + size]
            yield part, particles.read_images(part)
        return
    for first in range(0, len(share(members, comm, 0)), size):
        for rank in range(1, comm.size):
            part = share(members, comm, rank)[first : first + size]
            if comm.rank == 0 and len(part):
                comm.send(particles.read_images(part), rank)
        mine = share(members, comm)[first : first + size]
        if len(mine):
            yield mine, particles.read_images(mine) if comm.rank == 0 else comm.recv(0)


def ahead(pieces: Iterator[T]) -> Generator[T, None, None]:
    """The same pieces, each made in a thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, pieces, None)
        while (piece := future.result()) is not None:
            future = pool.submit(next, pieces, None)
            yield piece


@contextmanager
def dropped_on_error(particles: ParticleSet, options: RefineOptions) -> Iterator[None]:
    """Removes the scratch copies when what is inside fails or is stopped.

    Without a word to the other ranks: they may have ended already, and end in any case.
    """
    try:
        yield
    except BaseException:
        if particles.scratch is not None and not options.keep_scratch:
            particles.scratch.remove()
        raise


def finish(particles: ParticleSet, options: RefineOptions, comm: Communicator) -> None:
    """Removes the scratch copies, on every node by its first rank, unless they are to be kept."""
    if particles.scratch is None or options.keep_scratch:
        return
    comm.barrier()
    hosts = comm.allgather(socket.gethostname())
    if hosts.index(hosts[comm.rank]) == comm.rank:
        particles.scratch.remove()
