"""Template matching: figures of merit of references, turned in the plane, at every position of a micrograph.

The figure of merit compares the probability of a reference at a position with that of nothing but noise there. For
one reference it rises with the cross-correlation, so only the highest cross-correlation over all in-plane angles is
kept, and turned into a figure of merit once. Cross-correlations are products of transforms at the resolution of
`lowpass`. Where references have fewer angular harmonics than there are angles, the cross-correlations are put together
from the maps of these (harmonics.py, correlator.py). Otherwise a reference's transform is read off its oversampled
transform for each angle; an angle and the one opposite share that.

RELION adds the noise of one random image to the expected probability ratio; here it is left out, so that figures
of merit do not depend on a seed. They differ by one factor for each reference and micrograph.

Source: RELION 5, autopicker.cpp (initialise, autoPickOneMicrograph, calculateStddevAndMeanUnderMask).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.image import fft
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.image.fourier import disc_pixels, filter_profile, frequencies, radius_grid
from relion_py.compute.picking.harmonics import FIRST_PEAK, make_basis
from relion_py.compute.picking.micrograph import (
    AS_IT_IS,
    Geometry,
    Image,
    Standard,
    lowpass_size,
    made_standard,
    standard_square,
    window,
)
from relion_py.compute.picking.peaks import Area
from relion_py.compute.picking.references import References, squared_distance
from relion_py.compute.picking.template_kernels import figures_of_merit, keep_best, paired_products, turned

if TYPE_CHECKING:
    from relion_py.compute.picking.correlator import Correlator

_OVERSAMPLING = 8.0
_KEPT_REFERENCES = 256 * 2**20  # bytes of turned references that stay in memory between micrographs
_SMALLEST_VARIANCE = 1e-10
_FEW_ANGLES = 8  # of which transforms cost less than harmonics
_MOST_WAVES = 200.0
_MOST_MAPS = 768 * 2**20  # bytes of the maps of a basis, for each thread

Transform = NDArray[np.complex64]


@dataclass(frozen=True)
class TemplateSettings:
    """How references are matched.

    psi_step: degrees; made such that a whole number of steps fills the circle. lowpass, highpass (A; not positive:
    none). ctf: references are multiplied by the micrograph's CTF; intact_first_peak: only beyond its first peak.
    shrink: see :func:`~relion_py.compute.picking.micrograph.working_size`. margin: pixels added around the
    micrograph. outlier_zscore, optimise_scale, seed: as for the Laplacian of Gaussian.
    """

    psi_step: float = 10.0
    lowpass: float = -1.0
    highpass: float = -1.0
    ctf: bool = False
    intact_first_peak: bool = False
    shrink: float = 1.0
    margin: int = 0
    outlier_zscore: float = 8.0
    optimise_scale: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.psi_step <= 360:
            raise UserError(f"--ang must lie between 0 and 360 degrees, not {self.psi_step:g}.")
        if not 0 <= self.shrink < np.inf:
            raise UserError(
                f"--shrink must be a fraction from 0 to 1, or a size in pixels above 1, not {self.shrink:g}."
            )
        if not self.outlier_zscore > 0:
            raise UserError(f"--outlier_removal_zscore must be positive, not {self.outlier_zscore:g}.")
        if self.margin < 0:
            raise UserError(f"--extra_pad must not be negative; it is {self.margin}.")

    @property
    def step(self) -> float:
        """Degrees between in-plane angles: `psi_step`, or what is nearest to it and fills the circle."""
        return 360.0 / max(1, int(np.floor(360.0 / self.psi_step + 0.5)))

    @property
    def psis(self) -> NDArray[np.float64]:
        """In-plane angles, degrees, from 0 on."""
        return np.arange(round(360.0 / self.step), dtype=np.float64) * self.step


@dataclass(frozen=True)
class Noise:
    """Mean and standard deviation of the micrograph around every position, float32 (work, work)."""

    mean: Image
    deviation: Image


@dataclass(frozen=True)
class Match:
    """One reference on one micrograph: figures of merit and psi (degrees), float32 (work, work), of the best angle;
    expected: the probability ratio that a figure of merit of 1 stands for."""

    merit: Image
    psi: Image
    expected: float


@dataclass(frozen=True)
class Pixels:
    """Fourier pixels of a half plane, int32 (P,): kx >= 0 and ky; plus, minus: where they and their opposites are in
    a full transform, flat."""

    kx: NDArray[np.int32]
    ky: NDArray[np.int32]
    plus: NDArray[np.int32]
    minus: NDArray[np.int32]

    @classmethod
    def within(cls, radius: int, work: int) -> Pixels:
        """Those within a radius that have opposites in a transform of `work` pixels."""
        kx, ky = disc_pixels(radius, include_dc=True)
        order = np.lexsort((kx, ky))  # neighbours in memory
        kx, ky = kx[order], ky[order]
        keep = _has_opposites(kx, ky, work)
        kx, ky = kx[keep], ky[keep]
        return cls(kx, ky, (ky % work) * work + kx, (-ky % work) * work + (-kx % work))

    def kept_at(self, work: int) -> NDArray[np.bool_]:
        """Which of these, (P,), have opposites in a transform of `work` pixels, too."""
        return _has_opposites(self.kx, self.ky, work)


def _has_opposites(kx: NDArray[np.int32], ky: NDArray[np.int32], work: int) -> NDArray[np.bool_]:
    return (kx < work // 2) & (np.abs(ky) < work // 2)


class Matcher:
    """References, ready for micrographs of one size. Safe to share between threads.

    pixels: the Fourier pixels that are matched; band: those of the references' resolution.
    """

    keeps_turned = True
    """Whether the transforms of turned references stay in memory, if they are few."""

    def __init__(self, references: References, geometry: Geometry, settings: TemplateSettings) -> None:
        self.references, self.geometry, self.settings = references, geometry, settings
        self.noise_mask = mask_transform(squared_distance(references.box) >= references.radius**2, geometry)
        radius = lowpass_size(geometry.size, geometry.angpix, settings.lowpass) // 2
        self.band = Pixels.within(radius, 2 * radius + 2)
        self.pixels = Pixels.within(radius, geometry.work)
        self._table_size = 2 * int(np.ceil(radius / geometry.size * references.box)) + 2
        self._step = references.box * _OVERSAMPLING / geometry.size
        psis = settings.psis
        self.has_opposites = len(psis) % 2 == 0
        self.angles = psis[: len(psis) // 2] if self.has_opposites else psis
        count = len(references.images)
        self.correlators: list[Correlator] = []
        if self.keeps_turned:
            cutoff = float(np.hypot(self.pixels.kx, self.pixels.ky).max()) / geometry.size
            self.correlators = self._correlators(references.images, cutoff)
        bytes_needed = count * len(self.angles) * self.pixels.kx.nbytes * 2
        keep = self.keeps_turned and not self.correlators and bytes_needed <= _KEPT_REFERENCES
        self._kept = [list(self._turned_reference(number)) for number in range(count)] if keep else None
        self._waves_of_box = _waves(2 * radius + 1, geometry.size, references.box)
        self._waves_of_circle = _waves(2 * radius + 1, geometry.size, 2 * references.radius + 1)
        across, circle = len(self._waves_of_circle[1]), squared_distance(2 * references.radius + 1)
        self._at = self.band.ky % (2 * radius + 1) * across + self.band.kx  # in a half transform
        self._circle = circle < references.radius**2
        self._unturned: dict[int, Transform] = {}

    def start(self, micrograph: Image, ctf: CtfParams | None, seed: int) -> Started:
        """What is computed once per micrograph, float32 (ny, nx).

        ctf: one particle's parameters. seed: of the noise that makes oblong micrographs square.
        """
        return Started(self, micrograph, ctf, seed)

    def turned_reference(self, number: int) -> Iterable[Transform]:
        """The transforms of a reference at `pixels`, turned by each of `angles`."""
        return self._turned_reference(number) if self._kept is None else self._kept[number]

    def circle_of(self, number: int, factor: NDArray[np.float32]) -> NDArray[np.float64]:
        """Pixels within the circle of a reference whose transform is multiplied by a factor (P,) at those of `band`."""
        half = self._half(self._unturned_reference(number) * factor)
        columns, rows = self._real_waves_of_circle
        # real and imaginary parts side by side: products of real matrices
        across = (half.view(np.float32) @ columns).reshape(len(half), 2, -1)
        return self._within_circle(rows @ across.reshape(2 * len(half), -1))

    @functools.cached_property
    def _real_waves_of_circle(self) -> tuple[Image, Image]:
        """`_waves_of_circle` for parts of a transform by turns, (2 X, 2 C), and for parts of its rows, (C, 2 Y)."""
        rows, columns = self._waves_of_circle
        cosines, sines = columns.real, -columns.imag  # of the inverse transform
        both = np.stack([np.concatenate([cosines, sines], 1), np.concatenate([-sines, cosines], 1)], 1)
        return both.reshape(2 * len(columns), -1), np.stack([rows.real.T, rows.imag.T], -1).reshape(rows.shape[1], -1)

    def _unturned_reference(self, number: int) -> Transform:
        """The transform of a reference at the pixels of `band`; made when it is asked for first."""
        if number not in self._unturned:
            rows, columns = self._waves_of_box
            whole = rows @ self.references.images[number].astype(np.complex64) @ columns.T
            self._unturned[number] = whole[self.band.ky, self.band.kx]
        return self._unturned[number]

    def _half(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (P,) at the pixels of `band` in a half transform; twice, for their opposites."""
        rows, columns = (len(waves) for waves in self._waves_of_circle)
        half = np.zeros(rows * columns, values.dtype)
        half[self._at] = values
        half[1:] *= 2
        return half.reshape(rows, columns)

    def _within_circle(self, image: Image) -> NDArray[np.float64]:
        """The circle's pixels of the middle of an image, as the product with `_waves_of_circle` leaves it."""
        return image[self._circle].astype(np.float64) / self.geometry.size**2

    def _correlators(self, images: Image, cutoff: float) -> list[Correlator]:
        """Groups of references, in their order, that are matched by harmonics; none where that saves nothing.

        cutoff: highest frequency, cycles per pixel.
        """
        from relion_py.compute.picking.correlator import Correlator  # its kernels load Numba

        references, geometry, settings = self.references, self.geometry, self.settings
        # there are about as many harmonics as waves fit around a reference
        waves = 2 * np.pi * references.radius * cutoff
        if len(self.angles) < _FEW_ANGLES or not 1 < waves < min(_MOST_WAVES, 3 * len(self.angles)):
            return []
        has_peak = settings.ctf and not settings.intact_first_peak
        basis = make_basis(images, references.radius, cutoff, geometry.angpix / FIRST_PEAK if has_peak else 0.0)
        if len(basis) * geometry.work**2 * 8 <= _MOST_MAPS:
            fewer = len(basis) < 0.8 * len(images) * len(self.angles)
            return [Correlator(basis, self.pixels, geometry.size, geometry.work, settings.psis)] if fewer else []
        half = len(images) // 2
        groups = [self._correlators(part, cutoff) for part in (images[:half], images[half:])] if half else []
        return [one for group in groups for one in group] if all(groups) else []

    def _turned_reference(self, number: int) -> Iterator[Transform]:
        table = self._table(number)
        for angle in self.angles:
            yield self._read_off(table, angle, self.pixels)

    def _table(self, number: int) -> Transform:
        from relion_py.compute.refine.projector import FourierReference  # its kernels take a while to load

        image = self.references.images[number]
        made = FourierReference.from_map(image, self._table_size, _OVERSAMPLING)
        return made.data[1] * np.float32(self.references.box**2)

    def _read_off(self, table: Transform, angle: float, pixels: Pixels) -> Transform:
        out = np.empty(pixels.kx.size, np.complex64)
        radians = np.deg2rad(angle)
        turned(table, self._step, np.cos(radians), np.sin(radians), pixels.kx, pixels.ky, out)
        return out


class Started:
    """One micrograph whose transforms are known."""

    def __init__(self, matcher: Matcher, micrograph: Image, ctf: CtfParams | None, seed: int) -> None:
        self._matcher = matcher
        settings, geometry = matcher.settings, matcher.geometry
        square, standard = standard_square(micrograph, geometry, settings.outlier_zscore, 1.0, seed)
        if settings.highpass > 0:
            square = _without_low(made_standard(square, standard), geometry, settings.highpass)
            standard = AS_IT_IS
        self._plain, self._squared = self._windowed(square, standard)
        self._ctf_in_band = _ctf(ctf if settings.ctf else None, matcher.band, geometry, settings.intact_first_peak)
        particle = int(matcher.references.inside().sum())
        pixels = matcher.pixels
        factor = self._ctf_in_band[matcher.band.kept_at(geometry.work)] / np.float32(particle)
        self._signal = self._plain[pixels.ky, pixels.kx] * factor

    def noise(self, mask: Transform) -> Noise:
        """Mean and standard deviation under a mask, given as its transform by :func:`mask_transform`."""
        work = self._matcher.geometry.work
        mean = fft.irfft2(self._plain * mask, s=(work, work), norm="forward")
        variance = fft.irfft2(self._squared * mask, s=(work, work), norm="forward") - mean * mean
        deviation = np.sqrt(variance, where=variance > _SMALLEST_VARIANCE, out=np.ones_like(variance))
        return Noise(mean, deviation)

    def match(self, noise: Noise, stop: threading.Event | None = None, area: Area | None = None) -> Iterator[Match]:
        """The references, one after the other; Aborted once `stop` is set. area: where figures of merit are needed;
        elsewhere they may be 0."""
        if self._matcher.correlators:
            yield from self._match_by_harmonics(noise, stop, area)
            return
        matcher, work = self._matcher, self._matcher.geometry.work
        pixels, psis = matcher.pixels, matcher.settings.psis.astype(np.float32)
        pair = np.zeros((work, work), np.complex64)
        for number in range(len(matcher.references.images)):
            best = np.full((work, work), -np.inf, np.float32)
            which = np.zeros((work, work), np.int16)
            for index, reference in enumerate(matcher.turned_reference(number)):
                if stop is not None and stop.is_set():
                    raise Aborted("The job was asked to stop.")
                paired_products(
                    reference, self._signal, pixels.plus, pixels.minus, matcher.has_opposites, pair.reshape(-1)
                )
                maps = fft.ifft2(pair, norm="forward")
                opposite = index + len(matcher.angles) if matcher.has_opposites else -1
                keep_best(maps, index, opposite, best, which)
            moment, square = self._moments(number)
            figures_of_merit(best, noise.mean, noise.deviation, moment, square)
            yield Match(best, psis[which], float(np.exp(0.5 * square)))

    def _windowed(self, square: Image, standard: Standard) -> tuple[Transform, Transform]:
        """The lowest frequencies of a micrograph and of its squared values, see `micrograph.window`."""
        work = self._matcher.geometry.work
        return window(square, work, False, standard), window(square, work, True, standard)

    def _match_by_harmonics(self, noise: Noise, stop: threading.Event | None, area: Area | None) -> Iterator[Match]:
        matcher, work = self._matcher, self._matcher.geometry.work
        psis = matcher.settings.psis.astype(np.float32)
        area = area or (slice(0, work), slice(0, work))

        def check() -> None:
            if stop is not None and stop.is_set():
                raise Aborted("The job was asked to stop.")

        number = 0
        for correlator in matcher.correlators:
            maps = correlator.maps(self._signal, area, check)
            for best, which in zip(*correlator.best(maps, check), strict=True):
                moment, square = self._moments(number)
                merit, psi = np.zeros((work, work), np.float32), np.zeros((work, work), np.float32)
                merit[area], psi[area] = correlator.placed(best, area), psis[correlator.placed(which, area)]
                figures_of_merit(merit[area], noise.mean[area], noise.deviation[area], moment, square)
                yield Match(merit, psi, float(np.exp(0.5 * square)))
                number += 1

    def _moments(self, number: int) -> tuple[float, float]:
        """<A> and <A^2> over the circle of a reference A as it looks in this micrograph: with its CTF, low-passed.

        One is added to the number of pixels, as RELION does.
        """
        matcher = self._matcher
        inside = matcher.circle_of(number, self._ctf_in_band)
        return float(inside.sum() / (len(inside) + 1)), float((inside**2).sum() / (len(inside) + 1))


def _ctf(ctf: CtfParams | None, pixels: Pixels, geometry: Geometry, intact: bool) -> NDArray[np.float32]:
    """The CTF that references are multiplied by, (P,); 1 without one."""
    if ctf is None:
        return np.ones(pixels.kx.size, np.float32)
    return ctf_values(ctf, pixels.kx, pixels.ky, geometry.size, geometry.angpix, intact_first_peak=intact)[0]


def mask_transform(mask: NDArray[np.bool_], geometry: Geometry) -> Transform:
    """Conjugate of the lowest frequencies (work, work // 2 + 1) of a mask (box, box) in the middle of a micrograph,
    over its number of pixels; UserError for an empty one."""
    pixels = int(mask.sum())
    if not pixels:
        raise UserError(
            "The references leave no background around the particle; give a smaller --particle_diameter, or larger "
            "boxes."
        )
    rows, columns = _waves(geometry.work, geometry.size, len(mask))
    return (rows @ mask.astype(np.complex64) @ columns.T).conj() / np.float32(pixels)


def _waves(size: int, large: int, box: int) -> tuple[Transform, Transform]:
    """exp(-2 pi i k x / large) for the frequencies k of rows (size, box) and columns (size // 2 + 1, box) of a half
    transform and the pixels x - box // 2 of a box."""
    k = frequencies(size).astype(np.int64)
    turns = np.outer(k, np.arange(box) - box // 2) % large / large
    waves = np.exp(-2j * np.pi * turns).astype(np.complex64)
    return waves, waves[: size // 2 + 1]


def _without_low(square: Image, geometry: Geometry, resolution: float) -> Image:
    """The micrograph without what is coarser than `resolution` A."""
    size = geometry.size
    profile = filter_profile(radius_grid(size), size, geometry.angpix, resolution, highpass=True)
    return fft.irfft2(fft.rfft2(square) * profile.astype(np.float32), s=(size, size))
