"""STAR files as RELION reads and writes them: ordered blocks of columns whose text is kept exactly.

A value is the text that stands in the file, without its quotes: `001` stays `001`, `None` stays `None`,
`""` is the empty text. Numbers are made only when asked for (`Table.floats`, `Table.ints`), so tables and
columns that nobody here knows survive reading and writing.

The grammar is that of RELION (metadata_table.cpp, readStarLoop and readStarList; strings.cpp,
nextTokenInSTAR), made more tolerant where a person's file is clear all the same: Windows line ends, a missing
final newline, comments and empty lines between rows. The layout written is RELION 5's
(MetaDataTable::write).
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.labels import type_of

if TYPE_CHECKING:
    import numpy as np

VERSION_COMMENT = "# version 50001"
"""What RELION 5 writes above every block."""

_BLANK = " \t\r"
_ODD_SPACE = "\x0b\x0c\x1c\x1d\x1e\x1f"  # str.split() would split here; RELION does not
_UNWRITABLE = re.compile(r"[\n\r\a\0]")  # no quotes can protect these in RELION's grammar
_TOKEN = re.compile(r"[^ \t\r]+")
_ROW_END = "\0"  # stands for the end of a line among values; no text has it
_LINES_TOGETHER = 1024


class StarError(UserError):
    """A STAR file, or a value asked of it, is not as it should be; the text says which and where."""


class Table:
    """One block of a STAR file: named columns of equal length, every value a text.

    loop: True for a `loop_` block (many rows), False for a list of label-value pairs (one row).
    comments: the comment lines above the `data_` line, each with its `#`; notes: those below it.
    """

    __slots__ = ("_columns", "_where", "comments", "loop", "notes")

    def __init__(
        self,
        columns: Mapping[str, Any] | None = None,
        *,
        loop: bool = True,
        comments: Sequence[str] = (VERSION_COMMENT,),
        notes: Sequence[str] = (),
    ) -> None:
        self._columns: dict[str, list[str]] = {}
        self._where = "the table"
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
        return list(self._columns)

    def __contains__(self, label: object) -> bool:
        return label in self._columns

    def __len__(self) -> int:
        """The number of rows (1 for a list block that has any label)."""
        return len(next(iter(self._columns.values()), ()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return list(self._columns.items()) == list(other._columns.items()) and self.loop == other.loop

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kind = "loop" if self.loop else "list"
        return f"<Table {kind}, {len(self)} rows: {', '.join(self._columns)}>"

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
        if default is not None and not self._columns.get(label):
            return default
        column = self._column(label)
        if not column:
            raise StarError(f"There are no rows in {self._where}, so there is no value of _{label}.")
        return column[0]

    def set(self, label: str, values: Any) -> None:
        """Set or add a column. A single value fills every row (one row, if the table is empty).

        Texts are kept as they are; floats are written as RELION writes them (12 characters), whole numbers
        as digits, booleans as 1 and 0.
        """
        _check_label(label)
        if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
            column = [_text(values)] * (len(self) if self._columns else 1)
        else:
            column = [value if type(value) is str else _text(value) for value in _plain(values)]
        others = [len(other) for name, other in self._columns.items() if name != label]
        if others and others[0] != len(column):
            raise StarError(f"Column _{label} has {len(column)} values and the table has {others[0]} rows.")
        self._columns[label] = column

    def remove(self, label: str) -> None:
        """Remove a column; one that is not there is an error."""
        self._column(label)
        del self._columns[label]

    def rename(self, old: str, new: str) -> None:
        """Give a column another label and leave it at its place."""
        self._column(old)
        _check_label(new)
        if new in self._columns and new != old:
            raise StarError(f"There is a column _{new} in {self._where} already.")
        self._columns = {new if label == old else label: col for label, col in self._columns.items()}

    def row(self, index: int) -> dict[str, str]:
        """One row as label -> text."""
        return {label: column[index] for label, column in self._columns.items()}

    def rows(self) -> Iterator[dict[str, str]]:
        """All rows, each as label -> text."""
        labels = tuple(self._columns)
        for values in zip(*self._columns.values(), strict=True):
            yield dict(zip(labels, values, strict=True))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row. It must give every column a value; on a table without columns it makes them."""
        if not self._columns:
            for label in row:
                _check_label(label)
            self._columns = {label: [] for label in row}
        if set(row) != set(self._columns):
            odd = ", ".join(sorted(set(row) ^ set(self._columns)))
            raise StarError(f"The new row and {self._where} differ in their columns: {odd}.")
        for label, column in self._columns.items():
            column.append(_text(row[label]))

    def select(self, rows: Any) -> Table:
        """A new table of the given rows: indices, or a mask with one truth value a row."""
        chosen = list(_plain(rows))
        if chosen and all(isinstance(item, bool) for item in chosen):
            if len(chosen) != len(self):
                raise StarError(f"The mask has {len(chosen)} entries and {self._where} has {len(self)} rows.")
            chosen = [index for index, keep in enumerate(chosen) if keep]
        table = Table(loop=self.loop, comments=self.comments, notes=self.notes)
        table._where = self._where
        table._columns = {label: [column[index] for index in chosen] for label, column in self._columns.items()}
        return table

    def copy(self) -> Table:
        """An independent copy."""
        table = Table(loop=self.loop, comments=self.comments, notes=self.notes)
        table._where = self._where
        table._columns = {label: list(column) for label, column in self._columns.items()}
        return table

    def _column(self, label: str) -> list[str]:
        try:
            return self._columns[label]
        except KeyError:
            raise StarError(f"There is no column _{label} in {self._where}.") from None

    def _bad_number(self, label: str, convert: Any, wanted: str) -> StarError:
        for index, text in enumerate(self._columns[label]):
            try:
                convert(text)
            except (ValueError, OverflowError):
                return StarError(f'In {self._where}, row {index + 1} of _{label} is "{text}", not {wanted}.')
        return StarError(f"In {self._where}, a value of _{label} is too large.")


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


# ---------------------------------------------------------------------------------------------- reading


def read(path: str | os.PathLike[str]) -> StarFile:
    """Read a STAR file. An empty file has no blocks. StarError says what is wrong, and in which line."""
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise StarError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise StarError(f"{path} cannot be read: {error.strerror}.") from None
    return parse(data.decode("utf-8-sig", "surrogateescape"), path)


def parse(text: str, path: str = "") -> StarFile:
    """Read STAR text; `path` is the name that errors give."""
    if "\0" in text:
        raise StarError(f"{path or 'The text'} is a binary file, not a STAR file.")
    with _no_garbage_collection():
        return _Parser(text, path or "STAR text").file()


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        if "\r" in text:
            text = text.replace("\r\n", "\n")
            if "\n" not in text:
                text = text.replace("\r", "\n")
        self.path = path
        self.lines = text.split("\n")
        self.at = 0
        odd = not text.isascii() or any(char in text for char in _ODD_SPACE)
        self.split = _TOKEN.findall if odd else str.split
        self.comments: list[str] = []  # comment lines that wait for the block they stand above
        self.detached = True  # no row directly above: a lone data_... here is a new block

    def file(self) -> StarFile:
        star = StarFile()
        star.path = self.path
        while (line := self._next_content()) is not None:
            name = self._block_name(line)
            if name is None:
                raise self._error(f'expected a "data_" line, found "{_short(line)}"')
            self.at += 1
            star.blocks.extend((name, table) for table in self._block(name))
        star.closing_comments = self._take_comments()
        return star

    def _error(self, what: str, at: int | None = None) -> StarError:
        return StarError(f"{self.path}, line {(self.at if at is None else at) + 1}: {what}.")

    def _next_content(self) -> str | None:
        """The next line that is neither empty nor a comment; comments are collected on the way."""
        while self.at < len(self.lines):
            line = self.lines[self.at].strip(_BLANK)
            if line and line[0] not in "#;":
                return line
            if line:
                self.comments.append(line)
            self.at += 1
        return None

    def _take_comments(self) -> tuple[str, ...]:
        comments, self.comments = tuple(self.comments), []
        return comments

    def _block_name(self, line: str) -> str | None:
        """The name, if the line is `data_NAME` and nothing but a comment follows it."""
        if not line.startswith("data_"):
            return None
        tokens = self._tokens(line)
        return tokens[0][5:] if len(tokens) == 1 else None

    def _block(self, name: str) -> list[Table]:
        """The tables of a block: normally one; a list and a loop in one block are two of the same name."""
        tables: list[Table] = []
        comments = self._take_comments()
        while (line := self._next_content()) is not None:
            if self._block_name(line) is not None:
                break
            notes = self._take_comments()
            if self._tokens(line)[0] == "loop_":
                self.at += 1
                table = self._loop(name)
            elif line[0] == "_":
                table = self._list(name)
            else:
                raise self._error(
                    f'block data_{name}: expected "loop_" or a label that starts with "_", found "{_short(line)}"'
                )
            table.comments, table.notes = (comments, notes) if not tables else (notes, ())
            tables.append(table)
        return tables or [self._table(name, [], [], loop=True, comments=comments)]

    def _table(
        self, name: str, labels: list[str], columns: list[list[str]], loop: bool, comments: Sequence[str] = ()
    ) -> Table:
        table = Table(loop=loop, comments=comments)
        table._where = f"{self.path}, block data_{name}"
        table._columns = dict(zip(labels, columns, strict=True))
        return table

    def _list(self, name: str) -> Table:
        labels: list[str] = []
        values: list[list[str]] = []
        while (line := self._next_content()) is not None and line[0] == "_":
            tokens = self._tokens(line)
            if len(tokens) != 2:
                raise self._error(f"block data_{name}: {tokens[0]} must be followed by one value")
            self._add_label(labels, tokens[0], name)
            values.append([tokens[1]])
            self.at += 1
        return self._table(name, labels, values, loop=False)

    def _loop(self, name: str) -> Table:
        labels: list[str] = []
        while (line := self._next_content()) is not None and line[0] == "_":
            self._add_label(labels, line, name)
            self.at += 1
        if not labels:
            raise self._error(f"block data_{name}: loop_ is not followed by any label", self.at - 1)
        return self._table(name, labels, self._columns(name, len(labels)), loop=True)

    def _add_label(self, labels: list[str], text: str, name: str) -> None:
        label = text[1:].split("#")[0].strip(_BLANK).split(" ")[0].split("\t")[0]
        if not label:
            raise self._error(f"block data_{name}: a label has no name")
        if label in labels:
            raise self._error(f"block data_{name}: the label _{label} occurs twice")
        labels.append(label)

    def _columns(self, name: str, width: int) -> list[list[str]]:
        """The columns of a loop up to the next block, loop or the end of the file."""
        columns: list[list[str]] = [[] for _ in range(width)]
        self.detached = True
        ended = False
        while not ended and self.at < len(self.lines):
            end = min(self.at + _LINES_TOGETHER, len(self.lines))
            values: Iterable[Sequence[str]] = self._plain_rows(end, width)
            if not values:
                rows, ended = self._rows(name, width, end)
                values = zip(*rows, strict=True)
            for column, more in zip(columns, values, strict=False):  # no values: no rows
                column.extend(more)
        return columns

    def _plain_rows(self, end: int, width: int) -> list[list[str]]:
        """The columns of the lines up to `end`, split in one go, and goes on there; none if any is no plain row.

        A lone value may be the start of a block, so that one column alone is never plain.
        """
        text = f" {_ROW_END} ".join(self.lines[self.at : end])
        if width == 1 or any(mark in text for mark in "\"'#"):
            return []
        tokens = self.split(text)
        tokens.append(_ROW_END)
        step, rows = width + 1, end - self.at
        if len(tokens) != step * rows or tokens[width::step] != [_ROW_END] * rows:
            return []
        self.comments.clear()  # comments between rows belong to no block
        self.detached = False
        self.at = end
        return [tokens[column::step] for column in range(width)]

    def _rows(self, name: str, width: int, end: int) -> tuple[list[list[str]], bool]:
        """The rows of a loop up to line `end`, and whether it ends before."""
        lines, split = self.lines, self.split
        rows: list[list[str]] = []
        for at in range(self.at, end):
            line = lines[at]
            if '"' in line or "'" in line or "#" in line:
                self.at = at
                tokens = self._tokens(line)
                if not tokens and line.strip(_BLANK):
                    self.comments.append(line.strip(_BLANK))
            else:
                tokens = split(line)
            if not tokens:
                self.detached = True
                continue
            if len(tokens) == 1 and (self.detached or width != 1):
                bare = line.strip(_BLANK)
                if bare.startswith("data_") or bare == "loop_":
                    self.at = at
                    return rows, True
            if len(tokens) != width:
                self.at = at
                tokens = self._mend(tokens, name, width)
            self.comments.clear()
            self.detached = False
            rows.append(tokens)
        self.at = end
        return rows, False

    def _mend(self, tokens: list[str], name: str, width: int) -> list[str]:
        if len(tokens) == 1 and width == 2:  # RELION reads a missing last value of two as empty
            return [tokens[0], ""]
        what = "more values" if len(tokens) > width else "fewer values"
        raise self._error(f"block data_{name}: the row has {what} ({len(tokens)}) than there are labels ({width})")

    def _tokens(self, line: str) -> list[str]:
        """The values of a line, by the rule of nextTokenInSTAR: a quote opens a value only at its start and
        closes it only before white space or the line's end; `#` starts a comment only at a value's start."""
        tokens: list[str] = []
        at, end = 0, len(line)
        while at < end:
            char = line[at]
            if char in _BLANK:
                at += 1
            elif char == "#":
                break
            elif char in "\"'":
                close = self._closing_quote(line, at)
                tokens.append(line[at + 1 : close].replace("\a", ""))
                at = close + 1
            else:
                match = _TOKEN.match(line, at)
                assert match is not None
                tokens.append(match.group())
                at = match.end()
        return tokens

    def _closing_quote(self, line: str, start: int) -> int:
        quote = line[start]
        at = line.find(quote, start + 1)
        while at >= 0:
            if line[at - 1] != "\a" and (at + 1 == len(line) or line[at + 1] in _BLANK):
                return at
            at = line.find(quote, at + 1)
        raise self._error(f"the quote {quote} that opens {_short(line[start:])} is never closed")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of new lists make the collector walk them over and over; there are no cycles to find here."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# ---------------------------------------------------------------------------------------------- writing


def write(path: str | os.PathLike[str], star: StarFile | Mapping[str, Table]) -> None:
    """Write a STAR file in RELION's layout, whole or not at all (temporary file, fsync, rename)."""
    atomic_write(path, dumps(star).encode("utf-8", "surrogateescape"))


def dumps(star: StarFile | Mapping[str, Table]) -> str:
    """The text that `write` writes. Reading it back gives the same blocks, labels and values."""
    blocks = star.blocks if isinstance(star, StarFile) else list(star.items())
    closing = star.closing_comments if isinstance(star, StarFile) else ()
    parts: list[str] = []
    previous = None
    for name, table in blocks:
        if _UNWRITABLE.search(name) or re.search(r"\s", name):
            raise StarError(f"A block cannot be called {name!r}: white space is not allowed in the name.")
        if table.comments:
            parts.append("\n" + _comments(table.comments))
        # a loop after a list of the same name is the second half of one block, as it was read
        if previous is None or not (previous[0] == name and not previous[1].loop and table.loop):
            parts.append(f"\ndata_{name}\n" + _comments(table.notes))
        parts.append("\n")
        parts.append(_format_loop(table) if table.loop else _format_list(table))
        parts.append(" \n")
        previous = (name, table)
    if closing:
        parts.append("\n" + _comments(closing))
    return "".join(parts)


def _format_loop(table: Table) -> str:
    columns = table._columns
    if not columns:
        return ""
    header = ["loop_ \n"]
    header += [f"_{label} #{index} \n" for index, label in enumerate(columns, 1)]
    values = [_quoted(label, column, first=index == 0) for index, (label, column) in enumerate(columns.items())]
    row = " ".join("%10s" if type_of(label) == "string" else "%12s" for label in columns)
    rows = " \n".join(map(row.__mod__, zip(*values, strict=True)))
    return "".join(header) + (rows + " \n" if rows else "")


def _format_list(table: Table) -> str:
    width = max([10, *map(len, table._columns)])
    lines = []
    for label, column in table._columns.items():
        if len(column) != 1:
            raise StarError(f"A list block has one value a label; _{label} has {len(column)}.")
        value = _quoted(label, column, first=False)[0]
        pad = 12 if type_of(label) != "string" else 0
        lines.append(f"_{label}{' ' * (12 + width - len(label))}{value.rjust(pad)}\n")
    return "".join(lines)


def _comments(comments: Iterable[str]) -> str:
    lines = [line for comment in comments for line in comment.splitlines()]
    return "".join((line if line.startswith(("#", ";")) else f"# {line}") + "\n" for line in lines)


def _quoted(label: str, column: list[str], first: bool) -> list[str]:
    """The column with quotes around the values that need them. `first`: the values start their lines."""
    joined = "\n" + "\n".join(column)
    clean = (
        "\n\n" not in joined
        and joined[-1:] != "\n"
        and not any(mark in joined for mark in " \t\r\a\0")
        and not any(mark in joined and "\n" + mark in joined for mark in "\"'#")  # one letter alone is found faster
        and joined.count("\n") == len(column)
        and not (first and any(mark in joined for mark in ("\n_", "\n;", "\ndata_", "\nloop_")))
    )
    if clean or not column:
        return column
    return [_quote(label, value, first) for value in column]


def _quote(label: str, value: str, first: bool) -> str:
    """strings.cpp, escapeStringForSTAR: a bell character marks a quote inside that would seem to close."""
    if _UNWRITABLE.search(value):
        raise StarError(f"A value of _{label} has a line break or control character in it: {value!r}.")
    risky = first and value.startswith(("_", ";", "data_", "loop_"))
    if value and value[0] not in "\"'#" and not risky and not re.search(r"[ \t]", value):
        return value
    if '"' in value:
        value = re.sub(r'"(?=[ \t]|$)', '\a"', value)
    return f'"{value}"'


# ------------------------------------------------------------------------------------ values and labels


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


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
