"""Pixels as an independent reader (mrcfile, tifffile) sees them; what is damaged ends in one sentence."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.images import images_of_mrc, images_of_star
from relion_py.gui.display.sources import (
    MrcFile,
    NamedImages,
    Opened,
    SurfaceImages,
    project_root,
    read_movie_sum,
    split_name,
)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int16", "uint16"])
def test_stack_images_of_every_number_type(write_mrc, dtype: str) -> None:
    data = np.random.default_rng(0).integers(0, 100, (5, 8, 12)).astype(dtype)
    images = images_of_mrc(write_mrc("a.mrcs", data, 1.5))
    assert len(images) == 5
    assert images.source.shape == (8, 12)
    assert images.pixel_size == pytest.approx(1.5)
    assert np.array_equal(images.source.image(3), data[3].astype(np.float32))


def test_names_as_relion_writes_them() -> None:
    assert split_name("000012@Extract/job009/mic.mrcs") == (11, "Extract/job009/mic.mrcs")
    assert split_name("mic.mrc") == (-1, "mic.mrc")
    assert split_name("CtfFind/job005/mic_PS.ctf:mrc") == (-1, "CtfFind/job005/mic_PS.ctf")


def test_named_images_and_maps_by_their_central_section(write_mrc, tmp_path: Path) -> None:
    stack = np.arange(3 * 16, dtype=np.float32).reshape(3, 4, 4)
    volume = np.arange(6**3, dtype=np.float32).reshape(6, 6, 6)
    write_mrc("job/a.mrcs", stack)
    write_mrc("job/v.mrc", volume, volume=True)
    images = NamedImages(["000002@job/a.mrcs", "job/v.mrc"], tmp_path)
    assert np.array_equal(images.image(0), stack[1])
    assert np.array_equal(images.image(1), volume[3])
    assert images.shape == (4, 4)


def test_movie_is_the_sum_of_its_frames(tmp_path: Path, write_mrc) -> None:
    frames = np.random.default_rng(1).integers(0, 9, (4, 6, 5)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "m.tiff", frames, photometric="minisblack")
    write_mrc("m.mrcs", frames.astype(np.int16))
    total = frames.sum(axis=0).astype(np.float32)
    assert np.array_equal(read_movie_sum(tmp_path / "m.tiff"), total)
    assert np.array_equal(Opened(tmp_path).image("m.tiff"), total)
    assert np.array_equal(Opened(tmp_path).image("m.mrcs"), total)


def test_missing_and_damaged_files_are_one_sentence(tmp_path: Path, write_mrc) -> None:
    whole = write_mrc("a.mrcs", np.zeros((3, 8, 8), np.float32))
    (tmp_path / "short.mrcs").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "junk.mrc").write_bytes(b"not a map" * 500)
    (tmp_path / "tiny.mrc").write_bytes(b"x")
    (tmp_path / "junk.tif").write_bytes(b"II*\0 nonsense")
    for name in ("nothere.mrcs", "short.mrcs", "junk.mrc", "tiny.mrc", "000009@a.mrcs", "junk.tif"):
        with pytest.raises(DisplayError) as caught:
            Opened(tmp_path).image(name)
        assert split_name(name)[1] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_project_root_is_not_a_job_directory(tmp_path: Path) -> None:
    job = tmp_path / "Class2D" / "job001"
    job.mkdir(parents=True)
    for folder in (tmp_path, job):
        (folder / "default_pipeline.star").touch()
    (job / "job.star").touch()
    assert project_root(job / "run_model.star") == tmp_path


def test_classes_of_a_model_with_their_particles(tmp_path: Path, write_mrc) -> None:
    write_mrc("Class2D/job001/run_it002_classes.mrcs", np.ones((2, 8, 8), np.float32), 3.0)
    (tmp_path / "Class2D/job001/run_it002_model.star").write_text(
        "data_model_general\n_rlnReferenceDimensionality 2\n_rlnPixelSize 3.0\n"
        "data_model_classes\nloop_\n"
        "_rlnReferenceImage #1\n_rlnClassDistribution #2\n_rlnEstimatedResolution #3\n"
        "000001@Class2D/job001/run_it002_classes.mrcs 0.25 12.5\n"
        "000002@Class2D/job001/run_it002_classes.mrcs 0.75 inf\n"
    )
    (tmp_path / "Class2D/job001/run_it002_data.star").write_text("data_particles\nloop_\n_rlnClassNumber\n1\n")
    model = tmp_path / "Class2D/job001/run_it002_model.star"
    images = images_of_star(model, tmp_path)
    assert images.kind == "classes"
    assert images.pixel_size == 3.0
    assert images.caption(0) == ["1: 25.0 %", "12.5 Å"]
    assert images.caption(1) == ["2: 75.0 %", ""]
    assert images.data_star == tmp_path / "Class2D/job001/run_it002_data.star"
    assert images.order("rlnClassDistribution", reverse=True).tolist() == [1, 0]
    optimiser = tmp_path / "Class2D/job001/run_it002_optimiser.star"
    optimiser.write_text(
        "data_optimiser_general\n_rlnModelStarFile Class2D/job001/run_it002_model.star\n_rlnCurrentIteration 2\n"
    )
    assert len(images_of_star(optimiser, tmp_path)) == 2


def test_sorting_puts_what_is_no_number_last(tmp_path: Path, write_mrc) -> None:
    write_mrc("a.mrcs", np.zeros((4, 8, 8), np.float32))
    rows = "".join(f"00000{i + 1}@a.mrcs {value}\n" for i, value in enumerate(["3", "nan", "-1", "3"]))
    (tmp_path / "p.star").write_text(f"data_particles\nloop_\n_rlnImageName\n_rlnAutopickFigureOfMerit\n{rows}")
    images = images_of_star(tmp_path / "p.star", tmp_path)
    assert images.order("rlnAutopickFigureOfMerit").tolist() == [2, 0, 3, 1]
    assert images.order("rlnAutopickFigureOfMerit", reverse=True).tolist() == [0, 3, 2, 1]
    assert sorted(images.order("", seed=5).tolist()) == [0, 1, 2, 3]
    assert images.metadata(2) == [("rlnImageName", "000003@a.mrcs"), ("rlnAutopickFigureOfMerit", "-1")]


def test_star_without_images_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.star").write_text("data_general\n_rlnFinalResolution 3.2\n")
    with pytest.raises(DisplayError, match="names no images"):
        images_of_star(tmp_path / "x.star", tmp_path)


def test_surfaces_of_named_maps(tmp_path: Path, write_mrc, sphere: np.ndarray) -> None:
    write_mrc("v.mrc", sphere, volume=True)
    picture = SurfaceImages(["v.mrc"], tmp_path, size=60).image(0)
    assert picture.shape == (60, 60, 3)
    assert (picture < 250).any()


def test_header_pixel_size_zero_is_unknown(write_mrc) -> None:
    path = write_mrc("a.mrc", np.zeros((8, 8), np.float32), 0.0)
    with mrcfile.open(path) as file:
        assert file.voxel_size.x == 0
    assert MrcFile(path).pixel_size == 0.0
