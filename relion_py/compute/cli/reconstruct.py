"""relion_reconstruct: a map from particles whose orientations are known.

Facts: RELION 5, reconstructor.cpp.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from math import ceil
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.reconstruct import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, ProgressBar, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry import symmetry
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import ctf_values
from relion_py.compute.image.fourier import disc_pixels, gather, half_transform, phase_shift
from relion_py.compute.io import star
from relion_py.compute.io.mrc import write_map
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.io.particles import OpticsGroup, ParticleTable, read_particles
from relion_py.compute.refine.backprojector import BackProjector, HelicalUnits
from relion_py.compute.refine.reconstruct import reconstruct, update_tau2

_BATCH = 200
_FSC_LABELS = ("rlnGoldStandardFsc", "rlnFourierShellCorrelation")


@dataclass(frozen=True)
class Settings:
    """How the particles enter the map: see the program's flags of the same names."""

    ctf: bool = False
    intact_first_peak: bool = False
    phase_flipped: bool = False
    only_flip_phases: bool = False
    fom_weighting: bool = False
    angular_error: float = 0.0
    shift_error: float = 0.0
    flat: bool = False
    quiet: bool = False


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_reconstruct", "Reconstructs a map from particles with orientations.")
    args.refuse(REFUSED)
    say = job.say if args.integer("--verb") > 0 else (lambda text: None)
    table = _chosen(read_particles(args.text("--i")), args)
    _refuse_optics(table)
    box = _box(table)
    angpix = args.number("--angpix")
    if angpix <= 0:
        angpix = table.optics_groups[0].pixel_size
        say(f" + Pixel size of the first optics group: {angpix:g} A")
    sums = _empty_sums(args, box, angpix)
    settings = Settings(
        ctf=args.on("--ctf"),
        intact_first_peak=args.on("--ctf_intact_first_peak"),
        phase_flipped=args.on("--ctf_phase_flipped"),
        only_flip_phases=args.on("--only_flip_phases"),
        fom_weighting=args.on("--fom_weighting"),
        angular_error=args.number("--angular_error"),
        shift_error=args.number("--shift_error"),
        flat=sums.ndim == 2,
        quiet=args.integer("--verb") <= 0,
    )
    say(f" + Back-projecting {len(table)} images ...")
    add_particles(table, sums, angpix, settings, job)
    say(" + Starting the reconstruction ...")
    volume = make_map(sums, args, angpix)
    write_map(args.text("--o"), volume, angpix)
    say(f" + Done! Written output map in: {args.text('--o')}")


def add_particles(table: ParticleTable, sums: BackProjector, angpix: float, settings: Settings, job: Job) -> None:
    """Insert every particle; angpix: of the map, A. Images of another box or pixel size are scaled to it."""
    rng = np.random.default_rng()
    done = 0
    with ProgressBar(len(table), shown=job.leads and not settings.quiet) as bar:
        for number, group in enumerate(table.optics_groups):
            rows = np.flatnonzero(table.group_index == number)
            for start in range(0, len(rows), _BATCH):
                job.check_abort()
                batch = rows[start : start + _BATCH]
                _insert(table, group, batch, sums, angpix, settings, rng)
                done += len(batch)
                bar.update(done)


def make_map(sums: BackProjector, args: Arguments, angpix: float) -> NDArray[np.float32]:
    """The map from complete sums, with the prior of `--fsc` and the gridding of `--dont_skip_gridding`.

    angpix: A per pixel of the map. Helical and point-group symmetry are applied first.
    """
    units = args.integer("--nr_helical_asu")
    if units < 1:
        raise UserError(f"--nr_helical_asu must be at least 1, not {units}.")
    sums.symmetrise(helix=HelicalUnits(args.number("--helical_twist"), args.number("--helical_rise") / angpix, units))
    tau2 = None
    if args.text("--fsc"):
        fsc = _read_fsc(args.text("--fsc"), sums.box // 2 + 1)
        tau2 = update_tau2(sums, fsc=fsc, is_whole_instead_of_half=True).tau2
    iterations = args.integer("--iter") if args.on("--dont_skip_gridding") else 0
    return reconstruct(sums, tau2, gridding_iterations=max(iterations, 0))


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


def _refuse_optics(table: ParticleTable) -> None:
    used = [table.optics_groups[i] for i in np.unique(table.group_index)]
    for group in used:
        if group.dimensionality == 3:
            raise UserError("These are sub-tomograms, which this release does not reconstruct.")
    if len({group.mtf for group in used}) > 1:
        raise UserError("The optics groups have different MTFs, which this release does not weigh.")


def _box(table: ParticleTable) -> int:
    box = table.read_images(np.array([0])).shape[-1]
    if box % 2:
        raise UserError(f"The images have an odd box of {box} pixels; extract them with an even one.")
    return box


def _empty_sums(args: Arguments, box: int, angpix: float) -> BackProjector:
    dimensions, padding = args.integer("--refdim"), args.number("--pad")
    if dimensions not in (2, 3):
        raise UserError("--refdim must be 2 or 3.")
    if not 1 <= padding <= 8:
        raise UserError("--pad must lie between 1 and 8.")
    current_size = -1
    if args.number("--maxres") > 0:
        current_size = 2 * ceil(box * angpix / args.number("--maxres"))
    return BackProjector(box, current_size, padding, symmetry.operators(args.text("--sym")), ndim=dimensions)


def _insert(
    table: ParticleTable,
    group: OpticsGroup,
    rows: NDArray[np.int64],
    sums: BackProjector,
    angpix: float,
    settings: Settings,
    rng: np.random.Generator,
) -> None:
    """Back-project the particles `rows`, all of one optics group."""

    def column(label: str, default: float | None = 0.0) -> NDArray[np.float64]:
        return table.floats(label, default)[rows]

    images = table.read_images(rows)
    box = images.shape[-1]
    scale = sums.box * angpix / (box * group.pixel_size)
    fault = Aberrations.of_group(group.values, group.voltage, group.cs)
    kx, ky = _pixels(box, sums.r_max, scale * fault.distortion)
    values = gather(half_transform(images), kx, ky) / np.float32(box) ** 2
    values[:, (kx == 0) & (ky == 0)] = 0  # the mean of an image says nothing, but its weight counts
    shift = [column(f"rlnOrigin{axis}Angst") for axis in "XY"]
    shift = [s + rng.normal(0, settings.shift_error, len(rows)) for s in shift]
    angles = np.zeros((3, len(rows)))
    for axis, name in enumerate(("Rot", "Tilt", "Psi")):
        if name == "Psi" or not settings.flat:
            angles[axis] = column(f"rlnAngle{name}", None) + rng.normal(0, settings.angular_error, len(rows))
    values *= phase_shift(kx, ky, shift[0] / group.pixel_size, shift[1] / group.pixel_size, box)
    weights = np.ones(values.shape, np.float32)
    if settings.ctf:
        undo = fault.phase_factors(kx, ky, box, group.pixel_size)
        if undo is not None:
            values *= undo
        ctf = _ctf(table, group, rows, kx, ky, box, settings, fault)
        values *= 1 if group.ctf_premultiplied else ctf
        weights = ctf * ctf
    if settings.fom_weighting:
        fom = column("rlnParticleFigureOfMerit", None)[:, None].astype(np.float32)
        values, weights = values * fom, weights * fom
    # A pixel of another pixel size or box lies at another radius of the map's transform.
    matrices = euler_to_matrix(*angles) * scale
    matrices[:, :2] = fault.distortion @ matrices[:, :2]
    sums.insert(values, weights, matrices, kx, ky)


def _pixels(box: int, r_max: int, distortion: NDArray[np.floating]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pixels kx, ky of an image's transform that may lie within `r_max` of the map's, those of its corners too.

    box: of the image, even; distortion (2, 2): where a pixel of the image lies in the plane of the map's transform.
    """
    reach = r_max / np.linalg.svd(distortion, compute_uv=False)[-1]
    kx, ky = disc_pixels(min(float(reach) + 1e-3, box), include_dc=True)
    inside = (kx <= box // 2) & (ky <= box // 2) & (ky > -box // 2)
    return kx[inside], ky[inside]


def _ctf(
    table: ParticleTable,
    group: OpticsGroup,
    rows: NDArray[np.int64],
    kx: NDArray[np.int32],
    ky: NDArray[np.int32],
    box: int,
    settings: Settings,
    fault: Aberrations,
) -> NDArray[np.float32]:
    return ctf_values(
        ctf_params(table)[rows], kx, ky, box, group.pixel_size,
        magnification=fault.magnification,
        gamma_offset=fault.gamma_offset(kx, ky, box, group.pixel_size),
        intact_first_peak=settings.intact_first_peak,
        absolute=settings.phase_flipped,
        only_flip_phases=settings.only_flip_phases and not settings.phase_flipped,
    )  # fmt: skip


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
