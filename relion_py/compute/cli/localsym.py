"""relion_localsym, relion_localsym_mpi: local symmetry of a map, applied, copied, or searched for.

Facts: RELION 5, src/local_symmetry.cpp (local_symmetry_parameters::run) and src/local_symmetry_mpi.cpp. A search
shares its sampled operators among the ranks; all else is done by the first.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

import numpy as np

from relion_py.compute.cli.options.localsym import DESCRIPTION, FLAGS, FUNCTIONS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.image.shift import centre_of_mass
from relion_py.compute.io.mrc import read_map, write_map
from relion_py.compute.post import local_symmetry, local_symmetry_files
from relion_py.compute.post.local_symmetry import Map, Operator, Region, read_mask
from relion_py.compute.post.local_symmetry_search import Found, Original, Ranges, in_order, sample_count

_LOG = "relion_localsym.log"


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_localsym", DESCRIPTION, quiet=not job.leads)
    args.refuse(REFUSED)
    wanted = [name for name in FUNCTIONS if args.on(name)]
    if len(wanted) != 1:
        raise UserError(f"Give one of {', '.join(FUNCTIONS)}; --help says what they do.")
    if not args.number("--angpix") >= 0.001:
        raise UserError(f"--angpix must be a pixel size in A, not {args.text('--angpix')}.")
    if wanted == ["--search"]:
        _search(args, job)
    elif job.leads:
        {"--apply": _apply, "--duplicate": _duplicate, "--transform": _transform, "--txt2rln": _convert}[wanted[0]](
            args, job
        )
    if job.leads:
        with open(_LOG, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"\n ++++ Executed the following command on {time.ctime()}\n")
            file.write(f"  relion_localsym {args.command_line}\n")


# ---------------------------------------------------------------------------------------------- maps


def _apply(args: Arguments, job: Job) -> None:
    part, edge = args.number("--sphere_percentage"), args.number("--width")
    if part > 0.991:
        raise UserError("--sphere_percentage must be smaller than 0.99.")
    if part > 0 and not edge > 0:
        raise UserError("--width must be larger than 0.")
    out = _needed(args, "--o_map")
    angpix, volume = args.number("--angpix"), _map(_needed(args, "--i_map"))
    regions = _regions(args, job)
    result = local_symmetry.symmetrised(volume, regions, angpix, job.check_abort)
    if part > 0:
        result = local_symmetry.cut_to_sphere(result, min(volume.shape) * part / 2.0, edge)
    write_map(out, result, angpix)
    job.say(f" Done! The symmetrised map is {out}")


def _duplicate(args: Arguments, job: Job) -> None:
    out, angpix = _needed(args, "--o_map"), args.number("--angpix")
    volume = _map(args.text("--i_map")) if args.text("--i_map") else None
    result = local_symmetry.duplicated(volume, _regions(args, job), angpix, job.check_abort)
    write_map(out, result, angpix)
    job.say(f" Done! The copies are in {out}")


def _transform(args: Arguments, job: Job) -> None:
    out, path, angpix = _needed(args, "--o_map"), _needed(args, "--i_map"), args.number("--angpix")
    volume, header_angpix = _map(path), read_map(path)[1]
    numbers = (args.number(name) for name in ("--rot", "--tilt", "--psi", "--xoff", "--yoff", "--zoff"))
    operator = Operator.standard(*numbers)
    job.say(f" Pixel size = {angpix:g} Angstrom(s)\n Transform input map {path} : {operator}")
    write_map(out, local_symmetry.carried(volume, operator, angpix), header_angpix)
    job.say(f" Done writing {out}")


def _convert(args: Arguments, job: Job) -> None:
    source, target = args.text("--i_mask_info"), args.text("--o_mask_info")
    if local_symmetry_files.is_star(source) or not local_symmetry_files.is_star(target):
        raise UserError(
            "--txt2rln needs a text file for --i_mask_info and a name that ends in .star for --o_mask_info."
        )
    local_symmetry_files.write_regions(target, _regions(args, job))
    job.say(f" Done! The operators are in {target}")


def _needed(args: Arguments, name: str) -> str:
    if not args.text(name):
        raise UserError(f"{name} must be given.")
    return args.text(name)


def _map(path: str) -> Map:
    volume = read_map(path)[0]
    if min(volume.shape) < 2:
        raise UserError(f"{path} is no map: it must have three dimensions.")
    return np.ascontiguousarray(volume, np.float32)


def _regions(args: Arguments, job: Job) -> list[Region]:
    path = args.text("--i_mask_info")
    job.say(f" Reading list of masks from {path}...")
    regions = local_symmetry_files.read_regions(path)
    for number, region in enumerate(regions, 1):
        job.say(f" * Mask #{number} = {region.mask}")
        for place, operator in enumerate([Operator(), *region.operators]):
            job.say(f"   --> Operator #{place} = {operator}{'' if place else ' (the original)'}")
    return regions


# -------------------------------------------------------------------------------------------- search


def _search(args: Arguments, job: Job) -> None:
    """Refine the operators of every region, or find them; results go beside --o_mask_info."""
    ranges, anew = _ranges(args), args.text("--i_op_mask_info") != "None"
    volume = _map(_needed(args, "--i_map"))
    if len(set(volume.shape)) > 1:
        raise UserError(f"{args.text('--i_map')} must be a cube for a search.")
    if anew:
        areas = local_symmetry_files.read_areas(args.text("--i_op_mask_info"))
        start = Operator(tilt=90.0 if args.number("--ang_range") > 179.99 or not any(_given(args)) else 0.0)
        regions = [Region(masks[0], [start] * (len(masks) - 1)) for masks in areas]
    else:
        regions, areas = _regions(args, job), []
    found: list[Region] = []
    for number, region in enumerate(regions):
        mask = read_mask(region.mask, volume.shape)
        reach = max(ranges.shifts) / args.number("--angpix")
        original = Original(volume, mask, region.mask, reach, args.number("--bin"))
        job.say(f"\n Mask #{number + 1} : {region.mask}, cropped box size = {original.box} pixels")
        if original.bin > 1:
            job.say(f" + Rescale cropped box size to {original.binned} pixels. Binning factor = {original.bin:g}")
        operators = []
        for place, operator in enumerate(region.operators):
            copy = areas[number][place + 1] if anew else ""
            result = _refine(original, operator, copy, ranges, volume, args, job)
            operators.append(result.best)
            if job.leads:
                _write_samples(args, number, place, result, job)
        found.append(Region(region.mask, operators))
    if job.leads:
        local_symmetry_files.write_regions(args.text("--o_mask_info"), found)
        job.say(f"\n Done! New local symmetry description file: {args.text('--o_mask_info')}")


def _given(args: Arguments) -> list[bool]:
    names = ("--ang_range", "--ang_rot_range", "--ang_tilt_range", "--ang_psi_range")
    return [args.number(name) > local_symmetry.TINY for name in names]


def _ranges(args: Arguments) -> Ranges:
    """What to search; without any angular range a search anew goes through all angles."""

    def three(whole: str, *single: str) -> tuple[float, float, float]:
        if args.number(whole) > local_symmetry.TINY:
            return (args.number(whole),) * 3
        a, b, c = (args.number(name) for name in single)
        return a, b, c

    angles = three("--ang_range", "--ang_rot_range", "--ang_tilt_range", "--ang_psi_range")
    if args.text("--i_op_mask_info") != "None" and not any(_given(args)):
        angles = (180.0, 180.0, 180.0)
    shifts = three("--offset_range", "--offset_x_range", "--offset_y_range", "--offset_z_range")
    return Ranges(angles, args.number("--ang_step"), shifts, args.number("--offset_step"), args.on("--use_healpix"))


def _refine(
    original: Original, operator: Operator, copy: str, ranges: Ranges, volume: Map, args: Arguments, job: Job
) -> Found:
    """The operators around one, or to where the mask `copy` lies, from the best to the worst (on every rank)."""
    angpix = args.number("--angpix")
    if copy:
        job.say(f" + Searching the copy in the mask {copy}")
        place = centre_of_mass(read_mask(copy, volume.shape))[::-1]
    else:
        job.say(f" + Refining {operator}")
        place = operator.rotation @ original.centre + operator.translation / angpix
    angles = np.array(operator[:3])
    count = sample_count(angles, ranges, angpix * original.bin)
    job.say(f" + Total sampling points = {count}, calculating deviations ...")
    share = slice(job.comm.rank, None, job.comm.size)
    with job.progress(len(range(count)[share])) as bar:

        def step(done: int) -> None:
            job.check_abort()
            bar.update(done)

        mine = original.compare(place, angles, ranges, angpix, share, step)
    result = in_order(job.comm.allgather(mine))
    job.say(f" + Done! Refined operator: {result.best}")
    if args.on("--verb"):
        for row, deviation in list(zip(result.operators, result.deviations, strict=True))[:5]:
            job.say(f"   deviation {deviation:g}: {Operator(*row)}")
    return result


def _write_samples(args: Arguments, number: int, place: int, result: Found, job: Job) -> None:
    root = os.path.splitext(args.text("--o_mask_info"))[0]
    path = f"{root}_cc_mask{number + 1:03d}_op{place + 1:03d}.star"
    local_symmetry_files.write_samples(path, result.operators, result.deviations)
    job.say(f" + List of sampling points for this local symmetry operator: {path}")


if __name__ == "__main__":
    main()
