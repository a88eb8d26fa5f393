"""The options of relion_motion_refine: what each of them changes, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from moving_particles import BOX, DOSE, PIXEL
from polish_runs import COMBINE, SIGMAS, motion_refine, rms, tracks

from relion_py.compute.cli.options.motion_refine import FLAGS, REFUSED
from relion_py.compute.io import mrc, star
from relion_py.compute.io.particles import read_particles
from relion_py.compute.motion.model import read_motion, write_motion


def test_boxes_of_other_sizes_in_half_precision_times_the_ctf(project):
    code, _, err = motion_refine(
        project.root, *project.arguments, *COMBINE, "--o", "Small/", "--window", "64", "--scale", "40", "--float16",
        "--ctf_multiply", "--crop", "32", "--suffix", "_s", "--max_MG", "0",
        "--params_file", "params.txt", "--bfactors", "Polish/job010/bfactors.star",
    )  # fmt: skip
    assert code == 1 and "params.txt cannot be read" in err
    (project.root / "params.txt").write_text("0.8 200 0.5\n")
    code, _, err = motion_refine(
        project.root, *project.arguments, "--combine_frames", "--o", "Small/", "--window", "64", "--scale", "40",
        "--float16", "--ctf_multiply", "--crop", "32", "--suffix", "_s", "--max_MG", "0", "--params_file", "params.txt",
    )  # fmt: skip
    assert code == 0, err
    assert "refine again" in err
    header = mrc.read_header(project.root / "Small/Movies/mic1_shiny_s.mrcs")
    assert header.shape == (25, 32, 32) and header.mode == 12
    assert header.pixel_size == pytest.approx(64 * PIXEL / 40, rel=1e-5)
    file = star.read(project.root / "Small/shiny_s.star")
    assert len(file["particles"]) == 25
    optics = file["optics"]
    assert (optics.value("rlnImageSize"), optics.value("rlnCtfDataAreCtfPremultiplied")) == ("32", "1")
    assert optics.floats("rlnImagePixelSize")[0] == pytest.approx(3.2)


def test_boxes_are_recentred_on_a_point_of_the_reference(project):
    code, _, err = motion_refine(
        project.root, *project.arguments, *COMBINE, "--o", "Centred/", "--recenter", "--recenter_z", "5",
        "--max_MG", "0", "--bfactors", "Polish/job010/bfactors.star",
    )  # fmt: skip
    assert code == 0, err
    before = read_particles(project.root / "particles.star").particles
    after = star.read(project.root / "Centred/shiny.star")["particles"]
    moved = after.floats("rlnCoordinateX")[:25] - before.floats("rlnCoordinateX")[:25]
    assert np.abs(moved).max() >= 3 and np.allclose(moved, np.round(moved), atol=1e-4)
    # where the point is seen in the image is its centre now
    psi, tilt = (np.deg2rad(before.floats(f"rlnAngle{name}")[:25]) for name in ("Psi", "Tilt"))
    seen = 5 * PIXEL * -np.cos(psi) * np.sin(tilt)
    old = before.floats("rlnOriginXAngst")[:25] - seen
    np.testing.assert_allclose(after.floats("rlnOriginXAngst"), old + moved * PIXEL, atol=1e-3)
    first, second = (
        mrc.read_stack(project.root / job / "Movies/mic1_shiny.mrcs")[0] for job in ("Polish/job010", "Centred")
    )
    y = np.round(after.floats("rlnCoordinateY")[:25] - before.floats("rlnCoordinateY")[:25]).astype(int)
    for a, b, dx, dy in zip(first, second, np.round(moved).astype(int), y, strict=True):
        inner = slice(12, BOX - 12)
        there = a[12 + dy : BOX - 12 + dy, 12 + dx : BOX - 12 + dx]
        assert np.corrcoef(there.ravel(), b[inner, inner].ravel())[0, 1] > 0.97


@pytest.mark.parametrize(
    "extra", [("--gi",), ("--gi", "--glob_off"), ("--unreg_glob",), ("--cc_pad", "2"), ("--out_cut",)]
)
def test_other_starts_come_to_the_same_place(project, extra):
    job = f"Start{'_'.join(extra)}/"
    code, _, err = motion_refine(project.root, *project.arguments, *SIGMAS, "--o", job, "--max_MG", "0", *extra)
    assert code == 0, err
    assert rms(tracks(project.root, job, 1), project.tracks[0]) < 0.8


def test_training_finds_parameters_that_polish_well(project):
    """Judged by frequencies that did not align: better than where it started from, which is nearly no motion."""
    code, out, err = motion_refine(
        project.root, *project.arguments, "--o", "Train/", "--params3", "--min_p", "20", "--s_vel_0", "0.1",
        "--s_div_0", "1000", "--s_acc_0", "1", "--in_step", "2000", "--par_iters", "5", "--j", "2",
    )  # fmt: skip
    assert code == 0, err
    values = [float(word) for word in (project.root / "Train/opt_params_all_groups.txt").read_text().split()]
    assert len(values) == 3 and values[0] > 0.2 and min(values) > 0
    scores = [float(line.split()[-1]) for line in out.splitlines() if line[:1].isdigit() and ": \t" in line]
    assert scores[-1] > scores[0] > 0
    assert not (project.root / "Train/logfile.pdf").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--absolute_params", "--s_vel", str(0.8 * DOSE), "--s_acc", str(0.5 * DOSE)),
        ("--fdose", str(DOSE), "--mps", str(PIXEL), "--cps", str(PIXEL), "--angpix_ref", str(PIXEL)),
        ("--m1", "half1.mrc", "--m2", "half2.mrc", "--mask", "mask.mrc", "--sbs", "--hot", "1e9"),
        ("--only_group", "1", "--find_shortest", "--mov_toReplace", "job002", "--mov_replaceBy", "job004"),
    ],
)
def test_the_same_said_in_other_words(project, options, request):
    """What the files say given by hand, units changed, renamed micrographs: the tracks stay."""
    job = f"Same{request.node.callspec.indices['options']}/"
    code, _, err = motion_refine(project.root, *project.arguments, *SIGMAS, "--o", job, "--max_MG", "0", *options)
    assert code == 0, err
    assert rms(tracks(project.root, job, 1), tracks(project.root, "Polish/job010", 1)) < 1e-3


@pytest.mark.parametrize(
    "options", [("--no_whiten",), ("--sq_exp_ker",), ("--dmg_a", "1.5"), ("--eps", "0.1"), ("--pad", "1")]
)
def test_other_models_find_other_but_good_tracks(project, options):
    job = f"Model{options[0]}/"
    code, _, err = motion_refine(project.root, *project.arguments, *SIGMAS, "--o", job, "--max_MG", "0", *options)
    assert code == 0, err
    found = tracks(project.root, job, 1)
    assert 1e-4 < rms(found, tracks(project.root, "Polish/job010", 1)) < 0.5
    assert rms(found, project.tracks[0]) < 0.7


def test_few_deformations_make_steps_of_low_rank(project):
    code, _, err = motion_refine(
        project.root, *project.arguments, *SIGMAS, "--o", "Few/", "--max_MG", "0", "--max_ed", "2"
    )
    assert code == 0, err
    steps = np.diff(tracks(project.root, "Few", 1), axis=1).reshape(25, -1)
    spread = np.linalg.svd(steps, compute_uv=False)
    assert spread[1] > 100 * spread[2]


def test_b_factors_from_some_of_the_particles(project):
    code, _, err = motion_refine(project.root, *project.arguments, *COMBINE, "--o", "Part/", "--B_parts", "20")
    assert code == 0, err
    correlated = sorted(path.name for path in (project.root / "Part/Movies").glob("*_FCC_cc.mrc"))
    assert correlated == ["mic1_FCC_cc.mrc"]
    assert len(star.read(project.root / "Part/shiny.star")["particles"]) == 50


def test_movies_of_different_length(copy):
    """The first movie says how many frames are needed; --find_shortest uses as many as all have."""
    path = str(copy.root / "MotionCorr/job002/Movies/mic2.star")
    motion = read_motion(path)
    motion.shifts = motion.shifts[:6]
    write_motion(path, motion)
    code, _, err = motion_refine(copy.root, *copy.arguments, *SIGMAS, "--o", "Long/")
    assert code == 0 and "6 frames and 8 are needed" in err
    assert not (copy.root / "Long/Movies/mic2_tracks.star").exists()
    code, _, err = motion_refine(copy.root, *copy.arguments, *SIGMAS, "--o", "Short/", "--find_shortest")
    assert code == 0, err
    assert [tracks(copy.root, "Short", n).shape for n in (1, 2)] == [(25, 6, 2)] * 2


def test_parameters_of_one_optics_group_are_trained_alone(copy):
    file = star.read(copy.root / "particles.star")
    optics = file["optics"]
    row = optics.row(0)
    optics.append({**row, "rlnOpticsGroup": 2, "rlnOpticsGroupName": "late"})
    file["particles"].set("rlnOpticsGroup", [1] * 25 + [2] * 25)
    star.write(copy.root / "particles.star", file)
    code, out, err = motion_refine(
        copy.root,
        *copy.arguments,
        "--o",
        "Group/",
        "--params2",
        "--par_group",
        "2",
        "--par_iters",
        "1",
        "--min_p",
        "99",
    )
    assert code == 0, err
    assert "1 micrographs with 25 particles" in out and "fewer particles" in err
    values = (copy.root / "Group/opt_params_group_late.txt").read_text().split()
    assert values[2] == "3"
    optics.set("rlnImageSize", [BOX, BOX + 2])
    star.write(copy.root / "particles.star", file)
    code, _, err = motion_refine(copy.root, *copy.arguments, "--o", "All/", "--params2")
    assert code == 1 and "--par_group" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--diag",), "--diag is not available"),
        (("--a1", "x.mrc"), "--a1 is not available"),
        (("--params2", "--params3"), "either two parameters or three"),
        (("--crop", "32"), "without --ctf_multiply"),
        (("--window", "63", "--combine_frames", "--max_iters", "0"), "--window must be an even number"),
        (("--first_frame", "8"), "at least two"),
        (("--last_frame", "30"), "has 8 frames"),
        (("--eer_grouping", "20"), "cannot be changed here"),
        (("--m1", "half1.mrc"), "Give both half maps"),
        (("--min_MG", "7"), "only 2 micrographs"),
        (("--params3", "--align_frac", "0.8"), "add up to more than 1"),
        (("--only_group", "4"), "No micrograph is left"),
    ],
)
def test_mistakes_are_told_in_a_sentence(project, arguments, sentence):
    code, _, err = motion_refine(project.root, *project.arguments, "--o", "Wrong/", *arguments)
    assert code == 1
    assert sentence in err and "Traceback" not in err


def test_every_option_of_the_reference_is_known(shared: Path) -> None:
    groups = json.loads((shared / "reference/programs.json").read_text())["relion_motion_refine"]["groups"]
    theirs = {option["option"] for group in groups.values() for option in group}
    mine = {flag.name for flag in FLAGS}
    assert theirs <= mine
    assert mine - theirs == {"--i", "--o", "--f", "--corr_mic"}
    assert set(REFUSED) < mine


def test_options_that_jobs_give_are_known(shared: Path) -> None:
    given: set[str] = set()
    with (shared / "golden/commands.jsonl").open() as file:
        for line in file:
            case = json.loads(line)
            if case["label"].startswith("relion.polish"):
                for command in case["commands"]:
                    given |= {word for word in shlex.split(command.replace("`", "")) if word.startswith("--")}
    assert len(given) > 15
    assert given - {"--pipeline_control"} <= {flag.name for flag in FLAGS} - set(REFUSED)
