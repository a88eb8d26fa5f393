"""relion_mask_create beside RELION 5's mask and Debian's program."""

import gzip
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from in_process import outcome
from reference_data import SHARED
from witness_maps import voxels

from relion_py.compute.cli.mask_create import _main
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io.mrc import write_map
from relion_py.compute.post.solvent_mask import extend, soften

GOLDEN = SHARED / "golden/numeric/mask/mask.mrc.gz"
MAP = SHARED / "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027/run_class001.mrc.gz"


program = partial(outcome, _main)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    for name, radius in (("a", 9), ("b", 7)):
        volume = lowpass(rng.normal(size=(32, 32, 32)), 2.0, 12.0) * soft_mask(32, radius, 4)
        write_map(tmp_path / f"{name}.mrc", volume.astype(np.float32), 2.0)
    return tmp_path


@pytest.mark.skipif(not (GOLDEN.exists() and MAP.exists()), reason="RELION 5's mask is not here")
def test_mask_of_relion_5(tmp_path: Path) -> None:
    for source, name in ((MAP, "map.mrc"), (GOLDEN, "golden.mrc")):
        (tmp_path / name).write_bytes(gzip.decompress(source.read_bytes()))
    flags = "--lowpass 15 --ini_threshold 0.02 --extend_inimask 3 --width_soft_edge 6 --angpix 3.54"
    code, out, err = program(tmp_path, "--i", "map.mrc", "--o", "mask.mrc", *flags.split())
    assert code == 0, err
    np.testing.assert_allclose(voxels(tmp_path / "mask.mrc"), voxels(tmp_path / "golden.mrc"), atol=1e-5)
    assert " Done creating mask! Written out: mask.mrc" in out
    with mrcfile.open(tmp_path / "mask.mrc") as file:
        assert file.voxel_size.x == pytest.approx(3.54, abs=1e-3)


@pytest.mark.parametrize(
    "flags",
    [
        "--i a.mrc --ini_threshold 0.03 --extend_inimask 2.5 --width_soft_edge 4.2 --invert",
        "--i a.mrc --ini_threshold 0.02 --extend_inimask -2 --width_soft_edge 3",
        "--i a.mrc --ini_threshold 0.02 --and b.mrc --width_soft_edge 2",
        "--i a.mrc --ini_threshold 0.03 --or b.mrc --extend_inimask 1.5",
        "--i a.mrc --ini_threshold 0.01 --and_not b.mrc --width_soft_edge 2",
        "--i a.mrc --ini_threshold 0.02 --or_not b.mrc",
        "--i a.mrc --lowpass 14 --ini_threshold 0.01 --extend_inimask 2 --width_soft_edge 3 --helix",
        "--denovo --box_size 24 --inner_radius 4 --outer_radius 8 --width_soft_edge 3 --center_x 2 --center_z -1",
    ],
)
def test_as_debians_relion(maps: Path, debian_relion: Callable[[str], str], flags: str) -> None:
    words = [*flags.split(), "--angpix", "2", "--j", "2"]
    code, _, err = program(maps, *words, "--o", "ours.mrc")
    assert code == 0, err
    command = [debian_relion("relion_mask_create"), *words, "--o", "theirs.mrc"]
    subprocess.run(command, cwd=maps, check=True, capture_output=True)
    theirs = voxels(maps / "theirs.mrc")
    assert 0 < np.mean(theirs > 0.5) < 1
    np.testing.assert_allclose(voxels(maps / "ours.mrc"), theirs, atol=1e-5)


def test_edge_by_brute_force() -> None:
    """Every voxel's distance to the nearest one inside, by trying all pairs."""
    rng = np.random.default_rng(4)
    volume = (rng.uniform(size=(10, 10, 10)) > 0.985).astype(np.float32)
    grid = np.stack(np.indices(volume.shape), -1).reshape(-1, 3)
    inside = grid[volume.ravel() > 0]
    near = np.sqrt(((grid[:, None] - inside) ** 2).sum(-1))
    extended = grid[near.min(1) < 1.5]
    distance = np.sqrt(((grid[:, None] - extended) ** 2).sum(-1)).min(1)
    expected = np.where(distance < 3.0, 0.5 + 0.5 * np.cos(np.pi * distance / 3.0), 0.0)
    np.testing.assert_allclose(soften(extend(volume >= 0.5, 1.5), 3.0).ravel(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--i a.mrc --ini_threshold 50", "lower --ini_threshold"),
        ("--i a.mrc --ini_threshold 0.02 --and_not a.mrc", "--and_not a.mrc leaves no voxel"),
        ("--o mask.mrc", "--denovo"),
        ("--denovo", "--box_size"),
        ("--i a.mrc --and small.mrc", "differ in size"),
        ("--i nothing.mrc", "no such file"),
        ("--i a.mrc --helix --z_percentage 0.95", "between 0.1 and 0.9"),
        ("--i a.mrc --width_soft_edge -2", "must not be negative"),
        ("--i a.mrc --ini_threshold x", "needs a number"),
    ],
)
def test_mistakes(maps: Path, words: str, sentence: str) -> None:
    write_map(maps / "small.mrc", np.ones((16, 16, 16), np.float32), 2.0)
    code, _, err = program(maps, *words.split(), "--o", "mask.mrc", "--pipeline_control", "./")
    assert code == 1
    assert sentence in err and "Traceback" not in err
    assert (maps / "RELION_JOB_EXIT_FAILURE").exists()
    assert not (maps / "mask.mrc").exists()


def test_a_directory_that_is_not_there(maps: Path) -> None:
    """The sentence names the directory, not the temporary file that would have been written first."""
    words = ["--denovo", "--box_size", "16", "--angpix", "2", "--outer_radius", "10", "--o", "folder/mask.mrc"]
    code, _, err = program(maps, *words)
    assert code == 1 and err == "ERROR: folder: there is no such file or directory.\n"
