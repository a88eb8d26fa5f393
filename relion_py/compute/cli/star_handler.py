"""relion_star_handler: choose, join, split and change lists of particles, micrographs or movies.

Facts: RELION 5, apps/star_handler.cpp.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.cli.options.star_handler import FLAGS, OPERATIONS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.labels import type_of
from relion_py.compute.io.mrc import Stack, open_stack
from relion_py.compute.io.outputs import output_root
from relion_py.compute.io.particles import ParticleTable, split_image_name
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.post import star_lists
from relion_py.compute.post.star_lists import ListFile, read_list

_NODE_TYPES = {
    "micrographs": "MicrographGroupMetadata.star.relion",
    "movies": "MicrographMovieGroupMetadata.star.relion",
}
_PARTICLES_NODE = "ParticleGroupMetadata.star.relion"
OUTPUT_NODES = "RELION_OUTPUT_NODES.star"


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_main))


def _main(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_star_handler", "Changes lists in STAR files.")
    chosen = [name for name in OPERATIONS if name in args.given and args.text(name) != ""]
    if "--remove_duplicates" in chosen and args.number("--remove_duplicates") < 0:
        chosen.remove("--remove_duplicates")
    if len(chosen) > 1:
        raise UserError(f"{chosen[0]} and {chosen[1]} cannot be done at once; run the program for each.")
    out = args.text("--o")
    if not out:
        raise UserError("Tell the name of the output with --o.")
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    operation = _OPERATIONS[chosen[0]] if chosen else _copy
    operation(args, job)
    job.say(" Done!")


def _read(args: Arguments, path: str = "") -> ListFile:
    ignore = args.on("--ignore_optics")
    listed = read_list(path or args.text("--i"), ignore, args.text("--i_tablename"))
    if ignore:
        return listed
    converted = star_lists.with_optics(listed)
    if listed.optics is not None:
        return converted
    state = "has no optics groups; going on without them"
    if converted is not listed:
        state = "is of RELION 3.0 or earlier, and is written in today's form; please look at its optics groups"
    print(f" + WARNING: {listed.path} {state}.", file=sys.stderr)
    return converted


def _write(listed: ListFile, path: str, job: Job) -> None:
    listed.write(path)
    job.say(f" Written: {path} with {len(listed.rows)} item(s)")


def _beside(path: str, addition: str) -> str:
    """`particles.star` and `_split1` give `particles_split1.star`."""
    root, extension = os.path.splitext(path)
    return f"{root}{addition}{extension}"


def _copy(args: Arguments, job: Job) -> None:
    _write(_read(args), args.text("--o"), job)


def _column(rows: Table, label: str, flag: str) -> str:
    """The label (with or without its underscore) if the list has such a column; UserError otherwise."""
    label = label.removeprefix("_")
    if label not in rows:
        raise UserError(f"There is no column _{label} in the input; {flag} needs one that is there.")
    return label


# ------------------------------------------------------------------------------------------------- rows


def _compare(args: Arguments, job: Job) -> None:
    first, second = _read(args), _read(args, args.text("--compare"))
    labels = [args.text(name).removeprefix("_") for name in ("--label1", "--label2", "--label3") if args.text(name)]
    if not labels or not args.text("--label1"):
        raise UserError("Tell by which column to compare with --label1, such as rlnImageName.")
    for label in labels:
        for listed in (first, second):
            if label not in listed.rows:
                raise UserError(f"There is no column _{label} in {listed.path}.")
    job.say(f"{len(first.rows)} entries are in the 1st input STAR file.")
    job.say(f"{len(second.rows)} entries are in the 2nd input STAR file.")
    in_second, in_first = star_lists.compare_rows(first.rows, second.rows, labels, args.number("--max_dist"))
    parts = {
        "_both": first.select(in_second),
        "_only1": first.select(~in_second),
        "_only2": second.select(~in_first),
    }
    job.say(f"{int(in_second.sum())} entries occur in both input STAR files.")
    job.say(f"{int((~in_second).sum())} entries occur only in the 1st input STAR file.")
    job.say(f"{int((~in_first).sum())} entries occur only in the 2nd input STAR file.")
    for addition, part in parts.items():
        _write(part, _beside(args.text("--o"), addition), job)


def _select(args: Arguments, job: Job) -> None:
    listed = _read(args)
    label = _column(listed.rows, args.text("--select"), "--select")
    keep = star_lists.in_range(listed.rows, label, args.number("--minval"), args.number("--maxval"))
    _write(listed.select(keep), args.text("--o"), job)


def _select_by_text(args: Arguments, job: Job) -> None:
    include, exclude = args.text("--select_include"), args.text("--select_exclude")
    if bool(include) == bool(exclude):
        raise UserError("--select_by_str needs either --select_include or --select_exclude.")
    listed = _read(args)
    label = _column(listed.rows, args.text("--select_by_str"), "--select_by_str")
    keep = star_lists.containing(listed.rows, label, include or exclude, bool(exclude))
    _write(star_lists.used_optics(listed.select(keep)), args.text("--o"), job)


def _discard(args: Arguments, job: Job) -> None:
    listed = _read(args)
    sigma = args.number("--discard_sigma")
    if not sigma > 0:
        raise UserError(f"--discard_sigma must be positive, not {args.text('--discard_sigma')}.")
    names = listed.rows.strings(_column(listed.rows, args.text("--discard_label"), "--discard_label"))
    job.say(" Calculating average and stddev for all images ... ")
    means, stddevs, failures = _statistics(names, job)
    good = np.isfinite(means)
    for name, sentence in failures.items():
        print(f" WARNING: {name} is discarded: {sentence}", file=sys.stderr)
    if not len(good):
        _write(listed, args.text("--o"), job)
        return
    if not good.any():
        raise UserError(f"None of the images of {listed.path} can be read.")
    for what, values in (("average", means[good]), ("stddev ", stddevs[good])):
        numbers = f"{values.mean():g} , {values.std():g}"
        job.say(f" [ Average , stddev ] of the {what} Image value = [ {numbers} ] ")
    keep = np.zeros(len(names), dtype=bool)
    keep[good] = star_lists.within_sigma(means[good], stddevs[good], sigma)
    count = int((~keep).sum())
    job.say(f" Discarded {count} Images because of too large or too small average/stddev values ")
    _write(listed.select(keep), args.text("--o"), job)


def _statistics(names: list[str], job: Job) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, str]]:
    """Mean and deviation of every image, NaN for those that cannot be read, and why. One stack at a time."""
    means, stddevs = np.full((2, len(names)), np.nan)
    failures: dict[str, str] = {}
    stacks: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        stacks.setdefault(name.rpartition("@")[2], []).append(index)
    done = 0
    with job.progress(len(names)) as bar:
        for path, members in stacks.items():
            job.check_abort()
            try:
                with open_stack(path) as stack:
                    for index in members:
                        found = _statistics_of(stack, names[index])
                        if isinstance(found, str):
                            failures[names[index]] = found
                        else:
                            means[index], stddevs[index] = found
            except UserError as error:
                failures[path] = str(error)
            done += len(members)
            bar.update(done)
    return means, stddevs, failures


def _statistics_of(stack: Stack, name: str) -> tuple[float, float] | str:
    """Mean and deviation of the image of this name, or why there are none."""
    try:
        image = stack.image(split_image_name(name)[0]).astype(np.float64)
    except (UserError, IndexError) as error:
        return str(error)
    if not np.isfinite(image).all():
        return "it has values that are not numbers."
    return float(image.mean()), float(image.std())


def _remove_duplicates(args: Arguments, job: Job) -> None:
    if args.on("--ignore_optics"):
        raise UserError("Duplicates cannot be removed with --ignore_optics.")
    particles = ParticleTable(star.read(args.text("--i")))
    listed = ListFile(args.text("--i"), particles.block, particles.particles, particles.optics)
    distance, pixel_size = args.number("--remove_duplicates"), args.number("--image_angpix")
    if len(particles.optics_groups) > 1:
        print(
            "WARNING: there are several optics groups; their micrographs are taken to have one pixel size. If "
            "they do not, split the input first.",
            file=sys.stderr,
        )
    if pixel_size > 0:
        job.say(f" + Using the provided pixel size for original micrographs before extraction: {pixel_size:g}")
    else:
        pixel_size = particles.optics_groups[0].pixel_size
        if not pixel_size > 0:
            raise UserError(f"{listed.path} does not tell its pixel size; give it with --image_angpix.")
        job.say(f" + Assuming the pixel size of original micrographs before extraction is {pixel_size:g}")
    job.say(
        f" + The minimum inter-particle distance {distance:g} A corresponds to {distance / pixel_size:g} px in the "
        "micrograph coordinate (rlnCoordinateX/Y)."
    )
    removed = star_lists.later_duplicates(listed.rows, distance, pixel_size)
    out = args.text("--o")
    listed.select(removed).write(os.path.splitext(out)[0] + "_removed.star")
    job.say(f"Removed {int(removed.sum())} duplicated objects from {len(listed.rows)} objects.")
    _write(listed.select(~removed), out, job)


# ------------------------------------------------------------------------------------------------ files


def _several(args: Arguments) -> list[str]:
    """The files that the words of --i name, patterns among them."""
    paths: list[str] = []
    for word in args.text("--i").split():
        found = sorted(glob.glob(word)) if glob.has_magic(word) else [word] if os.path.exists(word) else []
        if not found:
            print(f"WARNING: {word} does not match to any existing file(s).", file=sys.stderr)
        paths += found
    if not paths:
        raise UserError("There are no STAR files to combine; give their names between quotes with --i.")
    return paths


def _combine_picks(args: Arguments, job: Job) -> None:
    """Coordinates of several picking jobs in one file a micrograph, `..._combined.star`, and the list of these."""
    out = args.text("--o")
    directory = os.path.dirname(out) + "/" if os.path.dirname(out) else ""
    files: dict[str, list[str]] = {}
    for path in _several(args):
        listed = read_list(path, ignore_optics=True, table=args.text("--i_tablename") or "coordinate_files")
        for label in ("rlnMicrographName", "rlnMicrographCoordinates"):
            _column(listed.rows, label, "--combine_picks")
        micrographs, sources = (listed.rows.strings(f"rlnMicrograph{what}") for what in ("Name", "Coordinates"))
        for micrograph, coordinates in zip(micrographs, sources, strict=True):
            files.setdefault(micrograph, []).append(coordinates)
    job.say(" Combining coordinate files for all micrographs ... ")
    written, total = [], 0
    with job.progress(len(files)) as bar:
        for done, (micrograph, sources) in enumerate(files.items(), 1):
            job.check_abort()
            tables = [read_list(source, ignore_optics=True).rows for source in sources]
            picks = star_lists.join_picks([table for table in tables if len(table)] or tables[:1])
            total += len(picks)
            written.append(output_root(directory, micrograph) + "_combined.star")
            os.makedirs(os.path.dirname(written[-1]) or ".", exist_ok=True)
            star.write(written[-1], StarFile([("", picks)]))
            bar.update(done)
    table = Table({"rlnMicrographName": list(files), "rlnMicrographCoordinates": written})
    star.write(out, StarFile([("coordinate_files", table)]))
    job.say(f" Written: {out} with {total} picks of {len(files)} micrographs")


def _combine(args: Arguments, job: Job) -> None:
    paths = _several(args)

    def warn(sentence: str) -> None:
        print(f" + WARNING: {sentence}", file=sys.stderr)

    lists = [_read(args, path) for path in paths]
    joined = star_lists.join(lists, warn)
    label = args.text("--check_duplicates").removeprefix("_")
    if label:
        if label not in joined.rows:
            raise UserError(f"There is no column _{label} in all of the files, so duplicates cannot be looked for.")
        again = star_lists.repeated(joined.rows.strings(label))
        for value in again[:50]:
            print(f" WARNING: duplicate entry: {value}", file=sys.stderr)
        if again:
            print(f" WARNING: Total number of duplicate {label} entries: {len(again)}", file=sys.stderr)
    _write(joined, args.text("--o"), job)


def _split(args: Arguments, job: Job) -> None:
    listed, out = _read(args), args.text("--o")
    rng = None
    if args.on("--random_order"):
        seed = args.integer("--random_seed")
        rng = np.random.default_rng(seed if seed >= 0 else None)
    parts = star_lists.split_rows(len(listed.rows), args.integer("--nr_split"), args.integer("--size_split"), rng)
    names = [_beside(out, f"_split{number}") for number in range(1, len(parts) + 1)]
    for name, part in zip(names, parts, strict=True):
        listed.select(part.tolist()).write(name)
        job.say(f" Written: {name} with {len(part)} objects.")
    nodes = Table({"rlnPipeLineNodeName": names})
    nodes.set("rlnPipeLineNodeTypeLabel", _NODE_TYPES.get(listed.name, _PARTICLES_NODE))
    star.write(os.path.join(os.path.dirname(out), OUTPUT_NODES), StarFile({"output_nodes": nodes}))


# ---------------------------------------------------------------------------------------------- columns


def _operate(args: Arguments, job: Job) -> None:
    listed = _read(args)
    rows = listed.rows.copy()
    factor, addition, fixed = args.number("--multiply_by"), args.number("--add_to"), args.text("--set_to")
    for flag in ("--operate", "--operate2", "--operate3"):
        if not args.text(flag):
            continue
        label = args.text(flag).removeprefix("_")
        kind = type_of(label)
        if kind in ("bool", "doubles", "ints"):
            raise UserError(f"_{label} is neither a number nor a text, so {flag} cannot change it.")
        if fixed:
            rows.set(label, _typed(fixed, kind, "--set_to"))
            continue
        values = factor * rows.floats(_column(rows, label, flag)) + addition
        rows.set(label, values.astype(np.int64) if kind == "int" else values)
    _write(listed.with_rows(rows), args.text("--o"), job)


def _typed(text: str, kind: str, flag: str) -> str | float | int:
    """A value for a column of this type; UserError if the text is none."""
    try:
        if kind == "double":
            return float(text)
        if kind in ("int", "bool"):
            return int(float(text))
    except (ValueError, OverflowError):
        raise UserError(f'{flag} needs a number for this column, not "{text}".') from None
    return text


def _centre(args: Arguments, job: Job) -> None:
    listed = _read(args)
    rows = listed.rows.copy()
    for label in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnAnglePsi"):
        _column(rows, label, "--center")
    if listed.optics is not None:
        particles = ParticleTable(StarFile([("optics", listed.optics), (listed.name, rows)]), block=listed.name)
        angpix = particles.per_particle("pixel_size")
    else:
        angpix = np.full(len(rows), args.number("--angpix"))
    centre = np.array([args.number(f"--center_{axis}") for axis in "XYZ"])
    # 2D alignments may come without the two other angles, which are 0 then
    angles = [
        rows.floats(label) if label in rows else np.zeros(len(rows))
        for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    ]
    projected = euler_to_matrix(*angles) @ centre
    for axis, shift in zip("XYZ", projected.T, strict=True):
        label = f"rlnOrigin{axis}Angst"
        if label in rows:
            rows.set(label, rows.floats(label) - shift * angpix)
    _write(listed.with_rows(rows), args.text("--o"), job)


def _remove_column(args: Arguments, job: Job) -> None:
    listed = _read(args)
    rows = listed.rows.copy()
    label = args.text("--remove_column").removeprefix("_")
    if label in rows:
        rows.remove(label)
    else:  # as RELION, so that a script may ask for it whatever the file's history
        print(f" WARNING: there is no column _{label} in {listed.path}.", file=sys.stderr)
    _write(listed.with_rows(rows), args.text("--o"), job)


def _add_column(args: Arguments, job: Job) -> None:
    value, source = args.text("--add_column_value"), args.text("--copy_column_from")
    if bool(value) == bool(source):
        raise UserError("--add_column needs either --add_column_value or --copy_column_from.")
    listed = _read(args)
    rows = listed.rows.copy()
    label = args.text("--add_column").removeprefix("_")
    if source:
        rows.set(label, rows.strings(_column(rows, source, "--copy_column_from")))
    else:
        rows.set(label, _typed(value, type_of(label), "--add_column_value"))
    _write(listed.with_rows(rows), args.text("--o"), job)


def _histogram(args: Arguments, job: Job) -> None:
    rows = _read(args).rows
    label = _column(rows, args.text("--hist_column"), "--hist_column")
    values = rows.floats(label)
    values = values[np.isfinite(values)]
    low, high = args.number("--hist_min"), args.number("--hist_max")
    low = float(values.min(initial=np.inf)) if np.isneginf(low) else low
    high = float(values.max(initial=-np.inf)) if np.isposinf(high) else high
    if not low <= high:
        raise UserError(f"There are no values of _{label} to make a histogram of, or --hist_min is above --hist_max.")
    bins: int | str = args.integer("--hist_bins") if args.integer("--hist_bins") > 0 else "fd"
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    heights = counts.astype(np.float64)
    if args.on("--in_percent"):
        heights *= 100.0 / max(1, len(values))
    if args.on("--show_cumulative"):
        heights = heights.cumsum()
    job.say(f" {len(values)} values of _{label}: mean {values.mean():g}, median {np.median(values):g}")
    for start, end, height in zip(edges[:-1], edges[1:], heights, strict=True):
        job.say(f"[{start:12.6g}, {end:12.6g}) {height:12.6g}")
    path = os.path.splitext(args.text("--o"))[0] + ".eps"
    _draw(path, edges, heights, label, args.on("--in_percent"))
    job.say(f" Written: {path}")


def _draw(path: str, edges: NDArray, heights: NDArray, label: str, percent: bool) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(heights, edges, fill=True)
    axes.set(xlabel=label, ylabel="percent" if percent else "rows")
    with atomic_file(path) as file:
        figure.savefig(file, format="eps")


_OPERATIONS: dict[str, Callable[[Arguments, Job], None]] = {
    "--compare": _compare,
    "--select": _select,
    "--select_by_str": _select_by_text,
    "--discard_on_stats": _discard,
    "--combine": _combine,
    "--combine_picks": _combine_picks,
    "--split": _split,
    "--operate": _operate,
    "--center": _centre,
    "--remove_column": _remove_column,
    "--add_column": _add_column,
    "--hist_column": _histogram,
    "--remove_duplicates": _remove_duplicates,
}


if __name__ == "__main__":
    main()
