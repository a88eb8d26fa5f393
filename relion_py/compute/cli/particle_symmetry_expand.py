"""relion_particle_symmetry_expand: every particle once for each of its symmetry-related orientations.

Facts: RELION 5, apps/particle_symmetry_expand.cpp.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.particle_symmetry_expand import FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix, matrix_to_euler
from relion_py.compute.geometry.symmetry import canonical, operators
from relion_py.compute.io.star import Table
from relion_py.compute.post.star_lists import read_list

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_particle_symmetry_expand", "Expands particles by symmetry.")
    group = canonical(args.text("--sym"))
    if args.on("--helix") and group != "C1":
        raise UserError("Give either --sym or --helix, not both.")
    if not args.on("--helix") and group == "C1":
        raise UserError("There is nothing to do: give a point group with symmetry (--sym), or --helix.")
    places = helical_places(args) if args.on("--helix") else None
    listed = read_list(args.text("--i"), args.on("--ignore_optics"))
    for label in (*_ANGLES, *(_ORIGINS if places is not None else ())):
        if label not in listed.rows:
            raise UserError(f"{args.text('--i')} has no column _{label}; give refined particles.")
    if places is None:
        rows = expanded(listed.rows, group)
    else:
        rows = helically_expanded(listed.rows, places, args.number("--twist"), args.number("--rise"))
    out = args.text("--o")
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    listed.with_rows(rows).write(out)
    job.say(f" Done! Written: {out} with the expanded particle set: {len(rows)} from {len(listed.rows)}.")


def helical_places(args: Arguments) -> NDArray[np.float64]:
    """Positions along the helix, in units of the rise, that each particle is expanded to."""
    count, samples, reach = args.integer("--asu"), args.integer("--frac_sampling"), args.number("--frac_range")
    if count < 1 or samples < 1 or (count > 1) == (samples > 1):
        raise UserError("Give either --asu or --frac_sampling, above 1.")
    if count > 1:
        return np.arange(-((count - 1) // 2), count // 2 + 1, dtype=np.float64)
    return np.arange(-reach, reach - 0.001 + 1e-9, 1.0 / samples)


def expanded(rows: Table, group: str) -> Table:
    """Each particle followed by its mates, which differ from it in their angles only."""
    mates = operators(group)
    angles = np.stack([rows.floats(label) for label in _ANGLES])
    turned = euler_to_matrix(*angles)[:, None] @ mates
    new = np.stack(matrix_to_euler(turned.reshape(-1, 3, 3))).reshape(3, len(rows), len(mates))
    new[:, :, 0] = angles  # the identity comes first: as it was, not by way of a matrix
    out = rows.select(np.repeat(np.arange(len(rows)), len(mates)))
    for label, values in zip(_ANGLES, new.reshape(3, -1), strict=True):
        out.set(label, values)
    return out


def helically_expanded(rows: Table, places: NDArray[np.float64], twist: float, rise: float) -> Table:
    """Each particle at all places (units of the rise): turned about the helix and moved along it in the image.

    The helix lies along x of the image turned by psi; a tilted one moves by the sine of its tilt.
    """
    rot, tilt, psi = (rows.floats(label)[:, None] for label in _ANGLES)
    along = np.sin(np.deg2rad(tilt)) * places * rise
    x, y = (rows.floats(label)[:, None] for label in _ORIGINS)
    columns = {
        "rlnAngleRot": rot - places * twist,
        "rlnOriginXAngst": x + np.cos(np.deg2rad(-psi)) * along,
        "rlnOriginYAngst": y + np.sin(np.deg2rad(-psi)) * along,
    }
    out = rows.select(np.repeat(np.arange(len(rows)), len(places)))
    for label, values in columns.items():
        out.set(label, values.ravel())
    return out


if __name__ == "__main__":
    main()
