"""What is wrong with the input is said before the start, one sentence each; what is right passes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import psutil
import pytest
from small_project import ARGS, BOX, PIXEL, make_project, star_text, write_mrc

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.refine import checks
from relion_py.compute.refine.checks import check_run
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.reference import look_at_references


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


def check(**changes: object) -> list[str]:
    values = {**ARGS, **{f"--{name}": value for name, value in changes.items()}}
    options = RefineOptions.from_args(values, look_at_references=look_at_references)
    return check_run(options, ParticleSet.read(options.particles))


def set_optics(label: str, value: object) -> None:
    tables = star.read("particles.star")
    tables["optics"].set(label, value)
    star.write("particles.star", tables)


def remove_column(label: str) -> None:
    tables = star.read("particles.star")
    tables["particles"].remove(label)
    star.write("particles.star", tables)


def add_column(label: str, values: list[str] | None = None) -> None:
    tables = star.read("particles.star")
    tables["particles"].set(label, values or tables["particles"].strings("rlnImageName"))
    star.write("particles.star", tables)


def stack_with(array: np.ndarray) -> None:
    write_mrc(Path("Extract/job003/mic1.mrcs"), array)


def cut_short() -> None:
    path = Path("Extract/job003/mic1.mrcs")
    path.write_bytes(path.read_bytes()[:-100])


def test_a_good_project_passes_without_a_word() -> None:
    assert check() == []
    assert check(solvent_mask="mask.mrc", flatten_solvent=True) == []


Change = Callable[[], object]
MISTAKES: dict[str, tuple[Change, dict[str, object], str]] = {
    "unknown symmetry": (lambda: None, {"sym": "Q7"}, "Unknown point group 'Q7'"),
    "no reference": (lambda: os.remove("ref.mrc"), {}, "The reference ref.mrc does not exist"),
    "reference of another box": (
        lambda: write_mrc(Path("ref.mrc"), np.zeros((40, 40, 40))),
        {},
        "add --trust_ref_size",
    ),
    "reference of another pixel size": (
        lambda: write_mrc(Path("ref.mrc"), np.zeros((BOX,) * 3), 3.0),
        {},
        "has 32 pixels of 3 A and the particles 32 of 2.5 A",
    ),
    "reference without pixel size": (
        lambda: write_mrc(Path("ref.mrc"), np.zeros((BOX,) * 3), 0.0),
        {},
        "give it with --ref_angpix",
    ),
    "flat reference": (
        lambda: write_mrc(Path("ref.mrc"), np.zeros((1, BOX, BOX))),
        {},
        "refines one map, not an image",
    ),
    "thin reference": (
        lambda: write_mrc(Path("ref.mrc"), np.zeros((2, BOX, BOX))),
        {},
        "is 32 x 32 x 2; it must be a cube",
    ),
    "list of references": (
        lambda: Path("refs.star").write_text("data_\nloop_\n_rlnReferenceImage #1\nref.mrc\nother.mrc\n"),
        {"ref": "refs.star"},
        "refines one map, not 2 references",
    ),
    "missing reference of a list": (
        lambda: Path("refs.star").write_text("data_\nloop_\n_rlnReferenceImage #1\nother.mrc\n"),
        {"ref": "refs.star"},
        "The reference other.mrc does not exist",
    ),
    "list of something else": (
        lambda: Path("refs.star").write_text("data_\nloop_\n_rlnMicrographName #1\nref.mrc\n"),
        {"ref": "refs.star"},
        "has no column _rlnReferenceImage",
    ),
    "no mask": (
        lambda: None,
        {"solvent_mask": "m.mrc", "flatten_solvent": True},
        "The solvent mask m.mrc does not exist",
    ),
    "no spectrum": (lambda: None, {"tau": "t.star"}, "The tau2 spectrum t.star does not exist"),
    "no stack": (
        lambda: os.remove("Extract/job003/mic1.mrcs"),
        {},
        "names Extract/job003/mic1.mrcs, which cannot be found from the directory",
    ),
    "truncated stack": (cut_short, {}, "mic1.mrcs"),
    "no MRC file": (lambda: Path("Extract/job003/mic1.mrcs").write_text("hello"), {}, "mic1.mrcs"),
    "non-square images": (
        lambda: stack_with(np.zeros((12, BOX, BOX + 2))),
        {},
        "are 34 x 32 pixels; they must be square",
    ),
    "other image size": (
        lambda: stack_with(np.zeros((12, 40, 40))),
        {},
        "are 40 pixels wide, but particles.star says 32",
    ),
    "too few images": (lambda: stack_with(np.zeros((11, BOX, BOX))), {}, "asks for image 12 of"),
    "no CTF column": (lambda: remove_column("rlnDefocusU"), {}, "has no column _rlnDefocusU"),
    "norm correction": (
        lambda: add_column("rlnNormCorrection", ["1"] * 23 + ["0"]),
        {"norm": True},
        "is not positive: remove the column",
    ),
    "no box": (lambda: set_optics("rlnImageSize", "0"), {}, "has no _rlnImageSize"),
    "odd box": (lambda: set_optics("rlnImageSize", "33"), {}, "the box of 33 pixels is odd"),
    "no images to reconstruct": (
        lambda: add_column("rlnReconstructImageName", [f"{n + 1}@other.mrcs" for n in range(24)]),
        {},
        "names other.mrcs, which cannot be found",
    ),
    "tiny diameter": (lambda: None, {"particle_diameter": "5"}, "less than four pixels"),
    "no directory": (lambda: None, {"o": "Refine3D/job9/run"}, "The output directory Refine3D/job9 does not"),
    "aberrations": (lambda: set_optics("rlnEvenZernike", "[0,0,x]"), {}, "not a list of numbers"),
    "magnification": (lambda: set_optics("rlnMagMat00", "0"), {}, "cannot be inverted"),
    "sub-tomograms": (lambda: set_optics("rlnImageDimensionality", "3"), {}, "holds sub-tomograms"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(name: str) -> None:
    change, options, words = MISTAKES[name]
    change()
    with pytest.raises(UserError) as error:
        check(**options)
    sentence = str(error.value)
    assert words in sentence
    assert sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence


@pytest.mark.parametrize("label", ["rlnBeamTiltX", "rlnOddZernike", "rlnMagMat00"])
def test_columns_that_change_nothing_are_no_mistake(label: str) -> None:
    set_optics(label, {"rlnMagMat00": "1.0", "rlnOddZernike": "[0,0,0]"}.get(label, "0.000000"))
    assert check() == []


def test_without_ctf_its_columns_are_not_needed() -> None:
    remove_column("rlnDefocusU")
    assert check(ctf=False) == []


def test_a_reference_to_be_rescaled_passes_with_trust_ref_size() -> None:
    write_mrc(Path("ref.mrc"), np.zeros((40, 40, 40)), 3.1)
    assert check(trust_ref_size=True) == []


@pytest.mark.parametrize("label", ["rlnDefocusV", "rlnDefocusAngle"])
def test_without_astigmatism_one_defocus_is_enough(label: str) -> None:
    remove_column(label)
    assert check() == []


def test_a_particle_larger_than_the_box_is_told_and_refined() -> None:
    """As RELION does: nothing is masked then."""
    assert "--particle_diameter of 81 A does not fit into the box of 80 A" in check(particle_diameter="81")[0]


def test_groups_of_different_size_pass_and_each_should_hold_the_particle() -> None:
    Path("particles.star").write_text(star_text(groups=2))
    set_optics("rlnImagePixelSize", [str(PIXEL), "2.2"])
    assert check() == []
    set_optics("rlnImagePixelSize", [str(PIXEL), "1.7"])
    assert "--particle_diameter of 60 A does not fit into the box of 54.4 A" in check()[0]
    set_optics("rlnImageSize", [str(BOX), str(BOX + 2)])
    with pytest.raises(UserError, match=r"are 32 pixels wide, but particles.star says 34"):
        check()


def test_a_missing_box_is_not_told_again_as_a_reference_of_another_size() -> None:
    set_optics("rlnImageSize", "0")
    with pytest.raises(UserError) as error:
        check()
    assert str(error.value).count(". ") == 0 and "ref.mrc" not in str(error.value)


def test_all_problems_are_told_at_once() -> None:
    os.remove("ref.mrc")
    remove_column("rlnDefocusU")
    with pytest.raises(UserError) as error:
        check(sym="X1", particle_diameter="5")
    for words in ("ref.mrc", "rlnDefocusU", "point group", "--particle_diameter"):
        assert words in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_to() -> None:
    os.chmod("Refine3D/job004", 0o500)
    with pytest.raises(UserError, match="cannot be written to"):
        check()


def test_directory_rights_disc_and_memory_are_asked_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="Refine3D/job004 cannot be written to"):
        check()
    monkeypatch.undo()


def test_a_full_disc_and_too_little_memory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="0 MB free and one iteration writes about"):
        check()
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000))
    with pytest.raises(UserError, match=r"--preread_images needs 0\.00 GB"):
        check(preread_images=True)


@pytest.mark.req("I3")
def test_the_memory_of_prereading_is_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ParticleSet, "preread_bytes", property(lambda self: 3 * 1024**3))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**11))
    assert check(preread_images=True) == ["Reading all 24 particles into memory takes 3.00 GB."]


def test_doubtful_choices_are_told() -> None:
    assert "not filtered at the start" in check(ini_high="-1")[0]
    assert "inflates the resolution" in check(tau2_fudge="4")[0]


def test_what_is_for_2d_classes_goes_with_a_reference_that_is_an_image() -> None:
    write_mrc(Path("average.mrc"), np.zeros((1, 32, 32)))
    words: dict[str, str | bool | float | int] = {
        "--i": "particles.star", "--o": "run", "--ref": "average.mrc", "--helical_outer_diameter": "60",
        "--bimodal_psi": True, "--sigma_psi": "10",
    }  # fmt: skip
    options = RefineOptions.from_args(words, look_at_references=look_at_references)
    assert options.reference_dimensions == 2 and options.masks_tubes and options.bimodal_psi
    with pytest.raises(UserError, match="--relax_sym is for maps"):
        RefineOptions.from_args({**words, "--relax_sym": "C2"}, look_at_references=look_at_references)
    write_mrc(Path("map.mrc"), np.zeros((32, 32, 32)))
    with pytest.raises(UserError, match="--helical_outer_diameter has no effect without --helix"):
        RefineOptions.from_args({**words, "--ref": "map.mrc"}, look_at_references=look_at_references)


def test_pixels_that_are_no_numbers_are_named_when_read() -> None:
    with mrcfile.mmap("Extract/job003/mic2.mrcs", mode="r+") as file:
        file.data[4, 3, 2] = np.nan
    particles = ParticleSet.read("particles.star")
    with pytest.raises(UserError, match=r"000005@Extract/job003/mic2\.mrcs has pixels that are not numbers"):
        particles.read_images(range(len(particles)))


def test_the_real_particles_pass(shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(shared / "data/real/bgal-10204-relion5-project")
    particles = ParticleSet.read("derived/particles_ctf_from_tutorial.star")
    assert len(particles) == 2374 and particles.box_size == 64
    (tmp_path / "out").mkdir()
    write_mrc(tmp_path / "bgal.mrc", np.zeros((100, 100, 100)), 3.54)
    values = {**ARGS, "--i": particles.table.path, "--ref": str(tmp_path / "bgal.mrc"), "--sym": "D2",
              "--o": str(tmp_path / "out/run"), "--particle_diameter": "200",
              "--trust_ref_size": True}  # fmt: skip
    assert check_run(RefineOptions.from_args(values, look_at_references=look_at_references), particles) == []
