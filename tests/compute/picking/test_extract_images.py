"""Boxes of particles: edges of the micrograph, normalisation, dust, rescaling."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.picking.extract_images import (
    ImageOptions,
    background_mask,
    cut_boxes,
    process_images,
    touches,
)

RANDOM = np.random.default_rng(5)


def at(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_a_box_has_its_coordinate_at_its_centre_and_repeats_the_edge_outside() -> None:
    micrograph = np.arange(20 * 30, dtype=np.float32).reshape(20, 30)
    inner, corner = cut_boxes(micrograph, at(10, 1), at(7, 18), 8)
    assert np.array_equal(inner, micrograph[3:11, 6:14])
    padded = np.pad(micrograph, 8, mode="edge")
    assert np.array_equal(corner, padded[8 + 14 : 8 + 22, 8 - 3 : 8 + 5])


def test_boxes_wholly_outside_are_told_from_those_that_touch_by_one_pixel() -> None:
    x = at(-4, -3, 33, 34, 10, 10, 10, 10)
    y = at(5, 5, 5, 5, -4, -3, 23, 24)
    found = touches((20, 30), x, y, 8)
    brute = [
        any(0 <= column < 30 for column in range(a - 4, a + 4)) and any(0 <= row < 20 for row in range(b - 4, b + 4))
        for a, b in zip(x, y, strict=True)
    ]
    assert found.tolist() == brute
    assert brute[:4] == [False, True, True, False]


def test_the_background_has_mean_0_and_deviation_1_and_no_slope() -> None:
    y, x = np.indices((3, 48, 48))[1:]
    images = 500 + 2.0 * x - 3.0 * y + 7 * RANDOM.standard_normal((3, 48, 48))
    images[:, 20:28, 20:28] -= 100
    out = process_images(images, ImageOptions(normalise=True, background_radius=18), RANDOM)
    mask = background_mask(48, 18)
    assert mask.sum() == sum((i - 24) ** 2 + (j - 24) ** 2 > 18**2 for i in range(48) for j in range(48))
    for image in out:
        pixels = image[mask].astype(np.float64)
        assert abs(pixels.mean()) < 1e-5
        assert abs(pixels.std() - 1) < 1e-5
        terms = np.stack([x[0][mask], y[0][mask], np.ones(mask.sum())], axis=1)
        assert np.abs(np.linalg.lstsq(terms, pixels, rcond=None)[0][:2]).max() < 1e-6
        assert image[20:28, 20:28].mean() < -10  # the particle stays dark
    turned = process_images(images, ImageOptions(normalise=True, background_radius=18, invert=True), RANDOM)
    assert np.array_equal(turned, -out)


def test_without_a_plane_the_slope_stays() -> None:
    image = np.broadcast_to(np.arange(32.0), (1, 32, 32))
    options = ImageOptions(normalise=True, ramp=False, background_radius=10)
    out = process_images(image, options, RANDOM)
    assert np.allclose(np.diff(out[0], axis=1), np.diff(out[0], axis=1)[0, 0])
    assert out[0, 0, -1] - out[0, 0, 0] > 2


def test_a_constant_image_is_not_divided_by_nothing() -> None:
    out = process_images(np.full((1, 32, 32), 7.0), ImageOptions(normalise=True, background_radius=10), RANDOM)
    assert np.allclose(out, 0)


@pytest.mark.parametrize("sign, options", [(1, {"white_dust": 5.0}), (-1, {"black_dust": 5.0})])
def test_dust_goes_and_everything_else_stays(sign: int, options: dict[str, float]) -> None:
    clean = RANDOM.standard_normal((2, 64, 64))
    dusty = clean.copy()
    spots = [(0, 32, 30), (0, 2, 60), (1, 10, 10)]
    for spot in spots:
        dusty[spot] = sign * 80
    normal = ImageOptions(normalise=True, background_radius=24)
    wanted = process_images(clean, normal, RANDOM)
    got = process_images(dusty, ImageOptions(normalise=True, background_radius=24, **options), RANDOM)
    elsewhere = np.ones(clean.shape, dtype=bool)
    for spot in spots:
        assert abs(got[spot]) < 6
        elsewhere[spot] = False
    assert np.abs(got - wanted)[elsewhere].max() < 0.02
    other = {"white_dust": 5.0} if sign < 0 else {"black_dust": 5.0}
    kept = process_images(dusty, ImageOptions(normalise=True, background_radius=24, **other), RANDOM)
    assert sign * kept[spots[0]] > 30


def test_rescaling_keeps_the_wave_and_the_centre() -> None:
    y, x = np.indices((64, 64)) - 32
    image = np.cos(2 * np.pi * (3 * x + 2 * y) / 64)[None]
    out = process_images(image, ImageOptions(scale=32), RANDOM)[0]
    b, a = np.indices((32, 32)) - 16
    assert np.abs(out - np.cos(2 * np.pi * (3 * a + 2 * b) / 32)).max() < 1e-6
    both = process_images(image, ImageOptions(scale=32, window=20), RANDOM)[0]
    assert np.array_equal(both, out[6:26, 6:26])


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="--bg_radius"):
        ImageOptions(normalise=True).check(64)
    with pytest.raises(UserError, match="too large"):
        ImageOptions(normalise=True, scale=32, background_radius=17).check(64)
    ImageOptions(normalise=True, scale=32, background_radius=16).check(64)
