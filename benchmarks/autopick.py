"""relion_autopick beside another RELION's, on the same micrographs: time, CPU time, recall, precision.

    python benchmarks/autopick.py [--other /usr/bin/relion_autopick] [--size 4096x4096] [--micrographs 8] [--j 1]
    python benchmarks/autopick.py --micrographs-star MotionCorr/job002/corrected_micrographs.star --truth truth.star

Without a STAR file micrographs are simulated: dark discs 150 A wide in noise, 1 A per pixel. With one, paths are
from the working directory; the truth holds rlnMicrographMovieName, rlnCoordinateX and rlnCoordinateY (pixels).
A pick counts when it lies within 35 pixels (simulated: a quarter of the diameter) of a particle not yet taken.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage, spatial

from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map

Truth = dict[str, np.ndarray]


def simulate(directory: Path, rows: int, columns: int, count: int) -> Truth:
    """Write the micrographs; name -> (particles, 2), x and y."""
    random = np.random.default_rng(0)
    truth = {}
    for number in range(count):
        y, x = (c.ravel() for c in np.mgrid[150 : rows - 150 : 220, 150 : columns - 150 : 220])
        points = np.stack([x, y], 1) + random.integers(-30, 31, (x.size, 2))
        centres = np.ones((rows, columns), bool)
        centres[points[:, 1], points[:, 0]] = False
        image = np.where(ndimage.distance_transform_edt(centres) < 75, -0.25, 0.0)
        image = image + random.standard_normal((rows, columns), np.float32)
        write_map(directory / f"mic{number:03d}.mrc", image.astype(np.float32), 1.0)
        truth[f"mic{number:03d}"] = points
    return truth


def read_truth(path: str) -> Truth:
    """Name of the micrograph without directory and ending -> (particles, 2)."""
    table = star.read(path)["particles"]
    names = np.array([Path(name).stem for name in table.strings("rlnMicrographMovieName")])
    points = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], 1)
    return {name: points[names == name] for name in np.unique(names)}


def score(truth: Truth, directory: Path, radius: float) -> tuple[float, float, int]:
    """Recall, precision and the number of picks below a directory."""
    hits = picked = 0
    for name, points in truth.items():
        for file in directory.rglob(f"{name}_autopick.star"):
            table = star.read(file)[""]
            found = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], 1)
            picked += len(found)
            free = set(range(len(points)))
            for distances, nearest in zip(*spatial.cKDTree(points).query(found, k=min(4, len(points))), strict=True):
                taken = [i for d, i in zip(distances, nearest, strict=True) if d <= radius and i in free][:1]
                free.difference_update(taken)
                hits += len(taken)
    return hits / sum(map(len, truth.values())), hits / max(picked, 1), picked


def run(program: list[str], flags: list[str], output: Path) -> tuple[float, float]:
    """Seconds on the clock and of the processor of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run([*program, "--odir", f"{output}/", *flags], capture_output=True, text=True)
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs-star", default="")
    parser.add_argument("--truth", default="")
    parser.add_argument("--diameters", nargs=2, default=["120", "190"], help="A, smallest and largest")
    parser.add_argument("--size", default="4096x4096", help="pixels, WIDTHxHEIGHT")
    parser.add_argument("--micrographs", type=int, default=8)
    parser.add_argument("--j", default="1")
    parser.add_argument("--other", default="/usr/bin/relion_autopick")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if args.micrographs_star:
            where, radius = ["--i", args.micrographs_star], 35.0
            truth = read_truth(args.truth) if args.truth else {}
        else:
            columns, rows = map(int, args.size.split("x"))
            where, radius = ["--i", f"{directory}/*.mrc", "--angpix", "1"], 37.5
            truth = simulate(directory, rows, columns, args.micrographs)
        low, high = args.diameters
        flags = [*where, *f"--LoG --LoG_diam_min {low} --LoG_diam_max {high} --shrink 0 --lowpass 20".split()]
        mine = [sys.executable, "-m", "relion_py.compute.cli.autopick", "--j", args.j]
        run(mine, flags, directory / "warm")  # kernels are compiled once
        programs = {"relion_py": mine}
        if os.access(args.other, os.X_OK):
            programs[args.other] = [args.other]
        print(f"--j {args.j} (relion_py); load {os.getloadavg()[0]:.1f}")
        print(f"{'program':26s} {'wall s':>8s} {'CPU s':>8s} {'picks':>7s} {'recall':>8s} {'precision':>10s}")
        for number, (kind, program) in enumerate(programs.items()):
            output = directory / f"run{number}"
            wall, cpu = run(program, flags, output)
            recall, precision, picked = score(truth, output, radius) if truth else (float("nan"), float("nan"), 0)
            print(f"{kind:26s} {wall:8.1f} {cpu:8.1f} {picked:7d} {recall:8.3f} {precision:10.3f}")


if __name__ == "__main__":
    main()
