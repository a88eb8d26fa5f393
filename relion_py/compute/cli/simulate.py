"""relion_py_simulate: write simulated particles, or movies of them, whose structure and poses are known."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from relion_py.compute.cli.options.simulate import FLAGS, MOVIES, PARTICLES
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, ProgressBar, run
from relion_py.compute.errors import UserError
from relion_py.compute.simulate import simulate_particles
from relion_py.compute.simulate_movies import MovieSet, simulate_movies


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_simulate))


def _simulate(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_py_simulate", "Writes simulated particles or movies with their truth.")
    of_the_other = PARTICLES if args.integer("--movies") > 0 else MOVIES
    for flag in FLAGS:
        if flag.group == of_the_other and flag.name in args.given:
            kind = "images of particles, not for movies" if of_the_other == PARTICLES else "movies; add --movies"
            raise UserError(f"{flag.name} has a meaning for {kind}.")
    # names in the STAR files are relative to the project, which is where programs are run
    outside = os.path.relpath(args.text("--o")).split(os.sep)[0] == os.pardir
    root = None if outside else "."
    if args.integer("--movies") > 0:
        _movies(args, job, root)
    else:
        _particles(args, job, root)


def _particles(args: Arguments, job: Job, root: str | None) -> None:
    out, count = args.text("--o"), args.integer("--n")
    job.say(f" Simulating {count} particles in {out} ...")
    with job.progress(count) as bar:
        simulated = simulate_particles(
            out,
            count,
            args.integer("--box"),
            args.number("--angpix"),
            args.text("--sym"),
            args.integer("--seed"),
            args.number("--snr"),
            project_root=root,
            diameter=_unless_negative(args, "--diameter"),
            atoms=args.integer("--atoms"),
            classes=args.integer("--classes"),
            shift=_unless_negative(args, "--shift"),
            defocus=(args.number("--min_defocus"), args.number("--max_defocus")),
            optics_groups=args.integer("--optics_groups"),
            noise="coloured" if args.on("--coloured_noise") else "white",
            reference_resolution=args.number("--ini_high"),
            progress=_advance(job, bar),
        )
    job.say(f" Written: {simulated.particles}, the same with poses: {simulated.truth}")
    job.say(f" Reference and mask: {simulated.reference}, {simulated.mask}")
    job.say(f" Particle diameter: {simulated.diameter:g} A")


def _movies(args: Arguments, job: Job, root: str | None) -> None:
    out, movies, box, angpix = (
        args.text("--o"),
        args.integer("--movies"),
        args.integer("--box"),
        args.number("--angpix"),
    )
    diameter = _unless_negative(args, "--diameter")
    what = MovieSet(
        movies=movies,
        particles=args.integer("--n"),
        size=args.integer("--size"),
        frames=args.integer("--frames"),
        angpix=angpix,
        dose=args.number("--dose"),
        snr=args.number("--snr"),
        ice=args.number("--ice"),
        drift=args.number("--drift"),
        local_motion=args.number("--local_motion"),
        defocus=(args.number("--min_defocus"), args.number("--max_defocus")),
        symmetry=args.text("--sym"),
        diameter=0.6 * box * angpix if diameter is None else diameter,
        atoms=args.integer("--atoms"),
        sigma=args.number("--sigma"),
        box=box,
        seed=args.integer("--seed"),
    )
    job.say(f" Simulating {movies} movies with {what.particles} particles in {out} ...")
    with job.progress(movies) as bar:
        written = simulate_movies(out, what, project_root=root, progress=_advance(job, bar))
    job.say(f" Written: {written.movies}, gain reference: {written.gain}")
    job.say(f" Positions and poses: {written.truth}, the structure: {written.volume}")
    job.say(f" Particle diameter: {what.diameter:g} A")


def _advance(job: Job, bar: ProgressBar) -> Callable[[int], None]:
    """What the simulations call with how much is done."""

    def advance(done: int) -> None:
        job.check_abort()
        bar.update(done)

    return advance


def _unless_negative(args: Arguments, name: str) -> float | None:
    value = args.number(name)
    return None if value < 0 else value


if __name__ == "__main__":
    main()
