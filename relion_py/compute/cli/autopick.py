"""relion_autopick, relion_autopick_mpi: particles found on micrographs.

References, a Laplacian of Gaussian or the user's Topaz find them; Topaz is also trained.

Every rank takes every size-th micrograph and works on --j of them at a time. A micrograph that cannot be used
is listed in `failed_micrographs.star` and the others go on. Facts: RELION 5, autopicker.cpp and
autopicker_mpi.cpp.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from threadpoolctl import threadpool_limits

from relion_py.compute.cli.autopick_methods import FAILURES, ctf_flag, make_method, method_name, train_topaz, unused
from relion_py.compute.cli.many import go_through
from relion_py.compute.cli.options.autopick import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io.outputs import output_root, write_failures
from relion_py.compute.picking.autopick import Method, do_autopick
from relion_py.compute.picking.autopick_files import Done, Micrograph, read_done, read_micrographs, write_lists
from relion_py.compute.picking.autopick_report import write_report

REPORT = "logfile.pdf"
_MOST_MAPS = 30

Numbered = tuple[int, Micrograph]


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_autopick", "Finds particles on micrographs.", quiet=not job.leads)
    _check(args)
    for name in unused(args, method_name(args)) if job.leads else ():
        print(f"WARNING: {name} plays no role with {method_name(args)}.", file=sys.stderr)
    micrographs = read_micrographs(args.text("--i"), args.number("--angpix"), ctf_flag(args))
    directory = args.text("--odir").rstrip("/") + "/"
    os.makedirs(directory, exist_ok=True)
    stop = threading.Event()
    if method_name(args) == "--topaz_train":
        if job.leads:
            train_topaz(args, micrographs, job, stop)
        job.comm.barrier()
        return
    picker = _Picker(args, make_method(args, micrographs, job, stop), job, stop)
    # the first rank looks at what is there: the files of a fast rank must not change another's list
    unfinished = [one for one in enumerate(micrographs) if not picker.is_done(one[1])] if job.leads else None
    todo = job.comm.bcast(unfinished)
    if args.on("--write_fom_maps") and len(todo) > _MOST_MAPS and not args.on("--no_fom_limit"):
        raise UserError(f"Maps of {len(todo)} micrographs take much room; add --no_fom_limit if you want them.")
    picker.say(f" Autopicking {len(todo)} micrographs of {len(micrographs)} ...")
    failures: dict[str, str] = {}
    for more in job.comm.gather(picker.pick(todo[job.comm.rank :: job.comm.size])) or []:
        failures.update(more)
    if job.leads:
        with contextlib.suppress(OSError):
            os.rmdir(f"{directory}proc")  # of Topaz, unless it holds what Topaz said when it failed
        picker.finish(micrographs, failures)


def _check(args: Arguments) -> None:
    """UserError for what cannot be, whatever the method."""
    refused = [name for name in REFUSED if name in args.given]
    if refused:
        raise UserError(f"{refused[0]} is not available in this release: {REFUSED[refused[0]]}.")
    method = method_name(args)
    if args.on("--amyloid") and not args.on("--helix"):
        raise UserError("--amyloid needs --helix.")
    if args.on("--gpu") and method == "--LoG":  # as RELION, autopicker.cpp, read
        raise UserError("--gpu is not available with --LoG: it runs on the CPU; leave --gpu out.")
    if args.integer("--j") < 1:
        raise UserError(f"--j must be at least 1, not {args.text('--j')}.")
    name = args.text("--pickname")
    if not name or "/" in name or any(ord(letter) < 32 for letter in name):
        raise UserError(f"--pickname must be the ending of a file name, not {name!r}.")


class _Picker:
    """One run of the program."""

    def __init__(self, args: Arguments, method: Method, job: Job, stop: threading.Event) -> None:
        self.directory = args.text("--odir").rstrip("/") + "/"
        self._pickname = args.text("--pickname")
        self._threads = args.integer("--j")
        self._only_unfinished = args.on("--only_do_unfinished")
        self._talks = args.integer("--verb") > 0
        self._method, self._job, self._stop = method, job, stop

    def say(self, text: str) -> None:
        """A line for people, unless they asked for none."""
        if self._talks:
            self._job.say(text)

    def is_done(self, micrograph: Micrograph) -> bool:
        """Whether this run leaves a micrograph alone because it has coordinates already."""
        return self._only_unfinished and os.path.exists(self._root(micrograph) + ".star")

    def pick(self, todo: Sequence[Numbered]) -> dict[str, str]:
        """Work through the list with --j threads; micrograph -> sentence for those that failed."""
        items = [(micrograph.name, (number, micrograph)) for number, micrograph in todo]
        # --j threads share the work; the products of matrices in them shall not start threads of their own
        with threadpool_limits(limits=1, user_api="blas"):
            return go_through(self._job, items, self._pick_one, self._threads, shown=self._talks, stop=self._stop)

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
        return do_autopick(micrograph, self._root(micrograph), self._method, number)


if __name__ == "__main__":
    main()
