"""Decisions of automatic refinement against the reference's rules, case by case (cited in `convergence`)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_project import ARGS

from relion_py.compute.refine import convergence
from relion_py.compute.refine.model import (
    NO_PRIOR,
    PRIOR_ROTTILT_PSI,
    BodyState,
    ModelState,
    OptimiserState,
    SamplingState,
)
from relion_py.compute.refine.options import RefineOptions

BOX, PIXEL = 64, 2.0  # shells 0 ... 32, 128 A / shell


def options(**given: str | bool) -> RefineOptions:
    return RefineOptions.from_args({**ARGS, **{f"--{k}": v for k, v in given.items()}})


def model(ratio: list[float] | np.ndarray | None = None, **values: float) -> ModelState:
    new = ModelState.new(BOX, PIXEL, group_names=["m"], nr_particles_per_group=np.array([10]))
    if ratio is not None:
        new.data_vs_prior_class[0, : len(ratio)] = ratio
    for name, value in values.items():
        setattr(new, name, value)
    return new


def state(**values: float) -> OptimiserState:
    return OptimiserState(**{"iteration": 3, **values})


# ---- resolution ----


@pytest.mark.parametrize(
    ("ratio", "shell"),
    [
        ([9.0] * 12 + [0.5] * 20, 11),  # the shell before the first below 1
        ([9.0] * 3 + [0.5] * 20, 5),  # never below shell 5
        ([9.0] * 12 + [0.5, 0.5, 2.0], 11),  # rises again within three shells: not trusted
        ([9.0] * 12 + [0.5, 0.5, 0.5, 0.5, 2.0], 16),  # rises again further out: trusted, and said so
        ([9.0] * 33, 31),  # to the shell before Nyquist at most
    ],
)
def test_resolution_is_read_off_data_vs_prior(ratio: list[float], shell: int) -> None:
    m, s = model(ratio, current_resolution=128.0 / 4), state()
    warning = convergence.update_resolution(m, s, options())
    assert m.current_resolution == pytest.approx(128.0 / shell)
    assert (warning is not None) == (shell == 16)


def test_iterations_without_gain_are_counted() -> None:
    m, s = model([9.0] * 12 + [0.5] * 20, current_resolution=128.0 / 8), state()
    for expected in (0, 1, 2):
        convergence.update_resolution(m, s, options())
        assert s.nr_iter_wo_resol_gain == expected
    assert s.best_resolution == pytest.approx(128.0 / 11)
    m.data_vs_prior_class[0, 9:] = 0.1  # worse again
    convergence.update_resolution(m, s, options())
    assert s.nr_iter_wo_resol_gain == 3 and m.current_resolution == 16.0
    assert s.best_resolution == pytest.approx(128.0 / 11)


@pytest.mark.parametrize(
    ("iteration", "by_correlation", "shell"), [(0, False, 6), (1, True, 6), (1, False, 11), (2, True, 11)]
)
def test_the_first_resolution_is_that_of_the_filter(iteration: int, by_correlation: bool, shell: int) -> None:
    m = model([9.0] * 12 + [0.5] * 20)
    convergence.update_resolution(m, state(iteration=iteration), options(firstiter_cc=by_correlation, ini_high="20"))
    assert m.current_resolution == pytest.approx(128.0 / shell)


# ---- image sizes ----


def test_current_size_goes_beyond_the_resolution() -> None:
    sampling = SamplingState(healpix_order=2)
    m = model(current_resolution=128.0 / 10, ave_pmax=0.5)
    near = convergence.image_sizes(m, sampling, state(incr_size=10), options(), False)
    far = convergence.image_sizes(m, sampling, state(incr_size=10, has_high_fsc_at_limit=True), options(), False)
    assert (near.current, far.current) == (2 * 20, 2 * 18)  # 10 shells, or a quarter of the 32
    m.ave_pmax = 0.05  # flat posteriors: a high FSC at the limit means nothing
    assert convergence.image_sizes(m, sampling, state(has_high_fsc_at_limit=True), options(), False).current == 40
    assert convergence.image_sizes(m, sampling, state(), options(), True).current == BOX
    m.current_resolution = 128.0 / 30
    assert convergence.image_sizes(m, sampling, state(), options(), False).current == BOX


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_coarse_size_shows_detail_as_fine_as_the_step_on_the_rim(order: int) -> None:
    m = model(current_resolution=128.0 / 25)
    diameter = 60.0
    step = 360.0 / (6 * 2**order)
    detail = step / 360.0 * math.pi * diameter / 1.2
    found = convergence.image_sizes(
        m, SamplingState(healpix_order=order), state(), options(particle_diameter="60"), False
    )
    assert found.coarse == min(2 * math.ceil(BOX * PIXEL / detail), found.current)
    strict = convergence.image_sizes(
        m, SamplingState(healpix_order=order), state(), options(strict_highres_exp="16"), False
    )
    assert strict.coarse == 16
    limited = convergence.image_sizes(m, SamplingState(healpix_order=4), state(), options(coarse_size="12"), False)
    assert limited.coarse == 12


def test_the_fsc_says_how_far_beyond_to_look() -> None:
    fsc = np.concatenate([np.ones(8), np.linspace(1, -0.2, 25)])
    s, m = state(), model(current_size=56)
    convergence.watch_fsc(m, s, fsc)
    first05, first0143 = (int(np.argmax(fsc < limit)) for limit in (0.5, 0.143))
    assert s.incr_size == max(10, first0143 - first05 + 5) == 12
    assert not s.has_high_fsc_at_limit
    m.current_size = 36  # the FSC is 0.55 there
    convergence.watch_fsc(m, s, fsc)
    assert s.has_high_fsc_at_limit
    m.current_size = 60  # once seen, it stays
    convergence.watch_fsc(m, s, fsc)
    assert s.has_high_fsc_at_limit


# ---- changes of poses ----


def test_changes_count_as_settled_by_the_step_or_by_the_best_so_far() -> None:
    sampling = SamplingState(healpix_order=2, offset_step=4.0)  # fine steps: 7.5 degrees and 2 A
    s = state()
    convergence.update_changes(s, sampling, 1, 20.0, 5.0, 0.0)
    assert s.nr_iter_wo_large_hidden_variable_changes == 0
    assert (s.smallest_changes_optimal_orientations, s.smallest_changes_optimal_offsets) == (20.0, 5.0)
    convergence.update_changes(s, sampling, 1, 10.0, 4.0, 0.0)  # much smaller: not settled yet
    assert s.nr_iter_wo_large_hidden_variable_changes == 0
    convergence.update_changes(s, sampling, 1, 9.8, 3.9, 0.0)  # within 3% of the smallest
    assert s.nr_iter_wo_large_hidden_variable_changes == 1
    convergence.update_changes(s, sampling, 1, 2.9, 0.7, 0.0)  # smaller than 40% of both steps
    assert s.nr_iter_wo_large_hidden_variable_changes == 2
    convergence.update_changes(s, sampling, 1, 0.1, 0.1, 0.0)
    assert s.nr_iter_wo_large_hidden_variable_changes == 3


@given(st.booleans(), st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_convergence_needs_fine_sampling_and_no_gain_in_both(fine: bool, gain: int, changes: int, ignore: bool) -> None:
    s = state(nr_iter_wo_resol_gain=gain, nr_iter_wo_large_hidden_variable_changes=changes)
    s.has_fine_enough_angular_sampling = fine
    expected = fine and gain >= 1 and (ignore or changes >= 1)
    assert convergence.has_converged(s, options(auto_ignore_angles=ignore)) == expected


# ---- sampling ----


def settled(**values: float) -> OptimiserState:
    return state(
        **{
            "nr_iter_wo_resol_gain": 1, "nr_iter_wo_large_hidden_variable_changes": 1, "accuracy_rot": 1.0,
            "accuracy_trans": 0.8, "current_changes_optimal_offsets": 1.0, **values,
        }
    )  # fmt: skip


def coarse_sampling(order: int = 2) -> SamplingState:
    return SamplingState(healpix_order=order, offset_range=10.0, offset_step=4.0)


def test_sampling_becomes_twice_as_fine_when_nothing_improves() -> None:
    sampling, s, m = coarse_sampling(), settled(), model(current_resolution=12.8)
    assert convergence.update_angular_sampling(m, sampling, s, options())
    assert sampling.healpix_order == 3 and sampling.psi_step == pytest.approx(7.5)
    # three quarters of the accuracy, times two for the oversampling; range five changes, at most 4 steps
    assert sampling.offset_step == pytest.approx(2 * 0.75 * 0.8)
    assert sampling.offset_range == pytest.approx(5.0 / 2.0)
    assert (s.nr_iter_wo_resol_gain, s.nr_iter_wo_large_hidden_variable_changes) == (0, 0)
    assert s.smallest_changes_optimal_orientations == 999.0
    assert m.orientational_prior_mode == NO_PRIOR


def test_offsets_stay_within_their_limits() -> None:
    # never coarser than before
    sampling = SamplingState(healpix_order=2, offset_range=3.0, offset_step=1.0)
    convergence.update_angular_sampling(
        model(current_resolution=12.8), sampling, settled(accuracy_trans=9.0), options()
    )
    assert (sampling.offset_range, sampling.offset_step) == (3.0, 1.0)
    # never a range below 1.5 steps
    sampling = coarse_sampling()
    convergence.update_angular_sampling(
        model(current_resolution=12.8), sampling, settled(current_changes_optimal_offsets=0.1), options()
    )
    assert sampling.offset_range == pytest.approx(1.5 * 1.2)
    # never more than 30% wider than before: 13 A, halved to 6.5 A, in four steps
    sampling = coarse_sampling()
    convergence.update_angular_sampling(
        model(current_resolution=12.8), sampling, settled(current_changes_optimal_offsets=50.0), options()
    )
    assert sampling.offset_range == pytest.approx(6.5) and sampling.offset_step == pytest.approx(6.5 / 4)


@pytest.mark.parametrize(("gain", "changes"), [(0, 1), (1, 0)])
def test_sampling_stays_while_something_improves(gain: int, changes: int) -> None:
    sampling = coarse_sampling()
    s = settled(nr_iter_wo_resol_gain=gain, nr_iter_wo_large_hidden_variable_changes=changes)
    assert not convergence.update_angular_sampling(model(current_resolution=12.8), sampling, s, options())
    assert sampling.healpix_order == 2 and not s.has_fine_enough_angular_sampling


@pytest.mark.parametrize(
    ("accuracy", "given", "fine_enough"),
    [
        (10.1, {}, True),  # 7.5 degrees are finer than 75% of the accuracy
        (9.9, {}, False),
        (10.1, {"minimum_angular_sampling": "5"}, False),  # but 5 degrees were asked for
        (1.0, {"maximum_angular_sampling": "8"}, True),  # and 8 are enough in any case
    ],
)
def test_sampling_is_fine_enough_below_the_accuracy(accuracy: float, given: dict[str, str], fine_enough: bool) -> None:
    s = settled(accuracy_rot=accuracy)
    changed = convergence.update_angular_sampling(
        model(current_resolution=12.8), coarse_sampling(), s, options(**given)
    )
    assert s.has_fine_enough_angular_sampling == fine_enough and changed != fine_enough


def test_local_searches_begin_at_their_order_with_two_fine_steps() -> None:
    m, sampling = model(current_resolution=12.8), coarse_sampling(3)
    assert convergence.update_angular_sampling(m, sampling, settled(), options())
    assert sampling.healpix_order == 4 and m.orientational_prior_mode == PRIOR_ROTTILT_PSI
    assert m.sigma_rot == m.sigma_tilt == m.sigma_psi == pytest.approx(2 * 360.0 / (6 * 2**5))


def test_the_resolution_alone_may_ask_for_finer_angles() -> None:
    """--auto_resol_angles: 360 / ceil(pi D / d) degrees; but not across the border to local searches."""
    s = settled(nr_iter_wo_resol_gain=0)
    m = model(current_resolution=5.0)  # 360 / ceil(pi 60 / 5) = 9.5 degrees: not finer than 7.5
    assert not convergence.update_angular_sampling(m, coarse_sampling(), s, options(auto_resol_angles=True))
    m = model(current_resolution=3.0)  # 5.7 degrees
    assert not convergence.update_angular_sampling(m, coarse_sampling(), settled(nr_iter_wo_resol_gain=0), options())
    assert convergence.update_angular_sampling(m, coarse_sampling(), s, options(auto_resol_angles=True))
    m = model(current_resolution=0.5)
    assert not convergence.update_angular_sampling(
        m, coarse_sampling(3), settled(nr_iter_wo_resol_gain=0), options(auto_resol_angles=True)
    )


# ---- bodies ----


def two_bodies(accuracies: list[float], offsets: float) -> tuple[ModelState, SamplingState, OptimiserState]:
    """Two bodies that have settled at 1.875 degrees and 6 A, known to so many degrees and A."""
    m = ModelState.new(BOX, PIXEL, group_names=["m"], nr_particles_per_group=np.array([10]), nr_classes=2)
    m.bodies = BodyState(np.zeros((2, 3)), np.zeros(2, np.bool_))
    m.accuracy_rot = np.array(accuracies)
    sampling = SamplingState(healpix_order=4, offset_range=12.0, offset_step=6.0)
    settled = state(
        accuracy_rot=min(accuracies), accuracy_trans=offsets, nr_iter_wo_resol_gain=1,
        nr_iter_wo_large_hidden_variable_changes=1, current_changes_optimal_offsets=1.0,
    )  # fmt: skip
    return m, sampling, settled


def test_a_body_is_kept_fixed_where_its_accuracy_is_worse_than_the_step() -> None:
    m, sampling, s = two_bodies([2.2, 1.5], 3.9)
    assert convergence.update_angular_sampling(m, sampling, s, options())
    assert m.bodies is not None and m.bodies.fixed.tolist() == [True, False]  # 1.875 < 0.9 * 2.2
    assert sampling.healpix_order == 5 and not s.has_fine_enough_angular_sampling


def test_bodies_that_are_all_fine_enough_end_the_refinement() -> None:
    m, sampling, s = two_bodies([2.2, 2.1], 3.9)
    sampling.offset_step = 3.1
    assert not convergence.update_angular_sampling(m, sampling, s, options())
    assert m.bodies is not None and m.bodies.fixed.all() and s.has_fine_enough_angular_sampling


def test_offsets_are_refined_before_the_last_body_is_kept_fixed() -> None:
    m, sampling, s = two_bodies([2.2, 2.1], 1.0)
    assert convergence.update_angular_sampling(m, sampling, s, options())
    assert m.bodies is not None and not m.bodies.fixed.any()
    assert (sampling.healpix_order, sampling.offset_step) == (4, 1.5)  # twice 0.75 of the accuracy
    assert s.nr_iter_wo_resol_gain == 0
    s.nr_iter_wo_resol_gain = s.nr_iter_wo_large_hidden_variable_changes = 1
    assert not convergence.update_angular_sampling(m, sampling, s, options())
    assert m.bodies.fixed.all() and s.has_fine_enough_angular_sampling
