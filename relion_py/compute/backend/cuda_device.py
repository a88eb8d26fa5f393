"""Real devices: which of them a rank computes on, what stands in the way, and CuPy as `cuda_arrays.Device`.

CuPy is an extra of this package and imported here only, when --gpu was given.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend import kernel_sources
from relion_py.compute.errors import UserError
from relion_py.compute.parallel.comm import Communicator

AUTOMATIC = "auto"
"""What --gpu without a list means: ranks are spread over the devices that are there."""
OLDEST = 60
"""Compute capability that atomic additions in double precision need: Pascal."""
MIB = 1 << 20
# values of cuBLAS's enumerations (cublas_api.h, library_types.h), which CuPy does not name
_AS_IS, _TRANSPOSED, _FLOAT32, _COMPUTE_FAST_TF32, _DEFAULT_ALGORITHM = 0, 1, 0, 77, -1


def devices_of_rank(text: str, rank: int, local_rank: int, available: int) -> tuple[int, ...]:
    """Numbers of the devices of a rank, in the syntax of RELION's --gpu.

    Colons separate ranks, commas the devices that one rank uses at a time: "0:1" or "0,1:2,3". A list shorter than
    the ranks begins again. Without a list the local_rank-th process on this machine takes the next device in turn.
    Raises UserError for what is no such list, or names a device that is not there.
    """
    if text.strip() in ("", AUTOMATIC):
        return (local_rank % available,)
    per_rank = parse_list(text)
    mine = per_rank[rank % len(per_rank)]
    for number in mine:
        if number >= available:
            there = "only GPU 0 is" if available == 1 else f"only GPUs 0 to {available - 1} are"
            raise UserError(f"--gpu {text} names GPU {number}, but {there} there; correct the list.")
    return mine


def parse_list(text: str) -> list[tuple[int, ...]]:
    """Device numbers of each rank of a list such as "0,1:2,3", each once; UserError for anything else."""
    ranks = []
    for part in text.strip().split(":"):
        words = [word.strip() for word in part.split(",")]
        if not all(word.isdecimal() for word in words):
            raise UserError(
                f"--gpu must list the numbers of GPUs, such as 0 or 0:1 for two ranks or 0,1 for one, not '{text}'."
            )
        ranks.append(tuple(dict.fromkeys(int(word) for word in words)))
    return ranks


def first_of_each(text: str) -> str:
    """The list with one device for each rank, for a program whose ranks use one; UserError for what is no list."""
    if text.strip() in ("", AUTOMATIC):
        return AUTOMATIC
    return ":".join(str(numbers[0]) for numbers in parse_list(text))


def load_cupy() -> Any:
    """The module cupy, with a device that works; UserError with what to do otherwise."""
    try:
        import cupy
    except ImportError as error:
        raise UserError(
            "--gpu needs CuPy, which cannot be imported here "
            f"({error}): install it with pip install 'cupy-cuda12x[ctk]' for a driver of CUDA 12, or "
            "pip install 'cupy-cuda13x[ctk]' for one of CUDA 13 (nvidia-smi tells which), or leave --gpu out."
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # cupy's own error types differ between versions
        raise UserError(
            f"--gpu needs an NVIDIA GPU and its driver, and CUDA finds none ({error}): check it with nvidia-smi, or "
            "leave --gpu out."
        ) from None
    if count == 0:
        raise UserError("--gpu needs an NVIDIA GPU, and none is visible (CUDA_VISIBLE_DEVICES?): leave --gpu out.")
    return cupy


@contextmanager
def _told(name: str) -> Iterator[None]:
    """UserError for what goes wrong inside: errors of CuPy, of its loader and of each library, of many types."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"--gpu: CUDA does not work on GPU {name} ({first_line}). If a library is missing, install NVIDIA's with "
            "pip install 'cupy-cuda12x[ctk]' for a driver of CUDA 12, or 'cupy-cuda13x[ctk]' for one of CUDA 13; if "
            "the GPU is busy or out of memory, use another; or leave --gpu out."
        ) from None


def try_out(device: CupyDevice) -> None:
    """UserError where a part of CUDA that computing needs does not load or work on this device.

    CuPy loads NVIDIA's libraries when they are first used: without them it can be imported, and finds devices.
    """
    xp = device.xp
    with _told(device.name):
        device.use()
        numbers = xp.asarray(np.arange(64, dtype=np.float32).reshape(8, 8))
        out = xp.empty((8, 8), np.float32)
        device.products(numbers, numbers, out, rough=True)
        values = xp.fft.rfft2(numbers + out)[xp.argsort(out[0])]
        if not np.isfinite(device.to_host(values)).all():
            raise UserError(f"--gpu: GPU {device.name} computes nonsense; use another, or leave --gpu out.")


def bytes_of_maps(box: int, classes: int, padding: float, dimensions: int) -> int:
    """Memory that references and sums of maps need at the full image size, as `FourierReference` lays them out."""
    size = 2 * int(padding * box / 2 + 0.5) + 3
    return classes * (size if dimensions == 3 else 3) * size * (size // 2 + 1) * (8 + 12)


@dataclass(frozen=True)
class Share:
    """A device and the bytes of its memory that this rank may use."""

    device: CupyDevice
    budget: int


def open_devices(text: str, free_mb: int, comm: Communicator, cupy: Any = None) -> list[Share]:
    """The devices of this rank; ranks on one device share its memory, less free_mb megabytes that stay free.

    All ranks must call this together. Raises UserError for what stands in the way.
    """
    cupy = cupy or load_cupy()
    host = socket.gethostname()
    hosts = comm.allgather(host)
    numbers = devices_of_rank(text, comm.rank, hosts[: comm.rank].count(host), int(cupy.cuda.runtime.getDeviceCount()))
    users = [(name, number) for name, theirs in comm.allgather((host, numbers)) for number in theirs]
    devices = [CupyDevice(cupy, number) for number in numbers]
    comm.barrier()  # what each rank's context and libraries take is gone before anybody looks
    free = [device.free_bytes() for device in devices]
    comm.barrier()  # nobody takes memory before all have seen what is free
    shares = []
    for device, number, left in zip(devices, numbers, free, strict=True):
        budget = (left - free_mb * MIB) // users.count((host, number))
        if budget < 256 * MIB:
            raise UserError(
                f"GPU {device.name} has {left / MIB:.0f} MB free for {users.count((host, number))} rank(s), which is "
                "too little; end what else runs there, use fewer ranks or another GPU, or a smaller --free_gpu_memory."
            )
        device.limit(int(budget))
        shares.append(Share(device, int(budget)))
    return shares


class CupyDevice:
    """A CUDA device through CuPy, with our kernels compiled for it, see `cuda_arrays.Device`."""

    def __init__(self, cupy: Any, number: int) -> None:
        self.cupy, self.xp = cupy, cupy
        # CuPy's OutOfMemoryError is one; where Thrust sorts, a plain one comes
        self.memory_errors: tuple[type[BaseException], ...] = (MemoryError,)
        self._device = cupy.cuda.Device(number)
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        self.name = f"{number} ({properties['name'].decode()})"
        if int(self._device.compute_capability) < OLDEST:
            raise UserError(
                f"GPU {self.name} is too old: compute capability {OLDEST // 10}.0 (Pascal) or newer is needed. "
                "Use another one, or leave --gpu out."
            )
        # those that round factors to TF32: Ampere and newer; tests compare without them
        self.has_tensor_cores = int(self._device.compute_capability) >= 80
        # one object for all devices; what it says and does concerns the current one
        self._pool = cupy.get_default_memory_pool()
        try_out(self)
        with _told(self.name):
            self.use()
            module = cupy.RawModule(code=kernel_sources.whole_source())
            self._functions = {name: module.get_function(name) for name in kernel_sources.signatures()}

    def use(self) -> None:
        """Make it the current device of this thread."""
        self._device.use()

    def launch(self, kernel: str, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        """Run a kernel in blocks of THREADS threads."""
        values = kernel_sources.arguments(kernel, arguments)
        self._functions[kernel](grid, (kernel_sources.THREADS, 1, 1), tuple(values))

    def products(self, a: Any, b: Any, out: Any, rough: bool) -> None:
        """out (R, M) = a (R, K) times b (M, K) transposed, all contiguous float32, see `cuda_arrays.Device`."""
        if not (rough and self.has_tensor_cores):
            self.xp.dot(a, b.T, out=out)
            return
        # not with CuPy's own switch, which is one for all devices and threads. cuBLAS counts columns first
        (rows, inner), columns = a.shape, len(b)
        if min(rows, inner, columns) == 0:
            out[...] = 0
            return
        factor = np.array([1.0, 0.0], np.float32)
        at = factor.ctypes.data
        self.cupy.cuda.cublas.gemmEx(
            self.cupy.cuda.device.get_cublas_handle(), _TRANSPOSED, _AS_IS, columns, rows, inner, at,
            b.data.ptr, _FLOAT32, inner, a.data.ptr, _FLOAT32, inner, at + factor.itemsize, out.data.ptr, _FLOAT32,
            columns, _COMPUTE_FAST_TF32, _DEFAULT_ALGORITHM,
        )  # fmt: skip

    def limit(self, budget: int) -> None:
        """This process takes no more bytes of the device's memory: what CuPy keeps for later use counts as well."""
        with self._device:
            self._pool.set_limit(size=budget)

    def to_host(self, array: Any) -> NDArray:
        """A copy as NumPy's array."""
        with self._device:
            return np.asarray(self.cupy.asnumpy(array))

    def free_bytes(self) -> int:
        """Memory that this process could still take: what is free, and what it keeps for later use."""
        with self._device:
            free, _ = self.cupy.cuda.runtime.memGetInfo()
            return int(free) + int(self._pool.free_bytes())

    def used_bytes(self) -> int:
        """Memory in use by this process."""
        with self._device:
            return int(self._pool.used_bytes())

    def release(self) -> None:
        """Give back memory that is kept for later use, cuFFT's plans included."""
        with self._device:
            self.cupy.fft.config.get_plan_cache().clear()
            self._pool.free_all_blocks()
