"""Compiled Fourier transforms of which a part is wanted: the lowest frequencies of micrographs, and maps of harmonics.

As many lines are transformed side by side as vector instructions have lanes; SciPy's transforms are compiled for
processors of any age, with four lanes. A line is split into its factors (Stockham), and one step
takes as many values apart as its factor says: vectors of real and of imaginary parts, so that nothing is shuffled.
LLVM does not find that by itself, hence the small intrinsics written in its own language.

Sources: Stockham TG (1966) AFIPS Conf. Proc. 28:229; for odd factors, sums and differences of opposite values
(Singleton RC 1969, IEEE Trans. Audio Electroacoust. 17:93).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.jit import load_numba, njit

load_numba()
from llvmlite import ir  # noqa: E402
from numba import types  # noqa: E402
from numba.core import cgutils  # noqa: E402
from numba.core.codegen import get_host_cpu_features  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

LANES = 16 if "+avx512f" in get_host_cpu_features() else 8
"""Lines that are transformed together: registers hold 16 or 8 numbers."""

SIDE_BY_SIDE = 8
"""Vectors of which weighted sums are made at once: so many additions go on at the same time."""

_WRITTEN_OUT = (4, 2, 3, 5, 7, 11, 13)

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_intrinsic: Any = intrinsic  # it adds the typing context that callers do not pass
_FLOAT = ir.FloatType()
_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_BYTES = 4 * LANES  # of a vector
# but sums keep their order: a kernel that others call is optimised alone and within each of them, one of these serves
# all, and which one it is depends on what came from the cache
_FAST = ("nnan", "ninf", "nsz", "arcp", "contract")

Parts = tuple[Any, Any]
"""Real and imaginary part."""


@functools.cache
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
def _transpose(typing_context: Any, source, step, target, stride, count):  # type: ignore[no-untyped-def]
    """LANES vectors, `step` bytes apart from the address `source` on, become columns: to `target`, `stride` apart, the
    first `count` of them."""
    signature = types.void(*[types.int64] * 5)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, step, target, stride, count = arguments
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
        for number, row in enumerate(rows):
            with builder.if_then(builder.icmp_signed("<", _I64(number), count)):
                _store(builder, row, target)
            target = builder.add(target, stride)
        return context.get_dummy_value()

    return signature, generate


@_intrinsic(prefer_literal=True)
def _products(  # type: ignore[no-untyped-def]
    typing_context: Any, opposite, above, below, wave, radial, sign, one, other
):
    """Pairs of vectors at addresses: above * radial * wave * sign to `one`, below * radial * conj(wave) * sign to
    `other`; if `opposite`, of the conjugates of above and below."""
    conjugated = opposite.literal_value
    signature = types.void(opposite, *[types.int64] * 4, types.float32, *[types.int64] * 2)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, above, below, wave, radial, sign, one, other = arguments
        above, below, wave, radial = (
            _load_pair(builder, place, _I64(_BYTES)) for place in (above, below, wave, radial)
        )
        if conjugated:
            above, below = ((value[0], builder.fneg(value[1])) for value in (above, below))
        radial = _scaled(builder, radial, _splat(builder, sign))
        back = wave[0], builder.fneg(wave[1])
        _store_pair(builder, _times(builder, above, _times(builder, radial, wave)), one)
        _store_pair(builder, _times(builder, below, _times(builder, radial, back)), other)
        return context.get_dummy_value()

    return signature, generate


@_intrinsic
def _turn(typing_context: Any, target, factor):  # type: ignore[no-untyped-def]
    """The pair of vectors at one address times that at another, in place."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target, factor = arguments
        value = [_load_pair(builder, place, _I64(_BYTES)) for place in (target, factor)]
        _store_pair(builder, _times(builder, *value), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


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
def map_of_harmonic(  # type: ignore[no-untyped-def]
    signal, wave, radial, odd, factors, turns, top, left, block, between, room, out
):
    """Part of the inverse transform of a micrograph's times conj(A(k)) exp(-i m phi), turned over its diagonal.

    signal: float32 (X / LANES, 2 Y + 1, 2, LANES), the micrograph's for ky from -Y on and LANES kx each, from 0 on,
    real and imaginary parts. wave, radial: float32 (X / LANES, Y + 1, 2, LANES), exp(-i m phi) and conj(A(k)) for ky
    >= 0, 0 where a pixel is not wanted. odd: whether m is: exp(-i m phi) then has the other sign at opposites. factors,
    turns: of the size n, see `stages_of`. block: float32 (n, 2, LANES), between: float32 (n + 1, 2, h), 0 at first;
    room: float32 (3 (n + 2 LANES), 2, LANES). out: float32 (2, c, h), real and imaginary parts of c columns from
    `left` on and of rows from `top` on; h is a number of whole vectors; what lies beyond row n is of no meaning.
    """
    size, rows = block.shape[0], wave.shape[1]
    columns, height = out.shape[1:]
    pair, line = np.int64(2 * _BYTES), np.int64(8 * height)
    work = (room.ctypes.data + pair - 1) // pair * pair  # vectors that begin with a line of the processor's cache
    other = work + np.int64(size + LANES) * pair
    more = other + np.int64(size + LANES) * pair
    first, second, third, table = block.ctypes.data, between.ctypes.data, out.ctypes.data, turns.ctypes.data
    for number in range(len(wave)):
        kept = np.int64(min(LANES, size // 2 + 1 - LANES * number))
        for opposite in range(2):
            for y in range(rows):
                above = signal.ctypes.data + pair * (number * signal.shape[1] + rows - 1 + y)
                below = above - 2 * pair * y
                at = pair * (number * rows + y)
                turn, factor = wave.ctypes.data + at, radial.ctypes.data + at
                here, mirrored = first + pair * y, first + pair * ((size - y) % size)
                if opposite:
                    sign = np.float32(-1.0 if odd else 1.0)
                    _products(True, above, below, turn, factor, sign, mirrored, here)
                else:
                    _products(False, above, below, turn, factor, np.float32(1.0), here, mirrored)
            done = _lines(first, pair, np.int64(_BYTES), size, factors, table, work, other, more)
            column = np.int64(LANES * number)
            target, stride = second + line * column, line
            if opposite:
                target, stride = second + line * (size - column), -line
            for row in range(0, height, LANES):
                value = done + (top + row) * pair
                _transpose(value, pair, target + 4 * row, stride, kept)
                _transpose(value + _BYTES, pair, target + 4 * (row + height), stride, kept)
    for row in range(0, height, LANES):
        done = _lines(second + 4 * row, line, np.int64(4 * height), size, factors, table, work, other, more)
        for x in range(columns):
            value = done + (left + x) * pair
            to = third + 4 * (x * height + row)
            _copy(value, to)
            _copy(value + _BYTES, to + 4 * columns * height)


@_intrinsic
def _halves(typing_context: Any, value, opposite, one, other):  # type: ignore[no-untyped-def]
    """From the inverse transform of a + i b at k and -k (pairs of vectors at `value`, `opposite`) the transforms of the
    real a and b at k, times 2, to `one` and `other`."""
    signature = types.void(*[types.int64] * 4)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        value, opposite, one, other = arguments
        (re, im), mirrored = (_load_pair(builder, place, _I64(_BYTES)) for place in (value, opposite))
        back = re, builder.fneg(im)
        difference = _minus(builder, mirrored, back)
        _store_pair(builder, _plus(builder, mirrored, back), one)
        _store_pair(builder, (difference[1], builder.fneg(difference[0])), other)
        return context.get_dummy_value()

    return signature, generate


@_intrinsic
def weighted_sums(  # type: ignore[no-untyped-def]
    typing_context: Any, weights, count, source, step, across, target, apart
):
    """Sums of `count` vectors, `step` bytes apart from the address `source` on, times the float32 at the address
    `weights`: SIDE_BY_SIDE of them, the first vectors of which are `across` bytes apart; to `target`, `apart` bytes
    apart."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        weights, count, source, step, across, target, apart = arguments
        sums = [cgutils.alloca_once_value(builder, _constant(0.0)) for _ in range(SIDE_BY_SIDE)]
        with cgutils.for_range(builder, count) as loop:
            place = builder.inttoptr(builder.add(weights, builder.mul(loop.index, _I64(4))), _FLOAT.as_pointer())
            weight, here = _splat(builder, builder.load(place)), builder.add(source, builder.mul(loop.index, step))
            for total in sums:
                product = builder.fmul(_load(builder, here), weight, flags=_FAST)
                builder.store(builder.fadd(builder.load(total), product, flags=_FAST), total)
                here = builder.add(here, across)
        for total in sums:
            _store(builder, builder.load(total), target)
            target = builder.add(target, apart)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@_intrinsic
def _number(typing_context: Any, address):  # type: ignore[no-untyped-def]
    """The float32 at an address."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load(builder.inttoptr(arguments[0], _FLOAT.as_pointer()))

    return types.float32(types.int64), generate


@_intrinsic
def bits_of(typing_context: Any, value):  # type: ignore[no-untyped-def]
    """The bits of a float32, as int32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@njit(**_OPTIONS)
def lowest_frequencies(image, size, step, weights, factors, turns, rows, columns, room, out):  # type: ignore[no-untyped-def]
    """The transform of `size` rows at its lowest frequencies, times 2, of every `step`-th weighted sum of columns.

    image: float32, (size, step size) filled up to pairs of vectors. weights: float32 (L,), see `decimation`. factors,
    turns: of the size, see `stages_of`. rows: int64 (Y,), the ky of the result, 0 to size - 1. columns: float32 (X /
    LANES, size + 2 LANES, 2, LANES), room: float32 (3 R, 2, LANES) with R at least step (size + 10) + L + 2 LANES, of
    any content. out: complex64 (Y, X), kx from 0 on.
    """
    wide, reach = step * size, len(weights)
    pair, line = np.int64(2 * _BYTES), np.int64(4 * image.shape[1])
    work = (room.ctypes.data + pair - 1) // pair * pair
    other = work + np.int64(len(room) // 3) * pair
    more = other + np.int64(len(room) // 3) * pair
    blocks, table = columns.ctypes.data, turns.ctypes.data
    for first in range(0, size, 2 * LANES):
        # rows by turns are the real and the imaginary parts of lines
        lines, spare = work, other
        for x in range(0, wide, LANES):
            for part in range(2):
                source = image.ctypes.data + line * (first + part) + 4 * x
                _transpose(source, 2 * line, lines + x * pair + part * _BYTES, pair, np.int64(LANES))
        if step > 1:
            for x in range(reach - step):  # they go on periodically
                for part in range(2):
                    _copy(lines + x * pair + part * _BYTES, lines + (wide + x) * pair + part * _BYTES)
            for x in range(0, size, SIDE_BY_SIDE):
                for part in range(2):
                    source, target = lines + step * x * pair + part * _BYTES, spare + x * pair + part * _BYTES
                    weighted_sums(weights.ctypes.data, reach, source, pair, step * pair, target, pair)
            lines, spare = spare, lines
        done = _lines(lines, pair, np.int64(_BYTES), size, factors, table, spare, lines, more)
        for block in range(len(columns)):
            for k in range(LANES):
                x = LANES * block + k
                place = done + x % size * pair
                _halves(place, done + (size - x) % size * pair, more + k * pair, more + (LANES + k) * pair)
            to = blocks + (block * columns.shape[1] + first) * pair
            for row in range(2):
                for part in range(2):
                    source = more + (row * LANES) * pair + part * _BYTES
                    _transpose(source, pair, to + row * pair + part * _BYTES, 2 * pair, np.int64(LANES))
    for block in range(len(columns)):
        source = blocks + block * columns.shape[1] * pair
        done = _lines(source, pair, np.int64(_BYTES), size, factors, table, work, other, more)
        for row in range(len(rows)):
            place = done + pair * ((size - rows[row]) % size)  # of the inverse transform
            for lane in range(min(LANES, out.shape[1] - LANES * block)):
                here = place + 4 * lane
                out[row, LANES * block + lane] = complex(_number(here), _number(here + _BYTES))


@njit(**_OPTIONS)
def next_harmonic(wave, step):  # type: ignore[no-untyped-def]
    """exp(-i m phi) becomes exp(-i (m + 1) phi), in place, float32 (X, Y, 2, LANES); step: exp(-i phi)."""
    for number in range(wave.size // (2 * LANES)):
        place = 8 * LANES * number
        _turn(wave.ctypes.data + place, step.ctypes.data + place)
