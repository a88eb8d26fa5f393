"""The MPI seam: the same program on one rank or on many."""

from relion_py.compute.parallel.comm import Communicator, MpiComm, SerialComm, communicator

__all__ = ["Communicator", "MpiComm", "SerialComm", "communicator"]
