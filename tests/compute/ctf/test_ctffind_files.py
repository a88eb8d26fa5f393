"""CTFFIND's files and questions; the witness is a real job of RELION 5 with CTFFIND 4.1.14."""

from __future__ import annotations

import stat
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.ctf.ctffind import (
    CtfResult,
    ctffind_answers,
    find_ctffind,
    read_results,
    remove_results,
    run_ctffind,
    write_results,
)
from relion_py.compute.ctf.estimate import CtfFit, Microscope, Search
from relion_py.compute.ctf.quality import Profiles
from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.io import star

PROJECT = "data/real/bgal-10204-relion5-project"
ARM = Microscope(200.0, 1.4, 0.1)
SEARCH = Search(30, 5, 5000, 50000, 500, 100)


def program(path: Path, body: str) -> str:
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_results_of_a_real_job_are_read_as_relion_read_them(shared: Path) -> None:
    job = shared / PROJECT / "CtfFind/job005"
    if not job.is_dir():
        pytest.skip("the real job is not here")
    table = star.read(job / "micrographs_ctf.star")["micrographs"]
    assert len(table) == 24
    for row in table.rows():
        root = str(shared / PROJECT / row["rlnCtfImage"].removesuffix(".ctf:mrc"))
        result = read_results(root)
        assert result is not None
        expected = [float(row[f"rln{name}"]) for name in (
            "DefocusU", "DefocusV", "DefocusAngle", "CtfFigureOfMerit", "CtfMaxResolution",
            "CtfIceRingDensity",
        )]  # fmt: skip
        found = [result.defocus_u, result.defocus_v, result.angle, result.score, result.resolution, result.ice]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ctffind_is_told_what_relion_tells_it(shared: Path) -> None:
    job = shared / PROJECT / "CtfFind/job005/Movies"
    script = job / "20170629_00021_frameImage_PS_ctffind4.com"
    if not script.is_file():
        pytest.skip("the real job is not here")
    lines = script.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.endswith("<< EOF"))
    expected = lines[start + 1 : lines.index("EOF")]
    assert "--amplitude-spectrum-input" in lines[start]
    root = expected[1].removesuffix(".ctf")
    answers = ctffind_answers(expected[0], root, 1.3995524, 512, ARM, SEARCH, exhaustive=False)
    # one "no" more, for the question of release 5 about the thickness of the sample
    assert answers.splitlines() == [*expected, "no"]


def test_phase_shifts_are_told_in_radians() -> None:
    search = Search(30, 5, 5000, 50000, 500, 100, find_phase=True, phase_min=0, phase_max=180, phase_step=10)
    lines = ctffind_answers("a.mrc", "a", 1.0, 512, ARM, search, exhaustive=True).splitlines()
    assert lines[12:16] == ["no", "yes", "yes", "100"]
    assert lines[16:] == ["yes", "0", "3.14159", "0.174533", "no", "no", "no"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    root = str(tmp_path / "mic")
    frequency = np.linspace(0, 0.5, 11)
    flat = np.full(11, -0.5)
    curves = Profiles(frequency, flat, flat, flat, flat, flat, 4.25)
    fit = CtfFit(12345.5, 12000.25, -33.5, 90.0, 0.125)
    write_results(root, "Movies/mic.mrc", fit, curves, ARM, SEARCH, 512, 1.4)
    result = read_results(root)
    assert result is not None
    assert (result.defocus_u, result.defocus_v, result.angle) == (12345.5, 12000.25, -33.5)
    assert result.phase_shift == pytest.approx(90.0, abs=1e-4)
    assert (result.score, result.resolution) == (0.125, 4.25)
    assert result.ice == pytest.approx(0.5)  # one bin, at 0.25, of -0.5
    remove_results(root)
    assert read_results(root) is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("1.0 2.0 1.0 5.0 0.0 nan inf", CtfResult(2.0, 1.0, 5.0, 0.0, 0.0, 999.0)),
        ("1.0 nan 1.0 5.0 0.0 0.1 4.0", None),
        ("1.0 2.0 1.0", None),
        ("what is this line about anyway friends", None),
        ("1.0 2.0 1.0 5.0 0.0 0.1 4.0 12.0 3.0 900.0", CtfResult(2.0, 1.0, 5.0, 0.0, 0.1, 4.0)),
    ],
)
def test_odd_results(tmp_path: Path, row: str, expected: CtfResult | None) -> None:
    root = str(tmp_path / "mic")
    (tmp_path / "mic_ctffind4.log").write_text("Summary of results : mic.txt\n")
    (tmp_path / "mic.txt").write_text(f"# Pixel size\n# Columns: #1\n{row}\n")
    assert read_results(root) == expected


def test_a_log_without_a_summary_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "mic.txt").write_text("# Columns: #1\n1 2 1 5 0 0.1 4\n")
    assert read_results(str(tmp_path / "mic")) is None
    (tmp_path / "mic_ctffind4.log").write_text("Segmentation fault\n")
    assert read_results(str(tmp_path / "mic")) is None


def test_the_program_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELION_CTFFIND_EXECUTABLE", raising=False)
    assert find_ctffind("")[0] == ""
    path, sentence = find_ctffind("/no/such/ctffind")
    assert path == "" and "/no/such/ctffind was not found" in sentence and "built-in" in sentence
    mine = program(tmp_path / "ctffind", "")
    assert find_ctffind(mine)[0] == mine
    monkeypatch.setenv("RELION_CTFFIND_EXECUTABLE", mine)
    assert find_ctffind("")[0] == mine
    (tmp_path / "text").write_text("no program")
    with pytest.raises(UserError, match="not a program"):
        find_ctffind(str(tmp_path / "text"))


def test_a_program_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    broken = program(tmp_path / "ctffind", "print('Thon rings? never heard of them'); sys.exit(3)")
    with pytest.raises(UserError, match=r"status 3 and no result; see .*mic_ctffind4.log"):
        run_ctffind(broken, "a\n", str(tmp_path / "mic"), is_spectrum=False)
    assert "never heard" in (tmp_path / "mic_ctffind4.log").read_text()


def test_a_program_is_ended_when_the_job_is(tmp_path: Path) -> None:
    slow = program(tmp_path / "ctffind", "time.sleep(60)")
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Aborted):
        run_ctffind(slow, "a\n", str(tmp_path / "mic"), is_spectrum=False, stop=stop)
    assert time.monotonic() - start < 10
