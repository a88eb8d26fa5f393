"""relion_helix_toolbox: cylinders as first references, helical symmetry of maps, checks of helical parameters.

Facts: RELION 5, apps/helix_toolbox.cpp.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.helix_toolbox import FLAGS, FUNCTIONS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.helix import Range, Tube, check_parameters, check_tube
from relion_py.compute.geometry.helix_maps import impose, search
from relion_py.compute.image.masks import cylinder_mask, soft_mask
from relion_py.compute.io.mrc import read_map, write_map

_SMALLEST_BOX = 20


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_helix_toolbox", "Works on maps of helices.")
    args.refuse(REFUSED)
    chosen = [name for name in FUNCTIONS if args.on(name)]
    if len(chosen) != 1:
        raise UserError(f"Give one of {', '.join(FUNCTIONS)}; {' and '.join(chosen) or 'none'} was given.")
    if not 0.009 <= args.number("--sphere_percentage") <= 0.991:
        raise UserError("--sphere_percentage must lie between 0.01 and 0.99.")
    does = {"--cylinder": _cylinder, "--spherical_mask": _sphere, "--impose": _impose, "--search": _search}
    does.get(chosen[0], _check)(args, job)


def _cylinder(args: Arguments, job: Job) -> None:
    box, pixel, width = args.integer("--boxdim"), args.number("--angpix"), args.number("--width")
    if pixel <= 0 or box < _SMALLEST_BOX:
        raise UserError(f"--cylinder needs --angpix (A) and --boxdim, at least {_SMALLEST_BOX} voxels.")
    outer, inner = args.number("--cyl_outer_diameter"), args.number("--cyl_inner_diameter")
    if not max(inner, 0.0) < outer <= (box - 1) * pixel:
        raise UserError(
            f"--cyl_outer_diameter must be larger than the inner one and at most {(box - 1) * pixel:g} A, the box."
        )
    tube = cylinder_mask(box, 0.5 * outer / pixel, 0.5 * inner / pixel, width)
    _write(args, tube * soft_mask(box, 0.5 * box * args.number("--sphere_percentage"), width), pixel, job)


def _sphere(args: Arguments, job: Job) -> None:
    volume, pixel = _read(args)
    box = len(volume)
    _write(
        args,
        volume * soft_mask(box, 0.5 * box * args.number("--sphere_percentage"), args.number("--width")),
        pixel,
        job,
    )


def _impose(args: Arguments, job: Job) -> None:
    volume, pixel = _read(args)
    tube = _tube(args, len(volume), pixel)
    twist, rise = args.number("--twist"), args.number("--rise")
    _write(args, impose(volume, pixel, tube, twist, rise, args.number("--width")), pixel, job)


def _search(args: Arguments, job: Job) -> None:
    volume, pixel = _read(args)
    found = search(volume, pixel, _tube(args, len(volume), pixel), *_ranges(args))
    if found.warning:
        print(f"WARNING: {found.warning}.", file=sys.stderr)
    job.say(f" Done! Refined helical rise = {found.rise:g} Angstroms, twist = {found.twist:g} degrees.")


def _check(args: Arguments, job: Job) -> None:
    box, pixel = args.integer("--boxdim"), args.number("--angpix")
    if pixel <= 0:
        raise UserError("--check needs the pixel size: give --angpix (A).")
    tube = _tube(args, box, pixel)
    if args.on("--ignore_helical_symmetry"):
        check_tube(tube, box, pixel)
    else:
        limits = _ranges(args) if args.on("--search_sym") else (None, None)
        units = args.integer("--nr_asu")
        check_parameters(tube, args.number("--twist"), args.number("--rise"), box, pixel, units, *limits)
    job.say(" Done! All the parameters seem OK for 3D helical reconstruction in RELION.")


def _tube(args: Arguments, box: int, pixel_size: float) -> Tube:
    return Tube(
        args.number("--sphere_percentage") * box * pixel_size,
        args.number("--cyl_outer_diameter"),
        args.number("--cyl_inner_diameter"),
        args.number("--z_percentage"),
    )


def _ranges(args: Arguments) -> tuple[Range, Range]:
    """Limits and first steps of twist and rise."""

    def of(name: str) -> Range:
        step = max(args.number(f"--{name}_inistep"), 0.0)
        return Range(args.number(f"--{name}_min"), args.number(f"--{name}_max"), step)

    return of("twist"), of("rise")


def _read(args: Arguments) -> tuple[NDArray[np.float32], float]:
    """The map and its pixel size in A."""
    if not args.text("--i"):
        raise UserError("Give the map with --i.")
    volume, pixel = read_map(args.text("--i"))
    if len(set(volume.shape)) > 1:
        raise UserError(f"{args.text('--i')} is {' x '.join(map(str, volume.shape[::-1]))}; it must be a cube.")
    pixel = args.number("--angpix") if args.number("--angpix") > 0 else pixel
    if pixel <= 0:
        raise UserError(f"The header of {args.text('--i')} has no pixel size: give it with --angpix, in A.")
    return volume, pixel


def _write(args: Arguments, volume: NDArray, pixel_size: float, job: Job) -> None:
    if not args.text("--o"):
        raise UserError("Give the map to be written with --o.")
    write_map(args.text("--o"), volume.astype(np.float32), pixel_size)
    job.say(f" Done! Written {args.text('--o')}")


if __name__ == "__main__":
    main()
