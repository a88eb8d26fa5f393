"""relion_convert_star: lists of release 3.0 and earlier in the form with optics groups.

Facts: RELION 5, apps/convert_star.cpp.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from relion_py.compute.cli.options.convert_star import FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.star import Table

_METADATA = "rlnMicrographMetadata"


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_convert_star", "Brings old lists into the form with optics groups.")
    old = star.read(args.text("--i"))
    if len(old.get("optics", ())):
        raise UserError(f"{args.text('--i')} has optics groups already; there is nothing to convert.")
    new = to_optics_form(old)
    optics = new["optics"]
    rows = next(table for name, table in new.items() if name != "optics")
    if "rlnImageName" in rows:
        job.say("The input is a particle STAR file.")
        _set_missing_box(optics, args)
    elif _METADATA in rows:
        job.say("The input is a STAR file from a MotionCorr job.")
        _set_microscope(optics, rows, args, job)
    else:
        job.say("The input is a micrograph STAR file with CTF information.")
    for label, flag in (("rlnSphericalAberration", "--Cs"), ("rlnAmplitudeContrast", "--Q0")):
        if args.number(flag) >= 0 and label not in optics:
            optics.set(label, args.number(flag))
    os.makedirs(os.path.dirname(args.text("--o")) or ".", exist_ok=True)
    star.write(args.text("--o"), new)
    job.say(f"\nWritten {args.text('--o')}")
    job.say(
        "Please carefully examine the optics group table at the beginning of the output to make sure the "
        "information is correct."
    )


def _set_missing_box(optics: Table, args: Arguments) -> None:
    """The size of the images, which their stacks would tell, from the command line."""
    if "rlnImageSize" in optics:
        return
    box = args.integer("--box_size")
    if box > 0:
        optics.set("rlnImageSize", box)
        optics.set("rlnImageDimensionality", 2)
    else:
        print("WARNING: the images were not found; tell their size with --box_size.", file=sys.stderr)


def _set_microscope(optics: Table, rows: Table, args: Arguments, job: Job) -> None:
    """Voltage and pixel size from the first micrograph's metadata, the rest from the command line."""
    job.say("The (binned) pixel size and the voltage are taken from the first metadata STAR file.")
    path = rows.strings(_METADATA)[0]
    general = star.read(path)["general"]
    original = float(general.floats("rlnMicrographOriginalPixelSize")[0])
    binning = float(general.floats("rlnMicrographBinning")[0]) if "rlnMicrographBinning" in general else 1.0
    optics.set("rlnVoltage", float(general.floats("rlnVoltage")[0]))
    optics.set("rlnMicrographOriginalPixelSize", original)
    optics.set("rlnMicrographPixelSize", original * binning)
    for what, flag in (("spherical aberration (mm)", "--Cs"), ("amplitude contrast", "--Q0")):
        if args.number(flag) < 0:
            raise UserError(f"The input does not tell the {what}; give it with {flag}.")


if __name__ == "__main__":
    main()
