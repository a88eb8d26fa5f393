"""relion_flex_analyse: how the bodies of a multi-body refinement move.

Facts: RELION 5, flex_analyser.cpp. There, the maps along a component turn each body about the centre of the box; here
about the body's own centre, as it was refined.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from relion_py.compute.cli.options.flex_analyse import DESCRIPTION, FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, ProgressBar, run
from relion_py.compute.errors import UserError
from relion_py.compute.flex import files
from relion_py.compute.flex.motions import COORDINATES, Components, MovingBodies, residual_motions
from relion_py.compute.io import star
from relion_py.compute.io.star import Table
from relion_py.compute.refine.bodies import Bodies, read_bodies
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.model import ModelState
from relion_py.compute.refine.outputs import number_of_optics_groups, read_model, write_reference

_OPEN = 99998
"""Limits of a selection beyond this are none, and not in the name of its file."""


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


@dataclass(frozen=True)
class Refinement:
    """What is analysed."""

    particles: ParticleSet
    model: ModelState
    bodies: Bodies


class _Quiet(Job):
    """The same job without messages, for --verb 0."""

    def say(self, text: str) -> None:
        """Nothing."""

    def progress(self, total: int) -> ProgressBar:
        """A bar that is not drawn."""
        return ProgressBar(total, shown=False)


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_flex_analyse", DESCRIPTION)
    if args.integer("--verb") == 0:
        job = _Quiet(job.directory, job.comm)
    check_options(args)
    found = read_refinement(args, job)
    directory = os.path.dirname(args.text("--o"))
    if directory and not os.path.isdir(directory):
        raise UserError(f"The output directory {directory} does not exist; make it, or correct --o.")
    if args.on("--3dmodels"):
        write_models(args, job, found)
    if args.on("--PCA_orient"):
        analyse(args, job, found)


def check_options(args: Arguments) -> None:
    """UserError for options that are missing, or that contradict each other."""
    for flag, what in (("--data", "_data.star"), ("--model", "_model.star"), ("--bodies", "bodies' STAR file")):
        if not args.text(flag):
            raise UserError(f"The {what} of the refinement was not given: name it with {flag}.")
    if not (args.on("--3dmodels") or args.on("--PCA_orient")):
        raise UserError("Nothing is asked for: give --PCA_orient, or --3dmodels, or both.")
    if not args.on("--PCA_orient"):
        for flag in ("--do_maps", "--write_pca_projections"):
            if args.on(flag):
                raise UserError(f"{flag} has no effect without --PCA_orient: add that, or leave {flag} out.")
        if args.integer("--select_eigenvalue") > 0:
            raise UserError("--select_eigenvalue has no effect without --PCA_orient: add that, or leave it out.")
    if not 0.0 < args.number("--v") <= 1.0:
        raise UserError(f"--v is a part of the variance, above 0 and at most 1, not {args.number('--v'):g}.")
    for flag in ("--maps_per_movie", "--bins"):
        if args.integer(flag) < 1:
            raise UserError(f"{flag} must be at least 1, not {args.integer(flag)}.")


def read_refinement(args: Arguments, job: Job) -> Refinement:
    """Particles, model and bodies; UserError where they do not belong together."""
    data, path = args.text("--data"), args.text("--model")
    for name in (data, path):
        if not os.path.exists(name):
            raise UserError(f"{name} does not exist: the refinement has not been finished, or the name is wrong.")
    job.say(" Reading in data.star file ...")
    particles = ParticleSet.read(data)
    job.say(" Reading in model.star file ...")
    model = read_model(path, number_of_optics_groups(data), True)
    if model.bodies is None or not particles.bodies:
        raise UserError(f"{path if model.bodies is None else data} is not of a multi-body refinement.")
    job.say(" Initialising bodies ...")
    bodies = read_bodies(args.text("--bodies"), model.ori_size, model.pixel_size)
    if not len(bodies) == model.nr_classes == len(particles.bodies):
        raise UserError(
            f"{args.text('--bodies')} has {len(bodies)} bodies, {path} {model.nr_classes} and {data} "
            f"{len(particles.bodies)}: they do not belong together."
        )
    return Refinement(particles, model, bodies)


def write_models(args: Arguments, job: Job, found: Refinement) -> None:
    """A map of each particle, and the list of them."""
    size, root = args.integer("--size_3dmodels"), args.text("--o")
    moving = MovingBodies.of(found.bodies, found.model.references, size)
    angles, moves = residual_motions(found.particles, found.bodies)
    names = []
    job.say(" Processing all particles ... ")
    with job.progress(len(angles)) as bar:
        for n, (turn, move) in enumerate(zip(angles, moves, strict=True)):
            job.check_abort()
            names.append(f"{root}_part{n + 1:08d}.mrc")
            write_reference(names[-1], moving.assembled(turn, move), found.model.pixel_size / moving.scale)
            bar.update(n + 1)
    images = found.particles.table.strings("rlnImageName")
    star.write(f"{root}_3dmodels.star", {"": Table({"rlnReferenceImage": names, "rlnImageName": images})})


def analyse(args: Arguments, job: Job, found: Refinement) -> None:
    """Principal components, and what was asked for of them."""
    root = args.text("--o")
    moving = MovingBodies.of(found.bodies, found.model.references)
    weights = moving.weights()
    files.write_weights(f"{root}_pca_weights.dat", weights)
    job.say(f" Normalisation weights for PCA columns are written to {root}_pca_weights.dat")
    job.say("Calculating PCA ...")
    components = Components.of(*residual_motions(found.particles, found.bodies), weights)
    _say_vectors(job, components)
    files.write_vectors(f"{root}_eigenvectors.dat", components)
    job.say(f" Full eigenvectors including translations are written to {root}_eigenvectors.dat")
    number = _number_of_components(args, job, components)
    files.write_report(f"{root}_logfile.pdf", components, args.integer("--bins"))
    if args.on("--do_maps"):
        _write_movies(args, job, found, moving, components, number)
    if args.on("--write_pca_projections"):
        names = found.particles.table.strings("rlnImageName")
        files.write_projections(f"{root}_projections_along_eigenvectors_all_particles.txt", names, components)
    if args.integer("--select_eigenvalue") > 0:
        _select(args, job, found, components)


def _say_vectors(job: Job, components: Components) -> None:
    """The rotations of the first three vectors of each body's number, as the reference prints them."""
    turns = [k for k in range(len(components.means)) if k % len(COORDINATES) < 3]
    names = files.coordinate_names(len(components.weights))
    job.say(" Eigenvectors (rotations only):")
    job.say("".join(f"{names[k]:>12}" for k in turns))
    for k in turns:
        job.say("".join(f"{components.vectors[k, j]:12.6f}" for j in turns))


def _number_of_components(args: Arguments, job: Job, components: Components) -> int:
    """How many components maps are made along."""
    for k, share in enumerate(components.shares, 1):
        job.say(f"  + Component {k} explains {100.0 * share:g}% of variance.")
    number = args.integer("--k")
    if number < 0:
        number = components.number_that_explains(args.number("--v"))
    number = min(number, len(components.shares))
    explained = 100.0 * float(components.shares[:number].sum())
    job.say(f" The first {number} eigenvectors explain {explained:g} % of the variance in the data.")
    return number


def _write_movies(
    args: Arguments, job: Job, found: Refinement, moving: MovingBodies, components: Components, number: int
) -> None:
    root, bins = args.text("--o"), args.integer("--maps_per_movie")
    for k in range(number):
        job.say(f" Calculating 3D models for principal component {k + 1} ... ")
        for place, value in enumerate(components.bin_means(k, bins), 1):
            job.check_abort()
            volume = moving.assembled(*components.at(k, float(value)))
            write_reference(f"{root}_component{k + 1:03d}_bin{place:03d}.mrc", volume, found.model.pixel_size)


def _select(args: Arguments, job: Job, found: Refinement, components: Components) -> None:
    """The particles between two values along a component."""
    component = args.integer("--select_eigenvalue")
    low, high = args.number("--select_eigenvalue_min"), args.number("--select_eigenvalue_max")
    if component > len(components.variances):
        raise UserError(f"--select_eigenvalue must be at most {len(components.variances)}, not {component}.")
    values = components.projections[:, component - 1]
    rows = np.flatnonzero((values > low) & (values < high))
    name = f"{args.text('--o')}_eval{component:03d}_select"
    low, high = _rounded(low), _rounded(high)
    name += f"_min{low}" if low > -_OPEN else ""
    name += f"_max{high}" if high < _OPEN else ""
    table = found.particles.table
    star.write(f"{name}.star", {"optics": table.optics, "particles": table.particles.select(rows)})
    job.say(f" Written out {len(rows)} selected particles in {name}.star")


def _rounded(value: float) -> int:
    """The nearest whole number, halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


if __name__ == "__main__":
    main()
