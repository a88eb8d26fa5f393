"""Post-processing beside RELION 5's own run on the beta-galactosidase tutorial."""

import gzip
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from reference_data import SHARED

from relion_py.compute.errors import UserError
from relion_py.compute.image.fourier import filter_profile, radius_grid
from relion_py.compute.io import star
from relion_py.compute.post import sharpening
from relion_py.compute.post.postprocess import Settings, correlate, sharpen

GOLDEN = SHARED / "golden" / "numeric"
HALVES = SHARED / "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027"
needs_golden = pytest.mark.skipif(
    not (GOLDEN.exists() and HALVES.exists()), reason="RELION 5's post-processed map is not here"
)
ANGPIX = 3.54


def load(path: Path, directory: Path) -> np.ndarray:
    target = directory / path.name.removesuffix(".gz")
    target.write_bytes(gzip.decompress(path.read_bytes()))
    with mrcfile.open(target, permissive=True) as file:
        return file.data.astype(np.float32)


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def bgal(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    directory = tmp_path_factory.mktemp("bgal")
    halves = [load(HALVES / f"run_half{n}_class001_unfil.mrc.gz", directory) for n in (1, 2)]
    mask = load(GOLDEN / "mask/mask.mrc.gz", directory)
    return halves[0], halves[1], mask, load(GOLDEN / "postprocess/post.mrc.gz", directory)


@needs_golden
def test_curves_of_relion_5(bgal) -> None:  # type: ignore[no-untyped-def]
    half1, half2, mask, _ = bgal
    golden = star.read(GOLDEN / "postprocess/post.star")["fsc"]
    curves = correlate(half1, half2, mask, Settings(ANGPIX), silent)
    names = {
        "rlnFourierShellCorrelationUnmaskedMaps": curves.unmasked,
        "rlnFourierShellCorrelationMaskedMaps": curves.masked,
        "rlnFourierShellCorrelationParticleMaskFraction": curves.part_mask,
    }
    for label, curve in names.items():
        np.testing.assert_allclose(curve, golden.floats(label), atol=1e-5)
    # other random phases: the same within their own scatter
    true = golden.floats("rlnFourierShellCorrelationCorrected")
    assert np.sqrt(np.mean((curves.true - true) ** 2)) < 0.01
    assert curves.resolution == pytest.approx(7.08)
    assert curves.shell == 24
    assert curves.fraction == pytest.approx(8.765630, abs=1e-5)
    assert curves.warnings == ()


@needs_golden
def test_map_of_relion_5_from_its_own_curve(bgal) -> None:  # type: ignore[no-untyped-def]
    half1, half2, _, golden_map = bgal
    golden = star.read(GOLDEN / "postprocess/post.star")
    fsc = golden["fsc"].floats("rlnFourierShellCorrelationCorrected")
    settings = Settings(ANGPIX, auto_bfactor=True, fit_from=10.0)
    result = sharpen(0.5 * (half1 + half2), fsc, 7.08, settings, silent)
    general, guinier = golden["general"], golden["guinier"]
    assert result.fit is not None
    assert result.bfactor == pytest.approx(float(general.value("rlnBfactorUsedForSharpening")), abs=0.02)
    assert result.fit.intercept == pytest.approx(-10.73382, abs=1e-4)
    assert result.fit.correlation == pytest.approx(0.985923, abs=5e-5)
    for stage, label in (("in", "Original"), ("weighted", "Weighted"), ("sharpened", "Sharpened")):
        np.testing.assert_allclose(result.guinier[stage], guinier.floats(f"rlnLogAmplitudes{label}"), atol=3e-5)
    assert np.abs(result.map - golden_map).max() < 1e-4 * np.abs(golden_map).max()


@needs_golden
def test_bfactor_hardly_depends_on_the_random_phases(bgal) -> None:  # type: ignore[no-untyped-def]
    half1, half2, mask, _ = bgal
    found = []
    for seed in range(3):
        settings = Settings(ANGPIX, auto_bfactor=True, seed=seed)
        curves = correlate(half1, half2, mask, settings, silent)
        found.append(sharpen(0.5 * (half1 + half2), curves.true, 7.08, settings, silent).bfactor)
    assert len(set(found)) == 3
    assert np.abs(np.array(found) + 564.09).max() < 12.0


def blob(box: int, angpix: float, bfactor: float) -> np.ndarray:
    """A centred map whose amplitudes are exp(-B / 4 s^2) exactly."""
    s = radius_grid(box, 3) / (box * angpix)
    return np.fft.fftshift(np.fft.irfftn(np.exp(-bfactor / 4 * s**2), s=(box,) * 3, axes=(0, 1, 2))).astype(np.float64)


def test_bfactor_of_a_known_map_is_found_and_undone() -> None:
    settings = Settings(1.5, auto_bfactor=True, fit_from=20.0, fsc_weighting=False)
    result = sharpen(blob(48, 1.5, 90.0), np.ones(25), 3.0, settings, silent)
    assert result.bfactor == pytest.approx(-90.0, abs=0.5)
    assert np.ptp(result.guinier["sharpened"][:-1]) < 0.02


def test_low_pass_at_the_resolution_and_at_a_number() -> None:
    volume = np.random.default_rng(1).normal(size=(32, 32, 32)).astype(np.float32)
    for asked, expected in ((-1.0, 8.0), (6.0, 6.0)):
        settings = Settings(2.0, fsc_weighting=False, low_pass=asked)
        result = sharpen(volume, np.ones(17), 8.0, settings, silent)
        assert result.low_pass == expected
        profile = filter_profile(radius_grid(32, 3), 32, 2.0, expected)
        np.testing.assert_allclose(
            result.map, np.fft.irfftn(np.fft.rfftn(volume) * profile, s=(32,) * 3, axes=(0, 1, 2)), atol=1e-5
        )


def test_a_mask_that_makes_it_worse_is_not_used() -> None:
    rng = np.random.default_rng(3)
    box = 32
    signal = np.fft.irfftn(
        np.fft.rfftn(rng.normal(size=(box,) * 3)) * (radius_grid(box, 3) < 12), s=(box,) * 3, axes=(0, 1, 2)
    )
    half1, half2 = (signal + 0.6 * rng.normal(size=(box,) * 3) for _ in range(2))
    mask = np.zeros((box,) * 3, np.float32)
    mask[:2] = 1.0
    half1[:2], half2[:2] = rng.normal(size=(2, 2, box, box))
    curves = correlate(half1, half2, mask, Settings(1.0), silent)
    assert "unmasked" in curves.warnings[0]
    assert curves.true is curves.unmasked
    forced = correlate(half1, half2, mask, Settings(1.0, force_mask=True), silent)
    assert forced.true is not forced.unmasked


def test_no_data_to_fit() -> None:
    settings = Settings(4.0, auto_bfactor=True, fit_from=5.0)
    with pytest.raises(UserError, match="no data between 5 and 0 A"):
        sharpen(blob(32, 4.0, 50.0), np.ones(17), 8.0, settings, silent)


def test_mtf(tmp_path: Path) -> None:
    path = tmp_path / "mtf.star"
    path.write_text("data_\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n0.0 1.0\n0.25 0.6\n0.5 0.2\n")
    mtf = sharpening.read_mtf(str(path), 1.5)
    np.testing.assert_allclose(mtf.at(np.array([0.0, 0.125 / 1.5, 0.5 / 1.5, 9.0])), [1.0, 0.8, 0.2, 0.2])
    transform = np.ones((16, 16, 9), np.complex64)
    divided = sharpening.divide_by_mtf(transform, mtf, 16, 3.0)
    assert divided[0, 0, 4].real == pytest.approx(1 / mtf.at(np.array([4 / 48.0]))[0])
    assert divided[0, 0, 8] == 1.0
    for text, sentence in (("0.5 0.0", "zero or negative"), ("0.1 0.3", "does not go up")):
        path.write_text(path.read_text().rsplit("\n", 2)[0] + f"\n{text}\n")
        with pytest.raises(UserError, match=sentence):
            sharpening.read_mtf(str(path), 1.5)


def test_fsc_weights_end_where_the_curve_first_touches_zero() -> None:
    weights = sharpening.fsc_weights(np.array([1.0, 0.5, 0.00005, 0.5]))
    np.testing.assert_allclose(weights, [1.0, np.sqrt(1.0 / 1.5), 0.0, 0.0])
