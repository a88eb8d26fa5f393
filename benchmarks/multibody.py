"""Multi-body refinement of simulated particles whose two bodies move: time, errors of poses, maps against the truth.

    python benchmarks/multibody.py [--particles 600] [--box 64] [--angpix 3.5] [--snr 1] [--j 2]
    python benchmarks/multibody.py --reference /path/of/RELION/5/relion_refine_mpi

The consensus refinement is made by this package. The reference goes on from the same files, on three processes (its
leader does not compute); it multiplies offsets by the pixel size twice and keeps the width of the consensus' last
search, so it is run a second time with options that make up for both.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/compute/refine"))
from body_errors import errors, poses
from refine_runs import shell_correlation

from relion_py.compute.io.mrc import read_map
from relion_py.compute.simulate_bodies import BodiesSimulation, simulate_bodies

CONSENSUS = """
    --i particles.star --ref reference.mrc --o Consensus/run --auto_refine --split_random_halves --ctf
    --particle_diameter 190 --ini_high 25 --norm --scale --flatten_solvent --zero_mask --healpix_order 4
    --auto_local_healpix_order 4 --offset_range 3 --offset_step 1.5 --low_resol_join_halves 40 --random_seed 1 --pool 30
"""
MULTIBODY = """
    --solvent_correct_fsc --multibody_masks bodies.star --oversampling 1 --healpix_order 4 --auto_local_healpix_order 4
    --reconstruct_subtracted_bodies --dont_combine_weights_via_disc --pad 2
"""
"""As the job makes it, but for the offsets."""


def told(directory: Path, data: BodiesSimulation, name: str, pixel: float, usage: measure.Usage | None) -> None:
    """One line on a run, or on the consensus poses: seconds, and for each body degrees, A, mean FSC with the truth."""
    moved = usage is not None
    parts = []
    for b, body in enumerate(data.bodies.bodies):
        stem = f"{name}/run_body{b + 1:03d}.mrc" if moved else f"{name}/run_class001.mrc"
        truth, volume = (read_map(path)[0] * body.mask for path in (data.maps[b], directory / stem))
        angle, place = errors(directory, poses(directory / name / "run_data.star"), data.bodies.bodies, b, pixel, moved)
        parts.append(f"{angle:5.2f} deg {place:5.2f} A FSC {np.mean(shell_correlation(volume, truth)[1:]):.3f}")
    seconds = f"{usage.wall:6.0f} s, {usage.cpu:6.0f} CPU s" if usage else " " * 22
    print(f"{name:12s} {seconds} | " + " | ".join(parts), flush=True)


def main() -> None:
    """Make the data, run what there is, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=600)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--angpix", type=float, default=3.5)
    parser.add_argument("--snr", type=float, default=1.0)
    parser.add_argument("--j", default=str(os.cpu_count()))
    parser.add_argument("--reference", default="")
    parser.add_argument("--mpirun", default="/usr/bin/mpirun")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        data = simulate_bodies(directory, n=args.particles, box=args.box, angpix=args.angpix, snr=args.snr)
        for job in ("Consensus", "Ours", "Reference", "Wider"):
            (directory / job).mkdir()
        refine = [sys.executable, "-m", "relion_py.compute.cli.refine"]
        measure.run([*refine, *CONSENSUS.split(), "--j", args.j], directory)
        print("body 1 | body 2: median error of orientations, rms error of places, mean FSC inside the mask")
        told(directory, data, "Consensus", args.angpix, None)
        last = sorted((directory / "Consensus").glob("run_it*_optimiser.star"))[-1]
        begin = ["--continue", f"Consensus/{last.name}", *MULTIBODY.split()]
        usual = ["--offset_range", "3", "--offset_step", "1.5"]
        usage = measure.run([*refine, *begin, *usual, "--o", "Ours/run", "--j", args.j, "--pool", "30"], directory)
        told(directory, data, "Ours", args.angpix, usage)
        if args.reference:
            mended = [
                "--sigma_ang",
                "3.75",
                "--offset_range",
                f"{3 / args.angpix}",
                "--offset_step",
                f"{1.5 / args.angpix}",
            ]
            ranks = [
                args.mpirun,
                "--oversubscribe",
                "--allow-run-as-root",
                "-n",
                "3",
                args.reference,
                "--cpu",
                "--j",
                "1",
            ]
            for job, offsets in (("Reference", usual), ("Wider", mended)):
                usage = measure.run([*ranks, *begin, *offsets, "--o", f"{job}/run", "--pool", "3"], directory)
                told(directory, data, job, args.angpix, usage)


if __name__ == "__main__":
    main()
