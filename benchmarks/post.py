"""Post-processing, masks and the tools for files beside another RELION's: time and agreement, as a table.

    python benchmarks/post.py [--box 200] [--particles 20000] [--other /usr/bin] [--j 2]

Half maps, and lists of particles of which some are picked twice, are made for the occasion.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np

from relion_py.compute.image.fourier import lowpass
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map, write_map, write_stack
from relion_py.compute.io.star import StarFile, Table

ANGPIX = 1.5


def make_data(directory: Path, box: int, particles: int) -> None:
    """Two noisy halves of a random blob, a mask, a stack and a list of particles."""
    rng = np.random.default_rng(0)
    volume = lowpass(rng.standard_normal((box,) * 3, np.float32), ANGPIX, 5.0) * soft_mask(box, box / 4, 6)
    for half in (1, 2):
        noisy = volume + 0.05 * rng.standard_normal(volume.shape, np.float32)
        write_map(directory / f"half{half}.mrc", noisy, ANGPIX)
    write_map(directory / "mask.mrc", soft_mask(box, box / 4 + 2, 8), ANGPIX)
    write_stack(directory / "parts.mrcs", rng.standard_normal((1000, 128, 128), np.float32), ANGPIX)
    optics = Table({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnImagePixelSize": [ANGPIX]})
    for label, value in (("rlnVoltage", 300.0), ("rlnSphericalAberration", 2.7), ("rlnAmplitudeContrast", 0.1),
                         ("rlnImageSize", 128), ("rlnImageDimensionality", 2)):  # fmt: skip
        optics.set(label, value)
    rows = Table({"rlnImageName": [f"{n % 1000 + 1:06d}@parts.mrcs" for n in range(particles)]})
    rows.set("rlnMicrographName", [f"mic{n // 500}.mrc" for n in range(particles)])
    for label in ("rlnCoordinateX", "rlnCoordinateY"):
        rows.set(label, rng.uniform(0, 4000, particles))
    for label in ("rlnOriginXAngst", "rlnOriginYAngst"):
        rows.set(label, rng.uniform(-5, 5, particles))
    rows.set("rlnOpticsGroup", 1)
    star.write(directory / "parts.star", StarFile({"optics": optics, "particles": rows}))


def same_map(ours: Path, theirs: Path) -> str:
    """Correlation of two maps or stacks."""
    a, b = (read_map(path)[0].ravel().astype(np.float64) for path in (ours, theirs))
    return f"correlation {np.corrcoef(a, b)[0, 1]:.6f}"


def same_list(ours: Path, theirs: Path) -> str:
    """Whether two lists name the same images in the same order."""
    names = [star.read(path)["particles"].strings("rlnImageName") for path in (ours, theirs)]
    return f"{len(names[0])} rows, {'the same' if names[0] == names[1] else 'others'}"


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--box", type=int, default=200)
    options.add_argument("--particles", type=int, default=20000)
    options.add_argument("--other", default="/usr/bin", help="directory of the other RELION's programs")
    options.add_argument("--j", default="2")
    args = options.parse_args()
    jobs: list[tuple[str, str, str, str, Callable[[Path, Path], str]]] = [
        ("postprocess", "relion_postprocess",
         "--i half1.mrc --mask mask.mrc --angpix 1.5 --adhoc_bfac -40", ".mrc", same_map),
        ("mask_create", "relion_mask_create",
         f"--i half1.mrc --angpix 1.5 --lowpass 15 --ini_threshold 0.01 --extend_inimask 4 --width_soft_edge 6 "
         f"--j {args.j}", ".mrc", same_map),
        ("image_handler, map", "relion_image_handler", "--i half1.mrc --angpix 1.5 --lowpass 8", ".mrc", same_map),
        ("image_handler, stack", "relion_image_handler", "--i parts.mrcs --angpix 1.5 --lowpass 8", ".mrcs", same_map),
        ("star_handler, duplicates", "relion_star_handler", "--i parts.star --remove_duplicates 40", ".star",
         same_list),
        ("star_handler, statistics", "relion_star_handler", "--i parts.star --discard_on_stats", ".star",
         same_list),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_data(directory, args.box, args.particles)
        for output in ("ours", "theirs"):
            (directory / output).mkdir()
        print(f"{'':<26}{'relion_py s':>12}{'other s':>10}{'faster':>8}   agreement")
        for title, program, flags, extension, compare in jobs:
            output = "out" if program == "relion_postprocess" else f"out{extension}"
            own = measure.run(
                [str(Path(sys.executable).with_name(program)), *flags.split(), "--o", f"ours/{output}"],
                directory,
            ).wall
            other = measure.run([f"{args.other}/{program}", *flags.split(), "--o", f"theirs/{output}"], directory).wall
            agreement = compare(directory / f"ours/out{extension}", directory / f"theirs/out{extension}")
            print(f"{title:<26}{own:>12.2f}{other:>10.2f}{other / own:>8.1f}   {agreement}", flush=True)


if __name__ == "__main__":
    main()
