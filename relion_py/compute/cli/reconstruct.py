"""relion_reconstruct: a map from particles whose orientations are known, or the volume of their CTFs.

Facts: RELION 5, reconstructor.cpp.
"""

from __future__ import annotations

import os
import sys
from math import ceil
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.reconstruct import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, ProgressBar, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry import symmetry
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map, write_map
from relion_py.compute.io.particles import ParticleTable, read_particles
from relion_py.compute.refine.backprojector import BackProjector, HelicalUnits
from relion_py.compute.refine.ewald import EwaldSettings
from relion_py.compute.refine.insertion import Insertion, Settings
from relion_py.compute.refine.projector import FourierReference
from relion_py.compute.refine.reconstruct import reconstruct, update_tau2

_FSC_LABELS = ("rlnGoldStandardFsc", "rlnFourierShellCorrelation")


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_reconstruct", "Reconstructs a map from particles with orientations.")
    args.refuse(REFUSED)
    say = job.say if args.integer("--verb") > 0 else (lambda text: None)
    table = _chosen(read_particles(args.text("--i")), args)
    _refuse_tomograms(table)
    ewald = _ewald(args, table)
    ctf_volume = args.integer("--reconstruct_ctf") > 0
    _check_ctf_volume(args, ctf_volume)
    if ctf_volume:
        box = args.integer("--reconstruct_ctf")
    else:
        box = args.integer("--newbox") if args.integer("--newbox") > 0 else _box(table)
    if box % 2:
        raise UserError(f"{'--reconstruct_ctf' if ctf_volume else '--newbox'} must be even, not {box}.")
    angpix = args.number("--angpix")
    if angpix <= 0:
        angpix = table.optics_groups[0].pixel_size
        say(f" + Pixel size of the first optics group: {angpix:g} A")
    sums = _empty_sums(args, box, angpix, 1.0 if ctf_volume else args.number("--pad"))
    settings = Settings(
        ctf=args.on("--ctf") or ewald is not None,
        intact_first_peak=args.on("--ctf_intact_first_peak"),
        phase_flipped=args.on("--ctf_phase_flipped"),
        only_flip_phases=args.on("--only_flip_phases"),
        fom_weighting=args.on("--fom_weighting"),
        angular_error=args.number("--angular_error"),
        shift_error=args.number("--shift_error"),
        flat=sums.ndim == 2,
        quiet=args.integer("--verb") <= 0,
        ewald=ewald,
        subtracted=_subtracted(args, sums),
        ctf_volume=ctf_volume,
        squared=args.on("--ctf2"),
    )
    say(f" + Back-projecting {len(table)} images ...")
    add_particles(table, sums, angpix, settings, job)
    say(" + Starting the reconstruction ...")
    volume = _ctf_volume(sums, args, angpix) if ctf_volume else make_map(sums, args, angpix)
    write_map(args.text("--o"), volume, angpix)
    say(f" + Done! Written output map in: {args.text('--o')}")


def add_particles(table: ParticleTable, sums: BackProjector, angpix: float, settings: Settings, job: Job) -> None:
    """Insert every particle; angpix: of the map, A. Images of another box or pixel size are scaled to it."""
    insertion, done = Insertion(table, sums, angpix, settings), 0
    with ProgressBar(len(table), shown=job.leads and not settings.quiet) as bar:
        for number in range(len(table.optics_groups)):
            rows = np.flatnonzero(table.group_index == number)
            for start in range(0, len(rows), insertion.at_a_time):
                job.check_abort()
                batch = rows[start : start + insertion.at_a_time]
                insertion.insert(number, batch)
                done += len(batch)
                bar.update(done)


def make_map(sums: BackProjector, args: Arguments, angpix: float) -> NDArray[np.float32]:
    """The map from complete sums, with the prior of `--fsc` and the gridding of `--dont_skip_gridding`.

    angpix: A per pixel of the map. Helical and point-group symmetry are applied first.
    """
    _symmetrise(sums, args, angpix)
    tau2 = None
    if args.text("--fsc"):
        fsc = _read_fsc(args.text("--fsc"), sums.box // 2 + 1)
        tau2 = update_tau2(sums, fsc=fsc, is_whole_instead_of_half=True).tau2
    iterations = args.integer("--iter") if args.on("--dont_skip_gridding") else 0
    return reconstruct(sums, tau2, gridding_iterations=max(iterations, 0))


def _symmetrise(sums: BackProjector, args: Arguments, angpix: float) -> None:
    units = args.integer("--nr_helical_asu")
    if units < 1:
        raise UserError(f"--nr_helical_asu must be at least 1, not {units}.")
    sums.symmetrise(helix=HelicalUnits(args.number("--helical_twist"), args.number("--helical_rise") / angpix, units))


def _ctf_volume(sums: BackProjector, args: Arguments, angpix: float) -> NDArray[np.float32]:
    """The mean CTF at each frequency (n, n, n), origin at n // 2, 0 where there is none; with `--ctf2` the root of the
    mean CTF^2. angpix: A per pixel of a map of this box."""
    _symmetrise(sums, args, angpix)
    mean = np.ascontiguousarray(sums.downsampled_average().real, np.float32)
    if args.on("--ctf2"):
        mean = np.sqrt(np.maximum(mean, 0.0))
    half, beyond = sums.box // 2, max(0, sums.box // 2 - len(mean) // 2)  # with --maxres it ends before
    mean = np.pad(mean, ((beyond, beyond), (beyond, beyond), (0, beyond)))
    centre = len(mean) // 2
    within = slice(centre - half, centre + half)
    volume = np.zeros((sums.box,) * 3, np.float32)
    volume[..., half:] = mean[within, within, :half]
    mates = mean[::-1, ::-1, ::-1]  # those of -x, from the largest x on
    volume[..., :half] = mates[within, within, -1 - half : -1]
    return volume


def _check_ctf_volume(args: Arguments, wanted: bool) -> None:
    if not wanted:
        if args.on("--ctf2"):
            raise UserError("--ctf2 goes with --reconstruct_ctf, the size (pixels) of the volume.")
        return
    for flag in ("--ewald", "--subtract", "--fsc", "--dont_skip_gridding", "--newbox"):
        if flag in args.given:
            raise UserError(f"A volume of CTFs is no map; leave out {flag} or --reconstruct_ctf.")
    if args.integer("--refdim") != 3:
        raise UserError("--reconstruct_ctf makes a volume; leave out --refdim.")


def _chosen(table: ParticleTable, args: Arguments) -> ParticleTable:
    """The particles that `--subset` and `--class` leave, with their stacks in `--img`."""
    keep = np.ones(len(table), bool)
    subset, class_number = args.integer("--subset"), args.integer("--class")
    for label, wanted, chosen in (
        ("rlnRandomSubset", subset, subset in (1, 2)),
        ("rlnClassNumber", class_number, class_number >= 0),
    ):
        if chosen and label not in table:
            raise UserError(f"{args.text('--i')} has no column _{label}, by which particles should be chosen.")
        if chosen:
            keep &= table.ints(label) == wanted
    if not keep.any():
        raise UserError(f"No particle of {args.text('--i')} is in the wanted subset and class.")
    table = table if keep.all() else table.select(keep)
    if args.text("--img"):
        names = [name.rpartition("@") for name in table.strings("rlnImageName")]
        moved = [f"{n}{at}{os.path.join(args.text('--img'), os.path.basename(p))}" for n, at, p in names]
        table.particles.set("rlnImageName", moved)
        table = ParticleTable(table.star, table.project, table.block)  # it remembers the old names
    return table


def _refuse_tomograms(table: ParticleTable) -> None:
    if any(table.optics_groups[i].dimensionality == 3 for i in np.unique(table.group_index)):
        raise UserError("These are sub-tomograms, which this release does not reconstruct.")


def _ewald(args: Arguments, table: ParticleTable) -> EwaldSettings | None:
    """How the curvature of the Ewald sphere is corrected, None if it is not."""
    if not args.on("--ewald"):
        return None
    diameter, sectors = args.number("--mask_diameter"), args.integer("--sectors")
    if not diameter > 0:
        raise UserError("--ewald needs --mask_diameter, the diameter (A) of the particle's mask.")
    if sectors < 2:
        raise UserError(f"--sectors must be at least 2, not {sectors}.")
    if args.integer("--refdim") != 3:
        raise UserError("--ewald is for maps; leave out --refdim.")
    if any(table.optics_groups[i].ctf_premultiplied for i in np.unique(table.group_index)):
        raise UserError("--ewald needs particles that were not multiplied with their CTF.")
    return EwaldSettings(
        diameter, args.number("--width_mask_edge"), sectors, args.on("--reverse_curvature"),
        not args.on("--skip_mask"), not args.on("--skip_weighting"),
    )  # fmt: skip


def _box(table: ParticleTable) -> int:
    box = table.read_images(np.array([0])).shape[-1]
    if box % 2:
        raise UserError(f"The images have an odd box of {box} pixels; extract them with an even one.")
    return box


def _empty_sums(args: Arguments, box: int, angpix: float, padding: float) -> BackProjector:
    dimensions = args.integer("--refdim")
    if dimensions not in (2, 3):
        raise UserError("--refdim must be 2 or 3.")
    if not 1 <= padding <= 8:
        raise UserError("--pad must lie between 1 and 8.")
    current_size = -1
    if args.number("--maxres") > 0:
        current_size = 2 * ceil(box * angpix / args.number("--maxres"))
    return BackProjector(box, current_size, padding, symmetry.operators(args.text("--sym")), ndim=dimensions)


def _subtracted(args: Arguments, sums: BackProjector) -> FourierReference | None:
    """The map of `--subtract`, None for none; UserError if it is not of the size of the map to be made."""
    path = args.text("--subtract")
    if not path:
        return None
    if args.on("--ewald") or sums.ndim != 3:
        raise UserError("--subtract is for plain maps; leave out --ewald and --refdim.")
    volume, _ = read_map(path)
    if volume.shape != (sums.box,) * 3:
        raise UserError(f"{path} must be a cube of {sums.box} voxels, as the map that is made.")
    return FourierReference.from_map(volume, 2 * sums.r_max, sums.pad)


def _read_fsc(path: str, n_shells: int) -> NDArray[np.float64]:
    """FSC per shell from a table with rlnSpectralIndex; shells that it lacks are 0."""
    for table in star.read(path).values():
        label = next((name for name in _FSC_LABELS if name in table), None)
        if label and "rlnSpectralIndex" in table:
            index, values = table.ints("rlnSpectralIndex"), table.floats(label)
            curve = np.zeros(n_shells)
            within = (index >= 0) & (index < n_shells)
            curve[index[within]] = values[within]
            return curve
    raise UserError(f"{path} has no FSC: no table with _rlnSpectralIndex and _rlnGoldStandardFsc.")


if __name__ == "__main__":
    main()
