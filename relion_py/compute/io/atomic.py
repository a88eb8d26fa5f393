"""Write a file whole or not at all: a temporary file in the same directory, fsync, rename."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import BinaryIO

_pending: ContextVar[list[tuple[str, str]] | None] = ContextVar("pending", default=None)
"""Temporary files that are complete, and the names they will take, inside of `written_together`."""


DISC_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of errors that wait for whatever is written next, too."""


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file, open for writing and reading, that takes the name `path` when the block ends well.

    If the block raises, `path` is untouched and the temporary file is gone. A symbolic link at `path` is
    replaced, not followed, and the permissions of an existing file are kept.
    """
    path = os.fspath(path)
    mode = _mode_to_keep(path)
    handle, temporary = _create_beside(path)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            if mode is not None:
                with suppress(OSError):
                    os.fchmod(file.fileno(), mode)
        pending = _pending.get()
        if pending is None:
            _take_names([(temporary, path)])
        else:
            pending.append((temporary, path))
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in DISC_IS_FULL:
            error.filename = error.filename or path  # the system tells none where writing fails
        raise


@contextmanager
def written_together() -> Iterator[None]:
    """Files that this thread writes inside of the block take their names when it ends, or none does if it raises.

    A disc that is told of all at once has them safe in little more time than one.
    """
    pending: list[tuple[str, str]] = []
    token = _pending.set(pending)
    try:
        yield
        _take_names(pending)
    except BaseException:
        for temporary, _ in pending:
            with suppress(OSError):
                os.unlink(temporary)
        raise
    finally:
        _pending.reset(token)


def _take_names(files: list[tuple[str, str]]) -> None:
    """Gives temporary files their names, in their order, once what they hold is safe on the disc."""
    if len(files) < 2:
        for temporary, _ in files:
            _sync(temporary)
    else:
        from concurrent.futures import ThreadPoolExecutor  # not for every program that writes one file

        with ThreadPoolExecutor(len(files)) as pool:
            list(pool.map(_sync, (temporary for temporary, _ in files)))
    for temporary, path in files:
        os.replace(temporary, path)
    for directory in {os.path.dirname(path) or "." for _, path in files}:
        with suppress(OSError):  # file systems that cannot sync a directory are left alone
            _sync(directory)


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the new one, never a part."""
    with atomic_file(path) as file:
        file.write(data)


def _mode_to_keep(path: str) -> int | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EEXIST, "is not a regular file and will not be replaced", path)
    return stat.S_IMODE(status.st_mode)


def _create_beside(path: str) -> tuple[int, str]:
    for attempt in range(1000):
        name = f"{path}.tmp{os.getpid()}_{attempt}"
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), name
        except FileExistsError:
            continue
        except OSError as error:  # told of what was asked for, not of the temporary name
            error.filename = os.path.dirname(path) if error.errno == errno.ENOENT else path
            raise
    raise FileExistsError(f"{path}.tmp{os.getpid()}_*: too many temporary files are in the way; remove them.")


def _sync(path: str) -> None:
    """Waits until a file, or the names in a directory, are safe on the disc."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
