"""Many small inverse transforms of products in Fourier space, of which a part of each map is wanted: compiled.

Eight lines are transformed side by side, one in each lane of vector instructions; SciPy's transforms are compiled for
processors of any age, with half the lanes or a quarter. A line is split into its factors (Stockham), and one step
takes as many values apart as its factor says: vectors of real and of imaginary parts, so that nothing is shuffled.
LLVM does not find that by itself, hence the small intrinsics written in its own language.

Sources: Stockham TG (1966) AFIPS Conf. Proc. 28:229; for odd factors, sums and differences of opposite values
(Singleton RC 1969, IEEE Trans. Audio Electroacoust. 17:93).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from relion_py.compute.jit import njit

LANES = 8
"""Lines that are transformed together."""

_WRITTEN_OUT = (4, 2, 3, 5, 7, 11, 13)

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_intrinsic: Any = intrinsic  # it adds the typing context that callers do not pass
_FLOAT = ir.FloatType()
_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_BYTES = 4 * LANES  # of a vector
_FAST = ("fast",)

Parts = tuple[Any, Any]
"""Real and imaginary part."""


def stages_of(size: int) -> tuple[NDArray[np.int64], NDArray[np.complex64]]:
    """The factors of a size, one for each step of an inverse transform, and for each step the turns between its
    values; for factors that are not written out exp(2 pi i t / factor) after these."""
    factors, rest = [], size
    for radix in (*_WRITTEN_OUT, *range(17, size + 1)):
        while rest % radix == 0:
            factors.append(radix)
            rest //= radix
    turns, rest = [], size
    for radix in factors:
        turns.append(np.outer(np.arange(rest // radix), np.arange(radix)).ravel() / rest)
        rest //= radix
        if radix not in _WRITTEN_OUT:
            turns.append(np.arange(radix) / radix)
    return np.array(factors), np.exp(2j * np.pi * np.concatenate(turns)).astype(np.complex64)


def _splat(builder: Any, value: Any) -> Any:
    vector = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(
        vector, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


def _constant(value: float) -> Any:
    return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)


def _load(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _VECTOR.as_pointer()), align=4)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, _VECTOR.as_pointer()), align=4)


def _plus(builder: Any, a: Parts, b: Parts) -> Parts:
    return builder.fadd(a[0], b[0], flags=_FAST), builder.fadd(a[1], b[1], flags=_FAST)


def _minus(builder: Any, a: Parts, b: Parts) -> Parts:
    return builder.fsub(a[0], b[0], flags=_FAST), builder.fsub(a[1], b[1], flags=_FAST)


def _plus_i(builder: Any, a: Parts, b: Parts) -> Parts:
    """a + i b"""
    return builder.fsub(a[0], b[1], flags=_FAST), builder.fadd(a[1], b[0], flags=_FAST)


def _minus_i(builder: Any, a: Parts, b: Parts) -> Parts:
    """a - i b"""
    return builder.fadd(a[0], b[1], flags=_FAST), builder.fsub(a[1], b[0], flags=_FAST)


def _scaled(builder: Any, value: Parts, factor: Any) -> Parts:
    return builder.fmul(value[0], factor, flags=_FAST), builder.fmul(value[1], factor, flags=_FAST)


def _times(builder: Any, a: Parts, b: Parts) -> Parts:
    same, cross = builder.fmul(a[0], b[0], flags=_FAST), builder.fmul(a[1], b[1], flags=_FAST)
    mixed, other = builder.fmul(a[0], b[1], flags=_FAST), builder.fmul(a[1], b[0], flags=_FAST)
    return builder.fsub(same, cross, flags=_FAST), builder.fadd(mixed, other, flags=_FAST)


def _load_number(builder: Any, address: Any) -> Parts:
    """A complex number, in all lanes."""
    pointer = builder.inttoptr(address, _FLOAT.as_pointer())
    imaginary = builder.gep(pointer, [ir.IntType(32)(1)])
    return _splat(builder, builder.load(pointer)), _splat(builder, builder.load(imaginary))


def _load_pair(builder: Any, address: Any, imaginary: Any) -> Parts:
    return _load(builder, address), _load(builder, builder.add(address, imaginary))


def _store_pair(builder: Any, value: Parts, address: Any) -> None:
    _store(builder, value[0], address)
    _store(builder, value[1], builder.add(address, _I64(_BYTES)))


def _transformed(builder: Any, x: list[Parts]) -> list[Parts]:
    """The inverse transform of a few values, not divided by their number."""
    radix = len(x)
    if radix == 2:
        return [_plus(builder, x[0], x[1]), _minus(builder, x[0], x[1])]
    if radix == 4:
        even, odd = _plus(builder, x[0], x[2]), _plus(builder, x[1], x[3])
        rest, turned = _minus(builder, x[0], x[2]), _minus(builder, x[1], x[3])
        return [
            _plus(builder, even, odd),
            _plus_i(builder, rest, turned),
            _minus(builder, even, odd),
            _minus_i(builder, rest, turned),
        ]
    pairs = range(1, radix // 2 + 1)
    sums = [_plus(builder, x[k], x[radix - k]) for k in pairs]
    differences = [_minus(builder, x[k], x[radix - k]) for k in pairs]
    out: list[Parts] = [x[0]] * radix
    for total in sums:
        out[0] = _plus(builder, out[0], total)
    for j in pairs:
        cosines, sines = x[0], (_constant(0.0), _constant(0.0))
        for k, total, difference in zip(pairs, sums, differences, strict=True):
            angle = 2 * np.pi * (j * k % radix) / radix
            cosines = _plus(builder, cosines, _scaled(builder, total, _constant(np.cos(angle))))
            sines = _plus(builder, sines, _scaled(builder, difference, _constant(np.sin(angle))))
        out[j], out[radix - j] = _plus_i(builder, cosines, sines), _minus_i(builder, cosines, sines)
    return out


@_intrinsic(prefer_literal=True)
def _butterfly(typing_context: Any, radix, source, step, imaginary, target, stride, turns, turned):  # type: ignore[no-untyped-def]
    """The inverse transform of `radix` vectors, `step` bytes apart from the address `source` on, imaginary parts
    `imaginary` bytes behind real ones; to `target`, `stride` bytes apart, imaginary parts behind real ones. If
    `turned`, they are multiplied by the complex numbers at the address `turns`."""
    count = radix.literal_value
    signature = types.void(radix, *[types.int64] * 6, types.boolean)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, source, step, imaginary, target, stride, turns, turned = arguments
        x = []
        for _ in range(count):
            x.append(_load_pair(builder, source, imaginary))
            source = builder.add(source, step)
        out = _transformed(builder, x)
        with builder.if_else(turned) as branches:
            for branch, turning in zip(branches, (True, False), strict=True):
                with branch:
                    place = target
                    for k, value in enumerate(out):
                        if turning and k:
                            value = _times(builder, value, _load_number(builder, builder.add(turns, _I64(8 * k))))
                        _store_pair(builder, value, place)
                        place = builder.add(place, stride)
        return context.get_dummy_value()

    return signature, generate


@_intrinsic
def _long_butterfly(  # type: ignore[no-untyped-def]
    typing_context: Any, radix, source, step, imaginary, target, stride, turns, roots, room
):
    """As `_butterfly` for any odd radix, always turned; roots: address of exp(2 pi i t / radix); room: of 2 * radix
    vectors."""
    signature = types.void(*[types.int64] * 9)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        radix, source, step, imaginary, target, stride, turns, roots, room = arguments
        half = builder.lshr(radix, _I64(1))
        sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(4)]
        place = cgutils.alloca_once(builder, _I64)

        def at(base, number, width):  # type: ignore[no-untyped-def]
            return builder.add(base, builder.mul(number, width))

        def keep(first, second):  # type: ignore[no-untyped-def]
            for memory, value in zip(sums, (*first, *second), strict=True):
                builder.store(value, memory)

        def kept():  # type: ignore[no-untyped-def]
            values = [builder.load(memory) for memory in sums]
            return (values[0], values[1]), (values[2], values[3])

        start, nothing = _load_pair(builder, source, imaginary), (_constant(0.0), _constant(0.0))
        keep(start, nothing)
        with cgutils.for_range(builder, half) as loop:
            k = builder.add(loop.index, _I64(1))
            low = _load_pair(builder, at(source, k, step), imaginary)
            high = _load_pair(builder, at(source, builder.sub(radix, k), step), imaginary)
            both, here = _plus(builder, low, high), at(room, loop.index, _I64(4 * _BYTES))
            _store_pair(builder, both, here)
            _store_pair(builder, _minus(builder, low, high), builder.add(here, _I64(2 * _BYTES)))
            keep(_plus(builder, kept()[0], both), nothing)
        _store_pair(builder, kept()[0], target)
        with cgutils.for_range(builder, half) as loop:
            j = builder.add(loop.index, _I64(1))
            keep(start, nothing)
            builder.store(_I64(0), place)
            with cgutils.for_range(builder, half) as inner:
                angle = builder.add(builder.load(place), j)
                beyond = builder.icmp_signed(">=", angle, radix)
                builder.store(builder.select(beyond, builder.sub(angle, radix), angle), place)
                cosine, sine = _load_number(builder, at(roots, builder.load(place), _I64(8)))
                here, (cosines, sines) = at(room, inner.index, _I64(4 * _BYTES)), kept()
                both = _load_pair(builder, here, _I64(_BYTES))
                difference = _load_pair(builder, builder.add(here, _I64(2 * _BYTES)), _I64(_BYTES))
                keep(
                    _plus(builder, cosines, _scaled(builder, both, cosine)),
                    _plus(builder, sines, _scaled(builder, difference, sine)),
                )
            cosines, sines = kept()
            for number, value in (
                (j, _plus_i(builder, cosines, sines)),
                (builder.sub(radix, j), _minus_i(builder, cosines, sines)),
            ):
                turn = _load_number(builder, at(turns, number, _I64(8)))
                _store_pair(builder, _times(builder, value, turn), at(target, number, stride))
        return context.get_dummy_value()

    return signature, generate


@_intrinsic
def _transpose(typing_context: Any, source, step, target, stride):  # type: ignore[no-untyped-def]
    """LANES vectors, `step` bytes apart from the address `source` on, become columns: to `target`, `stride` apart."""
    signature = types.void(*[types.int64] * 4)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, step, target, stride = arguments
        rows = []
        for _ in range(LANES):
            rows.append(_load(builder, source))
            source = builder.add(source, step)
        width = 1
        while width < LANES:  # blocks of that width change places
            for row in (r for r in range(LANES) if not r & width):
                low, high = rows[row], rows[row + width]
                first = [i if not i & width else i - width + LANES for i in range(LANES)]
                second = [i + width if not i & width else i + LANES for i in range(LANES)]
                masks = [ir.Constant(ir.VectorType(ir.IntType(32), LANES), mask) for mask in (first, second)]
                rows[row], rows[row + width] = (builder.shuffle_vector(low, high, mask) for mask in masks)
            width *= 2
        for row in rows:
            _store(builder, row, target)
            target = builder.add(target, stride)
        return context.get_dummy_value()

    return signature, generate


@_intrinsic
def _copy(typing_context: Any, source, target):  # type: ignore[no-untyped-def]
    """A vector from one address to another."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _store(builder, _load(builder, arguments[0]), arguments[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@njit(**_OPTIONS)
def _lines(source, step, imaginary, size, factors, turns, work, other, room):  # type: ignore[no-untyped-def]
    """Inverse transforms of LANES lines, whose value k is a vector at source + k step; all arguments are addresses or
    bytes. The address, `work` or `other`, of `size` pairs of vectors, real and imaginary parts; room: for more such."""
    pair = 2 * _BYTES
    rest, together = size, 1
    for stage in range(len(factors)):
        radix = factors[stage]
        rest //= radix
        start = turns
        for q in range(rest):
            turned = q > 0
            for r in range(together):
                value = source + (q * together + r) * step
                far = rest * together * step
                to = work + (radix * q * together + r) * pair
                apart = together * pair
                if radix == 2:
                    _butterfly(2, value, far, imaginary, to, apart, turns, turned)
                elif radix == 3:
                    _butterfly(3, value, far, imaginary, to, apart, turns, turned)
                elif radix == 4:
                    _butterfly(4, value, far, imaginary, to, apart, turns, turned)
                elif radix == 5:
                    _butterfly(5, value, far, imaginary, to, apart, turns, turned)
                elif radix == 7:
                    _butterfly(7, value, far, imaginary, to, apart, turns, turned)
                elif radix == 11:
                    _butterfly(11, value, far, imaginary, to, apart, turns, turned)
                elif radix == 13:
                    _butterfly(13, value, far, imaginary, to, apart, turns, turned)
                else:
                    roots = start + 8 * radix * rest
                    _long_butterfly(radix, value, far, imaginary, to, apart, turns, roots, room)
            turns += 8 * radix
        if radix > 13:
            turns += 8 * radix
        together *= radix
        source, step, imaginary = work, np.int64(pair), np.int64(_BYTES)
        work, other = other, work
    return source


@njit(**_OPTIONS)
def inverse_part(planes, factors, turns, top, left, between, room, out):  # type: ignore[no-untyped-def]
    """Part of the inverse transform of one map, not divided by its number of pixels, turned over its diagonal.

    planes: float32 (2, n, w), real and imaginary parts at ky, kx as in a full transform; w is n, rounded up to whole
    vectors. factors, turns: of n, see `stages_of`. between: float32 (w, 2, h); room: float32 (3 (n + LANES), 2, LANES).
    out: float32 (2, c, h), real and imaginary parts of columns from `left` on and rows from `top` on; h is a number of
    whole vectors; what lies beyond row n is of no meaning.
    """
    size, width = planes.shape[1:]
    columns, height = out.shape[1:]
    pair = np.int64(2 * _BYTES)
    work = (room.ctypes.data + 63) // 64 * 64  # a pair of vectors is one line of the processor's cache
    other = work + np.int64(size + LANES) * pair
    more = other + np.int64(size + LANES) * pair
    first, second, third, table = planes.ctypes.data, between.ctypes.data, out.ctypes.data, turns.ctypes.data
    for column in range(0, width, LANES):
        done = _lines(
            first + 4 * column, np.int64(4 * width), np.int64(4 * width * size), size, factors, table, work, other, more
        )
        for row in range(0, height, LANES):
            for part in range(2):
                _transpose(
                    done + (top + row) * pair + part * _BYTES,
                    pair,
                    second + 4 * ((2 * column + part) * height + row),
                    np.int64(8 * height),
                )
    for row in range(0, height, LANES):
        done = _lines(
            second + 4 * row, np.int64(8 * height), np.int64(4 * height), size, factors, table, work, other, more
        )
        for x in range(columns):
            value = done + (left + x) * pair
            to = third + 4 * (x * height + row)
            _copy(value, to)
            _copy(value + _BYTES, to + 4 * columns * height)
