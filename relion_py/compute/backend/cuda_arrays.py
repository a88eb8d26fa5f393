"""What computing on a CUDA device takes besides arithmetic: the device, its memory, arrays kept there, launches.

A device comes in from outside (`cuda_device.CupyDevice`, or an emulation in tests).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.kernel_sources import THREADS
from relion_py.compute.backend.work import Array
from relion_py.compute.errors import UserError

GIB = 1 << 30
MOST_WORK = 8 * GIB
"""Work space of a batch is not made larger than this: then what is done once a batch, as the projections of a coarse
pass, costs little a particle."""
SORT_BYTES = 64
"""While so many numbers are sorted: copies of keys and of places, twice, with room to spare."""


class Device(Protocol):
    """What the backend needs to know of a device."""

    name: str
    xp: Any
    memory_errors: tuple[type[BaseException], ...]

    def use(self) -> None:
        """Make it the current device of this thread."""

    def launch(self, kernel: str, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        """Run a kernel in blocks of THREADS threads."""

    def to_host(self, array: Array) -> NDArray:
        """A copy as NumPy's array."""

    def products(self, a: Array, b: Array, out: Array, rough: bool) -> None:
        """out (R, M) = a (R, K) times b (M, K) transposed, float32.

        rough: factors may be rounded to 11 bits (TF32), which tensor cores multiply several times faster.
        """

    def free_bytes(self) -> int:
        """Memory that this process could still take."""

    def used_bytes(self) -> int:
        """Memory in use by this process."""

    def release(self) -> None:
        """Give back memory that is kept for later use."""


class DeviceArrays:
    """Arrays on one device; use as a context manager.

    budget: bytes of the device that this process may use (default: what is free). check() is called between pieces of
    work and may raise to stop. partners: those of other devices of this process, opened and closed with it.
    """

    def __init__(
        self,
        device: Device,
        threads: int = 1,
        check: Callable[[], None] | None = None,
        budget: int | None = None,
        partners: Sequence[DeviceArrays] = (),
    ) -> None:
        self.device, self.threads = device, max(1, threads)
        self.xp = device.xp
        self._check = check or (lambda: None)
        self.budget = device.free_bytes() if budget is None else budget
        self.members: list[Any] = [self, *partners]
        self._constants: dict[Any, tuple[Any, Array]] = {}
        self._last: dict[str, tuple[Any, Any]] = {}

    def __enter__(self) -> Self:
        self.use()
        return self

    def use(self) -> None:
        """New arrays of this thread lie on this device from now on, and its kernels run there."""
        self.device.use()

    def side_by_side(self, function: Callable[[Any], None], steps: Sequence[Any]) -> None:
        """function(step) for each, the devices of several at the same time; the first error is raised when all ended.

        The function itself sees to it that the others end soon.
        """

        def run(step: Any) -> None:
            step.backend.use()
            function(step)

        if len(steps) == 1:
            run(steps[0])
            return
        with ThreadPoolExecutor(len(steps)) as pool:
            futures = [pool.submit(run, step) for step in steps]
        for future in futures:
            future.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in reversed(self.members):
            each.use()
            each._constants.clear()
            each._last.clear()
            each.device.release()

    # ---- arrays and memory ----

    def to_device(self, array: Array) -> Array:
        """A copy of NumPy's array on the device; what is there already stays."""
        return self.xp.asarray(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array

    def to_host(self, array: Array) -> NDArray:
        """A copy of the device's array as NumPy's."""
        return self.device.to_host(array)

    def take(self, array: Array, index: NDArray) -> NDArray:
        """NumPy's array of array[index]."""
        return self.to_host(array[self.to_device(index)])

    def _constant(self, name: Any, owner: Any, make: Callable[[], NDArray]) -> Array:
        """make() on the device, kept while the backend is open; owner is kept too, so that its id stays its own."""
        if name not in self._constants:
            self._constants[name] = owner, self.to_device(make())
        return self._constants[name][1]

    def work_bytes(self) -> int:
        """Work space that one batch may take: a third of what is left, as intermediate arrays come on top."""
        left = min(self.budget - self.device.used_bytes(), self.device.free_bytes())
        return int(np.clip(left // 3, 1, MOST_WORK))

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that a batch was too large."""
        return isinstance(error, self.device.memory_errors)

    def release(self) -> None:
        """Gives back memory that is kept for later use."""
        self.device.release()

    def references(self, volumes: NDArray[np.complex64]) -> Array:
        """The references' transforms on the device."""
        return self._large(volumes.nbytes, "the references", lambda: self.to_device(volumes))

    def accumulators(self, sums: NDArray[np.float32]) -> list[Array]:
        """Where back-projections are added."""
        return [self._large(sums.nbytes, "the sums of the maps", lambda: self.xp.zeros(sums.shape, np.float32))]

    def collect(self, accumulators: list[Array], sums: NDArray[np.float32]) -> None:
        """Adds what was back-projected to `sums`."""
        sums += self.to_host(accumulators[0])
        accumulators.clear()

    def _large(self, size: int, what: str, make: Callable[[], Array]) -> Array:
        try:
            return make()
        except self.device.memory_errors:
            raise UserError(
                f"GPU {self.device.name} has too little free memory for {what}: {size / GIB:.1f} GB are needed, "
                f"{self.device.free_bytes() / GIB:.1f} GB are free. Use --pad 1, fewer classes, fewer ranks on this "
                "GPU or one with more memory, or leave --gpu out."
            ) from None

    def _launch(self, kernel: str, threads: int, *arguments: Any) -> None:
        """Run a kernel on so many threads."""
        self._launch_blocks(kernel, (-(-int(threads) // THREADS), 1, 1), *arguments)

    def _launch_blocks(self, kernel: str, grid: tuple[int, int, int], *arguments: Any) -> None:
        if min(grid) > 0:
            self.device.launch(kernel, grid, list(arguments))

    def _order(self, values: Array) -> Array:
        self._room_to_sort(values)
        return self.xp.argsort(values)  # CuPy's is stable

    def _room_to_sort(self, values: Array) -> None:
        """An error of memory here rather than within Thrust, where older releases of CuPy go on without it."""
        self.xp.empty(len(values) * SORT_BYTES, np.uint8)

    def _kept(self, name: str, owner: Any, make: Callable[[], Any]) -> Any:
        """make(), or what it made in the last call, if that had the same owner."""
        if name not in self._last or self._last[name][0] is not owner:
            self._last.pop(name, None)
            self._last[name] = owner, make()
        return self._last[name][1]
