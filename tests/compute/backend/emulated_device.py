"""A device for CudaBackend that is a processor: kernels compiled as C++, threads one after the other."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from strict_arrays import CURRENT, Array, products, xp

from relion_py.compute.backend import kernel_sources

COMPILER = shutil.which("g++") or shutil.which("clang++")
HEADER = Path(__file__).parent / "emulation" / "emulation.h"


@functools.cache
def _library() -> ctypes.CDLL:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    with tempfile.TemporaryDirectory() as folder:
        code, library = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        code.write_text(f'#include "{HEADER}"\n{kernel_sources.whole_source()}')
        words = [COMPILER, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Wno-sign-compare", "-shared", "-fPIC"]
        done = subprocess.run([*words, "-o", library, code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr, done.stderr
        return ctypes.CDLL(str(library))


class EmulatedDevice:
    """launches: kernels in the order in which they were run; fail_at: numbers of those that run out of memory."""

    name = "emulation"
    xp = xp
    memory_errors = (MemoryError,)

    def __init__(self, free: int = 1 << 30, fail_at: tuple[int, ...] = (), tensor_cores: bool = False) -> None:
        self.library, self.free, self.fail_at = _library(), free, set(fail_at)
        self.has_tensor_cores = tensor_cores
        self.launches: list[str] = []
        self.released = 0

    def use(self) -> None:
        """Arrays of this thread lie here."""
        CURRENT.device = self

    def launch(self, kernel, grid, arguments):
        """Runs it here and now."""
        self.launches.append(kernel)
        if len(self.launches) - 1 in self.fail_at:
            raise MemoryError(kernel)
        assert grid[0] < 2**31 and max(grid[1:]) < 2**16, "more blocks than a device takes"
        values = kernel_sources.arguments(kernel, arguments)
        assert all(value.device is self for value in values if isinstance(value, Array)), "an array of another device"
        places = []
        for value in values:
            if isinstance(value, Array):
                places.append(np.array([value.inside.ctypes.data], np.uintp))
            else:
                places.append(np.array([value]))
        pointers = (ctypes.c_void_p * len(places))(*[place.ctypes.data for place in places])
        sizes = (ctypes.c_int * 4)(*grid, kernel_sources.THREADS)
        getattr(self.library, f"launch_{kernel}")(sizes, pointers)

    def products(self, a, b, out, rough):
        """With rounded factors where it pretends to have tensor cores."""
        products(a, b, out, rough and self.has_tensor_cores)

    def to_host(self, array):
        """A copy."""
        assert array.device is self
        return array.inside.copy()

    def free_bytes(self):
        """As it was told."""
        return self.free

    def used_bytes(self):
        """Nothing."""
        return 0

    def release(self):
        """Counts."""
        self.released += 1
