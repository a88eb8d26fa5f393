"""relion_run_ctffind, relion_run_ctffind_mpi: the CTF of micrographs.

Every rank takes every size-th micrograph and works on --j of them at a time. A micrograph that cannot be used
is listed in `failed_micrographs.star` and the others go on. Facts: RELION 5, ctffind_runner.cpp and
ctffind_runner_mpi.cpp.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from relion_py.compute.cli.many import go_through
from relion_py.compute.cli.options.ctffind import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.ctf.ctffind import find_ctffind, read_results
from relion_py.compute.ctf.estimate import Search
from relion_py.compute.ctf.listing import (
    Entry,
    MicrographList,
    read_micrographs,
    write_micrographs,
)
from relion_py.compute.ctf.report import write_report
from relion_py.compute.ctf.run import Settings, do_ctf
from relion_py.compute.errors import UserError
from relion_py.compute.io.outputs import output_root, write_failures

RESULT, FAILURES, REPORT = "micrographs_ctf.star", "failed_micrographs.star", "logfile.pdf"
_ASTIGMATISM = {"fast": 2000.0, "exhaustive": 5000.0}


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_run_ctffind", "Estimates CTFs.", quiet=not job.leads)
    args.refuse(REFUSED)
    settings = settings_of(args, job)
    micrographs = _input(args)
    directory = args.text("--o").rstrip("/") + "/"
    # the first rank looks at what is there: the files of a fast rank must not change another's list
    listed, todo = job.comm.bcast(_choose(args, micrographs.entries, directory) if job.leads else None)
    os.makedirs(directory, exist_ok=True)
    failures: dict[str, str] = {}
    if todo:
        job.say(f" Estimating the CTF of {len(todo)} micrographs of {len(micrographs.entries)}")
        failures = _estimate_all(todo[job.comm.rank :: job.comm.size], directory, settings, args, job)
    for more in job.comm.gather(failures) or []:
        failures.update(more)
    if job.leads:
        _finish(args, micrographs, listed, directory, failures, job)


def settings_of(args: Arguments, job: Job) -> Settings:
    """The settings that the options ask for; UserError for those that cannot be, or contradict each other."""
    executable, sentence = find_ctffind(args.text("--ctffind_exe"))
    job.say(f" {sentence}")
    if executable and not args.on("--is_ctffind4"):
        raise UserError("CTFFIND before 4.1 is not run; say --is_ctffind4 if yours is newer.")
    phase = args.on("--do_phaseshift")
    search = Search(
        coarsest_resolution=args.number("--ResMin"),
        finest_resolution=args.number("--ResMax"),
        defocus_min=args.number("--dFMin"),
        defocus_max=args.number("--dFMax"),
        defocus_step=args.number("--FStep"),
        astigmatism=args.number("--dAst"),
        largest_astigmatism=_ASTIGMATISM["fast" if args.on("--fast_search") else "exhaustive"],
        find_phase=phase,
        phase_min=args.number("--phase_min") if phase else 0.0,
        phase_max=args.number("--phase_max") if phase else 180.0,
        phase_step=args.number("--phase_step") if phase else 10.0,
    )
    args.need_positive_integers("--j")
    if args.on("--use_given_ps") and args.on("--use_noDW"):
        job.say(" --use_noDW plays no role: the given power spectra are without dose weights.")
    return Settings(
        search,
        box=args.integer("--Box"),
        window=max(0, args.integer("--ctfWin")),
        given_spectra=args.on("--use_given_ps"),
        executable=executable,
        exhaustive=not args.on("--fast_search"),
    )


def _input(args: Arguments) -> MicrographList:
    options = {name: args.number(name) for name in ("--CS", "--HT", "--AmpCnst", "--angpix")}
    label, option = "rlnMicrographName", ""
    if args.on("--use_given_ps"):
        label, option = "rlnCtfPowerSpectrum", "--use_given_ps"
    elif args.on("--use_noDW"):
        label, option = "rlnMicrographNameNoDW", "--use_noDW"
    return read_micrographs(args.text("--i"), options, label, option)


def _choose(args: Arguments, entries: tuple[Entry, ...], directory: str) -> tuple[list[Entry], list[Entry]]:
    """Micrographs for the output list, and those of them that are to be processed now."""
    listed: list[Entry] = []
    todo: list[Entry] = []
    limit = args.integer("--do_at_most")
    for entry in entries:
        continues = args.on("--only_do_unfinished") or args.on("--only_make_star")
        if continues and read_results(output_root(directory, entry.source)) is not None:
            listed.append(entry)
        elif limit < 0 or len(todo) < limit:
            listed.append(entry)
            todo.append(entry)
    return listed, [] if args.on("--only_make_star") else todo


def _estimate_all(
    todo: Sequence[Entry], directory: str, settings: Settings, args: Arguments, job: Job
) -> dict[str, str]:
    """Work through the list with --j threads; micrograph -> sentence for those that failed."""
    stop = threading.Event()
    items = [(entry.micrograph, (entry, output_root(directory, entry.source), settings, stop)) for entry in todo]
    return go_through(job, items, do_ctf, args.integer("--j"), stop=stop)


def _finish(
    args: Arguments,
    micrographs: MicrographList,
    listed: Sequence[Entry],
    directory: str,
    failures: dict[str, str],
    job: Job,
) -> None:
    """Join the results of all ranks, and of earlier runs."""
    done = []
    for entry in listed:
        root = output_root(directory, entry.source)
        result = read_results(root)
        if result is not None:
            done.append((entry, root, result))
        elif entry.micrograph not in failures:
            failures[entry.micrograph] = "It has no result yet."
    write_failures(directory + FAILURES, failures)
    if not done:
        reason = next(iter(failures.values()), "no micrograph was left to do")
        raise UserError(f"No micrograph has a CTF; see {directory}{FAILURES}. The first reason: {reason}")
    noDW = args.on("--use_noDW") and not args.on("--use_given_ps")
    table = write_micrographs(directory + RESULT, micrographs, done, noDW, with_phase=args.on("--do_phaseshift"))
    write_report(directory + REPORT, table)
    if failures:
        job.say(f" {len(failures)} micrographs were skipped; see {directory}{FAILURES}")
    job.say(f" Done! Written out: {directory}{RESULT} and {directory}{REPORT}")


if __name__ == "__main__":
    main()
