"""Write a file whole or not at all: a temporary file in the same directory, fsync, rename."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file, open for writing and reading, that takes the name `path` when the block ends well.

    If the block raises, `path` is untouched and the temporary file is gone. A symbolic link at `path` is
    replaced, not followed, and the permissions of an existing file are kept.
    """
    path = os.fspath(path)
    directory = os.path.dirname(path) or "."
    mode = _mode_to_keep(path)
    handle, temporary = _create_beside(path)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            if mode is not None:
                with suppress(OSError):
                    os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(directory)


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


def _sync_directory(directory: str) -> None:
    """Make the rename itself durable; file systems that cannot sync a directory are left alone."""
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
