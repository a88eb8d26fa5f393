"""What the Results panel shows of a job, gathered from its directory away from the event loop. No Qt.

``collect`` is called again and again while a job runs; it returns None as long as nothing has changed on
disc.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.images import ImageSet, images_of_star
from relion_py.gui.display.series import (
    FileCache,
    IterationSummary,
    Orientations,
    PostProcess,
    find_iterations,
    floats,
    particle_table,
    read_orientations,
    read_postprocess,
    read_star,
    summarise,
)

_KINDS = {
    "refine3d": "iterations",
    "multibody": "iterations",
    "class2d": "iterations",
    "class3d": "iterations",
    "initialmodel": "iterations",
    "inimodel": "iterations",
    "postprocess": "postprocess",
    "autopick": "picks",
    "manualpick": "picks",
    "motioncorr": "motion",
    "ctffind": "ctf",
}


@dataclass(frozen=True)
class JobFiles:
    """A job as the panel sees it: where it is, what it is, its output nodes as (path in the project,
    type)."""

    root: Path
    name: str  # "Refine3D/job007/"
    type_label: str
    status: str
    outputs: tuple[tuple[str, str], ...]

    @property
    def directory(self) -> Path:
        """The job's directory."""
        return self.root / self.name

    @property
    def kind(self) -> str:
        """How its results are shown: "iterations", "postprocess", "picks", "motion", "ctf" or "nodes"."""
        words = self.type_label.split(".")
        word = words[1] if len(words) > 1 and words[0] == "relion" else self.name.split("/")[0]
        return _KINDS.get(word.lower(), "nodes")

    def first_output(self, *types: str) -> Path | None:
        """The first output node whose type begins with one of ``types`` and whose file is there."""
        for kind in types:
            for path, node_type in self.outputs:
                if node_type.startswith(kind) and (self.root / path).is_file():
                    return self.root / path
        return None


def job_files(project: Any, job_name: str) -> JobFiles:
    """Gather what a pipeline project (``relion_py.pipeline.project.Project``) knows about a job."""
    process = project.process(job_name)
    nodes = tuple((node.path, str(node.type)) for node in project.outputs(process.name))
    return JobFiles(Path(project.root), process.name, process.type_label, str(process.status), nodes)


Stamp = tuple[Any, ...]


def stamp_of(job: JobFiles) -> Stamp:
    """Names, times and sizes of the STAR and MRC files of a job: differs when there is anything new to
    show."""
    entries: list[tuple[str, int, int]] = []
    paths = [job.directory, *{(job.root / path).parent for path, _ in job.outputs} - {job.directory}]
    for directory in paths:
        try:
            with os.scandir(directory) as listing:
                for entry in listing:
                    if entry.name.endswith((".star", ".mrc", ".mrcs")):
                        status = entry.stat()
                        entries.append((entry.path, status.st_mtime_ns, status.st_size))
        except OSError:
            continue
    return job.outputs, job.status, tuple(sorted(entries))


@dataclass(frozen=True)
class Results:
    """What to show. Fields that the kind of job does not have are None or empty."""

    kind: str
    stamp: Stamp
    summaries: tuple[IterationSummary, ...] = ()
    chosen: int = -1  # index into summaries
    images: ImageSet | None = None  # class averages of the chosen iteration
    map_path: Path | None = None
    orientations: Orientations | None = None
    postprocess: PostProcess | None = None
    table: Any = None  # of micrographs
    coordinates: Path | None = None
    counts: tuple[tuple[str, str], ...] = ()  # (node path, what is in it)
    problem: str = ""


class Collector:
    """Collects the results of one job; remembers what it has read already."""

    def __init__(self, job: JobFiles) -> None:
        self.job = job
        self.cache = FileCache()

    def collect(self, before: Stamp | None = None, iteration: int = -1) -> Results | None:
        """The results now, or None where the stamp is still ``before``; ``iteration`` -1 is the newest.

        Files that cannot be read (yet) end as a sentence in ``problem``.
        """
        stamp = stamp_of(self.job)
        if stamp == before:
            return None
        try:
            kind = self.job.kind
            if kind == "iterations":
                return self._iterations(stamp, iteration)
            if kind == "postprocess":
                return self._postprocess(stamp)
            if kind == "picks":
                return self._picks(stamp)
            if kind in ("motion", "ctf"):
                return self._micrographs(kind, stamp)
        except DisplayError as error:
            return Results(self.job.kind, stamp, problem=str(error))
        return self._nodes(stamp)

    def _iterations(self, stamp: Stamp, index: int) -> Results:
        iterations = find_iterations(self.job.directory)
        if not iterations:
            return Results("iterations", stamp, problem="No iteration has been written yet")
        summaries = tuple(summarise(iteration, self.cache) for iteration in iterations)
        index = len(summaries) - 1 if index < 0 else min(index, len(summaries) - 1)
        chosen = summaries[index]
        problems = [chosen.problem] if chosen.problem else []
        orientations: Orientations | None = None
        images: ImageSet | None = None
        model = chosen.model
        three_dimensional = model is not None and model.dimensionality == 3
        if three_dimensional and chosen.iteration.data is not None:
            data = chosen.iteration.data
            with suppress(DisplayError):  # iteration 0 has no angles yet
                orientations = self.cache.get(read_orientations, data, arguments=(data,))
        if model is not None and (not three_dimensional or len(model.classes) > 1):
            try:
                path = chosen.iteration.models[0]
                images = self.cache.get(images_of_star, path, arguments=(path, self.job.root))
            except DisplayError as error:
                problems.append(str(error))
        map_path = find_map(chosen, self.job.root) if three_dimensional else None
        return Results(
            "iterations",
            stamp,
            summaries=summaries,
            chosen=index,
            images=images,
            map_path=map_path,
            orientations=orientations,
            problem="; ".join(problems),
        )

    def _postprocess(self, stamp: Stamp) -> Results:
        path = self.job.first_output("ProcessData") or self.job.directory / "postprocess.star"
        if not path.is_file():
            return Results("postprocess", stamp, problem="postprocess.star has not been written yet")
        masked = self.job.first_output("DensityMap.mrc.relion.postprocess.masked", "DensityMap")
        if masked is None:
            beside = [self.job.directory / n for n in ("postprocess_masked.mrc", "postprocess.mrc")]
            masked = next((p for p in beside if p.is_file()), None)
        return Results("postprocess", stamp, postprocess=read_postprocess(path), map_path=masked)

    def _picks(self, stamp: Stamp) -> Results:
        path = self.job.first_output("MicrographCoordsGroup", "MicrographGroupMetadata")
        if path is None:
            found = sorted(self.job.directory.glob("*pick*.star")) or sorted(self.job.directory.glob("coords_suffix_*"))
            if not found:
                return Results("picks", stamp, problem="No picks have been written yet")
            path = found[0]
        return Results("picks", stamp, coordinates=path)

    def _micrographs(self, kind: str, stamp: Stamp) -> Results:
        names = ("corrected_micrographs.star",) if kind == "motion" else ("micrographs_ctf.star",)
        path = self.job.first_output("MicrographGroupMetadata") or next(
            (self.job.directory / n for n in names if (self.job.directory / n).is_file()), None
        )
        if path is None:
            return Results(kind, stamp, problem="No micrograph has been finished yet")
        blocks = read_star(path)
        table = next((t for n, t in blocks.items() if n != "optics" and "rlnMicrographName" in t), None)
        if table is None:
            raise DisplayError(f"{path} names no micrographs")
        images: ImageSet | None = None
        if kind == "ctf" and "rlnCtfImage" in table:
            images = images_of_star(path, self.job.root, label="rlnCtfImage")
        return Results(kind, stamp, table=table, images=images)

    def _nodes(self, stamp: Stamp) -> Results:
        files = {path: self.job.root / path for path, _ in self.job.outputs}
        counts = tuple((path, self.cache.get(count_contents, file, arguments=(file,))) for path, file in files.items())
        return Results("nodes", stamp, counts=counts, problem="" if counts else "This job has no output nodes yet")


def find_map(summary: IterationSummary, root: Path) -> Path | None:
    """The map of an iteration (of its largest class): as its model says, in the project or beside the model
    file."""
    model = summary.model
    if model is None or not model.classes:
        return None
    shares = np.nan_to_num([c.share for c in model.classes])
    return reference_path(model.classes[int(np.argmax(shares))].reference, root, model.path)


def reference_path(reference: str, root: Path, model: Path) -> Path | None:
    """The file of a class's reference, or None where it is not there."""
    name = reference.rpartition("@")[2]
    if not name:
        return None
    for path in (root / name, model.with_name(Path(name).name)):
        if path.is_file():
            return path
    return None


def count_contents(path: Path) -> str:
    """A few words on what an output file holds: ``2374 particles``, ``100 × 100 × 100, 3.54 Å/px``."""
    if not path.is_file():
        return "not there yet"
    try:
        if path.suffix == ".star":
            return _count_star(path)
        if path.suffix in (".mrc", ".mrcs"):
            from relion_py.gui.display.sources import MrcFile

            opened = MrcFile(path)
            nz, ny, nx = opened.shape
            pixel = f", {opened.pixel_size:.4g} Å/px" if opened.pixel_size else ""
            size = f"{nx} × {ny} × {nz}" if opened.is_map else f"{nz} images, {nx} × {ny}"
            return f"{size}{pixel}"
    except DisplayError as error:
        return str(error)
    return f"{path.stat().st_size / 1e6:.2f} MB" if path.stat().st_size > 1e5 else ""


def _count_star(path: Path) -> str:
    blocks = read_star(path)
    if "optimiser_general" in blocks:
        general = blocks["optimiser_general"]
        if "rlnCurrentIteration" in general:
            return f"iteration {general.strings('rlnCurrentIteration')[0]}"
    for name, word in (
        ("particles", "particles"),
        ("micrographs", "micrographs"),
        ("movies", "movies"),
        ("coordinate_files", "micrographs with picks"),
        ("model_classes", "classes"),
        ("images", "images"),
    ):
        if name in blocks:
            groups = blocks.get("optics")
            optics = f" in {len(groups)} optics groups" if groups is not None and len(groups) > 1 else ""
            return f"{len(blocks[name])} {word}{optics}"
    table = particle_table(blocks)
    if table is not None:
        if "rlnReferenceImage" in table:
            return f"{len(table)} class averages"
        return f"{len(table)} rows"
    return f"{len(blocks)} tables"


@dataclass(frozen=True)
class Trajectory:
    """Global motion of a movie: frame numbers and shifts in pixels relative to the first frame."""

    frames: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def read_trajectory(path: Path) -> Trajectory:
    """The ``global_shift`` table of a micrograph's metadata STAR; DisplayError where it has none."""
    blocks = read_star(path)
    table = blocks.get("global_shift")
    if table is None or "rlnMicrographShiftX" not in table:
        raise DisplayError(f"{path} holds no global motion")
    return Trajectory(
        floats(table, "rlnMicrographFrameNumber"),
        floats(table, "rlnMicrographShiftX"),
        floats(table, "rlnMicrographShiftY"),
    )


def iteration_line(summary: IterationSummary) -> str:
    """One line on an iteration: resolution, particles' average of the best probability, steps,
    convergence."""
    parts = [summary.iteration.label]
    model, progress = summary.model, summary.progress
    if model is not None:
        if np.isfinite(model.resolution):
            parts.append(f"resolution {model.resolution:.2f} Å")
        if model.current_size:
            parts.append(f"image size {model.current_size} of {model.box}")
        if np.isfinite(model.pmax) and model.pmax > 0:
            parts.append(f"Pmax {model.pmax:.3f}")
    if progress is not None:
        if np.isfinite(progress.angular_step) and model is not None and model.dimensionality == 3:
            parts.append(f"angular step {progress.angular_step:.3g}°")
        if progress.converged:
            parts.append("converged")
    return ", ".join(parts)
