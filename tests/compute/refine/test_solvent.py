"""What masks leave of the references, beside RELION's own first iteration."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from refine_runs import BOX, DIAMETER, PIXEL, copy_of, refined

from relion_py.compute.cli.options.refine import FLAGS
from relion_py.compute.cli.parser import parse
from relion_py.compute.errors import UserError
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.solvent import SolventMasks

WORDS = (
    f"--i particles.star --ref reference.mrc --ctf --particle_diameter {DIAMETER:g} --ini_high 20 --sym D2 --K 1 "
    "--iter 1 --flatten_solvent --zero_mask --oversampling 0 --skip_align --random_seed 1 --tau2_fudge 4 --pad 2"
).split()
MASKS = [
    "--solvent_mask",
    "kept.mrc",
    "--lowpass_mask",
    "coarse.mrc",
    "--lowpass",
    "35",
    "--solvent_mask2",
    "level.mrc",
]


def regions() -> dict[str, np.ndarray]:
    """Soft halves of the sphere, and a ball in the middle."""
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    r = np.sqrt(x**2 + y**2 + z**2)
    ball = np.clip(12 - r, 0, 1)
    return {
        "kept": (ball * np.clip(x + 0.5, 0, 1)).astype(np.float32),
        "coarse": (ball * np.clip(0.5 - x, 0, 1)).astype(np.float32),
        "level": np.clip(4 - r, 0, 1).astype(np.float32),
    }


def test_a_reference_is_what_relion_makes_of_it(
    d2_project: Path, tmp_path: Path, debian_relion: Callable[[str], str]
) -> None:
    """Poses are kept, so that both programs reconstruct the same map."""
    place = copy_of(d2_project, tmp_path / "project")
    for name, mask in regions().items():
        with mrcfile.new(place / f"{name}.mrc", mask) as file:
            file.voxel_size = PIXEL
    (place / "truth.star").write_bytes((d2_project / "truth.star").read_bytes())
    words = [word.replace("particles.star", "truth.star") for word in WORDS]
    ours = refined(place, "Ours", *MASKS, usual=words).map("run_it001_class001.mrc")
    (place / "Theirs").mkdir()
    theirs_words = [debian_relion("relion_refine"), "--o", "Theirs/run", *words, *MASKS, "--ctf_corrected_ref"]
    done = subprocess.run(theirs_words, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = mrcfile.read(place / "Theirs/run_it001_class001.mrc")
    for name, mask in regions().items():
        inside = mask > 0.99
        if name == "level":
            assert np.ptp(ours[inside]) < 1e-3 * ours.max() and np.ptp(theirs[inside]) < 1e-3 * theirs.max()
            assert ours[inside].mean() == pytest.approx(theirs[inside].mean(), rel=0.05)
        else:
            assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.995
    bare = refined(place, "Bare", usual=words).map("run_it001_class001.mrc")
    assert np.corrcoef(ours[regions()["coarse"] > 0.99], bare[regions()["coarse"] > 0.99])[0, 1] < 0.98


def test_regions_by_their_definition() -> None:
    rng = np.random.default_rng(1)
    volume, masks = rng.normal(size=(BOX,) * 3).astype(np.float32), regions()
    made = SolventMasks(masks["kept"], masks["coarse"], 40.0, masks["level"]).flatten(volume, PIXEL)
    k = np.fft.fftfreq(BOX, PIXEL)
    frequency = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    transform = np.fft.fftn(volume * masks["coarse"].astype(float))
    # a raised cosine of two shells about the limit (fftw.cpp, lowPassFilterMap)
    shell, limit = frequency * BOX * PIXEL, round(BOX * PIXEL / 40.0)
    weight = np.where(
        shell < limit - 1, 1.0, np.where(shell > limit + 1, 0.0, 0.5 + 0.5 * np.cos(np.pi * (shell - limit + 1) / 2))
    )
    wanted = volume * masks["kept"].astype(float) + np.fft.ifftn(transform * weight).real
    mean = (wanted * masks["level"]).sum() / masks["level"].sum()
    wanted += masks["level"] * (mean - wanted)
    np.testing.assert_allclose(made, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lowpass_mask a.mrc", "--lowpass_mask and --lowpass, a resolution in A, need each other"),
        ("--lowpass 20", "need each other"),
        ("--solvent_mask2 a.mrc", "--solvent_mask2 has no effect without --flatten_solvent"),
    ],
)
def test_what_does_not_fit_is_told(words: str, said: str) -> None:
    arguments = parse(FLAGS, f"--i a.star --o out/run --ref r.mrc --particle_diameter 100 {words}".split())
    with pytest.raises(UserError, match=said):
        RefineOptions.from_args(arguments.values, arguments.command_line, arguments.given)
