"""The demonstration behind `bash scripts/demo`: the pipeliner imports and refines simulated particles.

With --full it is the whole chain, from simulated movies to a sharpened map (chain.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from chain import DataSet, run_chain
from truth import agreement, defocus_errors, score_picks

from relion_py.compute.image.fsc import fsc, resolution_at
from relion_py.compute.io.mrc import read_map
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.project import Project

PARTICLES, BOX, PIXEL_SIZE, SYMMETRY, DIAMETER, SNR = 400, 64, 3.5, "D2", 170, 0.15
DEFAULT = Path(__file__).resolve().parent.parent / "demo-project"

MOVIES, MOVIE_PARTICLES, MOVIE_PIXEL, MOVIE_BOX, MOVIE_SNR, DOSE = 6, 240, 1.77, 160, 0.3, 4.0
SHORTEST = 125  # A, along the model's shortest axis; it is DIAMETER along the others
MODEL_VOLUME = 7e5  # A3
FULL_DATA = DataSet(
    movies="Movies/*.tiff",
    gain="Movies/gain.mrc",
    pixel_size=MOVIE_PIXEL,
    dose=DOSE,
    symmetry=SYMMETRY,
    shortest=SHORTEST,
    longest=DIAMETER,
    volume=MODEL_VOLUME,
    box=MOVIE_BOX,
    small_box=48,
    fine_box=96,
)
FULL_DEFAULT = DEFAULT.with_name("demo-project-full")
THREADS = min(os.cpu_count() or 1, 8)


class Progress:
    """One line that is drawn anew on a terminal; elsewhere a line for each iteration.

    What it shows is read from a job's run.out: iteration, resolution (A), angular step (degrees), and how
    much of the iteration is done.
    """

    WIDTH = 24
    PATTERNS = (
        ("iteration", re.compile(r"Auto-refine: Iteration= (\d+)")),
        ("resolution", re.compile(r"Auto-refine: Resolution= ([\d.]+)")),
        ("step", re.compile(r"Auto-refine: Angular step= ([\d.]+)")),
    )

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.values: dict[str, str] = {}
        self.drawn = self.told = ""

    def show(self, log: str) -> None:
        """Show what a log says by now."""
        for key, pattern in self.PATTERNS:
            if found := pattern.findall(log):
                self.values[key] = found[-1]
        if "iteration" not in self.values:
            return
        if sys.stdout.isatty():
            self._draw(f"  {self._line()}  {self._bar(log)}")
        elif self.values["iteration"] != self.told and "step" in self.values:
            self.told = self.values["iteration"]
            print(f"  {self._line()}", flush=True)

    def end(self) -> None:
        """Leave the last line standing."""
        if self.drawn:
            print()

    def _line(self) -> str:
        step = f"{float(self.values['step']):6.3f}" if "step" in self.values else "     -"
        seconds = time.monotonic() - self.begin
        number, resolution = self.values["iteration"], float(self.values["resolution"])
        return f"iteration {number:>2}   {resolution:5.1f} A   angular step {step} deg   {seconds:4.0f} s"

    def _bar(self, log: str) -> str:
        # dots after the last "spent/expected sec" of the program's own bar, 60 in all
        last = log[log.rfind("Expectation iteration") :].rpartition("\r")[2]
        done = self.WIDTH * last.partition("~~")[0].count(".") // 60 if "~~" in last else 0
        return f"[{'=' * done}{' ' * (self.WIDTH - done)}]"

    def _draw(self, text: str) -> None:
        if text != self.drawn:
            print(f"\r{text.ljust(len(self.drawn))}", end="", flush=True)
            self.drawn = text


def make(directory: Path) -> Project:
    """A project with simulated particles in it; one that exists is used as it is."""
    if not Project.is_project(directory):
        directory.mkdir(parents=True, exist_ok=True)
        print(f"Simulating {PARTICLES} images of a particle with {SYMMETRY} symmetry ...", flush=True)
        subprocess.run(
            [
                "relion_py_simulate", "--o", "Particles", "--n", str(PARTICLES), "--box", str(BOX),
                "--angpix", str(PIXEL_SIZE), "--sym", SYMMETRY, "--snr", str(SNR),
                "--diameter", str(DIAMETER),
            ],
            cwd=directory, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        Project.create(directory)
    elif not (directory / "Particles/particles.star").is_file():
        sys.exit(f"{directory} is a project without the demonstration's particles; name another directory.")
    return Project.open(directory)


def make_movies(directory: Path) -> Project:
    """A project with simulated movies in it; one that exists is used as it is."""
    if not Project.is_project(directory):
        directory.mkdir(parents=True, exist_ok=True)
        print(f"Simulating {MOVIES} movies of {MOVIE_PARTICLES} particles with {SYMMETRY} symmetry ...", flush=True)
        subprocess.run(
            [
                "relion_py_simulate", "--o", ".", "--movies", str(MOVIES), "--n", str(MOVIE_PARTICLES),
                "--box", str(MOVIE_BOX), "--angpix", str(MOVIE_PIXEL), "--sym", SYMMETRY, "--snr", str(MOVIE_SNR),
                "--diameter", str(DIAMETER), "--atoms", "1000", "--dose", str(DOSE),
                "--min_defocus", "9000", "--max_defocus", "22000",
            ],
            cwd=directory, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        Project.create(directory)
    elif not (directory / "Movies/gain.mrc").is_file():
        sys.exit(f"{directory} is a project without the demonstration's movies; name another directory.")
    return Project.open(directory)


def run(project: Project, type_label: str, changes: Mapping[str, str]) -> str:
    """Run one job to its end, telling its progress; returns its name. Exits if it fails; Ctrl-C aborts it."""
    values = {**project.spec(type_label).defaults(), **changes}
    for problem in project.problems(type_label, values):
        print(f"Please note: {problem.message}")
    program = project.commands(type_label, values).commands[0][0]
    name = project.run(type_label, values)
    print(f"{name.rstrip('/')}: {program}", flush=True)
    progress, log = Progress(), project.log_paths(name)[0]
    # as bytes: the bar is drawn anew after a "\r", which text mode would make a line of
    _see_through(
        project,
        name,
        lambda: progress.show(log.read_bytes().decode(errors="replace") if log.exists() else ""),
        progress.end,
    )
    return name


def run_briefly(project: Project, type_label: str, changes: Mapping[str, str]) -> str:
    """Run one job to its end with one line for it; returns its name. Exits if it fails; Ctrl-C aborts it."""
    spec = project.spec(type_label)
    values = {**spec.defaults(), **changes}
    for problem in project.problems(type_label, values):
        print(f"Please note: {problem.message}")
    begin = time.monotonic()
    name = project.run(type_label, values)
    on_terminal = sys.stdout.isatty()

    def line(end: str) -> None:
        label = f"{spec.browser_label:<22} {name.rstrip('/')}"
        print(f"{label:<46} {time.monotonic() - begin:5.0f} s", end=end, flush=True)

    def show() -> None:
        if on_terminal:
            line("\r")

    _see_through(project, name, show, lambda: line("\n"))
    return name


def _see_through(project: Project, name: str, show: Callable[[], None], end: Callable[[], None]) -> None:
    """Wait for a job, showing it five times a second. Exits if it fails; Ctrl-C aborts it."""
    try:
        while project.process(name).status == "Running":
            show()
            time.sleep(0.2)
            project.refresh()
    except KeyboardInterrupt:
        end()
        print(f"Stopping {name.rstrip('/')} ...", flush=True)
        with contextlib.suppress(PipelineError):  # it has just ended by itself
            project.abort(name)
        print(f"{name.rstrip('/')}: {project.wait(name).lower()}")
        sys.exit(130)
    end()
    if project.process(name).status != "Succeeded":
        log, errors = project.log_paths(name)
        told = errors.read_text(errors="replace").strip() if errors.exists() else ""
        sys.exit(f"{name.rstrip('/')} did not succeed: {told or f'see {log}'}")


def report(project: Project, job: str, seconds: float) -> None:
    """What was reached: resolution, agreement with the structure that was simulated, and where the map is."""
    log = project.log_paths(job)[0].read_text(errors="replace")
    resolution = float(re.findall(r"Final resolution .* is: ([\d.]+)", log)[-1])
    path = project.root / job / "run_class001.mrc"
    particles = project.root / "Particles"
    found, truth, mask = (read_map(p)[0] for p in (path, particles / "truth.mrc", particles / "mask.mrc"))
    agreement = resolution_at(fsc(found, truth, mask), BOX, PIXEL_SIZE, 0.5)
    print(f"\nFinished in {seconds:.0f} s.")
    print(f"  Resolution    {resolution:.1f} A (FSC 0.143 between the two halves)")
    print(f"  Against truth {agreement:.1f} A (FSC 0.5 with the structure that was simulated)")
    print(f"  The map       {path}")
    where = "" if project.root == DEFAULT else f" {shlex.quote(str(project.root))}"
    print(f"  The window    bash scripts/demo --gui{where}")


def report_full(project: Project, jobs: Mapping[str, str], seconds: float) -> None:
    """What the whole chain reached, against what was simulated."""
    root, known = project.root, project.root / "truth.star"
    picks = score_picks(known, root / jobs["pick"] / "autopick.star", root, 0.4 * SHORTEST / MOVIE_PIXEL)
    errors = defocus_errors(known, root / jobs["ctf"] / "micrographs_ctf.star")
    log = project.log_paths(jobs["post"])[0].read_text(errors="replace")
    resolution = float(re.findall(r"FINAL RESOLUTION:\s+([\d.]+)", log)[-1])
    path = root / jobs["post"] / "postprocess.mrc"
    found = agreement(path, root / "truth.mrc", 0.5 * DIAMETER)
    print(f"\nFinished in {seconds / 60:.1f} minutes.")
    print(f"  Picks         {picks}")
    print(f"  Defocus       within {max(abs(errors)):.0f} A of the truth")
    print(f"  Resolution    {resolution:.1f} A (FSC 0.143 between the two halves, inside the mask)")
    print(f"  Against truth {found.resolution:.1f} A (FSC 0.5 with the structure that was simulated)")
    if found.mirrored:
        print("  Hand          the other one: images alone do not tell a structure from its mirror image")
    print(f"  The map       {path}")
    where = "" if root == FULL_DEFAULT else f" {shlex.quote(str(root))}"
    print(f"  The window    bash scripts/demo --full --gui{where}")


def main() -> None:
    """The whole demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--full", action="store_true", help="from movies to a sharpened map")
    parser.add_argument("--only-make", action="store_true", help="make the project, run nothing")
    options = parser.parse_args()
    directory = (options.directory or (FULL_DEFAULT if options.full else DEFAULT)).resolve()
    begin = time.monotonic()
    project = make_movies(directory) if options.full else make(directory)
    if options.only_make:
        return
    if options.full:
        jobs = run_chain(project, FULL_DATA, lambda label, changes: run_briefly(project, label, changes), THREADS)
        report_full(project, jobs, time.monotonic() - begin)
    else:
        _refine(project)


def _refine(project: Project) -> None:
    """Import and 3D auto-refine."""
    begin = time.monotonic()
    imported = run(
        project,
        "relion.import",
        {
            "do_raw": "No",
            "do_other": "Yes",
            "fn_in_other": "Particles/particles.star",
            "node_type": "Particles STAR file (.star)",
        },
    )
    refined = run(
        project,
        "relion.refine3d",
        {
            "fn_img": f"{imported}particles.star",
            "fn_ref": "Particles/reference.mrc",
            "ini_high": "40",
            "sym_name": SYMMETRY,
            "particle_diameter": str(DIAMETER + 20),
            "ref_correct_greyscale": "Yes",
            "do_preread_images": "Yes",
            "nr_threads": str(THREADS),
        },
    )
    report(project, refined, time.monotonic() - begin)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
