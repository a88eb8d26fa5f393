"""This refinement beside RELION's on the same particles: time, memory, resolution, agreement with the truth.

    python benchmarks/refine.py                                   simulated particles, Debian's relion_refine
    python benchmarks/refine.py --reference /opt/relion5/bin/relion_refine --data MYDATA --sym D7 --diameter 200
    python benchmarks/refine.py --job class3d --classes 3 --max-iterations 10
    python benchmarks/refine.py --job initial_model --reference /opt/relion5/bin/relion_refine --reference-options=--cpu
    python benchmarks/refine.py --job initial_model --reference "" --seeds 5

A directory given with --data holds particles.star, whose image names start there or at --project; reference.mrc
(else truth.mrc, low-passed by the programs at --ini-high, is the start); and truth.mrc, if the truth is known.
RELION refines gold-standard halves under mpirun only: its program with "_mpi" behind its name runs as three ranks
(two that work), ours as one process, both with the same number of working threads. RELION 3.1 reads no 16-bit
floating point numbers; such stacks are converted for it first.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import numpy as np
from alignment import aligned

from relion_py.compute.image.fsc import fsc
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import star
from relion_py.compute.simulate import simulate_particles

HALF_PRECISION = 12
"""MRC's mode of 16-bit floating point numbers."""
OURS = "relion_py"
JOBS = ("auto_refine", "class3d", "class2d", "initial_model")


@dataclass
class Result:
    """What one program needed (s on the clock and of the processor, bytes) and found.

    area is the mean FSC to the truth up to Nyquist, or NaN.
    """

    name: str
    seed: int
    status: int
    seconds: float
    processor: float
    memory: int
    iterations: int
    resolution: float
    area: float
    log: Path
    stages: dict[str, float] = field(default_factory=dict)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--reference", default="/usr/bin/relion_refine", help='RELION\'s program; "" for none')
    parser.add_argument("--reference-options", default="", help='more for that program alone, as "--cpu"')
    parser.add_argument("--job", default="auto_refine", choices=JOBS)
    parser.add_argument("--classes", type=int, default=3, help="of class3d and class2d")
    parser.add_argument("--data", type=Path, help="a data set instead of simulated particles")
    parser.add_argument("--project", type=Path, help="where its image names start, if not in --data")
    parser.add_argument("--particles", type=int, default=400, help="how many to simulate")
    parser.add_argument("--box", type=int, default=64, help="pixels, of simulated particles")
    parser.add_argument("--angpix", type=float, default=3.5, help="A, of simulated particles")
    parser.add_argument("--sym", default="D2", help="point group")
    parser.add_argument("--diameter", type=float, help="of the particle mask in A (default: 70%% of the box)")
    parser.add_argument("--ini-high", type=float, default=40.0, help="low-pass filter of the start in A")
    parser.add_argument("--healpix-order", type=int, default=2, help="1: 30 degrees, 2: 15 degrees, ...")
    parser.add_argument("--max-iterations", type=int, help="stop after so many (default: convergence, or 25)")
    parser.add_argument("--threads", type=int, default=2, help="working threads of each program")
    parser.add_argument("--seed", type=int, default=1, help="of the first run of each program")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each program, each with the next seed")
    parser.add_argument("--keep", type=Path, help="leave data and results in this new directory")
    return parser.parse_args()


def main() -> int:
    """Runs both programs one after the other and prints the table; 0 if all that ran ended well."""
    options = arguments()
    if options.keep:
        options.keep.mkdir(parents=True)
        return compare(options, options.keep.resolve())
    with tempfile.TemporaryDirectory(prefix="refine-benchmark-") as work:
        return compare(options, Path(work))


def compare(options: argparse.Namespace, work: Path) -> int:
    """The benchmark in the empty directory `work`."""
    particles, start, truth = data_set(options, work)
    table = star.read(particles)
    count = len(table["particles"].strings("rlnImageName"))
    box = int(table["optics"].ints("rlnImageSize")[0])
    angpix = float(table["optics"].floats("rlnImagePixelSize")[0])
    if options.diameter is None:
        options.diameter = round(0.7 * box * angpix)
    print(f"{count} particles of {box} pixels of {angpix:g} A, {options.sym}, {options.threads} threads\n", flush=True)
    results = []
    plain = in_single_precision(particles, work) if options.reference else particles
    for seed in range(options.seed, options.seed + options.seeds):
        words = [*refinement_words(options, start), "--random_seed", str(seed)]
        ours = [sys.executable, "-m", "relion_py.compute.cli.refine", "--i", str(particles), *words]
        results.append(run(OURS, [*ours, "--j", str(options.threads)], seed, work, options, truth))
        if options.reference:
            theirs = [*reference_command(options), "--i", str(plain), *words]
            results.append(run(options.reference, theirs, seed, work, options, truth))
    report(results, count)
    return int(any(result.status for result in results))


def data_set(options: argparse.Namespace, work: Path) -> tuple[Path, Path | None, Path | None]:
    """Paths of particles, start and truth; `work` then leads to the images, as the programs are run there."""
    if options.data is None:
        simulated = simulate_particles(
            work, options.particles, options.box, options.angpix, options.sym, options.seed,
            classes=1 if options.job == "auto_refine" else options.classes, reference_resolution=options.ini_high,
        )  # fmt: skip
        return simulated.particles, simulated.reference, simulated.maps[0]
    data = options.data.resolve()
    project = (options.project or options.data).resolve()
    for entry in project.iterdir():
        (work / entry.name).symlink_to(entry)
    truth = data / "truth.mrc"
    start = next((p for p in (data / "reference.mrc", truth) if p.is_file()), None)
    if start is None and options.job not in ("class2d", "initial_model"):
        raise SystemExit(f"{data} has neither reference.mrc nor truth.mrc; put a starting map there.")
    return data / "particles.star", start, truth if truth.is_file() else None


def refinement_words(options: argparse.Namespace, start: Path | None) -> list[str]:
    """What both programs are told."""
    words = f"--ctf --particle_diameter {options.diameter:g} --norm --scale --zero_mask --oversampling 1".split()
    words += ["--pool", "3", "--dont_combine_weights_via_disc"]
    if options.job == "initial_model":  # without --norm and --scale, as the job of RELION 5
        words = [word for word in words if word not in ("--norm", "--scale")]
        words += ["--grad", "--denovo_3dref", "--K", "1", "--sym", "C1", "--flatten_solvent", "--pad", "1"]
        words += ["--auto_sampling", "--tau2_fudge", "4", "--healpix_order", "1"]
        return [*words, "--offset_range", "6", "--offset_step", "2", "--iter", str(options.max_iterations or 200)]
    words += ["--pad", "2"]
    if options.job == "class2d":
        words += f"--K {options.classes} --tau2_fudge 2 --psi_step 12 --flatten_solvent --center_classes".split()
    else:
        words += ["--ref", str(start), "--firstiter_cc", "--ini_high", f"{options.ini_high:g}", "--sym", options.sym]
        words += ["--healpix_order", str(options.healpix_order), "--flatten_solvent"]
    if options.job == "class3d":
        words += f"--K {options.classes} --tau2_fudge 4".split()
    if options.job == "auto_refine":
        words += f"--auto_refine --split_random_halves --low_resol_join_halves {options.ini_high:g}".split()
        words += ["--auto_local_healpix_order", "4"]
    words += ["--offset_range", "5", "--offset_step", "2"]
    if options.max_iterations or options.job != "auto_refine":
        words += ["--iter", str(options.max_iterations or 25)]
    return words


def reference_command(options: argparse.Namespace) -> list[str]:
    """RELION's program with the threads, or the ranks, that make the comparison fair."""
    if options.job != "auto_refine":
        return [options.reference, "--j", str(options.threads), *options.reference_options.split()]
    beside = Path(options.reference).parent / "mpirun"
    mpirun = str(beside) if beside.is_file() else shutil.which("mpirun", path="/usr/bin:/usr/local/bin")
    if mpirun is None:
        raise SystemExit("RELION's auto-refinement needs mpirun, which was not found; install it.")
    more = options.reference_options.split()
    as_root = ["--allow-run-as-root", "--oversubscribe"] if os.geteuid() == 0 else ["--oversubscribe"]
    return [mpirun, *as_root, "-n", "3", f"{options.reference}_mpi", "--j", str(max(1, options.threads // 2)), *more]


def in_single_precision(particles: Path, work: Path) -> Path:
    """A particle file whose stacks hold no 16-bit floating point numbers: itself, or one that is made in `work`."""
    table = star.read(particles)
    names = [name.split("@") for name in table["particles"].strings("rlnImageName")]
    converted: dict[str, str] = {}
    for stack in dict.fromkeys(path for _, path in names):
        with mrcfile.open(work / stack, header_only=True) as header:
            if int(header.header.mode) != HALF_PRECISION:
                continue
            size = header.voxel_size.copy()
        converted[stack] = f"float32_{len(converted)}.mrcs"
        with mrcfile.new(work / converted[stack]) as out:
            out.set_data(np.asarray(mrcfile.read(work / stack), dtype=np.float32))
            out.set_image_stack()
            out.voxel_size = size
    if not converted:
        return particles
    table["particles"].set("rlnImageName", [f"{number}@{converted.get(path, path)}" for number, path in names])
    star.write(work / "float32.star", table)
    return work / "float32.star"


def run(name: str, words: list[str], seed: int, work: Path, options: argparse.Namespace, truth: Path | None) -> Result:
    """Runs one program in `work` and reads its results."""
    out = work / f"out_{'ours' if name == OURS else 'reference'}_{seed}"
    out.mkdir()
    log = out / "log.txt"
    print(f"running {name} ...", flush=True)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    began = time.perf_counter()
    with open(log, "w") as stream:
        command = [*words, "--o", f"{out}/run"]
        process = subprocess.Popen(command, cwd=work, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        stopped, usage = wait(process, last_file(out, name, options))
    seconds = time.perf_counter() - began
    memory = usage.ru_maxrss
    status = 0 if stopped else process.returncode
    if status:
        print(log.read_text()[-2000:], file=sys.stderr)
    model, maps, iterations = results_in(out)
    resolution = float("nan")
    if model is not None:
        resolution = float(star.read(model)["model_general"].floats("rlnCurrentResolution")[0])
    adrift = options.job == "initial_model"
    area = max((area_to_truth(path, truth, options.diameter, adrift) for path in maps), default=float("nan"))
    processor = usage.ru_utime + usage.ru_stime
    return Result(
        name, seed, status, seconds, processor, memory * 1024, iterations, resolution, area, log, stages_in(log)
    )


def last_file(out: Path, name: str, options: argparse.Namespace) -> Path | None:
    """What to stop at: RELION's auto-refinement takes no number of iterations."""
    if name == OURS or options.job != "auto_refine" or not options.max_iterations:
        return None
    return out / f"run_it{options.max_iterations:03d}_optimiser.star"


def wait(process: subprocess.Popen[bytes], stop_at: Path | None) -> tuple[bool, resource.struct_rusage]:
    """Waits for the end, or ends it when a file is there: whether it did so; and the resources that were used.

    The largest memory is that of the process or of any that it waited for, so also of mpirun's ranks.
    """
    stopped = False
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return stopped, usage
        if stop_at is not None and not stopped and stop_at.exists():
            process.terminate()
            stopped = True
        time.sleep(0.02)


def results_in(out: Path) -> tuple[Path | None, list[Path], int]:
    """The last model file, its maps, and the number of iterations that were run."""
    numbers = sorted(int(p.name[6:9]) for p in out.glob("run_it[0-9][0-9][0-9]_optimiser.star"))
    last = numbers[-1] if numbers else 0
    if (out / "run_model.star").is_file():
        return out / "run_model.star", [out / "run_class001.mrc"], last + 1
    models = sorted(out.glob(f"run_it{last:03d}*_model.star"))
    return (models[0] if models else None), sorted(out.glob(f"run_it{last:03d}*_class*.mrc")), last


def area_to_truth(path: Path, truth: Path | None, diameter: float, adrift: bool) -> float:
    """Mean FSC over all shells to Nyquist of a map and the truth, both in a soft sphere; NaN without a truth.

    adrift: the map has a frame, and perhaps a hand, of its own.
    """
    if truth is None or not path.is_file():
        return float("nan")
    with mrcfile.open(path) as file:
        volume, angpix = np.array(file.data), float(file.voxel_size.x)
    known = np.array(mrcfile.read(truth))
    if volume.shape != known.shape:
        return float("nan")
    if adrift:
        volume, _ = aligned(volume, known, 0.5 * diameter / angpix)
    return float(fsc(volume, known, soft_mask(len(volume), 0.5 * diameter / angpix, 3.0))[1:].mean())


def stages_in(log: Path) -> dict[str, float]:
    """Seconds of each stage, summed over the lines that begin with "Time per step (s):"."""
    total: dict[str, float] = {}
    for line in re.findall(r"Time per step \(s\): (.*)", log.read_text(errors="replace")):
        for name, seconds in re.findall(r"([a-z][a-z ]*?) ([\d.]+)", line):
            total[name] = total.get(name, 0.0) + float(seconds)
    return total


def report(results: list[Result], particles: int) -> None:
    """The table, and where our time went."""
    heads = f"{'':28}{'seed':>5}{'wall':>9}{'CPU':>10}{'memory':>10}{'part.-iter./s':>15}{'iter.':>7}{'resolution':>12}"
    print(f"\n{heads}{'FSC area':>10}")
    for r in results:
        speed = particles * r.iterations / r.seconds
        ended = "" if r.status == 0 else f"  failed ({r.status})"
        print(
            f"{r.name[-27:]:28}{r.seed:5d}{r.seconds:7.1f} s{r.processor:8.1f} s{r.memory / 2**20:7.0f} MB"
            f"{speed:15.1f}{r.iterations:7d}{r.resolution:10.2f} A{r.area:10.4f}{ended}"
        )
    print("memory: of the largest process. FSC area: mean FSC to the truth up to Nyquist.")
    for name in dict.fromkeys(r.name for r in results):
        areas = [r.area for r in results if r.name == name]
        if len(areas) > 1:
            print(f"{name[-27:]}: FSC areas from {min(areas):.4f} to {max(areas):.4f}, mean {np.mean(areas):.4f}")
    stages = results[0].stages
    if stages:
        print(f"\n{OURS}, seconds by stage")
        for name, seconds in sorted(stages.items(), key=lambda item: -item[1]):
            print(f"  {name:20}{seconds:8.1f}")


if __name__ == "__main__":
    sys.exit(main())
