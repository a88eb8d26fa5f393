"""relion_project: projections of a map, one by its angles or many by a STAR file.

Facts: RELION 5, apps/project.cpp.
"""

from __future__ import annotations

import sys
from math import ceil
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.project import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.aberrations import Aberrations
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.image.fourier import disc_pixels, phase_shift, real_image, scatter
from relion_py.compute.io import star
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.mrc import StackWriter, read_map, write_map
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.refine.projector import FourierReference

_BATCH = 200


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_project", "Projects a map.")
    args.refuse(REFUSED)
    volume, angpix = read_map(args.text("--i"))
    if len(set(volume.shape)) != 1:
        raise UserError(f"{args.text('--i')} is not a cube but {' x '.join(map(str, volume.shape[::-1]))}.")
    if args.text("--mask"):
        mask, _ = read_map(args.text("--mask"))
        if mask.shape != volume.shape:
            raise UserError(f"{args.text('--mask')} and the map differ in size.")
        volume = volume * mask
    random = args.integer("--nr_uniform") > 0
    poses = None if random or args.text("--ang") == "None" else read_poses(args.text("--ang"))
    angpix = _pixel_size(args, angpix, poses)
    if not 1 <= args.number("--pad") <= 8:
        raise UserError("--pad must lie between 1 and 8.")
    noise = _noise(args)
    current_size = -1
    if args.number("--maxres") > 0:
        current_size = 2 * ceil(len(volume) * angpix / args.number("--maxres"))
    reference = FourierReference.from_map(volume, current_size, args.number("--pad"))
    if random:
        _project_many(
            reference,
            angpix,
            uniform_poses(args.integer("--nr_uniform"), reference.box, angpix, args),
            noise,
            args,
            job,
        )
    elif poses is None:
        _project_one(reference, angpix, noise, args, job)
    else:
        _project_many(reference, angpix, poses, noise, args, job)


def _pixel_size(args: Arguments, header: float, poses: StarFile | None) -> float:
    """That of --angpix, else of the first optics group of --ang, else of the map's header (A)."""
    if args.number("--angpix") > 0:
        return args.number("--angpix")
    optics = poses.get("optics") if poses is not None else None
    if optics is not None and "rlnImagePixelSize" in optics and len(optics):
        return float(optics.floats("rlnImagePixelSize")[0])
    if header <= 0:
        raise UserError(f"{args.text('--i')} does not tell its pixel size; give it with --angpix.")
    return header


def read_poses(path: str) -> StarFile:
    """A list with angles; one of RELION 3.0, whose origins are pixels, in the form with optics groups."""
    poses = star.read(path)
    old = "optics" not in poses and any(
        "rlnOriginX" in table or "rlnMagnification" in table for table in poses.values()
    )
    return to_optics_form(poses) if old else poses


def _noise(args: Arguments) -> float:
    """Standard deviation of the noise that is added, 0 for none."""
    white = args.number("--white_noise")
    if args.on("--add_noise") != (white > 0):
        raise UserError("--add_noise and --white_noise go together: give both, the latter above 0.")
    return white


def uniform_poses(count: int, box: int, angpix: float, args: Arguments) -> StarFile:
    """A table of random directions, evenly over the sphere, with random origins; another one each time."""
    if args.on("--ctf") or args.on("--ctf2") or args.on("--subtract_exp"):
        raise UserError("Random projections have neither CTF nor images: give a STAR file with --ang instead.")
    random = np.random.default_rng()
    rows = Table({"rlnAngleRot": random.uniform(0.0, 360.0, count)})
    rows.set("rlnAngleTilt", np.rad2deg(np.arccos(random.uniform(-1.0, 1.0, count))))
    rows.set("rlnAnglePsi", random.uniform(0.0, 360.0, count))
    for axis in "XY":
        rows.set(f"rlnOrigin{axis}Angst", random.normal(0.0, max(0.0, args.number("--sigma_offset")), count))
    rows.set("rlnOpticsGroup", [1] * count)
    optics = Table({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["optics1"], "rlnVoltage": [300.0]})
    for label, value in (("rlnSphericalAberration", 2.7), ("rlnAmplitudeContrast", 0.1), ("rlnImagePixelSize", angpix),
                         ("rlnImageSize", box), ("rlnImageDimensionality", 2)):  # fmt: skip
        optics.set(label, [value])
    return StarFile([("optics", optics), ("particles", rows)])


def _project_one(reference: FourierReference, angpix: float, noise: float, args: Arguments, job: Job) -> None:
    if args.on("--ctf") or args.on("--ctf2"):
        raise UserError("--ctf needs the defocus of each projection: give a STAR file with --ang.")
    angles = np.array([[args.number(name)] for name in ("--rot", "--tilt", "--psi")])
    shifts = np.array([[args.number("--xoff")], [args.number("--yoff")]])
    name = args.text("--o") if args.text("--o").endswith((".mrc", ".mrcs")) else args.text("--o") + ".mrc"
    if args.on("--subtract_exp"):
        raise UserError("--subtract_exp needs images to subtract from: give a STAR file with --ang.")
    image = _noisy(project(reference, angles, shifts), noise, np.random.default_rng())[0]
    write_map(name, image, angpix, _dtype(args))
    job.say(f" Done writing {name}")


def _noisy(images: NDArray[np.float32], noise: float, random: np.random.Generator) -> NDArray[np.float32]:
    """The images with white noise of a standard deviation."""
    if noise <= 0:
        return images
    return images + np.float32(noise) * random.standard_normal(images.shape, dtype=np.float32)


def _experimental(table: Table, args: Arguments) -> ParticleTable | None:
    """The particles whose images the projections are subtracted from; their names are kept in the table."""
    if not args.on("--subtract_exp"):
        return None
    if "rlnImageName" not in table:
        raise UserError(f"{args.text('--ang')} has no column _rlnImageName with images to subtract from.")
    table.set("rlnImageOriginalName", table.strings("rlnImageName"))
    return ParticleTable(star.read(args.text("--ang")))


def _same_size(measured: NDArray[np.float32], projections: NDArray[np.float32]) -> NDArray[np.float32]:
    """The measured images, which UserError says cannot be compared with the projections if they differ in size."""
    if measured.shape != projections.shape:
        raise UserError(
            f"The images have {measured.shape[-1]} pixels and the map {projections.shape[-1]}; "
            "--subtract_exp needs a map of the images' box and pixel size."
        )
    return measured


def _project_many(
    reference: FourierReference, angpix: float, poses: StarFile, noise: float, args: Arguments, job: Job
) -> None:
    root, random = args.text("--o"), np.random.default_rng()
    table = _poses(poses, args.text("--ang"))
    measured = _experimental(table, args)
    columns = [table.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")]
    angles = np.stack(columns)
    shifts = np.zeros((2, len(table)))
    for axis, name in enumerate("XY"):
        if f"rlnOrigin{name}Angst" in table:
            shifts[axis] = table.floats(f"rlnOrigin{name}Angst") / angpix
    optics = None
    if args.on("--ctf") or args.on("--ctf2"):
        particles = ParticleTable(poses)
        optics = particles, ctf_params(particles)
    with (
        StackWriter(f"{root}.mrcs", (reference.box,) * 2, angpix, _dtype(args)) as writer,
        job.progress(len(table)) as bar,
    ):
        for start in range(0, len(table), _BATCH):
            job.check_abort()
            rows = slice(start, min(start + _BATCH, len(table)))
            ctf = None if optics is None else _ctf(*optics, rows, reference, angpix, args)
            images = _noisy(project(reference, angles[:, rows], shifts[:, rows], ctf), noise, random)
            if measured is not None:
                images = _same_size(measured.read_images(np.arange(rows.start, rows.stop)), images) - images
            writer.append(images)
            bar.update(rows.stop)
    table.set("rlnImageName", [f"{n + 1:06d}@{root}.mrcs" for n in range(len(table))])
    star.write(f"{root}.star", poses)
    job.say(f" Done writing {root}.mrcs and {root}.star")


def project(
    reference: FourierReference,
    angles: NDArray[np.float64],
    shifts: NDArray[np.float64],
    ctf: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Projections, float32 (N, box, box), origin at box // 2.

    angles  rot, tilt, psi (3, N), degrees        shifts  origins x, y (2, N), pixels
    ctf     (N, P) at `disc_pixels(r_max, include_dc=True)`
    """
    kx, ky = disc_pixels(reference.r_max, include_dc=True)
    values = reference.project(euler_to_matrix(*angles), kx, ky)
    values *= phase_shift(kx, ky, -shifts[0], -shifts[1], reference.box)
    if ctf is not None:
        values *= ctf
    transform = scatter(values * np.float32(reference.box) ** 2, kx, ky, reference.box)
    return real_image(transform, reference.box).astype(np.float32)


def _ctf(
    particles: ParticleTable,
    params: CtfParams,
    rows: slice,
    reference: FourierReference,
    angpix: float,
    args: Arguments,
) -> NDArray[np.float32]:
    """CTFs (N, P) of some particles, with the magnification and the even aberrations of their optics groups.

    params: of all particles.
    """
    kx, ky = disc_pixels(reference.r_max, include_dc=True)
    params, groups = params[rows], particles.group_index[rows]
    values = np.empty((len(groups), len(kx)), np.float32)
    for number in np.unique(groups):
        group, members = particles.optics_groups[number], np.flatnonzero(groups == number)
        fault = Aberrations.of_group(group.values, group.voltage, group.cs)
        values[members] = ctf_values(
            params[members], kx, ky, reference.box, angpix,
            magnification=fault.magnification,
            gamma_offset=fault.gamma_offset(kx, ky, reference.box, angpix),
            absolute=args.on("--ctf_phase_flip"), intact_first_peak=args.on("--ctf_intact_first_peak"),
        )  # fmt: skip
    return values * values if args.on("--ctf2") else values


def _poses(poses: StarFile, path: str) -> Table:
    for table in poses.values():
        if all(f"rlnAngle{name}" in table for name in ("Rot", "Tilt", "Psi")):
            return table
    raise UserError(f"{path} has no table with _rlnAngleRot, _rlnAngleTilt and _rlnAnglePsi.")


def _dtype(args: Arguments) -> str:
    return "float16" if args.on("--float16") else "float32"


if __name__ == "__main__":
    main()
