"""relion_filament_selection: clusters of filaments that visit the same 2D classes, each as a particle file.

Facts: RELION 5, scripts/filament_selection.in. Written are `logfile.pdf`, `run_data.star`, `run_model.star` (classes in
the order of their dendrogram), `run_optimiser.star`, and with -c above 0 `run_cluster<n>_particles.star` and
`run_clustersfailed_particles.star`. RELION keeps its state in `run_state.pkl` for the next threshold; here all is
made again, in seconds, so that nothing of an older input can stay.
"""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.filament_selection import ALIASES, DESCRIPTION, FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile
from relion_py.compute.ranking import filament_report, filaments
from relion_py.compute.ranking.filaments import Compositions
from relion_py.compute.refine.outputs import classification_files


@dataclass(frozen=True)
class Classification:
    """The files of a 2D classification: its optimiser, its model, and its particles."""

    optimiser: StarFile
    model: StarFile
    data: StarFile


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_filament_selection", DESCRIPTION)
    args.refuse(REFUSED)
    names = {short: next((name for name in (short, long) if args.on(name)), "") for long, short in ALIASES.items()}
    if not names["-i"] or not names["-o"]:
        raise UserError("-i (an optimiser.star) and -o (a directory) must be given; --help lists all options.")
    threshold, fewest = _number(args, names["-t"] or "-t"), args.integer(names["-c"] or "-c")
    directory = args.text(names["-o"])
    found = read_classification(args.text(names["-i"]))
    segments = found.data["particles"]
    job.say(f" Counting the segments of {len(segments)} particles in classes and filaments ...")
    table = filaments.compositions(segments, found.data.path)
    many, classes = len(table.names), len(table.classes)
    job.check_abort()
    job.say(f" Clustering {many} filaments by {classes} classes ...")
    trees = filaments.tree(table.counts), filaments.tree(np.ascontiguousarray(table.counts.T))
    job.check_abort()
    os.makedirs(directory, exist_ok=True)
    write_reordered(found, table.classes[filaments.order(trees[0])], directory)
    labels = filaments.cut(trees[1], threshold)
    job.say(f" Dendrogram threshold = {threshold:g}: {labels.max()} clusters")
    _say_sizes(job, table, labels)
    filament_report.write_report(os.path.join(directory, "logfile.pdf"), table, trees, labels, threshold)
    for old in glob.glob(os.path.join(glob.escape(directory), "run_cluster*.star")):
        os.unlink(old)  # of another threshold
    if fewest > 0:
        write_clusters(job, found.data, table, labels, fewest, directory)
    job.say("Done!")


def read_classification(path: str) -> Classification:
    """The model and the particles that an `_optimiser.star` names; UserError where it is of no classification."""
    optimiser, *paths = classification_files(path)
    model, data = map(star.read, paths)
    if "model_classes" not in model:
        raise UserError(f"{model.path} has no classes (no table data_model_classes).")
    if "@" not in (model["model_classes"].strings("rlnReferenceImage") or [""])[0]:
        raise UserError(f"{path} is of a 3D classification: give the _optimiser.star of a 2D classification.")
    if "particles" not in data:
        raise UserError(f"{data.path} has no table data_particles; convert it with relion_convert_star.")
    return Classification(optimiser, model, data)


def write_reordered(found: Classification, numbers: NDArray[np.int64], directory: str) -> None:
    """`run_data.star`, `run_model.star` and last `run_optimiser.star`, with classes in the order of `numbers`.

    numbers: of the classes with segments, from 1. The model's other classes are left out; `rlnClassNumber` says which
    is which, and `clusteredOrder` their order.
    """
    classes = found.model["model_classes"]
    own = classes.ints("rlnClassNumber") if "rlnClassNumber" in classes else np.arange(1, len(classes) + 1)
    rows = {int(number): row for row, number in enumerate(own)}
    absent = [int(number) for number in numbers if int(number) not in rows]
    if absent:
        raise UserError(f"{found.data.path} has particles of class {absent[0]}, which {found.model.path} has not.")
    table = classes.select([rows[int(number)] for number in numbers])
    table.set("rlnClassNumber", numbers)
    table.set("clusteredOrder", np.arange(len(numbers)))
    model = StarFile(list(found.model.blocks))
    model["model_classes"] = table
    paths = {kind: os.path.join(directory, f"run_{kind}.star") for kind in ("data", "model", "optimiser")}
    star.write(paths["data"], found.data)
    star.write(paths["model"], model)
    general = found.optimiser["optimiser_general"].copy()
    general.set("rlnModelStarFile", paths["model"])
    general.set("rlnExperimentalDataStarFile", paths["data"])
    star.write(paths["optimiser"], StarFile([("optimiser_general", general)]))


def write_clusters(
    job: Job, data: StarFile, table: Compositions, labels: NDArray[np.int64], fewest: int, directory: str
) -> None:
    """A particle file for each cluster of `fewest` segments or more, and one for all other segments.

    labels (F,): cluster of each filament. Particles get a column clusterLabel; those of the other clusters have four
    more, as RELION leaves there the columns by which it tells segments apart.
    """
    of_segment = labels[table.filament_index]
    sizes = np.bincount(of_segment, minlength=labels.max() + 1)
    for label in np.flatnonzero(sizes >= fewest):
        chosen = data["particles"].select(np.flatnonzero(of_segment == label))
        chosen.set("clusterLabel", int(label))
        _write_particles(job, data, chosen, os.path.join(directory, f"run_cluster{label}_particles.star"))
    small = np.flatnonzero(sizes[of_segment] < fewest)
    if not len(small):
        return
    chosen = data["particles"].select(small)
    tracks = chosen.floats(filaments.TRACK)
    names = ["".join(table.names[filament]) for filament in table.filament_index[small]]
    chosen.set("filamentHash", names)
    chosen.set("particleHash", [f"{name}{track}" for name, track in zip(names, tracks, strict=True)])
    chosen.set("classID", table.class_index[small])
    chosen.set("filamentID", table.filament_index[small])
    chosen.set("clusterLabel", of_segment[small])
    _write_particles(job, data, chosen, os.path.join(directory, "run_clustersfailed_particles.star"))


def _write_particles(job: Job, data: StarFile, particles: star.Table, path: str) -> None:
    job.check_abort()
    file = StarFile(list(data.blocks))
    file["particles"] = particles
    star.write(path, file)
    job.say(f" Written {len(particles)} particles to: {path}")


def _say_sizes(job: Job, table: Compositions, labels: NDArray[np.int64]) -> None:
    """How many filaments and segments each cluster has, the largest twenty first."""
    of_filament = np.bincount(labels)
    segments = np.bincount(labels[table.filament_index])
    largest = np.argsort(-segments, kind="stable")
    for label in [int(label) for label in largest if of_filament[label]][:20]:
        job.say(f"   cluster {label:3d}: {of_filament[label]:6d} filaments, {segments[label]:8d} segments")
    if labels.max() > 20:
        job.say(f"   and {labels.max() - 20} smaller ones")


def _number(args: Arguments, name: str) -> float:
    number = args.number(name)
    if not number >= 0:
        raise UserError(f"{name} must be a cosine distance of 0 or more, not {args.text(name)}.")
    return number


if __name__ == "__main__":
    main()
