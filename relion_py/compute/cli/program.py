"""How a program begins, ends and talks: exit files for the pipeline, abort requests, sentences, progress.

Facts: RELION 5, pipeline_control.cpp (exit files), time.cpp (progress_bar).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TextIO

from relion_py import __version__
from relion_py.compute.cli.parser import value_of
from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.io.atomic import DISC_IS_FULL
from relion_py.compute.parallel.comm import Communicator, SerialComm, communicator

SUCCESS = "RELION_JOB_EXIT_SUCCESS"
FAILURE = "RELION_JOB_EXIT_FAILURE"
ABORTED = "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"

_M_ARENA_MAX = -8  # of glibc's malloc.h

Main = Callable[[list[str], "Job"], None]


class AbortCheck:
    """Called often, it looks at most once a second for a request to stop, and raises Aborted if there is one.

    directory: that of `--pipeline_control`; without one nobody can ask.
    """

    def __init__(self, directory: str = "", interval: float = 1.0) -> None:
        self._request = os.path.join(directory, ABORT_NOW) if directory else ""
        self._interval = interval
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if not self._request or now < self._next:
            return
        self._next = now + self._interval
        if os.path.exists(self._request):
            raise Aborted("The job was asked to stop.")


class Job:
    """What a program is given besides its arguments.

    check_abort: to be called between small pieces of work. comm: the ranks that run this program. directory:
    the job directory under pipeline control, or "".
    """

    def __init__(self, directory: str = "", comm: Communicator | None = None) -> None:
        self.directory = directory
        self.comm: Communicator = comm or SerialComm()
        self.check_abort = AbortCheck(directory)

    @property
    def leads(self) -> bool:
        """Whether this is the rank that speaks for all."""
        return self.comm.rank == 0

    def say(self, text: str) -> None:
        """A line on stdout, from the first rank only."""
        if self.leads:
            print(text, flush=True)

    def progress(self, total: int) -> ProgressBar:
        """A progress bar that only the first rank shows."""
        return ProgressBar(total, shown=self.leads)

    def write_exit_file(self, name: str) -> None:
        """Tell the pipeline how it ended; the files of an earlier ending and a request to stop go away."""
        if not self.directory:
            return
        self._remove(ABORT_NOW, *(other for other in (SUCCESS, FAILURE, ABORTED) if other != name))
        try:
            with open(os.path.join(self.directory, name), "w"):
                pass
        except OSError as error:
            print(f"{name} could not be written in {self.directory}: {error.strerror}.", file=sys.stderr)

    def has_ended(self) -> bool:
        """Whether a rank has told the pipeline that the program failed or was aborted."""
        return bool(self.directory) and any(
            os.path.exists(os.path.join(self.directory, name)) for name in (FAILURE, ABORTED)
        )

    def start(self) -> None:
        """Take away what an earlier run left."""
        if self.directory:
            self._remove(SUCCESS, FAILURE, ABORTED)

    def _remove(self, *names: str) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.directory, name))


def run(main: Main, argv: Sequence[str] | None = None, parallel: bool = False) -> int:
    """Run a program: `main(argv, job)`. Returns the exit status (0, or 1 for failure and abort).

    parallel: the program may be started by mpirun; `relion_x` and `relion_x_mpi` are then the same entry.
    A UserError is printed as its sentence, an error of ours with its traceback; both leave
    RELION_JOB_EXIT_FAILURE. Aborted, SIGTERM and an interrupt from the keyboard leave
    RELION_JOB_EXIT_ABORTED. An error on one rank ends all ranks.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    job = Job(value_of("--pipeline_control", words))
    _share_free_memory()
    with _lines_at_once(), _signals_abort():
        try:
            job.start()  # by every rank, before any of them can have ended: MPI starts when all are there
            if parallel:
                job.comm = communicator()
            main(words, job)
            job.comm.barrier()
        except SystemExit as error:  # --help, --version
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        except (Aborted, KeyboardInterrupt) as error:
            return _end(job, ABORTED, str(error) or "The job was interrupted.")
        except BaseException as error:
            return _end(job, FAILURE, _sentence(error))
        if job.leads:
            job.write_exit_file(SUCCESS)
        return 0


def _end(job: Job, exit_file: str, sentence: str) -> int:
    if not job.comm.tells_the_end():
        time.sleep(10.0)  # the first rank has the same to say (a wrong option), and ends us
    if not job.has_ended():  # of ranks that end one another, the first tells the cause
        job.write_exit_file(exit_file)
    if exit_file == FAILURE:
        print(f"\n relion_py version: {__version__}\n exiting with an error ...", flush=True)
    else:
        print("\n exiting with an abort ...", flush=True)
    if job.comm.size > 1:
        job.comm.abort(sentence)  # does not return
    print(sentence, file=sys.stderr, flush=True)
    return 1


def _sentence(error: BaseException) -> str:
    """What went wrong, for people; for our own mistakes the traceback."""
    if isinstance(error, UserError):
        return f"ERROR: {error}"
    if isinstance(error, MemoryError):
        what = f" ({error})" if str(error) else ""
        return (
            f"ERROR: There is not enough memory{what}; use fewer threads or ranks, a smaller box, or a larger machine."
        )
    if sentence := system_sentence(error):
        return f"ERROR: {sentence}"
    trace = "".join(traceback.format_exception(error))
    return f"{trace}ERROR: This is a mistake in relion_py, not yours; please report it with the lines above."


def system_sentence(error: BaseException) -> str:
    """What the system does not let us do, for people; "" for errors that are not the system's, or hardly known."""
    if not isinstance(error, OSError):
        return ""
    where = f" {error.filename}" if error.filename else " a file"
    if error.errno == errno.EFBIG:
        return f"A limit on the size of files (see `ulimit -f`) is too low, so{where} could not be written; raise it."
    if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
        return f"The disc, or the network to it, failed with{where} ({error.strerror}); try again when it works."
    if error.errno in DISC_IS_FULL:
        return f"The disc is full or the quota is used up, so{where} could not be written; make room."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"There is no permission to use{where}; change its permissions or choose another place."
    if error.errno == errno.ENOENT and error.filename:
        return f"{error.filename}: there is no such file or directory."
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP) and error.filename:
        reason = str(error.strerror)
        return f"{error.filename}: {reason[:1].lower()}{reason[1:]}; choose another name."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "Too many files are open; raise the limit with `ulimit -n`."
    return ""


@contextlib.contextmanager
def _signals_abort() -> Iterator[None]:
    """While inside, SIGTERM (a queue's or the system's wish to stop) raises Aborted in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the ending
        raise Aborted("The job was told to stop by the system (SIGTERM).")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _share_free_memory() -> None:
    """Gives all threads one store of free memory, where glibc has one for each: 2D classes take 4 % less.

    Our threads allocate rarely, so they do not wait for one another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_M_ARENA_MAX, 1)


@contextlib.contextmanager
def _lines_at_once() -> Iterator[None]:
    """Logs are read while the program runs, so every line leaves at once; odd characters never stop it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(line_buffering=True, errors="backslashreplace")
    yield


class ProgressBar:
    """RELION's bar: time spent and expected, dots, and a mouse on its way to the hole.

    The line is drawn anew at most every half second and only when it changed, so that logs stay small.

        with ProgressBar(len(micrographs)) as bar:
            for done, micrograph in enumerate(micrographs, 1):
                ...
                bar.update(done)
    """

    WIDTH = 60
    MOUSE = '~~(,_,">'
    HOLE = "[oo]"

    def __init__(self, total: int, shown: bool = True, stream: TextIO | None = None) -> None:
        self.total = max(1, total)
        self._shown = shown
        self._stream = stream or sys.stdout
        self._start = self._drawn = time.monotonic()
        self._last = ""
        self._ended = False
        self._write("000/??? sec " + self.MOUSE + " " * (self.WIDTH - 4) + self.HOLE)

    def update(self, done: int) -> None:
        """`done` of `total` pieces are finished."""
        now = time.monotonic()
        if self._ended or (done < self.total and now - self._drawn < 0.5) or done < 1:
            return
        dots = min(self.WIDTH, self.WIDTH * done // self.total)
        line = f"\r{_spent_and_expected(now - self._start, done / self.total)} {'.' * dots}{self.MOUSE}"
        if done >= self.total:
            self._ended = True
            line += " yum!\n"
        else:
            line += " " * max(0, self.WIDTH - dots - 4) + self.HOLE
        if line != self._last:
            self._write(line)
            self._drawn, self._last = now, line

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.update(self.total)
        elif not self._ended:
            self._ended = True
            self._write("\n")

    def _write(self, text: str) -> None:
        if self._shown:
            self._stream.write(text)
            self._stream.flush()


def _spent_and_expected(seconds: float, fraction: float) -> str:
    """`  12/  60 sec`, `0.50/2.00 min` or `1.20/3.40 hrs`, as in time.cpp, progress_bar."""
    spent, expected = int(seconds), int(int(seconds) / fraction)
    if expected > 3600:
        return f"{spent / 3600:3.2f}/{expected / 3600:3.2f} hrs"
    if expected > 60:
        return f"{spent / 60:3.2f}/{expected / 60:3.2f} min"
    return f"{spent:4d}/{expected:4d} sec"
