"""Transforms against NumPy's in double precision, with SciPy's compiled module alone and where it is not found."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from relion_py.compute import scipy_alone
from relion_py.compute.image import fft as transforms

RANDOM = np.random.default_rng(0)
REAL = RANDOM.standard_normal((3, 12, 14)).astype(np.float32)
COMPLEX = (REAL + 1j * RANDOM.standard_normal(REAL.shape)).astype(np.complex64)


@pytest.fixture(params=["alone", "scipy.fft"])
def fft(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    if request.param == "alone":
        assert transforms._compiled is not None
        yield transforms
        return
    with monkeypatch.context() as patch:
        patch.setattr(scipy_alone, "load_alone", lambda name: None)
        yield importlib.reload(transforms)
    importlib.reload(transforms)


@pytest.mark.parametrize("norm", [None, "forward", "ortho"])
@pytest.mark.parametrize(
    ("name", "x", "options"),
    [
        ("fft", REAL, {}),
        ("fft", COMPLEX, {"n": 9, "axis": 1}),
        ("ifft", COMPLEX, {"n": 17, "axis": -2}),
        ("fft2", COMPLEX, {}),
        ("ifft2", COMPLEX, {"s": (5, 20), "axes": (0, 2)}),
        ("rfft", REAL, {"n": 20}),
        ("irfft", COMPLEX, {"n": 15, "axis": 1}),
        ("rfft2", REAL, {}),
        ("irfft2", COMPLEX, {"s": (12, 27)}),
        ("rfftn", REAL, {"axes": (0, 1)}),
        ("irfftn", COMPLEX, {"s": (3, 10, 26), "axes": (0, 1, 2)}),
    ],
)
def test_transforms_are_those_of_numpy(fft, name, x, options, norm):
    expected = getattr(np.fft, name)(x.astype(complex if np.iscomplexobj(x) else float), norm=norm, **options)
    before = x.copy()
    got = getattr(fft, name)(x, norm=norm, **options)
    assert got.dtype == (np.float32 if "ir" in name else np.complex64) and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("kind", [np.float16, ">f4", np.int16, float])
def test_numbers_of_other_kinds_are_converted(fft, kind):
    x = np.round(REAL * 100).astype(kind)
    got = fft.rfft2(x)
    assert got.dtype == (np.complex64 if np.dtype(kind).kind == "f" and np.dtype(kind).itemsize < 8 else np.complex128)
    np.testing.assert_allclose(got, np.fft.rfft2(x.astype(float)), atol=0.01)


def test_complex_transforms_may_take_the_place_of_what_they_are_given(fft):
    x = COMPLEX.copy()
    done = fft.ifft(x, axis=1, overwrite_x=True)
    np.testing.assert_allclose(done, np.fft.ifft(COMPLEX.astype(complex), axis=1), atol=1e-6)
    part = COMPLEX.copy()
    fft.fft(part, 7, axis=1)  # a view of what it is given
    np.testing.assert_array_equal(part, COMPLEX)


def test_fast_sizes_have_small_factors(fft):
    for real, largest in ((True, 5), (False, 11)):
        good = [n for n in range(1, 400) if _largest_factor(n) <= largest]
        for target in (1, 7, 97, 182, 331):
            assert fft.next_fast_len(target, real) == min(n for n in good if n >= target)
            assert fft.prev_fast_len(target, real) == max(n for n in good if n <= target)


def _largest_factor(n: int) -> int:
    return max([p for p in range(2, n + 1) if n % p == 0 and all(p % q for q in range(2, p))], default=1)


def test_threads_make_no_difference(fft):
    with fft.set_workers(2):
        both = fft.rfft2(REAL)
    np.testing.assert_array_equal(both, fft.rfft2(REAL))


def test_no_package_of_scipy_is_loaded():
    code = (
        "import sys, numpy; from relion_py.compute.image import fft; fft.rfft2(numpy.ones((4, 4)));"
        "name = fft._compiled.__name__; print([m for m in sys.modules if m.startswith('scipy')] == [name]);"
        "import scipy.fft; print(scipy.fft.rfft([1.0, 1.0]).real, sys.modules[name] is fft._compiled)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out == ["True", "[2. 0.] True"]
