"""relion_particle_subtract: subtract part of a map's projections from particles, or name their original images again.

Facts: RELION 5, particle_subtractor.cpp.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.particle_subtract import FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.image.fourier import window_map
from relion_py.compute.io import star
from relion_py.compute.io.mrc import StackWriter, read_header, read_map
from relion_py.compute.io.particles import image_name, read_particles, split_image_name
from relion_py.compute.io.star import StarFile, Table, format_float
from relion_py.compute.refine.bodies import read_bodies
from relion_py.compute.refine.body_subtraction import BodySubtraction
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.model import shell_to_resolution
from relion_py.compute.refine.outputs import Continuation, read_optimiser
from relion_py.compute.refine.subtraction import SpectralSnr, Subtraction, mass_centre

_BATCH = 100
_NO_POINT = 9999


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main, parallel=True))


def _main(argv: list[str], job: Job) -> None:
    args = parse(
        FLAGS, argv, "relion_particle_subtract", "Subtracts a map's projections from particles.", quiet=not job.leads
    )
    if bool(args.text("--i")) == bool(args.text("--revert")):
        raise UserError("Give either --i, to subtract, or --revert, to put the original images back.")
    directory = args.text("--o").rstrip("/") + "/"
    if args.text("--revert"):
        if job.leads:
            revert(args.text("--revert"), directory, job)
        return
    subtraction = prepare(args, job)
    if args.on("--ssnr"):
        _write_snr(subtraction, directory, job)
    else:
        _subtract_all(subtraction, args, directory, job)


def prepare(args: Arguments, job: Job) -> Subtraction:
    """The refinement, its particles, the mask and the centre that the options name."""
    found = read_optimiser(args.text("--i"))
    particles = ParticleSet.read(args.text("--data") or found.data)
    mask = None
    if args.text("--mask") and not args.on("--ssnr"):
        job.say(" + Reading in mask ... ")
        mask, _ = read_map(args.text("--mask"))
        if found.models[0].ref_dim == 2 and mask.ndim == 3 and len(mask) == 1:
            mask = mask[0]
    centre = _centre(args, mask)
    if centre is not None:
        at = " , ".join(f"{value:g}" for value in centre)
        job.say(f" + The subtracted particles will be re-centred on projections of 3D-coordinate: ({at})")
    if found.options.has_bodies:
        return _of_bodies(found, particles, mask, centre, args, job)
    job.say(" + Calculating Fourier transforms of the maps ...")
    return Subtraction(particles, found.options, found.models, mask, centre, args.on("--ignore_class"))


def _of_bodies(
    found: Continuation,
    particles: ParticleSet,
    mask: NDArray[np.floating] | None,
    centre: NDArray[np.float64] | None,
    args: Arguments,
    job: Job,
) -> BodySubtraction:
    """After a multi-body refinement."""
    if args.on("--ssnr"):
        raise UserError("--ssnr is not for a multi-body refinement: take the _optimiser.star of the consensus.")
    job.say(" + Initialising multi-body subtraction ...")
    options, first = found.options, found.models[0]
    bodies = read_bodies(
        options.multibody_masks, first.ori_size, first.pixel_size, normalise_overlap=options.normalise_overlap
    )
    job.say(" + Calculating Fourier transforms of the maps ...")
    subtraction = BodySubtraction(particles, options, found.models, mask, centre, bodies=bodies)
    job.say(f" + Particles get the orientations of body {subtraction.body + 1}")
    return subtraction


def _centre(args: Arguments, mask: NDArray[np.floating] | None) -> NDArray[np.float64] | None:
    if args.on("--recenter_on_mask"):
        if mask is None:
            raise UserError("--recenter_on_mask needs a mask: give --mask.")
        return mass_centre(mask)
    point = [args.integer(f"--center_{axis}") for axis in "xyz"]
    given = [value != _NO_POINT for value in point]
    if any(given) and not all(given):
        raise UserError("A centre has three coordinates: give --center_x, --center_y and --center_z.")
    return np.array(point, float) if all(given) else None


def _box(args: Arguments, subtraction: Subtraction) -> int:
    """Even size (pixels) of the images that are written."""
    wanted = args.integer("--new_box")
    if wanted <= 0:
        return subtraction.box
    if wanted < 2:
        raise UserError("--new_box must be at least 2 pixels.")
    return wanted - wanted % 2


def _share(subtraction: Subtraction, job: Job) -> NDArray[np.int64]:
    """The particles of this rank: a range of all."""
    ends = np.linspace(0, len(subtraction.particles), job.comm.size + 1).astype(int)
    return np.arange(ends[job.comm.rank], ends[job.comm.rank + 1])


def _subtract_all(subtraction: Subtraction, args: Arguments, directory: str, job: Job) -> None:
    box, dtype = _box(args, subtraction), "float16" if args.on("--float16") else "float32"
    job.say(" + Subtracting all particles ...")
    if job.leads:
        os.makedirs(directory + "Particles", exist_ok=True)
    job.comm.barrier()
    mine = _share(subtraction, job)
    rank = f"_rank{job.comm.rank + 1}" if job.comm.size > 1 else ""
    names, origins = [""] * len(mine), np.zeros((len(mine), 2))
    groups = subtraction.particles.optics_group
    with ExitStack() as stack, job.progress(len(mine)) as bar:
        writers = {
            int(g): stack.enter_context(
                StackWriter(
                    f"{directory}Particles/subtracted{rank}_opticsgroup{g + 1}.mrcs",
                    (box, box),
                    subtraction.pixel_size,
                    dtype,
                )
            )
            for g in np.unique(groups[mine])
        }
        for start in range(0, len(mine), _BATCH):
            job.check_abort()
            index = mine[start : start + _BATCH]
            rest = subtraction.subtract(index, subtraction.particles.read_images(index))
            images, origins[start : start + len(index)] = subtraction.centred(index, rest)
            images = window_map(images, box, 2)
            for place, (g, image) in enumerate(zip(groups[index], images, strict=True), start):
                writer = writers[int(g)]
                writer.append(image)
                names[place] = image_name(writer.count - 1, writer.path)
            bar.update(start + len(index))
    parts = job.comm.gather((names, origins))
    if parts is not None:
        all_names = [name for part, _ in parts for name in part]
        _write_star(subtraction, all_names, np.concatenate([o for _, o in parts]), box, directory)
        job.say(
            f" + Saved STAR file with {len(all_names)} subtracted particles in {directory}particles_subtracted.star"
        )


def _write_star(
    subtraction: Subtraction, names: list[str], origins: NDArray[np.float64], box: int, directory: str
) -> None:
    """particles_subtracted.star: the particles as they were, with their new images and, where centred, origins."""
    table = subtraction.particles.table
    rows = table.particles.copy()
    rows.set("rlnImageOriginalName", rows.strings("rlnImageName"))
    rows.set("rlnImageName", names)
    if subtraction.centre is not None:
        for axis, label in enumerate("XY"):
            rows.set(f"rlnOrigin{label}Angst", [format_float(float(v)) for v in origins[:, axis]])
            if f"rlnOrigin{label}PriorAngst" in rows:
                rows.remove(f"rlnOrigin{label}PriorAngst")
    angles = subtraction.angles()
    if angles is not None:
        for name, values in zip(("Rot", "Tilt", "Psi"), angles, strict=True):
            rows.set(f"rlnAngle{name}", [format_float(float(v)) for v in values])
    optics = table.optics.copy()
    if box != subtraction.box:
        optics.set("rlnImageSize", [box] * len(optics))
    out = StarFile([("optics", optics), ("particles", rows)])
    star.write(directory + "particles_subtracted.star", out)


def _write_snr(subtraction: Subtraction, directory: str, job: Job) -> None:
    """spectral_snr.star: power of the projections over that of what they leave, by shell."""
    job.say(" + Calculating SNR for all particles ...")
    sums, mine = SpectralSnr(subtraction.box), _share(subtraction, job)
    with job.progress(len(mine)) as bar:
        for start in range(0, len(mine), _BATCH):
            job.check_abort()
            index = mine[start : start + _BATCH]
            rest = subtraction.subtract(index, subtraction.particles.read_images(index))
            sums.add(subtraction.projections(index), rest)
            bar.update(start + len(index))
    signal, noise, count = job.comm.allreduce_sum(sums.sums)
    if not job.leads:
        return
    shells = np.arange(len(signal))
    columns = {
        "rlnResolution": shells / (subtraction.box * subtraction.pixel_size),
        "rlnAngstromResolution": shell_to_resolution(shells, subtraction.box, subtraction.pixel_size),
        "rlnSignalToNoiseRatio": signal / noise,
        "rlnReferenceTau2": signal / count,
        "rlnSigma2Noise": noise / count,
    }
    table = Table({"rlnSpectralIndex": shells})
    for label, values in columns.items():
        table.set(label, [format_float(float(value)) for value in values])
    os.makedirs(directory, exist_ok=True)
    star.write(directory + "spectral_snr.star", StarFile([("", table)]))
    job.say(f" Writing out STAR file with spectral SNR in: {directory}spectral_snr.star ...")


def revert(path: str, directory: str, job: Job) -> None:
    """Write original.star: the particles of `path` with the images that they had before subtraction."""
    table = read_particles(path, strict=False)
    rows, optics = table.particles, table.optics
    for label in ("rlnImageOriginalName", "rlnImageName"):
        if label not in rows:
            raise UserError(f"{path} has no column _{label}; give the STAR file of subtracted particles.")
    originals, current = rows.strings("rlnImageOriginalName"), rows.strings("rlnImageName")
    rows.set("rlnImageOriginalName", current)
    rows.set("rlnImageName", originals)
    sizes = []
    for g, group in enumerate(table.optics_groups):
        members = np.flatnonzero(table.group_index == g)
        if not len(members):
            sizes.append(group.box_size)
            continue
        _, image = split_image_name(originals[members[0]])
        header = read_header(image)
        if header.nx != header.ny:
            raise UserError(f"The images of {image} are {header.nx} x {header.ny} pixels; they must be square.")
        sizes.append(header.nx)
        job.say(f"The box size of the optics group {group.name} was updated to {header.nx} px")
    optics.set("rlnImageSize", sizes)
    os.makedirs(directory, exist_ok=True)
    star.write(directory + "original.star", table.star)
    job.say(f"Written {directory}original.star")


if __name__ == "__main__":
    main()
