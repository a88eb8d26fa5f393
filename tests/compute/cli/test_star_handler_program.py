"""relion_star_handler beside Debian's program, on lists of particles of two microscopes."""

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import outcome

from relion_py.compute.cli.star_handler import _main
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_stack
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.post.star_lists import later_duplicates, split_rows

N = 60


program = partial(outcome, _main)


def particles(directory: Path, name: str, seed: int, groups: tuple[str, ...], **more: float) -> None:
    """A list of N particles on 4 micrographs, some of them picked twice, and their images."""
    rng = np.random.default_rng(seed)
    optics = Table({"rlnOpticsGroup": range(1, len(groups) + 1), "rlnOpticsGroupName": groups})
    for label, value in {
        "rlnImagePixelSize": 3.0, "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1,
        "rlnImageSize": 16, "rlnImageDimensionality": 2, **more,
    }.items():  # fmt: skip
        optics.set(label, value)
    images = rng.normal(size=(N, 16, 16)).astype(np.float32)
    images[7] += 5
    images[9] *= 6
    write_stack(directory / f"{name}.mrcs", images, 3.0)
    x, y = rng.uniform(0, 400, (2, N))
    x[30:40], y[30:40] = x[:10] + rng.uniform(-4, 4, 10), y[:10] + rng.uniform(-4, 4, 10)
    rows = Table({"rlnImageName": [f"{n + 1:06d}@{name}.mrcs" for n in range(N)]})
    rows.set("rlnMicrographName", [f"{name}/mic{n % 30 % 4}.mrc" for n in range(N)])
    for label, values in {
        "rlnCoordinateX": x, "rlnCoordinateY": y,
        "rlnOriginXAngst": rng.uniform(-6, 6, N), "rlnOriginYAngst": rng.uniform(-6, 6, N),
        "rlnAngleRot": rng.uniform(-180, 180, N), "rlnAngleTilt": rng.uniform(0, 180, N),
        "rlnAnglePsi": rng.uniform(-180, 180, N), "rlnDefocusU": rng.uniform(8000, 20000, N),
        "rlnClassNumber": rng.integers(1, 5, N), "rlnOpticsGroup": rng.integers(1, len(groups) + 1, N),
    }.items():  # fmt: skip
        rows.set(label, values)
    rows.set("rlnGroupName", [f"group_{n % 3}" for n in range(N)])
    star.write(directory / f"{name}.star", StarFile({"optics": optics, "particles": rows}))


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    particles(tmp_path, "a", 1, ("krios", "glacios"))
    particles(tmp_path, "b", 2, ("talos", "krios"), rlnBeamTiltX=0.3, rlnBeamTiltY=-0.2)
    return tmp_path


def same(ours: StarFile, theirs: StarFile) -> None:
    for block in theirs:
        assert sorted(ours[block].labels) == sorted(theirs[block].labels), block
        assert len(ours[block]) == len(theirs[block]), block
        for label in theirs[block].labels:
            try:
                expected = theirs[block].floats(label)
            except star.StarError:
                assert ours[block].strings(label) == theirs[block].strings(label), label
            else:
                np.testing.assert_allclose(ours[block].floats(label), expected, atol=2e-4, err_msg=label)


@pytest.mark.parametrize(
    "flags",
    [
        "--i a.star --select rlnDefocusU --minval 9000 --maxval 15000",
        "--i a.star --select rlnClassNumber --minval 2 --maxval 3",
        "--i a.star --select_by_str rlnMicrographName --select_exclude mic2",
        "--i a.star --discard_on_stats --discard_sigma 3",
        "--i a.star --remove_duplicates 20 --image_angpix 1.5",
        "--i a.star --remove_duplicates 12",
        "--i a.star --operate rlnDefocusU --operate2 rlnOriginXAngst --multiply_by 1.5 --add_to 2",
        "--i a.star --operate rlnClassNumber --set_to 7",
        "--i a.star --center --center_X 3 --center_Y -2 --center_Z 5",
        "--i a.star --remove_column rlnDefocusU",
        "--i a.star --add_column rlnCtfMaxResolution --add_column_value 4.5",
        "--i a.star --add_column rlnDefocusV --copy_column_from rlnDefocusU",
    ],
)
def test_as_debians_relion(lists: Path, debian_relion: Callable[[str], str], flags: str) -> None:
    code, _, err = program(lists, *flags.split(), "--o", "ours.star")
    assert code == 0, err
    command = [debian_relion("relion_star_handler"), *flags.split(), "--o", "theirs.star"]
    subprocess.run(command, cwd=lists, check=True, capture_output=True)
    same(star.read(lists / "ours.star"), star.read(lists / "theirs.star"))
    if "duplicates" in flags:
        removed = star.read(lists / "ours_removed.star")["particles"]
        assert 2 < len(removed) < 20
        theirs = star.read(lists / "theirs_removed.star")
        assert removed.strings("rlnImageName") == next(iter(theirs.values())).strings("rlnImageName")


def test_2d_alignments_are_centred_as_by_debians_relion(lists: Path, debian_relion: Callable[[str], str]) -> None:
    """They may come without rot and tilt, which are 0 then."""
    file = star.read(lists / "a.star")
    for label in ("rlnAngleRot", "rlnAngleTilt"):
        file["particles"].remove(label)
    star.write(lists / "flat.star", file)
    words = ["--i", "flat.star", "--center", "--center_X", "3", "--center_Y", "-2"]
    code, _, err = program(lists, *words, "--o", "ours.star")
    assert code == 0, err
    subprocess.run(
        [debian_relion("relion_star_handler"), *words, "--o", "theirs.star"], cwd=lists, check=True, capture_output=True
    )
    same(star.read(lists / "ours.star"), star.read(lists / "theirs.star"))


@pytest.mark.req("G5")
def test_files_are_combined_as_by_debians_relion(lists: Path, debian_relion: Callable[[str], str]) -> None:
    words = ["--combine", "--i", " a.star b.star ", "--check_duplicates", "rlnImageName"]
    code, _, err = program(lists, *words, "--o", "JoinStar/job007/join_particles.star")
    assert code == 0, err
    command = [debian_relion("relion_star_handler"), *words, "--o", "theirs.star"]
    subprocess.run(command, cwd=lists, check=True, capture_output=True)
    ours, theirs = star.read(lists / "JoinStar/job007/join_particles.star"), star.read(lists / "theirs.star")
    assert ours["optics"].strings("rlnOpticsGroupName") == ["krios", "glacios", "talos"]
    assert ours["optics"].floats("rlnBeamTiltX").tolist() == [0.0, 0.0, 0.3]
    for label in ("rlnImageName", "rlnOpticsGroup"):
        assert ours["particles"].strings(label) == theirs["particles"].strings(label)
    same(StarFile({"optics": ours["optics"]}), StarFile({"optics": theirs["optics"]}))
    assert "krios are joined" in err
    assert (
        ours["particles"].strings("rlnGroupName")[N] == f"optics{ours['particles'].ints('rlnOpticsGroup')[N]}_group_0"
    )


def test_the_same_file_twice_is_told(lists: Path) -> None:
    words = ["--combine", "--i", "a.star a.star missing.star", "--check_duplicates", "rlnImageName"]
    code, _, err = program(lists, *words, "--o", "out.star")
    assert code == 0
    assert f"Total number of duplicate rlnImageName entries: {N}" in err
    assert "missing.star does not match" in err
    assert len(star.read(lists / "out.star")["particles"]) == 2 * N


def test_an_old_file_joins_a_new_one(lists: Path) -> None:
    rows = star.read(lists / "b.star")["particles"]
    old = Table({"rlnImageName": rows.strings("rlnImageName"), "rlnOriginX": [1.0] * N})
    for label, value in (("rlnVoltage", 200.0), ("rlnSphericalAberration", 2.0), ("rlnAmplitudeContrast", 0.1),
                         ("rlnDetectorPixelSize", 5.0), ("rlnMagnification", 25000.0)):  # fmt: skip
        old.set(label, value)
    star.write(lists / "old.star", StarFile({"": old}))
    code, _, err = program(lists, "--combine", "--i", "a.star old.star", "--o", "out.star")
    assert code == 0, err
    joined = star.read(lists / "out.star")
    assert joined["optics"].floats("rlnImagePixelSize").tolist() == [3.0, 3.0, 2.0]
    assert joined["optics"].floats("rlnVoltage").tolist() == [300.0, 300.0, 200.0]
    assert set(joined["particles"].ints("rlnOpticsGroup")[N:]) == {3}
    assert joined["particles"].floats("rlnOriginXAngst")[N] == 2.0


def without_version(file: StarFile) -> str:
    """The text of a STAR file as older releases write it."""
    return re.sub("# version .*", "", star.dumps(file))


OLD = "rlnVoltage rlnDefocusU rlnSphericalAberration rlnAmplitudeContrast rlnMagnification rlnDetectorPixelSize"


@pytest.fixture
def of_30(lists: Path) -> Path:
    """old.star: particles as RELION 3.0 lists them, of two microscopes and with origins in pixels."""
    rows = star.read(lists / "a.star")["particles"]
    old = Table({"rlnImageName": rows.strings("rlnImageName")})
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"):
        old.set(label, rows.floats(label))
    for label, value in zip(OLD.split(), (300.0, 9000.0, 2.7, 0.1, 20000.0, 6.0), strict=True):
        old.set(label, value)
    old.set("rlnVoltage", [200.0 + 100.0 * (n % 2) for n in range(N)])
    old.set("rlnOriginX", [0.5 * n for n in range(N)])
    old.set("rlnOriginY", 1.5)
    (lists / "old.star").write_text(without_version(StarFile({"": old})))
    return lists


@pytest.mark.parametrize("flags", ["--select rlnAngleRot --minval 0", "--center --center_X 2"])
def test_old_files_are_brought_into_todays_form_as_by_debians_relion(
    of_30: Path, debian_relion: Callable[[str], str], flags: str
) -> None:
    words = ["--i", "old.star", *flags.split()]
    code, _, err = program(of_30, *words, "--o", "ours.star")
    assert code == 0 and "RELION 3.0 or earlier" in err
    command = [debian_relion("relion_star_handler"), *words, "--o", "theirs.star"]
    subprocess.run(command, cwd=of_30, check=True, capture_output=True)
    theirs = star.read(of_30 / "theirs.star")
    if "rlnMicrographPixelSize" in theirs["optics"]:  # it took them for micrographs, and warned of that
        theirs["optics"].remove("rlnMicrographPixelSize")
    assert theirs["optics"].floats("rlnImagePixelSize").tolist() == [3.0, 3.0]
    same(star.read(of_30 / "ours.star"), theirs)


def test_two_old_files_are_joined_in_todays_form(of_30: Path) -> None:
    code, _, err = program(of_30, "--combine", "--i", "old.star old.star", "--o", "out.star")
    assert code == 0, err
    joined = star.read(of_30 / "out.star")
    assert joined["optics"].floats("rlnVoltage").tolist() == [200.0, 300.0]
    assert joined["particles"].floats("rlnOriginXAngst")[[3, N + 3]].tolist() == [4.5, 4.5]


def test_what_tells_nothing_of_its_microscope_is_not_joined_with_optics_groups(lists: Path) -> None:
    rows = star.read(lists / "b.star")["particles"]
    star.write(lists / "bare.star", StarFile({"": Table({"rlnImageName": rows.strings("rlnImageName")})}))
    words = ["--combine", "--i", "a.star bare.star", "--o", "out.star"]
    code, _, err = program(lists, *words)
    assert code == 1 and "bare.star has no optics groups, which others have" in err
    assert program(lists, *words, "--ignore_optics")[0] == 0
    assert "optics" not in star.read(lists / "out.star") and len(star.read(lists / "out.star")["particles"]) == 2 * N


def test_rows_of_an_unknown_optics_group(lists: Path) -> None:
    file = star.read(lists / "a.star")
    file["particles"].set("rlnOpticsGroup", [1] * (N - 1) + [7])
    star.write(lists / "wrong.star", file)
    words = ["--i", "wrong.star", "--select", "rlnDefocusU", "--o", "out.star"]
    code, _, err = program(lists, *words)
    assert code == 1 and "wrong.star: rows are in optics group 7, which its data_optics lacks" in err
    assert program(lists, *words, "--ignore_optics")[0] == 0


def test_a_column_that_is_not_there_is_removed_as_by_debians_relion(
    lists: Path, debian_relion: Callable[[str], str]
) -> None:
    words = ["--i", "a.star", "--remove_column", "rlnGroupNumber"]
    code, _, err = program(lists, *words, "--o", "ours.star")
    assert code == 0 and "no column _rlnGroupNumber" in err
    command = [debian_relion("relion_star_handler"), *words, "--o", "theirs.star"]
    subprocess.run(command, cwd=lists, check=True, capture_output=True)
    same(star.read(lists / "ours.star"), star.read(lists / "theirs.star"))


def test_an_empty_list_has_nothing_to_discard(lists: Path) -> None:
    file = star.read(lists / "a.star")
    star.write(lists / "none.star", StarFile({"optics": file["optics"], "particles": file["particles"].select([])}))
    code, _, err = program(lists, "--i", "none.star", "--discard_on_stats", "--o", "out.star")
    assert code == 0, err
    assert len(star.read(lists / "out.star")["particles"]) == 0


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        ("--nr_split 4", [15, 15, 15, 15]),
        ("--size_split 25", [25, 25, 10]),
        ("--nr_split 2 --size_split 10", [10, 10]),
        ("--nr_split 7 --random_order --random_seed 3", [9, 9, 9, 9, 9, 9, 6]),
    ],
)
def test_split(lists: Path, flags: str, sizes: list[int]) -> None:
    out = "Select/job009/particles.star"
    code, _, err = program(lists, "--i", "a.star", "--o", out, "--split", *flags.split())
    assert code == 0, err
    nodes = star.read(lists / "Select/job009/RELION_OUTPUT_NODES.star")["output_nodes"]
    names = nodes.strings("rlnPipeLineNodeName")
    assert names[1] == "Select/job009/particles_split2.star"
    assert set(nodes.strings("rlnPipeLineNodeTypeLabel")) == {"ParticleGroupMetadata.star.relion"}
    parts = [star.read(lists / name)["particles"].strings("rlnImageName") for name in names]
    assert [len(part) for part in parts] == sizes
    whole = star.read(lists / "a.star")["particles"].strings("rlnImageName")[: sum(sizes)]
    found = [name for part in parts for name in part]
    assert (found == whole) != ("random" in flags)
    if sum(sizes) == N:
        assert sorted(found) == sorted(whole)


@given(st.integers(1, 200), st.integers(-1, 30), st.integers(-1, 60))
def test_parts_are_whole_and_apart(count: int, parts: int, size: int) -> None:
    if parts < 1 and size < 1:
        return
    found = np.concatenate(split_rows(count, parts, size, None))
    assert found.tolist() == list(range(len(found)))
    if parts < 1 or size < 1:
        assert len(found) == count


def test_duplicates_by_brute_force() -> None:
    rng = np.random.default_rng(8)
    table = Table({"rlnMicrographName": [f"m{n % 3}" for n in range(90)]})
    for label in ("rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst"):
        table.set(label, rng.uniform(0, 60, 90))
    found = later_duplicates(table, 16.0, 2.0)
    x, y = (table.floats(f"rlnCoordinate{a}") - table.floats(f"rlnOrigin{a}Angst") / 2 for a in "XY")
    expected = [
        any(i % 3 == j % 3 and np.hypot(x[i] - x[j], y[i] - y[j]) <= 8 for j in range(i + 1, 90)) for i in range(90)
    ]
    assert 10 < sum(expected) < 90
    assert found.tolist() == expected


def test_compare_by_text_and_by_distance(lists: Path) -> None:
    table = star.read(lists / "a.star")
    moved = table["particles"].select(list(range(20, N)))
    moved.set("rlnCoordinateX", moved.floats("rlnCoordinateX") + 0.3)
    moved.set(
        "rlnImageName",
        [name if n < 30 else f"x{name}" for n, name in enumerate(moved.strings("rlnImageName"))],
    )
    star.write(lists / "moved.star", StarFile({"optics": table["optics"], "particles": moved}))
    for flags, expected in (
        ("--label1 rlnImageName", (30, 30, 10)),
        ("--label1 rlnCoordinateX --label2 rlnCoordinateY --max_dist 0.4", (40, 20, 0)),
        ("--label1 rlnCoordinateX --label2 rlnCoordinateY --max_dist 0.2", (0, 60, 40)),
    ):
        code, _, err = program(lists, "--i", "a.star", "--compare", "moved.star", *flags.split(), "--o", "c.star")
        assert code == 0, err
        found = [len(star.read(lists / f"c_{part}.star")["particles"]) for part in ("both", "only1", "only2")]
        assert tuple(found) == expected


def test_selection_by_text_keeps_used_optics_groups_only(lists: Path) -> None:
    table = star.read(lists / "a.star")
    table["particles"].set("rlnOpticsGroup", [2 if n % 30 % 4 == 1 else 1 for n in range(N)])
    star.write(lists / "a.star", table)
    words = [
        "--i",
        "a.star",
        "--select_by_str",
        "rlnMicrographName",
        "--select_include",
        "mic1",
        "--o",
        "out.star",
    ]
    assert program(lists, *words)[0] == 0
    chosen = star.read(lists / "out.star")
    assert chosen["optics"].strings("rlnOpticsGroupName") == ["glacios"]
    assert set(chosen["particles"].ints("rlnOpticsGroup")) == {1}


def test_images_that_cannot_be_read_are_discarded_and_told(lists: Path) -> None:
    table = star.read(lists / "a.star")
    names = table["particles"].strings("rlnImageName")
    names[3] = "000001@gone.mrcs"
    names[4] = "000999@a.mrcs"
    table["particles"].set("rlnImageName", names)
    star.write(lists / "a.star", table)
    code, _, err = program(lists, "--i", "a.star", "--discard_on_stats", "--o", "out.star")
    assert code == 0, err
    assert "gone.mrcs" in err and "a.mrcs" in err
    kept = star.read(lists / "out.star")["particles"].strings("rlnImageName")
    assert names[3] not in kept and names[4] not in kept and names[5] in kept


def test_a_changed_table_of_optics_groups_keeps_what_is_in_them(lists: Path) -> None:
    """The wish is another pixel size for the same particles; RELION 5 does not find the table and changes the list."""
    source = star.read(lists / "a.star")
    code, _, err = program(
        lists, "--i", "a.star", "--o", "o.star", "--i_tablename", "optics", "--operate", "rlnVoltage", "--set_to", "200"
    )
    assert code == 0, err
    written = star.read(lists / "o.star")
    assert list(written) == ["optics", "particles"]
    assert written["optics"].floats("rlnVoltage").tolist() == [200.0, 200.0]
    assert written["optics"].strings("rlnOpticsGroupName") == ["krios", "glacios"]
    assert list(written["particles"].rows()) == list(source["particles"].rows())


def test_histogram(lists: Path) -> None:
    words = [
        "--i",
        "a.star",
        "--hist_column",
        "rlnDefocusU",
        "--hist_bins",
        "4",
        "--show_cumulative",
        "--o",
        "h.star",
    ]
    code, out, _ = program(lists, *words)
    assert code == 0
    assert out.count(") ") == 4
    assert float(out.splitlines()[4].split()[-1]) == N
    assert (lists / "h.eps").read_bytes().startswith(b"%!PS")


def test_picks_of_two_jobs_are_joined_micrograph_by_micrograph(tmp_path: Path) -> None:
    """Each place once; micrographs of either list; a column that one job lacks is left out."""
    jobs = {
        "ManualPick/job003": {"a": ([10.0, 50.0], [10.0, 60.0]), "b": ([5.0], [5.0])},
        "AutoPick/job004": {"a": ([50.05, 10.0, 80.0], [60.05, 90.0, 20.0]), "c": ([1.0, 1.0], [2.0, 2.0])},
    }
    for job, picks in jobs.items():
        (tmp_path / job).mkdir(parents=True)
        for name, (x, y) in picks.items():
            table = Table({"rlnCoordinateX": x, "rlnCoordinateY": y})
            if "Auto" in job:
                table.set("rlnAutopickFigureOfMerit", [0.5] * len(x))
            star.write(tmp_path / job / f"{name}.star", StarFile([("", table)]))
        listed = Table({"rlnMicrographName": [f"MotionCorr/job002/Movies/{name}.mrc" for name in picks]})
        listed.set("rlnMicrographCoordinates", [f"{job}/{name}.star" for name in picks])
        star.write(tmp_path / job / "picks.star", StarFile([("coordinate_files", listed)]))
    words = [
        "--combine_picks",
        "--i",
        "ManualPick/job003/picks.star AutoPick/job*/picks.star",
        "--o",
        "Join/picks.star",
    ]
    code, out, err = program(tmp_path, *words)
    assert code == 0, err
    assert "with 6 picks of 3 micrographs" in out
    joined = star.read(tmp_path / "Join/picks.star")["coordinate_files"]
    assert joined.strings("rlnMicrographName") == [f"MotionCorr/job002/Movies/{name}.mrc" for name in "abc"]
    files = joined.strings("rlnMicrographCoordinates")
    assert files[0] == "Join/Movies/a_combined.star"
    first, second, third = (star.read(tmp_path / path)[""] for path in files)
    assert first.labels == ["rlnCoordinateX", "rlnCoordinateY"]
    assert first.floats("rlnCoordinateX").tolist() == [10.0, 50.0, 10.0, 80.0]
    assert second.floats("rlnCoordinateX").tolist() == [5.0]
    assert third.labels[-1] == "rlnAutopickFigureOfMerit" and len(third) == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--i a.star --select rlnNothing", "no column _rlnNothing"),
        ("--i a.star --select rlnMicrographName", "not a number"),
        ("--i a.star --select rlnDefocusU --split", "cannot be done at once"),
        ("--i a.star --split", "--nr_split"),
        ("--i gone.star --split --nr_split 2", "no such file"),
        ("--i a.star --combine_picks", "no block data_coordinate_files"),
        ("--combine --i gone.star", "no STAR files to combine"),
        ("--i a.star --operate rlnDefocusU --set_to much", "needs a number"),
        ("--select rlnDefocusU", "--i must be given"),
    ],
)
def test_mistakes(lists: Path, flags: str, sentence: str) -> None:
    code, _, err = program(lists, *flags.split(), "--o", "out.star", "--pipeline_control", "./")
    assert code == 1
    assert sentence in err and "Traceback" not in err
    assert not (lists / "out.star").exists()
    assert (lists / "RELION_JOB_EXIT_FAILURE").exists()
