"""What an optics group does to its images beyond the CTF: beam tilt, higher-order aberrations, magnification.

Odd aberrations (beam tilt, trefoil) shift phases, even ones (tetrafoil and beyond) add to the CTF's phase, anisotropic
magnification distorts the frequencies. Zernike polynomials in 1/A, coefficients in radians, in RELION's order.
Facts: RELION 5 src/jaz/math/Zernike.cpp, src/jaz/single_particle/obs_model.cpp and ctf/tilt_helper.cpp (insertTilt).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import factorial, isqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import electron_wavelength

MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")


def zernike(m: int, n: int, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Zernike polynomial Z_n^m at (x, y), not normalised; negative m are the sine terms."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    rho, phi, order = np.hypot(x, y), np.arctan2(y, x), abs(m)
    radial = np.zeros_like(rho)
    for k in range((n - order) // 2 + 1):
        coefficient = (-1) ** k * factorial(n - k)
        coefficient //= factorial(k) * factorial((n + order) // 2 - k) * factorial((n - order) // 2 - k)
        radial += coefficient * rho ** (n - 2 * k)
    return radial * (np.cos(order * phi) if m >= 0 else np.sin(order * phi))


def even_indices(i: int) -> tuple[int, int]:
    """(m, n) of even coefficient i."""
    k = isqrt(i)
    return 2 * (i - k * k - k), 2 * k


def odd_indices(i: int) -> tuple[int, int]:
    """(m, n) of odd coefficient i."""
    k = (isqrt(1 + 4 * i) - 1) // 2
    n = 2 * k + 1
    return 2 * (i - k * k - k) - n, n


@dataclass(frozen=True)
class Aberrations:
    """The aberrations of one optics group; coefficients in radians, magnification (2, 2) or None."""

    odd: tuple[float, ...] = ()
    even: tuple[float, ...] = ()
    magnification: NDArray[np.float64] | None = None

    @classmethod
    def of_group(cls, values: Mapping[str, str], voltage: float, cs: float) -> Aberrations:
        """From a row of data_optics: rlnBeamTiltX/Y (mrad), rlnOddZernike, rlnEvenZernike ("[a,b,...]"), rlnMagMat.

        voltage in kV, cs in mm. UserError for what is not a number or a singular matrix.
        """
        odd = list(_numbers(values.get("rlnOddZernike", ""), "rlnOddZernike"))
        tilt = [float(_numbers(values.get(f"rlnBeamTilt{axis}", "0"), "rlnBeamTilt")[0]) for axis in "XY"]
        if any(tilt):
            odd += [0.0] * (6 - len(odd))
            scale = cs * 20000.0 * float(electron_wavelength(voltage)) ** 2 * np.pi
            for first, third, angle in ((1, 4, tilt[0]), (0, 3, tilt[1])):
                odd[first] += -2.0 * scale * angle / 3.0
                odd[third] += -scale * angle / 3.0
        even = _numbers(values.get("rlnEvenZernike", ""), "rlnEvenZernike")
        matrix = None
        if any(label in values for label in MAGNIFICATION):
            neutral = ("1", "0", "0", "1")
            entries = [
                float(_numbers(values.get(label, default), label)[0])
                for label, default in zip(MAGNIFICATION, neutral, strict=True)
            ]
            found = np.array(entries).reshape(2, 2)
            if abs(np.linalg.det(found)) < 1e-6:
                raise UserError("The magnification matrix (rlnMagMat..) of an optics group cannot be inverted.")
            if not np.allclose(found, np.eye(2), atol=1e-9):
                matrix = found
        return cls(tuple(odd) if any(odd) else (), tuple(even) if any(even) else (), matrix)

    def phase_factors(
        self, kx: NDArray[np.int32], ky: NDArray[np.int32], box: int, angpix: float
    ) -> NDArray[np.complex64] | None:
        """What an image's transform (P,) is multiplied with to undo the odd aberrations; None if there are none."""
        if not self.odd:
            return None
        return np.exp(-1j * self._sum(self.odd, odd_indices, kx, ky, box * angpix)).astype(np.complex64)

    def gamma_offset(
        self, kx: NDArray[np.int32], ky: NDArray[np.int32], box: int, angpix: float
    ) -> NDArray[np.float64] | None:
        """What the even aberrations add to the CTF's phase, radians (P,); None if there are none."""
        return self._sum(self.even, even_indices, kx, ky, box * angpix) if self.even else None

    @property
    def distortion(self) -> NDArray[np.float32]:
        """(2, 2): the first two rows of an Euler matrix are multiplied with it from the left.

        The image's pixel k then lies where the undistorted image's M k does, as in the CTF, and is found at R^T M k in
        the map's transform: RELION multiplies the matrix with the inverse of M (applyAnisoMag) and projects with the
        inverse of the product (Projector::project).
        """
        if self.magnification is None:
            return np.eye(2, dtype=np.float32)
        return np.ascontiguousarray(self.magnification.T, np.float32)

    def _sum(
        self,
        coefficients: Sequence[float],
        indices: Callable[[int], tuple[int, int]],
        kx: NDArray[np.int32],
        ky: NDArray[np.int32],
        length: float,
    ) -> NDArray[np.float64]:
        x, y = np.asarray(kx) / length, np.asarray(ky) / length
        if self.magnification is not None:
            matrix = self.magnification
            x, y = matrix[0, 0] * x + matrix[0, 1] * y, matrix[1, 0] * x + matrix[1, 1] * y
        total = np.zeros(x.shape)
        for i, coefficient in enumerate(coefficients):
            if coefficient:
                m, n = indices(i)
                total += coefficient * zernike(m, n, x, y)
        return total


def _numbers(text: str, label: str) -> list[float]:
    try:
        return [float(part) for part in text.strip("[] ").split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{label} of an optics group is '{text}', not a list of numbers.") from None
