"""Fourier transforms: SciPy's, with the names and arguments of `scipy.fft`, loaded without that package.

Importing scipy.fft takes 0.13 s and 12 MB, for array libraries and special functions that no transform needs. The
compiled module beneath (pocketfft; DUCC from SciPy 1.18 on, which calls it alike) is loaded by itself; where a release
of SciPy has neither, scipy.fft does the work.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.fft import fftfreq, fftshift, ifftshift, rfftfreq
from numpy.typing import NDArray

from relion_py.compute.scipy_alone import load_alone

__all__ = [
    "fft",
    "fft2",
    "fftfreq",
    "fftshift",
    "ifft",
    "ifft2",
    "ifftshift",
    "irfft",
    "irfft2",
    "irfftn",
    "next_fast_len",
    "prev_fast_len",
    "rfft",
    "rfft2",
    "rfftfreq",
    "rfftn",
    "set_workers",
]

Array = NDArray[Any]

_NORMS = ("backward", "ortho", "forward")
_threads = threading.local()


_compiled: Any = load_alone("scipy.fft._pocketfft.pypocketfft") or load_alone("scipy.fft._duccfft.pyduccfft")
if not all(hasattr(_compiled, name) for name in ("c2c", "r2c", "c2r", "good_size")):
    _compiled = None


def fft(x: Array, n: int | None = None, axis: int = -1, **options: Any) -> Any:
    """Along one axis, cut or filled up with zeros to n. Options, of all: norm, overwrite_x (where both sides are
    complex), workers. float32 gives complex64."""
    return _complex(x, n if n is None else (n,), (axis,), True, **options)


def ifft(x: Array, n: int | None = None, axis: int = -1, **options: Any) -> Any:
    """The inverse of :func:`fft`."""
    return _complex(x, n if n is None else (n,), (axis,), False, **options)


def fft2(x: Array, s: Sequence[int] | None = None, axes: Sequence[int] = (-2, -1), **options: Any) -> Any:
    """Along two axes."""
    return _complex(x, s, axes, True, **options)


def ifft2(x: Array, s: Sequence[int] | None = None, axes: Sequence[int] = (-2, -1), **options: Any) -> Any:
    """The inverse of :func:`fft2`."""
    return _complex(x, s, axes, False, **options)


def rfft(x: Array, n: int | None = None, axis: int = -1, **options: Any) -> Any:
    """Of real values along one axis: the half with frequencies of at least 0."""
    return rfftn(x, n if n is None else (n,), (axis,), **options)


def irfft(x: Array, n: int | None = None, axis: int = -1, **options: Any) -> Any:
    """The inverse of :func:`rfft`: n real values (without it, an even number)."""
    return irfftn(x, n if n is None else (n,), (axis,), **options)


def rfft2(x: Array, s: Sequence[int] | None = None, axes: Sequence[int] = (-2, -1), **options: Any) -> Any:
    """Of real values along two axes, the last of which is halved."""
    return rfftn(x, s, axes, **options)


def irfft2(x: Array, s: Sequence[int] | None = None, axes: Sequence[int] = (-2, -1), **options: Any) -> Any:
    """The inverse of :func:`rfft2`."""
    return irfftn(x, s, axes, **options)


def rfftn(
    x: Array,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str | None = None,
    overwrite_x: bool = False,
    workers: int | None = None,
) -> Any:
    """Of real values along the axes (all), the last of which is halved; s: sizes along these, or the last axes."""
    x = _floats(x)
    s, axes = _sizes_and_axes(x, s, axes)
    return _compiled.r2c(_sized(x, s, axes), axes, True, _scaling(norm, True), None, _workers(workers))


def irfftn(
    x: Array,
    s: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
    norm: str | None = None,
    overwrite_x: bool = False,
    workers: int | None = None,
) -> Any:
    """The inverse of :func:`rfftn`."""
    x = _floats(x)
    if x.dtype.kind != "c":
        x = x + 0j
    last = None if s is None else s[-1]
    s, axes = _sizes_and_axes(x, s, axes)
    size = 2 * (s[-1] - 1) if last is None else last
    half = _sized(x, [*s[:-1], size // 2 + 1], axes)
    return _compiled.c2r(half, axes, size, False, _scaling(norm, False), None, _workers(workers))


def next_fast_len(target: int, real: bool = False) -> int:
    """The least size of at least `target` whose transform is fast."""
    return int(_compiled.good_size(target, real))


def prev_fast_len(target: int, real: bool = False) -> int:
    """The greatest size of at most `target` whose transform is fast."""
    return next(size for size in range(target, 0, -1) if next_fast_len(size, real) == size)


@contextlib.contextmanager
def set_workers(workers: int) -> Iterator[None]:
    """While inside, transforms of this thread take so many threads unless they are told otherwise."""
    before = _workers(None)
    _threads.number = workers
    try:
        yield
    finally:
        _threads.number = before


def _complex(
    x: Array,
    s: Sequence[int] | None,
    axes: Sequence[int],
    forward: bool,
    norm: str | None = None,
    overwrite_x: bool = False,
    workers: int | None = None,
) -> Any:
    given = x
    s, axes = _sizes_and_axes(x := _floats(x), s, axes)
    x = _sized(x, s, axes)
    ours = overwrite_x or not np.may_share_memory(x, given)
    out = x if ours and x.dtype.kind == "c" else None
    return _compiled.c2c(x, axes, forward, _scaling(norm, forward), out, _workers(workers))


def _floats(x: Array) -> Array:
    """float32, float64 or their complex ones, in this machine's order of bytes."""
    x = np.asarray(x)
    if x.dtype.char in "fdFD" and x.dtype.isnative and x.flags.aligned:
        return x
    if x.dtype == np.float16:
        return x.astype(np.float32)
    return x.astype(x.dtype.newbyteorder("=") if x.dtype.kind in "fc" else np.float64)


def _sizes_and_axes(
    x: Array, s: Sequence[int] | None, axes: Sequence[int] | None
) -> tuple[Sequence[int], Sequence[int]]:
    if axes is None:
        axes = range(x.ndim) if s is None else range(x.ndim - len(s), x.ndim)
    return [x.shape[axis] for axis in axes] if s is None else s, tuple(axes)


def _sized(x: Array, sizes: Sequence[int], axes: Sequence[int]) -> Array:
    """x cut to these sizes (a view), or filled up with zeros (a copy)."""
    shape = list(x.shape)
    for size, axis in zip(sizes, axes, strict=True):
        shape[axis] = size
    kept = tuple(slice(min(old, new)) for old, new in zip(x.shape, shape, strict=True))
    if all(new <= old for old, new in zip(x.shape, shape, strict=True)):
        return x[kept]
    wide = np.zeros(shape, x.dtype)
    wide[kept] = x[kept]
    return wide


def _scaling(norm: str | None, forward: bool) -> int:
    """What a transform is divided by: 0 nothing, 1 the root of the number of values, 2 that number."""
    way = _NORMS.index(norm or "backward")
    return way if forward else 2 - way


def _workers(workers: int | None) -> int:
    return getattr(_threads, "number", 1) if workers is None else workers


if _compiled is None:
    from scipy.fft import (  # type: ignore[no-redef,assignment]
        fft,
        fft2,
        ifft,
        ifft2,
        irfft,
        irfft2,
        irfftn,
        next_fast_len,
        rfft,
        rfft2,
        rfftn,
        set_workers,
    )
