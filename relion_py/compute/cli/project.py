"""relion_project: projections of a map, one by its angles or many by a STAR file; or the map itself, turned.

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
from relion_py.compute.image.fourier import disc_pixels, half_transform, phase_shift, real_image, scatter, shell_grid
from relion_py.compute.io import star
from relion_py.compute.io.convert import to_optics_form
from relion_py.compute.io.mrc import StackWriter, read_map, write_map
from relion_py.compute.io.particle_ctf import ctf_params
from relion_py.compute.io.particles import ParticleTable, image_name
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.refine.align_symmetry import turned_map
from relion_py.compute.refine.projector import FourierReference

_BATCH = 200
_ANGLES = ("Rot", "Tilt", "Psi")


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
    if args.on("--3d_rot"):
        _turn(volume, angpix, current_size, noise, args, job)
        return
    if args.number("--zoff"):
        raise UserError("A projection cannot be moved along Z; --zoff goes with --3d_rot.")
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
    """Standard deviation of the white noise that is added, 0 for none."""
    white, coloured = args.number("--white_noise"), bool(args.text("--model_noise"))
    if args.on("--add_noise") != (white > 0 or coloured) or (white > 0 and coloured):
        raise UserError("--add_noise goes with --white_noise, above 0, or with --model_noise: give one of them.")
    return white


def uniform_poses(count: int, box: int, angpix: float, args: Arguments) -> StarFile:
    """A table of random directions, evenly over the sphere, with random origins; another one each time."""
    if any(args.on(name) for name in ("--ctf", "--ctf2", "--subtract_exp", "--simulate", "--model_noise")):
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


def _turn(volume: NDArray[np.float32], angpix: float, size: int, noise: float, args: Arguments, job: Job) -> None:
    """Write the map turned as one projection is: its projection along Z is that of the map at these angles.

    size: image size (pixels) up to which frequencies are kept; -1: the box.
    """
    for flag in ("--ang", "--nr_uniform", "--ctf", "--ctf2", "--subtract_exp", "--simulate", "--model_noise"):
        if flag in args.given:
            raise UserError(f"--3d_rot turns one map, by --rot, --tilt and --psi; leave out {flag}.")
    if len(volume) % 2:
        raise UserError(f"{args.text('--i')} has an odd box of {len(volume)} voxels, which --3d_rot cannot turn.")
    matrix = euler_to_matrix(args.number("--rot"), args.number("--tilt"), args.number("--psi"))
    shift = -args.number("--xoff"), -args.number("--yoff"), -args.number("--zoff")
    turned = turned_map(volume, matrix[None], args.integer("--pad"), shift=shift, size=size)
    write_map(_name_of_one(args), _noisy(turned, noise, np.random.default_rng()), angpix, _dtype(args))
    job.say(f" Done writing {_name_of_one(args)}")


def _name_of_one(args: Arguments) -> str:
    return args.text("--o") if args.text("--o").endswith((".mrc", ".mrcs")) else args.text("--o") + ".mrc"


def _project_one(reference: FourierReference, angpix: float, noise: float, args: Arguments, job: Job) -> None:
    if args.on("--ctf") or args.on("--ctf2"):
        raise UserError("--ctf needs the defocus of each projection: give a STAR file with --ang.")
    angles = np.array([[args.number(name)] for name in ("--rot", "--tilt", "--psi")])
    shifts = np.array([[args.number("--xoff")], [args.number("--yoff")]])
    for flag in ("--subtract_exp", "--simulate", "--model_noise"):
        if flag in args.given:
            raise UserError(f"{flag} needs a list of particles: give a STAR file with --ang.")
    image = _noisy(project(reference, angles, shifts), noise, np.random.default_rng())[0]
    write_map(_name_of_one(args), image, angpix, _dtype(args))
    job.say(f" Done writing {_name_of_one(args)}")


def _noisy(images: NDArray[np.float32], noise: float, random: np.random.Generator) -> NDArray[np.float32]:
    """The images with white noise of a standard deviation."""
    if noise <= 0:
        return images
    return images + np.float32(noise) * random.standard_normal(images.shape, dtype=np.float32)


def _experimental(table: Table, args: Arguments) -> ParticleTable | None:
    """The particles whose images the projections are subtracted from; their names are kept in the table."""
    if not (args.on("--subtract_exp") or args.on("--simulate")):
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
    angles, shifts = _angles_and_shifts(table, angpix)
    simulated = _simulated(table, angpix, args, random)
    colours = _noise_model(table, reference.box, args)
    optics = None
    if args.on("--ctf") or args.on("--ctf2") or args.on("--simulate"):  # what is simulated is always an image
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
            if colours is not None:
                images = images + coloured_noise(colours[rows], reference.box, random)
            if measured is not None:
                images = _same_size(measured.read_images(np.arange(rows.start, rows.stop)), images) - images
            if simulated is not None:
                strength = np.float32(args.number("--adjust_simulation_SNR"))
                images = images + strength * project(reference, simulated[0][:, rows], simulated[1][:, rows], ctf)
            writer.append(images)
            bar.update(rows.stop)
    if simulated is not None:
        _set_poses(table, *simulated, angpix)
    table.set("rlnImageName", [image_name(n, f"{root}.mrcs") for n in range(len(table))])
    star.write(f"{root}.star", poses)
    job.say(f" Done writing {root}.mrcs and {root}.star")


def _angles_and_shifts(table: Table, angpix: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """rot, tilt, psi in degrees (3, N), and origins x, y in pixels (2, N), which are 0 where a list has none."""
    angles = np.stack([table.finite(f"rlnAngle{name}") for name in _ANGLES])
    shifts = np.zeros((2, len(table)))
    for axis, name in enumerate("XY"):
        if f"rlnOrigin{name}Angst" in table:
            shifts[axis] = table.finite(f"rlnOrigin{name}Angst") / angpix
    return angles, shifts


def _simulated(
    table: Table, angpix: float, args: Arguments, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Poses of the projections that `--simulate` adds: those of another list, or of other particles at random."""
    if not args.on("--simulate"):
        for name in ("--ang_simulate", "--adjust_simulation_SNR"):
            if name in args.given:
                raise UserError(f"{name} goes with --simulate.")
        return None
    path = args.text("--ang_simulate")
    if not path:
        chosen = random.integers(0, len(table), len(table))
        angles, shifts = _angles_and_shifts(table, angpix)
        return angles[:, chosen], shifts[:, chosen]
    others = _poses(read_poses(path), path)
    if len(others) < len(table):
        raise UserError(f"{path} has {len(others)} poses, fewer than the {len(table)} particles of --ang.")
    angles, shifts = _angles_and_shifts(others, angpix)
    return angles[:, : len(table)], shifts[:, : len(table)]


def _set_poses(table: Table, angles: NDArray[np.float64], shifts: NDArray[np.float64], angpix: float) -> None:
    for name, column in zip(_ANGLES, angles, strict=True):
        table.set(f"rlnAngle{name}", column)
    for axis, column in zip("XY", shifts, strict=True):
        table.set(f"rlnOrigin{axis}Angst", column * angpix)


def _noise_model(table: Table, box: int, args: Arguments) -> NDArray[np.float64] | None:
    """Sigma2 of the noise of each particle by shell (N, box // 2 + 1), from the model of `--model_noise`."""
    path = args.text("--model_noise")
    if not path:
        return None
    model = star.read(path)
    groups = table.ints("rlnOpticsGroup") if "rlnOpticsGroup" in table else np.ones(len(table), np.int64)
    sigma2 = np.zeros((len(table), box // 2 + 1))
    for group in np.unique(groups):
        spectrum = model.get(f"model_optics_group_{group}")
        if spectrum is None or "rlnSigma2Noise" not in spectrum:
            raise UserError(f"{path} has no noise (_rlnSigma2Noise) of optics group {group}; give a model.star.")
        values = spectrum.floats("rlnSigma2Noise")
        if len(values) != box // 2 + 1:
            raise UserError(f"The noise of {path} has {len(values)} shells, but the map has {box // 2 + 1}.")
        sigma2[groups == group] = values
    return sigma2


def coloured_noise(sigma2: NDArray[np.float64], box: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Images of noise, float32 (N, box, box).

    sigma2 (N, box // 2 + 1): by shell the variance of the real and of the imaginary part of a pixel of the transform
    over box squared, as in a model.star; the corners are as the last shell.
    """
    white = half_transform(random.standard_normal((len(sigma2), box, box), dtype=np.float32))
    shells = np.minimum(shell_grid(box), box // 2)
    return real_image(white * (np.sqrt(2 * sigma2)[:, shells] * box).astype(np.float32), box).astype(np.float32)


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
