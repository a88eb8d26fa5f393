"""relion_run_ctffind as a program: its files, bad inputs, continuing, ranks, the user's CTFFIND."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import exit_status

from relion_py.compute.cli import ctffind
from relion_py.compute.cli.options.ctffind import FLAGS, REFUSED
from relion_py.compute.cli.parser import parse
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_image, write_map
from relion_py.compute.io.star import StarFile, Table

MPIRUN = Path(sys.executable).parent / "mpirun"
DEFOCUS = {"a": (15000.0, 14700.0, 20.0), "b": (20000.0, 19800.0, -60.0), "c": (11000.0, 10600.0, 85.0)}
QUICK = "--Box 256 --ResMin 30 --ResMax 5 --dFMin 5000 --dFMax 30000 --FStep 500 --dAst 100 --is_ctffind4"


def micrograph(path: Path, defocus: tuple[float, float, float], size: int = 640) -> None:
    """White noise times a CTF, in white noise; 1.5 A per pixel."""
    random = np.random.default_rng(int(defocus[0]))
    ky = np.repeat(np.fft.fftfreq(size, 1.5), size // 2 + 1)
    kx = np.tile(np.fft.rfftfreq(size, 1.5), size)
    ctf = ctf_values(CtfParams(*defocus, bfactor=40.0), kx, ky, 1, 1.0)[0].reshape(size, -1)
    image = np.fft.irfft2(np.fft.rfft2(random.standard_normal((size, size))) * ctf)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_map(path, (image + random.standard_normal((size, size))).astype(np.float32), 1.5)


def write_input(names: list[str], extra: dict[str, list[str]] | None = None) -> None:
    optics = Table(
        {
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnOpticsGroup": [1],
            "rlnMicrographOriginalPixelSize": [1.5],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.1],
            "rlnMicrographPixelSize": [1.5],
        }
    )
    table = Table({"rlnMicrographName": names, "rlnOpticsGroup": [1] * len(names), **(extra or {})})
    star.write("micrographs.star", StarFile([("optics", optics), ("micrographs", table)]))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three micrographs of known defocus in Raw/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELION_CTFFIND_EXECUTABLE", raising=False)
    for name, defocus in DEFOCUS.items():
        micrograph(tmp_path / f"Raw/{name}.mrc", defocus)
    write_input([f"Raw/{name}.mrc" for name in DEFOCUS])
    return tmp_path


def run(*words: str, options: str = QUICK) -> int:
    """The exit status of the program in this process."""
    arguments = ["--i", "micrographs.star", "--o", "CtfFind/job002/", *options.split(), *words]
    arguments += ["--pipeline_control", "CtfFind/job002/"]
    os.makedirs("CtfFind/job002", exist_ok=True)
    return exit_status(ctffind.main, *arguments)


def rows() -> dict[str, dict[str, str]]:
    table = star.read("CtfFind/job002/micrographs_ctf.star")["micrographs"]
    return {Path(row["rlnMicrographName"]).stem: row for row in table.rows()}


def failed() -> dict[str, str]:
    table = star.read("CtfFind/job002/failed_micrographs.star")["failed"]
    return dict(zip(table.strings("rlnMicrographName"), table.strings("relionpyFailure"), strict=True))


def test_all_files_of_a_run(project: Path) -> None:
    assert run("--fast_search", "--j", "2") == 0
    found = rows()
    for name, (u, v, _) in DEFOCUS.items():
        assert abs(float(found[name]["rlnDefocusU"]) - u) < 80
        assert abs(float(found[name]["rlnDefocusV"]) - v) < 80
    assert list(found["a"]) == [
        "rlnMicrographName", "rlnOpticsGroup", "rlnCtfImage", "rlnDefocusU", "rlnDefocusV",
        "rlnCtfAstigmatism", "rlnDefocusAngle", "rlnCtfFigureOfMerit", "rlnCtfMaxResolution",
        "rlnCtfIceRingDensity",
    ]  # fmt: skip
    assert found["a"]["rlnCtfImage"] == "CtfFind/job002/Raw/a.ctf:mrc"
    picture, angpix = read_image("CtfFind/job002/Raw/a.ctf")
    assert picture.shape == (256, 256) and angpix == pytest.approx(1.5)
    assert Path("CtfFind/job002/logfile.pdf").read_bytes()[:5] == b"%PDF-"
    assert Path("CtfFind/job002/RELION_JOB_EXIT_SUCCESS").exists()
    assert not Path("CtfFind/job002/failed_micrographs.star").exists()
    assert not list(Path("CtfFind").rglob("*.tmp*"))


@pytest.mark.req("G9")
def test_relion_itself_joins_these_results(project: Path, debian_relion: Callable[[str], str]) -> None:
    """RELION 3.1.3 reads logs, summaries and profiles as if CTFFIND had written them."""
    assert run() == 0
    mine = rows()
    program = debian_relion("relion_run_ctffind")
    words = f"{program} --i micrographs.star --o CtfFind/job002/ {QUICK} --ctffind_exe /bin/true".split()
    done = subprocess.run([*words, "--only_make_star"], capture_output=True, text=True)
    theirs = rows()
    assert set(theirs) == set(mine), done.stderr
    for name, row in theirs.items():
        for label in ("DefocusU", "DefocusV", "DefocusAngle", "CtfFigureOfMerit", "CtfMaxResolution"):
            assert float(row[f"rln{label}"]) == pytest.approx(float(mine[name][f"rln{label}"]), abs=2e-3)


def test_bad_files_are_listed_and_the_rest_done(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path("Raw/a.mrc").read_bytes()
    Path("Raw/short.mrc").write_bytes(whole[:5000])
    Path("Raw/empty.mrc").write_bytes(b"")
    Path("Raw/text.mrc").write_text("this is no image\n" * 100)
    image, _ = read_image("Raw/a.mrc")
    write_map("Raw/flat.mrc", np.full_like(image, 3.0), 1.5)
    image[7, 7] = np.nan
    write_map("Raw/nan.mrc", image, 1.5)
    write_map("Raw/small.mrc", image[100:200, 100:200], 1.5)
    bad = ["short", "empty", "text", "flat", "nan", "small", "missing"]
    write_input(["Raw/a.mrc", *(f"Raw/{name}.mrc" for name in bad), "Raw/b.mrc"])
    assert run("--fast_search") == 0
    assert set(rows()) == {"a", "b"}
    sentences = failed()
    assert set(sentences) == {f"Raw/{name}.mrc" for name in bad}
    for name, part in (
        ("short", "cut short"), ("empty", "0 bytes"), ("flat", "is empty"), ("nan", "not numbers"),
        ("small", "too small"), ("missing", "no such file"),
    ):  # fmt: skip
        assert part in sentences[f"Raw/{name}.mrc"]
    assert capsys.readouterr().err.count("is skipped") == len(bad)


def test_nothing_usable_is_a_failure(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(["Raw/none.mrc"])
    assert run() == 1
    assert Path("CtfFind/job002/RELION_JOB_EXIT_FAILURE").exists()
    assert "No micrograph has a CTF" in capsys.readouterr().err


@pytest.mark.req("G9")
def test_a_continued_job_does_only_what_is_left(project: Path) -> None:
    Path("Raw/b.mrc").rename("Raw/away.mrc")
    assert run("--fast_search") == 0
    assert set(rows()) == {"a", "c"}
    log = Path("CtfFind/job002/Raw/a_ctffind4.log")
    before = log.stat().st_mtime_ns
    Path("Raw/away.mrc").rename("Raw/b.mrc")
    assert run("--fast_search", "--only_do_unfinished") == 0
    assert set(rows()) == {"a", "b", "c"}
    assert log.stat().st_mtime_ns == before
    assert not Path("CtfFind/job002/failed_micrographs.star").exists()
    # an old result does not stand for a micrograph that fails when all is done anew
    Path("Raw/a.mrc").write_bytes(b"")
    assert run("--fast_search") == 0
    assert set(rows()) == {"b", "c"}


def test_a_part_at_a_time(project: Path) -> None:
    assert run("--fast_search", "--do_at_most", "1") == 0
    assert set(rows()) == {"a"}
    assert run("--fast_search", "--do_at_most", "1", "--only_do_unfinished") == 0
    assert set(rows()) == {"a", "b"}
    Path("CtfFind/job002/micrographs_ctf.star").unlink()
    assert run("--only_make_star") == 0
    assert set(rows()) == {"a", "b"}
    assert failed() == {"Raw/c.mrc": "It has no result yet."}


def test_other_images_are_looked_at(project: Path) -> None:
    """--use_noDW and --use_given_ps: the columns that motion correction writes."""
    extra = {"rlnMicrographNameNoDW": ["Raw/a.mrc"], "rlnCtfPowerSpectrum": ["MotionCorr/job001/Raw/b_PS.mrc"]}
    write_input(["Raw/absent.mrc"], extra)
    assert run("--fast_search", "--use_noDW") == 0
    row = star.read("CtfFind/job002/micrographs_ctf.star")["micrographs"].row(0)
    assert list(row)[:2] == ["rlnMicrographNameNoDW", "rlnMicrographName"]
    assert abs(float(row["rlnDefocusU"]) - DEFOCUS["a"][0]) < 80

    image, _ = read_image("Raw/b.mrc")
    amplitudes = np.abs(np.fft.fftshift(np.fft.fft2(image))).astype(np.float32)
    Path("MotionCorr/job001/Raw").mkdir(parents=True)
    write_map("MotionCorr/job001/Raw/b_PS.mrc", amplitudes, 1.5)
    assert run("--fast_search", "--use_given_ps") == 0
    row = star.read("CtfFind/job002/micrographs_ctf.star")["micrographs"].row(0)
    assert row["rlnMicrographName"] == "Raw/absent.mrc"
    assert row["rlnCtfImage"] == "CtfFind/job002/Raw/b_PS.ctf:mrc"
    assert abs(float(row["rlnDefocusU"]) - DEFOCUS["b"][0]) < 80


def test_a_window_hides_the_rest(project: Path) -> None:
    image, _ = read_image("Raw/a.mrc")
    framed = np.full((1000, 1000), 1000.0, np.float32)
    framed[180:820, 180:820] = image
    write_map("Raw/a.mrc", framed, 1.5)
    write_input(["Raw/a.mrc"])
    assert run("--fast_search", "--ctfWin", "600") == 0
    assert abs(float(rows()["a"]["rlnDefocusU"]) - DEFOCUS["a"][0]) < 80
    assert run("--ctfWin", "1200") == 1
    assert "larger than 1000 x 1000" in failed()["Raw/a.mrc"]
    assert run("--ctfWin", "600", "--use_given_ps") == 1


def test_phase_shifts_get_a_column(project: Path) -> None:
    write_input(["Raw/a.mrc"])
    assert run("--fast_search", "--do_phaseshift", "--phase_min", "-30", "--phase_max", "30") == 0
    assert abs(float(rows()["a"]["rlnPhaseShift"])) < 25


def test_micrographs_by_a_pattern(project: Path) -> None:
    words = ["--CS", "2.7", "--HT", "300", "--AmpCnst", "0.1", "--angpix", "1.5", "--fast_search"]
    assert run("--i", "Raw/*.mrc", *words) == 0
    assert set(rows()) == set(DEFOCUS)
    assert star.read("CtfFind/job002/micrographs_ctf.star")["optics"].floats("rlnVoltage").tolist() == [300]


FAKE = """
import os, sys, json
answers = sys.stdin.read().splitlines()
root = answers[1][:-4]
json.dump([sys.argv[1:], answers], open(root + ".json", "w"))
if os.path.basename(answers[0]).startswith("c"):
    sys.exit("Failed to find any Thon rings")
print("Summary of results : " + root + ".txt")
open(root + ".txt", "w").write("# Output from CTFFind version 5.0\\n# Columns: #1 ; #10\\n"
    "1.0 15001.0 14702.0 -20.0 0.0 0.15 4.5 10.0 20.0 300.0\\n")
"""


@pytest.mark.parametrize("window", [False, True])
def test_the_users_ctffind_is_run(project: Path, window: bool) -> None:
    program = project / "my ctffind; exit"
    program.write_text(f"#!{sys.executable}\n{FAKE}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    words = ["--ctffind_exe", str(program), "--fast_search", "--j", "2", *(["--ctfWin", "512"] * window)]
    assert run(*words) == 0
    assert set(rows()) == {"a", "b"}
    row = rows()["a"]
    assert (float(row["rlnDefocusU"]), float(row["rlnDefocusAngle"])) == (15001.0, -20.0)
    assert (float(row["rlnCtfFigureOfMerit"]), float(row["rlnCtfMaxResolution"])) == (0.15, 4.5)
    assert "status 1 and no result" in failed()["Raw/c.mrc"]
    arguments, answers = json.loads(Path("CtfFind/job002/Raw/a.json").read_text())
    assert arguments == []
    image = "CtfFind/job002/Raw/a_win.mrc" if window else "CtfFind/job002/Raw/a.mrc"
    expected = f"{image} CtfFind/job002/Raw/a.ctf 1.5 300 2.7 0.1 256 30 5 5000 30000 500 no no yes 100 no"
    assert answers == [*expected.split(), "no", "no", "no"]
    if window:
        assert not Path(image).exists()
    else:
        assert Path(image).is_symlink() and Path(image).resolve() == Path("Raw/a.mrc").resolve()
    assert Path("CtfFind/job002/logfile.pdf").exists()


def test_a_missing_ctffind_is_said_and_replaced(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(["Raw/a.mrc"])
    assert run("--ctffind_exe", "/public/EM/ctffind/ctffind.exe", "--fast_search") == 0
    assert "/public/EM/ctffind/ctffind.exe was not found" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind = next(flag.kind for flag in FLAGS if flag.name == name)
    assert run(name, *(["1"] if kind == "value" else [])) == 1
    assert f"{name} is not available in this release" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--Box 255", "--Box must be an even number"),
        ("--ResMin 4", "--ResMin must be a larger number"),
        ("--dFMin 60000", "--dFMin must be"),
        ("--j 0", "--j must be at least 1"),
        ("--phase_min  --do_phaseshift", "--phase_min needs a number"),
        ("--use_given_ps", "needs the column _rlnCtfPowerSpectrum"),
    ],
)
def test_wrong_options_get_a_sentence(
    project: Path, words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words.split() if words.count("phase") == 0 else ["--do_phaseshift", "--phase_min", "--x"]
    assert run(*given) == 1
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err


def test_every_command_of_the_window_is_understood() -> None:
    """The golden commands of CTF estimation hold no flag that this program does not know."""
    seen = 0
    for name in ("commands.jsonl.gz", "commands_random.jsonl.gz"):
        with gzip.open(Path(__file__).parents[2] / "golden" / name, "rt") as file:
            cases = [json.loads(line) for line in file if '"relion.ctffind' in line]
        for case in cases:
            for command in case["commands"]:
                words = command if isinstance(command, list) else command.split()
                flags = [word for word in words if word.startswith("--")]
                known = {flag.name for flag in FLAGS} | {"--pipeline_control"}
                if "relion_run_ctffind" in " ".join(words[:3]):
                    seen += 1
                    assert set(flags) <= known | {"--only_do_unfinished"}
    assert seen > 50
    assert parse(FLAGS, ["--i", "a.star"], "relion_run_ctffind").text("--Box") == "512"


@pytest.mark.skipif(not MPIRUN.is_file(), reason="the mpich wheel is not installed")
def test_ranks_share_the_micrographs(project: Path) -> None:
    write_input([*(f"Raw/{name}.mrc" for name in DEFOCUS), "Raw/none.mrc"])
    program = Path(sys.executable).parent / "relion_run_ctffind_mpi"
    words = [str(MPIRUN), "-n", "2", str(program), "--i", "micrographs.star", "--o", "CtfFind/job002/"]
    done = subprocess.run([*words, *QUICK.split(), "--fast_search"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(rows()) == list(DEFOCUS)
    assert set(failed()) == {"Raw/none.mrc"}
    assert done.stdout.count("Estimating the CTF of 4") == 1
