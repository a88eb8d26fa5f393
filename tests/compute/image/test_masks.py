"""Masks against a loop written from the definition."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.image.masks import flatten_solvent, level_solvent, mask_outside, soft_mask


def loop_mask_outside(image: np.ndarray, radius: float, edge: float, noise: np.ndarray | None) -> np.ndarray:
    """softMaskOutsideMap, pixel by pixel in double precision."""
    out, half = image.astype(np.float64), len(image) // 2
    weight = np.zeros(image.shape)
    for y, x in np.ndindex(image.shape):
        r = np.hypot(y - half, x - half)
        if r > radius + edge:
            weight[y, x] = 1
        elif r >= radius:
            weight[y, x] = 0.5 + 0.5 * np.cos(np.pi * (radius + edge - r) / edge)
    fill = np.full(image.shape, (weight * out).sum() / weight.sum()) if noise is None else noise
    return (1 - weight) * out + weight * fill


@pytest.mark.parametrize("box", [20, 21])
@pytest.mark.parametrize("filling", ["mean", "noise"])
def test_mask_outside(box: int, filling: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(2.0, 1.0, size=(3, box, box)).astype(np.float32)
    noise = rng.normal(size=images.shape).astype(np.float32) if filling == "noise" else None
    got = mask_outside(images, 5.5, 3.0, background=noise)
    assert got.dtype == np.float32
    for n in range(3):
        expected = loop_mask_outside(images[n], 5.5, 3.0, None if noise is None else noise[n])
        np.testing.assert_allclose(got[n], expected, atol=2e-6)


def test_mask_outside_with_zero_is_the_soft_mask() -> None:
    volume = np.random.default_rng(1).normal(size=(12, 12, 12)).astype(np.float32)
    expected = volume * soft_mask(12, 3.0, 2.0)
    np.testing.assert_allclose(mask_outside(volume, 3.0, 2.0, 3, 0.0), expected, atol=1e-6)
    constant = np.full((10, 10), 7.0, dtype=np.float32)
    np.testing.assert_allclose(mask_outside(constant, 2.0, 2.0), constant)


def test_soft_mask_profile() -> None:
    mask = soft_mask(32, 8.0, 4.0)
    assert mask.shape == (32, 32, 32) and mask.dtype == np.float32
    line = mask[16, 16, 16:]
    np.testing.assert_allclose(line[:9], 1.0)
    np.testing.assert_allclose(line[10], 0.5, atol=1e-6)
    np.testing.assert_allclose(line[12:], 0.0)
    assert soft_mask(8, -1.0, 2.0, 2)[4, 0] == 1.0
    assert set(np.unique(soft_mask(16, 5.0, 0.0, 2))) == {0.0, 1.0}


def test_flatten_solvent() -> None:
    volume = np.ones((8, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(flatten_solvent(volume, None, 2.0, 1.0), soft_mask(8, 2.0, 1.0))
    mask = soft_mask(8, 3.0, 1.0)
    np.testing.assert_allclose(flatten_solvent(2 * volume, mask), 2 * mask)


def test_level_solvent() -> None:
    volume = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    mask = np.zeros_like(volume)
    mask[:2] = 1.0
    levelled = level_solvent(volume, mask)
    np.testing.assert_allclose(levelled[:2], volume[:2])
    np.testing.assert_allclose(levelled[2:], volume[2:].mean())
    inverse = level_solvent(volume, mask, invert=True)
    np.testing.assert_allclose(inverse[:2], volume[:2].mean())


def test_bad_masks_are_refused_with_a_sentence() -> None:
    volume = np.ones((4, 4, 4), dtype=np.float32)
    with pytest.raises(UserError, match="between 0 and 1"):
        flatten_solvent(volume, 1.5 * volume)
    with pytest.raises(UserError, match="between 0 and 1"):
        flatten_solvent(volume, -0.1 * volume)
    with pytest.raises(UserError, match="8 x 8 x 8 voxels but the map has 4 x 4 x 4"):
        flatten_solvent(volume, np.ones((8, 8, 8), dtype=np.float32))
    with pytest.raises(UserError, match="not numbers"):
        level_solvent(volume, np.nan * volume)
