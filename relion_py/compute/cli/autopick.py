"""relion_autopick, relion_autopick_mpi: particles found on micrographs by a Laplacian of Gaussian.

Every rank takes every size-th micrograph and works on --j of them at a time. A micrograph that cannot be used
is listed in `failed_micrographs.star` and the others go on. Facts: RELION 5, autopicker.cpp and
autopicker_mpi.cpp.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import NoReturn

from relion_py.compute.cli.options.autopick import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io.outputs import output_root, write_failures
from relion_py.compute.picking.autopick import FomMaps, do_autopick
from relion_py.compute.picking.autopick_files import Done, Micrograph, read_done, read_micrographs, write_lists
from relion_py.compute.picking.autopick_report import write_report
from relion_py.compute.picking.log import LogSettings, diameters_of

FAILURES, REPORT = "failed_micrographs.star", "logfile.pdf"
_MOST_MAPS = 30

Numbered = tuple[int, Micrograph]


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_autopick", "Finds particles on micrographs.", quiet=not job.leads)
    settings, maps = settings_of(args), FomMaps(args.on("--write_fom_maps"), args.on("--read_fom_maps"))
    picker = _Picker(args, settings, maps, job)
    micrographs = read_micrographs(args.text("--i"), args.number("--angpix"), args.on("--LoG_use_ctf"))
    # the first rank looks at what is there: the files of a fast rank must not change another's list
    unfinished = [one for one in enumerate(micrographs) if not picker.is_done(one[1])] if job.leads else None
    todo = job.comm.bcast(unfinished)
    if maps.write and len(todo) > _MOST_MAPS and not args.on("--no_fom_limit"):
        raise UserError(f"Maps of {len(todo)} micrographs take much room; add --no_fom_limit if you want them.")
    os.makedirs(picker.directory, exist_ok=True)
    picker.say(f" Diameters (A): {', '.join(f'{diameter:g}' for diameter in diameters_of(settings))}")
    picker.say(f" Autopicking {len(todo)} micrographs of {len(micrographs)} ...")
    failures: dict[str, str] = {}
    for more in job.comm.gather(picker.pick(todo[job.comm.rank :: job.comm.size])) or []:
        failures.update(more)
    if job.leads:
        picker.finish(micrographs, failures)


def settings_of(args: Arguments) -> LogSettings:
    """The settings that the options ask for; UserError for those that are refused or cannot be."""
    refused = [name for name in REFUSED if name in args.given]
    if refused:
        raise UserError(f"{refused[0]} is not available in this release: {REFUSED[refused[0]]}.")
    if not args.on("--LoG"):
        raise UserError("Say --LoG, with --LoG_diam_min and --LoG_diam_max: it is the one way of picking here.")
    for name in ("--LoG_diam_min", "--LoG_diam_max"):
        if name not in args.given:
            raise UserError(f"{name} must be given with --LoG.")
    if args.integer("--j") < 1:
        raise UserError(f"--j must be at least 1, not {args.text('--j')}.")
    name = args.text("--pickname")
    if not name or "/" in name or any(ord(letter) < 32 for letter in name):
        raise UserError(f"--pickname must be the ending of a file name, not {name!r}.")
    seed = args.integer("--random_seed")
    return LogSettings(
        diameter_min=args.number("--LoG_diam_min"),
        diameter_max=args.number("--LoG_diam_max"),
        adjust_threshold=args.number("--LoG_adjust_threshold"),
        upper_threshold=args.number("--LoG_upper_threshold"),
        white=args.on("--Log_invert"),
        neighbour=args.number("--LoG_neighbour") / 100,
        max_search=int(args.number("--Log_max_search")),
        lowpass=args.number("--lowpass"),
        shrink=args.number("--shrink"),
        skip_side=args.integer("--skip_side"),
        outlier_zscore=args.number("--outlier_removal_zscore"),
        optimise_scale=not args.on("--skip_optimise_scale"),
        seed=time.time_ns() % 2**31 if seed == -1 else abs(seed),
    )


class _Picker:
    """One run of the program."""

    def __init__(self, args: Arguments, settings: LogSettings, maps: FomMaps, job: Job) -> None:
        self.directory = args.text("--odir").rstrip("/") + "/"
        self._pickname = args.text("--pickname")
        self._threads = args.integer("--j")
        self._only_unfinished = args.on("--only_do_unfinished")
        self._talks = args.integer("--verb") > 0
        self._settings, self._maps, self._job = settings, maps, job

    def say(self, text: str) -> None:
        """A line for people, unless they asked for none."""
        if self._talks:
            self._job.say(text)

    def is_done(self, micrograph: Micrograph) -> bool:
        """Whether this run leaves a micrograph alone because it has coordinates already."""
        return self._only_unfinished and os.path.exists(self._root(micrograph) + ".star")

    def pick(self, todo: Sequence[Numbered]) -> dict[str, str]:
        """Work through the list with --j threads; micrograph -> sentence for those that failed."""
        failures: dict[str, str] = {}
        bar = self._job.progress(len(todo)) if self._talks else None
        with ThreadPoolExecutor(self._threads) as pool:
            try:
                waiting: dict[Future[int], Micrograph] = {
                    pool.submit(self._pick_one, number, micrograph): micrograph for number, micrograph in todo
                }
                while waiting:
                    self._job.check_abort()
                    done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        _note(future, waiting.pop(future), failures)
                    if bar is not None:
                        bar.update(len(todo) - len(waiting))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return failures

    def finish(self, micrographs: Sequence[Micrograph], failures: dict[str, str]) -> None:
        """Join the results of all ranks, and of earlier runs."""
        done: list[Done] = []
        for micrograph in micrographs:
            try:
                one = read_done(micrograph.name, self._root(micrograph) + ".star")
            except UserError as error:
                failures[micrograph.name] = str(error)
                continue
            if one is not None:
                done.append(one)
            else:
                failures.setdefault(micrograph.name, "It has no coordinates.")
        write_failures(self.directory + FAILURES, failures)
        if not done:
            reason = next(iter(failures.values()))
            raise UserError(f"No micrograph was picked; see {self.directory}{FAILURES}. The first reason: {reason}")
        write_lists(self.directory, self._pickname, done)
        write_report(self.directory + REPORT, done)
        if failures:
            self.say(f" {len(failures)} micrographs were skipped; see {self.directory}{FAILURES}")
        total = sum(one.particles for one in done)
        self.say(f" Found {total} particles on {len(done)} micrographs, on average {total / len(done):.0f}")
        self.say(f" Done! Written out: {self.directory}{self._pickname}.star and {self.directory}{REPORT}")

    def _root(self, micrograph: Micrograph) -> str:
        return f"{output_root(self.directory, micrograph.name)}_{self._pickname}"

    def _pick_one(self, number: int, micrograph: Micrograph) -> int:
        settings = replace(self._settings, seed=self._settings.seed + number)
        return do_autopick(micrograph, self._root(micrograph), settings, self._maps)


def _note(future: Future[int], micrograph: Micrograph, failures: dict[str, str]) -> None:
    """Take the outcome of one micrograph: a file that cannot be used is no reason to end the others."""
    try:
        future.result()
    except (UserError, OSError, MemoryError) as error:
        sentence = str(error) or type(error).__name__
        failures[micrograph.name] = sentence
        print(f"WARNING: {micrograph.name} is skipped: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
