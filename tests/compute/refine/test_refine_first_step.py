"""One iteration of relion_refine beside one of Debian's, from the same start: every pose, and the map."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from installed_relion import old_relion

from relion_py.compute.cli.refine import main
from relion_py.compute.geometry.euler import euler_to_matrix, rotation_angle
from relion_py.compute.image.ctf import ctf_image
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_stack
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.io.particles import read_particles
from relion_py.compute.simulate import simulate_particles

N, BOX, PIXEL = 40, 32, 5.0
WORDS = (
    "--ref reference.mrc --ctf --iter 1 --particle_diameter 110 --ini_high 30 --norm --scale --flatten_solvent "
    "--zero_mask --oversampling 1 --healpix_order 1 --offset_range 4 --offset_step 2 --perturb 0 --offset 1000 "
    "--random_seed 1 --tau2_fudge 4 --sym C1 --pad 2 --pool 3 --dont_check_norm"
)
"""Neither the sampling grid nor the prior on offsets is left to chance; --ini_high falls between two shells."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles in two optics groups: as they are, all multiplied with their CTFs, and those of the second one."""
    root = tmp_path_factory.mktemp("first_step")
    simulate_particles(root, N, BOX, PIXEL, "C1", 3, 0.5, reference_resolution=25.0, optics_groups=2)
    tables, table = star.read(root / "particles.star"), read_particles(str(root / "particles.star"), str(root))
    tables["particles"].set("rlnOpticsGroup", 1 + np.arange(N) % 2)
    # noise spectra were once those of micrographs
    tables["particles"].set("rlnMicrographName", [f"mic{1 + n % 2}.mrc" for n in range(N)])
    star.write(root / "plain.star", tables)
    posed = tables["particles"].copy()
    for label in (f"rlnAngle{angle}" for angle in ("Rot", "Tilt", "Psi")):
        posed.set(label, star.read(root / "truth.star")["particles"].floats(label))
    star.write(root / "posed.star", {"optics": tables["optics"], "particles": posed})
    transforms = np.fft.rfft2(table.read_images(np.arange(N))) * ctf_image(ctf_params(table), BOX, PIXEL)
    images = np.fft.irfft2(transforms, s=(BOX, BOX))
    write_stack(root / "multiplied.mrcs", (images / images.std()).astype(np.float32), PIXEL)
    names = tables["particles"].strings("rlnImageName")
    for which, groups in (("all", [1, 1]), ("second", [0, 1])):
        tables["optics"].set("rlnCtfDataAreCtfPremultiplied", groups)
        multiplied = [f"{n + 1:06d}@multiplied.mrcs" if groups[n % 2] else names[n] for n in range(N)]
        tables["particles"].set("rlnImageName", multiplied)
        star.write(root / f"{which}.star", tables)
    return root


@pytest.mark.parametrize(
    "particles, more",
    [
        ("plain", ""),
        ("plain", "--firstiter_cc"),
        ("all", ""),
        ("all", "--firstiter_cc"),
        ("second", "--ctf_intact_first_peak"),
        ("posed", "--skip_rotate"),
    ],
)
def test_poses_and_map_are_those_of_release_3(
    project: Path, particles: str, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    words = [*WORDS.split(), "--i", f"{particles}.star", *more.split()]
    name = f"{particles}{more}"
    old = old_relion(
        project, f"old_{name}", [*words, "--ctf_corrected_ref", "--skip_gridding"], "run_it001_optimiser.star", 60
    )
    new = project / name
    new.mkdir()
    assert main(["--o", f"{name}/run", *words]) == 0
    theirs, ours = (star.read(where / "run_it001_data.star")["particles"] for where in (old, new))
    theirs, ours = (t.select(np.argsort(t.strings("rlnImageName"))) for t in (theirs, ours))
    matrices = [euler_to_matrix(*(t.floats(f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi"))) for t in (theirs, ours)]
    assert rotation_angle(*matrices).max() < 0.1
    for axis in "XY":
        label = f"rlnOrigin{axis}Angst"
        np.testing.assert_allclose(ours.floats(label), theirs.floats(label), atol=0.01)
    label = "rlnMaxValueProbDistribution"
    np.testing.assert_allclose(ours.floats(label), theirs.floats(label), atol=5e-3)
    label = "rlnNormCorrection"
    np.testing.assert_allclose(ours.floats(label), theirs.floats(label), rtol=0.02)
    maps = [np.array(mrcfile.read(where / "run_it001_class001.mrc"), float).ravel() for where in (old, new)]
    assert np.corrcoef(*maps)[0, 1] > 0.9999
    assert maps[1].std() == pytest.approx(maps[0].std(), rel=2e-3)
