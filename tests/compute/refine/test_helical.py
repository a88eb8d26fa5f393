"""Parts of helical refinement: frames, offsets, halves, priors of neighbours, symmetry of sums, tube masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from blob_model import Blobs, disc, random_rotations, shell_correlation
from helix_model import blob_map, helix_centres

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.masks import cylinder_mask, mask_outside_tubes, tube_mask
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.refine import helical
from relion_py.compute.refine.backprojector import BackProjector, HelicalUnits
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.helical_priors import Filament, smoothed
from relion_py.compute.refine.model import SamplingState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reconstruct import reconstruct
from relion_py.compute.refine.sampling import shift_grid

TWIST, RISE = 38.0, 12.0
OPTIONS = RefineOptions(helix=True, helical_twist=TWIST, helical_rise=RISE, helical_outer_diameter=80.0)


# ---- frames and offsets ----


def test_the_frame_has_the_helix_along_its_first_axis() -> None:
    psi = np.array([0.0, 33.0, -120.0])
    axis = euler_to_matrix(np.zeros(3), np.full(3, 90.0), psi)[:, :2, 2]  # the image of Z
    turn = helical.turns(psi)
    assert np.allclose(helical.to_frame(axis, turn), [[-1, 0]] * 3, atol=1e-12)
    offsets = np.array([[1.0, 2.0], [-3.0, 0.5], [0.0, 4.0]])
    assert np.allclose(helical.to_image(helical.to_frame(offsets, turn), turn), offsets)


def test_offsets_along_the_helix_stay_within_half_a_rise() -> None:
    sampling = SamplingState(offset_range=8.0, offset_step=4.0)
    helical.set_offsets(sampling, OPTIONS)
    assert sampling.helical_offset_step == 4.0  # a third of the rise
    coarse, children = shift_grid(sampling, 1, 0.25)
    assert np.unique(coarse[:, 0]).tolist() == [-4, 0, 4]
    assert np.unique(coarse[:, 1]).tolist() == [-8, -4, 0, 4, 8]
    assert np.allclose(np.unique(children - coarse[:, None]), [0, 2])  # -1 and 1, moved by a quarter of a step
    helical.set_offsets(sampling, OPTIONS, 1.5)
    assert (sampling.helical_offset_step, sampling.helical_reach) == (1.5, 4)
    helical.set_offsets(sampling, OPTIONS, 3.0)
    assert sampling.helical_offset_step == 1.5  # never larger again
    fine = replace(sampling, healpix_order=4)
    helical.set_offsets(fine, replace(OPTIONS, auto_refine=True), 0.75)
    assert (fine.helical_offset_step, fine.helical_reach) == (0.75, 2)  # a local search


def test_local_searches_reach_the_turn_of_a_step_along_the_helix() -> None:
    sampling = SamplingState(helical_offset_step=6.0)
    assert helical.widened_sigma_rot(2.0, 1.0, sampling, OPTIONS) == 8.0  # 19 degrees in 6 parts: 4 steps
    assert helical.widened_sigma_rot(2.0, 5.0, sampling, OPTIONS) == 2.0


# ---- particles ----


def segments(micrographs: list[str], tubes: list[int], **columns: list[float]) -> ParticleSet:
    count = len(tubes)
    table = {"rlnImageName": [f"{n + 1}@a.mrcs" for n in range(count)], "rlnMicrographName": micrographs}
    optics = Table({"rlnOpticsGroup": [1], "rlnImagePixelSize": [1.0], "rlnImageSize": [32]})
    particles = Table({**table, "rlnHelicalTubeID": tubes, "rlnOpticsGroup": [1] * count, **columns})
    return ParticleSet.from_table(ParticleTable(StarFile([("optics", optics), ("particles", particles)])))


def test_filaments_stay_together_in_halves_of_like_size() -> None:
    random = np.random.default_rng(1)
    rows = sorted((f"m{random.integers(3)}", int(random.integers(1, 5))) for _ in range(300))
    particles = segments([name for name, _ in rows], [tube for _, tube in rows])
    helical.split_halves(particles, 3)
    halves: dict[tuple[str, int], set[int]] = {}
    for row, half in zip(rows, particles.random_subset.tolist(), strict=True):
        halves.setdefault(row, set()).add(half)
    assert all(len(half) == 1 for half in halves.values())
    counts = np.bincount(particles.random_subset)[1:]
    assert abs(int(counts[0]) - int(counts[1])) < 60
    again = segments([name for name, _ in rows], [tube for _, tube in rows])
    helical.split_halves(again, 4)
    assert not np.array_equal(again.random_subset, particles.random_subset)
    with pytest.raises(UserError, match="one filament only"):
        helical.split_halves(segments(["m"] * 4, [1] * 4), 1)


def test_segments_begin_with_their_priors() -> None:
    priors = {"rlnAngleTiltPrior": [90.0, 91.0], "rlnAnglePsiPrior": [10.0, -20.0]}
    fresh = segments(["m"] * 2, [1] * 2, **priors)
    helical.begin_with_priors(fresh)
    assert fresh.tilt.tolist() == [90, 91] and fresh.psi.tolist() == [10, -20]
    refined = segments(["m"] * 2, [1] * 2, **priors, rlnAngleTilt=[85.0, 0.0], rlnAnglePsi=[12.0, 5.0])
    helical.begin_with_priors(refined)
    assert refined.tilt.tolist() == [85, 91] and refined.psi.tolist() == [12, -20]
    with pytest.raises(UserError, match="rlnAngleTiltPrior"):
        helical.begin_with_priors(segments(["m"], [1]))


# ---- priors from neighbours ----


def filament(sign: float, flipped: bool = False) -> tuple[Filament, np.ndarray]:
    """Thirty noisy segments of a filament whose rot grows (sign 1) or falls along the track, and their true rot."""
    random = np.random.default_rng(7)
    track, n = np.arange(30) * 2 * RISE, 30
    rot = 50 + sign * track * TWIST / RISE
    psi, tilt = np.full(n, 60.0), 90 + random.normal(0, 3, n)
    seen = np.where(np.full(n, flipped), psi - 180, psi) + random.normal(0, 2, n)
    offset = random.normal(0, 0.5, (n, 2))
    return Filament(
        rot + random.normal(0, 8, n), 180 - tilt if flipped else tilt, seen, np.full(n, 90.0), psi,
        np.full(n, 0.5), offset, track, np.full(n, TWIST), np.full(n, RISE),
    ), rot  # fmt: skip


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_neighbours_make_priors_better_and_tell_the_direction(sign: float) -> None:
    noisy, rot = filament(sign)
    new = smoothed(noisy, 60.0, 2.0)
    assert new.reverse == (sign < 0)

    def error(angle: np.ndarray) -> float:
        return float(np.sqrt(np.mean(((angle - rot + 180) % 360 - 180) ** 2)))

    assert error(noisy.rot) > 6 and error(new.rot) < 4
    assert np.abs(new.psi - 60).max() < 2.5 and np.abs(new.tilt - 90).max() < 4
    assert new.wrong == 0 and np.array_equal(new.offset, noisy.offset)


def test_an_offset_far_from_its_neighbours_is_pulled_to_them_across_the_helix() -> None:
    noisy, _ = filament(1.0)
    across = np.array([np.sin(np.deg2rad(60)), np.cos(np.deg2rad(60))])
    noisy.offset[12] += 15 * across
    new = smoothed(noisy, 60.0, 1.0)
    assert abs((new.offset[12] - noisy.offset[12]) @ across + 15) < 3
    assert np.array_equal(np.delete(new.offset, 12, 0), np.delete(noisy.offset, 12, 0))


def test_a_filament_of_the_other_polarity_turns_its_priors_round() -> None:
    new = smoothed(filament(1.0, flipped=True)[0], 60.0, 2.0)
    assert new.wrong == 30
    assert np.abs((new.psi - (60 - 180) + 180) % 360 - 180).max() < 2.5
    assert new.flip_ratio[0] == pytest.approx(1 / 32)


# ---- sums and masks ----


def test_sums_get_the_asymmetric_units_of_a_helix() -> None:
    box, pixel, sigma = 32, 3.0, 5.0
    centres, heights = helix_centres(TWIST, RISE, 1)
    unit = centres.reshape(3, -1, 3)[1]
    blobs = Blobs(unit / pixel, heights.reshape(3, -1)[1], sigma / pixel)
    kx, ky = disc(box // 2 - 1)
    rotations = random_rotations(600, 2)
    sums = BackProjector(box)
    values = blobs.slices(rotations, kx, ky, box)
    sums.insert(values, np.ones(values.shape), rotations, kx, ky)
    sums.symmetrise(helix=HelicalUnits(TWIST, RISE / pixel, 3), workers=2)
    wanted = blob_map(centres, heights, box, pixel, sigma)
    found = reconstruct(sums, do_map=False)
    assert shell_correlation(found, wanted)[1:10].min() > 0.98
    mirrored = blob_map(centres * [1, 1, -1], heights, box, pixel, sigma)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99 > np.corrcoef(found.ravel(), mirrored.ravel())[0, 1]
    assert HelicalUnits(1, 1, 4).others == [-2, -1, 1] and HelicalUnits(1, 1, 1).others == []


def test_tube_masks_follow_the_helix() -> None:
    box, psi = 32, 25.0
    mask, tube = tube_mask(box, psi, 14.0, 5.0, 3.0)
    x, y = euler_to_matrix(0, 90, psi)[:2, 2]  # along the helix
    for at in np.ndindex(box, box):
        dy, dx = np.array(at) - box // 2
        away, radius = abs(dx * y - dy * x), np.hypot(dx, dy)
        weights = [0.5 + 0.5 * np.cos(np.pi * np.clip((d - edge) / 3, 0, 1)) for d, edge in ((away, 5), (radius, 14))]
        assert mask[at] == pytest.approx(min(weights), abs=1e-6) and tube[at] == pytest.approx(weights[0], abs=1e-6)
    image = np.random.default_rng(1).standard_normal((1, box, box)).astype(np.float32)
    filled = mask_outside_tubes(image, np.array([psi]), 14.0, 5.0, 3.0)[0]
    mean = np.average(image[0], weights=1 - tube)
    assert np.allclose(filled, mask * image[0] + (1 - mask) * mean, atol=1e-6)
    noise = np.full_like(image, 9.0)
    assert mask_outside_tubes(image, np.array([psi]), 14.0, 5.0, 3.0, noise)[0][0, 0] == 9.0


def test_cylinders_have_a_hole_and_soft_walls() -> None:
    row = cylinder_mask(32, 10.0, 5.0, 2.0)[3, 16, 16:]
    assert row[:4].tolist() == [0] * 4 and row[4] == pytest.approx(0.5) and np.all(row[5:11] == 1)
    assert row[11] == pytest.approx(0.5) and not row[12:].any()
    assert cylinder_mask(32, 10.0, -1.0, 2.0)[3, 16, 16] == 1
