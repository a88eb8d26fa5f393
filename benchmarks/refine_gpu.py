"""The expectation step alone: particle-iterations per second on a GPU, or with --backend cpu on the CPU.

    python benchmarks/refine_gpu.py                        GPU 0, 6 classes, 360-pixel boxes
    python benchmarks/refine_gpu.py --backend cpu --particles 64 --threads 8

Simulated particles of random blobs at 1 A per pixel and 300 kV are prepared (shifted, masked, transformed, CTF),
scored, weighed and back-projected as `relion_refine` does it; reading files and reconstruction are left out. Three
stages of a refinement are timed: a first global search, a finer one, and a local search at higher resolution. Times
of single steps are those that the host waited for; on a GPU work goes on behind it, so only their sum is exact.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import scipy.fft

from relion_py.compute.backend.base import Backend
from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.backend.cuda import CudaBackend
from relion_py.compute.backend.cuda_device import open_devices
from relion_py.compute.backend.work import Array
from relion_py.compute.geometry.euler import euler_to_matrix, matrix_to_euler
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.parallel.comm import SerialComm
from relion_py.compute.refine.clock import Stopwatch
from relion_py.compute.refine.expectation import Expectation, ExpectationSettings, WeightedSums
from relion_py.compute.refine.images import DiscPixels, PreparedImages
from relion_py.compute.refine.model import SamplingState
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.sampling import LocalSearch, SamplingTables
from relion_py.compute.refine.source import ahead

ANGPIX, NOISE = 1.0, 3.0
DIFFERENT = 256
"""Images that are simulated; more particles are the same ones again."""


@dataclass(frozen=True)
class Stage:
    """Where a refinement stands: sampling, and image sizes as shares of the box."""

    name: str
    order: int
    coarse: float
    current: float
    local: bool = False


STAGES = (
    Stage("global, order 2", 2, 26 / 360, 60 / 360),
    Stage("global, order 3", 3, 50 / 360, 100 / 360),
    Stage("local, order 4", 4, 100 / 360, 200 / 360, local=True),
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--gpu", default="0", help="its number")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--box", type=int, default=360, help="pixels")
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--particles", type=int, default=10000, help="few make the end, a copy of the sums, weigh more")
    parser.add_argument("--pad", type=int, default=2)
    parser.add_argument("--stages", type=int, nargs="*", default=[1, 2, 3], help="which of the three")
    return parser.parse_args()


def simulate(options: argparse.Namespace) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, CtfParams]:
    """Maps, images (n, box, box) float32, their Euler matrices, and CTFs."""
    random, box = np.random.default_rng(0), options.box
    axis = np.arange(box) - box // 2
    maps = []
    for _ in range(options.classes):
        volume = np.zeros((box, box, box), np.float32)
        for _ in range(60):
            centre, width = random.uniform(-0.25, 0.25, 3) * box, random.uniform(0.008, 0.03) * box
            x, y, z = (np.exp(-((axis - c) ** 2) / (2 * width**2)).astype(np.float32) for c in centre)
            volume += z[:, None, None] * y[:, None] * x
        maps.append(volume)

    n = min(options.particles, DIFFERENT)
    poses = euler_to_matrix(random.uniform(0, 360, n), np.degrees(np.arccos(random.uniform(-1, 1, n))), np.zeros(n))
    ctf = CtfParams(random.uniform(8000, 25000, n), random.uniform(8000, 25000, n))
    pixels, kind = DiscPixels.of_size(box - 2), random.integers(0, options.classes, n)
    images = np.empty((n, box, box), np.float32)
    sign = np.where((pixels.kx + pixels.ky) % 2 == 0, 1, -1)
    for k, volume in enumerate(maps):
        reference = FourierReference.from_map(volume, padding=1)
        for i in np.nonzero(kind == k)[0]:
            transform = np.zeros((box, box // 2 + 1), np.complex64)
            slice_ = reference.project(poses[i : i + 1], pixels.kx, pixels.ky)[0]
            transform[pixels.ky % box, pixels.kx] = slice_ * sign
            images[i] = scipy.fft.irfft2(transform * ctf_image(ctf[[i]], box, ANGPIX)[0], s=(box, box)) * box**2
    strength = images.std()
    images /= strength
    maps = [volume / strength for volume in maps]
    images += NOISE * random.standard_normal(images.shape, np.float32)
    return maps, images, poses, ctf


def measure(
    stage: Stage, options: argparse.Namespace, backend: Backend, maps: list[np.ndarray], images: np.ndarray,
    poses: np.ndarray, ctf: CtfParams,
) -> tuple[float, Stopwatch, float]:  # fmt: skip
    """Seconds for all particles, what they went to, and the mean number of significant coarse samples."""
    box, shells = options.box, options.box // 2 + 1
    grid = Sampling(healpix_order=stage.order, symmetry="C1")
    state = SamplingState(healpix_order=stage.order, offset_range=5.0, offset_step=2.0)
    tables = SamplingTables.of(grid, state, 1)
    coarse, fine = (DiscPixels.of_size(2 * round(share * box / 2)) for share in (stage.coarse, stage.current))
    references = [FourierReference.from_map(m, 2 * fine.r_max, options.pad) for m in maps]
    volumes = np.stack([reference.data for reference in references])
    # the power of each half of a complex number of the noise, in transforms divided by box^2
    inverse = np.full((1, shells), 2.0 * box**2 / NOISE**2, np.float32)
    inverse[:, 0] = 0
    index = np.arange(options.particles) % len(images)
    local = None
    if stage.local:
        local = LocalSearch.around(
            grid, np.arange(len(images)), len(images), matrix_to_euler(poses), (4.0, 4.0, 4.0)
        )  # fmt: skip
    log_pdf = np.zeros((len(maps), tables.directions), np.float32)
    clock, significant = Stopwatch(), []
    sums = WeightedSums.zeros(volumes.shape[1:], len(maps), tables.directions, shells, 1, 1)
    settings = ExpectationSettings(pixel_size=ANGPIX, box=box)
    with backend:
        pad, r_max = references[0].pad, references[0].r_max_padded
        step = Expectation(backend, settings, volumes, pad, r_max, tables, log_pdf, inverse, sums, local, clock)
        size = step.batch_size(coarse.size, fine.size, box)
        step.run(
            prepare(backend, images[index[:4]], index[:4], ctf, coarse, fine)
        )  # kernels are compiled, FFTs are planned
        clock.seconds.clear()
        clock.lap("start")
        began = time.perf_counter()
        parts = [index[first : first + size] for first in range(0, len(index), size)]
        # as a refinement reads: one batch ahead
        for part, of_batch in ahead((part, staged(backend, images[part])) for part in parts):
            clock.lap("reading")
            prepared = prepare(backend, of_batch, part, ctf, coarse, fine)
            clock.lap("images")
            significant.append(step.run(prepared).nr_significant)
        step.finish()
        clock.lap("sums")
        seconds = time.perf_counter() - began
    clock.seconds.pop("start", None)
    return seconds, clock, float(np.mean(np.concatenate(significant)))


def staged(backend: Backend, images: np.ndarray) -> Array:
    """Images on their way to the device, as the engine of a refinement does it while it reads ahead."""
    if isinstance(backend, CpuBackend):
        return images
    backend.use()
    return backend.staged(images)


def prepare(
    backend: Backend, images: Array, index: np.ndarray, ctf: CtfParams, coarse: DiscPixels, fine: DiscPixels
) -> PreparedImages:
    """A batch of particles, whose images these are, as the engine of a refinement makes it."""
    n, box = len(index), images.shape[1]
    unmasked, masked, spectrum, _ = backend.transform_images(
        images, np.zeros((n, 2), np.int64), np.ones(n), 0.45 * box, 5.0, fine
    )
    nothing = np.zeros(n, np.int64)
    return PreparedImages(
        index=index, masked=masked, unmasked=unmasked,
        ctf=backend.ctf_values(ctf[index], fine.kx, fine.ky, box, ANGPIX), optics=nothing, group=nothing,
        scale=np.ones(n), old_offset=np.zeros((n, 2)), spectrum=spectrum, applied_norm=np.ones(n), fine=fine,
        coarse=coarse, coarse_in_fine=coarse.positions_in(fine), scale_shells=np.zeros(box // 2 + 1, np.bool_),
    )  # fmt: skip


def main() -> None:
    """Measures and prints the table."""
    options = arguments()
    if options.backend == "cpu":
        backend: Backend = CpuBackend(options.threads)
        name = f"CPU, {options.threads} threads"
    else:
        share = open_devices(options.gpu, 0, SerialComm())[0]
        backend = CudaBackend(share.device, budget=share.budget)
        name = f"GPU {share.device.name}"
    print(f"{name}: {options.particles} particles of {options.box} pixels, {options.classes} classes", flush=True)
    data = simulate(options)
    print(f"{'':18}{'particle-iterations/s':>22}{'significant':>13}   seconds by step")
    for number in options.stages:
        stage = STAGES[number - 1]
        seconds, clock, significant = measure(stage, options, backend, *data)
        print(f"{stage.name:18}{options.particles / seconds:22.1f}{significant:13.0f}   {clock}", flush=True)


if __name__ == "__main__":
    main()
