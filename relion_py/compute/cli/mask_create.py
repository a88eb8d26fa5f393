"""relion_mask_create: a soft mask of a map, or a spherical shell.

Facts: RELION 5, apps/mask_create.cpp.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.mask_create import FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.io.mrc import read_map, write_map
from relion_py.compute.post.solvent_mask import (
    Inside,
    combine,
    crown_mask,
    extend,
    keep_centre_along_z,
    soften,
)

Map = NDArray[np.float32]

_COMBINATIONS = {"--and": "and", "--or": "or", "--and_not": "and_not", "--or_not": "or_not"}


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_mask_create", "Makes a soft mask.")
    args.need_positive_integers("--j")
    if args.number("--width_soft_edge") < 0:
        raise UserError(f"--width_soft_edge must not be negative, not {args.text('--width_soft_edge')}.")
    with fft.set_workers(args.integer("--j")):
        mask, angpix = _shell(args) if args.on("--denovo") else _from_map(args, job)
    if args.on("--invert"):
        mask = np.float32(1.0) - mask
    write_map(args.text("--o"), mask, angpix)
    job.say(f" Done creating mask! Written out: {args.text('--o')}")


def _shell(args: Arguments) -> tuple[Map, float]:
    box = args.integer("--box_size")
    if box < 1:
        raise UserError("A mask from nothing needs the size of its box: give --box_size.")
    angpix = args.number("--angpix")
    if not angpix > 0:
        print("WARNING: --angpix was not given; the mask gets a pixel size of 1 A.", file=sys.stderr)
        angpix = 1.0
    centre = (args.number("--center_x"), args.number("--center_y"), args.number("--center_z"))
    radii = (args.number("--inner_radius"), args.number("--outer_radius"))
    return crown_mask(box, *radii, args.number("--width_soft_edge"), centre), angpix


def _from_map(args: Arguments, job: Job) -> tuple[Map, float]:
    name = args.text("--i")
    if not name:
        raise UserError("Give a map with --i, or --denovo to make a mask from nothing.")
    job.say(" Creating a mask ...")
    volume, header_angpix = _read(name)
    angpix = args.number("--angpix") if args.number("--angpix") > 0 else header_angpix
    if not args.number("--angpix") > 0:
        print(f"WARNING: --angpix was not given; that of the map, {angpix:g} A, is used.", file=sys.stderr)
    if args.number("--lowpass") > 0:
        if not angpix > 0:
            raise UserError(f"{name} does not tell its pixel size, which --lowpass needs; give --angpix.")
        if len(set(volume.shape)) != 1:
            raise UserError(f"{name} is not a cube, so it cannot be filtered; leave out --lowpass.")
        volume = lowpass(volume, angpix, args.number("--lowpass"))
    inside = _inside(volume, name, args)
    if not inside.any():
        others = [flag for flag in _COMBINATIONS if args.text(flag)]
        if others and volume.max() >= args.number("--ini_threshold"):
            raise UserError(
                f"{others[0]} {args.text(others[0])} leaves no voxel at the threshold {args.text('--ini_threshold')}; "
                "check that the maps belong together, or change --ini_threshold."
            )
        raise UserError(
            f"No voxel reaches the threshold {args.text('--ini_threshold')} (the largest value"
            f"{' after filtering' if args.number('--lowpass') > 0 else ''} is {float(volume.max()):.3g}); "
            "lower --ini_threshold."
        )
    job.check_abort()
    distance = args.number("--extend_inimask")
    if distance:
        job.say(f"== {'Extending' if distance > 0 else 'Shrinking'} initial binary mask ...")
        inside = extend(inside, distance)
    job.check_abort()
    if args.number("--width_soft_edge") > 0:
        job.say("== Making a soft edge on the extended mask ...")
    mask = soften(inside, args.number("--width_soft_edge"))
    if args.on("--helix"):
        fraction = args.number("--z_percentage")
        if not 0.1 <= fraction <= 0.9:
            raise UserError(f"--z_percentage must lie between 0.1 and 0.9, not {args.text('--z_percentage')}.")
        mask = keep_centre_along_z(mask, fraction, args.number("--width_soft_edge"))
    return mask, angpix if angpix > 0 else 1.0


def _inside(volume: Map, name: str, args: Arguments) -> Inside:
    """The voxels of the initial mask: by one map or, by the first of the flags given, of two."""
    threshold = args.number("--ini_threshold")
    for flag, how in _COMBINATIONS.items():
        if args.text(flag):
            other, _ = _read(args.text(flag))
            if other.shape != volume.shape:
                raise UserError(f"{args.text(flag)} and {name} differ in size; give maps of one box.")
            return combine(volume, other, threshold, how)
    return volume >= threshold


def _read(name: str) -> tuple[Map, float]:
    volume, angpix = read_map(name)
    if len(volume) == 1:
        raise UserError(f"{name} is not a 3D map; give a map.")
    if not np.isfinite(volume).all():
        raise UserError(f"{name} contains values that are not numbers; make the map again.")
    return volume, angpix


if __name__ == "__main__":
    main()
