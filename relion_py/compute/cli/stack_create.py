"""relion_stack_create: the images of a STAR file in one stack, or one for each micrograph.

Facts: RELION 5, apps/stack_create.cpp.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.stack_create import FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io.mrc import StackWriter, read_image
from relion_py.compute.io.particles import ParticleTable, image_name
from relion_py.compute.io.star import StarFile
from relion_py.compute.post.image_operations import moved_and_turned
from relion_py.compute.post.star_lists import ListFile, read_list

Image = NDArray[np.float32]

_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_stack_create", "Puts images into one stack.")
    rotate, rounded = args.on("--apply_transformation"), args.on("--apply_rounded_offsets_only")
    if args.on("--ignore_optics") and (rotate or rounded):
        raise UserError("Images cannot be transformed with --ignore_optics.")
    listed, angpix = _read(args)
    shifts, psi = _poses(listed, angpix, rotate, rounded)
    if rotate and not rounded:
        print(
            "WARNING: --apply_transformation interpolates, and beam tilt and astigmatism no longer fit; this can "
            "cost resolution.",
            file=sys.stderr,
        )
    names = _write_stacks(listed, angpix, shifts, psi, args, job)
    _write_list(listed, names, angpix, shifts, psi, args, job)
    job.say("Done!")


def _read(args: Arguments) -> tuple[ListFile, NDArray[np.float64]]:
    """The list and the pixel size of each image (A); 1 without optics groups."""
    if args.on("--ignore_optics"):
        listed = read_list(args.text("--i"), ignore_optics=True)
        angpix = np.ones(len(listed.rows))
    else:
        source = read_list(args.text("--i"))
        blocks = [("optics", source.optics)] if source.optics is not None else []
        joined = StarFile([*blocks, (source.name, source.rows)])
        joined.path = source.path
        particles = ParticleTable(joined)
        listed = ListFile(source.path, particles.block, particles.particles, particles.optics)
        angpix = particles.per_particle("pixel_size")
        if not (angpix > 0).all():
            raise UserError(f"{listed.path}: an optics group has no _rlnImagePixelSize; add it to data_optics.")
    if "rlnImageName" not in listed.rows or not len(listed.rows):
        raise UserError(f"{listed.path} has no column _rlnImageName with images.")
    if args.on("--split_per_micrograph") and "rlnMicrographName" not in listed.rows:
        raise UserError(f"{listed.path} has no column _rlnMicrographName, which --split_per_micrograph needs.")
    return listed, angpix


def _poses(
    listed: ListFile, angpix: NDArray[np.float64], rotate: bool, rounded: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shifts (N, 2) in pixels and in-plane angles (N,) in degrees that are to be applied; zeros if none are."""
    count = len(listed.rows)
    shifts, psi = np.zeros((count, 2)), np.zeros(count)
    if not rotate and not rounded:
        return shifts, psi
    for label in (*_ORIGINS, *(() if rounded else ("rlnAnglePsi",))):
        if label not in listed.rows:
            raise UserError(f"{listed.path} has no column _{label}, which the transformation needs.")
    shifts = np.stack([listed.rows.finite(label) / angpix for label in _ORIGINS], axis=1)
    if rounded:
        return np.trunc(shifts + np.copysign(0.5, shifts)), psi
    return shifts, listed.rows.finite("rlnAnglePsi")


def _write_stacks(
    listed: ListFile,
    angpix: NDArray[np.float64],
    shifts: NDArray[np.float64],
    psi: NDArray[np.float64],
    args: Arguments,
    job: Job,
) -> list[str]:
    """The new name of every image; "" for those that cannot be read."""
    sources = listed.rows.strings("rlnImageName")
    stacks = _stack_names(listed, args)
    names, dtype = [""] * len(sources), "float16" if args.on("--float16") else "float32"
    members: dict[str, list[int]] = {}
    for index, stack in enumerate(stacks):
        members.setdefault(stack, []).append(index)
    done = 0
    with job.progress(len(sources)) as bar:
        for stack, indices in members.items():
            os.makedirs(os.path.dirname(stack) or ".", exist_ok=True)
            with ExitStack() as open_files:
                writer: StackWriter | None = None
                for index in indices:
                    job.check_abort()
                    done += 1
                    bar.update(done)
                    try:
                        image, _ = read_image(sources[index])
                    except UserError as error:
                        print(f" WARNING: {sources[index]} is left out: {error}", file=sys.stderr)
                        continue
                    if shifts[index].any() or psi[index]:
                        image = moved_and_turned(image, shifts[index], psi[index])
                    if writer is None:
                        writer = StackWriter(stack, image.shape, angpix[index], dtype)
                        open_files.enter_context(writer)
                    if image.shape != writer.image_shape:
                        raise UserError(f"{sources[index]} has another size than the images before it.")
                    writer.append(image)
                    names[index] = image_name(writer.count - 1, stack)
            if writer is not None:
                job.say(f"Written out: {stack}")
    if not any(names):
        raise UserError(f"None of the images of {listed.path} can be read.")
    return names


def _stack_names(listed: ListFile, args: Arguments) -> list[str]:
    root = args.text("--o")
    if not args.on("--split_per_micrograph"):
        return [f"{root}.mrcs"] * len(listed.rows)
    names = []
    for micrograph in listed.rows.strings("rlnMicrographName"):
        if ".." in micrograph.split("/"):
            raise UserError(f"The micrograph's name {micrograph} leads out of the project; mend {listed.path}.")
        names.append(f"{root}_{os.path.splitext(micrograph)[0].lstrip('/')}.mrcs")
    return names


def _write_list(
    listed: ListFile,
    names: list[str],
    angpix: NDArray[np.float64],
    shifts: NDArray[np.float64],
    psi: NDArray[np.float64],
    args: Arguments,
    job: Job,
) -> None:
    """The same list with the new names, and with what is left of origins and angle."""
    rows = listed.rows.copy()
    rows.set("rlnImageName", names)
    if args.on("--apply_transformation") or args.on("--apply_rounded_offsets_only"):
        for axis, label in enumerate(_ORIGINS):
            rows.set(label, rows.floats(label) - shifts[:, axis] * angpix)
        if "rlnAnglePsi" in rows:
            rows.set("rlnAnglePsi", rows.floats("rlnAnglePsi") - psi)
    path = f"{args.text('--o')}.star"
    listed.with_rows(rows.select([bool(name) for name in names])).write(path)
    job.say(f"Written out: {path}")


if __name__ == "__main__":
    main()
