"""STAR files as RELION reads and writes them: ordered blocks of columns whose text is kept exactly.

A value is the text that stands in the file, without its quotes: `001` stays `001`, `None` stays `None`,
`""` is the empty text (`relion_py.compute.io.star_table`).

The grammar is that of RELION (metadata_table.cpp, readStarLoop and readStarList; strings.cpp,
nextTokenInSTAR), made more tolerant where a person's file is clear all the same: Windows line ends, a missing
final newline, comments and empty lines between rows. The layout written is RELION 5's
(MetaDataTable::write).
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.labels import type_of
from relion_py.compute.io.star_table import VERSION_COMMENT, StarError, StarFile, Table, format_float

__all__ = ["VERSION_COMMENT", "StarError", "StarFile", "Table", "dumps", "format_float", "parse", "read", "write"]

_BLANK = " \t\r"
_ODD_SPACE = "\x0b\x0c\x1c\x1d\x1e\x1f"  # str.split() would split here; RELION does not
_UNWRITABLE = re.compile(r"[\n\r\a\0]")  # no quotes can protect these in RELION's grammar
_TOKEN = re.compile(r"[^ \t\r]+")
_ROW_END = "\0"  # stands for the end of a line among values; no text has it
_LINES_TOGETHER = 1024


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
        table.where = f"{self.path}, block data_{name}"
        table.columns = dict(zip(labels, columns, strict=True))
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
    columns = table.columns
    if not columns:
        return ""
    header = ["loop_ \n"]
    header += [f"_{label} #{index} \n" for index, label in enumerate(columns, 1)]
    values = [_quoted(label, column, first=index == 0) for index, (label, column) in enumerate(columns.items())]
    row = " ".join("%10s" if type_of(label) == "string" else "%12s" for label in columns)
    rows = " \n".join(map(row.__mod__, zip(*values, strict=True)))
    return "".join(header) + (rows + " \n" if rows else "")


def _format_list(table: Table) -> str:
    width = max([10, *map(len, table.columns)])
    lines = []
    for label, column in table.columns.items():
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


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
