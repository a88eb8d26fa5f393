"""relion_preprocess, relion_preprocess_mpi: the particles of micrographs.

Every rank takes every size-th micrograph. A micrograph that cannot be used is listed in
`failed_micrographs.star` and the others go on. Facts: RELION 5, preprocessing.cpp and preprocessing_mpi.cpp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from relion_py.compute.cli.many import skip
from relion_py.compute.cli.options.preprocess import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import Aborted, UserError
from relion_py.compute.io.mrc import StackWriter, open_stack
from relion_py.compute.io.outputs import output_root, write_failures
from relion_py.compute.picking.extract import (
    Micrograph,
    Micrographs,
    Settings,
    do_extract,
    is_done,
    read_micrographs,
    remove_particles,
    write_lists,
)
from relion_py.compute.picking.extract_coordinates import (
    Recentring,
    RefinedParticles,
    files_with_suffix,
    listed_files,
)
from relion_py.compute.picking.extract_ctf import CtfOptions
from relion_py.compute.picking.extract_helix import HelixOptions
from relion_py.compute.picking.extract_images import ImageOptions, process_images

FAILURES = "failed_micrographs.star"
_SOURCES = ("--coord_list", "--coord_suffix", "--reextract_data_star")


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_preprocess", "Extracts particles from micrographs.", quiet=not job.leads)
    args.refuse(REFUSED)
    if args.text("--operate_on"):
        _operate(args, job)
        return
    if not args.on("--extract"):
        raise UserError("Give --extract, or --operate_on to change a stack of particles.")
    if not args.text("--i"):
        raise UserError("Give --i, the STAR file of the micrographs.")
    given = [name for name in _SOURCES if args.text(name)]
    if len(given) != 1:
        raise UserError(f"Give one, and only one, of {', '.join(_SOURCES)}; {' and '.join(given) or 'none'} was given.")
    settings = settings_of(args, job)
    micrographs = read_micrographs(args.text("--i"))
    refined = _refined(args)
    sources: Mapping[str, str | RefinedParticles] = _sources(args, micrographs, refined)
    directory = args.text("--part_dir").rstrip("/") + "/"
    os.makedirs(directory, exist_ok=True)
    todo = [
        entry
        for entry in micrographs.entries
        if not (args.on("--only_do_unfinished") and is_done(output_root(directory, entry.name)))
    ]
    todo = job.comm.bcast(todo)  # all ranks must share one list, whatever others have done meanwhile
    job.say(f" Extracting particles from {len(todo)} micrographs of {len(micrographs.entries)}")
    if refined is not None:
        _tell_strays(refined, micrographs, job)
    failures = _extract_all(todo[job.comm.rank :: job.comm.size], sources, directory, settings, job)
    for more in job.comm.gather(failures) or []:
        failures.update(more)
    if job.leads:
        _finish(args, micrographs, refined, directory, settings, failures, job)


def settings_of(args: Arguments, job: Job) -> Settings:
    """The settings that the options ask for; UserError for those that cannot be."""
    return Settings(
        box=args.integer("--extract_size"),
        images=_image_options(args, job),
        float16=args.on("--float16"),
        minimum_fom=args.number("--minimum_pick_fom"),
        selection_type=args.integer("--selection_type"),
        bias=(args.integer("--extract_bias_x"), args.integer("--extract_bias_y")),
        keep_micrograph_ctf=args.on("--keep_ctfs_micrographs"),
        helix=_helix_options(args),
        ctf=_ctf_options(args),
    )


def _image_options(args: Arguments, job: Job) -> ImageOptions:
    return ImageOptions(
        scale=_even(args, "--scale", job),
        window=_even(args, "--window", job),
        normalise=args.on("--norm"),
        ramp=not args.on("--no_ramp"),
        background_radius=args.integer("--bg_radius"),
        white_dust=args.number("--white_dust"),
        black_dust=args.number("--black_dust"),
        invert=args.on("--invert_contrast"),
    )


def _helix_options(args: Arguments) -> HelixOptions | None:
    if not args.on("--helix"):
        return None
    return HelixOptions(
        outer=args.number("--helical_outer_diameter"),
        tubes=args.on("--helical_tubes"),
        cut=args.on("--helical_cut_into_segments"),
        units=args.integer("--helical_nr_asu"),
        rise=args.number("--helical_rise"),
        bimodal=args.on("--helical_bimodal_angular_priors"),
    )


def _ctf_options(args: Arguments) -> CtfOptions | None:
    signs = args.on("--phase_flip")
    if not (signs or args.on("--premultiply_ctf")):
        return None
    box = args.integer("--premultiply_extract_size")
    box = box if box > 0 else args.integer("--extract_size")
    return CtfOptions(box, signs, args.on("--ctf_intact_first_peak"))


def _operate(args: Arguments, job: Job) -> None:
    """Change the images of a stack, on the first rank (runOperateOnInputFile)."""
    source, target = args.text("--operate_on"), os.path.splitext(args.text("--operate_out"))[0] + ".mrcs"
    if args.on("--extract") or args.on("--helix"):
        raise UserError("--operate_on changes single particles of a stack; give it without --extract and --helix.")
    if source.endswith(".star"):
        raise UserError(f"--operate_on needs a stack of images; {source} is a STAR file.")
    if os.path.abspath(source) == os.path.abspath(target):
        raise UserError("--operate_out must be another file than --operate_on.")
    options = _image_options(args, job)
    if not job.leads:
        return
    with open_stack(source) as stack:
        if stack.shape[1] != stack.shape[2]:
            raise UserError(f"The images of {source} are not square.")
        box = stack.shape[1]
        options.check(box)
        size = options.final_box(box)
        pixel = stack.pixel_size * (box / options.scale if options.scale else 1.0)
        random = np.random.default_rng(0)
        with (
            job.progress(len(stack)) as bar,
            StackWriter(target, (size, size), pixel, "float16" if args.on("--float16") else "float32") as writer,
        ):
            for number in range(len(stack)):
                job.check_abort()
                writer.append(process_images(stack.image(number)[None], options, random))
                bar.update(number + 1)
    job.say(f" Done writing to {target}")


def _even(args: Arguments, name: str, job: Job) -> int:
    """A box in pixels, made even as RELION does; 0 where it is not asked for."""
    size = args.integer(name)
    if size <= 0:
        return 0
    if size % 2:
        size += 1
        job.say(f" {name} must be even, so {size} is used.")
    return size


def _refined(args: Arguments) -> RefinedParticles | None:
    path = args.text("--reextract_data_star")
    if not path:
        return None
    point = (args.number("--recenter_x"), args.number("--recenter_y"), args.number("--recenter_z"))
    recentring = Recentring(args.on("--reset_offsets"), args.on("--recenter"), point, args.number("--ref_angpix"))
    return RefinedParticles(path, recentring)


def _sources(
    args: Arguments, micrographs: Micrographs, refined: RefinedParticles | None
) -> dict[str, str | RefinedParticles]:
    """Micrograph -> its coordinate file, or the refined particles; those without either are absent."""
    names = [entry.name for entry in micrographs.entries]
    if refined is not None:
        return dict.fromkeys(names, refined)
    if args.text("--coord_list"):
        return dict(listed_files(args.text("--coord_list")))
    return dict(files_with_suffix(names, args.text("--coord_dir"), args.text("--coord_suffix")))


def _tell_strays(refined: RefinedParticles, micrographs: Micrographs, job: Job) -> None:
    used = {index for entry in micrographs.entries for index in refined.indices(entry.name)}
    strays = len(refined.table) - len(used)
    if strays:
        job.say(f" WARNING: the micrographs of {strays} particles are not in the list, so these are left out.")


def _extract_all(
    todo: Sequence[Micrograph],
    sources: Mapping[str, str | RefinedParticles],
    directory: str,
    settings: Settings,
    job: Job,
) -> dict[str, str]:
    """Work through the list; micrograph -> sentence for those that failed."""
    failures: dict[str, str] = {}
    with job.progress(len(todo)) as bar:
        for number, entry in enumerate(todo, 1):
            job.check_abort()
            remove_particles(output_root(directory, entry.name))
            if entry.name in sources:
                try:
                    do_extract(entry, sources[entry.name], directory, settings)
                except Aborted:
                    raise
                except (UserError, OSError, MemoryError) as error:
                    skip(entry.name, error, failures)
            else:
                print(f"WARNING: there is no coordinate file for {entry.name}.", file=sys.stderr)
            bar.update(number)
    return failures


def _finish(
    args: Arguments,
    micrographs: Micrographs,
    refined: RefinedParticles | None,
    directory: str,
    settings: Settings,
    failures: dict[str, str],
    job: Job,
) -> None:
    """Join the particles of all ranks, and of earlier runs."""
    write_failures(directory + FAILURES, failures)
    if failures and not any(is_done(output_root(directory, entry.name)) for entry in micrographs.entries):
        reason = next(iter(failures.values()))
        raise UserError(f"No particles were extracted; see {directory}{FAILURES}. The first reason: {reason}")
    path = args.text("--part_star")
    # a job that extracts again promises both names; RELION 5 writes the first only (pipeline_jobs.cpp)
    lists = [args.text("--pick_star"), directory + "reextract.star" if refined is not None else ""]
    count, optics = write_lists(micrographs, refined, directory, settings, path, [name for name in lists if name])
    for group, size in zip(optics.strings("rlnOpticsGroup"), optics.strings("rlnImagePixelSize"), strict=True):
        job.say(f" The pixel size of the extracted particles in optics group {group} is {float(size):g} A/pixel.")
    if failures:
        job.say(f" {len(failures)} micrographs were skipped; see {directory}{FAILURES}")
    job.say(f" Done! {count} particles" + (f", listed in {path}" if path else ""))


if __name__ == "__main__":
    main()
