"""Communicators: alone, and on real ranks under mpirun."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.parallel import SerialComm, comm, communicator

MPIRUN = Path(sys.executable).parent / "mpirun"
needs_mpirun = pytest.mark.skipif(not MPIRUN.is_file(), reason="the mpich wheel is not installed")

RANKS = """
import numpy as np
from relion_py.compute.parallel import comm, communicator
comm.CHUNK_BYTES = 256  # many pieces, as with arrays beyond 2^31 bytes
c = communicator()
n, r = c.size, c.rank
total = sum(range(n))

for dtype in ("f4", "f8", "c8", "c16", "i8"):
    a = (np.arange(300).reshape(3, 100) + r).astype(dtype)
    assert c.allreduce_sum(a) is a
    assert np.array_equal(a, (n * np.arange(300).reshape(3, 100) + total).astype(dtype)), dtype

a = np.full(100, float(r + 1))
c.reduce_sum(a, root=n - 1)
assert np.array_equal(a, np.full(100, total + n if r == n - 1 else r + 1.0))

a = np.full((5, 50), r, "f4")
c.bcast_array(a, root=1)
assert np.all(a == 1)
assert c.bcast({"rank": r}, root=1) == {"rank": 1}
assert c.allgather(r * r) == [i * i for i in range(n)]
assert c.gather(r) == (list(range(n)) if r == 0 else None)

if r == 0:
    c.send(np.arange(600.0).reshape(2, 3, 100), 1, tag=3)
    c.send(np.zeros((0, 4), "c8"), 1, tag=3)
elif r == 1:
    b = c.recv(0, tag=3)
    assert b.shape == (2, 3, 100) and b.dtype == np.float64 and b[1, 2, 99] == 599
    assert c.recv(0, tag=3).shape == (0, 4)

half = c.split(r % 2)
members = [i for i in range(n) if i % 2 == r % 2]
assert (half.size, half.rank) == (len(members), members.index(r))
assert half.allgather(r) == members
try:
    c.allreduce_sum(np.zeros((4, 4)).T[:, ::2])
except ValueError:
    pass
else:
    raise AssertionError("a strided array was taken")
c.barrier()
print("all well\\n", end="", flush=True)
"""


def mpirun(ranks, code, *words):
    return subprocess.run(
        [str(MPIRUN), "-n", str(ranks), sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
    )


@needs_mpirun
@pytest.mark.req("A2")
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_operation_on_ranks(ranks):
    result = mpirun(ranks, RANKS)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "all well\n" * ranks


@needs_mpirun
def test_an_uncaught_error_ends_all_ranks():
    code = (
        "from relion_py.compute.parallel.comm import communicator, abort_all_on_error\n"
        "c = communicator(); abort_all_on_error(c)\n"
        "if c.rank == 1: raise KeyError('lost')\n"
        "c.barrier()"
    )
    result = mpirun(3, code)
    assert result.returncode != 0
    assert "KeyError: 'lost'" in result.stderr
    assert "Rank 1 failed" in result.stderr


@needs_mpirun
def test_one_rank_is_serial():
    code = "from relion_py.compute.parallel import communicator; print(type(communicator()).__name__)"
    assert mpirun(1, code).stdout == "SerialComm\n"


def run_with(environment, code):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "OMPI"))}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=clean | environment
    )


CHOOSE = (
    "from relion_py.compute.parallel import communicator\n"
    "from relion_py.compute.errors import UserError\n"
    "try: print(type(communicator()).__name__)\n"
    "except UserError as error: print(error)"
)


def test_without_a_launcher_mpi_is_never_loaded():
    code = CHOOSE + "\nimport sys; print('mpi4py.MPI' in sys.modules)"
    assert run_with({}, code).stdout == "SerialComm\nFalse\n"


def test_separate_programs_instead_of_ranks_are_noticed():
    """N programs that each believe to be alone."""
    out = run_with({"MV2_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_RANK": "2"}, CHOOSE).stdout
    assert "started 4 separate programs" in out or "no MPI library can be loaded" in out


def test_open_mpis_launcher_with_another_library_is_told():
    """Before that library ends the program in MPI_Init; a single process needs none."""
    out = run_with({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}, CHOOSE).stdout
    wrong = "This mpirun is Open MPI's, but the MPI library is" in out
    assert wrong or "started 4 separate programs" in out or "no MPI library can be loaded" in out
    if wrong:
        assert run_with({"OMPI_COMM_WORLD_SIZE": "1"}, CHOOSE).stdout == "SerialComm\n"


@pytest.mark.skipif(not os.path.exists("/usr/bin/mpirun.openmpi"), reason="Open MPI's launcher is not installed")
def test_under_open_mpis_own_launcher():
    command = ["/usr/bin/mpirun.openmpi", "--oversubscribe", "-n", "2", sys.executable, "-c", CHOOSE]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert 2 in (done.stdout.count("MpiComm"), done.stdout.count("This mpirun is Open MPI's"))  # lines may mix


def test_a_launcher_without_a_library():
    hide = "import sys; sys.modules['mpi4py'] = None\n" + CHOOSE
    assert "no MPI library can be loaded" in run_with({"PMI_SIZE": "2"}, hide).stdout
    assert run_with({"PMI_SIZE": "1"}, hide).stdout == "SerialComm\n"


def test_alone_everything_is_the_identity():
    alone = SerialComm()
    array = np.arange(4.0)
    assert alone.allreduce_sum(array) is array
    assert array.tolist() == [0, 1, 2, 3]
    assert alone.reduce_sum(array) is array
    assert alone.bcast("x") == "x"
    assert alone.gather(3) == alone.allgather(3) == [3]
    alone.send(array, 0, tag=1)
    array[:] = 0
    assert alone.recv(0, tag=1).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="nothing was sent"):
        alone.recv(0)
    assert (alone.split(3).rank, alone.split(3).size) == (0, 1)
    with pytest.raises(SystemExit):
        alone.abort("over")


def test_the_launchers_word(monkeypatch):
    assert comm.launched_size({}) == 0
    assert comm.launched_size({"PMI_SIZE": "4", "PMI_RANK": "0"}) == 4
    assert comm.launched_size({"OMPI_COMM_WORLD_SIZE": "3"}) == 3
    for name in (*comm._SIZE_VARIABLES, *comm._RANK_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(communicator(), SerialComm)
    assert issubclass(UserError, Exception)


def test_what_was_written_is_waited_for_until_it_is_read():
    read, write = os.pipe()
    os.write(write, b"x" * 5000)
    assert comm._unread_bytes(write) == 5000
    threading.Timer(0.5, lambda: os.read(read, 5000)).start()
    started = time.monotonic()
    comm.wait_until_read(write, grace=0.0)
    assert 0.3 < time.monotonic() - started < 2.5
    assert comm._unread_bytes(write) == 0
    os.write(write, b"never read")
    started = time.monotonic()
    comm.wait_until_read(write, seconds=0.2, grace=0.0)
    assert 0.15 < time.monotonic() - started < 2.0
    os.close(read)
    os.close(write)
    assert comm._unread_bytes(write) == 0


def test_pieces_cover_the_array_without_copies():
    array = np.zeros((7, 11), dtype=np.complex64)
    for piece in comm._pieces(array):
        piece += 1
    assert np.all(array == 1)
