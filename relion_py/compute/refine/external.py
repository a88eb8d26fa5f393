"""Reconstruction by another program: RELION's --external_reconstruct, and --blush, a network that denoises maps.

The sums of a back-projection are written as maps, with a STAR file that names them; a program that is given this file
leaves a map, and may leave a new prior or FSC. Any program that RELION 5 can call may be called; that of Blush
(Kimanius et al. 2024, Nat Methods 21:1216) is `relion_python_blush`, which RELION 5 brings. Source: backprojector.cpp,
externalReconstruct; ml_optimiser.cpp, initialiseGeneral (arguments of Blush).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import mrc, star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.projector import padded_box
from relion_py.compute.refine.reconstruct import ShellSpectra, tau2_from_fsc
from relion_py.compute.refine.star_values import as_texts, texts_of

EXECUTABLE = "RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE"
"""Variable with the program, and words before the STAR file, of --external_reconstruct."""
DEFAULT_PROGRAM = "relion_external_reconstruct"
BLUSH_PROGRAM, BLUSH_ARGUMENTS = "relion_python_blush", "RELION_BLUSH_ARGS"
BLUSH_IS_WELL = "success"
"""What Blush says at its end, and nothing else."""
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class ExternalProgram:
    """A program that makes maps: words before and after the name of the STAR file; check() may raise to stop it."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    is_blush: bool
    pixel_size: float
    diameter: float
    check: Callable[[], None]

    @classmethod
    def of(
        cls, options: RefineOptions, pixel_size: float, diameter: float, check: Callable[[], None]
    ) -> ExternalProgram | None:
        """That of the options, None if maps are made here. UserError if it is not on the PATH.

        pixel_size and diameter of the particles in A.
        """
        if not (options.blush or options.external_reconstruct):
            return None
        after: list[str] = []
        if options.blush:
            before = [BLUSH_PROGRAM]
            after += shlex.split(os.environ.get(BLUSH_ARGUMENTS, ""))
            after += ["--skip-spectral-trailing"] if options.blush_skip_spectral_trailing else []
            after += ["--gpu", ",".join(re.findall(r"\d+", options.gpu)) or "-1"]
        else:
            before = shlex.split(os.environ.get(EXECUTABLE, "")) or [DEFAULT_PROGRAM]
        if shutil.which(before[0]) is None:
            raise UserError(
                f"--blush needs the program {BLUSH_PROGRAM} of RELION 5, which is not on the PATH."
                if options.blush
                else f"--external_reconstruct needs the program {before[0]}, which is not on the PATH; "
                f"{EXECUTABLE} may name another."
            )
        return cls(tuple(before), tuple(after), options.blush, pixel_size, diameter, check)

    def reconstruct(
        self, sums: BackProjector, spectra: ShellSpectra, fsc: NDArray[np.float64], tau2_fudge: float, stem: str,
        joined: bool,
    ) -> tuple[ShellSpectra, NDArray[np.float32], NDArray[np.float64]]:  # fmt: skip
        """Spectra, map (box,) * ndim and FSC (box // 2 + 1,) that the program makes of complete sums.

        stem: rootname of the files that are exchanged. joined: the FSC is of halves, the sums of both. UserError if
        the program fails or leaves no map of this size.
        """
        root = f"{stem}_external_reconstruct"
        arrays = [f"{root}_{name}.mrc" for name in ("data_real", "data_imag", "weight")]
        with suppress(FileNotFoundError):
            os.unlink(f"{root}.mrc")
        transform = centred_at_zero(sums)
        for name, values in zip(arrays, np.moveaxis(transform, -1, 0), strict=True):
            mrc.write_map(name, np.ascontiguousarray(values), self.pixel_size)
        star.write(f"{root}.star", self._task(sums, spectra.tau2, fsc, tau2_fudge, root, arrays))
        self._run(root)
        volume = self._result(f"{root}.mrc", sums)
        for name in arrays:  # several times the size of a map each
            os.unlink(name)
        spectra, fsc = _new_spectra(f"{root}_out.star", spectra, fsc, tau2_fudge, joined)
        return spectra, volume, fsc

    def _task(
        self, sums: BackProjector, tau2: NDArray, fsc: NDArray, tau2_fudge: float, root: str, arrays: list[str]
    ) -> StarFile:
        general: dict[str, Any] = {
            "rlnExtReconsDataReal": arrays[0],
            "rlnExtReconsDataImag": arrays[1],
            "rlnExtReconsWeight": arrays[2],
            "rlnExtReconsResult": f"{root}.mrc",
            "rlnExtReconsResultStarfile": f"{root}_out.star",
            "rlnTau2FudgeFactor": tau2_fudge,
            "rlnPaddingFactor": sums.pad,
            "rlnReferenceDimensionality": sums.ndim,
            "rlnOriginalImageSize": sums.box,
            "rlnCurrentImageSize": 2 * sums.r_max,
            "rlnPixelSize": self.pixel_size,
            "rlnParticleDiameter": self.diameter,
        }
        shells = {
            "rlnSpectralIndex": [str(s) for s in range(len(tau2))],
            "rlnReferenceTau2": texts_of(tau2),
            "rlnGoldStandardFsc": texts_of(fsc),
        }
        return StarFile(
            [
                ("external_reconstruct_general", Table(as_texts(general), loop=False)),
                ("external_reconstruct_tau2", Table(shells)),
            ]
        )

    def _run(self, root: str) -> None:
        words, said = [*self.before, f"{root}.star", *self.after], f"{root}.out"
        with open(said, "wb") as output:
            try:
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            except OSError as error:
                raise UserError(f"{words[0]} cannot be started: {error.strerror}.") from None
            with process:
                try:
                    while process.poll() is None:
                        self.check()
                        with suppress(subprocess.TimeoutExpired):
                            process.wait(SECONDS_BETWEEN_LOOKS)
                except BaseException:
                    process.kill()
                    raise
        with open(said, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        well = process.returncode == 0 and (not self.is_blush or lines[-1:] == [BLUSH_IS_WELL])
        if not well:
            last = f" ({lines[-1]})" if lines else ""
            raise UserError(f"{words[0]} ended with status {process.returncode}{last}; all that it said is in {said}.")

    def _result(self, path: str, sums: BackProjector) -> NDArray[np.float32]:
        if not os.path.exists(path):
            raise UserError(f"{self.before[0]} made no {path}.")
        volume = np.asarray(mrc.read_map(path)[0], np.float32)
        if sums.ndim == 2:
            volume = volume.reshape(volume.shape[-2:])
        if volume.shape != (sums.box,) * sums.ndim or not np.isfinite(volume).all():
            raise UserError(
                f"{path}, which {self.before[0]} made, is no map of {sums.box} voxels a side with finite values."
            )
        return volume


def centred_at_zero(sums: BackProjector) -> NDArray[np.float32]:
    """Sums within their radius, float32 (n, n, n // 2 + 1, 3) or (n, n // 2 + 1, 3) in 2D, n = pad * box.

    The origin is at index 0, negative frequencies follow the positive ones, as in FFTW's transforms.
    """
    n, half = padded_box(sums.box, sums.pad), sums.grid.shape[1] // 2
    radius = min(sums.r_max_padded, n // 2)
    z, y, x = (np.arange(-radius, radius + 1), np.arange(-radius, radius + 1), np.arange(radius + 1))
    z = z[:1] * 0 if sums.ndim == 2 else z
    inside = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= sums.r_max_padded**2
    first = sums.grid.shape[0] // 2
    values = sums.grid[np.ix_(z + first, y + half, x)] * inside[..., None]
    # in a transform of even size the highest frequency is stored once, as the positive one
    z, y = (k[k > -(n / 2)] for k in (z, y))
    values = values[-len(z) :, -len(y) :]
    out = np.zeros((1 if sums.ndim == 2 else n, n, n // 2 + 1, 3), np.float32)
    out[np.ix_(z % n, y % n, x)] = values
    return out[0] if sums.ndim == 2 else out


def _new_spectra(
    path: str, spectra: ShellSpectra, fsc: NDArray[np.float64], tau2_fudge: float, joined: bool
) -> tuple[ShellSpectra, NDArray[np.float64]]:
    """Spectra and FSC with what a program has left of them in a STAR file, if it has left one."""
    if not os.path.exists(path):
        return spectra, fsc
    file = star.read(path)
    table = next(iter(file.values()), None)
    if table is None or "rlnSpectralIndex" not in table:
        raise UserError(f"{path} has no column _rlnSpectralIndex.")
    index = table.ints("rlnSpectralIndex")
    known = (index >= 0) & (index < len(fsc))
    index = index[known]
    tau2, ratio, fsc = spectra.tau2.copy(), spectra.data_vs_prior.copy(), fsc.copy()
    sigma2 = np.where(spectra.sigma2 > 0, spectra.sigma2, np.inf)
    if "rlnReferenceTau2" in table:
        tau2[index] = table.floats("rlnReferenceTau2")[known]
        ratio[index] = tau2[index] / sigma2[index]
    elif "rlnFourierShellCorrelation" in table:
        fsc[index] = table.floats("rlnFourierShellCorrelation")[known]
        of_fsc, ssnr = tau2_from_fsc(fsc, spectra.sigma2, tau2_fudge, joined)
        tau2[index], ratio[index] = of_fsc[index], ssnr[index]
    else:
        raise UserError(f"{path} has neither _rlnReferenceTau2 nor _rlnFourierShellCorrelation.")
    return replace(spectra, tau2=tau2, data_vs_prior=ratio), fsc
