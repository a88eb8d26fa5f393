"""relion_motion_refine beside another RELION's on the same simulated movies: time, memory, distance to the truth.

    python benchmarks/polish.py [--micrographs 3] [--size 1024] [--other /usr/bin/relion_motion_refine] [--j 2]
    python benchmarks/polish.py --project DIR --i particles.star --f postprocess.star --corr_mic corrected.star

The simulated particles each move on their own and are damaged (tests/compute/polish/moving_particles.py). What
motion correction gives is the polynomial nearest to the true tracks, so that it is the best start there can be.
With --project both programs run on data of one's own, and only their agreement is told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/compute/polish"))
from moving_particles import PIXEL, make_project

from relion_py.compute.io import mrc, star
from relion_py.compute.polish.tracks import read_tracks

SIGMAS = ("--s_vel", "0.8", "--s_div", "200", "--s_acc", "0.5")


def rms(values: list[np.ndarray]) -> float:
    """Root mean square of all of them."""
    return float(np.sqrt(np.mean(np.concatenate([value.ravel() for value in values]) ** 2)))


def agreement(directory: Path, first: str, second: str) -> str:
    """How tracks, B-factors and polished images of two runs differ."""
    differences, correlations = [], []
    for path in sorted((directory / first).rglob("*_tracks.star")):
        other = directory / second / path.relative_to(directory / first)
        differences.append(read_tracks(str(path)) - read_tracks(str(other)))
        pair = [mrc.read_stack(str(p).replace("_tracks.star", "_shiny.mrcs"))[0] for p in (path, other)]
        correlations += [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(*pair, strict=True)]
    tables = [star.read(directory / name / "bfactors.star")["perframe_bfactors"] for name in (first, second)]
    bfactors = np.subtract(*(table.floats("rlnBfactorUsedForSharpening") for table in tables))
    return (
        f"tracks differ by {rms(differences):.4f} A rms, B-factors by {np.abs(bfactors).max():.1f} A^2 at most; "
        f"polished images correlate by {np.mean(correlations):.5f}"
    )


def main() -> None:
    """Run both programs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--other", default="/usr/bin/relion_motion_refine")
    parser.add_argument("--j", default=str(os.cpu_count()))
    parser.add_argument("--project")
    for name in ("--i", "--f", "--corr_mic"):
        parser.add_argument(name, default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(args.project).resolve() if args.project else Path(name) / "project"
        if args.project:
            truth = None
            flags = ["--i", args.i, "--f", args.f, "--corr_mic", args.corr_mic]
        else:
            # RELION 3.1.3 mends no pixels of MRC movies, so there are none to mend
            truth = make_project(directory, args.micrographs, args.size // 64, bad_pixels=False, size=args.size)
            flags = [*truth.arguments, *SIGMAS]
        flags += ["--combine_frames", "--j", args.j]
        outputs = [os.path.relpath(Path(name) / which, directory) for which in ("warm", "ours", "theirs")]

        def run(program: list[str], output: str, *more: str) -> measure.Usage:
            return measure.run([*program, "--o", output + "/", *flags, *more], directory)

        ours = [sys.executable, "-m", "relion_py.compute.cli.motion_refine"]
        run(ours, outputs[0], "--max_MG", "0")  # kernels are compiled once per machine
        rows = [("relion_py", outputs[1], run(ours, outputs[1]))]
        if shutil.which(args.other):
            rows.append((args.other, outputs[2], run([args.other], outputs[2])))
        count = sum(len(read_tracks(str(path))) for path in (directory / outputs[1]).rglob("*_tracks.star"))
        print(f"{count} particles, {args.j} threads; load {os.getloadavg()[0]:.1f}")
        print(f"{'program':36s} {'wall s':>8s} {'CPU s':>8s} {'peak MB':>8s} {'px to truth':>12s}")
        for program, output, used in rows:
            distance = ""
            if truth is not None:
                files = [directory / output / f"Movies/mic{n + 1}_tracks.star" for n in range(args.micrographs)]
                found = [read_tracks(str(path)) / PIXEL for path in files]
                distance = f"{rms([a - b for a, b in zip(found, truth.tracks, strict=True)]):.3f}"
            print(f"{program:36s} {used.wall:8.1f} {used.cpu:8.1f} {used.memory:8.0f} {distance:>12s}")
        if truth is not None:
            nearest = rms([a - b for a, b in zip(truth.polynomial, truth.tracks, strict=True)])
            print(f"{'nearest polynomial':36s} {'':26s} {nearest:12.3f}")
        if len(rows) > 1:
            print(agreement(directory, outputs[1], outputs[2]))


if __name__ == "__main__":
    main()
