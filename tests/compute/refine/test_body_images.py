"""Images with the other bodies subtracted, on particles without noise whose bodies' poses and maps are known."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.fourier import resize_map
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_stack
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.refine.bodies import moved
from relion_py.compute.refine.body_images import BodyModel, BodyPreparation
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.images import DiscPixels
from relion_py.compute.refine.model import ModelState, OptimiserState, SamplingState
from relion_py.compute.refine.multibody import body_state
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.simulate_bodies import BodiesSimulation, simulate_bodies

N, BOX, PIXEL = 12, 40, 5.0
EVERY = np.arange(N)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> BodiesSimulation:
    return simulate_bodies(tmp_path_factory.mktemp("bodies"), n=N, box=BOX, angpix=PIXEL, snr=np.inf, shift=6.0)


def prepared(  # type: ignore[no-untyped-def]
    data: BodiesSimulation,
    body: int,
    *more: str,
    subtract: bool = True,
    at_rest: bool = False,
    truth: Path | None = None,
):
    """The images of one body, its true reference in the middle, and the true own matrices (N, 3, 3)."""
    values = dict.fromkeys(("--zero_mask", "--ctf", *more), True)
    options = RefineOptions(
        zero_mask=True, ctf=True, reconstruct_subtracted="--reconstruct_subtracted_bodies" in values
    )
    truth = truth or data.truth
    particles = ParticleSet.read(str(truth), str(truth.parent))
    model = ModelState.new(
        BOX, PIXEL, group_names=["g"], nr_particles_per_group=np.array([N]), nr_classes=2, nr_directions=1
    )
    maps = [np.array(mrcfile.read(path)) for path in data.maps]
    model.references, model.bodies, model.current_size = maps, body_state(data.bodies), BOX
    references = [
        FourierReference.from_map(moved(volume, -one.centre))
        for volume, one in zip(maps, data.bodies.bodies, strict=True)
    ]
    others = [(o, reference) for o, reference in enumerate(references) if o != body and subtract]
    geometries = particles.geometries(BOX, PIXEL)
    preparation = BodyPreparation(
        options, particles, ctf_params(particles.table), OptimiserState(), SamplingState(offset_range=10.0), geometries,
        [Aberrations()], 150.0, data.bodies, PIXEL,
    )  # fmt: skip
    poses = particles.bodies[body]
    own = data.bodies[body].own_matrices(
        euler_to_matrix(particles.rot, particles.tilt, particles.psi), euler_to_matrix(poses.rot, poses.tilt, poses.psi)
    )
    if at_rest:
        poses.origin_x[:] = poses.origin_y[:] = 0.0
    coarse, fine = (DiscPixels.of_images(size, geometries[0]) for size in (20, particles.box_size))
    images = particles.read_images(EVERY)
    one = BodyModel.of(model, body, others, 3.0)
    with CpuBackend() as backend:
        found = preparation.prepare(backend, one, EVERY, images, images.mean(axis=(1, 2)), coarse, fine)
    projected = references[body].project(own, fine.kx, fine.ky) * found.ctf
    return found, projected, particles.bodies[body]


def likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation (N,) of transforms."""
    product = np.einsum("np,np->n", first, second.conj()).real
    return product / np.sqrt((np.abs(first) ** 2).sum(axis=1) * (np.abs(second) ** 2).sum(axis=1))


@pytest.mark.parametrize("body", [0, 1])
def test_what_is_left_is_the_body_in_the_centre(data: BodiesSimulation, body: int) -> None:
    found, projected, poses = prepared(data, body, "--reconstruct_subtracted_bodies")
    assert likeness(found.unmasked, projected).min() > 0.999
    assert np.abs(found.unmasked - projected).max() < 0.05 * np.abs(projected).max()
    assert likeness(found.masked, projected).min() > 0.99
    assert found.old_offset == pytest.approx(np.stack([poses.origin_x, poses.origin_y], axis=1))
    whole, projected, _ = prepared(data, body, "--reconstruct_subtracted_bodies", subtract=False)
    assert likeness(whole.unmasked, projected).mean() < 0.85


def test_images_of_other_pixels_than_the_maps(data: BodiesSimulation, tmp_path: Path) -> None:
    """The same particles in 32 pixels of 6.25 A, the maps in 40 of 5 A."""
    tables, box = star.read(data.truth), 32
    images = ParticleSet.read(str(data.truth), str(data.truth.parent)).read_images(EVERY)
    write_stack(tmp_path / "small.mrcs", resize_map(images, box, 2), PIXEL * BOX / box)
    tables["optics"].set("rlnImageSize", [box])
    tables["optics"].set("rlnImagePixelSize", [PIXEL * BOX / box])
    names = tables["particles"].strings("rlnImageName")
    tables["particles"].set("rlnImageName", [f"{n + 1:06d}@small.mrcs" for n in range(len(names))])
    star.write(tmp_path / "small.star", tables)
    for body in (0, 1):
        found, projected, _ = prepared(data, body, "--reconstruct_subtracted_bodies", truth=tmp_path / "small.star")
        assert likeness(found.unmasked, projected).min() > 0.998
        assert np.abs(found.unmasked - projected).max() < 0.08 * np.abs(projected).max()


def test_without_the_option_whole_particles_are_back_projected(data: BodiesSimulation) -> None:
    found, projected, _ = prepared(data, 1)
    whole, _, _ = prepared(data, 1, subtract=False)
    assert likeness(found.unmasked, whole.unmasked).min() > 0.9999
    assert likeness(found.masked, projected).min() > 0.99


def test_fractions_of_a_pixel_are_made_good(data: BodiesSimulation) -> None:
    """Without its residual origin the body is off by that, and by nothing else."""
    found, projected, _ = prepared(data, 1, "--reconstruct_subtracted_bodies", at_rest=True)
    truth = ParticleSet.read(str(data.truth), str(data.truth.parent)).bodies[1]
    kx, ky = found.fine.kx, found.fine.ky
    turns = (np.outer(truth.origin_x, kx) + np.outer(truth.origin_y, ky)) / (BOX * PIXEL)
    assert likeness(found.unmasked, projected * np.exp(2j * np.pi * turns)).min() > 0.999


def test_the_simulated_maps_are_in_their_masks(data: BodiesSimulation) -> None:
    for path, body in zip(data.maps, data.bodies.bodies, strict=True):
        volume = np.array(mrcfile.read(path))
        assert (np.abs(volume * (1 - body.mask)) ** 2).sum() < 1e-3 * (volume**2).sum()
    assert Path(data.bodies_star).exists()
