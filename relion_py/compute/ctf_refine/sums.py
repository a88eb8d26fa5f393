"""Sums over the particles of a micrograph and optics group, by Fourier pixel, and the files that keep them.

Each is an image in the layout of ``rfft2`` (box, box // 2 + 1), float32, under the reference's name, so that an
interrupted job continues with the micrographs that have none.  What lies beyond the FSC's last shell is 0.
Facts: RELION 5, jaz/single_particle/ctf/tilt_estimator.cpp, aberration_estimator.cpp and
magnification_estimator.cpp (processMicrograph, isFinished).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf_refine import kernels
from relion_py.compute.ctf_refine.particles import Optics, Views
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io.mrc import MrcError, read_image, write_map
from relion_py.compute.refine.half_maps import References

Array = NDArray[np.float64]
Sums = Mapping[str, Array]

_FILES: dict[str, dict[str, str]] = {
    "tilt": {
        "real": "xyAcc_optics-group_{}_real",
        "imag": "xyAcc_optics-group_{}_imag",
        "weight": "wAcc_optics-group_{}",
    },
    "aberrations": {name: f"aberr-{name}_optics-group_{{}}" for name in ("Axx", "Axy", "Ayy", "bx", "by")},
    "magnification": {name: f"mag_optics-group_{{}}_{name}" for name in ("Axx", "Axy", "Ayy", "bx", "by")},
}
KINDS = tuple(_FILES)
_ODD = {"tilt": ("imag",), "magnification": ("bx", "by")}
"""Sums that change their sign at a pixel's Friedel mate."""


def paths(root: str, kind: str, number: int) -> dict[str, str]:
    """Sum -> file of a micrograph (``root``: its outputs' common beginning) and optics group (from 1)."""
    return {name: f"{root}_{pattern.format(number)}.mrc" for name, pattern in _FILES[kind].items()}


def are_there(root: str, kind: str, number: int) -> bool:
    """Whether all files of this kind are there."""
    return all(os.path.exists(path) for path in paths(root, kind, number).values())


def write_sums(root: str, kind: str, optics: Optics, sums: Sums) -> None:
    """Write each of the sums (P,)."""
    for name, path in paths(root, kind, optics.number).items():
        write_map(path, spread(sums[name], optics, -1.0 if name in _ODD.get(kind, ()) else 1.0), optics.angpix)


def read_sums(root: str, kind: str, optics: Optics) -> dict[str, Array]:
    """The sums (P,) that were written; MrcError for files of another box."""
    sums = {}
    for name, path in paths(root, kind, optics.number).items():
        image, _ = read_image(path)
        if image.shape != (optics.box, optics.box // 2 + 1):
            raise MrcError(f"{path} is of another box; remove it and run the job again.")
        sums[name] = image[optics.ky, optics.kx].astype(np.float64)
    return sums


def spread(values: Array, optics: Optics, parity: float = 1.0) -> NDArray[np.float32]:
    """Half transform (box, box // 2 + 1) of values (P,); ``parity`` is the factor of a pixel's Friedel mate."""
    out = np.zeros((optics.box, optics.box // 2 + 1), np.float32)
    out[optics.ky, optics.kx] = values
    axis = optics.kx == 0
    out[-optics.ky[axis], 0] = parity * values[axis]
    return out


def tilt_sums(views: Views, params: CtfParams) -> Sums:
    """CTF P* X, whose phase is that of odd aberrations, and the weight CTF^2 |P|^2 (updateTiltShift)."""
    ctf = views.optics.ctf(params)
    total = np.einsum("np,np->p", ctf, views.cross, dtype=np.complex128)
    weight = np.einsum("np,np,np->p", ctf, ctf, views.power, dtype=np.float64)
    return {"real": total.real, "imag": total.imag, "weight": weight}


def aberration_sums(views: Views, params: CtfParams) -> Sums:
    """Normal equations of the cosine and sine of what is to be added to the CTF's phase.

    An image is -sin(gamma + delta) P = -(sin(gamma) cos(delta) + cos(gamma) sin(delta)) P, gamma without the even
    aberrations known so far; B-factor and scale are left out, as in the reference.
    """
    optics = views.optics
    theta = _plain_gamma(params, optics)
    sine, cosine = np.sin(theta), np.cos(theta)
    power, agreement = views.power, views.agreement
    return {
        "Axx": np.einsum("np,np,np->p", power, sine, sine, dtype=np.float64),
        "Axy": np.einsum("np,np,np->p", power, sine, cosine, dtype=np.float64),
        "Ayy": np.einsum("np,np,np->p", power, cosine, cosine, dtype=np.float64),
        "bx": -np.einsum("np,np->p", agreement, sine, dtype=np.float64),
        "by": -np.einsum("np,np->p", agreement, cosine, dtype=np.float64),
    }


def _plain_gamma(params: CtfParams, optics: Optics) -> NDArray[np.float32]:
    """The CTF's phase (n, P) in -pi..pi without even aberrations (ctf.cpp, getLowOrderGamma)."""
    from relion_py.compute.ctf_refine.defocus import BFACTOR, encode

    x, y = optics.undistorted
    u2 = x * x + y * y
    basis = np.stack([np.ones_like(u2), u2, x * x - y * y, 2.0 * x * y, u2 * u2])
    gamma = encode(params)[:, :BFACTOR] @ basis
    return (gamma - 2.0 * np.pi * np.rint(gamma / (2.0 * np.pi))).astype(np.float32)


def magnification_sums(views: Views, params: CtfParams, references: References) -> Sums:
    """Equations of a displacement of each Fourier pixel; see :func:`kernels.magnification_sums`."""
    optics = views.optics
    factor = np.full(len(optics.kx), views.scale, np.complex64)
    if optics.mtf is not None:
        factor *= optics.mtf.astype(np.float32)
    predicted = views.predicted
    if optics.demodulation is not None:
        factor *= optics.demodulation.conj()
        predicted = predicted * optics.demodulation.conj()
    ctf, out = optics.ctf(params), np.zeros((5, len(optics.kx)))
    for number, reference in enumerate(references.halves):
        here = views.half == number
        if here.any():
            kernels.magnification_sums(
                _parts(reference.data), views.rotations[here], optics.kx, optics.ky, np.float32(reference.pad),
                np.float32(reference.r_max_padded) ** 2, factor, ctf[here], predicted[here], views.observed[here], out,
            )  # fmt: skip
    return dict(zip(("Axx", "Axy", "Ayy", "bx", "by"), out, strict=True))


def _parts(volume: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Real and imaginary parts side by side, (Z, Y, X, 2), not copied."""
    return volume.view(np.float32).reshape(*volume.shape, 2)


MAKERS: dict[str, Callable[[Views, CtfParams, References], Sums]] = {
    "tilt": lambda views, params, references: tilt_sums(views, params),
    "aberrations": lambda views, params, references: aberration_sums(views, params),
    "magnification": magnification_sums,
}
"""Kind -> how its sums are made."""
