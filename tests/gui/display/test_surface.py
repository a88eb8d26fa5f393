"""The lit surface against a ball of known radius and a marker of known place."""

from __future__ import annotations

import math

import numpy as np
import pytest

from relion_py.gui.display import surface

WHITE = (255, 255, 255)


def covered(picture: np.ndarray) -> np.ndarray:
    return np.any(picture != np.array(WHITE, dtype=np.uint8), axis=2)


@pytest.mark.parametrize(("rot", "tilt"), [(0.0, 0.0), (35.0, -50.0)])
def test_a_ball_covers_the_area_of_its_radius_from_every_side(sphere: np.ndarray, rot: float, tilt: float) -> None:
    picture = surface.render_surface(sphere, 0.5, rot, tilt, size=160)
    area = covered(picture).sum() * (40 / 160) ** 2
    assert area == pytest.approx(math.pi * 10**2, rel=0.02)


def test_zoom_enlarges(sphere: np.ndarray) -> None:
    once = covered(surface.render_surface(sphere, 0.5, size=120)).sum()
    twice = covered(surface.render_surface(sphere, 0.5, size=120, zoom=1.5)).sum()
    assert twice == pytest.approx(1.5**2 * once, rel=0.03)


def test_nothing_above_the_threshold_shows_the_background(sphere: np.ndarray) -> None:
    assert not covered(surface.render_surface(sphere, 2.0, size=40)).any()


def test_unturned_view_is_that_of_the_z_slices() -> None:
    volume = np.zeros((30, 30, 30), dtype=np.float32)
    volume[13:17, 4:7, 22:25] = 1.0  # y small: upper half; x large: right half
    rows, columns = np.nonzero(covered(surface.render_surface(volume, 0.5, 0, 0, size=60)))
    assert rows.mean() == pytest.approx(2 * (5 + 0.5), abs=1.5)
    assert columns.mean() == pytest.approx(2 * (23 + 0.5), abs=1.5)


def test_rotation_is_a_proper_rotation() -> None:
    turn = surface.rotation(33.0, 71.0)
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1.0)


def test_reduction_averages_cubes_and_mends_what_is_no_number() -> None:
    volume = np.arange(8**3, dtype=np.float32).reshape(8, 8, 8)
    small, factor = surface.reduce_volume(volume, 4)
    assert factor == 2
    assert small[0, 0, 0] == volume[:2, :2, :2].mean()
    volume[0, 0, 0] = np.nan
    assert np.isfinite(surface.reduce_volume(volume, 8)[0]).all()


def test_threshold_of_a_mask_is_halfway(sphere: np.ndarray) -> None:
    assert surface.suggest_threshold(sphere) == pytest.approx(0.5)


def test_threshold_of_a_noisy_map_lies_above_the_noise_and_within_the_molecule(sphere: np.ndarray) -> None:
    noisy = sphere + np.random.default_rng(1).normal(0, 0.05, sphere.shape)
    assert 0.2 < surface.suggest_threshold(noisy) < 1.0


def test_zoom_fits_what_is_seen(sphere: np.ndarray) -> None:
    zoom = surface.fitting_zoom(sphere, 0.5)
    picture = covered(surface.render_surface(sphere, 0.5, size=100, zoom=zoom))
    assert not picture[0].any()
    assert picture.any(axis=0).sum() > 90
