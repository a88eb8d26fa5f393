"""relion_import: bring movies, micrographs, coordinates, particles and maps into a project.

Movies and micrographs stay where they are and are listed with their optics group; everything else is copied
into the job directory. Facts: RELION 5, apps/import.cpp.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from collections.abc import Iterable
from typing import NoReturn

from relion_py.compute.cli.options.import_ import FLAGS
from relion_py.compute.cli.parser import Arguments, parse
from relion_py.compute.cli.program import Job, run
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_file, atomic_write
from relion_py.compute.io.consistency import check_particles
from relion_py.compute.io.particles import ParticleTable, read_particles, write_particles
from relion_py.compute.io.star import StarFile, Table

_KINDS = (
    "--do_movies",
    "--do_micrographs",
    "--do_coordinates",
    "--do_halfmaps",
    "--do_particles",
    "--do_other",
)
_IMAGE_ENDINGS = (
    ".mrc",
    ".mrcs",
    ".tif",
    ".tiff",
    ".eer",
    ".st",
    ".ecc",
    ".map",
    ".ctf",
    ".img",
    ".hed",
    ".spi",
    ".bz2",
    ".xz",
    ".zst",
)
_JOB_DIRECTORY = re.compile(r"^(?:[^/]+/)*?job\d{3,}/")


def main() -> NoReturn:
    """The program."""
    sys.exit(run(_import))


def _import(argv: list[str], job: Job) -> None:
    args = parse(FLAGS, argv, "relion_import", "Brings files into a project.")
    kinds = [name for name in _KINDS if args.on(name)]
    if len(kinds) != 1:
        raise UserError(f"Exactly one of {', '.join(_KINDS)} must be given, not {len(kinds)} of them.")
    if os.path.basename(args.text("--ofile")) != args.text("--ofile") or args.text("--ofile") in ("", "."):
        raise UserError(f'--ofile must be a file name without directories, not "{args.text("--ofile")}".')
    os.makedirs(args.text("--odir") or ".", exist_ok=True)
    job.say(" importing...")
    if kinds[0] in ("--do_movies", "--do_micrographs"):
        import_raw(args, movies=kinds[0] == "--do_movies", job=job)
    elif kinds[0] == "--do_coordinates":
        import_coordinates(args, job)
    elif kinds[0] == "--do_particles":
        import_particles(args, job)
    else:
        import_file(args, half_maps=kinds[0] == "--do_halfmaps")
    job.say(" done!")


def _output(args: Arguments, name: str = "") -> str:
    return os.path.join(args.text("--odir"), name or args.text("--ofile"))


def _matches(pattern: str) -> list[str]:
    """Files for a pattern with * and ?, sorted by bytes; a file that is really called so comes first."""
    pattern = os.path.expanduser(pattern)
    if os.path.exists(pattern):
        return [pattern]
    return sorted(glob.glob(pattern), key=os.fsencode)


def _check_inside(path: str) -> None:
    if path.startswith("/"):
        raise UserError(
            f'"{path}" is an absolute path: give files relative to the project directory; for data elsewhere '
            "make a symbolic link in the project and import through it."
        )
    if ".." in path.split("/"):
        raise UserError(
            f'"{path}" leads out of the project directory: make a symbolic link to the data in the project '
            "and import through it."
        )


def _check_group_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise UserError(f'The optics group name "{name}" may have only letters, digits and hyphens.')


# ------------------------------------------------------------------------------ movies and micrographs


def import_raw(args: Arguments, movies: bool, job: Job) -> None:
    """List movies or micrographs and their optics group in `movies.star` or `micrographs.star`.

    With --continue what is listed already stays as it is, and new files are added at the end, in a new
    optics group if the name is new.
    """
    block, label = ("movies", "rlnMicrographMovieName") if movies else ("micrographs", "rlnMicrographName")
    _check_optics(args)
    _check_inside(args.text("--i"))
    output = _output(args)
    continues = args.on("--continue") and os.path.exists(output)
    files = [name for name in _matches(args.text("--i")) if not os.path.isdir(name)]
    if not files and not continues:
        raise UserError(f'No file matches "{args.text("--i")}" in {os.getcwd()}.')
    _warn_about_endings(files)

    optics, rows = Table(), Table({label: [], "rlnOpticsGroup": []})
    if continues:
        old = star.read(output)
        optics, rows = old["optics"], old[block]
    number = _group_number(optics, args, movies)
    old_groups = dict(zip(rows.strings(label), rows.strings("rlnOpticsGroup"), strict=True))
    elsewhere = [name for name in files if old_groups.get(name, str(number)) != str(number)]
    if elsewhere:
        raise UserError(
            f"{elsewhere[0]} was imported before, in another optics group; import it with the optics group "
            "that it has, or start a new import."
        )
    new = [name for name in files if name not in old_groups]
    _append(rows, label, new, number)
    star.write(output, StarFile([("optics", optics), (block, rows)]))
    job.say(f" Written {output} with {len(rows)} items ({len(new)} new items)")


def _check_optics(args: Arguments) -> None:
    for name, what in (("--angpix", "pixel size (--angpix)"), ("--kV", "voltage (--kV)")):
        if not args.number(name) > 0:
            raise UserError(f"The {what} must be positive, not {args.text(name)}.")
    if not 0 <= args.number("--Q0") <= 1:
        raise UserError(f"The amplitude contrast (--Q0) must lie between 0 and 1, not {args.text('--Q0')}.")


def _warn_about_endings(files: Iterable[str]) -> None:
    odd = [name for name in files if not name.lower().endswith(_IMAGE_ENDINGS)]
    if odd:
        print(f"WARNING: {odd[0]} (and {len(odd) - 1} more) does not look like an image file.", file=sys.stderr)


def _group_number(optics: Table, args: Arguments, movies: bool) -> int:
    """The number of the optics group of this name; a row is added to `optics` if there is none yet."""
    name = args.text("--optics_group_name")
    names = optics.strings("rlnOpticsGroupName") if len(optics) else []
    row = _optics_row(args, len(names) + 1, movies)
    if name in names:
        known = optics.row(names.index(name))
        changed = [label for label in row if label != "rlnOpticsGroup" and known.get(label) != row[label]]
        if changed:
            print(
                f"WARNING: optics group {name} exists and keeps its values of _{', _'.join(changed)}.",
                file=sys.stderr,
            )
        return int(known["rlnOpticsGroup"])
    _check_group_name(name)
    if not len(optics):
        optics.append(row)
        return 1
    for label in row:
        if label not in optics:
            optics.set(label, [_empty(label)] * len(optics))
    optics.append({label: row.get(label, _empty(label)) for label in optics.labels})
    return len(names) + 1


def _empty(label: str) -> str:
    return "" if label == "rlnMtfFileName" else star.format_float(0.0)


def _optics_row(args: Arguments, number: int, movies: bool) -> dict[str, str]:
    pixel_size = args.number("--angpix")
    row: dict[str, str | float] = {"rlnOpticsGroupName": args.text("--optics_group_name")}
    row["rlnOpticsGroup"] = str(number)
    if args.text("--optics_group_mtf"):
        row["rlnMtfFileName"] = args.text("--optics_group_mtf")
    if not movies:
        row["rlnMicrographPixelSize"] = pixel_size
    row["rlnMicrographOriginalPixelSize"] = pixel_size
    row["rlnVoltage"] = args.number("--kV")
    row["rlnSphericalAberration"] = args.number("--Cs")
    row["rlnAmplitudeContrast"] = args.number("--Q0")
    tilt = args.number("--beamtilt_x"), args.number("--beamtilt_y")
    if abs(tilt[0]) + abs(tilt[1]) > 0.001:
        row["rlnBeamTiltX"], row["rlnBeamTiltY"] = tilt
    return {label: star.format_float(value) if isinstance(value, float) else value for label, value in row.items()}


def _append(rows: Table, label: str, names: list[str], group: int) -> None:
    """Add files; columns that only an older program knew get "None" in the new rows."""
    grown = {other: rows.strings(other) + ["None"] * len(names) for other in rows.labels}
    grown[label][len(rows) :] = names
    grown["rlnOpticsGroup"][len(rows) :] = [str(group)] * len(names)
    for other in rows.labels:
        rows.remove(other)
    for other, values in grown.items():
        rows.set(other, values)


# ------------------------------------------------------------------------------------------ everything else


def import_coordinates(args: Arguments, job: Job) -> None:
    """Copy coordinate files, keeping their directories below the project (or below the job they are from).

    The output file holds the pattern of the micrographs that they belong to.
    """
    pattern = args.text("--i")
    if "*" not in pattern:
        raise UserError(f'"{pattern}" has no *: coordinates are given for many micrographs, as in Movies/*_pick.star.')
    if ".." in pattern.split("/"):
        _check_inside(pattern)
    files = _matches(pattern)
    if not files:
        raise UserError(f'No file matches "{pattern}" in {os.getcwd()}.')
    for name in files:
        job.check_abort()
        _copy(name, _output(args, _below_job(name)))
    before_star = pattern[: pattern.rindex("*")]
    atomic_write(_output(args), f"{before_star}*.mrc\n".encode())
    job.say(f" Copied {len(files)} coordinate files")


def _below_job(path: str) -> str:
    """The path without `Type/jobNNN/` (an alias counts as the job that it stands for), never absolute."""
    head, slash, tail = path.partition("/")
    alias, slash, tail = tail.partition("/")
    link = os.path.join(head, alias)
    if slash and not alias.startswith("job") and os.path.islink(link):
        target = os.path.normpath(os.path.join(head, os.readlink(link)))
        if _JOB_DIRECTORY.match(target + "/"):
            return tail
    return _JOB_DIRECTORY.sub("", path).lstrip("/")


def import_particles(args: Arguments, job: Job) -> None:
    """Copy a particle STAR file in RELION 5's form, with a report on what does not fit together."""
    source = args.text("--i")
    table = read_particles(source, ".", strict=False)
    if table.converted:
        job.say(f" {source} is of RELION 3.0 or earlier and is converted; please check its optics group.")
    problems = check_particles(table)
    for problem in problems:
        print(f"WARNING: {problem}", file=sys.stderr)
    job.say(f" Consistency report: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)} found")
    read_particles(source, ".", strict=True)
    new_name = args.text("--particles_optics_group_name")
    if new_name:
        _check_group_name(new_name)
        if len(table.optics) != 1:
            raise UserError(
                f"{source} has {len(table.optics)} optics groups, so they cannot be given one name; import "
                "it without --particles_optics_group_name."
            )
        table.optics.set("rlnOpticsGroupName", new_name)
    _number_groups(table)
    table.rename_block("particles")
    write_particles(_output(args, os.path.basename(source)), table)


def _number_groups(table: ParticleTable) -> None:
    """Optics groups are numbered 1, 2, ... in the order of their rows (obs_model.cpp, sortOpticsGroups)."""
    numbers = [group.number for group in table.optics_groups]
    if numbers != list(range(1, len(numbers) + 1)):
        table.particles.set("rlnOpticsGroup", table.group_index + 1)
        table.optics.set("rlnOpticsGroup", list(range(1, len(numbers) + 1)))


def import_file(args: Arguments, half_maps: bool) -> None:
    """Copy one file, and with half_maps the other half beside it."""
    files = _matches(args.text("--i"))
    if len(files) != 1:
        found = f"{len(files)} files match" if files else "no file matches"
        raise UserError(f'Exactly one file is imported at a time, but {found} "{args.text("--i")}".')
    sources = [files[0]]
    if half_maps:
        sources.append(_other_half(files[0]))
    for source in sources:
        if not os.path.isfile(source):
            raise UserError(f"{source} is missing; both half-maps are imported together.")
    for source in sources:
        _copy(source, _output(args, os.path.basename(source)))


def _other_half(path: str) -> str:
    directory, name = os.path.split(path)
    for this, other in (("half1", "half2"), ("half2", "half1")):
        if this in name:
            return os.path.join(directory, name.replace(this, other, 1))
    raise UserError(f'The name of a half-map must hold "half1" or "half2"; "{name}" does not.')


def _copy(source: str, target: str) -> None:
    if not os.path.isfile(source):
        raise UserError(f"{source} is not a file.")
    if os.path.exists(target) and os.path.samefile(source, target):
        return
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    with open(source, "rb") as reading, atomic_file(target) as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)


if __name__ == "__main__":
    main()
