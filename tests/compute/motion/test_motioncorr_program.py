"""The program relion_run_motioncorr: what it writes, what it refuses, what it leaves out and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from in_process import outcome
from movie_files import counts, eer_page, moved, scene, write_eer
from reference_data import SHARED
from scipy import ndimage
from witness_maps import voxels

from relion_py.compute.cli.motioncorr import _main, settings_of
from relion_py.compute.cli.options.motioncorr import FLAGS
from relion_py.compute.cli.parser import parse
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.motion.model import NOT_OBSERVED, read_motion

TRACK = np.cumsum(np.array([[0, 0], [1.2, -0.7], [0.9, -0.5], [0.5, -0.6], [0.3, -0.2], [0.2, 0.1]]), axis=0)
OWN = ("--use_own", "--bfactor", "150", "--dose_per_frame", "1.5", "--grouping_for_ps", "2")


motioncorr = partial(outcome, _main)


def read(path: Path) -> np.ndarray:
    return np.squeeze(voxels(path))


def list_movies(directory: Path, names: list[str]) -> None:
    optics = Table(
        {
            "rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": [1],
            "rlnMicrographOriginalPixelSize": [1.1], "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
        }
    )  # fmt: skip
    movies = Table({"rlnMicrographMovieName": names, "rlnOpticsGroup": [1] * len(names)})
    star.write(directory / "movies.star", StarFile([("optics", optics), ("movies", movies)]))


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return counts(TRACK, (256, 320))


@pytest.fixture
def project(tmp_path: Path, frames: np.ndarray) -> Path:
    """Two movies with the same motion, upside down in their files, as TIFF is read upside down."""
    (tmp_path / "Movies").mkdir()
    for number, movie in enumerate((frames, counts(TRACK, (256, 320), seed=5)), 1):
        tifffile.imwrite(tmp_path / f"Movies/m.{number}.tiff", movie[:, ::-1], compression="lzw")
    list_movies(tmp_path, ["Movies/m.1.tiff", "Movies/m.2.tiff"])
    return tmp_path


def test_outputs_are_those_of_relion(project: Path) -> None:
    code, out, err = motioncorr(
        project, "--i", "movies.star", "--o", "MotionCorr/job002/", *OWN, "--float16", "--dose_weighting",
        "--save_noDW", "--patch_x", "3", "--patch_y", "3", "--j", "2", "--preexposure", "0.5",
        "--pipeline_control", "MotionCorr/job002/",
    )  # fmt: skip
    assert code == 0, err
    assert "yum!" in out
    job = project / "MotionCorr/job002"
    assert (job / "RELION_JOB_EXIT_SUCCESS").exists()
    assert (job / "logfile.pdf").read_bytes().startswith(b"%PDF")
    assert not (job / "failed_movies.star").exists()
    file = star.read(job / "corrected_micrographs.star")
    assert list(file) == ["optics", "micrographs"]
    assert file["optics"].floats("rlnMicrographPixelSize").tolist() == [1.1]
    table = file["micrographs"]
    assert table.labels == [
        "rlnMicrographNameNoDW", "rlnCtfPowerSpectrum", "rlnMicrographName", "rlnMicrographMetadata",
        "rlnOpticsGroup", "rlnAccumMotionTotal", "rlnAccumMotionEarly", "rlnAccumMotionLate",
    ]  # fmt: skip
    assert table.strings("rlnMicrographName") == [f"MotionCorr/job002/Movies/m_{n}.mrc" for n in (1, 2)]
    steps = np.hypot(*np.diff(TRACK, axis=0).T)
    np.testing.assert_allclose(table.floats("rlnAccumMotionTotal"), steps.sum(), atol=0.4)
    # 0.5 + 2 frames of 1.5 are 3.5 e/A2, 3 frames more than 4
    np.testing.assert_allclose(table.floats("rlnAccumMotionEarly"), steps[0], atol=0.2)
    for ending in ("", "_noDW"):
        with mrcfile.open(job / f"Movies/m_1{ending}.mrc") as image:
            assert image.header.mode == 12 and image.data.shape == (256, 320)
            assert image.voxel_size.x == pytest.approx(1.1)
    with mrcfile.open(job / "Movies/m_2_PS.mrc") as image:
        assert image.header.mode == 2 and image.data.shape == (512, 512)
        assert image.voxel_size.x == pytest.approx(256 * 1.1 / 202)
    motion = read_motion(str(job / "Movies/m_1.star"))
    np.testing.assert_allclose(motion.shifts, -TRACK, atol=0.15)
    assert (motion.movie, motion.pre_exposure) == ("Movies/m.1.tiff", 0.5)
    # local motion was none
    assert motion.model is not None and motion.local is not None
    assert abs(motion.model.shifts(np.arange(6), 0.0, 0.0)).max() < 0.3


def test_frame_range_binning_and_halves(project: Path, frames: np.ndarray) -> None:
    code, _, err = motioncorr(
        project, "--i", "Movies/m.1.tiff", "--o", "out", *OWN, "--angpix", "1.1", "--voltage", "300",
        "--first_frame_sum", "2", "--last_frame_sum", "5", "--bin_factor", "2", "--even_odd_split",
    )  # fmt: skip
    assert code == 0, err
    motion = read_motion(str(project / "out/Movies/m_1.star"))
    assert motion.shifts[[0, 5]].tolist() == [[NOT_OBSERVED] * 2] * 2
    np.testing.assert_allclose(motion.shifts[1:5], TRACK[1] - TRACK[1:5], atol=0.2)
    assert (motion.first_frame, motion.binning, motion.n_frames) == (2, 2.0, 6)
    image = read(project / "out/Movies/m_1.mrc")
    assert image.shape == (128, 160)
    assert image.mean() == pytest.approx(frames[1:5].sum(0).mean(), rel=1e-4)
    halves = [read(project / f"out/Movies/m_1_{half}.mrc") for half in ("EVN", "ODD")]
    np.testing.assert_allclose(sum(halves), image, atol=1e-3)
    late = motioncorr(
        project, "--i", "Movies/m.1.tiff", "--o", "late", *OWN, "--angpix", "1.1", "--voltage", "300",
        "--first_frame_sum", "2", "--last_frame_sum", "5", "--bin_factor", "2", "--no_early_binning",
    )  # fmt: skip
    assert late[0] == 0
    assert np.corrcoef(read(project / "late/Movies/m_1.mrc").ravel(), image.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("size", "binning", "shape"),
    [((257, 321), [], (256, 320)), ((257, 321), ["--no_early_binning"], (128, 160)), ((254, 320), [], (168, 212))],
)
def test_sides_that_would_become_odd_lose_their_last_pixels(
    tmp_path: Path, size: tuple[int, int], binning: list[str], shape: tuple[int, int]
) -> None:
    """The detector's 3,710 rows at --bin_factor 1.5 are 2,473; what is left is the same picture, at the same place."""
    factor = {257: "2" if binning else "1", 254: "1.5"}[size[0]]
    frames = counts(TRACK, size, seed=2)
    tifffile.imwrite(tmp_path / "m.tiff", frames[:, ::-1], compression="zlib")
    list_movies(tmp_path, ["m.tiff"])
    code, _, err = motioncorr(
        tmp_path, "--i", "movies.star", "--o", "out", *OWN, *binning, "--bin_factor", factor, "--patch_x", "3",
        "--patch_y", "3",
    )  # fmt: skip
    assert code == 0, err
    image = read(tmp_path / "out/m.mrc")
    assert image.shape == shape
    motion = read_motion(str(tmp_path / "out/m.star"))
    assert (motion.size_y, motion.size_x) == size
    np.testing.assert_allclose(motion.shifts, -TRACK, atol=0.2)
    scale = float(factor)
    places = np.add.outer(np.arange(20, shape[0] - 20), [0]) * scale, np.arange(20, shape[1] - 20) * scale
    truth = ndimage.map_coordinates(scene(*size, 2), np.broadcast_arrays(*places), order=1)
    assert np.corrcoef(truth.ravel(), image[20:-20, 20:-20].ravel())[0, 1] > 0.8


def test_blank_frames_at_the_ends_are_left_out(project: Path, frames: np.ndarray) -> None:
    """The beam came late and went early: the motion is that of the other frames, and their sum the micrograph."""
    dark = np.random.default_rng(1).poisson(0.02, (3, 256, 320)).astype(np.uint8)
    dark[0] = 0
    tifffile.imwrite(project / "Movies/m.1.tiff", np.concatenate([dark[:1], frames, dark[1:]])[:, ::-1])
    list_movies(project, ["Movies/m.1.tiff"])
    arguments = ["--i", "movies.star", *OWN, "--dose_weighting", "--patch_x", "3", "--patch_y", "3"]
    for name, range_of_frames in (("out", []), ("told", ["--first_frame_sum", "2", "--last_frame_sum", "7"])):
        code, _, err = motioncorr(project, "--o", name, *arguments, *range_of_frames)
        assert code == 0, err
    motion, told = (read_motion(str(project / f"{name}/Movies/m_1.star")) for name in ("out", "told"))
    assert motion.first_frame == 2
    np.testing.assert_array_equal(motion.shifts, told.shifts)
    assert (motion.shifts[[0, 7, 8]] == NOT_OBSERVED).all()
    np.testing.assert_allclose(motion.shifts[1:7], -TRACK, atol=0.15)
    np.testing.assert_allclose(read(project / "out/Movies/m_1.mrc"), read(project / "told/Movies/m_1.mrc"), rtol=1e-5)
    assert "Blank frames, which are left out: 1 8 9" in (project / "out/Movies/m_1.log").read_text()


def test_aligned_sum_is_sharper(project: Path, frames: np.ndarray) -> None:
    assert motioncorr(project, "--i", "movies.star", "--o", "out/", *OWN)[0] == 0
    truth = scene(256, 320)
    plain = np.corrcoef(frames.sum(0).ravel(), truth.ravel())[0, 1]
    aligned = np.corrcoef(read(project / "out/Movies/m_1.mrc").ravel(), truth.ravel())[0, 1]
    assert aligned > plain + 0.1


def test_gain_defects_and_hot_pixels(project: Path, frames: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    gain = rng.uniform(0.5, 1.5, (256, 320)).astype(np.float32)
    gain[40, 50] = 0
    seen = frames / np.where(gain > 0, gain, 1)
    seen[:, 100:103, 200:202] = 9000.0  # listed as defective
    seen[:, 7, 9] = 2000.0  # found to be hot
    with mrcfile.new(project / "Movies/raw.mrcs") as file:
        file.set_data(seen.astype(np.float32))
    with mrcfile.new(project / "gain.mrc") as file:
        file.set_data(np.ascontiguousarray(np.rot90(gain[::-1], 1)))  # turned by 90 degrees clockwise: flipped
    (project / "defects.txt").write_text("200 100 2 3\n")
    flags = ("--angpix", "1.1", "--voltage", "300", "--gainref", "gain.mrc", "--defect_file", "defects.txt")
    command = ("--i", "Movies/raw.mrcs", "--o", "out/", *OWN, *flags, "--gain_rot", "1", "--gain_flip", "1")
    code, _, err = motioncorr(project, *command)
    assert code == 0, err
    motion = read_motion(str(project / "out/Movies/raw.star"))
    assert (motion.gain, motion.defects) == ("out/gain.mrc", "defects.txt")
    assert motion.hot_pixels.tolist() == [[9, 7]]
    np.testing.assert_allclose(motion.shifts, -TRACK, atol=0.2)
    image = read(project / "out/Movies/raw.mrc")
    assert image.max() < 400
    code, _, err = motioncorr(project, *command[:-4])  # not turned: another size
    assert code == 1
    assert "256 x 320" in err and "--gain_rot" in err


@pytest.mark.req("G9")
def test_continuing_does_only_what_is_not_done(project: Path) -> None:
    command = ("--i", "movies.star", "--o", "out/", *OWN)
    code, out, _ = motioncorr(project, *command, "--do_at_most", "1")
    assert code == 0
    assert len(star.read(project / "out/corrected_micrographs.star")["micrographs"]) == 1
    before = (project / "out/Movies/m_1.mrc").stat().st_mtime_ns
    code, out, _ = motioncorr(project, *command, "--only_do_unfinished")
    assert code == 0
    assert "m.2.tiff" in out and "m.1.tiff" not in out
    assert (project / "out/Movies/m_1.mrc").stat().st_mtime_ns == before
    assert len(star.read(project / "out/corrected_micrographs.star")["micrographs"]) == 2
    (project / "out/Movies/m_1_PS.mrc").unlink()  # what the CTF needs counts too
    code, out, _ = motioncorr(project, *command, "--only_do_unfinished")
    assert code == 0 and "m.1.tiff" in out and "m.2.tiff" not in out


@pytest.mark.req("J2")
def test_a_request_to_stop_is_heard(project: Path) -> None:
    (project / "out").mkdir()
    (project / "out/RELION_JOB_ABORT_NOW").touch()
    command = ("--i", "movies.star", "--o", "out/", *OWN, "--pipeline_control", "out/")
    assert motioncorr(project, *command)[0] == 1
    assert (project / "out/RELION_JOB_EXIT_ABORTED").exists()
    assert not (project / "out/corrected_micrographs.star").exists()


def spoil(project: Path, frames: np.ndarray) -> list[str]:
    """Movies that cannot be corrected, each for another reason."""
    movies = project / "Movies"
    whole = (movies / "m.1.tiff").read_bytes()
    (movies / "cut.tiff").write_bytes(whole[: len(whole) // 2])
    (movies / "nothing.tiff").write_bytes(b"")
    (movies / "odd.mrcs").write_bytes(b"x" * 5000)
    with mrcfile.new(movies / "nan.mrcs") as file:
        file.set_data(frames.astype(np.float32))
        file.data[3, 4, 5] = np.nan
    tifffile.imwrite(movies / "zero.tiff", np.zeros_like(frames), compression="lzw")
    tifffile.imwrite(movies / "size.tiff", frames[:, :200], compression="lzw")
    tifffile.imwrite(movies / "two.tiff", frames[:2], compression="lzw")
    names = [
        "cut.tiff",
        "nothing.tiff",
        "odd.mrcs",
        "nan.mrcs",
        "zero.tiff",
        "size.tiff",
        "two.tiff",
        "no.tiff",
    ]
    return [f"Movies/{name}" for name in names]


def test_bad_movies_are_listed_and_the_rest_is_done(project: Path, frames: np.ndarray) -> None:
    bad = spoil(project, frames)
    with mrcfile.new(project / "gain.mrc") as file:
        file.set_data(np.ones((256, 320), np.float32))
    list_movies(project, [bad[0], "Movies/m.1.tiff", *bad[1:], "Movies/m.2.tiff"])
    command = ("--o", "out/", *OWN, "--gainref", "gain.mrc", "--pipeline_control", "out/")
    code, _, err = motioncorr(project, "--i", "movies.star", *command)
    assert code == 0
    failed = star.read(project / "out/failed_movies.star")["failed"]
    assert failed.strings("rlnMicrographMovieName") == bad
    reasons = failed.strings("relionpyFailure")
    for word, reason in zip(
        ("cut", "0 bytes", "odd.mrcs", "NaN", "empty", "gain", "few frames", "no such"), reasons, strict=True
    ):
        assert word in reason
    assert err.count("It is left out") == len(bad)
    table = star.read(project / "out/corrected_micrographs.star")["micrographs"]
    assert table.strings("rlnMicrographName") == ["out/Movies/m_1.mrc", "out/Movies/m_2.mrc"]
    list_movies(project, bad)
    code, _, err = motioncorr(project, "--i", "movies.star", *command)
    assert code == 1
    assert "No movie could be corrected" in err and "Traceback" not in err
    assert (project / "out/RELION_JOB_EXIT_FAILURE").exists()


def test_eer_movies(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    pages = []
    for readout in range(12):
        density = 0.2 * (1 + 0.4 * moved(scene(256, 256), 0.25 * readout, 0.0))
        hits = np.argwhere(rng.random((256, 256)) < density)
        pages.append(eer_page([(int(x), int(y), -1, -1) for y, x in hits], 256, 256, 7))
    write_eer(tmp_path / "m.eer", pages, 256, 256)
    code, _, err = motioncorr(
        tmp_path, "--i", "m.eer", "--o", "out", *OWN, "--angpix", "1", "--voltage", "200", "--dose_weighting",
        "--eer_grouping", "3", "--eer_upsampling", "2", "--bin_factor", "2",
    )  # fmt: skip
    assert code == 0, err
    motion = read_motion(str(tmp_path / "out/m.star"))
    assert (motion.size_x, motion.n_frames, motion.eer_grouping, motion.eer_upsampling) == (512, 4, 3, 2)
    np.testing.assert_allclose(motion.shifts[:, 0], -2 * 0.75 * np.arange(4), atol=0.4)
    assert read(tmp_path / "out/m.mrc").shape == (256, 256)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "either --use_own or"),
        ("--use_own --use_motioncor2", "either --use_own or"),
        ("--use_own --gpu 0", "--gpu works with --use_motioncor2"),
        ("--use_own --float16", "--grouping_for_ps"),
        ("--use_motioncor2 --float16", "--float16 works with --use_own"),
        ("--use_own --gainref gain.dm4", "no such file"),
        ("--use_own --patch_x C1", "--patch_x needs a number"),
        ("--use_own --ps_size 511", "even"),
        ("--use_own --bin_factor 0.5", "at least 1"),
        ("--use_motioncor2", "MotionCor2 is not part"),
        ("--use_motioncor2 --motioncor2_exe nowhere/MotionCor2", "no program nowhere/MotionCor2"),
    ],
)
def test_mistakes_are_told_in_a_sentence(project: Path, flags: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELION_MOTIONCOR2_EXECUTABLE", raising=False)
    code, _, err = motioncorr(project, "--i", "movies.star", "--o", "out/", *flags.split())
    assert code == 1
    assert says in err and "Traceback" not in err


def test_lists_that_cannot_be_used(project: Path) -> None:
    for content, says in (
        ("data_micrographs\n\nloop_\n_rlnMicrographName #1\nm.mrc\n", "imported as movies"),
        ("data_global\n\nloop_\n_rlnTomoName #1\nts1\n", "tomography"),
        ("data_movies\n\nloop_\n_rlnMicrographMovieName #1\nm.tiff\n", "--angpix"),
        ("data_movies\n\nloop_\n_rlnMicrographMovieName #1\n_rlnMicrographPreExposure #2\nm.tiff inf\n", '"inf", not'),
        (
            "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographOriginalPixelSize #2\n1 0\n\n"
            "data_movies\n\nloop_\n_rlnMicrographMovieName #1\nm.tiff\n",
            "must be a positive number",
        ),
    ):
        (project / "list.star").write_text(content)
        code, _, err = motioncorr(project, "--i", "list.star", "--o", "out/", "--use_own")
        assert code == 1 and says in err
    list_movies(project, ["a.1.tiff", "a_1.tiff"])
    code, _, err = motioncorr(project, "--i", "movies.star", "--o", "out/", "--use_own")
    assert code == 1 and "same name" in err


# -------------------------------------------------------------------------------------------- MotionCor2

_FAKE = r"""#!{python}
import sys, numpy as np, mrcfile
words = dict(zip(sys.argv[1:], sys.argv[2:]))
for ending in ("", "_DW"):
    with mrcfile.new(words["-OutMrc"][:-4] + ending + ".mrc", overwrite=True) as file:
        file.set_data(np.full((4, 4), len(ending), np.float32))
print("Full-frame alignment shift")
for frame in range(5):
    print(f"...... Frame ( {{frame + 1}}) shift:   {{-1.0 * frame:.2f}}    {{0.5 * frame:.2f}}")
with open(words["-LogFile"] + "0-Patch-Patch.log", "w") as file:
    file.write("# x\n 1 100.0 50.0 0.1 0.2 0.3 0.4\n")
"""


def test_the_users_motioncor2_is_run(project: Path) -> None:
    program = project / "Motion Cor2"
    program.write_text(_FAKE.format(python=sys.executable))
    program.chmod(0o755)
    code, _, err = motioncorr(
        project, "--i", "movies.star", "--o", "out/", "--use_motioncor2", "--motioncor2_exe", str(program),
        "--other_motioncor2_args", " -Tol 0.5; touch evil ", "--gpu", "1,2", "--dose_weighting",
        "--save_noDW", "--first_frame_sum", "2", "--last_frame_sum", "6", "--bin_factor", "1", "--patch_x",
        "5", "--patch_y", "5", "--dose_per_frame", "1.5",
    )  # fmt: skip
    assert code == 0, err
    words = shlex.split((project / "out/Movies/m_1.com").read_text())
    expected = (
        "-InTiff Movies/m.1.tiff -OutMrc out/Movies/m_1.mrc -LogFile out/Movies/m_1 -Bft 150 -PixSize 1.1 "
        "-Patch 5 5 -Throw 1 -FmRef 0 -Trunc 0 -Kv 300 -FmDose 1.5 -InitDose 0 -Tol 0.5; touch evil -Gpu 1 2"
    )
    assert words == [str(program), *expected.split()]
    assert not (project / "evil").exists()  # the words never saw a shell
    assert read(project / "out/Movies/m_1.mrc").mean() == 3  # the weighted sum
    assert read(project / "out/Movies/m_1_noDW.mrc").mean() == 0
    motion = read_motion(str(project / "out/Movies/m_2.star"))
    np.testing.assert_allclose(motion.shifts[1:], np.arange(5)[:, None] * [-1.0, 0.5])
    assert motion.shifts[0, 0] == NOT_OBSERVED
    assert motion.local is not None and motion.local.frame.tolist() == [2]
    program.write_text("#!/bin/sh\nexit 3\n")
    command = ("--use_motioncor2", "--motioncor2_exe", str(program))
    code, _, err = motioncorr(project, "--i", "movies.star", "--o", "out2/", *command)
    assert code == 1 and "status 3" in err


# ------------------------------------------------------------------------------------- flags and ranks


def test_every_command_of_the_window_is_understood() -> None:
    golden = SHARED / "golden" / "commands.jsonl"
    if not golden.exists():
        pytest.skip("the reference's commands are not here")
    known = {flag.name for flag in FLAGS} | {"--pipeline_control"}
    understood = 0
    for line in golden.read_text().splitlines():
        case = json.loads(line)
        if case["type"] != 1 or not case["ok"]:
            continue
        for command in case["commands"]:
            words = shlex.split(command.split("` ", 1)[1] if "`" in command else command.split(" ", 1)[1])
            assert {word for word in words if word.startswith("--")} <= known
            with contextlib.suppress(UserError):  # some cases hold letters where numbers belong
                settings_of(parse(FLAGS, words))
                understood += 1
    assert understood >= 25


def test_flags_and_defaults_are_those_of_the_reference() -> None:
    programs = SHARED / "reference" / "programs.json"
    if not programs.exists():
        pytest.skip("the reference's options are not here")
    table = {flag.name: flag for flag in FLAGS}
    for group in json.loads(programs.read_text())["relion_run_motioncorr"]["groups"].values():
        for option in group:
            flag = table[option["option"]]
            assert (flag.kind == "flag") == (option["kind"] == "flag")
            if flag.kind == "value":
                assert flag.default.rstrip(".") == option["default"].rstrip(".")


@pytest.mark.slow
def test_ranks_share_the_movies(project: Path) -> None:
    launcher = Path(sys.executable).parent / "mpirun"
    if not launcher.exists() or shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(launcher), "-n", "2", sys.executable, "-m", "relion_py.compute.cli.motioncorr"]
    command += ["--i", "movies.star", "--o", "ranks/", *OWN]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert motioncorr(project, "--i", "movies.star", "--o", "alone/", *OWN)[0] == 0
    for number in (1, 2):
        found = [read(project / f"{where}/Movies/m_{number}.mrc") for where in ("ranks", "alone")]
        np.testing.assert_array_equal(*found)
    assert len(star.read(project / "ranks/corrected_micrographs.star")["micrographs"]) == 2
