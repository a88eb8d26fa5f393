"""How the score of relion_class_ranker was fitted: 2D classes of simulated particles mixed with known junk.

    python benchmarks/class_ranker.py [--directory DIR] [--j 2]     simulate, classify (relion_refine), fit, print
    python benchmarks/class_ranker.py --directory DIR --fit         fit again to what lies there

Every scenario mixes projections of a random model with junk: pure noise, two neighbours beside an empty centre, blobs
of ice, edges of carbon. A class is good when more than half of its particles are projections. The coefficients are
those of a logistic function of `ranking/score.py`'s evidence, fitted with a weak pull towards 0 and with the signs
that their meaning asks for, every class counting once; the table tells how scenarios fare that were left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from relion_py.compute.image.fourier import lowpass
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_stack, write_stack
from relion_py.compute.ranking.rank import evidence_of
from relion_py.compute.ranking.score import EVIDENCE
from relion_py.compute.simulate import simulate_particles

PULL = 0.3
"""Weight of the squared coefficients in the fit."""
SIGNS = (-1, -1, 1, -1)
"""What speaks for a class and what against it; a coefficient of the other sign is an accident of the simulations."""


@dataclass(frozen=True)
class Scenario:
    """One classification: good particles, part of all that is junk, how they are made and classified."""

    name: str
    good: int
    junk: float
    box: int
    angpix: float
    symmetry: str
    snr: float
    classes: int
    gradient: bool = False
    wide: float = 1.25  # mask diameter over the particle's


SCENARIOS = (
    Scenario("c1", 400, 0.4, 48, 4.0, "C1", 0.5, 14),
    Scenario("d2", 300, 0.5, 64, 3.0, "D2", 0.4, 14),
    Scenario("d7", 300, 0.4, 48, 4.0, "D7", 0.3, 12),
    Scenario("faint", 400, 0.4, 48, 3.5, "C2", 0.15, 12),
    Scenario("fine", 300, 0.4, 64, 2.2, "C3", 0.4, 12),
    Scenario("coarse", 400, 0.5, 48, 5.5, "C1", 0.7, 14),
    Scenario("tight", 300, 0.4, 48, 3.5, "C4", 0.5, 12, wide=1.05),
    Scenario("vdam-c1", 400, 0.4, 48, 3.5, "C1", 0.5, 14, gradient=True),
    Scenario("vdam-d2", 400, 0.5, 48, 4.2, "D2", 0.3, 14, gradient=True),
    Scenario("bright", 300, 0.6, 48, 3.5, "O", 1.0, 12),
    Scenario("noise", 300, 0.7, 48, 4.0, "C2", 0.5, 12),
)


def main() -> None:
    """The benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", default="class_ranker_benchmark")
    parser.add_argument("--j", default="2")
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    directory = Path(args.directory).resolve()
    for seed, scenario in enumerate(SCENARIOS, 1):
        if not args.fit and not classified(directory / scenario.name):
            make(directory / scenario.name, scenario, seed)
            classify(directory / scenario.name, scenario, args.j)
    report(directory)


def classified(directory: Path) -> bool:
    """Whether the classification of a scenario has ended."""
    return (directory / "ended").exists()


def make(directory: Path, scenario: Scenario, seed: int) -> None:
    """Write particles.star with good particles and junk, in turn on the micrographs, normalised as after extraction."""
    diameter = 0.55 * scenario.box * scenario.angpix
    simulated = simulate_particles(
        directory,
        scenario.good,
        scenario.box,
        scenario.angpix,
        scenario.symmetry,
        seed,
        scenario.snr,
        diameter=diameter,
    )
    os.chdir(directory)
    blocks = star.read(simulated.particles)
    rows = blocks["particles"]
    good = np.concatenate([read_stack(p)[0] for p in sorted((directory / "Particles").glob("*.mrcs"))])
    rng = np.random.default_rng(1000 + seed)
    count = round(scenario.good * scenario.junk / (1.0 - scenario.junk))
    images = [junk(kind, good, scenario, rng) for kind in rng.choice(4, count, p=(0.4, 0.25, 0.2, 0.15))]
    stack = normalised(np.concatenate([good, np.stack(images)]), 0.5 * scenario.wide * diameter / scenario.angpix)
    order = rng.permutation(len(stack))
    write_stack(directory / "mixed.mrcs", stack[order], scenario.angpix)
    table = rows.select(list(np.where(order < scenario.good, order, rng.integers(0, scenario.good, len(order)))))
    table.set("rlnImageName", [f"{i + 1:06d}@mixed.mrcs" for i in range(len(order))])
    table.set("rlnIsSelected", (order < scenario.good).astype(int))
    blocks["particles"] = table
    star.write(directory / "particles.star", blocks)


def junk(kind: int, good: NDArray[np.float32], scenario: Scenario, rng: np.random.Generator) -> NDArray[np.float32]:
    """An image (box, box) without a particle at its centre."""
    box, size = scenario.box, 0.55 * scenario.box
    noise = rng.standard_normal((box, box))
    y, x = np.indices((box, box)) - box // 2
    strength = np.sqrt(scenario.snr) * rng.uniform(0.5, 2.5)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    if kind == 1:  # two neighbours
        ahead = np.array([np.sin(angle), np.cos(angle)]) * size * rng.uniform(0.5, 0.7)
        one, other = good[rng.integers(len(good))], good[rng.integers(len(good))]
        pair = ndimage.shift(one, ahead, order=1, mode="wrap") + ndimage.shift(other, -ahead, order=1, mode="wrap")
        return (pair / np.sqrt(2.0)).astype(np.float32)
    if kind == 2:  # ice: a bright blob anywhere
        centre = rng.uniform(-0.4, 0.4, 2) * box
        blob = np.hypot(y - centre[0], x - centre[1]) < rng.uniform(0.1, 0.45) * box
        return (noise + 3.0 * strength * ndimage.gaussian_filter(blob.astype(float), 1.5)).astype(np.float32)
    if kind == 3:  # the edge of a carbon film, with its grain
        beyond = x * np.cos(angle) + y * np.sin(angle) > rng.uniform(-0.3, 0.3) * box
        grain = lowpass(rng.standard_normal((box, box)), scenario.angpix, 20.0)
        return (noise + strength * beyond * (1.0 + grain / grain.std())).astype(np.float32)
    return noise.astype(np.float32)


def normalised(stack: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Mean 0 and standard deviation 1 outside the circle."""
    y, x = np.indices(stack.shape[1:]) - stack.shape[1] // 2
    outside = np.hypot(y, x) > radius
    mean, spread = stack[:, outside].mean(axis=1), stack[:, outside].std(axis=1)
    return (stack - mean[:, None, None]) / spread[:, None, None]


def classify(directory: Path, scenario: Scenario, threads: str) -> None:
    """relion_refine, as the window starts it."""
    diameter = scenario.wide * 0.55 * scenario.box * scenario.angpix
    how = ["--grad", "--class_inactivity_threshold", "0.1", "--iter", "50"] if scenario.gradient else ["--iter", "12"]
    command = [
        "relion_refine", "--o", "run", *how, "--i", "particles.star", "--ctf", "--tau2_fudge", "2", "--pad", "2",
        "--particle_diameter", f"{diameter:.0f}", "--K", str(scenario.classes), "--flatten_solvent", "--zero_mask",
        "--center_classes", "--oversampling", "1", "--psi_step", "12", "--offset_range", "5", "--offset_step", "2",
        "--norm", "--scale", "--pool", "30", "--j", threads,
    ]  # fmt: skip
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    (directory / "ended").touch()


def truth(directory: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Of the last iteration's classes: the evidence (K, E), numbers of the classes (K,) and how good each is (K,)."""
    optimiser = sorted(directory.glob("run_it*_optimiser.star"))[-1]
    os.chdir(directory)
    numbers, evidence = evidence_of(str(optimiser))
    particles = star.read(str(optimiser).replace("_optimiser", "_data"))["particles"]
    of_class, good = particles.ints("rlnClassNumber"), particles.ints("rlnIsSelected")
    part = np.array([good[of_class == n].mean() if (of_class == n).any() else 0.0 for n in numbers])
    return evidence, numbers, part


def fit(evidence: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients (1 + E,), the constant first, of the most likely logistic function."""
    design, good = np.column_stack([np.ones(len(part)), evidence]), (part > 0.5).astype(float)

    def cost(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = design @ w
        value = (np.logaddexp(0.0, z) - good * z).sum() + PULL * (w[1:] @ w[1:])
        gradient = design.T @ (1.0 / (1.0 + np.exp(-z)) - good) + 2.0 * PULL * np.r_[0.0, w[1:]]
        return value, gradient

    bounds = [(None, None)] + [(0.0, None) if sign > 0 else (None, 0.0) for sign in SIGNS]
    return optimize.minimize(cost, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x


def report(directory: Path) -> None:
    """Fit to all scenarios; and to all but one, to see how that one fares."""
    found = [(s.name, *truth(directory / s.name)) for s in SCENARIOS if classified(directory / s.name)]
    print(f"{'scenario left out':18s} classes  good  chosen  recall  precision  (of particles, at a score of 0.5)")
    for left, evidence, _, part in found:
        rest = [f for f in found if f[0] != left]
        w = fit(np.concatenate([f[1] for f in rest]), np.concatenate([f[3] for f in rest]))
        chosen = evidence @ w[1:] + w[0] > 0
        size = np.array(class_sizes(directory / left, next(f[2] for f in found if f[0] == left)))
        right = (part * size)[chosen].sum()
        print(
            f"{left:18s} {len(part):7d} {(part > 0.5).sum():5d} {chosen.sum():7d} {right / (part * size).sum():7.2f} "
            f"{right / max(1.0, size[chosen].sum()):10.2f}"
        )
    w = fit(np.concatenate([f[1] for f in found]), np.concatenate([f[3] for f in found]))
    print("\nconstant", f"{w[0]:.3f}")
    for name, value in zip(EVIDENCE, w[1:], strict=True):
        print(f"{name:24s} {value:.3f}")


def class_sizes(directory: Path, numbers: NDArray[np.int64]) -> list[int]:
    """Particles of each class."""
    data = sorted(directory.glob("run_it*_data.star"))[-1]
    of_class = star.read(data)["particles"].ints("rlnClassNumber")
    return [int((of_class == n).sum()) for n in numbers]


if __name__ == "__main__":
    main()
