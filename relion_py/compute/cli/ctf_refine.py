"""relion_ctf_refine, relion_ctf_refine_mpi: CTFs, aberrations and magnification from refined particles.

Every rank takes every size-th micrograph and works on --j of them at a time; the first one then fits what optics
groups share.  A micrograph that cannot be used is listed in `failed_micrographs.star`, and its particles keep the CTFs
that they had.  Facts: RELION 5, jaz/single_particle/ctf/ctf_refiner.cpp and ctf_refiner_mpi.cpp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from relion_py.compute.cli.many import go_through
from relion_py.compute.cli.options.ctf_refine import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.ctf_refine.bfactor import BfactorSettings
from relion_py.compute.ctf_refine.defocus import FitMode, describe
from relion_py.compute.ctf_refine.micrographs import (
    DefocusSettings,
    Micrograph,
    Work,
    is_done,
    process,
    split_by_micrograph,
)
from relion_py.compute.ctf_refine.particles import Optics, check_columns
from relion_py.compute.ctf_refine.report import write_report
from relion_py.compute.ctf_refine.results import (
    GroupFits,
    MagnificationSettings,
    OpticsFitter,
    PhaseSettings,
    finished_particles,
    gather_ctfs,
)
from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io import star
from relion_py.compute.io.outputs import write_failures
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.io.particles import ParticleTable, read_particles
from relion_py.compute.refine.half_maps import References, locate_references, read_references

RESULT, FAILURES, REPORT = "particles_ctf_refine.star", "failed_micrographs.star", "logfile.pdf"


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_ctf_refine", "Refines CTFs with a map.", quiet=not job.leads)
    work, fits = settings_of(args)
    _Refiner(args, work, fits, job).run()


def settings_of(args: Arguments) -> tuple[Work, GroupFits]:
    """What the options ask for; UserError for those that are refused or cannot be."""
    args.refuse(REFUSED)
    for name in ("--kmin_defocus", "--kmin_bfac", "--kmin_tilt", "--kmin_aberr", "--kmin_mag", "--bf_range"):
        if not args.number(name) > 0:
            raise UserError(f"{name} must be positive, not {args.text(name)}.")
    if not 1 <= args.number("--pad") <= 8:
        raise UserError("--pad must lie between 1 and 8.")
    args.need_positive_integers("--j")
    if bool(args.text("--m1")) != bool(args.text("--m2")):
        raise UserError("Give both half maps, --m1 and --m2, or neither.")
    fits = GroupFits(_tilt(args), _aberrations(args), _magnification(args))
    kinds = {"tilt": fits.tilt, "aberrations": fits.aberrations, "magnification": fits.magnification}
    wanted = tuple(kind for kind, settings in kinds.items() if settings is not None)
    return Work(_defocus(args), _bfactors(args), args.number("--kmin_bfac"), wanted), fits


def _defocus(args: Arguments) -> DefocusSettings | None:
    mode = FitMode.parse(args.text("--fit_mode"))
    if not args.on("--fit_defocus"):
        return None
    if args.integer("--max_defocus_iters") < 1:
        raise UserError("--max_defocus_iters must be at least 1.")
    if args.on("--legacy_astig") and not any(map(args.on, ("--bf0", "--bf1", "--bf_only"))):
        raise UserError("--legacy_astig belongs to a search for the defocus: add --bf0, --bf1 or --bf_only.")
    return DefocusSettings(
        mode, args.number("--kmin_defocus"), args.integer("--max_defocus_iters"),
        search_before=args.on("--bf0"), search_after=args.on("--bf1"), search_only=args.on("--bf_only"),
        search_range=args.number("--bf_range"), search_astigmatism=args.on("--legacy_astig"),
    )  # fmt: skip


def _bfactors(args: Arguments) -> BfactorSettings | None:
    if not args.on("--fit_bfacs"):
        return None
    low, high = args.number("--bfac_min_B"), args.number("--bfac_max_B")
    if not low < high:
        raise UserError(f"--bfac_min_B must be smaller than --bfac_max_B, not {low:g} and {high:g}.")
    return BfactorSettings(low, high, args.number("--bfac_min_scale"), args.on("--bfac_per_mg"))


def _tilt(args: Arguments) -> PhaseSettings | None:
    if not args.on("--fit_beamtilt"):
        return None
    ring = args.number("--xr0_t"), args.number("--xr1_t")
    return PhaseSettings(args.number("--kmin_tilt"), args.integer("--odd_aberr_max_n"), ring)


def _aberrations(args: Arguments) -> PhaseSettings | None:
    if not args.on("--fit_aberr"):
        return None
    if args.integer("--even_aberr_max_n") < 0:
        raise UserError("--even_aberr_max_n must not be negative.")
    ring = args.number("--xr0_a"), args.number("--xr1_a")
    return PhaseSettings(args.number("--kmin_aberr"), args.integer("--even_aberr_max_n"), ring)


def _magnification(args: Arguments) -> MagnificationSettings | None:
    if not args.on("--fit_aniso"):
        return None
    return MagnificationSettings(args.number("--kmin_mag"), args.on("--keep_astig"), args.on("--part_astig"))


class _Refiner:
    """One run of the program."""

    def __init__(self, args: Arguments, work: Work, fits: GroupFits, job: Job) -> None:
        self._args, self._work, self._fits, self._job = args, work, fits, job
        self._directory = args.text("--o").rstrip("/") + "/"
        self._talks = args.integer("--verb") > 0

    def run(self) -> None:
        """Everything, on all ranks."""
        args, job = self._args, self._job
        self._say(f" + Reading {args.text('--i')}...")
        table = read_particles(args.text("--i"))
        check_columns(table)
        params = ctf_params(table)
        micrographs = self._chosen(split_by_micrograph(table, self._directory))
        files = locate_references(
            args.text("--f"), args.text("--m1"), args.text("--m2"), args.text("--mask"), args.number("--angpix_ref"),
            args.number("--pad"),
        )  # fmt: skip
        self._say(f" + Half maps: {files.half1}, {files.half2}; mask: {files.mask or 'none'}")
        references = read_references(files, self._say, args.integer("--j"))
        optics = [
            Optics.of_group(group, number, references, args.on("--ctf_pad"))
            for number, group in enumerate(table.optics_groups, 1)
        ]
        if self._work.defocus is not None and not self._work.defocus.search_only:
            self._say(" + Fitting mode " + args.text("--fit_mode"))
            for line in describe(args.text("--fit_mode")):
                self._say(f"   - {line}")
        # the first rank looks at what is there: the files of a fast rank must not change another's list
        todo = job.comm.bcast(self._todo(micrographs) if job.leads else None)
        os.makedirs(self._directory, exist_ok=True)
        failures: dict[str, str] = {}
        if todo:
            self._say(f" + Working on {len(todo)} micrographs of {len(micrographs)} ...")
            mine = [micrographs[i] for i in todo[job.comm.rank :: job.comm.size]]
            failures = self._process(mine, table, params, optics, references)
        for more in job.comm.gather(failures) or []:
            failures.update(more)
        if job.leads:
            self._finish(table, params, micrographs, optics, references, failures)

    def _say(self, text: str) -> None:
        if self._talks:
            self._job.say(text)

    def _chosen(self, micrographs: list[Micrograph]) -> list[Micrograph]:
        """Those between --min_MG and --max_MG; numbers that are out of range mean all (CtfRefiner::init)."""
        first, last = self._args.integer("--min_MG"), self._args.integer("--max_MG")
        if not 0 <= last < len(micrographs):
            last = len(micrographs) - 1
        if not 0 <= first < len(micrographs):
            first = 0
        if last < first:
            raise UserError(f"--min_MG {first} lies beyond --max_MG {last}.")
        return micrographs[first : last + 1]

    def _todo(self, micrographs: list[Micrograph]) -> list[int]:
        """Indices of the micrographs to work on, if there is anything to do with them."""
        work = self._work
        if work.defocus is None and work.bfactors is None and not work.sums:
            return []
        unfinished = self._args.on("--only_do_unfinished")
        return [i for i, one in enumerate(micrographs) if not (unfinished and is_done(one, work))]

    def _process(
        self,
        todo: Sequence[Micrograph],
        table: ParticleTable,
        params: CtfParams,
        optics: Sequence[Optics],
        references: References,
    ) -> dict[str, str]:
        """Work through the list with --j threads; micrograph -> sentence for those that failed."""
        items = [(one.name, (one, table, params, optics, references, self._work)) for one in todo]
        return go_through(self._job, items, process, self._args.integer("--j"), shown=self._talks)

    def _finish(
        self,
        table: ParticleTable,
        params: CtfParams,
        micrographs: Sequence[Micrograph],
        optics: Sequence[Optics],
        references: References,
        failures: dict[str, str],
    ) -> None:
        """Join the results of all ranks, and of earlier runs."""
        results = gather_ctfs(table, micrographs, params, self._work, failures)
        write_failures(self._directory + FAILURES, results.failed)
        if len(results.failed) == len(micrographs):
            reason = next(iter(results.failed.values()))
            raise UserError(f"No micrograph was refined; see {self._directory}{FAILURES}. The first reason: {reason}")
        fitter = OpticsFitter(table, micrographs, optics, references, results, self._directory, self._say)
        fitter.run(self._fits)
        changed = list(self._work.ctf_fields)
        if self._fits.magnification is not None and not self._fits.magnification.keep_astigmatism:
            changed += [name for name in ("defocus_u", "defocus_v", "defocus_angle") if name not in changed]
        write_report(self._directory + REPORT, table, params, results, micrographs, changed)
        self._say(f" + Written out : {self._directory}{REPORT}")
        star.write(self._directory + RESULT, finished_particles(table, micrographs, results, changed))
        if results.failed:
            self._say(
                f" + {len(results.failed)} micrographs could not be used, their particles keep their CTFs; "
                f"see {self._directory}{FAILURES}"
            )
        self._say(f" + Done! Written out : {self._directory}{RESULT}")


if __name__ == "__main__":
    main()
