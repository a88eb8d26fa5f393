"""relion_align_symmetry: turn a map so that its symmetry axes lie where the point group has them.

Facts: RELION 5, apps/align_symmetry.cpp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from relion_py.compute.cli.options.align_symmetry import FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.geometry.symmetry import canonical, operators
from relion_py.compute.image.fourier import resize_map
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map, write_map
from relion_py.compute.refine.align_symmetry import (
    Map,
    Orientation,
    SymmetrySearch,
    centred_map,
    random_angles,
    turned_map,
)


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


@dataclass(frozen=True)
class _Aligned:
    """A map, how it is to be turned, and its pixel size (A)."""

    name: str
    volume: Map
    orientation: Orientation
    angpix: float


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_align_symmetry", "Aligns a map with its symmetry axes.")
    symmetry, out = canonical(args.text("--sym")), args.text("--o")
    _check(args)
    names = list(_input_maps(args, symmetry))
    directory = os.path.dirname(out)
    if directory and not os.path.isdir(directory):
        raise UserError(f"The output directory {directory} does not exist; make it, or correct --o.")
    if symmetry == "C1":
        volume, angpix = _read(names[0], args, job)
        write_map(out, volume, angpix)
        job.say(f" The selected map has been written to {out}")
        return
    best = min((_align(name, args, symmetry, job) for name in names), key=lambda a: a.orientation.difference)
    job.say(" Now rotating the original (full size) volume ...")
    group = operators(symmetry) if args.on("--apply_sym") else np.eye(3)[None]
    turned = turned_map(
        best.volume,
        group @ euler_to_matrix(*best.orientation.angles),
        args.integer("--pad"),
        args.on("--NN"),
    )
    write_map(out, turned, best.angpix)
    job.say(f" The aligned map has been written to {out}")


def _check(args: Arguments) -> None:
    if args.on("--select_largest_class") and args.on("--select_highest_resol"):
        raise UserError("--select_largest_class and --select_highest_resol exclude each other: give one of them.")
    if args.integer("--box_size") < 2 or args.integer("--box_size") % 2:
        raise UserError("The box of the search (--box_size) must be an even number of pixels.")
    for name, least in (("--nr_uniform", 0), ("--local_search_range", 0), ("--pad", 1), ("--random_seed", 0)):
        if args.integer(name) < least:
            raise UserError(f"{name} must be at least {least}, not {args.integer(name)}.")
    if not args.number("--local_search_step") > 0:
        raise UserError("--local_search_step must be more than 0 degrees.")


def _input_maps(args: Arguments, symmetry: str) -> Iterator[str]:
    """Names of the maps to look at: the one given, or classes of a model."""
    name = args.text("--i")
    if not name.endswith("model.star"):
        yield name
        return
    chosen = args.on("--select_largest_class") or args.on("--select_highest_resol")
    if symmetry == "C1" and not chosen:
        raise UserError(
            "Without symmetry no class is the most symmetric: say --select_largest_class or --select_highest_resol."
        )
    classes = star.read(name)["model_classes"]
    maps = classes.strings("rlnReferenceImage")
    if args.on("--select_largest_class"):
        maps = [maps[int(np.argmax(classes.floats("rlnClassDistribution")))]]
    elif args.on("--select_highest_resol"):
        maps = [maps[int(np.argmin(classes.floats("rlnEstimatedResolution")))]]
    for each in maps:
        beside = os.path.join(os.path.dirname(name), os.path.basename(each))
        yield each if os.path.exists(each) else beside


def _read(name: str, args: Arguments, job: Job) -> tuple[Map, float]:
    job.say(f" Reading map: {name}")
    volume, angpix = read_map(name)
    if volume.ndim != 3 or len(set(volume.shape)) != 1 or len(volume) % 2:
        size = " x ".join(map(str, volume.shape[::-1]))
        raise UserError(f"{name} has {size} voxels; only cubic maps with an even box can be aligned.")
    if not np.isfinite(volume).all():
        raise UserError(f"{name} contains values that are not numbers; make the map again.")
    angpix = args.number("--angpix") if args.number("--angpix") > 0 else angpix
    if not angpix > 0:
        raise UserError(f"{name} does not tell its pixel size; give it with --angpix.")
    return np.asarray(volume, np.float32), angpix


def _align(name: str, args: Arguments, symmetry: str, job: Job) -> _Aligned:
    """How to turn one map: the best of many random orientations, refined."""
    volume, angpix = _read(name, args, job)
    if not args.on("--keep_centre"):
        volume = centred_map(volume)
        job.say(" Re-centred to the centre of the mass")
    box = min(args.integer("--box_size"), len(volume))
    work_angpix = angpix * len(volume) / box
    job.say(f" Downsampled to the working box size {box} px. This corresponds to {work_angpix:g} A/px.")
    maxres = args.number("--maxres")
    search = SymmetrySearch(
        resize_map(volume, box),
        operators(symmetry),
        box * work_angpix / maxres if maxres > 0 else box,
        args.integer("--pad"),
        args.on("--NN"),
    )
    job.say(" Searching globally ...")
    random = np.random.default_rng(args.integer("--random_seed"))
    candidates = [(0.0, 0.0, 0.0), *random_angles(args.integer("--nr_uniform"), random, args.on("--only_rot"))]
    with job.progress(len(candidates)) as bar:

        def advance(done: int) -> None:
            job.check_abort()
            bar.update(done)

        found = search.best_of(candidates, advance)
    _tell(job, "best", found)
    job.say(" Refining locally ...")
    found = search.refine(
        found, args.integer("--local_search_range"), args.number("--local_search_step"), args.on("--only_rot")
    )
    _tell(job, "refined", found)
    return _Aligned(name, volume, found, angpix)


def _tell(job: Job, kind: str, found: Orientation) -> None:
    rot, tilt, psi = found.angles
    job.say(
        f" The {kind} solution is ROT = {rot:g} TILT = {tilt:g} PSI = {psi:g}; "
        f"{100 * found.difference:.1f} % of the power is not symmetric"
    )


if __name__ == "__main__":
    main()
