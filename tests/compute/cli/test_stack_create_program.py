"""relion_stack_create and relion_convert_star beside Debian's programs."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import outcome

from relion_py.compute.cli import convert_star, stack_create
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_stack, write_stack
from relion_py.compute.io.star import StarFile, Table

N = 30


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    rng = np.random.default_rng(6)
    images = lowpass(rng.normal(size=(N, 24, 24)), 2.0, 10.0, dimensions=2)
    write_stack(tmp_path / "parts.mrcs", images.astype(np.float32), 2.0)
    optics = Table({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [2.0]})
    for label, value in (("rlnVoltage", 300.0), ("rlnSphericalAberration", 2.7), ("rlnAmplitudeContrast", 0.1),
                         ("rlnImageSize", 24), ("rlnImageDimensionality", 2)):  # fmt: skip
        optics.set(label, value)
    rows = Table({"rlnImageName": [f"{n:06d}@parts.mrcs" for n in range(N, 0, -1)]})
    rows.set("rlnMicrographName", [f"Mics/m{n % 3}.mrc" for n in range(N)])
    for label, reach in (("rlnOriginXAngst", 9), ("rlnOriginYAngst", 9), ("rlnAnglePsi", 180)):
        rows.set(label, rng.uniform(-reach, reach, N))
    rows.set("rlnOpticsGroup", 1)
    star.write(tmp_path / "parts.star", StarFile({"optics": optics, "particles": rows}))
    return tmp_path


@pytest.mark.parametrize("flags", ["", "--apply_rounded_offsets_only", "--apply_transformation"])
def test_as_debians_relion(parts: Path, debian_relion: Callable[[str], str], flags: str) -> None:
    words = ["--i", "parts.star", *flags.split()]
    code, _, err = outcome(stack_create._main, parts, *words, "--o", "ours")
    assert code == 0, err
    command = [debian_relion("relion_stack_create"), *words, "--o", "theirs"]
    subprocess.run(command, cwd=parts, check=True, capture_output=True)
    ours, theirs = read_stack(parts / "ours.mrcs")[0], read_stack(parts / "theirs.mrcs")[0]
    # beyond the edges of the input the reference fades out in another way
    y, x = np.indices((24, 24)) - 12
    inside = np.hypot(y, x) < (5 if "transformation" in flags else 99)
    assert np.abs(ours - theirs)[:, inside].max() < 1e-4
    assert not flags or np.abs(ours - read_stack(parts / "parts.mrcs")[0][::-1]).max() > 0.1
    tables = [star.read(parts / f"{name}.star")["particles"] for name in ("ours", "theirs")]
    for label in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnAnglePsi"):
        if label == "rlnAnglePsi" and "rounded" in flags:
            continue
        np.testing.assert_allclose(tables[0].floats(label), tables[1].floats(label), atol=2e-5)
    assert tables[0].strings("rlnImageName")[3] == "000004@ours.mrcs"


def test_a_stack_for_each_micrograph_and_a_bad_image(parts: Path) -> None:
    table = star.read(parts / "parts.star")
    names = table["particles"].strings("rlnImageName")
    names[4] = "000099@parts.mrcs"
    table["particles"].set("rlnImageName", names)
    star.write(parts / "parts.star", table)
    words = ["--i", "parts.star", "--o", "out/s", "--split_per_micrograph", "--float16"]
    code, _, err = outcome(stack_create._main, parts, *words)
    assert code == 0, err
    assert "000099@parts.mrcs is left out" in err
    new = star.read(parts / "out/s.star")["particles"]
    assert len(new) == N - 1
    source = read_stack(parts / "parts.mrcs")[0]
    for name, micrograph, old in zip(
        new.strings("rlnImageName"),
        new.strings("rlnMicrographName"),
        [n for n in names if "99@" not in n],
        strict=True,
    ):
        number, path = name.split("@")
        assert path == f"out/s_{micrograph.removesuffix('.mrc')}.mrcs"
        image = read_stack(parts / path)[0][int(number) - 1]
        np.testing.assert_allclose(image, source[int(old.split("@")[0]) - 1], atol=2e-3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--i gone.star", "no such file"),
        ("--i parts.star --ignore_optics --apply_transformation", "--ignore_optics"),
        ("--i bare.star --split_per_micrograph", "rlnMicrographName"),
        ("--i bare.star", "None of the images"),
        ("--i nan.star --apply_transformation", 'row 2 of _rlnOriginYAngst is "nan", not a number'),
        ("--i group.star", "group.star: particles are in optics group 7"),
    ],
)
def test_mistakes(parts: Path, words: str, sentence: str) -> None:
    optics = star.read(parts / "parts.star")["optics"]
    rows = Table({"rlnImageName": ["000001@gone.mrcs"], "rlnOpticsGroup": [1]})
    star.write(parts / "bare.star", StarFile({"optics": optics, "particles": rows}))
    for name, label, value in (("nan", "rlnOriginYAngst", "nan"), ("group", "rlnOpticsGroup", "7")):
        wrong = star.read(parts / "parts.star")
        texts = wrong["particles"].strings(label)
        wrong["particles"].set(label, [texts[0], value, *texts[2:]])
        star.write(parts / f"{name}.star", wrong)
    code, _, err = outcome(stack_create._main, parts, *words.split(), "--o", "out")
    assert code == 1
    assert sentence in err and "Traceback" not in err
    assert not (parts / "out.star").exists()


@pytest.fixture
def old(parts: Path) -> Path:
    """A list of release 3.0 of two microscopes."""
    rows = Table({"rlnImageName": [f"{n + 1:06d}@parts.mrcs" for n in range(N)]}, comments=())
    rows.set("rlnVoltage", [300.0 if n % 2 else 200.0 for n in range(N)])
    for label, value in (("rlnSphericalAberration", 2.7), ("rlnAmplitudeContrast", 0.1),
                         ("rlnDetectorPixelSize", 5.0), ("rlnMagnification", 25000.0), ("rlnOriginX", 1.5),
                         ("rlnOriginY", -2.0), ("rlnDefocusU", 12345.0)):  # fmt: skip
        rows.set(label, value)
    star.write(parts / "old.star", StarFile({"images": rows}))
    return parts


def test_convert_as_debians_relion(old: Path, debian_relion: Callable[[str], str]) -> None:
    code, out, err = outcome(convert_star._main, old, "--i", "old.star", "--o", "ours.star")
    assert code == 0, err
    command = [debian_relion("relion_convert_star"), "--i", "old.star", "--o", "theirs.star"]
    subprocess.run(command, cwd=old, check=True, capture_output=True)
    ours, theirs = star.read(old / "ours.star"), star.read(old / "theirs.star")
    for block in ("optics", "particles"):
        assert set(ours[block].labels) == set(theirs[block].labels)
        for label in theirs[block].labels:
            if "Name" in label:
                assert ours[block].strings(label) == theirs[block].strings(label)
            else:
                np.testing.assert_allclose(ours[block].floats(label), theirs[block].floats(label), rtol=1e-5)
    assert len(ours["optics"]) == 2
    assert "The input is a particle STAR file." in out


def test_convert_refuses_what_is_new_and_asks_for_the_box(old: Path) -> None:
    code, _, err = outcome(convert_star._main, old, "--i", "parts.star", "--o", "x.star")
    assert code == 1 and "optics groups already" in err
    (old / "parts.mrcs").unlink()
    code, _, err = outcome(convert_star._main, old, "--i", "old.star", "--o", "x.star")
    assert code == 0 and "--box_size" in err
    assert outcome(convert_star._main, old, "--i", "old.star", "--o", "y.star", "--box_size", "24")[0] == 0
    assert star.read(old / "y.star")["optics"].ints("rlnImageSize").tolist() == [24, 24]
