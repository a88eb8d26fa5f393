"""Kernels are compiled when they are first called, and come from their cache without Numba's compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.jit import Kernel, njit

HERE = Path(__file__).parent
CALL = """
import sys
sys.path.insert(0, {here!r})
import jit_kernels as k, numpy as np
before = 'numba' in sys.modules
{call}
hits = sum(sum(kernel.stats.cache_hits.values()) for kernel in (k.dot, k.doubled, k.quadrupled, k.narrow))
# the tables of the compiler come with these modules; BLAS without the package it is in
print(before, hits, 'numba.typed.typeddict' in sys.modules, 'scipy.linalg' in sys.modules)
"""


def _call(call: str, cache: Path) -> list[str]:
    code = CALL.format(here=str(HERE), call=call)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_cached_kernels_need_no_compiler(tmp_path):
    use = "a = np.arange(4.0); assert k.dot(a, a) == 14 and (k.quadrupled(a) == 4 * a).all() and k.narrow(1) == 1"
    assert _call(use, tmp_path)[:3] == ["False", "0", "True"]
    assert _call(use, tmp_path) == ["False", "3", "False", "False"]
    # one that is in the cache is called by one that is compiled for other numbers
    other = "a = np.arange(3); assert k.doubled(2.0) == 4 and (k.quadrupled(a) == 4 * a).all() and k.dot(a / 2, a / 2)"
    assert _call(other, tmp_path)[2] == "True"
    assert _call(other, tmp_path) == ["False", "4", "False", "False"]  # that of one signature is always there


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_the_code_of_the_compiler_does_not_stay_in_memory(tmp_path):
    resident = """
def resident():
    parts = open('/proc/self/smaps').read().split('libllvmlite.so')
    code = [after for before, after in zip(parts, parts[1:]) if ' r-xp ' in before.splitlines()[-1]]
    return [int(each.split('Rss:')[1].split()[0]) for each in code]
a = np.arange(4.0)
assert (k.doubled(a) == 2 * a).all()
"""
    assert int(_call(f"{resident}print(*resident())", tmp_path)[0]) > 10_000, "kB, where it compiles"
    # and it comes back when it is needed again
    again = "print(*resident()); b = np.arange(3); assert (k.quadrupled(b) == 4 * b).all(); print(*resident())"
    first, second = map(int, _call(f"{resident}{again}", tmp_path)[:2])
    assert first == 0 and second > 10_000


def test_a_kernel_is_compiled_where_there_is_no_place_for_a_cache():
    scope: dict[str, object] = {}
    exec("def added(a, b):\n    'The sum.'\n    return a + b", scope)  # without a file
    kernel = njit(cache=True)(scope["added"])
    assert kernel.__doc__ == "The sum." and kernel.py_func is scope["added"]
    assert kernel(2, 3) == 5 and len(kernel.signatures) == 1


def test_a_kernel_has_the_attributes_of_numbas_and_no_others():
    kernel = njit()(lambda x: x + 1)
    assert isinstance(kernel, Kernel) and kernel(1) == 2 and kernel.nopython_signatures
    with pytest.raises(AttributeError):
        _ = kernel.no_such_thing


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32])
def test_arguments_are_converted_to_a_kernels_only_signature(kind):
    kernel = njit("float32(float32)")(lambda x: x / np.float32(3))
    assert kernel(kind(1)) == np.float32(1) / np.float32(3) and len(kernel.signatures) == 1


def test_threads_may_call_a_kernel_for_the_first_time_together():
    inner = njit()(lambda x: x + 1)
    outer = njit("int64(int64)", nogil=True)(lambda x: inner(x) * 2)
    with ThreadPoolExecutor(6) as pool:
        kernels = [outer, inner, outer, inner, outer, inner]
        assert list(pool.map(lambda kernel: kernel(4), kernels, timeout=60)) == [10, 5, 10, 5, 10, 5]
    assert len(outer.signatures) == len(inner.signatures) == 1
