"""The communicator seam: one rank (serial) or many (MPI)."""
