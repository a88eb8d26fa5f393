"""Images of several box and pixel sizes in one expectation step, against sums in float64 written down from scratch."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import scipy.ndimage
from blob_model import Blobs, disc, image_from_slice

from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.cli.program import Job
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.masks import mask_outside
from relion_py.compute.refine import start
from relion_py.compute.refine.convergence import ImageSizes
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.engine import Engine
from relion_py.compute.refine.optics import ImageGeometry, half_plane_pixels
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.sampling import SamplingTables

BOX, PIXEL = 32, 3.0  # of the first optics group and of the reference
SECOND = (44, 2.5)  # 110 A beside 96 A
SIZE, DIAMETER = 20, 80.0
SHELLS = BOX // 2 + 1


def in_pixels(blobs: Blobs, pixel_size: float) -> Blobs:
    """The same object in smaller pixels; projections keep their grey values."""
    factor = PIXEL / pixel_size
    return Blobs(blobs.centres * factor, blobs.heights / factor, blobs.sigma * factor)


def picture(blobs: Blobs, angles: tuple[float, float, float], box: int, pixel_size: float) -> np.ndarray:
    """The projection of an object given in pixels of the reference, as an image."""
    kx, ky = disc(box // 2 - 1, friedel_pairs=True)
    matrix = euler_to_matrix(*(np.array([a]) for a in angles))
    return image_from_slice(in_pixels(blobs, pixel_size).slices(matrix, kx, ky, box)[0], kx, ky, box)


def write_particles(groups: list[int], stacks: dict[int, list[np.ndarray]]) -> None:
    """particles.star of images, whose optics groups, 0 or 1, are given in the order of the particles."""
    for group, images in stacks.items():
        with mrcfile.new(f"group{group}.mrcs", overwrite=True) as file:
            file.set_data(np.array(images, np.float32))
            file.set_image_stack()
    labels = "rlnOpticsGroupName rlnOpticsGroup rlnVoltage rlnSphericalAberration rlnAmplitudeContrast"
    lines = ["data_optics", "", "loop_", *("_" + x for x in labels.split()), "_rlnImagePixelSize", "_rlnImageSize"]
    lines += [f"g{g} {g + 1} 300 2.7 0.1 {p} {b}" for g, (b, p) in enumerate(((BOX, PIXEL), SECOND)) if g in stacks]
    lines += ["", "data_particles", "", "loop_", "_rlnImageName", "_rlnMicrographName", "_rlnOpticsGroup"]
    lines += ["_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle"]
    seen = {0: 0, 1: 0}
    for n, group in enumerate(groups):
        seen[group] += 1
        lines.append(f"{seen[group]}@group{group}.mrcs mic{n:03d} {group + 1} {11000 + 300 * n} {10000 + 200 * n} 30")
    Path("particles.star").write_text("\n".join([*lines, ""]))


def engine_on(blobs: Blobs, **change: object) -> Engine:
    """A classification of particles.star in one class whose reference is the object itself."""
    with mrcfile.new("reference.mrc", overwrite=True) as file:
        file.set_data(blobs.map(BOX))
        file.voxel_size = PIXEL
    words = {
        "--i": "particles.star", "--o": "run", "--ref": "reference.mrc", "--particle_diameter": str(DIAMETER),
        "--healpix_order": "0", "--oversampling": "0", "--offset_range": "1", "--offset_step": "1", "--perturb": "0",
        "--adaptive_fraction": "1", "--zero_mask": True, "--ctf": True, "--dont_check_norm": True, "--norm": True,
        "--random_seed": "1", **change,
    }  # fmt: skip
    options = RefineOptions.from_args(words)  # type: ignore[arg-type]
    return start.new_run(options, ParticleSet.read("particles.star"), Job())


def step(engine: Engine, sigma2: np.ndarray):  # type: ignore[no-untyped-def]
    """One expectation over all particles with given noise (O, S); (reference, back-projections, sums)."""
    model = engine.models[0]
    model.current_size, model.sigma2_noise, model.sigma_offset = SIZE, sigma2, 3.0
    model.data_vs_prior_class[:] = 10.0
    references = engine.fourier_references(model)
    with CpuBackend(1) as backend:
        members = engine.particles.members()
        found = engine.find(backend, model, references, ImageSizes(SIZE, SIZE), members, lambda n: None)
    engine.tell_all(model, found)
    return references[0], found.grids[0], found.weighted


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def blobs() -> Blobs:
    return Blobs.random(5, reach=7.0, sigma=1.6)


def slice_at(reference, matrix: np.ndarray, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Trilinear values (P,) of the reference's transform at fractional pixels of its own box, in float64."""
    place = reference.pad * (kx[:, None] * matrix[0] + ky[:, None] * matrix[1])
    mate = place[:, 0] < 0
    place[mate] *= -1
    centre = reference.data.shape[0] // 2
    at = np.stack([place[:, 2] + centre, place[:, 1] + centre, place[:, 0]])
    values = reference.data.astype(np.complex128)
    parts = [scipy.ndimage.map_coordinates(part, at, order=1) for part in (values.real, values.imag)]
    value = parts[0] + 1j * np.where(mate, -1, 1) * parts[1]
    return np.where((place**2).sum(axis=1) <= reference.r_max_padded**2, value, 0.0)


def test_posteriors_of_two_sizes_equal_sums_over_every_sample(here: Path, blobs: Blobs) -> None:
    """All in the units of the image itself: its pixels 1 / (box a) apart, its noise, its grey values."""
    rng = np.random.default_rng(2)
    groups, stacks = [0, 1, 1, 0, 1], {0: [], 1: []}
    for group in groups:
        box, pixel = (BOX, PIXEL) if group == 0 else SECOND
        view = picture(blobs, tuple(rng.uniform(0, 180, 3)), box, pixel)
        stacks[group].append(view + 4.0 * view.std() * rng.standard_normal(view.shape))
    write_particles(groups, stacks)
    engine = engine_on(blobs)
    engine.particles.origin_x[:] = [0.0, 4.2, -3.0, 1.0, 7.4]
    # white noise of the images' variance: a component of an image's own transform has v / (2 box^2)
    own = [np.var(stacks[g]) / (2 * (BOX, SECOND[0])[g] ** 2) * (1 + 0.02 * np.arange(SHELLS)) for g in (0, 1)]
    widths = BOX * PIXEL, SECOND[0] * SECOND[1]
    sigma2 = np.stack([own[g] * (widths[g] / widths[0]) ** 4 for g in (0, 1)])
    old = engine.particles.origin_x.copy()
    reference, _, weighted = step(engine, sigma2)
    p, noise = engine.particles, np.zeros((2, SHELLS))
    tables = SamplingTables.of(engine.grid, engine.sampling, 0)
    every = tables.coarse_rotations(0, tables.orientations).astype(float)
    counter = {0: 0, 1: 0}
    for n, group in enumerate(groups):
        box, pixel = (BOX, PIXEL) if group == 0 else SECOND
        width, image = box * pixel, stacks[group][counter[group]].astype(np.float32)
        counter[group] += 1
        moved = np.zeros_like(image)
        by = int(np.floor(old[n] / pixel + 0.5))
        moved[:, max(by, 0) : box + min(by, 0)] = image[:, max(-by, 0) : box + min(-by, 0)]
        masked = mask_outside(moved[None], DIAMETER / 2 / pixel, 5.0)[0].astype(float)
        # as far as the reference is cut, in shells of the image
        last = int(np.ceil(SIZE / 2 * width / widths[0]))
        kx, ky = (k.astype(float) for k in disc(last + 1))
        shell = np.rint(np.hypot(kx, ky)).astype(int)
        here_too = (shell > 0) & (shell <= last)
        kx, ky, shell = kx[here_too], ky[here_too], shell[here_too]
        x = np.fft.rfft2(masked)[ky.astype(int) % box, kx.astype(int)] / box**2 * (-1.0) ** (kx + ky)
        reference_shell = np.floor(shell * widths[0] / width + 0.5).astype(int)
        # finer pixels of a masked image are more, but they know no more
        variance = own[group][reference_shell] * (width / widths[0]) ** 2
        ctf = engine.preparation.ctf(np.array([n]), disc_of(kx, ky))[0]
        total = np.array([by * pixel, 0.0]) + tables.shifts
        prior = -np.sum(total**2, axis=1) / (2 * 3.0**2)
        prior -= np.log(np.mean(np.exp(prior)))
        angle = 2 * np.pi / width * (np.outer(tables.shifts[:, 0], kx) + np.outer(tables.shifts[:, 1], ky))
        shifted = x * np.exp(-1j * angle)
        score = np.empty((len(every), len(tables.shifts)))
        misfits = np.empty((*score.shape, len(kx)))
        for o, matrix in enumerate(every):
            view = slice_at(reference, matrix, kx * widths[0] / width, ky * widths[0] / width)
            # the same grey values in another box
            difference = shifted - ctf * view * (widths[0] / width) ** 2
            misfits[o] = np.abs(difference) ** 2
            score[o] = prior - 0.5 * np.sum(misfits[o] / variance, axis=1)
        weight = np.exp(score - score.max())
        log_sum = np.log(weight.sum()) + score.max()
        weight /= weight.sum()
        assert p.max_prob[n] == pytest.approx(weight.max(), abs=1e-3)
        assert 0.02 < weight.max() < 0.99, "the case says something"
        best = np.unravel_index(weight.argmax(), weight.shape)
        np.testing.assert_allclose(
            euler_to_matrix(*(np.array([v[n]]) for v in (p.rot, p.tilt, p.psi)))[0], every[best[0]], atol=1e-5
        )
        np.testing.assert_allclose([p.origin_x[n], p.origin_y[n]], total[best[1]], atol=1e-5)
        scale = (width / widths[0]) ** 4
        beyond = power_beyond(masked, last, box)
        counted = ky > -last  # constants are added for these, rows -last + 1 ... last
        expected = log_sum - np.sum(np.log(2 * np.pi * variance * scale)[counted]) - 0.5 * scale * beyond.sum()
        assert p.log_likelihood[n] == pytest.approx(expected, rel=1e-4, abs=0.02)
        mean = np.einsum("ot,otp->p", weight, misfits)
        centre = reference.data.shape[0] // 2
        at_origin = engine.preparation.ctf(np.array([n]), disc_of(np.zeros(1), np.zeros(1)))[0, 0]
        at_origin *= reference.data[centre, centre, 0].real * (widths[0] / width) ** 2
        total_misfit = (masked.mean() - at_origin) ** 2 + mean.sum() + beyond.sum()
        assert p.norm_correction[n] == pytest.approx(np.sqrt(2 * total_misfit), rel=1e-3)
        noise[group] += scale * np.bincount(reference_shell, mean, SHELLS)
        far = np.floor(np.arange(last + 1, box // 2 + 1) * widths[0] / width + 0.5).astype(int)
        np.add.at(noise[group], far[far < SHELLS], scale * beyond[far < SHELLS])
    np.testing.assert_allclose(weighted.sigma2_noise[:, 1:], noise[:, 1:], rtol=2e-3, atol=1e-5 * noise.max())


def power_beyond(image: np.ndarray, last: int, box: int) -> np.ndarray:
    """Sum of |F|^2 over the half plane for each shell beyond `last`."""
    ky = np.rint(np.fft.fftfreq(box, 1 / box))
    kx = np.arange(box // 2 + 1)
    shell = np.rint(np.hypot(ky[:, None], kx[None])).astype(int)
    once = ~((kx[None] == 0) & (ky[:, None] < 0) & (ky[:, None] > -box // 2))
    power = np.abs(np.fft.rfft2(image) / box**2) ** 2
    counted = once & (shell <= box // 2)
    return np.bincount(shell[counted], power[counted], box // 2 + 1)[last + 1 :]


def disc_of(kx: np.ndarray, ky: np.ndarray):  # type: ignore[no-untyped-def]
    from relion_py.compute.refine.images import DiscPixels

    return DiscPixels(kx.astype(np.int32), ky.astype(np.int32), np.zeros(len(kx), np.int32), 0)


def test_one_particle_seen_in_both_sizes_has_one_posterior(here: Path, blobs: Blobs) -> None:
    """The object among other, random blobs, which both cameras see."""
    rng = np.random.default_rng(8)
    first, second, groups = [], [], []
    for _ in range(6):
        view = tuple(rng.uniform(0, 180, 3))
        dirt = Blobs(rng.uniform(-11, 11, (60, 3)), rng.normal(0, 1.0, 60), 1.6)
        for group, stack in enumerate((first, second)):
            box, pixel = (BOX, PIXEL) if group == 0 else SECOND
            stack.append(picture(blobs, view, box, pixel) + picture(dirt, (0.0, 0.0, 0.0), box, pixel))
            groups.append(group)
    write_particles(groups, {0: first, 1: second})
    engine = engine_on(blobs, **{"--particle_diameter": "90", "--ctf": False})
    # the same noise inside of the mask: power is spread over the box and on the scale of the reference's
    step(engine, np.tile(30.0 / BOX**2 * np.ones(SHELLS), (2, 1)))
    p = engine.particles
    a, b = np.arange(0, 12, 2), np.arange(1, 12, 2)
    for values in (p.rot, p.tilt, p.psi, p.origin_x, p.origin_y):
        np.testing.assert_allclose(values[a], values[b], atol=1e-4)
    assert ((p.max_prob > 0.2) & (p.max_prob < 0.9)).all()
    # as near as the interpolation of the reference allows; two boxes have different errors
    np.testing.assert_allclose(p.max_prob[a], p.max_prob[b], atol=0.08)


def test_what_is_inserted_is_what_is_projected(here: Path, blobs: Blobs) -> None:
    """<back-projection of Y, V> = <Y, projection of V>: pixels go back to where they were compared."""
    rng = np.random.default_rng(3)
    groups = [0, 1, 1]
    images = {
        g: [picture(blobs, tuple(rng.uniform(0, 180, 3)), *size) for _ in range(groups.count(g))]
        for g, size in enumerate(((BOX, PIXEL), SECOND))
    }
    write_particles(groups, images)
    engine = engine_on(blobs, **{"--particle_diameter": "94"})
    # nothing is masked off, so that what is compared is what is inserted
    engine.diameter = 1000.0
    sigma2 = np.array([[3e-4], [1e-4]]) * np.ones((1, SHELLS))
    reference, sums, weighted = step(engine, sigma2)
    products = (np.conj(reference.data) * sums.data).real
    inserted = products.sum()
    ratio = SECOND[0] * SECOND[1] / (BOX * PIXEL)
    compared = np.sum(weighted.signal_product / (sigma2[:, 0] * [1.0, ratio**2])[groups])
    assert inserted == pytest.approx(compared, rel=1e-3)


@pytest.mark.parametrize("box, pixel", [(32, 3.0), (44, 2.5), (24, 3.4), (80, 3.0)])
def test_shells_fall_where_their_frequencies_are(box: int, pixel: float) -> None:
    geometry = ImageGeometry.of(box, pixel, BOX, PIXEL)
    frequency = np.arange(box // 2 + 1) / (box * pixel)
    expected = np.rint(frequency * BOX * PIXEL - 1e-9)
    known = expected < SHELLS
    np.testing.assert_array_equal(np.abs(geometry.shells - expected)[known] <= 1, True)
    assert (np.abs(geometry.shells / (BOX * PIXEL) - frequency)[known] <= 0.5001 / (BOX * PIXEL)).all()
    assert (geometry.shells[~known] == SHELLS).all()
    assert geometry.is_references == ((box, pixel) == (BOX, PIXEL))
    counts = geometry.to_reference(half_plane_pixels(box)[None].astype(float))
    np.testing.assert_array_equal(geometry.pixels_per_shell(), counts[0])
    np.testing.assert_array_equal(geometry.of_images(np.arange(SHELLS)[None])[0][known], geometry.shells[known])
    for size in (10, 20, 32):
        reach = geometry.current_size(size) / (box * pixel)
        assert reach >= size / (BOX * PIXEL) - 1e-9 or geometry.current_size(size) == box
        assert geometry.current_size(size) % 2 == 0 and geometry.coarse_size(size) <= geometry.current_size(size)


def test_first_noise_of_both_sizes_is_that_of_their_images(here: Path, blobs: Blobs) -> None:
    """White noise of variance v: v / (2 box^2) in the image's own components, ratio^4 of it beside the reference."""
    rng = np.random.default_rng(6)
    groups = [0, 1] * 150
    view = [picture(blobs, (10.0, 20.0, 30.0), *size) for size in ((BOX, PIXEL), SECOND)]
    images = {g: [view[g] + rng.standard_normal(view[g].shape) for _ in range(150)] for g in (0, 1)}
    write_particles(groups, images)
    engine = engine_on(blobs, **{"--zero_mask": False})
    ratio = SECOND[0] * SECOND[1] / (BOX * PIXEL)
    found = engine.models[0].sigma2_noise[:, 3:]
    np.testing.assert_allclose(found[0], 1 / (2 * BOX**2), rtol=0.25)
    np.testing.assert_allclose(found[0].mean(), 1 / (2 * BOX**2), rtol=0.03)
    np.testing.assert_allclose(found[1].mean(), ratio**4 / (2 * SECOND[0] ** 2), rtol=0.03)
