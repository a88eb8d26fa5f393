"""relion_image_handler: simple operations on images, maps, stacks and the images of a STAR file.

Facts: RELION 5, apps/image_handler.cpp.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.image_handler import FLAGS, REFUSED
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import shell_grid
from relion_py.compute.image.fsc import NO_RESOLUTION, fsc
from relion_py.compute.image.shift import centre_of_mass
from relion_py.compute.io import star
from relion_py.compute.io.mrc import StackWriter, read_header, read_image, read_map, write_map
from relion_py.compute.io.particles import image_name
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.post.image_operations import (
    Image,
    Operations,
    Optimise,
    apply,
    moved_and_turned,
    new_pixel_size,
)
from relion_py.compute.post.image_spectra import amplitude_correction, amplitudes, cosine_of_phases
from relion_py.compute.post.picture import SCHEMES, write_png
from relion_py.compute.post.sharpening import fit_guinier, guinier_curve
from relion_py.compute.post.star_lists import ListFile, read_list

_REPORTS = ("--stats", "--com", "--fsc", "--cos_dphi", "--power", "--guinier")
_NEED_ANGPIX = (
    "--rescale_angpix",
    "--phase_randomise",
    "--bfactor",
    "--LoG",
    "--lowpass",
    "--highpass",
    *_REPORTS[2:],
)
_BATCH = 64


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


@dataclass(frozen=True)
class Input:
    """The images: their names, the list that they come from (a STAR file), whether they are one stack."""

    names: list[str]
    listed: ListFile | None = None
    is_stack: bool = False


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_image_handler", "Simple operations on images and maps.")
    args.refuse(REFUSED)
    args.need_positive_integers("--j")
    reports = [name for name in _REPORTS if name in args.given]
    if not args.text("--o") and not reports:
        raise UserError("Tell the name of the output with --o.")
    given = _input(args.text("--i"))
    first, header_angpix = _read(given.names[0])
    angpix = args.number("--angpix") if args.number("--angpix") > 0 else header_angpix
    if not args.number("--angpix") > 0 and any(name in args.given for name in _NEED_ANGPIX):
        if not angpix > 0:
            raise UserError(f"{given.names[0]} does not tell its pixel size; give it with --angpix.")
        print(f"WARNING: --angpix was not given; that of the image, {angpix:g} A, is used.", file=sys.stderr)
    if reports:
        _report(given, reports, angpix, args, job)
    elif any(args.on(name) for name in ("--average", "--avg_ampl", "--avg_ampl2", "--avg_ampl2_ali")):
        _average(given, first.shape, angpix, args, job)
    else:
        _change(given, operations_of(args, first, angpix), args, job)


def _input(path: str) -> Input:
    if path.endswith(".star"):
        listed = read_list(path)
        label = "rlnImageName" if "rlnImageName" in listed.rows else "rlnMicrographName"
        if label not in listed.rows:
            raise UserError(f"{path} has no column _rlnImageName with images.")
        if not len(listed.rows):
            raise UserError(f"{path} lists no images.")
        return Input(listed.rows.strings(label), listed)
    if path.endswith(".mrcs") and "@" not in path:
        count = read_header(path).nz
        return Input([image_name(index, path) for index in range(count)], is_stack=True)
    return Input([path])


def _read(name: str) -> tuple[Image, float]:
    """An image of a stack (y, x), a micrograph (y, x) or a map (z, y, x), and A per pixel (0: unknown)."""
    if "@" in name:
        return read_image(name)
    volume, angpix = read_map(name)
    return (volume[0] if len(volume) == 1 else volume), angpix


# ----------------------------------------------------------------------------------------------- change


def operations_of(args: Arguments, first: Image, angpix: float) -> Operations:
    """What the options ask for; UserError for what cannot be. first: an image, for its shape."""

    def operand(flag: str) -> tuple[Image, ...]:
        if not args.text(flag):
            return ()
        other, _ = _read(args.text(flag))
        if other.shape != first.shape:
            raise UserError(f"{args.text(flag)} differs in size from the input; give one of the same size.")
        return (other,)

    def number(flag: str, neutral: float) -> tuple[float, ...]:
        return (args.number(flag),) if args.number(flag) != neutral else ()

    if args.text("--divide_constant") and args.number("--divide_constant") == 0:
        raise UserError("--divide_constant must not be 0.")
    if args.text("--sym"):
        operators(args.text("--sym"))
    direction = args.text("--directional").upper()
    if direction not in ("", "X", "Y", "Z"):
        raise UserError(f"--directional must be X, Y or Z, not {args.text('--directional')}.")
    if direction and not args.number("--lowpass") > 0:
        raise UserError("--directional goes with --lowpass: give its resolution.")
    edge = tuple(args.integer(f"--edge_{name}") for name in ("x0", "y0", "xF", "yF"))
    correction = None
    if args.text("--correct_avg_ampl"):
        average, _ = _read(args.text("--correct_avg_ampl"))
        correction = amplitude_correction(average, args.integer("--minr_ampl_corr"))
    seed = args.integer("--random_seed")
    return Operations(
        angpix=angpix,
        edge=(edge[0], edge[1], edge[2], edge[3]) if args.on("--add_edge") else None,
        transpose=args.on("--flipXY"),
        transpose_back=args.on("--flipmXY"),
        replace_nan=args.number("--replace_nan") if args.on("--remove_nan") else None,
        randomise_from=args.number("--phase_randomise"),
        seed=seed if seed >= 0 else None,
        multiply=(*number("--multiply_constant", 1.0), *operand("--multiply")),
        divide=(*number("--divide_constant", 1.0), *operand("--divide")),
        add=(*number("--add_constant", 0.0), *operand("--add")),
        subtract=(*number("--subtract_constant", 0.0), *operand("--subtract")),
        optimise=_optimise(args, operand("--mask_optimise_subtract")),
        power_of=next(iter(operand("--adjust_power")), None),
        correction=correction,
        fourier_filter=next(iter(operand("--fourier_filter")), None),
        bfactor=args.number("--bfactor"),
        log_diameter=args.number("--LoG"),
        lowpass=args.number("--lowpass"),
        direction=direction,
        highpass=args.number("--highpass"),
        filter_edge=args.integer("--filter_edge_width"),
        flip="".join(axis for axis in "XYZ" if args.on(f"--flip{axis}")),
        invert_hand=args.on("--invert_hand"),
        shift_to_mass=args.on("--shift_com"),
        shift=(args.number("--shift_x"), args.number("--shift_y"), args.number("--shift_z")),
        rescale_to=args.number("--rescale_angpix"),
        new_box=max(0, args.integer("--new_box")),
        symmetry=args.text("--sym"),
        threshold_above=args.number("--threshold_above") if args.on("--threshold_above") else None,
        threshold_below=args.number("--threshold_below") if args.on("--threshold_below") else None,
    )


def _optimise(args: Arguments, mask: tuple[Image, ...]) -> Optimise | None:
    if not args.on("--optimise_scale_subtract"):
        for name in ("--optimise_bfactor_subtract", "--mask_optimise_subtract"):
            if name in args.given:
                raise UserError(f"{name} goes with --optimise_scale_subtract.")
        return None
    if not args.text("--subtract"):
        raise UserError("--optimise_scale_subtract needs an image to subtract: give --subtract.")
    return Optimise(next(iter(mask), None), args.number("--optimise_bfactor_subtract"), print)


def _change(given: Input, todo: Operations, args: Arguments, job: Job) -> None:
    out, dtype = args.text("--o"), "float16" if args.on("--float16") else "float32"
    if "@" in out:
        raise UserError(f'Single images of a stack cannot be replaced; give --o a name without "@", not {out}.')
    to_stack = out.endswith(".mrcs")
    if out.lower().endswith(".png"):
        _draw(given, todo, args)
        return
    for name in ("--black", "--white", "--sigma_contrast", *(f"--colour_{scheme}" for scheme in SCHEMES)):
        if name in args.given:
            raise UserError(f"{name} is for pictures: give --o a name that ends in .png.")
    if len(given.names) > 1 and not to_stack and (os.sep in out or ".." in out):
        raise UserError(
            f'"{out}" is added to the name of each image, so it must not be a path; or let it end in .mrcs.'
        )
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    single = len(given.names) == 1 and given.listed is None and not given.is_stack
    names, failures = [""] * len(given.names), 0
    with ExitStack() as files, job.progress(len(given.names)) as bar:
        writers: dict[str, StackWriter] = {}
        for index, (name, result) in enumerate(_results(given, todo, args.integer("--j"), job)):
            bar.update(index + 1)
            if isinstance(result, str):
                if given.listed is None:
                    raise UserError(result)
                print(f" WARNING: {name} is left out: {result}", file=sys.stderr)
                failures += 1
                continue
            image, angpix = result
            forced = args.number("--force_header_angpix")
            angpix = forced if forced > 0 else angpix
            target = out if to_stack or single else _named_after(name, out)
            if (single and not to_stack) or not (to_stack or "@" in name):
                write_map(target, image, angpix, dtype)
                names[index] = target
                continue
            if image.ndim != 2:
                raise UserError(f"{name} is a map; a stack (.mrcs) holds images only.")
            if target not in writers:
                writers[target] = files.enter_context(StackWriter(target, image.shape, angpix, dtype))
            writer = writers[target]
            if image.shape != writer.image_shape:
                raise UserError(f"{name} has another size than the images before it; they cannot form a stack.")
            writer.append(image)
            names[index] = image_name(writer.count - 1, target)
        if failures == len(given.names):
            raise UserError(f"None of the images of {args.text('--i')} can be read.")
    if given.listed is not None:
        _write_list(given.listed, names, out, todo, args, job)


def _draw(given: Input, todo: Operations, args: Arguments) -> None:
    """The changed image as a PNG file."""
    if len(given.names) > 1:
        raise UserError("Only one image can be written as a PNG file; give --i one, such as 3@stack.mrcs.")
    image, _ = _read(given.names[0])
    scheme = next((name for name in SCHEMES if args.on(f"--colour_{name}")), "")
    black, white, sigma = (args.number(name) for name in ("--black", "--white", "--sigma_contrast"))
    os.makedirs(os.path.dirname(args.text("--o")) or ".", exist_ok=True)
    write_png(args.text("--o"), apply(image, todo), black, white, sigma, scheme)


def _results(given: Input, todo: Operations, threads: int, job: Job) -> Iterator[tuple[str, tuple[Image, float] | str]]:
    """Name, and changed image with its pixel size, or what is wrong with it; in order, a batch at a time."""
    names, psi = given.names, np.zeros(len(given.names))
    if given.listed is not None and "rlnAnglePsi" in given.listed.rows:
        psi = given.listed.rows.floats("rlnAnglePsi")

    def change(name: str, psi: float) -> tuple[Image, float] | str:
        try:
            image, angpix = _read(name)
        except UserError as error:
            return str(error)
        angpix = todo.angpix if todo.angpix > 0 else angpix
        changed = apply(image, todo, psi)
        return changed, new_pixel_size(image.shape, angpix, todo.rescale_to) if todo.rescale_to > 0 else angpix

    # one image may use all threads in its transforms; many images use one each
    with fft.set_workers(threads if len(names) == 1 else 1), ThreadPoolExecutor(threads) as pool:
        if len(names) == 1:
            yield names[0], change(names[0], psi[0])
            return
        for start in range(0, len(names), _BATCH):
            job.check_abort()
            batch = names[start : start + _BATCH]
            yield from zip(batch, pool.map(change, batch, psi[start : start + _BATCH]), strict=True)


def _named_after(name: str, addition: str) -> str:
    """`7@dir/a.mrcs` and `lp` give `dir/a_lp.mrcs`."""
    root, extension = os.path.splitext(name.rpartition("@")[2])
    return f"{root}_{addition}{extension}"


def _write_list(listed: ListFile, names: list[str], out: str, todo: Operations, args: Arguments, job: Job) -> None:
    """The STAR file of the changed images, with their new size and pixel size."""
    good = [index for index, name in enumerate(names) if name]
    new = listed.select(good)
    label = "rlnImageName" if "rlnImageName" in new.rows else "rlnMicrographName"
    new.rows.set(label, [names[index] for index in good])
    header = read_header(new.rows.strings(label)[0].rpartition("@")[2])
    if new.optics is not None:
        new.optics = new.optics.copy()
        if "rlnImageSize" in new.optics and (todo.new_box or todo.rescale_to > 0):
            new.optics.set("rlnImageSize", header.nx)
        forced = args.number("--force_header_angpix")
        for label in ("rlnImagePixelSize", "rlnMicrographPixelSize"):
            if label in new.optics and (todo.rescale_to > 0 or forced > 0):
                new.optics.set(label, round(header.pixel_size, 6))
    source = args.text("--i")
    path = f"{os.path.splitext(out)[0]}.star" if out.endswith(".mrcs") else _named_after(source, out)
    new.write(path)
    job.say(f" Written out new STAR file: {path}")


def _average(given: Input, shape: tuple[int, ...], angpix: float, args: Arguments, job: Job) -> None:
    squared, of_amplitudes = args.on("--avg_ampl2") or args.on("--avg_ampl2_ali"), not args.on("--average")
    align = _alignment(given, angpix) if args.on("--avg_ampl2_ali") else None
    total = np.zeros((*shape[:-1], shape[-1] // 2 + 1) if of_amplitudes else shape)
    with job.progress(len(given.names)) as bar:
        for done, name in enumerate(given.names, 1):
            job.check_abort()
            image, _ = _read(name)
            if image.shape != shape:
                raise UserError(f"{name} has another size than the images before it, so there is no average.")
            if align is not None:
                image = align(image, done - 1)
            total += amplitudes(image, squared) if of_amplitudes else image
            bar.update(done)
    dtype = "float16" if args.on("--float16") else "float32"
    write_map(args.text("--o"), (total / len(given.names)).astype(np.float32), angpix, dtype)
    job.say(f" Written: {args.text('--o')}")


def _alignment(given: Input, angpix: float) -> Callable[[Image, int], Image]:
    """What turns image number i (from 0) by its psi and moves it by its origin, which RELION does in that order.

    Origins are in A (rlnOriginXAngst) or, in lists of release 3.0, in pixels.
    """
    rows = given.listed.rows if given.listed is not None else None
    if rows is None or "rlnAnglePsi" not in rows:
        raise UserError("--avg_ampl2_ali needs a STAR file of images with _rlnAnglePsi.")
    psi, shifts = rows.floats("rlnAnglePsi"), np.zeros((len(rows), 2))
    for axis, name in enumerate("XY"):
        if f"rlnOrigin{name}Angst" in rows:
            if not angpix > 0:
                raise UserError("The images do not tell their pixel size; give it with --angpix.")
            shifts[:, axis] = rows.floats(f"rlnOrigin{name}Angst") / angpix
        elif f"rlnOrigin{name}" in rows:
            shifts[:, axis] = rows.floats(f"rlnOrigin{name}")

    def align(image: Image, number: int) -> Image:
        if image.ndim != 2:
            raise UserError("--avg_ampl2_ali is for images, not for maps.")
        angle, (x, y) = np.deg2rad(psi[number]), shifts[number]
        before = np.array([np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x])
        return moved_and_turned(image, before, psi[number])

    return align


# ---------------------------------------------------------------------------------------------- reports


def _report(given: Input, reports: list[str], angpix: float, args: Arguments, job: Job) -> None:
    other = _read(args.text("--fsc"))[0] if "--fsc" in reports else None
    phases = _read(args.text("--cos_dphi"))[0] if "--cos_dphi" in reports else None
    writers: dict[str, Callable[[str, Image, float], str]] = {
        "--stats": _statistics,
        "--com": lambda name, image, _: _mass(name, image),
        "--fsc": lambda name, image, _: _agreement_table(image, other, angpix, name, "--fsc"),
        "--cos_dphi": lambda name, image, _: _agreement_table(image, phases, angpix, name, "--cos_dphi"),
        "--power": lambda name, image, _: _power_table(_square(image, name), angpix),
        "--guinier": lambda name, image, _: _guinier(_square(image, name), angpix, args),
    }
    for name in given.names:
        job.check_abort()
        image, header_angpix = _read(name)
        for report in reports:
            job.say(writers[report](name, image, header_angpix))


def _square(image: Image, name: str) -> Image:
    if len(set(image.shape)) != 1:
        raise UserError(f"{name} is not a square image or cubic map, as this report needs.")
    return image


def _statistics(name: str, image: Image, angpix: float) -> str:
    values = image.astype(np.float64)
    nz, ny, nx = (1,) * (3 - image.ndim) + image.shape
    with np.errstate(invalid="ignore"):  # values that are not finite are told as they are
        average, spread = values.mean(), values.std()
    return (
        f"{name} : (x,y,z,n)= {nx} x {ny} x {nz} x 1 ; avg= {average:g} stddev= {spread:g} "
        f"minval= {values.min():g} maxval= {values.max():g}; angpix = {angpix:g}"
    )


def _mass(name: str, image: Image) -> str:
    places = " ".join(f"{axis} {value:g}" for axis, value in zip("xyz", centre_of_mass(image)[::-1], strict=False))
    return f"{name} : center of mass (relative to XmippOrigin) {places}"


def _resolution_columns(box: int, angpix: float) -> Table:
    index = np.arange(box // 2 + 1)
    angstrom = np.where(index > 0, box * angpix / np.maximum(index, 1), NO_RESOLUTION)
    table = Table({"rlnSpectralIndex": index, "rlnResolution": 1.0 / angstrom})
    table.set("rlnAngstromResolution", angstrom)
    return table


def _agreement_table(image: Image, other: Image | None, angpix: float, name: str, flag: str) -> str:
    """By shell, the Fourier shell correlation (--fsc) or the cosine of the phases' difference (--cos_dphi)."""
    if other is None or other.shape != image.shape:
        raise UserError(f"{name} and the image of {flag} differ in size.")
    table = _resolution_columns(_square(image, name).shape[-1], angpix)
    block, measure = ("fsc", fsc) if flag == "--fsc" else ("cos", cosine_of_phases)
    table.set("rlnFourierShellCorrelation", measure(image, other))
    return star.dumps(StarFile({block: table}))


def _power_table(image: Image, angpix: float) -> str:
    """Mean squared amplitude by shell, of a transform over the number of pixels."""
    box = image.shape[-1]
    transform = np.abs(fft.rfftn(image.astype(np.float64))) / image.size
    shells, count = shell_grid(box, image.ndim).ravel(), box // 2 + 1

    def mean(values: NDArray) -> NDArray:
        sums = np.bincount(shells, weights=values.ravel(), minlength=count)
        return sums[:count] / np.bincount(shells, minlength=count)[:count]

    table = _resolution_columns(box, angpix)
    table.set("rlnResolutionSquared", table.floats("rlnResolution") ** 2)
    table.set("rlnReferenceSpectralPower", mean(transform**2))
    table.set("rlnLogAmplitudesOriginal", np.log(np.maximum(mean(transform), 1e-300)))
    return star.dumps(StarFile({"power": table}))


def _guinier(image: Image, angpix: float, args: Arguments) -> str:
    box = image.shape[-1]
    curve = guinier_curve(fft.rfftn(image), box)
    fit = fit_guinier(curve, box, angpix, args.number("--guinier_minres"), args.number("--guinier_maxres"))
    return (
        f"{'  + slope of fit: ':<35}{fit.slope:g}\n{'  + intercept of fit: ':<35}{fit.intercept:g}\n"
        f"{'  + correlation of fit: ':<35}{fit.correlation:g}\n{'  + bfactor: ':<35}{-fit.bfactor:g}"
    )


if __name__ == "__main__":
    main()
