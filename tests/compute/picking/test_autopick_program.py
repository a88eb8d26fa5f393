"""relion_autopick as a program: its files, bad inputs, continuing, ranks, and RELION 3.1.3 as a witness."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blob_micrographs import blob_micrograph
from in_process import exit_status
from micrograph_list import write_input

from relion_py.compute.cli import autopick
from relion_py.compute.cli.options.autopick import FLAGS, REFUSED
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_image, write_map
from relion_py.compute.io.spider import read_spider, write_spider

MPIRUN = Path(sys.executable).parent / "mpirun"
ODIR = "AutoPick/job003/"
LOG = "--LoG --LoG_diam_min 50 --LoG_diam_max 80 --shrink 0 --lowpass 12 --LoG_adjust_threshold 0.4"
NAMES = ("a", "b", "c")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A project with three micrographs of 2 A per pixel; name -> number of particles."""
    monkeypatch.chdir(tmp_path)
    counts = {}
    (tmp_path / "MotionCorr/job002/Raw").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        image, x, _ = blob_micrograph((512, 512), seed)
        write_map(f"MotionCorr/job002/Raw/{name}.mrc", image, 2.0)
        counts[name] = len(x)
    write_input([mic(name) for name in NAMES])
    return counts


def mic(name: str) -> str:
    return f"MotionCorr/job002/Raw/{name}.mrc"


def words(*more: str, options: str = LOG, odir: str = ODIR) -> list[str]:
    os.makedirs(odir, exist_ok=True)
    control = ["--pipeline_control", odir]
    return ["--i", "micrographs.star", "--odir", odir, "--pickname", "autopick", *options.split(), *more, *control]


def run(*more: str, options: str = LOG) -> int:
    """The exit status of the program in this process."""
    return exit_status(autopick.main, *words(*more, options=options))


def picks(name: str, odir: str = ODIR) -> np.ndarray:
    """x, y, figure of merit (N, 3)."""
    table = star.read(f"{odir}Raw/{name}_autopick.star")[""]
    labels = ("rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit")
    return np.stack([table.floats(label) for label in labels], 1)


def failed() -> dict[str, str]:
    table = star.read(f"{ODIR}failed_micrographs.star")["failed"]
    return dict(zip(table.strings("rlnMicrographName"), table.strings("relionpyFailure"), strict=True))


def listed() -> list[str]:
    table = star.read(f"{ODIR}autopick.star")["coordinate_files"]
    return [Path(name).stem for name in table.strings("rlnMicrographName")]


def test_all_files_of_a_run(project: dict[str, int]) -> None:
    assert run("--j", "2", "--fn_topaz_exe", "relion_python_topaz") == 0
    table = star.read(f"{ODIR}autopick.star")["coordinate_files"]
    assert table.labels == ["rlnMicrographName", "rlnMicrographCoordinates"]
    assert table.strings("rlnMicrographName") == [mic(name) for name in NAMES]
    assert table.strings("rlnMicrographCoordinates") == [f"{ODIR}Raw/{name}_autopick.star" for name in NAMES]
    summary = star.read(f"{ODIR}summary.star")[""]
    assert summary.labels == ["rlnMicrographName", "rlnAutopickFigureOfMerit", "rlnGroupNrParticles"]
    assert summary.ints("rlnGroupNrParticles").tolist() == list(project.values())
    assert summary.floats("rlnAutopickFigureOfMerit")[0] == pytest.approx(picks("a")[:, 2].mean(), abs=1e-6)
    coordinates = star.read(f"{ODIR}Raw/a_autopick.star")[""]
    assert coordinates.labels == [
        "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit", "rlnClassNumber", "rlnAnglePsi",
    ]  # fmt: skip
    assert set(coordinates.ints("rlnClassNumber")) == {0}
    assert Path(f"{ODIR}logfile.pdf").read_bytes()[:5] == b"%PDF-"
    assert Path(f"{ODIR}RELION_JOB_EXIT_SUCCESS").exists()
    assert not Path(f"{ODIR}failed_micrographs.star").exists()
    assert not list(Path("AutoPick").rglob("*.tmp*"))


OPTIONS = [
    LOG,
    "--LoG --LoG_diam_min 50 --LoG_diam_max 80",
    "--LoG --LoG_diam_min 60 --LoG_diam_max 75 --shrink 0.5 --LoG_upper_threshold 2.5 --LoG_neighbour 150",
    "--LoG --LoG_diam_min 50 --LoG_diam_max 80 --shrink 200 --Log_invert --skip_side 40 --Log_max_search 3",
    "--LoG --LoG_diam_min 50 --LoG_diam_max 80 --shrink 0 --lowpass 11 --outlier_removal_zscore 2.5",
    "--LoG --LoG_diam_min 50 --LoG_diam_max 80 --shrink 0.77 --skip_optimise_scale --LoG_adjust_threshold -0.3",
    "--LoG --LoG_diam_min 50 --LoG_diam_max 80 --LoG_use_ctf",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_picks_as_relion(project: dict[str, int], debian_relion: Callable[[str], str], options: str) -> None:
    """RELION 3.1.3 finds the same particles, with the same figures of merit, in the same order."""
    write_input([mic("a")])
    assert run(options=options) == 0
    theirs = words(options=options, odir="AutoPick/theirs/")
    subprocess.run([debian_relion("relion_autopick"), *theirs], check=True, capture_output=True, timeout=120)
    mine, other = picks("a"), picks("a", "AutoPick/theirs/")
    assert len(mine) == len(other) > 10
    np.testing.assert_allclose(mine[:, :2], other[:, :2], atol=1e-4)
    np.testing.assert_allclose(mine[:, 2], other[:, 2], rtol=1e-5, atol=5e-6)


def test_oblong_micrographs_as_relion_picks_them(project: dict[str, int], debian_relion: Callable[[str], str]) -> None:
    """Both put noise beside the micrograph, each its own, and RELION rounds the margin to whole shrunk pixels."""
    for name, shape in (("wide", (384, 512)), ("tall", (512, 350))):
        image, x, _ = blob_micrograph(shape, 8)
        write_map(mic(name), image, 2.0)
        write_input([mic(name)])
        assert run() == 0
        odir = f"AutoPick/{name}/"
        theirs = words(odir=odir)
        subprocess.run([debian_relion("relion_autopick"), *theirs], check=True, capture_output=True, timeout=120)
        mine, other = picks(name), picks(name, odir)
        assert len(mine) == len(other) == len(x)
        distance = np.hypot(mine[:, None, 0] - other[:, 0], mine[:, None, 1] - other[:, 1])
        assert np.mean(distance.min(0) < 1.1 * 512 / 170) > 0.9  # 170 pixels at work


@pytest.mark.parametrize("writer", ["mine", "theirs"])
def test_maps_are_exchanged_with_relion(
    project: dict[str, int], debian_relion: Callable[[str], str], writer: str
) -> None:
    """Maps that one program writes are read by the other, which picks the same from them."""
    write_input([mic("a")])
    program = debian_relion("relion_autopick")

    def theirs(*more: str) -> None:
        subprocess.run([program, *words(*more)], check=True, capture_output=True, timeout=120)

    if writer == "mine":
        assert run("--write_fom_maps") == 0
    else:
        theirs("--write_fom_maps")
    first = picks("a")
    image, _ = read_image(mic("a"))
    write_map(mic("a"), np.random.default_rng(0).standard_normal(image.shape).astype(np.float32), 2.0)
    if writer == "mine":
        theirs("--read_fom_maps")
    else:
        assert run("--read_fom_maps") == 0
    np.testing.assert_allclose(picks("a"), first, atol=2e-6)


def test_maps_that_do_not_fit(project: dict[str, int]) -> None:
    assert run("--read_fom_maps") == 1
    assert "--write_fom_maps" in failed()[mic("a")]
    assert run("--write_fom_maps") == 0
    name = f"{ODIR}Raw/a_autopick_LoG50.spi"
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[:-4])
    Path(name.replace("/a_", "/b_")).write_text("no image " * 200)
    assert run("--read_fom_maps", "--lowpass", "12") == 0
    assert "cut short" in failed()[mic("a")] and "no SPIDER image" in failed()[mic("b")]
    assert run("--read_fom_maps", "--lowpass", "14") == 1
    assert "--lowpass" in failed()[mic("c")]


@pytest.mark.parametrize("shape", [(3, 5), (40, 7), (7, 300), (64, 64)])
def test_spider_files(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    path = str(tmp_path / "x.spi")
    write_spider(path, image)
    np.testing.assert_array_equal(read_spider(path), image)
    swapped = np.fromfile(path, "f4").byteswap()
    swapped.tofile(path)
    np.testing.assert_array_equal(read_spider(path), image)
    Path(path).write_bytes(b"")
    with pytest.raises(UserError, match="no SPIDER image"):
        read_spider(path)


def test_bad_files_are_listed_and_the_rest_done(project: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path(mic("a")).read_bytes()
    Path(mic("short")).write_bytes(whole[:5000])
    Path(mic("empty")).write_bytes(b"")
    Path(mic("text")).write_text("this is no image\n" * 100)
    image, _ = read_image(mic("a"))
    write_map(mic("flat"), np.full_like(image, 3.0), 2.0)
    write_map(mic("small"), image[:12, :12], 2.0)
    image[7, 7] = np.nan
    write_map(mic("nan"), image, 2.0)
    bad = ["short", "empty", "text", "flat", "nan", "small", "missing"]
    write_input([mic("a"), *map(mic, bad), mic("b")])
    assert run("--j", "2") == 0
    assert listed() == ["a", "b"]
    sentences = failed()
    assert set(sentences) == set(map(mic, bad))
    for name, part in (
        ("short", "cut short"), ("empty", "0 bytes"), ("flat", "is empty"), ("nan", "not numbers"),
        ("small", "12 x 12 pixels"), ("missing", "no such file"),
    ):  # fmt: skip
        assert part in sentences[mic(name)] and mic(name) in sentences[mic(name)]
    assert capsys.readouterr().err.count("is skipped") == len(bad)


def test_micrographs_of_different_sizes(project: dict[str, int]) -> None:
    image, x, _ = blob_micrograph((300, 420), 9)
    write_map(mic("b"), image, 2.0)
    assert run() == 0
    assert [len(picks(name)) for name in NAMES] == [project["a"], len(x), project["c"]]


def test_nothing_usable_is_a_failure(project: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    write_input([mic("none")])
    assert run() == 1
    assert Path(f"{ODIR}RELION_JOB_EXIT_FAILURE").exists()
    assert "No micrograph was picked" in capsys.readouterr().err


def test_no_particles_are_a_result(project: dict[str, int], debian_relion: Callable[[str], str]) -> None:
    """RELION 3.1.3 reads the empty list as one (and then stumbles over its plot of nothing)."""
    write_input([mic("a")])
    assert run("--LoG_adjust_threshold", "50") == 0
    assert len(picks("a")) == 0
    assert listed() == ["a"]
    assert star.read(f"{ODIR}summary.star")[""].floats("rlnAutopickFigureOfMerit").tolist() == [0]
    program = debian_relion("relion_autopick")
    done = subprocess.run([program, *words("--only_do_unfinished")], capture_output=True, text=True, timeout=120)
    assert "Total number of particles from 1 micrographs is 0" in done.stdout


@pytest.mark.req("G9")
def test_a_continued_job_does_only_what_is_left(project: dict[str, int]) -> None:
    Path(mic("b")).rename("away.mrc")
    assert run() == 0
    assert listed() == ["a", "c"]
    first = Path(f"{ODIR}Raw/a_autopick.star")
    before = first.stat().st_mtime_ns
    Path("away.mrc").rename(mic("b"))
    assert run("--only_do_unfinished") == 0
    assert listed() == ["a", "b", "c"]
    assert first.stat().st_mtime_ns == before
    assert not Path(f"{ODIR}failed_micrographs.star").exists()
    # old coordinates do not stand for a micrograph that fails when all is done anew
    Path(mic("a")).write_bytes(b"")
    assert run() == 0
    assert listed() == ["b", "c"]


@pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun is not installed")
def test_ranks_give_the_same_files(project: dict[str, int]) -> None:
    assert run() == 0
    alone = {name: picks(name) for name in NAMES}
    Path(mic("b")).write_bytes(b"")
    environment = {**os.environ, "OMPI_MCA_rmaps_base_oversubscribe": "1", "NUMBA_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "relion_py.compute.cli.autopick"]
    done = subprocess.run(
        [str(MPIRUN), "-n", "2", *program, *words()], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert listed() == ["a", "c"]
    assert set(failed()) == {mic("b")}
    for name in ("a", "c"):
        np.testing.assert_array_equal(picks(name), alone[name])


def test_a_request_to_stop(project: dict[str, int]) -> None:
    os.makedirs(ODIR)
    Path(f"{ODIR}RELION_JOB_ABORT_NOW").touch()
    assert run() == 1
    assert Path(f"{ODIR}RELION_JOB_EXIT_ABORTED").exists()
    assert not Path(f"{ODIR}autopick.star").exists()


def test_micrographs_by_a_pattern(project: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--i", "MotionCorr/job002/Raw/*.mrc", "--angpix", "2") == 0
    assert listed() == list(NAMES)
    assert run("--i", "MotionCorr/job002/Raw/*.mrc") == 1
    assert "--angpix" in capsys.readouterr().err
    assert run("--i", "MotionCorr/job002/Raw/*.tif", "--angpix", "2") == 1
    assert "no micrographs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ("--ref refs.star --invert --ctf --ang 5", "two ways of picking"),
        ("--gpu 0:1", "--gpu is not available"),
        ("--LoG_diam_min 90", "the minimum not above the maximum"),
        ("--pickname ../x", "--pickname must be"),
        ("--j 0", "--j must be at least 1"),
        ("--shrink 4000", "--shrink asks for 4000"),
    ],
)
def test_what_cannot_be_is_said(
    project: dict[str, int], more: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*more.split()) == 1
    assert part in capsys.readouterr().err
    assert not Path(f"{ODIR}autopick.star").exists()


def test_options_of_other_methods_are_named(project: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--ang", "5", "--invert") == 0
    err = capsys.readouterr().err
    assert "--ang plays no role with --LoG" in err and "--invert plays no role" in err


def test_without_a_method(project: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(options="") == 1
    assert "Say how to pick" in capsys.readouterr().err


def test_more_maps_than_anybody_wants(project: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    write_input([mic(f"m{number}") for number in range(31)])
    assert run("--write_fom_maps") == 1
    assert "--no_fom_limit" in capsys.readouterr().err


def test_every_option_of_the_reference_is_known(shared: Path) -> None:
    groups = json.loads((shared / "reference/programs.json").read_text())["relion_autopick"]["groups"]
    theirs = {option["option"] for group in groups.values() for option in group}
    mine = {flag.name for flag in FLAGS}
    assert theirs <= mine
    assert mine - theirs == {"--i", "--j"} - theirs
    assert set(REFUSED) < mine


def test_options_that_jobs_give_are_known(shared: Path) -> None:
    given: set[str] = set()
    for line in (shared / "golden/commands.jsonl").read_text().splitlines():
        job = json.loads(line)
        if job["type"] == 4 and job["ok"]:
            for command in job.get("commands", []):
                given |= set(re.findall(r"(?<= )--[A-Za-z_]+", str(command)))
    assert {"--LoG", "--topaz_extract", "--healpix_order"} <= given
    assert given <= {flag.name for flag in FLAGS} | {"--pipeline_control"} | {"--allow_save", "--selection"}
