"""Particles whose last maps are made of other images than those that are compared (_rlnReconstructImageName)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.cli.program import Job
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_stack
from relion_py.compute.refine import start
from relion_py.compute.refine.convergence import ImageSizes
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.simulate import simulate_particles

N, BOX, PIXEL = 12, 24, 5.0


def test_only_the_maps_of_the_last_iteration_are_made_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    simulate_particles(tmp_path, N, BOX, PIXEL, "C1", 1, 1.0)
    tables = star.read("particles.star")
    images = ParticleSet.read("particles.star").read_images(np.arange(N))
    write_stack("other.mrcs", images[::-1] * 3.0, PIXEL)
    tables["particles"].set("rlnReconstructImageName", [f"{N - n:06d}@other.mrcs" for n in range(N)])
    star.write("particles.star", tables)
    words = {
        "--i": "particles.star", "--o": "run", "--ref": "reference.mrc", "--auto_refine": True, "--ctf": True,
        "--split_random_halves": True, "--particle_diameter": "70", "--healpix_order": "1", "--zero_mask": True,
        "--offset_range": "1", "--offset_step": "1", "--dont_check_norm": True, "--norm": True, "--random_seed": "1",
    }  # fmt: skip
    run = start.new_run(RefineOptions.from_args(words), ParticleSet.read("particles.star"), Job())
    model, sizes = run.models[0], ImageSizes(16, 16)
    model.current_size = 16
    found, first = [], run.particles.with_own_poses()
    for last in (False, True):
        run.state.has_converged = last
        references = run.fourier_references(model)
        with CpuBackend(1) as backend:
            mine = run.find(backend, model, references, sizes, run.particles.members(1), lambda n: None)
        run.tell_all(model, mine)
        found.append((mine.grids[0], mine.weighted, run.particles.log_likelihood.copy()))
        run.particles.take_poses(first)
    before, after = found
    scale = np.abs(before[0].data).max()
    np.testing.assert_allclose(after[0].data, 3.0 * before[0].data, atol=1e-4 * scale)
    np.testing.assert_allclose(after[0].weight, before[0].weight, rtol=1e-5)
    np.testing.assert_allclose(after[1].sigma2_noise, before[1].sigma2_noise, rtol=1e-5)
    np.testing.assert_array_equal(after[2], before[2])
