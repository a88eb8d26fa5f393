"""New parameters from weighted sums, against hand-made sums and brute-force counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from relion_py.compute.refine.expectation import WeightedSums
from relion_py.compute.refine.images import half_transforms
from relion_py.compute.refine.maximization import initial_noise, mean_shell_power, power_of_average, update_model
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.optics import half_plane_pixels

BOX, GROUPS, OPTICS, DIRECTIONS = 16, 4, 2, 12
SHELLS = BOX // 2 + 1


def test_pixels_of_a_half_plane_by_counting() -> None:
    counted = np.zeros(SHELLS, int)
    for ky in range(-BOX // 2 + 1, BOX // 2 + 1):
        for kx in range(BOX // 2 + 1):
            shell = round(np.hypot(kx, ky))
            if shell < SHELLS and not (kx == 0 and ky < 0):
                counted[shell] += 1
    np.testing.assert_array_equal(half_plane_pixels(BOX), counted)


@pytest.fixture
def sums() -> WeightedSums:
    rng = np.random.default_rng(8)
    new = WeightedSums.zeros((0, 0, 0), 1, DIRECTIONS, SHELLS, OPTICS, GROUPS)
    new.sum_weight = 40.0
    new.sumw_group[:] = (30.0, 10.0)
    new.sigma2_noise[:] = rng.uniform(1, 2, (OPTICS, SHELLS))
    new.pdf_direction[:] = rng.uniform(0, 1, (1, DIRECTIONS))
    new.pdf_direction *= 40.0 / new.pdf_direction.sum()
    new.sigma2_offset, new.avg_norm_correction, new.sum_pmax = 720.0, 44.0, 12.0
    new.reference_power[:] = (2.0, 2.0, 2.0, 0.0)
    new.signal_product[:] = (2.0, 3.0, 60.0, 0.0)
    return new


def updated(sums: WeightedSums, **change: object) -> ModelState:
    new = ModelState.new(
        BOX, 2.0, group_names=list("abcd"), nr_particles_per_group=np.array([10, 10, 10, 10]),
        nr_optics_groups=OPTICS, nr_directions=DIRECTIONS,
    )  # fmt: skip
    new.sigma2_noise[:] = 0.5
    usual: dict[str, object] = {
        "min_sigma2_offset": 2.0, "fix_sigma_offset": False, "fix_sigma_noise": False, "do_norm": True,
        "do_scale": True, "by_correlation": False,
    }  # fmt: skip
    update_model(new, sums, **{**usual, **change})  # type: ignore[arg-type]
    return new


def test_every_parameter_is_its_mean(sums: WeightedSums) -> None:
    new = updated(sums)
    assert new.avg_norm_correction == pytest.approx(1.1) and new.ave_pmax == pytest.approx(0.3)
    assert new.sigma_offset == pytest.approx(3.0)  # sqrt(720 / (2 * 40))
    assert new.pdf_direction.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(new.pdf_direction * 40.0, sums.pdf_direction)
    pixels = half_plane_pixels(BOX)
    for group, weight in enumerate((30.0, 10.0)):
        expected = sums.sigma2_noise[group] / (2.0 * weight * pixels)
        np.testing.assert_allclose(new.sigma2_noise[group, 1:], expected[1:])
        assert new.sigma2_noise[group, 0] > 0  # RELION reads what is in the file, and stops without it


def test_prior_offsets_of_2d_classes_are_means_over_all_particles(sums: WeightedSums) -> None:
    """So that a class's prior lies between the centre and the mean offset of its particles (as in RELION)."""
    sums.prior_offset[:] = (60.0, -20.0)
    new = ModelState.new(BOX, 2.0, group_names=["a"], nr_particles_per_group=np.array([40]), ref_dim=2, nr_directions=1)
    keep: dict[str, Any] = {"do_norm": False, "do_scale": False, "fix_sigma_noise": True, "fix_sigma_offset": True}
    update_model(new, sums, min_sigma2_offset=2.0, by_correlation=False, **keep)
    np.testing.assert_allclose(new.prior_offset_class, [[1.5, -0.5]])


def test_scales_are_kept_near_their_median_and_their_mean_is_one(sums: WeightedSums) -> None:
    scale = updated(sums).scale_correction
    # 1, 1.5, 30 and (unknown) 1: the third becomes five medians
    median = 1.5
    np.testing.assert_allclose(scale / scale[0], [1.0, 1.5, 5.0 * median, 1.0])
    assert scale.mean() == pytest.approx(1.0)


def test_what_is_fixed_stays(sums: WeightedSums) -> None:
    new = updated(sums, fix_sigma_offset=True, fix_sigma_noise=True, do_norm=False, do_scale=False)
    assert new.sigma_offset == 10.0 and (new.sigma2_noise == 0.5).all()
    assert new.avg_norm_correction == 1.0 and (new.scale_correction == 1.0).all()
    assert updated(sums, min_sigma2_offset=25.0).sigma_offset == pytest.approx(5.0)


def test_after_a_first_iteration_by_correlation_noise_and_scales_stay(sums: WeightedSums) -> None:
    new = updated(sums, by_correlation=True)
    assert (new.sigma2_noise == 0.5).all() and (new.scale_correction == 1.0).all()
    assert new.sigma_offset == pytest.approx(3.0)


def test_nothing_changes_without_particles(sums: WeightedSums) -> None:
    sums.sum_weight = 0.0
    assert updated(sums).sigma_offset == 10.0


def test_initial_noise_is_the_power_less_that_of_the_mean_image() -> None:
    """Noise of variance v on a common picture: v / (2 box^2) in each component, whatever the picture."""
    rng = np.random.default_rng(4)
    count, variance = 3000, 2.5
    y, x = np.indices((BOX, BOX)) - BOX / 2
    picture = 3.0 * np.exp(-(x**2 + y**2) / 12.0)
    images = picture + np.sqrt(variance) * rng.standard_normal((count, BOX, BOX))
    power = mean_shell_power(half_transforms(images.astype(np.float32))).sum(axis=0)
    noise = initial_noise(power[None], np.array([float(count)]), power_of_average(images.mean(axis=0))[None])
    np.testing.assert_allclose(noise[0, 2:], variance / (2 * BOX**2), rtol=0.06)


def test_shells_without_noise_take_their_neighbours_value() -> None:
    power = np.full((1, SHELLS), 2.0)
    power[0, [0, 3]] = 0.0
    noise = initial_noise(power, np.array([1.0]), np.zeros((1, SHELLS)))
    np.testing.assert_allclose(noise, 1.0)
