"""Schedules, moments and steps of gradient refinement against the formulas written out voxel by voxel."""

from __future__ import annotations

import math
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.refine import outputs, vdam
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.projector import FourierReference

# ---- schedules ----


def schedule(
    kind: str = vdam.CLASS_2D, particles: int = 100_000, classes: int = 10, iterations: int = 200, **given
) -> vdam.Schedule:
    return vdam.Schedule.of(kind, particles, classes, iterations, **given)


def test_phases_of_the_default_run() -> None:
    s = schedule()
    assert (s.iterations, s.initial, s.between, s.final) == (200, 60, 100, 40)
    assert (s.first_subset, s.last_subset) == (500, 5000)


@pytest.mark.parametrize(
    ("kind", "particles", "expected"),
    [
        (vdam.CLASS_2D, 1000, (200, 1000)),
        (vdam.CLASS_2D, 10_000_000, (10_000, 100_000)),
        (vdam.INITIAL_MODEL, 100_000, (500, 10_000)),
        (vdam.INITIAL_MODEL, 10_000_000, (5000, 50_000)),
        (vdam.CLASS_3D, 100_000, (10_000, 10_000)),
    ],
)
def test_default_subsets(kind: str, particles: int, expected: tuple[int, int]) -> None:
    s = schedule(kind, particles)
    assert (s.first_subset, s.last_subset) == expected


def test_shares_that_leave_nothing_between_are_scaled_down() -> None:
    s = schedule(initial_share=0.6, final_share=0.6, iterations=135)
    assert (s.initial, s.final, s.between) == (62, 62, 11)


def sigmoid(x: float, start: float, length: float) -> float:
    return 1 / (10 ** ((x - start - length / 2) / (length / 4)) + 1)


@pytest.mark.parametrize("iteration", [1, 50, 60, 70, 85, 100, 150, 200])
@pytest.mark.parametrize(("kind", "last"), [(vdam.CLASS_2D, 0.3), (vdam.INITIAL_MODEL, 0.5)])
def test_step_size_falls_from_nine_tenths(kind: str, last: float, iteration: int) -> None:
    left = sigmoid(iteration, 60, 50)
    assert math.isclose(schedule(kind).step_size(iteration), 0.9 * left + last * (1 - left))


@pytest.mark.parametrize("iteration", [1, 60, 72, 100, 200])
def test_tau2_fudge_rises_from_one(iteration: int) -> None:
    left = sigmoid(iteration, 60, 25)
    found = schedule(tau2_fudge=2.0).tau2_fudge_at(iteration)
    assert math.isclose(found, 1.0 * left + 2.0 * (1 - left))


def test_classes_in_3d_keep_step_and_regularisation() -> None:
    s = schedule(vdam.CLASS_3D)
    assert [(s.step_size(i), s.tau2_fudge_at(i)) for i in (1, 100, 200)] == [(0.3, 4.0)] * 3


def test_given_schemes() -> None:
    s = schedule(step=0.2, step_scheme="3-step", tau2_fudge_scheme="plain")
    assert s.step_size(1) == pytest.approx(0.6, rel=1e-3)
    assert s.step_size(200) == pytest.approx(0.2)
    assert s.tau2_fudge_at(1) == s.tau2_fudge_at(200) == 4.0


@pytest.mark.parametrize("scheme", ["fast", "-step", "0-step", "-2-step", "nan-step", "3"])
def test_schemes_that_mean_nothing_are_refused(scheme: str) -> None:
    with pytest.raises(UserError, match="grad_stepsize_scheme"):
        schedule(step_scheme=scheme)


def test_subsets_grow_between_the_phases_and_all_are_used_at_the_end() -> None:
    s = schedule()
    assert [s.subset(i) for i in (1, 59, 60, 110, 160, 199)] == [500, 500, 500, 2750, 5000, 5000]
    assert s.subset(200) == -1
    assert schedule(classes=1).subset(200) == 5000
    assert schedule(particles=900).subset(199) == -1, "a subset is never larger than the data"


def test_last_iterations_can_be_expectation_maximization() -> None:
    s = schedule(em_iterations=3)
    assert [s.is_gradient(i) for i in (197, 198, 200)] == [True, False, False]
    assert s.subset(198) == -1
    assert s.may_center_classes(197) and not s.may_center_classes(196)


def test_very_short_runs_have_a_schedule() -> None:
    s = schedule(iterations=3)
    for iteration in (1, 2, 3):
        assert 0 < s.step_size(iteration) <= 0.9
        assert 0 < s.tau2_fudge_at(iteration) <= 4.0


def test_pseudo_halves_are_the_same_particles_in_every_iteration() -> None:
    even, odd = vdam.pseudo_halves(np.array([7, 2, 9, 4]))
    assert even.tolist() == [2, 4]
    assert odd.tolist() == [7, 9]


# ---- moments and steps ----

BOX = 12


def random_sums(ndim: int, padding: float, seed: int, size: int = 8) -> BackProjector:
    """Random data and weights, some of which are below 1."""
    sums = BackProjector(BOX, size, padding, ndim=ndim)
    random = np.random.default_rng(seed)
    planes = slice(1, 2) if ndim == 2 else slice(None)
    shape = sums.grid[planes].shape[:3]
    sums.data[planes] = (random.normal(size=shape) + 1j * random.normal(size=shape)) / 50
    sums.weight[planes] = random.uniform(0.0, 3.0, shape)
    return sums


def voxels(sums: BackProjector):
    """(grid index, moment index, k) of each voxel inside the sphere, one by one."""
    radius, half = sums.r_max_padded, sums.grid.shape[1] // 2
    middle = round(sums.pad * sums.box) // 2
    for z in range(-radius, radius + 1) if sums.ndim == 3 else (0,):
        for y in range(-radius, radius + 1):
            for x in range(radius + 1):
                if z * z + y * y + x * x < radius * radius:
                    flat = sums.ndim == 2
                    at_grid = (1 if flat else z + half, y + half, x)
                    yield at_grid, (0 if flat else z + middle, y + middle, x), (z, y, x)


def shell_of(k: tuple[int, int, int], pad: float) -> int:
    return math.floor(math.sqrt(sum(c * c for c in k)) / pad + 0.5)


def plain_moments(sums, first, second, is_first):
    """update_moments in float64 with loops: new moments, direction by grid index, noise by shell."""
    a = sums[0]
    first, second = first.astype(np.complex128), second.astype(np.float64)
    direction, noise, count = {}, np.zeros(BOX // 2 + 1), np.zeros(BOX // 2 + 1)
    for grid, at, k in voxels(a):
        data = [complex(s.data[grid]) / max(1.0, float(s.weight[grid])) for s in sums]
        for half in (0, 1):
            old = first[(half, *at)]
            first[(half, *at)] = data[half] if is_first else 0.9 * old + 0.1 * data[half]
        ratio = abs(data[1] - data[0]) ** 2 / (abs((data[0] + data[1]) / 2) ** 2 + 1e-12)
        second[at] = 0.999 * second[at] + 0.001 * ratio
        mean = (first[(0, *at)] + first[(1, *at)]) / 2
        direction[grid] = mean / (math.sqrt(second[at]) + 1e-12)
        shell = shell_of(k, a.pad)
        noise[shell] += abs(first[(0, *at)] - first[(1, *at)])
        count[shell] += 1
    return first, second, direction, noise / np.maximum(count, 1)


@pytest.mark.parametrize(("ndim", "padding"), [(2, 2.0), (3, 1.0), (3, 2.0)])
def test_moments_follow_the_formulas(ndim: int, padding: float) -> None:
    moments = vdam.new_moments(BOX, padding, ndim)
    for iteration in range(3):
        sums = (
            random_sums(ndim, padding, 2 * iteration, 6 + 2 * iteration),
            random_sums(ndim, padding, 2 * iteration + 1, 6 + 2 * iteration),
        )
        first, second, direction, noise = plain_moments(sums, moments.first, moments.second, iteration == 0)
        found = vdam.update_moments(sums, moments)
        np.testing.assert_allclose(moments.first, first, atol=1e-7)
        np.testing.assert_allclose(moments.second, second, rtol=1e-5)
        np.testing.assert_allclose(found.noise, noise, rtol=1e-5, atol=1e-9)
        whole = np.zeros(sums[0].grid.shape[:3], np.complex64)
        vdam._part_of_grid(whole, sums[0])[...] = found.direction
        expected = np.zeros_like(whole)
        for grid, value in direction.items():
            expected[grid] = value
        np.testing.assert_allclose(whole, expected, atol=1e-7)


@pytest.mark.parametrize(("ndim", "padding"), [(2, 2.0), (3, 1.0), (3, 2.0)])
def test_a_step_follows_the_formula(ndim: int, padding: float) -> None:
    sums = (random_sums(ndim, padding, 1), random_sums(ndim, padding, 2))
    gradient = vdam.update_moments(sums, vdam.new_moments(BOX, padding, ndim))
    volume = np.random.default_rng(3).normal(size=(BOX,) * ndim).astype(np.float32)
    found = vdam.take_step(volume, gradient, sums[0], 0.4, 2.5)

    reference = FourierReference.from_map(volume, 8, padding, correct_gridding=False)
    amplitude, count = np.zeros(BOX // 2 + 1), np.zeros(BOX // 2 + 1)
    for grid, _, k in voxels(sums[0]):
        amplitude[shell_of(k, sums[0].pad)] += abs(reference.data[grid])
        count[shell_of(k, sums[0].pad)] += 1
    amplitude /= np.maximum(count, 1)
    whole = np.zeros(sums[0].grid.shape[:3], np.complex128)
    vdam._part_of_grid(whole, sums[0])[...] = gradient.direction
    new = reference.data.astype(np.complex128)
    for grid, _, k in voxels(sums[0]):
        shell = shell_of(k, sums[0].pad)
        ratio = 2 * 2.5 * amplitude[shell] / gradient.noise[shell] if gradient.noise[shell] > 0 else 0.0
        trust = min(max(ratio / (1 + ratio), 0.0), 1.0)
        new[grid] += 0.4 * (trust * whole[grid] - (1 - trust) * new[grid])
    np.testing.assert_allclose(found, plain_inverse(new, sums[0]), atol=2e-5 * np.abs(found).max())


def plain_inverse(transform: np.ndarray, sums: BackProjector) -> np.ndarray:
    """Sum of plane waves of a half transform over the box: every k, its Friedel mate, no FFT."""
    size = round(sums.pad * sums.box)
    axis = np.arange(BOX) - BOX // 2
    waves = {k: np.exp(2j * np.pi * k * axis / size) for k in range(-size, size + 1)}
    volume = np.zeros((BOX,) * sums.ndim)
    half, depth = transform.shape[1] // 2, transform.shape[0] // 2
    for at in np.argwhere(transform != 0):
        z, y, x = at[0] - depth, at[1] - half, at[2]
        wave = np.multiply.outer(waves[y], waves[x])
        if sums.ndim == 3:
            wave = np.multiply.outer(waves[z], wave)
        volume += (1 if x == 0 else 2) * np.real(transform[tuple(at)] * wave)
    return volume * BOX**2 / size**sums.ndim


def test_without_any_gradient_a_step_only_lets_the_reference_decay() -> None:
    sums = BackProjector(BOX, BOX, 1.0, ndim=3)
    gradient = vdam.update_moments((sums, sums.copy()), vdam.new_moments(BOX, 1.0, 3))
    volume = np.zeros((BOX,) * 3, np.float32)
    volume[4:8, 4:8, 4:8] = 1.0
    found = vdam.take_step(volume, gradient, sums, 0.5, 1.0)
    smooth = vdam.take_step(volume, gradient, sums, 0.0, 1.0)
    np.testing.assert_allclose(found, smooth / 2, atol=0.02)


def test_steps_on_residuals_find_the_truth() -> None:
    """Repeated steps on the residual of noisy averages go to the average's truth and stay there."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    truth = np.exp(-((x - 1) ** 2 + (y + 2) ** 2) / 4.0)
    target = FourierReference.from_map(truth, BOX, 2.0, correct_gridding=False).data
    moments, average = vdam.new_moments(BOX, 2.0, 2), np.roll(truth, (-3, -2), (0, 1)) / 2
    for _ in range(60):
        now = FourierReference.from_map(average, BOX, 2.0, correct_gridding=False).data
        halves = []
        for _ in range(2):
            sums = BackProjector(BOX, BOX, 2.0, ndim=2)
            noise = random.normal(0, 1e-4, (2, *target.shape))
            sums.weight[...] = 20.0
            sums.data[...] = 20.0 * (target - now + noise[0] + 1j * noise[1])
            halves.append(sums)
        gradient = vdam.update_moments((halves[0], halves[1]), moments)
        average = vdam.take_step(average, gradient, halves[0], 0.5, 4.0)
    lowpassed = vdam.take_step(truth, gradient, halves[0], 0.0, 4.0)
    assert np.corrcoef(average.ravel(), lowpassed.ravel())[0, 1] > 0.99


def test_moments_move_with_their_reference() -> None:
    """A residual whose object is moved gives the moment that was moved."""
    random = np.random.default_rng(2)
    volume = np.zeros((BOX,) * 3)
    volume[5:8, 4:8, 5:9] = random.normal(size=(3, 4, 4))
    moved = np.roll(volume, (1, -2, 3), (0, 1, 2))
    found = []
    for each in (volume, moved):
        sums = BackProjector(BOX, 10, 2.0, ndim=3)
        sums.data[...] = FourierReference.from_map(each, 10, 2.0, correct_gridding=False).data
        moments = vdam.new_moments(BOX, 2.0, 3)
        vdam.update_moments((sums, sums.copy()), moments)
        found.append(moments)
    found[0].shift(np.array([1.0, -2.0, 3.0]))
    np.testing.assert_allclose(found[0].first, found[1].first, atol=1e-6)


# ---- classes and other parameters ----


def test_small_classes_take_small_steps() -> None:
    assert vdam.step_of_class(0.5, 4, 0.25) == pytest.approx(0.5 * (1 - math.exp(-22 / 4)))
    assert vdam.step_of_class(0.5, 4, 0.0) == 0.0


def test_the_idle_class_gives_way_to_the_one_with_the_largest_error() -> None:
    shares, strengths = np.array([0.5, 0.01, 0.49]), np.array([1.0, 50.0, 2.0])
    assert vdam.idle_class(shares, strengths, 0.1) == (1, 2)
    assert vdam.idle_class(shares, strengths, 0.01) is None
    assert vdam.idle_class(shares, strengths, 0.0) is None
    assert vdam.idle_class(np.ones(1), np.ones(1), 0.1) is None


def small_model(classes: int) -> ModelState:
    model = ModelState.new(
        BOX, 2.0, group_names=["a"], nr_particles_per_group=np.array([10]), nr_classes=classes,
        nr_directions=1, ref_dim=2,
    )  # fmt: skip
    random = np.random.default_rng(1)
    model.references = [random.normal(size=(BOX, BOX)).astype(np.float32) for _ in range(classes)]
    model.pdf_class = random.dirichlet(np.ones(classes))
    model.tau2_class = random.uniform(size=model.tau2_class.shape)
    return model


def test_a_replaced_class_is_an_independent_copy_with_less_momentum() -> None:
    model = small_model(3)
    model.moments = [vdam.new_moments(BOX, 2.0, 2) for _ in range(3)]
    moments = model.moments
    moments[2].first[...] = 1.0 + 2.0j
    vdam.replace_class(model, 0, 2)
    np.testing.assert_array_equal(model.references[0], model.references[2])
    assert model.pdf_class[0] == model.pdf_class[2]
    np.testing.assert_array_equal(model.tau2_class[0], model.tau2_class[2])
    np.testing.assert_allclose(moments[0].first, 0.9 * moments[2].first)
    model.references[0][0, 0] = 77.0
    assert model.references[2][0, 0] != 77.0


def test_parameters_keep_a_share_of_what_they_were() -> None:
    model = small_model(2)
    model.pdf_class, model.sigma_offset = np.array([0.8, 0.2]), 3.0
    model.prior_offset_class = np.array([[1.0, 2.0], [3.0, 4.0]])
    model.sigma2_noise[:] = 4.0
    old = vdam.Parameters.of(model)
    model.pdf_class, model.sigma_offset = np.array([1.0, 0.0]), 1.0
    model.prior_offset_class = np.array([[2.0, 2.0], [0.0, 0.0]])
    model.sigma2_noise[:] = 2.0
    old.keep_in(model, 0.9)
    np.testing.assert_allclose(model.pdf_class, [0.82, 0.18])
    assert model.sigma_offset == pytest.approx(math.sqrt(0.9 * 9.0 + 0.1 * 1.0))
    np.testing.assert_allclose(model.prior_offset_class[0], [1.1, 2.0])
    np.testing.assert_allclose(model.sigma2_noise, 3.8)


# ---- on disc ----


@pytest.mark.parametrize("ndim", [2, 3])
def test_moments_come_back_from_disc(tmp_path: Path, ndim: int) -> None:
    """Written as the reference does: real and imaginary parts in turn, halves one after the other."""
    random = np.random.default_rng(4)
    model = ModelState.new(
        BOX, 2.0, group_names=["a"], nr_particles_per_group=np.array([10]), nr_classes=2,
        nr_directions=1, ref_dim=ndim,
    )  # fmt: skip
    model.references = [random.normal(size=(BOX,) * ndim).astype(np.float32) for _ in range(2)]
    model.moments = [vdam.new_moments(BOX, 1.0, ndim) for _ in range(2)]
    for each in model.moments:
        parts = random.normal(size=(2, *each.first.shape))
        each.first = (parts[0] + 1j * parts[1]).astype(np.complex64)
        each.second = random.uniform(size=each.second.shape).astype(np.float32)
    names = outputs.OutputNames(str(tmp_path / "run"), 10)
    outputs.write_model(names, model)
    found = outputs.read_model(names.model(), 1, True)
    for written, read in zip(model.moments, found.moments, strict=True):
        np.testing.assert_array_equal(read.first, written.first)
        np.testing.assert_array_equal(read.second, written.second)
    # the file itself, read by another library
    second_half = (
        mrcfile.read(tmp_path / "run_it010_1moment.mrcs")[3]
        if ndim == 2
        else mrcfile.read(tmp_path / "run_it010_1moment004.mrc")
    )
    expected = model.moments[1].first[1]
    np.testing.assert_array_equal(second_half.reshape(expected.shape[0], BOX, -1)[..., ::2], expected.real)
    np.testing.assert_array_equal(second_half.reshape(expected.shape[0], BOX, -1)[..., 1::2], expected.imag)


GIVEN = {"--i": "p.star", "--o": "Class2D/job001/run", "--grad": True}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"--auto_refine": True, "--split_random_halves": True, "--ref": "r.mrc"}, "--grad is for classifications"),
        ({"--fast_subsets": True, "--iter": "30"}, "--fast_subsets and --grad exclude each other"),
        ({"--grad": False, "--class_inactivity_threshold": "0.1"}, "has no effect without --grad"),
        ({"--denovo_3dref": True, "--ref": "r.mrc"}, "--denovo_3dref makes a reference"),
        ({"--grad_ini_frac": "1.5"}, "--grad_ini_frac must be at most"),
        ({"--mu": "1"}, "--mu must be at most"),
    ],
)
def test_options_that_contradict_each_other(more: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        RefineOptions.from_args({**GIVEN, **more})


def test_a_gradient_run_has_200_iterations_unless_told_otherwise() -> None:
    assert RefineOptions.from_args(GIVEN).max_iterations == 200
    assert RefineOptions.from_args({**GIVEN, "--iter": "7"}).max_iterations == 7
    assert RefineOptions.from_args({**GIVEN, "--grad": False}).max_iterations == 50
