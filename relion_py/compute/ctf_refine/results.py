"""The end of CTF refinement: fits of whole optics groups, and the particles with all that was found.

Facts: RELION 5, jaz/single_particle/ctf/ctf_refiner.cpp (finalise) and the estimators' parametricFit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf_refine import phases, sums
from relion_py.compute.ctf_refine.magnification import adapt_astigmatism, anisotropy, fit_magnification
from relion_py.compute.ctf_refine.micrographs import Micrograph, Work, read_ctfs
from relion_py.compute.ctf_refine.particles import Optics
from relion_py.compute.errors import UserError
from relion_py.compute.image.aberrations import MAGNIFICATION
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io.mrc import write_map
from relion_py.compute.io.particle_ctf import CTF_COLUMNS
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.io.star import StarFile, format_float
from relion_py.compute.refine.half_maps import References

Say = Callable[[str], None]

_MAGNIFICATION_LIMIT = 0.005  # beyond which the pixel size is doubted (magnification_estimator.cpp)


@dataclass(frozen=True)
class PhaseSettings:
    """Resolutions coarser than ``coarsest`` A, and those within the ring (A), do not count; degree of polynomials."""

    coarsest: float
    degree: int
    ring: tuple[float, float] = (-1.0, -1.0)


@dataclass(frozen=True)
class MagnificationSettings:
    """keep_astigmatism: leave the CTFs as they are; own_astigmatism: adapt each particle's for itself."""

    coarsest: float
    keep_astigmatism: bool = False
    own_astigmatism: bool = False


@dataclass(frozen=True)
class GroupFits:
    """What is fitted to the sums over all micrographs, None for nothing."""

    tilt: PhaseSettings | None = None
    aberrations: PhaseSettings | None = None
    magnification: MagnificationSettings | None = None


@dataclass(frozen=True)
class Picture:
    """A page of the log: title, and images (s, s) with their captions and half the range of their greys."""

    title: str
    images: tuple[tuple[str, NDArray[np.float32], float], ...]


@dataclass
class Results:
    """params: the CTFs of all rows of the table; pictures: fits of optics groups; failed: micrograph -> sentence."""

    params: CtfParams
    pictures: list[Picture] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def gather_ctfs(
    table: ParticleTable, micrographs: Sequence[Micrograph], params: CtfParams, work: Work, failed: dict[str, str]
) -> Results:
    """The CTFs that were found, read from the files; a micrograph that has none keeps its own and is listed."""
    values = {f.name: getattr(params, f.name).copy() for f in fields(CtfParams)}
    failed = dict(failed)
    if work.ctf_fields:
        for micrograph in micrographs:
            if micrograph.name in failed:
                continue
            try:
                found = read_ctfs(micrograph, table, work)
            except (UserError, OSError) as error:
                failed[micrograph.name] = str(error)
                continue
            for name, column in found.items():
                values[name][micrograph.rows] = column
    return Results(CtfParams(**values), failed=failed)


class OpticsFitter:
    """Fits of optics groups, which change ``table.optics`` and, for the magnification, the CTFs in ``results``."""

    def __init__(
        self,
        table: ParticleTable,
        micrographs: Sequence[Micrograph],
        optics: Sequence[Optics],
        references: References,
        results: Results,
        directory: str,
        say: Say,
    ) -> None:
        self._table, self._micrographs, self._optics = table, micrographs, optics
        self._references, self._results, self._directory, self._say = references, results, directory, say

    def run(self, fits: GroupFits) -> None:
        """Every fit that was asked for, in the reference's order."""
        if fits.magnification is not None:
            self._say(" + Fitting anisotropic magnification ...")
            for index, total in self._totals("magnification"):
                self._fit_magnification(index, total, fits.magnification)
        if fits.tilt is not None:
            self._say(" + Fitting beam tilt ...")
            for index, total in self._totals("tilt"):
                self._fit_tilt(index, total, fits.tilt)
        if fits.aberrations is not None:
            self._say(" + Fitting symmetrical aberrations ...")
            for index, total in self._totals("aberrations"):
                self._fit_aberrations(index, total, fits.aberrations)

    def _totals(self, kind: str) -> list[tuple[int, dict[str, NDArray[np.float64]]]]:
        """Sums over all micrographs for each optics group that has particles."""
        found = []
        for index, optics in enumerate(self._optics):
            total: dict[str, NDArray[np.float64]] = {}
            for micrograph in self._micrographs:
                if index not in micrograph.groups or micrograph.name in self._results.failed:
                    continue
                for name, values in sums.read_sums(micrograph.root, kind, optics).items():
                    total[name] = total[name] + values if name in total else values
            if total:
                found.append((index, total))
        return found

    def _fit_tilt(self, index: int, total: sums.Sums, settings: PhaseSettings) -> None:
        optics = self._optics[index]
        weight = self._weight(optics, settings)
        if settings.degree < 3:
            fit, tilt_x, tilt_y = phases.fit_tilt(total, weight, optics)
        else:
            fit = phases.fit_odd(total, weight, optics, settings.degree)
            coefficients, tilt_x, tilt_y = phases.extract_tilt(fit.coefficients, optics)
            self._set("rlnOddZernike", index, _vector(coefficients), "[]")
        self._set("rlnBeamTiltX", index, format_float(tilt_x), "0.000000")
        self._set("rlnBeamTiltY", index, format_float(tilt_y), "0.000000")
        self._say(f"   - Beam tilt of optics group {optics.number} ({optics.name}): {tilt_x:.4f}, {tilt_y:.4f} mrad")
        self._draw_phases("beamtilt", "Odd aberrations", fit, optics, settings.degree, -1.0)

    def _fit_aberrations(self, index: int, total: sums.Sums, settings: PhaseSettings) -> None:
        optics = self._optics[index]
        fit = phases.fit_even(total, self._weight(optics, settings), optics, settings.degree)
        self._set("rlnEvenZernike", index, _vector(fit.coefficients), "[]")
        self._draw_phases("aberr", "Even aberrations", fit, optics, settings.degree, 1.0)

    def _fit_magnification(self, index: int, total: sums.Sums, settings: MagnificationSettings) -> None:
        optics = self._optics[index]
        weight = self._references.weights(optics.frequency, settings.coarsest)
        fit = fit_magnification(total, weight, optics)
        before = optics.aberrations.magnification
        before = np.eye(2) if before is None else before
        after = before @ fit.change
        for label, value, neutral in zip(MAGNIFICATION, after.ravel(), ("1", "0", "0", "1"), strict=True):
            self._set(label, index, format_float(float(value)), neutral)
        mean, difference = anisotropy(after)
        name = f"optics group {optics.number} ({optics.name})"
        self._say(f"   - Magnification anisotropy of {name}: {100 * difference:.3f} %")
        if abs(mean - 1.0) > _MAGNIFICATION_LIMIT:
            self._say(
                f" WARNING: the magnification of {name} differs from the nominal one by {100 * (mean - 1):.2f} %; "
                "this changes the pixel size of the next map."
            )
        if not settings.keep_astigmatism:
            self._adapt(index, after @ np.linalg.inv(before), settings.own_astigmatism)
        images = []
        for axis in (0, 1):
            for kind, values in (("", fit.observed), ("_fit", fit.fitted)):
                image = _centred(sums.spread(values[axis], optics, -1.0), -1.0)
                self._write(f"mag_disp_{'xy'[axis]}{kind}", optics, image)
                images.append((f"{'fitted' if kind else 'observed'}, {'xy'[axis]}", image, 1.0))
        title = f"Displacement of Fourier pixels (-1 to 1), optics group {optics.number}: {optics.name}"
        self._results.pictures.append(Picture(title, tuple(images)))

    def _adapt(self, index: int, change: NDArray[np.float64], own: bool) -> None:
        params = self._results.params
        rows = np.flatnonzero(self._table.group_index == index)
        micrograph = np.zeros(len(params), np.int64)
        for number, one in enumerate(self._micrographs):
            micrograph[one.rows] = number
        adapted = adapt_astigmatism(params[rows], change, None if own else micrograph[rows])
        columns = {}
        for name in ("defocus_u", "defocus_v", "defocus_angle"):
            columns[name] = getattr(params, name).copy()
            columns[name][rows] = getattr(adapted, name)
        self._results.params = replace(params, **columns)

    def _weight(self, optics: Optics, settings: PhaseSettings) -> NDArray[np.float64]:
        weight = self._references.weights(optics.frequency, settings.coarsest)
        weight = phases.ring_weight(weight, optics.frequency, *settings.ring)
        if not weight.any():
            raise UserError(
                f"No frequency is left to fit between {settings.coarsest:g} A and the references' resolution; "
                "give a larger --kmin or a narrower ring."
            )
        return weight

    def _set(self, label: str, index: int, value: str, neutral: str) -> None:
        optics = self._table.optics
        column = optics.strings(label) if label in optics else [neutral] * len(optics)
        column[index] = value
        optics.set(label, column)

    def _draw_phases(
        self, stem: str, title: str, fit: phases.PhaseFit, optics: Optics, degree: int, parity: float
    ) -> None:
        observed = _centred(sums.spread(fit.observed, optics, parity), parity)
        fitted = _centred(sums.spread(fit.fitted, optics, parity), parity)
        self._write(f"{stem}_delta-phase_per-pixel", optics, observed)
        self._write(f"{stem}_delta-phase_iter-fit", optics, fitted, f"_N-{degree}" if degree > 2 else "")
        images = [
            (f"{kind}, {text}", image, scale)
            for scale, text in ((1.0, "-1 to 1"), (np.pi, "-pi to pi"))
            for kind, image in (("observed", observed), ("fitted", fitted))
        ]
        page = f"{title} (radians), optics group {optics.number}: {optics.name}"
        self._results.pictures.append(Picture(page, tuple(images)))

    def _write(self, stem: str, optics: Optics, image: NDArray[np.float32], ending: str = "") -> None:
        write_map(f"{self._directory}{stem}_optics-group_{optics.number}{ending}.mrc", image, optics.angpix)


def finished_particles(
    table: ParticleTable, micrographs: Sequence[Micrograph], results: Results, names: Sequence[str]
) -> StarFile:
    """The whole file: particles of these micrographs in their order, with the CTF's columns ``names`` (fields)."""
    particles = table.particles.copy()
    for name in names:
        particles.set(CTF_COLUMNS[name], getattr(results.params, name))
    rows = np.concatenate([micrograph.rows for micrograph in micrographs])
    file = StarFile(list(table.star.blocks))
    del file[table.block]
    file["particles"] = particles.select(rows)
    return file


def _vector(values: NDArray[np.float64]) -> str:
    return "[" + ",".join(f"{value:.9g}" for value in values) + "]"


def _centred(half: NDArray[np.float32], parity: float) -> NDArray[np.float32]:
    """A half transform of real values as an image (s, s) with the origin at s // 2."""
    box = len(half)
    whole = np.zeros((box, box), np.float32)
    whole[:, : box // 2 + 1] = half
    mates = whole[(-np.arange(box)) % box][:, 1 : box // 2]
    whole[:, box // 2 + 1 :] = parity * mates[:, ::-1]
    return np.fft.fftshift(whole)
