"""Projections of references against float64 brute force, an analytic model and RELION 5 and 3.1."""

import gzip
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from blob_model import Blobs, disc, image_from_slice, random_rotations
from installed_relion import installed_relion
from reference_data import SHARED

from relion_py.compute.backend import kernels_numba
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.refine import projector
from relion_py.compute.refine.projector import FourierReference, transforms
from relion_py.compute.refine.reconstruct import to_real_space

RELION = installed_relion("relion_project")
OPTICS = """data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
one 1 300 2.7 0.1 2.0 32 2

data_particles

loop_
_rlnAngleRot #1
_rlnAngleTilt #2
_rlnAnglePsi #3
_rlnOpticsGroup #4
_rlnImageName #5
"""


def read_gz(path: Path, tmp_path: Path) -> np.ndarray:
    plain = tmp_path / path.stem
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    with mrcfile.open(plain, permissive=True) as file:
        return file.data.astype(np.float32)


def trilinear(volume: np.ndarray, rotation: np.ndarray, kx: int, ky: int, pad: float) -> complex:
    """One value by the definition, in float64."""
    x, y, z = pad * (rotation.T @ np.array([kx, ky, 0.0]))
    mate = x < 0
    if mate:
        x, y, z = -x, -y, -z
    z, y = z + volume.shape[0] // 2, y + volume.shape[1] // 2
    x0, y0, z0 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    total = 0j
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                share = (1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy)) * (1 - abs(z - z0 - dz))
                total += share * complex(volume[z0 + dz, y0 + dy, x0 + dx])
    return total.conjugate() if mate else total


@pytest.mark.parametrize("pad", [1.0, 2.0])
def test_kernel_is_trilinear_interpolation(pad: float) -> None:
    rng = np.random.default_rng(1)
    radius = int(9 * pad)
    shape = (2 * radius + 3, 2 * radius + 3, radius + 2)
    volume = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    rotations = random_rotations(20, 2)
    kx, ky = disc(9, friedel_pairs=True)
    out = np.empty((20, len(kx)), np.complex64)
    kernels_numba.project(volume, rotations.astype(np.float32), kx, ky, pad, radius, out)
    expected = [[trilinear(volume, a, x, y, pad) for x, y in zip(kx, ky, strict=True)] for a in rotations]
    # A float32 position is known to 1e-6 voxel; neighbouring voxels differ by about 1.
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_projections_follow_the_analytic_transform() -> None:
    box, blobs = 48, Blobs.random(3)
    rotations = random_rotations(30, 4)
    kx, ky = disc(16)
    truth = blobs.slices(rotations, kx, ky, box)
    for padding, tolerance in ((2.0, 0.02), (4.0, 0.005)):
        ours = FourierReference.from_map(blobs.map(box), padding=padding).project(rotations, kx, ky)
        error = np.sqrt((abs(ours - truth) ** 2).mean() / (abs(truth) ** 2).mean())
        assert error < tolerance


def test_gridding_correction_matters() -> None:
    box, blobs = 48, Blobs.random(5, reach=12.0)
    rotations = random_rotations(10, 6)
    kx, ky = disc(16)
    truth = blobs.slices(rotations, kx, ky, box)
    scales = []
    for correct in (True, False):
        ours = FourierReference.from_map(blobs.map(box), correct_gridding=correct).project(rotations, kx, ky)
        scales.append((ours * truth.conj()).real.sum() / (abs(truth) ** 2).sum())
    assert scales[1] < 0.98
    assert abs(scales[0] - 1) < abs(scales[1] - 1) / 2


@pytest.mark.parametrize("current_size", [12, 20, -1])
def test_nothing_beyond_the_current_size(current_size: int) -> None:
    box = 24
    reference = FourierReference.from_map(Blobs.random(8).map(box), current_size)
    kx, ky = disc(14)
    values = reference.project(random_rotations(50, 9), kx, ky)
    radius = np.hypot(kx, ky)
    r_max = 12 if current_size < 0 else current_size // 2
    assert reference.r_max == r_max
    assert not values[:, radius > r_max].any()
    assert abs(values[:, radius < r_max]).min() > 0


def test_spectrum_is_half_the_mean_power_of_each_shell() -> None:
    box = 20
    volume = np.random.default_rng(10).standard_normal((box,) * 3).astype(np.float32)
    reference = FourierReference.from_map(volume, 16, padding=1.0, correct_gridding=False)
    power = abs(np.fft.fftn(volume.astype(np.float64)) / box**2) ** 2 / 2
    k = np.fft.fftfreq(box, 1 / box)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)
    # The half transform holds the plane x == 0 whole: its shells count that plane twice as often.
    half = np.broadcast_to(k >= 0, radius.shape)
    for shell in range(9):
        chosen = half & (np.floor(radius + 0.5) == shell) & (radius <= 8)
        assert reference.spectrum[shell] == pytest.approx(power[chosen].mean(), rel=1e-4)
    assert not reference.spectrum[9:].any()


def test_threads_read_the_same_reference() -> None:
    reference = FourierReference.from_map(Blobs.random(11).map(32))
    rotations = random_rotations(64, 12)
    kx, ky = disc(16)
    alone = reference.project(rotations, kx, ky)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda r: reference.project(r, kx, ky), np.split(rotations, 8)))
    np.testing.assert_array_equal(np.concatenate(parts), alone)


def test_refuses_what_is_no_map_and_no_rotation() -> None:
    with pytest.raises(ValueError, match="cube or a square"):
        FourierReference.from_map(np.zeros((8, 8, 6), np.float32))
    reference = FourierReference.from_map(np.zeros((8, 8, 8), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        reference.project(np.full((1, 3, 3), np.nan), *disc(4))


def test_projections_of_relion_5(tmp_path: Path) -> None:
    golden = SHARED / "golden" / "numeric" / "project"
    source = SHARED / "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027/run_class001.mrc.gz"
    if not (golden.exists() and source.exists()):
        pytest.skip("RELION 5's projections are not here")
    poses = starfile.read(golden / "ang.star")["particles"]
    expected = read_gz(golden / "proj.mrcs.gz", tmp_path)
    reference = FourierReference.from_map(read_gz(source, tmp_path))
    kx, ky = disc(50, friedel_pairs=True)
    rotations = euler_to_matrix(poses.rlnAngleRot, poses.rlnAngleTilt, poses.rlnAnglePsi)
    values = reference.project(rotations, kx, ky)
    shift = np.outer(poses.rlnOriginXAngst, kx) + np.outer(poses.rlnOriginYAngst, ky)
    values = values * np.exp(2j * np.pi * shift / (100 * 3.54))
    for image, theirs in zip(values, expected, strict=True):
        ours = image_from_slice(image, kx, ky, 100)
        error = np.sqrt(((ours - theirs) ** 2).mean()) / theirs.std()
        # Pixels exactly on the rim (5-12-13 and the like) come and go with float32 rounding in RELION.
        assert error < 5e-4


@pytest.mark.skipif(not RELION, reason="RELION is not installed")
def test_projections_of_the_installed_relion(tmp_path: Path) -> None:
    box = 32
    with mrcfile.new(tmp_path / "map.mrc") as file:
        file.set_data(Blobs.random(13).map(box))
        file.voxel_size = 2.0
    angles = np.random.default_rng(14).uniform(-180, 180, (8, 3))
    (tmp_path / "ang.star").write_text(OPTICS + "".join("{:.6f} {:.6f} {:.6f} 1 1@x\n".format(*a) for a in angles))
    command = [RELION, "--i", "map.mrc", "--ang", "ang.star", "--o", "out", "--angpix", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with mrcfile.open(tmp_path / "out.mrcs", permissive=True) as file:
        expected = file.data.copy()
    reference = FourierReference.from_map(Blobs.random(13).map(box))
    kx, ky = disc(16, friedel_pairs=True)
    values = reference.project(euler_to_matrix(*np.round(angles, 6).T), kx, ky)
    ours = np.stack([image_from_slice(v, kx, ky, box) for v in values])
    np.testing.assert_allclose(ours, expected, atol=2e-4 * expected.std())


@pytest.mark.parametrize("current_size", [12, 18])
@pytest.mark.parametrize("padding", [1.0, 2.0])
def test_slabs_make_the_transform_of_the_whole_padded_map(
    monkeypatch: pytest.MonkeyPatch, current_size: int, padding: float
) -> None:
    """Forth and back, a line at a time, beside NumPy's transform of the padded cube."""
    box, padded = 20, int(20 * padding)
    volume = np.random.default_rng(2).normal(size=(box,) * 3).astype(np.float32)
    monkeypatch.setattr(projector, "SLAB_BYTES", 1)
    reference = FourierReference.from_map(volume, current_size, padding, correct_gridding=False)
    around = (padded - box) // 2
    cube = np.fft.fftn(np.fft.ifftshift(np.pad(volume, around))) / box**2
    radius = reference.r_max_padded
    k = np.arange(-radius - 1, radius + 2)
    z, y, x = np.meshgrid(k, k, k[k >= 0], indexing="ij")
    inside = z**2 + y**2 + x**2 <= radius**2
    expected = np.where(inside, cube[z % padded, y % padded, x % padded], 0)
    np.testing.assert_allclose(reference.data, expected, atol=1e-5 * np.abs(expected).max())
    kept = np.zeros((padded,) * 3, complex)
    # a half transform says of both members of a pair what one of them is
    kept[z % padded, y % padded, x % padded] = expected
    kept[-z % padded, -y % padded, -x % padded] = np.conj(expected)
    back = np.fft.fftshift(np.fft.ifftn(kept).real)[(slice(around, around + box),) * 3] * box**2
    found = to_real_space(reference.data, box, padded)
    np.testing.assert_allclose(found, back, atol=1e-5 * np.abs(back).max())


def test_transforms_of_one_array_are_not_copied() -> None:
    volumes = np.random.default_rng(2).normal(size=(2, 12, 12, 12)).astype(np.float32)
    apart = [FourierReference.from_map(volume, 8) for volume in volumes]
    whole = np.zeros((2, *apart[0].data.shape), np.complex64)
    together = [FourierReference.from_map(volume, 8, out=part) for volume, part in zip(volumes, whole, strict=True)]
    assert transforms(together) is whole
    np.testing.assert_array_equal(whole, transforms(apart))
    assert np.shares_memory(transforms(apart[:1]), apart[0].data)
    # some of them only, or in another order, are another array
    np.testing.assert_array_equal(transforms(together[::-1])[0], whole[1])
