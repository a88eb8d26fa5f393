"""How the values of a run are written in STAR tables, and read back with sentences for what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.io.star import Table, format_float
from relion_py.compute.refine.model import FloatArray


class ListValues:
    """A list block, with sentences for what is missing or not a number."""

    def __init__(self, table: Table, path: str) -> None:
        self._table, self._path = table, path

    def __contains__(self, label: str) -> bool:
        return label in self._table

    def text(self, label: str, default: str | None = None) -> str:
        if label not in self._table:
            if default is not None:
                return default
            raise UserError(f"{self._path} has no _{label}: it is damaged, or not of RELION.")
        return self._table.value(label)

    def number(self, label: str, default: float | None = None) -> float:
        if label not in self._table and default is not None:
            return default
        text = self.text(label)
        try:
            return float(text)
        except ValueError:
            raise UserError(f"{self._path}: _{label} is '{text}', not a number.") from None

    def integer(self, label: str, default: int | None = None) -> int:
        number = self.number(label, default)
        if number != number or number != int(number):
            raise UserError(f"{self._path}: _{label} is {number:g}, not a whole number.")
        return int(number)


def texts_of(values: Any) -> list[str]:
    return [format_float(float(value)) for value in np.asarray(values).tolist()]


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Floats in the reference's twelve characters, switches as 1 and 0."""
    texts = {}
    for label, value in values.items():
        if isinstance(value, bool | np.bool_):
            texts[label] = "1" if value else "0"
        elif isinstance(value, float | np.floating):
            texts[label] = format_float(float(value))
        else:
            texts[label] = str(value)
    return texts


def column_or_zeros(table: Table, label: str, rows: int) -> FloatArray:
    return table.floats(label) if label in table else np.zeros(rows)


def one_line(text: str) -> str:
    return " ".join(text.split())
