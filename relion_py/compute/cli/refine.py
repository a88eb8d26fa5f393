"""`relion_refine` and `relion_refine_mpi`: one program, alone or on any number of ranks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from relion_py.compute.cli.options.refine import FLAGS, refuse_unsupported
from relion_py.compute.cli.parser import parse
from relion_py.compute.cli.program import Job, ProgressBar, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.symmetry import listing
from relion_py.compute.parallel.comm import abort_all_on_error
from relion_py.compute.refine.options import RefineOptions

PROGRAM = "relion_refine"
DESCRIPTION = "Refines a 3D map against particle images by maximum-a-posteriori expectation maximisation."


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    words = sys.argv[1:] if argv is None else argv
    # one BLAS thread per rank: the kernels share out the work themselves
    for library in ("OPENBLAS", "MKL", "OMP"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    return run(_refine, words, parallel=True)


class _Quiet(Job):
    """The same job without messages, for --verb 0; what goes wrong is told all the same."""

    def say(self, text: str) -> None:
        """Nothing."""

    def progress(self, total: int) -> ProgressBar:
        """A bar that is not drawn."""
        return ProgressBar(total, shown=False)


def _refine(words: list[str], job: Job) -> None:
    arguments = parse(FLAGS, words, PROGRAM, DESCRIPTION, quiet=not job.leads)
    refuse_unsupported(arguments.values, arguments.given)
    if arguments.on("--print_symmetry_ops"):
        job.say(listing(arguments.text("--sym")))
        return
    abort_all_on_error(job.comm)
    # after the options are known to be good: these imports take a second
    from relion_py.compute.backend.cuda_device import AUTOMATIC, open_devices, parse_list
    from relion_py.compute.refine import outputs, source, start
    from relion_py.compute.refine.checks import check_run
    from relion_py.compute.refine.data import ParticleSet
    from relion_py.compute.refine.reference import look_at_references

    values, old = dict(arguments.values), None
    if "--gpu" in arguments.given and not arguments.text("--gpu").strip():
        values["--gpu"] = AUTOMATIC
    if arguments.text("--continue"):
        old = outputs.read_optimiser(arguments.text("--continue"))
        options = RefineOptions.continued(
            old.options, old.state.iteration, values, arguments.given, arguments.command_line
        )
        particles = ParticleSet.read(old.data)
    else:
        options = RefineOptions.from_args(values, arguments.command_line, arguments.given, look_at_references)
        particles = ParticleSet.read(options.particles)
    if options.verb == 0:
        job = _Quiet(job.directory, job.comm)
    if options.gpu not in ("", AUTOMATIC):
        parse_list(options.gpu)
    shares = open_devices(options.gpu, options.free_gpu_memory, job.comm) if options.gpu else []
    if job.leads:
        for note in check_run(options, particles):
            job.say(f" {note}")
    job.comm.barrier()
    directory = os.path.dirname(options.output_root)
    if directory and not os.path.isdir(directory):
        raise UserError(f"The output directory {directory} does not exist; make it, or correct --o.")
    if old is None:
        refinement = start.new_run(options, particles, job)
    else:
        refinement = start.continued_run(options, old, particles, job)
    with source.dropped_on_error(refinement.particles, options):
        refinement.compute_on(shares)
        refinement.run()
    source.finish(refinement.particles, options, job.comm)


if __name__ == "__main__":
    sys.exit(main())
