"""The project's lock: `.relion_lock`, the directory by which RELION's windows keep out of each other's way.

RELION makes the directory, writes `lock_default_pipeline.star` into it and removes both (pipeliner.cpp, read
and write); it waits for one minute for a lock that stays. Here the directory also holds `owner` (host, pid,
start time of the process), so that a lock whose owner is dead is recognised and taken over. Before that,
`flock` on `.relion_lock_guard` puts the programs of this package in a queue that the kernel keeps; the kernel
opens it by itself when a process dies. On file systems without flock the directory alone does the work.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from relion_py.pipeline.errors import LockedProject, PipelineError

LOCK_DIRECTORY = ".relion_lock"
GUARD_FILE = ".relion_lock_guard"

# A lock with a living owner, or one that RELION took, is believed for as long as RELION itself waits.
PATIENCE_FOREIGN = 60.0
# A directory without a word inside is only seen in the instant between mkdir and the first file.
PATIENCE_EMPTY = 2.0
_POLL = 0.01
_TURNS = itertools.count(1)


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: host name, process id, and the process's start time (process_start_time, s)."""

    host: str
    pid: int
    started: float

    def text(self, turn: int) -> str:
        """One line for the file `owner`; `turn` tells the locks apart that one process takes."""
        return f"{self.host} {self.pid} {self.started:.2f} {turn}\n"

    @staticmethod
    def parse(text: str) -> Owner | None:
        """The owner written in a line; None if the line is empty or incomplete."""
        words = text.split()
        if len(words) != 4 or not text.endswith("\n"):
            return None
        try:
            return Owner(words[0], int(words[1]), float(words[2]))
        except ValueError:
            return None

    def is_dead(self) -> bool:
        """True if it certainly does not live any more (only a process of this host can be known dead)."""
        return self.host == socket.gethostname() and not process_is_alive(self.pid, self.started)


def process_start_time(pid: int) -> float:
    """When a process began, in s; 0 if there is no such process (or it is a zombie).

    On Linux this is counted from the start of the computer, so that it stays the same when somebody sets the
    clock; elsewhere it is counted from 1970.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the program's name in brackets, which may hold blanks and brackets.
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0 if sys.platform.startswith("linux") else _start_time_elsewhere(pid)
    return 0.0 if fields[0] in (b"Z", b"X") else int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _start_time_elsewhere(pid: int) -> float:
    import psutil

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return 0.0


def process_is_alive(pid: int, started: float) -> bool:
    """True if the process that began at `started` still runs; ids are used again, so the time counts."""
    found = process_start_time(pid)
    tolerance = 0.02 if sys.platform.startswith("linux") else 3.0
    return found > 0 and (started <= 0 or abs(found - started) < tolerance)


@lru_cache(maxsize=4)
def _this_process(pid: int) -> Owner:
    return Owner(socket.gethostname(), pid, process_start_time(pid))


def this_process() -> Owner:
    """The owner entry of the running process (also after a fork)."""
    return _this_process(os.getpid())


class ProjectLock:
    """A context manager that holds the project's lock; one at a time on the whole machine and network.

    `message` says what the holder is doing; RELION shows it. Raises LockedProject after `timeout` seconds.
    """

    def __init__(self, root: Path, message: str = "", timeout: float = 120.0) -> None:
        self.root = root
        self.message = message
        self.timeout = timeout
        self._directory = root / LOCK_DIRECTORY
        self._guard: int | None = None
        self._mine = ""

    def __enter__(self) -> ProjectLock:
        deadline = time.monotonic() + self.timeout
        try:
            self._take_guard(deadline)
            self._take_directory(deadline)
        except BaseException:
            self._release_guard()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.is_mine():
                shutil.rmtree(self._directory, ignore_errors=True)
        finally:
            self._mine = ""
            self._release_guard()

    def is_mine(self) -> bool:
        """True while the directory is the one that this object made (nobody took it over)."""
        holder = _look(self._directory)
        return bool(self._mine) and holder is not None and holder.text == self._mine

    # ---- the queue among our own programs ------------------------------------------------------------

    def _take_guard(self, deadline: float) -> None:
        try:
            self._guard = os.open(self.root / GUARD_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise PipelineError(_cannot_lock(self.root, error)) from error
        pause = 0.001
        while True:
            try:
                fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                    return  # no flock on this file system
            if time.monotonic() > deadline:
                raise LockedProject(self._waited_too_long())
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL)

    def _release_guard(self) -> None:
        if self._guard is not None:
            os.close(self._guard)
            self._guard = None

    # ---- RELION's directory --------------------------------------------------------------------------

    def _take_directory(self, deadline: float) -> None:
        seen: object = None
        seen_since = time.monotonic()
        while True:
            try:
                os.mkdir(self._directory, 0o700)
                break
            except FileExistsError:
                pass
            except OSError as error:
                raise PipelineError(_cannot_lock(self.root, error)) from error
            holder = _look(self._directory)
            if holder != seen:
                seen, seen_since = holder, time.monotonic()
            if holder is not None and _is_stale(holder, time.monotonic() - seen_since):
                self._take_over(holder)
                continue
            if time.monotonic() > deadline:
                raise LockedProject(self._waited_too_long())
            time.sleep(_POLL)
        self._mine = this_process().text(next(_TURNS))
        _write(self._directory / "owner", self._mine)
        _write(self._directory / "lock_default_pipeline.star", self.message + "\n")

    def _take_over(self, holder: _Holder) -> None:
        """Move a stale lock out of the way, if it is still the one that was found stale."""
        if _look(self._directory) != holder:
            return
        aside = self.root / f"{LOCK_DIRECTORY}.stale.{os.getpid()}"
        with suppress(OSError):
            os.rename(self._directory, aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _waited_too_long(self) -> str:
        holder = _look(self._directory)
        who = "another program"
        if holder is not None and holder.owner is not None:
            who = f"process {holder.owner.pid} on {holder.owner.host}"
        return (
            f"{who} has held the lock of the project {self.root} for more than {self.timeout:.0f} s; "
            f"wait for it, or, if it is gone, remove the directory {self._directory}."
        )


@dataclass(frozen=True)
class _Holder:
    """What a lock directory looks like at one moment."""

    inode: int
    entries: tuple[str, ...]
    text: str

    @property
    def owner(self) -> Owner | None:
        return Owner.parse(self.text)


def _look(directory: Path) -> _Holder | None:
    try:
        inode = os.stat(directory, follow_symlinks=False).st_ino
        entries = tuple(sorted(os.listdir(directory)))
        text = (directory / "owner").read_text() if "owner" in entries else ""
    except OSError:
        return None
    return _Holder(inode, entries, text)


def _is_stale(holder: _Holder, unchanged_for: float) -> bool:
    if holder.owner is not None:
        return holder.owner.is_dead() or unchanged_for > PATIENCE_FOREIGN
    said_nothing = all(entry == "owner" for entry in holder.entries)
    return unchanged_for > (PATIENCE_EMPTY if said_nothing else PATIENCE_FOREIGN)


def _write(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _cannot_lock(root: Path, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"You may not write to the project {root}; open it to read only, or ask its owner."
    if error.errno == errno.ENOSPC:
        return f"The disc of the project {root} is full; make room there."
    return f"The project {root} cannot be locked: {error.strerror}."
