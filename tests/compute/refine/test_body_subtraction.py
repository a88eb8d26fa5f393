"""Subtraction of bodies, from particles without noise whose bodies' poses and maps are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import angular_distance, euler_to_matrix
from relion_py.compute.image.ctf import ctf_values
from relion_py.compute.image.fourier import phase_shift
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.refine.bodies import moved
from relion_py.compute.refine.body_subtraction import BodySubtraction
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.images import DiscPixels, at_disc, half_transforms
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.multibody import body_state
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.simulate_bodies import BodiesSimulation, simulate_bodies

N, BOX, PIXEL = 12, 40, 5.0
EVERY = np.arange(N)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> BodiesSimulation:
    """Bodies whose masks part the box between them, lest they share what is kept."""
    made = simulate_bodies(tmp_path_factory.mktemp("bodies"), n=N, box=BOX, angpix=PIXEL, snr=np.inf, shift=12.0)
    x = np.broadcast_to(np.arange(BOX) - BOX // 2, (BOX,) * 3)
    halves = [side.astype(np.float32) for side in (x < 2, x >= 2)]
    bodies = tuple(replace(body, mask=mask) for body, mask in zip(made.bodies.bodies, halves, strict=True))
    return replace(made, bodies=replace(made.bodies, bodies=bodies, _subtracted={}))


def subtraction(
    data: BodiesSimulation, mask: np.ndarray | None, centre: np.ndarray | None = None, path: Path | None = None
) -> BodySubtraction:
    """Of all but the density in the mask."""
    path = path or data.truth
    particles = ParticleSet.read(str(path), str(path.parent))
    model = ModelState.new(
        BOX, PIXEL, group_names=["g"], nr_particles_per_group=np.array([N]), nr_classes=2, nr_directions=1
    )
    model.references = [np.array(mrcfile.read(path)) for path in data.maps]
    model.bodies, model.current_size, model.padding_factor = body_state(data.bodies), BOX, 2.0
    return BodySubtraction(particles, RefineOptions(ctf=True), (model,), mask, centre, bodies=data.bodies)


def likeness(step: BodySubtraction, kept: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Correlation (N,) of the new images with projections of the map `kept`, its point `middle` in the centre, at the
    new angles and origins."""
    images, origins = step.centred(EVERY, step.subtract(EVERY, step.particles.read_images(EVERY)))
    assert np.abs(origins).max() <= PIXEL / 2 + 1e-6, "images are moved by whole pixels"
    pixels = DiscPixels.of_size(BOX - 8)
    reference = FourierReference.from_map(moved(kept, -middle))
    expected = reference.project(euler_to_matrix(*step.angles()), pixels.kx, pixels.ky)
    expected *= ctf_values(ctf_params(step.particles.table), pixels.kx, pixels.ky, BOX, PIXEL)
    expected *= phase_shift(pixels.kx, pixels.ky, *(-origins.T / PIXEL), BOX)
    found = at_disc(half_transforms(images), pixels)
    product = np.einsum("np,np->n", found, expected.conj()).real
    return product / np.sqrt((np.abs(found) ** 2).sum(axis=1) * (np.abs(expected) ** 2).sum(axis=1))


@pytest.mark.parametrize("body", [0, 1])
@pytest.mark.parametrize("centre", [None, (4, -3, 2)])
def test_what_is_left_is_the_body_in_its_new_pose(
    data: BodiesSimulation, body: int, centre: tuple[int, int, int] | None
) -> None:
    place = None if centre is None else data.bodies[body].centre + np.array(centre)
    step = subtraction(data, data.bodies[body].mask, place)
    assert step.body == body
    volume = np.array(mrcfile.read(data.maps[body]))
    assert likeness(step, volume, np.zeros(3, np.int64) if place is None else place).min() > 0.998
    p = step.particles
    turned = angular_distance(euler_to_matrix(*step.angles()), euler_to_matrix(p.rot, p.tilt, p.psi))
    assert turned.max() > (5.0 if body == 1 else 0.5), "the case says something"


def test_what_the_mask_does_not_keep_of_a_body_is_subtracted_with_the_others(data: BodiesSimulation) -> None:
    half = data.bodies[1].mask * (np.arange(BOX) > BOX // 2 + 7)
    step = subtraction(data, half)
    volume = np.array(mrcfile.read(data.maps[1]))
    assert step.body == 1
    assert likeness(step, volume * half, np.zeros(3, np.int64)).min() > 0.995
    assert likeness(step, volume, np.zeros(3, np.int64)).mean() < 0.97


def test_mistakes_are_told(data: BodiesSimulation) -> None:
    with pytest.raises(UserError, match="give --mask"):
        subtraction(data, None)
    with pytest.raises(UserError, match="does not overlap"):
        subtraction(data, np.zeros((BOX,) * 3, np.float32))
    with pytest.raises(UserError, match="has poses of 0"):
        subtraction(data, data.bodies[0].mask, path=data.particles)
