"""CPU kernels that dominate refinement: central slices read out of a 3D transform and added into one.

Every kernel runs on one core without holding the GIL, so that several Python threads can call it at once; a
target array (`out`, `grid`) must belong to one thread while a kernel writes into it.

Conventions shared by all kernels
  Transform  Half of a Hermitian transform, `x >= 0`, origin at index (Z // 2, Y // 2, 0): shape (Z, Y, X).
             A 2D reference is a transform with Z == 3 whose middle plane alone is filled.
  Grid       An accumulator, float32 (Z, Y, X, 3): real part, imaginary part and weight of each voxel side by
             side, so that one cache line serves a neighbour.
  Pixels     `kx`, `ky` int32 (P,), integer Fourier indices of the image, kx >= 0.
  Rotation   Euler matrix A, float32 (R, 3, 3): pixel (kx, ky) lies at `pad * A^T (kx, ky, 0)`
             (projector.cpp, project; backprojector.cpp, backproject2Dto3D).
Positions and rotations must be finite: the kernels do not look for NaN.

The eight neighbours of a position are read as four vectors of two complex numbers. LLVM does not find that by
itself, hence the two small intrinsics written in its own language below.
"""

from typing import Any

import numpy as np

from relion_py.compute.jit import load_numba, njit

load_numba()
from llvmlite import ir  # noqa: E402
from numba import types  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

_intrinsic: Any = intrinsic  # it adds the typing context that callers do not pass
_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_FAST = ("fast",)

_BLOCK = 256
"""Pixels whose positions are computed together (vectorised) before their neighbours are visited."""

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": True, "error_model": "numpy"}

_ROUNDING = np.float32(1.0 + 1e-5)
"""Room for the float32 rounding of a rotated radius, so that no pixel on the rim is lost to it."""


def _vector(length: int) -> ir.VectorType:
    return ir.VectorType(_F32, length)


def _shuffle(builder: Any, value: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)


def _pack(builder: Any, scalars: list[Any]) -> Any:
    value = ir.Constant(_vector(len(scalars)), [0.0] * len(scalars))
    for lane, scalar in enumerate(scalars):
        value = builder.insert_element(value, scalar, _I32(lane))
    return value


def _spread(builder: Any, scalar: Any, length: int) -> Any:
    return _shuffle(builder, _pack(builder, [scalar]), [0] * length)


def _load(builder: Any, address: Any, length: int) -> Any:
    return builder.load(builder.inttoptr(address, _vector(length).as_pointer()), align=4)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def _mix(builder: Any, t: Any, a: Any, b: Any) -> Any:
    step = builder.fmul(t, builder.fsub(b, a, flags=_FAST), flags=_FAST)
    return builder.fadd(a, step, flags=_FAST)


def _four_rows(builder: Any, address: Any, step_y: Any, step_z: Any) -> list[Any]:
    next_y = builder.add(address, step_y)
    return [address, next_y, builder.add(address, step_z), builder.add(next_y, step_z)]


@_intrinsic
def _gather(typing_context: Any, address, step_y, step_z, fx, fy, fz):  # type: ignore[no-untyped-def]
    """Trilinear value (re, im) in a complex64 array: address of the low corner, steps (bytes), fractions."""
    result = types.UniTuple(types.float32, 2)
    signature = result(types.int64, types.int64, types.int64, types.float32, types.float32, types.float32)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address, step_y, step_z, fx, fy, fz = arguments
        r00, r01, r10, r11 = (_load(builder, row, 4) for row in _four_rows(builder, address, step_y, step_z))
        along_y = _spread(builder, fy, 4)
        near = _mix(builder, along_y, r00, r01)
        far = _mix(builder, along_y, r10, r11)
        pair = _mix(builder, _spread(builder, fz, 4), near, far)
        left, right = _shuffle(builder, pair, [0, 1]), _shuffle(builder, pair, [2, 3])
        value = _mix(builder, _spread(builder, fx, 2), left, right)
        parts = [builder.extract_element(value, _I32(lane)) for lane in (0, 1)]
        return context.make_tuple(builder, signature.return_type, parts)

    return signature, generate


@_intrinsic
def _scatter(  # type: ignore[no-untyped-def]
    typing_context: Any, address, step_y, step_z, fx, fy, fz, re, im, weight
):
    """Add (re, im, weight) to eight neighbours in a grid; addresses and steps in bytes, fractions as above.

    Two voxels are six floats; eight are rewritten, the last two with nothing added. Behind them lies the next
    voxel, which always exists because the kernels stay off the outermost shell.
    """
    scalar = types.float32
    signature = types.void(types.int64, types.int64, types.int64, *[scalar] * 6)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        address, step_y, step_z, fx, fy, fz, re, im, weight = arguments
        one = ir.Constant(_F32, 1.0)
        rest_x, rest_y, rest_z = (builder.fsub(one, f, flags=_FAST) for f in (fx, fy, fz))
        zero = ir.Constant(_F32, 0.0)
        voxel = _shuffle(builder, _pack(builder, [re, im, weight, zero]), [0, 1, 2, 0, 1, 2, 3, 3])
        along_x = _shuffle(builder, _pack(builder, [rest_x, fx]), [0, 0, 0, 1, 1, 1, 1, 1])
        voxel = builder.fmul(voxel, along_x, flags=_FAST)
        shares = ((rest_y, rest_z), (fy, rest_z), (rest_y, fz), (fy, fz))
        for row, (share_y, share_z) in zip(_four_rows(builder, address, step_y, step_z), shares, strict=True):
            share = _spread(builder, builder.fmul(share_y, share_z, flags=_FAST), 8)
            added = builder.fmul(share, voxel, flags=_FAST)
            _store(builder, builder.fadd(_load(builder, row, 8), added, flags=_FAST), row)
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True, fastmath=True, error_model="numpy")
def _place(  # type: ignore[no-untyped-def]
    kx, ky, start, stop, axes, limit, centre_z, centre_y, rows, corners, fractions
):
    """Low corners and fractions of the positions of pixels start..stop of one rotation.

    axes       what one step along kx and one along ky moves in x, y, z (`_axes`)
    corners    int32 (2 * _BLOCK,): row `z * rows + y`, then column x
    fractions  float32 (5 * _BLOCK,): fx, fy, fz, sign, inside
    Positions with x < 0 are replaced by their Friedel mate (sign -1). Positions beyond the radius go to the
    origin, where reading is safe, with inside and sign 0. Flat arrays and a tuple of scalars, because LLVM
    vectorises the loop only when it sees that nothing overlaps.
    """
    zero = np.float32(0)
    one = np.float32(1)
    xx, yx, zx, xy, yy, zy = axes
    for p in range(start, stop):
        i = p - start
        u = np.float32(kx[p])
        v = np.float32(ky[p])
        x = xx * u + xy * v
        y = yx * u + yy * v
        z = zx * u + zy * v
        within = one if x * x + y * y + z * z <= limit else zero
        side = within if x >= zero else -within
        x *= side
        y *= side
        z *= side
        ix = np.int32(x)
        iy = np.int32(y + centre_y)
        iz = np.int32(z + centre_z)
        corners[i] = iz * rows + iy
        corners[i + _BLOCK] = ix
        fractions[i] = x - np.float32(ix)
        fractions[i + _BLOCK] = y - (np.float32(iy) - centre_y)
        fractions[i + 2 * _BLOCK] = z - (np.float32(iz) - centre_z)
        fractions[i + 3 * _BLOCK] = side
        fractions[i + 4 * _BLOCK] = within


@njit(nogil=True)
def _axes(rotation, pad):  # type: ignore[no-untyped-def]
    return (
        pad * rotation[0, 0], pad * rotation[0, 1], pad * rotation[0, 2],
        pad * rotation[1, 0], pad * rotation[1, 1], pad * rotation[1, 2],
    )  # fmt: skip


@njit(nogil=True)
def _radius_limit(shape_z, shape_y, shape_x, r_max, rotation):  # type: ignore[no-untyped-def]
    """Squared radius that keeps every neighbour inside the array; negative when nothing of the slice fits."""
    r_max = min(r_max, np.float32(shape_y // 2 - 1), np.float32(shape_x - 2))
    in_plane = rotation[0, 2] == np.float32(0) and rotation[1, 2] == np.float32(0)
    if not in_plane:
        r_max = min(r_max, np.float32(shape_z // 2 - 1))
        if r_max <= np.float32(0):
            return np.float32(-1)
    return r_max * r_max * _ROUNDING


@njit(
    "void(complex64[:,:,::1], float32[:,:,::1], int32[::1], int32[::1], float32, float32, complex64[:,::1])",
    **_OPTIONS,
)
def project(volume, rotations, kx, ky, pad, r_max_padded, out):  # type: ignore[no-untyped-def]
    """Read central slices out of a transform by trilinear interpolation.

    volume        complex64 (Z, Y, X), see the module's conventions
    rotations     float32 (R, 3, 3)
    kx, ky        int32 (P,)
    pad           padded voxels per image pixel
    r_max_padded  pixels whose position is farther from the origin than this (padded voxels) become 0
    out           complex64 (R, P), overwritten
    """
    depth, height, width = volume.shape
    step_y = width * 8
    step_z = height * step_y
    base = volume.ctypes.data
    pixels = kx.shape[0]
    corners = np.empty(2 * _BLOCK, np.int32)
    row, column = corners[:_BLOCK], corners[_BLOCK:]
    fractions = np.empty(5 * _BLOCK, np.float32)
    fx, fy, fz = fractions[:_BLOCK], fractions[_BLOCK : 2 * _BLOCK], fractions[2 * _BLOCK : 3 * _BLOCK]
    sign, inside = fractions[3 * _BLOCK : 4 * _BLOCK], fractions[4 * _BLOCK :]
    centre_z, centre_y, rows = np.float32(depth // 2), np.float32(height // 2), np.int32(height)
    for r in range(rotations.shape[0]):
        limit = _radius_limit(depth, height, width, r_max_padded, rotations[r])
        axes = _axes(rotations[r], pad)
        for start in range(0, pixels, _BLOCK):
            stop = min(pixels, start + _BLOCK)
            _place(kx, ky, start, stop, axes, limit, centre_z, centre_y, rows, corners, fractions)
            for i in range(stop - start):
                corner = base + np.int64(row[i]) * step_y + np.int64(column[i]) * 8
                re, im = _gather(corner, step_y, step_z, fx[i], fy[i], fz[i])
                out[r, start + i] = complex(re * inside[i], im * sign[i])


@njit(
    "void(float32[:,:,:,::1], complex64[:,::1], float32[:,::1], float32[:,:,::1],"
    " int32[::1], int32[::1], float32, float32)",
    **_OPTIONS,
)
def insert(grid, images, weights, rotations, kx, ky, pad, r_max_padded):  # type: ignore[no-untyped-def]
    """Add central slices to a grid, each pixel shared among its eight neighbours by trilinear weights.

    grid          float32 (Z, Y, X, 3), added to
    images        complex64 (R, P): already multiplied with whatever weight belongs to them
    weights       float32 (R, P): added to the grid's weight; pixels whose weight is not positive are left out
    rotations     float32 (R, 3, 3)
    kx, ky        int32 (P,); of the pairs at kx == 0 only ky >= 0 is used, as the reference does
    pad           padded voxels per image pixel
    r_max_padded  pixels whose position is farther from the origin than this (padded voxels) are left out
    """
    depth, height, width, _ = grid.shape
    step_y = width * 12
    step_z = height * step_y
    base = grid.ctypes.data
    pixels = kx.shape[0]
    corners = np.empty(2 * _BLOCK, np.int32)
    row, column = corners[:_BLOCK], corners[_BLOCK:]
    fractions = np.empty(5 * _BLOCK, np.float32)
    fx, fy, fz = fractions[:_BLOCK], fractions[_BLOCK : 2 * _BLOCK], fractions[2 * _BLOCK : 3 * _BLOCK]
    sign, inside = fractions[3 * _BLOCK : 4 * _BLOCK], fractions[4 * _BLOCK :]
    centre_z, centre_y, rows = np.float32(depth // 2), np.float32(height // 2), np.int32(height)
    for r in range(rotations.shape[0]):
        limit = _radius_limit(depth, height, width, r_max_padded, rotations[r])
        axes = _axes(rotations[r], pad)
        for start in range(0, pixels, _BLOCK):
            stop = min(pixels, start + _BLOCK)
            _place(kx, ky, start, stop, axes, limit, centre_z, centre_y, rows, corners, fractions)
            for p in range(start, stop):
                i = p - start
                weight = weights[r, p] * inside[i]
                if weight <= np.float32(0) or (kx[p] == 0 and ky[p] < 0):
                    continue
                value = images[r, p]
                corner = base + np.int64(row[i]) * step_y + np.int64(column[i]) * 12
                _scatter(corner, step_y, step_z, fx[i], fy[i], fz[i], value.real, value.imag * sign[i], weight)
