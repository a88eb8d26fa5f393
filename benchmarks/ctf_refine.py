"""relion_ctf_refine: seconds, and errors against the truth, beside another relion_ctf_refine where there is one.

    python benchmarks/ctf_refine.py [--particles 1000] [--box 128] [--angpix 1.2] [--snr 0.1] [--j 1]
                                    [--other /usr/bin/relion_ctf_refine]

Simulated particles in their true poses, with a beam tilt, trefoil, tetrafoil and an anisotropic magnification that
nobody was told of, and defoci with errors of 200 A.  Both programs do the same jobs: defocus per particle with
astigmatism per micrograph; aberrations; magnification.  The half maps are the truth with noise.
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

from relion_py.compute.image.aberrations import even_indices, odd_indices, zernike
from relion_py.compute.image.fourier import disc_pixels
from relion_py.compute.io import mrc, star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.simulate import simulate_particles

OURS = [sys.executable, "-m", "relion_py.compute.cli.ctf_refine"]
CS_RADIANS = 20000.0 * np.pi * 2.7 * 0.0196874863**2  # of a mrad of beam tilt at 300 kV and 2.7 mm, A^3
PHASES = {
    "rlnBeamTiltX": "0.5",
    "rlnBeamTiltY": "-0.3",
    "rlnOddZernike": "[0,0,6,0,0,-8]",
    "rlnEvenZernike": "[0,0,0,0,20,0,0,0,-15]",
}
MATRIX = np.array([[1.006, 0.005], [0.003, 0.995]])
DISTORTION = {f"rlnMagMat{i}{j}": str(MATRIX[i, j]) for i in (0, 1) for j in (0, 1)}
JOBS = {
    "defocus": ("phases", "--fit_defocus --fit_mode fpmff"),
    "aberrations": ("phases", "--fit_beamtilt --odd_aberr_max_n 3 --fit_aberr"),
    "magnification": ("distorted", "--fit_aniso --keep_astig"),
}


def prepare(root: Path, optics: dict[str, str], error: float, args: argparse.Namespace) -> None:
    """Particles, half maps and postprocess.star below ``root``."""
    root.mkdir()
    done = simulate_particles(
        root, args.particles, args.box, args.angpix, snr=args.snr, seed=1, optics_values=optics, atoms=1000
    )
    random = np.random.default_rng(2)
    file = star.read(done.truth)
    particles = file["particles"]
    wrong = random.normal(0.0, error, args.particles) if error else np.zeros(args.particles)
    for label in ("rlnDefocusU", "rlnDefocusV"):
        particles.set(label, particles.floats(label) + wrong)
    particles.set("rlnRandomSubset", np.arange(args.particles) % 2 + 1)
    for label in optics:
        file["optics"].remove(label)
    star.write(root / "start.star", file)
    truth, _ = mrc.read_map(done.maps[0])
    for half in (1, 2):
        noise = 0.05 * truth.std() * random.standard_normal(truth.shape)
        mrc.write_map(root / f"half{half}.mrc", truth + noise, args.angpix)
    general = Table(loop=False)
    for label, value in (("UnfilteredMapHalf1", "half1"), ("UnfilteredMapHalf2", "half2"), ("MaskName", "mask")):
        general.set(f"rln{label}", f"{value}.mrc")
    curve = np.full(args.box // 2 + 1, 0.9)
    curve[int(0.9 * len(curve)) :] = 0.0
    fsc = Table({"rlnSpectralIndex": np.arange(len(curve)), "rlnFourierShellCorrelationCorrected": curve})
    star.write(root / "postprocess.star", StarFile([("general", general), ("fsc", fsc)]))


def run(program: list[str], root: Path, out: str, options: str, threads: str) -> measure.Usage:
    """One job, measured."""
    words = f"--i start.star --f postprocess.star --o {out}/ --j {threads} {options}".split()
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1"}
    return measure.run([*program, *words], root, environment=environment)


def phases(values: dict[str, str], args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Odd and even phases, radians, at the frequencies that count; without what only shifts particles."""
    kx, ky = disc_pixels(0.9 * args.box / 2 - 1)
    x, y = kx / (args.box * args.angpix), ky / (args.box * args.angpix)
    tilt = [float(values.get(f"rlnBeamTilt{axis}", "0")) for axis in "XY"]
    total = [-CS_RADIANS * (x * x + y * y) * (tilt[0] * x + tilt[1] * y), np.zeros(len(x))]
    for i, (label, indices) in enumerate((("rlnOddZernike", odd_indices), ("rlnEvenZernike", even_indices))):
        for n, text in enumerate(values.get(label, "").strip("[]").split(",")):
            total[i] += float(text or 0) * zernike(*indices(n), x, y)
    shifts = np.stack([x, y])
    odd = total[0] - np.linalg.lstsq(shifts.T, total[0], rcond=None)[0] @ shifts
    return odd, total[1]


def errors(job: str, root: Path, out: str, args: argparse.Namespace) -> str:
    """What is left to the truth, for people."""
    found = star.read(root / out / "particles_ctf_refine.star")
    if job == "defocus":
        truth = star.read(root / "truth.star")["particles"]
        place = {name: row for row, name in enumerate(truth.strings("rlnImageName"))}
        rows = [place[name] for name in found["particles"].strings("rlnImageName")]
        mean = [0.5 * (t.floats("rlnDefocusU") + t.floats("rlnDefocusV")) for t in (found["particles"], truth)]
        left = np.abs(mean[0] - mean[1][rows])
        return f"median {np.median(left):.1f} A, mean {left.mean():.1f} A"
    values = found["optics"].row(0)
    if job == "magnification":
        matrix = np.array([float(values[label]) for label in DISTORTION]).reshape(2, 2)
        return f"largest element {np.abs(matrix - MATRIX).max():.5f} of {np.abs(MATRIX - np.eye(2)).max():.5f}"
    (odd, even), (true_odd, true_even) = phases(values, args), phases(PHASES, args)
    left = np.angle(np.exp(1j * (even - true_even)))
    return (
        f"rms phase {np.sqrt(((odd - true_odd) ** 2).mean()):.3f} odd, {np.sqrt((left**2).mean()):.3f} even (radians)"
    )


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--angpix", type=float, default=1.2)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--j", default="1")
    parser.add_argument("--other", default=shutil.which("/usr/bin/relion_ctf_refine") or "")
    args = parser.parse_args()
    programs = {"ours": OURS, **({args.other: [args.other]} if args.other else {})}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prepare(directory / "phases", PHASES, 200.0, args)
        prepare(directory / "distorted", DISTORTION, 0.0, args)
        run(OURS, directory / "phases", "Warm", "--fit_beamtilt --max_MG 0", args.j)  # compiles
        print(f"{args.particles} particles of {args.box} pixels, {args.angpix} A, SNR {args.snr}, {args.j} threads")
        for job, (data, options) in JOBS.items():
            for title, program in programs.items():
                used = run(program, directory / data, f"{job}{len(title)}", options, args.j)
                left = errors(job, directory / data, f"{job}{len(title)}", args)
                print(f"{job:14} {title:28} {used.wall:7.1f} s  {used.cpu:7.1f} s CPU   {left}", flush=True)


if __name__ == "__main__":
    main()
