"""A small project after a refinement: simulated particles with known faults, half maps, postprocess.star."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relion_py.compute.cli import ctf_refine
from relion_py.compute.cli.program import Job
from relion_py.compute.io import mrc, star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.simulate import Simulation, simulate_particles

BOX, ANGPIX, COUNT = 64, 1.5, 150


@dataclass(frozen=True)
class Truth:
    """What is true of the particles, in the order of `start.star`."""

    simulation: Simulation
    optics: Mapping[str, str]

    @property
    def defocus(self) -> np.ndarray:
        """Mean of U and V."""
        return 0.5 * (self.simulation.ctf.defocus_u + self.simulation.ctf.defocus_v)


def make_project(
    root: Path,
    optics: Mapping[str, str] | None = None,
    *,
    errors: float = 0.0,
    told: Sequence[str] = (),
    snr: float = 1.0,
    count: int = COUNT,
    box: int = BOX,
    diameter: float = 55.0,
    groups: int = 1,
) -> Truth:
    """Write start.star, half1.mrc, half2.mrc, mask.mrc, postprocess.star and the stacks below ``root``.

    optics: faults as columns of data_optics, of which start.star tells those in ``told``. errors: standard deviation
    of the errors of each particle's defocus in A. The half maps are the truth with a little noise.
    """
    simulation = simulate_particles(
        root,
        count,
        box,
        ANGPIX,
        snr=snr,
        seed=3,
        diameter=diameter,
        atoms=200,
        optics_values=optics or {},
        optics_groups=groups,
    )
    rng = np.random.default_rng(8)
    file = star.read(simulation.truth)
    particles = file["particles"]
    wrong = rng.normal(0.0, errors, count) if errors else np.zeros(count)
    for label in ("rlnDefocusU", "rlnDefocusV"):
        particles.set(label, particles.floats(label) + wrong)
    particles.set("rlnRandomSubset", np.arange(count) % 2 + 1)
    for label in set(optics or {}) - set(told):
        file["optics"].remove(label)
    star.write(root / "start.star", file)
    truth, _ = mrc.read_map(simulation.maps[0])
    for half in (1, 2):
        noise = 0.01 * truth.std() * rng.standard_normal(truth.shape)
        mrc.write_map(root / f"half{half}.mrc", truth + noise, ANGPIX)
    write_postprocess(root / "postprocess.star", box)
    return Truth(simulation, dict(optics or {}))


def write_postprocess(path: Path, box: int = BOX) -> None:
    """Names of maps and mask, and an FSC of 0.95 up to two shells before Nyquist's."""
    general = Table(loop=False)
    general.set("rlnUnfilteredMapHalf1", "half1.mrc")
    general.set("rlnUnfilteredMapHalf2", "half2.mrc")
    general.set("rlnMaskName", "mask.mrc")
    curve = np.full(box // 2 + 1, 0.95)
    curve[-2:] = 0.0
    fsc = Table({"rlnSpectralIndex": np.arange(len(curve)), "rlnFourierShellCorrelationCorrected": curve})
    star.write(path, StarFile([("general", general), ("fsc", fsc)]))


def refine(*options: str, out: str = "Refined/", start: str = "start.star") -> StarFile:
    """Run the program in this process and directory; its particles, in the order of the input."""
    words = f"--i {start} --f postprocess.star --o {out} --verb 0".split()
    ctf_refine._main([*words, *" ".join(options).split()], Job())
    return in_order(star.read(f"{out}particles_ctf_refine.star"), star.read(start))


def in_order(result: StarFile, start: StarFile) -> StarFile:
    """The result with its particles in the order of the start."""
    place = {name: row for row, name in enumerate(result["particles"].strings("rlnImageName"))}
    result["particles"] = result["particles"].select([place[n] for n in start["particles"].strings("rlnImageName")])
    return result


def mean_defocus(file: StarFile) -> np.ndarray:
    """Mean of U and V of each particle."""
    return 0.5 * (file["particles"].floats("rlnDefocusU") + file["particles"].floats("rlnDefocusV"))


def vector(file: StarFile, label: str) -> np.ndarray:
    """A list of coefficients of the first optics group."""
    return np.array([float(part) for part in file["optics"].value(label).strip("[]").split(",")])
