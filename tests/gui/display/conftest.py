"""Small files in real formats, written by mrcfile and by hand, and the tutorial's finished project."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

WriteMrc = Callable[..., Path]

TUTORIAL_MEMBERS = (
    "default_pipeline.star",
    "Class2D/job008/run_it025_",
    "Select/job009/",
    "PostProcess/job030/postprocess.star",
    "AutoPick/job011/",
    "CtfFind/job003/",
    "MotionCorr/job002/corrected_micrographs.star",
    "MotionCorr/job002/Movies/20170629_00021",
    "Refine3D/job025/run_model.star",
    "Refine3D/job025/run_it015_",
    "Refine3D/job025/run_data.star",
)


@pytest.fixture
def write_mrc(tmp_path: Path) -> WriteMrc:
    """write_mrc(name, array, pixel_size, volume=False): a file written by mrcfile, an independent writer."""

    def write(name: str, array: np.ndarray, pixel_size: float = 2.0, volume: bool = False) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(array)
            if array.ndim == 3 and not volume:
                file.set_image_stack()
            file.voxel_size = pixel_size
        return path

    return write


# Debian 12's Python 3.11.2 is older than the argument.
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.fixture(scope="session")
def tutorial(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the finished RELION 3.1 tutorial project (STAR files only)."""
    archive = shared / "data/real/bgal-10204-relion31-tutorial-metadata/relion_tutorial_files.tar.xz"
    if not archive.is_file():
        pytest.skip("the RELION 3.1 tutorial project is not here")
    root = tmp_path_factory.mktemp("tutorial")
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and name.startswith(TUTORIAL_MEMBERS):
                tar.extract(member, root, **SAFELY)
    return root


@pytest.fixture
def sphere() -> np.ndarray:
    """A ball of radius 10 voxels in a box of 40, 1 inside and 0 outside with an edge of two voxels."""
    z, y, x = np.mgrid[:40, :40, :40] - 19.5
    radius = np.sqrt(z**2 + y**2 + x**2)
    return np.clip((11.0 - radius) / 2.0, 0.0, 1.0).astype(np.float32)
