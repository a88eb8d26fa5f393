"""The whole chain of jobs on simulated movies: time of each program, beside another RELION's for those it has.

    python benchmarks/chain.py [--movies ../shared/data/movies] [--other /usr/bin] [--threads 2] [--keep DIRECTORY]

Each command is the one that the pipeliner would run. The other RELION runs the same command on the same input files,
so that its results do not matter for what follows; options that it does not know it passes over (with a warning).
Initial models are left to this package (other releases have other algorithms), and so is what the other one has not.
Auto-refinement of the other one runs as three MPI processes of one thread, the fewest that RELION can do it with.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import measure
from chain import DataSet, protein_volume, run_chain
from truth import defocus_errors, score_picks

from relion_py.compute.io import star
from relion_py.jobs.files import DiskFiles
from relion_py.pipeline import Project

OURS_ONLY = ("relion_class_ranker", "relion_align_symmetry", "relion_run_ctffind")
"""Programs that older releases lack, or that need CTFFIND there."""


@dataclass
class Bench:
    """Runs each job's commands here and by the other RELION, and prints a line for it."""

    project: Project
    other: Path
    number: int = 0
    total: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def __call__(self, type_label: str, changes: Mapping[str, str]) -> str:
        self.number += 1
        spec = self.project.spec(type_label)
        if "do_float16" in spec.options:
            changes = {**changes, "do_float16": "No"}  # which releases before 4 do not read
        name = f"{spec.directory}/job{self.number:03d}/"
        built = spec.build({**spec.defaults(), **changes}, name, False, None, DiskFiles(self.project.root))
        (self.project.root / name).mkdir(parents=True)
        ours = [self._run(command, name) for command in built.local_commands]
        wall, cpu = sum(used.wall for used in ours), sum(used.cpu for used in ours)
        self.total = [self.total[0] + wall, self.total[1] + cpu]
        print(f"{spec.browser_label:<22} {wall:8.1f} {cpu:8.1f}", end="", flush=True)
        theirs = name.rstrip("/") + "_other/"
        if command := self._of_the_other(built.commands, name, theirs):
            (self.project.root / theirs).mkdir()
            try:
                used = self._run(command, theirs)
                print(f" {used.wall:10.1f} {used.cpu:8.1f}", end="")
            except measure.Failed:
                print("     failed", end="")
        print()
        return name

    def _run(self, command: Sequence[str], name: str) -> measure.Usage:
        return measure.run(command, self.project.root, log=self.project.root / name / "run.out")

    def _of_the_other(self, commands: Sequence[Sequence[str]], name: str, theirs: str) -> list[str]:
        """The same command for the other RELION, with an output directory of its own; [] where there is none."""
        program = commands[0][0].removesuffix("_mpi")
        if len(commands) != 1 or program in OURS_ONLY or "--grad" in commands[0]:
            return []
        words = [word.replace(name, theirs) for word in commands[0][1:]]
        before: list[str] = []
        if "--auto_refine" in words:
            program += "_mpi"
            words[words.index("--j") + 1] = "1"
            before = [str(self.other / "mpirun"), "--allow-run-as-root", "--oversubscribe", "-n", "3"]
        path = self.other / program
        return [*before, str(path), *words] if os.access(path, os.X_OK) else []


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    movies = Path(__file__).resolve().parents[2] / "shared/data/movies"
    parser.add_argument("--movies", type=Path, default=movies, help="directory with Movies/ and truth.star")
    parser.add_argument("--other", type=Path, default=Path("/usr/bin"), help="directory of the other RELION")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="run there, and keep what is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (args.keep or Path(temporary) / "project").resolve()
        project = Project.create(root)
        (root / "Movies").symlink_to(args.movies.resolve() / "Movies")
        data = DataSet(
            "Movies/*.tiff", "Movies/gain.mrc", 1.77, 4.2, "D2", 130, 180, protein_volume(465e3), 160, 48, 96
        )
        print(f"{args.threads} threads; load {os.getloadavg()[0]:.1f}; the other: {args.other}")
        print(f"{'job':<22} {'wall s':>8} {'CPU s':>8} {'other wall':>10} {'CPU s':>8}")
        bench = Bench(project, args.other)
        jobs = run_chain(project, data, bench, args.threads)
        print(f"{'all, relion_py':<22} {bench.total[0]:8.1f} {bench.total[1]:8.1f}")
        truth = args.movies / "truth.star"
        print(score_picks(truth, root / jobs["pick"] / "autopick.star", root, 35))
        errors = defocus_errors(truth, root / jobs["ctf"] / "micrographs_ctf.star")
        print(f"defocus within {max(abs(errors)):.0f} A of the truth")
        post = star.read(root / jobs["post"] / "postprocess.star")["general"]
        print(f"resolution {float(post.strings('rlnFinalResolution')[0]):.2f} A")


if __name__ == "__main__":
    main()
