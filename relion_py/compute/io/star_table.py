"""What a STAR file holds: tables of named columns, whose values are the texts that stand in the file.

Numbers are made only when asked for (`Table.floats`, `Table.ints`), so tables and columns that nobody here knows
survive reading and writing (`relion_py.compute.io.star`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from relion_py.compute.errors import UserError

if TYPE_CHECKING:
    import numpy as np

VERSION_COMMENT = "# version 50001"
"""What RELION 5 writes above every block."""


class StarError(UserError):
    """A STAR file, or a value asked of it, is not as it should be; the text says which and where."""


class Table:
    """One block of a STAR file: named columns of equal length, every value a text.

    loop: True for a `loop_` block (many rows), False for a list of label-value pairs (one row).
    comments: the comment lines above the `data_` line, each with its `#`; notes: those below it.
    columns: the texts by label, in file order; where: what errors call the block.
    """

    __slots__ = ("columns", "comments", "loop", "notes", "where")

    def __init__(
        self,
        columns: Mapping[str, Any] | None = None,
        *,
        loop: bool = True,
        comments: Sequence[str] = (VERSION_COMMENT,),
        notes: Sequence[str] = (),
    ) -> None:
        self.columns: dict[str, list[str]] = {}
        self.where = "the table"
        self.loop = loop
        self.comments = tuple(comments)
        self.notes = tuple(notes)
        for label, values in (columns or {}).items():
            self.set(label, values)

    @classmethod
    def from_rows(cls, labels: Sequence[str], rows: Iterable[Sequence[Any]], **options: Any) -> Table:
        """A loop table from rows of values in the order of `labels`."""
        table = cls(**options)
        listed = [tuple(row) for row in rows]
        for row in listed:
            if len(row) != len(labels):
                raise StarError(f"A row has {len(row)} values for {len(labels)} columns: {row!r}.")
        columns = list(zip(*listed, strict=True)) if listed else [() for _ in labels]
        for label, values in zip(labels, columns, strict=True):
            table.set(label, values)
        return table

    @property
    def labels(self) -> list[str]:
        """The column labels in file order, without the leading underscore."""
        return list(self.columns)

    def __contains__(self, label: object) -> bool:
        return label in self.columns

    def __len__(self) -> int:
        """The number of rows (1 for a list block that has any label)."""
        return len(next(iter(self.columns.values()), ()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return list(self.columns.items()) == list(other.columns.items()) and self.loop == other.loop

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kind = "loop" if self.loop else "list"
        return f"<Table {kind}, {len(self)} rows: {', '.join(self.columns)}>"

    def strings(self, label: str) -> list[str]:
        """A copy of the column's texts."""
        return list(self._column(label))

    def floats(self, label: str) -> np.ndarray:
        """The column as float64, shape (rows,)."""
        import numpy as np

        column = self._column(label)
        try:
            return np.fromiter(map(float, column), dtype=np.float64, count=len(column))
        except ValueError:
            raise self._bad_number(label, float, "a number") from None

    def finite(self, label: str) -> np.ndarray:
        """The same where NaN and infinite values are errors, too."""
        import numpy as np

        values = self.floats(label)
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise StarError(
                f'In {self.where}, row {row + 1} of _{label} is "{self.columns[label][row]}", not a number.'
            )
        return values

    def ints(self, label: str) -> np.ndarray:
        """The column as int64, shape (rows,). `3.000000` counts as 3; `3.5` is an error."""
        import numpy as np

        column = self._column(label)
        try:
            return np.fromiter(map(int, column), dtype=np.int64, count=len(column))
        except (ValueError, OverflowError):
            pass
        try:
            return np.fromiter(map(_whole, column), dtype=np.int64, count=len(column))
        except (ValueError, OverflowError):
            raise self._bad_number(label, _whole, "a whole number") from None

    def value(self, label: str, default: str | None = None) -> str:
        """The text in the first row: the value, in a list block. `default` serves if the label is absent."""
        if default is not None and not self.columns.get(label):
            return default
        column = self._column(label)
        if not column:
            raise StarError(f"There are no rows in {self.where}, so there is no value of _{label}.")
        return column[0]

    def set(self, label: str, values: Any) -> None:
        """Set or add a column. A single value fills every row (one row, if the table is empty).

        Texts are kept as they are; floats are written as RELION writes them (12 characters), whole numbers
        as digits, booleans as 1 and 0.
        """
        _check_label(label)
        if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
            column = [_text(values)] * (len(self) if self.columns else 1)
        else:
            column = [value if type(value) is str else _text(value) for value in _plain(values)]
        others = [len(other) for name, other in self.columns.items() if name != label]
        if others and others[0] != len(column):
            raise StarError(f"Column _{label} has {len(column)} values and the table has {others[0]} rows.")
        self.columns[label] = column

    def remove(self, label: str) -> None:
        """Remove a column; one that is not there is an error."""
        self._column(label)
        del self.columns[label]

    def rename(self, old: str, new: str) -> None:
        """Give a column another label and leave it at its place."""
        self._column(old)
        _check_label(new)
        if new in self.columns and new != old:
            raise StarError(f"There is a column _{new} in {self.where} already.")
        self.columns = {new if label == old else label: col for label, col in self.columns.items()}

    def row(self, index: int) -> dict[str, str]:
        """One row as label -> text."""
        return {label: column[index] for label, column in self.columns.items()}

    def rows(self) -> Iterator[dict[str, str]]:
        """All rows, each as label -> text."""
        labels = tuple(self.columns)
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(labels, values, strict=True))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row. It must give every column a value; on a table without columns it makes them."""
        if not self.columns:
            for label in row:
                _check_label(label)
            self.columns = {label: [] for label in row}
        if set(row) != set(self.columns):
            odd = ", ".join(sorted(set(row) ^ set(self.columns)))
            raise StarError(f"The new row and {self.where} differ in their columns: {odd}.")
        for label, column in self.columns.items():
            column.append(_text(row[label]))

    def select(self, rows: Any) -> Table:
        """A new table of the given rows: indices, or a mask with one truth value a row."""
        chosen = list(_plain(rows))
        if chosen and all(isinstance(item, bool) for item in chosen):
            if len(chosen) != len(self):
                raise StarError(f"The mask has {len(chosen)} entries and {self.where} has {len(self)} rows.")
            chosen = [index for index, keep in enumerate(chosen) if keep]
        table = Table(loop=self.loop, comments=self.comments, notes=self.notes)
        table.where = self.where
        table.columns = {label: [column[index] for index in chosen] for label, column in self.columns.items()}
        return table

    def copy(self) -> Table:
        """An independent copy."""
        table = Table(loop=self.loop, comments=self.comments, notes=self.notes)
        table.where = self.where
        table.columns = {label: list(column) for label, column in self.columns.items()}
        return table

    def _column(self, label: str) -> list[str]:
        try:
            return self.columns[label]
        except KeyError:
            raise StarError(f"There is no column _{label} in {self.where}.") from None

    def _bad_number(self, label: str, convert: Any, wanted: str) -> StarError:
        for index, text in enumerate(self.columns[label]):
            try:
                convert(text)
            except (ValueError, OverflowError):
                return StarError(f'In {self.where}, row {index + 1} of _{label} is "{text}", not {wanted}.')
        return StarError(f"In {self.where}, a value of _{label} is too large.")


class StarFile(MutableMapping[str, Table]):
    """The blocks of a STAR file in order, by name (the text after `data_`, which may be empty).

    Where a name occurs twice, the mapping gives the first, as RELION does; `blocks` has them all and
    `duplicates` names them.
    """

    def __init__(self, tables: Mapping[str, Table] | Iterable[tuple[str, Table]] = ()) -> None:
        pairs = tables.items() if isinstance(tables, Mapping) else tables
        self.blocks: list[tuple[str, Table]] = list(pairs)
        self.path = ""
        self.closing_comments: tuple[str, ...] = ()

    @property
    def duplicates(self) -> tuple[str, ...]:
        """Names that more than one block bears."""
        names = [name for name, _ in self.blocks]
        return tuple(dict.fromkeys(name for name in names if names.count(name) > 1))

    def __getitem__(self, name: str) -> Table:
        for block, table in self.blocks:
            if block == name:
                return table
        known = ", ".join(f"data_{block}" for block, _ in self.blocks) or "none"
        raise _MissingBlock(f"{self.path or 'The STAR file'} has no block data_{name} (its blocks: {known}).")

    def __contains__(self, name: object) -> bool:
        return any(block == name for block, _ in self.blocks)

    def __setitem__(self, name: str, table: Table) -> None:
        for index, (block, _) in enumerate(self.blocks):
            if block == name:
                self.blocks[index] = (name, table)
                return
        self.blocks.append((name, table))

    def __delitem__(self, name: str) -> None:
        self[name]
        self.blocks = [pair for pair in self.blocks if pair[0] != name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self.blocks))

    def __len__(self) -> int:
        return len({name for name, _ in self.blocks})

    def __repr__(self) -> str:
        return f"<StarFile {self.path}: {', '.join('data_' + name for name, _ in self.blocks)}>"


class _MissingBlock(StarError, KeyError):
    """Both: a sentence for people, and the KeyError that `Mapping.get` expects."""

    __str__ = Exception.__str__


def format_float(value: float) -> str:
    """A number in RELION's twelve characters (metadata_table.cpp, getValueToString), without padding."""
    digits = 5 if value < 0 else 6
    size = abs(value)
    if 0 < size < 0.001 or size > 100000:
        return f"{value:.{digits}e}"
    return f"{value:.{digits}f}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return format_float(value)
    if isinstance(value, int):
        return str(value)
    if hasattr(value, "item"):  # a NumPy scalar
        return _text(value.item())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise StarError(f"{value!r} cannot be a value in a STAR file.")


def _plain(values: Any) -> Iterable[Any]:
    """NumPy arrays as Python numbers, everything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def _whole(text: str) -> int:
    number = float(text)
    if number != int(number):
        raise ValueError(text)
    return int(number)


def _check_label(label: str) -> None:
    if not label or label.startswith("_") or re.search(r"[\s#]", label):
        raise StarError(f"{label!r} cannot be a label: give it without underscore, white space or #.")
