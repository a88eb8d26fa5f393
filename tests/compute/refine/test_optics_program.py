"""Particles of two pixel and box sizes in one run of the program, beside as many of one size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from refine_runs import BOX, PIXEL, Run, refined, shell_correlation

from relion_py.compute.io import star
from relion_py.compute.simulate import simulate_particles

OTHER_BOX, OTHER_PIXEL = 40, 4.25
N, SNR = 100, 0.3


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory, d2_project: Path) -> Path:
    """The particles of d2_project, every second micrograph from a camera with other pixels: 170 A instead of 160.

    As much of the object arrives on each square A, so that a smaller pixel is noisier.
    """
    root = tmp_path_factory.mktemp("two_sizes")
    shutil.copytree(d2_project, root, dirs_exist_ok=True)
    simulate_particles(
        root / "Other", N, box=OTHER_BOX, angpix=OTHER_PIXEL, symmetry="D2", seed=3,
        snr=SNR * (OTHER_PIXEL / PIXEL) ** 2, project_root=root, diameter=0.6 * BOX * PIXEL, sigma=0.6 * PIXEL,
    )  # fmt: skip
    tables, others = star.read(root / "particles.star"), star.read(root / "Other/particles.star")
    half = N // 2
    first, second = tables["particles"], others["particles"]
    columns = {label: first.strings(label)[:half] + second.strings(label)[half:] for label in first.labels}
    columns["rlnOpticsGroup"] = ["1"] * half + ["2"] * half
    optics = {
        label: [tables["optics"].strings(label)[0], others["optics"].strings(label)[0]]
        for label in tables["optics"].labels
    }
    optics["rlnOpticsGroup"], optics["rlnOpticsGroupName"] = ["1", "2"], ["one", "other"]
    star.write(root / "particles.star", {"optics": star.Table(optics), "particles": star.Table(columns)})
    return root


def area(run: Run, name: str = "run_class001.mrc") -> float:
    """Mean FSC to the truth."""
    import mrcfile

    truth = np.array(mrcfile.read(run.project / "truth.mrc"))
    return float(shell_correlation(run.map(name), truth)[1:].mean())


@pytest.fixture(scope="module")
def joint(two_sizes: Path) -> Run:
    """The usual refinement of all of them together."""
    return refined(two_sizes, "joint")


def test_two_sizes_refine_as_well_as_one(joint: Run, serial_run: Run) -> None:
    assert area(joint) > area(serial_run) - 0.02
