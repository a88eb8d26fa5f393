"""Reference and mask brought to the particles' grid, against maps that RELION 5 made and known functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from small_project import write_mrc

from relion_py.compute.errors import UserError
from relion_py.compute.refine.reference import read_reference, read_solvent_mask, resample, window

JOB27 = "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027/run_class001.mrc.gz"
Unpack = Callable[[Path], Path]


def gaussian(box: int, pixel_size: float, sigma: float = 8.0) -> np.ndarray:
    """A Gaussian of `sigma` A beside the centre, sampled analytically."""
    axis = (np.arange(box) - box // 2) * pixel_size
    z, y, x = (np.exp(-((axis - shift) ** 2) / (2 * sigma**2)) for shift in (3.0, -5.0, 0.5))
    return (z[:, None, None] * y[None, :, None] * x).astype(np.float32)


def test_windows_equal_those_of_the_reference(shared: Path, unpacked: Unpack) -> None:
    volume = mrcfile.read(unpacked(shared / JOB27))
    theirs = mrcfile.read(unpacked(shared / "golden/numeric/image_handler/box64.mrc.gz"))
    np.testing.assert_array_equal(window(volume, 64), theirs)
    np.testing.assert_array_equal(window(window(volume, 130), 100), volume)


def test_rescaling_agrees_with_the_reference(shared: Path, unpacked: Unpack) -> None:
    """They differ at the Nyquist frequency only, where Fourier cropping keeps one of two waves."""
    volume = mrcfile.read(unpacked(shared / JOB27))
    theirs = mrcfile.read(unpacked(shared / "golden/numeric/image_handler/rescaled5.mrc.gz"))
    ours = resample(volume, 3.54, 3.54 * 100 / 70, 70)
    difference = np.abs(np.fft.rfftn(ours.astype(float) - theirs))
    below = [abs(np.fft.fftfreq(70, 1 / 70)) < 34.5] * 2 + [np.arange(36) < 34.5]
    scale = np.abs(np.fft.rfftn(theirs.astype(float))).max()
    assert difference[np.ix_(*below)].max() < 1e-6 * scale
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9998


@pytest.mark.parametrize(("box", "pixel_size"), [(48, 2.3), (64, 1.9), (40, 3.37), (80, 2.0), (33, 2.5)])
def test_any_pixel_size_is_reached(box: int, pixel_size: float) -> None:
    ours = resample(gaussian(64, 2.0), 2.0, pixel_size, box)
    expected = gaussian(box, pixel_size)
    inside = np.abs((np.arange(box) - box // 2) * pixel_size) < 60
    np.testing.assert_allclose(ours[np.ix_(inside, inside, inside)],
                               expected[np.ix_(inside, inside, inside)], atol=2e-5)  # fmt: skip


def test_nothing_is_repeated_beyond_the_old_box() -> None:
    ours = resample(np.ones((16, 16, 16), np.float32), 2.0, 2.5, 40)
    assert ours[0].max() == 0 and ours[20, 20, 20] == pytest.approx(1)


def test_reference_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    write_mrc(tmp_path / "ref.mrc", gaussian(32, 2.5), 2.5)
    volume, told = read_reference(str(tmp_path / "ref.mrc"), 32, 2.5)
    np.testing.assert_array_equal(volume, gaussian(32, 2.5))
    assert told == []


def test_reference_of_another_size_is_rescaled_on_request_and_said_so(tmp_path: Path) -> None:
    path = str(tmp_path / "ref.mrc")
    write_mrc(Path(path), gaussian(64, 2.0), 2.0)
    with pytest.raises(UserError, match=r"pixels of 2 A \(the particles 2\.7 A\) and a box of 64 pixels"):
        read_reference(path, 48, 2.7)
    volume, told = read_reference(path, 48, 2.7, trust_ref_size=True)
    np.testing.assert_allclose(volume[8:40, 8:40, 8:40], gaussian(48, 2.7)[8:40, 8:40, 8:40], atol=2e-5)
    assert len(told) == 1 and "rescaled to 2.7 A and 48 pixels" in told[0]
    same, told = read_reference(path, 64, 5.0, ref_angpix=5.0)
    assert told == [] and same.shape == (64,) * 3


@pytest.mark.filterwarnings("ignore:Data array contains NaN")  # of mrcfile, while the test writes it
def test_reference_that_is_no_map_of_numbers_is_refused(tmp_path: Path) -> None:
    volume = gaussian(32, 2.5)
    volume[3, 3, 3] = np.nan
    write_mrc(tmp_path / "nan.mrc", volume)
    with pytest.raises(UserError, match="has voxels that are not numbers"):
        read_reference(str(tmp_path / "nan.mrc"), 32, 2.5)
    write_mrc(tmp_path / "flat.mrc", volume[:4])
    with pytest.raises(UserError, match="is 32 x 32 x 4; it must be a cube"):
        read_reference(str(tmp_path / "flat.mrc"), 32, 2.5)


def test_mask_is_brought_to_the_reference(tmp_path: Path) -> None:
    path = str(tmp_path / "mask.mrc")
    mask = 1.5 * gaussian(64, 2.0) - 0.1
    write_mrc(Path(path), mask, 2.0)
    fitted, told = read_solvent_mask(path, 48, 2.5)
    assert fitted.shape == (48,) * 3 and fitted.min() == 0 and fitted.max() == 1
    assert len(told) == 2 and "rescaled to 2.5 A" in told[0] and "cut to 0 ... 1" in told[1]
    right, told = read_solvent_mask(path, 64, 2.0)
    assert len(told) == 1 and right.shape == (64,) * 3
    write_mrc(Path(path), np.zeros((32, 32, 32)), 2.0)
    with pytest.raises(UserError, match="is empty"):
        read_solvent_mask(path, 32, 2.0)
