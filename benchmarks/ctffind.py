"""relion_run_ctffind: seconds per micrograph, and errors against known CTFs, beside CTFFIND where it is installed.

    python benchmarks/ctffind.py [--size 4096x4096] [--micrographs 8] [--j 1] [--ctffind /path/to/ctffind]
                                 [--snr 0.3] [--bfactor 80] [--dirt 0] [--finest 4]

RELION itself estimates no CTF: it runs CTFFIND, and so does this program when --ctffind is given, so that both
lines of the table come from the same micrographs. These are simulated: white noise times a CTF of known
astigmatic defocus, in white noise, 0.85 A per pixel, with as much --dirt (dark discs, 10 times the noise) as asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
from scipy import fft

from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map

PIXEL = 0.85
FLAGS = (
    f"--i Raw/*.mrc --CS 2.7 --HT 300 --AmpCnst 0.1 --angpix {PIXEL} --Box 512 --ResMin 30 "
    "--dFMin 5000 --dFMax 50000 --FStep 500 --dAst 100 --is_ctffind4"
).split()


def simulate(directory: Path, rows: int, columns: int, args: argparse.Namespace) -> np.ndarray:
    """Write the micrographs; returns defocus U, V (A) and angle (degrees), (count, 3)."""
    count = args.micrographs
    random = np.random.default_rng(0)
    defocus = random.uniform(8000, 25000, count)
    truth = np.stack([defocus, defocus - random.uniform(0, 500, count), random.uniform(-90, 90, count)], 1)
    ky = np.repeat(fft.fftfreq(rows, PIXEL), columns // 2 + 1)
    kx = np.tile(np.arange(columns // 2 + 1) / (columns * PIXEL), rows)
    for number, (u, v, angle) in enumerate(truth[:, :, None]):
        ctf = ctf_values(CtfParams(u, v, angle, bfactor=np.array([args.bfactor])), kx, ky, 1, 1.0)[0].reshape(rows, -1)
        noise = random.standard_normal((2, rows, columns), np.float32)
        image = fft.irfft2(fft.rfft2(noise[0]) * ctf, s=(rows, columns)) * np.sqrt(args.snr) + noise[1]
        for y, x, radius in random.uniform((0, 0, 10), (rows, columns, 50), (args.dirt, 3)):
            image[np.hypot(np.arange(rows)[:, None] - y, np.arange(columns) - x) < radius] -= 10.0
        write_map(directory / f"mic{number:03d}.mrc", image.astype(np.float32), PIXEL)
    return truth


def run(directory: Path, output: str, flags: list[str]) -> measure.Usage:
    """One run, measured."""
    program = [sys.executable, "-m", "relion_py.compute.cli.ctffind"]
    return measure.run([*program, "--o", output, *flags], directory)


def errors(directory: Path, output: str, truth: np.ndarray) -> tuple[float, int]:
    """Median absolute error of U and V, A; how many micrographs are off by more than 500 A."""
    table = star.read(directory / output / "micrographs_ctf.star")["micrographs"]
    found = np.stack([table.floats("rlnDefocusU"), table.floats("rlnDefocusV")], 1)
    left = found - truth[:, :2]
    return float(np.median(np.abs(left))), int((np.abs(left.mean(axis=1)) > 500).sum())


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4096x4096", help="pixels, WIDTHxHEIGHT")
    parser.add_argument("--micrographs", type=int, default=8)
    parser.add_argument("--j", default="1")
    parser.add_argument("--ctffind", default="")
    parser.add_argument("--snr", type=float, default=0.3, help="power of the object over that of the noise")
    parser.add_argument("--bfactor", type=float, default=80.0, help="fall of the CTF, A^2")
    parser.add_argument("--dirt", type=int, default=0, help="dark discs in each micrograph")
    parser.add_argument("--finest", default="4", help="end of the fit, A")
    args = parser.parse_args()
    columns, rows = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "Raw").mkdir()
        truth = simulate(directory / "Raw", rows, columns, args)
        flags = [*FLAGS, "--ResMax", args.finest, "--j", args.j]
        run(directory, "warm", [*flags, "--do_at_most", "1", "--fast_search"])  # kernels are compiled once
        kinds = {"built-in, --fast_search": ["--fast_search"], "built-in": []}
        if args.ctffind:
            theirs = ["--ctffind_exe", os.path.abspath(args.ctffind)]
            kinds |= {"CTFFIND, --fast_search": [*theirs, "--fast_search"], "CTFFIND": theirs}
        print(f"{args.micrographs} micrographs of {columns} x {rows}, --j {args.j}; load {os.getloadavg()[0]:.1f}")
        print(
            f"{'estimator':26s} {'wall s':>8s} {'CPU s':>8s} {'CPU s each':>11s} {'median error A':>15s} {'lost':>5s}"
        )
        for number, (kind, more) in enumerate(kinds.items()):
            used = run(directory, f"run{number}", [*flags, *more])
            median, lost = errors(directory, f"run{number}", truth)
            each = used.cpu / args.micrographs
            print(f"{kind:26s} {used.wall:8.1f} {used.cpu:8.1f} {each:11.2f} {median:15.1f} {lost:5d}")


if __name__ == "__main__":
    main()
