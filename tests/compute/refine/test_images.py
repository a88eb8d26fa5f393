"""Images before the expectation: every step against its definition in float64, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.refine.images import DiscPixels, noise_images

BOX, RADIUS, EDGE = 24, 8.0, 3.0


def centred_transform(image: np.ndarray, pixels: DiscPixels) -> np.ndarray:
    """sum over x of image(x) exp(-2 pi i k (x - box//2) / box) / box^2, written as the sum it is."""
    place = np.arange(BOX) - BOX // 2
    wave_x = np.exp(-2j * np.pi * np.outer(pixels.kx, place) / BOX)
    wave_y = np.exp(-2j * np.pi * np.outer(pixels.ky, place) / BOX)
    return np.einsum("py,yx,px->p", wave_y, image.astype(float), wave_x) / BOX**2


def moved(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    out = np.zeros_like(image)
    for y in range(BOX):
        for x in range(BOX):
            if 0 <= y - dy < BOX and 0 <= x - dx < BOX:
                out[y, x] = image[y - dy, x - dx]
    return out


@pytest.mark.parametrize("size", [8, 16, BOX])
def test_the_disc_holds_each_pair_of_opposite_pixels_once(size: int) -> None:
    pixels = DiscPixels.of_size(size)
    pairs = {tuple(sorted([(x, y), (-x, -y)])) for x, y in zip(pixels.kx.tolist(), pixels.ky.tolist(), strict=True)}
    r = size // 2
    wanted = {
        tuple(sorted([(x, y), (-x, -y)]))
        for x in range(-r, r + 1) for y in range(-r, r + 1) if 0 < x * x + y * y <= r * r
    }  # fmt: skip
    assert pairs == wanted and len(pairs) == pixels.size
    np.testing.assert_array_equal(pixels.shell, np.rint(np.hypot(pixels.kx, pixels.ky)))


def test_positions_in_a_larger_disc() -> None:
    small, large = DiscPixels.of_size(10), DiscPixels.of_size(18)
    where = small.positions_in(large)
    np.testing.assert_array_equal(large.kx[where], small.kx)
    np.testing.assert_array_equal(large.ky[where], small.ky)


@pytest.mark.parametrize("filled_with_noise", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_images_are_moved_scaled_masked_and_transformed(filled_with_noise: bool, threads: int) -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(0.3, 1.0, (3, BOX, BOX)).astype(np.float32)
    shift = np.array([[0, 0], [3, -2], [-5, 30]])
    factor = np.array([1.0, 0.5, 2.0])
    noise = rng.normal(size=images.shape).astype(np.float32) if filled_with_noise else None
    pixels = DiscPixels.of_size(14)
    with CpuBackend(threads) as backend:
        unmasked, masked, spectrum, means = backend.transform_images(
            images.copy(), shift, factor, RADIUS, EDGE, pixels, noise
        )
    inside = soft_mask(BOX, RADIUS, EDGE, 2)
    for n in range(3):
        image = moved(images[n], *shift[n]) * factor[n]
        np.testing.assert_allclose(unmasked[n], centred_transform(image, pixels), atol=2e-6)
        outside = 1.0 - inside
        fill = (image * outside).sum() / outside.sum() if noise is None else noise[n]
        image = image * inside + fill * outside
        np.testing.assert_allclose(masked[n], centred_transform(image, pixels), atol=2e-6)
        assert means[n] == pytest.approx(image.mean(), rel=1e-4)
        whole = DiscPixels.of_size(2 * BOX)  # far enough for all shells, cut below
        keep = (whole.kx <= BOX // 2) & (whole.ky <= BOX // 2) & (whole.ky > -BOX // 2)
        power = np.abs(np.fft.fft2(image)[whole.ky % BOX, whole.kx % BOX] / BOX**2) ** 2
        expected = np.bincount(whole.shell[keep], power[keep], whole.shell.max() + 1)[: BOX // 2]
        np.testing.assert_allclose(spectrum[n, 1 : BOX // 2], expected[1:], rtol=1e-4)


def test_noise_images_have_the_spectrum_that_is_asked_for() -> None:
    sigma2 = 1e-3 / (1.0 + np.arange(BOX // 2 + 1))
    made = noise_images(np.tile(sigma2, (400, 1)), BOX, np.arange(400))
    pixels = DiscPixels.of_size(BOX)
    power = np.abs(np.fft.fft2(made)[:, pixels.ky % BOX, pixels.kx % BOX] / BOX**2) ** 2
    inner = (pixels.kx > 0) & (pixels.kx < BOX // 2) & (np.abs(pixels.ky) < BOX // 2)
    mean = power.mean(axis=0)
    for shell in range(2, BOX // 2):
        here = inner & (pixels.shell == shell)
        # two components of variance sigma2 each
        assert mean[here].mean() == pytest.approx(2.0 * sigma2[shell], rel=0.12)


def test_the_noise_of_a_particle_depends_on_its_seed_alone() -> None:
    sigma2 = np.ones((3, BOX // 2 + 1))
    together = noise_images(sigma2, BOX, np.array([5, 6, 7]))
    np.testing.assert_array_equal(noise_images(sigma2[:1], BOX, np.array([6]))[0], together[1])
    assert np.abs(together[0] - together[1]).max() > 0.1
