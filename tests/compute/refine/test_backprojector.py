"""Back-projection: sums against float64 brute force, symmetry against every mate, halves and merging."""

import numpy as np
import pytest
from blob_model import Blobs, disc, random_rotations
from scipy.ndimage import map_coordinates

from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.refine.backprojector import BackProjector


def brute_insert(shape, images, weights, rotations, kx, ky, pad):
    """Sums (Z, Y, X, 3) by the definition, float64, pixel by pixel."""
    sums = np.zeros(shape)
    for image, weight, rotation in zip(images, weights, rotations, strict=True):
        for value, w, x2, y2 in zip(image, weight, kx, ky, strict=True):
            if w <= 0 or (x2 == 0 and y2 < 0):
                continue
            x, y, z = pad * (rotation.T @ np.array([x2, y2, 0.0]))
            if x < 0:
                x, y, z, value = -x, -y, -z, value.conjugate()
            y, z = y + shape[1] // 2, z + shape[0] // 2
            x0, y0, z0 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            for dz in (0, 1):
                for dy in (0, 1):
                    for dx in (0, 1):
                        share = (1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy)) * (1 - abs(z - z0 - dz))
                        sums[z0 + dz, y0 + dy, x0 + dx] += share * np.array([value.real, value.imag, w])
    return sums


def random_slices(count, box, seed, r_max=None):
    rng = np.random.default_rng(seed)
    kx, ky = disc(r_max or box // 2, friedel_pairs=True)
    images = rng.standard_normal((count, len(kx))) + 1j * rng.standard_normal((count, len(kx)))
    weights = rng.uniform(-0.2, 1.0, (count, len(kx)))
    return images, weights, random_rotations(count, seed + 1), kx, ky


@pytest.mark.parametrize("padding", [1.0, 2.0])
def test_sums_are_trilinear_shares(padding):
    images, weights, rotations, kx, ky = random_slices(12, 16, 1)
    sums = BackProjector(16, padding=padding)
    sums.insert(images, weights, rotations, kx, ky)
    expected = brute_insert(sums.grid.shape, images, weights, rotations, kx, ky, padding)
    np.testing.assert_allclose(sums.grid, expected, atol=1e-4)
    np.testing.assert_array_equal(sums.data, sums.grid[..., 0] + 1j * sums.grid[..., 1])
    np.testing.assert_array_equal(sums.weight, sums.grid[..., 2])


def test_pixels_beyond_the_current_size_are_left_out():
    images, weights, rotations, kx, ky = random_slices(10, 24, 2)
    within = np.hypot(kx, ky) <= 8
    small, same = BackProjector(24, 16), BackProjector(24, 16)
    small.insert(images, weights, rotations, kx, ky)
    same.insert(images[:, within], weights[:, within], rotations, kx[within], ky[within])
    assert small.r_max == 8
    np.testing.assert_array_equal(small.grid, same.grid)
    assert small.weight.sum() > 0


def test_hermitian_plane_holds_the_sum_of_mates():
    images, weights, rotations, kx, ky = random_slices(20, 12, 4)
    sums = BackProjector(12)
    sums.insert(images, weights, rotations, kx, ky)
    before, weight = sums.data[:, :, 0].copy(), sums.weight[:, :, 0].copy()
    rest = sums.grid[:, :, 1:].copy()
    sums.enforce_hermitian()
    total, total_weight = before + before[::-1, ::-1].conj(), weight + weight[::-1, ::-1]
    centre = len(before) // 2
    total[centre, centre], total_weight[centre, centre] = before[centre, centre], weight[centre, centre]
    np.testing.assert_allclose(sums.data[:, :, 0], total, atol=1e-6)
    np.testing.assert_allclose(sums.weight[:, :, 0], total_weight, atol=1e-6)
    np.testing.assert_array_equal(sums.grid[:, :, 1:], rest)


@pytest.mark.parametrize(("group", "workers"), [("C4", 1), ("D2", 2), ("O", 2)])
def test_symmetry_equals_inserting_every_mate(group, workers):
    # These groups map the grid onto itself, so that turning the sums interpolates nothing.
    images, weights, rotations, kx, ky = random_slices(15, 16, 5)
    ops = operators(group)
    turned, mates = BackProjector(16, operators=ops), BackProjector(16)
    turned.insert(images, weights, rotations, kx, ky)
    turned.symmetrise(workers=workers)
    for op in ops:
        mates.insert(images, weights, rotations @ op, kx, ky)
    mates.enforce_hermitian()
    origin = (turned.grid.shape[0] // 2, turned.grid.shape[1] // 2, 0)
    turned.grid[origin], mates.grid[origin] = 0, 0  # the origin is its own mate: counted once or twice
    scale = abs(mates.grid).max()
    # Sums at the rim leak into voxels beyond the radius, which symmetrisation leaves alone.
    z, y, x = np.ogrid[: turned.grid.shape[0], : turned.grid.shape[1], : turned.grid.shape[2]]
    inside = (z - origin[0]) ** 2 + (y - origin[1]) ** 2 + x**2 <= turned.r_max_padded**2
    # A mate on x == 0 may be stored on either side of the plane; the folded plane holds both.
    np.testing.assert_allclose(turned.grid[inside], mates.grid[inside], atol=2e-5 * scale)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("group", ["C1", "C2", "C3", "C6", "D2", "D3", "D7", "T", "O", "I1", "I3"])
def test_symmetry_is_the_sum_over_all_operators_interpolated_once(group, workers):
    """Whatever way it is made: out(x) = sum over R of grid(R x), trilinear (SciPy's), within the radius alone."""
    images, weights, rotations, kx, ky = random_slices(30, 12, 8)
    found = BackProjector(12, operators=operators(group))
    found.insert(images, weights, rotations, kx, ky)
    found.enforce_hermitian()
    found.grid[len(found.grid) // 2, len(found.grid) // 2, 0, 1] = 0.0  # of no meaning
    start = found.grid.astype(np.float64)
    whole = np.concatenate([start[::-1, ::-1, :0:-1] * [1, -1, 1], start], axis=2)
    middle = np.array(whole.shape[:3])[:, None, None, None] // 2
    z, y, x = np.indices(whole.shape[:3]) - middle
    points, wanted = np.stack([x, y, z], axis=-1), np.zeros_like(whole)
    for operator in operators(group):
        places = np.moveaxis((points @ operator.T)[..., ::-1], -1, 0) + middle
        for part in range(3):
            wanted[..., part] += map_coordinates(whole[..., part], places, order=1, mode="nearest")
    beyond = z**2 + y**2 + x**2 > found.r_max_padded**2
    wanted[beyond] = whole[beyond]
    wanted = wanted[:, :, x.shape[2] // 2 :]
    found.enforce_hermitian = lambda: None  # which has been done
    found.symmetrise(workers=workers)
    np.testing.assert_allclose(found.grid, wanted, atol=3e-5 * abs(wanted).max())


def test_low_resolution_sums_travel():
    images, weights, rotations, kx, ky = random_slices(20, 24, 6)
    first, second = BackProjector(24), BackProjector(24)
    first.insert(images[:10], weights[:10], rotations[:10], kx, ky)
    second.insert(images[10:], weights[10:], rotations[10:], kx, ky)
    low = first.low_resolution(5)
    joined, before = second.copy(), second.grid.copy()
    joined.set_low_resolution(low, 5)
    z, y, x = np.ogrid[: before.shape[0], : before.shape[1], : before.shape[2]]
    inside = (z - before.shape[0] // 2) ** 2 + (y - before.shape[1] // 2) ** 2 + x**2 <= 10**2
    np.testing.assert_array_equal(joined.grid[inside], first.grid[inside])
    np.testing.assert_array_equal(joined.grid[~inside], before[~inside])
    np.testing.assert_array_equal(second.grid, before)
    with pytest.raises(ValueError, match="outside 0 to 12"):
        first.low_resolution(13)


def test_downsampled_average_is_weighted():
    images, weights, rotations, kx, ky = random_slices(40, 12, 7)
    sums = BackProjector(12)
    sums.insert(images, weights, rotations, kx, ky)
    average = sums.downsampled_average()
    centre = len(sums.grid) // 2
    for z, y, x in ((0, 0, 2), (3, -2, 1), (-4, 1, 3), (1, -5, 0)):
        # Of a pair of halves, ROUND takes the one farther from zero: k / 2 in {.. -0.5 -> -1, 0.5 -> 1 ..}.
        def members(n):
            return [k for k in range(-centre, centre + 1) if np.sign(k) * ((abs(k) + 1) // 2) == n]

        total, weight = 0j, 0.0
        for k in members(z):
            for i in members(y):
                for j in (m for m in members(x) if m >= 0):
                    total += complex(sums.data[k + centre, i + centre, j])
                    weight += float(sums.weight[k + centre, i + centre, j])
        assert average[z + 7, y + 7, x] == pytest.approx(total / weight, rel=1e-5)


def test_halves_of_one_object_agree_and_noise_does_not():
    box = 32
    blobs = Blobs.random(8)
    kx, ky = disc(16)
    rng = np.random.default_rng(9)
    halves, noise = [], []
    for seed in (10, 11):
        rotations = random_rotations(400, seed)
        shape = (400, len(kx))
        white = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        for images, into in ((blobs.slices(rotations, kx, ky, box), halves), (white, noise)):
            into.append(BackProjector(box))
            into[-1].insert(images, np.ones(shape), rotations, kx, ky)
    signal, chance = halves[0].fsc(halves[1]), noise[0].fsc(noise[1].downsampled_average())
    assert signal[0] == chance[0] == 1.0
    assert signal[1:16].min() > 0.97
    assert abs(chance[4:16]).max() < 0.25
    assert np.array_equal(halves[0].fsc(halves[0])[1:17].round(6), np.ones(16))


def test_average_in_the_plane():
    box = 24
    kx, ky = disc(12)
    flat = Blobs(Blobs.random(12, reach=5.0).centres * [1, 1, 0], np.ones(12), 1.5)
    angles = np.deg2rad(np.arange(0, 360, 3.0))
    c, s, o, l = np.cos(angles), np.sin(angles), 0 * angles, 1 + 0 * angles
    rotations = np.stack([np.stack([c, s, o], -1), np.stack([-s, c, o], -1), np.stack([o, o, l], -1)], 1)
    images = flat.slices(rotations, kx, ky, box)
    sums = BackProjector(box, ndim=2)
    sums.insert(images, np.ones(images.shape), rotations, kx, ky)
    sums.enforce_hermitian()
    assert not sums.grid[[0, 2]].any()
    average = sums.downsampled_average()
    truth = flat.slices(np.eye(3)[None], kx, ky, box)[0]
    ours = average[0, ky + 13, kx]
    agreement = (ours * truth.conj()).real.sum() / np.sqrt((abs(ours) ** 2).sum() * (abs(truth) ** 2).sum())
    assert agreement > 0.97


def test_refuses_what_is_no_rotation():
    kx, ky = disc(8)
    with pytest.raises(ValueError, match="not finite"):
        BackProjector(16).insert(np.zeros((1, len(kx))), np.ones((1, len(kx))), np.full((1, 3, 3), np.nan), kx, ky)
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        BackProjector(16, ndim=1)
