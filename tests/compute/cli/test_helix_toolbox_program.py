"""relion_helix_toolbox as a program, beside RELION 3.1.3's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helix_model import blob_map, helix_centres

from relion_py.compute.cli.helix_toolbox import _main
from relion_py.compute.cli.options.helix_toolbox import REFUSED
from relion_py.compute.cli.program import run
from relion_py.compute.io.mrc import read_map, write_map

CYLINDER = "--boxdim 40 --angpix 2.5 --cyl_outer_diameter 51 --cyl_inner_diameter 21"
TUBE = "--i in.mrc --angpix 3 --cyl_outer_diameter 90 --z_percentage 0.4 --sphere_percentage 0.83"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_map("in.mrc", blob_map(*helix_centres(37.3, 11.2, 15), 48, 3.0, 5.0), 3.0)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        f"--cylinder {CYLINDER} --width 4 --sphere_percentage 0.8",
        f"--spherical_mask {TUBE} --width 3",
        f"--impose {TUBE} --twist 37.3 --rise 11.2",
    ],
)
def test_maps_are_those_of_the_reference(here: Path, debian_relion: Callable[[str], str], words: str) -> None:
    subprocess.run([debian_relion("relion_helix_toolbox"), *words.split(), "--o", "theirs.mrc"], check=True, timeout=60)
    assert run(_main, [*words.split(), "--o", "ours.mrc"]) == 0
    ours, theirs = read_map("ours.mrc"), read_map("theirs.mrc")
    assert ours[0].max() > 0.5
    assert np.abs(ours[0] - theirs[0]).max() < 2e-3 * theirs[0].max()
    assert ours[1] == pytest.approx(2.5 if "--cylinder" in words else 3.0)


def test_search_and_check(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    limits = "--twist_min 35 --twist_max 40 --rise_min 10.5 --rise_max 12"
    assert run(_main, f"--search {TUBE} {limits}".split()) == 0
    words = capfd.readouterr().out.replace(",", "").split()
    assert float(words[words.index("rise") + 2]) == pytest.approx(11.2, abs=0.02)
    assert float(words[words.index("twist") + 2]) == pytest.approx(37.3, abs=0.02)
    check = f"--check --boxdim 48 {TUBE} --twist 37.3 --rise 11.2 --nr_asu 3 --search_sym {limits}"
    assert run(_main, check.split()) == 0
    assert run(_main, check.replace("--rise 11.2", "--rise 13").split()) == 1
    assert "rise of 13 A is not between" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "Give one of --cylinder"),
        ("--impose --search", "--impose and --search was given"),
        ("--cylinder --boxdim 40", "needs --angpix"),
        ("--cylinder --boxdim 40 --angpix 2 --cyl_outer_diameter 90 --o o.mrc", "at most 78 A"),
        (f"--impose {TUBE} --twist 3 --rise 11", "--o"),
        ("--impose --i none.mrc --o o.mrc", "none.mrc"),
        (f"--spherical_mask {TUBE} --sphere_percentage 1.2", "0.01 and 0.99"),
    ],
)
def test_mistakes_are_a_sentence(here: Path, capfd: pytest.CaptureFixture[str], words: str, sentence: str) -> None:
    assert run(_main, ["--width", "5", *words.split()]) == 1
    error = capfd.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_functions_that_are_not_here_say_so(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, reason in REFUSED.items():
        assert run(_main, [name]) == 1
        assert reason in capfd.readouterr().err
