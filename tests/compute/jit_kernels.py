"""Kernels for test_jit.py: in a file, so that they are cached."""

from __future__ import annotations

import numpy as np

from relion_py.compute.jit import njit


@njit(cache=True, nogil=True)
def dot(a, b):  # type: ignore[no-untyped-def]
    """Takes BLAS."""
    return np.dot(a, b)


@njit(cache=True)
def doubled(x):  # type: ignore[no-untyped-def]
    """Twice x."""
    return 2 * x


@njit(cache=True)
def quadrupled(x):  # type: ignore[no-untyped-def]
    """Calls another one, in its cache or not."""
    out = np.empty(x.size)
    for i in range(x.size):
        out[i] = doubled(doubled(x[i]))
    return out


@njit("float32(float32)", cache=True)
def narrow(x):  # type: ignore[no-untyped-def]
    """Of single precision, whatever it is given."""
    return x + np.float32(1e-9)
