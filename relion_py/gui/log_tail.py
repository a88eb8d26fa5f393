"""Reading logs that may be hundreds of megabytes: their tail, what is new, or line by line (no Qt)."""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 64 * 1024
CHUNK = 256 * 1024
LONGEST_LINE = 4000  # characters that a window shows of one line


@dataclass(frozen=True)
class LogChange:
    """What to show: forget all shown so far if `reset`, take the last unfinished line away, add `lines`.

    The last of `lines` is the unfinished line ("" when the text ends with a line break).
    """

    reset: bool
    lines: tuple[str, ...]


def visible(line: str) -> str:
    """A line as a terminal would show it: what follows the last carriage return, as progress bars mean it."""
    line = line.rstrip("\r")
    return line.rsplit("\r", 1)[-1][:LONGEST_LINE]


class LogTail:
    """Follows one growing file; `poll` tells what is new since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""  # the unfinished line
        self._identity: tuple[int, int] | None = None

    def poll(self) -> LogChange | None:
        """New text, at most the last 64 kB of it; None if nothing changed."""
        try:
            with open(self.path, "rb") as file:
                stat = os.fstat(file.fileno())
                identity = (stat.st_dev, stat.st_ino)
                reset = identity != self._identity or stat.st_size < self._offset
                if not reset and stat.st_size == self._offset:
                    return None
                start = 0 if reset else self._offset
                if stat.st_size - start > TAIL_BYTES:
                    start, reset = stat.st_size - TAIL_BYTES, True
                file.seek(start)
                data = file.read(stat.st_size - start)
        except OSError:
            if self._identity is None:
                return None
            self._identity, self._offset, self._rest = None, 0, b""
            return LogChange(True, ("",))
        if reset:
            self._rest = b""
            if start > 0:  # begin with a whole line
                data = data.partition(b"\n")[2] or data
        self._identity, self._offset = identity, stat.st_size
        *whole, rest = (self._rest + data).split(b"\n")
        # A progress bar rewrites one line again and again: only what is seen of it is kept.
        self._rest = rest if len(rest) < CHUNK else rest.rpartition(b"\r")[2][-CHUNK:]
        lines = [visible(line.decode("utf-8", "replace")) for line in [*whole, self._rest]]
        return LogChange(reset, tuple(lines))


class LineFile:
    """Random access to the lines of a large file through a sparse index of its chunks.

    Only the place of every 256 kB is kept in memory; lines are read when asked for. The file may grow.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts = [0]  # byte offset of the first line that begins in each chunk
        self._numbers = [0]  # its line number
        self._scanned = 0  # bytes looked at
        self._breaks = 0  # line breaks among them
        self._ends_with_break = True
        self._cache: tuple[int, list[str]] | None = None

    def scan(self) -> bool:
        """Index what was written since the last call; True if there was anything. Reads 1 GB in about 1 s."""
        before = self._scanned
        try:
            with open(self.path, "rb") as file:
                file.seek(before)
                while data := file.read(CHUNK):
                    last = data.rfind(b"\n")
                    self._breaks += data.count(b"\n")
                    if last >= 0:
                        self._starts.append(self._scanned + last + 1)
                        self._numbers.append(self._breaks)
                    self._scanned += len(data)
                    self._ends_with_break = data.endswith(b"\n")
        except OSError:
            return False
        self._cache = None
        return self._scanned > before

    def __len__(self) -> int:
        return self._breaks + (0 if self._ends_with_break else 1)

    def line(self, number: int) -> str:
        """Line `number`, counted from 0."""
        block = bisect.bisect_right(self._numbers, number) - 1
        if self._cache is None or self._cache[0] != block:
            self._cache = (block, self._lines_of(block))
        lines = self._cache[1]
        place = number - self._numbers[block]
        return lines[place] if 0 <= place < len(lines) else ""

    def _lines_of(self, block: int) -> list[str]:
        start = self._starts[block]
        end = self._starts[block + 1] if block + 1 < len(self._starts) else self._scanned
        with open(self.path, "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        return [visible(line.decode("utf-8", "replace")) for line in data.split(b"\n")]

    def find(self, text: str, start: int, backwards: bool = False) -> int:
        """The next line from `start` on (or before it) with `text` in it, case ignored; -1 if none."""
        pattern = re.compile(re.escape(text), re.IGNORECASE)
        for number, line in self._walk(start, backwards):
            if pattern.search(line):
                return number
        return -1

    def _walk(self, start: int, backwards: bool) -> Iterator[tuple[int, str]]:
        """Lines with their numbers from `start` to the end, or from `start` down to the beginning."""
        block = bisect.bisect_right(self._numbers, max(start, 0)) - 1
        step = -1 if backwards else 1
        while 0 <= block < len(self._starts):
            first = self._numbers[block]
            last = self._numbers[block + 1] if block + 1 < len(self._numbers) else len(self)
            numbered = list(zip(range(first, last), self._lines_of(block), strict=False))
            for number, line in reversed(numbered) if backwards else numbered:
                if (number <= start) if backwards else (number >= start):
                    yield number, line
            block += step
