"""relion_run_motioncorr beside another RELION's, on the same movies: time, CPU time, memory, agreement.

    python benchmarks/motioncorr.py [--movies DIR] [--other /usr/bin/relion_run_motioncorr] [--j 2]
    python benchmarks/motioncorr.py --simulate 3838x3710x16

DIR holds *.tiff and, if there is one, gain.mrc; without it movies are simulated (WIDTHxHEIGHTxFRAMES, two of
them). Both programs get the flags of the window's defaults with 5 x 5 patches (3 x 3 below 2000 pixels).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
import tifffile
from scipy import ndimage

from relion_py.compute.io.mrc import read_map
from relion_py.compute.motion.model import read_motion

PIXEL = "1.77"


def simulate(directory: Path, width: int, height: int, frames: int, movies: int = 2) -> None:
    """Movies of blobs that drift and of Poisson noise, one electron a pixel and frame."""
    rng = np.random.default_rng(0)
    density = ndimage.gaussian_filter(rng.standard_normal((height + 64, width + 64), np.float32), 3)
    density = 1 + 0.3 * density / density.std()
    for number in range(1, movies + 1):
        with tifffile.TiffWriter(directory / f"sim{number}.tiff") as file:
            for frame in range(frames):
                y, x = 32 + int(6 * np.exp(-frame / 5)), 32 - int(9 * np.exp(-frame / 4)) + number
                part = np.clip(density[y : y + height, x : x + width], 0, None)
                file.write(rng.poisson(part).astype(np.uint8), compression="lzw", photometric="minisblack")


def agreement(directory: Path, first: str, second: str) -> str:
    """Root mean square difference of whole-frame shifts, and correlation of micrographs."""
    shifts, images = [], []
    for path in sorted((directory / first).rglob("*.star")):
        other = directory / second / path.relative_to(directory / first)
        if path.name == "corrected_micrographs.star" or not other.exists():
            continue
        shifts.append(read_motion(str(path)).shifts - read_motion(str(other)).shifts)
        ours, theirs = (read_map(str(name.with_suffix(".mrc")))[0].ravel() for name in (path, other))
        images.append(float(np.corrcoef(ours, theirs)[0, 1]))
    rms = float(np.sqrt(np.mean(np.square(shifts))))
    return f"shifts differ by {rms:.3f} px rms; correlation of micrographs at least {min(images):.4f}"


def stages(directory: Path) -> str:
    """Mean seconds of each stage over the movies."""
    found: dict[str, list[float]] = {}
    for path in (directory / "ours").rglob("*.log"):
        line = re.search(r"^Seconds: (.*)$", path.read_text(), re.M)
        for name, value in re.findall(r"([a-z ]+?) ([\d.]+)", line[1] if line else ""):
            found.setdefault(name.strip(), []).append(float(value))
    return ", ".join(f"{name} {np.mean(values):.2f}" for name, values in found.items())


def main() -> None:
    """Run both programs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--movies")
    parser.add_argument("--simulate", default="1024x1024x10")
    parser.add_argument("--other", default="/usr/bin/relion_run_motioncorr")
    parser.add_argument("--j", default=str(os.cpu_count()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        gain: list[str] = []
        if args.movies:
            (directory / "Movies").symlink_to(Path(args.movies).resolve())
            if (directory / "Movies/gain.mrc").exists():
                gain = ["--gainref", "Movies/gain.mrc"]
        else:
            (directory / "Movies").mkdir()
            width, height, frames = map(int, args.simulate.split("x"))
            simulate(directory / "Movies", width, height, frames)
        movies = sorted((directory / "Movies").glob("*.tiff"))
        if not movies:
            sys.exit(f"there is no *.tiff in {args.movies}")
        with tifffile.TiffFile(movies[0]) as file:
            shape = (len(file.pages), *file.pages[0].shape)
        patches = "5" if min(shape[1:]) > 2000 else "3"
        flags = ["--i", "Movies/*.tiff", "--use_own", "--j", args.j, "--angpix", PIXEL, "--voltage", "300"]
        flags += ["--bfactor", "150", "--dose_per_frame", "4.2", "--dose_weighting", "--grouping_for_ps", "3"]
        flags += ["--patch_x", patches, "--patch_y", patches, *gain]

        def run(program: list[str], output: str, *more: str) -> measure.Usage:
            return measure.run([*program, "--o", output + "/", *flags, *more], directory)

        ours = [sys.executable, "-m", "relion_py.compute.cli.motioncorr"]
        run(ours, "warm", "--do_at_most", "1")  # kernels are compiled once per machine
        rows = [("relion_py", run(ours, "ours"))]
        if shutil.which(args.other):
            rows.append((args.other, run([args.other], "theirs")))
        print(f"{len(movies)} movies, {shape[0]} frames of {shape[2]} x {shape[1]}, {args.j} threads, "
              f"{patches} x {patches} patches; load {os.getloadavg()[0]:.1f}")  # fmt: skip
        print(f"{'program':36s} {'wall s':>8s} {'CPU s':>8s} {'peak MB':>8s}")
        for program, used in rows:
            print(f"{program:36s} {used.wall:8.1f} {used.cpu:8.1f} {used.memory:8.0f}")
        print(f"relion_py, seconds per movie: {stages(directory)}")
        if len(rows) > 1:
            print(agreement(directory, "ours", "theirs"))


if __name__ == "__main__":
    main()
