"""Numbers as the reference reads and writes them in job options: C's sscanf("%f") and a short float format.

Commands must agree flag for flag with RELION's, so the same text has to mean the same number (a prefix
counts: "0:1" is 0) and a computed number has to be printed with the same digits.
"""

from __future__ import annotations

import math
import re
import struct

_FLOAT_PREFIX = re.compile(
    r"\s*([+-]?(?:0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?\d+)?"
    r"|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
    r"|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?|[nN][aA][nN]))"
)

_STRICT_FLOAT = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")


def single(value: float) -> float:
    """Round to IEEE single precision (RELION keeps option values in a C float)."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def parse_number(text: str) -> float | None:
    """The number at the start of `text`, in single precision, or None where there is none.

    Text that begins with "$$" (a Scheme's variable, filled in later) and empty text count as 0.
    Source: RELION 5 pipeline_jobs.cpp, JobOption::getNumber.
    """
    if text.startswith("$$") or not text.strip():
        return 0.0
    match = _FLOAT_PREFIX.match(text)
    if match is None:
        return None
    word = match.group(1)
    return single(float.fromhex(word) if "x" in word.lower() else float(word))


def is_number(text: str) -> bool:
    """Whether the whole of `text` is one finite decimal number (stricter than `parse_number`)."""
    return _STRICT_FLOAT.fullmatch(text) is not None and math.isfinite(float(text))


def format_number(value: float) -> str:
    """A computed number as RELION prints it into a command: single precision, six significant digits.

    Source: RELION 5 strings.cpp, floatToString with its default width (which leaves C's "%g").
    """
    return f"{single(value):g}"


def whole(value: float) -> int:
    """A number cut to a C int: towards zero; what does not fit, or is no number, becomes the smallest int."""
    return int(value) if abs(value) < 2**31 else -(2**31)


def round_half_away(value: float) -> int:
    """Nearest integer, halves away from zero (RELION's ROUND macro)."""
    return whole(value + 0.5) if value > 0 else whole(value - 0.5)
