"""relion_autopick with Topaz: a stand-in program that checks what it is told and answers as Topaz does."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from in_process import exit_status
from turned_particles import turned_micrograph

from relion_py.compute.cli import autopick
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.picking.topaz import downscale_for, radius_for, read_topaz_picks, shrunk_micrograph

ODIR = "AutoPick/job003/"
EXTRACT = "--topaz_extract --particle_diameter 160"

# its own record of the words, and for `extract` a list as `topaz extract` writes it
STAND_IN = """#!{python}
import json, os, struct, sys
words = sys.argv[1:]
with open("topaz_calls.jsonl", "a") as file:
    file.write(json.dumps(words) + chr(10))
if words[0] == "extract":
    image = words[words.index("-o") + 2]
    with open(image, "rb") as file:
        nx, ny = struct.unpack("<2i", file.read(8))
    scale = int(words[words.index("-x") + 1])
    name = os.path.basename(image)[:-4]
    if os.path.exists("fail"):
        sys.exit("the network is on strike")
    with open(words[words.index("-o") + 1], "w") as file:
        print("image_name", "x_coord", "y_coord", "score", sep=chr(9), file=file)
        for n in range(3):
            print(name, (nx // 2 + n) * scale, (ny // 4) * scale, 2.5 - n, sep=chr(9), file=file)
else:
    values = dict(word[2:].split("=") for word in words if "=" in word)
    lists = [key for key in values if key.endswith(("images", "targets"))]
    rows = {{key: open(values[key]).read().split(chr(10))[1:-1] for key in lists}}
    for row in rows["train-images"] + rows["test-images"]:
        assert os.path.exists(row.split(chr(9))[1])
    json.dump(rows, open("topaz_lists.json", "w"))
    open(values["save-prefix"] + "_epoch1.sav", "w").close()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Four micrographs of 2 A per pixel, coordinate files, and the stand-in as my-topaz; name -> x, y."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("Raw")
    os.makedirs("Picks/Raw")
    known = {}
    for seed, name in enumerate("abcd"):
        image, truth = turned_micrograph((160, 200), seed)
        known[name] = truth[:, :2]
        write_map(f"Raw/{name}.mrc", image, 2.0)
        columns = {"rlnCoordinateX": truth[:, 0], "rlnCoordinateY": truth[:, 1]}
        star.write(f"Picks/Raw/{name}.star", StarFile([("", Table(columns))]))
    names = [f"Raw/{name}.mrc" for name in known]
    files = Table({"rlnMicrographName": names, "rlnMicrographCoordinates": [f"Picks/Raw/{n}.star" for n in known]})
    star.write("Picks/picks.star", StarFile([("coordinate_files", files)]))
    program = Path("my topaz")
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return known


def run(options: str, *more: str, status: int = 0) -> list[list[str]]:
    """The program in this process; the words of all calls of Topaz."""
    os.makedirs(ODIR, exist_ok=True)
    words = ["--i", "Raw/*.mrc", "--angpix", "2", "--odir", ODIR, "--fn_topaz_exe", f"{os.getcwd()}/my topaz"]
    assert exit_status(autopick.main, *words, *options.split(), *more) == status
    calls = Path("topaz_calls.jsonl")
    return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def test_picks(project: dict[str, np.ndarray]) -> None:
    calls = run(EXTRACT, "--topaz_args", " --only 'two words' ", "--topaz_threshold", "-3.5", "--j", "2")
    assert len(calls) == 4
    # 160 A are 80 pixels; 2 * 80 / 71 is less than 4; half of 80 is 10 downscaled pixels
    for words in sorted(calls):
        output, image = words[words.index("-o") + 1 : words.index("-o") + 3]
        assert words == [
            "extract", "-t", "-3.5", "-r", "10", "-d", "-1", "-x", "4", "-o", output, image, "--only", "two words",
        ]  # fmt: skip
        assert image.startswith(f"{ODIR}proc/") and image.endswith(".mrc") and output.endswith(".txt")
    table = star.read(f"{ODIR}Raw/a_autopick.star")[""]
    assert table.floats("rlnCoordinateX").tolist() == [100, 104, 108]  # 50 x 40 pixels when downscaled
    assert table.floats("rlnCoordinateY").tolist() == [40, 40, 40]
    assert table.floats("rlnAutopickFigureOfMerit").tolist() == [2.5, 1.5, 0.5]
    assert table.ints("rlnClassNumber").tolist() == [0, 0, 0]
    assert len(star.read(f"{ODIR}autopick.star")["coordinate_files"]) == 4
    assert not os.path.exists(f"{ODIR}proc")


def test_filaments_models_and_devices(project: dict[str, np.ndarray]) -> None:
    Path("net.sav").touch()
    (words, *_) = run(
        f"{EXTRACT} --helix --helical_tube_length_min 400 --topaz_plot --topaz_model net.sav --gpu 3 "
        "--topaz_downscale 8 --topaz_radius 7 --i Raw/a.mrc"
    )
    assert words[:4] == ["extract", "--filaments", "--filaments_length", "25"]
    assert words[4] == "--filaments_plot"
    assert words[words.index("-d") + 1] == "3" and words[words.index("-m") + 1] == "net.sav"
    assert words[words.index("-r") + 1] == "7" and words[words.index("-x") + 1] == "8"


def test_the_failure_of_topaz_is_told(project: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    Path("fail").touch()
    run(EXTRACT, status=1)
    assert "the network is on strike" in capsys.readouterr().err
    assert "on strike" in Path(f"{ODIR}proc/mic000000.log").read_text()
    Path("fail").unlink()
    assert len(run(f"{EXTRACT} --only_do_unfinished")) == 8
    assert not os.path.exists(f"{ODIR}failed_micrographs.star")


@pytest.mark.parametrize("source", ["picks", "particles"])
def test_training(project: dict[str, np.ndarray], source: str) -> None:
    options = "--topaz_train --particle_diameter 160 --topaz_nr_particles 12 --topaz_workers 3 --gpu 1"
    if source == "picks":
        options += " --topaz_train_picks Picks/picks.star"
    else:  # a particle that refinement moved by -6 A is 3 pixels further
        rows = [(f"Raw/{name}.mrc", x, y) for name, known in project.items() for x, y in known]
        columns = {
            "rlnMicrographName": [row[0] for row in rows], "rlnCoordinateX": [row[1] - 3 for row in rows],
            "rlnCoordinateY": [row[2] for row in rows], "rlnOriginXAngst": [-6.0] * len(rows),
            "rlnOriginYAngst": [0.0] * len(rows), "rlnOpticsGroup": [1] * len(rows),
        }  # fmt: skip
        optics = Table({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["o"], "rlnImagePixelSize": [2.0]})
        star.write("parts.star", StarFile([("optics", optics), ("particles", Table(columns))]))
        options += " --topaz_train_parts parts.star"
    (words,) = run(options)
    lists = f"{ODIR}proc/"
    assert words == [
        "train", "-n", "12", "-r", "3", "-d", "1", "-o", f"{ODIR}model_training.txt", "--num-threads=3",
        "--num-workers=3", f"--train-images={lists}image_list_train.txt", f"--test-images={lists}image_list_test.txt",
        f"--train-targets={lists}target_list_train.txt", f"--test-targets={lists}target_list_test.txt",
        f"--save-prefix={ODIR}model",
    ]  # fmt: skip
    rows = json.loads(Path("topaz_lists.json").read_text())
    # one micrograph of four holds more than a fifth of the picks
    assert (len(rows["train-images"]), len(rows["test-images"])) == (3, 1)
    targets = [row.split("\t") for row in rows["train-targets"] + rows["test-targets"]]
    expected = np.floor(np.concatenate(list(project.values())) / 4 + 0.5).astype(int)
    assert sorted((int(x), int(y)) for _, x, y in targets) == sorted(map(tuple, expected.tolist()))
    assert {name for name, _, _ in targets} == {f"mic{n:06d}" for n in range(4)}
    assert os.path.exists(f"{ODIR}model_epoch1.sav") and not os.path.exists(lists)
    if source == "particles":
        made = star.read(f"{ODIR}input_training_coords.star")["coordinate_files"]
        assert made.strings("rlnMicrographCoordinates") == [f"{ODIR}Raw/{name}_train.star" for name in "abcd"]
    assert not os.path.exists(f"{ODIR}autopick.star")


def test_shrunk_micrographs() -> None:
    random = np.random.default_rng(0)
    coarse = random.standard_normal((30, 40))
    spectrum = np.zeros((120, 81), complex)
    half = np.fft.rfft2(coarse)
    half[15], half[:, 20] = 0, 0  # no Nyquist frequencies
    spectrum[:15, :21], spectrum[-15:, :21] = half[:15], half[15:]
    small = shrunk_micrograph(np.fft.irfft2(spectrum, s=(120, 160)).astype(np.float32) + 5, 4)
    wanted = np.fft.irfft2(half, s=(30, 40))
    wanted[...] -= wanted.mean()
    np.testing.assert_allclose(small, wanted / wanted.std(), atol=1e-4)
    assert shrunk_micrograph(random.standard_normal((121, 163)).astype(np.float32), 4).shape == (30, 40)
    for bad, part in ((np.ones((40, 40)), "is empty"), (np.full((40, 40), np.nan), "not numbers"), (coarse[:5], "few")):
        with pytest.raises(UserError, match=part):
            shrunk_micrograph(bad.astype(np.float32), 4)


def test_what_the_diameter_decides() -> None:
    assert downscale_for(180, 1.0) == 5 and downscale_for(100, 1.0) == 4 and downscale_for(-1, 1.0) == 4
    assert radius_for(180, 1.0, 5, training=False) == 18 and radius_for(180, 1.0, 5, training=True) == 5


def test_lists_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "picks.txt"
    path.write_text("image_name\tx_coord\ty_coord\tscore\n")
    assert len(read_topaz_picks(str(path))) == 0
    for text, part in (("", "no column x_coord"), ("x_coord y_coord score\n1 2\n", "no numbers")):
        path.write_text(text)
        with pytest.raises(UserError, match=part):
            read_topaz_picks(str(path))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("--topaz_extract", "needs --particle_diameter"),
        (f"{EXTRACT} --fn_topaz_exe no-such-topaz", "There is no Topaz program no-such-topaz"),
        (f"{EXTRACT} --topaz_model gone.sav", "no Topaz model gone.sav"),
        (f"{EXTRACT} --topaz_args '", "quote"),
        ("--topaz_train", "needs --topaz_train_picks"),
        ("--topaz_train --topaz_train_picks empty.star", "lists no coordinate files"),
        (f"{EXTRACT} --topaz_train", "two ways of picking"),
    ],
)
def test_what_cannot_be_is_said(
    project: dict[str, np.ndarray], options: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    star.write("empty.star", StarFile([("", Table({"rlnMicrographName": ["Raw/a.mrc"]}))]))
    assert run(options, status=1) == []
    assert part in capsys.readouterr().err
    assert not os.path.exists(f"{ODIR}Raw")
