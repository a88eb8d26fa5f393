"""Grey levels, colours, filters and scale bars: numbers worked out by hand or by another rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relion_py.gui.display import render


def test_limits_follow_the_references_order_of_rules() -> None:
    image = np.array([[0.0, 2.0], [4.0, 10.0]])
    mean, deviation = 4.0, math.sqrt((16 + 4 + 0 + 36) / 4)
    assert render.contrast_limits(image, sigma=2) == pytest.approx((mean - 2 * deviation, mean + 2 * deviation))
    assert render.contrast_limits(image, sigma=2, black=1, white=3)[0] == pytest.approx(mean - 2 * deviation)
    assert render.contrast_limits(image, black=1, white=3) == (1, 3)
    assert render.contrast_limits(image) == (0, 10)


def test_percentiles_leave_out_hot_pixels_and_nan() -> None:
    image = np.linspace(0, 1, 10_000).reshape(100, 100)
    image[0, 0], image[5, 5] = 1e6, np.nan
    low, high = render.contrast_limits(image, percentile=1)
    assert low == pytest.approx(0.01, abs=0.002)
    assert high == pytest.approx(0.99, abs=0.002)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.full((3, 3), 7.0)])
def test_flat_and_empty_images_have_limits_that_can_be_drawn(image: np.ndarray) -> None:
    low, high = render.contrast_limits(image)
    assert math.isfinite(low)
    assert high > low
    assert render.to_bytes(image, low, high).shape == image.shape


def test_bytes_clip_round_and_blacken_what_is_no_number() -> None:
    levels = render.to_bytes(np.array([-5.0, 0.0, 0.5, 1.0, 9.0, np.nan, np.inf]), 0.0, 1.0)
    assert levels.tolist() == [0, 0, 128, 255, 255, 0, 255]
    assert render.to_bytes(np.array([0.0, 1.0]), 1.0, 0.0).tolist() == [255, 0]


def grey_to_rgb(name: str, grey: int) -> tuple[float, float, float]:
    """The rules of RELION 5, image.h, greyToRGB, as formulas (before rounding down)."""
    if name == "fire":
        return (255, (255 - grey) * 2, (255 - grey) * 2) if grey >= 128 else (grey * 2, grey * 2, grey * 2)
    if name == "ice":
        return ((grey - 128) * 2,) * 3 if grey >= 128 else (0, 255 - 2 * grey, 255 - 2 * grey)
    if name == "fire-n-ice":
        group, rest = divmod(grey / 85.0, 1)
        y = 255 * rest
        return [(0, 255 - y, 255 - y), (y, y, y), (255, 255 - y, 255 - y), (255, 0, 0)][int(group)]
    if name == "rainbow":
        group, rest = divmod((255 - grey) / 64.0, 1)
        y = 255 * rest
        return [(255, y, 0), (255 - y, 255, 0), (0, 255, y), (0, 255 - y, 255), (0, 0, 255)][int(group)]
    away = 3 * (grey - 128)
    green = 3 * (abs(grey - 128) - 42)
    return tuple(min(255.0, max(0.0, v)) for v in (away, green, -away))  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["fire", "ice", "fire-n-ice", "rainbow", "difference"])
def test_colour_tables_are_the_references(name: str) -> None:
    table = render.colour_table(name).astype(float)
    expected = np.array([grey_to_rgb(name, grey) for grey in range(256)])
    assert np.abs(table - expected).max() <= 6  # anchors are evenly spaced; the reference rounds down in steps


def test_low_pass_keeps_what_is_coarser_and_removes_what_is_finer() -> None:
    y, x = np.mgrid[:64, :128]
    coarse = np.cos(2 * np.pi * 4 * x / 128)  # 32 px = 64 A at 2 A/px
    fine = np.cos(2 * np.pi * 16 * y / 64)  # 4 px = 8 A
    image = (coarse + fine).astype(np.float32)
    assert np.abs(render.band_pass(image, 2.0, lowpass=20) - coarse).max() < 1e-5
    shell, left = round(128 * 2.0 / 20), 0.5 - 0.5 * math.cos(math.pi * (4 - (13 - 12)) / 24)
    assert shell == 13  # the reference's soft edge reaches twelve shells to either side
    assert np.abs(render.band_pass(image, 2.0, highpass=20) - fine - left * coarse).max() < 1e-5
    assert np.array_equal(render.band_pass(image, 2.0), image)


def test_filter_mends_pixels_that_are_no_numbers() -> None:
    image = np.ones((16, 16), dtype=np.float32)
    image[3, 3] = np.nan
    assert np.isfinite(render.band_pass(image, 1.0, lowpass=4)).all()


def test_binning_averages_blocks() -> None:
    image = np.arange(36, dtype=np.float32).reshape(6, 6)
    small = render.bin_down(image, 2)
    assert small.shape == (2, 2)
    assert small[0, 0] == image[:3, :3].mean()
    assert render.bin_down(image, 6) is not None
    assert render.binning((4096, 4000), 1400) == 3


@given(st.floats(min_value=0.5, max_value=1e5))
def test_scale_bar_is_a_round_number_that_fits(width: float) -> None:
    length = render.scale_bar(width)
    assert 0.1 * width <= length <= 0.3 * width * 1.0001
    assert round(length / 10 ** math.floor(math.log10(length) + 1e-9), 6) in (1, 2, 5)


def test_scale_bar_without_pixel_size() -> None:
    assert render.scale_bar(0.0) == 0.0
    assert render.describe_length(500) == "500 Å"
    assert render.describe_length(2000) == "200 nm"
