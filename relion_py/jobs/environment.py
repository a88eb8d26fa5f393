"""What one computing site sets through RELION_* variables: queue, scratch disc, executables, limits.

Nothing here names a site: without variables the defaults are neutral. The names are RELION's own, so an
installation's module file works for both programs. Source: RELION 5 pipeline_jobs.cpp, RelionJob::initialise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class QueueExtra:
    """One extra variable of the submission template: XXXextra<index>XXX, entered as option
    qsub_extra<index>."""

    index: int
    label: str
    default: str
    help: str


@dataclass(frozen=True)
class SiteEnvironment:
    """Defaults and limits of a site. `SiteEnvironment()` is a machine where no variable is set."""

    queue_use: str = "No"
    queue_name: str = ""
    qsub_command: str = "sbatch"
    qsub_template: str = ""
    min_dedicated: str = "1"
    may_change_min_dedicated: bool = True
    nr_mpi: str = "1"
    nr_threads: str = "1"
    mpi_max: int = 64
    thread_max: int = 16
    local_mpi_max: int = 32
    mpirun: str = "mpirun"
    scratch_dir: str = ""
    ctffind: str = "ctffind"
    motioncor2: str = "MotionCor2"
    resmap: str = "ResMap"
    queue_extras: tuple[QueueExtra, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> SiteEnvironment:
        """Read the RELION_* variables; a number that is none is passed over, as if it were not set."""
        env = os.environ if environ is None else environ
        neutral = cls()

        def text(name: str, default: str) -> str:
            return env.get(name, default)

        def integer(name: str, default: int) -> int:
            try:
                return int(env.get(name, ""))
            except ValueError:
                return default

        return cls(
            queue_use="Yes" if text("RELION_QUEUE_USE", "no").strip().lower() in _TRUE else "No",
            queue_name=text("RELION_QUEUE_NAME", neutral.queue_name),
            qsub_command=text("RELION_QSUB_COMMAND", neutral.qsub_command),
            qsub_template=text("RELION_QSUB_TEMPLATE", neutral.qsub_template),
            min_dedicated=str(integer("RELION_MINIMUM_DEDICATED", 1)),
            may_change_min_dedicated=integer("RELION_ALLOW_CHANGE_MINIMUM_DEDICATED", 1) != 0,
            nr_mpi=str(integer("RELION_QSUB_NRMPI", 1)),
            nr_threads=str(integer("RELION_QSUB_NRTHREADS", 1)),
            mpi_max=integer("RELION_MPI_MAX", neutral.mpi_max),
            thread_max=integer("RELION_THREAD_MAX", neutral.thread_max),
            local_mpi_max=integer("RELION_ERROR_LOCAL_MPI", neutral.local_mpi_max),
            mpirun=text("RELION_MPIRUN", neutral.mpirun),
            scratch_dir=text("RELION_SCRATCH_DIR", neutral.scratch_dir),
            ctffind=text("RELION_CTFFIND_EXECUTABLE", neutral.ctffind),
            motioncor2=text("RELION_MOTIONCOR2_EXECUTABLE", neutral.motioncor2),
            resmap=text("RELION_RESMAP_EXECUTABLE", neutral.resmap),
            queue_extras=_queue_extras(env, integer("RELION_QSUB_EXTRA_COUNT", 2)),
        )


_TRUE = frozenset(("yes", "true", "1"))


def _queue_extras(env: Mapping[str, str], count: int) -> tuple[QueueExtra, ...]:
    found = []
    for index in range(1, max(0, min(count, 99)) + 1):
        name = f"RELION_QSUB_EXTRA{index}"
        if name in env:
            help_text = f"Replaces XXXextra{index}XXX in the submission script template."
            found.append(
                QueueExtra(index, env[name], env.get(f"{name}_DEFAULT", ""), env.get(f"{name}_HELP", help_text))
            )
    return tuple(found)


def program_path() -> str:
    """PATH for programs: what is on it, and at its end the directory of this package's own programs."""
    own = os.path.dirname(os.path.abspath(sys.executable))
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(entries if own in entries else [*entries, own])
