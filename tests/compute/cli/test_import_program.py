"""relion_import as a real process, with Debian's relion_import as the witness."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from relion_py.compute.io import mrc, star
from relion_py.compute.io.particles import read_particles

OPTICS = ["--optics_group_name", "og1", "--angpix", "1.4", "--kV", "200", "--Cs", "1.4", "--Q0", "0.1"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with three movies, which is the working directory."""
    root = tmp_path / "project"
    (root / "Movies").mkdir(parents=True)
    for name in ("b", "a", "c[1]"):
        (root / f"Movies/{name}.tif").write_bytes(b"movie")
    monkeypatch.chdir(root)
    return root


def ours(project, *words, odir="Import/job001/"):
    (project / odir).mkdir(parents=True, exist_ok=True)  # as the pipeline does
    command = [sys.executable, "-m", "relion_py.compute.cli.import_", *words, "--odir", odir]
    return subprocess.run(
        [*command, "--pipeline_control", odir], cwd=project, capture_output=True, text=True, timeout=60
    )


def theirs(program, project, *words, odir="Import/job002/"):
    (project / odir).mkdir(parents=True, exist_ok=True)
    return subprocess.run([program, *words, "--odir", odir], cwd=project, capture_output=True, text=True, timeout=60)


def same_but_for_the_version(project, name):
    one, other = ((project / f"Import/{job}/{name}").read_text() for job in ("job001", "job002"))
    return one.replace("# version 50001", "# version 30001") == other


@pytest.mark.parametrize(("kind", "name"), [("--do_movies", "movies.star"), ("--do_micrographs", "micrographs.star")])
@pytest.mark.parametrize(
    "more", [[], ["--optics_group_mtf", "mtf.star", "--beamtilt_x", "-0.25", "--beamtilt_y", "0.5"]], ids=str
)
def test_movies_and_micrographs_as_debian_writes_them(project, debian_relion, kind, name, more):
    words = [kind, "--i", "Movies/*.tif", "--ofile", name, *OPTICS, *more]
    result = ours(project, *words)
    assert result.returncode == 0, result.stderr
    assert "with 3 items (3 new items)" in result.stdout
    assert (project / "Import/job001/RELION_JOB_EXIT_SUCCESS").exists()
    assert theirs(debian_relion("relion_import"), project, *words).returncode == 0
    assert same_but_for_the_version(project, name)


@pytest.mark.req("G9")
def test_packed_movies_are_no_odd_files(project):
    """Motion correction reads what it is not to be warned of; of a text there is a warning."""
    for name in ("x_bz.mrcs.bz2", "x_xz.mrc.xz", "x_zst.mrc.zst"):
        (project / name).write_bytes(b"packed")
    flags = ("--angpix", "1", "--kV", "300", "--Cs", "2.7", "--Q0", "0.1")
    result = ours(project, "--do_movies", "--i", "x_*", "--ofile", "movies.star", *flags)
    assert (result.returncode, result.stderr) == (0, "")
    (project / "x_notes.txt").write_text("a note")
    result = ours(project, "--do_movies", "--i", "x_*", "--ofile", "movies.star", *flags)
    assert "x_notes.txt (and 0 more) does not look like an image file" in result.stderr


def test_continuing_adds_only_new_files(project, debian_relion):
    """New files join their optics group, or a new one with other values; what is there stays."""
    words = ["--do_movies", "--ofile", "movies.star"]
    witness = debian_relion("relion_import")
    for step, more in enumerate(
        (
            ["--i", "Movies/[ab].tif", *OPTICS],
            ["--i", "Movies/*.tif", *OPTICS, "--continue"],
            ["--i", "More/*.tif", "--optics_group_name", "og2", "--beamtilt_x", "1", "--continue"],
        )
    ):
        if step == 2:
            (project / "More").mkdir()
            (project / "More/z.tif").write_bytes(b"movie")
        assert ours(project, *words, *more).returncode == 0
        assert theirs(witness, project, *words, *more).returncode == 0
    file = star.read(project / "Import/job001/movies.star")
    other = star.read(project / "Import/job002/movies.star")
    assert file["movies"] == other["movies"]
    assert file["movies"].strings("rlnOpticsGroup") == ["1", "1", "1", "2"]
    assert file["optics"].labels == other["optics"].labels
    for label in file["optics"].labels:
        assert file["optics"].strings(label) == other["optics"].strings(label)


def test_continuing_with_nothing_new_keeps_all(project):
    words = ["--do_movies", "--ofile", "movies.star", *OPTICS]
    assert ours(project, *words, "--i", "Movies/*.tif").returncode == 0
    before = star.read(project / "Import/job001/movies.star").blocks
    assert ours(project, *words, "--i", "", "--continue").returncode == 0
    assert star.read(project / "Import/job001/movies.star").blocks == before


def test_a_name_with_wildcard_characters_is_taken_literally(project):
    assert ours(project, "--do_movies", "--i", "Movies/c[1].tif", "--ofile", "m.star").returncode == 0
    table = star.read(project / "Import/job001/m.star")["movies"]
    assert table.strings("rlnMicrographMovieName") == ["Movies/c[1].tif"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--do_movies", "--i", "../x/*.tif"], "leads out of the project"),
        (["--do_movies", "--i", "/data/*.tif"], "absolute path"),
        (["--do_movies", "--i", "Movies/*.mrc"], 'No file matches "Movies/*.mrc"'),
        (["--do_movies", "--i", "Movies/*.tif", "--angpix", "0"], "must be positive"),
        (["--do_movies", "--i", "Movies/*.tif", "--kV", "x"], "--kV needs a number"),
        (["--do_movies", "--i", "Movies/*.tif", "--Q0", "10"], "between 0 and 1"),
        (["--do_movies", "--i", "Movies/*.tif", "--optics_group_name", "a b"], "only letters"),
        (["--do_movies", "--do_other", "--i", "Movies/*.tif"], "Exactly one of"),
        (["--do_coordinates", "--i", "Movies/a.star"], "has no *"),
        (["--do_other", "--i", "Movies/*.tif"], "3 files match"),
        (["--do_halfmaps", "--i", "Movies/a.tif"], "half1"),
        (["--do_particles", "--i", "none.star"], "no such file"),
    ],
)
def test_mistakes_are_sentences(project, words, sentence):
    result = ours(project, *words, "--ofile", "out.star")
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert (project / "Import/job001/RELION_JOB_EXIT_FAILURE").exists()


def test_the_output_stays_in_its_directory(project):
    result = ours(project, "--do_movies", "--i", "Movies/*.tif", "--ofile", "../../x.star")
    assert result.returncode == 1
    assert "without directories" in result.stderr


def test_coordinates_as_debian_copies_them(project, debian_relion):
    (project / "Movies/sub").mkdir()
    for name in ("Movies/a_pick.star", "Movies/sub/b_pick.star"):
        (project / name).write_text("data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 2\n")
    for pattern in ("Movies/*_pick.star", "Movies/*/*_pick.star"):
        words = ["--do_coordinates", "--i", pattern, "--ofile", "coords_suffix_pick.star"]
        assert ours(project, *words).returncode == 0
        assert theirs(debian_relion("relion_import"), project, *words).returncode == 0
    one, other = (
        {
            str(path.relative_to(project / "Import" / job)): path.read_bytes()
            for path in (project / "Import" / job).rglob("*")
            if path.is_file() and "EXIT" not in path.name
        }
        for job in ("job001", "job002")
    )
    assert set(one) == {"coords_suffix_pick.star", "Movies/a_pick.star", "Movies/sub/b_pick.star"}
    assert one == other
    # RELION 5 (import.cpp) writes the pattern of the micrographs there
    assert one["coords_suffix_pick.star"] == b"Movies/*/*.mrc\n"


@pytest.mark.parametrize("link", [None, "../AutoPick/job006/", "job006"])
def test_coordinates_of_another_job_leave_its_name_behind(project, link):
    (project / "AutoPick/job006/Movies").mkdir(parents=True)
    (project / "AutoPick/job006/Movies/a_pick.star").write_text("data_\n")
    directory = "AutoPick/job006"
    if link:
        (project / "AutoPick/mine").symlink_to(link)
        directory = "AutoPick/mine"
    words = [
        "--do_coordinates",
        "--i",
        f"{directory}/Movies/*_pick.star",
        "--ofile",
        "coords_suffix_pick.star",
    ]
    assert ours(project, *words).returncode == 0
    assert (project / "Import/job001/Movies/a_pick.star").is_file()


def test_half_maps_come_in_pairs(project):
    for half in ("half1", "half2"):
        mrc.write_map(project / f"run_{half}_class001_unfil.mrc", np.ones((4, 4, 4)), 1.0)
    words = ["--do_halfmaps", "--ofile", "run_half1_class001_unfil.mrc"]
    assert ours(project, *words, "--i", "run_half1_class001_unfil.mrc").returncode == 0
    for half in ("half1", "half2"):
        name = f"run_{half}_class001_unfil.mrc"
        assert (project / "Import/job001" / name).read_bytes() == (project / name).read_bytes()
    (project / "run_half2_class001_unfil.mrc").unlink()
    assert "is missing" in ours(project, *words, "--i", "run_half1_class001_unfil.mrc").stderr


@pytest.mark.req("E2")
def test_particles_from_elsewhere_come_with_a_report(project, shared, unpacked):
    packed = unpacked(shared / "data/real/tiny-stacks/empiar_10076_7.mrc.gz")
    (project / packed.name).write_bytes(packed.read_bytes())
    (project / "p.star").write_bytes((shared / "data/real/tiny-stacks/empiar_10076_7.star").read_bytes())
    words = ["--do_particles", "--i", "p.star", "--ofile", "p.star"]
    result = ours(project, *words, "--particles_optics_group_name", "L17")
    assert result.returncode == 0, result.stderr
    assert "is converted" in result.stdout
    assert "Consistency report: no problems found" in result.stdout
    table = read_particles(project / "Import/job001/p.star", project)
    assert not table.converted
    assert [(g.name, g.box_size, round(g.pixel_size, 3)) for g in table.optics_groups] == [("L17", 320, 1.31)]

    (project / packed.name).unlink()
    result = ours(project, *words)
    assert result.returncode == 0
    assert "1 of 1 image files are missing" in result.stderr


def test_several_optics_groups_cannot_get_one_name(project, shared):
    (project / "six.star").write_bytes((shared / "data/real/tiny-stacks/relion31.6opticsgroups.star").read_bytes())
    words = ["--do_particles", "--i", "six.star", "--ofile", "six.star"]
    result = ours(project, *words, "--particles_optics_group_name", "one")
    assert result.returncode == 1
    assert "6 optics groups" in result.stderr
    assert ours(project, *words).returncode == 0
    old, new = star.read(project / "six.star"), star.read(project / "Import/job001/six.star")
    assert new["optics"] == old["optics"]
    assert new["particles"] == old["particles"]
