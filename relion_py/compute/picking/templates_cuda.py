"""Template matching on a GPU: cuFFT for the transforms, `backend/kernels/picking.cu` for the rest.

The scheme, and its arithmetic in single precision, are those of `picking.templates`; many angles of a reference are
done at a time. The micrograph is made standard, and peaks are searched, on the host: with several threads (--j) they
do that while the device, which does one reference of one micrograph at a time, works for another. One thread alone
speaks to the device: CuPy keeps plans of transforms, with their work space, for each thread.

RELION's counterpart is acc/acc_autopicker_impl.h.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.cuda_arrays import GIB, Device
from relion_py.compute.backend.kernel_sources import THREADS
from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.picking.micrograph import Geometry, Image, Standard, made_standard
from relion_py.compute.picking.peaks import Area
from relion_py.compute.picking.references import References
from relion_py.compute.picking.templates import Match, Matcher, Noise, Started, TemplateSettings, Transform

Array = Any
"""An array of the device."""
OnDevice = Callable[[Callable[[], Any]], Any]
"""Calls a function in the thread of the device."""

_MOST_WORK = 2 * GIB  # bytes of transforms at a time: more angles at once are no faster
_BYTES_PER_PIXEL = 40  # of an angle: its product, its transform, and what cuFFT needs
_KEPT_TABLES = GIB  # bytes of references that stay on the device between micrographs


class CudaMatcher(Matcher):
    """As `Matcher`, on a device. Threads share it.

    on_device(function) calls that in the device's thread; budget: bytes of its memory that may be used.
    """

    keeps_turned = False  # references are read off on the device, each time

    def __init__(
        self, references: References, geometry: Geometry, settings: TemplateSettings, device: Device,
        on_device: OnDevice, budget: int,
    ) -> None:  # fmt: skip
        super().__init__(references, geometry, settings)
        self.device, self.on_device, self.budget = device, on_device, budget
        # found when the first reference is matched, and made smaller where the memory is too small after all
        self.angles_at_a_time = 0
        self.psis = settings.psis.astype(np.float32)
        radians = np.deg2rad(self.angles)
        self.turns = (np.stack([np.cos(radians), np.sin(radians)], 1) * self._step).astype(np.float32)
        # a device's array of each reference's oversampled transform
        self._tables: dict[int, Array] = {}
        self._there: tuple[Array, ...] = ()
        self._waves_there: tuple[Array, ...] = ()
        # of the micrograph that was asked about last, and its factor, by which it is known
        self._factor_there: tuple[NDArray[np.float32], Array] | None = None

    def start(self, micrograph: Image, ctf: CtfParams | None, seed: int) -> Started:
        """See `Matcher.start`."""
        return CudaStarted(self, micrograph, ctf, seed)

    def circle_of(self, number: int, factor: NDArray[np.float32]) -> NDArray[np.float64]:
        """See `Matcher.circle_of`: the products of matrices are the device's, and no transform is kept."""
        image = self.on_device(lambda: self._middle_there(number, factor))
        return super().circle_of(number, factor) if image is None else self._within_circle(image)

    def _middle_there(self, number: int, factor: NDArray[np.float32]) -> Image | None:
        """The middle of a reference, as `_within_circle` takes it; None where the memory is too small."""
        xp = self.device.xp
        try:
            if not self._waves_there:
                box, circle = self._waves_of_box, self._waves_of_circle
                waves = box[0], box[1].T, circle[0].conj().T, circle[1].conj()
                self._waves_there = tuple(xp.asarray(np.ascontiguousarray(each)) for each in waves)
            if self._factor_there is None or self._factor_there[0] is not factor:
                self._factor_there = factor, xp.asarray(self._half(factor))
            rows, columns, left, right = self._waves_there
            image = xp.asarray(self.references.images[number].astype(np.complex64))
            half = xp.dot(xp.dot(rows, image), columns) * self._factor_there[1]
            middle: Image = self.device.to_host(xp.dot(xp.dot(left, half), right).real)
            return middle
        except self.device.memory_errors:
            pass
        self.drop()
        return None

    def table_there(self, number: int) -> Array:
        """A reference's oversampled transform on the device; in its thread."""
        if number in self._tables:
            return self._tables[number]
        table = self.device.xp.asarray(self._table(number))
        if (len(self._tables) + 1) * table.nbytes <= min(_KEPT_TABLES, self.budget // 4):
            self._tables[number] = table
        return table

    def pixels_there(self) -> tuple[Array, ...]:
        """kx, ky, plus, minus of `pixels` and the angles of `psis` on the device; in its thread."""
        if not self._there:
            p = self.pixels
            whole = (np.ascontiguousarray(each, np.int32) for each in (p.kx, p.ky, p.plus, p.minus))
            self._there = tuple(self.device.xp.asarray(each) for each in (*whole, self.psis))
        return self._there

    def drop(self) -> None:
        """Gives back what is kept on the device; in its thread."""
        self._tables.clear()
        self._there = self._waves_there = ()
        self._factor_there = None
        self.device.release()


class CudaStarted(Started):
    """As `Started`, matched on a device."""

    _matcher: CudaMatcher

    def _windowed(self, square: Image, standard: Standard) -> tuple[Transform, Transform]:
        """See `Started._windowed`."""
        found = self._matcher.on_device(lambda: self._windowed_there(made_standard(square, standard)))
        return super()._windowed(square, standard) if found is None else found

    def _windowed_there(self, square: Image) -> tuple[Transform, Transform] | None:
        """The same of a standard micrograph; None where the memory is too small."""
        matcher, size, half = self._matcher, len(square), self._matcher.geometry.work // 2
        xp = matcher.device.xp

        def kept(image: Array) -> Transform:
            whole = xp.fft.rfft2(image).astype(np.complex64, copy=False)[:, : half + 1]
            if matcher.geometry.work < size:
                whole = xp.concatenate([whole[: half + 1], whole[size - half + 1 :]])
            transform: Transform = matcher.device.to_host(whole)
            return transform / np.float32(size * size)

        try:
            image = xp.asarray(square)
            return kept(image), kept(image * image)
        except matcher.device.memory_errors:
            pass
        matcher.drop()
        return None

    def match(self, noise: Noise, stop: threading.Event | None = None, area: Area | None = None) -> Iterator[Match]:
        """See `Started.match`: everywhere, whatever the area; UserError where memory is too small."""
        matcher = self._matcher
        for number in range(len(matcher.references.images)):
            moments = self._moments(number)
            one = _OneReference(matcher, self._signal, noise, number, moments, stop)
            merit, psi = matcher.on_device(one.best)
            yield Match(merit, psi, float(np.exp(0.5 * moments[1])))


class _OneReference:
    """A reference on a micrograph, in the thread of the device."""

    def __init__(
        self, matcher: CudaMatcher, signal: Transform, noise: Noise, number: int, moments: tuple[float, float],
        stop: threading.Event | None,
    ) -> None:  # fmt: skip
        self._matcher, self._device, self._xp = matcher, matcher.device, matcher.device.xp
        self._work = matcher.geometry.work
        self._signal, self._noise = np.ascontiguousarray(signal, np.complex64), noise
        self._number, self._moments, self._stop = number, moments, stop

    def best(self) -> tuple[Image, Image]:
        """Figures of merit and psi (degrees), float32 (work, work)."""
        matcher = self._matcher
        if not matcher.angles_at_a_time:
            fit = self._room() // (_BYTES_PER_PIXEL * self._work**2)
            matcher.angles_at_a_time = int(np.clip(fit, 1, len(matcher.angles)))
        while True:
            try:
                return self._best(matcher.angles_at_a_time)
            except self._device.memory_errors:
                pass
            # outside of the except clause, whose error holds on to what filled the memory
            matcher.drop()
            if matcher.angles_at_a_time == 1:
                raise UserError(
                    f"the memory of GPU {self._device.name} is too small for transforms of {self._work} x "
                    f"{self._work} pixels: give --shrink or --lowpass, use fewer ranks on this GPU, or leave --gpu out."
                )
            matcher.angles_at_a_time //= 2

    def _room(self) -> int:
        """Bytes that one pass may use."""
        left = min(self._matcher.budget - self._device.used_bytes(), self._device.free_bytes())
        return int(min(left // 2, _MOST_WORK))

    def _best(self, size: int) -> tuple[Image, Image]:
        """The same, `size` angles at a time."""
        matcher, xp, work, noise = self._matcher, self._xp, self._work, self._noise
        *pixels, psis = matcher.pixels_there()
        signal, table = xp.asarray(self._signal), matcher.table_there(self._number)
        best = xp.zeros((work, work), np.float32) - np.float32(np.inf)
        which = xp.zeros((work, work), np.int32)
        pairs = xp.zeros((size, work, work), np.complex64)
        angles, both = len(matcher.angles), matcher.has_opposites
        for first in range(0, angles, size):
            if self._stop is not None and self._stop.is_set():
                raise Aborted("The job was asked to stop.")
            count = min(size, angles - first)
            total = count * len(signal)
            self._launch(
                "turned_products", total, table, *table.shape, xp.asarray(matcher.turns[first : first + count]),
                *pixels, signal, both, len(signal), work * work, total, pairs,
            )  # fmt: skip
            maps = xp.fft.ifft2(pairs[:count], norm="forward").astype(np.complex64, copy=False)
            self._launch("keep_best_angle", best.size, maps, count, first, both, angles, best.size, best, which)
        psi = xp.empty((work, work), np.float32)
        mean, deviation = (xp.asarray(np.ascontiguousarray(each)) for each in (noise.mean, noise.deviation))
        self._launch(
            "figures_of_merit", best.size, which, psis, mean, deviation, *self._moments, best.size, best, psi
        )  # fmt: skip
        return self._device.to_host(best), self._device.to_host(psi)

    def _launch(self, kernel: str, threads: int, *arguments: Any) -> None:
        self._device.launch(kernel, (-(-threads // THREADS), 1, 1), list(arguments))


class CudaMatching:
    """A device for the matchers of all sizes of micrographs of a rank, see `autopick.TemplateMethod`."""

    def __init__(self, device: Device, budget: int) -> None:
        self._device, self._budget = device, budget
        self._thread = ThreadPoolExecutor(1, "gpu", initializer=device.use)

    def matcher(self, references: References, geometry: Geometry, settings: TemplateSettings) -> Matcher:
        """References ready for micrographs of one size."""
        return CudaMatcher(references, geometry, settings, self._device, self._call, self._budget)

    def _call(self, function: Callable[[], Any]) -> Any:
        return self._thread.submit(function).result()
