"""The CUDA kernels as text, and what they take.

`kernels/*.cu` are written in C with a few words of `kernels/common.cuh`, so that a compiler for processors can build
them as well, for tests. Signatures are read from the text: what a kernel is given is checked against them and scalars
are made the type that it wants, because a device would take anything and compute nonsense.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "kernels"
THREADS = 128
"""Threads of a block, as BLOCK_THREADS in common.cuh."""

_KERNEL = re.compile(r"^KERNEL\((\w+),([^)]*)\)", re.MULTILINE)
_TYPES: dict[str, Any] = {
    "float": np.float32,
    "float2": np.complex64,
    "double": np.float64,
    "int": np.int32,
    "int64": np.int64,
    "unsigned char": np.uint8,
}


class Parameter(NamedTuple):
    """A parameter of a kernel: an array of this type, or a scalar."""

    name: str
    dtype: np.dtype
    is_array: bool


def files() -> list[Path]:
    """The kernels' files."""
    return sorted(FOLDER.glob("*.cu"))


def source(path: Path) -> str:
    """Text of one file with what it includes."""
    common = (FOLDER / "common.cuh").read_text()
    return path.read_text().replace('#include "common.cuh"', common)


def whole_source() -> str:
    """All kernels as one text."""
    parts = [(FOLDER / "common.cuh").read_text(), *(path.read_text() for path in files())]
    return parts[0] + "".join(part.replace('#include "common.cuh"', "") for part in parts[1:])


@functools.cache
def signatures() -> dict[str, tuple[Parameter, ...]]:
    """Parameters of each kernel, by its name."""
    found = {}
    for path in files():
        for name, parameters in _KERNEL.findall(path.read_text()):
            found[name] = tuple(_parameter(text) for text in parameters.split(","))
    return found


def _parameter(text: str) -> Parameter:
    kind, star, name = re.fullmatch(r"(?:const )?(.+?)(\*?) (\w+)", " ".join(text.split())).groups()  # type: ignore[union-attr]
    return Parameter(name, np.dtype(_TYPES[kind]), bool(star))


def arguments(name: str, given: Sequence[Any]) -> list[Any]:
    """What a kernel is given, scalars in the types that it wants; raises TypeError for what does not fit."""
    wanted = signatures()[name]
    if len(given) != len(wanted):
        raise TypeError(f"{name} takes {len(wanted)} arguments, not {len(given)}")
    out = []
    for value, (label, dtype, is_array) in zip(given, wanted, strict=True):
        if not is_array:
            if getattr(value, "ndim", 0):
                raise TypeError(f"{name}: {label} is a number, not an array")
            out.append(dtype.type(value))
            continue
        if getattr(value, "dtype", None) != dtype or not value.flags.c_contiguous:
            kind = getattr(value, "dtype", type(value).__name__)
            raise TypeError(f"{name}: {label} must be a contiguous array of {dtype}, not {kind}")
        out.append(value)
    return out
