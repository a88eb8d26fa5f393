"""What people get wrong: each mistake is one sentence on stderr, a failed job, and no traceback."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from refine_runs import BOX, PIXEL, copy_of, refine, usual_without


@pytest.fixture
def project(d2_project: Path, tmp_path: Path) -> Path:
    return copy_of(d2_project, tmp_path / "project")


def write_map(path: Path, box: int, pixel_size: float = PIXEL) -> None:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.ones((box,) * 3, np.float32))
        file.voxel_size = pixel_size


def rewrite(project: Path, change: Callable[[str], str]) -> None:
    path = project / "particles.star"
    path.write_text(change(path.read_text()))


def without_column(project: Path, label: str) -> None:
    """The column renamed to one that means nothing."""
    rewrite(project, lambda text: text.replace(f"_{label} ", "_rlnNothing "))


def first_particles(project: Path, count: int) -> None:
    def keep(text: str) -> str:
        lines = text.splitlines()
        rows = [i for i, line in enumerate(lines) if "@" in line]
        dropped = set(rows[count:])
        return "\n".join(line for i, line in enumerate(lines) if i not in dropped) + "\n"

    rewrite(project, keep)


def with_stack(project: Path, change: Callable[[np.ndarray], np.ndarray], name: str = "mic0002") -> None:
    path = project / f"Particles/{name}.mrcs"
    images = change(np.array(mrcfile.read(path)))
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(images)
        file.set_image_stack()
        file.voxel_size = PIXEL


def set_nan(images: np.ndarray) -> np.ndarray:
    images[6, 3, 4] = np.nan
    return images


def empty(project: Path) -> None:
    for path in (project / "Particles").glob("*.mrcs"):
        with_stack(project, np.zeros_like, path.stem)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5000)


def a_word_for_a_defocus(project: Path) -> None:
    lines = (project / "particles.star").read_text().splitlines()
    rows = [i for i, line in enumerate(lines) if "@" in line]
    labels = [line for line in lines[: rows[0]] if line.startswith("_rln")]
    column = [label.split()[0] for label in labels[-len(lines[rows[0]].split()) :]].index("_rlnDefocusU")
    words = lines[rows[5]].split()
    words[column] = "abc"
    lines[rows[5]] = " ".join(words)
    (project / "particles.star").write_text("\n".join(lines) + "\n")


Change = Callable[[Path], object]
MISTAKES: dict[str, tuple[Change, list[str], str]] = {
    "no particle file": (lambda p: os.remove(p / "particles.star"), [], r"particles\.star"),
    "no reference": (lambda p: os.remove(p / "reference.mrc"), [], r"reference\.mrc does not exist"),
    "no stack": (lambda p: os.remove(p / "Particles/mic0001.mrcs"), [], r"mic0001\.mrcs"),
    "reference of another box": (lambda p: write_map(p / "reference.mrc", 40), [], r"reference\.mrc.*40"),
    "no mask": (lambda p: None, ["--solvent_mask", "m.mrc"], r"m\.mrc does not exist"),
    "no CTF columns": (lambda p: without_column(p, "rlnDefocusU"), [], r"particles\.star.*rlnDefocusU"),
    "no image names": (lambda p: without_column(p, "rlnImageName"), [], r"particles\.star.*rlnImageName"),
    "non-square images": (lambda p: with_stack(p, lambda a: a[:, :, :-2].copy()), [], r"mic0002\.mrcs.*square"),
    "pixels that are no numbers": (lambda p: with_stack(p, set_nan), [], r"000007@Particles/mic0002.*not numbers"),
    "images of zeros": (empty, [], r"particles\.star are empty"),
    "a truncated stack": (lambda p: cut(p / "Particles/mic0002.mrcs"), [], r"mic0002\.mrcs"),
    "a truncated reference": (lambda p: cut(p / "reference.mrc"), [], r"reference\.mrc"),
    "no symmetry of that name": (lambda p: None, ["--sym", "D0"], r"D0"),
    "an empty particle file": (lambda p: rewrite(p, lambda text: ""), [], r"particles\.star"),
    "a table without rows": (lambda p: first_particles(p, 0), [], r"particles\.star.*no (particles|rows)"),
    "one particle": (lambda p: first_particles(p, 1), [], r"particle"),
    "no text at all": (
        lambda p: (p / "particles.star").write_bytes(bytes(range(256)) * 40), [], r"particles\.star",
    ),
    "a word for a number": (a_word_for_a_defocus, [], r"particles\.star.*rlnDefocusU.*abc|abc.*rlnDefocusU"),
    "a diameter of a pixel": (lambda p: None, ["--particle_diameter", "5"], r"--particle_diameter.*four pixels"),
    "no output directory": (lambda p: None, ["--o", "nowhere/run"], r"nowhere.*does not exist"),
    "an output that is a file": (lambda p: (p / "file").touch(), ["--o", "file/run"], r"file"),
    "an unknown tau spectrum": (lambda p: None, ["--tau", "t.star"], r"t\.star"),
    "a scratch directory that is not there": (lambda p: None, ["--scratch_dir", "nowhere"], r"nowhere"),
    "a continuation of nothing": (lambda p: None, ["--continue", "run_it005_optimiser.star"], r"run_it005_optimiser"),
    "a continuation of something else": (lambda p: None, ["--continue", "particles.star"], r"particles\.star"),
    "a rate that is no number": (lambda p: None, ["--ini_high", "nan"], r"--ini_high must be a number"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Data array contains NaN")  # which mrcfile says while they are written
@pytest.mark.req("G3")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, project: Path) -> None:
    change, more, words = MISTAKES[mistake]
    change(project)
    given = [word for word in more if word.startswith("--")]
    if "--continue" not in given:
        more = [*more, "--iter", "1"]
    run = refine(project, "job", *more, usual=[] if "--continue" in given else usual_without(*given), seconds=60)
    assert re.search(words, run.sentence()), run.stderr
    # no damage: nothing but what the program says is left
    assert not list((project / "job").glob("*_it001_*"))


def test_a_mask_of_another_box_is_brought_to_the_box_and_that_is_told(project: Path) -> None:
    write_map(project / "mask.mrc", 24)
    run = refine(project, "job", "--solvent_mask", "mask.mrc", "--iter", "1", seconds=60)
    assert run.status == 0, run.stderr
    assert "mask.mrc has a box of 24 pixels" in run.stdout


@pytest.mark.req("G3")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(project: Path) -> None:
    (project / "closed").mkdir(mode=0o500)
    run = refine(project, "job", "--o", "closed/run", seconds=60)
    assert "closed cannot be written to" in run.sentence()


@pytest.mark.req("G3")
def test_two_particles_are_refined_or_refused_with_a_sentence(project: Path) -> None:
    """One particle in each half is no data, but no reason to break either."""
    first_particles(project, 2)
    run = refine(project, "job", "--iter", "2", seconds=60)
    if run.status == 0:
        volume = mrcfile.read(project / "job/run_it002_half1_class001.mrc")
        assert np.isfinite(volume).all() and volume.shape == (BOX,) * 3
    else:
        assert "particle" in run.sentence()
