"""What programs load before they know what they are to do: libraries that they may not need take half a second."""

from __future__ import annotations

import pytest
from import_cost import import_cost

COSTLY = {"numba", "scipy.linalg", "scipy.sparse", "scipy.special", "pandas", "matplotlib", "mpi4py.MPI", "scipy.fft"}


@pytest.mark.parametrize(
    "program",
    ["autopick", "image_handler", "import_", "motioncorr", "postprocess", "preprocess", "refine", "star_handler"],
)
def test_a_program_starts_without_costly_libraries(program):
    calls, modules = import_cost(f"relion_py.compute.cli.{program}")
    assert not COSTLY & modules
    assert calls < 120_000  # NumPy is a third


def test_a_refinement_needs_no_package_of_scipy():
    modules = import_cost("relion_py.compute.refine.start")[1]
    assert not {"scipy.fft", "scipy.linalg", "scipy.ndimage", "scipy.special", "scipy.optimize"} & modules
    assert not COSTLY - {"numba"} & modules
