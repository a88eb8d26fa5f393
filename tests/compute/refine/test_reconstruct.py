"""Reconstruction against a known truth, RELION 5's golden map, the installed RELION and brute force."""

import gzip
import subprocess

import mrcfile
import numpy as np
import pytest
import starfile
from blob_model import Blobs, disc, image_from_slice, random_rotations, shell_correlation, slice_of_image
from installed_relion import installed_relion
from reference_data import SHARED

from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.reconstruct import reconstruct, tau2_from_fsc, update_tau2

RELION = installed_relion("relion_reconstruct")


def noise_free_sums(box, count=600, padding=2.0, current_size=-1, seed=1, reach=8.0):
    blobs = Blobs.random(seed, reach=reach)
    rotations = random_rotations(count, seed + 1)
    kx, ky = disc(box // 2)
    images = blobs.slices(rotations, kx, ky, box)
    sums = BackProjector(box, current_size, padding)
    sums.insert(images, np.ones(images.shape), rotations, kx, ky)
    sums.symmetrise()
    return blobs, sums


@pytest.mark.parametrize(("iterations", "padding"), [(0, 2.0), (0, 1.0), (10, 2.0)])
def test_noise_free_projections_give_the_object_back(iterations, padding):
    box = 32
    blobs, sums = noise_free_sums(box, padding=padding)
    before = sums.grid.copy()
    volume = reconstruct(sums, gridding_iterations=iterations, mean_weight=float(sums.weight.mean()))
    truth = blobs.map(box)
    assert volume.shape == truth.shape
    assert volume.dtype == np.float32
    fsc = shell_correlation(volume, truth)
    # Padding 1 leaves aliases of the interpolation, 1 - FSC of about 2 %.
    assert fsc[1:12].min() > (0.995 if padding == 2.0 else 0.95)
    scale = (volume * truth).sum() / (truth * truth).sum()
    assert scale == pytest.approx(1.0, abs=0.03 if padding == 2.0 else 0.1)
    np.testing.assert_array_equal(sums.grid, before)


def test_current_size_limits_resolution():
    box = 32
    blobs, sums = noise_free_sums(box, current_size=16)
    volume = reconstruct(sums, workers=2)
    fsc = shell_correlation(volume, blobs.map(box))
    power = abs(np.fft.fftn(volume)) ** 2
    assert fsc[1:7].min() > 0.99
    assert power[0, 0, 11:16].max() < 1e-4 * power[0, 0, 1:5].max()


def test_prior_damps_what_it_should():
    """With weights W and prior tau2 a shell shrinks by W / (W + 1 / tau2) (Scheres 2012, eq. 7)."""
    box = 32
    _, sums = noise_free_sums(box, count=3000)
    plain = np.fft.fftn(reconstruct(sums))
    spectra = update_tau2(sums, np.full(17, 1.0))
    tau2 = np.maximum(spectra.sigma2, 1e-12)
    k = np.fft.fftfreq(box, 1 / box)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2)).astype(int)
    for fudge, expected in ((1.0, 1 / 2), (4.0, 4 / 5)):
        damped = np.fft.fftn(reconstruct(sums, tau2, fudge))
        for s in (4, 7, 10):
            chosen = shell == s
            ratio = (damped[chosen] * plain[chosen].conj()).real.sum() / (abs(plain[chosen]) ** 2).sum()
            assert ratio == pytest.approx(expected, abs=0.08)
    unregularised = reconstruct(sums, tau2, do_map=False)
    np.testing.assert_array_equal(unregularised, reconstruct(sums))


def brute_spectra(sums, tau2, fudge):
    """sigma2, data_vs_prior and coverage voxel by voxel from their definitions, float64."""
    n = sums.box // 2 + 1
    rows = [[] for _ in range(n)]
    depth, height, width = sums.weight.shape
    for k in range(depth):
        for i in range(height):
            for j in range(width):
                squared = (k - depth // 2) ** 2 + (i - height // 2) ** 2 + j * j
                if squared < round(sums.pad * sums.r_max) ** 2:
                    shell = int(np.floor(np.sqrt(squared) / sums.pad + 0.5))
                    rows[shell].append(float(sums.weight[k, i, j]) * sums.pad**3)
    mean = np.array([np.mean(r) if r else 0.0 for r in rows])
    sigma2 = np.divide(1.0, mean, out=np.zeros(n), where=mean > 0)
    # In a weight's own units the oversampling appears twice: in the sum and in the prior.
    ratio = [np.array(r) * fudge * t for r, t in zip(rows, tau2, strict=True)]
    ssnr = np.array([r.mean() if len(r) else 999.0 for r in ratio])
    return sigma2, ssnr, np.array([(r >= 1).mean() if len(r) else 0.0 for r in ratio])


def test_spectra_follow_their_definitions():
    rng = np.random.default_rng(3)
    sums = BackProjector(16, 12)
    kx, ky = disc(8)
    shape = (30, len(kx))
    weights = rng.uniform(0, 50, shape)
    sums.insert(weights * rng.standard_normal(shape), weights, random_rotations(30, 4), kx, ky)
    sums.symmetrise()
    tau2 = np.geomspace(1e-1, 1e-3, 9)
    sigma2, ssnr, coverage = brute_spectra(sums, tau2, 2.0)
    ours = update_tau2(sums, tau2, tau2_fudge=2.0)
    np.testing.assert_allclose(ours.sigma2, sigma2, rtol=1e-5)
    np.testing.assert_allclose(ours.data_vs_prior[:7], ssnr[:7], rtol=1e-5)
    assert not ours.data_vs_prior[7:].any()
    np.testing.assert_allclose(ours.fourier_coverage, coverage, atol=1e-6)
    np.testing.assert_array_equal(ours.tau2, tau2)

    fsc = np.array([1.0, 0.99, 0.9, 0.8, 0.5, 0.143, -0.1, 0.0, 0.0])
    for whole in (False, True):
        from_fsc = update_tau2(sums, fsc=fsc, tau2_fudge=2.0, is_whole_instead_of_half=whole)
        clipped = np.maximum(fsc, 0.001)
        used = np.minimum(np.sqrt(2 * clipped / (clipped + 1)) if whole else clipped, 0.999)
        np.testing.assert_allclose(from_fsc.data_vs_prior, 2 * used / (1 - used), rtol=1e-12)
        np.testing.assert_allclose(from_fsc.tau2, from_fsc.data_vs_prior * sigma2, rtol=1e-5)
        _, _, coverage = brute_spectra(sums, from_fsc.tau2, 2.0)
        np.testing.assert_allclose(from_fsc.fourier_coverage, coverage, atol=1e-6)

    premultiplied = update_tau2(sums, tau2, tau2_fudge=2.0, average_ctf2=np.full(9, 0.25))
    np.testing.assert_allclose(premultiplied.data_vs_prior[:7], ssnr[:7] * 0.25, rtol=1e-5)


def test_spectra_refuse_wrong_lengths_and_signs():
    sums = BackProjector(16)
    with pytest.raises(ValueError, match="9 shells are needed"):
        update_tau2(sums, np.ones(8))
    with pytest.raises(ValueError, match="must not be negative"):
        reconstruct(sums, -np.ones(9))
    with pytest.raises(ValueError, match="either a tau2 or an FSC"):
        update_tau2(sums)
    assert tau2_from_fsc(np.array([0.5]), np.array([3.0]))[0][0] == pytest.approx(3.0)


def test_empty_sums_give_an_empty_map():
    assert not reconstruct(BackProjector(16), np.zeros(9)).any()


def test_average_in_the_plane_is_the_image():
    box = 32
    kx, ky = disc(16, friedel_pairs=True)
    flat = Blobs(Blobs.random(5, reach=6.0).centres * [1, 1, 0], np.ones(12), 1.5)
    angles = np.random.default_rng(6).uniform(0, 360, 200)
    rotations = euler_to_matrix(np.zeros(200), np.zeros(200), angles)
    images = flat.slices(rotations, kx, ky, box)
    sums = BackProjector(box, ndim=2)
    sums.insert(images, np.ones(images.shape), rotations, kx, ky)
    sums.symmetrise()
    image = reconstruct(sums)
    truth = image_from_slice(flat.slices(np.eye(3)[None], kx, ky, box)[0], kx, ky, box)
    assert image.shape == (box, box)
    assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.998
    assert (image * truth).sum() / (truth * truth).sum() == pytest.approx(1.0, abs=0.05)


def test_golden_reconstruction_of_relion_5(tmp_path):
    """1,125 beta-galactosidase particles with their CTFs and D2 symmetry."""
    root = SHARED / "data/real/bgal-10204-relion5-project"
    golden = SHARED / "golden/numeric/reconstruct/rec_d2.mrc.gz"
    if not (root.exists() and golden.exists()):
        pytest.skip("RELION 5's reconstruction is not here")
    table = starfile.read(root / "derived/particles_with_tutorial_poses.star")["particles"]
    box, angpix = 64, 3.54
    stacks: dict[str, np.ndarray] = {}
    images = []
    for name in table.rlnImageName:
        number, path = name.split("@")
        if path not in stacks:
            with mrcfile.open(root / path, permissive=True) as file:
                stacks[path] = file.data.astype(np.float32)
        images.append(stacks[path][int(number) - 1])
    kx, ky = disc(box // 2, friedel_pairs=True)
    shift = np.outer(table.rlnOriginXAngst, kx) + np.outer(table.rlnOriginYAngst, ky)
    values = slice_of_image(np.stack(images), kx, ky) * np.exp(-2j * np.pi * shift / (box * angpix))
    params = CtfParams(
        table.rlnDefocusU, table.rlnDefocusV, table.rlnDefocusAngle, voltage=np.array([200.0]),
        cs=np.array([1.4]), q0=np.array([0.1]), phase_shift=table.rlnPhaseShift,
    )  # fmt: skip
    ctf = ctf_values(params, kx, ky, box, angpix)
    values[:, (kx == 0) & (ky == 0)] = 0
    sums = BackProjector(box, operators=operators("D2"))
    rotations = euler_to_matrix(table.rlnAngleRot, table.rlnAngleTilt, table.rlnAnglePsi)
    sums.insert(values * ctf, ctf * ctf, rotations, kx, ky)
    sums.symmetrise()
    volume = reconstruct(sums)

    plain = tmp_path / "golden.mrc"
    plain.write_bytes(gzip.decompress(golden.read_bytes()))
    with mrcfile.open(plain) as file:
        expected = file.data.astype(np.float64)
    fsc = shell_correlation(volume, expected)
    assert fsc[:30].min() > 0.9999  # found: 0.99999 and more up to shell 28
    assert fsc[31] > 0.99  # in RELION, pixels exactly on the rim come and go with float32 rounding
    assert np.sqrt(((volume - expected) ** 2).mean()) < 0.01 * expected.std()


@pytest.mark.skipif(not RELION, reason="RELION is not installed")
@pytest.mark.parametrize("gridding", [False, True])
def test_reconstruction_of_the_installed_relion(tmp_path, gridding):
    box, count, angpix = 32, 60, 2.0
    blobs = Blobs.random(7)
    angles = np.random.default_rng(8).uniform(-180, 180, (count, 3)).round(4)
    rotations = euler_to_matrix(*angles.T)
    kx, ky = disc(16, friedel_pairs=True)
    slices = blobs.slices(rotations, kx, ky, box)
    images = np.stack([image_from_slice(s, kx, ky, box) for s in slices]).astype(np.float32)
    with mrcfile.new(tmp_path / "stack.mrcs") as file:
        file.set_data(images)
        file.set_image_stack()
        file.voxel_size = angpix
    optics = (
        "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnImagePixelSize #6\n_rlnImageSize #7\n"
        f"_rlnImageDimensionality #8\none 1 300 2.7 0.1 {angpix} {box} 2\n\n"
        "data_particles\n\nloop_\n_rlnAngleRot #1\n_rlnAngleTilt #2\n_rlnAnglePsi #3\n_rlnOpticsGroup #4\n"
        "_rlnImageName #5\n"
    )
    rows = [f"{r} {t} {p} 1 {n + 1}@stack.mrcs\n" for n, (r, t, p) in enumerate(angles)]
    (tmp_path / "in.star").write_text(optics + "".join(rows))
    command = [RELION, "--i", "in.star", "--o", "out.mrc"]
    done = subprocess.run(
        command if gridding else [*command, "--skip_gridding"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with mrcfile.open(tmp_path / "out.mrc", permissive=True) as file:
        expected = file.data.astype(np.float64)
    sums = BackProjector(box)
    values = slice_of_image(images, kx, ky)
    values[:, (kx == 0) & (ky == 0)] = 0
    sums.insert(values, np.ones(values.shape), rotations, kx, ky)
    sums.symmetrise()
    volume = reconstruct(sums, gridding_iterations=10 if gridding else 0)
    fsc = shell_correlation(volume, expected)
    assert fsc[1:16].min() > 0.99999
    # The blob's transform is interpolated here and looked up in a table there.
    assert np.sqrt(((volume - expected) ** 2).mean()) < (3e-4 if gridding else 1e-5) * expected.std()
