"""Refinement with the values that CTF refinement wrote: the signs of both are the same if the map gets better."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from refined_project import make_project, refine

from relion_py.compute.cli import reconstruct
from relion_py.compute.cli.program import Job
from relion_py.compute.image.fsc import fsc
from relion_py.compute.io import mrc

FAULTS = {
    "rlnBeamTiltX": "1.5",
    "rlnBeamTiltY": "-0.9",
    "rlnOddZernike": "[0,0,20.0,0,0,-25.0]",
    "rlnEvenZernike": "[0,0,0,0,60.0,0,0,0,-50.0]",
}
DISTORTION = {"rlnMagMat00": "1.03", "rlnMagMat01": "0.02", "rlnMagMat10": "-0.01", "rlnMagMat11": "0.975"}


def test_reconstruction_takes_the_faults_out(tmp_path, monkeypatch, debian_relion):
    """relion_reconstruct on true poses and CTFs, with and without what truth.star tells; beside RELION 3.1.3."""
    make_project(tmp_path, {**FAULTS, **DISTORTION}, snr=20.0)
    monkeypatch.chdir(tmp_path)
    truth, _ = mrc.read_map("truth.mrc")
    found = {}
    for name in ("start", "truth"):
        reconstruct._main(f"--i {name}.star --o {name}_map.mrc --ctf".split(), Job())
        found[name] = fsc(mrc.read_map(f"{name}_map.mrc")[0], truth)[16:26]
    assert found["truth"].mean() > 0.9
    assert found["start"].mean() < 0.8
    command = f"{debian_relion('relion_reconstruct')} --i truth.star --o theirs.mrc --ctf --skip_gridding"
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ours, theirs = mrc.read_map("truth_map.mrc")[0], mrc.read_map("theirs.mrc")[0]
    assert fsc(ours, theirs)[:27].min() > 0.999  # at Nyquist's edge the two keep different pixels


def agreement(name: str, start: str) -> float:
    """FSC with the truth, from 6 A to 3.6 A, of the map that relion_refine makes of particles in their given poses."""
    words = (
        f"--i {start} --ref half1.mrc --o {name}/run --K 1 --iter 1 --skip_align --ctf --tau2_fudge 4 --ini_high 4 "
        "--particle_diameter 80 --flatten_solvent --zero_mask --norm --scale --sym C1 --random_seed 1 "
        "--dont_combine_weights_via_disc --oversampling 1 --offset_range 3 --offset_step 2"
    )
    Path(name).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "relion_py.compute.cli.refine", *words.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found, truth = (mrc.read_map(path)[0] for path in (f"{name}/run_it001_class001.mrc", "truth.mrc"))
    mask, _ = mrc.read_map("mask.mrc")
    curve = fsc(found * mask, truth * mask)
    finest = int(len(found) * 1.5 / 6.0)
    return float(curve[finest:-7].mean())


@pytest.mark.slow
def test_aberrations_and_defocus_that_were_found_improve_the_map(tmp_path, monkeypatch):
    make_project(tmp_path, FAULTS, errors=150.0, count=250)
    monkeypatch.chdir(tmp_path)
    refine("--fit_defocus --fit_mode fpfff --fit_beamtilt --odd_aberr_max_n 3 --fit_aberr")
    refine("--fit_defocus --fit_mode fpfff", start="Refined/particles_ctf_refine.star", out="Twice/")
    without = agreement("Without", "start.star")
    found, true = agreement("With", "Twice/particles_ctf_refine.star"), agreement("True", "truth.star")
    assert found > without + 0.05
    assert found > true - 0.02


@pytest.mark.slow
def test_a_magnification_that_was_found_improves_the_map(tmp_path, monkeypatch):
    make_project(tmp_path, DISTORTION, count=250)
    monkeypatch.chdir(tmp_path)
    refine("--fit_aniso --keep_astig")
    refine("--fit_aniso --keep_astig", start="Refined/particles_ctf_refine.star", out="Once/")
    refine("--fit_aniso --keep_astig", start="Once/particles_ctf_refine.star", out="Twice/")
    without = agreement("Without", "start.star")
    found, true = agreement("With", "Twice/particles_ctf_refine.star"), agreement("True", "truth.star")
    assert found > without + 0.05
    assert found > true - 0.02
