"""Maps made by other programs: what they are given, what they may leave, and what is said when they fail."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from map_programs import BLUSH, path_with, programs_in
from refine_runs import ABORT_NOW, ABORTED, copy_of, refine, refined, start, usual_without

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import star
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.external import ExternalProgram
from relion_py.compute.refine.images import DiscPixels
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reconstruct import ShellSpectra, reconstruct, tau2_from_fsc, update_tau2

BOX, SIZE, PIXEL = 24, 20, 3.0
FSC = np.r_[1.0, 1.0, np.linspace(0.98, 0.1, 9), 0.0, 0.0]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """programs(name, text) puts an executable file on the PATH, in front of all else."""
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    return programs_in(tmp_path / "bin")


def program(check: Callable[[], None] = lambda: None, **options: bool) -> ExternalProgram:
    found = ExternalProgram.of(RefineOptions(**options), PIXEL, 60.0, check)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.fixture(scope="module")
def sums() -> BackProjector:
    """Of noisy projections of a few blobs."""
    rng = np.random.default_rng(3)
    pixels = DiscPixels.of_size(SIZE)
    from scipy.spatial.transform import Rotation

    rotations = Rotation.random(500, random_state=np.random.RandomState(4)).as_matrix()
    images = np.zeros((500, pixels.size), complex)
    for place in rng.uniform(-5, 5, (6, 3)):
        seen = rotations @ place
        images += np.exp(-2j * np.pi * (np.outer(seen[:, 0], pixels.kx) + np.outer(seen[:, 1], pixels.ky)) / BOX)
    images *= np.exp(-(pixels.shell**2) / 60.0) / BOX**2
    images += rng.normal(size=(2, *images.shape))[0] * 0.1 / BOX**2
    made = BackProjector(BOX, SIZE, 2.0, operators("C1"))
    made.insert(images.astype(np.complex64), np.full(images.shape, 40.0, np.float32), rotations, pixels.kx, pixels.ky)
    made.symmetrise()
    return made


def alike(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Correlation, and the factor that makes one the other."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1]), float(np.vdot(one, other) / np.vdot(one, one))


def test_relions_program_makes_the_map_that_is_made_here(
    sums: BackProjector, tmp_path: Path, debian_relion: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE", debian_relion("relion_external_reconstruct"))
    spectra, stem = update_tau2(sums, fsc=FSC), str(tmp_path / "run_it001_half1_class001")
    kept, volume, fsc = program(external_reconstruct=True).reconstruct(sums, spectra, FSC, 1.0, stem, False)
    wanted = reconstruct(sums, spectra.tau2, first_prior_shell=0, gridding_iterations=10)
    correlation, factor = alike(volume, wanted)
    assert correlation > 0.9999 and factor == pytest.approx(1.0, abs=2e-3)
    assert kept is spectra and fsc is FSC
    assert sorted(p.name.removeprefix("run_it001_half1_class001_external_reconstruct") for p in tmp_path.iterdir()) == [
        ".mrc", ".out", ".star",
    ]  # fmt: skip


def test_blush_is_given_what_it_reads(
    sums: BackProjector, tmp_path: Path, programs: Callable[[str, str], None]
) -> None:
    programs("relion_python_blush", BLUSH)
    spectra = update_tau2(sums, fsc=FSC)
    spectra = replace(spectra, tau2=spectra.tau2 * 1e6)  # between shells Blush interpolates the prior
    _, volume, _ = program(blush=True).reconstruct(sums, spectra, FSC, 1.0, str(tmp_path / "run"), False)
    wanted = reconstruct(sums, spectra.tau2, first_prior_shell=0)
    middle = soft_mask(BOX, BOX / 2 - 3, 0) > 0  # corners are masked here, and Blush leaves out the last shell
    correlation, factor = alike(volume[middle], wanted[middle])
    assert correlation > 0.999 and factor == pytest.approx(1.0, abs=0.015)
    task = star.read(tmp_path / "run_external_reconstruct.star")["external_reconstruct_general"]
    assert task.strings("rlnCurrentImageSize") == [str(SIZE)]


def test_arguments_of_blush_are_those_of_relion(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs("relion_python_blush", "#!/bin/sh\n")
    monkeypatch.setenv("RELION_BLUSH_ARGS", "--batch_size 2 -m 'other name'")
    found = program(blush=True, blush_skip_spectral_trailing=True, gpu="0:1")
    assert found.before == ("relion_python_blush",)
    assert found.after == ("--batch_size", "2", "-m", "other name", "--skip-spectral-trailing", "--gpu", "0,1")
    monkeypatch.delenv("RELION_BLUSH_ARGS")
    assert program(blush=True).after == ("--gpu", "-1")


@pytest.mark.parametrize("label", ["rlnReferenceTau2", "rlnFourierShellCorrelation"])
def test_a_new_prior_or_fsc_is_taken(
    sums: BackProjector, tmp_path: Path, programs: Callable[[str, str], None], label: str
) -> None:
    """For the shells that it is given for."""
    more = f"""
with open(general["rlnExtReconsResultStarfile"], "w") as file:
    file.write("data_\\n\\nloop_\\n_rlnSpectralIndex #1\\n_{label} #2\\n3 0.5\\n4 0.25\\n99 1\\n")
"""
    programs("relion_external_reconstruct", BLUSH + more)
    before = update_tau2(sums, fsc=FSC)
    after, _, fsc = program(external_reconstruct=True).reconstruct(sums, before, FSC, 2.0, str(tmp_path / "r"), True)
    here = np.array([3, 4])
    new = np.array([0.5, 0.25])
    if label == "rlnReferenceTau2":
        wanted = ShellSpectra(new, before.sigma2, new / before.sigma2[here], before.fourier_coverage)
        assert np.array_equal(fsc, FSC)
    else:
        tau2, ssnr = tau2_from_fsc(new, before.sigma2[here], 2.0, True)
        wanted = ShellSpectra(tau2, before.sigma2, ssnr, before.fourier_coverage)
        np.testing.assert_allclose(fsc[here], new)
    np.testing.assert_allclose(after.tau2[here], wanted.tau2)
    np.testing.assert_allclose(after.data_vs_prior[here], wanted.data_vs_prior)
    others = np.setdiff1d(np.arange(len(FSC)), here)
    np.testing.assert_array_equal(after.tau2[others], before.tau2[others])
    np.testing.assert_array_equal(fsc[others], FSC[others])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho no CUDA; exit 3\n", r"ended with status 3 \(no CUDA\); all that it said is in .*\.out"),
        ("#!/bin/sh\nexit 0\n", "ended with status 0"),  # without the word that says that all is well
        ("#!/bin/sh\necho success\n", r"made no .*_external_reconstruct\.mrc"),
        (BLUSH.replace("volume.astype", "volume[1:].astype"), "is no map of 24 voxels a side"),
        (BLUSH.replace("volume.astype", "(volume * np.nan).astype"), "is no map of 24 voxels a side"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    sums: BackProjector, tmp_path: Path, programs: Callable[[str, str], None], text: str, words: str
) -> None:
    programs("relion_python_blush", text)
    (tmp_path / "run_external_reconstruct.mrc").write_bytes(b"of an earlier run")
    with pytest.raises(UserError, match=words):
        program(blush=True).reconstruct(sums, update_tau2(sums, fsc=FSC), FSC, 1.0, str(tmp_path / "run"), False)


def test_a_missing_program_is_told_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="relion_python_blush of RELION 5, which is not on the PATH"):
        program(blush=True)
    with pytest.raises(UserError, match="relion_external_reconstruct, which is not on the PATH"):
        program(external_reconstruct=True)
    monkeypatch.setenv("RELION_EXTERNAL_RECONSTRUCT_EXECUTABLE", "mine --fast")
    with pytest.raises(UserError, match="needs the program mine,"):
        program(external_reconstruct=True)


def test_it_is_ended_when_the_job_is(sums: BackProjector, tmp_path: Path, programs: Callable[[str, str], None]) -> None:
    programs("relion_python_blush", f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")

    def check() -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        program(check, blush=True).reconstruct(sums, update_tau2(sums, fsc=FSC), FSC, 1.0, str(tmp_path / "run"), False)
    assert time.monotonic() - began < 30
    pid = int((tmp_path / "pid").read_text())
    assert subprocess.run(["kill", "-0", str(pid)], stderr=subprocess.DEVNULL).returncode != 0


def test_runs_with_blush(d2_project: Path, tmp_path: Path, programs: Callable[[str, str], None]) -> None:
    """Of the halves of an auto-refinement, and continued."""
    programs("relion_python_blush", BLUSH.replace('general["rlnParticleDiameter"] == 60', "True"))
    place = copy_of(d2_project, tmp_path / "project")
    run = refined(place, "Auto", "--blush", "--iter", "1")
    for name in ("it001_half1", "it001_half2"):
        assert run.has(f"run_{name}_class001_external_reconstruct.mrc")
    made = mrcfile.read(run.out / "run_it001_half1_class001_external_reconstruct.mrc")
    kept = mrcfile.read(run.out / "run_it001_half1_class001.mrc")
    assert np.corrcoef(made.ravel(), kept.ravel())[0, 1] > 0.9  # masked, and filtered again
    optimiser = star.read(run.out / "run_it001_optimiser.star")["optimiser_general"]
    assert optimiser.strings("rlnDoBlush") == ["1"]
    again = refine(place, "Auto", "--continue", "Auto/run_it001_optimiser.star", "--iter", "2", usual=[])
    assert again.status == 0, again.stderr
    assert again.has("run_ct1_it002_half2_class001_external_reconstruct.mrc")


def test_a_run_with_blush_can_be_stopped(
    d2_project: Path, tmp_path: Path, programs: Callable[[str, str], None]
) -> None:
    programs("relion_python_blush", "#!/bin/sh\nexec sleep 300\n")
    place = copy_of(d2_project, tmp_path / "project")
    usual = usual_without(
        "--auto_refine", "--split_random_halves", "--low_resol_join_halves", "--auto_local_healpix_order"
    )
    run = start(place, "Class3D", "--blush", "--iter", "2", "--K", "1", usual=usual)
    run.until(lambda: run.has("run_it001_class001_external_reconstruct.star"))
    (run.out / ABORT_NOW).touch()
    assert run.wait(60) < 30
    assert run.exit_files() == [ABORTED]
