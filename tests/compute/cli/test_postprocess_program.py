"""relion_postprocess as a program: beside Debian's RELION, its files, and its sentences."""

import ctypes
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from in_process import outcome
from witness_maps import voxels

from relion_py.compute.cli.postprocess import _main
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map

BOX, ANGPIX = 48, 2.0


program = partial(outcome, _main)


class ReferencesPhases:
    """The numbers that RELION's rnd_unif (funcs.cpp) draws: those of the C library's rand."""

    def __init__(self, seed: int) -> None:
        self._libc = ctypes.CDLL("libc.so.6")
        self._libc.srand(seed)

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        drawn = np.fromiter((self._libc.rand() for _ in range(count)), np.float64, count)
        return low + (high - low) * drawn / 2147483647.0


@pytest.fixture
def references_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same random phases, what is left is the difference of the computations."""
    monkeypatch.setattr(np.random, "default_rng", ReferencesPhases)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two noisy halves of a blurred random map within a sphere, a mask and an MTF."""
    rng = np.random.default_rng(5)
    truth = lowpass(rng.normal(size=(BOX,) * 3), ANGPIX, 7.0) * soft_mask(BOX, 12, 4)
    for half in (1, 2):
        noisy = truth + 0.03 * rng.normal(size=truth.shape)
        write_map(tmp_path / f"run_half{half}_class001_unfil.mrc", noisy.astype(np.float32), ANGPIX)
    write_map(tmp_path / "mask.mrc", soft_mask(BOX, 14, 6), ANGPIX)
    values = "".join(f"{x:.4f} {np.cos(x * 2):.5f}\n" for x in np.arange(0, 0.5001, 0.005))
    (tmp_path / "mtf.star").write_text(f"data_\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n{values}\n")
    return tmp_path


@pytest.mark.parametrize(
    "flags",
    [
        "--adhoc_bfac -60",
        "--adhoc_bfac -60 --mtf mtf.star --mtf_angpix 1.4 --skip_fsc_weighting --low_pass 8",
        "--auto_bfac --autob_lowres 20 --autob_highres 7 --skip_fsc_weighting --low_pass 6",
        "--adhoc_bfac -60 --ampl_corr --autob_lowres 16",
    ],
)
def test_as_debians_relion(
    project: Path, debian_relion: Callable[[str], str], references_phases: None, flags: str
) -> None:
    words = ["--i", "run_half1_class001_unfil.mrc", "--mask", "mask.mrc", "--angpix", "2"]
    words += ["--randomize_at_A", "9", *flags.split()]
    code, _, err = program(project, *words, "--o", "ours/postprocess")
    assert code == 0, err
    (project / "theirs").mkdir()
    subprocess.run(
        [debian_relion("relion_postprocess"), *words, "--o", "theirs/postprocess"],
        cwd=project, check=True, capture_output=True,
    )  # fmt: skip
    ours, theirs = (star.read(project / name / "postprocess.star") for name in ("ours", "theirs"))
    assert ours["general"].floats("rlnFinalResolution") == theirs["general"].floats("rlnFinalResolution")
    bfactors = [part["general"].floats("rlnBfactorUsedForSharpening")[0] for part in (ours, theirs)]
    assert bfactors[0] == pytest.approx(bfactors[1], rel=1e-4)
    ours_map, theirs_map = (voxels(project / name / "postprocess.mrc") for name in ("ours", "theirs"))
    assert np.sqrt(np.mean((ours_map - theirs_map) ** 2)) < 1e-5 * theirs_map.std()
    same_tables(ours, theirs)


def same_tables(ours: star.StarFile, theirs: star.StarFile) -> None:
    """The curves of a postprocess.star, shell by shell; -99 stands for the logarithm of nothing."""
    for name, tolerance in (("fsc", 1e-5), ("guinier", 1e-4)):
        assert set(theirs[name].labels) <= set(ours[name].labels)
        for label in theirs[name].labels:
            pair = ours[name].floats(label), theirs[name].floats(label)
            near = (pair[0] > -90) | (pair[1] > -90)
            np.testing.assert_allclose(pair[0][near], pair[1][near], atol=tolerance, rtol=1e-5, err_msg=label)


def test_an_odd_box_as_debians_relion(
    tmp_path: Path, debian_relion: Callable[[str], str], references_phases: None
) -> None:
    rng = np.random.RandomState(6)
    truth = lowpass(rng.normal(size=(33, 33, 33)), ANGPIX, 7.0) * soft_mask(33, 9, 3)
    for half in (1, 2):
        write_map(
            tmp_path / f"half{half}.mrc", (truth + 0.03 * rng.normal(size=truth.shape)).astype(np.float32), ANGPIX
        )
    write_map(tmp_path / "mask.mrc", soft_mask(33, 11, 4), ANGPIX)
    words = ["--i", "half1.mrc", "--mask", "mask.mrc", "--angpix", "2", "--adhoc_bfac", "-60", "--randomize_at_A", "9"]
    code, _, err = program(tmp_path, *words, "--o", "ours/post")
    assert code == 0, err
    (tmp_path / "theirs").mkdir()
    command = [debian_relion("relion_postprocess"), *words, "--o", "theirs/post"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    mine, yours = (star.read(tmp_path / name / "post.star") for name in ("ours", "theirs"))
    same_tables(mine, yours)
    for label in ("rlnFinalResolution", "rlnRandomiseFrom"):
        if label in yours["general"]:
            assert mine["general"].floats(label) == pytest.approx(yours["general"].floats(label), abs=1e-5), label
    assert mine["fsc"].floats("rlnAngstromResolution")[1] == 33 * ANGPIX
    shown = np.loadtxt(tmp_path / "ours/post_fsc.dat")
    np.testing.assert_allclose(shown[:, 0], yours["fsc"].floats("rlnResolution"), atol=1e-6)
    ours, theirs = (voxels(tmp_path / name / "post.mrc") for name in ("ours", "theirs"))
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_files_and_lines(project: Path) -> None:
    code, out, err = program(
        project, "--i", "run_half1_class001_unfil.mrc", "--mask", "mask.mrc", "--o", "PostProcess/job007/postprocess",
        "--auto_bfac", "--autob_lowres", "20", "--half_maps", "--molweight", "30", "--interpolate",
        "--pipeline_control", "PostProcess/job007/",
    )  # fmt: skip
    assert code == 0, err
    assert "pixel size in the map's header, 2 A" in err
    assert "  + half2-map:                     run_half2_class001_unfil.mrc" in out
    assert "  + FINAL RESOLUTION:              " in out
    job = project / "PostProcess/job007"
    assert {path.name for path in job.iterdir()} == {
        "RELION_JOB_EXIT_SUCCESS", "logfile.pdf", "postprocess.mrc", "postprocess.star", "postprocess_fsc.dat",
        "postprocess_fsc.xml", "postprocess_half1.mrc", "postprocess_half1_masked.mrc", "postprocess_half2.mrc",
        "postprocess_half2_masked.mrc", "postprocess_masked.mrc",
    }  # fmt: skip
    assert (job / "logfile.pdf").read_bytes().startswith(b"%PDF")
    mean = 0.5 * (voxels(job / "postprocess_half1.mrc") + voxels(job / "postprocess_half2.mrc"))
    np.testing.assert_allclose(mean, voxels(job / "postprocess.mrc"), atol=1e-4 * np.abs(mean).max())
    masked = voxels(job / "postprocess.mrc") * voxels(project / "mask.mrc")
    np.testing.assert_allclose(voxels(job / "postprocess_masked.mrc"), masked, atol=1e-5)
    tables = star.read(job / "postprocess.star")
    y = [float(e.text or "") for e in ElementTree.parse(job / "postprocess_fsc.xml").iter("y")]
    expected = tables["fsc"].floats("rlnFourierShellCorrelationCorrected")
    np.testing.assert_allclose(y, expected, atol=2e-6)
    np.testing.assert_allclose(np.loadtxt(job / "postprocess_fsc.dat")[:, 1], expected, atol=2e-6)
    fraction = 0.476 * (BOX * ANGPIX) ** 3 * 0.81 / 30000
    assert tables["general"].floats("rlnParticleBoxFractionMolecularWeight")[0] == pytest.approx(fraction)


@pytest.fixture
def half_blurred(tmp_path: Path) -> Path:
    """Half maps of which one half, z < 24, is known to 5 A, the other to 24 A only."""
    rng = np.random.default_rng(7)
    truth = rng.normal(size=(BOX,) * 3)
    fine = np.arange(BOX)[:, None, None] < BOX // 2
    truth = np.where(fine, lowpass(truth, ANGPIX, 5.0), 0.5 * lowpass(truth, ANGPIX, 24.0))
    for half in (1, 2):
        noisy = truth + 0.08 * rng.normal(size=truth.shape)
        write_map(tmp_path / f"half{half}.mrc", noisy.astype(np.float32), ANGPIX)
    write_map(tmp_path / "mask.mrc", soft_mask(BOX, 20, 3), ANGPIX)
    return tmp_path


LOCAL = ["--locres", "--i", "half1.mrc", "--angpix", "2", "--adhoc_bfac", "-20", "--locres_sampling", "12"]


def test_local_resolution_tells_sharp_from_blurred(half_blurred: Path) -> None:
    tmp_path = half_blurred
    words = [*LOCAL, "--mask", "mask.mrc", "--o", "LocalRes/job008/relion"]
    code, out, err = program(tmp_path, *words)
    assert code == 0, err
    job = tmp_path / "LocalRes/job008"
    resolution = voxels(job / "relion_locres.mrc")
    assert resolution[12, 24, 24] < 7.0
    assert resolution[36, 24, 24] > 9.0
    filtered = voxels(job / "relion_locres_filtered.mrc")
    spectrum = [np.abs(np.fft.rfftn(filtered[z : z + 12, 18:30, 18:30]))[4:, 4:].mean() for z in (8, 30)]
    assert spectrum[0] > 3 * spectrum[1]
    tables = star.read(job / "relion_locres_fscs.star")
    assert len(tables) > 100
    assert (job / "histogram.pdf").read_bytes().startswith(b"%PDF")
    assert "Calculating local resolution in" in out


@pytest.mark.parametrize("box", [32, 33])
def test_local_resolution_as_debians_relion(
    tmp_path: Path, debian_relion: Callable[[str], str], references_phases: None, box: int
) -> None:
    """With the same random phases; others change an estimate more than the two programs differ."""
    rng = np.random.RandomState(7)
    noise = rng.normal(size=(box,) * 3)
    fine = np.arange(box)[:, None, None] < box // 2
    truth = np.where(fine, lowpass(noise, ANGPIX, 5.0), 0.5 * lowpass(noise, ANGPIX, 24.0))
    for half in (1, 2):
        noisy = truth + 0.08 * rng.normal(size=truth.shape)
        write_map(tmp_path / f"half{half}.mrc", noisy.astype(np.float32), ANGPIX)
    words = [*LOCAL, "--locres_maskrad", "14", "--locres_edgwidth", "6", "--locres_randomize_at", "20"]
    words += ["--random_seed", "4", "--locres_minres", "40"]
    code, _, err = program(tmp_path, *words, "--o", "ours/relion")
    assert code == 0, err
    (tmp_path / "theirs").mkdir()
    command = [debian_relion("relion_postprocess"), *words, "--o", "theirs/relion"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    ours, theirs = (voxels(tmp_path / name / "relion_locres.mrc") for name in ("ours", "theirs"))
    assert theirs.max() > 1.5 * theirs[theirs > 0].min()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    ours, theirs = (voxels(tmp_path / name / "relion_locres_filtered.mrc") for name in ("ours", "theirs"))
    np.testing.assert_allclose(2 * ours, theirs, atol=1e-5 * np.abs(theirs).max())  # 3.1 filters the sum of the halves
    mine = star.read(tmp_path / "ours/relion_locres_fscs.star")
    lines = (tmp_path / "theirs/relion_locres_fscs.star").read_text().splitlines()
    yours = star.parse("\n".join(line for line in lines if not line.startswith(" kk=")))
    assert set(mine) == set(yours)
    for name, table in yours.items():
        assert mine[name].labels == table.labels
        for label in table.labels:
            np.testing.assert_allclose(mine[name].floats(label), table.floats(label), atol=2e-5, err_msg=label)


def test_ranks_share_the_points(half_blurred: Path) -> None:
    """Two ranks find what one finds."""
    launcher, entry = Path(sys.executable).with_name("mpirun"), "relion_py.compute.cli.postprocess"
    if not launcher.exists():
        pytest.skip("mpirun is not installed beside this Python")
    assert program(half_blurred, *LOCAL, "--o", "one/relion")[0] == 0
    command = [str(launcher), "-n", "2", sys.executable, "-m", entry, *LOCAL, "--o", "two/relion"]
    subprocess.run(command, cwd=half_blurred, check=True, capture_output=True)
    for name in ("relion_locres.mrc", "relion_locres_filtered.mrc"):
        one, two = voxels(half_blurred / "one" / name), voxels(half_blurred / "two" / name)
        np.testing.assert_allclose(two, one, atol=1e-4 * np.abs(one).max())
    tables = [len(star.read(half_blurred / name / "relion_locres_fscs.star")) for name in ("one", "two")]
    assert tables[0] == tables[1] > 100


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--i run_half1_class001_unfil.mrc --auto_bfac --adhoc_bfac -50",
            "either --auto_bfac or --adhoc_bfac",
        ),
        ("--i run_half1_class001_unfil.mrc --locres --auto_bfac", "--locres needs a B-factor"),
        ("--i run_half1_class001_unfil.mrc --auto_mask", "relion_mask_create"),
        ("--i run_half1_class001_unfil.mrc --ampl_corr --locres", "leave it out with --locres"),
        ("--i mask.mrc", "neither half1 nor half2"),
        ("--i nothing_half1.mrc", "no such file"),
        ("--i run_half1_class001_unfil.mrc --i2 run_half1_class001_unfil.mrc --mask mask.mrc", "independent"),
        ("--i run_half1_class001_unfil.mrc --mask bad_mask.mrc", "between 0 and 1"),
        ("--i run_half1_class001_unfil.mrc --mask small_mask.mrc", "mask of the map's box"),
        ("--i run_half1_class001_unfil.mrc --mask no_mask.mrc", "0 everywhere"),
        ("--i run_half1_class001_unfil.mrc --i2 nan.mrc", "not numbers"),
        ("--i run_half1_class001_unfil.mrc --i2 cut.mrc", "cut.mrc"),
        ("--i run_half1_class001_unfil.mrc --mtf mask.mrc", "STAR"),
    ],
)
def test_mistakes(project: Path, words: str, sentence: str) -> None:
    half = voxels(project / "run_half1_class001_unfil.mrc").astype(np.float32)
    write_map(project / "bad_mask.mrc", half * 3, ANGPIX)
    write_map(project / "no_mask.mrc", 0 * half, ANGPIX)
    write_map(project / "small_mask.mrc", soft_mask(24, 10, 2), ANGPIX)
    half[3, 4, 5] = np.nan
    write_map(project / "nan.mrc", half, ANGPIX)
    (project / "cut.mrc").write_bytes((project / "mask.mrc").read_bytes()[:9000])
    code, _, err = program(project, *words.split(), "--o", "out", "--pipeline_control", "./")
    assert code == 1
    assert sentence in err and "Traceback" not in err
    assert (project / "RELION_JOB_EXIT_FAILURE").exists()
    assert not (project / "out.mrc").exists()
