"""--local_symmetry in a classification and an auto-refinement: parts of the references become alike."""

from __future__ import annotations

import shlex
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from refine_runs import BOX, PIXEL, copy_of, refine, refined

from relion_py.compute.io import star

CLASSES = shlex.split(
    "--i particles.star --ref reference.mrc --K 1 --iter 1 --healpix_order 1 --oversampling 1 --offset_range 3 "
    "--offset_step 2 --ctf --particle_diameter 120 --sym C1 --pad 1 "
    "--dont_combine_weights_via_disc --random_seed 1 --j 2"
)
AWAY = BOX // 5
"""Pixels along x from the centre to that of the part."""


@pytest.fixture
def project(d2_project: Path, tmp_path: Path) -> Path:
    """A part on the x axis, which shall be like what lies on the y axis; in a D2 object they are not."""
    root = copy_of(d2_project, tmp_path / "project")
    with mrcfile.new(root / "part.mrc") as file:
        file.set_data(ball(5.0).astype(np.float32))
        file.voxel_size = PIXEL
    (root / "parts.star").write_text(
        "data_\n\nloop_\n_rlnMaskName\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n_rlnOriginXAngst\n_rlnOriginYAngst\n"
        "_rlnOriginZAngst\npart.mrc 0 0 90 0 0 0\n"
    )
    return root


def ball(radius: float) -> np.ndarray:
    z, y, x = np.indices((BOX, BOX, BOX)) - BOX // 2
    return (x - AWAY) ** 2 + y**2 + z**2 < radius**2


def turned(volume: np.ndarray) -> np.ndarray:
    """What is at R x, at x: R of psi 90 takes x to -y. The first pixel of an even box has no partner."""
    return np.roll(volume[:, ::-1], 1, axis=1).swapaxes(1, 2)


def likeness(volume: np.ndarray) -> float:
    """Correlation of the part with what is to be like it, apart from the rim of its mask."""
    inside = ball(3.5)
    return float(np.corrcoef(volume[inside], turned(volume)[inside])[0, 1])


def test_the_parts_of_a_class_become_alike(project: Path) -> None:
    plain = refined(project, "Plain", usual=CLASSES).map("run_it001_class001.mrc")
    run = refined(project, "Alike", "--local_symmetry", "parts.star", usual=CLASSES, ranks=2)
    alike = run.map("run_it001_class001.mrc")
    assert likeness(plain) < 0.8 and likeness(alike) > 0.999
    # the part is the mean of what the two were; the rest stays
    inside, outside = ball(3.5), ~ball(6.5) & ~turned(turned(turned(ball(6.5))))
    np.testing.assert_allclose(alike[inside], ((plain + turned(plain)) / 2)[inside], atol=2e-3 * np.abs(plain).max())
    np.testing.assert_allclose(alike[outside], plain[outside], atol=2e-3 * np.abs(plain).max())
    general = star.read(run.out / "run_it001_optimiser.star")["optimiser_general"]
    assert general.value("rlnLocalSymmetryFile") == "parts.star"
    again = ["--continue", "Alike/run_it001_optimiser.star", "--iter", "2", "--j", "2"]
    assert likeness(refined(project, "Again", usual=again).map("run_it002_class001.mrc")) > 0.999


def test_the_half_maps_of_a_refinement_become_alike_but_not_the_final_map(project: Path) -> None:
    run = refined(project, "Refine3D", "--local_symmetry", "parts.star")
    last = max(int(path.name[6:9]) for path in run.out.glob("run_it*_half1_class001.mrc"))
    halves = [run.map(f"run_it{last:03d}_half{half}_class001.mrc") for half in (1, 2)]
    assert min(likeness(half) for half in halves) > 0.99
    assert likeness(run.map("run_class001.mrc")) < 0.95


def test_what_is_wrong_is_told_before_the_start(project: Path) -> None:
    with mrcfile.new(project / "part.mrc", overwrite=True) as file:
        file.set_data(np.ones((16, 16, 16), np.float32))
    told = refine(project, "Small", "--local_symmetry", "parts.star", usual=CLASSES).sentence()
    assert "part.mrc" in told and "16" in told
    told = refine(project, "None", "--local_symmetry", "none.star", usual=CLASSES).sentence()
    assert "none.star" in told
