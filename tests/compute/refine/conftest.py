"""Small simulated data sets and one refinement of them, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from refine_runs import BOX, INI_HIGH, PIXEL, Run, refined

from relion_py.compute.simulate import simulate_particles


@pytest.fixture(scope="session")
def d2_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred particles of a D2 object, its truth.mrc, reference.mrc (low-passed) and mask.mrc."""
    root = tmp_path_factory.mktemp("d2")
    simulate_particles(root, 100, box=BOX, angpix=PIXEL, symmetry="D2", seed=3, snr=0.3, reference_resolution=INI_HIGH)
    return root


@pytest.fixture(scope="session")
def serial_run(d2_project: Path) -> Run:
    """The usual command on d2_project, one process, one thread, to convergence."""
    return refined(d2_project, "serial")
