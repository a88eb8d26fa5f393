"""Kernels compiled by Numba, which is loaded when the first of them is called, and without its compiler if it can be.

Importing Numba takes 0.2 s and 65 MB, which programs that call no kernel do not pay: `njit` here makes a `Kernel`,
which becomes Numba's dispatcher when it is first called (from Python, or by a kernel that is being compiled). Before
Numba looks into its cache on disc it fills the tables of its compiler, another 0.23 s and 20 to 45 MB
(`numba.core.caching.Cache.load_overload`); code that is there needs none of that, only the functions of Numba's
runtime that it calls, and what compiles fills the tables itself (`numba.core.compiler.CompilerBase`). Numba takes BLAS
from a compiled module of SciPy, in a package whose import is another 0.1 s and 12 MB; that module is loaded alone.

With the code of a kernel Numba loads those of its modules in which functions of NumPy are written that it calls. For
making or reshaping arrays that is `numba.np.arrayobj`, 0.02 s: kernels of quick programs are given their arrays.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import mmap
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relion_py.compute.scipy_alone import load_alone


class Kernel:
    """A function that Numba compiles when it is first called; attributes are those of Numba's dispatcher.

    options: of numba.njit. Where no cache can be written (neither the installation nor the user's cache directory is
    writable) it is compiled for this process alone.
    """

    def __init__(self, function: Callable, signatures: tuple[str, ...], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self._signatures = signatures
        self._options = options
        self._made: Any = None

    @property
    def dispatcher(self) -> Any:
        """Numba's own. Two threads may both make it, and the first counts: a lock could wait for the compiler's, which
        another thread holds while it waits for this kernel."""
        if self._made is None:
            made = self._make()
            self._made = self._made or made
        return self._made

    def _make(self) -> Any:
        options = dict(self._options)
        cached = options.pop("cache", False)
        made = load_numba().njit(**options)(self.py_func)
        if made is self.py_func:  # NUMBA_DISABLE_JIT
            return made
        if cached:
            _enable_cache(made)
        for signature in self._signatures:
            made.compile(signature)
        if self._signatures:
            made.disable_compile()
        return made

    @property
    def _numba_type_(self) -> Any:
        """What Numba takes this for where a kernel calls it."""
        return self.dispatcher._numba_type_

    def __call__(self, *arguments: Any) -> Any:
        return (self._made or self.dispatcher)(*arguments)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dispatcher":
            raise AttributeError(name)
        return getattr(self.dispatcher, name)


def njit(*signatures: str, **options: Any) -> Callable[[Callable], Any]:
    """Decorator like numba.njit (options are the same) that makes a :class:`Kernel`.

    signatures: the only types of arguments that it is to have; others are converted to them.
    """
    return lambda function: Kernel(function, signatures, options)


def load_numba() -> Any:
    """Numba. None of its 50,000 objects is ever garbage, so the collector need not look at them, now or later: 0.04 s.
    Modules that import parts of it call this before."""
    if "numba" not in sys.modules:
        collecting = gc.isenabled()
        gc.disable()
        try:
            importlib.import_module("numba")
            entry_points: Any = importlib.import_module("numba.core.entrypoints")
            if hasattr(entry_points, "_already_initialized"):  # as in all releases so far
                # else it reads what all installed packages say of themselves, lest they extend it: 0.01 s
                entry_points._already_initialized = True
        finally:
            gc.freeze()
            if collecting:
                gc.enable()
    return importlib.import_module("numba")  # which another thread may be doing


def _enable_cache(dispatcher: Any) -> None:
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # nowhere to write one
        return
    cache = dispatcher._cache
    if hasattr(cache, "_load_overload"):  # as in all releases so far
        cache.load_overload = functools.partial(_load, cache)


def _load(cache: Any, signature: Any, context: Any) -> Any:
    """`numba.core.caching.Cache.load_overload`, but the context stays as it is: without its compiler's tables."""
    from numba.core.runtime import rtsys

    load_alone("scipy.linalg.cython_blas")
    rtsys.initialize(context)
    with cache._guard_against_spurious_io_errors():
        loaded = cache._load_overload(signature, context)
    _unmap_compiler()
    return loaded


@functools.cache
def _compiler_code() -> tuple[tuple[int, int], ...]:
    """Address and length of LLVM's code and constants, as they lie in the file; empty where /proc does not say.

    Constants that hold addresses were written when the library was loaded: their pages are this process's own
    ("Anonymous"), and would not come back from the file.
    """
    try:
        maps = Path("/proc/self/smaps").read_text()
    except OSError:
        return ()
    found = re.findall(r"^(\w+)-(\w+) r-.p .*/libllvmlite\.so\n(?:\w+:.*\n)*?Anonymous: +0 kB$", maps, re.MULTILINE)
    return tuple((int(first, 16), int(last, 16) - int(first, 16)) for first, last in found)


def _unmap_compiler() -> None:
    """Takes LLVM's code and constants, 70 MB, out of this process's memory: what links a kernel is not needed until the
    next one. They stay in the system's cache of files, from where they come back when it runs.
    """
    for address, length in _compiler_code():
        ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
