"""relion_ctf_refine: known truth recovered, Debian's program beside it, continuing, bad inputs, ranks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refined_project import Truth, in_order, make_project, mean_defocus, refine, vector

from relion_py.compute.cli import ctf_refine
from relion_py.compute.cli.options.ctf_refine import FLAGS, REFUSED
from relion_py.compute.cli.program import Job
from relion_py.compute.ctf_refine.particles import Optics, read_views
from relion_py.compute.errors import UserError
from relion_py.compute.io import mrc, star
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.refine.half_maps import ReferenceFiles, read_references

MPIRUN = Path(sys.executable).parent / "mpirun"
PROGRAM = Path(sys.executable).parent / "relion_ctf_refine_mpi"
FAULTS = {
    "rlnBeamTiltX": "0.60",
    "rlnBeamTiltY": "-0.35",
    "rlnOddZernike": "[0,0,9.0,0,0,-12.0]",
    "rlnEvenZernike": "[0,0,0,0,40.0,0,0,0,-30.0]",
}
MATRIX = np.array([[1.010, 0.012], [-0.004, 0.993]])
MAGNIFICATION = dict(
    zip(("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"), map(str, MATRIX.ravel()), strict=True)
)
DEFOCUS = "--fit_defocus --fit_mode fpfff"
ALL = f"{DEFOCUS} --fit_beamtilt --odd_aberr_max_n 3 --fit_aberr"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """Particles with tilt, trefoil and tetrafoil that nobody was told of, and defoci that are 120 A off."""
    root = tmp_path_factory.mktemp("faulty")
    return root, make_project(root, FAULTS, errors=120.0)


@pytest.fixture(scope="module")
def distorted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """Particles with a magnification that nobody was told of."""
    root = tmp_path_factory.mktemp("distorted")
    return root, make_project(root, MAGNIFICATION, snr=3.0)


def copied(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that a test may change, as the working directory."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    monkeypatch.chdir(target)
    return target


def matrix(file: star.StarFile) -> np.ndarray:
    return np.array([float(file["optics"].value(label)) for label in MAGNIFICATION]).reshape(2, 2)


def debian(program: str, options: str, out: str, start: str = "start.star") -> star.StarFile:
    command = f"{program} --i {start} --f postprocess.star --o {out} {options}"
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return in_order(star.read(f"{out}particles_ctf_refine.star"), star.read(start))


def test_everything_that_was_wrong_is_found(faulty, tmp_path, monkeypatch):
    project, truth = faulty
    copied(project, tmp_path, monkeypatch)
    start = star.read("start.star")
    found = refine(ALL)
    before = np.abs(mean_defocus(start) - truth.defocus).mean()
    after = np.abs(mean_defocus(found) - truth.defocus).mean()
    assert before > 80.0 and after < 25.0
    optics = found["optics"]
    assert float(optics.value("rlnBeamTiltX")) == pytest.approx(0.60, abs=0.05)
    assert float(optics.value("rlnBeamTiltY")) == pytest.approx(-0.35, abs=0.05)
    odd, even = vector(found, "rlnOddZernike"), vector(found, "rlnEvenZernike")
    np.testing.assert_allclose(odd[[2, 3, 4, 5]], [9.0, 0.0, 0.0, -12.0], atol=1.2)
    np.testing.assert_allclose(even[[4, 8]], [40.0, -30.0], atol=3.0)
    # all else is kept, in RELION's form
    assert found["particles"].labels == start["particles"].labels
    assert found["particles"].strings("rlnImageName") == start["particles"].strings("rlnImageName")
    assert found["particles"].strings("rlnAngleRot") == start["particles"].strings("rlnAngleRot")
    log = Path("Refined/logfile.pdf").read_bytes()
    assert log.startswith(b"%PDF") and log.count(b"/Type /Page\n") + log.count(b"/Type /Page ") >= 4
    assert Path("Refined/beamtilt_delta-phase_iter-fit_optics-group_1_N-3.mrc").exists()
    seen, _ = mrc.read_image("Refined/beamtilt_delta-phase_per-pixel_optics-group_1.mrc")
    np.testing.assert_allclose(seen[33:, 33:], -seen[31:0:-1, 31:0:-1])


def test_magnification_is_found_in_two_steps(distorted, tmp_path, monkeypatch):
    project, _ = distorted
    copied(project, tmp_path, monkeypatch)
    first = matrix(refine("--fit_aniso --keep_astig"))
    second = matrix(refine("--fit_aniso --keep_astig", start="Refined/particles_ctf_refine.star", out="Again/"))
    error = np.abs(MATRIX - np.eye(2)).max()
    assert np.abs(first - MATRIX).max() < 0.4 * error
    assert np.abs(second - MATRIX).max() < 0.15 * error


def likeness(told: np.ndarray) -> float:
    """Correlation of images and their predictions, beyond 7 A, if the magnification were this matrix."""
    file = star.read("start.star")
    for label, value in zip(MAGNIFICATION, told.ravel(), strict=True):
        file["optics"].set(label, str(value))
    table = ParticleTable(file)
    references = read_references(ReferenceFiles("half1.mrc", "half2.mrc", "", "postprocess.star"), lambda text: None)
    group = Optics.of_group(table.optics_groups[0], 1, references)
    views = read_views(table, np.arange(50), group, references)
    model = (group.ctf(ctf_params(table)[:50]) * views.predicted)[:, group.frequency > 1 / 7]
    seen = views.observed[:, group.frequency > 1 / 7]
    return float((seen.conj() * model).real.sum() / (np.linalg.norm(seen) * np.linalg.norm(model)))


def test_only_the_true_matrix_predicts_the_images(distorted, monkeypatch):
    """What refinement multiplies Euler matrices with, and the CTF its frequencies, against simulated images."""
    monkeypatch.chdir(distorted[0])
    others = [np.eye(2), MATRIX.T, np.linalg.inv(MATRIX), np.linalg.inv(MATRIX).T]
    true = likeness(MATRIX)
    assert true > max(map(likeness, others)) + 0.002


def test_beside_debian_on_defocus_and_aberrations(faulty, tmp_path, monkeypatch, debian_relion):
    """RELION 3.1.3 on the same input: the same minimum, but for what its own optimiser leaves."""
    project, _ = faulty
    copied(project, tmp_path, monkeypatch)
    options = f"{DEFOCUS} --fit_beamtilt --odd_aberr_max_n 3"
    ours, theirs = refine(options), debian(debian_relion("relion_ctf_refine"), options, "Debian/")
    apart = np.abs(mean_defocus(ours) - mean_defocus(theirs))
    assert np.median(apart) < 0.5 and apart.mean() < 3.0
    for label in ("rlnBeamTiltX", "rlnBeamTiltY"):
        assert float(ours["optics"].value(label)) == pytest.approx(float(theirs["optics"].value(label)), abs=0.005)
    mine, other = vector(ours, "rlnOddZernike"), vector(theirs, "rlnOddZernike")
    np.testing.assert_allclose(mine[[2, 5]], other[[2, 5]], atol=0.15)
    np.testing.assert_allclose(mine[:2], other[:2], atol=0.05)


def test_beside_debian_on_magnification(distorted, tmp_path, monkeypatch, debian_relion):
    project, _ = distorted
    copied(project, tmp_path, monkeypatch)
    ours, theirs = refine("--fit_aniso"), debian(debian_relion("relion_ctf_refine"), "--fit_aniso", "Debian/")
    np.testing.assert_allclose(matrix(ours), matrix(theirs), atol=4e-4)
    apart = [
        file["particles"].floats("rlnDefocusU") + file["particles"].floats("rlnDefocusV") for file in (ours, theirs)
    ]
    assert np.abs(apart[0] - apart[1]).max() < 30.0
    before = star.read("start.star")["particles"]
    assert np.abs(apart[0] - before.floats("rlnDefocusU") - before.floats("rlnDefocusV")).max() > 10.0


def test_debian_continues_our_files(faulty, tmp_path, monkeypatch, debian_relion):
    """Sums of micrographs are the reference's files: its program makes its own fit of them, without images."""
    project, _ = faulty
    copied(project, tmp_path, monkeypatch)
    ours = refine("--fit_beamtilt")
    shutil.rmtree("Particles")
    theirs = debian(debian_relion("relion_ctf_refine"), "--fit_beamtilt --only_do_unfinished", "Refined/")
    for label in ("rlnBeamTiltX", "rlnBeamTiltY"):
        assert float(ours["optics"].value(label)) == pytest.approx(float(theirs["optics"].value(label)), abs=0.005)


def test_only_what_is_unfinished_is_done(faulty, tmp_path, monkeypatch):
    project, _ = faulty
    copied(project, tmp_path, monkeypatch)
    whole = refine(ALL)
    files = sorted(Path("Refined/Micrographs").iterdir())
    assert len(files) == 3 * (1 + 3 + 5)
    assert all(re.search(r"_(fit.star|optics-group_1(_\w+)?.mrc)$", file.name) for file in files)
    before = {file: os.stat(file).st_mtime_ns for file in files}
    Path("Refined/Micrographs/mic0002_aberr-bx_optics-group_1.mrc").unlink()
    again = refine(ALL, "--only_do_unfinished")
    assert again == whole
    changed = {file.name[:7] for file in files if os.stat(file).st_mtime_ns != before[file]}
    assert changed == {"mic0002"}


def test_a_part_of_the_micrographs(faulty, tmp_path, monkeypatch):
    project, _ = faulty
    copied(project, tmp_path, monkeypatch)
    ctf_refine._main(
        f"--i start.star --f postprocess.star --o Part/ --verb 0 --min_MG 1 --max_MG 1 {DEFOCUS}".split(), Job()
    )
    part = star.read("Part/particles_ctf_refine.star")["particles"]
    assert set(part.strings("rlnMicrographName")) == {"Micrographs/mic0002.mrc"}


def test_micrographs_without_images_keep_their_ctfs(faulty, tmp_path, monkeypatch, capsys):
    project, _ = faulty
    copied(project, tmp_path, monkeypatch)
    Path("Particles/mic0002.mrcs").unlink()
    start, found = star.read("start.star"), refine(DEFOCUS)
    second = np.array([name.endswith("mic0002.mrc") for name in start["particles"].strings("rlnMicrographName")])
    same = mean_defocus(found) == mean_defocus(start)
    assert same[second].all() and not same[~second].any()
    failed = star.read("Refined/failed_micrographs.star")["failed"]
    assert failed.strings("rlnMicrographName") == ["Micrographs/mic0002.mrc"]
    assert "mic0002" in capsys.readouterr().err
    for name in ("mic0001", "mic0003"):
        Path(f"Particles/{name}.mrcs").unlink()
    with pytest.raises(UserError, match="No micrograph was refined"):
        refine(DEFOCUS, out="None/")


@pytest.mark.skipif(not (MPIRUN.is_file() and PROGRAM.is_file()), reason="the package or mpich is not installed")
def test_ranks_share_the_work(faulty, tmp_path, monkeypatch):
    project, _ = faulty
    copied(project, tmp_path, monkeypatch)
    alone = refine("--fit_beamtilt")
    options = "--i start.star --f postprocess.star --o Ranks/ --fit_beamtilt"
    command = [MPIRUN, "-n", "2", PROGRAM, *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert star.read("Ranks/particles_ctf_refine.star") == star.read("Refined/particles_ctf_refine.star")
    assert len(alone["particles"]) == 150


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        *((f"{flag} 1", flag) for flag in REFUSED),
        ("--fit_defocus --fit_mode fpx", "--fit_mode"),
        ("--kmin_tilt 0", "--kmin_tilt"),
        ("--m1 half1.mrc", "--m2"),
        ("--fit_bfacs --bfac_min_B 400", "--bfac_min_B"),
        ("--fit_defocus --legacy_astig", "--legacy_astig"),
        ("--f start.star", "half maps"),
        ("--i nothing.star", "nothing.star"),
        ("--i Particles/noposes.star", "rlnAngleRot"),
        ("--fit_beamtilt --kmin_tilt 1", "--kmin"),
        ("--j 0", "--j"),
        ("--pad 0.5", "--pad"),
        ("--min_MG 2 --max_MG 1", "--min_MG"),
    ],
)
def test_mistakes_are_told_in_a_sentence(faulty, options, sentence, monkeypatch, tmp_path):
    monkeypatch.chdir(faulty[0])
    shutil.copy("particles.star", "Particles/noposes.star")
    words = f"--i start.star --f postprocess.star --o {tmp_path}/ --verb 0 {options}".split()
    with pytest.raises(UserError, match=re.escape(sentence)):
        ctf_refine._main(words, Job())


def test_every_option_of_the_reference_is_known(shared):
    import json

    groups = json.loads((shared / "reference/programs.json").read_text())["relion_ctf_refine"]["groups"]
    theirs = {option["option"]: option for group in groups.values() for option in group}
    ours = {flag.name: flag for flag in FLAGS}
    assert set(theirs) <= set(ours)
    for name, option in theirs.items():
        assert ours[name].kind == option["kind"], name
        if option["kind"] == "value" and name not in REFUSED:
            assert ours[name].default == option["default"], name


def test_half_maps_of_ones_own(faulty, tmp_path, monkeypatch):
    """--m1, --m2, --mask instead of the names in postprocess.star, in a box and pixels of their own."""
    project, truth = faulty
    copied(project, tmp_path, monkeypatch)
    for half in (1, 2):
        volume, angpix = mrc.read_map(f"half{half}.mrc")
        mrc.write_map(f"wide{half}.mrc", np.pad(volume, 8), angpix)
    file = star.read("postprocess.star")
    curve = np.full(41, 0.95)
    curve[-3:] = 0.0
    table = star.Table({"rlnSpectralIndex": np.arange(41), "rlnFourierShellCorrelationCorrected": curve})
    star.write("fsc.star", star.StarFile([("general", star.Table()), ("fsc", table)]))
    del file
    wide = refine(DEFOCUS, "--f fsc.star --m1 wide1.mrc --m2 wide2.mrc", out="Wide/")
    usual = refine(DEFOCUS)
    assert np.abs(mean_defocus(wide) - truth.defocus).mean() < 25.0
    assert np.median(np.abs(mean_defocus(wide) - mean_defocus(usual))) < 10.0


def test_two_optics_groups_in_one_micrograph(tmp_path, monkeypatch):
    """Of 300 and 200 kV, with an MTF; what is the micrograph's is one for both groups, a beam tilt each has its own."""
    truth = make_project(tmp_path, {"rlnBeamTiltX": "0.5"}, errors=100.0, count=100, groups=2)
    monkeypatch.chdir(tmp_path)
    file = star.read("start.star")
    frequency = np.linspace(0.0, 0.5, 20)
    mtf = star.Table({"rlnResolutionInversePixel": frequency, "rlnMtfValue": 1.0 - 0.1 * frequency})
    star.write("mtf.star", star.StarFile([("", mtf)]))
    file["optics"].set("rlnMtfFileName", "mtf.star")
    file["optics"].set("rlnMicrographOriginalPixelSize", "1.5")
    file["particles"].set("rlnMicrographName", "one.mrc")
    star.write("start.star", file)
    found = refine("--fit_defocus --fit_mode fpffm --fit_beamtilt --j 2")
    assert np.abs(mean_defocus(found) - truth.defocus).mean() < 25.0
    assert len(set(found["particles"].strings("rlnCtfBfactor"))) == 1
    np.testing.assert_allclose(found["optics"].floats("rlnBeamTiltX"), 0.5, atol=0.1)
    np.testing.assert_allclose(found["optics"].floats("rlnBeamTiltY"), 0.0, atol=0.1)
    assert sorted(path.name for path in Path("Refined").glob("one_wAcc*")) == [
        "one_wAcc_optics-group_1.mrc",
        "one_wAcc_optics-group_2.mrc",
    ]


def test_padded_ctfs_change_little_in_a_wide_box(faulty, tmp_path, monkeypatch):
    project, _ = faulty
    copied(project, tmp_path, monkeypatch)
    plain, padded = refine("--fit_beamtilt"), refine("--fit_beamtilt --ctf_pad", out="Padded/")
    for label in ("rlnBeamTiltX", "rlnBeamTiltY"):
        first, second = (float(file["optics"].value(label)) for file in (plain, padded))
        assert first != second and first == pytest.approx(second, abs=0.05)


def test_bfactors_and_searches_by_the_program(faulty, tmp_path, monkeypatch):
    project, truth = faulty
    copied(project, tmp_path, monkeypatch)
    found = refine("--fit_defocus --bf0 --bf1 --bf_range 600 --fit_mode fpfff --fit_bfacs")
    assert np.abs(mean_defocus(found) - truth.defocus).mean() < 25.0
    assert (found["particles"].floats("rlnCtfBfactor") >= 0).all()
    assert found["particles"].floats("rlnCtfScalefactor").mean() == pytest.approx(1.0, abs=0.15)
    searched = refine("--fit_defocus --bf_only --legacy_astig --bf_range 600", out="Searched/")
    assert np.abs(mean_defocus(searched) - truth.defocus).mean() < 25.0
    assert len(set(searched["particles"].strings("rlnDefocusAngle"))) == 150
