"""An array module that behaves as CuPy's in what a NumPy user gets wrong, with NumPy inside.

Its arrays take no NumPy array as a partner, as an index or as a value, and do not turn into one unasked; the module has
only those functions, with only those arguments, that CuPy has.
"""

from __future__ import annotations

import operator
import threading
from types import SimpleNamespace

import numpy as np

CURRENT = threading.local()
"""CURRENT.device: what the thread's new arrays lie on."""


def current():
    """The device of this thread; without a choice it is not one of those that a test made."""
    return getattr(CURRENT, "device", None)


def _inner(value):
    """What a NumPy function is given for an argument; NumPy's arrays and those of other devices are refused."""
    if isinstance(value, Array):
        assert value.device is current(), "an array of another device"
        return value.inside
    if isinstance(value, tuple):
        return tuple(_inner(v) for v in value)
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
        raise TypeError("an array of the host where one of the device is expected")
    return value


class Array:
    """An array of the pretended device."""

    __array_ufunc__ = None
    __array_priority__ = 1000

    def __init__(self, inside):
        self.inside, self.device = np.asarray(inside), current()

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __len__(self):
        return len(self.inside)

    def __int__(self):
        return int(self.inside)

    def __float__(self):
        return float(self.inside)

    def __bool__(self):
        return bool(self.inside)

    def __iter__(self):
        raise TypeError("a loop over a device's array is slow")

    def __getitem__(self, index):
        return Array(self.inside[_inner(index)])

    def __setitem__(self, index, value):
        self.inside[_inner(index)] = _inner(value)

    def astype(self, dtype, copy=True):
        return Array(self.inside.astype(dtype, copy=copy))

    def view(self, dtype):
        return Array(self.inside.view(dtype))

    def reshape(self, *shape):
        # views are written through, so a silent copy would lose results
        out = self.inside.reshape(*shape)
        assert out.size == 0 or np.shares_memory(out, self.inside)
        return Array(out)

    def max(self):
        return Array(self.inside.max())

    @property
    def T(self):
        return Array(self.inside.T)

    @property
    def real(self):
        return Array(self.inside.real)

    @property
    def imag(self):
        return Array(self.inside.imag)


for _name in ("dtype", "shape", "ndim", "size", "flags", "nbytes"):
    setattr(Array, _name, property(operator.attrgetter(f"inside.{_name}")))


def _forward(name):
    function = getattr(operator, name)

    def method(self, other):
        return Array(function(self.inside, _inner(other)))

    return method


def _backward(name):
    function = getattr(operator, name)

    def method(self, other):
        return Array(function(_inner(other), self.inside))

    return method


def _in_place(name):
    function = getattr(operator, name)

    def method(self, other):
        self.inside = function(self.inside, _inner(other))
        return self

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Array, f"__{_name}__", _forward(_name))
    setattr(Array, f"__r{_name}__", _backward(_name))
    setattr(Array, f"__i{_name}__", _in_place(f"i{_name}"))
for _name in ("gt", "lt", "ge", "le", "eq", "ne"):
    setattr(Array, f"__{_name}__", _forward(_name))


def _rounded(array):
    """float32 with the rest beyond 10 bits behind the point cut off: the most that tensor cores take from factors."""
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def products(a, b, out, rough):
    """out (R, M) = a (R, K) b (M, K)^T; rough: with rounded factors."""
    factors = [_inner(each) for each in (a, b)]
    assert all(f.dtype == np.float32 and f.flags.c_contiguous for f in (*factors, _inner(out)))
    if rough:
        assert all(f.shape[1] % 8 == 0 for f in factors), "rows that tensor cores cannot read at full speed"
        factors = [_rounded(f) for f in factors]
    np.matmul(factors[0], factors[1].T, out=_inner(out))


def _asarray(array):
    return array if isinstance(array, Array) else Array(np.array(array))


def _unique(array, return_inverse):
    values, inverse = np.unique(_inner(array), return_inverse=return_inverse)
    return Array(values), Array(inverse)


def _dot(a, b, out=None):
    a, b = _inner(a), _inner(b)
    if out is None:
        return Array(np.dot(a, b))
    np.dot(a, b, out=_inner(out))
    return out


def _with_rubbish(shape, dtype):
    """empty() with contents that nobody must read."""
    out = np.empty(shape, dtype)
    out.view(np.uint8)[...] = 0xA5 if out.size else 0
    return Array(out)


xp = SimpleNamespace(
    asarray=_asarray,
    empty=_with_rubbish,
    zeros=lambda shape, dtype: Array(np.zeros(shape, dtype)),
    ones=lambda shape, dtype: Array(np.ones(shape, dtype)),
    arange=lambda stop, dtype: Array(np.arange(stop, dtype=dtype)),
    cumsum=lambda array: Array(np.cumsum(_inner(array))),
    argsort=lambda array: Array(np.argsort(_inner(array), kind="stable")),
    unique=_unique,
    searchsorted=lambda array, values, side="left": Array(np.searchsorted(_inner(array), _inner(values), side=side)),
    nonzero=lambda array: tuple(Array(a) for a in np.nonzero(_inner(array))),
    dot=_dot,
    concatenate=lambda arrays: Array(np.concatenate([_inner(a) for a in arrays])),
    ascontiguousarray=lambda array: Array(np.ascontiguousarray(_inner(array))),
    fft=SimpleNamespace(
        rfft2=lambda array: Array(np.fft.rfft2(_inner(array))),
        ifft2=lambda array, norm: Array(np.fft.ifft2(_inner(array), norm=norm)),
    ),
)
