"""relion_py_simulate: write a simulated data set of particles whose structure and poses are known."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from relion_py.compute.cli.options.simulate import FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.simulate import simulate_particles


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_simulate))


def _simulate(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_py_simulate", "Writes simulated particles with their truth.")
    out = args.text("--o")
    # names in the STAR files are relative to the project, which is where programs are run
    outside = os.path.relpath(out).split(os.sep)[0] == os.pardir
    count = args.integer("--n")
    job.say(f" Simulating {count} particles in {out} ...")
    with job.progress(count) as bar:

        def progress(done: int) -> None:
            job.check_abort()
            bar.update(done)

        simulated = simulate_particles(
            out,
            count,
            args.integer("--box"),
            args.number("--angpix"),
            args.text("--sym"),
            args.integer("--seed"),
            args.number("--snr"),
            project_root=None if outside else ".",
            diameter=_unless_negative(args, "--diameter"),
            atoms=args.integer("--atoms"),
            classes=args.integer("--classes"),
            shift=_unless_negative(args, "--shift"),
            defocus=(args.number("--min_defocus"), args.number("--max_defocus")),
            optics_groups=args.integer("--optics_groups"),
            noise="coloured" if args.on("--coloured_noise") else "white",
            reference_resolution=args.number("--ini_high"),
            progress=progress,
        )
    job.say(f" Written: {simulated.particles}, the same with poses: {simulated.truth}")
    job.say(f" Reference and mask: {simulated.reference}, {simulated.mask}")
    job.say(f" Particle diameter: {simulated.diameter:g} A")


def _unless_negative(args: Arguments, name: str) -> float | None:
    value = args.number(name)
    return None if value < 0 else value


if __name__ == "__main__":
    main()
