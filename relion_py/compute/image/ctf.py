"""The contrast transfer function (CTF) of the microscope, at lists of Fourier pixels.

The sign is RELION's: at the lowest frequencies of an underfocused image the CTF is ``+q0``, positive
(``-sin(gamma)`` with a negative gamma), so that particles whose contrast was inverted at extraction (protein
white) are ``CTF * projection`` of a positive map.

Facts: RELION 5 ``src/ctf.cpp`` (``CTF::initialise``) and ``src/ctf.h`` (``CTF::getCTF``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.jit import njit

# Values nearer to zero are moved to this, with their sign, so that nobody divides by zero (CTF::getCTF).
SMALLEST_CTF = 1e-8


def electron_wavelength(voltage: ArrayLike) -> NDArray[np.float64]:
    """Relativistic wavelength in A of electrons of ``voltage`` kV (CTF::initialise)."""
    volt = np.asarray(voltage, dtype=np.float64) * 1e3
    return 12.2643247 / np.sqrt(volt * (1.0 + volt * 0.978466e-6))


@dataclass(frozen=True)
class CtfParams:
    """CTF parameters of N particles; every field becomes a float64 array (N,). Scalars are spread over all N.

    Fields (STAR label): defocus_u, defocus_v in A, positive = underfocus (rlnDefocusU, rlnDefocusV);
    defocus_angle between x and U in degrees (rlnDefocusAngle); voltage in kV (rlnVoltage); cs in mm
    (rlnSphericalAberration); q0, the amplitude contrast, 0 to 1 (rlnAmplitudeContrast); phase_shift in
    degrees (rlnPhaseShift); bfactor in A^2 (rlnCtfBfactor); scale (rlnCtfScalefactor).

    Raises UserError where q0 lies outside 0..1, a voltage is not positive, or the parameters make the CTF
    zero everywhere.
    """

    defocus_u: NDArray[np.float64]
    defocus_v: NDArray[np.float64]
    defocus_angle: NDArray[np.float64] = field(default_factory=lambda: np.array([0.0]))
    voltage: NDArray[np.float64] = field(default_factory=lambda: np.array([300.0]))
    cs: NDArray[np.float64] = field(default_factory=lambda: np.array([2.7]))
    q0: NDArray[np.float64] = field(default_factory=lambda: np.array([0.1]))
    phase_shift: NDArray[np.float64] = field(default_factory=lambda: np.array([0.0]))
    bfactor: NDArray[np.float64] = field(default_factory=lambda: np.array([0.0]))
    scale: NDArray[np.float64] = field(default_factory=lambda: np.array([1.0]))

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self)]
        columns = [np.atleast_1d(np.asarray(getattr(self, n), dtype=np.float64)) for n in names]
        for name, column in zip(names, np.broadcast_arrays(*columns), strict=True):
            object.__setattr__(self, name, np.ascontiguousarray(column))
        if np.any((self.q0 < 0.0) | (self.q0 > 1.0)):
            raise UserError("The amplitude contrast (rlnAmplitudeContrast) must lie between 0 and 1.")
        if np.any(self.voltage <= 0.0):
            raise UserError("The voltage (rlnVoltage) must be a positive number of kilovolts.")
        nothing = np.abs(self.defocus_u) < 1e-6
        for column in (self.defocus_v, self.q0, self.cs):
            nothing &= np.abs(column) < 1e-6
        if np.any(nothing):
            raise UserError(
                "The CTF of some particles is zero everywhere: defocus, Cs and amplitude contrast are all 0."
            )

    def __len__(self) -> int:
        return len(self.defocus_u)

    def __getitem__(self, which: ArrayLike | slice) -> CtfParams:
        """The parameters of some of the particles: a slice, an index, an index array or a mask."""
        key = which if isinstance(which, slice) else np.atleast_1d(np.asarray(which))
        return CtfParams(**{f.name: getattr(self, f.name)[key] for f in fields(self)})


def _phase_coefficients(params: CtfParams) -> NDArray[np.float64]:
    """(N, 7): gamma = a x^2 + b xy + c y^2 + d (x^2+y^2)^2 + e for x, y in 1/A; then -B/4 and the scale."""
    wavelength = electron_wavelength(params.voltage)
    azimuth = np.deg2rad(params.defocus_angle)
    sine, cosine = np.sin(azimuth), np.cos(azimuth)
    k1 = np.pi * wavelength
    k2 = np.pi / 2.0 * (params.cs * 1e7) * wavelength**3
    axx = -(params.defocus_u * cosine**2 + params.defocus_v * sine**2)
    axy = -(params.defocus_u - params.defocus_v) * sine * cosine
    ayy = -(params.defocus_u * sine**2 + params.defocus_v * cosine**2)
    # arcsin(q0) is atan(q0 / sqrt(1 - q0^2)) without the division by zero at q0 = 1
    constant = -np.deg2rad(params.phase_shift) - np.arcsin(params.q0)
    return np.stack([k1 * axx, 2.0 * k1 * axy, k1 * ayy, k2, constant, -params.bfactor / 4.0, params.scale], axis=1)


_AS_IT_IS, _ABSOLUTE, _SIGN = 0, 1, 2
_INTACT_NOWHERE, _INTACT_BEFORE, _INTACT_AFTER = 0, 1, 2


@njit(cache=True, nogil=True)
def _fill_ctf(coefficients, x, y, gamma_offset, intact, form, damping, out):  # type: ignore[no-untyped-def]
    for n in range(coefficients.shape[0]):
        a, b, c, d, e, k4, scale = coefficients[n]
        decays = damping and k4 != 0.0
        for p in range(x.shape[0]):
            xx, yy, xy = x[p] * x[p], y[p] * y[p], x[p] * y[p]
            u2 = xx + yy
            gamma = a * xx + b * xy + c * yy + d * u2 * u2 + e
            if gamma_offset.shape[0] > 0:
                gamma += gamma_offset[p]
            if (intact == 1 and abs(gamma) < np.pi / 2.0) or (intact == 2 and abs(gamma) > np.pi / 2.0):
                value = 1.0
            else:
                value = -np.sin(gamma)
            if decays:
                value *= np.exp(k4 * u2)
            if form == 1:
                value = abs(value)
            elif form == 2:
                value = -1.0 if value < 0.0 else 1.0
            value *= scale
            if abs(value) < SMALLEST_CTF:
                value = -SMALLEST_CTF if value < 0.0 else SMALLEST_CTF
            out[n, p] = value


class CtfTerms(NamedTuple):
    """What the CTF is computed from, by `_fill_ctf` or by another device's kernel of the same meaning.

    coefficients (N, 7), see `_phase_coefficients`; x, y (P,) 1/A; gamma_offset (P,) or empty; intact: 0, 1 before or
    2 after the first peak; form: 0 as it is, 1 absolute, 2 sign; damping: whether the B-factor counts.
    """

    coefficients: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    gamma_offset: NDArray[np.float64]
    intact: int
    form: int
    damping: bool


def ctf_terms(
    params: CtfParams,
    kx: ArrayLike,
    ky: ArrayLike,
    box: int,
    angpix: float,
    *,
    intact_first_peak: bool = False,
    intact_after_first_peak: bool = False,
    absolute: bool = False,
    only_flip_phases: bool = False,
    damping: bool = True,
    magnification: ArrayLike | None = None,
    gamma_offset: ArrayLike | None = None,
) -> CtfTerms:
    """What `ctf_values` computes from, for N particles at P Fourier pixels.

    kx, ky: integers (P,), Fourier pixel indices of an image of ``box`` pixels of ``angpix`` A, so that the
    frequency is ``kx / (box * angpix)`` 1/A; negative indices are negative frequencies.

    intact_first_peak: 1 instead of the CTF where |gamma| < pi/2 (RELION's --ctf_intact_first_peak);
    intact_after_first_peak: 1 instead of the CTF beyond it.  absolute: |CTF|, for images whose phases were
    flipped.  only_flip_phases: the sign of the CTF (+1 or -1).  damping: apply the B-factor.  The scale is
    always applied, and no value is nearer to 0 than 1e-8.

    magnification: 2x2 matrix of anisotropic magnification (rlnMagMat..) applied to the frequency (x, y).
    gamma_offset: radians (P,) added to the phase: the even (symmetrical) Zernike aberrations.
    """
    if absolute and only_flip_phases:
        raise ValueError("absolute and only_flip_phases exclude each other")
    if intact_first_peak and intact_after_first_peak:
        raise ValueError("intact_first_peak and intact_after_first_peak exclude each other")
    x = np.ascontiguousarray(kx, dtype=np.float64) / (box * angpix)
    y = np.ascontiguousarray(ky, dtype=np.float64) / (box * angpix)
    if magnification is not None:
        matrix = np.asarray(magnification, dtype=np.float64)
        x, y = matrix[0, 0] * x + matrix[0, 1] * y, matrix[1, 0] * x + matrix[1, 1] * y
    offset = np.zeros(0) if gamma_offset is None else np.ascontiguousarray(gamma_offset, dtype=np.float64)
    if gamma_offset is not None and offset.shape != x.shape:
        raise ValueError(f"gamma_offset has shape {offset.shape}, the pixels have {x.shape}")
    intact = _INTACT_BEFORE if intact_first_peak else _INTACT_AFTER if intact_after_first_peak else _INTACT_NOWHERE
    form = _ABSOLUTE if absolute else _SIGN if only_flip_phases else _AS_IT_IS
    return CtfTerms(_phase_coefficients(params), x, y, offset, intact, form, damping)


def ctf_values(
    params: CtfParams, kx: ArrayLike, ky: ArrayLike, box: int, angpix: float, **options: Any
) -> NDArray[np.float32]:
    """CTF of N particles at P Fourier pixels -> float32 (N, P); arguments and options as of :func:`ctf_terms`.

    Source: CTF::getCTF in RELION's src/ctf.h.
    """
    terms = ctf_terms(params, kx, ky, box, angpix, **options)
    out = np.empty((len(params), terms.x.size), dtype=np.float32)
    _fill_ctf(*terms, out)
    return out


def ctf_phases(
    params: CtfParams, kx: ArrayLike, ky: ArrayLike, box: int, angpix: float, **options: Any
) -> NDArray[np.float64]:
    """Gamma (radians) of N particles at P Fourier pixels (N, P): the CTF is -sin(gamma); arguments of `ctf_terms`."""
    terms = ctf_terms(params, kx, ky, box, angpix, **options)
    x2, y2, xy = terms.x**2, terms.y**2, terms.x * terms.y
    basis = np.stack([x2, xy, y2, (x2 + y2) ** 2, np.ones_like(x2)])
    gamma = terms.coefficients[:, :5] @ basis
    return gamma + terms.gamma_offset if terms.gamma_offset.size else gamma


def ctf_image(params: CtfParams, box: int, angpix: float, **options: Any) -> NDArray[np.float32]:
    """CTF in the layout of ``rfft2``: float32 (N, box, box // 2 + 1); options as of :func:`ctf_terms`.

    Row ``box // 2`` of an even box holds the positive frequency, as in RELION's FFTW images.
    """
    rows = np.arange(box)
    rows = np.where(rows <= box // 2, rows, rows - box)
    ky, kx = np.meshgrid(rows, np.arange(box // 2 + 1), indexing="ij")
    values = ctf_values(params, kx.ravel(), ky.ravel(), box, angpix, **options)
    return values.reshape(len(params), box, box // 2 + 1)
