"""Particles on a fast local disc: one copy per node, in `<dir>/relion_volatile/`, one stack per optics group.

Layout and rules are the reference's (exp_model.cpp: setScratchDirectory, prepareScratchDirectory,
copyParticlesToScratch, getImageNameOnScratch): the directory is world-writable and wiped before it is
filled, stacks are called `opticsgroup1_particles.mrcs`, what does not fit is read from where it was, and
everything is removed at the end unless it shall be kept for the next job on the same particles.

Beside each stack lies the list of the particles in it, so that `--reuse_scratch` can tell whether they are
the right ones; a stack that the reference left has none and is trusted when the count agrees.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.mrc import StackWriter, open_stack, read_header
from relion_py.compute.io.particles import split_image_name

DIRECTORY = "relion_volatile"
_OWNER = "owner"
_GIGABYTE = 1024**3
_FLOAT16_MODE = 12
_BATCH = 256  # particles copied between two looks at the abort file


class Scratch:
    """The copies of a run's particles on this node.

    Every rank makes one with the same particles; the first rank of a node calls `copy` (or `reuse`), the
    others `attach` with the counts that it returned (`source.py` does both). Groups are
    numbered from 1 as in the file names.
    """

    def __init__(self, scratch_dir: str, names: Mapping[int, Sequence[str]]) -> None:
        """`names`: optics group number -> image names `7@stack.mrcs` in the order of the run's table."""
        self.parent = os.path.abspath(scratch_dir)
        self.directory = os.path.join(self.parent, DIRECTORY)
        self._names = {group: list(dict.fromkeys(listed)) for group, listed in names.items()}
        self._places: dict[int, dict[str, int]] = {}

    def stack(self, group: int) -> str:
        return os.path.join(self.directory, f"opticsgroup{group}_particles.mrcs")

    def place(self, group: int, name: str) -> int:
        """Index (from 0) of particle `name` in the group's stack, -1 when it is to be read where it was."""
        return self._places.get(group, {}).get(name, -1)

    # ---- the first rank of a node ----

    def copy(
        self,
        keep_free: float = 10.0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[int, int]:
        """Wipe, then copy as many particles as leave `keep_free` GB free; how many of each group are there.

        `progress(done, total)` is called every 256 particles; what it raises (an abort) ends the copy and
        removes it. UserError when the directory cannot be used or a particle cannot be read.
        """
        self._prepare()
        counts = {}
        total = sum(map(len, self._names.values()))
        done = 0
        try:
            room = shutil.disk_usage(self.parent).free - int(keep_free * _GIGABYTE)
            for group, names in self._names.items():
                size = bytes_of_image(names[0]) if names else 0
                count = min(len(names), max(0, room // size)) if size else 0
                if count:
                    self._copy_group(group, names[:count], _shifted(progress, done, total))
                room -= count * size
                done += count
                counts[group] = int(count)
        except OSError as error:
            self.remove()
            raise UserError(f"Particles cannot be copied to {self.directory}: {error.strerror}.") from error
        except BaseException:
            self.remove()
            raise
        self.attach(counts)
        return counts

    def reuse(self) -> dict[int, int]:
        """Use what an earlier run left; UserError when its particles are not those of this run."""
        counts = {}
        for group, names in self._names.items():
            stack = self.stack(group)
            if not os.path.exists(stack):
                raise UserError(f"{stack} does not exist, so there is nothing to reuse: run without --reuse_scratch.")
            count = read_header(stack).nz
            left = self._listed(group)
            if count > len(names) or (left is not None and left != names[:count]):
                raise UserError(f"{stack} holds other particles than those of this run: run without --reuse_scratch.")
            if count < len(names) and left is None:
                raise UserError(
                    f"{stack} holds {count} of the {len(names)} particles, and nothing says which: "
                    "run without --reuse_scratch."
                )
            counts[group] = count
        self.attach(counts)
        return counts

    def remove(self) -> None:
        """Delete the copies; a directory that is gone already is no error."""
        if os.path.isdir(self.directory) and not os.path.islink(self.directory):
            shutil.rmtree(self.directory, ignore_errors=True)
        self._places = {}

    # ---- every other rank ----

    def attach(self, counts: Mapping[int, int]) -> None:
        """Know that the first `counts[group]` particles of each group are there."""
        self._places = {
            group: {name: place for place, name in enumerate(self._names[group][:count])}
            for group, count in counts.items()
        }

    # ---- inside ----

    def _prepare(self) -> None:
        if not os.path.isdir(self.parent):
            raise UserError(f"The scratch directory {self.parent} does not exist: give another --scratch_dir.")
        if os.path.islink(self.directory) or (os.path.exists(self.directory) and not os.path.isdir(self.directory)):
            raise UserError(f"{self.directory} is not a directory of its own and will not be wiped: remove it.")
        owner = self._running_owner()
        if owner:
            raise UserError(
                f"{self.directory} is in use by another running job (process {owner}): "
                "wait for it, or give another --scratch_dir."
            )
        try:
            if os.path.isdir(self.directory):
                shutil.rmtree(self.directory)
            os.mkdir(self.directory)
            os.chmod(self.directory, 0o777)  # whatever the umask: others wipe it before their own run
            self._write(_OWNER, f"{socket.gethostname()} {os.getpid()}\n")
        except OSError as error:
            raise UserError(
                f"The scratch directory {self.directory} cannot be prepared ({error.strerror}): "
                "give another --scratch_dir."
            ) from error

    def _running_owner(self) -> int | None:
        """The process on this host that filled the directory and still runs, unless it is this one."""
        try:
            with open(os.path.join(self.directory, _OWNER), encoding="utf-8") as file:
                host, number = file.read().split()
            pid = int(number)
        except (OSError, ValueError):
            return None
        if host != socket.gethostname() or pid == os.getpid():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return pid
        return pid

    def _copy_group(self, group: int, names: Sequence[str], progress: Callable[[int], None]) -> None:
        first_stack = split_image_name(names[0])[1]
        header = read_header(first_stack)
        dtype = "float16" if header.mode == _FLOAT16_MODE else "float32"
        shape = (header.ny, header.nx)
        with StackWriter(self.stack(group), shape, header.pixel_size, dtype) as writer:
            done = 0
            for path, indices in runs_of_stacks(names):
                with open_stack(path) as stack:
                    for start in range(0, len(indices), _BATCH):
                        part = indices[start : start + _BATCH]
                        if part and max(part) >= len(stack):
                            raise UserError(f"{path} has {len(stack)} images; a particle is image {max(part) + 1}.")
                        writer.append(stack.images(part))
                        done += len(part)
                        progress(done)
        os.chmod(self.stack(group), 0o777)
        self._write(os.path.basename(self.stack(group)) + ".txt", "\n".join(names) + "\n")

    def _write(self, name: str, text: str) -> None:
        path = os.path.join(self.directory, name)
        atomic_write(path, text.encode("utf-8", "surrogateescape"))
        os.chmod(path, 0o777)

    def _listed(self, group: int) -> list[str] | None:
        try:
            with open(self.stack(group) + ".txt", "rb") as file:
                return file.read().decode("utf-8", "surrogateescape").splitlines()
        except OSError:
            return None


def _shifted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    """Progress within a group as progress of the whole."""
    return lambda done: progress(before + done, total)


def runs_of_stacks(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Consecutive images of the same file together: each file is opened once per run."""
    runs: list[tuple[str, list[int]]] = []
    for name in names:
        index, path = split_image_name(name)
        if not runs or runs[-1][0] != path:
            runs.append((path, []))
        runs[-1][1].append(index)
    return runs


def bytes_of_image(name: str) -> int:
    """Space that the copy of one image takes."""
    header = read_header(split_image_name(name)[1])
    return header.nx * header.ny * (2 if header.mode == _FLOAT16_MODE else 4)
