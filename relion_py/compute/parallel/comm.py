"""One rank or many: the same few operations, alone (`SerialComm`) or over MPI (`MpiComm`).

`communicator()` chooses. Compute code is given a Communicator and never asks which kind it has. Arrays are
reduced in place and in pieces below the 2^31 bytes that older MPI libraries can count.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import termios
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from relion_py.compute.errors import UserError

CHUNK_BYTES = 1 << 30
"""The most that one MPI call is given."""

ENDING_TAG = 32_000
"""The tag under which the first rank tells the others that it ends them (MPI promises tags up to 32,767)."""

FIRST_RANK_MAY_TAKE = 1.0
"""Seconds in which the first rank is expected to find the mistake that another rank has found."""

_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMIX_SIZE")
_RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK")


class Communicator(Protocol):
    """A group of ranks that run the same program.

    Every operation but `send`, `recv` and `abort` is collective: all ranks of the group must call it, in the
    same order.
    """

    rank: int
    size: int

    def bcast(self, value: Any, root: int = 0) -> Any:
        """The root's value, on every rank (any picklable object)."""

    def bcast_array(self, array: np.ndarray, root: int = 0) -> np.ndarray:
        """Fill `array` (same shape and dtype everywhere) with the root's content, in place; returns it."""

    def allreduce_sum(self, array: np.ndarray) -> np.ndarray:
        """Replace `array` on every rank by the sum over ranks, in place; returns it."""

    def reduce_sum(self, array: np.ndarray, root: int = 0) -> np.ndarray:
        """The sum over ranks, in place, on the root only; elsewhere `array` is left as it was."""

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        """On the root the values of all ranks in rank order; None elsewhere."""

    def allgather(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order, on every rank."""

    def send(self, array: np.ndarray, dest: int, tag: int = 0) -> None:
        """Send an array; the receiver learns its shape and dtype."""

    def recv(self, source: int, tag: int = 0) -> np.ndarray:
        """Receive the next array that `source` sent under this tag."""

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def split(self, colour: int) -> Communicator:
        """The group of the ranks that gave the same colour (at least 0), in their old order."""

    def tells_the_end(self) -> bool:
        """Whether this rank shall say why the program ends: not if the first rank is about to say it too."""

    def abort(self, message: str) -> None:
        """Print the sentence on stderr and end every rank; does not return."""


class SerialComm:
    """The communicator of a program that runs alone: rank 0 of 1."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self._mail: dict[int, list[np.ndarray]] = {}

    def bcast(self, value: Any, root: int = 0) -> Any:
        return value

    def bcast_array(self, array: np.ndarray, root: int = 0) -> np.ndarray:
        return array

    def allreduce_sum(self, array: np.ndarray) -> np.ndarray:
        return array

    def reduce_sum(self, array: np.ndarray, root: int = 0) -> np.ndarray:
        return array

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        return [value]

    def allgather(self, value: Any) -> list[Any]:
        return [value]

    def send(self, array: np.ndarray, dest: int, tag: int = 0) -> None:
        if dest != 0:
            raise ValueError(f"there is no rank {dest} in a program that runs alone")
        self._mail.setdefault(tag, []).append(np.array(array))

    def recv(self, source: int, tag: int = 0) -> np.ndarray:
        if source != 0 or not self._mail.get(tag):
            raise ValueError(f"nothing was sent by rank {source} under tag {tag}")
        return self._mail[tag].pop(0)

    def barrier(self) -> None:
        return None

    def split(self, colour: int) -> SerialComm:
        return SerialComm()

    def tells_the_end(self) -> bool:
        return True

    def abort(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(1)


class MpiComm:
    """Ranks of an MPI program (mpi4py)."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank = int(comm.Get_rank())
        self.size = int(comm.Get_size())

    def bcast(self, value: Any, root: int = 0) -> Any:
        return self._comm.bcast(value, root=root)

    def bcast_array(self, array: np.ndarray, root: int = 0) -> np.ndarray:
        for piece in _pieces(array):
            self._comm.Bcast(piece, root=root)
        return array

    def allreduce_sum(self, array: np.ndarray) -> np.ndarray:
        from mpi4py import MPI

        for piece in _pieces(array):
            self._comm.Allreduce(MPI.IN_PLACE, piece, op=MPI.SUM)
        return array

    def reduce_sum(self, array: np.ndarray, root: int = 0) -> np.ndarray:
        from mpi4py import MPI

        for piece in _pieces(array):
            if self.rank == root:
                self._comm.Reduce(MPI.IN_PLACE, piece, op=MPI.SUM, root=root)
            else:
                self._comm.Reduce(piece, None, op=MPI.SUM, root=root)
        return array

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:
        return self._comm.gather(value, root=root)

    def allgather(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def send(self, array: np.ndarray, dest: int, tag: int = 0) -> None:
        data = np.ascontiguousarray(array).reshape(np.shape(array))
        self._comm.send((data.shape, data.dtype.str), dest=dest, tag=tag)
        for piece in _pieces(data):
            self._comm.Send(piece, dest=dest, tag=tag)

    def recv(self, source: int, tag: int = 0) -> np.ndarray:
        shape, dtype = self._comm.recv(source=source, tag=tag)
        array = np.empty(shape, dtype=np.dtype(dtype))
        for piece in _pieces(array):
            self._comm.Recv(piece, source=source, tag=tag)
        return array

    def barrier(self) -> None:
        self._comm.Barrier()

    def split(self, colour: int) -> MpiComm:
        return MpiComm(self._comm.Split(colour, self.rank))

    def tells_the_end(self) -> bool:
        if self.rank == 0:
            self._told = [self._comm.isend(None, dest=rank, tag=ENDING_TAG) for rank in range(1, self.size)]
            return True
        until = time.monotonic() + FIRST_RANK_MAY_TAKE
        while time.monotonic() < until:
            if self._comm.iprobe(source=0, tag=ENDING_TAG):
                return False
            time.sleep(0.02)
        return True

    def abort(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
        wait_until_read(1, 2)
        self._comm.Abort(1)
        os._exit(1)  # some libraries come back from Abort until the launcher's signal arrives


def wait_until_read(*descriptors: int, seconds: float = 3.0, grace: float = 0.3) -> None:
    """Wait until the other end has read what was written to these pipes, at most `seconds`.

    An MPI launcher that is told to abort drops the output that it has not yet passed on. `grace`: what it is
    given besides, to pass on what it has read.
    """
    until = time.monotonic() + seconds
    for descriptor in descriptors:
        while time.monotonic() < until and _unread_bytes(descriptor):
            time.sleep(0.01)
    time.sleep(grace)


def _unread_bytes(descriptor: int) -> int:
    """How much waits in a pipe (Linux tells it at either end); 0 for anything else."""
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return 0
        return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of at most CHUNK_BYTES that cover the array; it is changed in place, so it must be contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError("an array that is reduced or sent in place must be C-contiguous")
    flat = array.reshape(-1)
    step = max(1, CHUNK_BYTES // array.itemsize)
    for start in range(0, flat.size, step):
        yield flat[start : start + step]


def launched_size(environment: Mapping[str, str] | None = None) -> int:
    """How many ranks the MPI launcher says it started; 0 if no launcher started this program."""
    environment = os.environ if environment is None else environment
    for name in _SIZE_VARIABLES:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    return 1 if any(name in environment for name in _RANK_VARIABLES) else 0


def communicator() -> Communicator:
    """MpiComm over all ranks if an MPI launcher started this program, else SerialComm.

    UserError if the launcher started several programs that cannot see each other (another MPI library than
    the launcher's, or none): they would do the same work several times and overwrite each other's files.
    """
    started = launched_size()
    if started == 0:
        return SerialComm()
    try:
        MPI = _library()
    except (ImportError, RuntimeError, UserError) as error:
        if started == 1:
            return SerialComm()
        if isinstance(error, UserError):
            raise
        reason = str(error).splitlines()[0] if str(error) else "mpi4py cannot be loaded"
        raise UserError(
            f"The launcher started {started} processes, but no MPI library can be loaded ({reason}): install "
            "one (pip install 'relion-py[mpi]') or start the program without mpirun."
        ) from None
    size = MPI.COMM_WORLD.Get_size()
    if size == 1 and started > 1:
        raise UserError(
            f"mpirun started {started} separate programs instead of one with {started} ranks: the launcher "
            f"and the MPI library ({_version(MPI)}) do not belong together; use the mpirun of that library."
        )
    if size == 1:
        return SerialComm()
    return MpiComm(MPI.COMM_WORLD)


def _library() -> Any:
    """mpi4py's MPI, begun. UserError if Open MPI's launcher started a program with another library.

    That library would end the program in MPI_Init, with a message about its launcher's protocol.
    """
    if not any(name.startswith("OMPI_") for name in (*_SIZE_VARIABLES, *_RANK_VARIABLES) if name in os.environ):
        from mpi4py import MPI

        return MPI
    import mpi4py

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = True
    from mpi4py import MPI

    if not MPI.Is_initialized():
        if "Open MPI" not in MPI.Get_library_version():
            raise UserError(
                f"This mpirun is Open MPI's, but the MPI library is {_version(MPI)}: use the mpirun of that library "
                f"({os.path.join(os.path.dirname(sys.executable), 'mpirun')} if it was installed with this program)."
            )
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


def _version(mpi: Any) -> str:
    return " ".join(mpi.Get_library_version().splitlines()[0].split())


def abort_all_on_error(comm: Communicator) -> Callable[[], None]:
    """An uncaught exception in one rank of `comm` ends all ranks, so that none waits for ever.

    The traceback is printed first. Returns a function that puts the old behaviour back. Nothing changes for
    a program that runs alone.
    """
    before = sys.excepthook
    if comm.size == 1:
        return lambda: None

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        comm.abort(f"Rank {comm.rank} failed; all {comm.size} ranks are ended.")

    sys.excepthook = hook

    def restore() -> None:
        sys.excepthook = before

    return restore
