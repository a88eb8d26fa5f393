"""The seam between the algorithm and the device that computes it."""

from __future__ import annotations

from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.backend.cuda import CudaBackend

Backend = CpuBackend | CudaBackend
"""What computes an expectation step: both have the same methods, which `CpuBackend` describes."""
