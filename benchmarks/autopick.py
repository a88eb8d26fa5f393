"""relion_autopick beside another RELION's, on the same micrographs: time, CPU time, recall, precision.

    python benchmarks/autopick.py [--other /usr/bin/relion_autopick ...] [--size 4096x4096] [--micrographs 8] [--j 1]
    python benchmarks/autopick.py --micrographs-star MotionCorr/job002/corrected_micrographs.star --truth truth.star
    python benchmarks/autopick.py --movies ../shared/data/movies [--copies 10] [--tiles 4]

Without a STAR file micrographs are simulated: dark discs 150 A wide in noise, 1 A per pixel. With one, paths are
from the working directory; the truth holds rlnMicrographMovieName, rlnCoordinateX and rlnCoordinateY (pixels).
A pick counts when it lies within 35 pixels (simulated: a quarter of the diameter) of a particle not yet taken.

With --movies, the directory of movies, gain reference and truth.star, picking is with references: the movies are
corrected and their CTFs estimated; the particles of the truth are extracted and reconstructed with their known
poses; and what picks are projections of that map at 15 A: in four directions, as class averages, and then the map
itself in twelve. --tiles N: micrographs N times as wide and high, made of copies, and only two of them. --copies N:
every micrograph N times, since programs take a while to start. --gpu 0: the same once more on that GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
from scipy import ndimage, spatial

from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_image, write_map, write_stack
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.picking.references import ReferenceSettings, load_references

Truth = dict[str, np.ndarray]


def simulate(directory: Path, rows: int, columns: int, count: int) -> Truth:
    """Write the micrographs; name -> (particles, 2), x and y."""
    random = np.random.default_rng(0)
    truth = {}
    for number in range(count):
        y, x = (c.ravel() for c in np.mgrid[150 : rows - 150 : 220, 150 : columns - 150 : 220])
        points = np.stack([x, y], 1) + random.integers(-30, 31, (x.size, 2))
        centres = np.ones((rows, columns), bool)
        centres[points[:, 1], points[:, 0]] = False
        image = np.where(ndimage.distance_transform_edt(centres) < 75, -0.25, 0.0)
        image = image + random.standard_normal((rows, columns), np.float32)
        write_map(directory / f"mic{number:03d}.mrc", image.astype(np.float32), 1.0)
        truth[f"mic{number:03d}"] = points
    return truth


def read_truth(path: str) -> Truth:
    """Name of the micrograph without directory and ending -> (particles, 2)."""
    table = star.read(path)["particles"]
    names = np.array([Path(name).stem for name in table.strings("rlnMicrographMovieName")])
    points = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], 1)
    return {name: points[names == name] for name in np.unique(names)}


def score(truth: Truth, directory: Path, radius: float) -> tuple[float, float, int]:
    """Recall, precision and the number of picks below a directory."""
    hits = picked = 0
    for name, points in truth.items():
        for file in directory.rglob(f"{name}_autopick.star"):
            table = star.read(file)[""]
            found = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], 1)
            picked += len(found)
            free = set(range(len(points)))
            for distances, nearest in zip(*spatial.cKDTree(points).query(found, k=min(4, len(points))), strict=True):
                taken = [i for d, i in zip(distances, nearest, strict=True) if d <= radius and i in free][:1]
                free.difference_update(taken)
                hits += len(taken)
    return hits / sum(map(len, truth.values())), hits / max(picked, 1), picked


def prepare(movies: Path, where: Path, tiles: int, copies: int) -> tuple[Truth, dict[str, list[str]]]:
    """Micrographs and references from the movies, below the directory `where`; the truth, and flags of each kind of
    picking."""
    (where / "Movies").symlink_to((movies / "Movies").resolve())
    mine = "relion_py.compute.cli."
    for words in (
        f"{mine}import_ --do_movies --optics_group_name o --angpix 1.77 --kV 300 --Cs 2.7 --Q0 0.1 --i Movies/*.tiff "
        "--odir Import/ --ofile movies.star",
        f"{mine}motioncorr --use_own --i Import/movies.star --o Motion/ --gainref Movies/gain.mrc --dose_weighting "
        "--dose_per_frame 4.2 --j 2",
        f"{mine}ctffind --i Motion/corrected_micrographs.star --o Ctf/ --Box 512 --ResMin 30 --ResMax 5 --dFMin 5000 "
        "--dFMax 30000 --FStep 500 --dAst 100 --j 2",
    ):
        step(words, where)
    table = star.read(str(movies / "truth.star"))["particles"]
    names = np.array([Path(name).stem for name in table.strings("rlnMicrographMovieName")])
    for name in np.unique(names):
        labels = ("rlnCoordinateX", "rlnCoordinateY", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
        columns = {label: table.floats(label)[names == name] for label in labels}
        star.write(str(where / f"{name}_known.star"), StarFile([("", Table(columns))]))
    listed = Table(
        {
            "rlnMicrographName": [f"Motion/Movies/{name}.mrc" for name in np.unique(names)],
            "rlnMicrographCoordinates": [f"{name}_known.star" for name in np.unique(names)],
        }
    )
    star.write(str(where / "known.star"), StarFile([("coordinate_files", listed)]))
    for words in (
        f"{mine}preprocess --i Ctf/micrographs_ctf.star --coord_list known.star --part_star parts.star --part_dir "
        "Parts/ --extract --extract_size 160 --scale 80 --norm --bg_radius 30 --invert_contrast",
        f"{mine}reconstruct --i parts.star --o sharp.mrc --ctf --sym D2 --maxres 12",
        f"{mine}image_handler --i sharp.mrc --o map.mrc --lowpass 15",
    ):
        step(words, where)
    how = ReferenceSettings(str(where / "map.mrc"), 3.54, 200, healpix_order=0, symmetry="D2")
    projections = load_references(how, 1.77).projections
    assert projections is not None  # of a map
    write_stack(where / "averages.mrcs", projections, 3.54)
    truth = multiplied(where, read_truth(str(movies / "truth.star")), tiles, copies)
    options = (
        "--i many.star --invert --ctf --ang 5 --shrink 0 --lowpass 20 --threshold 0.05 --min_distance 100 "
        "--max_stddev_noise 1.1 --particle_diameter 200 --angpix_ref 3.54"
    )
    flags = options.split()
    kinds = {
        f"{len(projections)} averages": ["--ref", "averages.mrcs", *flags],
        "map": ["--ref", "map.mrc", "--sym", "D2", "--healpix_order", "1", *flags],
    }
    return truth, kinds


def multiplied(where: Path, truth: Truth, tiles: int, copies: int) -> Truth:
    """Write many.star with larger micrographs, or the same ones several times; what is true of them."""
    file = star.read(str(where / "Ctf/micrographs_ctf.star"))
    table = file["micrographs"]
    columns = {label: table.strings(label)[: 2 if tiles > 1 else None] for label in table.labels}
    (where / "Many").mkdir()
    offsets = 1024 * np.stack(np.meshgrid(np.arange(tiles), np.arange(tiles)), -1).reshape(-1, 1, 2)
    names, known = [], {}
    for copy in range(copies):
        for source in columns["rlnMicrographName"]:
            name = f"{Path(source).stem}copy{copy:03d}"
            names.append(f"Many/{name}.mrc")
            known[name] = (truth[Path(source).stem] + offsets).reshape(-1, 2)
            image, angpix = read_image(where / source)
            write_map(where / names[-1], np.tile(image, (tiles, tiles)), angpix)
    many = Table({label: values * copies for label, values in columns.items()})
    many.set("rlnMicrographName", names)
    star.write(str(where / "many.star"), StarFile([("optics", file["optics"]), ("micrographs", many)]))
    return known


def step(words: str, where: Path) -> None:
    """One program of this package, in a directory."""
    measure.run([sys.executable, "-m", *words.split()], where)


def run(program: list[str], flags: list[str], output: Path, where: Path | None = None) -> tuple[float, float]:
    """Seconds on the clock and of the processor of one run."""
    output.mkdir()
    used = measure.run([*program, "--odir", f"{output}/", *flags], where)
    return used.wall, used.cpu


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs-star", default="")
    parser.add_argument("--truth", default="")
    parser.add_argument("--diameters", nargs=2, default=["120", "190"], help="A, smallest and largest")
    parser.add_argument("--size", default="4096x4096", help="pixels, WIDTHxHEIGHT")
    parser.add_argument("--micrographs", type=int, default=8)
    parser.add_argument("--j", default="1")
    parser.add_argument("--movies", default="", help="pick with references, from these movies")
    parser.add_argument("--gpu", default="", help="with --movies: pick on these GPUs as well")
    parser.add_argument("--tiles", type=int, default=1)
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--other", nargs="*", default=["/usr/bin/relion_autopick"], help="programs beside ours")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        radius, place = 35.0, None
        if args.movies:
            place = directory
            truth, kinds = prepare(Path(args.movies), directory, args.tiles, args.copies)
        else:
            if args.micrographs_star:
                where = ["--i", args.micrographs_star]
                truth = read_truth(args.truth) if args.truth else {}
            else:
                columns, rows = map(int, args.size.split("x"))
                where, radius = ["--i", f"{directory}/*.mrc", "--angpix", "1"], 37.5
                truth = simulate(directory, rows, columns, args.micrographs)
            low, high = args.diameters
            log = f"--LoG --LoG_diam_min {low} --LoG_diam_max {high} --shrink 0 --lowpass 20"
            kinds = {"LoG": [*where, *log.split()]}
        programs = {"relion_py": [sys.executable, "-m", "relion_py.compute.cli.autopick", "--j", args.j]}
        if args.gpu and args.movies:
            programs[f"relion_py --gpu {args.gpu}"] = [*programs["relion_py"], "--gpu", args.gpu]
        programs.update({other: [other] for other in args.other if os.access(other, os.X_OK)})
        print(f"--j {args.j} (relion_py); load {os.getloadavg()[0]:.1f}")
        print(f"{'':12s} {'program':36s} {'wall s':>8s} {'CPU s':>8s} {'picks':>7s} {'recall':>8s} {'precision':>10s}")
        for number, (kind, flags) in enumerate(kinds.items()):
            run(programs["relion_py"], flags, directory / f"warm{number}", place)  # kernels are compiled once
            for which, (program, words) in enumerate(programs.items()):
                output = directory / f"run{number}_{which}"
                wall, cpu = run(words, flags, output, place)
                recall, precision, picked = score(truth, output, radius) if truth else (float("nan"), float("nan"), 0)
                print(
                    f"{kind:12s} {program:36s} {wall:8.1f} {cpu:8.1f} {picked:7d} {recall:8.3f} {precision:10.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
